"""Options of commands that read files of digests, and messages about skipped rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from hashclient.cli.app import App, existing_path
from hashclient.cli.options import together
from hashclient.core.errors import UsageError
from hashclient.system.descriptors import open_input
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.lists.importers.importfile import Reading

#: The largest number of skipped rows that the text output lists by file and line; `--format json`
#: lists all skipped rows.
SHOWN = 20


#: The options that choose the rows of a file and name its columns.
reading_options = together(
    click.option(
        "--where",
        metavar="CONDITION",
        help="Take only rows for which this is true, such as 'Baseline = true'; `all` takes all "
        "rows. docs/import.md has the rules.",
    ),
    click.option(
        "--column",
        "columns",
        metavar="OURS=THEIRS",
        multiple=True,
        help="Which column of the file has which value: md5=HASH_MD5, for example. Can be given "
        "several times.",
    ),
)


#: The options that choose the rows to publish, and the categories of the entries.
publishing_options = together(
    click.option(
        "--category",
        metavar="NAME",
        help="The category for entries without a category. [default: the list's name]",
    ),
    click.option(
        "--category-map",
        metavar="FILE",
        type=existing_path(dir_okay=False),
        help="A TOML file that translates categories in FILE to categories of the list; false "
        "leaves the rows out.",
    ),
    click.option(
        "--known-good",
        metavar="FILE",
        multiple=True,
        help="Rows with digests in this file, such as the NSRL's, must not be on a list: see "
        "--max-bad. Can be given several times.",
    ),
    click.option(
        "--max-bad",
        type=click.IntRange(0, 1_000_000),
        default=0,
        show_default=True,
        metavar="N",
        help="Skip up to N rows that cannot be used or must not be on a list; if there are more, "
        "nothing is published.",
    ),
)


def make_reading(
    where: str | None,
    columns: tuple[str, ...],
    *,
    category_map: Path | None = None,
    max_bad: int = 0,
    all_rows: bool = False,
) -> Reading:
    """Return the `Reading` that the options describe.

    Raises:
        UsageError: an option has an invalid value.
    """
    from hashclient.lists.importers.importfile import Reading, parse_columns
    from hashclient.lists.importers.where import load_category_map, parse_where

    return Reading(
        where=None if where is None else parse_where(where),
        columns=parse_columns(columns),
        categories=None if category_map is None else load_category_map(category_map),
        max_bad=max_bad,
        all_rows=all_rows,
    )


def check_category(category: str | None) -> None:
    """Check that a text is a valid name for a category.

    Raises:
        UsageError: the text is not a valid name.
    """
    from hashclient.lists.wire import is_category

    if category is not None and not is_category(category):
        raise UsageError(
            f"not a name for a category: {printable(category)}",
            hint="at most 31 of a-z 0-9 . _ - beginning with a letter or a digit",
        )


def say_remarks(app: App, reading: Reading, shown: int = SHOWN) -> None:
    """Print how many rows were left out and skipped; list the first `shown` skipped rows."""
    remarks = reading.remarks
    for note in remarks.notes:
        app.say(note)
    if remarks.not_meant:
        app.say(f"{_rows(remarks.not_meant, 'was', 'were')} not meant, and left out")
    if remarks.skipped:
        app.warn(f"{_rows(len(remarks.skipped))} could not be used, and skipped:")
        for place, what in remarks.skipped[:shown]:
            app.say(f"  {place}: {what}")
        if len(remarks.skipped) > shown:
            app.say(f"  and {len(remarks.skipped) - shown:,} more")


def _rows(count: int, one: str = "", more: str = "") -> str:
    return f"1 row {one}".rstrip() if count == 1 else f"{count:,} rows {more}".rstrip()


def open_files(names: tuple[str, ...], stdin: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    """Open and yield the files in their order; the name `-` means `stdin`.

    Raises:
        UsageError: a file cannot be opened.
    """
    for name in names:
        if name == "-":
            yield "standard input", stdin
            continue
        try:
            with os.fdopen(open_input(name), "rb") as stream:
                yield name, stream
        except OSError as error:
            raise UsageError(
                f"cannot read {printable(name)}: {error.strerror}",
                hint="check the path and its permissions",
            ) from error

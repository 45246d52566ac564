"""How a file is read: the user's choices, and the remarks after reading.

One `Reading` belongs to one command: its bounds hold for all files together. An unusable row is
refused, unless `max_bad` allows it; then it is counted in `remarks`, never silently ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hashclient.errors import UsageError
from hashclient.lists.importers.categories import CategoryMap
from hashclient.lists.importers.where import Where

#: The columns that `--column` may name.
COLUMNS = ("entry_id", "md5", "sha1", "sha256", "size", "category", "added")

OTHER_HASHES = "hashes of other kinds than MD5, SHA-1 and SHA-256, such as PhotoDNA, are ignored"


class Remarks(msgspec.Struct):
    """The remarks of reading, besides rows.

    `notes` are sentences, each once. `skipped` are unusable rows: the place (`file:line`) and the
    fault. `not_meant` counts rows that `where` or a map of categories has left out.
    """

    notes: list[str] = msgspec.field(default_factory=list)
    skipped: list[tuple[str, str]] = msgspec.field(default_factory=list)
    not_meant: int = 0

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)


class Reading(msgspec.Struct, frozen=True):
    """The user's choices.

    `where` chooses rows by their columns. `columns` maps our names of columns to a file's.
    `categories` maps the categories of a file. At most `max_bad` unusable rows are skipped.
    `all_rows` says that all rows of a file are meant, as in a lookup.
    """

    where: Where | None = None
    columns: Mapping[str, str] = msgspec.field(default_factory=dict)
    categories: CategoryMap | None = None
    max_bad: int = 0
    all_rows: bool = False
    remarks: Remarks = msgspec.field(default_factory=Remarks)

    def skip(self, place: str, what: str) -> None:
        """Count a row that cannot be used.

        Raises:
            UsageError: there are more than `max_bad`.
        """
        if len(self.remarks.skipped) >= self.max_bad:
            if not self.max_bad:
                raise UsageError(f"{place}: {what}")
            raise UsageError(
                f"{place}: {what}; more than {self.max_bad:,} rows cannot be used",
                hint="see to the file, or allow more with --max-bad",
            )
        self.remarks.skipped.append((place, what))


def parse_columns(given: tuple[str, ...]) -> dict[str, str]:
    """Parse `ours=theirs`, a value of `--column`.

    Raises:
        UsageError: a value has another form, or a column is given twice.
    """
    columns: dict[str, str] = {}
    for text in given:
        ours, equals, theirs = (part.strip() for part in text.partition("="))
        ours = ours.lower()
        if not equals or not theirs or ours not in COLUMNS:
            raise UsageError(
                "--column is not of the form md5=NAME",
                hint=f"in front of the = stands one of: {', '.join(COLUMNS)}; behind it, the name"
                " of that column in the file",
            )
        if ours in columns:
            raise UsageError(f"--column is given twice for {ours}")
        columns[ours] = theirs
    return columns

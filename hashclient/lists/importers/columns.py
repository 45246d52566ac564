"""Maps the columns of a file to ours, and finds columns that say which rows are meant.

Two headers are built in: that of the exports of INTERPOL's ICSE database, whose column Baseline
says which rows are meant, and that of the NSRL's RDSv2. In any other header every column must be
known, unless `--column` or `--where` says which columns count.
"""

from __future__ import annotations

from collections.abc import Sequence

from hashclient.core.algorithms import Algorithm
from hashclient.errors import UsageError
from hashclient.lists.importers.importfile import ImportFile
from hashclient.lists.importers.reading import COLUMNS, OTHER_HASHES
from hashclient.system.text import printable

#: Other names of our columns.
OTHER_NAMES = {"sha-1": "sha1", "sha-256": "sha256"}
#: A column that says which rows of a file are meant for a list.
CHOOSERS = ("baseline",)
#: Columns with digests of similarity.
LIKENESSES = ("photodna", "pdna", "pdq")

_ICSE = {"md5", "sha1", "photodna", "image id", "series name", "baseline"}
_ICSE_NAMES = {"image id": "entry_id"}
_NSRL = {"sha-1", "md5", "filename", "filesize", "productcode"}
_NSRL_NAMES = {"filesize": "size"}
_MAX_SHOWN = 40


def is_nsrl(columns: Sequence[str]) -> bool:
    """Say whether columns, in small letters, are those of NSRLFile.txt."""
    return _NSRL.issubset(columns)


def our_columns(columns: Sequence[str], line: int, file: ImportFile) -> dict[str, str]:
    """Return our column for each column of the file, all in lower case.

    `line` is that of the header, for messages.

    Raises:
        UsageError: a column is unknown, named twice or missing, or it is open which rows are meant.
    """
    if len(set(columns)) != len(columns):
        raise file.bad(line, "a column occurs twice in the header")
    others = dict(OTHER_NAMES)
    is_icse = _ICSE.issubset(columns)
    if is_icse or is_nsrl(columns):
        others |= _ICSE_NAMES if is_icse else _NSRL_NAMES
    ours = {c: others.get(c, c) for c in columns if others.get(c, c) in COLUMNS}
    reading = file.reading
    for our, given in reading.columns.items():
        if given.lower() not in columns:
            raise no_column(given, columns, file)
        ours = {theirs: name for theirs, name in ours.items() if name != our}
        ours[given.lower()] = our
    if len(set(ours.values())) != len(ours):
        raise file.bad(line, "two columns of the header mean the same")
    if not (is_icse or is_nsrl(columns) or reading.columns or reading.where):
        for position, column in enumerate(columns, 1):
            if column not in ours and column not in CHOOSERS:
                shown = f" ({printable(column)})" if len(column) < 32 else ""
                raise file.bad(line, f"column {position}{shown} of the header is unknown")
    if not any(a.label in ours.values() for a in Algorithm):
        raise file.bad(line, "the header names no md5, sha1 or sha256 column")
    _check_choice(columns, file)
    if any(name in columns for name in LIKENESSES):
        reading.remarks.note(OTHER_HASHES)
    return ours


def no_column(name: str, columns: Sequence[str], file: ImportFile) -> UsageError:
    """Return the error for a column that a file does not have."""
    shown = ", ".join(printable(c[:_MAX_SHOWN]) for c in columns[:_MAX_SHOWN])
    return UsageError(
        f"{file.name}: there is no column {printable(name[:_MAX_SHOWN])}",
        # In a file without a header, the first row is taken for it, so it must not be quoted.
        hint=f"there are: {shown}" if {*COLUMNS, *OTHER_NAMES}.intersection(columns) else None,
    )


def ask_which(column: str, file: ImportFile) -> UsageError:
    """Return the error for a file with a column that separates its rows, and no choice made."""
    name = column.capitalize()
    return file.choose_rows(f"a column {name} separates its rows", f"{name} = true")


def _check_choice(columns: Sequence[str], file: ImportFile) -> None:
    where = file.reading.where
    if where is not None:
        for column in where.columns():
            if column not in columns:
                raise no_column(column, columns, file)
    elif not file.reading.all_rows:
        for column in set(CHOOSERS).intersection(columns):
            raise ask_which(column, file)

"""Collects rows of files, or digests in arguments, into batches; and decodes hexadecimal digits.

This module also finds out which columns of a file have the meaning of the names in `COLUMNS`. Two
headers may have more columns than `COLUMNS` names: the header of exports from INTERPOL's ICSE
database, whose column Baseline says which rows to use, and the header of the NSRL's RDSv2. In any
other header every column must be known, unless `--column` or `--where` says which columns to use.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.errors import UsageError
from hashclient.core.kinds import Algorithm
from hashclient.lists.importers.importfile import COLUMNS, OTHER_HASHES, ImportFile
from hashclient.lists.wire import NO_SIZE, Uint8, Uint32, Uint64
from hashclient.system.text import printable

#: Other names that files use for columns in `COLUMNS`.
OTHER_NAMES = {"sha-1": "sha1", "sha-256": "sha256"}
#: The names of columns that say which rows of a file should be on a list.
CHOOSERS = ("baseline",)
#: The names of columns with perceptual hashes, which are ignored.
LIKENESSES = ("photodna", "pdna", "pdq")

_ICSE = {"md5", "sha1", "photodna", "image id", "series name", "baseline"}
_ICSE_NAMES = {"image id": "entry_id"}
_NSRL = {"sha-1", "md5", "filename", "filesize", "productcode"}
_NSRL_NAMES = {"filesize": "size"}
_MAX_SHOWN = 40


Int64 = npt.NDArray[np.int64]


class DigestBatch(msgspec.Struct, frozen=True, eq=False):
    """Some rows of a file of digests, in columns; every row has at least one digest.

    `names`: the name of each row in the file (decoded with surrogateescape), such as a file name in
    the output of md5sum or the name of a signature in a file of ClamAV. If a row has no name in the
    file, its name is None. `lines` (count,): the line number of each row, from 1, or the row number
    in a database. `digests[a]`: a pair of the digests of algorithm `a`, as an array (m,
    digest_bytes), and the (m,) numbers of their rows, ascending. `sizes` (count,): the size of each
    file in bytes, or `NO_SIZE`. `entry_ids`, `categories` and `added` are None if the file has no
    such column; `added` is a (count,) array of datetime64[ms] in UTC, with NaT for an empty cell.
    """

    count: int
    names: list[str | None]
    lines: Int64
    digests: dict[Algorithm, tuple[Uint8, Uint32]]
    sizes: Uint64
    entry_ids: list[str | None] | None = None
    categories: list[str | None] | None = None
    added: npt.NDArray[np.datetime64] | None = None

    def without(self, rows: Sequence[int]) -> DigestBatch:
        """Return the batch without some rows, whose numbers are given in ascending order."""
        if not len(rows):
            return self
        kept = np.ones(self.count, np.bool_)
        kept[np.asarray(rows, np.int64)] = False
        number = np.cumsum(kept) - 1
        digests = {}
        for algorithm, (values, of) in self.digests.items():
            stay = kept[of]
            if stay.any():
                digests[algorithm] = values[stay], number[of[stay]].astype(np.uint32)
        places = np.flatnonzero(kept).tolist()

        def some(column: list[str | None] | None) -> list[str | None] | None:
            return None if column is None else [column[n] for n in places]

        return DigestBatch(
            len(places),
            [self.names[n] for n in places],
            self.lines[kept],
            digests,
            self.sizes[kept],
            some(self.entry_ids),
            some(self.categories),
            None if self.added is None else self.added[kept],
        )


def is_nsrl(columns: Sequence[str]) -> bool:
    """Return whether columns, in lower case, are the columns of NSRLFile.txt."""
    return _NSRL.issubset(columns)


def our_columns(columns: Sequence[str], line: int, file: ImportFile) -> dict[str, str]:
    """Return, for each column of the file, the name in `COLUMNS` that has its meaning.

    `line` is the line number of the header, for messages.

    Raises:
        UsageError: a column is unknown, named twice or missing, or the user has to say which rows
            to import.
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
        # The first row of a file without a header is taken for the header, so the message must not
        # quote the row.
        hint=f"there are: {shown}" if {*COLUMNS, *OTHER_NAMES}.intersection(columns) else None,
    )


def ask_which(column: str, file: ImportFile) -> UsageError:
    """Return the error for a file with a column such as Baseline, whose rows nobody has chosen."""
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


DIGEST_HINT = "give an MD5, SHA-1 or SHA-256 in hexadecimal; --from reads files of them"

BY_HEX_DIGITS = {2 * a.digest_bytes: a for a in Algorithm}
HEX = re.compile(rb"[0-9A-Fa-f]+")
#: A size has at most eighteen digits: this is almost an exabyte, and fits into a signed 64-bit
#: number.
SIZE = re.compile(rb"[0-9]{1,18}")

#: The beginning of a second row inside a line, which appears if rows were joined with spaces.
_ROW = re.compile(
    r"(?:^|[ \t])(?:\\?(?:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})[ ][ *]"
    r"|[0-9]{1,18},[0-9A-Fa-f]{32})"
    r"|\)[ ]?=[ ]?[0-9A-Fa-f]{32}"
)
#: Each match of the pattern `_ROW` contains a text in `_MARKS`. Few names of files contain a text
#: in `_MARKS`, so many names can be searched at once before `_ROW` is tried.
_MARKS = ("  ", " *", ")=", ") =", ",")


def from_hex(digits: bytes, width: int) -> Uint8:
    """Decode the hexadecimal digits of several digests to an array of (n, `width`) bytes.

    Raises:
        ValueError: `digits` has a character that is not a hexadecimal digit.
    """
    return np.frombuffer(binascii.unhexlify(digits), np.uint8).reshape(-1, width)


class Rows(msgspec.Struct):
    """Collects rows one by one until they are taken as a batch."""

    names: list[str | None] = msgspec.field(default_factory=list)
    lines: list[int] = msgspec.field(default_factory=list)
    sizes: list[int] = msgspec.field(default_factory=list)
    hexes: dict[Algorithm, tuple[list[bytes], list[int]]] = msgspec.field(default_factory=dict)

    def add(self, line: int, name: bytes | None, size: int = int(NO_SIZE)) -> None:
        """Add a row without a digest; `add_hex` adds its digests."""
        self.names.append(None if name is None else os.fsdecode(name))
        self.lines.append(line)
        self.sizes.append(size)

    def add_hex(self, algorithm: Algorithm, digits: bytes) -> None:
        """Add a digest to the row that was added last."""
        hexes, rows = self.hexes.setdefault(algorithm, ([], []))
        hexes.append(digits)
        rows.append(len(self.names) - 1)

    def refuse_rows_in_names(self, file: ImportFile) -> None:
        """Refuse a name that contains another row, as happens if rows were joined with spaces.

        Raises:
            UsageError: a name contains a row.
        """
        together = "\n".join(filter(None, self.names))
        if not any(mark in together for mark in _MARKS):
            return
        for line, name in zip(self.lines, self.names, strict=True):
            if name is not None and _ROW.search(name):
                raise file.bad(line, "a file name that holds another row")

    def batch(self) -> DigestBatch:
        """Return the rows as a batch."""
        digests = {
            a: (from_hex(b"".join(hexes), a.digest_bytes), np.array(rows, np.uint32))
            for a, (hexes, rows) in self.hexes.items()
        }
        lines, sizes = np.array(self.lines, np.int64), np.array(self.sizes, np.uint64)
        return DigestBatch(len(self.names), self.names, lines, digests, sizes)


def digests_of_arguments(arguments: Sequence[str]) -> DigestBatch:
    """Return digests that a user typed as arguments as a batch.

    The line number of a row is the number of the argument.

    Raises:
        UsageError: an argument is not a digest.
    """
    rows = Rows()
    for number, argument in enumerate(arguments, 1):
        digits = argument.strip().encode("ascii", "replace")
        if HEX.fullmatch(digits) is None:
            raise UsageError(f"argument:{number}: not a digest in hexadecimal", hint=DIGEST_HINT)
        algorithm = BY_HEX_DIGITS.get(len(digits))
        if algorithm is None:
            what = f"no digest has {len(digits)} hexadecimal digits"
            raise UsageError(f"argument:{number}: {what}", hint=DIGEST_HINT)
        rows.add(number, None)
        rows.add_hex(algorithm, digits)
    return rows.batch()

"""The NSRL's reference data set in its minimal SQLite form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hashclient.core.algorithms import Algorithm
from hashclient.errors import UsageError
from hashclient.lists.importers.importfile import MAX_LINE_BYTES, ImportFile
from hashclient.lists.importers.interface import DigestBatch
from hashclient.lists.importers.reading import Reading
from hashclient.lists.importers.rows import HEX, from_hex
from hashclient.lists.wire import NO_SIZE, Uint8, Uint32
from hashclient.system.text import printable

if TYPE_CHECKING:
    import sqlite3

SQLITE_MAGIC = b"SQLite format 3\0"
#: Rows of the table that make a batch.
ROWS = 1 << 16
_COLUMNS = (Algorithm.SHA256, Algorithm.SHA1, Algorithm.MD5)


class Nsrl:
    """Reads the table FILE of RDSv3; its sizes are left out, as known good files need none."""

    name = "NSRL"
    has_columns = False

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Say whether a file is an SQLite database."""
        return head.startswith(SQLITE_MAGIC)

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the database in batches; see `Importer`. Errors count rows as lines."""
        import sqlite3

        try:
            db = _open(file)
            try:
                rows = db.execute("SELECT sha256, sha1, md5 FROM FILE")
                first = 1
                while some := rows.fetchmany(ROWS):
                    if (batch := _batch(some, first, file)).count:
                        yield batch
                    first += len(some)
            finally:
                db.close()
        except (sqlite3.Error, ValueError, MemoryError) as error:
            raise UsageError(
                f"{file.name}: not a database in the NSRL's RDSv3 format: {printable(str(error))}",
                hint="it needs a table or view FILE with columns sha256, sha1 and md5 in"
                " hexadecimal",
            ) from error


def _open(file: ImportFile) -> sqlite3.Connection:
    """Open `file` as a database; fail if another file has its name by now."""
    import sqlite3

    descriptor = file.descriptor("a database")
    # A batch may be asked for, and the last one dropped, by different threads; never at once.
    uri = f"file:/proc/self/fd/{descriptor}?mode=ro"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LINE_BYTES)
    db.text_factory = bytes  # the error would quote text that is not UTF-8
    # A view in a foreign database must not call functions that could do harm.
    db.execute("PRAGMA trusted_schema = OFF")
    return db


def _batch(rows: list[Any], first: int, file: ImportFile) -> DigestBatch:
    """Turn rows of sha256, sha1 and md5, some of which may be empty, into a batch."""
    digests: dict[Algorithm, tuple[Uint8, Uint32]] = {}
    has_digest = np.zeros(len(rows), np.bool_)
    bad: set[int] = set()
    for column, algorithm in enumerate(_COLUMNS):
        numbers = [n for n, row in enumerate(rows) if row[column]]
        try:
            values = _values(rows, numbers, column, algorithm)
        except (ValueError, TypeError):
            wrong = {n for n in numbers if not _is_digest(rows[n][column], algorithm)}
            for n in sorted(wrong - bad):
                file.skip(first + n, f"not a {algorithm.label} digest")
            bad |= wrong
            numbers = [n for n in numbers if n not in wrong]
            values = _values(rows, numbers, column, algorithm)
        if numbers:
            has_digest[numbers] = True
            digests[algorithm] = (values, np.array(numbers, np.uint32))
    for n in np.flatnonzero(~has_digest).tolist():
        if n not in bad:
            file.skip(first + n, "a row without a digest")
            bad.add(n)
    nothing: list[str | None] = [None] * len(rows)
    lines = np.arange(first, first + len(rows), dtype=np.int64)
    batch = DigestBatch(len(rows), nothing, lines, digests, np.full(len(rows), NO_SIZE))
    return batch.without(sorted(bad))


def _values(rows: list[Any], numbers: list[int], column: int, algorithm: Algorithm) -> Uint8:
    cells = [rows[n][column] for n in numbers]
    if any(len(cell) != 2 * algorithm.digest_bytes for cell in cells):
        raise ValueError("a digest of the wrong length")
    return from_hex(b"".join(cells), algorithm.digest_bytes)


def _is_digest(cell: object, algorithm: Algorithm) -> bool:
    if not isinstance(cell, bytes) or len(cell) != 2 * algorithm.digest_bytes:
        return False
    return HEX.fullmatch(cell) is not None

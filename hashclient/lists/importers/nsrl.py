"""The NSRL's reference data set in its minimal SQLite form."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hashclient.core.algorithms import Algorithm
from hashclient.errors import UsageError
from hashclient.lists.importers.importfile import MAX_LINE_BYTES, ImportFile
from hashclient.lists.importers.interface import DigestBatch
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

    def sniff(self, head: bytes) -> bool:
        """Say whether a file is an SQLite database."""
        return head.startswith(SQLITE_MAGIC)

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the database in batches; see `Importer`. What counts as a line is a row."""
        import sqlite3

        try:
            db = _open(file)
            try:
                rows = db.execute("SELECT sha256, sha1, md5 FROM FILE")
                first = 1
                while some := rows.fetchmany(ROWS):
                    yield _batch(some, first, file)
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
    """Open the database that `file` is; if another has its name by now, none is opened."""
    import sqlite3

    try:
        descriptor = file.stream.fileno()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
    except OSError as error:
        raise UsageError(
            f"{file.name}: a database cannot be read from a pipe", hint="give the file itself"
        ) from error
    # A batch may be asked for, and the last one dropped, by different threads; never at once.
    uri = f"file:/proc/self/fd/{descriptor}?mode=ro"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LINE_BYTES)
    db.text_factory = bytes  # what is no UTF-8 would be quoted by the error
    # A view of a stranger's database calls no function that could do harm.
    db.execute("PRAGMA trusted_schema = OFF")
    return db


def _batch(rows: list[Any], first: int, file: ImportFile) -> DigestBatch:
    """Turn rows of sha256, sha1 and md5, some of which may be empty, into a batch."""
    digests: dict[Algorithm, tuple[Uint8, Uint32]] = {}
    has_digest = np.zeros(len(rows), np.bool_)
    for column, algorithm in enumerate(_COLUMNS):
        numbers = [n for n, row in enumerate(rows) if row[column]]
        cells = [rows[n][column] for n in numbers]
        try:
            if any(len(cell) != 2 * algorithm.digest_bytes for cell in cells):
                raise ValueError("a digest of the wrong length")
            values = from_hex(b"".join(cells), algorithm.digest_bytes)
        except (ValueError, TypeError):
            wrong = next(n for n in numbers if not _is_digest(rows[n][column], algorithm))
            raise file.bad(first + wrong, f"not a {algorithm.label} digest") from None
        if numbers:
            has_digest[numbers] = True
            digests[algorithm] = (values, np.array(numbers, np.uint32))
    if not has_digest.all():
        raise file.bad(first + int(np.argmin(has_digest)), "a row without a digest")
    nothing: list[str | None] = [None] * len(rows)
    lines = np.arange(first, first + len(rows), dtype=np.int64)
    return DigestBatch(len(rows), nothing, lines, digests, np.full(len(rows), NO_SIZE))


def _is_digest(cell: object, algorithm: Algorithm) -> bool:
    if not isinstance(cell, bytes) or len(cell) != 2 * algorithm.digest_bytes:
        return False
    return HEX.fullmatch(cell) is not None

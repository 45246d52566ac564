"""The NSRL's reference data set (RDSv3) as a minimal SQLite database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hashclient.core.errors import UsageError
from hashclient.lists.importers.importfile import MAX_LINE_BYTES, ImportFile, Reading
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.importers.table import batch_of
from hashclient.system.text import printable

if TYPE_CHECKING:
    import sqlite3

SQLITE_MAGIC = b"SQLite format 3\0"
#: The number of rows of the table in a batch.
ROWS = 1 << 15
_COLUMNS = ("sha256", "sha1", "md5")


class Nsrl:
    """Reads the table FILE of RDSv3.

    Sizes are not read, because lists of known good files need no sizes.
    """

    name = "NSRL"
    has_columns = False

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a file is an SQLite database."""
        return head.startswith(SQLITE_MAGIC)

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the database in batches; see `Importer`.

        The line number in an error is the number of a row.
        """
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
                hint="the database needs a table or view FILE with columns sha256, sha1 and"
                " md5 in hexadecimal",
            ) from error


def _open(file: ImportFile) -> sqlite3.Connection:
    """Open `file` as a database by its descriptor, as another file may have its name by now."""
    import sqlite3

    descriptor = file.descriptor("a database")
    # Different threads may take a batch and close the database, but never at the same time, so
    # SQLite need not check the thread.
    uri = f"file:/proc/self/fd/{descriptor}?mode=ro"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LINE_BYTES)
    # text is read as bytes, because an error about text that is not UTF-8 would quote the text
    db.text_factory = bytes
    # The database may come from anybody, so a view in it must not call functions that could do
    # harm.
    db.execute("PRAGMA trusted_schema = OFF")
    return db


def _batch(rows: list[Any], first: int, file: ImportFile) -> DigestBatch:
    """Convert rows of sha256, sha1 and md5 to a batch; a row may lack some of the digests."""
    import pyarrow as pa

    columns: list[list[str | None]] = [
        [(str(c, "latin-1") if isinstance(c, bytes) else str(c)) if c else None for c in column]
        for column in zip(*rows, strict=True)
    ]
    cells = {
        name: pa.array(column, pa.string()) for name, column in zip(_COLUMNS, columns, strict=True)
    }
    lines = np.arange(first, first + len(rows), dtype=np.int64)
    return batch_of(cells, lines, file, cells.__getitem__)

"""The NSRL's reference data set in its minimal SQLite form."""

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
#: Rows of the table that make a batch.
ROWS = 1 << 15
_COLUMNS = ("sha256", "sha1", "md5")


class Nsrl:
    """Reads the table FILE of RDSv3, without sizes: known good files do not need them."""

    name = "NSRL"
    has_columns = False

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a file is an SQLite database."""
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
                hint="the database needs a table or view FILE with columns sha256, sha1 and"
                " md5 in hexadecimal",
            ) from error


def _open(file: ImportFile) -> sqlite3.Connection:
    """Open `file` as a database; fail if another file has its name by now."""
    import sqlite3

    descriptor = file.descriptor("a database")
    # Different threads may request a batch and drop the last batch, but never at the same time.
    uri = f"file:/proc/self/fd/{descriptor}?mode=ro"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LINE_BYTES)
    db.text_factory = bytes  # the error would quote text that is not UTF-8
    # A view in a foreign database must not call functions that could do harm.
    db.execute("PRAGMA trusted_schema = OFF")
    return db


def _batch(rows: list[Any], first: int, file: ImportFile) -> DigestBatch:
    """Turn rows of sha256, sha1 and md5 into a batch; a row may lack some of the digests."""
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

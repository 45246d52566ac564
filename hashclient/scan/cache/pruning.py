"""Pruning of the inventory in small steps: remove records of files that no scan sees any more."""

from __future__ import annotations

import sqlite3
import time

from hashclient.scan.cache import inside
from hashclient.scan.cache.records import RECORD

#: The number of days between two automatic prunings.
PRUNED_EVERY_DAYS = 7
#: A database file of this many bytes or more is made shorter only by a command, because that takes
#: seconds.
COMPACTED_BYTES = 1 << 28
_OLD_ROWS_AT_ONCE = 1000
_OLD_ROWS = """
SELECT file_system, block, length(records) FROM files
WHERE (file_system, block) > (?, ?) AND seen_day < ? ORDER BY file_system, block LIMIT ?
"""


def prune_in_turn(db: sqlite3.Connection, days: float, day: int, seconds: float) -> int:
    """Remove records of files last seen more than `days` before `day`; return how many files.

    See `Inventory.prune_in_turn`.

    Raises:
        sqlite3.Error: the database cannot be written; with the code `SQLITE_BUSY`, another process
        is writing.
    """
    ends = time.monotonic() + seconds
    db.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
    db.execute("CREATE TABLE IF NOT EXISTS pruned (day INTEGER NOT NULL) STRICT")
    (last,) = db.execute("SELECT max(day) FROM pruned").fetchone()
    if last is not None and day - PRUNED_EVERY_DAYS < last <= day:
        return 0
    db.execute(inside.TABLE)
    db.execute("DELETE FROM containers WHERE seen_day < ?", (int(day - days),))
    forgotten, after = 0, (-(2**63), -(2**63))  # a key lower than every key of a row
    while True:
        values = (*after, int(day - days), _OLD_ROWS_AT_ONCE)
        rows = db.execute(_OLD_ROWS, values).fetchall()
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "DELETE FROM files WHERE file_system = ? AND block = ? AND seen_day < ?",
            [(file_system, block, int(day - days)) for file_system, block, _ in rows],
        )
        if len(rows) < _OLD_ROWS_AT_ONCE:
            db.execute("DELETE FROM pruned")
            db.execute("INSERT INTO pruned VALUES (?)", (day,))
        db.execute("COMMIT")
        forgotten += sum(int(row[2]) for row in rows) // RECORD.itemsize
        if len(rows) < _OLD_ROWS_AT_ONCE or time.monotonic() > ends:
            break
        after = rows[-1][:2]
    names = ("freelist_count", "page_count", "page_size")
    free, pages, size = (db.execute(f"PRAGMA {n}").fetchone()[0] for n in names)
    has_time = time.monotonic() <= ends
    if has_time and free * 4 > pages and pages * size < COMPACTED_BYTES:
        db.execute("VACUUM")
    return forgotten

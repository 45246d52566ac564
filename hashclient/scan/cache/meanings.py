"""Which records of earlier scans still show that a file is no container.

The inventory has a table of meanings. A meaning is a numbered set of the kinds of containers that a
scan looked for (`containers.meaning`). The record of a file that is no container contains the first
byte of the file, and the number of the meaning that was in use when the file was read. If kinds of
containers were added or changed since the read, only files that may be of these kinds are opened
again. If the record has no number or an unknown number, the file is opened again. The tags of a
record are valid whatever the meaning of the record is.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from typing import Any

import numpy as np

from hashclient.containers import meaning
from hashclient.scan.cache.records import PLAIN, TAGS, Records

_TABLE = """
CREATE TABLE IF NOT EXISTS meanings (
    number INTEGER PRIMARY KEY,
    kinds TEXT NOT NULL,
    crc INTEGER NOT NULL
) STRICT
"""
#: The largest number of a meaning, which is stored in one byte.
_MOST = 255


class Meanings:
    """The meanings of the records in one database."""

    def __init__(self, database: sqlite3.Connection, *, records: str = "") -> None:
        """Read the meanings from the database.

        `records` is the name of a table of records. If `records` is given, the meaning of this scan
        is added to the table of meanings. If all numbers of meanings are in use, the table of
        records is emptied, and scans read all files again.
        """
        if records:
            database.execute(_TABLE)
        found = _read(database)
        kinds = json.dumps(meaning.NUMBERS, sort_keys=True)
        #: The number of the meaning of this scan; 0 if no writer has added this meaning yet.
        self.number = next((number for number, text in found.items() if text == kinds), 0)
        if records and not self.number:
            self.number = max(found, default=0) + 1
            if self.number > _MOST:
                database.execute(f"DELETE FROM {records}")  # noqa: S608 - not from users
                database.execute("DELETE FROM meanings")
                self.number, found = 1, {}
            row = self.number, kinds, _checksum(self.number, kinds)
            database.execute("INSERT OR REPLACE INTO meanings VALUES (?, ?, ?)", row)
        self._earlier = {
            number: meaning.touched(json.loads(text))
            for number, text in found.items()
            if number != self.number
        }

    def take(self, records: Records) -> None:
        """Set the bit `PLAIN` in the records that still show that a file is no container."""
        numbers = records["meaning"]
        plain = (numbers == self.number) & (numbers != 0)
        if not plain.all():
            for number, touched in self._earlier.items():
                mine = numbers == number
                if touched is not None:
                    begins = np.zeros(256, np.bool_)
                    begins[list(touched.begins)] = True
                    mine &= (records["size"] < touched.least_bytes) | ~begins[records["begin"]]
                plain |= mine
        records["mask"] &= np.uint8(TAGS)
        records["mask"] |= np.where(plain, np.uint8(PLAIN), np.uint8(0))

    def give(self, records: Records) -> None:
        """Write the number of this scan's meaning into records before the records are stored."""
        plain = records["mask"] & np.uint8(PLAIN) != 0
        records["meaning"] = np.where(plain, np.uint8(self.number), np.uint8(0))


def _read(database: sqlite3.Connection) -> dict[int, str]:
    """Return the kinds of each meaning as text; leave out meanings with a wrong checksum."""
    if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meanings'").fetchone():
        return {}  # a version of hashclient without meanings made this database
    rows: list[tuple[Any, ...]] = database.execute(
        "SELECT number, kinds, crc FROM meanings"
    ).fetchall()
    return {
        number: kinds
        for number, kinds, crc in rows
        if isinstance(number, int) and isinstance(kinds, str)
        if 0 < number <= _MOST and crc == _checksum(number, kinds)
    }


def _checksum(number: int, kinds: str) -> int:
    return zlib.crc32(b"%d %b" % (number, kinds.encode()))

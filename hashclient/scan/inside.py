"""What the inventory knows of what is inside of containers: sealed tags of their members.

A container that has not changed is not opened again: its members are judged by these. Kept are
members in columns, without names: where one is listed now, or needs another digest, the container
is opened after all. A container of which anything was unread is none that is known, and neither is
one with very many members.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hashclient.scan.records import RECORD, are_due, records_of

#: One member: its length, or the one that is claimed where no tags are known; the algorithms whose
#: tags are known, as in a record; and whether a claimed length cannot be wrong.
MEMBER = np.dtype([("size", "<u8"), ("mask", "u1"), ("exact", "u1"), ("tags", "<u8", (3, 2))])
Inside = npt.NDArray[np.void]
#: Containers with more members than this are opened each time.
MAX_KNOWN = 50_000
#: Raised where a kind of container is added, or read in another way: all are opened again then.
READS = 1
#: The number of a file system, the record of a file without tags, and its members as bytes.
Container = tuple[int, bytes, bytes]

TABLE = """
CREATE TABLE IF NOT EXISTS containers (
    file_system INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    seen_day INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    record BLOB NOT NULL,
    members BLOB NOT NULL,
    PRIMARY KEY (file_system, inode)
) STRICT, WITHOUT ROWID
"""
_FIND = (
    "SELECT inode, crc, record, members FROM containers"
    " WHERE file_system = ? AND inode IN (SELECT value FROM json_each(?))"
)


def find(
    database: sqlite3.Connection,
    file_system: int,
    statuses: Sequence[os.stat_result],
    day: int,
    reread_days: int,
) -> Iterator[tuple[int, Inside, bool]]:
    """Yield what is known inside of files that are unchanged: a file's place among `statuses`.

    With the members goes whether they are only believed to be what is there.
    """
    asked = {_signed(status.st_ino): place for place, status in enumerate(statuses)}
    rows: list[tuple[Any, ...]]
    rows = database.execute(_FIND, (file_system, json.dumps(list(asked)))).fetchall()
    prefix = zlib.crc32(b"%d %d" % (file_system, READS))
    whole = [
        (place, raw, members)
        for inode, crc, raw, members in rows
        if (place := asked.get(inode)) is not None
        and isinstance(raw, bytes)
        and isinstance(members, bytes)
        and len(raw) == RECORD.itemsize
        and not len(members) % MEMBER.itemsize
        and crc == zlib.crc32(members, zlib.crc32(raw, prefix))
    ]
    if not whole:
        return
    # All at once: a container that is known costs little more than a file that is.
    known = np.frombuffer(b"".join([raw for _, raw, _ in whole]), RECORD)
    now = records_of([statuses[place] for place, _, _ in whole])
    same = ~are_due(known, day, reread_days)
    for name in ("ino", "size", "mtime", "ctime"):
        same &= known[name] == now[name]
    believed = (known["read_day"] != 0).tolist()
    for number in np.flatnonzero(same).tolist():
        place, _, members = whole[number]
        yield place, np.frombuffer(members, MEMBER), believed[number]


def store(database: sqlite3.Connection, containers: Sequence[Container], day: int) -> None:
    """Keep what is known inside of containers, in place of what was known of these files."""
    database.executemany(
        "INSERT OR REPLACE INTO containers VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                file_system,
                _signed(int(np.frombuffer(record, RECORD)["ino"][0])),
                day,
                _checksum(file_system, record, members),
                record,
                members,
            )
            for file_system, record, members in containers
        ],
    )


def _signed(inode: int) -> int:
    """Return the number of an inode as SQLite takes it."""
    return inode - 2**64 if inode >= 2**63 else inode


def _checksum(file_system: int, record: bytes, members: bytes) -> int:
    """Return the checksum of a row; it covers where the row belongs, and how it was read."""
    return zlib.crc32(members, zlib.crc32(record, zlib.crc32(b"%d %d" % (file_system, READS))))

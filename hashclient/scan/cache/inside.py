"""The inventory of containers: the sealed tags of the members of each container.

An unchanged container is not opened again: its members are judged by their recorded tags. Members
are kept in columns, without names. So a container is opened again if a member is on a list now, or
if a member needs a digest that was not computed. A container is not recorded if a part of the
container could not be read, or if it has more than `MAX_KNOWN` members.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hashclient.containers import meaning
from hashclient.containers.unopened import NAMES
from hashclient.scan.cache.records import RECORD, are_due, records_of
from hashclient.scan.values.work import Container

#: One member of a container. `size`: the length of the member, or its claimed length if no tags are
#: known. `mask`: the algorithms whose tags are known, or `NOT_OPENED`. `exact`: whether a claimed
#: length is certain. `tags`: as in `records.RECORD`.
MEMBER = np.dtype([("size", "<u8"), ("mask", "u1"), ("exact", "u1"), ("tags", "<u8", (3, 2))])
Inside = npt.NDArray[np.void]
#: The most members of a container that is recorded. A container with more members is opened by each
#: scan.
MAX_KNOWN = 50_000
#: The version of the code that opens containers. When the code opens a new kind of container, or
#: reads a kind in another way, this number is raised. All containers are opened again after that.
READS = meaning.READS
#: `NOT_OPENED` as the `mask` of a row of `MEMBER` means that the container itself, or a file in it,
#: is of a kind that hashclient does not open. `size` of such a row is the index of the kind in
#: `NAMES`.
NOT_OPENED = 128

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
    "SELECT crc, record, members FROM containers"
    " WHERE file_system = ? AND inode IN (SELECT value FROM json_each(?))"
)


def stored(
    database: sqlite3.Connection, seed: int, file_system: int, inodes: Sequence[int]
) -> list[tuple[bytes, bytes]]:
    """Return record and members of each container among `inodes`, from undamaged rows.

    `seed` is the initial value of the checksums of rows.
    """
    rows: list[tuple[Any, ...]]
    asked = (file_system, json.dumps(list(map(_signed, inodes))))
    rows = database.execute(_FIND, asked).fetchall()
    return [
        (raw, members)
        for crc, raw, members in rows
        if isinstance(raw, bytes)
        and isinstance(members, bytes)
        and len(raw) == RECORD.itemsize
        and not len(members) % MEMBER.itemsize
        and crc == _checksum(seed, file_system, raw, members)
    ]


def unchanged(
    containers: Sequence[tuple[bytes, bytes]],
    statuses: Sequence[os.stat_result],
    day: int,
    reread_days: int,
) -> Iterator[tuple[int, Inside, bool]]:
    """Yield the members of each file whose status still equals its record.

    Each yielded file is given by its index in `statuses`. The flag of a file says whether the
    record of the file is believed, and not proven.
    """
    if not containers:
        return
    # All containers are compared in one step of numpy, so that an unchanged container takes little
    # more time than an unchanged file.
    known = np.frombuffer(b"".join([raw for raw, _ in containers]), RECORD)
    asked = {status.st_ino: place for place, status in enumerate(statuses)}
    places = [asked.get(inode) for inode in known["ino"].tolist()]
    is_asked = np.array([place is not None for place in places])
    now = records_of([statuses[place or 0] for place in places])
    same = is_asked & ~are_due(known, day, reread_days)
    for name in ("ino", "size", "mtime", "ctime"):
        same &= known[name] == now[name]
    believed = (known["read_day"] != 0).tolist()
    for number in np.flatnonzero(same).tolist():
        place = places[number]
        assert place is not None
        yield place, np.frombuffer(containers[number][1], MEMBER), believed[number]


def not_opened_rows(kinds: Mapping[str, int]) -> Inside:
    """Return rows of `MEMBER` that say how many files of each kind are not opened."""
    places = [NAMES.index(kind) for kind, count in kinds.items() for _ in range(count)]
    rows = np.zeros(len(places), MEMBER)
    rows["size"], rows["mask"] = places, NOT_OPENED
    return rows


def counts_of(members: Inside) -> tuple[int, int, dict[str, int]]:
    """Return the number of members, and the number of files of each kind that is not opened.

    The second number counts the members that were never read, because of their claimed size.
    """
    masks = members["mask"]
    places = members["size"][masks == NOT_OPENED].tolist()
    claimed = int(np.count_nonzero((masks == 0) & (members["exact"] == 0)))
    return len(members) - len(places), claimed, dict(Counter(NAMES[place] for place in places))


def store(
    database: sqlite3.Connection, seed: int, containers: Sequence[Container], day: int
) -> None:
    """Keep the members of containers; replace the earlier records of the same files.

    `seed` has the same meaning as in `stored`.
    """
    database.executemany(
        "INSERT OR REPLACE INTO containers VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                file_system,
                _signed(int(np.frombuffer(record, RECORD)["ino"][0])),
                day,
                _checksum(seed, file_system, record, members),
                record,
                members,
            )
            for file_system, record, members in containers
        ],
    )


def _signed(inode: int) -> int:
    """Return an inode number as the signed integer that SQLite can store."""
    return inode - 2**64 if inode >= 2**63 else inode


def _checksum(seed: int, file_system: int, record: bytes, members: bytes) -> int:
    """Return a checksum of a row, of its file system and of `READS`."""
    prefix = zlib.crc32(b"%d %d" % (file_system, READS), seed)
    return zlib.crc32(members, zlib.crc32(record, prefix))

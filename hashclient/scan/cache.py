"""The inventory: sealed tags of files already read, so that an unchanged file is not read again.

A file is unchanged while file system, inode, size, mtime and ctime are (no ordinary user can set
ctime, so an edit with a restored mtime shows); `filesystems` knows where that holds, and the number
that stands for a file system, which is the `device` here. A new generation is checked against the
tags. Records are kept in SQLite by file system and block of neighbouring inodes, since files of one
directory mostly are neighbours: one row answers for up to `BLOCK_INODES` files. Only tags are kept,
never digests; other than the lists, the inventory may be lost at any time and costs nothing but
reading again. What the disk has garbled counts as lost: each row has a checksum.

Limits: a store through a shared memory map sets the times of a file when the kernel makes the page
writable, and once more only after it was written back: such a page that has waited for longer than
`FRESH_NS` can hide a change, and so can an exchange of extents on xfs; `scan --no-inventory` reads
everything.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.errors import StateError
from hashclient.system.files import is_there, state_error
from hashclient.system.layout import Layout
from hashclient.system.sqlite import open_database
from hashclient.system.text import printable

#: Inodes whose records share a row; a power of two.
BLOCK_INODES = 256
_BLOCK_BITS = 8
#: Rows that are merged at a time: enough to make it cheap, few enough to bound the memory.
_BLOCKS_AT_ONCE = 16
#: A file that changed so shortly before it was read may change again unseen: within the same tick
#: of the file system's clock, or by a store through a memory map into a page that the kernel has
#: not written back since. It does that after 30 seconds, looking each 5, unless told otherwise.
FRESH_NS = 60_000_000_000
#: Some file systems store seconds, and show a change as older than it is.
FRESH_COARSE_NS = FRESH_NS + 2_000_000_000
DAY_S = 86_400

#: One file. `mask` has the algorithms whose tags are known; `tags` are two words for each of MD5,
#: SHA-1, SHA-256 in that order. A record with mask 0 stands for nothing. Times are nanoseconds
#: modulo 2**64: anybody may give a file a time of long ago or far ahead.
RECORD = np.dtype(
    [
        ("ino", "<u8"),
        ("size", "<i8"),
        ("mtime", "<u8"),
        ("ctime", "<u8"),
        ("mask", "u1"),
        ("tags", "<u8", (3, 2)),
    ]
)

Records = npt.NDArray[np.void]
#: (number of the file system, block of inodes), as a row is named.
Block = tuple[int, int]

_WORD = 2**64 - 1

_VERSION = 3
_SCHEMA = """
CREATE TABLE meta (key_id TEXT NOT NULL) STRICT;
CREATE TABLE block (
    device INTEGER NOT NULL,
    block INTEGER NOT NULL,
    seen_day INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    records BLOB NOT NULL,
    PRIMARY KEY (device, block)
) STRICT, WITHOUT ROWID;
"""
#: How often rows are looked for that nobody has seen for long, unasked.
PRUNED_EVERY_DAYS = 7
#: A file longer than this is not made shorter unasked: that takes seconds.
COMPACTED_BYTES = 1 << 28
_OLD_BLOCKS_AT_ONCE = 1000
_OLD_BLOCKS = """
SELECT device, block, length(records) FROM block
WHERE (device, block) > (?, ?) AND seen_day < ? ORDER BY device, block LIMIT ?
"""
#: What SQLite says of a file that is not what we wrote. An error of the module itself has no code
#: (it could not decode what it read, or even what SQLite said of it: a ValueError), nor has one of
#: a length that no memory holds.
_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class DamagedInventoryError(StateError):
    """The file is not what a scan left; nothing is lost by making it anew."""


class Stats(msgspec.Struct, frozen=True):
    """What an inventory holds: files with tags, rows, bytes on disk, and the oldest day seen."""

    files: int
    blocks: int
    file_bytes: int
    oldest_seen_day: int | None


class Inventory:
    """One connection to the inventory; each process opens its own."""

    def __init__(self, state_dir: Path, key_id: str, *, write: bool = False) -> None:
        """Open it for reading; with `write`, make it or empty it if another key sealed it.

        Raises:
            StateError: it cannot be opened, is damaged, or (for reading) was sealed otherwise.
        """
        self._path = Layout(state_dir).inventory
        with self._errors():
            self._db = open_database(self._path, "rwc" if write else "ro")
            try:
                if write:
                    self._prepare(key_id)
                row = self._db.execute("SELECT key_id FROM meta").fetchone()
            except BaseException:
                self._db.close()
                raise
        if row != (key_id,):
            self._db.close()
            raise StateError(f"inventory was sealed with another key: {printable(self._path)}")

    def _prepare(self, key_id: str) -> None:
        # No waiting for the disk, ever: workers would idle. What a power failure garbles or takes
        # away counts as lost, and is made anew.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("BEGIN IMMEDIATE")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        known = version == _VERSION and self._db.execute("SELECT key_id FROM meta").fetchone()
        if known != (key_id,):
            for table in ("meta", "block"):
                self._db.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO meta VALUES (?)", (key_id,))
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def find(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, int | None]
    ) -> tuple[Records, list[Block]]:
        """Return the record of each file that is unchanged, and blocks not seen for a day.

        `identities` has for each `st_dev` the number of the file system that is there now, None
        where nothing is remembered. Records are parallel to `statuses`; mask 0 says that a file is
        not known or has changed.

        Raises:
            StateError: the database is damaged or busy for long.
        """
        asked = records_of(statuses)
        known = np.zeros(len(statuses), RECORD)
        today = int(time.time() // DAY_S)
        old: list[Block] = []
        devices = {status.st_dev for status in statuses}
        for device in devices:
            mine = (
                np.array([s.st_dev == device for s in statuses])
                if len(devices) > 1
                else slice(None)
            )
            file_system = identities.get(device)
            if file_system is None:
                continue
            inodes = asked["ino"][mine]
            parts = []
            for block in np.unique(inodes >> np.uint64(_BLOCK_BITS)).tolist():
                row = self._row(file_system, block)
                if row is not None:
                    parts.append(row[1])
                    if row[0] < today:
                        old.append((file_system, block))
            if parts:
                # Each row ascends by inode, and the blocks do.
                stored = np.frombuffer(b"".join(parts), RECORD)
                position = stored["ino"].searchsorted(inodes)
                position[position == len(stored)] = 0
                known[mine] = stored.take(position)
        same = (
            (known["ino"] == asked["ino"])
            & (known["mtime"] == asked["mtime"])
            & (known["ctime"] == asked["ctime"])
            & (known["size"] == asked["size"])
        )
        known["mask"][~same] = 0
        return known, old

    def _row(self, device: int, block: int) -> tuple[int, bytes] | None:
        """Return day and records of a row; one that is not as it was written counts as none."""
        with self._errors():
            row: tuple[int, int, Any] | None = self._db.execute(
                "SELECT seen_day, crc, records FROM block WHERE device = ? AND block = ?",
                (device, block),
            ).fetchone()
        if row is None or not isinstance(row[2], bytes):
            return None
        if _checksum(device, block, row[2]) != row[1]:
            return None
        return row[0], row[2]

    def store(self, batches: Sequence[tuple[int, bytes]], seen: Sequence[Block] = ()) -> None:
        """Add records, given by device as bytes of `RECORD`, and note that `seen` are in use.

        All of it becomes visible at once. A later record of an inode replaces an earlier one; of
        the same content, it adds its tags.

        Raises:
            StateError: it cannot be written.
        """
        today = int(time.time() // DAY_S)
        by_device: dict[int, list[bytes]] = {}
        for device, raw in batches:
            by_device.setdefault(device, []).append(raw)
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for device, raws in by_device.items():
                    self._add(device, np.frombuffer(b"".join(raws), RECORD), today)
                self._db.executemany(
                    "UPDATE block SET seen_day = ? WHERE device = ? AND block = ?",
                    [(today, device, block) for device, block in seen],
                )
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _add(self, device: int, records: Records, today: int) -> None:
        """Merge records of one device into its rows, some rows at a time."""
        records = records.take(np.argsort(records["ino"], kind="stable"))
        blocks, starts = np.unique(records["ino"] >> np.uint64(_BLOCK_BITS), return_index=True)
        ends = np.append(starts[1:], len(records))
        for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
            numbers = blocks[first : first + _BLOCKS_AT_ONCE].tolist()
            new = records[starts[first] : ends[first + len(numbers) - 1]]
            rows = [self._row(device, block) for block in numbers]
            old = np.frombuffer(b"".join(row[1] for row in rows if row), RECORD)
            merged = _merge(old, new)
            edges = np.flatnonzero(np.diff(merged["ino"] >> np.uint64(_BLOCK_BITS))) + 1
            for block, row, part in zip(numbers, rows, np.split(merged, edges), strict=True):
                data = part.tobytes()
                if row == (today, data):
                    continue
                self._db.execute(
                    "INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?)",
                    (device, block, today, _checksum(device, block, data), data),
                )

    def prune(self, days: int) -> int:
        """Forget what was not seen for `days`; return the number of files forgotten.

        Raises:
            StateError: it cannot be written.
        """
        limit = int(time.time() // DAY_S) - days
        with self._errors():
            before = self.stats().files
            self._db.execute("DELETE FROM block WHERE seen_day < ?", (limit,))
            self._db.execute("VACUUM")
            return before - self.stats().files

    def prune_in_turn(self, days: float, seconds: float) -> int:
        """Forget what was not seen for `days`, unless that was done within the last week.

        It takes some `seconds` at most and goes on the next time, as it does where others write
        just now. A large file is not made shorter: what is free in it is used again.

        Raises:
            StateError: it cannot be written.
        """
        with self._errors():
            try:
                return self._prune_in_turn(days, seconds)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                return 0

    def _prune_in_turn(self, days: float, seconds: float) -> int:
        today, ends = int(time.time() // DAY_S), time.monotonic() + seconds
        self._db.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
        self._db.execute("CREATE TABLE IF NOT EXISTS pruned (day INTEGER NOT NULL) STRICT")
        (last,) = self._db.execute("SELECT max(day) FROM pruned").fetchone()
        if last is not None and today - PRUNED_EVERY_DAYS < last <= today:
            return 0
        forgotten, after = 0, (-(2**63), -(2**63))  # before the first row
        while True:
            values = (*after, int(today - days), _OLD_BLOCKS_AT_ONCE)
            rows = self._db.execute(_OLD_BLOCKS, values).fetchall()
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "DELETE FROM block WHERE device = ? AND block = ? AND seen_day < ?",
                [(device, block, int(today - days)) for device, block, _ in rows],
            )
            if len(rows) < _OLD_BLOCKS_AT_ONCE:
                self._db.execute("DELETE FROM pruned")
                self._db.execute("INSERT INTO pruned VALUES (?)", (today,))
            self._db.execute("COMMIT")
            forgotten += sum(int(row[2]) for row in rows) // RECORD.itemsize
            if len(rows) < _OLD_BLOCKS_AT_ONCE or time.monotonic() > ends:
                break
            after = rows[-1][:2]
        names = ("freelist_count", "page_count", "page_size")
        free, pages, size = (self._db.execute(f"PRAGMA {n}").fetchone()[0] for n in names)
        if free * 4 > pages and pages * size < COMPACTED_BYTES:
            self._db.execute("VACUUM")
        return forgotten

    def stats(self) -> Stats:
        """Return what is in it.

        Raises:
            StateError: it cannot be read.
        """
        with self._errors():
            length, blocks, oldest = self._db.execute(
                "SELECT ifnull(sum(length(records)), 0), count(*), min(seen_day) FROM block"
            ).fetchone()
            return Stats(length // RECORD.itemsize, blocks, self._path.stat().st_size, oldest)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, MemoryError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if not isinstance(error, OSError) and code in _DAMAGE:
                raise DamagedInventoryError(
                    f"the inventory is damaged: {printable(self._path)}: {error}",
                    hint="a scan reads every file then, and makes it anew",
                ) from error
            raise StateError(
                f"cannot use the inventory: {printable(self._path)}: {error}",
                hint="it may be removed at any time; a scan then reads every file again",
            ) from error


class InventoryPlace:
    """The inventory of one state directory, whose tags are made under one key."""

    def __init__(self, state_dir: Path, key_id: str) -> None:
        """Nothing is opened yet."""
        self._state_dir = state_dir
        self._key_id = key_id

    def reader(self) -> Inventory | None:
        """Open it for reading; None if there is none."""
        if not is_there(Layout(self._state_dir).inventory):
            return None
        return Inventory(self._state_dir, self._key_id)

    def writer(self) -> Inventory:
        """Open it for writing, or make it."""
        return Inventory(self._state_dir, self._key_id, write=True)

    def remove(self) -> None:
        """Remove it."""
        remove_inventory(self._state_dir)


def remove_inventory(state_dir: Path) -> None:
    """Remove the inventory.

    Raises:
        StateError: it cannot be removed.
    """
    # The file itself last: what is left of a journal must not be applied to another database.
    inventory = Layout(state_dir).inventory
    for suffix in ("-wal", "-shm", ""):
        path = inventory.with_name(inventory.name + suffix)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise state_error("cannot remove", path, error) from error


def records_of(statuses: Sequence[os.stat_result]) -> Records:
    """Return records of files as they are, without any tag."""
    records = np.zeros(len(statuses), RECORD)
    records["ino"] = [s.st_ino for s in statuses]
    records["size"] = [s.st_size for s in statuses]
    records["mtime"] = [s.st_mtime_ns & _WORD for s in statuses]
    records["ctime"] = [s.st_ctime_ns & _WORD for s in statuses]
    return records


def are_settled(records: Records, since_ns: int) -> npt.NDArray[np.bool_]:
    """Tell which files, read at `since_ns` or later, can be known by their status from now on.

    Not one that changed so shortly before that another change may bear the same time.
    """
    ctime, mtime = (np.ascontiguousarray(records[name]).view("<i8") for name in ("ctime", "mtime"))
    coarse = ctime % 1_000_000_000 == 0
    settled: npt.NDArray[np.bool_] = np.maximum(ctime, mtime) < since_ns - np.where(
        coarse, FRESH_COARSE_NS, FRESH_NS
    )
    return settled


def _checksum(device: int, block: int, records: bytes) -> int:
    """Return the checksum of a row; it covers where the row belongs, too."""
    return zlib.crc32(records, zlib.crc32(b"%d %d" % (device, block)))


def _merge(old: Records, new: Records) -> Records:
    """Join records that ascend by inode: the last of an inode counts, with its earlier tags."""
    # Here and above: to take rows of records by number, `take` is ten times as fast as an index.
    new = new.take(np.flatnonzero(np.append(new["ino"][1:] != new["ino"][:-1], True)))
    if not len(old):
        return new
    position = old["ino"].searchsorted(new["ino"])
    position[position == len(old)] = 0
    before = old.take(position)
    same = before["ino"] == new["ino"]
    kept = np.ones(len(old), np.bool_)
    kept[position[same]] = False
    for name in ("size", "mtime", "ctime"):
        same &= before[name] == new[name]
    for number in range(3):
        bit = np.uint8(1 << number)
        adds = np.flatnonzero(same & (before["mask"] & ~new["mask"] & bit != 0))
        if len(adds):
            new["tags"][adds, number] = before["tags"][adds, number]
            new["mask"][adds] |= bit
    merged = np.frombuffer(old.take(np.flatnonzero(kept)).tobytes() + new.tobytes(), RECORD)
    return merged.take(np.argsort(merged["ino"], kind="stable"))

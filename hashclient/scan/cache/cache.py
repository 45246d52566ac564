"""The inventory: sealed tags of files already read, so that an unchanged file is not read again.

A file counts as unchanged while its file system, inode, size, mtime and ctime equal those of its
record. No ordinary user can set the ctime of a file, so an edit is noticed even if the mtime is
restored. A file system is identified by the number that `hashclient.system.identity` computes. A
scan with a new generation of a list looks up the stored tags in the new generation, and reads no
unchanged file.

Records are kept in SQLite. Each row contains the records of a block of up to `BLOCK_INODES`
neighbouring inodes of one file system, because files of one directory mostly have neighbouring
inodes. The inventory contains tags, but never digests. Unlike the lists, the inventory may be lost
at any time, because the next scan without an inventory reads every file. Each row has a checksum,
so a row that the disk has damaged is treated as missing. The checksum also depends on the key that
sealed the tags: a scan that began before the key was changed may still have the inventory open, and
its rows count as missing for scans with the new key. If an earlier version of hashclient wrote the
inventory, opening the inventory for writing empties it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.errors import StateError
from hashclient.scan.cache import inside
from hashclient.scan.cache.inside import Inside
from hashclient.scan.cache.interface import Cache
from hashclient.scan.cache.meanings import Meanings
from hashclient.scan.cache.pruning import prune_in_turn
from hashclient.scan.cache.records import (
    RECORD,
    Records,
    are_due,
    merged_records,
    of_inodes,
)
from hashclient.scan.values.work import Block, Container
from hashclient.system.layout import Layout
from hashclient.system.sqlite import explain, open_database
from hashclient.system.text import printable

#: The number of inodes whose records share a row; a power of two.
BLOCK_INODES = 256
_BLOCK_BITS = 8
#: The number of rows that are merged at a time. More rows make a merge cheaper, but take more
#: memory.
_BLOCKS_AT_ONCE = 16
#: A file whose last change was less than this many nanoseconds before it was read is not recorded,
#: unless its record would be proven (see `records`). A file that changed shortly before the read
#: may change again without a new time, because a write through a memory map changes a page that the
#: kernel has not written back yet. By default the kernel writes pages back after 30 seconds, and
#: checks every 5 seconds.
FRESH_NS = 60_000_000_000
#: The same limit as `FRESH_NS`, for a file whose record is proven by a file lease. With the lease,
#: a second change is unnoticed only within the same tick of the file system's clock, which takes at
#: most 10 milliseconds.
FRESH_PROVEN_NS = 1_000_000_000
#: Nanoseconds that are added to `FRESH_NS` if a ctime is in whole seconds. Some file systems store
#: seconds only, and so show a change as older than it is.
COARSE_NS = 2_000_000_000
#: The default number of days until a believed record is due, and its file is read again.
REREAD_DAYS = 14
DAY_S, _LAST_DAY = 86_400, 2**16 - 1

_VERSION = 4
_META = "CREATE TABLE meta (key_id TEXT NOT NULL) STRICT"
_FILES = """
CREATE TABLE files (
    file_system INTEGER NOT NULL,
    block INTEGER NOT NULL,
    seen_day INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    believed INTEGER NOT NULL,
    records BLOB NOT NULL,
    PRIMARY KEY (file_system, block)
) STRICT, WITHOUT ROWID
"""
_ROW = "SELECT seen_day, crc, records FROM files WHERE file_system = ? AND block = ?"
#: The codes of SQLite's errors that show that the content of the database file has changed on the
#: disk. Two kinds of damage cause an exception without a code: Python's sqlite3 module cannot
#: decode a value or a message (ValueError), or a length exceeds all memory (MemoryError).
_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_HINT = "it may be removed at any time; a scan then reads every file again"


class DamagedInventoryError(StateError):
    """The content of the inventory file has changed on the disk; the file must be made again."""


class Stats(msgspec.Struct, frozen=True):
    """The size of an inventory.

    - `files`: the number of recorded files.
    - `believed`: the number of recorded files that may have changed without a new time.
    - `blocks`: the number of rows.
    - `file_bytes`: the size of the database file.
    - `oldest_seen_day`: the earliest day in any row on which a scan last saw a file of the row.
    """

    files: int
    believed: int
    blocks: int
    file_bytes: int
    oldest_seen_day: int | None


class Inventory(Cache):
    """One connection to the inventory; each process opens a connection of its own."""

    def __init__(
        self,
        state_dir: Path,
        key_id: str,
        *,
        write: bool = False,
        reread_days: int = REREAD_DAYS,
    ) -> None:
        """Open the inventory for reading, or with `write` for writing.

        A writer makes a missing inventory, and empties an inventory that another key sealed.

        Raises:
            StateError: the inventory cannot be opened, is damaged, or was written by a newer
                hashclient. A reader also gets this error if another key sealed the inventory, or if
                an earlier version wrote the inventory.
        """
        self._path = Layout(state_dir).inventory
        self._reread_days = reread_days
        #: The initial value of the checksums of rows.
        self._seed = zlib.crc32(b"%d %b" % (_VERSION, key_id.encode()))
        with self._errors():
            self._db = open_database(self._path, "rwc" if write else "ro")
            try:
                problem = self._open(key_id, write=write)
            except BaseException:
                self._db.close()
                raise
        if problem is not None:
            self._db.close()
            raise StateError(
                f"the inventory {problem}: {printable(self._path)}",
                hint=_HINT,
            )

    def _open(self, key_id: str, *, write: bool) -> str | None:
        """Open the database; with `write`, make or empty it; return why it is unusable, or None."""
        version = self._version()
        if version > _VERSION:
            return "was written by a newer hashclient"
        if write:
            self._meanings = self._prepare(key_id)
        elif 0 < version < _VERSION:
            return "is of an earlier version"
        if self._db.execute("SELECT key_id FROM meta").fetchone() != (key_id,):
            return "was sealed with another key"
        if not write:
            self._meanings = Meanings(self._db)
        return None

    def _version(self) -> int:
        version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        return version

    def _prepare(self, key_id: str) -> Meanings:
        # A row of the inventory takes about 20 KB, and is read faster from fewer, larger pages of
        # SQLite. The page size has no effect on an existing database file.
        self._db.execute("PRAGMA page_size = 8192")
        # SQLite never waits for the disk, because workers would be idle during the wait. A row that
        # a power failure damages or removes is treated as missing, and its files are read again.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        # The memory for the cache of SQLite: enough for the pages that one flush reads and writes,
        # so that no page is read twice.
        self._db.execute("PRAGMA cache_size = -8192")
        self._db.execute("BEGIN IMMEDIATE")
        is_known = self._version() == _VERSION
        if not is_known or self._db.execute("SELECT key_id FROM meta").fetchone() != (key_id,):
            for table in ("meta", "files", "containers"):
                self._db.execute(f"DROP TABLE IF EXISTS {table}")
            self._db.execute(_META)
            self._db.execute("INSERT INTO meta VALUES (?)", (key_id,))
            self._db.execute(_FILES)
            self._db.execute(inside.TABLE)
        meanings = Meanings(self._db, records="files")
        self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._db.execute("COMMIT")
        return meanings

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def at(self, file_system: int, inodes: npt.NDArray[np.uint64]) -> tuple[Records, list[Block]]:
        """Return one record for each inode, and the blocks that were not seen today.

        If an inode has no record, a record of another inode is returned in its place, so the caller
        must compare the inodes. A block of neighbouring inodes counts as seen on a day when a scan
        finds a file of the block. A record that is due (too old to be used) is returned with mask
        0, which means without tags.

        Raises:
            StateError: the database is damaged or busy for long.
        """
        day = today()
        # np.unique is not used, because it loads numpy.ma, which takes 15 ms in each process.
        blocks = sorted(set((inodes >> np.uint64(_BLOCK_BITS)).tolist()))
        rows = [(block, self._row(file_system, block)) for block in blocks]
        # The records in a row ascend by inode, and so do the blocks: thus `stored` ascends by
        # inode.
        stored = np.frombuffer(b"".join(row[1] for _, row in rows if row), RECORD)
        found = of_inodes(stored, inodes)
        self._meanings.take(found)
        found["mask"][are_due(found, day, self._reread_days)] = 0
        return found, [(file_system, b) for b, row in rows if row is not None and row[0] < day]

    def records_at(
        self, file_system: int, inodes: npt.NDArray[np.uint64]
    ) -> tuple[Records, list[Block]]:
        """Return the records of `inodes` that are not due, and the blocks not seen today.

        The records ascend by inode, as `inodes` must do. The file of a record may have changed
        since the record was made.

        Raises:
            StateError: the database is damaged or busy for long.
        """
        found, old = self.at(file_system, inodes)
        is_known = (found["ino"] == inodes) & (found["mask"] != 0)
        return found.take(np.flatnonzero(is_known)), old

    def containers_at(self, file_system: int, inodes: Sequence[int]) -> list[tuple[bytes, bytes]]:
        """Return for each container among `inodes` its record and its members.

        A container may have changed since its record was made.

        Raises:
            StateError: the database is damaged or busy for long.
        """
        with self._errors():
            return inside.stored(self._db, self._seed, file_system, inodes)

    def _row(self, device: int, block: int) -> tuple[int, bytes] | None:
        """Return the last day and the records of a row; None if the row is missing or damaged."""
        with self._errors():
            row: tuple[Any, int, Any] | None = self._db.execute(_ROW, (device, block)).fetchone()
        if row is None or not isinstance(row[0], int) or not isinstance(row[2], bytes):
            return None
        if self._checksum(device, block, row[2]) != row[1]:
            return None
        return row[0], row[2]

    def inside_at(
        self, file_system: int, statuses: Sequence[os.stat_result]
    ) -> list[tuple[int, Inside, bool]]:
        """Return the members of containers that are unchanged; see `inside.unchanged`.

        Raises:
            StateError: the database is damaged or busy for long.
        """
        inodes = [status.st_ino for status in statuses]
        whole = self.containers_at(file_system, inodes)
        return list(inside.unchanged(whole, statuses, today(), self._reread_days))

    def store(
        self,
        batches: Sequence[tuple[int, bytes]],
        seen: Sequence[Block] = (),
        containers: Sequence[Container] = (),
    ) -> None:
        """Add records to the inventory, and note today as the day when blocks were last seen.

        `batches` contains for each device the records of its files, as bytes of `RECORD`. `seen`
        are the blocks in which the scan has found files. `containers` are the members that were
        found inside files. All changes become visible in one transaction. A later record of an
        inode replaces an earlier record. If the size and times of the file are unchanged, the later
        record also gets the tags of the earlier record (`records.merged_records`).

        Raises:
            StateError: the inventory cannot be written.
        """
        day = today()
        by_device: dict[int, list[bytes]] = {}
        for device, raw in batches:
            by_device.setdefault(device, []).append(raw)
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for device, raws in by_device.items():
                    self._add(device, np.frombuffer(b"".join(raws), RECORD), day)
                self._db.executemany(
                    "UPDATE files SET seen_day = ? WHERE file_system = ? AND block = ?",
                    [(day, device, block) for device, block in seen],
                )
                inside.store(self._db, self._seed, containers, day)
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _add(self, device: int, records: Records, day: int) -> None:
        """Merge records of files of one device into the rows, a few rows at a time."""
        records = records.take(np.argsort(records["ino"], kind="stable"))
        blocks = records["ino"] >> np.uint64(_BLOCK_BITS)
        starts = np.flatnonzero(np.concatenate(([True], blocks[1:] != blocks[:-1])))
        blocks, ends = blocks[starts], np.append(starts[1:], len(records))
        for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
            numbers = blocks[first : first + _BLOCKS_AT_ONCE].tolist()
            new = records[starts[first] : ends[first + len(numbers) - 1]]
            rows = [self._row(device, block) for block in numbers]
            old = np.frombuffer(bytearray().join([row[1] for row in rows if row]), RECORD)
            self._meanings.take(old)
            merged = merged_records(old, new, day, self._reread_days)
            self._meanings.give(merged)
            edges = np.flatnonzero(np.diff(merged["ino"] >> np.uint64(_BLOCK_BITS))) + 1
            for block, row, part in zip(numbers, rows, np.split(merged, edges), strict=True):
                data = part.tobytes()
                if row == (day, data):
                    continue
                believed = int(np.count_nonzero(part["read_day"]))
                self._db.execute(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                    (device, block, day, self._checksum(device, block, data), believed, data),
                )

    def prune(self, days: int) -> int:
        """Forget files that no scan has seen for `days`; return the number of forgotten files.

        Raises:
            StateError: the inventory cannot be written.
        """
        limit = today() - days
        with self._errors():
            before = self.stats().files
            for table in ("files", "containers"):
                self._db.execute(f"DELETE FROM {table} WHERE seen_day < ?", (limit,))  # noqa: S608 - constants
            self._db.execute("VACUUM")
            return before - self.stats().files

    def prune_in_turn(self, days: float, seconds: float) -> int:
        """Forget files that no scan has seen for `days`, at most once a week.

        A call takes at most `seconds`, or less if another process is writing; the next call forgets
        the remaining files. A database file of `COMPACTED_BYTES` or more is not made shorter, nor
        if no time is left: SQLite uses its free space again.

        Raises:
            StateError: the inventory cannot be written.
        """
        with self._errors():
            try:
                return prune_in_turn(self._db, days, today(), seconds)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                return 0

    def stats(self) -> Stats:
        """Return the size of the inventory.

        Raises:
            StateError: the inventory cannot be read.
        """
        with self._errors():
            length, believed, blocks, oldest = self._db.execute(
                "SELECT ifnull(sum(length(records)), 0), ifnull(sum(believed), 0), count(*),"
                " min(seen_day) FROM files"
            ).fetchone()
            size = self._path.stat().st_size
        return Stats(length // RECORD.itemsize, believed, blocks, size, oldest)

    def _checksum(self, device: int, block: int, records: bytes) -> int:
        """Return the checksum of a row's records and of its device and block numbers."""
        return zlib.crc32(records, zlib.crc32(b"%d %d" % (device, block), self._seed))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, MemoryError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            why, hint = explain(error)
            if not isinstance(error, OSError) and code in _DAMAGE:
                raise DamagedInventoryError(
                    f"the inventory is damaged: {printable(self._path)}: {why}",
                    hint="a scan reads every file then, and makes it again",
                ) from error
            raise StateError(
                f"cannot use the inventory: {printable(self._path)}: {why}",
                hint=hint or _HINT,
            ) from error


def today() -> int:
    """Return today as days since 1970, but at least 1, because 0 marks a proven record."""
    return min(max(1, int(time.time() // DAY_S)), _LAST_DAY)


def are_settled(records: Records, since_ns: int) -> npt.NDArray[np.bool_]:
    """Return for each file whether its status will show every change after `since_ns`.

    The status of a file that changed shortly before `since_ns` may not show a second change,
    because the second change may get the same time as the first change.
    """
    ctime, mtime = (np.ascontiguousarray(records[name]).view("<i8") for name in ("ctime", "mtime"))
    fresh = np.where(records["read_day"] == 0, FRESH_PROVEN_NS, FRESH_NS)
    fresh = np.where(ctime % 1_000_000_000 == 0, fresh + COARSE_NS, fresh)
    settled: npt.NDArray[np.bool_] = np.maximum(ctime, mtime) < since_ns - fresh
    return settled

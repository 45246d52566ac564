"""Memory of objects that were read: sealed tags by bucket, key, version, ETag and size.

A row has one hash of all of these. So a name that has another ETag or length now is not known, and
the file does not show what is in a bucket. Only tags of content that was read are kept, never
digests that a store gives. A version cannot change; without a version, the same ETag is believed
for so many days. Like the inventory, the file may be lost at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from hashclient.core.algorithms import Algorithm, mask_of
from hashclient.errors import StateError
from hashclient.scan.cache import DAY_S
from hashclient.scan.checked import SLOT
from hashclient.scan.inside import MEMBER, Inside
from hashclient.scan.meanings import Meanings
from hashclient.scan.records import PLAIN, TAGS, Records
from hashclient.system.files import is_there
from hashclient.system.layout import Layout
from hashclient.system.sqlite import explain, open_database
from hashclient.system.text import printable

VERSION = 1
#: The type that `records` returns.
RECORD = np.dtype([("mask", "u1"), ("tags", "<u8", (3, 2)), ("read_day", "<u4")])
#: Where the number of the meaning begins in a mask on the disk.
_MEANING = 8
#: Rows that wait before they are written.
WAITING = 2_000

_TABLES = (
    "CREATE TABLE meta (key_id TEXT NOT NULL) STRICT",
    """
    CREATE TABLE object (
        id TEXT PRIMARY KEY,
        read_day INTEGER NOT NULL,
        mask INTEGER NOT NULL,
        tags BLOB NOT NULL,
        inside BLOB NOT NULL,
        crc INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    f"PRAGMA user_version = {VERSION}",
)
_FIND = (
    "SELECT id, read_day, mask, tags, inside, crc FROM object"
    " WHERE id IN (SELECT value FROM json_each(?))"
)
_STORE = "INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?)"
#: Errors of SQLite for a file that has other content than was written.
_DAMAGE = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_HINT = "it may be removed at any time; a scan then reads every object again"


#: A row: its name, the day of the read, its mask, its tags and its members. On the disk, the mask
#: has above its first byte what it means that an object is no container, or has these members; and
#: a checksum follows.
_Row = tuple[str, int, int, bytes, bytes]


class Known(msgspec.Struct):
    """Known objects: a record of each, and the members of containers, by number."""

    records: Records
    insides: dict[int, Inside]


def row_id(namespace: str, key: str, version: str | None, etag: str | None, size: int) -> str:
    """Return the name of a row: 32 hexadecimal digits."""
    parts = (namespace, key, version or "", etag or "", str(size))
    text = "\0".join(f"{len(part)} {part}" for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


class ObjectCache:
    """Known objects in one state directory; used by the thread that hands out work."""

    def __init__(
        self,
        state_dir: Path,
        key_id: str,
        *,
        reread_days: int,
        keep_days: float,
        use: bool = True,
        on_failure: Callable[[StateError], None] = lambda _: None,
    ) -> None:
        """Nothing is opened yet. Tags are sealed under the key `key_id`.

        With `use` unset nothing is known, and records are written all the same. `on_failure` is
        called once with an error to read or write.
        """
        self._path = Layout(state_dir).objects
        self._key_id = key_id
        self._reread_days = reread_days
        self._keep_days = keep_days
        self._use = use
        self._on_failure = on_failure
        self._db: sqlite3.Connection | None = None
        self._is_broken = False
        self._waiting: dict[str, _Row] = {}
        self._day = int(time.time() // DAY_S)

    def find(self, ids: Sequence[str], *, are_versions: Sequence[bool]) -> Known | None:
        """Return a record for each of `ids`, with mask 0 if it is not known; None if none is known.

        `are_versions` says which of them are of one version. A record that is only believed has its
        day in `read_day`, and one of a version has 0.
        """
        if not self._use or self._is_broken or (self._db is None and not is_there(self._path)):
            return None
        known: dict[str, _Row] = {}
        with self._failures():
            known = self._rows(self._open(), ids)
        if not known:
            return None
        records = np.zeros(len(ids), RECORD)
        insides: dict[int, Inside] = {}
        for number, (name, is_version) in enumerate(zip(ids, are_versions, strict=True)):
            row = known.get(name)
            if row is None:
                continue
            age = self._day - row[1]
            if not is_version and not 0 <= age < self._reread_days:
                continue
            records[number]["mask"] = row[2]
            records[number]["tags"] = np.frombuffer(row[3], "<u8").reshape(3, 2)
            records[number]["read_day"] = 0 if is_version else row[1]
            if row[4]:
                insides[number] = np.frombuffer(row[4], MEMBER)
        return Known(records, insides)

    def learn(self, name: str, mask: int, tags: bytes, inside: bytes = b"") -> None:
        """Remember the tags of an object, and the members `inside` of a container."""
        if self._is_broken:
            return
        self._waiting[name] = (name, self._day, mask, tags, inside)
        if len(self._waiting) >= WAITING:
            self.flush()

    def flush(self) -> None:
        """Write the new records."""
        if not self._waiting or self._is_broken:
            return
        with self._failures():
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                before = self._rows(db, list(self._waiting))
                merged = [_merged(before.get(name), row) for name, row in self._waiting.items()]
                db.executemany(_STORE, map(self._stored, merged))
                oldest = self._day - int(self._keep_days)
                db.execute("DELETE FROM object WHERE read_day < ?", (oldest,))
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise
        self._waiting.clear()

    def close(self) -> None:
        """Write the new records, and close."""
        self.flush()
        if self._db is not None:
            self._db.close()
            self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            db = open_database(self._path, "rwc")
            try:
                self._prepare(db)
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StateError(
                    f"a newer hashclient has written {printable(self._path)}", hint=_HINT
                )
            if version == 0:
                for statement in _TABLES:
                    db.execute(statement)
            keys = db.execute("SELECT key_id FROM meta").fetchall()
            if keys != [(self._key_id,)]:  # another key sealed it: these tags say nothing
                db.execute("DELETE FROM object")
                db.execute("DELETE FROM meta")
                db.execute("INSERT INTO meta VALUES (?)", (self._key_id,))
            self._meanings = Meanings(db, records="object")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def _rows(self, db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, _Row]:
        """Return the rows with these names whose checksum is right, with what they say today."""
        rows = {}
        for *row, crc in db.execute(_FIND, (json.dumps(ids),)):
            name, day, mask, tags, inside = row
            if crc != _checksum(name, day, mask, tags, inside):
                continue
            number = mask >> _MEANING
            mask &= TAGS
            if inside and number != self._meanings.number:
                inside = b""  # it is opened again
            elif not inside and self._meanings.is_plain(number):
                mask |= PLAIN
            rows[name] = name, day, mask, tags, inside
        return rows

    def _stored(self, row: _Row) -> tuple[str, int, int, bytes, bytes, int]:
        """Return a row as it is written."""
        name, day, mask, tags, inside = row
        number = self._meanings.number if mask & PLAIN or inside else 0
        mask = mask & TAGS | number << _MEANING
        return name, day, mask, tags, inside, _checksum(name, day, mask, tags, inside)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Go on without a cache that cannot be used, and say so once."""
        try:
            yield
        except StateError as error:
            self._give_up(error)
        except (OSError, sqlite3.Error, ValueError) as error:
            # A value that cannot be decoded is an error without a code.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if isinstance(error, sqlite3.DatabaseError) and code in _DAMAGE:
                self._remove()
            why, hint = explain(error)
            text = f"cannot use {printable(self._path)}: {why}"
            self._give_up(StateError(text, hint=hint or _HINT))

    def _remove(self) -> None:
        """Remove a file that is damaged: the next scan makes another one."""
        if self._db is not None:
            self._db.close()
            self._db = None
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(OSError):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _give_up(self, error: StateError) -> None:
        self._is_broken = True
        self._waiting.clear()
        self._on_failure(error)


def _checksum(name: str, day: int, mask: int, tags: bytes, inside: bytes) -> int:
    head = b"%s %d %d " % (name.encode(), day, mask)
    return zlib.crc32(inside, zlib.crc32(tags, zlib.crc32(head)))


def _merged(old: _Row | None, new: _Row) -> _Row:
    """Return the record of an object after it was read again, perhaps with other algorithms.

    Its content is the same: its name says so. The older day counts for all tags.
    """
    if old is None or not (old[2] & ~new[2] or (old[4] and not new[4])):
        return new
    tags = np.frombuffer(new[3], "<u8").reshape(3, 2).copy()
    earlier = np.frombuffer(old[3], "<u8").reshape(3, 2)
    for algorithm in Algorithm.in_mask(old[2] & ~new[2] & mask_of(Algorithm)):
        tags[SLOT[algorithm]] = earlier[SLOT[algorithm]]
    day = min(old[1], new[1])
    return new[0], day, old[2] | new[2], tags.tobytes(), new[4] or old[4]

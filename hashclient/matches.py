"""What scans have matched, remembered: so that a withdrawal can reach back to the paths concerned.

An SQLite file in the state directory, written by scans and read by `fetch` and `status`. One record
is one path and one entry of one list; finding it again only renews it. No digest is in it. Several
processes may use it at once; a kill leaves it as it was before or after a batch.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hashclient.errors import StateError
from hashclient.fsio import open_database, printable
from hashclient.model import Outcome

DATABASE_NAME = "matches.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS match (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL,
    list TEXT NOT NULL,
    entry TEXT NOT NULL,
    category TEXT NOT NULL,
    size INTEGER,
    first_generation INTEGER NOT NULL,
    last_generation INTEGER NOT NULL,
    first_seen TEXT NOT NULL,
    last_seen TEXT NOT NULL,
    withdrawn_generation INTEGER,
    withdrawn_at TEXT,
    UNIQUE (list, entry, path)
) STRICT;
"""
_VERSION = 1

_RECORD = """
INSERT INTO match (path, list, entry, category, size, first_generation, last_generation,
                   first_seen, last_seen)
VALUES (:path, :list, :entry, :category, :size, :generation, :generation, :time, :time)
ON CONFLICT (list, entry, path) DO UPDATE SET
    category = excluded.category, size = excluded.size,
    last_generation = excluded.last_generation, last_seen = excluded.last_seen,
    withdrawn_generation = NULL, withdrawn_at = NULL
"""
_COLUMNS = "path, list, entry, first_seen, last_seen, withdrawn_generation, withdrawn_at"
_STANDING = "SELECT DISTINCT entry FROM match WHERE list = ? AND withdrawn_generation IS NULL"
_OF_ENTRIES = (
    f"SELECT {_COLUMNS} FROM match WHERE list = ? AND withdrawn_generation IS NULL"  # noqa: S608
    " AND entry IN (SELECT value FROM json_each(?)) ORDER BY path, entry"
)
_WITHDRAWN = (
    f"SELECT {_COLUMNS} FROM match WHERE withdrawn_generation IS NOT NULL"  # noqa: S608
    " ORDER BY path, list, entry"
)
_WITHDRAW = """
UPDATE match SET withdrawn_generation = ?, withdrawn_at = ?
WHERE list = ? AND withdrawn_generation IS NULL AND entry IN (SELECT value FROM json_each(?))
"""


@dataclass(frozen=True, slots=True)
class Remembered:
    """One path that matched one entry; times are in UTC. `withdrawn_*` are None while it stands."""

    path: str
    list_name: str
    entry: str
    first_seen: datetime
    last_seen: datetime
    withdrawn_generation: int | None
    withdrawn_at: datetime | None


class Matches:
    """The record of matches of one state directory; use it as a context manager."""

    def __init__(self, state_dir: Path, *, create: bool = True) -> None:
        """Open the record, made if it is not there; with `create` unset, it must be.

        Raises:
            StateError: it cannot be opened, or another version wrote it.
        """
        self._path = state_dir / DATABASE_NAME
        with self._errors():
            # Also a reader may have to take back what a killed writer had begun.
            self._db = open_database(self._path, "rwc" if create else "rw")
            try:
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
                if create and version == 0:
                    self._db.executescript(
                        f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={_VERSION};COMMIT;"
                    )
                    version = _VERSION
            except BaseException:
                self._db.close()
                raise
        if version != _VERSION:
            self._db.close()
            raise StateError(
                f"record of matches has version {version}: {printable(self._path)}",
                hint="a newer hashclient wrote it; move it away to begin a new one",
            )

    def __enter__(self) -> Matches:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def record(self, outcomes: Sequence[Outcome], now: datetime) -> None:
        """Remember the complete hits of matches, all or none of them.

        Raises:
            StateError: they cannot be written.
        """
        time = _to_text(now)
        rows = [
            {
                "path": os.fsencode(os.path.abspath(o.path)),  # noqa: PTH100 - links stay
                "list": h.list_name,
                "entry": h.entry,
                "category": h.category,
                "size": o.size,
                "generation": h.generation,
                "time": time,
            }
            for o in outcomes
            for h in o.hits
            if h.complete
        ]
        with self._transaction():
            self._db.executemany(_RECORD, rows)

    def standing(self, list_name: str) -> list[str]:
        """Return the entries of a list that something has matched and nobody has withdrawn.

        Raises:
            StateError: it cannot be read.
        """
        with self._errors():
            rows = self._db.execute(_STANDING, (list_name,)).fetchall()
        return [entry for (entry,) in rows]

    def of_entries(self, list_name: str, entries: Sequence[str]) -> list[Remembered]:
        """Return the standing matches of `entries`, by path.

        Raises:
            StateError: it cannot be read.
        """
        with self._errors():
            rows = self._db.execute(_OF_ENTRIES, (list_name, json.dumps(entries))).fetchall()
            return [_remembered(row) for row in rows]

    def withdraw(
        self, list_name: str, entries: Sequence[str], generation: int, now: datetime
    ) -> None:
        """Note that `generation` has withdrawn `entries`.

        Raises:
            StateError: it cannot be written.
        """
        with self._transaction():
            values = (generation, _to_text(now), list_name, json.dumps(entries))
            self._db.execute(_WITHDRAW, values)

    def withdrawn(self) -> list[Remembered]:
        """Return the matches whose entry was withdrawn since they were last seen, by path.

        Raises:
            StateError: it cannot be read.
        """
        with self._errors():
            rows = self._db.execute(_WITHDRAWN).fetchall()
            return [_remembered(row) for row in rows]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, TypeError, MemoryError) as error:
            raise StateError(
                f"cannot use the record of matches: {printable(self._path)}: {error}",
                hint="check that the state directory is writable and has room; if the file is"
                " damaged, move it away: earlier matches are forgotten then",
            ) from error


def _remembered(row: tuple[bytes, str, str, str, str, int | None, str | None]) -> Remembered:
    path, list_name, entry, first, last, generation, at = row
    return Remembered(
        os.fsdecode(path),
        list_name,
        entry,
        datetime.fromisoformat(first),
        datetime.fromisoformat(last),
        generation,
        None if at is None else datetime.fromisoformat(at),
    )


def _to_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")

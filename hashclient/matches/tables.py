"""The database file of the record of matches: its tables, transactions and rows.

`store` describes what the record of matches is used for; this module opens the file, and reads and
changes single rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Algorithm, MatchState
from hashclient.core.match import BESIDE_STATE, STREAM_PREFIXES, Match
from hashclient.core.model import Hit, Seen
from hashclient.system.files import refuse_irregular, require_state_dir
from hashclient.system.layout import Layout
from hashclient.system.sqlite import explain, open_database
from hashclient.system.text import printable
from hashclient.system.versions import newer, older

_SCHEMA = """
CREATE TABLE match (
    id TEXT PRIMARY KEY,
    path BLOB NOT NULL,
    size INTEGER,
    state TEXT NOT NULL,
    in_place INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    md5 BLOB,
    sha1 BLOB,
    sha256 BLOB,
    first_seen TEXT NOT NULL,
    last_seen TEXT NOT NULL,
    standing INTEGER REFERENCES standing (number),
    directory_inode INTEGER,
    inode INTEGER
) STRICT;
CREATE TABLE standing (
    number INTEGER PRIMARY KEY,
    words TEXT NOT NULL UNIQUE
) STRICT;
CREATE INDEX match_by_path ON match (path);
CREATE TABLE hit (
    match TEXT NOT NULL REFERENCES match (id),
    list TEXT NOT NULL,
    entry TEXT NOT NULL,
    category TEXT NOT NULL,
    algorithms INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    withdrawn_generation INTEGER,
    withdrawn_at TEXT,
    PRIMARY KEY (list, entry, match)
) STRICT, WITHOUT ROWID;
CREATE INDEX hit_by_match ON hit (match);
CREATE TABLE step (
    id INTEGER PRIMARY KEY,
    match TEXT NOT NULL REFERENCES match (id),
    time TEXT NOT NULL,
    event TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX step_by_match ON step (match);
CREATE INDEX step_by_event ON step (event, match);
CREATE TABLE stream (
    match TEXT PRIMARY KEY REFERENCES match (id),
    times_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE permit (
    match TEXT NOT NULL REFERENCES match (id),
    list TEXT NOT NULL,
    entry TEXT NOT NULL,
    time TEXT,
    PRIMARY KEY (match, list, entry)
) STRICT, WITHOUT ROWID;
CREATE INDEX permit_by_entry ON permit (list, entry, time);
"""
_VERSION = 6
COUNT_STREAM = """
INSERT INTO stream VALUES (?, 1) ON CONFLICT (match) DO UPDATE SET times_seen = times_seen + 1
"""

#: The query of `_matches`; callers append conditions and an order.
MATCH = (
    "SELECT id, path, size, state, in_place, key_id, md5, sha1, sha256, first_seen, last_seen,"
    " directory_inode, inode FROM match"
)
_HITS = (
    "SELECT list, entry, category, algorithms, generation, withdrawn_generation, withdrawn_at"
    " FROM hit WHERE match = ? ORDER BY list, entry"
)
HAS_HIT = "SELECT 1 FROM hit WHERE list = ? AND entry = ? AND match = ?"
_RECOVER = ", and record what is in quarantine by `hashclient quarantine recover`"
#: The number of values in one query; older builds of SQLite accept 999.
_AT_ONCE = 500
_IN_PLACE_AT = " WHERE path IN (%s) AND in_place = 1 ORDER BY last_seen DESC, id"
ADD_STEP = "INSERT INTO step (match, time, event, detail) VALUES (?, ?, ?, ?)"
#: For a match that is held when it is first found, no step `held` is written, because the state of
#: the match shows that it is held. The next step may change this state, so a step `held` is written
#: before the next step.
_ADD_HELD = f"""
INSERT INTO step (match, time, event, detail)
SELECT m.id, m.first_seen, m.state, '{{}}' FROM match m
WHERE m.id = ? AND m.state = '{MatchState.HELD}'
AND NOT EXISTS (SELECT 1 FROM step s WHERE s.match = m.id AND s.event = m.state)
"""  # noqa: S608 - only constants are inserted
_EVENTS = frozenset((*MatchState, *BESIDE_STATE))
_TIMES_SEEN = "SELECT times_seen FROM stream WHERE match = ?"
_TWO_63, _TWO_64 = 1 << 63, 1 << 64
_STREAM_PREFIXES = tuple(prefix.encode() for prefix in STREAM_PREFIXES)
_NUMBER_OF = "SELECT number FROM standing WHERE words = ?"
_ADD_STANDING = "INSERT INTO standing (words) VALUES (?) RETURNING number"
#: SQLite's memory for the changed pages of a transaction, in KiB. If the memory is too small,
#: SQLite writes pages before the end of the transaction, and waits for the disk.
_CACHE_KB = 8192
#: With `EXTRA`, committed data survives a power failure, because SQLite also syncs the directory.
SYNCHRONOUS = "EXTRA"


class MatchStore:
    """The tables in one state directory; used as a context manager."""

    def __init__(self, state_dir: Path, *, create: bool = True) -> None:
        """Open the database.

        A missing database is created; without `create`, a missing database counts as empty if the
        state directory exists.

        Commands that only read should not create the file, because a scan by another user could not
        write to this file.

        Raises:
            StateError: the database cannot be opened, or another version of `hashclient` wrote it.
        """
        self._path = Layout(state_dir).matches
        with self._errors():
            self._db = self._open(create=create)
            try:
                self._db.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
                self._db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    version = self._make()
            except BaseException:
                self._db.close()
                raise
        if version != _VERSION:
            self._db.close()
            if version > _VERSION:
                raise newer(self._path)
            raise older(self._path, f"version {version}", _RECOVER)

    def _open(self, *, create: bool) -> sqlite3.Connection:
        refuse_irregular(self._path)
        if not create and (not self._path.exists() or self._path.stat().st_size == 0):
            require_state_dir(self._path.parent)
            return sqlite3.connect(":memory:", isolation_level=None)
        # The database is opened for writing even to read, because the unfinished transaction of a
        # killed writer may have to be rolled back. Several threads may use the connection: one
        # thread may wait for the disk while another thread continues.
        return open_database(self._path, "rwc" if create else "rw", one_thread=False)

    def _make(self) -> int:
        """Create the tables, unless another process has created them in the meantime.

        Return the version of the tables.
        """
        self._db.execute("BEGIN IMMEDIATE")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _SCHEMA.split(";")[:-1]:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
            version = _VERSION
        self._db.execute("COMMIT")
        return int(version)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, match_id: str) -> Match:
        for match in self._matches(MATCH + " WHERE id = ?", (match_id,)):
            return match
        raise unknown_match(match_id)

    def _matches(self, query: str, values: tuple[Any, ...]) -> Iterator[Match]:
        for row in self._db.execute(query, values):
            hits = self._db.execute(_HITS, (row[0],)).fetchall()
            yield self._match(row, tuple(map(_hit, hits)))

    def _match(self, row: Sequence[Any], hits: tuple[Hit, ...]) -> Match:
        (
            match_id,
            path,
            size,
            state,
            in_place,
            key_id,
            *tags,
            first,
            last,
            directory_inode,
            inode,
        ) = row
        return Match(
            match_id,
            os.fsdecode(path),
            size,
            MatchState(state),
            bool(in_place),
            key_id,
            {a: tag for a, tag in zip(Algorithm, tags, strict=True) if tag is not None},
            datetime.fromisoformat(first),
            datetime.fromisoformat(last),
            hits,
            self._times_seen(match_id) if path.startswith(_STREAM_PREFIXES) else None,
            None if inode is None else Seen(None, _inode(directory_inode), None, inode % _TWO_64),
        )

    def _at(self, paths: Sequence[bytes]) -> dict[str, list[Match]]:
        """Return, by path, the matches that should be at `paths`.

        Matches that were seen last come first.

        The matches are returned without their hits, because a container may have a hundred thousand
        hits. `_has_hit` looks single hits up.
        """
        # The matches of one path are in order, because a single query returns all matches of a
        # path.
        found: dict[str, list[Match]] = {}
        for row in self._many(MATCH + _IN_PLACE_AT, paths):
            match = self._match(row, ())
            found.setdefault(match.path, []).append(match)
        return found

    def _has_hit(self, match_id: str, hits: Sequence[Hit]) -> bool:
        """Return whether a match has the entry of one of `hits`, even a withdrawn entry."""
        return any(
            self._db.execute(HAS_HIT, (hit.list_name, hit.entry, match_id)).fetchone() is not None
            for hit in hits
        )

    def _many(self, query: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Return the rows of a query that contains `IN (%s)`, for any number of values."""
        rows: list[Sequence[Any]] = []
        for start in range(0, len(values), _AT_ONCE):
            part = values[start : start + _AT_ONCE]
            rows += self._db.execute(query % ",".join("?" * len(part)), part).fetchall()
        return rows

    def _times_seen(self, match_id: str) -> int:
        """Return how often the content of a stream was found.

        Return 1 for a match that was taken over from a report.
        """
        row = self._db.execute(_TIMES_SEEN, (match_id,)).fetchone()
        return 1 if row is None else int(row[0])

    def _numbers_of(self, standings: Iterable[str | None]) -> dict[str | None, int | None]:
        """Return the number that the database uses for each place identity in `standings`.

        New identities are added to the table.
        """
        numbers: dict[str | None, int | None] = {None: None}
        for words in standings:
            if words not in numbers:
                row = self._db.execute(_NUMBER_OF, (words,)).fetchone()
                if row is None:
                    (row,) = self._db.execute(_ADD_STANDING, (words,)).fetchall()
                numbers[words] = row[0]
        return numbers

    def _set_state(self, match_id: str, state: MatchState) -> None:
        self._db.execute("UPDATE match SET state = ? WHERE id = ?", (state, match_id))

    def _step(self, match_id: str, event: str, now: datetime, detail: Mapping[str, Any]) -> None:
        self._steps([(match_id, detail)], event, now)

    def _steps(
        self, details: Sequence[tuple[str, Mapping[str, Any]]], event: str, now: datetime
    ) -> None:
        assert event in _EVENTS, event
        self._db.executemany(_ADD_HELD, [(match_id,) for match_id, _ in details])
        time = to_text(now)
        rows = [(match_id, time, event, json.dumps(dict(detail))) for match_id, detail in details]
        self._db.executemany(ADD_STEP, rows)

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Make all changes in the `with` block one transaction: all are written, or none.

        Raises:
            StateError: the database cannot be written.
        """
        with self._transaction():
            yield

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._db.in_transaction:  # the transaction of `batch`
            yield
            return
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
        except (sqlite3.Error, OSError, ValueError, TypeError, LookupError, MemoryError) as error:
            why, hint = explain(error)
            raise StateError(
                f"cannot use the record of matches: {printable(self._path)}: {why}",
                hint=hint
                or "check that the state directory is writable and has room; if the file is "
                "damaged, move it away: then earlier matches are lost",
            ) from error


def unknown_match(match_id: str) -> UsageError:
    """Return the error for an id that no match has."""
    return UsageError(
        f"no match has the id {printable(match_id)}", hint="`hashclient matches` lists them"
    )


def _hit(row: Sequence[Any]) -> Hit:
    list_name, entry, category, mask, generation, withdrawn, at = row
    return Hit(
        list_name,
        entry,
        category,
        generation,
        Algorithm.in_mask(mask),
        complete=True,
        withdrawn_generation=withdrawn,
        withdrawn_at=None if at is None else datetime.fromisoformat(at),
    )


def inodes_of(seen: Seen | None) -> tuple[int | None, int | None]:
    """Return the inodes of directory and file as SQLite integers, which end at 2^63 - 1."""
    if seen is None:
        return None, None
    directory, inode = seen.directory_inode, seen.inode
    if directory is not None and directory >= _TWO_63:
        directory -= _TWO_64
    return directory, inode if inode < _TWO_63 else inode - _TWO_64


def _inode(column: int | None) -> int | None:
    return None if column is None else column % _TWO_64


def to_text(time: datetime) -> str:
    """Return a time in the form that the database uses: in UTC, to the second."""
    return time.astimezone(UTC).isoformat(timespec="seconds")

"""What scans have matched, remembered: each match with its story, from found to dealt with.

An SQLite file in the state directory. One record is one file: a path, what lay there (by its sealed
tags, never a digest) and the entries that it matched. Finding it again renews the record; when the
file has been taken away, what is found there later is another one. Scans write records, `fetch`
notes withdrawals in them, quarantine and reports what they did. Several processes may use it at
once; a kill leaves it as it was before or after a batch.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hashclient.errors import StateError, UsageError
from hashclient.fsio import open_database, printable
from hashclient.model import Algorithm, Hit, Kind, MatchState, Outcome, Recorded, mask_of

DATABASE_NAME = "matches.db"

#: Letters and digits that no two look alike and that spell no word; 27^10 ids are enough for ever.
_ID_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
ID_LENGTH = 10

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
    last_seen TEXT NOT NULL
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
"""
_VERSION = 2

_MATCH = (
    "SELECT id, path, size, state, in_place, key_id, md5, sha1, sha256, first_seen, last_seen"
    " FROM match"
)
_HITS = (
    "SELECT list, entry, category, algorithms, generation, withdrawn_generation, withdrawn_at"
    " FROM hit WHERE match = ? ORDER BY list, entry"
)
_ADD_HIT = """
INSERT INTO hit (match, list, entry, category, algorithms, generation) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (list, entry, match) DO UPDATE SET
    category = excluded.category, algorithms = excluded.algorithms,
    generation = excluded.generation, withdrawn_generation = NULL, withdrawn_at = NULL
"""
_AFFECTED = (
    "SELECT m.id, m.path, m.state, m.in_place, h.list, h.entry, m.first_seen, m.last_seen,"
    " h.withdrawn_generation, h.withdrawn_at FROM hit h JOIN match m ON m.id = h.match WHERE "
)
_OF_ENTRIES = (
    "h.list = ? AND h.withdrawn_generation IS NULL"
    " AND h.entry IN (SELECT value FROM json_each(?)) ORDER BY m.path, h.entry"
)
_WITHDRAWN = (
    f"h.withdrawn_generation IS NOT NULL AND m.state = '{MatchState.WITHDRAWN}'"
    " ORDER BY m.path, h.list, h.entry"
)
_WITHDRAW_HITS = """
UPDATE hit SET withdrawn_generation = ?, withdrawn_at = ?
WHERE list = ? AND withdrawn_generation IS NULL AND entry IN (SELECT value FROM json_each(?))
RETURNING match
"""
_STANDS = "SELECT 1 FROM hit WHERE match = ? AND withdrawn_generation IS NULL LIMIT 1"

#: Events of a story that say that a report is to be made of a match, and that one was.
REPORT_WANTED = "report-wanted"
REPORT_PREPARED = "report-prepared"
#: That what a match was withdrawn for is on a list again.
LISTED_AGAIN = "listed-again"
_HAS_STEP = "SELECT 1 FROM step WHERE match = ? AND event = ? LIMIT 1"
_REPORT_WANTED = """
SELECT s.match, s.detail FROM step s JOIN match m ON m.id = s.match
WHERE s.event = ? AND m.state IN (SELECT value FROM json_each(?)) AND NOT EXISTS (
    SELECT 1 FROM step o WHERE o.match = s.match AND o.event = ?
) ORDER BY s.id
"""

#: The way a match takes while its entry stands, in this order; nothing leads back.
_PROGRESS = (
    MatchState.FOUND,
    MatchState.QUARANTINED,
    MatchState.REPORTED,
    MatchState.ACKNOWLEDGED,
)
#: In these a match needs nobody's attention any more, unless it is found again.
SETTLED = frozenset({MatchState.RESTORED, MatchState.PURGED, MatchState.CLOSED})


@dataclass(frozen=True, slots=True)
class MatchHit:
    """One entry that a file matched; `withdrawn_*` are None while the provider stands by it."""

    hit: Hit
    withdrawn_generation: int | None = None
    withdrawn_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """One file that matched. Times are in UTC.

    `in_place` tells whether it is where it was found, as far as this program has done anything
    about it. `tags` are 16 bytes each, sealed under the key `key_id`.
    """

    id: str
    path: str
    size: int | None
    state: MatchState
    in_place: bool
    key_id: str
    tags: Mapping[Algorithm, bytes]
    first_seen: datetime
    last_seen: datetime
    hits: tuple[MatchHit, ...]

    @property
    def standing(self) -> tuple[Hit, ...]:
        """The entries that have not been withdrawn since."""
        return tuple(h.hit for h in self.hits if h.withdrawn_generation is None)

    @property
    def recorded(self) -> Recorded:
        """What formats say of the record."""
        return Recorded(self.id, self.state, self.first_seen, self.last_seen)

    def outcome(self) -> Outcome:
        """Return the match as a scan's outcome, with every entry that it ever matched."""
        hits = tuple(h.hit for h in self.hits)
        return Outcome(Kind.MATCH, self.path, self.size, hits=hits, recorded=self.recorded)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a match's story: a state it came to, or something else that was done.

    `detail` holds JSON values that say more: who, why, under which report; never a digest.
    """

    time: datetime
    event: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remembered:
    """One path that matched one entry; times are in UTC. `withdrawn_*` are None while it stands.

    `in_place` tells whether the file is where it was found, or was taken away.
    """

    id: str
    path: str
    state: MatchState
    in_place: bool
    list_name: str
    entry: str
    first_seen: datetime
    last_seen: datetime
    withdrawn_generation: int | None
    withdrawn_at: datetime | None


def new_id() -> str:
    """Return a random id, of a match or of what else people have to type."""
    number, letters = secrets.randbelow(len(_ID_ALPHABET) ** ID_LENGTH), []
    for _ in range(ID_LENGTH):
        number, letter = divmod(number, len(_ID_ALPHABET))
        letters.append(_ID_ALPHABET[letter])
    return "".join(letters)


class Matches:
    """The record of matches of one state directory; use it as a context manager."""

    def __init__(self, state_dir: Path, *, create: bool = True) -> None:
        """Open the record. Where there is none it is made, or with `create` unset, empty.

        Who only reads should not make it: a scan that another user runs could not write to it.

        Raises:
            StateError: it cannot be opened, or another version wrote it.
        """
        self._path = state_dir / DATABASE_NAME
        with self._errors():
            self._db = self._open(create=create)
            try:
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    version = self._make()
            except BaseException:
                self._db.close()
                raise
        if version != _VERSION:
            self._db.close()
            raise StateError(
                f"record of matches has version {version}: {printable(self._path)}",
                hint="another version of hashclient wrote it; move it away to begin a new one",
            )

    def _open(self, *, create: bool) -> sqlite3.Connection:
        if not create and (not self._path.exists() or self._path.stat().st_size == 0):
            return sqlite3.connect(":memory:", isolation_level=None)
        # Also a reader may have to take back what a killed writer had begun.
        return open_database(self._path, "rwc" if create else "rw")

    def _make(self) -> int:
        """Make the tables, unless another process has done so by now; return the version."""
        self._db.execute("BEGIN IMMEDIATE")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _SCHEMA.split(";")[:-1]:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
            version = _VERSION
        self._db.execute("COMMIT")
        return int(version)

    def __enter__(self) -> Matches:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def record(self, outcomes: Sequence[Outcome], key_id: str, now: datetime) -> list[Match]:
        """Remember matches, all or none of them, and return their records in the same order.

        The tags of `outcomes` are sealed under the key `key_id`.

        Raises:
            StateError: they cannot be written.
        """
        with self._transaction():
            return [self._record(outcome, key_id, now) for outcome in outcomes]

    def _record(self, outcome: Outcome, key_id: str, now: datetime) -> Match:
        path = os.path.abspath(outcome.path)  # noqa: PTH100 - links stay
        hits = [hit for hit in outcome.hits if hit.complete]
        known = self._known(path, hits, key_id, outcome.tags)
        tags = [outcome.tags.get(a) for a in Algorithm]
        time = _to_text(now)
        if known is None:
            match_id = new_id()
            self._db.execute(
                "INSERT INTO match VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?)",
                (
                    *(match_id, os.fsencode(path), outcome.size, MatchState.FOUND, key_id),
                    *(*tags, time, time),
                ),
            )
        else:
            match_id = known.id
            if key_id == known.key_id:  # what an earlier run has computed stays known
                tags = [outcome.tags.get(a, known.tags.get(a)) for a in Algorithm]
            self._db.execute(
                "UPDATE match SET size = ?, key_id = ?, md5 = ?, sha1 = ?, sha256 = ?,"
                " last_seen = ? WHERE id = ?",
                (outcome.size, key_id, *tags, time, match_id),
            )
        self._add_hits(match_id, hits)
        if known is None:
            self._step(match_id, MatchState.FOUND, now, {})
        elif known.state not in _PROGRESS:
            self._step(match_id, MatchState.FOUND, now, {"again": True})
            self._set_state(match_id, MatchState.FOUND)
        return self._get(match_id)

    def _add_hits(self, match_id: str, hits: Sequence[Hit]) -> None:
        for hit in hits:
            values = (mask_of(hit.algorithms), hit.generation)
            self._db.execute(_ADD_HIT, (match_id, hit.list_name, hit.entry, hit.category, *values))

    def _known(
        self, path: str, hits: Sequence[Hit], key_id: str, tags: Mapping[Algorithm, bytes]
    ) -> Match | None:
        """Return the record of the file, if it is one of those that should be at `path`."""
        entries = {(hit.list_name, hit.entry) for hit in hits}
        where = " WHERE path = ? AND in_place = 1 ORDER BY last_seen DESC, id"
        for match in self._matches(_MATCH + where, (os.fsencode(path),)):
            if not entries.isdisjoint((h.hit.list_name, h.hit.entry) for h in match.hits):
                return match
            common = match.tags.keys() & tags.keys() if match.key_id == key_id else set()
            if common and all(match.tags[a] == tags[a] for a in common):
                return match
        return None

    def get(self, match_id: str) -> Match:
        """Return the match with this id.

        Raises:
            UsageError: there is none.
            StateError: it cannot be read.
        """
        with self._errors():
            return self._get(match_id)

    def find(self, states: Collection[MatchState] = ()) -> Iterator[Match]:
        """Yield the matches in any of `states`, or all, in the order they were first found.

        Raises:
            StateError: they cannot be read.
        """
        where = " WHERE ? OR state IN (SELECT value FROM json_each(?)) ORDER BY rowid"
        with self._errors():
            yield from self._matches(_MATCH + where, (not states, json.dumps(sorted(states))))

    def story(self, match_id: str) -> list[Step]:
        """Return what happened to a match, in order.

        Raises:
            UsageError: there is none with this id.
            StateError: it cannot be read.
        """
        with self._errors():
            self._get(match_id)
            query = "SELECT time, event, detail FROM step WHERE match = ? ORDER BY id"
            return [
                Step(datetime.fromisoformat(time), event, json.loads(detail))
                for time, event, detail in self._db.execute(query, (match_id,))
            ]

    def change(
        self,
        match_id: str,
        state: MatchState,
        now: datetime,
        detail: Mapping[str, Any],
        *,
        in_place: bool | None = None,
    ) -> Match:
        """Add a step to the story and return the match in the state that it leads to.

        Steps of the usual way lead forward only: a match that was reported stays so when it is
        quarantined afterwards. `in_place` says whether the file is where it was found, if that
        has changed.

        Raises:
            UsageError: there is no match with this id.
            StateError: it cannot be written.
        """
        with self._transaction():
            match = self._get(match_id)
            self._step(match_id, state, now, detail)
            if state not in _PROGRESS:
                self._set_state(match_id, state)
            elif match.state in _PROGRESS:
                self._set_state(match_id, max(state, match.state, key=_PROGRESS.index))
            if in_place is not None:
                update = "UPDATE match SET in_place = ? WHERE id = ?"
                self._db.execute(update, (in_place, match_id))
            return self._get(match_id)

    def note(self, match_id: str, event: str, now: datetime, detail: Mapping[str, Any]) -> None:
        """Add a step that leaves the state as it is, such as a hold.

        Raises:
            UsageError: there is no match with this id.
            StateError: it cannot be written.
        """
        with self._transaction():
            self._get(match_id)
            self._step(match_id, event, now, detail)

    def want_report(self, match_id: str, destination: str, now: datetime) -> bool:
        """Note that a report is to be made of a match; return False if one was made already.

        Raises:
            UsageError: there is no match with this id.
            StateError: it cannot be written.
        """
        with self._transaction():
            self._get(match_id)
            if self._has_step(match_id, REPORT_PREPARED):
                return False
            if not self._has_step(match_id, REPORT_WANTED):
                self._step(match_id, REPORT_WANTED, now, {"to": destination})
            return True

    def _has_step(self, match_id: str, event: str) -> bool:
        return self._db.execute(_HAS_STEP, (match_id, event)).fetchone() is not None

    def wanting_report(self) -> dict[str, list[Match]]:
        """Return the matches that a report is to be made of and was not yet, by destination.

        Raises:
            StateError: it cannot be read.
        """
        with self._errors():
            values = (REPORT_WANTED, json.dumps(_PROGRESS), REPORT_PREPARED)
            found: dict[str, list[Match]] = {}
            for match_id, detail in self._db.execute(_REPORT_WANTED, values).fetchall():
                found.setdefault(json.loads(detail)["to"], []).append(self._get(match_id))
            return found

    def standing(self, list_name: str) -> list[str]:
        """Return the entries of a list that something has matched and nobody has withdrawn.

        Raises:
            StateError: it cannot be read.
        """
        query = "SELECT DISTINCT entry FROM hit WHERE list = ? AND withdrawn_generation IS NULL"
        with self._errors():
            return [entry for (entry,) in self._db.execute(query, (list_name,))]

    def of_entries(self, list_name: str, entries: Sequence[str]) -> list[Remembered]:
        """Return the standing matches of `entries`, by path.

        Raises:
            StateError: it cannot be read.
        """
        with self._errors():
            rows = self._db.execute(_AFFECTED + _OF_ENTRIES, (list_name, json.dumps(entries)))
            return [_remembered(row) for row in rows]

    def withdraw(
        self, list_name: str, entries: Sequence[str], generation: int, now: datetime
    ) -> None:
        """Note that `generation` has withdrawn `entries`.

        A match of which no entry is left is withdrawn, unless it is settled.

        Raises:
            StateError: it cannot be written.
        """
        ids = json.dumps(entries)
        with self._transaction():
            values = (generation, _to_text(now), list_name, ids)
            hit = {match_id for (match_id,) in self._db.execute(_WITHDRAW_HITS, values)}
            for match_id in sorted(hit):
                if self._db.execute(_STANDS, (match_id,)).fetchone() is not None:
                    continue
                detail = {"list": list_name, "generation": generation}
                self._step(match_id, MatchState.WITHDRAWN, now, detail)
                if self._get(match_id).state not in SETTLED:
                    self._set_state(match_id, MatchState.WITHDRAWN)

    def list_again(self, match_id: str, hits: Sequence[Hit], now: datetime) -> Match:
        """Note that a withdrawn match has `hits` after all; its story goes on where it was.

        Raises:
            UsageError: there is no match with this id.
            StateError: it cannot be written.
        """
        with self._transaction():
            match = self._get(match_id)
            if match.state is not MatchState.WITHDRAWN:  # restored meanwhile
                return match
            self._add_hits(match_id, hits)
            entries = [{"list": hit.list_name, "entry": hit.entry} for hit in hits]
            self._step(match_id, LISTED_AGAIN, now, {"entries": entries})
            self._set_state(match_id, self._progress(match_id))
            return self._get(match_id)

    def _progress(self, match_id: str) -> MatchState:
        """Return how far a match had come since it was last found."""
        state = MatchState.FOUND
        query = "SELECT event FROM step WHERE match = ? ORDER BY id"
        for (event,) in self._db.execute(query, (match_id,)):
            if event == MatchState.FOUND:
                state = MatchState.FOUND
            elif event in _PROGRESS:
                state = max(state, MatchState(event), key=_PROGRESS.index)
        return state

    def withdrawn(self) -> list[Remembered]:
        """Return the matches that are withdrawn and not settled, one for each entry, by path.

        Raises:
            StateError: it cannot be read.
        """
        with self._errors():
            return [_remembered(row) for row in self._db.execute(_AFFECTED + _WITHDRAWN)]

    def counts(self) -> dict[MatchState, int]:
        """Return how many matches there are in each state.

        Raises:
            StateError: it cannot be read.
        """
        with self._errors():
            rows = self._db.execute("SELECT state, count(*) FROM match GROUP BY state").fetchall()
            found = {MatchState(state): count for state, count in rows}
        return {state: found.get(state, 0) for state in MatchState}

    def _get(self, match_id: str) -> Match:
        for match in self._matches(_MATCH + " WHERE id = ?", (match_id,)):
            return match
        raise UsageError(
            f"no match has the id {printable(match_id)}", hint="`hashclient matches` lists them"
        )

    def _matches(self, query: str, values: tuple[Any, ...]) -> Iterator[Match]:
        for row in self._db.execute(query, values):
            match_id, path, size, state, in_place, key_id, *tags, first, last = row
            yield Match(
                match_id,
                os.fsdecode(path),
                size,
                MatchState(state),
                bool(in_place),
                key_id,
                {a: tag for a, tag in zip(Algorithm, tags, strict=True) if tag is not None},
                datetime.fromisoformat(first),
                datetime.fromisoformat(last),
                tuple(_hit(row) for row in self._db.execute(_HITS, (match_id,))),
            )

    def _set_state(self, match_id: str, state: MatchState) -> None:
        self._db.execute("UPDATE match SET state = ? WHERE id = ?", (state, match_id))

    def _step(self, match_id: str, event: str, now: datetime, detail: Mapping[str, Any]) -> None:
        self._db.execute(
            "INSERT INTO step (match, time, event, detail) VALUES (?, ?, ?, ?)",
            (match_id, _to_text(now), event, json.dumps(dict(detail))),
        )

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


def _hit(row: tuple[str, str, str, int, int, int | None, str | None]) -> MatchHit:
    list_name, entry, category, mask, generation, withdrawn, at = row
    algorithms = Algorithm.in_mask(mask)
    hit = Hit(list_name, entry, category, generation, algorithms, complete=True)
    return MatchHit(hit, withdrawn, None if at is None else datetime.fromisoformat(at))


def _remembered(
    row: tuple[str, bytes, str, int, str, str, str, str, int | None, str | None],
) -> Remembered:
    match_id, path, state, in_place, list_name, entry, first, last, generation, at = row
    return Remembered(
        match_id,
        os.fsdecode(path),
        MatchState(state),
        bool(in_place),
        list_name,
        entry,
        datetime.fromisoformat(first),
        datetime.fromisoformat(last),
        generation,
        None if at is None else datetime.fromisoformat(at),
    )


def _to_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")

"""What a scan writes to the record of matches: those it has found, many at once.

A batch is looked up, compared and written by a few statements for all of it, since a scan can find
a hundred thousand. What is known already is renewed. What comes twice in one batch, as a file does
that is met by two ways, is known when it comes again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from hashclient.core.algorithms import Algorithm, mask_of
from hashclient.core.kinds import MatchState
from hashclient.core.match import IN_MEMBER, PROGRESS, STREAM_PREFIX, Match, Place, new_ids
from hashclient.core.model import Hit, Outcome, hit_fields
from hashclient.matches.selection import Selection
from hashclient.matches.tables import ADD_STEP, SEEN_AGAIN, STREAMS, to_text
from hashclient.system.text import path_fields, printable

#: Members of one file whose names its story has, and how much of a name.
MAX_MEMBERS_NOTED = 100
MAX_NAME_CHARS = 1_000

ADD_MATCH = "INSERT INTO match VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ALGORITHMS = tuple(Algorithm)
_RENEW = (
    "UPDATE match SET path = ?, size = ?, state = ?, key_id = ?, md5 = ?, sha1 = ?, sha256 = ?,"
    " last_seen = ?, standing = ? WHERE id = ?"
)
_ADD_HIT = """
INSERT INTO hit (match, list, entry, category, algorithms, generation) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (list, entry, match) DO UPDATE SET
    category = excluded.category, algorithms = excluded.algorithms,
    generation = excluded.generation, withdrawn_generation = NULL, withdrawn_at = NULL
"""


class _Found(msgspec.Struct, frozen=True, gc=False):
    """One outcome to be recorded: where it is, which entries it hit, and how it is written."""

    outcome: Outcome
    place: Place
    hits: tuple[Hit, ...]

    @property
    def paths(self) -> set[str]:
        """Those under which it may be on record: an earlier version kept the one with links."""
        return {self.place.path, self.place.reached or self.place.path}


class _Changes(msgspec.Struct, frozen=True):
    """The rows that a batch writes, by statement."""

    added: list[tuple[Any, ...]] = msgspec.field(default_factory=list)
    renewed: list[tuple[Any, ...]] = msgspec.field(default_factory=list)
    hits: list[tuple[Any, ...]] = msgspec.field(default_factory=list)
    steps: list[tuple[Any, ...]] = msgspec.field(default_factory=list)
    streams: list[tuple[str]] = msgspec.field(default_factory=list)


class Recording(Selection):
    """The record of matches as a scan writes it."""

    def record(
        self,
        outcomes: Sequence[Outcome],
        key_id: str,
        now: datetime,
        places: Sequence[Place] | None = None,
    ) -> list[Match]:
        """Remember matches, all or none of them, and return their records in the same order.

        The tags of `outcomes` are sealed under the key `key_id`. `places` says where each is, and
        is by default taken from its path.

        Raises:
            StateError: they cannot be written.
        """
        if places is None:
            places = [place_of(outcome) for outcome in outcomes]
        found = [
            _Found(held_by(outcome), place, tuple(hit for hit in outcome.hits if hit.complete))
            for outcome, place in zip(outcomes, places, strict=True)
        ]
        with self._transaction():
            return [m for part in _without_repeats(found) for m in self._record(part, key_id, now)]

    def _record(self, found: Sequence[_Found], key_id: str, now: datetime) -> list[Match]:
        """Write what is at different paths."""
        known = self._at(set().union(*(one.paths for one in found)))
        ids = iter(new_ids(len(found)))
        time, changes = to_text(now), _Changes()
        seen = datetime.fromisoformat(time)
        recorded = []
        for one in found:
            before = _known(one, known, key_id)
            if before is None:
                match = _new(next(ids), one, key_id, seen)
                changes.added.append((*_columns(match), time, time, one.place.standing))
            else:
                match = _renewed(before, one, key_id, seen)
                head = (os.fsencode(match.path), match.size, match.state, key_id)
                changes.renewed.append((*head, *_tags(match), time, one.place.standing, match.id))
            if one.outcome.is_stream:
                changes.streams.append((match.id,))
            if before is None or before.state not in PROGRESS:
                detail: dict[str, Any] = {} if before is None else {"again": True}
                if one.place.reached is not None:
                    detail["through"] = printable(one.place.reached)
                text = json.dumps(detail) if detail else "{}"
                changes.steps.append((match.id, time, MatchState.FOUND, text))
            changes.hits.extend(hit_rows(match.id, one.hits))
            recorded.append(match)
        self._write(changes)
        for one, match in zip(found, recorded, strict=True):
            if one.outcome.members:
                self._note_member(match.id, one, time)
        return recorded

    def _note_member(self, match_id: str, one: _Found, time: str) -> None:
        """Note which member of a file matched, once, and of many only the first."""
        names = [path_fields(name)["path"][:MAX_NAME_CHARS] for name in one.outcome.members]
        entries = [hit_fields(hit, ("list", "entry")) for hit in one.hits]
        text = json.dumps({"members": names, "entries": entries})
        query = "SELECT detail FROM step WHERE match = ? AND event = ?"
        noted = [detail for (detail,) in self._db.execute(query, (match_id, IN_MEMBER))]
        if text not in noted and len(noted) < MAX_MEMBERS_NOTED:
            self._db.execute(ADD_STEP, (match_id, time, IN_MEMBER, text))

    def _write(self, changes: _Changes) -> None:
        db = self._db
        if changes.streams:
            db.execute(STREAMS)
        for statement, rows in (
            (ADD_MATCH, changes.added),
            (_RENEW, changes.renewed),
            (_ADD_HIT, changes.hits),
            (SEEN_AGAIN, changes.streams),
            (ADD_STEP, changes.steps),
        ):
            if rows:
                db.executemany(statement, rows)

    def _add_hits(self, match_id: str, hits: Sequence[Hit]) -> None:
        self._db.executemany(_ADD_HIT, hit_rows(match_id, hits))


def held_by(outcome: Outcome) -> Outcome:
    """Return an outcome as it is recorded: where a member is, there lies the file that holds it."""
    if outcome.outer is None:
        return outcome
    return msgspec.structs.replace(outcome, size=outcome.outer.size, tags=outcome.outer.tags)


def place_of(outcome: Outcome) -> Place:
    """Return where an outcome says that it is; links in its path stay."""
    if outcome.is_stream:
        return Place(STREAM_PREFIX + outcome.path)
    if outcome.is_object:
        return Place(outcome.path)
    # One file has one path: `//srv` would stay what it is, where others are made plain.
    return Place("/" + os.path.abspath(outcome.path).lstrip("/"))  # noqa: PTH100 - links stay


def hit_rows(match_id: str, hits: Sequence[Hit]) -> list[tuple[Any, ...]]:
    """Return entries that a match hit as rows."""
    return [
        (match_id, h.list_name, h.entry, h.category, mask_of(h.algorithms), h.generation)
        for h in hits
    ]


def _without_repeats(found: Sequence[_Found]) -> Iterator[Sequence[_Found]]:
    """Cut a batch where a path comes again."""
    seen: set[str] = set()
    start = 0
    for number, one in enumerate(found):
        if not seen.isdisjoint(one.paths):
            yield found[start:number]
            start, seen = number, set()
        seen |= one.paths
    if start < len(found):
        yield found[start:]


def _known(one: _Found, known: Mapping[str, Sequence[Match]], key_id: str) -> Match | None:
    """Return the record of the file, if it is one of those that should be where it is."""
    entries = {(hit.list_name, hit.entry) for hit in one.hits}
    tags = one.outcome.tags
    for path in (one.place.path, one.place.reached):
        for match in known.get(path, ()) if path is not None else ():
            if not entries.isdisjoint((hit.list_name, hit.entry) for hit in match.hits):
                return match
            common = match.tags.keys() & tags.keys() if match.key_id == key_id else set()
            if common and all(match.tags[a] == tags[a] for a in common):
                return match
    return None


def _new(match_id: str, one: _Found, key_id: str, seen: datetime) -> Match:
    outcome = one.outcome
    return Match(
        match_id,
        one.place.path,
        outcome.size,
        MatchState.FOUND,
        in_place=True,
        key_id=key_id,
        tags=dict(outcome.tags),
        first_seen=seen,
        last_seen=seen,
        hits=_joined((), one.hits),
        times_seen=1 if outcome.is_stream else None,
    )


def _renewed(before: Match, one: _Found, key_id: str, seen: datetime) -> Match:
    outcome = one.outcome
    # What an earlier run has computed stays known.
    tags = {**before.tags, **outcome.tags} if key_id == before.key_id else dict(outcome.tags)
    return msgspec.structs.replace(
        before,
        path=one.place.path,
        size=outcome.size,
        state=before.state if before.state in PROGRESS else MatchState.FOUND,
        key_id=key_id,
        tags=tags,
        last_seen=seen,
        hits=_joined(before.hits, one.hits),
        times_seen=None if before.times_seen is None else before.times_seen + 1,
    )


def _joined(before: Sequence[Hit], hits: Sequence[Hit]) -> tuple[Hit, ...]:
    """Return the entries of a match in the order in which they are read back."""
    if not before and len(hits) == 1:
        return tuple(hits)
    found = {(hit.list_name, hit.entry): hit for hit in (*before, *hits)}
    return tuple(found[name] for name in sorted(found))


def _columns(match: Match) -> tuple[Any, ...]:
    """Return what stands before the times of a match."""
    values = (match.id, os.fsencode(match.path), match.size, match.state, match.in_place)
    return (*values, match.key_id, *_tags(match))


def _tags(match: Match) -> list[bytes | None]:
    return [match.tags.get(algorithm) for algorithm in _ALGORITHMS]

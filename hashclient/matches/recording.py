"""Writes the matches of a scan to the record of matches, many at once.

A batch is looked up, compared and written by a few statements in all, since a scan can find a
hundred thousand matches. Known matches are renewed. A file may come twice in one batch, by two
paths to it; the second time it is known.
"""

from __future__ import annotations

import functools
import itertools
import json
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from hashclient.core.algorithms import Algorithm, mask_of
from hashclient.core.kinds import MatchState
from hashclient.core.match import (
    IN_MEMBER,
    PROGRESS,
    RELEASED,
    SEEN_AGAIN,
    STREAM_PREFIX,
    Match,
    Place,
    new_ids,
)
from hashclient.core.model import Hit, MatchRef, Outcome, hit_fields
from hashclient.matches.permits import Case, Hold, Permits
from hashclient.matches.tables import ADD_STEP, COUNT_STREAM, inodes_of, to_text
from hashclient.system.text import is_unicode, path_fields, printable

#: How many members of one file its story names, and how much of a name.
MAX_MEMBERS_NOTED = 100
MAX_NAME_CHARS = 1_000

#: A path is bytes; as text, if it is Unicode, it takes less time on its way to SQLite.
ADD_MATCH = "INSERT INTO match VALUES (?, CAST(? AS BLOB)" + ", ?" * 12 + ")"
_ALGORITHMS = tuple(Algorithm)
_mask_of = functools.lru_cache(maxsize=64)(mask_of)
#: SQLite's module binds values of its own types at once, and looks for adapters of others, such as
#: `bytes` and enumerations: so rows that come by the thousand have none of these.
_FOUND, _HELD = MatchState.FOUND.value, MatchState.HELD.value
_by_entry = operator.itemgetter(1, 2, 0)
#: Number of paths in one range query.
_SIDE_BY_SIDE = 64
_ANY_BETWEEN = "SELECT 1 FROM match WHERE path BETWEEN ? AND ? LIMIT 1"
_RENEW = (
    "UPDATE match SET path = ?, size = ?, state = ?, key_id = ?, md5 = ?, sha1 = ?, sha256 = ?,"
    " last_seen = ?, standing = ?, directory_inode = ?, inode = ? WHERE id = ?"
)
_ADD_HIT = """
INSERT INTO hit (match, list, entry, category, algorithms, generation) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (list, entry, match) DO UPDATE SET
    category = excluded.category, algorithms = excluded.algorithms,
    generation = excluded.generation, withdrawn_generation = NULL, withdrawn_at = NULL
"""


_Rows = Sequence[tuple[Any, ...]]


class _Found(msgspec.Struct, frozen=True, gc=False):
    """One outcome to be recorded: where it is, and which entries it hit, all of them complete.

    Outcomes of one file, such as the members of a container, are joined: `hits` are those of all,
    and `members` has the names and hits of each that is a member. `count` is how many they are.
    """

    outcome: Outcome
    place: Place
    hits: tuple[Hit, ...]
    members: tuple[tuple[tuple[str, ...], tuple[Hit, ...]], ...] = ()
    count: int = 1

    @property
    def paths(self) -> tuple[str, ...]:
        """Its path, and the path of its record if a link leads from there by now."""
        place = self.place
        return (place.path,) if place.reached is None else (place.path, place.reached)


class Recording(Permits):
    """The record of matches, for the writes of a scan."""

    def record(
        self,
        outcomes: Sequence[Outcome],
        key_id: str,
        now: datetime,
        places: Sequence[Place] | None = None,
        hold: Hold | None = None,
    ) -> list[MatchRef]:
        """Remember matches, all or none of them, and return their records in the same order.

        The tags of `outcomes` are sealed under the key `key_id`. `places` has the place of each, by
        default from its path. `hold` decides which of them are held, by default none.

        Raises:
            StateError: they cannot be written.
        """
        if places is None:
            places = [place_of(outcome) for outcome in outcomes]
        found = [
            _Found(
                outcome if outcome.outer is None else held_by(outcome),
                place,
                hits if len(hits := outcome.hits) == 1 and hits[0].complete else _complete(hits),
            )
            for outcome, place in zip(outcomes, places, strict=True)
        ]
        found = _joined(found)
        with self._transaction():
            recorded = [
                r for part in _without_repeats(found) for r in self._record(part, key_id, now, hold)
            ]
        if len(recorded) == len(outcomes):  # as mostly
            return recorded
        return [ref for one, ref in zip(found, recorded, strict=True) for _ in range(one.count)]

    def begin_record(
        self,
        outcomes: Sequence[Outcome],
        key_id: str,
        now: datetime,
        places: Sequence[Place] | None = None,
        hold: Hold | None = None,
    ) -> list[MatchRef]:
        """Do what `record` does, but for waiting until it is durable: `commit` does that.

        Closing the record instead takes it back.

        Raises:
            StateError: they cannot be written.
        """
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            return self.record(outcomes, key_id, now, places, hold)

    def commit(self) -> None:
        """Make the work of `begin_record` durable. Another thread may call this.

        Raises:
            StateError: it cannot be written; nothing is recorded then.
        """
        with self._errors():
            self._db.execute("COMMIT")

    def _record(
        self, found: Sequence[_Found], key_id: str, now: datetime, hold: Hold | None
    ) -> list[MatchRef]:
        """Write outcomes at different paths."""
        known = self._known_at(_paths(found))
        before = [self._known(one, known, key_id) if known else None for one in found]
        numbers = self._numbers_of([one.place.standing for one in found])
        time = to_text(now)
        seen = datetime.fromisoformat(time)
        ids = new_ids(before.count(None))
        if len(ids) == len(found):  # as mostly
            recorded = [MatchRef(i, MatchState.FOUND, seen, seen) for i in ids]
        else:
            new = iter(ids)
            recorded = [
                MatchRef(next(new), MatchState.FOUND, seen, seen)
                if old is None
                else _again(old, seen)
                for old in before
            ]
            ids = [ref.id for ref in recorded]
        rows = list(zip(ids, found, before, strict=True))
        if hold is not None:
            ruled = hold([Case(i, one.hits, old) for i, one, old in rows], self)
            recorded = [_ruled(ref, ruled[ref.id]) if ref.id in ruled else ref for ref in recorded]
        self._write(
            added=[
                _new(one, key_id, time, numbers, ref)
                for ref, (_, one, old) in zip(recorded, rows, strict=True)
                if old is None
            ],
            renewed=[
                _renewed(ref.state, old, one, key_id, time, numbers)
                for ref, (_, one, old) in zip(recorded, rows, strict=True)
                if old is not None
            ],
            hits=_rows_of_hits(rows),
            streams=[(i,) for i, one, _ in rows if one.outcome.is_stream for _ in range(one.count)],
            steps=[
                (i, time, _event(old), _detail(one, old))
                for i, one, old in rows
                if _needs_step(one, old)
            ]
            + [
                (ref.id, time, _HELD if ref.held else RELEASED, "{}")
                for ref, old in zip(recorded, before, strict=True)
                if old is not None and _is_ruled_anew(ref, old)
            ],
        )
        for match_id, one, _ in rows:
            if one.members or one.outcome.members:
                self._note_members(match_id, one, time)
        return recorded

    def _known(
        self, one: _Found, known: Mapping[str, Sequence[Match]], key_id: str
    ) -> Match | None:
        """Return the record of the file, if one of `known` is of it: it has a tag or an entry."""
        tags = one.outcome.tags
        for path in (one.place.path, one.place.reached):
            for match in known.get(path, ()) if path is not None else ():
                common = match.tags.keys() & tags.keys() if match.key_id == key_id else set()
                if common and all(match.tags[a] == tags[a] for a in common):
                    return match
                if self._has_hit(match.id, one.hits):
                    return match
        return None

    def _known_at(self, paths: Sequence[str]) -> Mapping[str, Sequence[Match]]:
        """Return the matches that should be at `paths`, by path.

        A first scan finds none. So neighbouring paths are looked up as one range, and one by one
        only where the range has a match.
        """
        ordered = sorted([os.fsencode(path) for path in paths])
        wanted: list[bytes] = []
        for start in range(0, len(ordered), _SIDE_BY_SIDE):
            part = ordered[start : start + _SIDE_BY_SIDE]
            if self._db.execute(_ANY_BETWEEN, (part[0], part[-1])).fetchone() is not None:
                wanted += part
        return self._at(wanted)

    def _note_members(self, match_id: str, one: _Found, time: str) -> None:
        """Note which members of a file matched, each once, and of many only the first."""
        query = "SELECT detail FROM step WHERE match = ? AND event = ?"
        noted = {detail for (detail,) in self._db.execute(query, (match_id, IN_MEMBER))}
        for members, hits in one.members or ((one.outcome.members, one.hits),):
            if len(noted) >= MAX_MEMBERS_NOTED:
                return
            names = [path_fields(name)["path"][:MAX_NAME_CHARS] for name in members]
            entries = [hit_fields(hit, ("list", "entry")) for hit in hits]
            text = json.dumps({"members": names, "entries": entries})
            if text not in noted:
                noted.add(text)
                self._db.execute(ADD_STEP, (match_id, time, IN_MEMBER, text))

    def _write(
        self, *, added: _Rows, renewed: _Rows, hits: _Rows, streams: _Rows, steps: _Rows
    ) -> None:
        db = self._db
        # In the order of the table: neighbours share a page.
        hits = sorted(hits, key=_by_entry)
        for statement, rows in (
            (ADD_MATCH, added),
            (_RENEW, renewed),
            (_ADD_HIT, hits),
            (COUNT_STREAM, streams),
            (ADD_STEP, steps),
        ):
            if rows:
                db.executemany(statement, rows)

    def _add_hits(self, match_id: str, hits: Sequence[Hit]) -> None:
        self._db.executemany(_ADD_HIT, hit_rows(match_id, hits))


def held_by(outcome: Outcome) -> Outcome:
    """Return an outcome for the record: the place of a member is that of its file."""
    if outcome.outer is None:
        return outcome
    return msgspec.structs.replace(outcome, size=outcome.outer.size, tags=outcome.outer.tags)


def place_of(outcome: Outcome) -> Place:
    """Return the place of an outcome by its path; links in the path stay."""
    if outcome.is_stream:
        return Place(STREAM_PREFIX + outcome.path)
    if outcome.is_object:
        return Place(outcome.path)
    # One file has one path, but `abspath` leaves `//srv` as it is.
    return Place("/" + os.path.abspath(outcome.path).lstrip("/"))  # noqa: PTH100 - links stay


def hit_rows(match_id: str, hits: Sequence[Hit]) -> list[tuple[Any, ...]]:
    """Return the hits of a match as rows."""
    return [
        (match_id, h.list_name, h.entry, h.category, _mask_of(h.algorithms), h.generation)
        for h in hits
    ]


def _rows_of_hits(rows: Sequence[tuple[str, _Found, Match | None]]) -> list[tuple[Any, ...]]:
    """Return the hits of many matches as rows."""
    return [
        (i, h.list_name, h.entry, h.category, _mask_of(h.algorithms), h.generation)
        for i, one, _ in rows
        for h in one.hits
    ]


def _paths(found: Sequence[_Found]) -> list[str]:
    """Return all paths of `found`, as their property `paths`."""
    return [
        path
        for one in found
        for path in ((one.place.path,) if one.place.reached is None else one.paths)
    ]


def _complete(hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
    if len(hits) == 1 and hits[0].complete:
        return hits
    return tuple(hit for hit in hits if hit.complete)


def _joined(found: list[_Found]) -> list[_Found]:
    """Join neighbours that are of one file: it has one record, however many of its members match.

    Equal place and tags show that it is one file. The order stays.
    """
    if all(one.outcome.outer is None for one in found):  # as mostly
        return found
    joined: list[_Found] = []
    for _, group in itertools.groupby(found, _file_of):
        first, *others = members = [*group]
        if others:
            first = msgspec.structs.replace(
                first,
                hits=tuple(dict.fromkeys(hit for one in members for hit in one.hits)),
                members=tuple(
                    (one.outcome.members, one.hits) for one in members if one.outcome.members
                ),
                count=len(members),
            )
        joined.append(first)
    return joined


def _file_of(one: _Found) -> object:
    """Return what only outcomes of one file have in common."""
    tags = one.outcome.tags
    if not tags:
        return object()
    return (one.place, one.outcome.is_stream, *(tags.get(a) for a in _ALGORITHMS))


def _without_repeats(found: Sequence[_Found]) -> Iterator[Sequence[_Found]]:
    """Cut a batch before a path that is in it already."""
    paths = _paths(found)
    if len(set(paths)) == len(paths):  # as mostly
        yield found
        return
    seen: set[str] = set()
    start = 0
    for number, one in enumerate(found):
        if not seen.isdisjoint(one.paths):
            yield found[start:number]
            start, seen = number, set()
        seen.update(one.paths)
    yield found[start:]


def _new(
    one: _Found, key_id: str, time: str, numbers: Mapping[str | None, int | None], ref: MatchRef
) -> tuple[Any, ...]:
    """Return a match as a row of its table."""
    outcome, place = one.outcome, one.place
    path, tag_of = place.path, outcome.tags.get
    md5, sha1, sha256 = tag_of(Algorithm.MD5), tag_of(Algorithm.SHA1), tag_of(Algorithm.SHA256)
    return (
        ref.id,
        path if is_unicode(path) else bytearray(os.fsencode(path)),
        outcome.size,
        _HELD if ref.held else _FOUND,
        1,
        key_id,
        md5 if md5 is None else bytearray(md5),
        sha1 if sha1 is None else bytearray(sha1),
        sha256 if sha256 is None else bytearray(sha256),
        time,
        time,
        numbers[place.standing],
        *inodes_of(outcome.seen),
    )


def _again(before: Match, seen: datetime) -> MatchRef:
    """Return the renewed record of a match that is found again."""
    state = before.state if before.state in PROGRESS else MatchState.FOUND
    return MatchRef(before.id, state, before.first_seen, seen, before.in_place)


def _ruled(ref: MatchRef, held: bool) -> MatchRef:  # noqa: FBT001 - the answer of a decision
    """Return a record as a decision leaves it: a match that was reported stays so."""
    state = ref.state
    if state in (MatchState.FOUND, MatchState.HELD):
        state = MatchState.HELD if held else MatchState.FOUND
    return msgspec.structs.replace(ref, held=held, state=state)


def _is_ruled_anew(ref: MatchRef, before: Match) -> bool:
    """Return whether a known match is held now, or is not held any more.

    Of a new match the state alone says so.
    """
    return (ref.state is MatchState.HELD) != (before.state is MatchState.HELD) and (
        ref.held or before.state is MatchState.HELD
    )


def _renewed(
    state: MatchState,
    before: Match,
    one: _Found,
    key_id: str,
    time: str,
    numbers: Mapping[str | None, int | None],
) -> tuple[Any, ...]:
    """Return the row to write for a match that is found again."""
    outcome, place = one.outcome, one.place
    # Tags that an earlier run has computed are kept.
    earlier = before.tags if key_id == before.key_id else {}
    tags = map({**earlier, **outcome.tags}.get, _ALGORITHMS)
    head = (os.fsencode(place.path), outcome.size, state, key_id)
    standing = numbers[place.standing]
    return (*head, *tags, time, standing, *inodes_of(outcome.seen), before.id)


def _needs_step(one: _Found, before: Match | None) -> bool:
    """Return whether the step says more than the match does; see `Matches.story`."""
    outcome = one.outcome
    if before is None:
        return any((one.place.reached, outcome.door, outcome.mail))
    # The same content comes again in other mails; a file on disk is the same mail.
    return before.state not in PROGRESS or (outcome.is_stream and outcome.mail is not None)


def _event(before: Match | None) -> str:
    """Return the step of an outcome; one that changes no state leaves the story where it is."""
    return SEEN_AGAIN if before is not None and before.state in PROGRESS else _FOUND


def _detail(one: _Found, before: Match | None) -> str:
    """Return the detail of the step, as JSON."""
    detail: dict[str, Any] = {} if before is None or before.state in PROGRESS else {"again": True}
    if one.place.reached is not None:
        detail["through"] = printable(one.place.reached)
    if one.outcome.door is not None:
        detail["door"] = one.outcome.door
    if one.outcome.mail is not None:
        detail["mail"] = msgspec.to_builtins(one.outcome.mail)
    return json.dumps(detail)

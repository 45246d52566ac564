"""Turns the outcomes of a scan into rows of the record of matches, which `recording` writes.

Several outcomes of one file, for example the members of a container, get one row. There may be very
many rows, so each function handles the usual case first and quickly.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from hashclient.core.kinds import Algorithm, Kind, MatchState, mask_of
from hashclient.core.match import PROGRESS, SEEN_AGAIN, STREAM_PREFIX, Match, Place
from hashclient.core.model import Hit, MatchRef, Outcome
from hashclient.matches.tables import inodes_of
from hashclient.system.text import is_unicode, printable

Row = tuple[Any, ...]

_ALGORITHMS = tuple(Algorithm)
_mask_of = functools.lru_cache(maxsize=64)(mask_of)
#: Python's module `sqlite3` passes values of `str`, `int` and `bytearray` to SQLite directly, but
#: searches for an adapter for values of other types, for example `bytes` and enumerations. Because
#: the search takes time, the rows contain only `str`, `int` and `bytearray`.
STATES = {state: state.value for state in MatchState}
FOUND, HELD = STATES[MatchState.FOUND], STATES[MatchState.HELD]
EXCEPTED = STATES[MatchState.EXCEPTED]


class Found(msgspec.Struct, frozen=True, gc=False):
    """An outcome that is to be recorded: its place, and its complete hits.

    Several outcomes of one file, for example of the members of a container, are joined to one
    `Found`. `hits` are the hits of all joined outcomes, `members` has the names and the hits of
    each member, and `count` is the number of joined outcomes. `hits` leaves out the hits of
    excepted outcomes, unless all joined outcomes are excepted.
    """

    outcome: Outcome
    place: Place
    hits: tuple[Hit, ...]
    members: tuple[tuple[tuple[str, ...], tuple[Hit, ...]], ...] = ()
    count: int = 1

    @property
    def is_excepted(self) -> bool:
        """Whether a ruling excepts the outcome from actions."""
        return self.outcome.kind is Kind.EXCEPTED

    @property
    def paths(self) -> tuple[str, ...]:
        """The file's real path, and the path with a symbolic link if the scan followed it."""
        place = self.place
        return (place.path,) if place.reached is None else (place.path, place.reached)


def found_at(outcomes: Sequence[Outcome], places: Sequence[Place]) -> list[Found]:
    """Return outcomes with their places, for recording.

    A member gets the size and tags of its file.
    """
    return joined(
        [
            Found(
                outcome
                if (outer := outcome.outer) is None
                else msgspec.structs.replace(outcome, size=outer.size, tags=outer.tags),
                place,
                complete(outcome.hits),
            )
            for outcome, place in zip(outcomes, places, strict=True)
        ]
    )


def place_of(outcome: Outcome) -> Place:
    """Return the place of an outcome by its path; symbolic links in the path are not resolved."""
    if outcome.is_stream:
        return Place(STREAM_PREFIX + outcome.path)
    if outcome.is_object:
        return Place(outcome.path)
    # `abspath` keeps two leading slashes (`//srv`), which would give a file two paths.
    return Place("/" + os.path.abspath(outcome.path).lstrip("/"))  # noqa: PTH100 - keeps links


def hit_rows(matches: Iterable[tuple[str, Sequence[Hit]]]) -> list[Row]:
    """Return the rows of the table `hit` for matches; each match is a pair of its id and hits."""
    return [
        (match_id, h.list_name, h.entry, h.category, _mask_of(h.algorithms), h.generation)
        for match_id, hits in matches
        for h in hits
    ]


def paths_of(found: Sequence[Found]) -> list[str]:
    """Return all paths of all elements of `found`, as the property `paths` returns them."""
    return [
        path
        for one in found
        for path in ((one.place.path,) if one.place.reached is None else one.paths)
    ]


def complete(hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
    """Return the hits whose digests all agree (`Hit.complete`)."""
    if len(hits) == 1 and hits[0].complete:
        return hits
    return tuple(hit for hit in hits if hit.complete)


def joined(found: list[Found]) -> list[Found]:
    """Join neighbouring outcomes of one file.

    A file has one record, even if many of its members match.

    Two outcomes are of one file if their places and tags are equal. The order of the outcomes does
    not change.
    """
    if not [one for one in found if one.outcome.outer is not None]:  # the usual case: no members
        return found
    joined: list[Found] = []
    for _, group in itertools.groupby(found, _file_of):
        first, *others = members = [*group]
        if others:
            # The file is a match if at least one outcome is not excepted.
            counting = [one for one in members if not one.is_excepted] or members
            first = msgspec.structs.replace(
                counting[0],
                hits=tuple(dict.fromkeys(hit for one in counting for hit in one.hits)),
                members=tuple(
                    (one.outcome.members, one.hits) for one in members if one.outcome.members
                ),
                count=len(members),
            )
        joined.append(first)
    return joined


def _file_of(one: Found) -> object:
    """Return a value that is equal for outcomes of the same file, and differs otherwise."""
    tags = one.outcome.tags
    if not tags:
        return object()
    return (one.place, one.outcome.is_stream, *(tags.get(a) for a in _ALGORITHMS))


def without_repeats(found: Sequence[Found]) -> Iterator[Sequence[Found]]:
    """Divide a batch into parts, so that no path occurs twice within a part."""
    paths = paths_of(found)
    if len(set(paths)) == len(paths):  # the usual case: no path occurs twice
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


def new_row(
    one: Found, key_id: str, time: str, numbers: Mapping[str | None, int | None], ref: MatchRef
) -> Row:
    """Return a new match as a row of the table `match`."""
    outcome, place = one.outcome, one.place
    path = place.path
    md5, sha1, sha256 = map(outcome.tags.get, _ALGORITHMS)
    return (
        ref.id,
        path if is_unicode(path) else bytearray(os.fsencode(path)),
        outcome.size,
        STATES[ref.state],
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


def again(before: Match, seen: datetime) -> MatchRef:
    """Return the reference to a known match that a scan has found again."""
    state = before.state if before.state in PROGRESS else MatchState.FOUND
    return MatchRef(before.id, state, before.first_seen, seen, before.in_place)


def ruled_as(ref: MatchRef, held: bool) -> MatchRef:  # noqa: FBT001 - from `decide`
    """Return a match after a decision to hold it or not.

    The state of a reported match does not change.
    """
    state = ref.state
    if state in (MatchState.FOUND, MatchState.HELD):
        state = MatchState.HELD if held else MatchState.FOUND
    return msgspec.structs.replace(ref, held=held, state=state)


def excepted_as(
    ref: MatchRef, one: Found, before: Match | None, since: datetime | None = None
) -> MatchRef:
    """Return the match of an excepted outcome; in most cases, its state becomes `EXCEPTED`.

    An isolated or reported match does not change. A container also stays a match if one of its
    members was recorded as a match after the run began (`since`), because the members may be in
    several batches.
    """
    if before is not None:
        if ref.state not in (MatchState.FOUND, MatchState.HELD):
            return ref
        is_container = bool(one.members or one.outcome.members)
        if is_container and before.state is ref.state and since and before.last_seen >= since:
            return ref
    return msgspec.structs.replace(ref, state=MatchState.EXCEPTED)


def renewed_row(
    state: MatchState,
    before: Match,
    one: Found,
    key_id: str,
    time: str,
    numbers: Mapping[str | None, int | None],
) -> Row:
    """Return the values that update the row of a known match that is found again."""
    outcome, place = one.outcome, one.place
    # Tags that an earlier scan has recorded are kept if the key is still the same.
    earlier = before.tags if key_id == before.key_id else {}
    tags = map({**earlier, **outcome.tags}.get, _ALGORITHMS)
    head = (os.fsencode(place.path), outcome.size, state, key_id)
    standing = numbers[place.standing]
    return (*head, *tags, time, standing, *inodes_of(outcome.seen), before.id)


def has_tags_of(one: Found, match: Match, key_id: str) -> bool:
    """Return whether a match and `one` have common algorithms, and equal tags for each of them."""
    if match.key_id != key_id:
        return False
    tags = one.outcome.tags
    common = match.tags.keys() & tags.keys()
    return bool(common) and all(match.tags[a] == tags[a] for a in common)


def needs_step(one: Found, before: Match | None) -> bool:
    """Return whether a step must be written, because the match's row cannot store all its facts."""
    outcome = one.outcome
    if before is None:
        return any((one.place.reached, outcome.door, outcome.mail))
    if before.state is MatchState.EXCEPTED and one.is_excepted:
        return False
    # A stream with the same content may be part of another mail than before; a file on disk always
    # belongs to the same mail.
    return before.state not in PROGRESS or (outcome.is_stream and outcome.mail is not None)


def event_of(before: Match | None) -> str:
    """Return the event of the step that records an outcome.

    `SEEN_AGAIN` does not change the state of the match.
    """
    return SEEN_AGAIN if before is not None and before.state in PROGRESS else FOUND


def detail_of(one: Found, before: Match | None) -> str:
    """Return the detail of the step that records an outcome, as JSON."""
    detail: dict[str, Any] = {} if before is None or before.state in PROGRESS else {"again": True}
    if one.place.reached is not None:
        detail["through"] = printable(one.place.reached)
    if one.outcome.door is not None:
        detail["door"] = one.outcome.door
    if one.outcome.mail is not None:
        detail["mail"] = msgspec.to_builtins(one.outcome.mail)
    return json.dumps(detail)

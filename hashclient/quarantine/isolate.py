"""Isolates a file: seals the file, proves that it is the file that matched, and then removes it.

If the process is killed at any time, the file is still in its place, or its sealed copy is
complete. The next act on the same match finishes an interrupted act. Several files take each step
together, as in `restore`.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from hashclient.audit.log import Event
from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match, keep_asked
from hashclient.core.model import Seen
from hashclient.core.objecturi import is_object_uri
from hashclient.matches.selection import Choice
from hashclient.matches.store import Matches
from hashclient.quarantine import age
from hashclient.quarantine.context import keep_context
from hashclient.quarantine.isolators.interface import (
    Held,
    Names,
    Sight,
    Spot,
    UnclearError,
    hold_if_there,
)
from hashclient.quarantine.item import Hold, Item, ItemHit, Mark, Stage, encode_item
from hashclient.quarantine.safe_rename import GONE, reason_of
from hashclient.quarantine.sealing import (
    check_space,
    digest_all,
    is_what_matched,
    seal,
    verify_evidence,
)
from hashclient.quarantine.store import AT_ONCE_BYTES, Change, Room, Wait, at_once
from hashclient.quarantine.tombstone import tombstone_text
from hashclient.system.layout import ITEM_NAME
from hashclient.system.text import log_path_fields, path_fields

#: States of a match whose file may be in quarantine.
_KEPT = (MatchState.QUARANTINED, MatchState.REPORTED, MatchState.ACKNOWLEDGED)

_CHANGED = "changed: it is not the file that matched any more"
_OTHER = "changed: it is not the file that was read"


class Taken(msgspec.Struct, frozen=True):
    """The result of isolating the file of a match.

    `sealed` says whether a complete sealed copy exists, `taken` whether the file was also removed
    from its place. `detail` describes the result for people. `attention` says that a person should
    check the result.
    """

    taken: bool
    sealed: bool
    detail: str
    attention: bool = False


class _Act(msgspec.Struct, frozen=True):
    """The values that the steps of one act share; `hold` is the hold for the new item.

    Steps run in threads, so they use the record of matches only in a `Wait`. From Python 3.12 on,
    threads that run the same query at the same time can get wrong answers.
    """

    room: Room
    match: Match
    matches: Matches
    mark: Mark
    hold: Hold | None = None


#: An act: yields the changes that must be durable before its next step.
_Steps = Generator[Wait, None, Taken]


def take(
    room: Room, wanted: Iterable[tuple[str, Seen | None]], matches: Matches, mark: Mark
) -> Iterator[tuple[str, Taken | HashclientError]]:
    """Seal the files of matches and remove them; yield each id with its result or failure.

    `wanted` are the ids of matches; each may have the file that was read, if the caller knows more
    than the record.

    1. The match may be isolated: it is in place, not withdrawn and not ended, the record says which
       file was read, and recipients are configured.
    2. The path is opened without following a link at any of its components. It is the directory in
       which the file was read, by its inode.
    3. At the path is a regular file of the right size: the file that was read, by its inode.
    4. The file is read once; it is sealed into a new folder and digested at the same time.
    5. The read file is the file that matched: its tags are the tags in the record, and the file has
       not changed meanwhile.
    6. The sealed copy is on the disk: it was synced, and reads back as written.
    7. The folder gets its document, and then its name, both durably.
    8. The match is still not withdrawn, and the sealing is logged.
    9. The name of the file is removed, if it still belongs to the sealed file.
    10. If a tombstone is configured, it is put in the file's place.
    11. The removal is noted in the record, the log and, last, the document.

    Up to `AT_ONCE` files take steps together, in two halves: while one half waits for the disk, the
    other half goes on. For each half, the names of all folders are made durable at once (7), one
    write logs the sealing (8), one write changes the record, and one write logs the removal (11).

    Raises:
        LockedError, StateError: the quarantine cannot be used at all.
    """
    left = deque(wanted)
    while left:
        with room.locked():
            outcomes = _take_some(room, left, matches, mark)
        yield from outcomes.items()


def _take_some(
    room: Room, left: deque[tuple[str, Seen | None]], matches: Matches, mark: Mark
) -> dict[str, Taken | HashclientError]:
    """Take the first matches from `left`, and isolate their files together; return the results."""
    outcomes: dict[str, Taken | HashclientError | None] = {}
    acts: dict[str, _Act] = {}
    steps: dict[str, _Steps] = {}
    inodes = set[int]()
    size, most = 0, at_once()
    # A repeated id waits for the first act. Another name of the same file waits, too: the file
    # changes when it loses the first name.
    while left and left[0][0] not in outcomes and len(outcomes) < most and size < AT_ONCE_BYTES:
        match_id, seen = left[0]
        try:
            act = _Act(room, matches.get(match_id), matches, mark)
            begun = _begin(act, seen)
        except HashclientError as error:
            outcomes[match_id] = error
            left.popleft()
            continue
        if (known := seen or act.match.seen) is not None:
            if known.inode in inodes:
                break
            inodes.add(known.inode)
        left.popleft()
        outcomes[match_id], acts[match_id], steps[match_id] = None, act, begun
        size += act.match.size or 0
    is_slow = any(is_object_uri(act.match.path) for act in acts.values())
    for match_id, result in room.run(steps, matches, is_slow=is_slow).items():
        outcomes[match_id] = (
            _not_there(acts[match_id], result) if isinstance(result, OSError) else result
        )
    return {match_id: outcome for match_id, outcome in outcomes.items() if outcome is not None}


def _begin(act: _Act, seen: Seen | None) -> _Steps:
    """Check whether a file may be isolated, and return the steps that this takes.

    Raises:
        HashclientError: the file cannot be isolated.
    """
    room, match = act.room, act.match
    item = room.find(match.id, act.matches)
    if item is not None and not match.in_place:
        return _again(act, item)
    # Tags of another seal key prove nothing: such an item is not resumed. The file is sealed again,
    # if it is there.
    resumed = item if item is not None and room.can_prove(item.key_id) else None
    recipients = _check(act, resumed)  # 1
    hold = _asked_hold(act) if item is None else item.hold
    act = msgspec.structs.replace(act, hold=hold)
    return _steps(act, seen or _seen_before(match, item), item, recipients, resumed)


def _again(act: _Act, item: Item) -> _Steps:
    """Finish acts that a kill has ended after the change of the record; other acts are complete."""
    if item.stage is not Stage.REMOVED:
        yield from _record(act, item, [])
    return Taken(taken=True, sealed=True, detail="in quarantine already")


def _steps(
    act: _Act,
    seen: Seen | None,
    item: Item | None,
    recipients: Sequence[Any],
    resumed: Item | None,
) -> _Steps:
    """Take the steps 2 to 11, or the steps that an earlier act on `resumed` has left.

    Raises:
        OSError: the file cannot be sealed.
        HashclientError: a file of the state directory cannot be read or written.
    """
    room, match = act.room, act.match
    try:
        with room.isolator.open(match.path, seen) as spot:  # 2
            if resumed is not None:
                return (yield from _resume(act, resumed, spot))
            with spot.hold() as held:  # 3
                sealed = yield from _seal(act, spot, held, recipients, item)
                if isinstance(sealed, Taken):
                    return sealed
                return (yield from _remove(act, sealed, held, spot))
    except OSError as error:
        if not room.folder(match.id).exists():
            raise
        why = reason_of(error)
        return (
            yield from _left(
                act, room.load(match.id), why if why == GONE else f"still in place: {why}"
            )
        )


def _not_there(act: _Act, error: OSError) -> Taken | HashclientError:
    """Return the result for a file that could not be sealed."""
    why = reason_of(error)
    try:
        return (_taken_as_another(act) if why == GONE else None) or _not_sealed(why)
    except HashclientError as failure:
        return failure


def _taken_as_another(act: _Act) -> Taken | None:
    """Close a match whose file another run has found and isolated at the same time.

    Then each of the two runs has a record of its own, since the file was already gone when the
    second record was made. Equal path and tags show that the file is the same. Return None if no
    item in quarantine is this file.
    """
    match = act.match
    for known in act.matches.find(choice=Choice(_KEPT, (match.path,))):
        if known.path != match.path or known.in_place or known.key_id != match.key_id:
            continue
        common = known.tags.keys() & match.tags.keys()
        if not common or any(known.tags[a] != match.tags[a] for a in common):
            continue
        item = act.room.find(known.id, act.matches)
        if item is None or item.stage is not Stage.REMOVED:
            continue
        reason = f"in quarantine already, as match {known.id}"
        detail = {"by": act.mark.by, "reason": reason}
        data = {"id": match.id, **log_path_fields(match.path), **detail}
        act.room.session.audit.append([Event("closed", data)], durable=True)
        now = act.room.now()
        act.matches.change(match.id, MatchState.CLOSED, now, detail, in_place=False)
        return Taken(taken=True, sealed=True, detail=reason)
    return None


def _seen_before(match: Match, item: Item | None) -> Seen | None:
    """Return the file that was read, from the record or else from an earlier act on it.

    Raises:
        UsageError: neither the record nor the item has the file.
    """
    if is_object_uri(match.path):
        return None
    seen = match.seen if item is None else match.seen or item.origin.seen
    if seen is None:
        raise UsageError(
            f"it is not on record which file was read: match {match.id}",
            hint="scan the file again",
        )
    return seen


def _not_sealed(why: str) -> Taken:
    return Taken(taken=False, sealed=False, detail=f"not quarantined: {why}", attention=True)


def _check(act: _Act, item: Item | None) -> list[Any]:
    """Refuse a match that must not be isolated (step 1), and return the recipients."""
    match = act.match
    if match.is_stream:
        raise UsageError(
            f"match {match.id} came as a stream: there is no file to isolate",
            hint="look for the content where it came from; `hashclient matches close` closes the "
            "match",
        )
    try:
        act.room.sealer  # noqa: B018 - read now: it may be missing
    except StateError as error:
        raise StateError(
            f"without the seal key nobody can prove which file matched: {error.message}",
            hint=error.hint,
        ) from error
    if match.ended is MatchState.WITHDRAWN:
        raise _is_withdrawn(match)
    if match.ended or not match.in_place:
        raise UsageError(
            f"match {match.id} is not open: it is {match.state}",
            hint="when a scan finds the file again, the match is open again",
        )
    key_id = match.key_id if item is None else item.key_id
    if not match.tags or not act.room.can_prove(key_id):
        raise StateError(
            f"match {match.id} was sealed with another key, so the file cannot be proven",
            hint="scan the file again",
        )
    return age.parse_recipients(act.room.config.recipients if item is None else item.recipients)


def _is_withdrawn(match: Match) -> UsageError:
    return UsageError(
        f"match {match.id} is withdrawn: the provider has withdrawn the entry",
        hint="`hashclient matches close` closes the match",
    )


def _seal(
    act: _Act,
    spot: Spot,
    held: Held,
    recipients: Sequence[Any],
    replaced: Item | None,
) -> Generator[Wait, None, Item | Taken]:
    """Make a sealed copy (steps 3 to 8); return its item, or why no copy was made.

    The new item replaces `replaced`, if that is given.
    """
    room, match = act.room, act.match
    if not held.is_seen():  # 3
        return _not_sealed(_OTHER)
    if match.size not in (None, held.size):  # 3
        return _not_sealed(_CHANGED)
    check_space(room, held.size)
    with (
        room.new_folder() as folder,
        seal(room, held, match.tags, folder, recipients) as (read, copy),  # 4
    ):
        if not held.is_unchanged() or not is_what_matched(  # 5
            read, held.size, match.tags, room.sealer
        ):
            return _not_sealed(_CHANGED)
        config = room.config
        where = path_fields(match.path)
        item = Item(
            id=match.id,
            stage=Stage.SEALED,
            path=where["path"],
            path_b64=where.get("path_b64"),
            size=held.size,
            origin=spot.origin(held),
            evidence_sha256=copy.written.sha256,
            evidence_bytes=copy.written.length,
            recipients=config.recipients,
            taken=act.mark,
            hits=tuple(ItemHit.of(hit) for hit in match.hits),
            tags={a.label: tag.hex() for a, tag in match.tags.items()},
            key_id=match.key_id,
            tombstone=tombstone_text(config.tombstone, match.id, act.mark.time),
            context=() if replaced is None else replaced.context,
            hold=act.hold,
        )
        keep_context(room, item, folder)
        document = room.write(folder / ITEM_NAME, encode_item(item))
        yield Wait(syncs=(copy.sync, document, room.syncing(folder)))  # 6, 7
        copy.prove()  # 6
        # The replaced item may be removed: the file is in its place, is open, and was just proven.
        room.admit(folder, item, replaces=replaced is not None)  # 7
    yield _sealed(act, item, is_new=item.hold is None)  # 7, 8
    return item


def _asked_hold(act: _Act) -> Hold | None:
    """Return the hold that a body asked for while the file was still in its place."""
    asked = keep_asked(act.matches.story(act.match.id))
    if asked is None or (until := datetime.fromisoformat(asked["until"])) <= act.room.now():
        return None
    mark = Mark.of(str(asked["by"]), str(asked["text"]), act.mark.time)
    return Hold(mark.by, mark.reason, mark.time, until)


def _sealed(act: _Act, item: Item, *, is_new: bool) -> Wait:
    """Return the event of the sealing; it is logged unless the match is withdrawn by then.

    A fetch may withdraw the entry while this file, and the files with it, are sealed. Then the file
    stays in place, and a copy that `is_new` is removed.
    """

    def check(match: Match) -> None:
        if match.state is MatchState.WITHDRAWN:
            if is_new and act.room.folder(item.id).exists():
                act.room.drop(item.id)
            raise _is_withdrawn(match)

    event = act.room.event(
        "quarantine-sealed",
        item,
        act.mark,
        size=item.size,
        hits=[msgspec.to_builtins(hit) for hit in item.hits],
        recipients=list(item.recipients),
        evidence_sha256=item.evidence_sha256,
        evidence_bytes=item.evidence_bytes,
    )
    return Wait(event, is_named=True, change=check)


def _resume(act: _Act, item: Item, spot: Spot) -> _Steps:
    """Look at the present state, and finish an earlier act on the match.

    Raises:
        OSError: the present state is not known.
    """
    verify_evidence(act.room, item)
    yield _sealed(act, item, is_new=False)  # 8
    stranded = spot.settle(item.id, lambda held: held.is_seen() and _is_proven(act, item, held))
    with hold_if_there(spot) as held:
        if held is not None and _is_proven(act, item, held):
            if not held.is_seen():
                return (yield from _left(act, item, _OTHER))
            return (yield from _remove(act, item, held, spot))
    if stranded is not None:
        return (yield from _left(act, item, stranded))
    try:
        sight = spot.look(item, held)
    except UnclearError as error:
        return (yield from _left(act, item, str(error)))
    if sight is Sight.NOTHING:
        return (yield from _finish(act, item, spot, ()))
    if sight is Sight.TOMBSTONE:
        return (yield from _finish(act, item, None, ()))
    item = msgspec.structs.replace(item, tombstone=None)
    return (
        yield from _finish(
            act, item, None, ("something else is at its path now, and was left alone",)
        )
    )


def _is_proven(act: _Act, item: Item, held: Held) -> bool:
    """Return whether the held file is the sealed file.

    Raises:
        OSError: the file cannot be read, or changed while it was read, so that the answer is not
            known.
    """
    tags = item.tags_by_algorithm()
    digester = digest_all(held, tags, item.size)
    if not held.is_unchanged():
        raise OSError(errno.EAGAIN, "changed while it was read", item.file)
    return is_what_matched(digester, item.size, tags, act.room.sealer)


def _remove(act: _Act, item: Item, held: Held, spot: Spot) -> _Steps:
    """Remove the sealed file from its place (step 9), and go on to the end."""
    removal = spot.remove(held, item.id)
    if not removal.done:
        return (yield from _left(act, item, removal.why, is_meant=removal.is_meant))
    return (yield from _finish(act, item, spot, removal.remains))


def _left(act: _Act, item: Item, why: str, *, is_meant: bool = False) -> _Steps:
    """Return the result for a file that was sealed but not removed; the next act tries again."""
    yield Wait(act.room.event("quarantine-incomplete", item, act.mark, detail=why))
    joined = f"sealed, {'and' if is_meant else 'but'} {why}"
    return Taken(taken=False, sealed=True, detail=joined, attention=not is_meant)


def _finish(act: _Act, item: Item, spot: Spot | None, remains: tuple[str, ...]) -> _Steps:
    """Leave the tombstone if `spot` is given, and note the removal (steps 10, 11)."""
    if spot is not None and (failure := spot.leave_tombstone(item)):  # 10
        remains = (*remains, failure)
    yield from _record(act, item, remains, None if spot is None else spot.names())  # 11
    detail = "; ".join(["quarantined", *remains])
    return Taken(taken=True, sealed=True, detail=detail, attention=bool(remains))


def _record(
    act: _Act, item: Item, remains: Sequence[str], names: Names | None = None
) -> Iterator[Wait]:
    """Note the removal of the file (step 11).

    The document is written last, since the next act relies on it.
    """
    mark = act.mark

    def change(match: Match) -> Change:
        return match, {"by": mark.by, "reason": mark.reason}, False

    event = act.room.event("quarantined", item, mark, remains=list(remains))
    yield Wait(event, names=names, change=change if act.match.in_place else None)
    yield from act.room.saving(msgspec.structs.replace(item, stage=Stage.REMOVED))

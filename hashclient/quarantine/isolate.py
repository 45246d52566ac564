"""Isolates a file: seals it, proves that it is the file that matched, and removes it.

The isolation of one file is called an operation. If the process is killed during an operation, the
file is still at its path, or its sealed copy is complete. The next operation on the same match
finishes an interrupted operation. Several operations take the same step at the same time, so that
the files of all these operations are made durable together.
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

#: The states of a match whose file may be in quarantine.
_KEPT = (MatchState.QUARANTINED, MatchState.REPORTED, MatchState.ACKNOWLEDGED)

_CHANGED = "changed: it is not the file that matched any more"
_OTHER = "changed: it is not the file that was read"


class Taken(msgspec.Struct, frozen=True):
    """The result of isolating the file of a match.

    `sealed` says whether a complete sealed copy exists. `taken` says whether the file was also
    removed from its path. `detail` describes the result for people. `attention` says whether a
    person should check the result.
    """

    taken: bool
    sealed: bool
    detail: str
    attention: bool = False


class _Act(msgspec.Struct, frozen=True):
    """The values that the steps of one isolation use; `hold` forbids destroying the new item.

    Steps run in threads, so they access the record of matches only through a `Wait`, which is
    handled in one thread. From Python 3.12 on, threads that run the same SQLite query at the same
    time can get wrong results.
    """

    room: Room
    match: Match
    matches: Matches
    mark: Mark
    hold: Hold | None = None


#: The steps of an operation: a generator. It yields changes, and the caller must make these changes
#: durable before the next step.
_Steps = Generator[Wait, None, Taken]


def take(
    room: Room, wanted: Iterable[tuple[str, Seen | None]], matches: Matches, mark: Mark
) -> Iterator[tuple[str, Taken | HashclientError]]:
    """Seal the files of matches and remove them; yield each match id with its result or exception.

    `wanted` are pairs: the id of a match, and the file that the scan has read. The file is None if
    it must be looked up in the record of matches.

    1. The match is checked: its file is at its path, the match is not withdrawn or ended, the
       record of matches contains the file that was read, and recipients are configured.
    2. The directory of the path is opened without following a symbolic link at any component. The
       inode of the directory must be that of the directory in which the file was read.
    3. The file is opened. The opened file must be a regular file with the recorded size, and must
       have the inode of the file that was read.
    4. The file is read once, and is sealed into a new folder and digested at the same time.
    5. The tags of the read bytes must be the tags in the record, and the file must not have changed
       while it was read.
    6. The sealed copy is written to the disk, read back from the disk, and compared with the
       written bytes.
    7. The document of the item is written to the folder, and the folder gets its final name, both
       durably.
    8. If the match was withdrawn meanwhile, the operation ends. Otherwise the sealing is logged.
    9. The name of the file is removed if it still belongs to the sealed file.
    10. If a tombstone is configured, the tombstone is written in place of the file.
    11. The removal is written to the record of matches, then to the audit log, and then to the
        document of the item.

    Up to `AT_ONCE` operations take steps together, in two halves: while the changes of one half are
    made durable, the other half takes its next step. For each half, one call of fsync makes the
    names of all folders durable (step 7), one write logs the sealing (step 8), one transaction
    changes the record, and one write logs the removal (step 11).

    Raises:
        LockedError, StateError: the quarantine cannot be locked, read or written.
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
    # A repeated id is left for the next call. A match of another name of the same file is also left
    # for the next call, because the status of the file changes when its first name is removed.
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
    """Check whether the file of a match may be isolated, and return the steps of the operation.

    Raises:
        HashclientError: the file cannot be isolated.
    """
    room, match = act.room, act.match
    item = room.find(match.id, act.matches)
    if item is not None and not match.in_place:
        return _again(act, item)
    # Tags that were made with another seal key cannot be checked, so an item with such tags is not
    # resumed. If the file is still at its path, it is sealed again instead.
    resumed = item if item is not None and room.can_prove(item.key_id) else None
    recipients = _check(act, resumed)  # 1
    hold = _asked_hold(act) if item is None else item.hold
    act = msgspec.structs.replace(act, hold=hold)
    return _steps(act, seen or _seen_before(match, item), item, recipients, resumed)


def _again(act: _Act, item: Item) -> _Steps:
    """Finish an operation that was interrupted after it had changed the record of matches."""
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
    """Take the steps 2 to 11 of `take`, or the remaining steps of the operation on `resumed`.

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
    """Return the result of an operation whose file could not be sealed."""
    why = reason_of(error)
    try:
        return (_taken_as_another(act) if why == GONE else None) or _not_sealed(why)
    except HashclientError as failure:
        return failure


def _taken_as_another(act: _Act) -> Taken | None:
    """Record a match as closed if its file was isolated at the same time for another match.

    Two scans that find the same file at the same time record two matches if the file was removed
    before the second match was recorded. Two matches have the same file if their paths and tags are
    equal. Return None if no item in quarantine contains the file of the match.
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
    """Return which file the scan has read, according to the record of matches or the item.

    Raises:
        UsageError: neither the record nor the item contains the file that was read.
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
    """Raise an exception if a match must not be isolated (step 1 of `take`); return recipients."""
    match = act.match
    if match.is_stream:
        raise UsageError(
            f"match {match.id} came as a stream: there is no file to isolate",
            hint="look for the content where it came from; `hashclient matches close` closes the "
            "match",
        )
    try:
        act.room.sealer  # noqa: B018 - the key is read now because it may be missing
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
    """Take the steps 3 to 8 of `take`; return the new item, or the result if no copy was made.

    If `replaced` is an item, the new item replaces it.
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
        # The replaced item is not needed any more, because the file is at its path, is open, and
        # was just proven.
        room.admit(folder, item, replaces=replaced is not None)  # 7
    yield _sealed(act, item, is_new=item.hold is None)  # 7, 8
    return item


def _asked_hold(act: _Act) -> Hold | None:
    """Return the hold that an authority requested while the file was still at its path."""
    asked = keep_asked(act.matches.story(act.match.id))
    if asked is None or (until := datetime.fromisoformat(asked["until"])) <= act.room.now():
        return None
    mark = Mark.of(str(asked["by"]), str(asked["text"]), act.mark.time)
    return Hold(mark.by, mark.reason, mark.time, until)


def _sealed(act: _Act, item: Item, *, is_new: bool) -> Wait:
    """Return a `Wait` that logs the sealing, unless the match is withdrawn by then.

    A fetch may withdraw the entry while the file is sealed. If the match is withdrawn, the file
    stays at its path, and the sealed copy is removed if `is_new` is set.
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
    """Find out the state of an interrupted operation on the match, and finish the operation.

    Raises:
        OSError: the present state cannot be found out.
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
    """Return whether the open file is the file that was sealed.

    Raises:
        OSError: the file cannot be read, or changed while it was read.
    """
    tags = item.tags_by_algorithm()
    digester = digest_all(held, tags, item.size)
    if not held.is_unchanged():
        raise OSError(errno.EAGAIN, "changed while it was read", item.file)
    return is_what_matched(digester, item.size, tags, act.room.sealer)


def _remove(act: _Act, item: Item, held: Held, spot: Spot) -> _Steps:
    """Remove the sealed file from its path (step 9 of `take`), and take the remaining steps."""
    removal = spot.remove(held, item.id)
    if not removal.done:
        return (yield from _left(act, item, removal.why, is_meant=removal.is_meant))
    return (yield from _finish(act, item, spot, removal.remains))


def _left(act: _Act, item: Item, why: str, *, is_meant: bool = False) -> _Steps:
    """Log that a file was sealed but not removed, and return the result of the operation."""
    yield Wait(act.room.event("quarantine-incomplete", item, act.mark, detail=why))
    joined = f"sealed, {'and' if is_meant else 'but'} {why}"
    return Taken(taken=False, sealed=True, detail=joined, attention=not is_meant)


def _finish(act: _Act, item: Item, spot: Spot | None, remains: tuple[str, ...]) -> _Steps:
    """Write the tombstone if `spot` is given, and record the removal (steps 10, 11 of `take`)."""
    if spot is not None and (failure := spot.leave_tombstone(item)):  # 10
        remains = (*remains, failure)
    yield from _record(act, item, remains, None if spot is None else spot.names())  # 11
    detail = "; ".join(["quarantined", *remains])
    return Taken(taken=True, sealed=True, detail=detail, attention=bool(remains))


def _record(
    act: _Act, item: Item, remains: Sequence[str], names: Names | None = None
) -> Iterator[Wait]:
    """Record the removal of the file (step 11 of `take`).

    The document is written last, because the next operation on the match takes this step again if
    the document does not show the removal.
    """
    mark = act.mark

    def change(match: Match) -> Change:
        return match, {"by": mark.by, "reason": mark.reason}, False

    event = act.room.event("quarantined", item, mark, remains=list(remains))
    yield Wait(event, names=names, change=change if act.match.in_place else None)
    yield from act.room.saving(msgspec.structs.replace(item, stage=Stage.REMOVED))

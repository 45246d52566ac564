"""Holds, due dates and purges: how long an item is kept, and how it is destroyed.

The configuration sets how long an item is kept after its report was handed over. After the
configured time, the item is due for destruction, unless another report of it must still be sent.
Until then, even a forced purge does not destroy the item, unless a competent authority has ordered
the destruction. A retracted report has no effect on the time. An item on hold is never destroyed. A
purge is logged before and after the destruction; the next purge finishes an interrupted purge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from hashclient.core.errors import UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import (
    HOLD_ENDED,
    ON_HOLD,
    RECORDED_AGAIN,
    Match,
    Step,
    destruction_ordered,
    standing_steps,
    taken_back,
    waiting_report,
)
from hashclient.matches.store import Matches
from hashclient.quarantine.context import context_paths
from hashclient.quarantine.item import Hold, Item, Mark, Stage, item_ids
from hashclient.quarantine.store import Room
from hashclient.system.files import fsync_dir
from hashclient.system.text import for_people, for_programs, printable

_UNRECORDED = "not in the record of matches: `quarantine recover` records it again"


class Due(msgspec.Struct, frozen=True):
    """Whether an item is due for destruction, the due date `at`, and the reason `why`."""

    is_due: bool
    at: datetime | None
    why: str


class Purged(msgspec.Struct, frozen=True):
    """The result of a purge; in a dry run, `done` is None if a real run would destroy the item."""

    item: Item
    done: bool | None
    detail: str


def hold(
    room: Room, match_id: str, matches: Matches, mark: Mark, until: datetime | None = None
) -> Item:
    """Put an item on hold; if it is on hold already, both reasons and the later end apply.

    Raises:
        UsageError, StateError, AuditError: as for `Quarantine.hold`.
    """
    with room.locked():
        item = room.need(match_id, matches)
        end = {} if until is None else {"until": for_programs(until)}
        room.log("on-hold", item, mark, **end)
        made = Hold(mark.by, mark.reason, mark.time, until)
        if (earlier := item.held(room.now())) is not None:
            ends = (earlier.until, until)
            made = Hold(
                earlier.by,
                f"{earlier.reason}; {mark.reason}",
                earlier.time,
                None if None in ends else max(end for end in ends if end is not None),
            )
        item = msgspec.structs.replace(item, hold=made)
        room.save(item)
        _note(room, item, ON_HOLD, mark, matches)
        return item


def recover(room: Room, matches: Matches, mark: Mark) -> Iterator[Item]:
    """Record the matches of items again that are missing in the record of matches; yield the items.

    Raises:
        StateError, AuditError: as for `Quarantine.recover`.
    """
    for match_id in item_ids(room.directory):
        with room.locked():
            item = room.find(match_id, matches)
            if item is None or matches.look_up(item.id) is not None:
                continue
            room.log(RECORDED_AGAIN, item, mark)
            matches.adopt(_match_of(item), mark.time, {"by": mark.by})
        yield item


def _match_of(item: Item) -> Match:
    """Return a match with the values from its item."""
    is_removed = item.stage is Stage.REMOVED
    return Match(
        id=item.id,
        path=item.file,
        size=item.size,
        state=MatchState.QUARANTINED if is_removed else MatchState.FOUND,
        in_place=not is_removed,
        key_id=item.key_id,
        tags=item.tags_by_algorithm(),
        first_seen=item.taken.time,
        last_seen=item.taken.time,
        hits=tuple(hit.value() for hit in item.hits),
        seen=item.origin.seen,
    )


def release(room: Room, match_id: str, matches: Matches, mark: Mark) -> Item:
    """End the hold on an item.

    Raises:
        UsageError, StateError, AuditError: as for `Quarantine.release`.
    """
    with room.locked():
        item = room.need(match_id, matches)
        if item.held(room.now()) is None:
            raise UsageError(f"{item.id} is not on hold")
        room.log("hold-ended", item, mark)
        item = msgspec.structs.replace(item, hold=None)
        room.save(item)
        _note(room, item, HOLD_ENDED, mark, matches)
        return item


def _note(room: Room, item: Item, event: str, mark: Mark, matches: Matches) -> None:
    if matches.look_up(item.id) is not None:
        matches.note(item.id, event, room.now(), {"by": mark.by, "reason": mark.reason})


def due(room: Room, item: Item, matches: Matches) -> Due:
    """Return when an item is due for destruction, or why it is not due.

    Raises:
        StateError: the record of matches cannot be read.
    """
    match = matches.look_up(item.id)
    if item.restored is not None:
        why = "the file was restored, but its copy was not removed because of an interruption"
        return Due(is_due=True, at=None, why=why)
    obstacle = _obstacle(item, match, room.now())
    if obstacle is not None or match is None:
        return Due(is_due=False, at=None, why=obstacle or _UNRECORDED)
    if match.state is MatchState.PURGED:
        return Due(is_due=True, at=None, why="its purge was interrupted")
    # The state of the match does not show a retracted report, so the history of the match is read.
    whole = matches.story(item.id)
    if (order := destruction_ordered(whole)) is not None:
        return Due(is_due=True, at=None, why=f"to be destroyed as ordered: {printable(order)}")
    if (waiting := waiting_report(whole)) is not None:
        return Due(is_due=False, at=None, why=f"kept until report {printable(waiting)} was sent")
    handed_over = _handed_over(standing_steps(whole))
    if match.state is not MatchState.ACKNOWLEDGED or handed_over is None:
        return Due(is_due=False, at=None, why="kept until a report of it is acknowledged")
    days = room.config.keep_days
    if days is None:
        why = "no keep_days in [quarantine] of the configuration"
        return Due(is_due=False, at=None, why=why)
    at = handed_over + timedelta(days=days)
    verb = "since" if at <= room.now() else "on"
    return Due(is_due=at <= room.now(), at=at, why=f"due {verb} {for_people(at)}")


def _handed_over(steps: Sequence[Step]) -> datetime | None:
    """Return the last time when a report was handed over or, without such a step, acknowledged."""
    for state in (MatchState.REPORTED, MatchState.ACKNOWLEDGED):
        if times := [step.time for step in steps if step.event == state]:
            return max(times)
    return None


def _refusal(room: Room, item: Item, matches: Matches, state: Due, order: str | None) -> str | None:
    """Return why an item must not be destroyed by force or by `order` before it is due, or None.

    An `order` of an authority permits destruction before the end of `keep_days`, but not during a
    hold.
    """
    now, days = room.now(), room.config.keep_days
    if item.held(now) is not None:
        return state.why
    if order is not None or days is None:
        return None
    if matches.look_up(item.id) is None:
        return _UNRECORDED
    # Reports from before the file was restored and found again count, too.
    story = matches.story(item.id)
    retracted = taken_back(story)
    handed_over = _handed_over([s for s in story if s.detail.get("report") not in retracted])
    if handed_over is None or (at := handed_over + timedelta(days=days)) <= now:
        return None
    return f"it was reported, and is kept until {for_people(at)} unless there is an order"


def _obstacle(item: Item, match: Match | None, now: datetime) -> str | None:
    """Return why an item cannot become due in its present state, or None if it can."""
    if (hold := item.held(now)) is not None:
        end = "" if hold.until is None else f", until {for_people(hold.until)}"
        return f"on hold since {hold.time:%Y-%m-%d}, by {printable(hold.by)}{end}"
    if match is not None and match.state is MatchState.WITHDRAWN:
        return "its entry was withdrawn: restore the file"
    if item.stage is Stage.SEALED:
        return "the file was not removed from its place yet"
    return None


def purge(
    room: Room,
    match_id: str,
    matches: Matches,
    mark: Mark,
    *,
    force: bool,
    order: str | None,
    dry_run: bool,
) -> Purged:
    """Destroy an item that is due; with `force` or an authority's `order`, also an item not due.

    `force` has no effect before `keep_days` have passed since a report. An item on hold is not
    destroyed.

    1. The item and the record of matches are read under the lock, and must permit the destruction.
    2. The intent to destroy the item is logged. If logging fails, nothing is destroyed.
    3. The match gets the state `PURGED` in the record, unless the file is still at its path. If the
       item is not due any more, for example because a report was retracted meanwhile, the purge
       ends without destroying the item.
    4. The sealed copy, the sealed copies of added files, and the facts about the source are
       unlinked.
    5. The destruction is logged, and the folder of the item is removed.

    If the process is killed after step 3, the item is due, and the next purge destroys the rest.

    Raises:
        UsageError, StateError, AuditError: as for `Quarantine.purge`.
    """
    with room.locked() if not dry_run else contextlib.nullcontext():
        item = room.load(match_id)
        state = due(room, item, matches)  # 1
        if not state.is_due:
            is_wanted = force or order is not None
            why = _refusal(room, item, matches, state, order) if is_wanted else state.why
            if why is not None:
                return Purged(item, done=False, detail=f"not purged: {why}")
        if dry_run:
            return Purged(item, done=None, detail=f"would be purged: {state.why}")
        if item.restored is not None:
            room.drop_restored([item], matches)
            return Purged(item, done=True, detail=f"purged: {state.why}")
        ordered = {} if order is None else {"order": order}
        room.log("purging", item, mark, forced=force, due=state.why, **ordered)  # 2
        with matches.batch():  # 3
            state = due(room, item, matches)
            if not state.is_due and not force and order is None:
                return Purged(item, done=False, detail=f"not purged: {state.why}")
            match = matches.look_up(match_id)
            if match is not None and match.state is not MatchState.PURGED and not match.in_place:
                detail = {"by": mark.by, "reason": mark.reason}
                matches.change(match_id, MatchState.PURGED, room.now(), detail)
        facts = room.session.settings.layout.facts_of(match_id)
        with room.errors("cannot remove from the quarantine", room.evidence(match_id)):  # 4
            for path in (facts, *context_paths(room, item), room.evidence(match_id)):
                path.unlink(missing_ok=True)
            fsync_dir(room.folder(match_id))
        room.log("purged", item, mark, evidence_sha256=item.evidence_sha256)  # 5
        room.drop(match_id)
        return Purged(item, done=True, detail="purged")

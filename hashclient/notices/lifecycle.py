"""The states of notices: which notices are in force, which have ended, and why.

This module uses no files and no clock.

The states do not depend on the order in which notices arrive. A notice that has ended can never be
in force again. An `UPDATE` or a `CANCEL` ends the notices to which it refers, even if it has
expired, is not signed any more, or arrived before them. An `UPDATE` or a `CANCEL` ends only earlier
notices of the same provider with the same status, so a test ends only tests.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from hashclient.core.model import Time
from hashclient.notices.document import Notice, Severity, Status, Type

#: How long a notice is kept after it has expired, if it is not signed any more.
KEEP = timedelta(days=400)
#: The largest number of notices of a provider that are kept; at most a quarter of them can be
#: signed.
MAX_KEPT = 4_000


class State(enum.StrEnum):
    """The state of a notice on this machine. Only an `open` notice requires an action."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    UPDATED = "updated"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    #: The state of a notice that ends other notices, and requires no action.
    CANCEL = "cancel"


class Acknowledged(msgspec.Struct, frozen=True):
    """An acknowledgement of a notice: the time, the person, and the reason."""

    at: Time
    by: str
    reason: str | None = None


class Ended(msgspec.Struct, frozen=True):
    """How a notice has ended: it was updated or cancelled, by the notice with the id `by`."""

    state: State
    by: str


class Kept(msgspec.Struct, frozen=True):
    """A notice on this machine.

    `digest`: the signed digest of the document of the notice, as in `Trust.hash_of`.

    `signed`: whether the provider still signs the notice. `shown`: when the notice was first shown
    on this machine.
    """

    notice: Notice
    digest: str
    received: Time
    signed: bool = True
    shown: Time | None = None
    acknowledged: Acknowledged | None = None
    ended: Ended | None = None


class Standing(msgspec.Struct, frozen=True):
    """A notice of a provider and its state.

    `by`: the id of the notice that has ended this notice.
    """

    provider: str
    kept: Kept
    state: State
    by: str | None = None

    @property
    def notice(self) -> Notice:
        """The content of the notice."""
        return self.kept.notice

    @property
    def stands(self) -> bool:
        """Whether the notice is still in force."""
        return self.state in (State.OPEN, State.ACKNOWLEDGED)

    @property
    def name(self) -> str:
        """The name of the provider and the id, because providers may use equal ids."""
        return f"{self.provider}/{self.kept.notice.id}"


def standings(provider: str, kept: Iterable[Kept], now: datetime) -> list[Standing]:
    """Return each notice of a provider with its state at `now`, the newest first."""
    ordered = sorted(kept, key=lambda k: (k.notice.sent, k.notice.id), reverse=True)
    return [
        Standing(provider, one, _state_of(one, now), one.ended.by if one.ended else None)
        for one in ordered
    ]


def _state_of(kept: Kept, now: datetime) -> State:
    if kept.ended is not None:
        return kept.ended.state
    if now >= kept.notice.expires:
        return State.EXPIRED
    if kept.notice.type is Type.CANCEL:
        return State.CANCEL
    if not kept.signed:
        return State.WITHDRAWN
    return State.OPEN if kept.acknowledged is None else State.ACKNOWLEDGED


def merged(
    kept: Sequence[Kept], arrived: Sequence[Kept], signed: Collection[str], now: datetime
) -> tuple[Kept, ...]:
    """Return the notices to keep after a fetch, from the earlier notices and those that `arrived`.

    `signed`: the ids of the notices that are signed now. A notice that is not signed any more is
    dropped `KEEP` after its expiry. If there are more notices than `MAX_KEPT`, notices that are not
    signed are dropped, beginning with those that expired first.
    """
    # a notice that arrived earlier is not replaced
    both = {one.notice.id: one for one in (*arrived, *kept)}
    enders: dict[str, list[Notice]] = {}
    for one in both.values():
        for reference in one.notice.references:
            enders.setdefault(reference.id, []).append(one.notice)
    found = [
        msgspec.structs.replace(
            one,
            signed=one.notice.id in signed,
            ended=_ended(one, enders.get(one.notice.id, ())),
        )
        for one in both.values()
        if one.notice.id in signed or now - one.notice.expires < KEEP
    ]
    found.sort(key=lambda one: (one.signed, one.notice.expires), reverse=True)
    return tuple(found[:MAX_KEPT])


def _ended(kept: Kept, enders: Iterable[Notice]) -> Ended | None:
    """Return how a notice has ended, or None.

    If several notices have ended a notice, a `CANCEL` counts before an `UPDATE`.
    """
    before = kept.ended
    if before is not None and before.state is State.CANCELLED:
        return before
    notice = kept.notice
    ending = [n for n in enders if n.sent > notice.sent and n.status is notice.status]
    for type_, state in ((Type.CANCEL, State.CANCELLED), (Type.UPDATE, State.UPDATED)):
        ids = [n.id for n in ending if n.type is type_]
        if ids:
            return Ended(state, min(ids))
    return before


def is_alarming(standing: Standing, alert_from: Severity | None) -> bool:
    """Return whether a notice is open, real, and at least as severe as `alert_from`.

    An unknown severity counts as the highest severity.
    """
    if alert_from is None or standing.state is not State.OPEN:
        return False
    if standing.notice.status is not Status.ACTUAL:
        return False
    severity, order = standing.notice.severity, list(Severity)
    return severity is Severity.UNKNOWN or order.index(severity) <= order.index(alert_from)


def counts(found: Iterable[Standing]) -> Mapping[Severity, int]:
    """Return the number of open notices by severity, without exercises and tests."""
    numbers = dict.fromkeys(Severity, 0)
    for standing in found:
        if standing.state is State.OPEN and standing.notice.status is Status.ACTUAL:
            numbers[standing.notice.severity] += 1
    return numbers

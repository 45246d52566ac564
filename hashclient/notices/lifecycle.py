"""What becomes of notices here: which stand, which ended, and why. Pure, without files or clocks.

Nothing depends on the order in which notices come. What has ended once never stands again: an
`Update` or a `Cancel` ends what it refers to also where it has expired itself since, is signed no
more, or came first. It ends only what was sent before it, by the same provider, and what is as much
meant as itself: a test ends tests.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from hashclient.notices.document import Notice, Severity, Status, Type

#: How long a notice is remembered after it has expired, once it is signed no more.
KEEP = timedelta(days=400)
#: So many are remembered of one provider, of which the signed ones are at most a quarter.
MAX_KEPT = 4_000


#: Of a time without a zone nobody could say whether it is over.
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class State(enum.StrEnum):
    """How a notice stands. Only what is `open` asks for something."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    UPDATED = "updated"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    #: A `Cancel`: it ends others, and asks for nothing itself.
    CANCEL = "cancel"


class Acknowledged(msgspec.Struct, frozen=True):
    """When somebody has said that they have dealt with a notice, who, and what they said of it."""

    at: Time
    by: str
    reason: str | None = None


class Ended(msgspec.Struct, frozen=True):
    """That a notice was updated or cancelled, and the id of the one that did it."""

    state: State
    by: str


class Kept(msgspec.Struct, frozen=True):
    """A notice that is kept here: `digest` is what is signed of its document, as `Trust.hash_of`.

    `signed` says whether the provider still vouches for it; `shown` when it was first shown here.
    """

    notice: Notice
    digest: str
    received: Time
    signed: bool = True
    shown: Time | None = None
    acknowledged: Acknowledged | None = None
    ended: Ended | None = None


class Standing(msgspec.Struct, frozen=True):
    """A notice of a provider and how it stands; `by` is the id of the one that ended it, if any."""

    provider: str
    kept: Kept
    state: State
    by: str | None = None

    @property
    def notice(self) -> Notice:
        """The notice itself."""
        return self.kept.notice

    @property
    def stands(self) -> bool:
        """Whether the provider still means it."""
        return self.state in (State.OPEN, State.ACKNOWLEDGED)

    @property
    def name(self) -> str:
        """What it is called here, where notices of several providers may have one id."""
        return f"{self.provider}/{self.kept.notice.id}"


def standings(provider: str, kept: Iterable[Kept], now: datetime) -> list[Standing]:
    """Return how each notice of a provider stands at `now`, the newest first."""
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
    """Return what is kept after a fetch: what was and what `arrived`, by whether it is `signed`.

    What is signed no more is forgotten a while after it has expired: it could not stand again. Of
    more than `MAX_KEPT`, those go first that expired first and are signed no more.
    """
    both = {one.notice.id: one for one in (*arrived, *kept)}  # what was here stays what it is
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
    """Return what has ended a notice: a Cancel if there is one, since that says more."""
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
    """Tell whether a notice is open, meant, and of a severity from `alert_from` on.

    One whose severity is not known may be as severe as any.
    """
    if alert_from is None or standing.state is not State.OPEN:
        return False
    if standing.notice.status is not Status.ACTUAL:
        return False
    severity, order = standing.notice.severity, list(Severity)
    return severity is Severity.UNKNOWN or order.index(severity) <= order.index(alert_from)


def counts(found: Iterable[Standing]) -> Mapping[Severity, int]:
    """Return how many notices are open, by their severity, those that are not meant left out."""
    numbers = dict.fromkeys(Severity, 0)
    for standing in found:
        if standing.state is State.OPEN and standing.notice.status is Status.ACTUAL:
            numbers[standing.notice.severity] += 1
    return numbers

"""Staleness: until when a list counts.

A list counts until it expires, and longer if the configuration grants a grace period. If a list is
stale, no input is known to be clean.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

#: How far the clock may be behind the last check before we say that it was set back.
CLOCK_TOLERANCE = timedelta(minutes=5)


class ListState(msgspec.Struct, frozen=True):
    """A list that a scan or `status` used.

    `fresh` is False past its expiry; `in_grace` is True while the list still counts by the
    configuration. `is_early`: the clock shows a time before the last check, so it is not known
    whether the list has expired.
    """

    name: str
    generation: int
    expires: datetime
    fresh: bool
    in_grace: bool = False
    is_early: bool = False

    @property
    def stale(self) -> bool:
        """Whether the list is past its expiry and grace, so that a verdict needs attention."""
        return not self.fresh and not self.in_grace


def state_of(
    name: str,
    generation: int,
    checked_at: datetime,
    expires: datetime,
    *,
    now: datetime,
    grace: timedelta,
) -> ListState:
    """Return whether a list is fresh at `now`, or still counts for `grace` after its expiry.

    If the clock shows a time before `checked_at`, the last check, expiry is unknown: then no list
    is fresh or in its grace.
    """
    clock_is_right = checked_at - CLOCK_TOLERANCE <= now
    fresh = clock_is_right and now < expires
    in_grace = clock_is_right and not fresh and now < expires + grace
    return ListState(name, generation, expires, fresh, in_grace, not clock_is_right)

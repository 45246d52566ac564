"""Staleness: how long a list may be used after it was fetched.

A list may be used until it expires, and longer if the configuration grants a grace period. If a
list is stale, no input counts as clean.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from hashclient.core.errors import ConfigError

#: The clock may be this much behind the last check before this program says that the clock was set
#: back.
CLOCK_TOLERANCE = timedelta(minutes=5)
#: From this year on, a time limit could be after the last time that Python can express.
_LAST_YEAR = 9999


def present_time() -> datetime:
    """Return the time in UTC.

    Raises:
        ConfigError: the clock shows the year 9999, or a later year.
    """
    try:
        now = datetime.now(UTC)
    except (ValueError, OverflowError):  # the year has more than four digits
        now = None
    if now is None or now.year >= _LAST_YEAR:
        raise ConfigError(
            "the clock shows the year 9999 or a later year",
            hint="set this machine's clock right",
        )
    return now


class ListState(msgspec.Struct, frozen=True):
    """A list that a scan or `status` used, and whether it is fresh.

    `fresh`: False after the expiry. `in_grace`: True after the expiry while the grace period of the
    configuration lasts. `is_early`: True if the clock shows a time before the last check, so that
    it is not known whether the list has expired.
    """

    name: str
    generation: int
    expires: datetime
    fresh: bool
    in_grace: bool = False
    is_early: bool = False

    @property
    def stale(self) -> bool:
        """Whether the list has expired and its grace period is over.

        If a list is stale, no input counts as clean.
        """
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
    """Return whether a list is fresh at `now`, or within `grace` after its expiry.

    If the clock shows a time before the last check (`checked_at`), it is not known whether the list
    has expired, so the list is neither fresh nor in its grace period.
    """
    clock_is_right = checked_at - CLOCK_TOLERANCE <= now
    fresh = clock_is_right and now < expires
    in_grace = clock_is_right and not fresh and now < expires + grace
    return ListState(name, generation, expires, fresh, in_grace, not clock_is_right)

"""Default time limits for the network, which `net.deadline` explains, and pauses after failures.

A module of its own: the man pages, made where little is installed, show these numbers.
"""

from __future__ import annotations

from datetime import datetime, timedelta

TIMEOUT_S = 30.0
MIN_RATE_KIB_S = 16.0
ATTEMPTS = 4

#: The first pause, and the longest one.
FIRST = timedelta(minutes=5)
LAST = timedelta(hours=24)


def pause(attempts: int, asked_s: float | None = None, *, longest: timedelta = LAST) -> timedelta:
    """Return the pause after a failure that follows `attempts` failed ones.

    `asked_s` is the pause in seconds that the other side asks for.
    """
    # The exponent is bounded, since something may be tried for years.
    doubled: timedelta = FIRST * 2 ** min(attempts, 20)
    return max(min(doubled, longest), min(timedelta(seconds=asked_s or 0.0), longest))


def is_due(at: datetime | None, now: datetime, *, longest: timedelta = LAST) -> bool:
    """Return whether the next attempt, noted for the time `at`, is due; None stands for at once.

    A time further away than the longest pause was noted by a wrong clock, and does not count.
    """
    return at is None or not now < at <= now + longest

"""Default time limits for the network, which `net.deadline` explains, and pauses after failures.

The numbers are in a separate module because the man pages show them: man pages are built with few
packages installed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

TIMEOUT_S = 30.0
MIN_RATE_KIB_S = 16.0
ATTEMPTS = 4

#: The first pause, and the longest pause.
FIRST = timedelta(minutes=5)
LAST = timedelta(hours=24)


def pause(attempts: int, asked_s: float | None = None, *, longest: timedelta = LAST) -> timedelta:
    """Return the pause after a failure that follows `attempts` failed attempts.

    `asked_s` is the pause in seconds that the other side wants.
    """
    # The exponent is bounded, since attempts may go on for years.
    doubled: timedelta = FIRST * 2 ** min(attempts, 20)
    return max(min(doubled, longest), min(timedelta(seconds=asked_s or 0.0), longest))


def is_due(at: datetime | None, now: datetime, *, longest: timedelta = LAST) -> bool:
    """Return whether the next attempt, planned for the time `at`, is due; None means immediately.

    If `at` is further away than the longest pause, a wrong clock has set it, and `at` is ignored.
    """
    return at is None or not now < at <= now + longest

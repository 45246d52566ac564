"""Default time limits for the network (`net.deadline` explains them), and pauses after failures.

The time limits have their own module because the man pages show them, and man pages are built with
few packages installed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

TIMEOUT_S = 30.0
MIN_RATE_KIB_S = 16.0
ATTEMPTS = 4

#: `FIRST`: the shortest pause after a failure. `LAST`: the longest pause.
FIRST = timedelta(minutes=5)
LAST = timedelta(hours=24)


def pause(attempts: int, asked_s: float | None = None, *, longest: timedelta = LAST) -> timedelta:
    """Return the pause after a failure that follows `attempts` failed attempts.

    `asked_s`: the pause in seconds that the server has asked for.
    """
    # The exponent is bounded, because attempts may continue for years.
    doubled: timedelta = FIRST * 2 ** min(attempts, 20)
    return max(min(doubled, longest), min(timedelta(seconds=asked_s or 0.0), longest))


def is_due(at: datetime | None, now: datetime, *, longest: timedelta = LAST) -> bool:
    """Return whether the next attempt, planned for the time `at`, is due.

    None means that it is due now.

    If `at` is later than the longest pause allows, `at` was set by a wrong clock and is ignored.
    """
    return at is None or not now < at <= now + longest

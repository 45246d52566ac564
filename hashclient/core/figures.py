"""Statistics: a share with its confidence interval, and durations of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import msgspec

#: The two-sided 95 % quantile of the normal distribution.
_Z = 1.959964


class Precision(msgspec.Struct, frozen=True):
    """The share of reviewed matches that were confirmed, and its 95 % interval by Wilson."""

    share: float
    low: float
    high: float


class Spread(msgspec.Struct, frozen=True):
    """The number of durations, with their median and 95th percentile in seconds.

    The median and the percentile are None if there are no durations.

    `p95_s`: the 95th percentile, as the nearest rank.
    """

    count: int = 0
    median_s: float | None = None
    p95_s: float | None = None


def spread(seconds: Sequence[float]) -> Spread:
    """Return the number, median and 95th percentile of durations in seconds."""
    if not len(seconds):
        return Spread()
    ordered = sorted(seconds)
    rank = math.ceil(0.95 * len(ordered))
    return Spread(len(ordered), float(median(ordered)), float(ordered[rank - 1]))


def wilson(good: int, count: int) -> Precision | None:
    """Return the share of `good` among `count`, with Wilson's score interval; None if `count` is 0.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    if not count:
        return None
    share, square = good / count, _Z * _Z / count
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / count + square / count / 4)
    return Precision(share, max(0.0, middle - half), min(1.0, middle + half))

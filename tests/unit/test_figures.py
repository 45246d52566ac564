"""Statistics: each result is compared with a value that was computed by hand."""

from __future__ import annotations

import pytest

from hashclient.core.figures import Spread, spread, wilson


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([], Spread(0, None, None)),
        ([3.0], Spread(1, 3.0, 3.0)),
        ([4, 2], Spread(2, 3.0, 4.0)),
        ([9, 1, 5], Spread(3, 5.0, 9.0)),
        (range(1, 20), Spread(19, 10.0, 19.0)),
        (range(20, 0, -1), Spread(20, 10.5, 19.0)),
        (range(1, 22), Spread(21, 11.0, 20.0)),
        (range(1, 101), Spread(100, 50.5, 95.0)),
    ],
)
def test_median_and_the_95th_percentile(seconds: list[float], expected: Spread) -> None:
    assert spread(seconds) == expected


@pytest.mark.parametrize(
    ("good", "count", "expected"),
    [
        (0, 1, (0.0, 0.0, 0.793450)),
        (1, 1, (1.0, 0.206550, 1.0)),
        (0, 10, (0.0, 0.0, 0.277533)),
        (5, 10, (0.5, 0.236593, 0.763407)),
        (9, 10, (0.9, 0.595850, 0.982124)),
        (81, 263, (0.307985, 0.255289, 0.366210)),
    ],
)
def test_the_interval_is_wilsons(
    good: int, count: int, expected: tuple[float, float, float]
) -> None:
    found = wilson(good, count)
    assert found is not None
    assert (found.share, found.low, found.high) == pytest.approx(expected, abs=1e-6)


def test_nothing_has_no_share() -> None:
    assert wilson(0, 0) is None

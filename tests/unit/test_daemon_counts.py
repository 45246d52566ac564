"""The counters of a daemon: each counter is separate, and totals are sums over processes."""

from __future__ import annotations

import pytest

from hashclient.containers.unopened import NAMES
from hashclient.daemon.counts import BOUNDS_S, Count, Counts


def test_each_counter_has_its_own_place_in_the_row_of_its_process() -> None:
    counts = Counts(3)
    rows = [counts.row(number) for number in range(3)]
    for number, row in enumerate(rows):
        for count in Count:
            row.add(count, (number + 1) * 100 + count)
        row.add_not_opened({name: (number + 1) * 1000 + n for n, name in enumerate(NAMES)})
        row.timed(0.5)
    for count in Count:
        assert [row.of(count) for row in rows] == [100 + count, 200 + count, 300 + count]
        assert counts.total(count) == 600 + 3 * count
    assert counts.not_opened() == {name: 6000 + 3 * n for n, name in enumerate(NAMES)}
    assert counts.times()[1] == 1.5


def test_a_counter_goes_up_and_down_and_begins_at_zero() -> None:
    counts = Counts(1)
    row = counts.row(0)
    assert [row.of(count) for count in Count] == [0] * len(Count)
    row.add(Count.OPEN)
    row.add(Count.OPEN, 4)
    row.add(Count.OPEN, -2)
    assert row.of(Count.OPEN) == counts.total(Count.OPEN) == 3
    assert counts.not_opened() == {} and counts.times() == ([0] * 14, 0.0)
    row.add_not_opened({})
    assert counts.not_opened() == {}


@pytest.mark.parametrize("place", range(len(BOUNDS_S)))
def test_an_answer_counts_for_all_bounds_that_it_keeps(place: int) -> None:
    bound = BOUNDS_S[place]
    for seconds, first in ((bound, place), (bound + 1e-6, place + 1)):
        counts = Counts(1)
        counts.row(0).timed(seconds)
        classes, total = counts.times()
        assert classes == [0] * first + [1] * (14 - first)
        assert total == pytest.approx(seconds, abs=2e-6)


def test_bounds_of_times_are_those_of_the_documents() -> None:
    assert (
        *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    ) == BOUNDS_S


def test_a_stream_that_is_answered_at_once_is_counted_with_its_bytes_and_the_shortest_time() -> (
    None
):
    counts = Counts(1)
    counts.row(0).clean(Count.NO_VERDICT, 7)
    counts.row(0).clean(Count.CLEAN, 5)
    assert (counts.total(Count.NO_VERDICT), counts.total(Count.CLEAN)) == (1, 1)
    assert counts.total(Count.BYTES) == 12
    assert counts.times() == ([2] * 14, 0.0)

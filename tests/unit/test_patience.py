"""The time at which a failed action is tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hashclient.core.patience import (
    ATTEMPTS,
    FIRST,
    LAST,
    MIN_RATE_KIB_S,
    TIMEOUT_S,
    is_due,
    pause,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("after", "due"),
    [
        *((None, True), (-TICK, True), (timedelta(), True), (TICK, False)),
        *((LAST, False), (LAST + TICK, True)),  # longer than any pause: the clock was wrong
    ],
)
def test_an_attempt_is_due_from_its_time_on(after: timedelta | None, due: bool) -> None:
    assert is_due(None if after is None else NOW + after, NOW) is due


def test_a_pause_beyond_the_longest_that_a_caller_knows_is_over() -> None:
    hour = timedelta(hours=1)
    for after, due in ((hour, False), (hour + TICK, True), (LAST, True)):
        assert is_due(NOW + after, NOW, longest=hour) is due


def test_pauses_double_up_to_the_longest_or_are_as_long_as_asked_for() -> None:
    assert [pause(attempts) / FIRST for attempts in range(4)] == [1, 2, 4, 8]
    assert pause(9) == pause(10**9) == LAST
    for asked, longest, expected in (
        (1.0, LAST, FIRST),
        (301.0, LAST, timedelta(seconds=301)),
        (1e9, LAST, LAST),
        (1e9, timedelta(hours=1), timedelta(hours=1)),
        (None, timedelta(minutes=1), timedelta(minutes=1)),
    ):
        assert pause(0, asked, longest=longest) == expected, asked


def test_the_defaults_are_those_of_the_documents() -> None:
    assert (TIMEOUT_S, MIN_RATE_KIB_S, ATTEMPTS) == (30.0, 16.0, 4)
    assert FIRST / timedelta(minutes=5) == LAST / timedelta(days=1) == 1
    # After years of attempts, the pause does not overflow.
    assert pause(10**9, longest=timedelta.max) == FIRST * 2**20

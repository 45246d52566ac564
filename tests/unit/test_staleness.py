"""When a list counts as fresh: from its last check to its expiry, with the grace period."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hashclient.core import staleness
from hashclient.core.errors import ConfigError
from hashclient.core.staleness import CLOCK_TOLERANCE, ListState, state_of
from tests.kit import State

CHECKED = datetime(2024, 5, 1, tzinfo=UTC)
EXPIRES = CHECKED + timedelta(days=7)
SECOND, DAY, NONE = timedelta(seconds=1), timedelta(days=1), timedelta()


def at(now: datetime, grace: timedelta) -> ListState:
    """Return the state of a list at a time."""
    return state_of("baseline", 1, CHECKED, EXPIRES, now=now, grace=grace)


def test_a_list_is_fresh_between_check_and_expiry() -> None:
    assert at(CHECKED, NONE).fresh
    assert at(EXPIRES - SECOND, NONE).fresh
    assert not at(EXPIRES, NONE).fresh
    assert at(CHECKED - CLOCK_TOLERANCE, NONE).fresh
    assert not at(CHECKED - CLOCK_TOLERANCE - SECOND, NONE).fresh
    assert at(EXPIRES, DAY).in_grace
    assert not at(EXPIRES, NONE).in_grace
    assert not at(EXPIRES + DAY, DAY).in_grace
    assert not at(CHECKED - DAY, DAY).in_grace


class _Clock:
    """Shows one time, or a year that Python cannot express."""

    def __init__(self, shown: datetime | None) -> None:
        self._shown = shown

    def now(self, _zone: object) -> datetime:
        if self._shown is None:
            raise ValueError("year 10000 is out of range")
        return self._shown


@pytest.mark.parametrize(
    "shown", [datetime(9999, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC), None]
)
def test_a_clock_that_shows_no_possible_time_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: datetime | None
) -> None:
    """A time limit could be after the last time that Python can express."""
    state = State(tmp_path, {"base": {"e-1": b"listed"}}, {"a": b"benign"})
    monkeypatch.setattr(staleness, "datetime", _Clock(shown))
    scan = "scan", state.tree, "--output", tmp_path / "out"
    for done in (state.call(*scan[:2]), state.call(*scan), state.call("matches")):
        assert done.code == 2, done
        assert "the clock shows the year 9999 or a later year" in done.err


@pytest.mark.parametrize("error", [ValueError("year 10000"), OverflowError("too large")])
def test_a_year_that_cannot_be_expressed_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Broken:
        def now(self, _zone: object) -> datetime:
            raise error

    monkeypatch.setattr(staleness, "datetime", Broken())
    with pytest.raises(ConfigError, match="the year 9999 or a later year"):
        staleness.present_time()


def test_the_last_time_that_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)
    monkeypatch.setattr(staleness, "datetime", _Clock(shown))
    assert staleness.present_time() == shown


TICK = timedelta(microseconds=1)
EARLIEST = CHECKED - CLOCK_TOLERANCE


@pytest.mark.parametrize(
    ("now", "grace", "state"),
    [
        (EARLIEST - TICK, NONE, "early"),
        (EARLIEST - TICK, 99 * DAY, "early"),
        (EARLIEST, NONE, "fresh"),
        (CHECKED, NONE, "fresh"),
        (EXPIRES - TICK, NONE, "fresh"),
        (EXPIRES - TICK, DAY, "fresh"),
        (EXPIRES, NONE, "stale"),
        (EXPIRES, TICK, "in grace"),
        (EXPIRES + DAY - TICK, DAY, "in grace"),
        (EXPIRES + DAY, DAY, "stale"),
        (EXPIRES + 999 * DAY, DAY, "stale"),
    ],
)
def test_a_list_is_in_one_state_at_each_time(now: datetime, grace: timedelta, state: str) -> None:
    found = at(now, grace)
    assert (found.name, found.generation, found.expires) == ("baseline", 1, EXPIRES)
    flags = {"fresh": found.fresh, "in grace": found.in_grace, "early": found.is_early}
    assert [name for name, is_set in flags.items() if is_set] == [state] * (state != "stale")
    assert found.stale is (state in ("early", "stale"))


def test_five_minutes_of_a_clock_are_no_error() -> None:
    assert timedelta(minutes=5) == CLOCK_TOLERANCE

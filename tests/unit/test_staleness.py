"""When a list counts as fresh: from its last check to its expiry, with the grace period."""

from datetime import UTC, datetime, timedelta

from hashclient.core.staleness import CLOCK_TOLERANCE, ListState, state_of

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

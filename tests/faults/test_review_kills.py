"""Reviews, and reports that are sent without a review, killed at each change of the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fixtures.crash import in_child, kill_at, watched
from fixtures.desk import A, Desk
from hashclient.core.kinds import Verdict
from hashclient.reporting.report import State
from tests.faults.test_reporting_retraction import each_change
from tests.kit import fast_directory


@pytest.fixture
def desk() -> Iterator[Desk]:
    with fast_directory() as directory:
        yield Desk(directory, review='after = "review"\n')


def killed(desk: Desk, act: Callable[[], object]) -> Iterator[bool]:
    """Do `act` from the same state, killed one change later each time; yield if it was killed."""
    for number in each_change(desk):

        def work(number: int = number) -> None:
            with watched(kill_at(number)):
                act()

        is_killed = in_child(work) != 0
        yield is_killed
        if not is_killed:
            assert number > 3
            return


@pytest.mark.slow
def test_a_review_is_logged_wherever_it_is_noted(desk: Desk) -> None:
    match = desk.find("a", A)
    for is_killed in killed(desk, lambda: desk.review(match, verdict=Verdict.CONFIRMED)):
        logged = "reviewed" in desk.events()
        noted = "confirmed" in desk.story(match)
        assert logged or not noted
        assert is_killed or (logged and noted)
        # If the same review is given again, it counts once.
        assert desk.review(match, verdict=Verdict.CONFIRMED) == [Verdict.CONFIRMED]


@pytest.mark.slow
def test_nothing_leaves_without_a_review_before_that_is_logged(desk: Desk) -> None:
    report = desk.prepare(desk.find("a", A))
    for is_killed in killed(desk, lambda: desk.send_unreviewed(report)):
        logged = "report-unreviewed" in desk.events()
        there = [path for path in desk.out.iterdir() if not path.name.startswith(".")]
        decided = desk.outbox.get(report.id).unreviewed is not None
        assert (logged or not decided) and (decided or not there)
        # A timer sends the report if a person has decided so, and in no other case.
        desk.send_due()
        state = desk.outbox.get(report.id).state
        assert state is (State.SUBMITTED if decided else State.PREPARED)
        assert is_killed or decided

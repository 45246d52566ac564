"""The brake by itself: its period of a day, its clock, and matches of several entries."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashclient.config.tables import BrakeConfig, PolicyRule
from hashclient.core.kinds import Algorithm, Kind, MatchState
from hashclient.core.model import Hit, MatchRef, Outcome
from hashclient.decisions.brake import Brake
from hashclient.decisions.policy import Policy
from hashclient.matches.store import Matches

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
KEY = "0123456789abcdef"
BOTH = PolicyRule(("quarantine", "report"))


def hit(entry: str, list_name: str = "base") -> Hit:
    return Hit(list_name, entry, "synthetic", 1, (Algorithm.SHA256,), complete=True)


class Desk:
    """A record of matches and a brake, with a clock that the test sets."""

    def __init__(self, record: Matches, *rules: PolicyRule, **limits: int) -> None:
        self.record = record
        self.brake = Brake(BrakeConfig(**limits), Policy(rules or (BOTH,)))
        self.now = NOW

    def find(self, path: str, *hits: Hit) -> MatchRef:
        outcome = Outcome(Kind.MATCH, path, 4, hits=hits, tags={Algorithm.SHA256: path.encode()})
        (ref,) = self.record.record(
            [outcome], KEY, self.now, hold=lambda c, p: self.brake.decide(c, p, self.now)
        )
        return ref

    def held(self, paths: str, *hits: Hit) -> str:
        """Find files with these hits, and return the files that the brake holds."""
        return "".join(path for path in paths if self.find(f"/{path}", *hits).held)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Matches]:
    with Matches(tmp_path) as opened:
        yield opened


def test_a_file_counts_from_when_it_was_acted_upon_if_that_was_late(record: Matches) -> None:
    desk = Desk(record, per_entry=1)
    ref = desk.find("/a", hit("e-1"))
    desk.now += timedelta(hours=5)
    record.use([ref.id], desk.now, desk.now - timedelta(minutes=10))
    desk.now = NOW + timedelta(hours=25)
    assert desk.held("b", hit("e-1")) == "b"
    desk.now = NOW + timedelta(hours=30)
    assert desk.held("c", hit("e-1")) == ""


def test_a_clock_that_is_set_back_gives_no_more_permits(record: Matches) -> None:
    desk = Desk(record, per_entry=2)
    assert desk.held("ab", hit("e-1")) == ""
    desk.now = NOW - timedelta(days=400)
    assert desk.held("cd", hit("e-1")) == "cd"


def test_a_clock_that_was_some_days_ahead_has_forgotten_no_permit(record: Matches) -> None:
    desk = Desk(record, per_entry=2)
    assert desk.held("ab", hit("e-1")) == ""
    desk.now += timedelta(days=3)
    # Another process starts three days later and removes the permits that have expired.
    ahead = Desk(record, per_entry=2)
    ahead.now = desk.now
    assert ahead.held("c", hit("e-2")) == ""
    desk.now = ahead.now = NOW + timedelta(hours=1)
    assert ahead.held("d", hit("e-1")) == "d"


def test_a_file_of_two_entries_counts_for_both_and_once_for_the_day(record: Matches) -> None:
    desk = Desk(record, per_entry=3, per_day=4)
    assert desk.held("ab", hit("e-1"), hit("e-2")) == ""
    assert desk.held("cd", hit("e-1")) == "d"
    assert desk.held("ef", hit("e-2")) == "f"
    assert desk.held("g", hit("e-3")) == "g"  # held: the daily limit of all entries is reached


def test_each_action_needs_an_entry_that_asks_for_it_and_has_room(record: Matches) -> None:
    """An entry that asks for a report must not permit the isolation that another entry asks for."""
    rules = PolicyRule(("quarantine",), list="a"), PolicyRule(("report",), list="b")
    desk = Desk(record, *rules, per_entry=1)
    assert desk.held("x", hit("e-1", "a")) == ""
    assert desk.held("y", hit("e-1", "a"), hit("e-2", "b")) == "y"
    assert desk.held("z", hit("e-2", "b")) == ""


def test_a_match_in_a_report_needs_no_permit_for_it_any_more(record: Matches) -> None:
    desk = Desk(record, PolicyRule(("report",)), per_entry=1)
    ref = desk.find("/a", hit("e-1"))
    record.want_report(ref.id, "police", desk.now)
    desk.now += timedelta(hours=30)
    assert desk.held("ab", hit("e-1")) == ""
    assert desk.held("c", hit("e-1")) == "c"


def test_a_reported_match_that_may_not_be_isolated_stays_reported(record: Matches) -> None:
    desk = Desk(record, per_entry=1)
    ref = desk.find("/a", hit("e-1"))
    record.change(ref.id, MatchState.REPORTED, desk.now, {"report": "r-1"})
    desk.now += timedelta(hours=30)
    assert desk.held("b", hit("e-1")) == ""
    again = desk.find("/a", hit("e-1"))
    assert again.held and again.state is MatchState.REPORTED
    assert record.get(ref.id).state is MatchState.REPORTED


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.sets(st.integers(0, 3), min_size=1), st.integers(0, 9)),
        max_size=60,
    )
)
def test_no_entry_ever_lets_more_files_be_acted_upon_within_a_day(
    tmp_path_factory: pytest.TempPathFactory, finds: list[tuple[int, set[int], int]]
) -> None:
    """Files are found in any order, also repeatedly; each file that is not held is isolated."""
    with Matches(tmp_path_factory.mktemp("state")) as record:
        desk = Desk(record, per_entry=2)
        for name, entries, hours in finds:
            desk.now += timedelta(hours=hours)
            ref = desk.find(f"/{name}", *(hit(f"e-{n}") for n in sorted(entries)))
            if ref.held:
                continue
            record.change(ref.id, MatchState.QUARANTINED, desk.now, {}, in_place=False)
            since = desk.now - timedelta(hours=24)
            assert all(record.used(("base", f"e-{n}"), since) <= 2 for n in range(4))
            # The recorded permit of an action belongs to an entry that the file matches.
            letting = record.permits_of(ref.id, since)
            assert letting and letting <= {("base", f"e-{n}") for n in entries}

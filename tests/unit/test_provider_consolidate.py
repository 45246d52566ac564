"""Consolidation: fewer segments for the same list, and clients of any generation can follow."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.core.errors import UsageError
from hashclient.lists.wire import MAX_SEGMENTS, Segment
from hashclient.provider.consolidate import KEEP_NEWEST, RATIO, ranges_to_join
from hashclient.provider.listfiles import UNREFERENCED_S
from hashclient.provider.repository import Repository
from tests.kit.depth import examples

ALL = range(60)

Kind = Literal["add", "withdraw"]


def segments(*entries: int) -> list[Segment]:
    return [Segment(f"s{n}", "add", count, n, n) for n, count in enumerate(entries, 1)]


def joined(*entries: int, keep: int = 0) -> list[int]:
    ranges = ranges_to_join(segments(*entries), len(entries), keep)
    return [segment.first for r in ranges for segment in r]


def test_a_large_old_range_is_left_alone() -> None:
    assert joined(1000, 10, 10, 10) == [2, 3, 4]
    assert joined(RATIO * 30, 10, 10, 10) == [1, 2, 3, 4]
    assert joined(RATIO * 30 + 1, 10, 10, 10) == [2, 3, 4]


def test_small_ranges_between_large_ones_keep_nothing_apart() -> None:
    """Example: every publication is followed by a withdrawal of a few entries."""
    assert joined(1000, 2, 1000, 2) == [1, 2, 3, 4]
    assert joined(50_000, 1000, 2, 1000, 2) == [2, 3, 4, 5]
    assert joined(50_000, 1000, 2) == []


class Days:
    """A simulated list without entries: only their numbers change, day by day.

    Only old entries are withdrawn, so no withdrawal is ever dropped. This is the worst case.
    """

    def __init__(self, keep_newest: int = KEEP_NEWEST) -> None:
        self.keep_newest = keep_newest
        self.segments: list[Segment] = []
        self.generation = 0
        self.most = 0
        self.published = 0
        self.rewritten = 0

    def change(self, *, add: int = 0, withdraw: int = 0) -> None:
        changes: list[tuple[Kind, int]] = [("add", add), ("withdraw", withdraw)]
        for kind, count in changes:
            if count:
                self.generation += 1
                number = self.generation
                self.segments.append(Segment(f"{kind}-{number}", kind, count, number, number))
                self.published += count
        self.most = max(self.most, len(self.segments))

    def consolidate(self) -> None:
        ranges = ranges_to_join(self.segments, self.generation, self.keep_newest)
        joined = [segment for r in ranges for segment in r]
        if not joined:
            return
        start, first, last = self.segments.index(joined[0]), joined[0].first, joined[-1].last
        new = []
        kinds: list[Kind] = ["withdraw", "add"]
        for kind in kinds:
            if count := sum(segment.entries for segment in joined if segment.kind == kind):
                new.append(Segment(f"{kind}-{first}-{last}", kind, count, first, last))
                self.rewritten += count
        self.segments[start : start + len(joined)] = new

    @property
    def old(self) -> list[int]:
        """Return the number of entries in each range of old generations."""
        weights: dict[int, int] = {}
        for segment in self.segments:
            if segment.last <= self.generation - self.keep_newest:
                weights[segment.first] = weights.get(segment.first, 0) + segment.entries
        return list(weights.values())


#: Return how often an entry may be rewritten: only after its range has grown by a quarter.
def most_rewrites(published: int) -> float:
    return math.log(published, 1 + 1 / RATIO)


@pytest.mark.parametrize("every", [1, 7, 30], ids=["daily", "weekly", "monthly"])
def test_five_years_of_many_new_entries_and_few_withdrawals_a_day(every: int) -> None:
    days = Days()
    for day in range(5 * 365):
        days.change(add=1000, withdraw=2)
        if day % every == 0:
            days.consolidate()
    days.consolidate()
    # There are segments for the newest generations and for the generations since the last
    # consolidation. The number of other segments grows with the logarithm of the list.
    ranges = math.log(days.published, RATIO + 1) + 1
    assert days.most <= KEEP_NEWEST + 2 * every + 2 * ranges < MAX_SEGMENTS / 10
    assert days.rewritten <= days.published * most_rewrites(days.published) / 4


def test_a_list_that_was_never_joined_for_999_days_is_made_small_at_once() -> None:
    days = Days()
    for _ in range(999):
        days.change(add=1000, withdraw=2)
    assert len(days.segments) == 1998
    days.consolidate()
    assert len(days.segments) == KEEP_NEWEST + 2


@given(
    steps=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 50)), max_size=60),
    keep_newest=st.integers(0, 8),
)
def test_old_ranges_stay_few_and_no_segment_is_joined_twice(
    steps: Iterable[tuple[int, int]], keep_newest: int
) -> None:
    days = Days(keep_newest)
    for add, withdraw in steps:
        days.change(add=add, withdraw=withdraw)
        days.consolidate()
        weights = days.old
        after = 0
        for weight in reversed(weights):
            assert not after or weight > RATIO * after
            after += weight
        before = list(days.segments)
        days.consolidate()
        assert days.segments == before
        if weights:
            assert len(weights) <= 1 + math.log(sum(weights), RATIO + 1)


@pytest.mark.slow
def test_clients_follow_a_list_of_such_days_by_deltas_across_consolidations(
    simulator: Simulator, tmp_path: Path
) -> None:
    repository = simulator.repository
    daily = Client(tmp_path / "daily", simulator, simulator.root)
    weekly = Client(tmp_path / "weekly", simulator, simulator.root)
    live: set[int] = set()
    counts = []
    for day in range(6):
        new = set(range(5 * day, 5 * day + 5))
        simulator.publish(csv(sorted(new)))
        live |= new
        gone = min(live)
        simulator.withdraw(f"e-{gone}")
        live.remove(gone)
        done = repository.consolidate("baseline", keep_newest=6)
        counts.append(done.after)
        simulator.serve_published()
        for client in (daily, weekly) if day % 3 == 2 else (daily,):
            (fetched,) = client.fetch()
            # A delta reports its changes, but a list that is built again does not.
            counted = fetched.added, fetched.withdrawn
            assert counted == ((5, 1) if client is daily else (15, 3))
            assert client.numbers(range(30)) == live
    assert max(counts) <= 6 + 2
    late = Client(tmp_path / "late", simulator, simulator.root)
    simulator.requests.clear()
    late.fetch()
    assert late.numbers(range(30)) == live
    asked = [request for request in simulator.requests if request.endswith(".parquet")]
    assert len(asked) == counts[-1]


def test_the_newest_generations_are_left_alone() -> None:
    assert joined(10, 10, 10, 10, keep=2) == [1, 2]
    assert joined(10, 10, 10, keep=2) == []
    assert joined(10, keep=0) == []
    assert ranges_to_join([], 0, 0) == []


@pytest.mark.slow
def test_segments_stay_few_however_many_generations(simulator: Simulator) -> None:
    counts = []
    for number in range(40):
        simulator.publish(csv([number]))
        simulator.repository.consolidate("baseline", keep_newest=0)
        (status,) = simulator.repository.status().lists
        counts.append(status.segments)
    assert max(counts) <= 4
    simulator.serve_published()
    client = Client(simulator.repository.directory.parent / "state", simulator, simulator.root)
    client.fetch()
    assert client.numbers(ALL) == set(range(40))


@pytest.mark.slow
@examples(25)
@given(
    steps=st.lists(
        st.tuples(
            st.sets(st.integers(0, 11), max_size=4),
            st.sets(st.integers(0, 11), max_size=4),
            st.integers(0, 5) | st.none(),
        ),
        min_size=1,
        max_size=7,
    )
)
def test_every_client_ends_with_the_same_list(
    steps: list[tuple[set[int], set[int], int | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Entries are published, withdrawn and consolidated at random; clients of any age follow."""
    folder = tmp_path_factory.mktemp("consolidate")
    simulator = Simulator(folder / "repo")
    live: set[int] = set()
    clients: list[Client] = []
    for number, (gone, new, keep_newest) in enumerate(steps):
        if withdrawn := gone & live:
            simulator.withdraw(*(f"e-{n}" for n in sorted(withdrawn)))
            live -= withdrawn
        if added := new - live:
            simulator.publish(csv(sorted(added)))
            live |= added
        if keep_newest is not None and simulator.repository.status().lists:
            simulator.repository.consolidate("baseline", keep_newest=keep_newest)
            simulator.serve_published()
        if simulator.repository.status().lists:
            client = Client(folder / f"state{number}", simulator, simulator.root)
            client.fetch()
            assert client.numbers(range(12)) == live
            clients.append(client)
    for client in clients:
        client.fetch()
        assert client.numbers(range(12)) == live
        assert client.leftovers() == set()
    shutil.rmtree(folder)


def test_a_client_that_is_up_to_date_downloads_no_segment(
    simulator: Simulator, tmp_path: Path
) -> None:
    for number in range(5):
        simulator.publish(csv([number]))
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    done = simulator.repository.consolidate("baseline", keep_newest=1)
    assert (done.before, done.after, done.generation) == (5, 2, 5)
    simulator.serve_published()
    simulator.requests.clear()
    (fetched,) = client.fetch()
    assert not fetched.changed
    assert not [request for request in simulator.requests if request.endswith(".parquet")]
    assert client.numbers(ALL) == set(range(5))


def test_replaced_files_stay_for_a_day(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    repository = Repository(tmp_path / "repo", clock=lambda: now)
    repository.create()
    folder = repository.public / "targets/lists/baseline"
    for number in range(3):
        path = tmp_path / "entries.csv"
        path.write_bytes(csv([number]))
        with path.open("rb") as stream:
            repository.publish("baseline", [("entries.csv", stream)])
    repository.consolidate("baseline", keep_newest=0)
    before = set(folder.iterdir())
    assert sum(1 for path in before if path.suffix == ".parquet") == 4
    now += timedelta(seconds=UNREFERENCED_S + 60)
    done = repository.consolidate("baseline", keep_newest=0)
    assert (done.before, done.after) == (1, 1)
    after = set(folder.iterdir())
    assert sum(1 for path in after if path.suffix == ".parquet") == 1
    assert sum(1 for path in after if path.name.endswith("index.json")) == 1


def test_there_must_be_such_a_list(simulator: Simulator) -> None:
    with pytest.raises(UsageError, match="no such list"):
        simulator.repository.consolidate("baseline")

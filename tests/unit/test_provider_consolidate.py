"""Consolidation: fewer segments, the same list, whatever generation a client has."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.errors import UsageError
from hashclient.hashlist import Segment
from hashclient.provider import UNREFERENCED_S, Repository
from hashclient.provider.consolidate import RATIO, ranges_to_join

ALL = range(60)


def segments(*entries: int) -> list[Segment]:
    return [Segment(f"s{n}", "add", count, n, n) for n, count in enumerate(entries, 1)]


def joined(*entries: int, keep: int = 0) -> list[int]:
    ranges = ranges_to_join(segments(*entries), len(entries), keep)
    return [segment.first for r in ranges for segment in r]


def test_a_large_old_range_is_left_alone() -> None:
    assert joined(1000, 10, 10, 10) == [2, 3, 4]
    assert joined(RATIO * 30, 10, 10, 10) == [1, 2, 3, 4]
    assert joined(RATIO * 30 + 1, 10, 10, 10) == [2, 3, 4]


def test_the_newest_generations_are_left_alone() -> None:
    assert joined(10, 10, 10, 10, keep=2) == [1, 2]
    assert joined(10, 10, 10, keep=2) == []
    assert joined(10, keep=0) == []
    assert ranges_to_join([], 0, 0) == []


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


@settings(max_examples=25)
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
    """Withdraw some, publish some (back, too), consolidate or not; clients of every age follow."""
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

"""`provider revert`: a generation is undone, as far as nothing later concerns its entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.errors import UsageError
from hashclient.provider.asking import difference, find
from hashclient.provider.drafts import load_draft
from hashclient.provider.find import Questions
from hashclient.provider.results import Entry
from tests.kit import call, csv_of


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    """A list of generations 1 (entries 0 to 9), 2 (less 0 to 2) and 3 (10 to 14)."""
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(10)))
    simulator.withdraw("e-0", "e-1", "e-2")
    simulator.publish(csv(range(10, 15)))
    return simulator


def entries(simulator: Simulator, *ids: str) -> list[Entry]:
    answers = find(simulator.repository, Questions(ids))
    return [entry for a in answers for entry in a.entries if entry.withdrawn is None]


def test_what_it_took_comes_back_and_what_it_brought_goes(
    simulator: Simulator, tmp_path: Path
) -> None:
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    done = simulator.repository.revert("baseline", 2)
    assert (done.generation, done.changed, done.withdrawn, done.live) == (4, 3, 0, 15)
    done = simulator.repository.revert("baseline", 3)
    assert (done.generation, done.changed, done.withdrawn, done.live) == (5, 0, 5, 10)
    simulator.serve_published()
    client.fetch()
    assert client.numbers(range(15)) == set(range(10))


def test_a_reverted_generation_is_brought_back_by_reverting_that(simulator: Simulator) -> None:
    simulator.publish(csv(range(5, 9)), replace=True)
    before = difference(simulator.repository, "baseline", 3, 4)
    simulator.repository.revert("baseline", 4)
    undone = difference(simulator.repository, "baseline", 4, 5)
    assert (undone.added, undone.withdrawn) == (before.withdrawn, before.added)
    simulator.repository.revert("baseline", 5)
    nothing = difference(simulator.repository, "baseline", 4, 6)
    assert (nothing.added, nothing.withdrawn) == ((), ())


def test_an_entry_comes_back_with_all_that_it_had(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv_of({"a": b"one", "b": b"two"}) + b"c,00" + b"00" * 15 + b",,,,x\n")
    before = entries(simulator, "a", "b", "c")
    simulator.publish(b"entry_id,md5,category\na," + b"11" * 16 + b",other\n", replace=True)
    done = simulator.repository.revert("baseline", 2)
    assert (done.changed, done.withdrawn, done.live) == (3, 1, 3)
    assert done.categories == {"synthetic": 2, "x": 1}
    after = entries(simulator, "a", "b", "c")
    facts = [(e.entry_id, e.category, e.size, e.algorithms) for e in after]
    assert facts == [(e.entry_id, e.category, e.size, e.algorithms) for e in before]


def test_what_a_later_generation_has_changed_stays(simulator: Simulator) -> None:
    simulator.publish(csv([1]))  # again, in generation 4
    simulator.withdraw("e-11")
    assert simulator.repository.revert("baseline", 2).changed == 2
    assert simulator.repository.revert("baseline", 3).withdrawn == 4
    simulator.withdraw("e-1")
    for generation in (2, 3, 4):
        with pytest.raises(UsageError, match=f"nothing of generation {generation} of list"):
            simulator.repository.revert("baseline", generation)


def test_after_a_consolidation_the_last_version_of_an_entry_comes_back(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    for size in (1, 2):
        text = f"entry_id,md5,size\na,{'00' * 16},{size}\n"
        simulator.publish(text.encode(), replace=True)
    simulator.publish(csv(range(3)))
    simulator.repository.consolidate("baseline", keep_newest=1)
    simulator.withdraw("a")
    simulator.repository.revert("baseline", 4)
    assert [entry.size for entry in entries(simulator, "a")] == [2]
    with pytest.raises(UsageError, match="was joined with others: 1 to 2"):
        simulator.repository.revert("baseline", 2)


def test_the_command_says_what_came_back(simulator: Simulator, tmp_path: Path) -> None:
    words = ("provider", "revert", simulator.repository.directory, "baseline")
    draft = tmp_path / "draft"
    tried = call(*words, "2", "--draft", draft)
    assert tried.out == (
        "list baseline: generation 4: 3 would be added, 0 withdrawn, 15 live\n"
        "  added in category synthetic: 3\n"
    )
    change = load_draft(draft).lists["baseline"]
    assert (change.generation, change.added, change.live) == (4, 3, 15)
    done = call(*words, "2")
    assert done.out == "list baseline: generation 4: 3 added, 0 withdrawn, 15 live\n"
    for wrong, message in (("9", "no such generations"), ("2", "is left to undo")):
        refused = call(*words, wrong)
        assert refused.code == 2
        assert message in refused.err
    shown = call("provider", "log", "show", simulator.repository.directory, "--format", "jsonl")
    last = shown.lines[-1]
    assert (last["event"], last["data"]["of_generation"]) == ("generation-reverted", 2)

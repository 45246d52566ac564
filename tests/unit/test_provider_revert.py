"""`provider revert`: a generation is undone, except for entries that changed later."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from fixtures.client import Client, csv
from fixtures.crash import in_child, kill_at, watched
from fixtures.simulator import Simulator
from hashclient.core.errors import UsageError, VerificationError
from hashclient.provider.asking import difference, find
from hashclient.provider.drafts import load_draft
from hashclient.provider.find import Questions
from hashclient.provider.results import Entry
from tests.kit import call, csv_of
from tests.unit.test_provider_replace import DIGESTS, bare, live, publish


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    """A list of generation 1 (entries 0 to 9), 2 (0 to 2 withdrawn) and 3 (10 to 14 added)."""
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
    simulator.publish(csv([1]))  # entry 1 is published again, in generation 4
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


def test_generations_that_left_nothing_when_they_were_joined_are_named(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(3)))
    simulator.withdraw("e-0", "e-1", "e-2")
    simulator.publish(csv(range(3, 5)))
    simulator.repository.consolidate("baseline", keep_newest=1)
    for generation in (1, 2):
        with pytest.raises(UsageError, match="joined with others: 1 to 2"):
            simulator.repository.revert("baseline", generation)
    with pytest.raises(UsageError, match="joined with others"):
        difference(simulator.repository, "baseline", 1, 3)
    assert len(difference(simulator.repository, "baseline", 2, 3).added) == 2
    assert len(difference(simulator.repository, "baseline", 0, 3).added) == 2


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


def test_a_list_that_has_ended_is_not_brought_back(simulator: Simulator) -> None:
    simulator.repository.end_list("baseline")
    with pytest.raises(UsageError, match="no such list"):
        simulator.repository.revert("baseline", 2)


def test_a_draft_of_before_is_refused_afterwards(simulator: Simulator, tmp_path: Path) -> None:
    """A draft that undoes the same generation is also refused: entries would return twice."""
    simulator.publish(csv([20]), draft=tmp_path / "theirs")
    simulator.repository.revert("baseline", 2, draft=tmp_path / "mine")
    simulator.repository.revert("baseline", 2)
    for name in ("theirs", "mine"):
        with pytest.raises(VerificationError, match="follows another version"):
            simulator.repository.publish_draft(tmp_path / name)


Entries = dict[str, tuple[str, str, int]]


class Model:
    """The expected list: its entries after each generation, and the ids of each change."""

    def __init__(self, simulator: Simulator, chance: random.Random) -> None:
        self.simulator, self.chance = simulator, chance
        self.states: list[Entries] = [{}]
        self.touched: list[set[str]] = [set()]

    def note(self) -> None:
        """Note the published entries, and which entries have changed."""
        after, before = live(self.simulator), self.states[-1]
        self.states.append(after)
        differ = {i for i in after.keys() | before.keys() if after.get(i) != before.get(i)}
        self.touched.append(differ)

    def replace(self) -> None:
        """Publish any entries as the whole list."""
        rows = [
            f"n{n},{DIGESTS[n]},{self.chance.choice('xy')},{self.chance.randrange(1, 3)}\n"
            for n in self.chance.sample(range(12), self.chance.randrange(1, 12))
        ]
        done = publish(self.simulator, "entry_id,md5,category,size\n" + "".join(rows))
        if done.generation == len(self.states):
            self.note()

    def withdraw(self) -> None:
        """Withdraw some entries."""
        here = sorted(self.states[-1])
        if here:
            self.simulator.withdraw(*self.chance.sample(here, self.chance.randrange(len(here)) + 1))
            self.note()

    def revert(self) -> None:
        """Revert any generation, and check the result."""
        number = self.chance.randrange(1, len(self.states))
        later = set().union(*self.touched[number + 1 :])
        expected = dict(self.states[-1])
        for entry_id in self.touched[number] - later:
            expected.pop(entry_id, None)
            if (entry := self.states[number - 1].get(entry_id)) is not None:
                expected[entry_id] = entry
        try:
            self.simulator.repository.revert("baseline", number)
        except UsageError as error:
            refused = error.message
        else:
            refused = ""
            self.note()
        if "was joined with others" not in refused:
            assert self.states[-1] == expected
            assert not refused or "is left to undo" in refused


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_any_generation_of_any_list_is_undone_exactly(tmp_path: Path, seed: int) -> None:
    model = Model(Simulator(tmp_path / "repo"), random.Random(seed))
    model.replace()
    client = Client(tmp_path / "state", model.simulator, model.simulator.root)
    for step in range(12):
        change = model.chance.choice((model.replace, model.withdraw, model.revert, model.revert))
        change()
        if model.chance.random() < 0.15:
            model.simulator.repository.consolidate("baseline", keep_newest=3)
        if step % 4 == 3:
            model.simulator.serve_published()
            client.fetch()
            manifest = client.manifest()
            assert manifest is not None and manifest.entries == len(model.states[-1])


@pytest.mark.slow
def test_a_kill_at_any_instant_leaves_the_old_list_or_the_new_one(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "whole")
    repository = simulator.repository
    publish(simulator, bare(0, 1, 2, 3))
    publish(simulator, bare(3, 4))
    shutil.copytree(repository.directory, tmp_path / "saved")
    old, new = {"1-4", "2-1"}, {"1-1", "1-2", "1-3", "1-4"}

    def listed() -> set[str]:
        return {*difference(repository, "baseline", 0).added}

    def undo() -> None:
        with watched(kill_at(number)):
            repository.revert("baseline", 2)

    seen, number, code = [], 0, -9
    while code:
        number += 1
        code = in_child(undo)
        assert code in {0, -9}
        seen.append(listed())
        # The files that the killed process has left do not stop the next command.
        is_done = repository.status().lists[0].generation == 3
        repository.revert("baseline", 3 if is_done else 2)
        assert listed() == (old if is_done else new)
        shutil.rmtree(repository.directory)
        shutil.copytree(tmp_path / "saved", repository.directory)
    assert seen[0] == old and seen[-1] == new and all(one in (old, new) for one in seen)

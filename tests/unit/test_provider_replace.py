"""`publish --replace`: the files replace the whole list, and clients download the difference."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from fixtures.client import Client
from fixtures.simulator import Simulator
from hashclient.core.errors import UsageError
from hashclient.lists.wire import parse_add_segment, parse_index, parse_withdraw_segment
from hashclient.provider.results import Published
from tests.kit import call

DIGESTS = [hashlib.md5(b"benign %d" % n).hexdigest() for n in range(40)]


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    return Simulator(tmp_path / "repo")


def publish(simulator: Simulator, text: str, *, dry_run: bool = False) -> Published:
    return simulator.publish(text.encode(), replace=True, dry_run=dry_run)


def live(simulator: Simulator) -> dict[str, tuple[str, str, int]]:
    """Return the MD5, category and size of each live entry that a client has, by id."""
    folder = simulator.repository.public / "targets" / "lists" / "baseline"
    newest = max(
        (parse_index(p.read_bytes(), "baseline") for p in folder.glob("*.index.json")),
        key=lambda index: index.generation,
    )
    found: dict[str, tuple[str, str, int]] = {}
    for segment in newest.segments:
        (path,) = folder.glob(f"*.{segment.name}")
        if segment.kind == "withdraw":
            for ids in parse_withdraw_segment(path.read_bytes(), segment):
                for entry_id in ids.tolist():
                    del found[entry_id.decode()]
            continue
        for batch in parse_add_segment(path.read_bytes(), segment):
            ((values, _),) = batch.digests.values()
            for row, entry_id in enumerate(batch.ids.tolist()):
                assert entry_id.decode() not in found
                category = batch.categories[batch.category_codes[row]]
                size = int(batch.sizes[row].astype("int64"))
                found[entry_id.decode()] = (values[row].tobytes().hex(), category, size)
    assert len(found) == newest.entries
    return found


def bare(*numbers: int) -> str:
    return "".join(f"{DIGESTS[n]}\n" for n in numbers)


def test_listed_entries_stay_and_missing_ones_are_withdrawn(simulator: Simulator) -> None:
    assert publish(simulator, bare(0, 1, 2)).changed == 3
    before = live(simulator)
    done = publish(simulator, bare(1, 2, 3))
    assert (done.generation, done.changed, done.withdrawn, done.live) == (2, 1, 1, 3)
    after = live(simulator)
    assert {entry[0] for entry in after.values()} == {DIGESTS[1], DIGESTS[2], DIGESTS[3]}
    # Entries that stay in the list keep their ids.
    kept = {name for name, entry in before.items() if entry in after.values()}
    assert kept == before.keys() & after.keys()
    assert done.listed is None


def test_without_a_difference_there_is_no_generation(simulator: Simulator) -> None:
    publish(simulator, bare(0, 1))
    done = publish(simulator, bare(1, 0))
    assert (done.generation, done.changed, done.withdrawn, done.live) == (1, 0, 0, 2)
    done = publish(simulator, bare(1))
    assert (done.generation, done.changed, done.withdrawn, done.live) == (2, 0, 1, 1)


def test_an_entry_that_changed_is_withdrawn_and_added_under_its_id(simulator: Simulator) -> None:
    head = "entry_id,md5,size,category\n"
    publish(simulator, f"{head}a,{DIGESTS[0]},5,x\nb,{DIGESTS[1]},6,x\nc,{DIGESTS[2]},7,x\n")
    done = publish(simulator, f"{head}a,{DIGESTS[0]},5,x\nb,{DIGESTS[1]},6,Y\nd,{DIGESTS[2]},7,x\n")
    assert (done.changed, done.withdrawn, done.live) == (2, 2, 3)
    assert live(simulator) == {
        "a": (DIGESTS[0], "x", 5),
        "b": (DIGESTS[1], "y", 6),
        "d": (DIGESTS[2], "x", 7),
    }


def test_doubles_are_as_many_as_in_the_files(simulator: Simulator) -> None:
    publish(simulator, bare(0, 0, 1, 0))
    first = live(simulator)
    done = publish(simulator, bare(0, 1))
    assert (done.changed, done.withdrawn, done.live) == (0, 2, 2)
    assert live(simulator).keys() == {"1-1", "1-3"} < first.keys()
    done = publish(simulator, bare(1, 0, 1))
    assert (done.changed, done.withdrawn, done.live) == (1, 0, 3)
    assert done.listed is not None and done.listed.count == 1
    assert publish(simulator, bare(0, 1, 1)).generation == 3


def test_a_double_with_an_id_is_the_listed_entry_of_that_id(simulator: Simulator) -> None:
    """A row with an id is the listed entry of this id; a row without an id is its double."""
    head = "entry_id,md5\n"
    publish(simulator, f"{head}a,{DIGESTS[0]}\nb,{DIGESTS[0]}\n")
    done = publish(simulator, f"{head},{DIGESTS[0]}\na,{DIGESTS[0]}\n")
    assert (done.generation, done.changed, done.withdrawn, done.live) == (1, 0, 0, 2)
    publish(simulator, f"{head},{DIGESTS[0]}\n")
    assert live(simulator).keys() == {"a"}


def test_an_id_that_occurs_twice_is_refused_when_it_is_listed_as_well(
    simulator: Simulator,
) -> None:
    text = f"entry_id,md5\na,{DIGESTS[0]}\n"
    with pytest.raises(UsageError, match="entry id occurs twice: a"):
        publish(simulator, f"{text}a,{DIGESTS[0]}\n")
    publish(simulator, text)
    with pytest.raises(UsageError, match="entry id is on the list already: a"):
        publish(simulator, f"{text}a,{DIGESTS[0]}\n")


def test_a_client_follows(simulator: Simulator, tmp_path: Path) -> None:
    head = "entry_id,md5,category\n"
    publish(simulator, f"{head}a,{DIGESTS[0]},x\nb,{DIGESTS[1]},x\nc,{DIGESTS[2]},x\n")
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    publish(simulator, f"{head}a,{DIGESTS[0]},y\nb,{DIGESTS[3]},x\nc,{DIGESTS[2]},x\n")
    client.fetch()
    found = call(
        *("--state-dir", tmp_path / "state", "lookup", "--format", "jsonl", "--show-all"),
        *(DIGESTS[n] for n in range(4)),
    )
    assert [(line["type"], line.get("category")) for line in found.lines[:-1]] == [
        ("match", "y"),
        ("clean", None),
        ("match", "x"),
        ("match", "x"),
    ]


def test_a_source_of_nothing_withdraws_nothing(simulator: Simulator) -> None:
    publish(simulator, bare(0, 1))
    with pytest.raises(UsageError, match="all entries of the list would be withdrawn"):
        publish(simulator, "")
    assert len(live(simulator)) == 2


def test_a_dry_run_of_it_changes_nothing(simulator: Simulator) -> None:
    publish(simulator, bare(0, 1))
    before = live(simulator)
    done = publish(simulator, bare(1, 2, 3), dry_run=True)
    assert (done.generation, done.changed, done.withdrawn, done.live) == (2, 2, 1, 3)
    assert live(simulator) == before


@pytest.mark.sampled
@pytest.mark.parametrize("seed", range(5))
def test_after_any_sources_the_list_is_the_last_of_them(simulator: Simulator, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(5):
        rows = []
        for n in sorted(chance.sample(range(30), chance.randrange(1, 30))):
            name = f"n{n}" if n % 2 else ""
            row = (name, DIGESTS[n], chance.choice(("x", "y")), chance.randrange(1, 3))
            rows += [row] * (1 if name else chance.randrange(1, 4))
        text = "".join(f"{i},{d},{s},{c}\n" for i, d, c, s in rows)
        publish(simulator, f"entry_id,md5,size,category\n{text}")
        if chance.random() < 0.5:
            simulator.repository.consolidate("baseline", keep_newest=0)
        found = live(simulator)
        assert sorted(found.values()) == sorted((d, c, s) for _, d, c, s in rows)
        assert {n for n in found if n.startswith("n")} == {i for i, *_ in rows if i}

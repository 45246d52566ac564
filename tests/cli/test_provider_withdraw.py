"""`provider withdraw`: by ids, by files of ids, and by generation; always one new generation."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.provider.drafts import load_draft
from tests.kit import Run, call, run

MD5 = hashlib.md5(b"benign").hexdigest()


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    """A list of generations 1 (entries 0 to 9) and 2 (10 to 14)."""
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(10)))
    simulator.publish(csv(range(10, 15)))
    return simulator


def withdraw(simulator: Simulator, *words: object) -> Run:
    return call(
        *("provider", "withdraw", simulator.repository.directory, "--list", "baseline", *words)
    )


def test_a_file_of_ids_is_one_generation(simulator: Simulator, tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfe-1\r\n\r\n  e-2 \r\ne-3")
    done = withdraw(simulator, "--from", path)
    assert done.out == "list baseline: generation 3: 3 withdrawn, 12 live\n"
    client = Client(tmp_path / "state", simulator, simulator.root)
    simulator.serve_published()
    client.fetch()
    assert client.numbers(range(15)) == {0, *range(4, 15)}


@pytest.mark.slow
def test_ids_come_from_standard_input(simulator: Simulator) -> None:
    words = ("withdraw", simulator.repository.directory, "--list", "baseline", "--from", "-")
    done = run("provider", *words, stdin=b"e-0\ne-1\n")
    assert (done.code, done.out) == (0, "list baseline: generation 3: 2 withdrawn, 13 live\n")


@pytest.mark.slow
def test_very_many_ids_are_one_generation(tmp_path: Path) -> None:
    count = 300_000
    simulator = Simulator(tmp_path / "repo")
    rows = [f"e-{n},{hashlib.md5(str(n).encode()).hexdigest()}" for n in range(count)]
    simulator.publish("\n".join(["entry_id,md5", *rows, ""]).encode())
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"e-{n}\n" for n in range(count)))
    done = withdraw(simulator, "--from", path)
    assert done.out == f"list baseline: generation 2: {count} withdrawn, 0 live\n"
    # The entries may be published again, and then get ids with the number of their new generation.
    simulator.publish("\n".join(["entry_id,md5", *rows, ""]).encode())
    done = withdraw(simulator, "--generation", 3)
    assert done.out == f"list baseline: generation 4: {count} withdrawn, 0 live\n"


def test_all_that_a_generation_added_is_withdrawn_and_nothing_else(simulator: Simulator) -> None:
    simulator.withdraw("e-1", "e-11")
    simulator.publish(csv([1]))  # entry 1 is published again, in generation 4
    done = withdraw(simulator, "--generation", 1)
    assert done.out == "list baseline: generation 5: 9 withdrawn, 5 live\n"
    done = withdraw(simulator, "--generation", 2)
    assert done.out == "list baseline: generation 6: 4 withdrawn, 1 live\n"
    gone = withdraw(simulator, "--generation", 2)
    assert gone.code == 2
    assert "no entry that generation 2 of list baseline added is on the list" in gone.err


@pytest.mark.parametrize(
    ("generation", "message"), [(9, "no such generations"), (1, "was joined with others: 1 to 2")]
)
def test_a_generation_that_is_not_there_by_itself_is_refused(
    simulator: Simulator, generation: int, message: str
) -> None:
    simulator.repository.consolidate("baseline", keep_newest=0)
    done = withdraw(simulator, "--generation", generation)
    assert done.code == 2
    assert message in done.err


def test_a_line_that_is_no_id_is_named_and_not_repeated(
    simulator: Simulator, tmp_path: Path
) -> None:
    path = tmp_path / "ids.txt"
    for wrong in (MD5, "é", "e" * 65, "e 1", "\0", "x" * 100_000):
        path.write_text(f"e-1\n{wrong}\n")
        done = withdraw(simulator, "--from", path)
        assert done.code == 2
        assert f"{path}:2: not an entry id" in done.err
        assert wrong not in done.err.replace(str(path), "")
    path.write_text("e-1\ne-1\n")
    assert "entry id is given twice: e-1" in withdraw(simulator, "--from", path).err
    path.write_text("\n")
    assert "no entries to withdraw" in withdraw(simulator, "--from", path).err
    assert withdraw(simulator, "--from", tmp_path).code == 2
    assert simulator.repository.status().lists[0].generation == 2


def test_only_one_way_of_naming_entries_is_taken(simulator: Simulator) -> None:
    for words in ((), ("e-1", "--from", "-"), ("e-1", "--generation", "1")):
        done = withdraw(simulator, *words)
        assert done.code == 2
        assert "give either ENTRY_ID…, or --from, or --generation" in done.err


def test_a_draft_withdraws_a_generation(simulator: Simulator, tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    done = withdraw(simulator, "--generation", 2, "--draft", draft)
    assert done.code == 0, done.err
    change = load_draft(draft).lists["baseline"]
    assert (change.generation, change.withdrawn, change.live) == (3, 5, 10)


def test_the_log_names_the_generation(simulator: Simulator) -> None:
    withdraw(simulator, "--generation", 2)
    shown = call("provider", "log", "show", simulator.repository.directory, "--format", "jsonl")
    last = shown.lines[-1]
    assert (last["event"], last["data"]["of_generation"]) == ("entries-withdrawn", 2)


def test_ids_are_read_in_bounded_lines() -> None:
    from hashclient.provider.changes import read_ids

    assert list(read_ids([("a", io.BytesIO(b"a\nb")), ("b", io.BytesIO(b"\nc\n"))])) == [*"abc"]

"""Several processes use one state directory: one writes; the others read, or are refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import threading
import warnings
from pathlib import Path

import pytest

from fixtures.client import Client, content, csv, numbers_in
from fixtures.simulator import Simulator
from hashclient.cli import main as command
from hashclient.core.errors import ExitCode, LockedError
from hashclient.index.blinding import load_sealer
from hashclient.index.reader import open_index
from hashclient.index.writer import Room
from tests.kit import Site, arguments, environment

GENERATIONS = 24
ALL = range(2 * GENERATIONS + 10)


def run(state: Path, *arguments: str) -> tuple[int, str]:
    """Run the command in this process, and return its exit code and stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = command._run(["--state-dir", str(state), *arguments])
    return code, out.getvalue()


def test_of_two_fetches_one_wins(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(5)))
    client = Client(tmp_path / "state", simulator, simulator.root)
    inside, go_on = threading.Event(), threading.Event()

    def held(_url: str, data: bytes, _max_bytes: int) -> bytes:
        inside.set()
        assert go_on.wait(60)
        return data

    simulator.faults["*.parquet"] = held
    generations: list[int | None] = []
    first = threading.Thread(target=lambda: generations.append(client.fetch()[0].generation))
    first.start()
    try:
        assert inside.wait(60)
        with pytest.raises(LockedError) as caught:
            Client(tmp_path / "state", simulator, simulator.root).fetch()
        assert caught.value.exit_code is ExitCode.STATE
        assert "another hashclient is writing" in caught.value.message
        # A reader does not wait for the lock, and fails because no list exists yet.
        assert run(tmp_path / "state", "scan", str(tmp_path))[0] == ExitCode.STATE
    finally:
        go_on.set()
        first.join(60)
    assert generations == [1]
    assert client.numbers(ALL) == set(range(5))
    assert client.leftovers() == set()
    assert client.fetch()[0].changed is False


@pytest.fixture
def history(tmp_path: Path) -> tuple[Simulator, list[dict[str, bytes]], list[set[int]]]:
    """A provider, its files by generation, and the entries that each generation listed."""
    simulator = Simulator(tmp_path / "repo")
    served, listed = [], []
    present: set[int] = set()
    number = 0
    for generation in range(1, GENERATIONS + 1):
        if generation % 3 == 0:
            gone = sorted(present)[:2]
            simulator.withdraw(*(f"e-{n}" for n in gone))
            present -= set(gone)
        else:
            simulator.publish(csv(range(number, number + 3)))
            present |= set(range(number, number + 3))
            number += 3
        served.append(dict(simulator.files))
        listed.append(set(present))
    return simulator, served, listed


@pytest.mark.slow
def test_readers_see_whole_generations_while_many_are_fetched(
    history: tuple[Simulator, list[dict[str, bytes]], list[set[int]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulator, served, listed = history
    monkeypatch.setattr(Room, "of", lambda _: Room(run_rows=4))
    client = Client(tmp_path / "state", simulator, simulator.root)
    simulator.files = served[0]
    client.fetch()
    (tmp_path / "inputs").mkdir()
    for n in ALL:
        (tmp_path / "inputs" / str(n)).write_bytes(content(n))
    arguments = ["scan", str(tmp_path / "inputs"), "--format", "jsonl", "--jobs", "1"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        writer = os.fork()
    if writer == 0:
        code = 1
        try:
            for files in served[1:]:
                simulator.files = files
                client.fetch()
            code = 0
        finally:
            os._exit(code)

    held = open_index(client.settings.layout.lists / "baseline", client.session.sealer())
    assert held is not None
    seen: list[int] = []
    status: int | None = None
    while status is None:
        done, raw = os.waitpid(writer, os.WNOHANG)
        status = os.waitstatus_to_exitcode(raw) if done else None
        # First, this process opens the index and looks up entries.
        lists = client.open()
        generation = lists.states[0].generation
        assert numbers_in(lists, ALL) == listed[generation - 1]
        # Second, the real command scans with the same index.
        exit_code, out = run(tmp_path / "state", *arguments)
        assert exit_code == ExitCode.MATCH
        *outcomes, summary = map(json.loads, out.splitlines())
        (used,) = summary["lists"]
        assert {o["generation"] for o in outcomes} == {used["generation"]}
        found = {int(o["entry"].removeprefix("e-")) for o in outcomes}
        assert found == listed[used["generation"] - 1]
        seen += [generation, used["generation"]]
    assert status == 0
    assert seen == sorted(seen) and seen[-1] == GENERATIONS
    assert len(set(seen)) > 2
    # An index that was opened before these fetches still gives the same answers.
    assert held.manifest.generation <= seen[0]
    assert held.masks_of_size(len(content(0))) != 0
    assert client.leftovers() == set()


@pytest.mark.slow
def test_many_fetches_at_once_for_many_rounds(tmp_path: Path) -> None:
    """In each round one real process fetches, and the others fetch as well or are refused."""
    with Site(tmp_path) as site:
        site.publish(csv([0]))
        assert site.call(*site.init_arguments()).code == 0
        for generation in range(1, 6):
            if generation > 1:
                site.publish(csv([generation]))
            running = [
                subprocess.Popen(
                    arguments("--state-dir", site.state, "fetch"),
                    env=environment(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                for _ in range(3)
            ]
            ends = [(*process.communicate(timeout=60), process.returncode) for process in running]
            assert all(code == ExitCode.OK or b"is writing" in err for _, err, code in ends), ends
            assert {code for *_, code in ends} <= {ExitCode.OK, ExitCode.STATE}
            assert ExitCode.OK in {code for *_, code in ends}
            index = open_index(site.state / "lists" / "baseline", load_sealer(site.state, None, {}))
            assert index is not None and index.manifest.generation == generation
        assert site.call("status", "--verify").code == ExitCode.OK
        assert site.call("audit", "verify").code == ExitCode.OK

"""A daemon whose processes are killed, or whose disk fails: answered matches are recorded."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
from pathlib import Path

import pytest

from tests.clamd import Daemon, instream, serving
from tests.kit import csv_of, make_state, run, wait_until

ENTRIES = {f"e-{number}": b"listed %d" % number for number in range(120)}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return make_state(tmp_path / "site", {"base": csv_of(ENTRIES)})


def ask(daemon: Daemon, names: list[str], answered: list[str]) -> int:
    """Ask for entries one by one; note those that were answered as found, and count them."""
    before = len(answered)
    for name in names:
        with contextlib.suppress(OSError):
            answer = daemon.ask(instream(ENTRIES[name]))
            assert answer in (b"", b"stream: Hashclient.base.%s FOUND\0" % name.encode())
            if answer:
                answered.append(name)
    return len(answered) - before


@pytest.mark.slow
def test_answered_matches_are_recorded_after_any_kill(state: Path, tmp_path: Path) -> None:
    rng = random.Random(5)
    answered: list[str] = []
    with serving(state, tmp_path / "run") as daemon:
        names = list(ENTRIES)
        threads = [
            threading.Thread(target=ask, args=(daemon, names[n::4], answered)) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            signal.sigtimedwait([], rng.uniform(0.05, 0.3))
            for pid in rng.sample(daemon.workers(), k=1) if daemon.workers() else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        # In the end it serves.
        wait_until(lambda: len(daemon.workers()) == 2, daemon.process.pid)
        wait_until(lambda: ask(daemon, names[:4], answered) == 4, daemon.process.pid)
    result = run("--state-dir", state, "matches", "--format", "jsonl")
    recorded = {line["entry"] for line in result.lines if line["type"] == "match"}
    assert set(answered) <= recorded
    assert run("--state-dir", state, "audit", "verify").code == 0
    log = (state / "audit" / "log.jsonl").read_text()
    logged = {
        hit["entry"]
        for line in log.splitlines()
        if (event := json.loads(line))["event"] == "match"
        for hit in event["data"]["hits"]
    }
    assert set(answered) <= logged


@pytest.mark.slow
def test_a_state_that_is_full_keeps_no_match_from_being_answered(
    state: Path, tmp_path: Path
) -> None:
    # In place of the record of matches there is something that cannot be written.
    (state / "matches.db").mkdir()
    with serving(state, tmp_path / "run", "--metrics", "127.0.0.1:0") as daemon:
        for _ in range(2):
            assert b"FOUND" in daemon.ask(instream(ENTRIES["e-1"]))
        (state / "matches.db").rmdir()
        assert b"FOUND" in daemon.ask(instream(ENTRIES["e-2"]))
        assert b"FOUND" in daemon.ask(instream(ENTRIES["e-3"]))
    result = run("--state-dir", state, "matches", "--format", "jsonl")
    assert "e-3" in {line["entry"] for line in result.lines if line["type"] == "match"}


@pytest.mark.slow
def test_no_process_outlives_the_daemon(state: Path, tmp_path: Path) -> None:
    with serving(state, tmp_path / "run") as daemon:
        workers = daemon.workers()
        assert len(workers) == 2
        daemon.process.kill()
        daemon.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), workers[0])

"""A daemon whose processes are killed, or whose disk fails: answered matches are recorded."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import threading
from pathlib import Path

import pytest

from fixtures.archives import STORED, zip_of
from tests.clamd import Daemon, instream, open_for_reading, serving
from tests.kit import csv_of, make_state, run, wait_until, write_tree

ENTRIES = {f"e-{number}": b"listed %d" % number for number in range(120)}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return make_state(tmp_path / "site", {"base": csv_of(ENTRIES)})


def ask(daemon: Daemon, names: list[str], answered: list[str]) -> int:
    """Ask about the content of each entry; add found entries to `answered`, and count them."""
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
        # The number of kills is limited, because on a busy machine a process may be killed before
        # it serves.
        for _ in range(40):
            if not any(thread.is_alive() for thread in threads):
                break
            signal.sigtimedwait([], rng.uniform(0.05, 0.3))
            for pid in rng.sample(daemon.workers(), k=1) if daemon.workers() else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
        # After the kills, the daemon serves again.
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
def test_listed_content_is_never_answered_as_clean(state: Path, tmp_path: Path) -> None:
    """Several clients send streams, archives and open files while all processes are killed."""
    rng = random.Random(7)
    paths = write_tree(tmp_path / "t", ENTRIES)
    answered: set[str] = set()
    wrong: list[bytes] = []
    over = threading.Event()

    def note(name: str, answers: bytes) -> None:
        for answer in answers.split(b"\0")[:-1]:
            if answer.endswith(b"Hashclient.base.%s FOUND" % name.encode()):
                answered.add(name)
            else:
                wrong.append(answer)

    def ask_streams(daemon: Daemon, names: list[str]) -> None:
        while not over.is_set():
            for name in names:
                listed = instream(ENTRIES[name]) + instream(zip_of({"x": ENTRIES[name]}))
                with contextlib.suppress(OSError):
                    note(name, daemon.ask(b"zIDSESSION\0" + listed + b"zEND\0"))

    def ask_files(daemon: Daemon, names: list[str]) -> None:
        while not over.is_set():
            for name in names:
                fd = open_for_reading(paths / name)
                with contextlib.suppress(OSError):
                    note(name, daemon.ask_descriptor(fd))
                os.close(fd)

    with serving(state, tmp_path / "run") as daemon:
        names = list(ENTRIES)
        threads = [
            threading.Thread(target=do, args=(daemon, names[n * 10 : n * 10 + 10]))
            for n, do in enumerate([ask_streams, ask_files] * 2)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(4):
                signal.sigtimedwait([], rng.uniform(0.2, 0.5))
                for pid in daemon.workers():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            asked = set(names[:40])
            wait_until(lambda: answered == asked, daemon.process.pid)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert wrong == []
    result = run("--state-dir", state, "matches", "--format", "jsonl")
    recorded = {line["entry"] for line in result.lines if line["type"] == "match"}
    assert answered <= recorded
    assert run("--state-dir", state, "audit", "verify").code == 0


@pytest.mark.slow
def test_a_spool_that_is_full_is_no_verdict(state: Path, tmp_path: Path) -> None:
    """No file may exceed the limit, so a write fails in the middle of a stream."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (36 << 20, 36 << 20))

    noise = random.Random(1).randbytes(1 << 20)
    big = zip_of({"x": ENTRIES["e-1"]} | {f"{n}": noise for n in range(40)}, STORED)
    small = instream(zip_of({"x": ENTRIES["e-1"]}))
    found = b"stream: Hashclient.base.e-1 FOUND\0"
    with serving(state, tmp_path / "run", "--jobs", 1, preexec_fn=small_files) as daemon:
        for _ in range(2):  # the second stream can use the room of the first
            (answer,) = daemon.ask(instream(big)).split(b"\0")[:-1]
            assert answer == b"stream: Heuristics.Limits.Exceeded.Hashclient.Unread FOUND"
            assert daemon.ask(small) == found
            assert daemon.ask(instream(b"a benign dummy")) == b"stream: OK\0"
    assert list((state / "spool").iterdir()) == []


@pytest.mark.slow
def test_a_state_that_is_full_keeps_no_match_from_being_answered(
    state: Path, tmp_path: Path
) -> None:
    # A directory replaces the record of matches, so that nothing can be written to it.
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

"""The memory of each process is private, and an unreadable page ends it with a message."""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hashclient.core.errors import StateError
from hashclient.system.process import (
    BAD_PAGE,
    BAD_PAGE_HINT,
    GC_THRESHOLD,
    bad_page,
    collect_rarely,
)
from tests.kit import environment

#: Each way in which the program and its libraries read a mapped file. Each way runs in a new
#: process, in which the file becomes shorter than the map. `sha256` and `searchsorted` release
#: Python's lock for a large array, and two other threads wait for the lock all the time.
WAYS = """
import hashlib, json, mmap, os, signal, sys, threading
import numpy as np
from hashclient.system.process import end_at_bad_pages, exit_code_at_bad_pages
from hashclient.core.errors import ExitCode

path = sys.argv[1]
SIZE = 8 << 20
WAYS = {
    "searchsorted": lambda m, a: a.searchsorted(np.arange(100, dtype=np.uint64)),
    "take": lambda m, a: a.take(np.arange(0, len(a), 1000)),
    "index": lambda m, a: a[np.arange(0, len(a), 1000)],
    "compare": lambda m, a: (a == 5).sum(),
    "concatenate": lambda m, a: np.concatenate([a, a]),
    "argsort": lambda m, a: np.argsort(a),
    "slice": lambda m, a: m[:20_000],
    "byte": lambda m, a: m[50_000],
    "sha256": lambda m, a: hashlib.sha256(m).digest(),
}

def busy():
    while True:
        sum(range(1000))

def alone(work):
    work()

def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def among_busy_threads(work):
    for _ in range(2):
        threading.Thread(target=busy, daemon=True).start()
    in_a_thread(work)

def while_main_is_busy(work):
    threading.Thread(target=work).start()
    busy()

def touch(way, where, code):
    end_at_bad_pages()
    end_at_bad_pages()
    with open(path, "wb") as stream:
        stream.truncate(SIZE)
    with open(path, "rb") as stream:
        mapped = mmap.mmap(stream.fileno(), SIZE, access=mmap.ACCESS_READ)
    array = np.frombuffer(mapped, np.uint64)
    os.truncate(path, 4096)
    with exit_code_at_bad_pages(lambda: code):
        where(lambda: way(mapped, array))

found = {}
for where in (alone, in_a_thread, among_busy_threads, while_main_is_busy):
    for name, way in WAYS.items():
        code = ExitCode.MATCH_ATTENTION if where is in_a_thread else ExitCode.STATE
        read, write = os.pipe()
        if not (pid := os.fork()):
            signal.alarm(20)
            os.dup2(write, 2)
            touch(way, where, code)
            os._exit(99)
        os.close(write)
        with os.fdopen(read) as said:
            text = said.read()
        status = os.waitpid(pid, 0)[1]
        found[f"{name} {where.__name__}"] = [os.waitstatus_to_exitcode(status), text]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_page_that_cannot_be_read_ends_the_process_in_words(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAYS, tmp_path / "mapped"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = json.loads(done.stdout)
    assert len(found) == 4 * 9
    said = f"hashclient: error: {BAD_PAGE}\nhint: {BAD_PAGE_HINT}\n"
    for name, ended in found.items():
        assert ended == [11 if name.endswith("in_a_thread") else 8, said], name


def test_an_import_changes_no_signal_handler_or_limit() -> None:
    """A program that imports the library keeps its signal handlers and limits."""
    code = (
        "import resource, sys\n"
        "import hashclient.system.process, hashclient.index.reader, hashclient.scan.run.engine\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.split('SigCgt:')[1].split()[0], resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    limit = resource.getrlimit(resource.RLIMIT_CORE)[0]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    caught, core = done.stdout.split()
    assert not int(caught, 16) >> 6 & 1  # SIGBUS is signal 7
    assert int(core) == limit


@pytest.mark.parametrize(
    ("before", "after"),
    [(700, GC_THRESHOLD), (0, 0), (GC_THRESHOLD + 1, GC_THRESHOLD + 1)],
    ids=["as Python has it", "switched off", "even more rarely"],
)
def test_the_garbage_collector_searches_rarely(before: int, after: int) -> None:
    young, *older = gc.get_threshold()
    try:
        gc.set_threshold(before, *older)
        collect_rarely()
        assert gc.get_threshold() == (after, *older)
    finally:
        gc.set_threshold(young, *older)


def test_the_error_of_a_bad_page_says_what_helps() -> None:
    error = bad_page()
    assert isinstance(error, StateError)
    assert error.exit_code == 8
    assert "bad block" in error.message
    assert "fetch --rebuild" in (error.hint or "")


PRIVATE = """
import ctypes, json, os, resource, sys
from hashclient.system.process import keep_memory_private
keep_memory_private()
print(json.dumps({
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    "owner": os.stat(f"/proc/{os.getpid()}").st_uid,
}))
sys.stdout.flush()
os.abort()
"""


@pytest.mark.parametrize("debug", ["", "1"])
def test_memory_is_kept_private_unless_a_bug_is_looked_for(tmp_path: Path, debug: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE],
        env=environment(HASHCLIENT_DEBUG=debug),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, before[1])),
    )
    found = json.loads(done.stdout)
    assert found["dumpable"] == (1 if debug else 0)
    assert found["core"] == ([0, before[1]] if debug else [0, 0])
    if os.geteuid():
        assert found["owner"] == (os.getuid() if debug else 0)

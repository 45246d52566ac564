"""How processes spend their time, measured on processes that only run or only wait."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hashclient.system import processors
from hashclient.system.processors import busy_of, children_of, is_runnable
from tests.kit import wait_until


class TestAllowance:
    def test_time_in_a_queue_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, queued = 10.0, 5.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        monkeypatch.setattr(processors, "busy_of", lambda _: processors.Busy(0.0, queued))
        allowance = processors.Allowance(2.0)
        now, queued = 13.0, 6.5
        assert not allowance.is_spent
        assert allowance.spent_s == 1.5
        now = 13.6
        assert allowance.is_spent

    def test_where_the_kernel_does_not_say_all_time_counts(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 10.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        monkeypatch.setattr(processors, "busy_of", lambda _: None)
        allowance = processors.Allowance(2.0)
        now = 12.0
        assert allowance.is_spent


@contextmanager
def started(code: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def ran(pid: int) -> float:
    used = busy_of(pid)
    assert used is not None
    return used.ran_s


def test_one_that_runs_is_distinguished_from_one_that_waits() -> None:
    with started("while True: pass") as running, started("import signal; signal.pause()") as idle:
        wait_until(lambda: not is_runnable(idle), idle)
        before, start = ran(idle), ran(running)
        wait_until(lambda: ran(running) > start + 0.05, running)
        assert is_runnable(running)
        # The idle process may have run shortly at the first look.
        assert ran(idle) - before < ran(running) - start


def test_without_statistics_of_the_scheduler_the_clock_says_how_long_one_ran(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = busy_of(os.getpid())
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"")
    used = busy_of(os.getpid())
    assert known is not None
    assert used is not None
    assert used.ran_s >= known.ran_s - 0.01
    assert used[1:] == (0.0, 0)


def test_one_that_has_ended_has_no_times() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert busy_of(process.pid) is None
    assert not is_runnable(process.pid)


def test_children_are_those_of_the_processes_that_are_asked_about() -> None:
    with started("import signal; signal.pause()") as child:
        assert (os.getpid(), child) in children_of({os.getpid()})
        assert children_of({child}) == []
        assert children_of(set()) == []

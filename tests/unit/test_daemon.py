"""The parent of the daemon: which processes it restarts, when it does, and when it gives up."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.errors import StateError
from hashclient.daemon import daemon as module
from hashclient.daemon.counts import Count
from hashclient.daemon.daemon import (
    EARLY_S,
    MAX_EARLY_DEATHS,
    RELOAD_S,
    RESTART_S,
    STOP_S,
    WATCH_S,
    Daemon,
)


class Process:
    """A process of the daemon, which runs as long as it has no exit code."""

    def __init__(self, exitcode: int | None = None, pid: int = 0) -> None:
        self.exitcode = exitcode
        self.pid = pid
        self.waited: list[float | None] = []
        self.is_killed = False

    def join(self, seconds: float | None = None) -> None:
        self.waited.append(seconds)

    def kill(self) -> None:
        self.is_killed = True
        self.exitcode = -9


class House:
    """A daemon with simulated processes and clock, which notes what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, jobs: int = 1, *beside: Any) -> None:
        self.now = 100.0
        self.started: list[int] = []
        self.signals: list[tuple[int, int]] = []
        self.waits: list[float] = []
        self.room = True
        self.daemon = Daemon(
            SimpleNamespace(),  # type: ignore[arg-type]
            [],
            SimpleNamespace(),  # type: ignore[arg-type]
            jobs=jobs,
            metrics=None,
            beside=beside,
            mode=0o600,
            warn=lambda _, __: None,
        )
        self.daemon._ageing = SimpleNamespace(look=list)  # type: ignore[assignment]
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(self.daemon, "_start", self.start)
        monkeypatch.setattr(module, "wait", self.wait)
        monkeypatch.setattr(os, "kill", lambda *given: self.signals.append(given))

    def start(self, row: int) -> None:
        if not self.room:
            raise StateError("cannot start a process")
        self.started.append(row)
        self.daemon._processes[row] = (Process(pid=row), self.now)  # type: ignore[assignment]

    def wait(self, _woken: int, _others: list[int], seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False

    def dead(self, code: int, lived_s: float, row: int = 0) -> None:
        """Let a process end after a number of seconds."""
        started = self.now - lived_s
        self.daemon._processes[row] = (Process(code, row), started)  # type: ignore[assignment]
        self.daemon._restart_dead()


def test_the_pauses_are_short_and_the_patience_is_limited() -> None:
    assert (RESTART_S, EARLY_S, RELOAD_S, WATCH_S, STOP_S) == (0.2, 2.0, 1.0, 0.5, 10.0)
    assert MAX_EARLY_DEATHS == 16


@pytest.mark.parametrize(
    ("code", "lived_s", "starts"),
    [
        *((1, 0.0, True), (0, 0.0, True), (1, 2.0, True), (0, 500.0, True)),
        *((-9, 0.0, False), (-9, 0.19, False), (-9, 0.21, True), (-9, 2.0, True)),
    ],
)
def test_a_dead_process_is_started_again_and_a_killed_one_not_at_full_speed(
    monkeypatch: pytest.MonkeyPatch, code: int, lived_s: float, starts: bool
) -> None:
    house = House(monkeypatch)
    house.dead(code, lived_s)
    assert house.started == ([0] if starts else [])


def test_processes_that_keep_ending_by_themselves_end_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The count of early exits restarts after a process lived `EARLY_S`. Kills do not count."""
    house = House(monkeypatch)
    for _ in range(2):
        for _ in range(MAX_EARLY_DEATHS):
            house.dead(3, EARLY_S - 0.1)
        house.dead(-9, 1.0)
        house.dead(3, EARLY_S)
    for _ in range(MAX_EARLY_DEATHS):
        house.dead(3, 0.0)
    with pytest.raises(StateError, match=r"keep ending \(exit code 3\)") as ended:
        house.dead(3, 0.0)
    assert "`hashclient status`" in (ended.value.hint or "")
    assert len(house.started) == 3 * MAX_EARLY_DEATHS + 4


def test_every_dead_process_is_started_and_no_other_and_none_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(monkeypatch, 3)
    for row, code in enumerate((-9, None, 1)):
        house.daemon._processes[row] = (Process(code, row), 0.0)  # type: ignore[assignment]
    house.room = False
    house.daemon._restart_dead()
    assert house.started == []  # no process is started now, because memory may be free later
    house.room = True
    house.daemon._restart_dead()
    assert house.started == [0, 2]
    house.daemon._stopping = True
    house.dead(1, 5.0)
    assert house.started == [0, 2]


def test_the_end_of_a_process_is_logged_with_what_prevents_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hashclient.daemon")
    house = House(monkeypatch)
    house.dead(3, 5.0, row=7)
    house.daemon._processes.clear()
    house.room = False
    house.dead(-9, 5.0, row=8)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "process 7 has ended: 3",
        *("process 8 has ended: -9", "cannot start a process"),
    ]


def test_a_process_that_must_wait_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, 2)
    for row, code in enumerate((-9, 1)):
        house.daemon._processes[row] = (Process(code, row), house.now)  # type: ignore[assignment]
    house.daemon._restart_dead()
    assert house.started == [1]


def test_the_daemon_waits_for_each_process_and_fails_with_the_first_that_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(monkeypatch, 2)
    daemon = house.daemon
    for row in range(2):
        house.start(row)

    def serve(*given: Any) -> bool:
        daemon._counts.row(len(house.waits)).add(Count.STARTED)
        return house.wait(*given)

    monkeypatch.setattr(module, "wait", serve)
    daemon._wait_until_ready(0)
    assert house.waits == [0.005] * 2
    daemon._counts.row(0).add(Count.STARTED, -1)
    daemon._processes[1] = (Process(0), 0.0)  # type: ignore[assignment]
    with pytest.raises(StateError, match="could not start") as failed:
        daemon._wait_until_ready(0)
    assert "`hashclient status`" in (failed.value.hint or "")
    daemon._on_stop()
    daemon._wait_until_ready(0)


def test_reloads_are_passed_on_once_a_second_and_work_beside_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[float] = []
    beside = SimpleNamespace(end=lambda _: None)
    house = House(monkeypatch, 2, beside)
    beside.look = lambda: looks.append(house.now)
    house.start(0)
    house.start(1)
    wait = house.wait
    passed_on: list[float] = []

    def go_on(*given: Any) -> bool:
        passed_on.extend([house.now] * len(house.signals))
        assert set(house.signals) <= {(0, signal.SIGHUP), (1, signal.SIGHUP)}
        house.signals.clear()
        if len(house.waits) < 6:
            house.daemon._on_reload()
        if len(house.waits) == 7:
            house.daemon._processes[1] = (Process(-9), house.now)  # type: ignore[assignment]
            house.daemon._on_stop()
        return wait(*given)

    monkeypatch.setattr(module, "wait", go_on)
    house.daemon._on_reload()
    house.daemon._watch(0)
    assert passed_on == [100.0] * 2 + [101.0] * 2 + [102.0] * 2 + [103.0] * 2
    assert looks == [100.0 + n * WATCH_S for n in range(8)]
    assert house.waits == [WATCH_S] * 8


def test_a_dead_process_makes_the_rounds_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch)
    house.daemon._processes[0] = (Process(-9), house.now)  # type: ignore[assignment]
    wait = house.wait

    def go_on(*given: Any) -> bool:
        if len(house.waits) == 2:
            house.daemon._on_stop()
        return wait(*given)

    monkeypatch.setattr(module, "wait", go_on)
    house.daemon._watch(0)
    assert house.waits == [RESTART_S, WATCH_S, WATCH_S]
    assert house.started == [0]


def test_each_request_for_metrics_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch)
    asked, answered = [False, True, True, False], list[int]()

    def wait(_woken: int, others: list[int], _seconds: float) -> bool:
        assert others == [7]
        house.waits.append(house.now)
        if len(house.waits) == len(asked):
            house.daemon._on_stop()
        return asked[len(house.waits) - 1]

    monkeypatch.setattr(module, "wait", wait)
    answer = lambda: answered.append(len(house.waits))  # noqa: E731
    house.daemon._exposition = SimpleNamespace(  # type: ignore[assignment]
        fileno=lambda: 7, answer=answer
    )
    house.daemon._watch(0)
    assert answered == [2, 3]


def test_at_the_end_processes_have_ten_seconds_together(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float] = []
    house = House(monkeypatch, 3, SimpleNamespace(look=lambda: None, end=ends.append))
    processes = [Process(None, 1), Process(0, 2), Process(None, 3)]
    for row, process in enumerate(processes):
        house.daemon._processes[row] = (process, 0.0)  # type: ignore[assignment]
        monkeypatch.setattr(process, "join", lambda s=None, p=process: slow(p, s))

    def slow(process: Process, seconds: float | None) -> None:
        process.waited.append(seconds)
        if seconds is not None:
            house.now += 6.0

    house.daemon._end()
    # another program may have the id of the process that has ended
    assert house.signals == [(n, signal.SIGTERM) for n in (1, 3)]
    assert [process.waited for process in processes] == [[10.0, None], [4.0], [0.0, None]]
    assert [process.is_killed for process in processes] == [True, False, True]
    assert ends == [-8.0]
    assert house.daemon._stopping

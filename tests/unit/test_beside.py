"""Commands beside a long-running program: run when due or after a change, one at a time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hashclient.system import beside
from hashclient.system.beside import AGAIN_S, Beside
from tests.kit import wait_until


class Clock:
    """A clock that the test sets, and a command that notes the time of each of its runs."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.state = 0
        self.noted = directory / "noted"
        patch.setattr(beside, "time", SimpleNamespace(monotonic=lambda: self.now))

    def made(self, every_s: float, then: str = ":") -> Beside:
        command = ["/bin/sh", "-c", f"echo >> {self.noted}; {then}"]
        return Beside(
            command, every_s, changed=lambda: self.state, is_complete=lambda code: code != 3
        )

    def runs(self, command: Beside, *, after_s: float) -> int:
        """Let time pass, call `look` twice, and return how often the command has run in all."""
        self.now += after_s
        for _ in range(2):
            command.look()
            if command._running is not None:
                command._running.wait()
        return len(self.noted.read_text()) if self.noted.exists() else 0


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(tmp_path, monkeypatch)


def test_it_runs_at_its_interval(clock: Clock) -> None:
    command = clock.made(3600)
    assert [clock.runs(command, after_s=s) for s in (0, 1800, 1799, 1, 3599, 1)] == [
        0,
        0,
        0,
        1,
        1,
        2,
    ]


def test_after_an_incomplete_run_it_runs_again_sooner_but_never_often(clock: Clock) -> None:
    day, (first, second, third) = 86_400, AGAIN_S
    failing = clock.noted.with_name("failing")
    failing.touch()
    command = clock.made(day, f"test ! -e {failing} || exit 3")
    waits = (day, first - 1, 1, second - 1, 1, third - 1, 1, day - 1, 1)
    assert [clock.runs(command, after_s=s) for s in waits] == [1, 1, 2, 2, 3, 3, 4, 4, 5]
    failing.unlink()
    assert [clock.runs(command, after_s=s) for s in (day, day - 1, 1)] == [6, 6, 7]
    failing.touch()
    assert [clock.runs(command, after_s=s) for s in (day, first)] == [8, 9]


def test_it_runs_soon_after_a_change_and_not_at_each(clock: Clock) -> None:
    command = clock.made(3600)
    clock.state = 1
    assert [clock.runs(command, after_s=s) for s in (1, 28, 1, 100)] == [0, 0, 1, 1]
    clock.state = 2
    assert clock.runs(command, after_s=0) == 2  # the last run was long ago
    clock.state = 3
    assert [clock.runs(command, after_s=s) for s in (0, 29, 1)] == [2, 2, 3]


def test_one_run_ends_before_the_next_begins_and_all_end_with_the_program(clock: Clock) -> None:
    command = clock.made(60, "exec sleep 60")
    clock.now += 60
    command.look()
    running = command._running
    assert running is not None
    clock.now += 600
    command.look()
    assert command._running is running
    command.end(10)
    assert running.returncode is not None and running.returncode < 0
    command.end(10)


def test_a_command_that_does_not_end_is_killed(clock: Clock) -> None:
    command = clock.made(60, f"trap '' TERM; echo >> {clock.noted}; while :; do sleep 1; done")
    clock.now += 60
    command.look()
    running = command._running
    assert running is not None
    wait_until(lambda: clock.noted.exists() and len(clock.noted.read_text()) == 2, running.pid)
    command.end(0)
    assert running.returncode == -9


def test_a_command_that_cannot_be_run_is_tried_again(clock: Clock) -> None:
    command = Beside(["/nowhere/command"], 60)
    for _ in range(3):
        clock.now += 60
        command.look()
        assert command._running is None
    command.end(0)

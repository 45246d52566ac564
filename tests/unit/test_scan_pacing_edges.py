"""The arithmetic of the pacing: each number that it derives, exactly at its limits."""

from __future__ import annotations

import math
import resource
from collections.abc import Collection
from typing import Any

import pytest

from hashclient.scan.executors import pacing as module
from hashclient.scan.executors.pacing import (
    BATCH_S,
    FIRST_LOOK_S,
    LONG_S,
    LOOK_S,
    MOST,
    TASKS_AHEAD,
    Pacing,
    Times,
    most_workers,
)
from hashclient.scan.values.work import TASK_NAMES, Group, Task
from hashclient.system.processors import Busy


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pacing:
    return Pacing(2, 64, clock)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> dict[int, Busy]:
    """Return the times of processes; a process without times has ended."""
    times: dict[int, Busy] = {}
    monkeypatch.setattr(module, "busy_of", times.get)
    monkeypatch.setattr(module, "children_of", lambda _: [])
    monkeypatch.setattr(module, "is_runnable", lambda _: False)
    return times


def task(count: int) -> Task:
    return [Group("d", [f"{n}" for n in range(count)], follow=False)]


def ended(pace: Pacing, *names_s: float) -> None:
    """Note tasks of one name each, which have taken some time."""
    for seconds in names_s:
        pace.ended(Times(looked=0.0), task(1), seconds, is_last=True)


@pytest.mark.parametrize(
    ("ran_s", "apart_s", "enough"),
    [
        (1.0, 1.0, 2),
        (2.0, 1.0, 2),
        (0.0, 0.0, 64),
        (1.0, 0.0, 2),
        (1.0, -1.0, 2),
        (0.0, 1.0, 64),
        (0.5, 1.0, 6),
        (0.8, 1.0, 3),
        (0.95, 1.0, 2),
        (1 / 16, 1.0, 62),
        (1 / 20, 1.0, 64),
        (1 / 128, 1.0, 64),
    ],
)
def test_how_many_workers_keep_the_processors_busy(
    pace: Pacing, ran_s: float, apart_s: float, enough: int
) -> None:
    assert pace._enough(apart_s, ran_s) == enough


def test_workers_that_hardly_run_are_as_many_as_there_may_be() -> None:
    """Beyond a share of 1/128 the number does not follow from the share any more."""
    pace = Pacing(2, 1000, Clock())
    assert pace._enough(128.0, 1.0) == 1000
    assert pace._enough(127.0, 1.0) == 2 * (2 * 127 - 1)


@pytest.mark.parametrize(
    ("name_s", "names", "ahead"),
    [
        (None, 8, 1),
        (0.0, 249_999_999, TASKS_AHEAD),
        (LONG_S / TASK_NAMES * 0.99, 2_585, TASKS_AHEAD),
        (LONG_S / TASK_NAMES * 1.01, 2_534, 1),
        (0.01, 25, 1),
        (0.0125, 20, 1),
        (0.0625, 4, 1),
        (0.07, 4, 1),
        (0.999, 4, 1),
        (1.0, 1, 1),
        (9.0, 1, 1),
    ],
)
def test_a_task_takes_a_quarter_of_a_second(
    pace: Pacing, name_s: float | None, names: int, ahead: int
) -> None:
    assert (BATCH_S, LONG_S, TASKS_AHEAD, TASK_NAMES) == (0.25, 0.05, 3, 512)
    pace._name_s = name_s
    assert (pace.names, pace.ahead) == (names, ahead)


@pytest.mark.parametrize(("count", "sent"), [(1, 1), (49, 49), (50, 50), (51, 25), (512, 25)])
def test_a_task_of_twice_its_length_is_sent_whole(pace: Pacing, count: int, sent: int) -> None:
    pace._name_s = 0.01
    first, rest = pace.divide(task(count))
    assert sum(len(group.names) for group in first) == sent
    assert sum(len(group.names) for group in rest) == count - sent


def test_the_time_of_a_name_is_a_moving_average(pace: Pacing) -> None:
    ended(pace, 1.0)
    assert pace._name_s == 1.0
    ended(pace, 2.0)
    assert pace._name_s == pytest.approx(1.3)
    ended(pace, 1.3)
    assert pace._name_s == pytest.approx(1.3)
    pace.ended(Times(looked=0.0), [], 9.0, is_last=True)
    assert pace._name_s == pytest.approx(1.3)
    pace.ended(Times(looked=0.0), task(10), 3.0, is_last=True)
    assert pace._name_s == pytest.approx(1.0)


def test_a_worker_is_busy_from_its_first_task_to_its_last(pace: Pacing, clock: Clock) -> None:
    times = Times()
    pace.sent(times)
    clock.now = 101.0
    pace.sent(times)
    assert times.busy_since == 100.0
    clock.now = 103.0
    pace.ended(times, task(1), 2.5, is_last=False)
    assert (times.busy_since, times.worked_s) == (103.0, 2.5)
    times.looked = 103.0
    clock.now = 104.0
    # Of a task that began before the last measurement, only the time after it counts.
    pace.ended(times, task(1), 9.0, is_last=True)
    found: Any = times
    assert (found.busy_since, found.worked_s) == (None, 3.5)


def test_measurements_become_rarer_up_to_a_limit(
    pace: Pacing, clock: Clock, used: dict[int, Busy]
) -> None:
    pauses = [pace.due - clock.now]
    for _ in range(8):
        clock.now = pace.due
        pace.look([])
        pauses.append(pace.due - clock.now)
    wanted = [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25, 0.25]
    assert pauses == [pytest.approx(pause) for pause in wanted]
    assert (FIRST_LOOK_S, LOOK_S) == (0.005, 0.25)
    assert Pacing(2, 3, clock).due == clock.now + FIRST_LOOK_S
    assert Pacing(3, 2, clock).due == Pacing(3, clock=clock).due == math.inf


def looked(pace: Pacing, clock: Clock, used: dict[int, Busy], *shares: float) -> int:
    """Let the one worker run for a share of each second, with a measurement after each second."""
    times = Times(busy_since=clock.now, looked=clock.now)
    used[1] = times.busy
    for share in shares:
        clock.now += 1.0
        used[1] = Busy(used[1].ran_s + share)
        pace.look([(1, times)])
    return pace.wanted


@pytest.mark.parametrize(
    ("shares", "wanted"),
    [
        ([0.5], 2),
        ([0.5, 0.5], 6),
        ([0.5, 1.0, 0.5], 2),
        ([0.9, 0.9], 2),
        ([0.8, 0.8], 3),
        ([0.01, 0.01], 8),
        ([0.01, 0.01, 0.01], 32),
        ([0.01] * 4, 64),
        ([0.5, 0.01], 8),
        ([*[0.01] * 4, 1.0], 64),
        ([*[0.01] * 4, 1.0, 1.0], 2),
        # A number that differs little from the right number stays.
        ([0.5, 0.5, 0.45, 0.45], 6),
        ([0.5, 0.5, 0.8, 0.8], 6),
        ([0.5, 0.5, 1.0, 1.0], 2),
    ],
)
def test_two_measurements_change_the_number(
    pace: Pacing, clock: Clock, used: dict[int, Busy], shares: list[float], wanted: int
) -> None:
    assert looked(pace, clock, used, *shares) == wanted


def test_only_time_at_work_is_measured(pace: Pacing, clock: Clock, used: dict[int, Busy]) -> None:
    """A worker without a task, or whose process has ended, says nothing about storage."""
    idle, gone = Times(looked=clock.now), Times(busy_since=clock.now, looked=clock.now)
    used[1] = Busy(0.0)
    for _ in range(4):
        clock.now += 1.0
        pace.look([(1, idle), (2, gone)])
    assert pace.wanted == 2
    assert (idle.looked, gone.looked) == (clock.now, clock.now)


@pytest.mark.parametrize(
    ("runnable", "slices", "wanted"), [(False, 0, 6), (True, 0, 2), (True, 1, 2), (True, 2, 4)]
)
def test_a_wait_that_has_not_ended_may_be_a_wait_for_a_processor(
    pace: Pacing,
    clock: Clock,
    used: dict[int, Busy],
    monkeypatch: pytest.MonkeyPatch,
    runnable: bool,
    slices: int,
    wanted: int,
) -> None:
    monkeypatch.setattr(module, "is_runnable", lambda _: runnable)
    times = Times(busy_since=clock.now, looked=clock.now)
    for look in (1, 2):
        clock.now += 1.0
        used[1] = Busy(0.5 * look, 0.0, slices * look)
        pace.look([(1, times)])
    assert pace.wanted == wanted


def test_what_a_worker_has_started_counts_as_the_worker(
    pace: Pacing, used: dict[int, Busy], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[int]] = []

    def children(workers: Collection[int]) -> list[tuple[int, int]]:
        asked.append(set(workers))
        return [(1, 10), (1, 11), (2, 12)]

    monkeypatch.setattr(module, "children_of", children)
    used |= {10: Busy(1.0, 0.5), 11: Busy(4.0)}
    assert pace._ran_for([1, 2], 9.0) == 18.0
    used[10] = Busy(2.0, 1.5)
    del used[11]
    used[12] = Busy(7.0)
    assert pace._ran_for([1, 2], 9.0) == 2.0 + 9.0
    used[11] = Busy(5.0)
    assert pace._ran_for([1, 2], 9.0) == 9.0
    assert asked == [{1, 2}] * 3


def test_each_measurement_is_of_the_time_since_the_last(used: dict[int, Busy]) -> None:
    times = Times()
    assert module._used(1, times) is None
    used[1] = Busy(1.0, 2.0, 3)
    assert module._used(1, times) == Busy(1.0, 2.0, 3)
    used[1] = Busy(1.5, 2.25, 7)
    assert module._used(1, times) == Busy(0.5, 0.25, 4)
    assert times.busy == used[1]


@pytest.mark.parametrize(("most", "wanted"), [(64, 8), (9, 8), (8, 8), (7, 7), (2, 2), (0, 2)])
def test_a_limit_leaves_the_first_workers(
    pace: Pacing, clock: Clock, used: dict[int, Busy], most: int, wanted: int
) -> None:
    assert looked(pace, clock, used, 0.01, 0.01) == 8
    pace.limit(most)
    assert (pace.wanted, pace.most) == (wanted, max(2, most))


@pytest.mark.parametrize(
    ("jobs", "free", "descriptors", "most"),
    [
        (2, None, 1 << 20, MOST),
        (99, None, 1 << 20, 99),
        (2, (32 << 20) * 4 * 20, 1 << 20, 20),
        (2, (32 << 20) * 4 * 20 - 1, 1 << 20, 19),
        (2, 1 << 50, 4 * 30, 30),
        (2, 1 << 50, 4 * 30 - 1, 29),
        (2, (32 << 20) * 4 * 20, 4 * 30, 20),
        (2, 0, 0, 2),
    ],
)
def test_a_quarter_of_memory_and_descriptors_is_for_workers(
    monkeypatch: pytest.MonkeyPatch, jobs: int, free: int | None, descriptors: int, most: int
) -> None:
    assert MOST == 64
    monkeypatch.setattr(module, "available_memory", lambda: free)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, 1 << 30))
    assert most_workers(jobs) == most

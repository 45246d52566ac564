"""The number of workers and the size of tasks, chosen by measurements of the scheduler."""

from __future__ import annotations

import itertools
import resource

import pytest

from hashclient.scan.executors import pacing
from hashclient.scan.executors.pacing import (
    BATCH_S,
    FEW_NAMES,
    FIRST_NAMES,
    LOOK_S,
    MOST,
    TASKS_AHEAD,
    WORKER_BYTES,
    Pacing,
    Times,
    most_workers,
)
from hashclient.scan.values.work import Group, Task
from hashclient.system.processors import Busy


class Machine:
    """Simulates the clock and the workers: how long each one runs and waits for a processor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.used: dict[int, Busy] = {}
        self.children: list[tuple[int, int]] = []
        self.are_runnable = False
        monkeypatch.setattr(pacing, "busy_of", lambda pid: self.used.get(pid, Busy(0.0)))
        monkeypatch.setattr(pacing, "children_of", lambda pids: self.children)
        monkeypatch.setattr(pacing, "is_runnable", lambda pid: self.are_runnable)

    def clock(self) -> float:
        return self.now

    def looks(
        self,
        one: Pacing,
        count: int,
        runs: float,
        queued: float = 0.0,
        child: float = 0.0,
        slices: int = 0,
        tasks: int = 0,
    ) -> list[int]:
        """Simulate `count` looks at the workers, and return the wanted number of workers.

        Between two looks, each worker gets a processor `slices` times and ends `tasks`.
        """
        wanted = []
        times: dict[int, Times] = {}
        for _ in range(count):
            for pid in range(1, one.wanted + 1):
                one.sent(times.setdefault(pid, Times()))
            due, passed = one.due, one.due - self.now
            for _ in range(tasks):
                self.now += passed / tasks
                for worker in times.values():
                    one.ended(worker, task(1), passed / tasks, is_last=False)
            self.now = due
            for pid in (*times, *(pid for _, pid in self.children)):
                ran, waited, given = self.used.get(pid, Busy(0.0))
                share = child if pid >= 1000 else runs
                self.used[pid] = Busy(
                    ran + share * passed, waited + queued * passed, given + slices
                )
            one.look(times.items())
            wanted.append(one.wanted)
        return wanted


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def task(*counts: int) -> Task:
    number = itertools.count()
    return [
        Group(f"d{place}", [f"{next(number)}" for _ in range(count)], follow=False)
        for place, count in enumerate(counts)
    ]


def names(items: Task) -> list[tuple[str, str]]:
    return [(group.directory, name) for group in items for name in group.names]


def test_workers_that_wait_for_storage_become_more_within_a_few_looks(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    assert machine.looks(one, 5, runs=0.02) == [2, 8, 32, 64, 64]


def test_one_look_alone_starts_nothing(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    for _ in range(5):
        machine.looks(one, 1, runs=0.02)
        assert set(machine.looks(one, 2, runs=1.0)) == {2}


def test_there_are_more_the_less_they_run(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    assert machine.looks(one, 6, runs=0.5)[-1] == 6


@pytest.mark.parametrize(("runs", "queued"), [(1.0, 0.0), (0.9, 0.0), (0.2, 0.8), (0.05, 0.95)])
def test_workers_that_compute_or_wait_for_a_processor_stay_as_many(
    machine: Machine, runs: float, queued: float
) -> None:
    one = Pacing(2, 64, machine.clock)
    assert set(machine.looks(one, 20, runs, queued)) == {2}


def test_workers_that_have_not_got_a_processor_yet_stay_as_many(machine: Machine) -> None:
    """The kernel counts the wait for a processor only when the worker gets a processor."""
    machine.are_runnable = True
    one = Pacing(2, 64, machine.clock)
    assert set(machine.looks(one, 20, runs=0.05)) == {2}


def test_workers_that_are_given_a_processor_often_do_not_wait_long_for_it_now(
    machine: Machine,
) -> None:
    """With a quick disk, the workers are runnable nearly each time that the program looks."""
    machine.are_runnable = True
    one = Pacing(2, 64, machine.clock)
    assert machine.looks(one, 6, runs=0.6, slices=40)[-1] == 5


@pytest.mark.parametrize("tasks", [1, 2, 50])
def test_time_waited_in_short_tasks_counts(machine: Machine, tasks: int) -> None:
    one = Pacing(2, 64, machine.clock)
    assert machine.looks(one, 6, runs=0.49, tasks=tasks)[-1] == 6


def test_waiting_for_a_task_is_no_waiting_for_storage(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    worker = Times()
    for pid in range(40):
        one.sent(worker)
        machine.now += 0.1
        one.ended(worker, task(1), 0.001, is_last=pid % 2 == 0)
        machine.used[1] = Busy(0.001 * pid)
        one.look([(1, worker)])
        assert one.wanted == 2


def test_one_that_is_left_out_of_a_look_is_looked_at_over_all_its_time_later(
    machine: Machine,
) -> None:
    """The result of the left-out worker was waiting when the program looked at the others."""
    one = Pacing(2, 64, machine.clock)
    left_out, other = Times(), Times()
    one.sent(left_out)
    one.sent(other)
    for look in range(1, 20):
        machine.now += 1.0
        # The left-out worker ended its task in half a second, and has waited for a new task since.
        one.ended(left_out, task(1), 0.5, is_last=True)
        machine.used = {1: Busy(0.5 * look), 2: Busy(1.0 * look)}
        workers = [(2, other)] if look % 2 else [(1, left_out), (2, other)]
        one.look(workers)
        one.sent(left_out)
        assert one.wanted == 2


def test_workers_that_wait_for_what_computes_for_them_stay_as_many(machine: Machine) -> None:
    machine.children = [(1, 1001), (2, 1002)]
    one = Pacing(2, 64, machine.clock)
    assert set(machine.looks(one, 20, runs=0.01, child=0.99)) == {2}


def test_they_become_fewer_when_they_compute_and_not_at_once(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    machine.looks(one, 6, runs=0.02)
    later = machine.looks(one, 4, runs=2 / 64, queued=62 / 64)
    assert later[0] == 64
    assert later[-1] == 2


def test_where_somebody_has_said_how_many_nobody_looks(machine: Machine) -> None:
    assert Pacing(5, None, machine.clock).due == float("inf")
    assert Pacing(5, 5, machine.clock).due == float("inf")


def test_between_two_looks_there_is_a_bounded_time(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    machine.looks(one, 20, runs=1.0)
    assert one.due - machine.now == LOOK_S


def test_no_more_than_there_is_room_for(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    machine.looks(one, 3, runs=0.02)
    one.limit(7)
    assert one.wanted == 7
    assert machine.looks(one, 4, runs=0.02)[-1] == 7
    one.limit(1)
    assert one.wanted == 2


@pytest.mark.parametrize(
    ("free", "expected"),
    [(None, MOST), (1 << 50, MOST), (4 * 10 * WORKER_BYTES, 10), (0, 3)],
)
def test_memory_bounds_the_workers(
    monkeypatch: pytest.MonkeyPatch, free: int | None, expected: int
) -> None:
    monkeypatch.setattr(pacing, "available_memory", lambda: free)
    assert most_workers(3) == expected


def test_descriptors_bound_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "available_memory", lambda: None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    assert most_workers(2) == 25
    assert most_workers(40) == 40
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert most_workers(2) == MOST
    assert most_workers(100) == 100


def test_the_first_tasks_are_short_and_one_at_a_time(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    first, rest = one.divide(task(512))
    assert len(names(first)) == FIRST_NAMES
    assert names(first) + names(rest) == names(task(512))
    assert one.ahead == 1


def ended(one: Pacing, machine: Machine, items: Task, name_s: float) -> None:
    times = Times()
    one.sent(times)
    machine.now += name_s * len(names(items))
    one.ended(times, items, name_s * len(names(items)), is_last=True)


def test_quick_tasks_are_sent_whole_and_wait_at_a_worker(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    ended(one, machine, task(8), 20e-6)
    assert one.divide(task(300, 212)) == (task(300, 212), [])
    assert one.ahead == TASKS_AHEAD


def test_slow_tasks_take_a_quarter_of_a_second_and_do_not_wait(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    ended(one, machine, task(8), 0.01)
    first, rest = one.divide(task(10, 5, 300))
    assert len(names(first)) == round(BATCH_S / 0.01)
    assert names(first) + names(rest) == names(task(10, 5, 300))
    assert one.ahead == 1
    # A task that takes only a little longer than the limit is not divided.
    assert one.divide(task(30, 15))[1] == []


def test_a_task_has_a_few_names_and_of_very_slow_ones_one(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    ended(one, machine, task(1), 0.5)
    assert len(names(one.divide(task(20))[0])) == FEW_NAMES
    for _ in range(20):
        ended(one, machine, task(1), 5.0)
    assert len(names(one.divide(task(20))[0])) == 1


def test_dividing_again_and_again_loses_nothing(machine: Machine) -> None:
    one = Pacing(2, 64, machine.clock)
    ended(one, machine, task(8), 0.03)
    given, rest = task(1, 2, 30, 3, 9), task(1, 2, 30, 3, 9)
    sent: list[tuple[str, str]] = []
    while rest:
        first, rest = one.divide(rest)
        assert first
        assert all(group.names for group in first)
        sent += names(first)
    assert sent == names(given)

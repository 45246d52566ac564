"""Decides by measurements how many workers a run has, and how many names a worker gets at a time.

A worker that computes needs a processor, so each processor gets one worker. A worker that waits for
storage does not need its processor, so many more workers may run. The kernel's scheduler shows
during the run whether a worker runs, waits for a processor, or waits for something else.

If a worker runs for the share f of the time in which it does not wait for a processor, n / f
workers keep n processors busy. Because waits are uneven, waiting time is counted twice: n
processors get n (2 / f - 1) workers. The number of workers is limited to `MOST`, and by memory and
by descriptors.

All batches should take about the same time. If a name takes long, a worker gets few names at a
time, so that all workers end at about the same time. If a name takes microseconds, a worker gets
all names that the source has ready.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Collection, Iterable

import msgspec

from hashclient.scan.values.work import TASK_NAMES, Task, divided
from hashclient.system.cgroups import available_memory
from hashclient.system.processors import Busy, busy_of, children_of, is_runnable

#: The limit of the number of workers, unless the machine has more processors, or the user asks for
#: more.
MOST = 64
#: The number of tasks that wait at a worker, so that the worker never waits for the parent.
TASKS_AHEAD = 3
#: The number of names in the first tasks, while the time of a name is unknown.
FIRST_NAMES = 8
#: The smallest number of names in a task, unless a name takes a second or longer: sending fewer
#: names takes more time than checking them.
FEW_NAMES = 4
#: A task should take `BATCH_S` seconds. A task that would take more than `BATCH_S` times
#: `BATCH_SLACK` seconds is divided.
BATCH_S = 0.25
BATCH_SLACK = 2.0
#: If a task takes longer than this many seconds, the wait for the next task is negligible.
LONG_S = 0.05
#: The weight of a new measurement in the moving average of the time of a name.
_WEIGHT = 0.3
#: `FIRST_LOOK_S`: the seconds before the first measurement of the workers. `LOOK_S`: the longest
#: time between two measurements, in seconds.
FIRST_LOOK_S = 0.005
LOOK_S = 0.25
#: The largest factor by which the number of workers grows after a measurement.
GROWTH = 4
#: The number of workers is changed only if the right number is more than `MORE` times, or less than
#: `FEWER` times, the present number.
MORE, FEWER = 1.25, 0.5
#: `WORKER_BYTES`: the memory of a worker and of its process that opens containers. `MEMORY_SHARE`:
#: the share of the free memory that all workers together may take.
WORKER_BYTES = 32 << 20
MEMORY_SHARE = 0.25
#: The share of its file descriptors that the parent may use for connections to workers.
DESCRIPTOR_SHARE = 0.25


class Times(msgspec.Struct):
    """How busy a worker is: its times at the last measurement, and its work after that."""

    #: The time when the worker began its present task; None while it has no task.
    busy_since: float | None = None
    #: The time of the last measurement.
    looked: float = -math.inf
    #: The seconds since the last measurement that the worker spent on tasks that have ended.
    worked_s: float = 0.0
    busy: Busy = Busy(0.0)


def most_workers(jobs: int) -> int:
    """Return the limit of the number of workers, if `jobs` are enough while no worker waits."""
    most = max(MOST, jobs)
    if (free := available_memory()) is not None:
        most = min(most, int(free * MEMORY_SHARE / WORKER_BYTES))
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors != resource.RLIM_INFINITY:
        most = min(most, int(descriptors * DESCRIPTOR_SHARE))
    return max(jobs, most)


class Pacing:
    """Decides how many workers a pool has, but starts no worker and sends nothing."""

    def __init__(
        self, jobs: int, most: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Use `jobs` workers, and up to `most` workers while the workers wait for storage."""
        self.jobs = jobs
        self.most = jobs if most is None else most
        #: The number of workers that should run.
        self.wanted = jobs
        self._clock = clock
        self._name_s: float | None = None
        #: The process ids of processes that workers have started, and for how many seconds each
        #: process had run.
        self._started: dict[int, float] = {}
        #: Whether the last measurement found too few, or too many, workers.
        self._too_few = self._too_many = False
        self._pause_s = FIRST_LOOK_S
        #: The time of the next measurement.
        self.due = clock() + FIRST_LOOK_S if self.most > jobs else math.inf

    @property
    def ahead(self) -> int:
        """How many tasks may be at a worker, including the task that the worker is checking."""
        if self._name_s is None:
            return 1
        whole = min(self.names, TASK_NAMES)
        return TASKS_AHEAD if self._name_s * whole < LONG_S else 1

    @property
    def names(self) -> int:
        """The number of names in a task that takes about `BATCH_S` seconds."""
        if self._name_s is None:
            return FIRST_NAMES
        least = FEW_NAMES if self._name_s < 1 else 1
        return max(least, int(BATCH_S / max(self._name_s, 1e-9)))

    def divide(self, task: Task) -> tuple[Task, Task]:
        """Return the part of a task that is sent now, and the part that is sent later."""
        names = self.names
        if sum(len(group.names) for group in task) <= names * BATCH_SLACK:
            return task, []
        return divided(task, names)

    def sent(self, times: Times) -> None:
        """Note that a task was sent to a worker."""
        if times.busy_since is None:
            times.busy_since = self._clock()

    def ended(self, times: Times, task: Task, taken_s: float, *, is_last: bool) -> None:
        """Note that a worker has done a task in `taken_s`, and whether this was its last task.

        The worker itself measures `taken_s`, because the worker may have waited for the task, and
        the result may have waited for this process.
        """
        now = self._clock()
        times.busy_since = None if is_last else now
        times.worked_s += min(taken_s, now - times.looked)
        names = sum(len(group.names) for group in task)
        if names:
            taken = taken_s / names
            old = taken if self._name_s is None else self._name_s
            self._name_s = old + _WEIGHT * (taken - old)

    def look(self, workers: Iterable[tuple[int, Times]]) -> None:
        """Measure how busy `workers` are, and decide how many workers should run.

        A worker whose result waits for this process is left out until a later measurement, because
        its idle time would count as a wait for storage.
        """
        now = self._clock()
        self._pause_s = min(LOOK_S, 2 * self._pause_s)
        self.due = now + self._pause_s
        wall_s = ran_s = queued_s = 0.0
        busy: dict[int, tuple[float, int]] = {}
        for pid, times in workers:
            used = _used(pid, times)
            passed_s, times.worked_s = times.worked_s, 0.0
            if times.busy_since is not None:
                passed_s += now - max(times.looked, times.busy_since)
            times.looked = now
            if used is not None and passed_s > 0:
                wall_s += passed_s
                ran_s += used.ran_s
                queued_s += used.queued_s
                rest_s = max(0.0, passed_s - used.ran_s - used.queued_s)
                busy[pid] = rest_s, used.slices
        if wall_s <= 0:
            return
        enough = self._enough(wall_s - queued_s, ran_s)
        if enough > self.wanted * MORE and self.wanted < self.most:
            # A worker that seems to wait for storage may wait for a processor, or for a process
            # that computes for the worker. The scheduler counts a wait for a processor only when
            # the wait has ended. For a wait that has not ended, the length of an average wait is
            # assumed.
            queued_s += sum(
                rest_s / max(1, slices)
                for pid, (rest_s, slices) in busy.items()
                if is_runnable(pid)
            )
            ran_s += self._ran_for(busy, wall_s)
            enough = self._enough(wall_s - queued_s, ran_s)
        # Two measurements must agree, because a single measurement may be taken at an unusual
        # moment.
        too_few, too_many = enough > self.wanted * MORE, enough < self.wanted * FEWER
        if too_few and self._too_few:
            self.wanted = min(enough, self.wanted * GROWTH)
        elif too_many and self._too_many:
            self.wanted = enough
        self._too_few, self._too_many = too_few, too_many

    def limit(self, most: int) -> None:
        """Limit the number of workers, because the system cannot start more workers."""
        self.most = max(self.jobs, most)
        self.wanted = min(self.wanted, self.most)

    def _enough(self, apart_s: float, ran_s: float) -> int:
        """Return how many workers keep the processors busy, if workers ran `ran_s` of `apart_s`.

        `apart_s` are the seconds in which workers did not wait for a processor.
        """
        if ran_s * MOST * 2 <= apart_s:
            return self.most
        share = min(1.0, ran_s / apart_s) if apart_s > 0 else 1.0
        return min(self.most, max(self.jobs, round(self.jobs * (2 / share - 1))))

    def _ran_for(self, workers: Collection[int], unknown_s: float) -> float:
        """Return for how many seconds the processes started by `workers` ran since the last call.

        A process that is found for the first time is counted with `unknown_s` seconds.
        """
        total_s = 0.0
        before, self._started = self._started, {}
        for _, pid in children_of(workers):
            if (busy := busy_of(pid)) is not None:
                self._started[pid] = now_s = busy.ran_s + busy.queued_s
                total_s += now_s - before[pid] if pid in before else unknown_s
        return total_s


def _used(pid: int, times: Times) -> Busy | None:
    """Return how busy a worker was since the last measurement."""
    now = busy_of(pid)
    if now is None:
        return None
    before, times.busy = times.busy, now
    return Busy(
        now.ran_s - before.ran_s, now.queued_s - before.queued_s, now.slices - before.slices
    )

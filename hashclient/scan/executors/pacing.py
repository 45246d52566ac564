"""Decides by measurements how many workers a run has, and how many names each gets at a time.

A worker that computes needs a processor: so each processor gets one worker. A worker that waits for
storage leaves its processor free: so many more workers may run. The kernel's scheduler shows during
the run whether a worker runs, waits for a processor, or waits for something else. If a worker runs
for the share f of the time in which it does not wait for a processor, n / f workers keep n
processors busy. Waits are uneven, so waiting time counts twice: n (2 / f - 1), at most `MOST`, and
only as many as memory and descriptors allow. A batch should take about the same time each. If a
name takes long, a worker gets few names at once, so that all workers end together; if a name takes
microseconds, it gets all names that the source gives.
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

#: The most workers, unless the machine has more processors, or the user asks for more.
MOST = 64
#: Tasks that wait at a worker, so that the worker never waits for the parent.
TASKS_AHEAD = 3
#: Names in the first tasks, as long as the time of a name is unknown.
FIRST_NAMES = 8
#: Sending fewer names costs more than checking them, unless each name takes a second.
FEW_NAMES = 4
#: Seconds that a task should take; a task that would take longer by this factor is divided.
BATCH_S = 0.25
BATCH_SLACK = 2.0
#: If a task takes longer than this, the wait for the next task is negligible.
LONG_S = 0.05
#: The weight of a new measurement of the time of a name.
_WEIGHT = 0.3
#: The seconds before the first look at the workers, and the longest time between two looks.
FIRST_LOOK_S = 0.005
LOOK_S = 0.25
#: The largest factor by which the number of workers grows after a look.
GROWTH = 4
#: A difference below this factor is ignored.
MORE, FEWER = 1.25, 0.5
#: The memory for a worker and its process that opens containers, and the share of the free memory
#: that all workers may take.
WORKER_BYTES = 32 << 20
MEMORY_SHARE = 0.25
#: The share of its descriptors that the parent may spend on connections to workers.
DESCRIPTOR_SHARE = 0.25


class Times(msgspec.Struct):
    """The work of a worker, and how busy the worker was until the last look."""

    #: The time when the worker began its present task; None while it has no task.
    busy_since: float | None = None
    #: The time of the last look.
    looked: float = -math.inf
    #: Seconds since the last look that went into tasks that have ended.
    worked_s: float = 0.0
    busy: Busy = Busy(0.0)


def most_workers(jobs: int) -> int:
    """Return the limit of workers, if `jobs` are enough while no worker waits."""
    most = max(MOST, jobs)
    if (free := available_memory()) is not None:
        most = min(most, int(free * MEMORY_SHARE / WORKER_BYTES))
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors != resource.RLIM_INFINITY:
        most = min(most, int(descriptors * DESCRIPTOR_SHARE))
    return max(jobs, most)


class Pacing:
    """Decides how many workers a pool has; it starts no worker and sends nothing."""

    def __init__(
        self, jobs: int, most: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Have `jobs` workers, and up to `most` as long as they wait for storage."""
        self.jobs = jobs
        self.most = jobs if most is None else most
        #: The wanted number of workers.
        self.wanted = jobs
        self._clock = clock
        self._name_s: float | None = None
        #: The processes that workers have started, and for how long each had run.
        self._started: dict[int, float] = {}
        #: Whether the last look found too few or too many workers.
        self._too_few = self._too_many = False
        self._pause_s = FIRST_LOOK_S
        #: When to look at the workers next.
        self.due = clock() + FIRST_LOOK_S if self.most > jobs else math.inf

    @property
    def ahead(self) -> int:
        """How many tasks are sent to a worker, including the present one."""
        if self._name_s is None:
            return 1
        whole = min(self.names, TASK_NAMES)
        return TASKS_AHEAD if self._name_s * whole < LONG_S else 1

    @property
    def names(self) -> int:
        """How many names make a task of a useful time."""
        if self._name_s is None:
            return FIRST_NAMES
        least = FEW_NAMES if self._name_s < 1 else 1
        return max(least, int(BATCH_S / max(self._name_s, 1e-9)))

    def divide(self, task: Task) -> tuple[Task, Task]:
        """Return the part of a task to send now, and the part for the next time."""
        names = self.names
        if sum(len(group.names) for group in task) <= names * BATCH_SLACK:
            return task, []
        return divided(task, names)

    def sent(self, times: Times) -> None:
        """Note that a worker has got a task."""
        if times.busy_since is None:
            times.busy_since = self._clock()

    def ended(self, times: Times, task: Task, taken_s: float, *, is_last: bool) -> None:
        """Note that a worker has done a task in `taken_s`, and whether this was its last task.

        The worker measures the time: it may have waited for the task, and its result may have
        waited for this process.
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
        """Decide from the times of `workers` how many workers should run.

        Workers whose results wait for this process are left out until a later look: their idle time
        would count as a wait for storage.
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
            # Workers that still wait may wait for a processor, or for a process that computes for
            # them. The scheduler counts a wait when it has ended; a wait that lasts is taken to be
            # as long as the others.
            queued_s += sum(
                rest_s / max(1, slices)
                for pid, (rest_s, slices) in busy.items()
                if is_runnable(pid)
            )
            ran_s += self._ran_for(busy, wall_s)
            enough = self._enough(wall_s - queued_s, ran_s)
        # Twice, since one look alone may have come at a bad moment.
        too_few, too_many = enough > self.wanted * MORE, enough < self.wanted * FEWER
        if too_few and self._too_few:
            self.wanted = min(enough, self.wanted * GROWTH)
        elif too_many and self._too_many:
            self.wanted = enough
        self._too_few, self._too_many = too_few, too_many

    def limit(self, most: int) -> None:
        """Limit the number of workers, because the system cannot start more."""
        self.most = max(self.jobs, most)
        self.wanted = min(self.wanted, self.most)

    def _enough(self, apart_s: float, ran_s: float) -> int:
        """Return how many workers keep the processors busy, if they ran `ran_s` of `apart_s`."""
        if ran_s * MOST * 2 <= apart_s:
            return self.most
        share = min(1.0, ran_s / apart_s) if apart_s > 0 else 1.0
        return min(self.most, max(self.jobs, round(self.jobs * (2 / share - 1))))

    def _ran_for(self, workers: Collection[int], unknown_s: float) -> float:
        """Return for how long the processes that `workers` have started ran since the last call.

        A process that is seen for the first time counts as `unknown_s`, until the next look.
        """
        total_s = 0.0
        before, self._started = self._started, {}
        for _, pid in children_of(workers):
            if (busy := busy_of(pid)) is not None:
                self._started[pid] = now_s = busy.ran_s + busy.queued_s
                total_s += now_s - before[pid] if pid in before else unknown_s
        return total_s


def _used(pid: int, times: Times) -> Busy | None:
    """Return how busy a worker was since the last look."""
    now = busy_of(pid)
    if now is None:
        return None
    before, times.busy = times.busy, now
    return Busy(
        now.ran_s - before.ran_s, now.queued_s - before.queued_s, now.slices - before.slices
    )

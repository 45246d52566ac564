"""Checking on this machine: a small task in this process; more work, or large files, in others."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Iterator

from hashclient.core.model import Outcome
from hashclient.scan.executors.interface import (
    TICK_S,
    Checkers,
    Executor,
    MakeChecker,
    single_tasks,
)
from hashclient.scan.values.work import Advance, Result, Task, divided
from hashclient.system.cgroups import usable_processors


class Inline(Executor):
    """Runs batches one after the other.

    A batch is lost only with this process: an exception of a checker ends the run. Signals come
    between the reads of a file, as in workers.
    """

    def __init__(self, *, hand_back: bool = False) -> None:
        """With `hand_back`, results keep their deferred work for another executor."""
        self._hand_back = hand_back

    def run(
        self, work: Iterator[Task | Outcome], make_checker: MakeChecker
    ) -> Iterator[Result | Outcome | Advance]:
        """Yield the results of `work`, in its order; see `Executor`."""
        checker = None
        waiting: deque[Task] = deque()
        while True:
            item = waiting.popleft() if waiting else next(work, None)
            if item is None:
                return
            if isinstance(item, Outcome):
                yield item
                continue
            checker = checker or make_checker(None)
            result = checker.check(item, defer=self._hand_back)
            if not self._hand_back:
                waiting.extend(single_tasks(result.deferred))
                result.deferred = []
            yield result


#: Little work is done in this process: this many names, if they take less than this many seconds.
PROBE_NAMES, PROBE_S = 16, 0.1


def default_jobs() -> int:
    """Return the number of processors that this process may use, also by its quota of time."""
    return usable_processors(len(os.sched_getaffinity(0)))


class Here(Executor):
    """Runs a small task in this process; more work, and large files, in worker processes."""

    def __init__(self, jobs: int | None) -> None:
        """Have `jobs` workers; by default one a processor, and more while they wait for storage."""
        self._jobs = jobs

    def run(
        self, work: Iterator[Task | Outcome], make_checker: Checkers
    ) -> Iterator[Result | Outcome | Advance]:
        """Yield the results of `work`; see `Executor`."""
        tasks: list[Task] = []
        for item in work:
            if isinstance(item, Outcome):
                yield item
                continue
            tasks.append(item)
            if len(tasks) == 2:
                break
        if len(tasks) == 1:
            little = _as_long_as_it_is_quick(tasks.pop(), left=tasks)
            for result in Inline(hand_back=True).run(little, make_checker):
                if isinstance(result, Result):
                    tasks += single_tasks(result.deferred)
                yield result
        if tasks:
            make_checker.close()
            yield from self._in_processes(itertools.chain(tasks, work), make_checker)

    def _in_processes(
        self, work: Iterator[Task | Outcome], make_checker: Checkers
    ) -> Iterator[Result | Outcome | Advance]:
        # This imports multiprocessing, which little work never needs.
        from hashclient.scan.executors.pacing import most_workers
        from hashclient.scan.executors.processes import Pool

        processors = default_jobs()
        most = most_workers(processors) if self._jobs is None else self._jobs
        with Pool(self._jobs or processors, make_checker, most) as pool:
            yield from pool.run(work, TICK_S)


def _as_long_as_it_is_quick(task: Task, left: list[Task]) -> Iterator[Task | Outcome]:
    """Yield names of a task, all if the first are quick; else add the others to `left`."""
    first, rest = divided(task, PROBE_NAMES)
    began = time.monotonic()
    yield first
    if rest and time.monotonic() - began < PROBE_S:
        yield rest
    elif rest:
        left.append(rest)

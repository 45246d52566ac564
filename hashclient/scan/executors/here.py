"""The executor of one machine: it checks little work in this process, more work in workers."""

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
    """Runs batches one after the other, in this process.

    An exception of a checker ends the run. The handlers of signals run between the reads of a file,
    as in workers.
    """

    def __init__(self, *, hand_back: bool = False) -> None:
        """If `hand_back` is true, results contain the deferred work for another executor."""
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


#: A task of at most `PROBE_NAMES` names is checked in this process, and so is the rest of a longer
#: task if the first `PROBE_NAMES` names take less than `PROBE_S` seconds.
PROBE_NAMES, PROBE_S = 16, 0.1


def default_jobs() -> int:
    """Return the number of processors that this process may use, also by its CPU quota."""
    return usable_processors(len(os.sched_getaffinity(0)))


class Here(Executor):
    """Runs a small task in this process; runs more work, and large files, in worker processes."""

    def __init__(self, jobs: int | None) -> None:
        """Use `jobs` workers; by default one for each processor, more if they wait for storage."""
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
        # `Pool` is imported here, because it imports multiprocessing, which a small task does not
        # need.
        from hashclient.scan.executors.pacing import most_workers
        from hashclient.scan.executors.processes import Pool

        processors = default_jobs()
        most = most_workers(processors) if self._jobs is None else self._jobs
        with Pool(self._jobs or processors, make_checker, most) as pool:
            yield from pool.run(work, TICK_S)


def _as_long_as_it_is_quick(task: Task, left: list[Task]) -> Iterator[Task | Outcome]:
    """Yield the first names of a task, and the other names if checking the first was quick.

    If checking the first names was slow, the other names are added to `left`.
    """
    first, rest = divided(task, PROBE_NAMES)
    began = time.monotonic()
    yield first
    if rest and time.monotonic() - began < PROBE_S:
        yield rest
    elif rest:
        left.append(rest)

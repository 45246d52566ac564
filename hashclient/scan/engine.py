"""The second pipeline: from paths or digests to outcomes, a summary and an exit code.

It walks, hands tasks to workers and counts; it never prints.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from hashclient.containers.limits import Options
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.decisions.interface import Rule, as_it_is
from hashclient.index.open_lists import OpenLists
from hashclient.scan.checker import Checker
from hashclient.scan.executors.inline import Inline
from hashclient.scan.executors.interface import (
    Advance,
    Executor,
    MakeChecker,
    OnBytes,
    Result,
    single_tasks,
)
from hashclient.scan.members import Members
from hashclient.scan.memory import Memory
from hashclient.scan.sources.interface import Source, Task, divided
from hashclient.scan.streaming import Stream, StreamChecker
from hashclient.system.cgroups import usable_processors

if TYPE_CHECKING:
    from hashclient.scan.objects.objects import Objects

#: Seconds between two looks at the progress display, and at texts to write meanwhile.
TICK_S = 0.2
#: If a look takes long, the pause is so many times as long: looks take a twentieth of the time.
TICK_SHARE = 20
#: A little work is done in this process, if so many of its names take less than so many seconds.
PROBE_NAMES, PROBE_S = 16, 0.1


class Progress(msgspec.Struct):
    """The numbers that a display may show while a scan runs.

    `reading` are the large files that are being read, and how many bytes of each were: these are
    not in the summary yet. With `may_thread`, all workers are there: nothing is forked any more,
    and this process may have threads.
    """

    summary: Summary
    reading: dict[str, int] = {}
    may_thread: bool = False

    @property
    def bytes_ahead(self) -> int:
        """How many bytes were read and are not counted yet."""
        return sum(self.reading.values())


def default_jobs() -> int:
    """Return the number of processors that this process may use, also by its quota of time."""
    return usable_processors(len(os.sched_getaffinity(0)))


def scan(
    source: Source,
    lists: OpenLists,
    progress: Progress,
    *,
    again: Iterable[Task | Outcome] = (),
    jobs: int | None = None,
    keep_clean: bool = False,
    sparse: bool = False,
    all_digests: bool = False,
    memory: Memory | None = None,
    executor: Executor | None = None,
    stream: Stream | None = None,
    objects: Objects | None = None,
    containers: Options | None = None,
    accept: Rule = as_it_is,
) -> Generator[Outcome | Progress]:
    """Check what `source` lists; yield outcomes as they are found, `progress` when time has passed.

    Clean files are yielded with `keep_clean` and counted always. Large files that are nearly all
    hole are read with `sparse` only. With `all_digests`, every digest is computed that an entry of
    a file's size has; by default, the cheapest that suffice. With `memory`, files that are known or
    believed unchanged are not read. The summary in `progress` is kept up to date and holds what was
    found so far when the iteration is ended early. `executor` runs the checking; by default, this
    process does a little, and `jobs` others do more. Without `jobs` there is one a processor, and
    more as long as they wait for storage. When all that was listed is checked, `again` says what
    was moved meanwhile, and this process checks it. A `stream` comes first and `objects` come last;
    both are read in this process. Members of containers are checked as `containers` says, and only
    with it; `accept` returns an outcome as the configuration accepts it, and as people have ruled.

    Raises:
        StateError: worker processes keep dying.
    """
    summary = progress.summary
    summary.opens_containers = containers is not None
    started = due = time.monotonic()
    started_ns = time.time_ns()
    memory = memory or Memory()
    judge = lists.judge(all_digests=all_digests)

    opened: list[Members] = []
    opened_last: Generator[object] | None = None

    def members() -> Members | None:
        if containers is None:
            return None
        opened.append(Members(judge, containers, keep_clean=keep_clean))
        return opened[-1]

    def make_checker(on_bytes: OnBytes | None = None) -> Checker:
        return Checker(
            judge,
            cache=memory.open(),
            learn=memory.learns,
            keep_clean=keep_clean,
            sparse=sparse,
            on_bytes=on_bytes,
            members=members(),
            since_ns=started_ns,
        )

    def close() -> None:
        """Close files of this process that no child process may have."""
        memory.close()
        for made in opened:
            made.close()

    try:
        work = source.batches()
        if executor is None:
            results = _results(work, make_checker, jobs, close, progress)
        else:
            results = executor.run(work, make_checker)
        results = itertools.chain(results, Inline().run(iter(again), make_checker))
        if stream is not None:
            checker = StreamChecker(judge, keep_clean=keep_clean, members=members())
            results = itertools.chain(stream.check(checker), results)
        if objects is not None:
            summary.asks_stores = True
            # After all forks: threads that their libraries start live in one process only.
            of_objects = objects.check(judge, members, keep_clean=keep_clean)
            results = itertools.chain(results, of_objects)
            opened_last = of_objects
        for item in results:
            if isinstance(item, Advance):
                if item.path is not None:
                    before = progress.reading.get(item.path, 0)
                    progress.reading[item.path] = before + item.bytes_ahead
            elif isinstance(item, Outcome):
                item = accept(item)
                summary.add(item)
                yield item
            else:
                memory.learn(item)
                if (
                    item.reported.path is not None
                ):  # of this result alone: others are still at theirs
                    progress.reading.pop(item.reported.path, None)
                summary.add_counts(item)
                summary.counts[Kind.CLEAN] += item.clean
                for outcome in map(accept, item.outcomes):
                    # Clean ones are in the count already, whether or not they are asked for.
                    if outcome.kind is not Kind.CLEAN:
                        summary.add(outcome)
                    yield outcome
            now = time.monotonic()
            summary.elapsed_s = now - started
            if now >= due:
                yield progress
                # Records are written now; workers must not wait for a slow disk too often.
                ended = time.monotonic()
                due = ended + max(TICK_S, TICK_SHARE * (ended - now))
    finally:
        if opened_last is not None:
            opened_last.close()
        memory.flush()
        close()
        source.close()
        summary.elapsed_s = time.monotonic() - started


def _as_long_as_it_is_quick(task: Task, left: list[Task]) -> Iterator[Task | Outcome]:
    """Yield the first names of a task, and the rest if these were quick; it is `left` otherwise."""
    first, rest = divided(task, PROBE_NAMES)
    began = time.monotonic()
    yield first
    if rest and time.monotonic() - began < PROBE_S:
        yield rest
    elif rest:
        left.append(rest)


def _results(
    items: Iterator[Task | Outcome],
    make_checker: MakeChecker,
    jobs: int | None,
    close: Callable[[], None],
    progress: Progress,
) -> Iterator[Result | Outcome | Advance]:
    """Run a single task in this process, and more than that, and large files, in others."""
    tasks: list[Task] = []
    for item in items:
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
        # It brings multiprocessing, which little work never needs.
        from hashclient.scan.executors.pacing import most_workers
        from hashclient.scan.executors.processes import Processes

        close()
        work = itertools.chain(tasks, items)
        processors = default_jobs()
        most = most_workers(processors) if jobs is None else jobs
        for result in Processes(jobs or processors, TICK_S, most).run(work, make_checker):
            if isinstance(result, Advance):  # the first one comes when all workers are at it
                progress.may_thread = True
            yield result

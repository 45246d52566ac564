"""The pipeline of a scan: a source lists inputs, an executor checks them, outcomes are yielded.

This module connects the source and the executor, and keeps the summary up to date. This module
prints nothing. `start` chooses the executor, and makes all other parts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import msgspec

from hashclient.containers.limits import Options
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.decisions.interface import Rules, as_they_are
from hashclient.index.matcher import Judge
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cache.memory import Memory
from hashclient.scan.check.checker import Checker
from hashclient.scan.check.members import Members
from hashclient.scan.check.streaming import Stream
from hashclient.scan.executors.here import Here, Inline
from hashclient.scan.executors.interface import TICK_S, Executor, OnBytes
from hashclient.scan.sources.interface import Source
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Advance, Result

if TYPE_CHECKING:
    from hashclient.scan.objects.objects import Objects

#: After the caller has shown the progress in t seconds, the progress is not shown for at least this
#: factor times t seconds. So showing the progress takes at most a twentieth of the time.
TICK_SHARE = 20


class Progress(msgspec.Struct):
    """The numbers that a display may show while a scan runs.

    `reading`: the large files that are being read, with the number of bytes that were read of each;
    these bytes are not in the summary yet.
    """

    summary: Summary
    reading: dict[str, int] = {}

    @property
    def bytes_ahead(self) -> int:
        """How many bytes were read that the summary does not count yet."""
        return sum(self.reading.values())

    def advance(self, news: Advance) -> None:
        """Note how many bytes of a large file were read."""
        if news.path is not None:
            self.reading[news.path] = self.reading.get(news.path, 0) + news.bytes_ahead

    def count(self, result: Result) -> None:
        """Add the counts of a result to the summary; end the separate progress of its file."""
        # a result without a path belongs to no file in `reading`
        if result.reported.path is not None:
            self.reading.pop(result.reported.path, None)
        self.summary.add_counts(result)
        self.summary.counts[Kind.CLEAN] += result.clean


class _Checkers:
    """Makes the checkers of a scan; implements `executors.interface.Checkers`."""

    def __init__(
        self, judge: Judge, options: ScanOptions, memory: Memory, containers: Options | None
    ) -> None:
        """Judge files with `judge`; do not read files that are unchanged by `memory`."""
        self._judge = judge
        self._options = options
        self._memory = memory
        self._containers = containers
        self._started_ns = time.time_ns()
        self._opened: list[Members] = []

    def __call__(self, on_bytes: OnBytes | None) -> Checker:
        """Make a checker; called in the process that uses the checker."""
        return Checker(
            self._judge,
            cache=self._memory.open(),
            learn=self._memory.learns,
            keep_clean=self._options.show_clean,
            sparse=self._options.sparse,
            on_bytes=on_bytes,
            members=self.members(),
            since_ns=self._started_ns,
        )

    def members(self) -> Members | None:
        """Make an opener of containers; return None if containers are not opened."""
        if self._containers is None:
            return None
        keep_clean = self._options.show_clean
        self._opened.append(Members(self._judge, self._containers, keep_clean=keep_clean))
        return self._opened[-1]

    def close(self) -> None:
        """Close, before a fork, everything that checkers of this process have open."""
        self._memory.close()
        for made in self._opened:
            made.close()


def scan(
    source: Source,
    lists: OpenLists,
    progress: Progress,
    options: ScanOptions,
    *,
    executor: Executor | None = None,
    again: Trees | None = None,
    memory: Memory | None = None,
    stream: Stream | None = None,
    objects: Objects | None = None,
    containers: Options | None = None,
    accept: Rules = as_they_are,
) -> Generator[Outcome | Progress]:
    """Check what `source` lists; yield outcomes when they are found, and regularly `progress`.

    Only the `options` about reading files are used. Clean files are always counted, but are yielded
    only with `show_clean`. The summary in `progress` is kept up to date, also if the iteration ends
    early.

    - `executor` runs the checking; by default, files are checked on this machine.
    - `again`: after all listed files are checked, these trees return the files that were moved
      during the scan, and this process checks these files.
    - `stream` is checked before all other inputs, in this process.
    - `objects` are checked after all other inputs, in this process.
    - `containers`: if given, members of containers are checked with these options.
    - `accept` is called with each outcome, and returns the outcome as the configuration and the
      rulings of people change it.

    Raises:
        StateError: worker processes keep dying.
    """
    summary = progress.summary
    summary.opens_containers = containers is not None
    summary.asks_stores = objects is not None
    started = due = time.monotonic()
    memory = memory or Memory()
    judge = lists.judge(all_digests=options.all_digests)
    make, keep_clean = _Checkers(judge, options, memory, containers), options.show_clean
    parts: list[Iterator[Result | Outcome | Advance]] = [
        (executor or Here(options.jobs)).run(source.batches(), make),
    ]
    if again is not None:
        parts.append(Inline().run(again.again(), make))
    if stream is not None:
        parts.insert(0, stream.check(judge, make.members(), keep_clean=keep_clean))
    of_objects: Generator[Result | Outcome | Advance] | None = None
    if objects is not None:
        # The check of objects begins after all forks, because its libraries start threads, which a
        # fork does not copy.
        of_objects = objects.check(judge, make.members, keep_clean=keep_clean)
        parts.append(of_objects)
    try:
        for item in itertools.chain.from_iterable(parts):
            if isinstance(item, Advance):
                progress.advance(item)
            elif isinstance(item, Outcome):
                (item,) = accept([item])
                summary.add(item)
                yield item
            else:
                memory.learn(item)
                if again is not None:
                    again.lose(item.lost)
                progress.count(item)
                for outcome in accept(item.outcomes) if item.outcomes else ():
                    # Clean outcomes are counted in `progress.count` already, even if the caller
                    # does not want them.
                    if outcome.kind is not Kind.CLEAN:
                        summary.add(outcome)
                    yield outcome
            now = time.monotonic()
            summary.elapsed_s = now - started
            if now >= due:
                yield progress
                # While `progress` was yielded, the caller has written records. If writing records
                # took long, `progress` is yielded later next time, so that workers seldom wait for
                # a slow disk.
                ended = time.monotonic()
                due = ended + max(TICK_S, TICK_SHARE * (ended - now))
    finally:
        if of_objects is not None:
            of_objects.close()
        memory.flush()
        make.close()
        source.close()
        summary.elapsed_s = time.monotonic() - started

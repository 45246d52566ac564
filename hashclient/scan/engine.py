"""The second pipeline: from paths or digests to outcomes, a summary and an exit code.

It walks, hands tasks to workers and counts; it never prints.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.errors import StateError
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cache import DATABASE_NAME as INVENTORY_NAME
from hashclient.scan.cache import Block, DamagedInventoryError, Inventory, remove_inventory
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
from hashclient.scan.sources.interface import Source, Task
from hashclient.scan.sources.stream import Stream
from hashclient.system.files import is_there

#: Bytes of records, or blocks in use, that wait before they are written to the inventory.
LEARN_BYTES = 1 << 20
LEARN_BLOCKS = 10_000
#: Seconds between two looks at the progress display, and at what is to be written meanwhile.
TICK_S = 0.2
#: And how many times as long as such a look takes, if it takes long: a twentieth of the time.
TICK_SHARE = 20


class Progress(msgspec.Struct):
    """What a display may show while a scan runs; `bytes_ahead` are read but not yet counted."""

    summary: Summary
    bytes_ahead: int = 0


def default_jobs() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def scan(
    source: Source,
    lists: OpenLists,
    progress: Progress,
    *,
    jobs: int,
    keep_clean: bool = False,
    sparse: bool = False,
    memory: Memory | None = None,
    executor: Executor | None = None,
    stream: Stream | None = None,
) -> Generator[Outcome | Progress]:
    """Check what `source` lists; yield outcomes as they are found, `progress` when time has passed.

    Clean files are yielded with `keep_clean` and counted always. Large files that are nearly all
    hole are read with `sparse` only. With `memory`, files that are known unchanged are not read.
    The summary in `progress` is kept up to date and holds what was found so far when the iteration
    is ended early. What runs the checking is `executor`, by default this process for a little and
    `jobs` others for more; a `stream` comes
    first, and is read here.

    Raises:
        StateError: worker processes keep dying.
    """
    summary = progress.summary
    started = due = time.monotonic()
    memory = memory or Memory()
    judge = lists.judge()

    def make_checker(on_bytes: OnBytes | None = None) -> Checker:
        return Checker(
            judge,
            inventory=memory.open(),
            learn=memory.learns,
            keep_clean=keep_clean,
            sparse=sparse,
            on_bytes=on_bytes,
        )

    try:
        work = source.batches()
        if executor is None:
            results = _results(work, make_checker, jobs, memory)
        else:
            results = executor.run(work, make_checker)
        if stream is not None:
            checker = Checker(judge, keep_clean=keep_clean)
            results = itertools.chain(stream.check(checker), results)
        for item in results:
            if isinstance(item, Advance):
                progress.bytes_ahead += item.bytes_ahead
            elif isinstance(item, Outcome):
                summary.add(item)
                yield item
            else:
                memory.learn(item)
                progress.bytes_ahead = 0
                summary.files_read += item.files_read
                summary.bytes_read += item.bytes_read
                summary.ruled_out_by_size += item.ruled_out_by_size
                summary.known_unchanged += item.known_unchanged
                summary.counts[Kind.CLEAN] += item.clean
                for outcome in item.outcomes:
                    # Clean ones are in the count already, whether or not they are asked for.
                    if outcome.kind is not Kind.CLEAN:
                        summary.add(outcome)
                    yield outcome
            now = time.monotonic()
            summary.elapsed_s = now - started
            if now >= due:
                yield progress
                # What was found is written now; workers must not wait for a slow disk too often.
                ended = time.monotonic()
                due = ended + max(TICK_S, TICK_SHARE * (ended - now))
    finally:
        memory.flush()
        memory.close()
        source.close()
        summary.elapsed_s = time.monotonic() - started


def _results(
    items: Iterator[Task | Outcome], make_checker: MakeChecker, jobs: int, memory: Memory
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
        for result in Inline(hand_back=True).run(iter([tasks.pop()]), make_checker):
            if isinstance(result, Result):
                tasks += single_tasks(result.deferred)
            yield result
    if tasks:
        # It brings multiprocessing, which little work never needs.
        from hashclient.scan.executors.processes import Processes

        memory.close()
        work = itertools.chain(tasks, items)
        yield from Processes(jobs, TICK_S).run(work, make_checker)


class Memory:
    """What a scan remembers of files from one run to the next; without a directory, nothing.

    Trouble with it is told once and never keeps a scan from its work: it is a cache.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        key_id: str = "",
        *,
        use: bool = True,
        on_failure: Callable[[StateError], None] = lambda _: None,
    ) -> None:
        """Remember in `state_dir`; with `use` unset, files are read all the same."""
        self._state_dir = state_dir
        self._key_id = key_id
        self._use = use
        self._on_failure = on_failure
        self._readers: list[Inventory] = []
        self._writer: Inventory | None = None
        self._learned: list[tuple[int, bytes]] = []
        self._seen: set[Block] = set()
        self._waiting_bytes = 0

    @property
    def learns(self) -> bool:
        """Whether results should say what was learned."""
        return self._state_dir is not None

    def open(self) -> Inventory | None:
        """Open what is remembered, in the process that will ask it; None if there is nothing."""
        if self._state_dir is None or not self._use:
            return None
        if self._writer is not None:
            return None  # this is a late worker; SQLite is not made for being forked
        try:
            if not is_there(self._state_dir / INVENTORY_NAME):
                return None
            reader = Inventory(self._state_dir, self._key_id)
        except StateError:
            return None  # the writer will make it anew, or tell why it cannot
        self._readers.append(reader)
        return reader

    def learn(self, result: Result) -> None:
        """Take note of what a task has learned."""
        self._learned += result.learned
        self._seen.update(result.seen)
        self._waiting_bytes += sum(len(raw) for _, raw in result.learned)
        if self._waiting_bytes >= LEARN_BYTES or len(self._seen) >= LEARN_BLOCKS:
            self.flush()

    def flush(self) -> None:
        """Write down what was learned."""
        if self._state_dir is None or not (self._learned or self._seen):
            return
        try:
            try:
                self._write(self._state_dir)
            except DamagedInventoryError as error:
                self._on_failure(error)
                self.close()
                remove_inventory(self._state_dir)
                self._write(self._state_dir)
        except StateError as error:
            self._state_dir = None
            self._on_failure(error)
        self._learned, self._seen, self._waiting_bytes = [], set(), 0

    def _write(self, state_dir: Path) -> None:
        if self._writer is None:
            # Only now: a connection must not be carried into workers by a fork.
            self._writer = Inventory(state_dir, self._key_id, write=True)
        self._writer.store(self._learned, sorted(self._seen))

    def close(self) -> None:
        """Close what is open; it may be used again."""
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

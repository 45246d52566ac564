"""The second pipeline: from paths or digests to outcomes, a summary and an exit code.

It opens the lists, walks, hands tasks to workers and counts; it never prints.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from hashclient.check import Checker, Judge, TaskResult
from hashclient.config import Settings
from hashclient.errors import StateError
from hashclient.index import Index, check_key, lists_on_disk, open_index, state_of
from hashclient.model import Kind, ListState, Outcome
from hashclient.seal import Sealer, load_sealer
from hashclient.summary import Summary
from hashclient.walk import Task, WalkOptions, walk

#: Seconds between two looks at the progress display while nothing else happens.
TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class OpenLists:
    """All lists of a state directory, open for one run."""

    indexes: tuple[Index, ...]
    states: tuple[ListState, ...]
    sealer: Sealer

    @property
    def stale(self) -> bool:
        """Whether any list is past its expiry."""
        return any(state.stale for state in self.states)

    def judge(self) -> Judge:
        """Return a judge over all lists."""
        return Judge(self.indexes, self.sealer)


def open_lists(settings: Settings, environ: Mapping[str, str], now: datetime) -> OpenLists:
    """Open every list that was fetched; needs no lock and writes nothing.

    The seal key may come from `environ`, as `load_sealer` says.

    Raises:
        StateError: there is none, one that is configured was never fetched, or one is damaged or
            sealed with another key.
        ConfigError: the seal key is missing or malformed.
    """
    names = lists_on_disk(settings.lists_dir)
    wanted = {n for p in settings.config.providers.values() for n in p.lists or ()}
    missing = sorted(wanted.difference(names))
    if not names or missing:
        raise StateError(
            f"list {missing[0]} has never been fetched" if missing else "no list has been fetched",
            hint="run `hashclient fetch` first"
            if settings.config.providers
            else "run `hashclient init URL --root ROOT.json` and `hashclient fetch` first",
        )
    sealer = load_sealer(settings.state_dir, settings.seal_key_file, environ)
    indexes, states = [], []
    for name in names:
        index = open_index(settings.lists_dir / name)
        if index is None:
            raise StateError(f"list {name} has gone", hint="run `hashclient fetch`")
        check_key(index.manifest, sealer.key_id)
        indexes.append(index)
        states.append(state_of(index.manifest, now, settings.grace(index.manifest.provider)))
    return OpenLists(tuple(indexes), tuple(states), sealer)


@dataclass(slots=True)
class Progress:
    """What a display may show while a scan runs; `bytes_ahead` are read but not yet counted."""

    summary: Summary
    bytes_ahead: int = 0


def default_jobs() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def scan(
    paths: Sequence[str],
    lists: OpenLists,
    options: WalkOptions,
    progress: Progress,
    *,
    jobs: int,
    keep_clean: bool = False,
) -> Generator[Outcome | None]:
    """Check files and trees; yield outcomes as they are found, None when only time has passed.

    Clean files are yielded with `keep_clean` and counted always. The summary in `progress` is kept
    up to date and holds what was found so far when the iteration is ended early.

    Raises:
        StateError: worker processes keep dying.
    """
    summary = progress.summary
    started = time.monotonic()
    try:
        for item in _results(paths, lists, options, jobs=jobs, keep_clean=keep_clean):
            if isinstance(item, int):
                progress.bytes_ahead += item
                yield None
            elif isinstance(item, Outcome):
                summary.add(item)
                yield item
            else:
                progress.bytes_ahead = 0
                summary.elapsed_s = time.monotonic() - started
                summary.files_read += item.files_read
                summary.bytes_read += item.bytes_read
                summary.counts[Kind.CLEAN] += item.clean
                for outcome in item.outcomes:
                    # Clean ones are in the count already, whether or not they are asked for.
                    if outcome.kind is not Kind.CLEAN:
                        summary.add(outcome)
                    yield outcome
                yield None
    finally:
        summary.elapsed_s = time.monotonic() - started


def _results(
    paths: Sequence[str], lists: OpenLists, options: WalkOptions, *, jobs: int, keep_clean: bool
) -> Iterator[TaskResult | Outcome | int]:
    judge = lists.judge()
    items = walk(paths, options)
    tasks: list[Task] = []
    for item in items:
        if isinstance(item, Outcome):
            yield item
            continue
        tasks.append(item)
        if len(tasks) == 2:
            break
    if len(tasks) == 1:
        # Little work is done sooner than processes are started; large files are handed back.
        result = Checker(judge, keep_clean=keep_clean).check(tasks.pop(), defer=True)
        tasks += [[group] for group in result.deferred]
        yield result
    if tasks:
        from hashclient.pool import Pool  # brings multiprocessing, which little work never needs

        with Pool(
            jobs, lambda on_bytes: Checker(judge, keep_clean=keep_clean, on_bytes=on_bytes)
        ) as pool:
            yield from pool.run(itertools.chain(tasks, items), TICK_S)

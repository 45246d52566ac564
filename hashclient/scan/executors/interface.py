"""The interface of executors: they run the checking of batches, here or in other processes.

An executor says which source lists the trees for it. It is given batches and outcomes, and what
makes a checker in the process that uses it. Its contract, which `tests/contract/test_executors.py`
holds each one to: every batch ends exactly once; of a batch that is lost, every file is unread; an
outcome among the batches comes as it is; and a `StateError` of a checker ends the run, after all
earlier results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from hashclient.core.counts import Counts
from hashclient.core.model import Outcome
from hashclient.scan.cache import Block
from hashclient.scan.inside import Container
from hashclient.scan.sources.frontier import Places, WalkOptions
from hashclient.scan.sources.interface import Task
from hashclient.scan.sources.trees import Trees

#: Seconds between two `Advance`s.
TICK_S = 0.2
#: Bytes of large files that were read since the last call.
OnBytes = Callable[[int], None]


class Advance(msgspec.Struct, frozen=True):
    """Time has passed, and `bytes_ahead` of `path` were read, whose result is still to come.

    With `may_thread`, nothing is forked any more, and this process may have threads.
    """

    bytes_ahead: int = 0
    path: str | None = None
    may_thread: bool = False


class Result(Counts, kw_only=True):
    """The result of a task: counts of usual files, outcomes of the others, and work handed back.

    Each file is counted, or is an outcome, once: it was read, ruled out by its size, known
    unchanged from an earlier run, or it is skipped or unread. So is each of the `members` of
    containers; `clean` and `outcomes` have them, too.
    `reported` has what the `Advance`s of the task have reported already, in all;
    `taken_s` is how long another process took for it.
    `learned` are records for the inventory, by file system; `seen` its blocks that are in use, and
    `containers` the members that were found inside of files. `lost` are the inodes of files and
    directories that were listed, and in whose place others were checked.
    """

    clean: int = 0
    outcomes: list[Outcome] = msgspec.field(default_factory=list)
    deferred: Task = msgspec.field(default_factory=list)
    learned: list[tuple[int, bytes]] = msgspec.field(default_factory=list)
    seen: list[Block] = msgspec.field(default_factory=list)
    containers: list[Container] = msgspec.field(default_factory=list)
    lost: list[int] = msgspec.field(default_factory=list)
    reported: Advance = Advance()
    taken_s: float = 0.0

    def add(self, more: Result) -> None:
        """Add what a later part of the same task has found."""
        self.add_counts(more)
        self.clean += more.clean
        self.outcomes += more.outcomes
        self.learned += more.learned
        self.seen += more.seen
        self.containers += more.containers
        self.lost += more.lost


class Checks(Protocol):
    """Checks the files of a task; `Checker` is the one there is."""

    def check(self, task: Task, *, defer: bool = False) -> Result:
        """Check a task; with `defer`, large files are always handed back.

        Raises:
            StateError: an index cannot be read.
        """
        ...


#: Makes a checker, in the process that uses it.
MakeChecker = Callable[[OnBytes | None], Checks]


class Checkers(Protocol):
    """Makes the checkers of a run; see `MakeChecker`."""

    def __call__(self, on_bytes: OnBytes | None, /) -> Checks:
        """Make a checker, in the process that uses it."""
        ...

    def close(self) -> None:
        """Close what checkers of this process have open, which no child process may have."""


class Executor(Protocol):
    """Runs batches."""

    def trees(self, paths: Sequence[str], options: WalkOptions, places: Places | None) -> Trees:
        """Return the source of the files at `paths` and below them, as `run` wants it.

        By default this process lists the directories.

        Raises:
            UsageError: the executor has no trees with these options.
        """
        return Trees(paths, options, places)

    def run(
        self, work: Iterator[Task | Outcome], make_checker: Checkers
    ) -> Iterator[Result | Outcome | Advance]:
        """Yield the results of `work`, as they come, and outcomes among it as they are.

        `work` is read only as far as is needed to keep workers busy, which keeps memory flat.

        Raises:
            StateError: an index cannot be read, or checkers keep dying.
        """
        ...


def single_tasks(deferred: Task) -> Iterator[Task]:
    """Yield work that was handed back as tasks: a large file is a task of its own."""
    for group in deferred:
        yield [group]

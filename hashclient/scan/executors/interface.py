"""The interface of executors, which run the checking of batches in this or other processes.

An executor also makes the source that lists the trees of a scan. The executor gets batches and
outcomes, and a function that makes a checker. The function that makes a checker is called in the
process that uses the checker. `tests/contract/test_executors.py` checks the contract for each
executor:

- The check of every batch ends exactly once.
- Every file of a batch that a worker lost is unread.
- An outcome among the batches is yielded unchanged.
- A `StateError` of a checker ends the run, after all earlier results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from hashclient.core.model import Outcome
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Advance, Result, Task

#: The seconds between two values of type `Advance`.
TICK_S = 0.2
#: A function that is called with the number of bytes of large files that were read since its last
#: call.
OnBytes = Callable[[int], None]


class Checks(Protocol):
    """Checks the files of a task; `Checker` is the only implementation."""

    def check(self, task: Task, *, defer: bool = False) -> Result:
        """Check the files of a task; with `defer`, large files are always left in `deferred`.

        Raises:
            StateError: an index cannot be read.
        """


#: A function that makes a checker; it is called in the process that uses the checker.
MakeChecker = Callable[[OnBytes | None], Checks]


class Checkers(Protocol):
    """Makes the checkers of a run; the call has the same meaning as a call of `MakeChecker`."""

    def __call__(self, on_bytes: OnBytes | None, /) -> Checks:
        """Make a checker; called in the process that uses the checker."""

    def close(self) -> None:
        """Close, before a fork, everything that checkers of this process have open."""


class Executor(Protocol):
    """Runs the checking of batches."""

    def trees(self, paths: Sequence[str], options: ScanOptions, mounts: Mounts | None) -> Trees:
        """Return the source of the files at `paths` and below them, in the form that `run` needs.

        By default, this process lists the directories.

        Raises:
            UsageError: the executor has no trees with these options.
        """
        return Trees(paths, options, mounts)

    def run(
        self, work: Iterator[Task | Outcome], make_checker: Checkers
    ) -> Iterator[Result | Outcome | Advance]:
        """Yield the results of `work` as soon as they come; yield outcomes in `work` unchanged.

        `work` is read only as far as is needed to keep workers busy, so that little memory is used.

        Raises:
            StateError: an index cannot be read, or checkers keep dying.
        """


def single_tasks(deferred: Task) -> Iterator[Task]:
    """Yield deferred work as tasks: a large file is a task of its own."""
    for group in deferred:
        yield [group]

"""The work that no worker of a cluster has yet: directories to list, and files to check.

The newest work is handed out first, so that a tree is walked depth first, and only a small part of
the tree is in memory. A batch has as many files as are checked in about `BATCH_S` seconds, as
measured for earlier batches. A batch has either absolute or relative paths.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator

from hashclient.core.model import Outcome
from hashclient.scan.cluster.messages import ToCheck, ToList
from hashclient.scan.executors.wire import Names
from hashclient.scan.values.work import Start

#: The seconds that a batch should take; handing out a batch takes some 2 ms in all processes.
BATCH_S = 0.75
FIRST_NAMES, LEAST_NAMES, MOST_NAMES = 5_000, 500, 20_000
#: The most directories in one batch of directories.
MOST_STARTS = 64

Wide = Iterator[Names | Outcome | Start]


class Backlog:
    """The directories and files that no worker has yet."""

    def __init__(self, kept: Callable[[Names], Names | None] = lambda names: names) -> None:
        """Begin without work; `kept` removes names that must not be checked from a group."""
        self._kept = kept
        self._groups: deque[Names] = deque()
        #: Large files, each of which is a batch; they are handed out first.
        self.large: list[Names] = []
        #: The number of waiting files, without large files.
        self.names = 0
        self._starts: list[Start] = []
        #: The paths of wide directories, each with the iterator by which the client lists the
        #: directory; the client lists more when too few files wait.
        self.wide: list[tuple[str, Wide]] = []
        self._per_s = FIRST_NAMES / BATCH_S

    @property
    def batch_names(self) -> int:
        """The number of files that a batch should have."""
        return min(MOST_NAMES, max(LEAST_NAMES, round(self._per_s * BATCH_S)))

    def took(self, names: int, elapsed_s: float) -> None:
        """Note that a batch of `names` files took `elapsed_s` seconds."""
        if names:
            self._per_s = (3 * self._per_s + names / max(elapsed_s, 0.001)) / 4

    def add_groups(self, groups: list[Names], *, first: bool = False) -> None:
        """Add files; with `first`, add files that were handed out before, to be handed out next."""
        groups = [left for group in groups if (left := self._kept(group)) is not None]
        self.names += sum(group.count for group in groups)
        if first:
            self._groups.extendleft(reversed(groups))
        else:
            self._groups.extend(groups)

    def add_starts(self, starts: list[Start]) -> None:
        """Add directories; the first of these directories is the next to be handed out."""
        self._starts += reversed(starts)

    def wants_names(self) -> bool:
        """Return whether fewer files wait than a batch should have."""
        return not self.large and self.names < self.batch_names

    def read_wide(self) -> list[Outcome]:
        """List more of the wide directories until enough files wait; return outcomes."""
        outcomes: list[Outcome] = []
        while self.wide and not self._starts and self.wants_names():
            item = next(self.wide[-1][1], None)
            if item is None:
                self.wide.pop()
            elif isinstance(item, Outcome):
                outcomes.append(item)
            elif isinstance(item, Start):
                self._starts.append(item)
            else:
                self.add_groups([item])
            if len(outcomes) >= FIRST_NAMES:
                break
        return outcomes

    def take_files(self) -> ToCheck | None:
        """Remove and return the next batch of files."""
        if self.large:
            return ToCheck((self.large.pop(),))
        groups: list[Names] = []
        count = 0
        while self._groups and count < self.batch_names:
            if groups and self._groups[0].is_relative != groups[0].is_relative:
                break
            groups.append(self._groups.popleft())
            count += groups[-1].count
        self.names -= count
        return ToCheck(tuple(groups)) if groups else None

    def take_directories(self, slots: int) -> ToList | None:
        """Remove and return the next directories to list, and leave some for the other workers."""
        count = min(MOST_STARTS, max(1, len(self._starts) // max(1, 2 * slots)))
        taken = self._starts[-count:]
        del self._starts[-count:]
        taken.reverse()
        return ToList(tuple(taken)) if taken else None

    @property
    def is_empty(self) -> bool:
        """Whether no work waits."""
        return not (self.large or self._groups or self._starts or self.wide)

    def empty(self) -> tuple[list[Names], list[str]]:
        """Remove and return the remaining files, and the paths of the remaining directories."""
        directories = [os.fsdecode(start.path) for start in self._starts]
        directories += [path for path, _ in self.wide]
        groups = [*self.large, *self._groups]
        self.large.clear()
        self._groups.clear()
        self._starts, self.wide, self.names = [], [], 0
        return groups, directories

"""The interface of sources: they list the inputs of a scan.

A source runs in the process that distributes work. A source names inputs, in batches, and never
looks at an input or opens it; checkers do this. `tests/contract/test_sources.py` checks the
contract for each source. Every input is named once or is an outcome. A directory that cannot be
listed is unread. A batch is of a useful size, or has the inputs that were listed in a useful time.
Memory does not grow with the number of inputs.

To add a source, write a module here with a class, add a row to `tests/contract/test_sources.py`,
and open the source in `cli/scan` or give it to `Client.scan(sources=…)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from hashclient.core.model import Outcome
from hashclient.scan.values.work import TASK_NAMES, Group, Task

#: Characters of directory names in a task: deep trees have long paths.
TASK_CHARS = 1 << 14
#: Seconds to wait for a task to be full, if listing inputs takes long.
TASK_S = 0.05


class Source(Protocol):
    """Lists inputs. `arguments` are the arguments of the user, as the audit log shows them."""

    @property
    def arguments(self) -> Sequence[str]:
        """The arguments of the user."""

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield tasks of about `TASK_NAMES` names, and skipped or unread outcomes."""

    def close(self) -> None:
        """Save notes for the next scan; called once, when the scan has ended."""


class TaskBuilder:
    """Joins small groups into tasks of a useful size, or smaller ones after a useful time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        #: The groups since the last full task.
        self.groups: Task = []
        #: How many tasks were full.
        self.full = 0
        self._clock = clock
        self._until = 0.0
        self._names = 0
        self._chars = 0

    def add(self, group: Group) -> Task | None:
        """Add a group; return the task if it is full now, and begin the next."""
        now = self._clock()
        if not self.groups:
            self._until = now + TASK_S
        self.groups.append(group)
        self._names += len(group.names)
        self._chars += len(group.directory)
        if self._names < TASK_NAMES and self._chars < TASK_CHARS and now < self._until:
            return None
        full, self.groups, self._names, self._chars = self.groups, [], 0, 0
        self.full += 1
        return full


class Several:
    """Lists the inputs of its sources, one source after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    @property
    def arguments(self) -> list[str]:
        """The arguments of all sources."""
        return [argument for source in self._sources for argument in source.arguments]

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield the batches of all sources."""
        for source in self._sources:
            yield from source.batches()

    def close(self) -> None:
        """Close all sources."""
        for source in self._sources:
            source.close()

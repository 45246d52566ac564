"""The interface of sources, which list the inputs of a scan.

A source runs in the process that distributes work. A source yields the names of inputs, in batches,
and never opens an input; checkers open the inputs. `tests/contract/test_sources.py` checks the
contract for each source:

- Every input is named once, or has an outcome.
- A directory that cannot be listed is unread.
- A batch has about `TASK_NAMES` names, or fewer if listing takes long.
- Memory use does not grow with the number of inputs.

To add a source, write a module with its class in this package, add a row to
`tests/contract/test_sources.py`, and open the source in `cli/scan`, or pass it to
`Client.scan(sources=…)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from hashclient.core.model import Outcome
from hashclient.scan.values.work import TASK_NAMES, Group, Task

#: The most characters of directory names in a task: directories in deep trees have long paths.
TASK_CHARS = 1 << 14
#: The seconds to wait until a task is full, if listing inputs takes long.
TASK_S = 0.05


class Source(Protocol):
    """Lists inputs. `arguments` are the arguments of the user, as the audit log shows them."""

    @property
    def arguments(self) -> Sequence[str]:
        """The arguments of the user."""

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield tasks of about `TASK_NAMES` names, and outcomes of skipped or unread inputs."""

    def close(self) -> None:
        """Save notes for the next scan; called once, when the scan has ended."""


class TaskBuilder:
    """Joins groups into tasks of about `TASK_NAMES` names, or fewer after `TASK_S` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        #: The groups that were added since the last full task.
        self.groups: Task = []
        #: The number of full tasks so far.
        self.full = 0
        self._clock = clock
        self._until = 0.0
        self._names = 0
        self._chars = 0

    def add(self, group: Group) -> Task | None:
        """Add a group; if the task is full now, return the task and begin a new task."""
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

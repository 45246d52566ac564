"""The interface of sources: they list the inputs of a scan.

A source runs in the process that hands out work. It names inputs, in batches, and never looks at
one or opens it; checkers do that. Its contract, which `tests/contract/test_sources.py` holds each
one to: every input is named once or is an outcome; a directory that cannot be listed is unread; a
batch is of a useful size, or has the inputs listed in a useful time; and memory does not grow with
the number of inputs.

To add one: a module here with a class, a row in `tests/contract/test_sources.py`, and where it is
asked for, in `cli/scan` or through `Client.scan(sources=…)`.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from hashclient.core.model import Outcome
from hashclient.scan.sources.directories import Identity

#: Names in a task: enough to make handing it over cheap, few enough to share work evenly.
TASK_NAMES = 512
#: Length of the directories in a task, in characters: deep trees have long ones.
TASK_CHARS = 1 << 14
#: The inodes of files that were not listed.
NO_INODES = array("Q")
#: Seconds to wait for a task to be full, where listing inputs takes long.
TASK_S = 0.05


def join(directory: str, name: str) -> str:
    """Join a directory as the user named it and a name in it."""
    if not directory or directory.endswith("/"):
        return directory + name
    return f"{directory}/{name}"


class Group(NamedTuple):
    """Names of regular files in one directory; `follow` says whether a name may be a link.

    A source that has listed the directory says what it has listed: the `identity` of the directory,
    and the inode of each file, 0 where it is not known. Without these, the files are those that
    have the names when they are opened. Each file that `is_named` by somebody has an outcome, also
    if the directory was replaced; of others, those count then that are in the new one.
    """

    directory: str
    names: list[str]
    follow: bool
    identity: Identity | None = None
    inodes: array[int] = NO_INODES
    is_named: bool = False

    def part(self, first: int, end: int | None = None) -> Group:
        """Return the names from a place on, up to another one."""
        return self._replace(names=self.names[first:end], inodes=self.inodes[first:end])

    def only(self, names: Sequence[str], inodes: Sequence[int]) -> Group:
        """Return a group of some of the files, or of what they are called now."""
        known = array("Q", inodes) if any(inodes) else NO_INODES
        return self._replace(names=list(names), inodes=known)


class Start(msgspec.Struct, frozen=True, array_like=True):
    """A directory to be listed, with all directories below it.

    One that is `verified` was compared on all workers: it is a PATH, which may be a link, or the
    place where another file system begins. `inode` is what was listed for it, in the directory of
    inode `above`; 0 if these are not known, or not the same everywhere. A worker did not list it
    for lack of time, or because another file system begins there (`is_border`), or it `is_wide`:
    it has too many names for one message.
    """

    path: bytes
    verified: bool = False
    is_root: bool = False
    inode: int = 0
    above: int = 0
    is_border: bool = False
    is_wide: bool = False


#: What a walk gives: files, what is no file or is not listed, and directories left to others.
Item = Group | Outcome | Start

#: The names that are handed to a worker at a time.
Task = list[Group]


def divided(task: Task, names: int) -> tuple[Task, Task]:
    """Return the first so many names of a task, one at least, and the rest of it."""
    for place, group in enumerate(task):
        if len(group.names) >= names:
            first = [*task[:place], group.part(0, names)]
            rest = task[place + 1 :]
            if len(group.names) > names:
                rest = [group.part(names), *rest]
            return first, rest
        names -= len(group.names)
    return task, []


class Source(Protocol):
    """Lists inputs. `arguments` are what the user asked for, as the audit log shows it."""

    @property
    def arguments(self) -> Sequence[str]:
        """The arguments of the user."""
        ...

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield tasks of about `TASK_NAMES` names, and skipped or unread outcomes."""
        ...

    def close(self) -> None:
        """Save notes for the next scan; called once, when the scan has ended."""
        ...


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

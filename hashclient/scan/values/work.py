"""The work of a scan: names of files in their directories, and directories that are to be listed.

A source makes it, executors carry it, and checkers do it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from hashclient.core.model import Outcome

#: Names in a task: enough to make handing it over cheap, few enough to share work evenly.
TASK_NAMES = 512
#: The inodes of files that were not listed.
NO_INODES = array("Q")

#: The device of a directory, None if its number on this machine is not known, and its inode.
Identity = tuple[int | None, int]


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

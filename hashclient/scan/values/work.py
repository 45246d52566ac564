"""The work of a scan, its results, and the reasons why an input was not read.

Work consists of names of files and of directories to list: a source makes work, executors transport
work and results, and checkers do the work. `reason_of` gives the reasons of the system. Reasons of
this program are constants here, or beside the one place that uses them. `docs/exit-codes.md` has
the table of all reasons.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from hashclient.core.model import Outcome
from hashclient.core.verdict import Counts

#: Names in a task: enough to make handing it over cheap, few enough to share work evenly.
TASK_NAMES = 512
#: The inodes of files that were not listed.
NO_INODES = array("Q")

#: The device of a directory, None if its number on this machine is not known, and its inode.
Identity = tuple[int | None, int]

#: Why an input was not read.
CHANGED = "changed while being read"
MOVED = "was moved, and names kept changing while it was looked for"
SPARSE = "sparse: more than 99 % of it is hole; --sparse reads it"
ENDLESS = "goes on for too long, and has no size that can be relied on"
WORKER_DIED = "the worker process that was checking it died"
NOT_THERE = "no such file or directory"
WORKER_FAILED = "the worker that was checking it failed"
CLUSTER_GONE = "the cluster could not be reached any more"


def reason_of(error: OSError) -> str:
    """Return why an input was not read, in the words of the system."""
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return NOT_THERE
    return (error.strerror or str(error)).lower()


def join(directory: str, name: str) -> str:
    """Join a directory as the user named it and a name in it."""
    if not directory or directory.endswith("/"):
        return directory + name
    return f"{directory}/{name}"


class Group(NamedTuple):
    """Names of regular files in one directory; `follow` says whether a name may be a link.

    A source that has listed the directory gives the `identity` of the directory, and the inode of
    each file, 0 if it is not known. Without identity and inodes, any file that has the name when it
    is opened counts. If `is_named`, each file has an outcome, even if the directory was replaced;
    otherwise only files in the new directory count then.
    """

    directory: str
    names: list[str]
    follow: bool
    identity: Identity | None = None
    inodes: array[int] = NO_INODES
    is_named: bool = False

    def part(self, first: int, end: int | None = None) -> Group:
        """Return the names from number `first` up to number `end`."""
        return self._replace(names=self.names[first:end], inodes=self.inodes[first:end])

    def only(self, names: Sequence[str], inodes: Sequence[int]) -> Group:
        """Return a group of some of the files, perhaps with their new names."""
        known = array("Q", inodes) if any(inodes) else NO_INODES
        return self._replace(names=list(names), inodes=known)


class Start(msgspec.Struct, frozen=True, array_like=True):
    """A directory to be listed, with all directories below it.

    A directory that is `verified` was compared on all workers: it is a PATH, which may be a link,
    or the place where another file system begins. `inode` was listed for the directory, in the
    directory of inode `above`; 0 if unknown, or not the same everywhere. A worker did not list the
    directory for lack of time, or because another file system begins there (`is_border`), or
    because it `is_wide`: it has too many names for one message.
    """

    path: bytes
    verified: bool = False
    is_root: bool = False
    inode: int = 0
    above: int = 0
    is_border: bool = False
    is_wide: bool = False


#: A walk yields files, outcomes of everything else, and directories left to others.
Item = Group | Outcome | Start

#: The names that a worker gets at a time.
Task = list[Group]


def divided(task: Task, names: int) -> tuple[Task, Task]:
    """Return the first `names` names of a task, at least one, and the rest of the task."""
    for place, group in enumerate(task):
        if len(group.names) >= names:
            first = [*task[:place], group.part(0, names)]
            rest = task[place + 1 :]
            if len(group.names) > names:
                rest = [group.part(names), *rest]
            return first, rest
        names -= len(group.names)
    return task, []


#: (number of the file system, block of inodes), as a row is named.
Block = tuple[int, int]
#: The number of a file system, the record of a file without tags, and its members as bytes.
Container = tuple[int, bytes, bytes]


class Advance(msgspec.Struct, frozen=True):
    """Time has passed, and `bytes_ahead` of `path` were read, whose result is still to come."""

    bytes_ahead: int = 0
    path: str | None = None


class Result(Counts, kw_only=True):
    """The result of a task: counts of usual files, outcomes of the others, and work that is left.

    Each file is counted, or is an outcome, once: it was read, ruled out by its size, known
    unchanged from an earlier run, or it is skipped or unread. Each of the `members` of containers
    is counted, or is an outcome, too; `clean` and `outcomes` have them, too. `reported` has the sum
    of what the `Advance`s of the task have reported already; `taken_s` is how long another process
    took for the task. `learned` are records for the inventory, by file system; `seen` its blocks
    that are in use, and `containers` the members that were found inside of files. `lost` are the
    inodes of listed files and directories for which others were checked.
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
        """Add the result of a later part of the same task."""
        self.add_counts(more)
        self.clean += more.clean
        self.outcomes += more.outcomes
        self.learned += more.learned
        self.seen += more.seen
        self.containers += more.containers
        self.lost += more.lost

"""The work of a scan, its results, and the reasons why an input was not read.

Work consists of names of files to check and of directories to list. A source makes work, an
executor transports work and results, and a checker does the work. `reason_of` returns the reasons
of the operating system. Each reason that hashclient itself gives is a constant in this module, or
in the only module that uses the reason. `docs/exit-codes.md` has the table of all reasons.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from hashclient.core.model import Outcome
from hashclient.core.verdict import Counts

#: The number of names in a task: large enough that handing over a task is cheap, and small enough
#: that the work is divided evenly among workers.
TASK_NAMES = 512
#: The value of `Group.inodes` for files that were not listed.
NO_INODES = array("Q")

#: The device and the inode of a directory. The device is None if its number on this machine is
#: unknown.
Identity = tuple[int | None, int]

#: The reasons, in words of hashclient, why an input was not read.
CHANGED = "changed while being read"
MOVED = "was moved, and names kept changing while it was looked for"
SPARSE = "sparse: more than 99 % of it is hole; --sparse reads it"
ENDLESS = "goes on for too long, and has no size that can be relied on"
WORKER_DIED = "the worker process that was checking it died"
NOT_THERE = "no such file or directory"
WORKER_FAILED = "the worker that was checking it failed"
CLUSTER_GONE = "the cluster could not be reached any more"


def reason_of(error: OSError) -> str:
    """Return why an input was not read, in the words of the operating system."""
    if error.errno == errno.ENOENT:
        return NOT_THERE
    return (error.strerror or str(error)).lower()


def join(directory: str, name: str) -> str:
    """Join the path of a directory, as the user gave it, and a name in the directory."""
    if not directory or directory.endswith("/"):
        return directory + name
    return f"{directory}/{name}"


class Group(NamedTuple):
    """Names of regular files in one directory, to be checked.

    - `follow`: whether a name may be a symbolic link.
    - `identity`: the directory that a source has listed; None if no source has listed the
      directory.
    - `inodes`: the listed inode of each file, 0 if the inode is unknown; empty if no file was
      listed.
    - `is_named`: whether the user gave the names, so that each name must have an outcome.

    Without `identity` and `inodes`, the file that has the name at the time of opening is checked.
    If another directory has replaced the listed directory, and `is_named` is false, the files of
    the new directory are checked instead.
    """

    directory: str
    names: list[str]
    follow: bool
    identity: Identity | None = None
    inodes: array[int] = NO_INODES
    is_named: bool = False

    def part(self, first: int, end: int | None = None) -> Group:
        """Return a group of the names from index `first` up to, but not including, index `end`."""
        return self._replace(names=self.names[first:end], inodes=self.inodes[first:end])

    def only(self, names: Sequence[str], inodes: Sequence[int]) -> Group:
        """Return a group of some of the files; `names` may be new names of these files."""
        known = array("Q", inodes) if any(inodes) else NO_INODES
        return self._replace(names=list(names), inodes=known)


class Start(msgspec.Struct, frozen=True, array_like=True):
    """A directory to be listed, with all directories below it.

    - `verified`: all workers of a cluster have compared the directory. A verified directory is
      either a PATH of the user, which may be a symbolic link, or a directory at which another file
      system begins.
    - `is_root`: the directory is a PATH of the user.
    - `inode`: the listed inode of the directory; 0 if it is unknown, or differs between workers.
    - `above`: the inode of the parent directory; 0 if it is unknown, or differs between workers.
    - `is_border`: a worker did not list the directory, because it is on another file system than
      its parent.
    - `is_wide`: a worker did not list the directory, because one message cannot contain its names.

    If neither `is_border` nor `is_wide` is set, a worker may have left the directory for lack of
    time.
    """

    path: bytes
    verified: bool = False
    is_root: bool = False
    inode: int = 0
    above: int = 0
    is_border: bool = False
    is_wide: bool = False


#: What a walk yields: files, outcomes of other inputs, or directories that another process must
#: list.
Item = Group | Outcome | Start

#: The groups of names that a worker gets in one message.
Task = list[Group]


def divided(task: Task, names: int) -> tuple[Task, Task]:
    """Return two parts of a task: its first `names` names, at least one, and the other names."""
    for place, group in enumerate(task):
        if len(group.names) >= names:
            first = [*task[:place], group.part(0, names)]
            rest = task[place + 1 :]
            if len(group.names) > names:
                rest = [group.part(names), *rest]
            return first, rest
        names -= len(group.names)
    return task, []


#: The number of a file system, and the number of a block of inodes: the key of a row of the
#: inventory.
Block = tuple[int, int]
#: The number of a file system, the record of a container without tags, and its members as bytes.
Container = tuple[int, bytes, bytes]


class Advance(msgspec.Struct, frozen=True):
    """Progress: `bytes_ahead` more bytes of `path` were read, but its result is not known yet."""

    bytes_ahead: int = 0
    path: str | None = None


class Result(Counts, kw_only=True):
    """The result of a task: counts, outcomes, work that is left, and records for the inventory.

    Each file is either counted or has one outcome: the file was read, was ruled out by its size, is
    known unchanged from an earlier run, was skipped, or is unread. Each of the `members` of
    containers is also counted or has one outcome; `clean` and `outcomes` include members.

    - `deferred`: the groups that are left to be checked.
    - `learned`: new records for the inventory, with the number of their file system.
    - `seen`: the blocks of the inventory in which the scan has found files.
    - `containers`: the members that were found inside files.
    - `lost`: the inodes of listed files and directories that were not found under their names, so
      that other files were checked.
    - `reported`: the number of bytes that the `Advance` messages of the task have reported.
    - `taken_s`: the seconds that another process took for the task.
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

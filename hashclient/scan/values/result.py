"""The result of work, and how far it is: what a checker gives, and an executor carries."""

from __future__ import annotations

import msgspec

from hashclient.core.counts import Counts
from hashclient.core.model import Outcome
from hashclient.scan.values.work import Task

#: (number of the file system, block of inodes), as a row is named.
Block = tuple[int, int]
#: The number of a file system, the record of a file without tags, and its members as bytes.
Container = tuple[int, bytes, bytes]


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

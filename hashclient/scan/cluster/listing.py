"""Directories on a cluster: each worker lists directories for a short time, and returns the rest.

A worker walks the given directories and the directories below them. A worker stops when it has
`LIST_NAMES` names, or after `LIST_S` seconds; any free worker gets the remaining directories. A
worker never leaves the file system on which it began. Where another file system begins, the worker
reports the path to the client, and the client lets all workers compare the path. Symbolic links are
never followed. A directory with more than `WIDE_NAMES` names is returned unlisted, and is listed by
the client. So no message becomes too large, and little memory is used.

The client itself checks the directory where a tree begins, and each directory in the tree where
another file system begins. The client's record of mounts shows whether an earlier scan has seen the
file system.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.cluster.messages import Listed, names_elsewhere
from hashclient.scan.executors.wire import Names, pack_outcomes
from hashclient.scan.sources.finding_again import open_directory, with_status
from hashclient.scan.sources.frame import Frame
from hashclient.scan.sources.frontier import Frontier
from hashclient.scan.sources.listing import Chunk, Lister, given_out, read_ahead
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.sources.trees import Tree, Trees
from hashclient.scan.sources.walk import Walk
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Group, Start, Task, reason_of
from hashclient.system.identity import Identities, is_mount_root
from hashclient.system.processors import Allowance

#: A batch of directories ends after `LIST_NAMES` names, or after `LIST_S` seconds. Handing out a
#: batch takes some 7 ms in all processes; listing this many names takes 40 ms if the directories
#: are in memory.
LIST_NAMES, LIST_S = 40_000, 0.5
#: The most names of one directory that a worker sends.
WIDE_NAMES = 50_000


class Errand(Frontier):
    """Decides which directories of a batch a worker lists, and which it returns unlisted."""

    def __init__(
        self,
        base: str,
        points: frozenset[str],
        exclude: Sequence[str],
        *,
        identities: Identities | None = None,
        most_names: int = LIST_NAMES,
        wide_names: int | None = WIDE_NAMES,
    ) -> None:
        """List directories, but do not enter the mount points `points`.

        Relative paths are below `base`. With `identities`, inodes are returned if all machines have
        the same file system. If `most_names` is 0, only the given directories are listed, and not
        the directories below them.
        """
        options = ScanOptions(tuple(exclude))
        super().__init__(options)
        self.points = points
        self._wide_names = wide_names
        self._walk = Walk(self, options, Lister(), base=base)
        self._left_names = most_names
        self._identities = identities
        #: The numbers of file systems by `st_dev`, for one batch.
        self._numbers: dict[int | None, int] = {}
        self._allowance = Allowance(LIST_S)
        self._start = Start(b"")

    def run(self, starts: Sequence[Start]) -> Listed:
        """List the directories `starts` in this order, each with all directories below it."""
        groups: list[Names] = []
        outcomes: list[Outcome] = []
        rest: list[Start] = []
        for number, start in enumerate(starts):
            if self._is_over:
                rest += starts[number:]
                break
            for item in self.listed(start):
                if isinstance(item, Names):
                    groups.append(item)
                elif isinstance(item, Outcome):
                    outcomes.append(item)
                else:
                    rest.append(item)
        return Listed(groups, pack_outcomes(outcomes), rest)

    def listed(self, start: Start) -> Iterator[Names | Outcome | Start]:
        """Yield the files in a directory and below it, and the directories that are not listed."""
        self._start, path = start, os.fsdecode(start.path)
        if start.verified:
            identity = (None, start.inode) if start.inode else None
            items = self._walk.walk(path, identity, follow=start.is_root)
        else:
            items = self._walk.walk_listed(path, start.inode, start.above)
        for item in items:
            if isinstance(item, Group):
                assert item.identity is not None
                yield names_elsewhere(item, self._numbers[item.identity[0]])
            else:
                yield item

    @property
    def _is_over(self) -> bool:
        return self._left_names <= 0 or self._allowance.is_spent

    def begin(self, path: str, fd: int, status: os.stat_result) -> Outcome | None:
        """Note the number of the file system; the client has already checked the directory."""
        found = None if self._identities is None else self._identities.of(fd, status.st_dev)
        self._numbers[status.st_dev] = 0 if found is None else found.number
        return None

    def is_border(self, path: str, fd: int, status: os.stat_result, above: os.stat_result) -> bool:
        """Return whether another file system begins, or a file system is mounted a second time.

        A second mount may hide files that other machines see.
        """
        return super().is_border(path, fd, status, above) or is_mount_root(fd)

    def cross(
        self, path: str, fd: int, status: os.stat_result
    ) -> tuple[bool, Outcome | Start | None]:
        """Stop where another file system begins; the client lets all workers compare the path."""
        return False, Start(os.fsencode(path), is_border=True)

    def takes(self, path: str, inode: int, above: Frame) -> Start | None:
        """Return the `Start` of a directory to be listed later, if this batch must end now."""
        return self._start_at(path, inode, above) if self._is_over else None

    def bounded(
        self, path: str, inode: int, above: Frame | None, chunks: Iterator[Chunk]
    ) -> Iterator[Chunk] | Start:
        """Read a directory before its subdirectories; return a wide directory to the client."""
        if self._wide_names is None:
            return chunks
        kept, failures = read_ahead(chunks, self._wide_names)
        if sum(len(chunk.names) + len(chunk.others) for chunk in kept) > self._wide_names:
            wide = self._start
            if above is not None and os.fsencode(path) != wide.path:
                wide = self._start_at(path, inode, above)
            return msgspec.structs.replace(wide, is_wide=True)
        self._left_names -= sum(len(chunk.names) for chunk in kept)
        return given_out(kept, failures, chunks)

    def _start_at(self, path: str, inode: int, above: Frame) -> Start:
        """Return the `Start` of a directory, with inodes if all machines have its file system."""
        if not self._numbers[above.status.st_dev]:
            return Start(os.fsencode(path))
        return Start(os.fsencode(path), inode=inode, above=above.status.st_ino)


class ClusterTrees(Trees):
    """The files at paths and below them, whose directories are listed by workers."""

    def __init__(
        self, paths: Sequence[str], options: ScanOptions, mounts: Mounts | None = None
    ) -> None:
        """List the trees at `paths` as `Trees` does, but never follow symbolic links in them."""
        super().__init__(paths, options, mounts)
        #: The directories below the PATHs where a file system is mounted, or was mounted.
        self.points: set[str] = set()
        self._frontiers: dict[str, Frontier] = {}
        self._found: list[Task | Outcome] = []
        self._identities = Identities()

    def begin(self) -> list[str]:
        """Examine each path; return the directories that must be the same on every machine."""
        places: dict[str, None] = {}
        for item in self.given():
            if isinstance(item, Tree):
                self._begin_tree(item.path)
                places[item.path] = None
            elif isinstance(item, Group):
                self._found.append([item])
                places[item.directory or "."] = None
            else:
                self._found.append(item)
        return list(places)

    def _begin_tree(self, tree: str) -> None:
        self.coverage.begin(tree)
        try:
            fd, status = with_status(open_directory(tree, follow=True))
        except OSError as error:
            self._found.append(self.unread(tree, reason_of(error)))
            return
        try:
            frontier = self._frontiers[tree] = Frontier(self._options, self._mounts)
            if (objection := frontier.begin(tree, fd, status)) is not None:
                self.coverage.note(objection)
                self._found.append(objection)
            # workers may see fewer files than the client only at these mount points
            if self._mounts is not None:
                self.points |= self._mounts.watched(tree, fd)
        finally:
            os.close(fd)

    @property
    def starts(self) -> list[Start]:
        """The trees, in the form in which workers get them."""
        return [Start(os.fsencode(tree), verified=True, is_root=True) for tree in self._frontiers]

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield the files among the paths, and outcomes of skipped or unread paths."""
        yield from self._found

    def cross(self, path: str) -> tuple[bool, Outcome | None]:
        """Check where another file system begins; return whether to list it, and an outcome."""
        try:
            fd, status = with_status(open_directory(path))
        except OSError as error:
            return False, self.unread(path, reason_of(error))
        try:
            above = [
                tree for tree in self._frontiers if f"{path}/".startswith(tree.rstrip("/") + "/")
            ]
            enters, outcome = self._frontiers[max(above, key=len)].cross(path, fd, status)
        finally:
            os.close(fd)
        if isinstance(outcome, Outcome):
            self.coverage.note(outcome)
            return enters, outcome
        return enters, None

    def list_wide(self, start: Start) -> Iterator[Names | Outcome | Start]:
        """Yield the names in one directory, but not the names below it."""
        start = msgspec.structs.replace(start, verified=True)
        errand = Errand(
            "",
            frozenset(),
            self._options.exclude,
            identities=self._identities,
            most_names=0,
            wide_names=None,
        )
        for item in errand.listed(start):
            if isinstance(item, Outcome):
                self.coverage.note(item)
            yield item

    def unread(self, directory: str, reason: str) -> Outcome:
        """Return the outcome of a directory that was not listed, and note the failure."""
        self.coverage.fail(directory)
        return Outcome(Kind.UNREAD, directory, reason=reason)

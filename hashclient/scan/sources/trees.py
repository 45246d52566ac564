"""The trees of a scan: turn the paths that a user gave into groups of names to check."""

from __future__ import annotations

import contextlib
import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources.again import Again
from hashclient.scan.sources.finding_again import looked_at
from hashclient.scan.sources.frontier import Frontier, compile_excludes, kind_of
from hashclient.scan.sources.interface import TaskBuilder
from hashclient.scan.sources.listing import Lister
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.sources.walk import Walk
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Group, Identity, Item, Task, reason_of

#: The most trees, and the most directories that could not be listed, that are kept in memory.
MAX_COVERED = 10_000


class Coverage:
    """The trees of a finished walk, and the directories in them that could not be listed.

    The names that were listed are not stored, so that the coverage needs little memory.
    """

    def __init__(self, options: ScanOptions) -> None:
        """Start without a tree."""
        #: The trees: for each tree its path as given, and its path without symbolic links.
        self.roots: list[tuple[str, str]] = []
        self.one_file_system = options.one_file_system
        self._excluded = compile_excludes(options.exclude) if options.exclude else None
        self._failed: set[str] = set()

    def begin(self, tree: str) -> None:
        """Note that the walk covers the tree at a path."""
        if len(self.roots) < MAX_COVERED:
            # A symbolic link in the path may have been exchanged, and lead nowhere. If the symbolic
            # link leads nowhere, the tree is not covered, and no match in the tree is gone.
            with contextlib.suppress(OSError):
                self.roots.append((tree, os.path.realpath(tree)))

    def fail(self, directory: str) -> None:
        """Note a directory that was not listed; after too many, no tree counts as covered."""
        if len(self._failed) < MAX_COVERED:
            self._failed.add(directory)

    def note(self, item: Item) -> None:
        """Note a directory that could not be listed, if `item` is its outcome."""
        if isinstance(item, Outcome) and item.kind is Kind.UNREAD:
            self.fail(item.path)

    def has_failed(self, directory: str) -> bool:
        """Return whether a directory (by its path in the walk) may be missing in the listing."""
        return len(self._failed) >= MAX_COVERED or directory in self._failed

    def excludes(self, directory: str, name: str) -> bool:
        """Return whether the options exclude a name in a directory."""
        return self._excluded is not None and self._excluded(directory, name)


class Tree(NamedTuple):
    """A directory that a user gave: its path and its identity."""

    path: str
    identity: Identity


class Trees:
    """The files at paths and below them: the source of a scan that is given PATHs."""

    def __init__(
        self,
        paths: Sequence[str],
        options: ScanOptions,
        mounts: Mounts | None = None,
        *,
        looks_again: bool = True,
    ) -> None:
        """List `paths`; with `mounts`, a directory whose file system has changed is unread.

        With `looks_again`, directories that other users may write to are noted for `again`.
        """
        self._paths = paths
        self._options = options
        self._mounts = mounts
        #: The trees that were covered; complete at the end of the walk.
        self.coverage = Coverage(options)
        self._again = Again()
        self._notes = self._again if looks_again else None

    @property
    def arguments(self) -> Sequence[str]:
        """The paths that the user gave."""
        return self._paths

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield tasks of about `TASK_NAMES` names, and outcomes of skipped or unread inputs.

        A path that is a symbolic link is followed, because the user named it. Regular files are
        only listed; they may change or vanish before they are opened. A directory whose file system
        has changed is unread, but its present files are listed.
        """
        tasks, lister = TaskBuilder(), Lister()
        try:
            for item in self._listed(lister):
                if isinstance(item, Outcome):
                    yield item
                elif isinstance(item, Group) and (task := tasks.add(item)) is not None:
                    yield task
                    # A caller that requests a second task has already forked its workers, so
                    # threads may be started.
                    lister.may_thread = tasks.full >= 2
            if tasks.groups:
                yield tasks.groups
        finally:
            lister.close()

    def _listed(self, lister: Lister) -> Iterator[Item]:
        for item in self.given():
            if isinstance(item, Tree):
                self.coverage.begin(item.path)
                frontier = Frontier(self._options, self._mounts)
                walk = Walk(frontier, self._options, lister, self._notes)
                for found in walk.walk(*item):
                    self.coverage.note(found)
                    yield found
            else:
                yield item

    def given(self) -> Iterator[Tree | Group | Outcome]:
        """Yield the file or tree at each path, or its outcome."""
        for path, status in zip(self._paths, looked_at(self._paths), strict=True):
            if isinstance(status, OSError):
                yield Outcome(Kind.UNREAD, path, reason=reason_of(status))
            elif stat.S_ISDIR(status.st_mode):
                yield Tree(path.rstrip("/") or "/", (status.st_dev, status.st_ino))
            elif stat.S_ISREG(status.st_mode):
                directory, name = os.path.split(path)
                yield Group(directory, [name], follow=True, inodes=array("Q", [status.st_ino]))
            else:
                yield Outcome(Kind.SKIPPED, path, reason=kind_of(status.st_mode))

    def lose(self, inodes: Iterable[int]) -> None:
        """Note the inodes of listed files that other files have replaced; see `again`."""
        self._again.lost.update(inodes)

    def again(self) -> Iterator[Task | Outcome]:
        """Yield files that were moved after they were listed; see the module `again`.

        The caller must have checked all batches before, and must check each task before it requests
        the next task.
        """
        tasks = TaskBuilder()
        try:
            for item in self._again.found(Lister()):
                if isinstance(item, Outcome):
                    self.coverage.note(item)
                    yield item
                elif isinstance(item, Group):
                    if (task := tasks.add(item)) is not None:
                        yield task
                elif tasks.groups:
                    yield tasks.groups
                    tasks = TaskBuilder()
        except OSError as error:  # the notes cannot be read or written
            for path in self._paths:
                self.coverage.fail(path)
                yield Outcome(Kind.UNREAD, path, reason=reason_of(error))

    def close(self) -> None:
        """Save the notes of `mounts` up to the point that the walk has reached."""
        self._again.close()
        if self._mounts is not None:
            self._mounts.save()

"""The trees of a scan on a cluster, as the client sees them: workers list their directories.

The client looks where a tree begins, and where another file system begins in it: its own record of
mounts says whether that is the one scanned before. The client lists a directory itself only if it
is too wide to be sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.cluster.listing import Errand
from hashclient.scan.executors.wire import Names
from hashclient.scan.sources.directories import open_directory, with_status
from hashclient.scan.sources.frontier import Frontier, Places
from hashclient.scan.sources.trees import Tree, Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.reasons import reason_of
from hashclient.scan.values.work import Group, Start, Task
from hashclient.system.identity import Identities


class ClusterTrees(Trees):
    """The files at paths and below them; workers list the directories."""

    def __init__(
        self, paths: Sequence[str], options: ScanOptions, places: Places | None = None
    ) -> None:
        """List the trees at `paths`, as `Trees` does; links that are met are never followed."""
        super().__init__(paths, options, places)
        #: Directories below the PATHs where a file system is mounted, or was.
        self.points: set[str] = set()
        self._frontiers: dict[str, Frontier] = {}
        self._found: list[Task | Outcome] = []
        self._identities = Identities()

    def begin(self) -> list[str]:
        """Look at each path; return the directories that must be the same on every machine."""
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
            frontier = self._frontiers[tree] = Frontier(self._options, self._places)
            if (objection := frontier.begin(tree, fd, status)) is not None:
                self.coverage.note(objection)
                self._found.append(objection)
            if self._places is not None:  # nowhere else in the tree a worker may see less than here
                self.points |= self._places.watched(tree, fd)
        finally:
            os.close(fd)

    @property
    def starts(self) -> list[Start]:
        """The trees, as workers are given them."""
        return [Start(os.fsencode(tree), verified=True, is_root=True) for tree in self._frontiers]

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield the files among the paths, and skipped or unread outcomes."""
        yield from self._found

    def cross(self, path: str) -> tuple[bool, Outcome | None]:
        """Look where another file system begins; return whether to go on, and an outcome."""
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
        """Yield the names in one directory, but not those below it."""
        start = msgspec.structs.replace(start, verified=True, is_wide=False)
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
        """Return the outcome of a directory that was not listed, and note that it was not."""
        self.coverage.fail(directory)
        return Outcome(Kind.UNREAD, directory, reason=reason)

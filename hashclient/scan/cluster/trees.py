"""The trees of a scan on a cluster, as the client sees them: workers list their directories.

The client looks where a tree begins, and where another file system begins in it: its own record of
mounts says whether that is the one scanned before. The client lists a directory itself only if it
is too wide to be sent.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from array import array
from collections.abc import Iterator, Sequence

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.cluster.listing import passed_over
from hashclient.scan.cluster.messages import Start, names_elsewhere
from hashclient.scan.executors.wire import Names
from hashclient.scan.reasons import reason_of
from hashclient.scan.sources.directories import open_directory, open_listed, with_status
from hashclient.scan.sources.files import (
    OTHER_FILE_SYSTEM,
    Coverage,
    Places,
    Trees,
    WalkOptions,
    compile_excludes,
    join,
    kind_of,
)
from hashclient.scan.sources.frame import Frame
from hashclient.scan.sources.interface import Group, Task
from hashclient.scan.sources.listing import Lister
from hashclient.system.identity import Identities


class ClusterTrees(Trees):
    """The files at paths and below them; workers list the directories."""

    def __init__(
        self, paths: Sequence[str], options: WalkOptions, places: Places | None = None
    ) -> None:
        """List the trees at `paths`, as `Trees` does; links that are met are never followed."""
        super().__init__(paths, options, places)
        #: Directories below the PATHs where a file system is mounted, or was.
        self.points: set[str] = set()
        self._roots: dict[str, int] = {}
        self._found: list[Task | Outcome] = []
        self._identities = Identities()

    def begin(self) -> list[str]:
        """Look at each path; return the directories that must be the same on every machine."""
        places: dict[str, None] = {}
        for path in self._paths:
            try:
                status = os.stat(path)  # noqa: PTH116 - a path may be any bytes
            except OSError as error:
                self._found.append(Outcome(Kind.UNREAD, path, reason=reason_of(error)))
                continue
            if stat.S_ISDIR(status.st_mode):
                tree = path.rstrip("/") or "/"
                self._begin_tree(tree)
                places[tree] = None
            elif stat.S_ISREG(status.st_mode):
                directory, name = os.path.split(path)
                self._found.append([Group(directory, [name], follow=True)])
                places[directory or "."] = None
            else:
                outcome = Outcome(Kind.SKIPPED, path, reason=kind_of(status.st_mode))
                self._found.append(outcome)
        return list(places)

    def _begin_tree(self, tree: str) -> None:
        self.coverage.begin(tree)
        try:
            fd = open_directory(tree, follow=True)
        except OSError as error:
            self._fail(tree, reason_of(error))
            return
        try:
            self._roots[tree] = os.fstat(fd).st_dev
            if self._places is not None:
                self.points |= self._places.watched(tree, fd)
                reason = self._places.look(fd, given=True)
                if reason is not None:
                    self._fail(tree, reason)
        finally:
            os.close(fd)

    @property
    def starts(self) -> list[Start]:
        """The trees, as workers are given them."""
        return [Start(os.fsencode(tree), verified=True, is_root=True) for tree in self._roots]

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield the files among the paths, and skipped or unread outcomes."""
        yield from self._found

    def cross(self, path: str) -> tuple[Outcome | None, bool]:
        """Look where another file system begins; return outcomes, and whether to go on.

        A directory that is not the one of before is unread, and its present files are listed all
        the same.
        """
        try:
            fd = open_directory(path)
        except OSError as error:
            return self.unread(path, reason_of(error)), False
        try:
            if self._options.one_file_system and os.fstat(fd).st_dev != self._device_of(path):
                return Outcome(Kind.SKIPPED, path, reason=OTHER_FILE_SYSTEM), False
            reason = None if self._places is None else self._places.look(fd, given=False)
            return None if reason is None else self.unread(path, reason), True
        finally:
            os.close(fd)

    def _device_of(self, path: str) -> int | None:
        """Return the device of the tree that a path is in."""
        above = [
            tree
            for tree in self._roots
            if path == tree or path.startswith(tree if tree == "/" else f"{tree}/")
        ]
        return self._roots[max(above, key=len)] if above else None

    def list_wide(self, path: str, inode: int = 0) -> Iterator[Names | Outcome | Start]:
        """Yield the names in one directory, which has an `inode`, but not those below it."""
        exclude = self._options.exclude
        excluded = compile_excludes(exclude) if exclude else None
        lister, opened_ns = Lister(), time.time_ns()
        try:
            if inode:
                fd, status = open_listed(path, (None, inode))
            else:
                fd, status = with_status(open_directory(path, follow=path in self._roots))
        except OSError as error:
            yield self.unread(path, reason_of(error))
            return
        frame = Frame(path, fd, status, opened_ns, lister.read(fd))
        try:
            found = self._identities.of(fd, status.st_dev)
            number = 0 if found is None else found.number
            for chunk in frame.whole():
                entries = [
                    *zip(chunk.names, itertools.repeat(stat.S_IFREG), chunk.inodes),
                    *chunk.others,
                ]
                names: list[str] = []
                inodes = array("Q")
                for name, mode, inode_of_name in entries:
                    outcome = passed_over(path, name, mode, excluded)
                    if outcome is not None:
                        yield outcome
                    elif mode == stat.S_IFDIR:
                        known = inode_of_name if number else 0
                        yield Start(os.fsencode(join(path, name)), inode=known)
                    else:
                        names.append(name)
                        inodes.append(inode_of_name)
                if names:
                    group = Group(path, names, follow=False, identity=frame.identity, inodes=inodes)
                    yield names_elsewhere(group, number)
        except OSError as error:
            yield self.unread(path, reason_of(error))
        finally:
            os.close(fd)

    def unread(self, directory: str, reason: str) -> Outcome:
        """Return the outcome of a directory that was not listed, and note that it was not."""
        self.coverage.fail(directory)
        return Outcome(Kind.UNREAD, directory, reason=reason)

    def _fail(self, tree: str, reason: str) -> None:
        self._found.append(self.unread(tree, reason))


def note_failures(coverage: Coverage, outcomes: Sequence[Outcome]) -> None:
    """Note which directories workers could not list."""
    for outcome in outcomes:
        if outcome.kind is Kind.UNREAD:
            coverage.fail(outcome.path)

"""Decides which directories of a tree a scan enters, and which directories it omits.

Three cases need a decision: the beginning of a tree, the border to another file system, and a
symbolic link that is followed. The process that distributes work makes the decision, before any
directory below is listed. A worker of a cluster lists directories until a decision is needed, and
returns the directories that are left.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources.frame import Frame
from hashclient.scan.sources.listing import Chunk
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Identity, Start, join

OTHER_FILE_SYSTEM = "other file system"


def compile_excludes(patterns: Sequence[str]) -> Callable[[str, str], bool]:
    """Return a function that tests a directory and a name against shell patterns.

    A pattern without a slash is matched against the name only. A pattern with a slash is matched
    against the path as it is reported. `*` also matches slashes.
    """
    names = [fnmatch.translate(p) for p in patterns if "/" not in p]
    paths = [fnmatch.translate(p.rstrip("/")) for p in patterns if "/" in p]
    match_name = re.compile("|".join(names)).match if names else None
    match_path = re.compile("|".join(paths)).match if paths else None

    def excluded(directory: str, name: str) -> bool:
        if match_name is not None and match_name(name):
            return True
        return match_path is not None and match_path(join(directory, name)) is not None

    return excluded


def kind_of(mode: int) -> str:
    """Return the name of a file type that is never read."""
    for test, name in (
        (stat.S_ISFIFO, "named pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISBLK, "block device"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISDIR, "directory"),
    ):
        if test(mode):
            return name
    return "not a regular file"


class Frontier:
    """Decides for each directory of one tree whether the walk enters the directory."""

    def __init__(self, options: ScanOptions, mounts: Mounts | None = None) -> None:
        """Use the options; a directory that differs from its record in `mounts` is unread."""
        self._one_file_system = options.one_file_system
        self._mounts = mounts
        #: The present and former mount points, at which the walk needs a decision.
        self.points: frozenset[str] = frozenset()
        #: The device of the top directory of the tree; -1 before this directory is open.
        self._device = -1
        #: The directories that were entered through symbolic links. Each directory is entered
        #: through a symbolic link only once, which ends every loop of links.
        self._followed: set[Identity] = set()

    def begin(self, path: str, fd: int, status: os.stat_result) -> Outcome | None:
        """Begin with the tree's open top directory; return an outcome if the directory is unread.

        The walk enters the directory even if an outcome is returned.
        """
        # The device is read only after the directory was opened, because opening mounts an
        # automount.
        self._device = status.st_dev
        if self._mounts is None:
            return None
        if not self._one_file_system:
            self.points = self._mounts.watched(path, fd)
        return self._objection(path, fd, given=True)

    def is_border(self, path: str, fd: int, status: os.stat_result, above: os.stat_result) -> bool:
        """Return whether an open directory needs a decision; its parent has the status `above`."""
        # Automounts appear during the walk, so another device is also a reason for a decision.
        return status.st_dev != above.st_dev or path in self.points

    def cross(
        self, path: str, fd: int, status: os.stat_result
    ) -> tuple[bool, Outcome | Start | None]:
        """Return whether to enter a directory that `is_border` reports, and an outcome or start."""
        if self.is_beyond(status):
            return False, Outcome(Kind.SKIPPED, path, reason=OTHER_FILE_SYSTEM)
        return True, self._objection(path, fd, given=False)

    def _objection(self, path: str, fd: int, *, given: bool) -> Outcome | None:
        reason = None if self._mounts is None else self._mounts.look(fd, given=given)
        return None if reason is None else Outcome(Kind.UNREAD, path, reason=reason)

    def is_beyond(self, status: os.stat_result) -> bool:
        """Return whether a directory is on a file system that `one_file_system` excludes."""
        return self._one_file_system and status.st_dev != self._device

    def follows(self, target: Identity, entered: Sequence[Frame]) -> bool:
        """Note a directory that a symbolic link leads to; return whether the walk enters it.

        The symbolic link is not followed if the walk is in the directory to which the link leads,
        or has entered this directory by another symbolic link.
        """
        if target in self._followed or any(frame.identity == target for frame in entered):
            return False
        self._followed.add(target)
        return True

    def takes(self, path: str, inode: int, above: Frame) -> Start | None:
        """Return a `Start` if another process must list the directory with `inode` in `above`."""
        return None

    def bounded(
        self, path: str, inode: int, above: Frame | None, chunks: Iterator[Chunk]
    ) -> Iterator[Chunk] | Start:
        """Return the entries of a directory, or a `Start` if another process must list it."""
        return chunks

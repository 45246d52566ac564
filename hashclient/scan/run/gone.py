"""Finds matches that are gone: a scan has covered their place, and does not find them any more.

A match is gone if all these conditions are true:

1. The path of the match lies below a PATH of a scan that has ended regularly.
2. The path is followed from the PATH of the scan to the file, directory by directory, and no
   directory on the way is a symbolic link. The scan has listed each directory on the way: no
   directory was excluded, could not be read, or was on another file system that the scan had to
   omit.
3. The last directory on the way that exists is the directory of the file, or above it. The last
   existing directory must be the same directory of the same file system as when the file matched,
   so that an unmounted share makes no match gone. The names in the directory are readable: if the
   directory is encrypted, its key is loaded.
4. The directory does not contain the name, or the name is no regular file. A symbolic link whose
   target exists proves nothing, because the file may have been moved, and its old path may still
   lead to it.

If a scan does not find an open match below a PATH again, the scan looks at the name of the match,
and opens each directory on the way once. If every open match below a PATH is found again, the scan
only needs one query of the record of matches.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from hashclient.core.match import Place
from hashclient.matches.selection import Left, Selection
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.sources.trees import Coverage
from hashclient.scan.values.work import join
from hashclient.system.encryption import shows_all_names

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class _End(NamedTuple):
    """The last directory on a way that exists.

    - `fd`: the descriptor of the directory.
    - `rest`: the parts of the way that do not exist.
    - `named`: the path of the directory, as the walk named it.
    """

    fd: int
    rest: bytes
    named: str


def find_gone(
    matches: Selection, coverage: Coverage, grounds: Mounts, started: datetime
) -> Iterator[Left]:
    """Yield the matches that are gone after a scan that began at `started` and covered `coverage`.

    Raises:
        StateError: the record of matches cannot be read.
    """
    for named, real in coverage.roots:
        if coverage.has_failed(named):
            continue
        way = _Way(named, real, coverage)
        try:
            for one in matches.left_below(real, started):
                if way.lacks(one, grounds):
                    yield one
        finally:
            way.close()


class _Way:
    """The way from a PATH to the directories of its matches, which are visited in order of path."""

    def __init__(self, named: str, real: str, coverage: Coverage) -> None:
        self._named, self._real, self._coverage = named, real, coverage
        self._directory: bytes | None = None
        self._end: _End | None = None
        #: The place of the current directory; None if it was not looked up yet.
        self._standing: Place | None = None

    def close(self) -> None:
        """Close the directory that was visited last."""
        if self._end is not None:
            os.close(self._end.fd)
        self._directory = self._end = self._standing = None

    def lacks(self, one: Left, grounds: Mounts) -> bool:
        """Return whether a match is gone, by the four conditions of the module."""
        directory, _, name = one.path.rpartition(b"/")
        if directory != self._directory:
            self.close()
            self._directory = directory
            self._end = self._go(directory)  # conditions 1 and 2 of the module
        end = self._end
        if end is None:
            return False
        if not end.rest:
            if self._coverage.excludes(end.named, os.fsdecode(name)):  # condition 2 of the module
                return False
            try:
                if not _is_away(name, end.fd):  # condition 4 of the module
                    return False
            except OSError:
                return False
        if self._standing is None:
            standing = grounds.standing_of(end.fd, end.rest) if shows_all_names(end.fd) else None
            self._standing = Place(self._real, standing)
        return self._standing.is_at(one.standing)  # condition 3 of the module

    def _go(self, directory: bytes) -> _End | None:
        """Open the existing directories of a way; return None if the scan did not cover the way."""
        below = directory[len(os.fsencode(self._real)) :]
        parts = [part for part in below.split(b"/") if part]
        named = self._named
        try:
            fd = os.open(self._real, _FLAGS)
        except OSError:
            return None
        try:
            device = os.fstat(fd).st_dev
            for number, part in enumerate(parts):
                name = os.fsdecode(part)
                if self._coverage.excludes(named, name):
                    break
                if _is_away(part, fd, of_directory=True):
                    return _End(fd, b"/".join(parts[number:]), named)
                named = join(named, name)
                inner = os.open(part, _FLAGS, dir_fd=fd)
                os.close(fd)
                fd = inner
                if self._coverage.has_failed(named):
                    break
                if self._coverage.one_file_system and os.fstat(fd).st_dev != device:
                    break
            else:
                return _End(fd, b"", named)
        except OSError:
            pass
        os.close(fd)
        return None


def _is_away(name: bytes, directory_fd: int, *, of_directory: bool = False) -> bool:
    """Return whether a name belongs to no regular file (or directory), and no unbroken symlink.

    Raises:
        OSError: the status of the name cannot be read.
    """
    try:
        mode = os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            os.stat(name, dir_fd=directory_fd)
            return False
    except FileNotFoundError:
        return True
    return not (stat.S_ISDIR(mode) if of_directory else stat.S_ISREG(mode))

"""Where files that matched are: paths without symbolic links, and the identity of each place.

A file has one record, whichever of its paths a scan has used, and actions use the path without
symbolic links. Each directory is opened once for each batch. The directory at the path must be the
directory in which the file was read; if a symbolic link leads to the file, the file itself must be
the file that was read. If another directory or file is found, the path of the scan is recorded, and
the place is unknown, because somebody may have put a symbolic link or another directory in the
path, so that other files would be recorded or acted upon.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from hashclient.core.match import Place
from hashclient.core.model import Outcome, Seen
from hashclient.matches.rows import place_of
from hashclient.scan.sources.finding_again import open_directory
from hashclient.scan.sources.mounts import Mounts, real_path
from hashclient.system.beneath import Directory

_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class _Directory(NamedTuple):
    """A directory of files that matched; `path` has no symbolic links and no slash at its end.

    `standing` has the same meaning as in `core.match.Place`.
    """

    path: str
    standing: str | None
    status: os.stat_result

    def has(self, name: str, seen: Seen) -> bool:
        """Return whether `seen` identifies this directory, or else the file `name` in it."""
        if seen.directory_inode is not None:
            return seen.is_directory(self.status)
        try:
            with Directory.plain(self.path or "/") as directory:
                status = directory.status(name)
        except OSError:
            return False
        return status is not None and seen.is_file(status)


def places_of(outcomes: Sequence[Outcome], mounts: Mounts) -> list[Place]:
    """Return the places of outcomes, in the same order.

    The place of a stream or an object is its path, because no file was read.
    """
    known: dict[str, _Directory | None] = {}
    return [
        place_of(one) if one.seen is None else _place(one.path, one.seen, known, mounts)
        for one in outcomes
    ]


def _place(path: str, seen: Seen, known: dict[str, _Directory | None], mounts: Mounts) -> Place:
    met, slash, name = path.rpartition("/")
    if name in ("", ".", ".."):
        return Place(_plain(path))
    # If no symbolic link led to a file, the file was opened in its own directory. Only this
    # directory is compared, because another file may have the name now.
    if seen.directory_inode is None and _is_link(path):
        try:
            met, slash, name = os.path.realpath(path).rpartition("/")
        except OSError:  # the name is no symbolic link any more
            return Place(_plain(path))
    if met not in known:
        known[met] = _directory_at(met + slash, mounts)
    found = known[met]
    if found is None or not found.has(name, seen):
        return Place(_plain(path))
    real = f"{found.path}/{name}"
    if real == path:
        return Place(real, found.standing)
    plain = _plain(path)
    return Place(real, found.standing, None if real == plain else plain)


def _directory_at(path: str, mounts: Mounts) -> _Directory | None:
    try:
        fd = _open(path)
    except (OSError, ValueError):
        return None
    try:
        real = real_path(fd)
        if real is None:
            return None
        return _Directory(real.rstrip("/"), mounts.standing_of(fd), os.fstat(fd))
    except OSError:  # a file server or a FUSE process refuses to answer
        return None
    finally:
        os.close(fd)


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        # The path is too long for one call, or does not exist any more. The result of this function
        # does not matter, because isolation refuses symbolic links anyway.
        return False


def _plain(path: str) -> str:
    return "/" + os.path.abspath(path).lstrip("/")  # noqa: PTH100 - keeps symbolic links


def _open(path: str) -> int:
    try:
        return os.open(path or ".", _PATH_FLAGS)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return open_directory(path, follow=True)

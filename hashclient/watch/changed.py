"""Changed files as the source of a scan; files that are gone again are ignored.

The kernel has reported names in a watched directory. By now, the directory's owner may have put a
link, or another directory, in place of the directory or above it. So the directory is opened
through no link, and the scan reads only files in the opened directory. These are the files that
have the names now, even if the owner gives the names to other files before they are read.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from array import array
from collections.abc import Iterator, Sequence

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.values.work import TASK_NAMES, Group, Task, reason_of
from hashclient.system.beneath import Directory

#: A directory is listed if at least this many of its names are wanted; at most this many times as
#: many names are read from it.
LISTED_FROM = 16
LISTED_TIMES = 4
#: The directory is gone, or something else is in its place: that was reported, too.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class ChangedFiles:
    """The files at absolute `paths`, which led through no link when they were reported."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    @property
    def arguments(self) -> Sequence[str]:
        """The number of files, for the log, in place of their paths."""
        return [f"{len(self._paths)} changed files"]

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield the files by directory."""
        task: Task = []
        names = 0
        for path, group in itertools.groupby(self._paths, os.path.dirname):
            try:
                directory = Directory.plain(path)
            except OSError as error:
                if error.errno not in _GONE:
                    reason = reason_of(error)
                    yield from (Outcome(Kind.UNREAD, file, reason=reason) for file in group)
                continue
            with directory:
                while part := list(itertools.islice(group, TASK_NAMES - names)):
                    if present := _present(directory, part):
                        inodes = array("Q", present.values())
                        identity = directory.identity()
                        task.append(
                            Group(
                                path, list(present), follow=False, identity=identity, inodes=inodes
                            )
                        )
                        names += len(present)
                    if names >= TASK_NAMES:
                        yield task
                        task, names = [], 0
        if task:
            yield task

    def close(self) -> None:
        """Do nothing: no resource is open."""


def _present(directory: Directory, paths: Sequence[str]) -> dict[str, int]:
    """Return which names of the paths in a directory still exist, with their inodes.

    For many names the directory is listed: a status for each name would take a fifth of the time of
    its check. An inode is 0 if it cannot be found out.
    """
    listed: dict[str, int] = {}
    if len(paths) >= LISTED_FROM:
        with contextlib.suppress(OSError), os.scandir(f"/proc/self/fd/{directory.fd}") as entries:
            first = itertools.islice(entries, len(paths) * LISTED_TIMES)
            listed = {entry.name: entry.inode() for entry in first}
    start = len(directory.path.rstrip("/")) + 1
    found = {}
    for path in paths:
        name = path[start:]
        inode = listed.get(name)
        if inode is None:
            inode = _inode(directory, name)
        if inode is not None:
            found[name] = inode
    return found


def _inode(directory: Directory, name: str) -> int | None:
    try:
        status = directory.status(name)
    except OSError:  # the file exists, and may be unread
        return 0
    return None if status is None else status.st_ino

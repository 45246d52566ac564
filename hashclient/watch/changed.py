"""Passes changed files to a scan; files that do not exist any more are left out.

The kernel has reported names of files in a watched directory. After the report, the owner of the
directory may replace the directory, or a directory above it, by a symbolic link or by another
directory. Therefore the directory is opened without following links, and the scan reads only files
in the opened directory. If the owner replaces a file in the opened directory before the read, the
scan reads the new file.
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

#: `LISTED_FROM`: the least number of changed files in a directory for which the directory is
#: listed; `LISTED_TIMES`: the most names that are read from the listing, for each changed file.
LISTED_FROM = 16
LISTED_TIMES = 4
#: Errors that mean that the directory was removed or replaced. These errors are ignored, because
#: the kernel also reports the removal or the replacement.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class ChangedFiles:
    """The files at absolute `paths`, which had no symbolic link when the kernel reported them."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    @property
    def arguments(self) -> Sequence[str]:
        """The number of files, which is logged instead of the paths."""
        return [f"{len(self._paths)} changed files"]

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield the existing files in tasks, grouped by directory."""
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
        """Do nothing, because no resource is open."""


def _present(directory: Directory, paths: Sequence[str]) -> dict[str, int]:
    """Return, by name, the inodes of the files at `paths`, which are all in one directory.

    Files that do not exist any more are left out.

    For many files, the directory is listed, because a separate system call for each file would take
    a fifth of the time of the file's check. The inode is 0 if the status of the file cannot be
    read.
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
    except OSError:  # the file exists; the scan reports whether it is unreadable
        return 0
    return None if status is None else status.st_ino

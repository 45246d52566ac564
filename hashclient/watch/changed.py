"""Changed files as the source of a scan; files that do not exist any more are left out.

The kernel has reported names of files in a watched directory. Since the report, the owner of the
directory may have replaced the directory, or a directory above it, by a symbolic link or by another
directory. Therefore the directory is opened without following links, and the scan reads only files
in the opened directory. The files that are read are the files that have the reported names now,
even if the owner exchanges the files before the read.
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

#: `LISTED_FROM`: a directory is listed if at least this many of its names are wanted;
#: `LISTED_TIMES`: at most this many times as many names are read from the listing.
LISTED_FROM = 16
LISTED_TIMES = 4
#: Errors that mean that the directory does not exist any more, or was replaced; the kernel has also
#: reported that it was removed or replaced.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class ChangedFiles:
    """The files at `paths`, which are absolute and had no symbolic link when they were reported."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    @property
    def arguments(self) -> Sequence[str]:
        """The number of files, which the log has instead of the paths."""
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
    """Return the inodes of the files at `paths`, all in one directory, by name.

    Files that do not exist any more are left out.

    If many names are wanted, the directory is listed, because a system call for the status of each
    name would take a fifth of the time of the file's check. An inode is 0 if the status of the file
    cannot be read.
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
    except OSError:  # the file exists, but may turn out to be unreadable
        return 0
    return None if status is None else status.st_ino

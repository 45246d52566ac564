"""Changed files as the source of a scan; files that are gone again are ignored.

The kernel has reported names in a watched directory. By now its owner may have put a link, or
another directory, in its place or above it. So it is opened through no link, and the scan reads
only what is in the directory that was opened here.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator, Sequence

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.reasons import reason_of
from hashclient.scan.sources.interface import TASK_NAMES, Group, Task
from hashclient.scan.whereabouts import names_in
from hashclient.system.beneath import Directory

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
        """Yield them by directory."""
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
                        task.append(
                            Group(path, present, follow=False, identity=directory.identity())
                        )
                        names += len(present)
                    if names >= TASK_NAMES:
                        yield task
                        task, names = [], 0
        if task:
            yield task

    def close(self) -> None:
        """Keep nothing."""


def _present(directory: Directory, paths: Sequence[str]) -> list[str]:
    """Return the names of those paths in a directory that are still there.

    Of many, the directory's list says so: to ask about each takes a fifth of the time of its check.
    """
    listed = names_in(f"/proc/self/fd/{directory.fd}", len(paths))
    start = len(directory.path.rstrip("/")) + 1
    names = [path[start:] for path in paths]
    return [name for name in names if name in listed or not _is_gone(directory, name)]


def _is_gone(directory: Directory, name: str) -> bool:
    try:
        return directory.status(name) is None
    except OSError:  # it is there, and perhaps unread
        return False

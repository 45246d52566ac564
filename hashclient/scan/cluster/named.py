"""Files that a user named, and that no worker listed: compared between client and worker.

The same path may lead to another file on another machine. So the client reads the status of each
named file, and a worker must find the same inode, size and time of modification; if the worker
finds other values, the file is unread. Symbolic links are followed, because the user has named
them. The client also uses the inodes to ask its inventory.

Files that a worker has listed are the same everywhere, because the machines have compared their
directories. But a single file can be mounted on a listed name, on one machine only. So a listed
file at a mount point, of the client or of the worker, is unread.

Limit: the client reads the status of one file after the other, as the `find` that made the list of
names did.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container

import msgspec
import numpy as np

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.cluster.messages import SIGN, names_elsewhere, some_of
from hashclient.scan.executors.wire import Names
from hashclient.scan.sources.finding_again import open_directory
from hashclient.scan.values.work import Group, join
from hashclient.system.identity import Identities

OTHER = "not the same everywhere: is another file on the worker"
MOUNTED = "not the same everywhere: a file is mounted on it, here or on the worker"

#: A function that returns a group of files in the form in which it is sent.
LookAt = Callable[[Group], list[Names]]


class NamedFiles:
    """The client's side: reads the status of named files."""

    def __init__(self) -> None:
        """Begin without known file systems."""
        self._identities = Identities()

    def look_at(self, group: Group) -> list[Names]:
        """Return a group with the identity of each file, divided by file system."""
        try:
            fd = open_directory(group.directory, follow=True)
        except OSError:
            return [_with_signs(group, 0, [(0, 0, 0)] * len(group.names))]
        try:
            return self._look_in(fd, group)
        finally:
            os.close(fd)

    def _look_in(self, fd: int, group: Group) -> list[Names]:
        parts: dict[int, tuple[list[str], list[tuple[int, int, int]]]] = {}
        numbers: dict[int, int] = {}
        for name in group.names:
            number, sign = 0, (0, 0, 0)
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=group.follow)
            except OSError:
                pass  # a worker finds the same error, or reports another file
            else:
                sign = _sign_of(status)
                if status.st_dev not in numbers:
                    found = self._identities.at(name, fd, status.st_dev, follow=group.follow)
                    numbers[status.st_dev] = 0 if found is None else found.number
                number = numbers[status.st_dev]
            names, signs = parts.setdefault(number, ([], []))
            names.append(name)
            signs.append(sign)
        return [
            _with_signs(group.only(names, [inode for inode, _, _ in signs]), number, signs)
            for number, (names, signs) in parts.items()
        ]


def _sign_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return the identity of a file; times after the year 2262 wrap around."""
    mtime_ns = (status.st_mtime_ns + (1 << 63)) % (1 << 64) - (1 << 63)
    return status.st_ino, status.st_size, mtime_ns


def _with_signs(group: Group, file_system: int, signs: list[tuple[int, int, int]]) -> Names:
    names = names_elsewhere(group, file_system)
    return msgspec.structs.replace(names, signs=np.array(signs, SIGN).tobytes())


def only_same(names: Names, base: str | None) -> tuple[Names | None, list[Outcome]]:
    """Return the files that are the same for client and worker, and the outcomes of other files.

    Relative directories are below `base`. A file that is missing on both machines is kept, because
    the checker reports it with its reason.
    """
    if not names.signs:
        return names, []
    directory = os.fsdecode(names.directory)
    where = _where(directory, base)
    rows: list[int] = []
    outcomes: list[Outcome] = []
    wanted = np.frombuffer(names.signs, SIGN).tolist()
    for row, name in enumerate(os.fsdecode(names.names).split("\0")):
        found = (0, 0, 0)
        try:
            status = os.stat(join(where, name), follow_symlinks=names.follow)  # noqa: PTH116
            found = _sign_of(status)
        except OSError:
            pass
        if found == wanted[row]:
            rows.append(row)
        else:
            outcomes.append(Outcome(Kind.UNREAD, join(directory, name), reason=OTHER))
    if len(rows) == names.count:
        return names, []
    return (some_of(names, rows) if rows else None), outcomes


def _where(directory: str, base: str | None) -> str:
    """Return the path of a directory of the client, whose relative paths are below `base`."""
    return directory if base is None or directory.startswith("/") else f"{base}/{directory}"


def without_mounted(
    names: Names, base: str | None, points: Container[str]
) -> tuple[Names | None, list[Outcome]]:
    """Return the listed files that are at none of `points`, and the outcomes of other files.

    `points` has paths as the client sees them, and paths without links. Relative directories are
    below `base`.
    """
    directory = os.fsdecode(names.directory)
    real = os.path.realpath(_where(directory, base))
    rows: list[int] = []
    outcomes: list[Outcome] = []
    for row, name in enumerate(os.fsdecode(names.names).split("\0")):
        path = join(directory, name)
        if path in points or join(real, name) in points:
            outcomes.append(Outcome(Kind.UNREAD, path, reason=MOUNTED))
        else:
            rows.append(row)
    if not outcomes:
        return names, []
    return (some_of(names, rows) if rows else None), outcomes

"""Listing directories on a worker: names by the thousand, and the rest goes back.

A worker lists the given directories and those below, until it has names for a batch or its time is
over; the rest goes to any worker that has room. It never leaves the file system that it began on:
it reports the place where another one begins to the client, which first has all workers compare it.
Links are never followed. A directory with very many names is handed back as a whole, so that no
message and no memory grows with it; the client lists that one.
"""

from __future__ import annotations

import os
import stat
import time
from array import array
from collections.abc import Callable, Iterator, Sequence

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.cluster.messages import Listed, Start, names_elsewhere
from hashclient.scan.executors.wire import pack_outcomes
from hashclient.scan.reasons import reason_of
from hashclient.scan.sources.directories import (
    GONE,
    Entry,
    MovedError,
    has_changed,
    inode_of,
    open_directory,
    open_listed,
    snapshot,
    type_of,
    with_status,
)
from hashclient.scan.sources.files import compile_excludes, join, kind_of
from hashclient.scan.sources.frame import AT_ONCE
from hashclient.scan.sources.interface import TASK_NAMES, Group
from hashclient.system.identity import Identities, is_mount_root
from hashclient.system.processors import Allowance

#: A task of listing ends with so many names, or after so many seconds. A task costs some 7 ms in
#: all processes; so many names are listed in 40 ms, if they are in memory.
LIST_NAMES, LIST_S = 40_000, 0.5
#: Names in one directory; with more, none is sent.
WIDE_NAMES = 50_000

Excludes = Callable[[str, str], bool]


class _Place(msgspec.Struct):
    """A directory to be listed; `device` is that of its parent, if that is known.

    `inode` is what its parent lists for it, 0 if that is not known, or not the same everywhere.
    """

    path: str
    verified: bool = False
    is_root: bool = False
    device: int | None = None
    inode: int = 0


def entries_of(fd: int) -> Iterator[Entry]:
    """Yield the names in a directory, their types as `type_of` finds them, and their inodes.

    Raises:
        OSError: the directory cannot be read to its end.
    """
    with os.scandir(fd) as entries:
        for entry in entries:
            yield entry.name, type_of(entry), entry.inode()


def passed_over(directory: str, name: str, mode: int, excluded: Excludes | None) -> Outcome | None:
    """Return the outcome of a name that is neither a file nor a directory to be listed."""
    if excluded is not None and excluded(directory, name):
        return Outcome(Kind.SKIPPED, join(directory, name), reason="excluded")
    if mode not in {stat.S_IFREG, stat.S_IFDIR}:
        return Outcome(Kind.SKIPPED, join(directory, name), reason=kind_of(mode))
    return None


class Lister:
    """Lists directories for one batch."""

    def __init__(
        self,
        base: str,
        points: frozenset[str],
        exclude: Sequence[str],
        *,
        identities: Identities | None = None,
        most_names: int = LIST_NAMES,
        wide_names: int = WIDE_NAMES,
    ) -> None:
        """List directories, relative ones below `base`, and stay out of `points`.

        With `identities`, inodes are given where a file system is the same one everywhere.
        """
        self._base = base
        self._points = points
        self._excluded = compile_excludes(exclude) if exclude else None
        self._most_names = most_names
        self._wide_names = wide_names
        self._identities = identities
        #: The numbers of file systems by `st_dev`, for one batch.
        self._numbers: dict[int, int] = {}
        #: File systems whose directories show other inodes than theirs for directories in them.
        self._differing: set[int] = set()
        self._names = 0
        self._listed = Listed()

    def run(self, starts: Sequence[Start]) -> Listed:
        """List directories and those below them, the first ones first."""
        allowance = Allowance(LIST_S)
        self._listed, self._names = Listed([], None, [], [], []), 0
        self._outcomes: list[Outcome] = []
        self._numbers.clear()
        waiting = [
            _Place(os.fsdecode(start.path), start.verified, start.is_root, inode=start.inode)
            for start in reversed(starts)
        ]
        while waiting and self._names < self._most_names and not allowance.is_spent:
            waiting += self._list_one(waiting.pop())
        self._listed.rest = [
            Start(os.fsencode(place.path), place.verified, place.is_root, place.inode)
            for place in reversed(waiting)
        ]
        self._listed.outcomes = pack_outcomes(self._outcomes)
        return self._listed

    def _list_one(self, place: _Place) -> list[_Place]:
        """List one directory; return those in it, the last one first."""
        path, opened_ns = place.path, time.time_ns()
        try:
            fd, status = self._open(place)
        except OSError as error:
            self._add_outcome(Outcome(Kind.UNREAD, path, reason=reason_of(error)))
            return []
        try:
            if not place.verified and (
                path in self._points or status.st_dev != self._device_above(place, fd)
            ):
                self._listed.borders.append(os.fsencode(path))
                return []
            return self._list_open(path, fd, status, opened_ns)
        except OSError as error:
            self._add_outcome(Outcome(Kind.UNREAD, path, reason=reason_of(error)))
            return []
        finally:
            os.close(fd)

    def _open(self, place: _Place) -> tuple[int, os.stat_result]:
        """Open the directory that was listed.

        Raises:
            OSError: it cannot be opened, or is not found again.
        """
        where = self._where(place.path)
        try:
            fd, status = with_status(open_directory(where, follow=place.is_root))
        except OSError as error:
            if not place.inode or error.errno not in GONE:
                raise
            return open_listed(where, (None, place.inode))
        device = status.st_dev
        if (
            place.inode in (0, status.st_ino)
            or device in self._differing
            or device != self._device_above(place, fd)
            or is_mount_root(fd)
        ):
            return fd, status
        os.close(fd)
        above, _, name = where.rpartition("/")
        try:
            return open_listed(where, (None, place.inode))
        except MovedError:
            parent = open_directory(above or "/", follow=True)
            try:
                if inode_of(parent, name) is None:
                    raise
                self._differing.add(device)
                return with_status(open_directory(where))
            finally:
                os.close(parent)

    def _list_open(
        self, path: str, fd: int, status: os.stat_result, opened_ns: int
    ) -> list[_Place]:
        device, file_system = status.st_dev, self._number(fd, status.st_dev)
        identity = device, status.st_ino
        entries: list[Entry] = []
        outcomes: list[Outcome] = []
        try:
            for entry in entries_of(fd):
                if len(entries) >= self._wide_names:
                    inode = status.st_ino if file_system else 0
                    self._listed.wide.append(Start(os.fsencode(path), inode=inode))
                    return []
                entries.append(entry)
            if len(entries) > AT_ONCE and has_changed(fd, status, opened_ns):
                entries = snapshot(fd)
        except OSError as error:
            # The directory was removed, or its medium fails, in the middle of it.
            outcomes.append(Outcome(Kind.UNREAD, path, reason=reason_of(error)))
        files: list[Entry] = []
        directories: list[_Place] = []
        for entry in entries:
            name, mode, inode = entry
            outcome = passed_over(path, name, mode, self._excluded)
            if outcome is not None:
                outcomes.append(outcome)
            elif mode == stat.S_IFDIR:
                known = inode if file_system else 0
                directories.append(_Place(join(path, name), device=device, inode=known))
            else:
                files.append(entry)
        for outcome in outcomes:
            self._add_outcome(outcome)
        for first in range(0, len(files), TASK_NAMES):
            part = files[first : first + TASK_NAMES]
            inodes = array("Q", [inode for _, _, inode in part])
            group = Group(
                path, [name for name, _, _ in part], follow=False, identity=identity, inodes=inodes
            )
            self._listed.groups.append(names_elsewhere(group, file_system))
        self._names += len(files)
        directories.reverse()
        return directories

    def _number(self, fd: int, device: int) -> int:
        """Return the number of the file system of an open directory; 0 if it has none."""
        if self._identities is None:
            return 0
        if device not in self._numbers:
            identity = self._identities.of(fd, device)
            self._numbers[device] = 0 if identity is None else identity.number
        return self._numbers[device]

    @staticmethod
    def _device_above(place: _Place, fd: int) -> int:
        """Return the device of the directory that an open one is in."""
        if place.device is not None:
            return place.device
        return os.stat("..", dir_fd=fd).st_dev

    def _add_outcome(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)

    def _where(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._base}/{path}"

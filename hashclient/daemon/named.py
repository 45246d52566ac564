"""A path that a client has named, held by descriptor while it is checked.

The file or tree at the path is opened once. All that is read later is found from that descriptor,
so nobody can exchange a link or a directory on the way, and records have the path without links
that the kernel gives for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from array import array
from collections.abc import Iterator

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources.frontier import kind_of
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.reasons import CHANGED
from hashclient.scan.values.work import Group, Task
from hashclient.system.beneath import Directory, identity_of

_OPTIONS = ScanOptions((), one_file_system=False, follow_symlinks=False)


class Named:
    """The file or tree at a path."""

    def __init__(self, path: str) -> None:
        """Name it; nothing is opened."""
        self.given = self._real = path
        self._fd = -1

    def open(self) -> None:
        """Open what stands at the path; links are followed.

        1. It is opened by its path. 2. The kernel gives a path without links for it. 3. By that
        path, through no link, the client reaches the same file or directory. So a link in /proc
        leads to nothing behind a closed directory, though this process may have it open. 4. Of a
        file, its directory is held in place of the file.

        Raises:
            OSError: it cannot be opened, or something else has its name by now.
        """
        self._fd = _open(self.given)
        self._status = os.fstat(self._fd)
        real = os.readlink(f"/proc/self/fd/{self._fd}")  # noqa: PTH115 - any bytes
        directory, _, self._name = real.rpartition("/")
        with Directory.plain(directory or "/") as parent:
            status = parent.status(self._name or ".")
            if status is None or identity_of(status) != identity_of(self._status):
                raise OSError(errno.ESTALE, CHANGED)
            if stat.S_ISREG(self._status.st_mode):
                os.dup2(parent.fd, self._fd, inheritable=False)
        self._real = real

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield tasks and outcomes, as `sources.trees` does.

        Each task is to be checked before the next one is asked for. In the end directories of other
        users are looked at again, so that no file is missed that was moved meanwhile.
        """
        held = f"/proc/self/fd/{self._fd}"
        if stat.S_ISREG(self._status.st_mode):
            inodes = array("Q", [self._status.st_ino])
            yield [Group(held, [self._name], follow=False, inodes=inodes)]
        elif stat.S_ISDIR(self._status.st_mode):
            with contextlib.closing(Trees([held], _OPTIONS)) as trees:
                yield from trees.batches()
                yield from trees.again()
        else:
            yield Outcome(Kind.UNREAD, held, reason=kind_of(self._status.st_mode))

    def real(self, outcome: Outcome) -> Outcome:
        """Return an outcome with its path without links."""
        held = f"/proc/self/fd/{self._fd}"
        if stat.S_ISREG(self._status.st_mode):
            held = f"{held}/{self._name}"
        path = self._real.rstrip("/") + outcome.path.removeprefix(held)
        return msgspec.structs.replace(outcome, path=path or "/")

    def as_given(self, path: str) -> str:
        """Return a path below the real one as the client would name it."""
        rest = path.removeprefix(self._real.rstrip("/")) if path != self._real else ""
        return self.given.rstrip("/") + rest if rest else self.given

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: str) -> int:
    try:
        # Opened for reading, so that an automount comes.
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)

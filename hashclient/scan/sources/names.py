"""Names of files from another program, one name in a line, or separated by NUL.

A name is used byte for byte, and is relative to the current directory. A name in the list is
treated like an argument of the user: a symbolic link is followed. This source does not open the
named files. A directory is unread and never walked, because `find` also lists the files in the
directory, and each file would be checked once for each level.

A line ends in LF; all other bytes belong to the name. So a list from another operating system may
name files that do not exist, which are unread, but the list never names wrong files. A line with a
NUL, or with a CR at its end, is unread as well, because the CR may belong to the name or to the end
of the line. Empty names are ignored.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources.finding_again import looked_at
from hashclient.scan.sources.frontier import compile_excludes
from hashclient.scan.sources.interface import TaskBuilder
from hashclient.scan.values.work import TASK_NAMES, Group, Task, join, reason_of
from hashclient.system.beneath import identity_of
from hashclient.system.descriptors import read_some
from hashclient.system.strangers import is_shared, trusted_users

#: The number of bytes that are read from the list at a time.
CHUNK_BYTES = 1 << 18
#: The longest name, in bytes. Paths in deep directories may be longer than the 4096 bytes of one
#: system call.
MAX_NAME_BYTES = 1 << 16
#: The number of bytes that are shown of a name longer than `MAX_NAME_BYTES`.
_SHOWN_BYTES = 256

NUL_IN_LINE = "holds NUL: if the names are separated by NUL, give --null"
CR_AT_END = "ends in CR, of the line or of the name: separate names by NUL, and give --null"
TOO_LONG = f"a name of more than {MAX_NAME_BYTES} bytes"
DIRECTORY = "names a directory: give it as PATH"
CUT_SHORT = "ended before its size: it was cut short while it was read, and names may be missing"


class Names:
    """The files whose names are read from an open descriptor."""

    def __init__(
        self, fd: int, name: str, *, null: bool = False, exclude: tuple[str, ...] = ()
    ) -> None:
        """Read from `fd`, which the caller must close; outcomes name the list `name`.

        With `null`, names are separated by NUL. Names that match a pattern in `exclude` are
        skipped.
        """
        self._fd = fd
        self._name = name
        self._null = null
        self._excluded = compile_excludes(exclude) if exclude else None

    @property
    def arguments(self) -> list[str]:
        """The list of names, as an argument of the user."""
        return [f"--files-from {self._name}"]

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield the named files; see `Source`.

        If the list cannot be read to its end, the list itself is unread.
        """
        tasks = TaskBuilder()
        for block in self._blocks():
            if isinstance(block, Outcome):
                yield block
                continue
            groups: list[Group] = []
            for raw in block:
                path = os.fsdecode(raw)
                refused = self._refused(raw, path)
                if refused is not None:
                    yield refused
                    continue
                directory, name = os.path.split(path)
                if (
                    groups
                    and groups[-1].directory == directory
                    and len(groups[-1].names) < TASK_NAMES
                ):
                    groups[-1].names.append(name)
                else:
                    groups.append(Group(directory, [name], follow=True, is_named=True))
            for group in _identified(groups):
                if (task := tasks.add(group)) is not None:
                    yield task
        if tasks.groups:
            yield tasks.groups

    def _refused(self, raw: bytes, path: str) -> Outcome | None:
        """Return the outcome of a name that cannot be opened."""
        if len(raw) > MAX_NAME_BYTES:
            return Outcome(Kind.UNREAD, os.fsdecode(raw[:_SHOWN_BYTES]) + "…", reason=TOO_LONG)
        if b"\0" in raw:
            return Outcome(Kind.UNREAD, path.replace("\0", "␀"), reason=NUL_IN_LINE)
        if not self._null and raw.endswith(b"\r"):
            return Outcome(Kind.UNREAD, path, reason=CR_AT_END)
        if raw.endswith(b"/"):
            return Outcome(Kind.UNREAD, path, reason=DIRECTORY)
        if self._excluded is not None and self._excluded(*os.path.split(path)):
            return Outcome(Kind.SKIPPED, path, reason="excluded")
        return None

    def _blocks(self) -> Iterator[list[bytes] | Outcome]:
        """Yield the names that are not empty, in blocks; cut a name that is too long."""
        separator = b"\0" if self._null else b"\n"
        tail, missing, too_long = b"", 0, False
        try:
            missing = _bytes_ahead(self._fd)
            while block := read_some(self._fd, CHUNK_BYTES):
                missing -= len(block)
                *whole, rest = block.split(separator)
                if whole:
                    whole[0] = tail + whole[0]
                    if too_long:
                        del whole[0]
                    tail, too_long = b"", False
                    yield list(filter(None, whole))
                if not too_long:
                    tail += rest
                    if len(tail) > MAX_NAME_BYTES:
                        yield [tail]
                        tail, too_long = b"", True
        except OSError as error:
            reason = f"list of names: {reason_of(error)}"
            yield Outcome(Kind.UNREAD, self._name, reason=reason)
            return
        if tail:
            yield [tail]
        if missing > 0:
            yield Outcome(Kind.UNREAD, self._name, reason=f"list of names: {CUT_SHORT}")

    def close(self) -> None:
        """Save nothing, because the user gives the names for each scan."""


def _identified(groups: list[Group]) -> Iterator[Group]:
    """Yield groups with the present inodes of their files, so that exchanged names are noticed.

    If other users may not write to a directory, only the identity of the directory is added.
    """
    ours = trusted_users()
    directories = looked_at([group.directory or "." for group in groups])
    paths = [
        join(group.directory, name)
        for group, status in zip(groups, directories, strict=True)
        if isinstance(status, os.stat_result) and is_shared(status, ours)
        for name in group.names
    ]
    inodes = {
        path: status.st_ino if isinstance(status, os.stat_result) else 0
        for path, status in zip(paths, looked_at(paths), strict=True)
    }
    for group, status in zip(groups, directories, strict=True):
        if isinstance(status, OSError):
            yield group
            continue
        known = [inodes.get(join(group.directory, name), 0) for name in group.names]
        yield group.only(group.names, known)._replace(identity=identity_of(status))


def _bytes_ahead(fd: int) -> int:
    """Return how many bytes a regular file still has, by its size; 0 for other files."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return 0
    return max(0, status.st_size - os.lseek(fd, 0, os.SEEK_CUR))

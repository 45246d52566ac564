"""Probes: files that show whether a directory is the same on every machine.

In each PATH, and wherever another file system begins below a PATH, the client writes a small file
with a random token. The client removes the file when all workers have read it. If the client cannot
write in the directory, every machine must find the same inode of the directory, and the same type,
inode, size and time of some of its entries. So an unmounted share on one machine, or another
directory of the same name, is found before any file in the directory counts as checked.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from hashclient.scan.cluster.messages import Probe, Sign, some_of
from hashclient.scan.executors.wire import Names
from hashclient.scan.sources.finding_again import open_directory
from hashclient.scan.values.work import reason_of

#: The beginning of the name of a probe, before its random part.
PREFIX = ".hashclient-probe-"
#: The most entries of a directory that are compared if no probe can be written.
MOST_SIGNS = 16
#: A worker looks for a probe `TRIES` times, and waits `WAIT_S` seconds before each further try,
#: because a network file system may show a new file late.
TRIES, WAIT_S = 8, 0.25
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@contextlib.contextmanager
def written(directories: Sequence[str]) -> Iterator[list[Probe]]:
    """Write a probe into each directory, and remove the probes after the `with` block.

    A directory that the client cannot open gets no probe; the listing reports the error.
    """
    probes: list[Probe] = []
    try:
        for directory in directories:
            with contextlib.suppress(OSError):
                probes.append(_leave(directory))
        yield probes
    finally:
        for probe in probes:
            if probe.name:
                with contextlib.suppress(OSError):
                    os.unlink(probe.directory + b"/" + probe.name)  # noqa: PTH108 - any bytes


def _leave(directory: str) -> Probe:
    """Write a probe into a directory, or else return signs that identify the directory.

    Raises:
        OSError: the directory cannot be opened.
    """
    raw = os.fsencode(directory)
    fd = open_directory(directory, follow=True)
    try:
        name, token = f"{PREFIX}{secrets.token_hex(8)}", secrets.token_bytes(16)
        if not _write(fd, name, token):
            return Probe(raw, signs=_signs(fd))
        return Probe(raw, os.fsencode(name), token)
    finally:
        os.close(fd)


def _write(fd: int, name: str, token: bytes) -> bool:
    """Write a probe into an open directory; return whether this succeeded."""
    try:
        file_fd = os.open(name, _WRITE_FLAGS, 0o644, dir_fd=fd)
    except OSError:
        return False
    try:
        os.fchmod(file_fd, 0o644)  # a worker may run as another user
        os.write(file_fd, token)
        os.fsync(file_fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=fd)
        return False
    finally:
        os.close(file_fd)
    return True


def _signs(fd: int, entries: Sequence[str] = ()) -> tuple[Sign, ...]:
    """Return the signs (inode, type, size, time) of an open directory and of its `entries`.

    Without `entries`, the first entries of the directory are used. Entries that do not exist any
    more are omitted.
    """
    own = os.fstat(fd)
    if not entries:
        with contextlib.suppress(OSError), os.scandir(fd) as found:
            entries = [entry.name for entry in itertools.islice(found, MOST_SIGNS)]
    # The time of the directory is compared only if the directory is empty.
    signs = [Sign(b"", own.st_ino, stat.S_IFDIR, 0, 0 if entries else own.st_mtime_ns)]
    for name in entries:
        with contextlib.suppress(OSError):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            mode, values = stat.S_IFMT(status.st_mode), (0, 0, 0)
            # The values of a subdirectory are not compared, because another file system may be
            # mounted on it.
            if mode != stat.S_IFDIR:
                values = status.st_ino, status.st_size, status.st_mtime_ns
            signs.append(Sign(os.fsencode(name), values[0], mode, *values[1:]))
    return tuple(signs)


def without(names: Names, probes: Collection[bytes]) -> Names | None:
    """Return a group without the names of `probes`; None if no name is left.

    A probe may be listed as a file, because a later worker may read the probe while its directory
    is listed. A file that only has a similar name stays in the group.
    """
    if PREFIX.encode() not in names.names:
        return names
    rows = [n for n, name in enumerate(names.names.split(b"\0")) if name not in probes]
    return some_of(names, rows) if rows else None


def problem_with(
    probe: Probe, base: str, sleep: Callable[[float], None] = time.sleep
) -> str | None:
    """Return why a directory lacks the probe that the client wrote; None if the probe is there."""
    directory = os.fsdecode(probe.directory)
    try:
        fd = open_directory(
            directory if directory.startswith("/") else f"{base}/{directory}", follow=True
        )
    except OSError as error:
        return reason_of(error)
    try:
        if probe.signs:
            entries = [os.fsdecode(sign.name) for sign in probe.signs[1:]]
            return None if _signs(fd, entries) == probe.signs else "is another directory there"
        for attempt in range(TRIES):
            if attempt:
                sleep(WAIT_S)
            found = _token_in(fd, os.fsdecode(probe.name))
            if found == probe.token:
                return None
        return "is another directory there"
    finally:
        os.close(fd)


def _token_in(fd: int, name: str) -> bytes | None:
    try:
        file_fd = os.open(name, _READ_FLAGS, dir_fd=fd)
    except OSError:
        return None
    try:
        return os.read(file_fd, 64) if stat.S_ISREG(os.fstat(file_fd).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(file_fd)

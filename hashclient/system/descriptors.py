"""Open descriptors: errors if no more can be opened, and reading from pipes.

A pipe may be read before its bytes have come: then reading waits. Another process that shares a
pipe can make it non-blocking for all. While it is empty, this pipe answers "not now", which is not
its end.
"""

from __future__ import annotations

import errno
import os
import select
import stat

#: Errors for a lack of descriptors or memory, which may pass.
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def open_input(path: str | os.PathLike[str]) -> int:
    """Open an input that the user names, for reading; wait for the writer of a pipe.

    The maker of a named pipe can let its reader wait for ever: so a named pipe must belong to us or
    root. A pipe without a name, for example a pipe of a shell, may belong to anybody.

    Raises:
        OSError: the input cannot be opened; EACCES for a pipe of another user.
    """
    held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status, itself = os.fstat(held), f"/proc/self/fd/{held}"
        is_named_pipe = stat.S_ISFIFO(status.st_mode) and os.readlink(itself).startswith("/")  # noqa: PTH115
        # Imported here: man pages are made without the packages that this import needs.
        from hashclient.system.strangers import trusted_users

        if is_named_pipe and status.st_uid not in trusted_users():
            raise OSError(errno.EACCES, "a pipe of another user", os.fspath(path))
        # This opens the file that was checked: its path may lead to another file by now.
        return os.open(itself, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(held)


def read_at(fd: int, offset: int, count: int) -> bytes:
    """Return the bytes of a file at an offset: `count` bytes, or fewer at its end.

    FUSE and network file systems may return fewer bytes at a time, so this reads again.

    Raises:
        OSError: the bytes cannot be read.
    """
    data = os.pread(fd, count, offset)
    while data and len(data) < count:
        more = os.pread(fd, count - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def read_some(fd: int, count: int) -> bytes:
    """Return the next bytes, `count` at most; an empty result is the end.

    Raises:
        OSError: reading failed.
    """
    while True:
        try:
            return os.read(fd, count)
        except BlockingIOError:
            _wait(fd)


def read_into(fd: int, buffer: memoryview) -> int:
    """Read the next bytes into `buffer` and return how many; 0 is the end.

    Raises:
        OSError: reading failed.
    """
    while True:
        try:
            return os.readv(fd, [buffer])
        except BlockingIOError:
            _wait(fd)


def _wait(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll()

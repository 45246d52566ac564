"""File descriptors: the errors if no more can be opened, and reading from pipes.

The functions that read a pipe wait until the pipe has bytes. Another process that shares the pipe
can make the pipe non-blocking for all processes; a read of an empty non-blocking pipe fails with
EAGAIN, which does not mean the end of the pipe.
"""

from __future__ import annotations

import errno
import os
import select
import stat

#: The errors for a lack of descriptors or memory; a later try may succeed.
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def open_input(path: str | os.PathLike[str]) -> int:
    """Open an input that the user named, for reading; for a named pipe, wait for a writer.

    A named pipe must belong to root or to the user of this process, because another owner could let
    the reader wait for ever. A pipe without a name, for example a pipe of a shell, may belong to
    any user.

    Raises:
        OSError: the input cannot be opened; EACCES for a pipe of another user.
    """
    held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status, itself = os.fstat(held), f"/proc/self/fd/{held}"
        is_named_pipe = stat.S_ISFIFO(status.st_mode) and os.readlink(itself).startswith("/")  # noqa: PTH115
        # The import is here because man pages are built without the packages that `strangers`
        # imports.
        from hashclient.system.strangers import trusted_users

        if is_named_pipe and status.st_uid not in trusted_users():
            raise OSError(errno.EACCES, "a pipe of another user", os.fspath(path))
        # /proc/self/fd leads to the checked file; the path may lead to another file by now.
        return os.open(itself, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(held)


def read_at(fd: int, offset: int, count: int) -> bytes:
    """Return `count` bytes of a file from an offset on, or fewer bytes at the end of the file.

    The file is read repeatedly, because FUSE and network file systems may return fewer bytes than
    were requested.

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
    """Return the next bytes of a descriptor, at most `count`; an empty result means the end.

    Raises:
        OSError: reading failed.
    """
    while True:
        try:
            return os.read(fd, count)
        except BlockingIOError:
            _wait(fd)


def read_into(fd: int, buffer: memoryview) -> int:
    """Read the next bytes of a descriptor into `buffer`, and return their number; 0 means the end.

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

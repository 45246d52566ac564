"""Open descriptors: errors where there is no room for more, and reading from pipes.

A pipe may be read before its bytes have come: then reading waits. Another process that shares a
pipe can make it non-blocking for all. Such a pipe answers "not now" while it is empty; this is not
its end.
"""

from __future__ import annotations

import errno
import os
import select

#: Errors for a lack of descriptors or memory, which may pass.
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


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

"""Open files: how many there may be, and how they come through a local socket."""

from __future__ import annotations

import array
import os
import resource
import socket

#: Descriptors received at once: one more than allowed, to notice that there are too many.
_MOST = 2
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MOST * array.array("i").itemsize)
#: The most descriptors of one process.
MOST_DESCRIPTORS = 1 << 17


def receive(sock: socket.socket, buffer: memoryview) -> tuple[int, list[int]]:
    """Read bytes into `buffer`; return how many, and the descriptors that came with them.

    There are no descriptors if more came than are received, or than this process may have.

    Raises:
        OSError: nothing can be read, or not now.
    """
    count, ancillary, flags, _ = sock.recvmsg_into(
        (buffer,), _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
    )
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            found.extend(numbers)
    if flags & socket.MSG_CTRUNC:
        close_all(found)
    return count, found


def close_all(descriptors: list[int]) -> None:
    """Close them, and empty the list."""
    while descriptors:
        os.close(descriptors.pop())


def raise_limit() -> int:
    """Raise the limit of descriptors as far as allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft

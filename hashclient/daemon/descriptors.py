"""Reads from a local socket that can carry open files."""

from __future__ import annotations

import array
import os
import socket

#: Descriptors received at once: one more than allowed, to notice that there are too many.
_MOST = 2
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MOST * array.array("i").itemsize)


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

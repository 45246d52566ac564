"""Reads files that clients pass as open descriptors.

The descriptors are received at a local socket. A file is read in a thread, in pieces, from its
beginning. The file offset is not changed, because the client shares it.
"""

from __future__ import annotations

import array
import os
import socket
import stat
import time
from collections.abc import Iterator
from functools import partial

from hashclient.containers.sniffing import has_behind, look
from hashclient.core.digests import CHUNK_BYTES
from hashclient.core.kinds import Kind
from hashclient.daemon.checks import Checks
from hashclient.daemon.turns import Job, begun
from hashclient.daemon.uploads import Upload
from hashclient.scan.check.reading import SPARSE_BYTES, SPARSE_SHARE, SetAside, same_content
from hashclient.scan.sources.frontier import kind_of
from hashclient.scan.values.work import CHANGED, ENDLESS, SPARSE, reason_of
from hashclient.system.descriptors import read_at

#: The highest number of descriptors that are received at once: one more than a client may send, so
#: that a client that sends too many is noticed.
_MOST = 2
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MOST * array.array("i").itemsize)
#: The number of chunks in a piece of 32 MiB; after each piece, other clients have their turn.
PIECE_CHUNKS = (32 << 20) // CHUNK_BYTES


@begun
def read_file(checks: Checks, upload: Upload) -> Job:
    """Read and digest an open file, and pass it to `Checks.ended`."""
    is_read = False
    try:
        yield None
        try:
            yield from _read(upload, checks.options.stream_s)
        except SetAside as error:
            reason = str(error)
            yield lambda: checks.unread(upload, reason)
        except OSError as error:
            reason = reason_of(error)
            yield lambda: checks.unread(upload, reason)
        else:
            is_read = True
            yield lambda: checks.ended(upload)
    finally:
        if not is_read:
            checks.release(upload)


def _read(upload: Upload, most_s: float) -> Iterator[None]:
    """Digest an open file; yield None after each piece.

    Raises:
        SetAside: the file must not be read, or has changed while it was read.
        OSError: the file cannot be read.
    """
    fd, at, until = upload.fd, 0, upload.began + most_s
    assert fd is not None
    before = upload.status = os.fstat(fd)
    if not stat.S_ISREG(before.st_mode):
        raise SetAside(Kind.UNREAD, kind_of(before.st_mode))
    if before.st_size > SPARSE_BYTES and before.st_blocks * 512 * SPARSE_SHARE < before.st_size:
        raise SetAside(Kind.UNREAD, SPARSE)
    while True:
        for _ in range(PIECE_CHUNKS):
            chunk = memoryview(read_at(fd, at, CHUNK_BYTES))
            if not at:
                upload.opens = bool(look(chunk))
            if not chunk:
                after = os.fstat(fd)
                if not same_content(before, after) or before.st_size not in (0, at):
                    raise SetAside(Kind.UNREAD, CHANGED)
                upload.opens = upload.opens or has_behind(b"", at, partial(read_at, fd))
                return
            upload.update(chunk)
            at += len(chunk)
            if time.monotonic() > until:
                raise SetAside(Kind.UNREAD, ENDLESS)
        yield None


def receive(sock: socket.socket, buffer: memoryview) -> tuple[int, list[int]]:
    """Receive bytes into `buffer`; return their number, and the descriptors that came with them.

    The list of descriptors is empty if more were sent than `_MOST`, or than this process may open.

    Raises:
        OSError: the socket cannot be read, or no bytes are available.
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
    """Close all descriptors, and empty the list."""
    while descriptors:
        os.close(descriptors.pop())

"""Digests of the pieces of a run, so that one piece can be verified without reading the rest.

A run is cut into pieces of `PIECE_BYTES`; the last one may be shorter. Its *root* is the SHA-256 of
the SHA-256 digests of all pieces, in their order. The manifest has the root; `checks` has the
digests of the pieces, which are compared with the root. So verifying a whole run costs as much as
one digest of it, and verifying a piece as much as one digest of the piece.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from hashclient.index.run import ROT_HINT, DamagedError, open_run, unreadable
from hashclient.system.text import printable

PIECE_BYTES = 1 << 20
DIGEST_BYTES = 32


def pieces_of(length: int) -> int:
    """Return how many pieces a run of `length` bytes has."""
    return -(-length // PIECE_BYTES)


def root_of(digests: bytes) -> str:
    """Return the root over the digests of all pieces, in hexadecimal."""
    return hashlib.sha256(digests).hexdigest()


def digest_pieces(path: Path, *, cold: bool = False) -> bytes:
    """Return the joined digests of a run's pieces.

    The run is read to its end, once, and without a memory map: with a map a bad block would be a
    signal. With `cold`, the kernel's cached pages are dropped first, as `verify_piece` does.

    Raises:
        DamagedError: the run is gone.
        StateError: it cannot be read.
    """
    digests = []
    buffer = memoryview(bytearray(PIECE_BYTES))
    try:
        with os.fdopen(open_run(path), "rb", buffering=0) as stream:
            if cold:
                _drop(stream.fileno(), 0, 0)
            while count := _fill(stream.fileno(), buffer):
                digests.append(hashlib.sha256(buffer[:count]).digest())
                if count < PIECE_BYTES:
                    break
    except OSError as error:
        raise unreadable(path, error) from error
    return b"".join(digests)


def verify_piece(fd: int, path: Path, number: int, length: int, digest: bytes) -> None:
    """Read a piece of a run of `length` bytes from the disk, and compare it with its digest.

    `fd` is the open run. The kernel's cached pages would hide damage on the disk, so they are
    dropped first; the kernel keeps pages that another process has mapped.

    Raises:
        DamagedError: the piece differs from what the writer wrote.
        StateError: it cannot be read.
    """
    offset = number * PIECE_BYTES
    count = min(PIECE_BYTES, length - offset)
    try:
        _drop(fd, offset, count)
        os.lseek(fd, offset, os.SEEK_SET)
        piece = memoryview(bytearray(count))
        if _fill(fd, piece) != count or hashlib.sha256(piece).digest() != digest:
            raise damaged(path)
    except OSError as error:
        raise unreadable(path, error) from error


def damaged(path: Path) -> DamagedError:
    """Return the error for a run that differs from what was written."""
    return DamagedError(f"index file is damaged: {printable(path)}", hint=ROT_HINT)


def _drop(fd: int, offset: int, count: int) -> None:
    """Drop the kernel's cached pages of a file; without `count`, up to the end."""
    with contextlib.suppress(OSError):  # some file systems do not support it
        os.posix_fadvise(fd, offset, count, os.POSIX_FADV_DONTNEED)


def _fill(fd: int, buffer: memoryview) -> int:
    """Read until `buffer` is full or the file at its end; return how many bytes there were."""
    count = 0
    while count < len(buffer) and (more := os.readv(fd, [buffer[count:]])):
        count += more
    return count

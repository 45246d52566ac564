"""Digests of a run, piece by piece, so that a part of it can be verified without reading the rest.

A run is cut into pieces of `PIECE_BYTES`, the last of which may be shorter. Its *root* is the
SHA-256 of the SHA-256 of each, in their order: the manifest has the root, and `checks` the digests
of the pieces, which the root vouches for. So verifying all of a run costs as much as one digest of
it, and verifying a piece as much as one of the piece.
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


def digest_pieces(path: Path, *, whole: str = "", cold: bool = False) -> bytes:
    """Return the digests of the pieces of a run, joined; with `whole`, that is its own SHA-256.

    It is read to its end, once, and without a map: there a bad block would be a signal. With
    `cold`, what the kernel has of it in memory is dropped first, as `verify_piece` does.

    Raises:
        DamagedError: it is gone, or has another SHA-256.
        StateError: it cannot be read.
    """
    digests = []
    digest = hashlib.sha256() if whole else None
    buffer = memoryview(bytearray(PIECE_BYTES))
    try:
        with os.fdopen(open_run(path), "rb", buffering=0) as stream:
            if cold:
                _drop(stream.fileno(), 0, 0)
            while count := _fill(stream.fileno(), buffer):
                piece = buffer[:count]
                digests.append(hashlib.sha256(piece).digest())
                if digest is not None:
                    digest.update(piece)
                if count < PIECE_BYTES:
                    break
    except OSError as error:
        raise unreadable(path, error) from error
    if digest is not None and digest.hexdigest() != whole:
        raise damaged(path)
    return b"".join(digests)


def verify_piece(fd: int, path: Path, number: int, length: int, digest: bytes) -> None:
    """Read a piece of a run of `length` bytes from the disk, and compare it with its digest.

    `fd` has it open. What the kernel still has of it in memory would hide what the disk has made of
    it, and is dropped first; it keeps pages that another process has mapped.

    Raises:
        DamagedError: it is not what the writer wrote.
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
    """Return the error that says that a run is not what was written."""
    return DamagedError(f"index file is damaged: {printable(path)}", hint=ROT_HINT)


def _drop(fd: int, offset: int, count: int) -> None:
    """Let the kernel forget what it has of a file in memory; with no `count`, up to the end."""
    with contextlib.suppress(OSError):  # a file system may not know how
        os.posix_fadvise(fd, offset, count, os.POSIX_FADV_DONTNEED)


def _fill(fd: int, buffer: memoryview) -> int:
    """Read until `buffer` is full or the file at its end; return how many bytes there were."""
    count = 0
    while count < len(buffer) and (more := os.readv(fd, [buffer[count:]])):
        count += more
    return count

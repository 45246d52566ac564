"""Reading and digesting whole files by their descriptors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable

from hashclient.core.algorithms import Algorithm
from hashclient.core.digests import new_hash

#: What is read at a time where nothing else says so.
READ_BYTES = 1 << 20


class Digester:
    """Digests of what passes by: in clear for proofs, never kept anywhere."""

    def __init__(self, algorithms: Iterable[Algorithm]) -> None:
        """Compute these."""
        self._hashes = {a: new_hash(a) for a in algorithms}
        self.count = 0

    def update(self, data: bytes) -> None:
        """Take the next bytes in."""
        for h in self._hashes.values():
            h.update(data)
        self.count += len(data)

    def digests(self) -> dict[Algorithm, bytes]:
        """Return the digests of all so far."""
        return {a: h.digest() for a, h in self._hashes.items()}


def digest_all(fd: int, algorithms: Iterable[Algorithm], limit: int) -> Digester:
    """Read a file from its beginning, to one byte past `limit` at most.

    Raises:
        OSError: it cannot be read.
    """
    digester = Digester(algorithms)
    os.lseek(fd, 0, os.SEEK_SET)
    while digester.count <= limit and (data := os.read(fd, READ_BYTES)):
        digester.update(data)
    return digester


def sha256_on_disk(
    fd: int, on_bytes: Callable[[int], None] = lambda _count: None
) -> tuple[str, int]:
    """Read a synced file back from the disk; return its SHA-256, hexadecimal, and its length.

    Raises:
        OSError: it cannot be read.
    """
    # Otherwise what is read would be what is in memory, which nobody doubts.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.lseek(fd, 0, os.SEEK_SET)
    digest, length = hashlib.sha256(), 0
    while data := os.read(fd, READ_BYTES):
        digest.update(data)
        length += len(data)
        on_bytes(len(data))
    return digest.hexdigest(), length

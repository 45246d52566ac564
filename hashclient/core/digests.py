"""Computes digests of a file in one pass, and finds the cheapest sufficient set of algorithms.

Digests are computed by OpenSSL (through hashlib). The module `index` compares digests with lists.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hashclient.core.kinds import Algorithm

if TYPE_CHECKING:
    from hashlib import _Hash

#: The number of bytes of each read: enough to hide the cost of the call, and few enough to stay in
#: the processor's cache.
CHUNK_BYTES = 1 << 18

#: The largest number of bytes of a stream that are kept, so that not every algorithm has to be
#: computed from the beginning.
KEPT_BYTES = 1 << 20

#: The cost of each algorithm in seconds for a gigabyte, with OpenSSL 3 on an x86-64 core with SHA
#: extensions. Only the order of the costs matters, because it decides which of several sufficient
#: algorithms is computed.
COST_S_PER_GB = {Algorithm.MD5: 1.14, Algorithm.SHA1: 0.45, Algorithm.SHA256: 0.53}

LONGER = "gives more bytes than its size says"
SHORTER = "gives fewer bytes than its size says"


class LengthError(OSError):
    """A file was shorter or longer than its size says; `length` bytes were read.

    The class is an OSError, so that other code treats the file as unreadable.
    """

    def __init__(self, length: int, size: int) -> None:
        super().__init__(errno.EIO, SHORTER if length < size else LONGER)
        self.length = length


_CONSTRUCTORS = {
    Algorithm.MD5: hashlib.md5,
    Algorithm.SHA1: hashlib.sha1,
    Algorithm.SHA256: hashlib.sha256,
}


def new_hash(algorithm: Algorithm) -> _Hash:
    """Return a hashlib object; MD5 and SHA-1 are used as identifiers, not for security."""
    return _CONSTRUCTORS[algorithm](usedforsecurity=False)


def digest_of(algorithm: Algorithm, data: memoryview) -> bytes:
    """Return the digest of the bytes in `data`."""
    return _CONSTRUCTORS[algorithm](data, usedforsecurity=False).digest()


def digests_of(algorithms: tuple[Algorithm, ...], data: memoryview) -> list[bytes]:
    """Return the digests of the bytes in `data`, in the order of `algorithms`."""
    # usually there is one algorithm, and a comprehension would add half of the time of its digest
    if len(algorithms) == 1:
        return [_CONSTRUCTORS[algorithms[0]](data, usedforsecurity=False).digest()]
    return [_CONSTRUCTORS[a](data, usedforsecurity=False).digest() for a in algorithms]


class Digester:
    """Computes digests of bytes that arrive in chunks; `length` is the number of bytes so far."""

    __slots__ = ("_hashes", "length")

    def __init__(self, algorithms: Iterable[Algorithm]) -> None:
        """Compute the digests of `algorithms`."""
        self._hashes = [new_hash(a) for a in algorithms]
        self.length = 0

    def update(self, chunk: memoryview | bytearray) -> None:
        """Add the next bytes."""
        for computed in self._hashes:
            computed.update(chunk)
        self.length += len(chunk)

    def finish(self) -> list[bytes]:
        """Return the digests of all bytes so far, in the order of the algorithms."""
        return [computed.digest() for computed in self._hashes]


class StreamDigester:
    """Computes digests of a stream, which is read only once and whose length is not known.

    Only the digests of the algorithms in `plan` are computed while the bytes arrive. The bytes of a
    short stream are kept, so that its other digests can be computed if a digest hits. If a stream
    is too long to be kept, all algorithms are computed.
    """

    def __init__(self, plan: tuple[Algorithm, ...], kept_bytes: int = KEPT_BYTES) -> None:
        """Store `plan`, and prepare to keep the bytes of a stream of at most `kept_bytes`."""
        self._parts = [(plan, Digester(plan))]
        self._kept: bytearray | None = bytearray()
        self._kept_bytes = kept_bytes
        self.length = 0

    def update(self, chunk: memoryview) -> None:
        """Add the next bytes."""
        if self._kept is not None:
            if len(self._kept) + len(chunk) > self._kept_bytes:
                self._compute(tuple(Algorithm))
                self._kept = None
            else:
                self._kept += chunk
        for _, digester in self._parts:
            digester.update(chunk)
        self.length += len(chunk)

    @property
    def content(self) -> bytearray | None:
        """All bytes so far, or None if they are too many to be kept."""
        return self._kept

    def finish(self) -> dict[Algorithm, bytes]:
        """Return the digests of all bytes so far, by algorithm."""
        return {
            algorithm: digest
            for plan, digester in self._parts
            for algorithm, digest in zip(plan, digester.finish(), strict=True)
        }

    def more(self, plan: tuple[Algorithm, ...]) -> dict[Algorithm, bytes]:
        """After `finish`, return more digests of a stream whose bytes were kept."""
        self._compute(plan)
        return {a: digest for a, digest in self.finish().items() if a in plan}

    def _compute(self, plan: tuple[Algorithm, ...]) -> None:
        """Also compute the missing algorithms of `plan`, from the kept bytes."""
        known = {algorithm for part, _ in self._parts for algorithm in part}
        missing = tuple(a for a in plan if a not in known)
        if missing and self._kept is not None:
            digester = Digester(missing)
            digester.update(self._kept)
            self._parts.append((missing, digester))


def new_buffer() -> memoryview:
    """Return a buffer for `digest_fd`.

    One buffer is used for many files, so that it stays in the processor's cache.
    """
    return memoryview(bytearray(CHUNK_BYTES))


def digest_fd(
    fd: int,
    algorithms: tuple[Algorithm, ...],
    size: int | None,
    on_bytes: Callable[[int], None] | None = None,
    buffer: memoryview | None = None,
    capped: bool = True,  # noqa: FBT001, FBT002 - given by position, because calls are frequent
    on_first: Callable[[Any, int], None] | None = None,
) -> tuple[list[bytes], int]:
    """Read `fd` once, from its position to its end; return the digests and the length.

    `size` is the number of bytes that the file must have; None accepts any number. With `capped`,
    the kernel never reads beyond `size`, so a read that returns `size` bytes has reached the end.
    Without `capped`, only an empty read shows the end: a network file system or FUSE may return
    fewer bytes than requested, and a disk returns fewer bytes before an unreadable block.
    `on_bytes` is called with the length of each chunk of a long read. After the first read,
    `on_first` is called with the object behind `buffer`, and the number of bytes that were read
    into it. The content of `buffer` is overwritten.

    Raises:
        LengthError: the file has more or fewer bytes than `size`; reading ends at this point.
        OSError: reading failed.
    """
    if buffer is None:
        buffer = new_buffer()
    count = os.readv(fd, [buffer])
    if on_first is not None:
        on_first(buffer.obj, count)  # reading from the object is faster than reading from the view
    if count == size and capped and count < CHUNK_BYTES:
        data = buffer[:count]
        return digests_of(algorithms, data), count
    digester = Digester(algorithms)
    while count:
        digester.update(buffer[:count])
        if on_bytes is not None:
            on_bytes(count)
        if size is not None and digester.length > size:
            # Somebody is writing to the file, so reading might never end.
            raise LengthError(digester.length, size)
        count = os.readv(fd, [buffer])
    if size is not None and digester.length != size:
        raise LengthError(digester.length, size)
    return digester.finish(), digester.length


#: All masks of algorithms, ordered by cost.
_BY_COST = sorted(range(8), key=lambda c: sum(COST_S_PER_GB[a] for a in Algorithm.in_mask(c)))
#: For each mask of algorithms, the set of entry masks that have no algorithm of the mask.
_UNTOUCHED = [sum(1 << (m - 1) for m in range(1, 8) if not m & mask) for mask in range(8)]


def _cheapest_cover(masks: int) -> int:
    """Return the cheapest mask that has an algorithm of every entry mask in the set `masks`.

    Bit m-1 of `masks` is set if entries with the algorithm mask m (1..7) are possible.
    """
    return next(mask for mask in _BY_COST if not masks & _UNTOUCHED[mask])


def _every(masks: int) -> int:
    """Return the mask of all algorithms that occur in any of the entry masks in the set `masks`."""
    every = 0
    for mask in range(1, 8):
        if masks >> (mask - 1) & 1:
            every |= mask
    return every


#: For each set of entry masks (7 bits), the mask of the algorithms to compute first. One algorithm
#: of each entry is enough at first, because a hit shows which other digests of the entry to
#: compute.
CHEAPEST_COVER: tuple[int, ...] = tuple(_cheapest_cover(masks) for masks in range(128))

#: For each set of entry masks (7 bits), the mask of all algorithms in these masks.
EVERY_DIGEST: tuple[int, ...] = tuple(_every(masks) for masks in range(128))

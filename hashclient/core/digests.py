"""Digests of files in one pass, and the cheapest set of algorithms that is enough.

Only OpenSSL's implementations (through hashlib) are used. Lists are left to `index`.
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

#: Bytes for each read: enough to hide the cost of the call, few enough to stay in the cache.
CHUNK_BYTES = 1 << 18

#: The most bytes kept of a stream, so that not every algorithm has to be computed at once.
KEPT_BYTES = 1 << 20

#: Seconds for each gigabyte, OpenSSL 3 on an x86-64 core with SHA extensions. Only the order
#: matters: it decides which of several sufficient algorithms is computed.
COST_S_PER_GB = {Algorithm.MD5: 1.14, Algorithm.SHA1: 0.45, Algorithm.SHA256: 0.53}

LONGER = "gives more bytes than its size says"
SHORTER = "gives fewer bytes than its size says"


class LengthError(OSError):
    """A file was shorter or longer than its size; `length` bytes were read.

    The class is an OSError, so other code treats the file as unreadable.
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
    """Return a hashlib object; MD5 and SHA-1 serve as identifiers here, not for security."""
    return _CONSTRUCTORS[algorithm](usedforsecurity=False)


def digest_of(algorithm: Algorithm, data: memoryview) -> bytes:
    """Return the digest of bytes in memory."""
    return _CONSTRUCTORS[algorithm](data, usedforsecurity=False).digest()


def digests_of(algorithms: tuple[Algorithm, ...], data: memoryview) -> list[bytes]:
    """Return the digests of bytes in memory."""
    if len(algorithms) == 1:  # the usual case; a comprehension costs half as much as the digest
        return [_CONSTRUCTORS[algorithms[0]](data, usedforsecurity=False).digest()]
    return [_CONSTRUCTORS[a](data, usedforsecurity=False).digest() for a in algorithms]


class Digester:
    """Computes digests of bytes given chunk by chunk; `length` is the number of bytes so far."""

    __slots__ = ("_hashes", "length")

    def __init__(self, algorithms: Iterable[Algorithm]) -> None:
        """Compute `algorithms`."""
        self._hashes = [new_hash(a) for a in algorithms]
        self.length = 0

    def update(self, chunk: memoryview | bytearray) -> None:
        """Take the next bytes."""
        for computed in self._hashes:
            computed.update(chunk)
        self.length += len(chunk)

    def finish(self) -> list[bytes]:
        """Return the digests of all bytes given, in the order of the algorithms."""
        return [computed.digest() for computed in self._hashes]


class StreamDigester:
    """Digests of a stream, which comes only once and whose length is unknown before its end.

    Only the digests that may be needed are computed as the bytes come. Some bytes are kept: so if a
    short stream hits, its other digests can be computed. For a longer stream, all algorithms are
    computed.
    """

    def __init__(self, plan: tuple[Algorithm, ...], kept_bytes: int = KEPT_BYTES) -> None:
        """Compute the digests of `plan`; keep the bytes of a stream of up to `kept_bytes`."""
        self._parts = [(plan, Digester(plan))]
        self._kept: bytearray | None = bytearray()
        self._kept_bytes = kept_bytes
        self.length = 0

    def update(self, chunk: memoryview) -> None:
        """Take the next bytes."""
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
        """All bytes so far; None if they are too many to be kept."""
        return self._kept

    def finish(self) -> dict[Algorithm, bytes]:
        """Return the digests of the bytes so far."""
        return {
            algorithm: digest
            for plan, digester in self._parts
            for algorithm, digest in zip(plan, digester.finish(), strict=True)
        }

    def more(self, plan: tuple[Algorithm, ...]) -> dict[Algorithm, bytes]:
        """Return further digests of a stream whose bytes were kept, after `finish`."""
        self._compute(plan)
        return {a: digest for a, digest in self.finish().items() if a in plan}

    def _compute(self, plan: tuple[Algorithm, ...]) -> None:
        """Compute the missing algorithms of `plan` too, from the bytes that were kept."""
        known = {algorithm for part, _ in self._parts for algorithm in part}
        missing = tuple(a for a in plan if a not in known)
        if missing and self._kept is not None:
            digester = Digester(missing)
            digester.update(self._kept)
            self._parts.append((missing, digester))


def new_buffer() -> memoryview:
    """Return a buffer for `digest_fd`; use one buffer for many files, so that it stays cached."""
    return memoryview(bytearray(CHUNK_BYTES))


def digest_fd(
    fd: int,
    algorithms: tuple[Algorithm, ...],
    size: int | None,
    on_bytes: Callable[[int], None] | None = None,
    buffer: memoryview | None = None,
    capped: bool = True,  # noqa: FBT001, FBT002 - by position, since it is called for every file
    on_first: Callable[[Any, int], None] | None = None,
) -> tuple[list[bytes], int]:
    """Read `fd` once, from its position to its end; return the digests and the length.

    `size` is the required number of bytes; None accepts any number. With `capped`, the kernel never
    reads beyond `size`, so a read that returns all these bytes has reached the end. Without
    `capped`, only an empty read is the end: a network file system or FUSE may return fewer bytes
    than requested, and a disk does so before an unreadable block. `on_bytes` is called with the
    length of each chunk of a long read, `on_first` with the object behind `buffer`, and how many
    first bytes it holds. The content of `buffer` is overwritten.

    Raises:
        LengthError: the file has more or fewer bytes than `size`; reading stops there.
        OSError: reading failed.
    """
    if buffer is None:
        buffer = new_buffer()
    count = os.readv(fd, [buffer])
    if on_first is not None:
        on_first(buffer.obj, count)  # reading from the buffer is faster than reading from the view
    if count == size and capped and count < CHUNK_BYTES:
        data = buffer[:count]
        return digests_of(algorithms, data), count
    digester = Digester(algorithms)
    while count:
        digester.update(buffer[:count])
        if on_bytes is not None:
            on_bytes(count)
        if size is not None and digester.length > size:
            # Somebody is writing to the file: while they write, the file may have no end.
            raise LengthError(digester.length, size)
        count = os.readv(fd, [buffer])
    if size is not None and digester.length != size:
        raise LengthError(digester.length, size)
    return digester.finish(), digester.length


#: Masks of algorithms, the cheapest first.
_BY_COST = sorted(range(8), key=lambda c: sum(COST_S_PER_GB[a] for a in Algorithm.in_mask(c)))
#: Indexed by a mask of algorithms: the set of entry masks that it does not touch.
_UNTOUCHED = [sum(1 << (m - 1) for m in range(1, 8) if not m & mask) for mask in range(8)]


def _cheapest_cover(masks: int) -> int:
    """Return the cheapest mask of algorithms that touches every entry mask in the set `masks`.

    Bit m-1 of `masks` says that entries with algorithm mask m (1..7) are possible.
    """
    return next(mask for mask in _BY_COST if not masks & _UNTOUCHED[mask])


def _every(masks: int) -> int:
    """Return the mask of all algorithms that any entry mask in the set `masks` has."""
    every = 0
    for mask in range(1, 8):
        if masks >> (mask - 1) & 1:
            every |= mask
    return every


#: Indexed by a set of entry masks (7 bits): the mask of algorithms worth computing. A single hit
#: shows which other digests of an entry to compute, so one algorithm for each entry is enough at
#: first.
CHEAPEST_COVER: tuple[int, ...] = tuple(_cheapest_cover(masks) for masks in range(128))

#: Indexed by a set of entry masks, too: the mask of all algorithms that any of these entries has.
EVERY_DIGEST: tuple[int, ...] = tuple(_every(masks) for masks in range(128))

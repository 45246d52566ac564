"""Sealing a file: read once, digested and encrypted at the same time, read back from the disk.

Here is also what proves that a file is the one that matched.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core.algorithms import Algorithm
from hashclient.core.digests import new_hash
from hashclient.errors import StateError
from hashclient.index.blinding import Sealer
from hashclient.quarantine import age
from hashclient.quarantine.isolators.interface import Held
from hashclient.quarantine.item import Item
from hashclient.quarantine.store import Room
from hashclient.system.files import write_all
from hashclient.system.layout import EVIDENCE_NAME
from hashclient.system.text import printable

#: What a sealed copy takes besides its content: headers, and the document with it.
_OVERHEAD_BYTES = 1 << 20
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


def digest_all(held: Held, algorithms: Iterable[Algorithm], limit: int) -> Digester:
    """Read what is held from its beginning, to one byte past `limit` at most.

    Raises:
        OSError: it cannot be read.
    """
    digester = Digester(algorithms)
    held.rewind()
    while digester.count <= limit and (data := held.read(READ_BYTES)):
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


def is_what_matched(
    digester: Digester, size: int, tags: Mapping[Algorithm, bytes], sealer: Sealer
) -> bool:
    """Tell whether what was digested is what matched.

    It has `size` bytes, and its digests are those of `tags`: all of them, and at least one.
    """
    return digester.count == size and sealer.proves(digester.digests(), tags)


class Written(msgspec.Struct, frozen=True):
    """What was sealed: the SHA-256 of the age file, hexadecimal, and its length in bytes."""

    sha256: str
    length: int


def seal_stream(
    source: Callable[[int], bytes], sink: Callable[[bytes], object], recipients: Sequence[Any]
) -> Written:
    """Encrypt what `source` gives, as `age.seal` does, and say what was written.

    Raises:
        StateError: it cannot be encrypted, or lacks its end.
        BaseException: what `source` or `sink` raised.
    """
    sealed, head = hashlib.sha256(), bytearray()
    plain_bytes = length = 0

    def read(count: int) -> bytes:
        nonlocal plain_bytes
        data = source(count)
        plain_bytes += len(data)
        return data

    def write(data: bytes) -> None:
        nonlocal length
        sealed.update(data)
        length += len(data)
        head.extend(data[: age.MAX_HEADER_BYTES - len(head)])
        sink(data)

    age.seal(read, write, recipients)
    # The library drops an error of the last write.
    if length != age.sealed_bytes(age.parse_header(bytes(head)), plain_bytes):
        raise StateError("what was sealed lacks its end", hint="nothing was removed; try again")
    return Written(sealed.hexdigest(), length)


def check_space(room: Room, size: int) -> None:
    """Refuse, before anything is written, a file of `size` bytes that would fill the disk up.

    Raises:
        StateError: there is no room for it.
    """
    with room.errors("cannot write to the quarantine", room.directory):
        space = os.statvfs(room.directory)
        if space.f_bavail * space.f_frsize < size + size // age.CHUNK_BYTES + _OVERHEAD_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def seal(
    room: Room,
    held: Held,
    algorithms: Iterable[Algorithm],
    folder: Path,
    recipients: Sequence[Any],
) -> tuple[Digester, Written]:
    """Seal what is `held` into `folder`, durably.

    Return what digested it, and what was written.

    A file that grows is read to one byte past its size.

    Raises:
        OSError: the file cannot be read.
        StateError: the copy cannot be written, or does not read back as it was written.
    """
    plain = Digester(algorithms)

    def source(count: int) -> bytes:
        data = held.read(min(count, held.size + 1 - plain.count))
        plain.update(data)
        room.on_bytes(len(data))
        return data

    return plain, write_sealed(room, source, folder, recipients)


def write_sealed(
    room: Room, source: Callable[[int], bytes], folder: Path, recipients: Sequence[Any]
) -> Written:
    """Seal what `source` gives into a new file in `folder`, durably, and read it back.

    Raises:
        StateError: the copy cannot be written, or does not read back as it was written.
        BaseException: what `source` raised.
    """
    path = folder / EVIDENCE_NAME

    def sink(data: bytes) -> None:
        with room.errors("cannot write", path):
            write_all(out, data)

    with room.errors("cannot write", path):
        out = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        written = seal_stream(source, sink, recipients)
        with room.errors("cannot write", path):
            os.fsync(out)
            found = sha256_on_disk(out)
    finally:
        os.close(out)
    if found != (written.sha256, written.length):
        raise StateError(
            f"the sealed copy does not read back as it was written: {printable(path)}",
            hint="the disk of the state directory may be failing; what was sealed is where it was",
        )
    return written


def verify_evidence(room: Room, item: Item) -> None:
    """Make sure that a sealed copy is what was written, before a file goes that it stands for.

    Raises:
        StateError: it is not, or cannot be read.
    """
    path = room.evidence(item.id)
    with room.errors("cannot read", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = sha256_on_disk(fd, room.on_bytes)
        finally:
            os.close(fd)
    if found != (item.evidence_sha256, item.evidence_bytes):
        raise StateError(
            f"the sealed copy is damaged: {printable(path)}",
            hint="the file was not removed since; move this folder away and take the file again",
        )

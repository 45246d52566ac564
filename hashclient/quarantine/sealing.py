"""Seals a file: digests and encrypts it in one read, and reads the sealed copy back.

This module also checks whether a file is the file that matched.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core import agefile
from hashclient.core.digests import new_hash
from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm
from hashclient.index.blinding import Sealer
from hashclient.quarantine import age
from hashclient.quarantine.isolators.interface import Held
from hashclient.quarantine.item import Item
from hashclient.quarantine.store import Room
from hashclient.system.files import write_all
from hashclient.system.layout import EVIDENCE_NAME
from hashclient.system.text import printable

#: The disk space for the headers of a sealed copy and for the document of the item, in bytes.
_OVERHEAD_BYTES = 1 << 20
#: The default number of bytes for one read.
READ_BYTES = 1 << 20


class Digester:
    """Computes digests of a file to compare them with tags; the digests are never stored."""

    def __init__(self, algorithms: Iterable[Algorithm]) -> None:
        """Begin to compute a digest for each algorithm in `algorithms`."""
        self._hashes = {a: new_hash(a) for a in algorithms}
        self.count = 0

    def update(self, data: bytes) -> None:
        """Update the digests with the next bytes."""
        for h in self._hashes.values():
            h.update(data)
        self.count += len(data)

    def digests(self) -> dict[Algorithm, bytes]:
        """Return the digests of all bytes that `update` has got."""
        return {a: h.digest() for a, h in self._hashes.items()}


def digest_all(held: Held, algorithms: Iterable[Algorithm], limit: int) -> Digester:
    """Digest an open file from its start; stop after more than `limit` bytes.

    Raises:
        OSError: the file cannot be read.
    """
    digester = Digester(algorithms)
    held.rewind()
    while digester.count <= limit and (data := held.read(READ_BYTES)):
        digester.update(data)
    return digester


def sha256_on_disk(
    fd: int, on_bytes: Callable[[int], None] = lambda _count: None
) -> tuple[str, int]:
    """Read a durable file from the disk; return its SHA-256, hexadecimal, and its length.

    Raises:
        OSError: the file cannot be read.
    """
    _forget(fd)
    return sha256_synced(fd, on_bytes)


def sync_to_read(fd: int) -> None:
    """Make a file durable, and begin to read it from the disk into the page cache.

    Raises:
        OSError: the file cannot be made durable.
    """
    os.fsync(fd)
    _forget(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)


def _forget(fd: int) -> None:
    # The pages of the file are dropped, because a read would otherwise return bytes from the page
    # cache and not from the disk.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sha256_synced(
    fd: int, on_bytes: Callable[[int], None] = lambda _count: None
) -> tuple[str, int]:
    """Read a file after `sync_to_read`; return its SHA-256, hexadecimal, and its length.

    Raises:
        OSError: the file cannot be read.
    """
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
    """Return whether the digested file is the file that matched.

    The file must have `size` bytes, and its digests must have the given `tags`. At least one tag
    must be given.
    """
    return digester.count == size and sealer.proves(digester.digests(), tags)


class Written(msgspec.Struct, frozen=True):
    """The SHA-256 (hexadecimal) and the length (bytes) of an age file."""

    sha256: str
    length: int


def seal_stream(
    source: Callable[[int], bytes], sink: Callable[[bytes], object], recipients: Sequence[Any]
) -> Written:
    """Encrypt the bytes of `source` as `age.seal` does; return SHA-256 and length of the age file.

    Raises:
        StateError: the bytes cannot be encrypted, or the output is incomplete.
        BaseException: the exception that `source` or `sink` raised.
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
        head.extend(data[: agefile.MAX_HEADER_BYTES - len(head)])
        sink(data)

    age.seal(read, write, recipients)
    # The length is checked because pyrage drops an exception of its last write.
    if length != agefile.sealed_bytes(agefile.parse_header(bytes(head)).header_bytes, plain_bytes):
        raise StateError("the sealed copy lacks its end", hint="nothing was removed; try again")
    return Written(sealed.hexdigest(), length)


def check_space(room: Room, size: int) -> None:
    """Check that the disk has space for the sealed copy of a file of `size` bytes.

    Raises:
        StateError: the disk has too little space.
    """
    with room.errors("cannot write to the quarantine", room.directory):
        space = os.statvfs(room.directory)
        if space.f_bavail * space.f_frsize < agefile.sealed_bytes(_OVERHEAD_BYTES, size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Copy:
    """A sealed copy that was just written; it is durable after a call of `sync`."""

    def __init__(self, room: Room, path: Path, fd: int, written: Written) -> None:
        """The caller closes `fd`."""
        self._room = room
        self._path = path
        self._fd = fd
        self.written = written

    def sync(self) -> None:
        """Make the copy durable, and begin to read it from the disk; any thread may call `sync`.

        Raises:
            StateError: the copy cannot be made durable.
        """
        with self._room.errors("cannot write", self._path):
            sync_to_read(self._fd)

    def prove(self) -> None:
        """Check, after `sync`, that the bytes read from the disk are the written bytes.

        Raises:
            StateError: the bytes differ, or cannot be read.
        """
        with self._room.errors("cannot write", self._path):
            found = sha256_synced(self._fd)
        if found != (self.written.sha256, self.written.length):
            raise StateError(
                f"the sealed copy does not read back as it was written: {printable(self._path)}",
                hint="the disk of the state directory may be failing; nothing was removed",
            )


@contextlib.contextmanager
def seal(
    room: Room,
    held: Held,
    algorithms: Iterable[Algorithm],
    folder: Path,
    recipients: Sequence[Any],
) -> Iterator[tuple[Digester, Copy]]:
    """Seal an open file into `folder`; yield the digester of its bytes, and the sealed copy.

    If the file has grown, one byte more than its former size is read.

    Raises:
        OSError: the file cannot be read.
        StateError: the copy cannot be written.
    """
    plain = Digester(algorithms)

    def source(count: int) -> bytes:
        data = held.read(min(count, held.size + 1 - plain.count))
        plain.update(data)
        room.on_bytes(len(data))
        return data

    with _sealed(room, source, folder / EVIDENCE_NAME, recipients) as copy:
        yield plain, copy


def write_sealed(
    room: Room, source: Callable[[int], bytes], path: Path, recipients: Sequence[Any]
) -> Written:
    """Seal the bytes of `source` into the new file `path`, make it durable, and read it back.

    Raises:
        StateError: the file cannot be written, or the bytes that were read back differ.
        BaseException: the exception that `source` raised.
    """
    with _sealed(room, source, path, recipients) as copy:
        copy.sync()
        copy.prove()
        return copy.written


@contextlib.contextmanager
def _sealed(
    room: Room, source: Callable[[int], bytes], path: Path, recipients: Sequence[Any]
) -> Iterator[Copy]:
    def sink(data: bytes) -> None:
        with room.errors("cannot write", path):
            write_all(out, data)

    with room.errors("cannot write", path):
        out = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield Copy(room, path, out, seal_stream(source, sink, recipients))
    finally:
        os.close(out)


def verify_evidence(room: Room, item: Item) -> None:
    """Check that the sealed copy of an item is unchanged.

    Raises:
        StateError: the copy is damaged, or cannot be read.
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
            hint="the file was not removed since; move this folder away and isolate the file again",
        )

"""Sealing a file: read once, digested and encrypted at the same time, read back from the disk."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core.algorithms import Algorithm
from hashclient.errors import StateError
from hashclient.quarantine import age
from hashclient.quarantine.item import Item
from hashclient.quarantine.store import Room
from hashclient.quarantine.streams import Digester, sha256_on_disk
from hashclient.system.files import write_all
from hashclient.system.layout import EVIDENCE_NAME
from hashclient.system.text import printable

#: What a sealed copy takes besides its content: headers, and the document with it.
_OVERHEAD_BYTES = 1 << 20


class Sealed(msgspec.Struct, frozen=True):
    """What was read of a file, and the copy: its SHA-256, hexadecimal, and its length in bytes."""

    digests: Mapping[Algorithm, bytes]
    size: int
    evidence_sha256: str
    evidence_bytes: int


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
    fd: int,
    size: int,
    algorithms: Iterable[Algorithm],
    folder: Path,
    recipients: Sequence[Any],
) -> Sealed:
    """Seal the file open as `fd`, of `size` bytes, into `folder`, durably.

    A file that grows is read to one byte past its size.

    Raises:
        OSError: the file cannot be read.
        StateError: the copy cannot be written, or does not read back as it was written.
    """
    path = folder / EVIDENCE_NAME
    plain, sealed, written = Digester(algorithms), hashlib.sha256(), 0

    def source(count: int) -> bytes:
        data = os.read(fd, min(count, size + 1 - plain.count))
        plain.update(data)
        room.on_bytes(len(data))
        return data

    def sink(data: bytes) -> None:
        nonlocal written
        sealed.update(data)
        written += len(data)
        with room.errors("cannot write", path):
            write_all(out, data)

    with room.errors("cannot write", path):
        out = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        age.seal(source, sink, recipients)
        with room.errors("cannot write", path):
            os.fsync(out)
            found = sha256_on_disk(out)
            header = age.parse_header(os.pread(out, age.MAX_HEADER_BYTES, 0))
    finally:
        os.close(out)
    whole = written == age.sealed_bytes(header, plain.count)
    if found != (sealed.hexdigest(), written) or not whole:
        raise StateError(
            f"the sealed copy does not read back as it was written: {printable(path)}",
            hint="the disk of the state directory may be failing; the file is still in place",
        )
    return Sealed(plain.digests(), plain.count, sealed.hexdigest(), written)


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

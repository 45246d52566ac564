"""Whether the file that is read may be a container: by its first bytes, and by its last bytes.

For most files the first bytes are enough; a short file has no others. The end is looked at, too, if
a file is longer, or if an archive may follow it.
"""

from __future__ import annotations

import os
from functools import partial

from hashclient.containers.fronts import FRONT_BYTES
from hashclient.containers.interface import HEAD_BYTES, ISO_HEAD_BYTES
from hashclient.containers.sniffing import (
    ends_as_container,
    fits_none,
    has_behind,
    is_kind,
    look_at,
    padded,
    wants_all_head,
)
from hashclient.system.descriptors import read_at

#: Bytes of a file that are read to see whether it is a container.
LOOK_BYTES = 1 << 12


class Marks:
    """The marks of several files, one file at a time."""

    __slots__ = ("_first_bytes", "_front", "begin", "is_sure", "may_be", "size")

    def __init__(self) -> None:
        """Begin before the first file."""
        #: Whether the last file may be a container, and its first byte; -1 if nobody looks.
        self.may_be, self.begin = False, -1
        #: The length of the file that is read, if it can be relied on; set before its first bytes.
        self.size: int | None = None
        #: Whether the first bytes of the file have decided.
        self.is_sure = True
        self._first_bytes = 0
        #: The beginning of a file that may have an archive behind it.
        self._front = b""

    def first(self, data: bytes | bytearray, length: int) -> None:
        """Look at the first bytes of a file: this many bytes of a buffer."""
        self.begin = data[0] if length else 0
        self.is_sure = is_all = length == self.size
        found = () if fits_none(data, length) else look_at(data, length, is_all)
        if is_all and not found:
            self.may_be = ends_as_container(data, length, length)
            return
        self._first_bytes, self._front = length, b""
        if found:
            self.may_be = is_kind(found)  # containers that are not opened are counted
            if not self.may_be:
                self._front, self.is_sure = bytes(data[: min(length, FRONT_BYTES)]), False
        else:
            # If more follows, the end is looked at later.
            self.may_be = self.size is None and ends_as_container(data, length, length)

    def look(self, fd: int, size: int) -> None:
        """Look at an open file of `size` bytes; read no more than needed.

        Raises:
            OSError: the file cannot be read.
        """
        # These are all bytes of a short file; a longer file has two more places to look at.
        first = _first_bytes(fd, ISO_HEAD_BYTES if size >= ISO_HEAD_BYTES else LOOK_BYTES, size)
        if wants_all_head(first):
            first = _first_bytes(fd, ISO_HEAD_BYTES, size)
        self.size = size
        self.first(padded(first), len(first))
        if not self.is_sure:
            self.look_again(fd, size)

    def look_again(self, fd: int, length: int) -> None:
        """Look for a mark behind the first bytes, or at the end of a file of a length."""
        if not self._front and self._first_bytes == length:
            return
        if self._first_bytes < min(length, ISO_HEAD_BYTES):
            # A disk image has its mark after 32 KiB; a slow file system gives fewer bytes than
            # asked for.
            wanted = ISO_HEAD_BYTES if length >= ISO_HEAD_BYTES else HEAD_BYTES
            if self._first_bytes < min(length, wanted):
                first = _first_bytes(fd, wanted, length)
                self.first(first, len(first))
        if not self.may_be:
            self.may_be = has_behind(self._front, length, partial(read_at, fd))


def _first_bytes(fd: int, count: int, size: int) -> bytes:
    """Return the first bytes of a file of a size; a slow file system returns few at a time."""
    data = os.pread(fd, count, 0)
    if len(data) < min(count, size):
        data += read_at(fd, len(data), count - len(data))
    return data

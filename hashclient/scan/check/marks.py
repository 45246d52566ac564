"""Decides by the first and the last bytes of a file whether the file may be a container.

For most files the first bytes are enough, because most files are short and have no other bytes. The
end of a file is examined, too, if the file is longer, or if its first bytes are those of a program
or another file to which an archive may be appended (a front).
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

#: The number of first bytes that are read to find out whether a file is a container.
LOOK_BYTES = 1 << 12


class Marks:
    """Examines one file after the other for marks: bytes that show that a file is a container."""

    __slots__ = ("_first_bytes", "_front", "begin", "is_sure", "may_be", "size")

    def __init__(self) -> None:
        """Set the initial values, before the first file is examined."""
        #: `may_be`: whether the last file may be a container. `begin`: the first byte of the last
        #: file, or -1 if files are not examined.
        self.may_be, self.begin = False, -1
        #: The length of the file, or None if it cannot be relied on; the caller sets it before the
        #: first bytes.
        self.size: int | None = None
        #: Whether the first bytes of the file have decided whether the file may be a container.
        self.is_sure = True
        self._first_bytes = 0
        #: The first bytes of a file that may have an archive behind them; empty for other files.
        self._front = b""

    def first(self, data: bytes | bytearray, length: int) -> None:
        """Examine the first `length` bytes of a file, which are the first bytes of `data`."""
        self.begin = data[0] if length else 0
        self.is_sure = is_all = length == self.size
        found = () if fits_none(data, length) else look_at(data, length, is_all)
        if is_all and not found:
            self.may_be = ends_as_container(data, length, length)
            return
        self._first_bytes, self._front = length, b""
        if found:
            self.may_be = is_kind(found)  # a container that is not opened is counted
            if not self.may_be:
                self._front, self.is_sure = bytes(data[: min(length, FRONT_BYTES)]), False
        else:
            # If the file is longer than `length` bytes, `look_again` examines its end.
            self.may_be = self.size is None and ends_as_container(data, length, length)

    def look(self, fd: int, size: int) -> None:
        """Examine an open file of `size` bytes; read no more bytes than needed.

        Raises:
            OSError: the file cannot be read.
        """
        # `first` has all bytes of a short file; a longer file may have the typical bytes of a
        # container in two more places.
        first = _first_bytes(fd, ISO_HEAD_BYTES if size >= ISO_HEAD_BYTES else LOOK_BYTES, size)
        if wants_all_head(first):
            first = _first_bytes(fd, ISO_HEAD_BYTES, size)
        self.size = size
        self.first(padded(first), len(first))
        if not self.is_sure:
            self.look_again(fd, size)

    def look_again(self, fd: int, length: int) -> None:
        """Look for marks of containers after the first bytes and at the end of the file."""
        if not self._front and self._first_bytes == length:
            return
        if self._first_bytes < min(length, ISO_HEAD_BYTES):
            # A disk image has its typical bytes after 32 KiB, and a slow file system may have
            # returned fewer bytes than were requested.
            wanted = ISO_HEAD_BYTES if length >= ISO_HEAD_BYTES else HEAD_BYTES
            if self._first_bytes < min(length, wanted):
                first = _first_bytes(fd, wanted, length)
                self.first(first, len(first))
        if not self.may_be:
            self.may_be = has_behind(self._front, length, partial(read_at, fd))


def _first_bytes(fd: int, count: int, size: int) -> bytes:
    """Return the first bytes of a file; read again if a slow file system returns too few."""
    data = os.pread(fd, count, 0)
    if len(data) < min(count, size):
        data += read_at(fd, len(data), count - len(data))
    return data

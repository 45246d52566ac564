"""Containers: bytes that hold members, read without trust in their claims.

An expander knows one kind of container. The expander lists members and returns their bytes; the
expander computes nothing, judges nothing and opens no path. The driver calls the expander again for
nested containers, digests, and keeps the limits. `tests/contract/test_expanders.py` tests the
contract of each expander. Every member that a usual program would extract is listed. A member that
cannot be read to its end raises `NotReadError` at that point, and other members are still read if
possible. Memory is bounded for any bytes.

To add an expander, write a module here with a class, and add a row to `kinds`. Bytes can be of
several kinds at once (a zip after a tar): they are opened as each of these kinds. An ordinary file
must not be taken for a container.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

#: Bytes at the beginning of each file by which its kind is recognised; the mark of iso9660 lies at
#: 32 KiB.
HEAD_BYTES = 512
ISO_HEAD_BYTES = 33 << 10
#: Bytes at the end of a file in which the end of a zip is searched, behind a program, a script or a
#: picture: enough for a comment, and for as many bytes behind it. unzip finds the end of a zip in
#: the last 66,000 bytes and more.
TAIL_BYTES = (128 << 10) + 22


class Why(enum.StrEnum):
    """Why something inside a container was not read; the words of `[scan] accept`."""

    ENCRYPTED = "encrypted"
    DAMAGED = "damaged"
    LIMIT = "limit"
    UNSUPPORTED = "unsupported"  # no expander reads the method or the kind
    NOT_OPENED = "not-opened"  # a kind that is not opened, and that the configuration refuses
    MISSING = "missing"  # the library that reads it is not installed
    FAILED = "failed"  # the process that opened it has ended, or cannot be started


class NotReadError(Exception):
    """A member, or a whole container, that cannot be read to its end; `detail` is for people."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail


class Stream(Protocol):
    """Bytes that can be read once."""

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes; none at the end only.

        Raises:
            NotReadError: the bytes cannot be read.
        """
        ...


class Data(Stream, Protocol):
    """Bytes that can be read anywhere: a file, or a member that was spooled."""

    @property
    def size(self) -> int:
        """The length in bytes."""
        ...

    def read_at(self, offset: int, count: int) -> bytes:
        """Return the bytes at a place, fewer only at the end.

        Raises:
            NotReadError: the bytes cannot be read.
        """
        ...


#: No kind of container has this name.
NEVER = "never"


class Member(msgspec.Struct, frozen=True):
    """One member, as its container lists it.

    `name` is as in the container, any bytes; `offset` distinguishes members with the same name, and
    is shown for members without an entry in a directory. `size` is the claimed length in bytes,
    None without a claim. With `is_exact`, extraction always returns this number of bytes: if no
    entry has this size, the member is ruled out for certain, otherwise only by a claim. `chunks`
    reads the member, once; in a stream, it is used before the next member is taken. `kind` names
    the expander that opens the member, if the container declares the kind (a message in a message).
    `kind` is `NEVER` for another reading of bytes that are opened already. Otherwise `kind` is
    empty, and the bytes show the kind. `head` returns the first bytes, as many as requested or all
    bytes, if this costs less than `chunks`. With `is_again`, this member is another reading of an
    earlier member's bytes: only one of several readings with the same bytes is opened, since each
    may have further readings.
    """

    name: bytes
    size: int | None
    is_exact: bool
    chunks: Callable[[], Iterator[bytes]]
    offset: int = 0
    kind: str = ""
    head: Callable[[int], bytes] | None = None
    is_again: bool = False


class Unlisted(msgspec.Struct, frozen=True):
    """An unreadable part of a container that has or may have a member: the name and the reason.

    With `NOT_OPENED` as the reason, `detail` is the name of a kind.
    """

    name: bytes
    why: Why
    detail: str


class Expander(Protocol):
    """Lists and reads one kind of container. `seeks` says that it needs `Data`, not a `Stream`.

    If the marks of a kind are not certain (`kind.Sure`), its expander also has a method `sniff`.
    """

    @property
    def name(self) -> str:
        """The name of the kind, for example `zip`."""
        ...

    @property
    def seeks(self) -> bool:
        """Whether all bytes must be available at once."""
        ...

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the members, in batches if a directory names them, singly in a stream.

        Raises:
            NotReadError: the container cannot be read any further.
        """
        ...

"""What a container is: bytes that hold members, read without trust in what they claim.

An expander knows one kind of container. It lists members and gives their bytes; it computes
nothing, judges nothing and opens no path. Whoever drives it recurses, digests and keeps the limits.
Its contract, which `tests/contract/test_expanders.py` holds each one to: every member that a usual
program would extract is listed; what cannot be read to its end raises `NotReadError` there, and the
members beside it are still read where that can be; and memory is bounded whatever the bytes are.

To add one: a module here with a class, and a row in `registry`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

#: Bytes of the beginning that every file is sniffed by; the mark of iso9660 lies at 32 KiB.
HEAD_BYTES = 512
ISO_HEAD_BYTES = 33 << 10
#: Bytes of the end, where a program, a script or a picture stands in front of a zip archive.
TAIL_BYTES = 65_557


class Why(enum.StrEnum):
    """Why something inside a container was not read; the words of `[scan] accept`."""

    ENCRYPTED = "encrypted"
    DAMAGED = "damaged"
    LIMIT = "limit"
    UNSUPPORTED = "unsupported"  # a method or a kind that nobody here reads
    MISSING = "missing"  # the library that reads it is not installed
    FAILED = "failed"  # the process that opened it has ended, or cannot be started


class NotReadError(Exception):
    """A member, or a whole container, that cannot be read to its end; `detail` is for people."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail


class Stream(Protocol):
    """Bytes that come once."""

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes; none at the end only.

        Raises:
            NotReadError: they cannot be had.
        """
        ...


class Data(Stream, Protocol):
    """Bytes that can be read anywhere: a file, or a member that was spooled."""

    @property
    def size(self) -> int:
        """The length in bytes."""
        ...

    def read_at(self, offset: int, count: int) -> bytes:
        """Return the bytes there, fewer only beyond the end.

        Raises:
            NotReadError: they cannot be had.
        """
        ...


class Member(msgspec.Struct, frozen=True):
    """One member, as its container lists it.

    `name` is as it stands there, in any bytes; `offset` tells members of one name apart, and is
    shown of members that no directory names. `size` is the claimed length in bytes, None where
    nothing is claimed. With `is_exact`, extraction cannot give another number of bytes: a size that
    no entry has then rules it out, and otherwise only as far as a claim does. `chunks` reads it,
    once; of a container that is read as a stream, before the next member is asked for. `kind` is
    the name of the expander that opens the member however it begins, where its container says
    what it is (a message in a message); empty where its bytes have to say so. `head` returns the
    first bytes, as many as are asked for or all there are, where that takes less than `chunks`.
    """

    name: bytes
    size: int | None
    is_exact: bool
    chunks: Callable[[], Iterator[bytes]]
    offset: int = 0
    kind: str = ""
    head: Callable[[int], bytes] | None = None


class Unlisted(msgspec.Struct, frozen=True):
    """A part of a container that holds a member, or may, and cannot be read: its name, and why."""

    name: bytes
    why: Why
    detail: str


class Expander(Protocol):
    """Lists and reads one kind of container. `seeks` says that it needs `Data`, not a `Stream`."""

    @property
    def name(self) -> str:
        """The kind, such as `zip`."""
        ...

    @property
    def seeks(self) -> bool:
        """Whether the bytes must be there as a whole."""
        ...

    def sniff(self, head: bytes, tail: bytes) -> bool:
        """Tell whether bytes that begin and end like this are such a container; cheap, and strict.

        An ordinary file that is none must not be taken for one; `tail` is empty where it was not
        looked at. Bytes can be of several kinds at once (a zip behind a tar): each is opened.
        """
        ...

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the members, in batches where a directory names them, one by one in a stream.

        Raises:
            NotReadError: it cannot be read any further.
        """
        ...

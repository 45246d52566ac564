"""The interface of expanders: they read containers without trusting any claim in the bytes.

Each expander reads one kind of container. An expander lists members and returns their bytes; an
expander computes no digests, decides nothing about matches, and opens no path. The driver computes
digests, enforces limits, and calls expanders again for nested containers.
`tests/contract/test_expanders.py` tests the contract of each expander. An expander lists each
member that a usual program would extract. If a member cannot be read to its end, its `chunks` raise
`NotReadError` after the readable bytes, and the expander still lists other members if possible. The
memory that an expander uses is limited, whatever the bytes are.

To add an expander, write a module in the package `containers` with its class, and add a row to
`kinds`. A file can be of several kinds at once (for example, a zip that follows a tar); such a file
is opened as each of these kinds. A file that is no container must not be recognised as a container.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

#: `HEAD_BYTES`: the bytes at the beginning of each file by which its kind is recognised;
#: `ISO_HEAD_BYTES`: the bytes that are needed for iso9660, whose mark is at 32 KiB.
HEAD_BYTES = 512
ISO_HEAD_BYTES = 33 << 10
#: The bytes at the end of a file in which the end of a zip is searched, if the file begins with a
#: program, a script or a picture: enough for the comment of the zip, and for as many bytes after
#: the comment. unzip searches for the end of a zip in at least the last 66,000 bytes.
TAIL_BYTES = (128 << 10) + 22


class Why(enum.StrEnum):
    """Why something inside a container was not read.

    The values are the words of `[scan] accept`.
    """

    ENCRYPTED = "encrypted"
    DAMAGED = "damaged"
    LIMIT = "limit"
    UNSUPPORTED = "unsupported"  # no expander supports the compression method or the kind
    NOT_OPENED = "not-opened"  # the configuration refuses files of unopened kinds
    MISSING = "missing"  # the library that reads the kind is not installed
    FAILED = "failed"  # the process that opens containers has ended, or cannot be started


class NotReadError(Exception):
    """A member, or a whole container, cannot be read to its end; `detail` is a text for people."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail


class Stream(Protocol):
    """Bytes that can be read only once, forwards."""

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes; no bytes mean the end.

        Raises:
            NotReadError: the bytes cannot be read.
        """
        ...


class Data(Stream, Protocol):
    """Bytes that can be read at any offset: a file, or a member that was copied into memory."""

    @property
    def size(self) -> int:
        """The number of bytes that can be read."""
        ...

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes at `offset`; fewer bytes only at the end.

        Raises:
            NotReadError: the bytes cannot be read.
        """
        ...


#: The name of no kind: no expander opens a member of this kind.
NEVER = "never"


class Member(msgspec.Struct, frozen=True):
    """A member, as its container lists it.

    `name` is the name in the container and may be any bytes; `offset` distinguishes members with
    the same name, and is shown for members that are in no directory of the container. `size` is the
    length in bytes that the container claims; None means no claim. `is_exact` means that extraction
    always returns `size` bytes, so that a size that no entry has rules the member out with
    certainty, and not only by a claim. `chunks` returns the bytes of the member and can be called
    only once; in a stream, `chunks` must be used before the next member is taken. `kind` names the
    expander that opens the member if the container declares the kind (for example, a message in a
    message). `kind` is `NEVER` for an alternative reading of bytes that are already opened. If
    `kind` is empty, the first bytes of the member show its kind. `head` returns the requested
    number of first bytes, or all bytes if the member is shorter; it is None if these bytes would
    cost as much as `chunks`. `is_again` means that the member is an alternative reading of an
    earlier member's bytes: of several equal alternative readings, only one is opened, because each
    may lead to further readings.
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
    """An unreadable part of a container that may have members: its name, and why it is unreadable.

    If `why` is `NOT_OPENED`, `detail` is the name of a kind.
    """

    name: bytes
    why: Why
    detail: str


class Expander(Protocol):
    """Lists and reads the members of one kind of container.

    `seeks` says that the expander needs `Data`, because a `Stream` is not enough.

    If the marks of a kind are not certain (see `kind.Sure`), its expander also has a method
    `sniff`.
    """

    @property
    def name(self) -> str:
        """The name of the kind, for example `zip`."""
        ...

    @property
    def seeks(self) -> bool:
        """Whether the expander must read at any offset, so that it needs `Data`."""
        ...

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the members: in batches if a directory lists them, one by one in a stream.

        Raises:
            NotReadError: the rest of the container cannot be read.
        """
        ...

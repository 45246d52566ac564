"""The interface of expanders, which read containers whose bytes may be hostile.

Each expander reads one kind of container. An expander lists members and returns their bytes; an
expander does not compute digests, does not decide about matches, and does not open paths. The
driver computes digests, enforces limits, and calls expanders again for nested containers.
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

#: `HEAD_BYTES`: how many first bytes of each file are read to recognise its kind; `ISO_HEAD_BYTES`:
#: how many first bytes are read to recognise iso9660, whose magic bytes are at 32 KiB.
HEAD_BYTES = 512
ISO_HEAD_BYTES = 33 << 10
#: If a file begins with a program, a script or a picture, the end record of a zip is searched in
#: this number of last bytes of the file. A comment of up to 64 KiB may follow the end record, and
#: other bytes may follow the comment. The program unzip searches at least the last 66,000 bytes.
TAIL_BYTES = (128 << 10) + 22


class Why(enum.StrEnum):
    """Why something inside a container was not read.

    The values are the strings that the option `accept` in [scan] may contain.
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


#: A value for `Member.kind` that is no kind: no expander opens such a member.
NEVER = "never"


class Member(msgspec.Struct, frozen=True):
    """A member, as its container lists it.

    `name` is the name in the container and may be any bytes; `offset` distinguishes members with
    the same name, and is shown for members that are in no directory of the container. `size` is the
    length in bytes that the container claims; None means no claim. `is_exact` means that extraction
    always returns exactly `size` bytes. Therefore the member cannot match if no entry has this
    size. `chunks` returns the bytes of the member and can be called only once; if the container is
    a stream, `chunks` must be read before the next member is requested. `kind` names the expander
    that opens the member if the container declares the kind (for example, a message in a message).
    `kind` is `NEVER` for an alternative reading of bytes that are already opened. If `kind` is
    empty, the first bytes of the member show its kind. `head` returns the requested number of first
    bytes, or all bytes if the member is shorter; `head` is None if reading the first bytes would
    cost as much as reading all bytes. `is_again` means that the member is an alternative reading of
    an earlier member's bytes: of several alternative readings with equal bytes, only one is opened,
    because each reading may contain members with further readings.
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
    """An unreadable part of a container, which may contain members: its name and the reason.

    If `why` is `NOT_OPENED`, `detail` is the name of a kind.
    """

    name: bytes
    why: Why
    detail: str


class Expander(Protocol):
    """Lists and reads the members of one kind of container.

    `seeks` says that the expander needs `Data`, because a `Stream` is not enough.

    If the magic bytes of a kind also occur in files of other kinds (see `kind.Sure`), its expander
    also has a method `sniff`, which examines the first bytes.
    """

    @property
    def name(self) -> str:
        """The name of the kind, for example `zip`."""
        ...

    @property
    def seeks(self) -> bool:
        """Whether the expander needs `Data`, because it reads at arbitrary offsets."""
        ...

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the members: in batches if the container has a directory, one by one in a stream.

        Raises:
            NotReadError: the rest of the container cannot be read.
        """
        ...

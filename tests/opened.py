"""Opens a container as the driver does, member by member, and returns the members."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

from hashclient.containers.interface import (
    ISO_HEAD_BYTES,
    TAIL_BYTES,
    Data,
    Expander,
    Member,
    NotReadError,
    Stream,
    Unlisted,
    Why,
)
from hashclient.containers.registry import Registry
from hashclient.containers.sniffing import is_opened, look, not_opened

#: The largest size of a piece, in bytes.
MAX_PIECE_BYTES = 256 << 10


class Once:
    """Bytes that can be read once, in pieces of at most `step` bytes."""

    def __init__(self, data: bytes, step: int = 1 << 30) -> None:
        """Set the content, and the most bytes of one read."""
        self._file = io.BytesIO(data)
        self._step = step

    def read(self, count: int) -> bytes:
        """Return the next bytes."""
        assert count > 0
        return self._file.read(min(count, self._step))


class Whole(Once):
    """Bytes that can be read at any offset."""

    def __init__(self, data: bytes) -> None:
        """Set the content, with no byte read yet."""
        super().__init__(data)
        self._data = data
        self.size = len(data)
        self.given = 0

    def read_at(self, offset: int, count: int) -> bytes:
        """Return up to `count` bytes at an offset."""
        assert 0 <= offset < 1 << 62 and count >= 0
        piece = self._data[offset : offset + count]
        self.given += len(piece)
        return piece


@dataclass
class Opened:
    """The members of an opened container, in order, and the names of unread members."""

    members: list[tuple[bytes, bytes]] = field(default_factory=list)
    unread: list[tuple[bytes, Why]] = field(default_factory=list)
    listed: list[Member] = field(default_factory=list)

    @property
    def contents(self) -> list[bytes]:
        return [content for _, content in self.members]

    @property
    def names(self) -> list[bytes]:
        return [name for name, _ in self.members]

    @property
    def reasons(self) -> set[Why]:
        return {why for _, why in self.unread}


def each(expander: Expander, data: Data | Stream) -> Iterator[Member | Unlisted]:
    """Yield the members of an expander; an error becomes an unlisted member without a name."""
    assert hasattr(data, "read_at") or not expander.seeks
    try:
        for found in expander.members(data):
            if isinstance(found, Unlisted):
                yield found
            else:
                yield from found
    except NotReadError as error:
        yield Unlisted(b"", error.why, error.detail)


def opened(expander: Expander, data: Data | Stream | bytes) -> Opened:
    """Open a container, and read every member to its end."""
    out = Opened()
    for found in each(expander, Whole(data) if isinstance(data, bytes) else data):
        if isinstance(found, Unlisted):
            out.unread.append((found.name, found.why))
            continue
        out.listed.append(found)
        try:
            pieces = list(found.chunks())
        except NotReadError as error:
            out.unread.append((found.name, error.why))
            continue
        assert all(len(piece) <= MAX_PIECE_BYTES for piece in pieces)
        content = b"".join(pieces)
        assert not found.is_exact or len(content) == found.size
        out.members.append((found.name, content))
    return out


def sniffs(expander: Expander, data: bytes) -> bool:
    """Return whether an expander accepts a file as a file of its kind."""
    picked = Registry().pick(data[:ISO_HEAD_BYTES], data[-TAIL_BYTES:])
    return expander.name in [one.name for one in picked]


def has_mark(data: bytes | memoryview, *, is_all: bool = False) -> bool:
    """Return whether the first bytes cause a file to be sent to the opening process."""
    return is_opened(look(data, is_all=is_all))


def kind_by_begin(data: bytes | memoryview) -> str:
    """Return the kind of a file that is not opened, by its first bytes; empty for other files."""
    found = look(data)
    return "" if is_opened(found) else not_opened(found)

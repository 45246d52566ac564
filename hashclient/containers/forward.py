"""Reads a container from beginning to end: headers exactly, and other bytes in large pieces.

Bytes that are not needed are skipped without a read if the source can be read at any offset. The
first block after skipped bytes is small; further blocks grow as long as no bytes are skipped.
Therefore, if only the headers of a container are needed, little more than the headers is read. At
most two blocks are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

from hashclient.containers.interface import Data, Stream

FIRST_BYTES = 4 << 10
PIECE_BYTES = 256 << 10
#: The most bytes that `ahead` copies from a stream, so that they can be read again.
MAX_AHEAD_BYTES = 16 << 20


def in_pieces(data: bytes) -> Iterator[bytes]:
    """Yield the bytes of a member that is in memory, in pieces."""
    for at in range(0, len(data), PIECE_BYTES):
        yield data[at : at + PIECE_BYTES]


class Buffered:
    """A source that is read in blocks.

    `_buffer` contains, from the index `_at` on, the bytes that were read from the source and not
    yet taken.

    A subclass implements `_block`, and may search the buffer.
    """

    def __init__(self) -> None:
        """Create the buffer without reading anything."""
        self._buffer = b""
        self._at = 0
        self._is_over = False

    def _block(self) -> bytes:
        """Return the next block; no bytes mean the end."""
        raise NotImplementedError

    def _more(self) -> bool:
        """Append further blocks to the rest of the buffer; return False at the end of the source.

        Several small blocks are read in one call, because each call copies the rest of the buffer.
        """
        if self._is_over:
            return False
        rest, count = self._buffer[self._at :], 0
        blocks = [rest] if rest else []
        try:
            while count < min(max(len(rest), 1), PIECE_BYTES):
                block = self._block()
                if not block:
                    self._is_over = True
                    break
                blocks.append(block)
                count += len(block)
        finally:
            self._buffer = b"".join(blocks)
            self._at = 0
        return bool(count)

    def _fill(self, count: int) -> None:
        """Read ahead until the buffer has the next `count` bytes, or the source ends."""
        while len(self._buffer) - self._at < count and self._more():
            pass

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes, but keep the position; `count` should be small."""
        if self._at + count > len(self._buffer):
            self._fill(count)
        return self._buffer[self._at : self._at + count]

    def has_more_than(self, count: int) -> bool:
        """Return whether more than `count` bytes follow.

        The position does not change; the bytes are read into the buffer.
        """
        self._fill(count + 1)
        return len(self._buffer) - self._at > count

    def take(self, count: int) -> bytes:
        """Take the next `count` bytes and return them; fewer bytes only at the end."""
        if self._at + count > len(self._buffer):
            self._fill(count)
        at = self._at
        taken = self._buffer[at : at + count]
        self._at = at + len(taken)
        return taken

    def back(self, count: int) -> None:
        """Move back over the last `count` bytes that were taken."""
        assert count <= self._at
        self._at -= count

    def some(self, most: int) -> bytes:
        """Take and return 1 to `most` bytes with at most one read; no bytes mean the end."""
        at = self._at
        if at == len(self._buffer):
            self._buffer = self._block()
            at = 0
        piece = self._buffer[at : at + most]
        self._at = at + len(piece)
        return piece


class Forward(Buffered):
    """A position in a container, which moves forwards."""

    def __init__(self, data: Data | Stream) -> None:
        """Begin at the beginning of `data`."""
        super().__init__()
        self._stream = data
        self._data = cast(Data, data) if hasattr(data, "read_at") else None
        self._next = 0  # the offset after the last byte in the buffer
        self._step = FIRST_BYTES

    @property
    def position(self) -> int:
        """How many bytes were taken or skipped."""
        return self._next - len(self._buffer) + self._at

    def _block(self) -> bytes:
        if self._data is None:
            block = self._stream.read(self._step)
        else:
            block = self._data.read_at(self._next, self._step)
        self._next += len(block)
        self._step = min(4 * self._step, PIECE_BYTES)
        return block

    def ahead(self, count: int) -> Callable[[], Iterator[bytes]] | None:
        """Return a function that returns an iterator over the next `count` bytes.

        The position stays unchanged.

        Return None if the source is a stream and `count` is more than `MAX_AHEAD_BYTES`.
        """
        if count <= MAX_AHEAD_BYTES:
            return partial(in_pieces, self.peek(count))
        return None if self._data is None else partial(pieces_of, self._data, self.position, count)

    def skip(self, count: int) -> int:
        """Skip `count` bytes; return how many bytes were skipped."""
        here = min(count, len(self._buffer) - self._at)
        self._at += here
        left = count - here
        if left and self._data is not None:
            self._buffer, self._at, self._step = b"", 0, FIRST_BYTES
            jump = min(left, max(self._data.size - self._next, 0))
            self._next += jump
            return here + jump
        while left and (piece := self.some(min(left, PIECE_BYTES))):
            left -= len(piece)
        return count - left

    def skip_zeros(self, unit: int) -> None:
        """Skip the zero bytes at the beginning of the buffer; skip a multiple of `unit` bytes."""
        rest = self._buffer[self._at :]
        zeros = len(rest) - len(rest.lstrip(b"\0"))
        self._at += zeros - zeros % unit


def pieces_of(data: Data, start: int, count: int) -> Iterator[bytes]:
    """Yield `count` bytes from offset `start` on; fewer bytes only if the data ends earlier."""
    end = start + count
    while piece := data.read_at(start, min(PIECE_BYTES, end - start)):
        yield piece
        start += len(piece)


class Anywhere:
    """Bytes that can be read at any offset, and also as a stream.

    A subclass implements `read_at`.
    """

    _position = 0
    size: int

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes at `offset`; see `Data.read_at`."""
        raise NotImplementedError

    def read(self, count: int) -> bytes:
        """Return the next bytes; see `Stream.read`."""
        piece = self.read_at(self._position, count)
        self._position += len(piece)
        return piece


class Joined(Anywhere):
    """The concatenation of some bytes, a part of other data, and more bytes."""

    def __init__(self, head: bytes, data: Data, start: int, length: int, tail: bytes = b"") -> None:
        """Concatenate `head`, `length` bytes of `data` from `start` on, and `tail`."""
        self._head = head
        self._data = data
        self._start = start
        self._tail = tail
        self.size = len(head) + length + len(tail)

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes at `offset`; see `Data.read_at`."""
        end = min(offset + count, self.size)
        first, behind = len(self._head), self.size - len(self._tail)
        found = self._head[offset:end]
        if (at := max(offset, first)) < (until := min(end, behind)):
            found += self._data.read_at(self._start + at - first, until - at)
            if len(found) < until - offset:
                return found  # `data` ends before `tail` would begin
        return found + self._tail[max(0, offset - behind) : max(0, end - behind)]


def part_of(data: Data, start: int, most: int | None = None) -> Joined:
    """Return the data from offset `start` on, at most `most` bytes."""
    left = data.size - start
    return Joined(b"", data, start, left if most is None else min(most, left))

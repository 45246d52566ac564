"""Sparse members of tar: a map of the pieces with bytes, and zeros between them.

Four forms exist: old GNU tar, with the map in the header and in blocks behind it, and three forms
of pax, with the map in the fields or before the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from hashclient.containers.forward import PIECE_BYTES, Forward
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.tarheader import BLOCK_BYTES, Pax, number

#: More than any program writes, and 16 MB.
MAX_PIECES = 1 << 18
_ZEROS = bytes(PIECE_BYTES)
_LINE_BYTES = 24
_NO_MAP = frozenset((b"GNU.sparse.name", b"GNU.sparse.realsize"))


class Bytes(Protocol):
    """The stored bytes of a member."""

    left: int

    def take(self, count: int) -> bytes:
        """Return `count` bytes."""
        ...

    def some(self, most: int) -> bytes:
        """Return 1 to `most` bytes."""
        ...


class Sparse:
    """How one member is put together: pieces of `(offset, length)`, or a map before the bytes."""

    def __init__(self, size: int, pieces: list[tuple[int, int]] | None) -> None:
        """Make `size` bytes of `pieces`; without pieces, the map is before the bytes."""
        self.size = size
        self._pieces = pieces
        #: Whether the member consists of bytes without holes, and the map is not before the bytes.
        self.is_whole = pieces is not None and sum(length for _, length in pieces) == size

    def chunks(self, area: Bytes) -> Iterator[bytes]:
        """Yield the complete member.

        Raises:
            NotReadError: the map does not agree with the bytes.
        """
        pieces = _map_before(area) if self._pieces is None else self._pieces
        position = 0
        for offset, length in pieces:
            if offset < position or offset + length > self.size or length > area.left:
                raise NotReadError(Why.DAMAGED, "tar: a sparse map that does not fit")
            yield from _zeros(offset - position)
            left = length
            while left:
                piece = area.some(min(left, PIECE_BYTES))
                left -= len(piece)
                yield piece
            position = offset + length
        if area.left:
            raise NotReadError(Why.DAMAGED, "tar: a sparse map that does not fit")
        yield from _zeros(self.size - position)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield _ZEROS[:count]
        count -= PIECE_BYTES


def find(source: Forward, is_old: bool, block: bytes, fields: Pax) -> Sparse | None:  # noqa: FBT001
    """Return the structure of a member; None if it is not sparse.

    Raises:
        NotReadError: the map is damaged, or too large.
    """
    if is_old:
        return _old(source, block)
    if fields.get(b"GNU.sparse.major") == b"1":
        if fields.get(b"GNU.sparse.minor") != b"0":
            raise NotReadError(Why.UNSUPPORTED, "tar: a sparse form that is not known")
        return Sparse(_decimal(fields.get(b"GNU.sparse.realsize", b"")), None)
    if b"GNU.sparse.map" not in fields:
        # A field for a name or a length does not make a member sparse.
        if any(name.startswith(b"GNU.sparse.") and name not in _NO_MAP for name in fields):
            raise NotReadError(Why.DAMAGED, "tar: a sparse member without a map")
        return None
    numbers = fields[b"GNU.sparse.map"].split(b",", 2 * MAX_PIECES + 1)
    if len(numbers) > 2 * MAX_PIECES:
        raise NotReadError(Why.LIMIT, "tar: a sparse map of too many pieces")
    values = [_decimal(value) for value in numbers if value]
    return Sparse(_decimal(fields.get(b"GNU.sparse.size", b"")), _pairs(values))


def _old(source: Forward, block: bytes) -> Sparse | None:
    size = number(block[483:495])
    if size is None:
        raise NotReadError(Why.DAMAGED, "tar: a sparse member without a size")
    values: list[int] = []
    entries, goes_on = block[386:482], block[482]
    while True:
        for at in range(0, len(entries), 12):
            value = number(entries[at : at + 12])
            if value is None:
                raise NotReadError(Why.DAMAGED, "tar: a sparse map")
            values.append(value)
        if not goes_on:
            break
        more = source.take(BLOCK_BYTES)
        if len(more) < BLOCK_BYTES:
            raise NotReadError(Why.DAMAGED, "tar: ends within a sparse map")
        if len(values) > 2 * MAX_PIECES:
            raise NotReadError(Why.LIMIT, "tar: a sparse map of too many pieces")
        entries, goes_on = more[:504], more[504]
    if not size and not any(values):
        return None  # programs use the stored bytes
    # Unused fields are zero, and so is the length of a hole at the end.
    return Sparse(size, [pair for pair in _pairs(values) if pair[1]])


def _pairs(values: list[int]) -> list[tuple[int, int]]:
    if len(values) % 2:
        raise NotReadError(Why.DAMAGED, "tar: a sparse map")
    return list(zip(values[::2], values[1::2], strict=True))


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise NotReadError(Why.DAMAGED, "tar: a sparse map")
    return int(text)


def _map_before(area: Bytes) -> Iterator[tuple[int, int]]:
    """Yield the pieces of a map that precedes the bytes, in lines, padded to a block.

    The whole map is read before the first piece is returned, because the bytes follow it.
    """
    buffer = b""
    at = 0

    def line() -> int:
        nonlocal buffer, at
        end = buffer.find(b"\n", at)
        while end < 0:
            if len(buffer) - at > _LINE_BYTES:
                raise NotReadError(Why.DAMAGED, "tar: a sparse map")
            buffer = buffer[at:] + area.take(BLOCK_BYTES)
            at = 0
            end = buffer.find(b"\n")
        text, at = buffer[at:end], end + 1
        return _decimal(text)

    count = line()
    if count > MAX_PIECES:
        raise NotReadError(Why.LIMIT, "tar: a sparse map of too many pieces")
    return iter([(line(), line()) for _ in range(count)])

"""Sparse members of tar: a map lists the pieces of the file that are stored; the rest is zeros.

Four forms exist: the form of old GNU tar, with the map in the header and in blocks after it, and
three forms of pax, with the map in the fields or before the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from hashclient.containers.forward import PIECE_BYTES, Forward
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.tarheader import BLOCK_BYTES, Pax, number

#: The most pieces in a map; they take 16 MB of memory, and no program writes more pieces.
MAX_PIECES = 1 << 18
_ZEROS = bytes(PIECE_BYTES)
_LINE_BYTES = 24
_NO_MAP = frozenset((b"GNU.sparse.name", b"GNU.sparse.realsize"))
_REAL_SIZES = b"GNU.sparse.realsize", b"SCHILY.realsize"


class Bytes(Protocol):
    """The stored bytes of a member; `left` is how many were not read yet."""

    left: int

    def take(self, count: int) -> bytes:
        """Return `count` bytes."""
        ...

    def some(self, most: int) -> bytes:
        """Return 1 to `most` bytes."""
        ...


class Sparse:
    """The structure of one sparse member: the places of its stored bytes."""

    def __init__(self, size: int, pieces: list[tuple[int, int]] | None) -> None:
        """`size` is the length of the member, and `pieces` are (offset, length).

        If `pieces` is None, the map precedes the bytes of the member.
        """
        self.size = size
        self._pieces = pieces
        #: Whether the stored bytes are the complete member, because it has no holes, and no map
        #: precedes its bytes.
        self.is_whole = pieces is not None and sum(length for _, length in pieces) == size

    def chunks(self, area: Bytes) -> Iterator[bytes]:
        """Yield the complete member, with zeros in its holes.

        Raises:
            NotReadError: the map does not fit the stored bytes.
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
    """Return the structure of a sparse member; None if the member is not sparse.

    Raises:
        NotReadError: the map is damaged or too large.
    """
    if is_old:
        return _old(source, block)
    if fields.get(b"GNU.sparse.major") == b"1":
        if fields.get(b"GNU.sparse.minor") != b"0":
            raise NotReadError(Why.UNSUPPORTED, "tar: a sparse form that is not known")
        return Sparse(_decimal(fields.get(b"GNU.sparse.realsize", b"")), None)
    if b"GNU.sparse.map" not in fields:
        # A member is not sparse if only the fields for the name and the size are present.
        if any(name.startswith(b"GNU.sparse.") and name not in _NO_MAP for name in fields):
            raise NotReadError(Why.DAMAGED, "tar: a sparse member without a map")
        return None
    numbers = fields[b"GNU.sparse.map"].split(b",", 2 * MAX_PIECES + 1)
    if len(numbers) > 2 * MAX_PIECES:
        raise NotReadError(Why.LIMIT, "tar: a sparse map of too many pieces")
    values = [_decimal(value) for value in numbers if value]
    return Sparse(_decimal(fields.get(b"GNU.sparse.size", b"")), _pairs(values))


def with_end(fields: Pax, stored: int) -> Sparse | None:
    """Return the structure of a member of `stored` bytes that has no map, but a hole at its end.

    Return None if the fields state no larger size. Programs add zeros up to the larger size.

    Raises:
        NotReadError: a size is damaged, or smaller than `stored`.
    """
    sizes = {_decimal(fields[name]) for name in _REAL_SIZES if name in fields} - {stored}
    return Sparse(max(sizes), [(0, stored)]) if sizes else None


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
        return None  # programs extract the stored bytes unchanged
    # Unused map entries are zero; an entry for a hole at the end has the length zero, too.
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
    """Return the pieces of a map that precedes the bytes, as lines that are padded to whole blocks.

    The complete map is read before the function returns, because the bytes of the member follow the
    map.
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

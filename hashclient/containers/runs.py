"""Joins pieces of bytes that are scattered in other data, for example the sectors of a stream."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator

from hashclient.containers.forward import Anywhere, pieces_of
from hashclient.containers.interface import Data


class Runs(Anywhere):
    """The concatenation of pieces of other data, which can be read at any offset."""

    def __init__(self, data: Data) -> None:
        """Create an empty concatenation."""
        self._data = data
        #: `_starts`: the offset of each piece in the other data; `_places`: the offset of each
        #: piece in the concatenation.
        self._starts, self._places = array("Q"), array("Q")
        self.size = 0

    def add(self, start: int, length: int) -> None:
        """Append `length` bytes of the other data, from offset `start` on."""
        if not self._starts or self._starts[-1] + self.size - self._places[-1] != start:
            self._starts.append(start)
            self._places.append(self.size)
        self.size += length

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes at `offset`; see `Data.read_at`."""
        pieces = []
        number = bisect_right(self._places, offset) - 1
        end = min(offset + count, self.size)
        while offset < end:
            is_last = number + 1 == len(self._places)
            stop = end if is_last else min(end, self._places[number + 1])
            start = self._starts[number] + offset - self._places[number]
            piece = self._data.read_at(start, stop - offset)
            pieces.append(piece)
            if len(piece) < stop - offset:
                break
            offset, number = stop, number + 1
        return b"".join(pieces)

    def chunks(self, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Return the bytes from `start` on, in chunks; with `length`, only this many bytes."""
        return pieces_of(self, start, self.size - start if length is None else length)

"""Bytes read forwards: the result does not depend on the lengths of the blocks of input."""

from __future__ import annotations

import random

import pytest

from hashclient.containers.forward import Buffered, Forward
from hashclient.containers.interface import NotReadError, Why
from tests.opened import Once


class Blocks(Buffered):
    """Yields the given blocks; `moved` counts the bytes that were copied within memory."""

    def __init__(self, blocks: list[bytes], error: NotReadError | None = None) -> None:
        super().__init__()
        self._left = blocks[::-1]
        self._error = error
        self.moved = 0

    def _block(self) -> bytes:
        if not self._left and self._error is not None:
            raise self._error
        return self._left.pop() if self._left else b""

    def _more(self) -> bool:
        self.moved += len(self._buffer) - self._at
        return super()._more()


@pytest.mark.parametrize("length", [1, 57, 5000])
def test_many_small_blocks_are_not_moved_again_and_again(length: int) -> None:
    count = 200_000
    blocks = Blocks([b"x" * length] * (count // length))
    assert blocks.peek(count - length) == b"x" * (count - length)
    assert blocks.moved < 2 * count


def test_what_came_before_an_error_is_given() -> None:
    blocks = Blocks([b"ab", b"c"], NotReadError(Why.DAMAGED, "cut"))
    assert blocks.take(1) == b"a"
    with pytest.raises(NotReadError):
        blocks.peek(9)
    assert blocks.take(2) == b"bc"


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8])
def test_whether_more_follows_is_known_of_any_length(length: int) -> None:
    data = bytes(range(length))
    for count in range(10):
        source = Blocks([data[at : at + 1] for at in range(length)])
        assert source.has_more_than(count) == (length > count)
        assert source.take(10) == data


def test_bytes_come_as_they_are_however_they_are_asked_for() -> None:
    chance = random.Random(3)
    data = chance.randbytes(40_000)
    for step in (1, 3, 700, 1 << 20):
        source = Forward(Once(data, step))
        found, at = b"", 0
        while at < len(data):
            count = chance.choice((1, 2, 30, 5000))
            assert source.peek(count) == data[at : at + count]
            ask = chance.choice((source.take, source.some))
            piece = ask(count)
            assert piece and (ask == source.some or piece == data[at : at + count])
            found, at = found + piece, at + len(piece)
            assert source.position == at
        assert found == data and source.take(1) == source.some(1) == source.peek(1) == b""

"""Bytes read forwards at the edges of blocks, of skipped bytes, and of joined pieces."""

from __future__ import annotations

import pytest

from hashclient.containers.forward import (
    FIRST_BYTES,
    PIECE_BYTES,
    Forward,
    Joined,
    in_pieces,
    part_of,
    pieces_of,
)
from tests.opened import Once, Whole

DATA = bytes(number * 7 & 0xFF for number in range(50_000))


class Noted(Whole):
    """Bytes whose reads are noted: the offset and the number of bytes of each read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []

    def read_at(self, offset: int, count: int) -> bytes:
        self.reads.append((offset, count))
        return super().read_at(offset, count)


@pytest.mark.parametrize("length", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES])
def test_a_member_in_memory_comes_in_pieces(length: int) -> None:
    pieces = list(in_pieces(bytes(length)))
    assert [len(piece) for piece in pieces[:-1]] == [PIECE_BYTES] * (len(pieces) - 1)
    assert sum(map(len, pieces)) == length and all(pieces)


@pytest.mark.parametrize("taken", [0, 1, FIRST_BYTES - 1, FIRST_BYTES, FIRST_BYTES + 1])
@pytest.mark.parametrize("count", [0, 1, FIRST_BYTES - 1, FIRST_BYTES, 30_000, 49_999, 60_000])
def test_bytes_are_skipped_up_to_the_end(taken: int, count: int) -> None:
    for source in (Forward(Whole(DATA)), Forward(Once(DATA)), Forward(Once(DATA, 999))):
        assert source.take(taken) == DATA[:taken]
        skipped = min(count, len(DATA) - taken)
        assert source.skip(count) == skipped
        assert source.position == taken + skipped
        assert source.peek(9) == DATA[taken + skipped :][:9]
        assert source.skip(1 << 20) == len(DATA) - taken - skipped
        assert source.skip(1) == 0 and source.take(1) == b""
        assert source.position == len(DATA)


def test_skipped_bytes_are_not_read() -> None:
    data = Noted(DATA)
    source = Forward(data)
    source.take(1)
    source.skip(39_999)
    assert source.take(1) == DATA[40_000:40_001]
    assert data.reads == [(0, FIRST_BYTES), (40_000, FIRST_BYTES)]
    source.skip(9)  # these bytes are in memory
    assert source.take(1) == DATA[40_010:40_011] and len(data.reads) == 2


def test_blocks_grow_as_long_as_no_bytes_are_skipped() -> None:
    data = Noted(bytes(3 * PIECE_BYTES))
    source = Forward(data)
    while source.some(PIECE_BYTES):
        pass
    lengths = [count for _, count in data.reads]
    assert lengths == [min(FIRST_BYTES << 2 * n, PIECE_BYTES) for n in range(len(lengths))]


@pytest.mark.parametrize("data", [Whole(DATA), Once(DATA)])
def test_bytes_can_be_read_before_their_turn(data: Whole | Once) -> None:
    source = Forward(data)
    source.take(5)
    for count in (0, 1, 40_000, 60_000):
        ahead = source.ahead(count)
        assert ahead is not None
        for _ in range(2):
            assert b"".join(ahead()) == DATA[5 : 5 + count]
        assert source.position == 5
    assert source.take(3) == DATA[5:8]


def test_of_a_stream_only_16_mib_can_be_read_before_their_turn() -> None:
    most = 16 << 20
    assert Forward(Once(DATA)).ahead(most) is not None
    assert Forward(Once(DATA)).ahead(most + 1) is None
    source = Forward(Whole(DATA))
    source.take(5)
    ahead = source.ahead(most + 1)
    assert ahead is not None and b"".join(ahead()) == DATA[5:] == b"".join(ahead())


@pytest.mark.parametrize("zeros", [0, 1, 511, 512, 513, 1024])
def test_whole_units_of_zeros_are_skipped(zeros: int) -> None:
    for begin in (0, 3):
        source = Forward(Once(b"x" * begin + bytes(zeros) + b"y\0\0"))
        source.take(begin)
        source.peek(zeros + 3)
        source.skip_zeros(512)
        assert source.position == begin + zeros // 512 * 512
        assert source.take(2000) == bytes(zeros % 512) + b"y\0\0"


def test_bytes_that_were_taken_can_be_taken_again() -> None:
    source = Forward(Once(DATA))
    source.take(100)
    source.back(30)
    assert source.position == 70 and source.take(40) == DATA[70:110]
    source.back(110)
    assert source.take(5) == DATA[:5]


@pytest.mark.parametrize("length", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1])
def test_a_part_of_a_file_comes_in_pieces(length: int) -> None:
    data = bytes(range(256)) * 1100
    pieces = list(pieces_of(Whole(data), 300, length))
    assert b"".join(pieces) == data[300 : 300 + length]
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    assert b"".join(pieces_of(Whole(data), len(data) - 3, 9)) == data[-3:]


@pytest.mark.parametrize("head", [b"", b"abc"])
@pytest.mark.parametrize("tail", [b"", b"xyz"])
@pytest.mark.parametrize("length", [0, 1, 4])
def test_joined_bytes_are_read_as_one(head: bytes, tail: bytes, length: int) -> None:
    joined = Joined(head, Whole(b"0123456789"), 2, length, tail)
    whole = head + b"2345"[:length] + tail
    assert joined.size == len(whole)
    for offset in range(len(whole) + 2):
        for count in range(len(whole) + 3):
            assert joined.read_at(offset, count) == whole[offset : offset + count]
    assert joined.read(2) + joined.read(3) + joined.read(99) == whole and joined.read(1) == b""


def test_nothing_follows_bytes_that_are_missing() -> None:
    joined = Joined(b"ab", Whole(b"0123"), 2, 5, b"yz")
    assert joined.read_at(0, 9) == b"ab23"
    assert joined.read_at(0, 4) == b"ab23" and joined.read_at(3, 6) == b"3"
    assert joined.read_at(7, 2) == b"yz"


@pytest.mark.parametrize(
    ("start", "most", "found"),
    [(0, None, b"0123"), (1, None, b"123"), (1, 2, b"12"), (1, 3, b"123"), (1, 9, b"123"),
     (4, None, b""), (4, 1, b""), (2, 0, b"")],
)  # fmt: skip
def test_a_part_of_other_bytes_ends_with_them(start: int, most: int | None, found: bytes) -> None:
    part = part_of(Whole(b"0123"), start, most)
    assert (part.size, part.read_at(0, 9)) == (len(found), found)

"""Pieces of bytes that are scattered in other data, joined."""

from __future__ import annotations

import pytest

from hashclient.containers.runs import Runs
from tests.opened import Whole

DATA = bytes(range(100))
PIECES = [(10, 5), (15, 3), (50, 1), (0, 4), (98, 2), (20, 0), (20, 6), (26, 1), (10, 5)]
JOINED = b"".join(DATA[start : start + length] for start, length in PIECES)


def runs_of(pieces: list[tuple[int, int]], data: bytes = DATA) -> Runs:
    runs = Runs(Whole(data))
    for start, length in pieces:
        runs.add(start, length)
    return runs


def test_pieces_are_read_from_any_offset_on() -> None:
    runs = runs_of(PIECES)
    assert runs.size == len(JOINED)
    for offset in range(len(JOINED) + 2):
        for count in range(len(JOINED) + 3):
            assert runs.read_at(offset, count) == JOINED[offset : offset + count]
        assert b"".join(runs.chunks(offset)) == JOINED[offset:]
        assert b"".join(runs.chunks(offset, 3)) == JOINED[offset : offset + 3]
    assert b"".join(runs.chunks()) == JOINED
    assert [runs.read(7), runs.read(99), runs.read(1)] == [JOINED[:7], JOINED[7:], b""]
    assert (Runs(Whole(DATA)).read_at(0, 9), Runs(Whole(DATA)).size) == (b"", 0)


def test_pieces_that_follow_each_other_are_read_at_once() -> None:
    class Counted(Whole):
        reads = 0

        def read_at(self, offset: int, count: int) -> bytes:
            self.reads += 1
            return super().read_at(offset, count)

    data = Counted(DATA)
    runs = Runs(data)
    for start in (10, 20, 30, 60, 70):
        runs.add(start, 10)
    assert runs.read_at(0, 50) == DATA[10:40] + DATA[60:80]
    assert data.reads == 2


@pytest.mark.parametrize(("cut", "found"), [(8, DATA[4:8]), (4, b""), (10, DATA[4:10] + DATA[:3])])
def test_a_piece_that_is_cut_off_ends_the_bytes(cut: int, found: bytes) -> None:
    runs = runs_of([(4, 6), (0, 3)], DATA[:cut])
    assert runs.size == 9
    assert runs.read_at(0, 9) == found and b"".join(runs.chunks()) == found

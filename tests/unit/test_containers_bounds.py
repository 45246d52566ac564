"""Classes that count, keep and join bytes: exactly at a bound, and one byte beyond the bound."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from fixtures.archives import raw_deflate
from hashclient.containers import forward, iso, libarchive, limits, udf, ziphidden
from hashclient.containers import zip as zip_module
from hashclient.containers.compressed import Gzip
from hashclient.containers.driver import Tee
from hashclient.containers.forward import (
    PIECE_BYTES,
    Forward,
    Joined,
    in_pieces,
    part_of,
    pieces_of,
)
from hashclient.containers.interface import TAIL_BYTES, NotReadError, Why
from hashclient.containers.limits import (
    RATIO_FREE_BYTES,
    RATIO_FREE_OF_MEMBER_BYTES,
    Budget,
    LimitError,
    Limits,
    Options,
)
from tests.opened import Once, Whole, opened

DATA = bytes(range(100))


@pytest.mark.parametrize("head", [b"", b"HEAD"])
@pytest.mark.parametrize("tail", [b"", b"TL"])
@pytest.mark.parametrize(("start", "length"), [(0, 0), (0, 9), (3, 9), (91, 9), (95, 9)])
def test_joined_bytes_are_read_at_any_place(
    head: bytes, tail: bytes, start: int, length: int
) -> None:
    """If the middle piece is too short, the joined data ends where bytes are missing."""
    joined = Joined(head, Whole(DATA), start, length, tail)
    assert joined.size == len(head) + length + len(tail)
    there = DATA[start : start + length]
    whole = head + there + (tail if len(there) == length else b"")
    for offset in range(joined.size + 2):
        for count in range(joined.size + 2):
            wanted = whole[offset : offset + count]
            if offset > len(head) + len(there) and len(there) < length:
                wanted = joined.read_at(offset, count)  # any bytes may follow the missing bytes
            assert joined.read_at(offset, count) == wanted
    if len(there) == length:
        assert b"".join(iter(lambda: joined.read(3), b"")) == whole


@pytest.mark.parametrize(("start", "most", "part"), [
    (0, None, DATA), (7, None, DATA[7:]), (100, None, b""), (7, 5, DATA[7:12]), (98, 5, DATA[98:]),
    (98, 2, DATA[98:]), (98, 0, b""),
])  # fmt: skip
def test_a_part_of_data_is_as_long_as_there_are_bytes(
    start: int, most: int | None, part: bytes
) -> None:
    found = part_of(Whole(DATA), start, most)
    assert (found.size, found.read_at(0, 999)) == (len(part), part)


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES])
def test_pieces_are_as_long_as_they_may_be(size: int) -> None:
    data = b"x" * size
    wanted = [PIECE_BYTES] * (size // PIECE_BYTES) + [size % PIECE_BYTES] * (size % PIECE_BYTES > 0)
    assert list(map(len, in_pieces(data))) == wanted
    assert list(map(len, pieces_of(Whole(b"ab" + data), 2, size))) == wanted
    assert list(map(len, pieces_of(Whole(b"ab" + data), 2, size + 9))) == wanted


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("is_whole", [True, False])
def test_bytes_are_skipped_as_far_as_there_are_any(step: int, *, is_whole: bool) -> None:
    for before in (0, 1, 50, 100):
        for count in (0, 1, 49, 50, 51, 99, 100, 101, 5_000):
            source = Forward(Whole(DATA) if is_whole else Once(DATA, step))
            assert source.take(before) == DATA[:before]
            there = min(count, 100 - before)
            assert source.skip(count) == there
            assert source.position == before + there
            assert source.take(9) == DATA[before + there :][:9]


def test_bytes_that_were_just_taken_can_be_given_back() -> None:
    for count in range(6):
        source = Forward(Once(DATA, 3))
        assert source.take(5) == DATA[:5]
        source.back(count)
        assert source.position == 5 - count
        assert source.take(7) == DATA[5 - count :][:7]


def test_skipped_bytes_are_not_read_where_any_place_can_be_read() -> None:
    whole = Whole(bytes(1 << 20))
    source = Forward(whole)
    source.take(1)
    assert source.skip(900_000) == 900_000
    assert len(source.take(1)) == 1
    assert whole.given <= 2 * forward.FIRST_BYTES


@pytest.mark.parametrize(("zeros", "unit", "left"), [
    (0, 4, 0), (3, 4, 3), (4, 4, 0), (7, 4, 3), (8, 4, 0), (5, 1, 0), (1024, 512, 0),
    (1023, 512, 511),
])  # fmt: skip
def test_zeros_are_skipped_in_whole_units(zeros: int, unit: int, left: int) -> None:
    source = Forward(Whole(b"ab" + bytes(zeros) + b"cd"))
    assert source.take(2) == b"ab"
    source.peek(zeros + 1)
    source.skip_zeros(unit)
    assert source.take(9_999) == bytes(left) + b"cd"


def test_bytes_ahead_of_a_stream_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "MAX_AHEAD_BYTES", 50)
    for source in (Forward(Whole(DATA)), Forward(Once(DATA))):
        assert source.take(2) == DATA[:2]
        for count in (0, 1, 50):
            chunks = source.ahead(count)
            assert chunks is not None
            assert b"".join(chunks()) == b"".join(chunks()) == DATA[2 : 2 + count]
        assert source.position == 2
    chunks = Forward(Whole(DATA)).ahead(51)
    assert chunks is not None and b"".join(chunks()) == DATA[:51]
    assert Forward(Once(DATA)).ahead(51) is None


def tee(*pieces: bytes, spool: int = 1 << 20, mask: int = 0) -> Tee:
    return Tee(iter(pieces), mask, Budget(Limits(), 1), spool)


def test_a_member_is_kept_as_far_as_there_is_room() -> None:
    for room, is_kept in ((6, True), (5, False), (3, False), (2, False)):
        member = tee(b"abc", b"", b"def", spool=room)
        assert member.peek(2) == b"abc"[:2]
        member.keep()
        member.drain()
        kept = member.spooled()
        assert (kept is not None) is is_kept
        assert kept is None or (kept.size, kept.read_at(1, 3)) == (6, b"bcd")
        assert member.length == 6


@pytest.mark.parametrize("length", [1, 511, 512, 513])
def test_the_last_bytes_of_a_member_are_at_hand(length: int) -> None:
    data = bytes(range(256)) * 5
    for step in (1, length, 1280):
        member = tee(*(data[at : at + step] for at in range(0, len(data), step)))
        member.drain()
        assert data.endswith(member.end) and len(member.end) >= 512


def test_the_tail_of_a_member_that_is_not_kept_is_as_long_as_is_searched() -> None:
    data = bytes(range(256)) * (TAIL_BYTES // 256 + 9)
    for step in (1000, 70_000):
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        for room in (len(data), TAIL_BYTES + 99, TAIL_BYTES, 75_000):
            member = tee(*pieces, spool=room)
            member.peek(1)
            member.keep()
            member.drain()
            assert member.tail == data[-TAIL_BYTES:]


def test_a_member_is_digested_once_whoever_reads_it() -> None:
    member = tee(b"abc", b"def", mask=4)
    assert (member.peek(1), member.read(2), member.read(99)) == (b"abc"[:1], b"ab", b"c")
    member.drain()
    assert member.digests() == hashlib.sha256(b"abcdef").digest()
    assert tee(b"abc").digests() == b""


def test_an_error_is_an_end_and_what_came_before_is_digested() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"abc"
        raise NotReadError(Why.DAMAGED, "cut")

    member = Tee(chunks(), 4, Budget(Limits(), 1), 99)
    assert member.peek(9) == b"abc"
    assert member.error is not None and member.length == 3
    assert member.digests() == hashlib.sha256(b"abc").digest()


def reaches(budget: Budget, count: int) -> str:
    """Return the error of a budget for this number of further bytes; empty if it allows them."""
    try:
        budget.take(count)
    except LimitError as error:
        return error.detail
    return ""


def test_so_many_bytes_come_out_of_a_file_and_no_more() -> None:
    for file_bytes, most in ((0, RATIO_FREE_BYTES), (1, RATIO_FREE_BYTES), (1 << 20, 2_000 << 20)):
        assert not reaches(Budget(Limits(), file_bytes), most)
        assert "2,000 times" in reaches(Budget(Limits(), file_bytes), most + 1)
        budget = Budget(Limits(), file_bytes)
        for _ in range(3):
            budget.member()
        assert not reaches(budget, most + 3 * RATIO_FREE_OF_MEMBER_BYTES)
        assert "2,000 times" in reaches(budget, 1)
    for bytes_out in (1_000, RATIO_FREE_BYTES):
        assert not reaches(Budget(Limits(bytes_out=bytes_out), 1), bytes_out)
        beyond = reaches(Budget(Limits(bytes_out=bytes_out), 1), bytes_out + 1)
        assert f"{bytes_out:,} bytes" in beyond


def test_members_and_containers_are_counted_up_to_their_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_CONTAINERS", 2)
    budget = Budget(Limits(members=2, depth=3), 1)
    for depth in (3, 1):
        budget.enter(depth)
    for _ in range(2):
        budget.member()
    budget.take(5)
    assert (budget.steps, budget.bytes_out) == (9, 5)
    with pytest.raises(LimitError, match="2 members"):
        budget.member()
    with pytest.raises(LimitError, match="2 containers"):
        budget.enter(1)
    with pytest.raises(NotReadError, match="3 containers deep") as caught:
        Budget(Limits(depth=3), 1).enter(4)
    assert not isinstance(caught.value, LimitError)


def test_limits_are_those_that_the_documents_promise() -> None:
    given = Limits()
    assert (given.depth, given.members, given.bytes_out) == (32, 2_000_000, 4 << 40)
    assert (given.ratio, given.time_s, given.memory_mib) == (2_000, 3_600, 256)
    assert Limits(memory_mib=3).spool_bytes == 3 << 19
    options = Options()
    assert not (options.requires_sandbox or options.verify_sizes or options.refuses_unopened)


@pytest.mark.parametrize(
    ("module", "name", "most"),
    [
        (iso, "_MAX_DIRECTORIES", 100_000),
        (libarchive, "_MOST_FAILURES", 1_000),
        (udf, "_MAX_FILES", 2_000_000),
        (udf, "_MAX_PIECES", 1_048_576),
        (zip_module, "_MAX_MOVED", 2_147_483_648),
        (ziphidden, "_MAX_TRIED_BYTES", 64 << 20),
    ],
)
def test_limits_that_no_test_can_reach_have_their_numbers(
    module: ModuleType, name: str, most: int
) -> None:
    assert getattr(module, name) == most


def gzip(
    flags: int = 0, fields: bytes = b"", content: bytes = b"benign", *, crc: int = 0, more: int = 0
) -> bytes:
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + fields
    sums = struct.pack("<2L", zlib.crc32(content) ^ crc, len(content) + more)
    return head + raw_deflate(content) + sums


def with_sum(flags: int, fields: bytes) -> bytes:
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + fields
    return fields + struct.pack("<H", zlib.crc32(head) & 0xFFFF)


@pytest.mark.parametrize(
    ("data", "name", "content", "is_damaged"),
    [
        (gzip(), b"", b"benign", False),
        (gzip(8, b"name\0"), b"name", b"benign", False),
        (gzip(8, b"\0"), b"", b"benign", False),
        (gzip(16, b"comment\0"), b"", b"benign", False),
        (gzip(24, b"name\0comment\0"), b"name", b"benign", False),
        (gzip(4, b"\3\0abc"), b"", b"benign", False),
        (gzip(4, b"\0\0"), b"", b"benign", False),
        (gzip(4, b"\0\1" + bytes(256)), b"", b"benign", False),
        (gzip(28, b"\3\0abcname\0comment\0"), b"name", b"benign", False),
        (gzip(2, with_sum(2, b"")), b"", b"benign", False),
        (gzip(10, with_sum(10, b"name\0")), b"name", b"benign", False),
        (gzip(2, b"\0\0"), b"", b"benign", True),
        (gzip(2, b"\xff\xff"), b"", b"benign", True),
        (gzip(1), b"", b"benign", False),
        (gzip(0xE0), b"", b"benign", False),
        (gzip(crc=1), b"", b"benign", True),
        (gzip(more=1), b"", b"benign", True),
        (gzip()[:-1], b"", b"benign", True),
        (gzip()[:-8], b"", b"benign", True),
        (gzip() + gzip(), b"", b"benign" * 2, False),
        (gzip(crc=1) + gzip(), b"", b"benign" * 2, True),
        (gzip() + b"\0", b"", b"benign", False),
        (gzip() + b"\0" + gzip(), b"", b"benign" * 2, True),
        (gzip() + b"behind", b"", b"benign", False),
        (gzip() + b"\x1f", b"", b"benign", False),
        (gzip() + gzip()[:12], b"", b"benign", True),
        (gzip() + gzip()[:9], b"", b"benign", True),
        (gzip() + b"\x1f\x8b", b"", b"benign", True),
        (gzip(8, b"n" * 5_000 + b"\0"), b"n" * 5_000, b"benign", False),
        (gzip(8, b"n" * ((80 << 10) - 11) + b"\0"), b"n" * ((80 << 10) - 11), b"benign", False),
        (gzip(8, b"n" * ((80 << 10) - 10) + b"\0"), b"", b"", True),
        (gzip(4, b"\xff\xff" + bytes(9)), b"", b"", True),
        (gzip(content=b""), b"", b"", False),
    ],
)  # fmt: skip
def test_a_gzip_is_checked_by_all_that_any_program_checks(
    data: bytes, name: bytes, content: bytes, *, is_damaged: bool
) -> None:
    for source in (data, Once(data, 5)):
        out = opened(Gzip(), source)
        assert [member.name for member in out.listed] == [name]
        assert out.members == ([] if is_damaged else [(name, content)])
        assert out.reasons == ({Why.DAMAGED} if is_damaged else set())
    pieces: list[bytes] = []
    with contextlib.suppress(NotReadError):
        pieces.extend(member_of(data))
    assert b"".join(pieces).startswith(content)


def member_of(data: bytes) -> Iterator[bytes]:
    """Yield the bytes of the member of a gzip, up to an error."""
    for found in Gzip().members(Whole(data)):
        if isinstance(found, list):
            yield from found[0].chunks()

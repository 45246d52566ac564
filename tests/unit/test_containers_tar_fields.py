"""The fields of tar, pax and sparse maps, at each edge between accepted and refused values."""

from __future__ import annotations

import re

import pytest

from hashclient.containers import tarsparse
from hashclient.containers.forward import PIECE_BYTES, Forward
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.tarheader import (
    Pax,
    begins_late,
    differs_from_sum,
    is_header,
    number,
    octal,
    parse_header,
    parse_pax,
    with_sum,
)
from tests.opened import Once


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"00000644", 0o644),
        (b"644 \0\0\0\0", 0o644),
        (b"  644\0  ", 0o644),
        (b"\t\n\v\f\r644", 0o644),
        (b"644\t9999", 0o644),
        (b"644\r9999", 0o644),
        (b"644\0junk", 0o644),
        (b"644x    ", None),
        (b"0000648\0", None),
        (b"        ", 0),
        (b"\0\0\0\0\0\0\0\0", 0),
        (b"\0junk", 0),
        (b"junk", None),
        (b"8", None),
        (b"-1", None),
        (b"\x80\0\0\5", 5),
        (b"\x80\0\1\0", 256),
        (b"\x81\0\0\5", None),
        (b"\xff\xff\xff\xff", None),
        *((b"\x80" + bytes([1 << bit]) + bytes(9) + b"\5", None) for bit in range(8)),
        *((b"\x80" + bytes(2) + bytes([1 << bit]) + bytes(8), None) for bit in range(8)),
        (b"\x80\0\0\0" + b"\x7f" + b"\xff" * 7, (1 << 63) - 1),
        (b"\x80\0\0\0" + b"\x80" + b"\0" * 7, None),
        (b"\x7f", None),
    ],
)
def test_a_number_is_octal_or_binary(field: bytes, value: int | None) -> None:
    assert number(field) == value
    assert field[0] & 0x80 or octal(field) == value


def block(*pieces: tuple[int, bytes], total: int = 0, form: bytes = b"%06o\0 ") -> bytes:
    """Return a tar header with pieces at their places and a checksum that is wrong by `total`."""
    made = bytearray(512)
    for at, piece in pieces:
        made[at : at + len(piece)] = piece
    made[148:156] = b" " * 8
    made[148:156] = form % (sum(made) + total)
    return bytes(made)


NAMED = (0, b"name"), (124, b"00000000017\0"), (156, b"0")


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (block(*NAMED), True),
        (block(*NAMED)[:511], False),
        (block(*NAMED, total=1), False),
        (block(*NAMED, total=-1), False),
        (block(*NAMED, form=b"\0%06o "), True),
        (block(*NAMED, form=b"%08o"), True),
        (block((0, b"\xff" * 3)), True),
        (block((0, b"\xff" * 3), total=-768), True),
        (block((0, b"\x80"), total=-256), True),
        (block((0, b"\x7f"), total=-256), False),
        (block((0, b"\xff" * 3), total=-512), False),
        (block((0, b"\xff" * 148), (156, b"\xff" * 356)), True),
        # This checksum would be right if it were computed with a modulus.
        (block(*NAMED, total=65_521), False),
        (block((0, b"\xff" * 148), (156, b"\xff" * 356), total=-65_521), False),
        (bytes(512), False),
    ],
)
def test_a_block_is_a_header_by_the_sum_of_its_bytes(data: bytes, *, is_one: bool) -> None:
    assert is_header(data) is is_one


USTAR = (257, b"ustar\0" + b"00")


@pytest.mark.parametrize(
    ("data", "name", "size"),
    [
        (block(*NAMED), b"name", 15),
        (block((0, b"n" * 100), (124, b"15\0")), b"n" * 100, 13),
        (block(*NAMED, USTAR), b"name", 15),
        (block(*NAMED, USTAR, (345, b"dir")), b"dir/name", 15),
        (block(*NAMED, USTAR, (345, b"d" * 155)), b"d" * 155 + b"/name", 15),
        (block(*NAMED, USTAR, (345, b"d" * 155 + b"more")), b"d" * 155 + b"/name", 15),
        (block(*NAMED, (257, b"ustar  \0"), (345, b"dir")), b"name", 15),
        (block((0, b"n"), (124, b"\0" + b"0000000017")), b"n", 15),
        (block((0, b"n"), (124, b"\x80" + bytes(10) + b"\5")), b"n", 5),
        (block((0, b"n"), (124, b"junk")), b"n", None),
        (block((0, b"n"), (124, b" " * 12), (136, b"7")), b"n", 0),
    ],
)
def test_a_header_gives_a_name_a_kind_and_a_size(
    data: bytes, name: bytes, size: int | None
) -> None:
    header = parse_header(data)
    assert header is not None
    assert (header.name, header.kind, header.size) == (name, data[156:157], size)
    assert parse_header(data[:-1]) is None


HEADER, TAR = block(*NAMED), block(*NAMED, USTAR)


@pytest.mark.parametrize(
    ("head", "is_late"),
    [
        (bytes(512) + HEADER, True),
        (bytes(5 * 512) + HEADER, True),
        (bytes(511) + b"x" + HEADER, True),
        (bytes(512) + HEADER[:-1], False),
        (bytes(512), False),
        (bytes(513) + HEADER, False),
        (b"#!".ljust(512) + HEADER, True),
        (b"#!".ljust(1024) + HEADER, False),
        (b"#!".ljust(1024) + TAR, True),
        (b"#!".ljust(4096) + TAR, True),
        (b"#!".ljust(1025) + TAR, False),
        (b"\0\0".ljust(1024, b"x") + TAR, False),
    ],
)
def test_the_first_header_may_come_late(head: bytes, *, is_late: bool) -> None:
    assert begins_late(head) is is_late


def pax(**fields: str) -> bytes:
    """Return pax records; two underscores in a name stand for a dot."""
    made = b""
    for key, value in fields.items():
        text = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(text) + 1
        while len(str(length)) + len(text) != length:
            length += 1
        made += str(length).encode() + text
    return made


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (b"", {}),
        (b"\0junk", {}),
        (pax(path="a/b"), {b"path": b"a/b"}),
        (pax(path="x=y\nz"), {b"path": b"x=y\nz"}),
        (pax(path=""), {b"path": b""}),
        (pax(path="a") + pax(path="b") + bytes(9), {b"path": b"b"}),
        (pax(mtime="1", uid="2", size="3"), {b"size": b"3"}),
        (pax(path="n" * 2000), {b"path": b"n" * 2000}),
        (pax(GNU__sparse__map="0,1", GNU__sparse__size="9"), {
            b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": b"9",
        }),
        (pax(GNU__sparse__offset="1", GNU__sparse__numbytes="2") * 2, {
            b"GNU.sparse.map": b"1,2,1,2",
        }),
        (pax(GNU__sparse__numblocks="1"), {b"GNU.sparse.?": b"1"}),
        (b"000000000010 path=a\n", None),
        (b"7 path=\n", None),
        (b"9 path=\n", None),
        (b"8 path=x", None),
        (b"7 patha\n", None),
        (b"8 patha\n", None),
        (b"9 patha=\n", {}),
        (b"x path=a\n", None),
        (b" path=a\n", None),
        (b"2 \n", None),
        (b"3 \n", None),
        (b"4 =\n", {}),
        (b"-9 path=\n", None),
        (b"0 path=a\n", None),
        (b"1 path=a\n", None),
        (pax(path="a") + b"0 path=b\n", None),
        (pax(path="a") + b"3 =\n", None),
        (pax(path="a") + b"99 path=b\n", None),
        (pax(path="a")[:-1], None),
        (pax(path="a") + b"9", None),
    ],
)  # fmt: skip
def test_records_of_pax_are_as_long_as_they_say(text: bytes, fields: Pax | None) -> None:
    assert parse_pax(text) == fields


def test_a_length_of_pax_has_eleven_digits_at_most() -> None:
    for zeros, is_read in ((9, True), (10, False)):
        text = b" path=a\n"
        count = b"%d" % (zeros + 2 + len(text))
        found = parse_pax(b"0" * zeros + count + text)
        assert (found == {b"path": b"a"}) is is_read


class Area:
    """The stored bytes of a sparse member."""

    def __init__(self, data: bytes) -> None:
        self._data, self.left = data, len(data)

    def some(self, most: int) -> bytes:
        return self.take(min(most, self.left))

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise NotReadError(Why.DAMAGED, "ends")
        at = len(self._data) - self.left
        self.left -= count
        return self._data[at : at + count]


def read(sparse: tarsparse.Sparse | None, data: bytes) -> bytes | Why:
    assert sparse is not None
    try:
        pieces = list(sparse.chunks(Area(data)))
    except NotReadError as error:
        return error.why
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize(
    ("size", "pieces", "data", "found"),
    [
        (0, [], b"", b""),
        (5, [], b"", bytes(5)),
        (5, [(0, 5)], b"abcde", b"abcde"),
        (5, [(1, 2)], b"ab", b"\0ab\0\0"),
        (5, [(0, 2), (2, 3)], b"abcde", b"abcde"),
        (5, [(0, 2), (4, 1)], b"abe", b"ab\0\0e"),
        (5, [(5, 0)], b"", bytes(5)),
        (5, [(0, 2), (1, 3)], b"abcde", Why.DAMAGED),
        (5, [(2, 1), (0, 1)], b"ab", Why.DAMAGED),
        (5, [(4, 2)], b"ab", Why.DAMAGED),
        (5, [(0, 3)], b"ab", Why.DAMAGED),
        (5, [(0, 1)], b"ab", Why.DAMAGED),
        (PIECE_BYTES + 1, [], b"", bytes(PIECE_BYTES + 1)),
        (PIECE_BYTES + 3, [(1, PIECE_BYTES + 1)], b"x" * (PIECE_BYTES + 1),
         b"\0" + b"x" * (PIECE_BYTES + 1) + b"\0"),
    ],
)  # fmt: skip
def test_pieces_of_a_sparse_member_fit_into_it(
    size: int, pieces: list[tuple[int, int]], data: bytes, found: bytes | Why
) -> None:
    sparse = tarsparse.Sparse(size, pieces)
    assert read(sparse, data) == found
    assert sparse.is_whole is (sum(length for _, length in pieces) == size)


def find(fields: Pax) -> tarsparse.Sparse | Why | None:
    try:
        return tarsparse.find(Forward(Once(b"")), False, bytes(512), fields)
    except NotReadError as error:
        return error.why


NAME, MAP, SIZE = b"GNU.sparse.name", b"GNU.sparse.map", b"GNU.sparse.size"
MAJOR, MINOR, REAL = b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.realsize"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, None),
        ({NAME: b"a", REAL: b"5"}, None),
        ({b"path": b"a"}, None),
        ({SIZE: b"5"}, Why.DAMAGED),
        ({b"GNU.sparse.?": b"5"}, Why.DAMAGED),
        ({MAJOR: b"0"}, Why.DAMAGED),
        ({MAJOR: b"2"}, Why.DAMAGED),
        ({MAJOR: b"1"}, Why.UNSUPPORTED),
        ({MAJOR: b"1", MINOR: b"1", REAL: b"5"}, Why.UNSUPPORTED),
        ({MAJOR: b"1", MINOR: b"0"}, Why.DAMAGED),
        ({MAP: b"0,1"}, Why.DAMAGED),
        ({MAP: b"0,1,2", SIZE: b"5"}, Why.DAMAGED),
        ({MAP: b"0,x", SIZE: b"5"}, Why.DAMAGED),
        ({MAP: b"0,1", SIZE: b"-5"}, Why.DAMAGED),
        ({MAP: b"0,1", SIZE: b"0" * 18 + b"5"}, Why.DAMAGED),
    ],
)
def test_a_member_is_sparse_by_its_map(fields: Pax, why: Why | None) -> None:
    assert find(fields) == why


@pytest.mark.parametrize("text", [b"1,2,4,1", b"1,2,,4,1,"])
def test_a_map_in_fields_has_numbers_between_commas(text: bytes) -> None:
    sparse = find({MAP: text, SIZE: b"0" * 17 + b"6"})
    assert isinstance(sparse, tarsparse.Sparse)
    assert read(sparse, b"abc") == b"\0ab\0c\0"


def test_a_map_may_have_as_many_pieces_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarsparse, "MAX_PIECES", 2)
    for pieces, is_read in ((2, True), (3, False)):
        found = find({MAP: b",".join([b"0,0"] * pieces), SIZE: b"0"})
        assert (found is Why.LIMIT) is not is_read
        before = b"%d\n" % pieces + b"0\n0\n" * pieces
        wanted = b"" if is_read else Why.LIMIT
        assert read(tarsparse.Sparse(0, None), before.ljust(512, b"\0")) == wanted
    limit = find({MAP: b"0,0,0,0,0", SIZE: b"0"})
    assert limit is Why.LIMIT


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (b"1\n1\n3\n", b"\0abc\0"),
        (b"2\n0\n1\n3\n2\n", b"a\0\0bc"),
        (b"0\n", Why.DAMAGED),
        (b"1\n0\nx\n", Why.DAMAGED),
        (b"1\n0\n" + b"0" * 17 + b"3\n", b"abc\0\0"),
        (b"1\n0\n" + b"0" * 18 + b"3\n", Why.DAMAGED),
        (b"1\n0\n\n", Why.DAMAGED),
        (b"1\n0\n3", Why.DAMAGED),
    ],
)
def test_a_map_before_the_bytes_fills_whole_blocks(lines: bytes, found: bytes | Why) -> None:
    assert read(tarsparse.Sparse(5, None), lines.ljust(512, b"\0") + b"abc") == found


def test_a_line_of_a_map_may_lie_in_two_blocks() -> None:
    lines = b"130\n" + b"".join(b"%d\n0\n" % (100 + at) for at in range(129)) + b"300\n3\n"
    assert 512 < len(lines) < 1024
    sparse = tarsparse.Sparse(303, None)
    assert read(sparse, lines.ljust(1024, b"\0") + b"abc") == bytes(300) + b"abc"
    assert read(tarsparse.Sparse(5, None), b"1" * 600) is Why.DAMAGED


def old(size: bytes, *numbers: int, more: tuple[tuple[int, ...], ...] = ()) -> tuple[bytes, bytes]:
    """Return a header of old GNU tar with at most four pieces, and the blocks behind the header."""

    def entries(values: tuple[int, ...]) -> bytes:
        return b"".join(b"%011o\0" % value for value in values)

    head = bytes(386) + entries(numbers).ljust(96, b"\0") + bytes([bool(more)]) + size
    blocks = [entries(values).ljust(504, b"\0") for values in more]
    flagged = [one + bytes([n < len(blocks)]) for n, one in enumerate(blocks, 1)]
    return head.ljust(512, b"\0"), b"".join(one.ljust(512, b"\0") for one in flagged)


def find_old(head: bytes, behind: bytes) -> tarsparse.Sparse | Why | None:
    try:
        return tarsparse.find(Forward(Once(behind)), True, head, {})
    except NotReadError as error:
        return error.why


SIX = b"%011o\0" % 6


def test_a_map_of_old_tar_goes_on_behind_the_header() -> None:
    for pieces, found in (
        (old(SIX, 0, 1, 5, 1), b"a\0\0\0\0b"),
        (old(SIX, 0, 1, 6, 0), b"ab\0\0\0\0"[:1] + bytes(5)),
        (old(SIX, 0, 1, 1, 1, 2, 1, 3, 1), b"abcd\0\0"),
        (old(SIX, 0, 1, 1, 1, 2, 1, 3, 1, more=((4, 1, 5, 1),)), b"abcdef"),
        (old(SIX, 0, 1, more=((1, 1), (2, 1, 4, 2))), b"abc\0de"),
        (old(SIX, 0, 1, more=((*[0, 0] * 20, 4, 2),)), b"a\0\0\0bc"),
        (old(SIX), bytes(6)),
    ):
        data = b"".join(found[at : at + 1] for at in range(6) if found[at])
        sparse = find_old(*pieces)
        assert isinstance(sparse, tarsparse.Sparse)
        assert read(sparse, data) == found
    assert find_old(*old(b"0\0")) is None
    assert isinstance(find_old(*old(b"0\0", 0, 1)), tarsparse.Sparse)


def test_a_map_of_old_tar_that_is_wrong_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_old(*old(b"junk")) is Why.DAMAGED
    head, behind = old(SIX, 0, 1, more=((1, 1),))
    assert find_old(head, behind[:-1]) is Why.DAMAGED
    assert find_old(head[:386] + b"junk" + head[390:], behind) is Why.DAMAGED
    monkeypatch.setattr(tarsparse, "MAX_PIECES", 4)
    assert isinstance(find_old(head, behind), tarsparse.Sparse)
    monkeypatch.setattr(tarsparse, "MAX_PIECES", 3)
    assert find_old(head, behind) is Why.LIMIT


@pytest.mark.parametrize(("count", "why"), [(262_144, Why.DAMAGED), (262_145, Why.LIMIT)])
def test_a_map_has_262_144_pieces_at_most(count: int, why: Why) -> None:
    """The pieces themselves are missing."""
    assert read(tarsparse.Sparse(5, None), (b"%d\n" % count).ljust(512, b"\0")) is why


@pytest.mark.parametrize("start", [0, 512])
@pytest.mark.parametrize(
    ("field", "odd_at", "may_be_sum", "may_be_header"),
    [
        (b"012345 x", None, True, True),
        (b"  1234 x", None, True, True),
        (b"01234567", None, True, True),
        (b"01x34567", None, False, False),
        (b"012x4567", None, False, False),
        (b"0123x567", None, False, False),
        # A byte that is no text may be anywhere in the block.
        (b"01x34567", 0, False, True),
        (b"01x34567", 511, False, True),
        (b"01x34567", -1, False, False),
        (b"01x34567", 512, False, False),
    ],
)
def test_a_text_is_no_header_without_the_digits_of_a_sum(
    field: bytes, odd_at: int | None, start: int, *, may_be_sum: bool, may_be_header: bool
) -> None:
    for odd in b"\0\x80\xff":
        data = bytearray(b"a" * 2_000)
        data[start + 148 : start + 156] = field
        if odd_at is not None:
            if start + odd_at < 0:
                continue
            data[start + odd_at] = odd
        differs = eval(differs_from_sum(start), {"data": data})
        assert bool(differs) is not may_be_header
        is_one = re.compile(with_sum(start), re.DOTALL).match(data) is not None
        assert is_one is may_be_sum

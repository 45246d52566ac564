"""Cabinets whose folders have short blocks, and marks of cabinets behind a cabinet."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import pytest

from fixtures import others
from hashclient.containers import cab, libarchive
from hashclient.containers.cab import Cab, _table
from hashclient.containers.interface import NotReadError, Unlisted, Why
from tests.opened import Once, Whole, each, opened

A, B = bytes(range(97, 122)), b"benign " * 9
Block = tuple[bytes, int]
File = tuple[bytes, int, int, int]  # name, length, offset in the folder, number of the folder
STORED, MSZIP = 0, 1


def stored(content: bytes, *lengths: int) -> list[Block]:
    pieces, at = [], 0
    for length in lengths:
        pieces.append((content[at : at + length], length))
        at += length
    return pieces


def packed(content: bytes, *lengths: int) -> list[Block]:
    """Return blocks of MSZIP, each of which refers to the block before it."""
    pieces, before = [], b""
    for piece, length in stored(content, *lengths):
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=before)
        pieces.append((b"CK" + packer.compress(piece) + packer.flush(), length))
        before = piece
    return pieces


def cabinet(
    files: Sequence[File], *folders: tuple[int, list[Block]], count: int | None = None,
    flags: int = 0, cut: int = 0,
) -> bytes:  # fmt: skip
    """Return a cabinet whose entries are behind its blocks; `cut` bytes of the entries are lost."""
    at, table, blocks = 36 + 8 * len(folders) + 1, b"", b"."
    for compression, pieces in folders:
        table += struct.pack("<L2H", at - 1 + len(blocks), len(pieces), compression)
        for piece, length in pieces:
            blocks += struct.pack("<L2H", 0, len(piece), length) + piece
    entries = b"".join(
        struct.pack("<2L4H", size, place, number, 0x5CA1, 0, 0x20) + name + b"\0"
        for name, size, place, number in files
    )
    entries = entries[: len(entries) - cut]
    files_at = 36 + len(table) + len(blocks)
    head = struct.pack(
        "<4s5L2B5H", b"MSCF", 0, files_at + len(entries), 0, files_at, 0, 3, 1, len(folders),
        len(files) if count is None else count, flags, 0, 0,
    )  # fmt: skip
    return head + table + blocks + entries


def read(data: bytes) -> list[tuple[bytes, bytes, str]]:
    """Return the name, the bytes and the error of each member."""
    found = []
    for member in each(Cab("cab"), Whole(data)):
        if isinstance(member, Unlisted):
            found.append((member.name, b"", f"{member.why}: {member.detail}"))
            continue
        pieces: list[bytes] = []
        error = ""
        try:
            pieces += member.chunks()
        except NotReadError as caught:
            error = f"{caught.why}: {caught.detail}"
        assert all(pieces) and not member.is_exact
        found.append((member.name, b"".join(pieces), error))
    return found


EARLY = "damaged: cab: ends too early"
PLAIN = "damaged: cab: a block that is not compressed"
LENGTH = "damaged: cab: a block of another length"


@pytest.mark.parametrize("pack", [stored, packed])
@pytest.mark.parametrize("lengths", [(10, 10, 5), (24, 1), (1, 23, 1)])
def test_a_member_may_lie_anywhere_in_its_folder(pack: object, lengths: tuple[int, ...]) -> None:
    assert callable(pack)
    compression = MSZIP if pack is packed else STORED
    folder = compression, pack(A, *lengths)
    places = [(size, place) for place in range(27) for size in (0, 1, 2, 9, 10, 11, 25, 26)]
    files = [(b"m", size, place, 0) for size, place in places]
    for (_, content, error), (size, place) in zip(
        read(cabinet(files, folder)), places, strict=True
    ):
        assert content == A[place : place + size]
        assert error == (EARLY if len(content) < size else "")


def test_a_member_names_its_folder() -> None:
    files = [(b"a", 25, 0, 0), (b"b", 63, 0, 1), (b"c", 5, 0, 2), (b"d", 9, 2, 3), (b"e", 1, 0, 0)]
    folders = [(STORED, stored(A, 20, 5)), (MSZIP, packed(B, 63)), (STORED, stored(B, 5))]
    assert read(cabinet(files, *folders)) == [
        (b"a", A, ""),
        (b"b", B, ""),
        (b"c", B[:5], ""),
        (b"d", b"", "damaged: cab: no folder"),
        (b"e", A[:1], ""),
    ]


@pytest.mark.parametrize(
    ("compression", "second", "error"),
    [
        (STORED, (b"abc", 3), ""),
        (STORED, (b"abc", 4), LENGTH),
        (STORED, (b"abc", 2), LENGTH),
        (MSZIP, packed(b"abc", 3)[0], ""),
        (MSZIP, (packed(b"abc", 3)[0][0], 2), LENGTH),
        (MSZIP, (packed(b"abc", 3)[0][0], 4), LENGTH),
        (MSZIP, (b"KC" + packed(b"abc", 3)[0][0][2:], 3), PLAIN),
        (MSZIP, (b"C", 3), PLAIN),
        (MSZIP, (b"CK", 3), LENGTH),
        (MSZIP, (b"CK\xff\xff\xff", 3), "damaged: cab: Error -3"),
    ],
)  # fmt: skip
def test_a_block_that_is_wrong_ends_the_bytes_of_its_members(
    compression: int, second: Block, error: str
) -> None:
    first = (stored if compression == STORED else packed)(A, 25)
    files = [(b"both", 28, 0, 0), (b"first", 25, 0, 0), (b"second", 3, 25, 0)]
    one, other, last = read(cabinet(files, (compression, [*first, second])))
    assert other == (b"first", A, "")
    assert one[2].startswith(error) and bool(one[2]) is bool(error)
    assert one[1] == (A if error else A + b"abc")
    assert last == (b"second", b"" if error else b"abc", one[2])


@pytest.mark.parametrize(
    ("count", "cut", "names"),
    [
        (1, 0, [b"a"]),
        (2, 0, [b"a", b"b"]),
        (2, 1, [b"a", b"b"]),
        (2, 2, [b"a", EARLY]),
        (2, 17, [b"a", EARLY]),
        (3, 0, [b"a", b"b", EARLY]),
    ],
)
def test_entries_are_read_up_to_their_number(
    count: int, cut: int, names: list[bytes | str]
) -> None:
    files = [(b"a", 5, 0, 0), (b"b", 5, 5, 0)]
    found = read(cabinet(files, (STORED, stored(A, 20, 5)), count=count, cut=cut))
    assert [name or error for name, _, error in found] == names


def test_a_cabinet_behind_another_is_read_up_to_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    one = cabinet([(b"a", 25, 0, 0)], (STORED, stored(A, 20, 5)))
    two = cabinet([(b"b", 63, 0, 0)], (MSZIP, packed(B, 60, 3)))
    assert [name for name, _, _ in read(one + b"between" + two + b"behind")] == [b"a", b"b"]
    monkeypatch.setattr(cab, "_MAX_CABINETS", 2)
    assert read(one + two) == [(b"a", A, ""), (b"b", B, "")]
    assert read(one * 3)[2:] == [(b"", b"", "limit: cab: too many cabinets in one file")]
    monkeypatch.setattr(cab, "_MAX_MARKS", 3)
    assert len(read(one + b"MSCF" * 3)) == 1
    said = "limit: cab: too many marks of cabinets in one file"
    assert read(one + b"MSCF" * 4)[1:] == [(b"", b"", said)]


def with_length(data: bytes, length: int) -> bytes:
    return data[:8] + struct.pack("<L", length) + data[12:]


USUAL = others.cab_of({"a": b"benign MSCF benign"})
SIZE, MARK_AT = len(USUAL), USUAL.rindex(b"MSCF")


@pytest.mark.skipif(not libarchive.is_here(), reason="libarchive is not here")
@pytest.mark.parametrize(
    ("data", "is_unread"),
    [
        (USUAL, False),
        (USUAL + b"behind", False),
        (USUAL + b"MSC", False),
        (USUAL + b"MSCF", True),
        (USUAL + USUAL, True),
        (USUAL + b"behind" * 50_000 + b"MSCF", True),
        (with_length(USUAL, MARK_AT), True),
        (with_length(USUAL, MARK_AT + 1), False),
        (with_length(USUAL, 0), True),
        (with_length(USUAL, 4), True),
        (with_length(USUAL, SIZE + 1), True),
        (with_length(others.cab_of({"a": b"benign"}), 0), False),
    ],
)
def test_a_mark_behind_a_cabinet_that_is_read_once_is_unread(
    data: bytes, *, is_unread: bool
) -> None:
    for step in (1 << 30, 7):
        out = opened(Cab("cab"), Once(data, step))
        assert out.names == [b"a"]
        assert out.unread == [(b"", Why.UNSUPPORTED)] * is_unread


@pytest.mark.parametrize("lengths", [(32_768, 9, 9), (9, 32_768, 9), (32_767, 9), (32_767, 32_768)])
def test_a_block_of_less_than_32_kib_may_be_any_block(lengths: tuple[int, ...]) -> None:
    content = A * 3_000
    size = sum(lengths)
    files = [(b"all", size, 0, 0), (b"end", 9, size - 9, 0)]
    found = read(cabinet(files, (STORED, stored(content, *lengths))))
    assert found == [(b"all", content[:size], ""), (b"end", content[size - 9 : size], "")]


@pytest.mark.parametrize("length", [1, 255, 256, 257])
def test_a_name_may_be_long_and_one_of_256_bytes_hides_no_cabinet(length: int) -> None:
    """cabextract accepts no name of 256 bytes, and searches for another cabinet at once."""
    inner = cabinet([(b"inner", 25, 0, 0)], (STORED, stored(A, 20, 5)))
    files = [(b"n" * length, len(inner), 4, 0), (b"next", 4, 0, 0)]
    outer = cabinet(files, (STORED, stored(b"text" + inner, 4, len(inner))))
    wanted = [(b"n" * length, inner, ""), (b"next", b"text", "")]
    assert read(outer) == wanted + [(b"inner", A, "")] * (length > 255)
    assert read(with_length(outer, 0)) == [*wanted, (b"inner", A, "")]


@pytest.mark.skipif(not libarchive.is_here(), reason="libarchive is not here")
def test_bytes_that_programs_ignore_may_have_any_value() -> None:
    for at in range(4, 8):
        data = USUAL[:at] + b"\xff" + USUAL[at + 1 :]
        assert opened(Cab("cab"), data).members == [(b"a", b"benign MSCF benign")]


@pytest.mark.parametrize("flags", [1, 2, 3])
def test_a_part_of_a_set_of_cabinets_is_left_to_the_library(flags: int) -> None:
    """Names of the other cabinets would follow the header; here, they are missing."""
    data = cabinet([(b"a", 25, 0, 0)], (STORED, stored(A, 20, 5)), flags=flags)
    out = opened(Cab("cab"), data)
    assert not out.contents and out.unread


def test_a_mark_without_a_cabinet_ends_no_search() -> None:
    one = cabinet([(b"a", 25, 0, 0)], (STORED, stored(A, 20, 5)))
    two = cabinet([(b"b", 63, 0, 0)], (MSZIP, packed(B, 60, 3)))
    for between in (b"MSCF" + bytes(60), b"MSCF" + b"\xff" * 60, b"MSCF\0"):
        assert read(one + between + two) == [(b"a", A, ""), (b"b", B, "")]


def test_a_table_of_folders_that_is_cut_off_has_whole_folders() -> None:
    data = cabinet([], *[(STORED, stored(A, 20, 5))] * 2)
    for length, count in ((43, 0), (44, 1), (51, 1), (52, 2), (60, 2)):
        assert len(_table(Whole(data[:length]))) == count


def test_a_cabinet_has_many_folders() -> None:
    folders = [(STORED, stored(bytes([number]) * 9, 4, 5)) for number in range(200)]
    files = [(b"%d" % number, 9, 0, number) for number in range(200)]
    assert read(cabinet(files, *folders)) == [
        (b"%d" % number, bytes([number]) * 9, "") for number in range(200)
    ]


@pytest.mark.parametrize("reserve", [0, 1, 4, 8, 20])
def test_each_folder_may_have_bytes_that_are_kept_free(reserve: int) -> None:
    table = b"".join(struct.pack("<L2H", n, n, 0) + b"\xff" * reserve for n in (77, 88, 99))
    head = struct.pack("<4s5L2B5H", b"MSCF", 0, 0, 0, 0, 0, 3, 1, 3, 1, 4, 0, 0)
    data = head + struct.pack("<H2B", 5, reserve, 0) + bytes(5) + table
    assert [one.start for one in _table(Whole(data))] == [77, 88, 99]

"""A member of a zip at the edges of its headers, of its bytes, and of the file."""

from __future__ import annotations

import lzma
import random
import re
import struct
import zlib
from collections.abc import Iterator

import pytest

from hashclient.containers import libarchive
from hashclient.containers.forward import PIECE_BYTES
from hashclient.containers.interface import HEAD_BYTES, NotReadError
from hashclient.containers.zipdirectory import MAX32, Entry
from hashclient.containers.zipmember import (
    DEFLATED,
    LOCAL,
    LZMA,
    METHODS,
    STORED,
    agree,
    by_directory,
    first_inflated,
    first_stored,
    size_needed,
    stored,
    unpacked,
)
from hashclient.containers.zipold import DEFLATED64, IMPLODED, SHRUNK
from tests.opened import Whole

A = b"benign A " * 30
CRC, SIZE = zlib.crc32(A), len(A)
FRONT = b"front"


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


def header(
    *, mark: bytes = b"PK\3\4", flags: int = 0, method: int = STORED, crc: int = CRC,
    packed: int = SIZE, size: int = SIZE, name: bytes = b"n", extra: bytes = b"",
) -> bytes:  # fmt: skip
    fields = mark, flags, method, crc, packed, size, len(name), len(extra)
    return LOCAL.pack(*fields) + name + extra


def entry(
    *, packed: int = SIZE, size: int = SIZE, crc: int = CRC, flags: int = 0, method: int = STORED
) -> Entry:
    return len(FRONT), packed, size, crc, flags, method, b"n"


LONG = struct.pack("<2H2Q", 1, 16, SIZE, SIZE)
DESCRIPTOR = struct.pack("<4s3L", b"PK\7\x08", CRC, SIZE, SIZE)
OTHER = "its sizes do not agree"
NO_HEADER = "no local header"


@pytest.mark.parametrize(
    ("head", "behind", "found"),
    [
        (header(), b"", 0),
        (header(), b"x", 0),
        (header(name=b"longer"), b"", 0),
        (header(extra=b"12345"), b"", 0),
        (header(mark=b"PK\3\5"), b"", None),
        (header(method=DEFLATED), b"", "its methods do not agree"),
        (header(crc=CRC ^ 1), b"", OTHER),
        (header(packed=SIZE - 1), b"", OTHER),
        (header(size=SIZE + 1), b"", OTHER),
        (header(size=0), b"", OTHER),
        (header(packed=MAX32, size=MAX32, extra=LONG), b"", 0),
        (header(packed=MAX32, extra=LONG), b"", 0),
        (header(size=MAX32, extra=LONG), b"", 0),
        (header(packed=MAX32, size=MAX32, extra=b"12345" + LONG), b"", OTHER),
        (header(packed=MAX32), b"", OTHER),
        (header(size=MAX32), b"", OTHER),
        # With a descriptor, the header has zeros or the right values.
        (header(flags=8), DESCRIPTOR, len(DESCRIPTOR)),
        (header(flags=8, crc=0, packed=0, size=0), DESCRIPTOR + b"x", len(DESCRIPTOR)),
        (header(flags=8, crc=0, packed=0, size=0), DESCRIPTOR[4:], len(DESCRIPTOR) - 4),
        (header(flags=8, crc=1), DESCRIPTOR, OTHER),
        (header(flags=8, packed=1), DESCRIPTOR, OTHER),
        (header(flags=8, size=1), DESCRIPTOR, OTHER),
        (header(flags=8), b"", "its descriptor does not agree"),
        (header(flags=8), DESCRIPTOR[:-1], "its descriptor does not agree"),
        (header(flags=0x10), b"", 0),
    ],
)
def test_a_local_header_agrees_with_its_entry(
    head: bytes, behind: bytes, found: int | str | None
) -> None:
    data = Whole(FRONT + head + A + behind)
    if isinstance(found, int):
        start = len(FRONT + head)
        assert agree(data, entry()) == (start, start + SIZE + found)
    else:
        with pytest.raises(NotReadError, match=found or "local header"):
            agree(data, entry())


def test_a_member_ends_within_the_file() -> None:
    whole = FRONT + header(packed=SIZE, size=SIZE) + A
    assert agree(Whole(whole), entry())[1] == len(whole)
    with pytest.raises(NotReadError, match="beyond the end of the file"):
        agree(Whole(whole[:-1]), entry())
    # Bytes that are missing at the end are reported before values that differ, and after methods.
    with pytest.raises(NotReadError, match="beyond the end of the file"):
        agree(Whole(whole[:-1]), entry(crc=1))
    with pytest.raises(NotReadError, match="methods"):
        agree(Whole(whole[:-1]), entry(method=DEFLATED))
    for end in (len(FRONT), len(FRONT) + 29):
        with pytest.raises(NotReadError, match="local header"):
            agree(Whole(whole[:end]), entry(packed=0))
    empty = FRONT + header(packed=0, size=0, crc=0, name=b"")
    assert agree(Whole(empty), entry(packed=0, size=0, crc=0)) == (len(empty), len(empty))


@pytest.mark.parametrize(
    ("head", "row", "is_listed"),
    [
        (header(), entry(), True),
        (header(crc=1, packed=2, size=3, method=99, flags=8), entry(), True),
        (header(extra=b"123", name=b"longer"), entry(), True),
        (header(mark=b"PK\3\5"), entry(), False),
        (header(), entry(flags=0x20), False),
        (header(flags=0x20), entry(), True),
        (header(), entry(flags=8), True),
        (header(), entry(packed=SIZE - 1, size=SIZE - 1), True),
        (header(), entry(packed=SIZE + 1, size=SIZE + 1), False),
        (header(), entry(size=SIZE - 1), False),
        (header(), entry(method=77), False),
        (header(), entry(method=DEFLATED, size=SIZE - 1), True),
    ],
)
def test_a_member_is_also_read_by_its_entry_alone(
    head: bytes, row: Entry, *, is_listed: bool
) -> None:
    members = by_directory(Whole(FRONT + head + A), row)
    assert len(members) == is_listed
    for member in members:
        assert (member.name, member.size) == (b"n", row[2])
        assert member.is_exact is (row[5] == STORED)
        if row == entry():
            assert b"".join(member.chunks()) == A
    assert not by_directory(Whole((FRONT + head)[:-2]), row)
    assert not by_directory(Whole(FRONT), row)


def test_a_compressed_member_is_read_by_its_entry_alone() -> None:
    packed = deflated(A)
    row = entry(method=DEFLATED, packed=len(packed))
    (member,) = by_directory(Whole(FRONT + header(method=STORED) + packed), row)
    assert b"".join(member.chunks()) == A and not member.is_exact


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, PIECE_BYTES, PIECE_BYTES + 4_097])
def test_a_stored_member_has_its_size_and_checksum(size: int) -> None:
    content = random.Random(3).randbytes(size)
    crc = zlib.crc32(content)
    pieces = list(stored(Whole(FRONT + content + b"x"), len(FRONT), size, crc))
    assert b"".join(pieces) == content
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    with pytest.raises(NotReadError, match="checksum"):
        list(stored(Whole(FRONT + content), len(FRONT), size, crc ^ 1))
    with pytest.raises(NotReadError, match="beyond the end of the file"):
        list(stored(Whole(FRONT + content), len(FRONT), size + 1, crc))


def read(packed: bytes, row: Entry, behind: bytes = b"") -> bytes | str:
    """Return the decoded bytes of a member, or the detail of the error."""
    pieces: list[bytes] = []
    try:
        pieces.extend(unpacked(Whole(FRONT + packed + behind), len(FRONT), row))
    except NotReadError as error:
        return error.detail
    return b"".join(pieces)


WRONG, SHORTER = "zip: its checksum does not agree", "zip: shorter than it says"
BEHIND, EARLY = "zip: bytes behind its compressed data", "ends too early"


@pytest.mark.parametrize("large", [False, True])
def test_a_deflated_member_is_as_its_entry_says(*, large: bool) -> None:
    """Small members are decoded at once, and large members in pieces."""
    content = random.Random(1).randbytes(66_000)
    content = content if large else A
    packed = deflated(content)
    assert (len(packed) > 1 << 16) is large
    size, crc = len(content), zlib.crc32(content)
    row = entry(method=DEFLATED, packed=len(packed), size=size, crc=crc)
    assert read(packed, row) == content
    # If the entry states fewer bytes than there are, programs extract all bytes.
    for stated, found in ((0, content), (size - 1, content), (size + 1, SHORTER)):
        one = entry(method=DEFLATED, packed=len(packed), size=stated, crc=crc)
        assert read(packed, one) == found
    for wrong in (crc - 1, crc + 1):
        one = entry(method=DEFLATED, packed=len(packed), size=size, crc=wrong)
        assert read(packed, one) == WRONG
    one = entry(method=DEFLATED, packed=len(packed) + 1, size=size, crc=crc)
    assert read(packed, one, b"x") == BEHIND
    one = entry(method=DEFLATED, packed=len(packed) - 1, size=size, crc=crc)
    assert str(read(packed, one)).endswith(EARLY)


def raw_lzma(content: bytes) -> bytes:
    """Return content as a zip stores it by LZMA, with an end mark."""
    chain = [{"id": lzma.FILTER_LZMA1, "lc": 3, "lp": 0, "pb": 2, "dict_size": 1 << 16}]
    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=chain)
    return b"\x09\4\5\0\x5d\0\0\1\0" + packer.compress(content) + packer.flush()


@pytest.mark.parametrize("count", [0, 1, SIZE - 1, SIZE])
def test_a_member_without_an_end_mark_has_as_many_bytes_as_its_entry_says(count: int) -> None:
    packed = raw_lzma(A)
    crc = zlib.crc32(A[:count])
    row = entry(method=LZMA, packed=len(packed), size=count, crc=crc)
    assert read(packed, row) == A[:count]
    # With an end mark, all bytes count.
    row = entry(method=LZMA, packed=len(packed), size=count, crc=CRC, flags=2)
    assert read(packed, row) == A
    row = entry(method=LZMA, packed=len(packed), size=SIZE + 1, crc=CRC)
    assert read(packed, row) == "zip: ends too early"


def test_a_large_member_of_lzma_ends_with_its_bytes() -> None:
    content = random.Random(2).randbytes(70_000)
    packed = raw_lzma(content)
    assert len(packed) > 1 << 16
    for count in (1, 5_000, 70_000):
        crc = zlib.crc32(content[:count])
        row = entry(method=LZMA, packed=len(packed), size=count, crc=crc)
        assert read(packed, row) == content[:count]


@pytest.mark.parametrize("head", [b"\x09\4\4\0", b"\x09\4\5\1", b"\x09\4\0\5", b"\x09\4\5"])
def test_a_header_of_lzma_has_five_bytes_of_properties(head: bytes) -> None:
    packed = head + raw_lzma(A)[4:]
    row = entry(method=LZMA, packed=len(packed))
    assert "lzma" in str(read(packed, row))


@pytest.mark.parametrize(
    ("method", "flags", "is_needed"),
    [
        (LZMA, 0, True), (LZMA, 2, False), (LZMA, 1, True), (SHRUNK, 2, True), (IMPLODED, 2, True),
        (DEFLATED64, 0, False), (DEFLATED, 2, False), (12, 0, False), (95, 0, False),
    ],
)  # fmt: skip
def test_some_methods_do_not_show_where_their_bytes_end(
    method: int, flags: int, *, is_needed: bool
) -> None:
    assert size_needed(method, flags, 7) == (7 if is_needed else None)
    assert method in METHODS


@pytest.mark.parametrize("count", [0, 1, SIZE - 1, SIZE, SIZE + 1])
def test_the_first_bytes_of_a_member_are_checked_if_they_are_all(count: int) -> None:
    packed = deflated(A)
    row = entry(method=DEFLATED, packed=len(packed))
    data = Whole(FRONT + A)
    assert first_stored(data, len(FRONT), entry(), count) == A[:count]
    assert first_inflated(Whole(FRONT + packed + b"x"), len(FRONT), row, count) == A[:count]
    if count >= SIZE:
        with pytest.raises(NotReadError, match="checksum"):
            first_stored(data, len(FRONT), entry(crc=1), count)
    else:
        assert first_stored(data, len(FRONT), entry(crc=1), count) == A[:count]


def test_first_bytes_that_are_missing_are_told() -> None:
    cut = Whole(FRONT + A[:100])
    assert first_stored(cut, len(FRONT), entry(), 100) == A[:100]
    with pytest.raises(NotReadError, match="beyond the end of the file"):
        first_stored(cut, len(FRONT), entry(), 101)
    packed = deflated(A)
    for length in (0, len(packed) - 1):
        row = entry(method=DEFLATED, packed=length)
        with pytest.raises(NotReadError, match=re.escape("ends too early")):
            first_inflated(Whole(FRONT + packed), len(FRONT), row, SIZE + 1)
    for more, row, text in (
        (b"x", entry(method=DEFLATED, packed=len(packed) + 1), "bytes behind"),
        (b"", entry(method=DEFLATED, packed=len(packed), crc=1), "checksum"),
        (b"", entry(method=DEFLATED, packed=len(packed), size=SIZE + 1), "shorter"),
    ):
        with pytest.raises(NotReadError, match=text):
            first_inflated(Whole(FRONT + packed + more), len(FRONT), row, SIZE + 1)


def blocks(count: int) -> Iterator[bytes]:
    """Yield empty blocks of deflate, and then the last block."""
    yield b"\0\0\0\xff\xff" * count
    yield deflated(A)


@pytest.mark.parametrize("count", [HEAD_BYTES, HEAD_BYTES + 1, PIECE_BYTES])
@pytest.mark.parametrize("empty", [0, 100, 2_000])
def test_the_first_bytes_are_found_behind_empty_blocks(count: int, empty: int) -> None:
    packed = b"".join(blocks(empty))
    row = entry(method=DEFLATED, packed=len(packed))
    assert first_inflated(Whole(FRONT + packed), len(FRONT), row, count) == A


needs_library = pytest.mark.skipif(not libarchive.is_here(), reason="no libarchive")
ZSTD, PPMD = 93, 98


def zstd(content: bytes) -> bytes:
    """Return a frame of zstd with one block that is not compressed, of less than 256 bytes."""
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(content)]) + block


@needs_library
def test_a_member_that_the_library_decodes_is_as_its_entry_says() -> None:
    content = A[:200]
    packed, crc = zstd(content), zlib.crc32(content)
    assert read(packed, entry(method=ZSTD, packed=len(packed), size=200, crc=crc)) == content
    for behind in (b"", header() + A):
        row = entry(method=ZSTD, packed=len(packed), size=200, crc=crc)
        assert read(packed, row, behind) == content
    assert read(packed, entry(method=ZSTD, packed=len(packed), size=200, crc=crc ^ 1)) != content
    assert read(packed, entry(method=ZSTD, packed=len(packed), size=201, crc=crc)) != content
    assert read(packed, entry(method=ZSTD, packed=len(packed) - 1, size=200, crc=crc)) != content


@needs_library
def test_the_library_decodes_no_member_of_4_gib() -> None:
    most = (4 << 30) - 2
    for size, packed, is_one in (
        (most, 9, True),
        (9, most, True),
        (most + 1, 9, False),
        (9, most + 1, False),
    ):
        found = read(bytes(9), entry(method=PPMD, packed=packed, size=size))
        assert (found != "zip: method 98") is is_one

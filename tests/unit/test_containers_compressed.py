"""Compressed files: streams one behind the other, the bytes behind them, and strict magic bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable

import pytest

from fixtures.archives import bzip2_of, compress_of, gzip_of, lzma_of, raw_deflate, xz_of
from fixtures.differential.streams import FORMS
from hashclient.containers import decoding, libarchive, libformats
from hashclient.containers.compressed import Bzip2, Gzip, Lzma, Xz, Zstd, _Input
from hashclient.containers.decoding import Inflater, decoded
from hashclient.containers.interface import ISO_HEAD_BYTES, Expander, NotReadError, Why
from hashclient.containers.kinds import is_lzma_header
from hashclient.containers.registry import Registry
from tests.opened import Once, Whole, each, has_mark, opened, sniffs

A, B = b"benign A " * 5000, random.Random(1).randbytes(70_000)
KINDS = [(Gzip(), gzip_of), (Bzip2(), bzip2_of), (Xz(), xz_of)]
each_kind = pytest.mark.parametrize(("expander", "pack"), KINDS, ids=["gzip", "bzip2", "xz"])


@each_kind
def test_streams_one_behind_the_other_are_one_member(expander: Expander, pack: object) -> None:
    assert callable(pack)
    data = pack(A) + pack(b"") + pack(B)
    for source in (Whole(data), Once(data), Once(data, 999)):
        out = opened(expander, source)
        assert out.contents == [A + B] and not out.unread


@each_kind
def test_bytes_that_begin_no_other_stream_are_ignored(expander: Expander, pack: object) -> None:
    assert callable(pack)
    for rest in (b"\n", b"garbage" * 99, b"PK\3\4"):
        out = opened(expander, pack(A) + rest)
        assert out.contents == [A] and not out.unread


@each_kind
def test_a_damaged_second_stream_is_unread(expander: Expander, pack: object) -> None:
    assert callable(pack)
    second = bytearray(pack(B))
    second[len(second) // 2] ^= 0xFF
    assert opened(expander, pack(A) + bytes(second)).reasons == {Why.DAMAGED}
    assert opened(expander, pack(A) + pack(B)[:-9]).reasons == {Why.DAMAGED}


@each_kind
def test_many_small_streams_take_time_by_their_number(expander: Expander, pack: object) -> None:
    assert callable(pack)
    given = 0

    class Counted(Once):
        def read(self, count: int) -> bytes:
            nonlocal given
            given += 1
            return super().read(count)

    assert opened(expander, Counted(pack(b"x") * 3000)).contents == [b"x" * 3000]
    assert given < 100


def test_padding_is_part_of_xz_and_of_gzip_at_the_end_only() -> None:
    assert opened(Xz(), xz_of(A) + bytes(8) + xz_of(B) + bytes(4)).contents == [A + B]
    assert opened(Gzip(), gzip_of(A) + bytes(1000)).contents == [A]
    assert opened(Gzip(), gzip_of(A) + bytes(1000) + gzip_of(B)).reasons == {Why.DAMAGED}


@pytest.mark.parametrize("mark", [b"\x1f\x9e", b"\x1f\xa1"])
def test_a_stream_of_gzip_may_have_a_mark_that_few_programs_take(mark: bytes) -> None:
    other = mark + gzip.compress(A)[2:]
    for data, content in ((other, A), (gzip.compress(B) + other, B + A), (other * 2, A + A)):
        assert has_mark(data) and opened(Gzip(), data).contents == [content]


def test_gzip_says_how_its_member_is_called() -> None:
    assert opened(Gzip(), gzip_of(A, "a.txt")).names == [b"a.txt"]
    assert opened(Gzip(), gzip_of(A)).names == [b""]
    with_extra = b"\x1f\x8b\x08\x0c" + bytes(6) + b"\4\0abcd" + b"name\0" + gzip_of(A)[10:]
    assert opened(Gzip(), with_extra).members == [(b"name", A)]
    assert opened(Gzip(), b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 9000).names == []


def test_marks_are_strict() -> None:
    good = gzip_of(A)
    assert not sniffs(Gzip(), good[:2] + b"\7" + good[3:])
    assert not sniffs(Bzip2(), b"BZh9 benign text of somebody")
    assert sniffs(Bzip2(), bz2.compress(b""))
    assert not sniffs(Xz(), xz_of(A)[:5] + b"\1" + xz_of(A)[6:])
    # `unar` goes on behind a wrong checksum, so the kind must be recognised.
    assert sniffs(Xz(), xz_of(A)[:8] + bytes(4))
    assert sniffs(Zstd(), b"\x50\x2a\x4d\x18\2\0\0\0xx\x28\xb5\x2f\xfd" + bytes(9))


def test_legacy_lzma_counts_only_if_its_beginning_decodes() -> None:
    good = lzma_of(B)
    assert sniffs(Lzma(), good) and opened(Lzma(), good).contents == [B]
    assert sniffs(Lzma(), lzma_of(b""))
    chance = random.Random(4)
    assert not sniffs(Lzma(), good[:1] + b"\1\2\3\4" + good[5:])
    for _ in range(300):
        assert not sniffs(Lzma(), chance.randbytes(600))
    wrong = good[:-9] + bytes([good[-9] ^ 1]) + good[-8:]
    assert sniffs(Lzma(), wrong) and opened(Lzma(), wrong).reasons == {Why.DAMAGED}
    raw_picture = b"\0" + bytes([255] * 12) + b"\0" + chance.randbytes(600)
    assert is_lzma_header(raw_picture) and not sniffs(Lzma(), raw_picture)


def test_a_sum_of_the_header_of_gzip_that_does_not_agree_is_damage() -> None:
    good = gzip_of(A, "a.txt")
    end = good.index(b"a.txt\0") + 6
    head = good[:3] + bytes([good[3] | 2]) + good[4:end]
    for wrong, contents, unread in ((0, [A], set()), (1, [], {Why.DAMAGED})):
        total = (zlib.crc32(head) ^ wrong) & 0xFFFF
        out = opened(Gzip(), head + total.to_bytes(2, "little") + good[end:])
        assert (out.contents, out.reasons) == (contents, unread)


@pytest.mark.parametrize(("length", "is_one"), [(17, False), (18, False), (40, True)])
def test_an_lzma_with_a_length_is_one_if_a_byte_of_it_can_be_decoded(
    length: int, *, is_one: bool
) -> None:
    content = bytes(900)
    data = lzma_of(content)
    assert Lzma().sniff(data[:5] + len(content).to_bytes(8, "little") + data[13:length]) is is_one


@pytest.mark.parametrize("flag", [0x20, 0x40, 0x80, 0xE0])
def test_flags_of_gzip_that_mean_nothing_are_passed_over(flag: int) -> None:
    """busybox and Python ignore these flags, too."""
    good, other = gzip_of(A, "a.txt"), gzip_of(B)
    data = good[:3] + bytes([good[3] | flag]) + good[4:] + other[:3] + bytes([flag]) + other[4:]
    assert gzip.decompress(data) == A + B
    for source in (Whole(data), Once(data, 3)):
        assert opened(Gzip(), source).members == [(b"a.txt", A + B)]
    assert sniffs(Gzip(), data)


@pytest.mark.sampled
@pytest.mark.parametrize("window", [1, 2, 3, 6, 512, 3072, 4096, 12288, 3 << 28, 1 << 31])
def test_every_window_that_programs_take_is_recognised(window: int) -> None:
    for content in (b"benign", bytes(3 << 20)):
        data = lzma_of(content)
        data = data[:1] + window.to_bytes(4, "little") + data[5:]
        assert has_mark(data)
        assert [one.name for one in Registry().pick(data[:ISO_HEAD_BYTES], data)] == ["lzma"]
        if window < 1 << 27:
            assert opened(Lzma(), data).contents == [content]
    assert not is_lzma_header(lzma_of(b"x")[:1] + (5001).to_bytes(4, "little") + bytes(20))


@pytest.mark.parametrize("window", [5 << 14, 0x10900, 0x123456 << 8])
def test_a_window_that_zstd_alone_takes_is_recognised(window: int) -> None:
    data = b"\x5d" + window.to_bytes(4, "little") + lzma_of(B)[5:]
    assert has_mark(data)
    assert [one.name for one in Registry().pick(data[:ISO_HEAD_BYTES], data)] == ["lzma"]
    if window < 1 << 27:
        assert opened(Lzma(), data).contents == [B]


@pytest.mark.parametrize("claimed", [1, 2, len(B) - 1])
def test_an_lzma_that_claims_too_small_a_length_is_unread(claimed: int) -> None:
    """busybox and unar return the bytes without an error."""
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16}]
    data = lzma.compress(B, lzma.FORMAT_ALONE, filters=filters)
    data = data[:5] + claimed.to_bytes(8, "little") + data[13:]
    assert sniffs(Lzma(), data)
    assert opened(Lzma(), data).unread


def test_a_picture_whose_fields_look_like_those_of_lzma_is_none() -> None:
    """An EMF with a header of 128 bytes looks like lzma: window 2 GiB and a possible length."""
    chance = random.Random(2)
    for _ in range(200):
        width, height = chance.randrange(10, 9_000), chance.randrange(10, 9_000)
        head = struct.pack("<2I8i", 1, 128, 0, 0, width, height, 0, 0, width * 26, height * 26)
        head += b" EMF" + struct.pack("<3I2H", 0x10000, 40_000, chance.randrange(900), 9, 0)
        records = b"".join(
            struct.pack("<2I2i", chance.choice((17, 18, 37, 54)), 16, 0, chance.choice((1, width)))
            for _ in range(99)
        )
        picture = head.ljust(128, b"\0") + records
        assert is_lzma_header(picture)
        assert not Lzma().sniff(picture)


def zstd_of(_: bytes) -> bytes:
    """Return bytes that begin like zstd."""
    return b"\x28\xb5\x2f\xfd" * 9


OTHERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip_of,
    "xz": xz_of,
    "lzma": lzma_of,
    "zstd": zstd_of,
}


@pytest.mark.parametrize("expander", [Gzip(), Xz(), Lzma()], ids=["gzip", "xz", "lzma"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_stream_of_another_kind_behind_it_is_joined(expander: Expander, other: str) -> None:
    """`zstd` and Python's module `lzma` join the streams; other programs read only the first."""
    if other == expander.name:
        return
    data = OTHERS[expander.name](A) + OTHERS[other](B)
    unread = [(b"", Why.UNSUPPORTED)]
    whole, once = opened(expander, Whole(data)), opened(expander, Once(data, 999))
    assert once.contents == [A] and once.unread == unread
    if other == "zstd":
        assert whole.contents == [A] and whole.unread == unread
    else:
        assert whole.contents == [A, A + B] and not whole.unread
        assert {(one.size, one.is_exact) for one in whole.listed} == {(None, False)}
        third = opened(expander, Whole(data + zstd_of(A)))
        assert third.contents[0] == A and third.unread == unread
        # Python's module `lzma` ignores the third stream.
        is_of_python = {expander.name, other} == {"xz", "lzma"}
        assert third.contents[1:] == [A + B] * is_of_python
    assert not opened(Bzip2(), bzip2_of(A) + OTHERS[other](B)).unread


@pytest.mark.sampled
@pytest.mark.parametrize("mark", [0x9D, 0x1E, 0xA0])
def test_a_stream_that_gzip_alone_joins_is_unread(mark: int) -> None:
    data = gzip_of(A) + bytes([0x1F, mark]) + compress_of(B)[2:]
    out = opened(Gzip(), data)
    assert out.contents == [A] and out.reasons == {Why.UNSUPPORTED}
    assert not opened(Xz(), xz_of(A) + data[len(gzip_of(A)) :]).unread


@pytest.mark.skipif(not libarchive.is_here(), reason="no libarchive")
@pytest.mark.parametrize("other", [*OTHERS, "zeros", "text", "nothing"])
@pytest.mark.parametrize("length", [1, 900, len(A)])
def test_a_stream_behind_one_that_the_library_reads_is_unread(other: str, length: int) -> None:
    expander, behind = libformats.reader("lz4", ()), {"zeros": bytes(99), "text": b"some words"}
    data = FORMS["lz4"]({}, A[:length])
    data += OTHERS[other](B) if other in OTHERS else behind.get(other, b"")
    for source in (Whole(data), Once(data, 999)):
        out = opened(expander, source)
        unread = [(b"", Why.UNSUPPORTED)] if other in OTHERS else []
        assert (out.contents, out.unread) == ([A[:length]], unread)
        assert [(one.size, one.is_exact) for one in out.listed] == [(None, False)]


def test_streams_of_lzma_are_joined_to_their_end_and_no_third_kind() -> None:
    out = opened(Lzma(), Whole(lzma_of(A) + lzma_of(B) + xz_of(A)))
    assert out.contents == [A, A + B + A] and not out.unread
    back = opened(Xz(), Whole(xz_of(A) + lzma_of(B) + xz_of(A)))
    assert back.contents[0] == A and back.reasons == {Why.UNSUPPORTED}


def test_a_window_larger_than_may_be_had_is_a_limit() -> None:
    data = bytearray(lzma.compress(A, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]))
    block = data[12 : 12 + 4 * (data[12] + 1)]
    field = block.index(b"\x21\x01") + 2
    block[field] = 36  # a size of 1 GiB
    block[-4:] = zlib.crc32(bytes(block[:-4])).to_bytes(4, "little")
    data[12 : 12 + len(block)] = block
    assert opened(Xz(), bytes(data)).reasons == {Why.LIMIT}
    alone = lzma_of(A)
    huge = alone[:1] + (1 << 30).to_bytes(4, "little") + alone[5:]
    assert sniffs(Lzma(), huge) and opened(Lzma(), huge).reasons == {Why.LIMIT}


def test_the_first_piece_needs_few_bytes() -> None:
    data = gzip_of(random.Random(1).randbytes(2 << 20))
    whole = Whole(data)
    member = next(iter(each(Gzip(), whole)))
    assert len(next(member.chunks())) == decoding.FIRST_PIECE_BYTES  # type: ignore[union-attr]
    assert whole.given < 20_000


@pytest.mark.parametrize("most", [1, 2, 100, 1 << 18])
def test_deflate_gives_all_whatever_pieces_are_asked_for(most: int) -> None:
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(bytes(5000)) + packer.flush()
    inflater = Inflater()
    out, given = b"", iter([packed[:3], packed[3:]])
    while not inflater.eof:
        out += inflater.decompress(next(given) if inflater.needs_input else b"", most)
    assert out == bytes(5000)


def test_input_that_ends_too_early_is_damaged() -> None:
    pieces = iter([raw_deflate(A)[:100]])
    with pytest.raises(NotReadError):
        list(decoded(decoding.deflate(), lambda: next(pieces, b"")))


@pytest.mark.skipif(not decoding.HAS_ZSTD or not shutil.which("zstd"), reason="no zstd")
def test_zstd_frames_one_behind_the_other() -> None:
    def pack(content: bytes) -> bytes:
        return subprocess.run(["zstd", "-c"], input=content, check=True, capture_output=True).stdout

    one, other = pack(A), pack(B)
    for first in (0x40, 0x4F, 0x50, 0x51, 0x5F, 0x60, 0xD0):
        out = opened(Zstd(), one + bytes([first]) + b"\x2a\x4d\x18\1\0\0\0x" + other)
        assert out.contents == ([A + B] if 0x50 <= first <= 0x5F else [A])


@pytest.mark.skipif(not libarchive.is_here(), reason="no libarchive")
def test_flags_of_compress_that_mean_nothing_are_passed_over() -> None:
    expander = libformats.reader("compress", ())
    content = A[:900]
    for flags in (0x20, 0x40, 0x60):
        data = bytearray(compress_of(content))
        data[2] |= flags
        for source in (Whole(bytes(data)), Once(bytes(data), 1)):
            assert opened(expander, source).contents == [content]
        assert sniffs(expander, bytes(data))


@pytest.mark.skipif(not libarchive.is_here(), reason="no libarchive")
def test_a_code_of_compress_that_does_not_exist_is_unread_and_no_file_at_all_where_it_begins() -> (
    None
):
    expander = libformats.reader("compress", ())
    data = compress_of(bytes(range(100)))
    broken = data[:80] + b"\xff\xff" + data[82:]
    assert sniffs(expander, broken) and opened(expander, broken).reasons == {Why.DAMAGED}
    assert not sniffs(expander, data[:4] + b"\xff\xff" + data[6:])
    chance = random.Random(3)
    others = [b"\x1f\x9d" + chance.randbytes(500) for _ in range(2_000)]
    assert sum(sniffs(expander, other) for other in others) < 3


@pytest.mark.parametrize(
    ("rest", "goes_on"),
    [
        (b"\x28\xb5\x2f\xfd", True),
        (b"\x28\xb5\x2f\xfc", False),
        (b"\x28\xb5\x2f", False),
        (b"", False),
        *((bytes([n]) + b"\x2a\x4d\x18", n in range(0x50, 0x60)) for n in range(0x40, 0x70)),
        (b"\xd0\x2a\x4d\x18", False),
        (b"\x50\x2a\x4d\x19", False),
        (b"x\x28\xb5\x2f\xfd", False),
    ],
)
def test_frames_of_zstd_follow_each_other(rest: bytes, *, goes_on: bool) -> None:
    assert Zstd()._goes_on(_Input(Whole(rest))) is goes_on

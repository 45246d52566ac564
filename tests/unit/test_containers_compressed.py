"""Compressed files: streams one behind the other, what follows them, and strict marks."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import subprocess
import zlib

import pytest

from fixtures.archives import bzip2_of, gzip_of, lzma_of, xz_of
from hashclient.containers import decoding
from hashclient.containers.compressed import Bzip2, Gzip, Lzma, Xz, Zstd
from hashclient.containers.decoding import Inflater, decoded
from hashclient.containers.interface import Expander, NotReadError, Why
from tests.opened import Once, Whole, each, opened, sniffs

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


def test_gzip_says_how_its_member_is_called() -> None:
    assert opened(Gzip(), gzip_of(A, "a.txt")).names == [b"a.txt"]
    assert opened(Gzip(), gzip_of(A)).names == [b""]
    with_extra = b"\x1f\x8b\x08\x0c" + bytes(6) + b"\4\0abcd" + b"name\0" + gzip_of(A)[10:]
    assert opened(Gzip(), with_extra).members == [(b"name", A)]
    assert opened(Gzip(), b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 9000).names == []


def test_marks_are_strict() -> None:
    good = gzip_of(A)
    assert not sniffs(Gzip(), good[:2] + b"\7" + good[3:])
    assert not sniffs(Gzip(), good[:3] + b"\x20" + good[4:])
    assert not sniffs(Bzip2(), b"BZh9 benign text of somebody")
    assert sniffs(Bzip2(), bz2.compress(b""))
    assert not sniffs(Xz(), xz_of(A)[:8] + bytes(4))
    assert sniffs(Zstd(), b"\x50\x2a\x4d\x18\2\0\0\0xx\x28\xb5\x2f\xfd" + bytes(9))
    assert not sniffs(Zstd(), b"\x50\x2a\x4d\x18\2\0\0\0xxxx" + bytes(9))


def test_legacy_lzma_counts_only_if_its_beginning_decodes() -> None:
    good = lzma_of(B)
    assert sniffs(Lzma(), good) and opened(Lzma(), good).contents == [B]
    assert sniffs(Lzma(), lzma_of(b""))
    chance = random.Random(4)
    assert not sniffs(Lzma(), good[:1] + b"\1\2\3\4" + good[5:])
    for _ in range(300):
        assert not sniffs(Lzma(), chance.randbytes(600))


def test_a_window_larger_than_may_be_had_is_a_limit() -> None:
    data = bytearray(lzma.compress(A, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]))
    block = data[12 : 12 + 4 * (data[12] + 1)]
    field = block.index(b"\x21\x01") + 2
    block[field] = 36  # 1 GiB
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
    inflater = Inflater(-15)
    out, given = b"", iter([packed[:3], packed[3:]])
    while not inflater.eof:
        out += inflater.decompress(next(given) if inflater.needs_input else b"", most)
    assert out == bytes(5000)


def test_input_that_ends_too_early_is_damaged() -> None:
    pieces = iter([gzip.compress(A)[:100]])
    with pytest.raises(NotReadError):
        list(decoded(decoding.gzip(), lambda: next(pieces, b"")))


@pytest.mark.skipif(not decoding.HAS_ZSTD or not shutil.which("zstd"), reason="no zstd")
def test_zstd_frames_one_behind_the_other() -> None:
    def pack(content: bytes) -> bytes:
        return subprocess.run(["zstd", "-c"], input=content, check=True, capture_output=True).stdout

    assert opened(Zstd(), pack(A) + b"\x51\x2a\x4d\x18\1\0\0\0x" + pack(B)).contents == [A + B]

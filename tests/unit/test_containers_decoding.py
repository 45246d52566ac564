"""Decoders: their properties, their windows, and the pieces in which they return bytes."""

from __future__ import annotations

import bz2
import lzma
import random
import zlib
from collections.abc import Callable

import pytest

from hashclient.containers import decoding
from hashclient.containers.decoding import FIRST_PIECE_BYTES, Decoder, Inflater, bare_lzma, decoded
from hashclient.containers.forward import PIECE_BYTES
from hashclient.containers.interface import NotReadError, Why

CONTENT = random.Random(2).randbytes(2_000) + bytes(600_000) + b"end"


def pieces(decoder: Decoder, data: bytes, step: int, *, needs_end: bool = True) -> list[bytes]:
    parts = iter([data[at : at + step] for at in range(0, len(data), step)])
    return list(decoded(decoder, lambda: next(parts, b""), needs_end=needs_end))


FORMS: dict[str, tuple[Callable[[bytes], bytes], Callable[[], Decoder]]] = {
    "zlib": (zlib.compress, lambda: Inflater(15)),
    "deflate": (lambda data: zlib.compress(data, wbits=-15), decoding.deflate),
    "bzip2": (bz2.compress, decoding.bzip2),
    "xz": (lzma.compress, decoding.xz),
    "lzma": (lambda data: lzma.compress(data, lzma.FORMAT_ALONE), decoding.lzma_alone),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [7, 1 << 20])
def test_the_first_piece_is_short_and_no_other_is_long(form: str, step: int) -> None:
    pack, make = FORMS[form]
    packed = pack(CONTENT)
    decoder = make()
    found = pieces(decoder, packed + b"behind", step)
    assert b"".join(found) == CONTENT
    assert max(map(len, found)) <= PIECE_BYTES
    assert decoder.eof and b"behind".startswith(decoder.unused_data)
    if step > len(packed):
        assert len(found[0]) == FIRST_PIECE_BYTES
        assert decoder.unused_data == b"behind"


@pytest.mark.parametrize("form", FORMS)
def test_data_that_ends_early_is_damaged_unless_its_end_is_not_needed(form: str) -> None:
    pack, make = FORMS[form]
    packed = pack(CONTENT)
    for cut in (1, 2, len(packed) // 2, len(packed)):
        with pytest.raises(NotReadError) as refused:
            pieces(make(), packed[:-cut], 999)
        assert refused.value.why is Why.DAMAGED
        found = b"".join(pieces(make(), packed[:-cut], 999, needs_end=False))
        assert CONTENT.startswith(found)
    assert pieces(make(), pack(b""), 5) == []


def test_damaged_data_and_large_windows_have_their_reasons() -> None:
    for error, why in (
        (MemoryError(), Why.LIMIT),
        (lzma.LZMAError("Memory usage limit was exceeded"), Why.LIMIT),
        (ValueError("the window is too large"), Why.LIMIT),
        (zlib.error("invalid block type"), Why.DAMAGED),
        (OSError("Invalid data stream"), Why.DAMAGED),
    ):
        found = decoding.not_read(error)
        assert found.why is why and found.detail == f"compressed data: {str(error).lower()}"


@pytest.mark.parametrize(("lc", "lp", "pb"), [
    (3, 0, 2), (0, 0, 0), (4, 0, 0), (0, 4, 4), (1, 3, 4), (2, 1, 3),
])  # fmt: skip
def test_properties_of_bare_lzma_are_one_number(lc: int, lp: int, pb: int) -> None:
    content = random.Random(1).choices(range(64), k=4_090) * 2  # a window has 4,096 bytes or more
    chain = {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": 1 << 16}
    packed = lzma.compress(bytes(content), lzma.FORMAT_RAW, filters=[chain])
    number = bytes([(pb * 5 + lp) * 9 + lc])
    for window in (0, 4_095, 4_096, 1 << 16):
        decoder = bare_lzma(number + window.to_bytes(4, "little"))
        assert b"".join(pieces(decoder, packed, 99, needs_end=False)) == bytes(content)


@pytest.mark.parametrize(
    ("number", "window", "why"),
    [
        (0x5D, 192 << 20, None),
        (0x5D, (192 << 20) + 1, Why.LIMIT),
        (224, 1 << 16, Why.UNSUPPORTED),
        (225, 1 << 16, Why.DAMAGED),
        (255, 1 << 16, Why.DAMAGED),
        (4, 1 << 16, None),
        (5, 1 << 16, Why.UNSUPPORTED),
        (9 * 4, 1 << 16, None),
        (9 * 4 + 1, 1 << 16, Why.UNSUPPORTED),
    ],
)
def test_properties_of_bare_lzma_are_checked(number: int, window: int, why: Why | None) -> None:
    properties = bytes([number]) + window.to_bytes(4, "little")
    if why is None:
        assert not bare_lzma(properties).eof
        return
    with pytest.raises(NotReadError) as refused:
        bare_lzma(properties)
    assert refused.value.why is why


def test_an_inflater_keeps_input_that_it_did_not_need() -> None:
    packed = zlib.compress(bytes(10_000), wbits=-15) + b"xy"
    inflater = Inflater()
    states = []
    for data, count in ((packed, 4_000), (b"", 4_000), (b"", 2_000)):
        states.append((inflater.needs_input, inflater.eof))
        assert inflater.decompress(data, 4_000) == bytes(count)
    assert states == [(True, False), (False, False), (False, False)]
    assert (inflater.eof, inflater.unused_data) == (True, b"xy")


@pytest.mark.parametrize("length", [1, 2, 257, 258, 259, 1_000, 2_000, 4_000])
def test_bytes_that_a_decoder_holds_back_are_given_without_more_input(length: int) -> None:
    """The last bytes of deflate stand for many zeros; the decoder has read them all."""
    for content in (bytes(FIRST_PIECE_BYTES + length), bytes(1_024 + (256 << 10) + length)):
        packed = zlib.compress(content, wbits=-15)
        for step in (1, len(packed)):
            assert b"".join(pieces(decoding.deflate(), packed, step)) == content

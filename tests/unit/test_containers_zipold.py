"""Deflate64 and implode, symbol by symbol: each length, distance, table and flag."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator

import pytest

from hashclient.containers.interface import NotReadError
from hashclient.containers.zipold import DEFLATED64, IMPLODED, SHRUNK, Old

CHANCE = random.Random(11)


class Bits:
    """A writer of bits; the lowest bit of a byte is written first."""

    def __init__(self) -> None:
        self._value = self._count = 0

    def put(self, value: int, count: int) -> Bits:
        self._value |= value << self._count
        self._count += count
        return self

    def code(self, value: int, count: int) -> Bits:
        """Write a Huffman code, whose highest bit is written first."""
        return self.put(int(f"{value:0{count}b}"[::-1], 2), count)

    def fill(self) -> Bits:
        return self.put(0, -self._count % 8)

    @property
    def data(self) -> bytes:
        return self._value.to_bytes(-(-self._count // 8), "little")


def decoded(method: int, data: bytes, *, flags: int = 0, size: int = 0, step: int = 999) -> bytes:
    """Decode a member whose compressed bytes are read in pieces of `step`."""
    pieces = iter([data[at : at + step] for at in range(0, len(data), step)])
    return b"".join(Old(method, flags, size, lambda: next(pieces, b"")).chunks())


def inflated(data: bytes, step: int = 999) -> bytes:
    return decoded(DEFLATED64, data, step=step)


def with_matches() -> Iterator[bytes]:
    """Yield bytes that repeat earlier bytes: repetitions of each length and at each distance."""
    noise = CHANCE.randbytes(6_000)
    yield noise
    for length in range(3, 258):
        at = CHANCE.randrange(5_000)
        yield noise[at : at + length] + CHANCE.randbytes(2)
    for bits in range(1, 14):
        for distance in (1 << bits, 3 << bits - 1):
            piece = CHANCE.randbytes(max(distance, 9))
            yield piece + piece[-distance:][:9]


@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY])
def test_what_deflate_writes_is_read_up_to_its_longest_match(strategy: int) -> None:
    content = b"".join(with_matches())
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
    packed = packer.compress(content) + packer.flush()
    assert inflated(packed) == content


#: From the documents of Deflate64: the smallest length and the number of extra bits of symbol 285.
LONGEST, LONGEST_BITS = 3, 16


def fixed(*symbols: Callable[[Bits], Bits]) -> bytes:
    bits = Bits().put(1, 1).put(1, 2)
    for symbol in symbols:
        symbol(bits)
    return bits.code(0, 7).data


def literal(byte: int) -> Callable[[Bits], Bits]:
    return lambda bits: bits.code(0x30 + byte, 8)


def match(symbol: int, more: int, count: int, far: int, farther: int, bits_of_far: int) -> Callable:  # type: ignore[type-arg]
    """Return a match by its two symbols, each with its extra bits."""

    def write(bits: Bits) -> Bits:
        if symbol < 280:
            bits.code(symbol - 256, 7)
        else:
            bits.code(0xC0 + symbol - 280, 8)
        return bits.put(more, count).code(far, 5).put(farther, bits_of_far)

    return write


def test_the_longest_match_has_16_bits() -> None:
    for length in (3, 4, 258, 259, 65_538):
        data = fixed(literal(97), match(285, length - LONGEST, LONGEST_BITS, 0, 0, 0))
        assert inflated(data) == b"a" * (1 + length)


@pytest.mark.parametrize(
    ("far", "bits", "first"), [(29, 13, 24_577), (30, 14, 32_769), (31, 14, 49_153)]
)
def test_the_farthest_matches_have_distances_up_to_64_kib(far: int, bits: int, first: int) -> None:
    begin = bytes(range(140))
    for more in (0, 1, (1 << bits) - 1):
        length = first + more - len(begin)
        repeated = match(285, length - LONGEST, LONGEST_BITS, 0, 0, 0)
        data = fixed(*map(literal, begin), repeated, match(260, 0, 0, far, more, bits))
        assert inflated(data) == begin + begin[-1:] * length + begin[:6]


@pytest.mark.parametrize("step", [1, 3, 8, 9])
def test_a_match_may_repeat_itself_and_none_begins_before_the_bytes(step: int) -> None:
    for length_symbol, length in ((257, 3), (258, 4), (264, 10)):
        for far, distance in ((0, 1), (1, 2), (2, 3), (3, 4)):
            before = b"abcd"[:distance]
            data = fixed(*map(literal, before), match(length_symbol, 0, 0, far, 0, 0))
            assert inflated(data, step) == (before * 12)[: distance + length]
            short = fixed(*map(literal, before[1:]), match(length_symbol, 0, 0, far, 0, 0))
            with pytest.raises(NotReadError):
                inflated(short, step)


def test_blocks_that_cannot_be_are_damaged() -> None:
    for data in (
        b"",
        Bits().put(1, 1).put(3, 2).put(0, 32).data,
        Bits().put(1, 3).fill().data + b"\1\0\xff\xff" + b"x",
        Bits().put(1, 3).fill().data + b"\2\0\xfd\xff" + b"x",
        fixed(literal(97))[:-1],
        fixed(literal(97), match(286, 0, 0, 0, 0, 0)),
    ):
        with pytest.raises(NotReadError):
            inflated(data)
    whole = Bits().put(1, 3).fill().data + b"\1\0\xfe\xff" + b"x"
    assert inflated(whole) == b"x"


def tree(bits: Bits, count: int, length: int) -> None:
    """Write a tree of implode in which all codes have the same length."""
    bits.put(count // 16 - 1, 8)
    for _ in range(count // 16):
        bits.put(15 << 4 | length - 1, 8)


def inverted(bits: Bits, symbol: int, length: int) -> None:
    bits.code(symbol ^ (1 << length) - 1, length)


@pytest.mark.parametrize("has_codes", [True, False])
@pytest.mark.parametrize("is_large", [True, False])
def test_implode_has_two_windows_and_bytes_with_and_without_codes(
    *, has_codes: bool, is_large: bool
) -> None:
    bits, wanted = Bits(), bytearray()
    low, least = 7 if is_large else 6, 3 if has_codes else 2
    for count, length in ((256, 8), (64, 6), (64, 6))[not has_codes :]:
        tree(bits, count, length)
    for byte in CHANCE.randbytes(300):
        bits.put(1, 1)
        if has_codes:
            inverted(bits, byte, 8)
        else:
            bits.put(byte, 8)
        wanted.append(byte)
    for symbol, more, distance in (
        (0, 0, 1), (1, 0, 2), (5, 0, 64), (5, 0, 65), (5, 0, 128), (5, 0, 129), (62, 0, 300),
        (63, 0, 200), (63, 7, 100), (63, 255, 3), (2, 0, 64 << low), (40, 0, 1000),
    ):  # fmt: skip
        bits.put(0, 1).put(distance - 1 & (1 << low) - 1, low)
        inverted(bits, distance - 1 >> low, 6)
        inverted(bits, symbol, 6)
        if symbol == 63:
            bits.put(more, 8)
        for _ in range(symbol + more + least):
            wanted.append(wanted[-distance] if distance <= len(wanted) else 0)
    flags = 2 * is_large | 4 * has_codes
    for size in (len(wanted), len(wanted) - 1, 299, 1, 0):
        found = decoded(IMPLODED, bits.data, flags=flags, size=size, step=5)
        assert found == wanted[:size]
    with pytest.raises(NotReadError):
        decoded(IMPLODED, bits.data[:-1], flags=flags, size=len(wanted))


def test_a_tree_of_implode_has_as_many_codes_as_symbols() -> None:
    for runs, is_one in (((0xF5,) * 4, True), ((0xF5,) * 3, False), ((0xF4,) * 4, False)):
        both = bytes([len(runs) - 1, *runs]) * 2 + b"\xff" * 9
        if is_one:
            assert len(decoded(IMPLODED, both, size=3)) == 3
        else:
            with pytest.raises(NotReadError):
                decoded(IMPLODED, both, size=3)


def shrunk(*codes: tuple[int, int]) -> bytes:
    bits = Bits()
    for code, width in codes:
        bits.put(code, width)
    return bits.data


@pytest.mark.parametrize(
    ("codes", "content"),
    [
        ([(97, 9)], b"a"),
        ([(97, 9), (98, 9), (257, 9)], b"abab"),
        ([(97, 9), (257, 9), (258, 9)], b"aaaaaa"),
        ([(97, 9), (98, 9), (257, 9), (99, 9), (259, 9)], b"ababcabc"),
        ([(97, 9), (256, 9), (1, 9), (98, 10), (257, 10)], b"abab"),
        ([(97, 9), (98, 9), (256, 9), (2, 9), (99, 9), (257, 9)], b"abcbc"),
        ([(256, 9)], None),
        ([(97, 9), (258, 9)], None),
        ([(97, 9), (256, 9), (3, 9), (98, 9)], None),
        ([(97, 9), (256, 9), (0, 9), (98, 9)], None),
    ],
)
def test_codes_of_shrink_are_made_of_those_before(
    codes: list[tuple[int, int]], content: bytes | None
) -> None:
    if content is None:
        with pytest.raises(NotReadError):
            decoded(SHRUNK, shrunk(*codes), size=9)
        return
    assert decoded(SHRUNK, shrunk(*codes), size=len(content)) == content
    if len(content) > 1:
        assert decoded(SHRUNK, shrunk(*codes), size=len(content) - 1) == content[:-1]


def test_codes_of_shrink_have_13_bits_at_most() -> None:
    widths = range(9, 13)
    codes = [(97, 9), *((code, width) for width in widths for code in (256, 1)), (98, 13)]
    pairs = [(256, width) if code == 256 else (code, width) for code, width in codes]
    assert decoded(SHRUNK, shrunk(*pairs), size=2) == b"ab"
    with pytest.raises(NotReadError):
        decoded(SHRUNK, shrunk(*pairs[:-1], (256, 13), (1, 13), (98, 14)), size=2)


def test_codes_of_shrink_fill_their_table_and_no_more() -> None:
    """The table has 8,192 codes. Later pairs of bytes get no code."""
    content = CHANCE.randbytes(8_200)
    widened = [(code, width) for width in range(9, 13) for code in (256, 1)]
    packed = shrunk((content[0], 9), *widened, *((byte, 13) for byte in content[1:]))
    assert decoded(SHRUNK, packed, size=len(content)) == content
    last = 8_191 - 257  # the place of the pair that has the last code
    again = shrunk((content[0], 9), *widened, *((b, 13) for b in content[1:]), (8_191, 13))
    assert decoded(SHRUNK, again, size=8_202) == content + content[last : last + 2]


def test_a_code_of_shrink_that_continues_itself_is_damaged() -> None:
    """After codes were cleared, the last code can become the beginning of itself."""
    codes = [(97, 9), (98, 9), (257, 9), (256, 9), (2, 9), (99, 9), (257, 9)]
    with pytest.raises(NotReadError):
        decoded(SHRUNK, shrunk(*codes), size=99_999)


def test_bytes_before_the_first_byte_of_implode_are_zeros() -> None:
    """The first bytes of a repetition may lie before the beginning of the member."""
    for distance, repeated in ((2, b"ababa"), (3, b"\0ab\0a"), (4, b"\0\0ab\0"), (9, bytes(5))):
        bits = Bits()
        tree(bits, 64, 6)
        tree(bits, 64, 6)
        bits.put(1, 1).put(97, 8).put(1, 1).put(98, 8).put(0, 1).put(distance - 1, 6)
        inverted(bits, 0, 6)
        inverted(bits, 3, 6)
        assert decoded(IMPLODED, bits.data + bytes(1), size=7) == b"ab" + repeated


def test_a_code_that_no_symbol_has_is_damaged() -> None:
    """The codes of seven bits leave half of all values without a symbol."""
    for code, is_one in ((3, True), (63, True), (64, False), (127, False)):
        bits = Bits()
        tree(bits, 64, 7)
        tree(bits, 64, 7)
        bits.put(0, 1).put(0, 6)
        inverted(bits, code, 7)
        inverted(bits, 3, 7)
        if is_one:
            assert decoded(IMPLODED, bits.fill().data + bytes(1), size=5) == bytes(5)
        else:
            with pytest.raises(NotReadError):
                decoded(IMPLODED, bits.fill().data + bytes(1), size=5)


@pytest.mark.parametrize("step", [1, 3, 8, 999])
@pytest.mark.parametrize("behind", [0, 1, 7, 8, 9, 30])
def test_bytes_behind_a_member_are_left_over(behind: int, step: int) -> None:
    """The number of input bytes that were read and not used is known."""
    for method, packed, size in (
        (DEFLATED64, fixed(*map(literal, b"benign")), 0),
        (DEFLATED64, Bits().put(1, 3).fill().data + b"\1\0\xfe\xff" + b"x", 0),
        (SHRUNK, shrunk((97, 9), (98, 9), (257, 9)), 4),
    ):
        data, taken = packed + b"\xff" * behind, 0

        def read(data: bytes = data) -> bytes:
            nonlocal taken
            piece = data[taken : taken + step]
            taken += len(piece)
            return piece

        old = Old(method, 0, size, read)
        assert b"".join(old.chunks())
        assert taken - old.unused == len(packed)


def test_decoded_bytes_come_in_pieces() -> None:
    repeated = match(285, 65_538 - LONGEST, LONGEST_BITS, 0, 0, 0)
    deflated = fixed(literal(97), *[repeated] * 9)
    shrunken = shrunk(*((97, 9), *((code, 9) for code in range(257, 512))), *((511, 9),) * 999)
    bits = Bits()
    tree(bits, 64, 6)
    tree(bits, 64, 6)
    bits.put(1, 1).put(97, 8)
    for _ in range(999):
        bits.put(0, 1).put(0, 6)
        inverted(bits, 0, 6)
        inverted(bits, 63, 6)
        bits.put(255, 8)
    for method, data, size in (
        (DEFLATED64, deflated, 1 + 9 * 65_538),
        (SHRUNK, shrunken, 280_000),
        (IMPLODED, bits.fill().data, 300_000),
    ):
        given = iter([data])
        pieces = list(Old(method, 0, size, lambda given=given: next(given, b"")).chunks())  # type: ignore[misc]
        assert sum(map(len, pieces)) == size
        assert max(map(len, pieces)) <= 131_074 and len(pieces) <= 12

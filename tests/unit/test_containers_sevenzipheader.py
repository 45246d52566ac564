"""The header of a 7z, field by field: numbers, folders, parts of folders, and names."""

from __future__ import annotations

import struct

import pytest

from hashclient.containers.sevenzipheader import Coder, Header, Part, _Fields


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        (b"\0", 0),
        (b"\x7f", 127),
        (b"\x80\x80", 128),
        (b"\x80\0", 0),
        (b"\xbf\xff", (1 << 14) - 1),
        (b"\xc0\0\x40", 1 << 14),
        (b"\xdf\xff\xff", (1 << 21) - 1),
        (b"\xef\xff\xff\xff", (1 << 28) - 1),
        (b"\xf0\0\0\0\x10", 1 << 28),
        (b"\xf7" + b"\xff" * 4, (1 << 35) - 1),
        (b"\xfb" + b"\xff" * 5, (1 << 42) - 1),
        (b"\xfd" + b"\xff" * 6, (1 << 49) - 1),
        (b"\xfe" + b"\x01\0\0\0\0\0\x80", (1 << 55) + 1),
        (b"\xff" + b"\x01\0\0\0\0\0\0\x80", (1 << 63) + 1),
    ],
)
def test_a_number_has_as_many_bytes_as_its_first_one_says(raw: bytes, number: int) -> None:
    fields = _Fields(raw + b"\x05")
    assert (fields.number(), fields.number()) == (number, 5)
    with pytest.raises(ValueError, match=r"\d"):
        _Fields(raw[:-1]).number()


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 17])
def test_bits_fill_whole_bytes_from_the_highest_on(count: int) -> None:
    wanted = [number % 3 == 0 for number in range(count)]
    raw = bytearray(-(-count // 8))
    for number, is_set in enumerate(wanted):
        raw[number // 8] |= is_set << 7 - number % 8
    fields = _Fields(bytes(raw) + b"\x05")
    assert (fields.bits(count), fields.number()) == (wanted, 5)


def test_as_many_things_are_believed_as_the_header_has_bytes() -> None:
    assert _Fields(b"\x03ab").count() == 3
    with pytest.raises(ValueError, match="4"):
        _Fields(b"\x04ab").count()
    assert _Fields(b"abc").take(3) == b"abc"
    for raw, count in ((b"abc", 4), (b"", 1)):
        with pytest.raises(ValueError, match=r"\d"):
            _Fields(raw).take(count)


COPY = b"\1\1\0"


def crc(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}L", *numbers)


def header(
    *chains: bytes,
    packed: bytes = b"\x0a",
    sizes: bytes = b"\x0a",
    packed_sums: bytes = b"",
    sums: bytes = b"",
    parts: bytes = b"",
    files: bytes = b"\x01\x11\x05\0a\0\0\0\0",
) -> bytes:
    """Return a 7z header with one folder for each chain of coders."""
    count = bytes([len(chains)])
    streams = b"\6\x23" + bytes([len(packed)]) + b"\x09" + packed + packed_sums + b"\0"
    streams += b"\x07\x0b" + count + b"\0" + b"".join(chains) + b"\x0c" + sizes + sums + b"\0"
    return b"\1\4" + streams + parts + b"\0\5" + files


def names(*texts: str, empty: bytes = b"", more: bytes = b"") -> bytes:
    raw = b"\0" + "".join(f"{text}\0" for text in texts).encode("utf-16-le")
    return bytes([len(texts)]) + empty + more + b"\x11" + bytes([len(raw)]) + raw + b"\0"


def members(raw: bytes) -> list[tuple[bytes, int, int, int | None]]:
    """Return names, places in the output of the folder, lengths and checksums of members."""
    return [(one.name, one.start, one.size, one.crc) for one in Header(raw).members()]


def test_a_header_has_folders_one_behind_the_other() -> None:
    found = Header(header(COPY, COPY, COPY, packed=b"\5\7\2", sizes=b"\5\7\2", files=names(*"abc")))
    assert not found.is_packed and not found.says_parts
    assert [(one.start, one.packed, one.size) for one in found.folders] == [
        (67, 5, 5), (72, 7, 7), (79, 2, 2),
    ]  # fmt: skip
    assert [part.folder for part in found.members()] == found.folders
    assert Header(b"\x17" + header(COPY)[2:]).is_packed


@pytest.mark.parametrize(
    ("chain", "sizes", "coders"),
    [
        (COPY, b"\x0a", [(b"\0", b"", 10)]),
        (b"\1\0", b"\x0a", [(b"", b"", 10)]),
        (b"\1\x0f" + b"m" * 15, b"\x0a", [(b"m" * 15, b"", 10)]),
        (b"\1\x21\x03\2pp", b"\x0a", [(b"\x03", b"pp", 10)]),
        (b"\1\x21\x03\0", b"\x0a", [(b"\x03", b"", 10)]),
        # The first coder of a pair reads the output of the second coder.
        (b"\2\1A\1B\0\1", b"\x0a\x0b", [(b"B", b"", 11), (b"A", b"", 10)]),
        (b"\2\1A\1B\1\0", b"\x0a\x0b", [(b"A", b"", 10), (b"B", b"", 11)]),
        (
            b"\4\1A\1B\1C\1D\0\1\1\2\2\3", b"\1\2\3\4",
            [(b"D", b"", 4), (b"C", b"", 3), (b"B", b"", 2), (b"A", b"", 1)],
        ),
        (b"\5\1A\1B\1C\1D\1E\0\1\1\2\2\3\3\4", b"\1\2\3\4\5", None),
        (b"\1\x10\1\1", b"\x0a", None),
        (b"\1\x41A", b"\x0a", None),
        (b"\1\x81A", b"\x0a", None),
        (b"\2\1A\1B\0\0", b"\x0a\x0b", None),
        (b"\0", b"", None),
    ],
)  # fmt: skip
def test_coders_are_in_the_order_of_unpacking(
    chain: bytes, sizes: bytes, coders: list[tuple[bytes, bytes, int]] | None
) -> None:
    raw = header(chain, sizes=sizes)
    if coders is None:
        with pytest.raises((ValueError, LookupError)):
            Header(raw)
    else:
        (folder,) = Header(raw).folders
        assert folder.coders == [Coder(*one) for one in coders]
        assert folder.size == coders[-1][2]


ALL, SOME = b"\x0a\1", b"\x0a\0"


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (header(COPY), [(b"a", 0, 10, None)]),
        (header(COPY, sums=ALL + crc(7)), [(b"a", 0, 10, 7)]),
        (header(COPY, sums=SOME + b"\x80" + crc(7)), [(b"a", 0, 10, 7)]),
        (header(COPY, sums=SOME + b"\0"), [(b"a", 0, 10, None)]),
        (header(COPY, packed_sums=ALL + crc(9)), [(b"a", 0, 10, None)]),
        (
            header(
                COPY, COPY, packed=b"\1\2", sizes=b"\5\6", packed_sums=ALL + crc(1, 2),
                sums=SOME + b"\x40" + crc(7), files=names("a", "b"),
            ),
            [(b"a", 0, 5, None), (b"b", 0, 6, 7)],
        ),
        # Parts of folders: a member that fills its folder has the checksum of the folder.
        (header(COPY, parts=b"\x08\0"), [(b"a", 0, 10, None)]),
        (header(COPY, parts=b"\x08" + ALL + crc(5) + b"\0"), [(b"a", 0, 10, 5)]),
        (header(COPY, sums=ALL + crc(7), parts=b"\x08" + ALL + b"\0"), [(b"a", 0, 10, 7)]),
        (header(COPY, parts=b"\x08\x0d\0\0", files=b"\0\0"), []),
        (header(COPY, parts=b"\x08\x0d\0\x09\0", files=b"\0\0"), []),
        (
            header(COPY, parts=b"\x08\x0d\3\x09\4\6\0", files=names(*"abc")),
            [(b"a", 0, 4, None), (b"b", 4, 6, None), (b"c", 10, 0, None)],
        ),
        (
            header(
                COPY, COPY, COPY, packed=b"\1\1\1", sizes=b"\x0a\x0b\x0c",
                sums=SOME + b"\xa0" + crc(70, 80),
                parts=b"\x08\x0d\1\2\2\x09\3\4" + SOME + b"\x50" + crc(6, 8) + b"\0",
                files=names(*"abcde"),
            ),
            [
                (b"a", 0, 10, 70), (b"b", 0, 3, None), (b"c", 3, 8, 6), (b"d", 0, 4, None),
                (b"e", 4, 8, 8),
            ],
        ),
        # Names of members: an empty member is not listed.
        (header(COPY, files=names("a", "b", empty=b"\x0e\1\x80")), [(b"b", 0, 10, None)]),
        (header(COPY, files=names("a", "b", empty=b"\x0e\1\x40")), [(b"a", 0, 10, None)]),
        (header(COPY, files=names("a", more=b"\x15\6\1\0abcd")), [(b"a", 0, 10, None)]),
        (header(COPY, files=names("\u65e5")), [("\u65e5".encode(), 0, 10, None)]),
        # Each header has one fault.
        (header(COPY, parts=b"\x08\x0d\3\x09\4\7\0", files=names(*"abc")), None),
        (header(COPY, parts=b"\x08\x0d\2\0", files=names("a", "b")), None),
        (header(COPY, parts=b"\x08\x0d\2\x09\4\1", files=names("a", "b")), None),
        (header(COPY, parts=b"\x08\x0d\x40\x09", files=names("a", "b")), None),
        (header(COPY, files=names("a", "b")), None),
        (header(COPY, files=b"\1\0"), None),
        (header(COPY, COPY, sizes=b"\1\2", files=names("a", "b")), None),
        (header(COPY, parts=b"\1"), None),
        (header(COPY)[:-1], None),
        (b"\2" + header(COPY)[1:], None),
        (b"\1\3" + header(COPY)[2:], None),
    ],
)  # fmt: skip
def test_members_are_parts_of_folders_in_turn(
    raw: bytes, found: list[tuple[bytes, int, int, int | None]] | None
) -> None:
    if found is None:
        with pytest.raises((ValueError, LookupError)):
            members(raw)
    else:
        assert members(raw) == found


def test_a_part_knows_its_folder() -> None:
    found = Header(header(COPY, COPY, packed=b"\5\7", sizes=b"\5\7", files=names(*"ab")))
    first, second = found.folders
    assert found.members() == [Part(b"a", first, 0, 5, None), Part(b"b", second, 0, 7, None)]

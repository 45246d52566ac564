"""The magic bytes of all kinds, at their edges: which beginnings and ends belong to a kind."""

from __future__ import annotations

import struct
import zlib

import pytest

from fixtures.archives import lzma_of
from hashclient.containers import meaning, sniffing
from hashclient.containers.kind import ANYWHERE, End, Kind, Mark, Sure
from hashclient.containers.kinds import KINDS, is_lzma_header
from hashclient.containers.registry import Registry


def put(*pieces: tuple[int, bytes], size: int = 2_000) -> bytes:
    """Return `size` bytes that begin no kind, with the given pieces at their places."""
    made = bytearray(b"\xff" * size)
    for at, piece in pieces:
        made[at : at + len(piece)] = piece
    return bytes(made[:size])


def sector(*pieces: tuple[int, bytes]) -> bytes:
    """Return a boot sector: zeros, with the signature at the end."""
    return put((0, bytes(512)), *pieces, (510, b"\x55\xaa"))


def row(status: int = 0, kind: int = 7, first: int = 1, count: int = 1) -> bytes:
    return struct.pack("<B3xB3xLL", status, kind, first, count)


def ext(inodes: int = 1, block: int = 0, state: int = 0, revision: int = 0) -> bytes:
    raw = struct.pack("<L20xL28xHH16xL", inodes, block, 0xEF53, state, revision)
    return put((0, bytes(1024)), (1024, raw))


def arj(header: bytes, *, length: int | None = None, crc: int = 0) -> bytes:
    head = struct.pack("<2sH", b"\x60\xea", len(header) if length is None else length) + header
    return head + struct.pack("<L", zlib.crc32(header) + crc) + bytes(20)


def compressed(*codes: int, flags: int = 0x90, size: int = 40) -> bytes:
    """Return a compressed file (.Z) with the given codes of nine bits; all other codes are zero."""
    bits = sum(code << 9 * number for number, code in enumerate(codes))
    return (b"\x1f\x9d" + bytes([flags]) + bits.to_bytes(60, "little"))[:size]


def cpio(begin: bytes, kind: int, length: int, size: int = 40) -> bytes:
    """Return a header of binary cpio in one byte order, from the high bytes of its numbers."""
    at = 6 if begin == b"\x71\xc7" else 7
    return put((0, begin), (at, bytes([kind])), (at + 14, bytes([length])), size=size)


def summed(form: bytes, kind: bytes, total: int = 0) -> bytes:
    """Return a header of old tar whose checksum has the given form, and is wrong by `total`."""
    head = bytearray(b"\xe9name".ljust(512, b"\0"))
    head[148:157] = b" " * 8 + kind
    head[148:156] = form % (sum(head) + total)
    return bytes(head)


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
BLOCK = b"1AY&SY"
ROWS: dict[str, list[tuple[bytes, bool]]] = {
    "disk": [
        (sector((446, row())), True),
        (sector((446, row(0x80, 1))), True),
        (sector((494, row())), True),
        (sector((446, row()), (494, row(0x80))), True),
        (sector((446, row(0x7F))), False),
        (sector((446, row(0x81))), False),
        (sector((446, row(1))), False),
        (sector((446, row()), (494, row(3))), False),
        (sector((446, row(kind=0))), False),
        (sector((446, row(first=0))), False),
        (sector((446, row(count=0))), False),
        (sector((446, row(kind=0)), (462, row(first=0))), False),
        (sector((0, b"MZ"), (446, row())), False),
        (sector((512, b"EFI PART")), True),
        (sector((513, b"EFI PART")), False),
        (sector()[:512], False),
        (sector((446, row()))[:512], True),
        (sector((446, row()))[:511], False),
        (put((512, b"LABELONE")), True),
        (put((513, b"LABELONE")), False),
    ],
    "file-system": [
        *((sector((at, mark)), True) for at, mark in ((3, b"NTFS    "), (3, b"EXFAT   "))),
        *((sector((at, mark)), True) for at, mark in ((54, b"FAT12"), (82, b"FAT32"))),
        (sector((4, b"NTFS    ")), False),
        (sector((55, b"FAT12")), False),
        (sector((81, b"FAT32")), False),
        (ext(), True),
        (ext(inodes=0), False),
        (ext(block=6, state=7, revision=1), True),
        (ext(block=7), False),
        (ext(state=8), False),
        (ext(revision=2), False),
        (ext()[:1104], True),
        (ext()[:1103], False),
        *((put((1024, m)), True) for m in (b"H+\0\4", b"HX\0\5", b"\xe2\xe1\xf5\xe0")),
        (put((1024, b"\x10\x20\xf5\xf2")), True),
        (put((1023, b"H+\0\4")), False),
        (put((32, b"NXSB")), True),
        (put((33, b"NXSB")), False),
    ],
    "appimage": [
        (put((0, b"\x7fELF"), (8, b"AI\1")), True),
        (put((0, b"\x7fELF"), (8, b"AI\2")), True),
        (put((0, b"\x7fELF"), (8, b"AI\3")), False),
        (put((8, b"AI\2")), False),
    ],
    "vdi": [
        (put((0, b"<<< "), (64, b"\x7f\x10\xda\xbe")), True),
        (put((0, b"<<< "), (63, b"\x7f\x10\xda\xbe")), False),
        (put((0, b"<<< "), (65, b"\x7f\x10\xda\xbe")), False),
    ],
    "pack": [
        (put((0, b"\x1f\x1e"), (6, b"\0")), False),
        (put((0, b"\x1f\x1e"), (6, b"\1")), True),
        (put((0, b"\x1f\x1e"), (6, b"\x18")), True),
        (put((0, b"\x1f\x1e"), (6, b"\x19")), False),
        (b"\x1f\x1e\0\0\0\0\1", True),
        (b"\x1f\x1e\0\0\0\0", False),
    ],
    "arj": [
        (arj(b"h"), True),
        (arj(b"header"), True),
        (arj(b"header" * 400), True),
        (arj(b""), False),
        (arj(b"header", crc=1), False),
        (arj(b"header", crc=-1), False),
        (arj(b"header", length=5), False),
        (arj(b"header", length=0xFFFF), False),
    ],
    "ace": [(put((7, b"**ACE**")), True), (put((6, b"**ACE**")), False)],
    "cpio": [
        (b"070701", True),
        (b"070703", False),
        *(
            (cpio(begin, kind, length), is_one)
            for begin in (b"\x71\xc7", b"\xc7\x71")
            for kind, length, is_one in (
                (0x10, 0, True), (0xCF, 0x0F, True), (0x0F, 0, False), (0xD0, 0, False),
                (0x10, 0x10, False),
            )
        ),
        (cpio(b"\x71\xc7", 0x10, 0, 22), True),
        (cpio(b"\x71\xc7", 0x10, 0, 21), False),
        (cpio(b"\xc7\x71", 0x10, 0, 22), True),
    ],
    "ole": [
        *((put((0, OLE), (30, bytes([shift, 0]))), 7 <= shift <= 20) for shift in (6, 7, 20, 21)),
        (put((0, OLE), (30, b"\x09\1")), False),
        (put((0, OLE), (30, b"\x09\0"), size=512), True),
        (put((0, OLE), (30, b"\x09\0"), size=511), False),
    ],
    "pst": [
        *((put((0, b"!BDN"), (8, kind)), True) for kind in (b"SM", b"SO", b"AB")),
        *((put((0, b"!BDN"), (10, bytes([v]))), True) for v in (14, 15, 21, 23, 36)),
        *((put((0, b"!BDN"), (10, bytes([v]))), False) for v in (13, 16, 20, 22, 24, 35, 37)),
        (put((0, b"!BDN"), (7, b"SM")), False),
    ],
    "form": [
        *(
            (b"--x" + end + b"Content-Disposition: " + kind + end * 2, is_one)
            for end in (b"\n", b"\r\n")
            for kind, is_one in ((b"form-data; name=a", True), (b"attachment", False))
        ),
        (b"--x\nX: y\ncontent-disposition:form-data\n\n", True),
        (b"--x\nContent-Disposition: attachment\nX: form-data\n\n", False),
        (b"--x\nX: y\n\nContent-Disposition: form-data\n\n", False),
        (b"--\nContent-Disposition: form-data\n\n", False),
        (b"--\r\nContent-Disposition: form-data\n\n", False),
        (b"-x\nContent-Disposition: form-data\n\n", False),
    ],
    "warc": [
        (b"WARC/1.0\r\n", True),
        (b"WARC/0.18\r\n", True),
        (b"WARC/2.0\r\n", False),
        (b"WARC/1.x\r\n", False),
        (b"WARC/1.\r\n", False),
        (b"WARC/1.0\n", False),
    ],
    "bzip2": [
        *((b"BZh" + level + BLOCK, level not in b"0:") for level in (b"0", b"1", b"9", b":")),
        (b"BZh5\x17\x72\x45\x38\x50\x90", True),
        (b"BZh5\x17\x72\x45\x38\x50\x91", False),
        (b"BZh5x" + BLOCK, False),
        (b"BZh5" + BLOCK[:-1], False),
    ],
    "compress": [
        # unar also takes code lengths over 16.
        *((compressed(97, flags=flags), True) for flags in (0x90, 0x09, 0x10, 0x91, 0x1F, 0x80)),
        # The first code must be a byte; each later code must exist already or be the next code.
        (compressed(255, 257), True),
        (compressed(255, 258), False),
        (compressed(255, 256, 511, flags=0x90), True),
        (compressed(256), False),
        (compressed(255, 256, flags=0x10), True),
        (compressed(255, 257, 1, flags=0x10), False),
        (compressed(97, 257, 258), True),
        (compressed(97, 257, 259), False),
        (compressed(97, 97, 259), False),
        (compressed(*[97] * 15, 271), True),
        (compressed(*[97] * 15, 272), False),
        (compressed(*[97] * 16, 511), True),
        (compressed(97, 511, size=5), True),
        (compressed(97, 511, size=6), False),
    ],
    "tnef": [
        (b"x\x9f\x3e\x22\0\0", True),
        *((b"x\x9f\x3e\x22\0\0" + bytes([n]), n in (1, 2)) for n in (0, 1, 2, 3)),
    ],
    "gzip": [(b"\x1f\x8b\x08" + bytes(7), True), (b"\x1f\x8b\x08" + bytes(6), False)],
    "cab": [
        (b"MSCF" + b"x" * 31 + b"\0", True),
        (b"MSCF\0" + b"x" * 31, True),
        (b"MSCF\0" + b"x" * 30, False),
        (b"MSCF" + b"x" * 32 + b"\0", False),
    ],
    "tar": [
        (put((0, b"a"), (257, b"ustar"), size=512), True),
        (put((0, b"a"), (257, b"ustar"), size=511), False),
        # A tar header without magic bytes is recognised by its checksum.
        (summed(b"%08o", b"x"), True),
        (summed(b"%06o\0 ", b"x"), True),
        (summed(b"%08o", b"x", total=1), False),
        (bytes(512) + summed(b"%08o", b"x"), True),
        (b"x" * 512 + summed(b"%08o", b"x"), True),
        (b"x" * 512 + summed(b"%08o", b"x", total=1), False),
    ],
    "mbox": [
        *((before + b"From x", True) for before in (b"", b"\n", b"\r\n", b"\r\r", b"\n\n\n")),
        (b"\nFrom: x", False),
        (b" From x", False),
        (b"From\tx", False),
    ],
    "encoded": [
        (b"begin 644 a\n", True),
        (b"begin-base64 644 a\n", True),
        (b"begin\tit all\n", False),
        (b"=ybegin line=128", True),
    ],
    "picture in EMF": [
        (put((0, b"\1\0\0\0"), (40, b" EMF")), True),
        (put((0, b"\1\0\0\0"), (39, b" EMF")), False),
        (put((0, b"\1\0\0\0"), (41, b" EMF")), False),
    ],
    "film": [(put((4, b"ftyp")), True), (put((3, b"ftyp")), False)],
    "iso9660": [
        (put((32_769, b"CD001"), size=33_792), True),
        (put((32_769, b"BEA01"), size=33_792), True),
        (put((32_768, b"CD001"), size=33_792), False),
        (put((32_769, b"CD001"), size=32_774), True),
        (put((32_769, b"CD001"), size=32_773), False),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_kind_is_recognised_up_to_the_edges_of_its_marks(name: str) -> None:
    for number, (data, is_one) in enumerate(ROWS[name]):
        for head in (data, memoryview(data)):
            assert (name in [kind.name for kind in sniffing.look(head)]) == is_one, number


#: Well-known marks, each with its offset; the documents of the formats have the same bytes.
MARKS = (
    ("zip", 0, b"PK\3\4"), ("zip", 0, b"PK\5\6"), ("7zip", 0, b"7z\xbc\xaf\x27\x1c"),
    ("rar", 0, b"Rar!\x1a\7\0"), ("rar5", 0, b"Rar!\x1a\7\1\0"), ("rar-1", 0, b"RE~^"),
    ("xz", 0, b"\xfd7zXZ\0"), ("zstd", 0, b"\x28\xb5\x2f\xfd"), ("lz4", 0, b"\x04\x22\x4d\x18"),
    ("lz4", 0, b"\x02\x21\x4c\x18"), ("lzip", 0, b"LZIP\1"), ("lrzip", 0, b"LRZI\0"),
    ("lzop", 0, b"\x89LZO\0\r\n\x1a\n"), ("rzip", 0, b"RZIP"), ("snappy", 0, b"\xff\6\0\0sNaPpY"),
    ("ar", 0, b"!<arch>\n"), ("rpm", 0, b"\xed\xab\xee\xdb"), ("xar", 0, b"xar!\0"),
    ("lha", 2, b"-lh5-"), ("lha", 2, b"-lzs-"), ("lha", 2, b"-pm2-"), ("zoo", 0, b"ZOO 2."),
    ("stuffit", 0, b"SIT!\0"), ("stuffit", 0, b"StuffIt (c)"), ("alz", 0, b"ALZ\1"),
    ("egg", 0, b"EGGA\0"), ("zpaq", 0, b"7kSt"), ("freearc", 0, b"ArC\1"), ("pdf", 0, b"%PDF-"),
    ("web-arc", 0, b"filedesc://"),
    ("pdf", 0, b"\xef\xbb\xbf%PDF-"), ("luks", 0, b"LUKS\xba\xbe"), ("aff", 0, b"AFF10\r\n\0"),
    ("ewf", 0, b"EVF\t\r\n\xff\0"), ("ewf", 0, b"EVF2\r\n\x81\0"), ("qcow", 0, b"QFI\xfb"),
    ("qed", 0, b"QED\0"), ("vmdk", 0, b"KDMV"), ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vhd", 0, b"conectix"), ("vhdx", 0, b"vhdxfile"), ("parallels", 0, b"WithoutFreeSpace"),
    ("wim", 0, b"MSWIM\0\0\0"), ("partclone", 0, b"partclone-image"), ("bkf", 0, b"TAPE\0\0"),
    ("dbx", 0, b"\xcf\xad\x12\xfe"), ("nsf", 0, b"\x1a\0\0\4\0\0"), ("chm", 0, b"ITSF\3\0"),
    ("installshield", 0, b"ISc("), ("onenote", 0, b"\xe4R\\{\x8c\xd8\xa7M\xae\xb1Sx\xd0)\x96\xd3"),
    ("program", 0, b"MZ"), ("program", 0, b"\x7fELF"), ("script", 0, b"#!"),
    ("picture", 0, b"\xff\xd8\xff"), ("picture", 0, b"\x89PNG"), ("picture", 0, b"GIF8"),
    ("sound or film", 0, b"RIFF"), ("sound or film", 0, b"ID3"), ("document", 0, b"{\\rtf"),
)  # fmt: skip


def test_a_mark_is_found_at_its_place_alone() -> None:
    for name, at, mark in MARKS:
        whole = put((0, b"\x55" * 4), (at, mark))
        for data, is_one in ((whole, True), (b"\x55" + whole, False), (whole[1:], False)):
            assert (name in {kind.name for kind in sniffing.look(data)}) is is_one, mark
        short = whole[: at + len(mark) - 1]
        assert name not in {kind.name for kind in sniffing.look(short)}, mark


def test_an_archive_at_the_end_is_looked_for_behind_these_kinds_alone() -> None:
    shown = {kind.name for kind in KINDS if not kind.hides_end}
    assert shown == {"eml", "encoded", "form", "ole", "pdf"}


LENGTHS = {0: True, 1: True, (1 << 38) - 1: True, 1 << 38: False, (1 << 64) - 1: True}
LENGTHS |= {(1 << 64) - 2: False, 1 << 63: False}


@pytest.mark.parametrize(
    ("begin", "is_one"),
    [
        *(
            (struct.pack("<BLQ", 92, window, 9), is_one)
            for window, is_one in (
                (1, True), (2, True), (3, True), (5, False), (6, True), (7, False), (0, True),
                (1 << 31, True), (3 << 30, True), (5 << 29, False), (0xFFFFFFFF, True),
                (0xFFFFFFFE, False), ((1 << 16) + 1, False), (3 << 16, True),
            )
        ),
        *((struct.pack("<BLQ", 93, 1 << 16, length), is_one) for length, is_one in LENGTHS.items()),
        (struct.pack("<BLQ", 93, 0, 0), False),
        (struct.pack("<BLQ", 93, 5 << 8, 9), True),
        (struct.pack("<BLQ", 92, 5 << 8, 9), False),
        (struct.pack("<BLQ", 224, 1 << 16, 9), True),
        (struct.pack("<BLQ", 225, 1 << 16, 9), False),
    ],
)  # fmt: skip
def test_the_fields_of_lzma_make_sense(begin: bytes, *, is_one: bool) -> None:
    assert is_lzma_header(begin + bytes(5)) is is_one
    assert not is_lzma_header(begin + bytes(4))
    assert not is_lzma_header(begin + b"\1" + bytes(4))
    found = [kind.name for kind in sniffing.look(begin + bytes(5))]
    assert ("lzma" in found) is is_one


@pytest.mark.parametrize("mark", [b"conectix", b"koly"])
@pytest.mark.parametrize("size", [512, 513, 5_000])
def test_a_mark_at_the_end_stands_512_bytes_before_it(mark: bytes, size: int) -> None:
    for at, is_one in ((512, True), (511, False), (513, False)):
        data = put((size - at, mark), size=size) if at <= size else put(size=size)
        assert bool(sniffing.kind_by_end(data)) is is_one
        assert sniffing.ends_as_container(data, size, size) is is_one
        buffer = bytearray(data + b"conectix")
        assert sniffing.ends_as_container(buffer, size, size) is is_one
    assert not sniffing.kind_by_end(put((0, mark), size=511))
    assert not sniffing.ends_as_container(put((0, mark), size=511), 511, 511)
    assert not sniffing.ends_as_container(b"", 0, 0)


@pytest.mark.parametrize("last", sorted(sniffing._LAST))
def test_a_last_byte_alone_is_no_end_of_a_container(last: int) -> None:
    data = b"text " * 200 + bytes([last])
    assert not sniffing.ends_as_container(data, len(data), len(data))


ALL = frozenset(range(256))
PROGRAMS = frozenset(b"M\x7f")


@pytest.mark.parametrize(
    ("kind", "least", "begins"),
    [
        (Kind("x"), 0, frozenset()),
        (Kind("x", (Mark(0, (b"AB", b"CDE")),)), 2, frozenset(b"AC")),
        (Kind("x", (Mark(0, (b"ABC",)), Mark(0, (b"DEFG",)))), 3, frozenset(b"AD")),
        (Kind("x", (Mark(1, (b"ABC", b"DE")),)), 3, ALL),
        (Kind("x", (Mark(0, (b"ABCD",)), Mark(5, (b"E",)))), 4, ALL),
        (Kind("x", (Mark(-512, (b"ABC",)),)), 512, ALL),
        (Kind("x", (Mark(ANYWHERE),)), 1, ALL),
        (Kind("x", (Mark(0, (b"ABC",)),), ends=(End(b"yz"), End(b"z"))), 1, ALL),
        (Kind("x", (Mark(0, (b"ABC",)),), in_tail=b"yz"), 2, ALL),
        (Kind("x", in_programs=b"ABC"), 3, PROGRAMS),
        (Kind("x", (Mark(0, (b"ABCD",)),), in_programs=b"EFG"), 3, PROGRAMS | frozenset(b"A")),
    ],
)
def test_a_kind_that_changes_touches_files_that_may_be_of_it(
    kind: Kind, least: int, begins: frozenset[int]
) -> None:
    same = {"x": meaning.number_of(kind)}
    assert meaning.touched(same, [kind]) is None
    for before in ({}, {"x": meaning.number_of(kind) + 1}):
        assert meaning.touched(before, [kind]) == meaning.Touched(least, begins)
    other = Kind("y", (Mark(0, (b"Q",)),))
    both = meaning.touched({}, [kind, other])
    assert both == meaning.Touched(min(least, 1), begins | frozenset(b"Q"))


@pytest.mark.parametrize(
    ("size", "of_front", "of_other"),
    [
        (0, 131_094, 534),
        (534 * 64 - 1, 131_094, 534),
        (535 * 64 - 1, 131_094, 534),
        (535 * 64, 131_094, 535),
        (131_094 * 64 - 1, 131_094, 131_093),
        (131_094 * 64, 131_094, 131_094),
        (131_095 * 64, 131_094, 131_094),
    ],
)
def test_the_end_of_a_file_is_searched_as_far_as_its_length_allows(
    size: int, of_front: int, of_other: int
) -> None:
    assert sniffing.tail_bytes(size, is_front=True) == of_front
    assert sniffing.tail_bytes(size, is_front=False) == of_other


def test_more_of_the_beginning_is_wanted_where_a_mark_may_lie_there() -> None:
    assert [sniffing.wants_more_head(size) for size in (33_791, 33_792)] == [False, True]
    begins = (b"\x60\xea", True), (b"#!/bin/sh", True), (b"\0\0", True), (b"PK", False)
    for head, is_wanted in begins:
        assert sniffing.wants_all_head(head) is is_wanted
        assert sniffing.wants_all_head(memoryview(head + bytes(999))) is is_wanted
        assert not sniffing.wants_all_head(b"x" + head)


def kinds_of(*names: str) -> sniffing.Found:
    return tuple(kind for kind in KINDS if kind.name in names)


@pytest.mark.parametrize(
    ("found", "is_kind", "is_opened", "is_front", "alone", "beside"),
    [
        ((), False, False, False, "", ""),
        (kinds_of("zip"), True, True, False, "", ""),
        (kinds_of("program"), False, False, True, "", ""),
        (kinds_of("luks"), True, False, False, "luks", ""),
        (kinds_of("zip", "luks"), True, True, False, "luks", ""),
        (kinds_of("program", "luks"), True, False, True, "luks", ""),
        ((Kind("x", hides_end=False),), True, False, False, "x", "x"),
        ((*kinds_of("luks"), Kind("x", hides_end=False)), True, False, False, "luks", "x"),
    ],
)
def test_kinds_are_opened_or_not_or_fronts(
    found: sniffing.Found,
    *,
    is_kind: bool,
    is_opened: bool,
    is_front: bool,
    alone: str,
    beside: str,
) -> None:
    assert sniffing.is_kind(found) is is_kind
    assert sniffing.is_opened(found) is is_opened
    assert sniffing.is_front(found) is is_front
    assert sniffing.not_opened(found) == alone
    assert sniffing.not_opened(found, is_other=True) == beside


def test_the_version_of_a_kind_changes_only_if_its_rules_change() -> None:
    """After another version, a scan looks again at files that it remembers."""
    assert {kind.name: kind.version for kind in KINDS if kind.version != 1} == {}


def test_some_kinds_have_readings_guesses_and_a_number_of_members() -> None:
    registry = Registry()
    names = [kind.name for kind in KINDS]
    readings = {name for name in names if registry.has_readings(name)}
    assert readings == {"mbox", "eml", "message", "form"}
    limits = {name: most for name in names if (most := registry.most_members(name)) is not None}
    assert limits == {"zip": 4_194_304}
    sure = {kind.name: kind.sure for kind in KINDS if kind.sure is not Sure.MARK}
    assert sure == {"mbox": Sure.VERIFIED, "lzma": Sure.GUESS}
    at = {kind.name: kind.in_programs_at for kind in KINDS if kind.in_programs_at}
    assert at == {"tar": 257, "lha": 2}
    seeks = {one.name for name in names for one in registry.named(name) if one.seeks}
    archives = {"7zip", "rar5", "rar", "xar", "zip"}
    assert seeks - {"pdf"} == {*archives, "iso9660", "ole", "pst"}


def test_a_guess_gives_way_to_a_kind_that_is_sure() -> None:
    guess = lzma_of(b"x")
    for data, names in ((guess, ["lzma"]), (guess.ljust(32_769, b"\0") + b"CD001", ["iso9660"])):
        assert [one.name for one in Registry().pick(data, b"")] == names


TEXT, MAIL = b"key: value\nother:\n" * 60, b"Subject: x\nTo: y\n"
NOT_YET = [
    (b"PK\3\4" + bytes(40), 3, "zip"),
    (b"\x1f\x8b\x08" + bytes(40), 9, "gzip"),
    (lzma_of(b"x") + bytes(40), 17, "lzma"),
    (arj(b"header" * 400) + bytes(40), 4 + 2_400 + 3, "arj"),
    (put((32_769, b"CD001"), size=33_792), 32_773, "iso9660"),
    (summed(b"%08o", b"x") + bytes(40), 511, "tar"),
]


@pytest.mark.parametrize(("data", "length", "name"), NOT_YET)
def test_bytes_behind_a_file_in_its_buffer_do_not_count(
    data: bytes, length: int, name: str
) -> None:
    """A buffer may contain bytes of an earlier, longer file behind those of a file."""
    for buffer in (data, bytearray(data)):
        for count, is_one in ((length, False), (length + 1, True)):
            padded = bytearray(buffer.ljust(1_152, b"\xff"))
            found = (
                () if sniffing.fits_none(padded, count) else sniffing.look_at(padded, count, False)
            )
            assert (name in [kind.name for kind in found]) is is_one, count


def test_a_text_that_is_all_there_is_ends_where_its_file_ends() -> None:
    buffer = bytearray(TEXT + MAIL)
    for count, is_mail in ((len(TEXT), False), (len(buffer), True)):
        found = sniffing.look_at(buffer, count, True)
        assert [kind.name for kind in found] == ["eml"] * is_mail
    assert [kind.name for kind in sniffing.look_at(buffer, len(TEXT), False)] == ["eml"]


@pytest.mark.parametrize("count", [(64 << 10) - 1, 64 << 10])
def test_a_text_of_64_kib_may_be_a_mail_whatever_its_lines_are(count: int) -> None:
    """A line of 64 KiB is read in pieces, and each piece may begin with a field."""
    found = sniffing.look((TEXT * 100)[:count], is_all=True)
    assert [kind.name for kind in found] == ["eml"] * (count == 65_536)

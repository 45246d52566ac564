"""The kinds of containers that are not opened: disk images, some mail stores, rare archives.

The content of a file of an unopened kind is not checked, so the summary of each scan counts such
files by kind. To add a kind that is not opened, add a row to `KINDS`.

Limits: a kind is recognised by marks in the first 33 KiB, in the last 512 bytes, or behind a
    program.
"""

from __future__ import annotations

import binascii
import zlib
from struct import Struct

from hashclient.containers.kind import Kind, Mark

#: The number of last bytes of a file that are searched for the marks of these kinds.
END_MARK_BYTES = 512
_BOOT_MARK_AT = 510
_PARTITIONS_AT, _PARTITIONS, _PARTITION = 446, 4, Struct("<B3xB3xLL")
_EXT_AT, _EXT_MARK_AT = 1024, 1080
#: the superblock of ext: number of inodes, exponent of the block size, state, revision
_EXT = Struct("<L20xL30xH16xL")
_FILE_SYSTEMS_OF_BOOT = ((3, b"NTFS    "), (3, b"EXFAT   "), (54, b"FAT"), (82, b"FAT32"))
_GPT = b"EFI PART"
_ONENOTE = bytes.fromhex("e4525c7b8cd8a74daeb15378d02996d3")
#: `_ARJ`: the length of an arj header, which precedes the header; `_CRC`: the checksum after the
#: header.
_ARJ, _CRC = Struct("<2xH"), Struct("<L")
#: `_MACBINARY`: the first two bytes of a file of a Macintosh in one piece, which are a zero and the
#: length of its name, and the checksum of its header. `_ARC_KINDS`: the methods of arc. `SIGNED`:
#: the type "signed data" of CMS, which is near the beginning of a p7m.
_MACBINARY, _ARC_KINDS = Struct(">BB122xH"), range(1, 12)
SIGNED = bytes.fromhex("06092a864886f70d010702")


def _is_partitioned(head: bytes) -> bool:
    """Return whether a boot sector has a valid partition table."""
    if head[:2] == b"MZ":  # a Linux kernel also has the bytes of a boot sector
        return False
    if head[512:520] == _GPT:
        return True
    entries = [
        _PARTITION.unpack_from(head, _PARTITIONS_AT + number * _PARTITION.size)
        for number in range(_PARTITIONS)
    ]
    if any(status not in (0, 0x80) for status, _, _, _ in entries):
        return False
    return any(kind and first and count for _, kind, first, count in entries)


def _has_boot_file_system(head: bytes) -> bool:
    return any(head.startswith(mark, at) for at, mark in _FILE_SYSTEMS_OF_BOOT)


def _is_ext(head: bytes) -> bool:
    inodes, block, state, revision = _EXT.unpack_from(head, _EXT_AT)
    return bool(inodes) and block <= 6 and state <= 7 and revision <= 1


def _is_arj(head: bytes) -> bool:
    """Return whether the checksum of the first arj header is right."""
    (length,) = _ARJ.unpack_from(head)
    (crc,) = _CRC.unpack_from(head, 4 + length)
    return bool(length) and crc == zlib.crc32(head[4 : 4 + length])


def _is_macbinary(head: bytes) -> bool:
    """Return whether the checksum of the header is right, which is the CRC-16 of XModem."""
    zero, length, crc = _MACBINARY.unpack_from(head)
    return not zero and 0 < length < 64 and bool(crc == binascii.crc_hqx(head[:124], 0))


def _is_arc(head: bytes) -> bool:
    """Return whether a name of at most 12 printable characters follows the mark and the method."""
    name, _, _ = head[2:15].partition(b"\0")
    return 0 < len(name) <= 12 and name.isascii() and min(name) > 0x20


def _is_old_deb(head: bytes) -> bool:
    """Return whether a length and a gzip follow the line with the version."""
    length, _, rest = head.partition(b"\n")[2].partition(b"\n")
    return length.isdigit() and rest.startswith(b"\x1f\x8b")


KINDS = (
    Kind(
        "disk",
        (Mark(_BOOT_MARK_AT, (b"\x55\xaa",), is_one=_is_partitioned), Mark(512, (b"LABELONE",))),
    ),
    Kind(
        "file-system",
        (
            Mark(_BOOT_MARK_AT, (b"\x55\xaa",), is_one=_has_boot_file_system),
            Mark(_EXT_MARK_AT, (b"\x53\xef",), is_one=_is_ext),
            Mark(1024, (b"H+\0\4", b"HX\0\5", b"\xe2\xe1\xf5\xe0", b"\x10\x20\xf5\xf2")),
            Mark(32, (b"NXSB",)),
            Mark(0, (b"XFSB\0\0", b"hsqs", b"sqsh", b"\x45\x3d\xcd\x28", b"-rom1fs-")),
        ),
    ),
    Kind(
        "appimage",
        (Mark(8, (b"AI\1", b"AI\2"), is_one=lambda head: head.startswith(b"\x7fELF")),),
    ),
    Kind("luks", (Mark(0, (b"LUKS\xba\xbe",)),)),
    Kind(
        "ewf",
        (
            Mark(
                0,
                (
                    b"EVF\x09\x0d\x0a\xff\0",
                    b"EVF2\x0d\x0a\x81\0",
                    b"LVF\x09\x0d\x0a\xff\0",
                    b"LEF2\x0d\x0a\x81\0",
                ),
            ),
        ),
    ),
    Kind("aff", (Mark(0, (b"AFF10\r\n\0",)),)),
    Kind("qcow", (Mark(0, (b"QFI\xfb",)),)),
    Kind("qed", (Mark(0, (b"QED\0",)),)),
    Kind("vmdk", (Mark(0, (b"KDMV", b"COWD\1\0\0\0", b"# Disk DescriptorFile")),)),
    Kind("vhd", (Mark(0, (b"conectix",)), Mark(-END_MARK_BYTES, (b"conectix",)))),
    Kind("vhdx", (Mark(0, (b"vhdxfile",)),)),
    # The signature of a vdi is at a fixed offset; the text before it depends on the program.
    Kind("vdi", (Mark(0, (b"<<< ",), is_one=lambda head: head[64:68] == b"\x7f\x10\xda\xbe"),)),
    Kind("parallels", (Mark(0, (b"WithoutFreeSpace", b"WithouFreSpacExt")),)),
    Kind("dmg", (Mark(-END_MARK_BYTES, (b"koly",)),)),
    Kind("wim", (Mark(0, (b"MSWIM\0\0\0", b"WLPWM\0\0\0")),)),
    Kind("partclone", (Mark(0, (b"partclone-image",)),)),
    Kind("bkf", (Mark(0, (b"TAPE\0\0",)),)),
    Kind("dbx", (Mark(0, (b"\xcf\xad\x12\xfe",)),)),
    Kind("nsf", (Mark(0, (b"\x1a\0\0\4\0\0",)),)),
    Kind("pack", (Mark(0, (b"\x1f\x1e",), is_one=lambda head: 0 < head[6] <= 24),)),
    Kind("arj", (Mark(0, (b"\x60\xea",), is_one=_is_arj, reaches=True),)),
    Kind("ace", (Mark(7, (b"**ACE**",)),)),
    Kind("zoo", (Mark(0, (b"ZOO 2.",)),)),
    Kind("stuffit", (Mark(0, (b"SIT!\0", b"StuffIt (c)", b"StuffIt!", b"StuffIt?")),)),
    Kind("alz", (Mark(0, (b"ALZ\x01",)),)),
    Kind("egg", (Mark(0, (b"EGGA\0",)),)),
    Kind("lzop", (Mark(0, (b"\x89LZO\0\r\n\x1a\n",)),)),
    Kind("lrzip", (Mark(0, (b"LRZI\0",)),)),
    Kind("rzip", (Mark(0, (b"RZIP",)),)),
    Kind("zpaq", (Mark(0, (b"7kSt",)),)),
    Kind("freearc", (Mark(0, (b"ArC\x01",)),)),
    Kind("rar-1", (Mark(0, (b"RE\x7e\x5e",)),)),
    Kind("chm", (Mark(0, (b"ITSF\3\0",)),)),
    Kind("installshield", (Mark(0, (b"ISc(",)),)),
    Kind("nsis", in_programs=b"\xef\xbe\xad\xdeNullsoftInst"),
    Kind("onenote", (Mark(0, (_ONENOTE,)),)),
    Kind("snappy", (Mark(0, (b"\xff\x06\0\0sNaPpY",)),)),
    Kind("arc", (Mark(0, tuple(bytes([0x1A, one]) for one in _ARC_KINDS), is_one=_is_arc),)),
    # The first line of an ARC file of a web crawler is the name of the file.
    Kind("web-arc", (Mark(0, (b"filedesc://",)),)),
    # A block with a number of codes, and at most 19 lengths of codes, follow the mark.
    Kind(
        "lzh",
        (Mark(0, (b"\x1f\xa0",), is_one=lambda h: h[2:4] > b"\0\0" and h[4] >> 3 <= 19),),
    ),
    Kind("lzx", (Mark(0, (b"LZX",), is_one=lambda h: len(h) > 10 and min(h[3:10]) < 0x20),)),
    Kind("deb-old", (Mark(0, (b"0.93",), is_one=_is_old_deb),)),
    Kind("mscompress", (Mark(0, (b"SZDD\x88\xf0\x27\x33", b"KWAJ\x88\xf0\x27\xd1")),)),
    # The versions in the header are the mark, as many files begin with a zero and a small number.
    Kind("macbinary", (Mark(122, (b"\x81\x81", b"\x82\x81"), is_one=_is_macbinary),)),
    Kind("applesingle", (Mark(0, (b"\0\5\x16\0",)),)),
    Kind("simg", (Mark(0, (b"\x3a\xff\x26\xed\1\0",)),)),
    Kind(
        "p7m",
        (
            Mark(
                0,
                tuple(bytes([0x30, length]) for length in range(0x80, 0x85)),
                is_one=lambda head: head.startswith(SIGNED, 2 + (head[1] & 7)),
            ),
        ),
    ),
)
#: The names of all kinds that may stay unopened. The kind pdf is included, because it is only
#: opened if the extra `documents` is installed. The records of scans refer to a kind by its index
#: in this tuple.
NAMES = (*(kind.name for kind in KINDS), "pdf")

"""Kinds of files that hold others and are not opened: images of disks, mail stores, rare archives.

Their content is not checked, so each is counted by its kind, in every summary. To add a kind is
one row in `KINDS`. Records of scans rest on these rows: with another one, `records.PLAIN` gets
another bit (files known as no container are looked at again), and `inside.READS` changes by itself.

Limits: a kind shows within the first 33 KiB or in the last 512 bytes. A message of Outlook is known
by its directory, which Outlook writes at the beginning.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from struct import Struct, error
from typing import NamedTuple

#: Where the last marks stand, counted from the end.
END_MARK_BYTES = 512
_BOOT_MARK_AT = 510
_PARTITIONS_AT, _PARTITIONS, _PARTITION = 446, 4, Struct("<B3xB3xLL")
_EXT_AT, _EXT_MARK_AT = 1024, 1080
#: inodes, exponent of the block size, state, revision
_EXT = Struct("<L20xL30xH16xL")
_FILE_SYSTEMS_OF_BOOT = ((3, b"NTFS    "), (3, b"EXFAT   "), (54, b"FAT"), (82, b"FAT32"))
_GPT = b"EFI PART"
#: Of arj: the length of the header behind it, and the checksum behind that.
_ARJ, _CRC = Struct("<2xH"), Struct("<L")
#: Of an OLE file: the exponent of its sectors, and the first sector of its directory.
_OLE = Struct("<30xH16xL")
_OLE_CLASS_AT = 80
#: {00020D0B-0000-0000-C000-000000000046}, the class of a message.
_MESSAGE = b"\x0b\x0d\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46"


def _is_partitioned(head: bytes) -> bool:
    """Return whether a boot sector has a table of partitions that makes sense."""
    if head[:2] == b"MZ":  # a kernel of Linux has the mark of a boot sector as well
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


def _is_message(head: bytes) -> bool:
    """Return whether the root of an OLE file has the class of a message of Outlook."""
    exponent, sector = _OLE.unpack_from(head)
    at = (sector + 1 << min(exponent, 12)) + _OLE_CLASS_AT
    return head[at : at + len(_MESSAGE)] == _MESSAGE


def _is_compress(head: bytes) -> bool:
    """Return whether the longest code has a length that there is."""
    return not head[2] & 0x60 and 9 <= head[2] & 0x1F <= 16


def _is_arj(head: bytes) -> bool:
    """Return whether the checksum of the first header is right."""
    (length,) = _ARJ.unpack_from(head)
    (crc,) = _CRC.unpack_from(head, 4 + length)
    return bool(length) and crc == zlib.crc32(head[4 : 4 + length])


class Kind(NamedTuple):
    """One kind: its name, a mark and where it stands, and what else has to be true of the head.

    Counted from the end where `at` is negative.
    """

    name: str
    at: int
    mark: bytes
    is_one: Callable[[bytes], bool] = bool


KINDS = (
    # Images of disks and of file systems
    Kind("disk", _BOOT_MARK_AT, b"\x55\xaa", _is_partitioned),
    Kind("disk", 512, b"LABELONE"),
    Kind("file-system", _BOOT_MARK_AT, b"\x55\xaa", _has_boot_file_system),
    Kind("file-system", _EXT_MARK_AT, b"\x53\xef", _is_ext),
    Kind("file-system", 1024, b"H+\0\4"),
    Kind("file-system", 1024, b"HX\0\5"),
    Kind("file-system", 1024, b"\xe2\xe1\xf5\xe0"),  # erofs
    Kind("file-system", 1024, b"\x10\x20\xf5\xf2"),  # f2fs
    Kind("file-system", 32, b"NXSB"),  # APFS
    Kind("file-system", 0, b"XFSB\0\0"),
    Kind("file-system", 0, b"hsqs"),
    Kind("file-system", 0, b"sqsh"),
    Kind("file-system", 0, b"\x45\x3d\xcd\x28"),  # cramfs
    Kind("file-system", 0, b"-rom1fs-"),
    Kind("luks", 0, b"LUKS\xba\xbe"),
    Kind("ewf", 0, b"EVF\x09\x0d\x0a\xff\0"),
    Kind("ewf", 0, b"EVF2\x0d\x0a\x81\0"),
    Kind("ewf", 0, b"LVF\x09\x0d\x0a\xff\0"),
    Kind("ewf", 0, b"LEF2\x0d\x0a\x81\0"),
    Kind("aff", 0, b"AFF10\r\n\0"),
    Kind("qcow", 0, b"QFI\xfb"),
    Kind("qed", 0, b"QED\0"),
    Kind("vmdk", 0, b"KDMV"),
    Kind("vmdk", 0, b"COWD\1\0\0\0"),
    Kind("vmdk", 0, b"# Disk DescriptorFile"),
    Kind("vhd", 0, b"conectix"),
    Kind("vhd", -END_MARK_BYTES, b"conectix"),
    Kind("vhdx", 0, b"vhdxfile"),
    Kind("vdi", 0, b"<<< Oracle VM"),
    Kind("vdi", 0, b"<<< Sun "),
    Kind("vdi", 0, b"<<< innotek"),
    Kind("parallels", 0, b"WithoutFreeSpace"),
    Kind("parallels", 0, b"WithouFreSpacExt"),
    Kind("dmg", -END_MARK_BYTES, b"koly"),
    Kind("wim", 0, b"MSWIM\0\0\0"),
    Kind("wim", 0, b"WLPWM\0\0\0"),
    Kind("partclone", 0, b"partclone-image"),
    Kind("bkf", 0, b"TAPE\0\0"),
    # Mail
    Kind("pst", 0, b"!BDN"),
    Kind("msg", 0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _is_message),
    Kind("dbx", 0, b"\xcf\xad\x12\xfe"),
    Kind("nsf", 0, b"\x1a\0\0\4\0\0"),
    # Archives
    Kind("compress", 0, b"\x1f\x9d", _is_compress),
    Kind("pack", 0, b"\x1f\x1e", lambda head: 0 < head[6] <= 24),  # the depth of its tree
    Kind("arj", 0, b"\x60\xea", _is_arj),
    Kind("ace", 7, b"**ACE**"),
    Kind("zoo", 0, b"ZOO 2."),
    Kind("stuffit", 0, b"SIT!\0"),
    Kind("stuffit", 0, b"StuffIt (c)"),
    Kind("alz", 0, b"ALZ\x01"),
    Kind("egg", 0, b"EGGA\0"),
    Kind("lzop", 0, b"\x89LZO\0\r\n\x1a\n"),
    Kind("lrzip", 0, b"LRZI\0"),
    Kind("rzip", 0, b"RZIP"),
    Kind("zpaq", 0, b"7kSt"),
    Kind("freearc", 0, b"ArC\x01"),
    Kind("rar-1", 0, b"RE\x7e\x5e"),
    Kind("chm", 0, b"ITSF\3\0"),
    Kind("installshield", 0, b"ISc("),
    Kind("snappy", 0, b"\xff\x06\0\0sNaPpY"),
)
#: The names of all kinds; a record has their places.
NAMES = tuple(dict.fromkeys(kind.name for kind in KINDS))
#: A number that another table does not have.
TABLE_SUM = zlib.crc32(repr([kind[:3] for kind in KINDS]).encode())

#: The marks at the very beginning, and the first bytes of these.
begins_unopened = re.compile(
    b"|".join(re.escape(kind.mark) for kind in KINDS if not kind.at), re.DOTALL
).match
FIRST_BYTES = bytes({kind.mark[0] for kind in KINDS if not kind.at})
_AT_START = {kind.mark: kind for kind in KINDS if not kind.at}
_IS_FIRST = bytes(first in FIRST_BYTES for first in range(256))
_LATER = [kind for kind in KINDS if kind.at > 0]
_marked_later = re.compile(
    b"|".join(rb".{%d}%b" % (kind.at, re.escape(kind.mark)) for kind in _LATER), re.DOTALL
).match
_AT_END = [kind for kind in KINDS if kind.at < 0]
_FIRST_AT_END = frozenset(kind.mark[0] for kind in _AT_END)


def kind_by_begin(head: bytes | memoryview) -> str:
    """Return the kind of a file that begins like this, which is not opened; empty for others."""
    found = begins_unopened(head) if head and _IS_FIRST[head[0]] else None
    if found is None and _marked_later(head) is None:
        return ""  # as nearly all files
    kinds = _LATER if found is None else [_AT_START[bytes(found[0])], *_LATER]
    for kind in kinds:
        if head[kind.at : kind.at + len(kind.mark)] == kind.mark:
            try:
                if kind.is_one(bytes(head)):
                    return kind.name
            except (error, IndexError):  # it is too short to be one
                continue
    return ""


def kind_by_end(end: bytes | bytearray | memoryview) -> str:
    """Return the kind of a file that ends like this, which is not opened; empty for others."""
    if len(end) < END_MARK_BYTES or end[-END_MARK_BYTES] not in _FIRST_AT_END:
        return ""  # as nearly all files
    for kind in _AT_END:
        if end[kind.at : kind.at + len(kind.mark)] == kind.mark:
            return kind.name
    return ""

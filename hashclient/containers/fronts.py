"""Bytes that may be in front of an archive, and the places in programs where an archive can begin.

Pictures, films, documents and programs are files of their own, and programs for archives still open
an archive behind them. A search of all bytes would cost as much as a digest, so three places are
searched: the end, where a zip has its directory and rar and 7z have their last header; the place
behind the last section of a program; and the resources of a program for Windows.

Limits: behind bytes of an unknown kind, only a zip near the end is found (`sniffing.tail_bytes`). A
rar or 7z with other bytes behind it, and a cab, are only found in programs. `behind` checks the
archives found here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from struct import Struct

from hashclient.containers.kind import Kind, Mark

#: How programs begin, for Windows and DOS, and for Linux.
PROGRAMS = b"MZ", b"\x7fELF"
#: Bytes at the beginning that show where a program ends.
FRONT_BYTES = 1 << 12
#: How many bytes behind a program, and of its resources, are searched. 7-Zip looks for the
#: beginning of an archive in as many bytes; programs without an archive end before.
SEARCHED_BYTES = 8 << 20
#: The last bytes of a 7z: for a packed header, its method and checksum; for another header, the
#: attributes of all members.
_ATTRIBUTES_OF_7Z, _PACKED_7Z = 0x15, b"\x07\x0b\x01\0"
_END_OF_7Z = re.compile(
    rb"(?s:.*(?:\x07\x0b\x01\x00.{2,80}\x0c.{1,9}\x0a\x01.{4}"
    rb"|\x15[\x06-\xff]\x01\x00(?:.{4})+)\x00\x00\Z)"
)
#: offset of the header; in it: number of sections, length of the optional header
_PE_AT, _PE = Struct("<60xL"), Struct("<4s2xH12xH2x")
#: the size and the place of a section of a program for Windows, behind its name
_SECTION = Struct("<8s8x2L16x")
#: Of a program for DOS: bytes in the last page, and the number of pages.
_DOS = Struct("<2x2H")
#: Of ELF: places and sizes of its tables; by class, and in either order of bytes.
_ELF = {1: "28x2L6x5H", 2: "32x2Q6x5H"}
_ELF_SEGMENT = {1: "4xL8xL", 2: "8xQ16xQ"}


def ends_as_7z(last: bytes) -> bool:
    """Return whether the last KiB of a file ends as 7z does."""
    # Programs and images also end in zeros, but most of them have neither mark.
    return (_ATTRIBUTES_OF_7Z in last or _PACKED_7Z in last) and _END_OF_7Z.match(last) is not None


def _front(name: str, *literals: bytes, version: int = 1) -> Kind:
    return Kind(name, (Mark(0, literals),), is_front=True, version=version)


KINDS = (
    _front("program", *PROGRAMS, version=3),
    _front("script", b"#!"),
    _front(
        "program of macOS or Java",
        *(b"\xca\xfe\xba\xbe", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe"),
        *(b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf"),
    ),
    _front(
        "picture",
        *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"8BPS", b"\xff\x0a"),
        *(b"\0\0\1\0", b"\xd7\xcd\xc6\x9a"),
    ),
    Kind(
        "picture in EMF",
        (Mark(0, (b"\1\0\0\0",), is_one=lambda head: head[40:44] == b" EMF"),),
        is_front=True,
    ),
    _front(
        "sound or film",
        *(b"RIFF", b"OggS", b"ID3", b"fLaC", b"\x1a\x45\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3"),
        *(b"FLV", b"FWS", b"CWS", b"\x30\x26\xb2\x75"),
        *(bytes([0xFF, second]) for second in range(0xF1, 0xFC)),
    ),
    Kind("film", (Mark(4, (b"ftyp",)),), is_front=True),  # the first four bytes vary
    _front(
        "document",
        *(b"%PDF", b"%!PS", b"{\\rtf", b"\xd0\xcf\x11\xe0\xa1\xb1", b"SQLite f"),
        *(b"<!DOC", b"<!doc", b"<html", b"<HTML", b"<svg", b"<?xml"),
    ),
    # Files that resemble a container without being one, and a program of Chrome, which is a zip
    # behind a signature.
    Kind(
        "nearly an archive",
        (
            Mark(
                0,
                (
                    *(b"Cr24", b"PK\7\x08", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"LZIP", b"MSCF"),
                    *(b"Rar!\x1a\7", b"0707", b"\xc7\x71", b"\x71\xc7", b"xar!", b"WARC/"),
                    b"x\x9f\x3e\x22",
                ),
            ),
            Mark(2, (b"-lh", b"-lz", b"-pm")),
        ),
        is_front=True,
    ),
)


def parts(head: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Yield the places in a program that are searched for archives, and their lengths.

    `head` are the first `FRONT_BYTES` of a file of `size` bytes.
    """
    if not head.startswith(PROGRAMS):
        return
    try:
        if head.startswith(b"MZ"):
            end, resources = _windows(head)
            if resources is not None:
                yield resources
        else:
            end = _elf(head)
    except (struct.error, OverflowError):
        end = 0  # the program is cut off, or hides its parts
    if not 0 <= end <= size:
        end = 0  # programs for archives find an archive wherever a program claims to end
    if end < size:
        yield end, min(SEARCHED_BYTES, size - end)


def _windows(head: bytes) -> tuple[int, tuple[int, int] | None]:
    """Return where a program for Windows or DOS ends, and where its resources are."""
    (at,) = _PE_AT.unpack_from(head)
    if head[at : at + 4] != b"PE\0\0":
        last, pages = _DOS.unpack_from(head)
        return pages * 512 - (512 - last if last else 0), None
    _, count, optional = _PE.unpack_from(head, at)
    end, resources = 0, None
    for number in range(count):
        place = at + _PE.size + optional + number * _SECTION.size
        name, length, offset = _SECTION.unpack_from(head, place)
        end = max(end, offset + length)
        if name.rstrip(b"\0") == b".rsrc":
            resources = offset, min(length, SEARCHED_BYTES)
    return end, resources


def _elf(head: bytes) -> int:
    """Return where a program of Linux ends: behind its last section, or last segment."""
    width, order = head[4:5], head[5:6]
    order_sign = ">" if order == b"\2" else "<"
    kind = 1 if width == b"\1" else 2
    fields = Struct(order_sign + _ELF[kind]).unpack_from(head)
    segments, sections, segment_bytes, segment_count, section_bytes, section_count, _ = fields
    end = int(sections + section_bytes * section_count) if sections else 0
    segment = Struct(order_sign + _ELF_SEGMENT[kind])
    for number in range(segment_count):
        offset, length = segment.unpack_from(head, segments + number * segment_bytes)
        end = max(end, offset + length)
    return end

"""Kinds of files that may have an archive appended, and the places of archives in programs.

Pictures, films, documents and programs are files by themselves, and archive programs still open an
archive that is appended to such a file. A search of all bytes would cost as much as a digest, so
only three places are searched. The first place is the end of the file, where a zip has its
directory, and where rar and 7z have their last header. The second place is after the last section
of a program. The third place is the resources of a program for Windows.

Limits: behind bytes of an unknown kind, only a zip near the end of the file is found
(`sniffing.tail_bytes`). An appended cab, and an appended rar or 7z with other bytes after it, are
only found in programs. `behind` checks whether the places that this module yields contain archives.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from struct import Struct

from hashclient.containers.kind import Kind, Mark

#: The first bytes of programs: `MZ` for Windows and DOS, and `ELF` for Linux.
PROGRAMS = b"MZ", b"\x7fELF"
#: How many bytes at the beginning of a program are read to find out where the program ends.
FRONT_BYTES = 1 << 12
#: How many bytes after a program, and how many bytes of its resources, are searched for an archive.
#: 7-Zip also searches 8 MiB.
SEARCHED_BYTES = 8 << 20
#: Byte sequences near the end of a 7z: a packed header ends with its method and checksum, and a
#: header that is not packed ends with the attributes of all members.
_ATTRIBUTES_OF_7Z, _PACKED_7Z = 0x15, b"\x07\x0b\x01\0"
_END_OF_7Z = re.compile(
    rb"(?s:.*(?:\x07\x0b\x01\x00.{2,80}\x0c.{1,9}\x0a\x01.{4}"
    rb"|\x15[\x06-\xff]\x01\x00(?:.{4})+)\x00\x00\Z)"
)
#: `_PE_AT`: the offset of the PE header; `_PE`: the PE header with the number of sections and the
#: length of the optional header
_PE_AT, _PE = Struct("<60xL"), Struct("<4s2xH12xH2x")
#: a section of a program for Windows: its name, its size and its offset
_SECTION = Struct("<8s8x2L16x")
#: the header of a program for DOS: the bytes in the last page, and the number of pages
_DOS = Struct("<2x2H")
#: the ELF header, with the offsets and sizes of its tables, by the ELF class (32 or 64 bits)
_ELF = {1: "28x2L6x5H", 2: "32x2Q6x5H"}
_ELF_SEGMENT = {1: "4xL8xL", 2: "8xQ16xQ"}


def ends_as_7z(last: bytes) -> bool:
    """Return whether `last`, the last KiB of a file, ends like a 7z."""
    # The two byte sequences are searched first, because programs and images also end with zeros,
    # but most of them contain neither sequence.
    return (_ATTRIBUTES_OF_7Z in last or _PACKED_7Z in last) and _END_OF_7Z.match(last) is not None


def _front(name: str, *literals: bytes) -> Kind:
    return Kind(name, (Mark(0, literals),), is_front=True)


KINDS = (
    _front("program", *PROGRAMS),
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
    Kind("film", (Mark(4, (b"ftyp",)),), is_front=True),  # any four bytes precede `ftyp`
    _front(
        "document",
        *(b"%PDF", b"%!PS", b"{\\rtf", b"\xd0\xcf\x11\xe0\xa1\xb1", b"SQLite f"),
        *(b"<!DOC", b"<!doc", b"<html", b"<HTML", b"<svg", b"<?xml"),
    ),
    # Files that look like a container but are none, and extensions of Chrome, which are a zip after
    # a cryptographic signature.
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
    """Yield the offset and length of each place in a program that is searched for archives.

    `head` contains the first `FRONT_BYTES` of a file of `size` bytes.
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
        end = 0  # the program file is truncated, or its tables are invalid
    if not 0 <= end <= size:
        # If the end of the program by its header is impossible, the whole file is searched for
        # archives, as archive programs do.
        end = 0
    if end < size:
        yield end, min(SEARCHED_BYTES, size - end)


def _windows(head: bytes) -> tuple[int, tuple[int, int] | None]:
    """Return the offset where a program for Windows or DOS ends, and the place of its resources."""
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
    """Return the offset where a program for Linux ends, after its last section or segment."""
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

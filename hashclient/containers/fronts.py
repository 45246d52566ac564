"""What may stand in front of an archive, and the places where such an archive shows.

Pictures, films, documents and programs are files of their own, and programs for archives still open
an archive behind them. Three places are looked at, since a search of all bytes would cost as much
as a digest: the end, where a zip has its directory and rar and 7z have their last header; the place
behind the last section of a program; and the resources of a program for Windows.

Limits: behind bytes of no known kind, a zip is looked for near the end only (`tail_bytes`). A rar
or 7z that other bytes follow, and a cab, are looked for in programs only. `behind` makes sure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from struct import Struct

from hashclient.containers.interface import TAIL_BYTES
from hashclient.containers.unopened import kind_by_end

#: Bytes of the end of a zip archive that has no comment behind it.
END_BYTES = 22
#: Bytes at the end of a short file of no known kind: room for a comment. One in `_SHARE` of a long
#: one: to read these costs little where all bytes are digested.
_NEAR_BYTES = END_BYTES + 512
_SHARE = 64
#: Bytes at the beginning that tell where a program ends.
FRONT_BYTES = 1 << 12
_END_OF_ZIP = b"PK\x05\x06"
_LAST_OF_ZIP = _END_OF_ZIP[-1]
#: The last header of rar, version 4 and 5: it has no variable part.
_ENDS_OF_RAR = (b"\xc4\x3d\x7b\x00\x40\x07\x00", b"\x1d\x77\x56\x51\x03\x05\x04\x00")
_LAST_BYTES = 1 << 10
#: The last bytes of 7z: of a header that is packed, how it is packed and its checksum; of another
#: one, the attributes of all members.
_ATTRIBUTES_OF_7Z, _PACKED_7Z = 0x15, b"\x07\x0b\x01\0"
_ends_as_7z = re.compile(
    rb"(?s:.*(?:\x07\x0b\x01\x00.{2,80}\x0c.{1,9}\x0a\x01.{4}"
    rb"|\x15[\x06-\xff]\x01\x00(?:.{4})+)\x00\x00\Z)"
).match
#: Marks of archives at their beginnings.
MARKS = {
    "7zip": b"7z\xbc\xaf\x27\x1c",
    "rar5": b"Rar!\x1a\x07\x01\x00",
    "rar": b"Rar!\x1a\x07\x00",
    "cab": b"MSCF\x00\x00\x00\x00",
}
_PROGRAMS = (b"MZ", b"\x7fELF")
#: How much of what follows a program is searched, and of its resources.
_BEHIND_BYTES = 1 << 16
_RESOURCE_BYTES = 4 << 20

#: Programs, scripts, pictures, sound, films, documents, fonts.
FRONTS = re.compile(
    rb"MZ|\x7fELF|#!|\xca\xfe\xba\xbe|[\xce\xcf]\xfa\xed\xfe|\xfe\xed\xfa[\xce\xcf]|\xff\xd8\xff"
    rb"|\x89PNG|GIF8|BM|II\*\x00|MM\x00\*|RIFF|OggS|ID3|\xff[\xf1-\xfb]|fLaC|%PDF|\x1a\x45\xdf\xa3"
    rb"|\x00\x00\x01[\x00\xba\xb3]|FLV|FWS|CWS|\x30\x26\xb2\x75|8BPS|\xff\x0a"
    rb"|\xd0\xcf\x11\xe0\xa1\xb1|\{\\rtf|%!PS|\x01\x00\x00\x00.{36} EMF|\xd7\xcd\xc6\x9a|SQLite f"
    rb"|<(?:!DOC|!doc|html|HTML|svg|\?xml)",
    re.DOTALL,
)
#: The first bytes of these.
FIRST_OF_FRONTS = b"M\x7f#\xca\xce\xcf\xfe\xff\x89GBIROf%\x1aFC\x30\x38<\x00\xd0{\x01\xd7S"
_IS_FRONT = bytes(first in FIRST_OF_FRONTS for first in range(256))
_LETTER_F = ord("f")

#: offset of the header; in it: number of sections, length of the optional header
_PE_AT, _PE = Struct("<60xL"), Struct("<4s2xH12xH2x")
#: size and place in the file, behind the name, of one section of a program for Windows
_SECTION = Struct("<8s8x2L16x")
#: Of a program for DOS: bytes in the last page, and pages.
_DOS = Struct("<2x2H")
#: Of ELF: places and sizes of its tables; by class, and in either order of bytes.
_ELF = {1: "28x2L6x5H", 2: "32x2Q6x5H"}
_ELF_SEGMENT = {1: "4xL8xL", 2: "8xQ16xQ"}

ReadAt = Callable[[int, int], bytes]


def may_front(head: bytes | memoryview) -> bool:
    """Return whether a file that begins like this may have an archive behind it."""
    if len(head) < 2:
        return False
    if _IS_FRONT[head[0]] and FRONTS.match(head):
        return True
    # A film has its mark behind four bytes of anything.
    return len(head) > 8 and head[4] == _LETTER_F and head[4:8] == b"ftyp"


def tail_bytes(size: int, *, is_front: bool) -> int:
    """Return how many bytes at the end of a file are searched for the end of a zip."""
    return TAIL_BYTES if is_front else min(TAIL_BYTES, max(_NEAR_BYTES, size // _SHARE))


def has_end_of_zip(tail: bytes) -> bool:
    """Return whether a file that ends like this may be a zip archive."""
    return tail.rfind(_END_OF_ZIP) >= 0  # from the end, which takes half as long


def ends_as_archive(data: bytes | bytearray | memoryview) -> bool:
    """Return whether a file that ends like this may be an archive, whatever it begins with.

    Of many bytes, only the last are looked at. This is asked about every file.
    """
    count = len(data) // _SHARE
    tail = data[-count if count > _NEAR_BYTES else -_NEAR_BYTES :]
    if type(tail) is not bytes:
        tail = bytes(tail)
    if _LAST_OF_ZIP in tail and tail.rfind(_END_OF_ZIP) >= 0:  # a text has no such byte
        return True
    return tail[-1:] == b"\0" and _ends_as_other(tail)


def _ends_as_other(tail: bytes) -> bool:
    if tail.endswith(_ENDS_OF_RAR):
        return True
    if not tail.endswith(b"\0\0"):
        return False
    last = tail[-_LAST_BYTES:]
    # Programs and images end in zeros as well, and have mostly neither of these.
    return (_ATTRIBUTES_OF_7Z in last or _PACKED_7Z in last) and _ends_as_7z(last) is not None


def has_other_behind(head: bytes, tail: bytes, size: int, read_at: ReadAt) -> bool:
    """Return whether an archive other than a zip may lie behind other bytes, or in a program.

    `head` are `FRONT_BYTES` at its beginning, `tail` the last bytes, `read_at` returns any others.
    """
    if _ends_as_other(tail):
        return True
    for offset, count in _parts(head, size) if head.startswith(_PROGRAMS) else ():
        part = read_at(offset, count)
        if any(mark in part for mark in MARKS.values()):
            return True
    return False


def has_behind(head: bytes, size: int, read_at: ReadAt) -> bool:
    """Return whether the end shows an archive, or an image, of bytes whose beginning has no mark.

    `head` may be empty if these bytes are no front.
    """
    count = min(size, tail_bytes(size, is_front=may_front(head)))
    tail = read_at(size - count, count)
    if has_end_of_zip(tail) or has_other_behind(head, tail, size, read_at):
        return True
    return bool(kind_by_end(tail))  # it is counted where it is opened


def _parts(head: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Yield the places in a program that are searched, and their lengths."""
    try:
        if head.startswith(b"MZ"):
            end, resources = _windows(head)
            if resources is not None:
                yield resources
        else:
            end = _elf(head)
    except struct.error:
        end = 0  # it is cut off, or hides its parts
    if end < size:
        yield end, min(_BEHIND_BYTES, size - end)


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
            resources = offset, min(length, _RESOURCE_BYTES)
    return end, resources


def _elf(head: bytes) -> int:
    """Return where a program of Linux ends: behind its last section or, without any, segment."""
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

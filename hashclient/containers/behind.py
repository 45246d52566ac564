"""7z, rar, cab and tar behind other bytes: in self-extractors, behind pictures and documents.

`sniffing` tells where such archives may be. Here all bytes are searched for marks; a mark counts if
what is around it holds: the checksum of the first header in 7z, rar and tar, the fields of cab. The
zip expander itself finds a zip behind other bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import cast
from zlib import crc32

from hashclient.containers.forward import Joined, part_of
from hashclient.containers.interface import Data, Expander, Member, NotReadError, Stream, Unlisted
from hashclient.containers.sniffing import IN_PROGRAMS
from hashclient.containers.tarheader import BLOCK_BYTES, is_header

_WINDOW_BYTES = 1 << 20
_LONGEST_MARK = max(at + len(mark) for mark, at in IN_PROGRAMS.values())
#: Archives that are opened in one file. More marks whose checksums are right are no chance.
_MAX_ARCHIVES = 64
#: checksum of what follows; place, length and checksum of the last header
_SEVEN_ZIP = Struct("<8xL2QL")
#: checksum, type, flags, length
_RAR = Struct("<HBHH")
_RAR_MAIN = 0x73
#: length of the archive, place of the first file, version, numbers of folders and files
_CAB = Struct("<8xL4xL4x2B2H")


class Behind:
    """Archives of other kinds than zip, behind anything."""

    name = "behind"
    seeks = True

    def __init__(self, expanders: Sequence[Expander]) -> None:
        """Open each archive with the one of `expanders` for its kind."""
        self._expanders = {one.name: one for one in expanders if one.name in IN_PROGRAMS}

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the members of one archive after the other."""
        for kind, part in _found(cast(Data, data)):
            try:
                yield from self._expanders[kind].members(part)
            except NotReadError as error:
                yield Unlisted(b"", error.why, error.detail)


def _found(data: Data) -> Iterator[tuple[str, Joined]]:
    """Yield kinds and places of the archives in `data`; none that lies in the one before."""
    start = count = 0
    while start < data.size and count < _MAX_ARCHIVES:
        window = data.read_at(start, _WINDOW_BYTES + _LONGEST_MARK)
        at, kind = min(
            (
                (at, kind)
                for kind, (mark, offset) in IN_PROGRAMS.items()
                if (at := window.find(mark, offset) - offset) >= 0
            ),
            default=(_WINDOW_BYTES, ""),
        )
        if at >= _WINDOW_BYTES:
            start += _WINDOW_BYTES
            continue
        part = part_of(data, start + at)
        length = _length(kind, part)
        if length:
            count += 1
            yield kind, part
        start += at + (length or 1)


def _length(kind: str, part: Joined) -> int:
    """Return how long an archive here is: of rar and tar, to the end; 0 if there is none."""
    head = part.read_at(0, 64)
    if len(head) < 32:
        return 0
    if kind == "7zip":
        crc, offset, length, _ = _SEVEN_ZIP.unpack_from(head)
        return 32 + offset + length if crc32(head[12:32]) == crc else 0
    if kind == "cab":
        length, files, minor, major, folders, count = _CAB.unpack_from(head)
        is_one = (major, minor) == (1, 3) and folders and count and 36 < files < length
        return length if is_one and length <= part.size else 0
    if kind == "tar":
        return part.size if is_header(part.read_at(0, BLOCK_BYTES)) else 0
    if kind == "rar":
        crc, block, _, length = _RAR.unpack_from(head, 7)
        block_bytes = part.read_at(9, length - 2) if length > 2 else b""
        return part.size if block == _RAR_MAIN and crc32(block_bytes) & 0xFFFF == crc else 0
    return part.size if _has_rar5_header(head) else 0


def _has_rar5_header(head: bytes) -> bool:
    """Return whether a header of rar 5 with the right checksum follows the mark."""
    length = shift = 0
    for at in range(12, 15):  # of variable length: seven bits in each byte
        length |= (head[at] & 0x7F) << shift
        shift += 7
        if head[at] < 0x80:
            return crc32(head[12 : at + 1 + length]) == int.from_bytes(head[8:12], "little")
    return False

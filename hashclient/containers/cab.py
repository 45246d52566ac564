"""Reads cabinets as the program cabextract does, even several cabinets in one file.

libarchive treats a cabinet as damaged if a block has less than the full length before the last
block of its folder. This module reads the folders of such a cabinet itself, if they are stored or
compressed by MSZIP. libarchive reads all other cabinets. Because libarchive reads only the first
cabinet of a file, this module passes each further cabinet to libarchive as a separate file.

Limits: if a file within an archive has several cabinets, only the first cabinet is read, because
    libarchive reads the file as a stream. A member whose data begins in another cabinet is unread,
    because libarchive does not read it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial
from struct import Struct
from typing import cast

import msgspec

from hashclient.containers.forward import PIECE_BYTES, Forward, Joined, part_of
from hashclient.containers.interface import Data, Member, NotReadError, Stream, Unlisted, Why
from hashclient.containers.libarchive import Libarchive

_MARK = b"MSCF"
_BEGIN = _MARK + bytes(4)
#: `_MAX_CABINETS`: the most cabinets of one file that are read; `_MAX_MARKS`: the most occurrences
#: of `MSCF` (the first bytes of a cabinet) that are tried and begin no cabinet.
_MAX_CABINETS, _MAX_MARKS = 64, 10_000
#: the header: offset of the first file entry; numbers of folders and files; flags
_HEADER, _HAS_PREVIOUS, _HAS_NEXT, _HAS_RESERVE = Struct("<16xL6x3H4x"), 1, 2, 4
#: the header: numbers of folders and files
_BEGINNING = Struct("<26x2H6x")
#: the reserve fields: bytes reserved in the header, in each folder, and in each block
_RESERVE = Struct("<H2B")
#: a folder: offset of its first block, number of its blocks, compression
_FOLDER, _STORED, _MSZIP, _LZX, _COMPRESSION = Struct("<L2H"), 0, 1, 3, 15
#: a file entry: length, offset in the unpacked folder, number of the folder
_FILE = Struct("<2LH6x")
#: a block: length in the cabinet, length of the unpacked bytes
_BLOCK = Struct("<4x2H")
_BLOCK_BYTES = 32_768
_MAX_NAME_BYTES, _MOST_OF_NAME = 257, 255


class _Folder(msgspec.Struct, frozen=True):
    start: int
    blocks: int
    compression: int
    reserve: int  # bytes reserved in each block


class _Marks(Forward):
    """A position in a file, from which `MSCF`, the first bytes of a cabinet, can be searched."""

    def find(self) -> bool:
        """Move to the next occurrence of `MSCF`; return False if there is none."""
        while (found := self._buffer.find(_MARK, self._at)) < 0:
            self._at = max(len(self._buffer) - len(_MARK) + 1, self._at)
            if not self._more():
                return False
        self._at = found
        return True


class _Passing:
    """A stream that passes its bytes on, and notes where it has last read `MSCF`."""

    def __init__(self, stream: Forward) -> None:
        self._stream = stream
        self._rest = b""
        self.length = self.last = 0

    def read(self, count: int) -> bytes:
        """Return the next bytes of the stream."""
        piece = self._stream.some(count)
        text = self._rest + piece
        if (at := text.rfind(_MARK)) >= 0:
            self.last = self.length - len(self._rest) + at
        self.length += len(piece)
        self._rest = text[1 - len(_MARK) :]
        return piece


class Cab(Libarchive):
    """The expander of cabinets."""

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """See `Expander`. cabextract searches for `MSCF` (the first bytes of a cabinet) repeatedly.

        If a cabinet's header states an impossible length, or if a member's name is too long,
        cabextract continues the search directly after the first bytes of this cabinet.
        """
        if not hasattr(data, "read_at"):
            yield from self._in_stream(data)
            return
        whole, marks, count, others = cast(Data, data), _Marks(data), 0, 0
        is_more = True
        while is_more:
            part = part_of(whole, marks.position)
            length = _length(part)
            others += not length
            if length or not count:
                if count == _MAX_CABINETS:
                    raise NotReadError(Why.LIMIT, "cab: too many cabinets in one file")
                count += 1
                try:
                    for found in self._one(part):
                        length = 0 if _is_refused(found) else length
                        yield found
                except NotReadError as error:
                    yield Unlisted(b"", error.why, error.detail)
            if others > _MAX_MARKS:
                raise NotReadError(Why.LIMIT, "cab: too many marks of cabinets in one file")
            marks.skip(length if 0 < length == _says(part.read_at(0, 12)) else len(_MARK))
            is_more = marks.find()

    def _in_stream(self, data: Stream) -> Iterator[list[Member] | Unlisted]:
        source = Forward(data)
        end, passing = _says(source.peek(12)), _Passing(source)
        for found in super().members(passing):
            end = 0 if _is_refused(found) else end
            yield found
        while passing.read(PIECE_BYTES):
            pass
        if passing.last >= (end if len(_MARK) < end <= passing.length else len(_MARK)):
            yield Unlisted(b"", Why.UNSUPPORTED, "cab: another cabinet behind it")

    def _one(self, whole: Data) -> Iterator[list[Member] | Unlisted]:
        # Programs skip the reserved bytes of the header, so these bytes are replaced by zeros.
        if whole.size > len(_BEGIN):
            whole = Joined(_BEGIN, whole, len(_BEGIN), whole.size - len(_BEGIN))
        folders = _short(whole)
        yield from _members(whole, folders) if folders else super().members(whole)

    def length(self, data: Data) -> int:
        """See `behind.Begun`; the cabinet and all cabinets behind it count as one archive."""
        return data.size if _length(data) else 0


def _length(data: Data) -> int:
    """Return the length of a cabinet.

    Return 0 if the header does not lead to a valid first folder.

    The version in the header and an impossible length are ignored, because programs ignore them.
    """
    head = data.read_at(0, _HEADER.size)
    if len(head) < _HEADER.size:
        return 0
    folders, files = _BEGINNING.unpack(head)
    least, length = _HEADER.size + _FOLDER.size * folders, _says(head)
    table = _table(data, most=1) if folders and files and least < data.size else []
    if not table or table[0].compression > _LZX or not least < table[0].start < data.size:
        return 0
    return length if table[0].start < length <= data.size else data.size


def _is_refused(found: list[Member] | Unlisted) -> bool:
    """Return whether a member's name is so long that cabextract does not accept the cabinet."""
    return not isinstance(found, Unlisted) and len(found[0].name) > _MOST_OF_NAME


def _says(head: bytes) -> int:
    """Return the length that the header of a cabinet states, in bytes."""
    return int.from_bytes(head[8:12], "little")


def _short(data: Data) -> list[_Folder]:
    """Return a cabinet's folders if one of them has a short block before its last block."""
    folders = _folders(data)
    is_short = False
    for folder in folders:
        if folder.compression not in (_STORED, _MSZIP):
            return []
        lengths = [length for _, _, length in _blocks(data, folder)]
        is_short |= any(length < _BLOCK_BYTES for length in lengths[:-1])
    return folders if is_short else []


def _folders(data: Data) -> list[_Folder]:
    head = data.read_at(0, 40)
    if len(head) < 40:
        return []
    _, _, _, flags = _HEADER.unpack_from(head)
    return [] if flags & (_HAS_PREVIOUS | _HAS_NEXT) else _table(data)


def _table(data: Data, most: int = 1 << 16) -> list[_Folder]:
    """Return at most `most` folders of a cabinet, whose header must be complete."""
    head = data.read_at(0, 40)
    _, count, _, flags = _HEADER.unpack_from(head)
    at, of_folder, of_block = _HEADER.size, 0, 0
    if flags & _HAS_RESERVE:
        of_header, of_folder, of_block = _RESERVE.unpack_from(head, at)
        at += _RESERVE.size + of_header
    step = _FOLDER.size + of_folder
    table = data.read_at(at, min(count, most) * step)
    return [
        _Folder(start, blocks, compression & _COMPRESSION, of_block)
        for start, blocks, compression in (
            _FOLDER.unpack_from(table, place) for place in range(0, len(table) - step + 1, step)
        )
    ]


def _blocks(data: Data, folder: _Folder) -> Iterator[tuple[int, int, int]]:
    """Yield the offset, the packed length and the unpacked length of each block."""
    at = folder.start
    for _ in range(folder.blocks):
        head = data.read_at(at, _BLOCK.size)
        if len(head) < _BLOCK.size:
            return
        packed, length = _BLOCK.unpack(head)
        at += _BLOCK.size + folder.reserve
        yield at, packed, length
        at += packed


def _members(data: Data, folders: list[_Folder]) -> Iterator[list[Member] | Unlisted]:
    at, _, count, _ = _HEADER.unpack(data.read_at(0, _HEADER.size))
    for _ in range(count):
        entry = data.read_at(at, _FILE.size + _MAX_NAME_BYTES)
        if len(entry) <= _FILE.size:
            raise NotReadError(Why.DAMAGED, "cab: ends too early")
        size, place, number = _FILE.unpack_from(entry)
        name = entry[_FILE.size :].partition(b"\0")[0]
        at += _FILE.size + len(name) + 1
        if number >= len(folders):
            yield Unlisted(name, Why.DAMAGED, "cab: no folder")
            continue
        chunks = partial(_chunks, data, folders[number], place, size)
        yield [Member(name, size, is_exact=False, chunks=chunks)]


def _chunks(data: Data, folder: _Folder, place: int, size: int) -> Iterator[bytes]:
    """Yield the bytes of a member that begins at the offset `place` of its unpacked folder.

    Raises:
        NotReadError: the bytes are damaged.
    """
    before = b""
    for at, packed, length in _blocks(data, folder):
        piece = data.read_at(at, packed)
        if folder.compression == _MSZIP:
            piece = before = _inflated(piece, before, length)
        if len(piece) != length:
            raise NotReadError(Why.DAMAGED, "cab: a block of another length")
        piece = piece[place : place + size]
        place = max(0, place - length)
        size -= len(piece)
        if piece:
            yield piece
        if not size:
            return
    if size:
        raise NotReadError(Why.DAMAGED, "cab: ends too early")


def _inflated(packed: bytes, before: bytes, length: int) -> bytes:
    """Return the unpacked bytes of an MSZIP block, which may refer to the previous block."""
    if not packed.startswith(b"CK"):
        raise NotReadError(Why.DAMAGED, "cab: a block that is not compressed")
    try:
        return zlib.decompressobj(-15, zdict=before).decompress(packed[2:], length + 1)
    except zlib.error as error:
        raise NotReadError(Why.DAMAGED, f"cab: {error}") from error

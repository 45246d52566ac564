"""Reads the UDF tree in a disk image (ECMA-167, OSTA UDF 2.60), which libarchive does not read.

Only files that no other tree of the image has are listed; a file is identified by its place and
length. If the tree has a structure that this module does not support, the tree is reported as
unread.

Limits: not supported are virtual partitions (of disks that were written in several sessions), and
files whose content is in several streams.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from struct import Struct
from typing import NamedTuple

import msgspec

from hashclient.containers.forward import PIECE_BYTES
from hashclient.containers.interface import Data, Member, NotReadError, Unlisted, Why

_SECTOR = 2048
_MARKS_AT, _MAX_MARKS, _MARKS = 16, 64, (b"NSR02", b"NSR03")
_ANCHOR_AT = 256
_TAG_BYTES = 16
#: The numbers of the types of descriptors.
_ANCHOR, _PARTITION, _VOLUME, _END = 2, 5, 6, 8
_FILE_SET, _NAME, _FILE, _LONG_FILE = 256, 257, 261, 266
#: `_SHORT`: length and block of a piece; `_LONG`: length, block and partition of a piece
_SHORT, _LONG = Struct("<2L"), Struct("<2LH6x")
_LENGTH_MASK, _NOT_WRITTEN, _CONTINUED = (1 << 30) - 1, (1, 2), 3
_IS_DIRECTORY, _IS_DELETED, _IS_PARENT = 2, 4, 8
_TYPE_DIRECTORY = 4
_MAX_DESCRIPTORS = 256
_MAX_DIRECTORY_BYTES = 64 << 20
_MAX_FILES = 2_000_000
#: All directories together may be longer than the image by at most this factor; in a valid image,
#: no two directories share bytes.
_READ_AGAIN = 4
_MAX_PIECES = 1 << 20

Place = tuple[int, int]


class _File(msgspec.Struct, frozen=True):
    """A file or directory: its length, and the pieces of its bytes.

    A piece that begins at None is a hole.
    """

    size: int
    pieces: list[tuple[int | None, int]]
    is_directory: bool


class _Pieces(NamedTuple):
    """The pieces of a partition; for each piece, the offset of its end in the partition."""

    pieces: list[tuple[int | None, int]]
    ends: list[int]


def members(data: Data, known: set[Place]) -> Iterator[list[Member] | Unlisted]:
    """Yield the files in the UDF tree, except files whose offset and length are in `known`."""
    if not _is_udf(data):
        return
    try:
        volume = _Volume(data)
        for name, file in volume.files():
            if file.size and (_place_of(file), file.size) not in known:
                chunks = partial(_chunks, data, file)
                yield [Member(name, file.size, is_exact=True, chunks=chunks)]
    except NotReadError as error:
        yield Unlisted(b"", error.why, error.detail)


def _place_of(file: _File) -> int | None:
    """Return the offset of a file if its pieces are adjacent; None otherwise."""
    first = end = file.pieces[0][0] if file.pieces else None
    for start, length in file.pieces:
        if start is None or start != end:
            return None
        end = start + length
    return first


def _is_udf(data: Data) -> bool:
    for number in range(_MAX_MARKS):
        mark = data.read_at((_MARKS_AT + number) * _SECTOR + 1, 5)
        if mark in _MARKS:
            return True
        if not mark.strip(b"\0"):
            return False
    return True  # the magic bytes may be in a later sector


def _unsupported(what: str) -> NotReadError:
    return NotReadError(Why.UNSUPPORTED, f"UDF: {what}")


def _damaged(what: str) -> NotReadError:
    return NotReadError(Why.DAMAGED, f"UDF: {what}")


def _number(data: bytes, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "little")


def _tag_of(block: bytes) -> int:
    """Return the number of the descriptor in a block; 0 if the block is no descriptor."""
    tag = block[:_TAG_BYTES]
    is_one = len(tag) == _TAG_BYTES and (sum(tag) - tag[4]) & 0xFF == tag[4]
    return _number(tag, 0, 2) if is_one else 0


class _Volume:
    """The logical volume of an image: the places of its partitions, and its root directory.

    Raises:
        NotReadError: the volume is damaged, or has a form that is not supported.
    """

    def __init__(self, data: Data) -> None:
        self._data = data
        self._block = _SECTOR
        self._starts: dict[int, int] = {}
        #: For each partition, in the order of their numbers: its offset in the image, or its
        #: pieces.
        self._partitions: list[int | _Pieces] = []
        #: `_pieces_left`: how many more pieces of files may be read; `_bytes_left`: how many more
        #: bytes of directories may be read.
        self._pieces_left, self._bytes_left = data.size // _SHORT.size, _READ_AGAIN * data.size
        anchor = self._anchor()
        volume = self._descriptors(_number(anchor, 20, 4), _number(anchor, 16, 4))
        self._block = _number(volume, 212, 4)
        if not 512 <= self._block <= 1 << 15:
            raise _damaged("its blocks have no length")
        self._map(volume)
        self._root = _LONG.unpack_from(volume, 248)

    def files(self) -> Iterator[tuple[bytes, _File]]:
        """Yield all files with their paths."""
        file_set = self._read(self._root, self._block)
        if _tag_of(file_set) != _FILE_SET:
            raise _damaged("no tree")
        root = _LONG.unpack_from(file_set, 400)
        seen = {root[1:]}
        left = [(b"", root)]
        while left:
            path, place = left.pop()
            directory = self._file(place)
            self._bytes_left -= directory.size
            if self._bytes_left < 0:
                raise NotReadError(Why.LIMIT, "UDF: directories with the same bytes")
            if not directory.is_directory or directory.size > _MAX_DIRECTORY_BYTES:
                raise _damaged("a directory is none")
            for name, icb, is_directory in _names(b"".join(_chunks(self._data, directory))):
                if icb[1:] in seen:
                    continue
                seen.add(icb[1:])
                if len(seen) > _MAX_FILES:
                    raise NotReadError(Why.LIMIT, "UDF: too many files")
                below = path + b"/" + name if path else name
                if is_directory:
                    left.append((below, icb))
                else:
                    yield below, self._file(icb)

    def _anchor(self) -> bytes:
        last = self._data.size // _SECTOR - 1
        for sector in (_ANCHOR_AT, last, last - _ANCHOR_AT):
            block = self._data.read_at(max(sector, 0) * _SECTOR, _SECTOR)
            if _tag_of(block) == _ANCHOR:
                return block
        raise _damaged("no anchor")

    def _descriptors(self, sector: int, length: int) -> bytes:
        """Read the volume descriptors; return the descriptor of the logical volume."""
        volume = b""
        # Several versions of a descriptor may exist; the version with the highest number counts.
        newest: dict[tuple[int, int], int] = {}
        for number in range(min(length // _SECTOR, _MAX_DESCRIPTORS + 1)):
            block = self._data.read_at((sector + number) * _SECTOR, _SECTOR)
            tag = _tag_of(block)
            if tag in (_END, 0):
                break
            if number == _MAX_DESCRIPTORS:
                raise NotReadError(Why.LIMIT, "UDF: too many descriptors")
            what = tag, _number(block, 22, 2) if tag == _PARTITION else 0
            version = _number(block, 16, 4)
            if version < newest.setdefault(what, version):
                continue
            newest[what] = version
            if tag == _PARTITION:
                self._starts[what[1]] = _number(block, 188, 4)
            elif tag == _VOLUME:
                volume = block
        if len(volume) < _SECTOR:
            raise _damaged("no volume")
        return volume

    def _map(self, volume: bytes) -> None:
        """Find the place of each partition by the partition maps of the volume."""
        at = 440
        metadata: list[tuple[int, int, int]] = []
        for number in range(min(_number(volume, 268, 4), 64)):
            kind, length = volume[at : at + 2].ljust(2, b"\0")
            name = volume[at + 5 : at + 28]
            start = self._starts.get(_number(volume, at + (4 if kind == 1 else 38), 2))
            if start is None or (kind == 2 and b"Virtual" in name):
                raise _unsupported("a partition of a kind that is not read")
            if kind == 2 and b"Metadata" in name:
                metadata.append((number, start, _number(volume, at + 40, 4)))
            self._partitions.append(start * self._block)
            at += length
        for number, start, place in metadata:
            block = self._data.read_at((start + place) * self._block, self._block)
            of = self._partitions.index(start * self._block)
            pieces = self._parsed(block, of).pieces
            ends = list(accumulate(length for _, length in pieces))
            self._partitions[number] = _Pieces(pieces, ends)

    def _place(self, partition: int, block: int) -> int:
        """Return the offset of a block in the image."""
        if partition >= len(self._partitions):
            raise _damaged("no partition")
        where = self._partitions[partition]
        if isinstance(where, int):
            return where + block * self._block
        offset = block * self._block
        number = bisect_right(where.ends, offset)
        start, length = where.pieces[number] if number < len(where.ends) else (None, 0)
        if start is None:
            raise _damaged("no place")
        return start + offset - (where.ends[number] - length)

    def _read(self, place: tuple[int, int, int], count: int) -> bytes:
        return self._data.read_at(self._place(place[2], place[1]), count)

    def _file(self, place: tuple[int, int, int]) -> _File:
        _, block, partition = place
        at = self._place(partition, block)
        return self._parsed(self._data.read_at(at, self._block), partition, at)

    def _parsed(self, block: bytes, partition: int, at: int = 0) -> _File:
        """Return the file that an entry describes; the entry is at the offset `at` in the image."""
        tag = _tag_of(block)
        if tag not in (_FILE, _LONG_FILE):
            raise _damaged("no entry of a file")
        size = _number(block, 56, 8)
        lengths = 168 if tag == _FILE else 208
        start = lengths + 8 + _number(block, lengths, 4)
        end = start + _number(block, lengths + 4, 4)
        form = block[34] & 7
        is_directory = block[27] == _TYPE_DIRECTORY
        if end > len(block):
            raise _damaged("an entry is too long")
        if form == 3:  # the entry contains the bytes of the file
            return _File(min(size, end - start), [(at + start, end - start)], is_directory)
        if form > 1:
            raise _unsupported("a file of a form that is not read")
        pieces: list[tuple[int | None, int]] = []
        places = block[start:end]
        step = _LONG.size if form else _SHORT.size
        while places:
            head, places = places[:step], places[step:]
            if len(head) < step or not (length := _number(head, 0, 4)):
                break
            self._pieces_left -= 1
            of = _number(head, 8, 2) if form else partition
            where, kind = self._place(of, _number(head, 4, 4)), length >> 30
            length &= _LENGTH_MASK
            if kind == _CONTINUED:
                more = self._data.read_at(where, min(length, self._block))
                places = more[24 : 24 + _number(more, 20, 4)]
            else:
                pieces.append((None if kind in _NOT_WRITTEN else where, length))
            if len(pieces) > _MAX_PIECES or self._pieces_left < 0:
                raise NotReadError(Why.LIMIT, "UDF: too many pieces of a file")
        return _File(size, pieces, is_directory)


def _names(directory: bytes) -> Iterator[tuple[bytes, tuple[int, int, int], bool]]:
    """Yield for each entry of a directory: name, place, and whether it is a directory."""
    at = 0
    while at + 38 <= len(directory):
        if _tag_of(directory[at : at + _TAG_BYTES]) != _NAME:
            raise _damaged("a name is none")
        flags, length = directory[at + 18], directory[at + 19]
        name_at = at + 38 + _number(directory, at + 36, 2)
        if not flags & (_IS_PARENT | _IS_DELETED):
            name = directory[name_at : name_at + length]
            wide = name[:1] == b"\x10"
            text = name[1:].decode("utf-16-be" if wide else "latin-1", "replace")
            yield text.encode(), _LONG.unpack_from(directory, at + 20), bool(flags & _IS_DIRECTORY)
        at = (name_at + length + 3) & ~3


def _chunks(data: Data, file: _File) -> Iterator[bytes]:
    """Yield the bytes of a file.

    Raises:
        NotReadError: the image ends within the file.
    """
    left = file.size
    for start, length in file.pieces:
        position, end = 0, min(length, left)
        left -= end
        while position < end:
            count = min(PIECE_BYTES, end - position)
            piece = bytes(count) if start is None else data.read_at(start + position, count)
            if not piece:
                raise _damaged("ends beyond the end of the image")
            position += len(piece)
            yield piece
    if left:
        raise _damaged("a file is shorter than it says")

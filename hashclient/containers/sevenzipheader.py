"""Parses the last header of a 7z: its folders, and how their content is divided into members.

The functions raise `ValueError` or `LookupError` in two cases. In the first case, the header is
damaged. In the second case, the header contains something that this module does not parse: coders
with several streams (BCJ2), parts of the header that are in other streams, or fields that no
program writes.
"""

from __future__ import annotations

from itertools import accumulate
from struct import Struct
from typing import NamedTuple

HEAD_BYTES, SUM = 32, Struct("<L")

# The numbers of header fields, by 7zFormat.txt of 7-Zip.
HEADER, STREAMS, FILES, PACKED, UNPACKED, PARTS, SIZES, _SUMS = 1, 4, 5, 6, 7, 8, 9, 10
FOLDERS, FOLDER_SIZES, _COUNTS, _EMPTY, NAMES, _PACKED_HEADER = 11, 12, 13, 14, 17, 23
#: The flags of a coder: bits for the length of the method's number, and a bit for properties. A
#: coder with any other flag is refused.
_METHOD_BYTES, HAS_PROPERTIES = 0x0F, 0x20
_MOST_CODERS = 4


class Coder(NamedTuple):
    """One step of unpacking; `size` is the length of the output of the step."""

    method: bytes
    properties: bytes
    size: int


class Folder(NamedTuple):
    """Packed bytes, the coders that unpack them one after the other, and the output's checksum."""

    start: int
    packed: int
    coders: list[Coder]
    crc: int | None

    @property
    def size(self) -> int:
        """The length of the unpacked folder, in bytes."""
        return self.coders[-1].size


class Part(NamedTuple):
    """A member: its name, and its place in the unpacked folder."""

    name: bytes
    folder: Folder
    start: int
    size: int
    crc: int | None


class Header:
    """The last header; its folders are parsed when the object is created."""

    def __init__(self, header: bytes) -> None:
        """Parse the folders; if the header is packed, its folders contain the real header."""
        self._fields = fields = _Fields(header)
        self.is_packed = header[0] == _PACKED_HEADER
        fields.expect(*([_PACKED_HEADER] if self.is_packed else [HEADER, STREAMS]))
        self.folders = _folders(fields)
        #: Whether the header states the sizes of the members in each folder; if not, each folder
        #: has one member.
        self.says_parts = fields.is_next(PARTS)

    def members(self) -> list[Part]:
        """Parse the rest of the header; return all members that have bytes."""
        parts = _parts(self._fields, self.folders)
        return [Part(name, *part) for name, part in zip(_names(self._fields), parts, strict=True)]


class _Fields:
    """The fields of a header, which are read one after the other."""

    def __init__(self, header: bytes) -> None:
        self._header = header
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._header[self._at : self._at + self.checked(count)]
        if len(piece) < count:
            raise ValueError(count)
        self._at += count
        return piece

    def checked(self, count: int) -> int:
        """Return `count` if the rest of the header has enough bytes for this number of elements."""
        if count > len(self._header):
            raise ValueError(count)
        return count

    def byte(self) -> int:
        return self.take(1)[0]

    def expect(self, *marks: int) -> None:
        if (found := self.take(len(marks))) != bytes(marks):
            raise ValueError(found)

    def is_next(self, mark: int) -> bool:
        return self._header[self._at : self._at + 1] == bytes([mark])

    def number(self) -> int:
        first, more = self.byte(), 0
        while more < 8 and first & 0x80 >> more:
            more += 1
        return int.from_bytes(self.take(more), "little") | (first & 0x7F >> more) << 8 * more

    def count(self) -> int:
        return self.checked(self.number())

    def numbers(self, count: int) -> list[int]:
        return [self.number() for _ in range(count)]

    def bits(self, count: int) -> list[bool]:
        given = self.take(-(-count // 8))
        return [bool(given[n // 8] & 0x80 >> n % 8) for n in range(count)]

    def sums(self, count: int) -> list[int | None]:
        are_there = [True] * count if self.byte() else self.bits(count)
        return [SUM.unpack(self.take(4))[0] if one else None for one in are_there]


def _folders(fields: _Fields) -> list[Folder]:
    fields.expect(PACKED)
    start, count = HEAD_BYTES + fields.number(), fields.count()
    fields.expect(SIZES)
    packed = fields.numbers(count)
    while fields.byte():
        fields.sums(count)
    fields.expect(UNPACKED, FOLDERS)
    number = fields.count()
    fields.expect(0)
    chains = [_chain(fields) for _ in range(number)]
    fields.expect(FOLDER_SIZES)
    # The sizes are in the order of the coders in the header, and not in the order of unpacking.
    sizes = [fields.numbers(len(chain)) for chain in chains]
    sums: list[int | None] = [None] * number
    while fields.byte():
        sums = fields.sums(number)
    coders = [
        [Coder(method, properties, out[place]) for place, method, properties in chain]
        for chain, out in zip(chains, sizes, strict=True)
    ]
    starts = accumulate(packed[:-1], initial=start)
    return [Folder(*one) for one in zip(starts, packed, coders, sums, strict=True)]


def _chain(fields: _Fields) -> list[tuple[int, bytes, bytes]]:
    """Return the place, method and properties of a folder's coders, in the order of unpacking."""
    coders = []
    if (count := fields.byte()) > _MOST_CODERS:
        raise ValueError(count)
    for place in range(count):
        flags = fields.byte()
        if flags & ~(_METHOD_BYTES | HAS_PROPERTIES):
            raise ValueError(flags)
        method = fields.take(flags & _METHOD_BYTES)
        coders.append(
            (place, method, fields.take(fields.number()) if flags & HAS_PROPERTIES else b"")
        )
    # In each pair, the first coder reads the output of the second coder.
    pairs = [fields.numbers(2) for _ in range(count - 1)]
    follows = {before: after for after, before in pairs}
    (at,) = set(range(count)).difference(follows.values())
    return [coders[at], *(coders[at := follows[at]] for _ in pairs)]


def _parts(fields: _Fields, folders: list[Folder]) -> list[tuple[Folder, int, int, int | None]]:
    """Return the folder, start, size and checksum of each member."""
    counts = [1] * len(folders)
    starts = [[0] for _ in folders]
    sums = [[folder.crc] for folder in folders]
    mark = fields.byte()
    if mark == PARTS:
        mark = fields.byte()
        if mark == _COUNTS:
            counts = fields.numbers(len(folders))
            fields.checked(sum(counts))
            mark = fields.byte()
        if mark == SIZES:
            starts = [[*accumulate(fields.numbers(count - 1), initial=0)] for count in counts]
            mark = fields.byte()
        # A member that is a whole folder has the checksum of this folder, if the folder has a
        # checksum.
        sums = [
            one if count == 1 else [None] * count for one, count in zip(sums, counts, strict=True)
        ]
        if mark == _SUMS:
            missing = [(one, n) for one in sums for n, crc in enumerate(one) if crc is None]
            for (one, n), crc in zip(missing, fields.sums(len(missing)), strict=True):
                one[n] = crc
            mark = fields.byte()
        fields.expect(0)
    if mark:
        raise ValueError(mark)
    parts = []
    for folder, begins, crcs in zip(folders, starts, sums, strict=True):
        ends = [*begins[1:], folder.size]
        if crcs and (len(crcs) != len(ends) or begins[-1] > folder.size):
            raise ValueError(ends)
        parts += [
            (folder, begin, end - begin, crc)
            for begin, end, crc in zip(begins, ends, crcs, strict=False)
        ]
    return parts


def _names(fields: _Fields) -> list[bytes]:
    """Return the names of all members that have bytes."""
    fields.expect(FILES)
    count = fields.count()
    names: list[str] = []
    are_empty = [False] * count
    while mark := fields.number():
        block = fields.take(fields.number())
        if mark == NAMES:
            names = block[1:].decode("utf-16-le", "replace").split("\0")
        elif mark == _EMPTY:
            are_empty = _Fields(block).bits(count)
    return [name.encode() for name, is_empty in zip(names, are_empty, strict=False) if not is_empty]

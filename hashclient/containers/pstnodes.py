"""The nodes of an Outlook mail store, and the bytes of each node: pages and blocks of [MS-PST].

One tree of pages contains the places of all blocks, and another tree of pages contains all nodes.
The bytes of a node are in one block or, if they are too long, in many blocks to which a tree of
further blocks leads. The nodes below a node are listed in blocks in the same way. A tree is only
followed from a higher level to a lower level, so that no walk through a tree is endless. Pages and
blocks have checksums; if a checksum is wrong, `faults` is increased, and the bytes are still read.
"""

from __future__ import annotations

import base64
import bisect
import functools
import itertools
import zlib
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from hashclient.containers.interface import Data, NotReadError, Why

_HEAD_BYTES = 564
_BLOCKS, _NODES = 0x80, 0x81
_MAX_LEVEL = 8
_CACHED = 64
#: At most `_GIVEN` times the size of the file is read in all, because nodes of a valid file share
#: few bytes. If the file is shorter than `_LEAST_BYTES`, this size is assumed.
_GIVEN, _LEAST_BYTES = 8, 1 << 20
#: the header of a block that lists other blocks: kind, level, number of the listed blocks, and
#: their total length
_INNER = Struct("<BBHL")
_LIST, _BELOW = 1, 2
_PERMUTED, _CYCLIC = 1, 2
#: The possible values of the fourth byte of a heap, which is its kind.
HEAPS = b"\x6c\x7c\x8c\x9c\xa5\xac\xbc\xcc"

#: The tables of [MS-PST] for encoding and decoding the bytes of blocks.
INVERSE = base64.b85decode(
    b"NAa}g3u<ymg-)L9;`o$P;Jcs#=voP@+vB>%e8UjkIR%z5^*3OGjL8#9YaR3Zk0zJOkrx5PGA(W~mH*iz(Ewg~+(b"
    b"JXD8*q{Ado$SxkJ8Z(ndmdz-?Q8vJVz1JgEaz4ccAb_P57k&5Z`rX<UZZ6!)cOb*!=JMImquho5w$B1~_;A6BX^v"
    b"v@O5u%nW^&lw!2W6K^*K1&;$Pv`LNtva<?1nNLlB~j&ii8yFdd;BM^*S-1&^vsT5?=_r+D;3puG)cA+3V(5k{hb&"
    b"=eUsQ&EYAKUuim&e$f1CynV6_A4uNHJ<ietg)Zr1(2#YH6?V4mi!EE{L"
)
SWAPPED = base64.b85decode(
    b"6jKjYv&ed!>t#q678RcY%v5}X01XTaqGG6a+u7~M#iZP<g>=@?r<<;tmT_joW0|<!bCQmPeWhN}U6Zj_QBZ)1Qj|"
    b"|l3TwQLe{M%cK|n+S5z7NV_w?bZk32g0`|uesf(b6kouGzE?r%+P#4Uj|C5Ib`s{96_5;*-#LULpiHzaCxcSHZ?v"
    b"`aQz<k&SmMY$~Ow=pXz2WX=XX?qx+AvwM%8e4evBg!hUuRi_+jOXQ;GL_TzO6aEQ>GRbua3Jy@1!t{Q5YElxCp+4"
    b"@*TN>$ksZ<;A~X2<@mlZCkhY7py}-W+mmX~5Vc^EWS*yEP-e2Efd495r"
)
_FORWARD = bytes(map(INVERSE.index, range(256)))


class Form(NamedTuple):
    """A version of the format: the offsets and lengths of fields that differ between versions.

    `word`: the format character of Python's module `struct` for an offset or a block number.
    """

    word: str
    size_at: int
    encoding_at: int
    page_bytes: int
    #: `counts` and `crc` are at the end of a page: the number and the length of its rows, its
    #: level, and its checksum.
    counts: Struct
    counts_at: int
    crc: Struct
    crc_at: int
    checked: int
    #: `tail` is at the end of a block: its length, its checksum, and its length before compression.
    tail: Struct
    unit: int
    #: The number of bits for the index of an item within a block of a heap.
    item_bits: int


_32 = Form(
    "L", 168, 461, 512, Struct("<BxBB"), 496, Struct("<BB6xL"), 500, 500, Struct("<H6xL"), 64, 11
)
_64 = Form(
    "Q", 184, 513, 512, Struct("<BxBB"), 488, Struct("<BB2xL"), 496, 496, Struct("<H2xL8x"), 64, 11
)
_LARGE = _64._replace(
    page_bytes=4096,
    counts=Struct("<H2xBB"),
    counts_at=4056,
    crc_at=4072,
    checked=4072,
    tail=Struct("<H2xL10xH4x"),
    unit=512,
    item_bits=14,
)
#: The form of each supported version of the format. Version 37 is not supported, because programs
#: disagree whether its pages are long or short.
FORMS = {14: _32, 15: _32, 21: _64, 23: _64, 36: _LARGE}


class Node(NamedTuple):
    """A node.

    `data` is the block that leads to the bytes of the node, and `below` is the block that leads to
    the nodes below the node.
    """

    number: int
    data: int
    below: int
    parent: int = 0


class Nodes:
    """The nodes of one file."""

    def __init__(self, data: Data) -> None:
        """Read the header of the file.

        Raises:
            NotReadError: the version or the encoding of the bytes is unknown.
        """
        head = data.read_at(0, _HEAD_BYTES).ljust(_HEAD_BYTES, b"\0")
        form = FORMS.get(int.from_bytes(head[10:12], "little"))
        if form is None:
            raise NotReadError(Why.UNSUPPORTED, "pst: an unknown version")
        self._data, self.form = data, form
        self._encoding = head[form.encoding_at]
        if self._encoding > _CYCLIC:
            raise NotReadError(Why.ENCRYPTED, "pst: it is encrypted")
        words = Struct(f"<8{form.word}").unpack_from(head, form.size_at)
        self._nodes, self._blocks = words[5], words[7]
        self.faults = int(words[0] > data.size)
        self._left = _GIVEN * max(data.size, _LEAST_BYTES)
        self._branch, self._two = Struct(f"<3{form.word}"), Struct(f"<2{form.word}")
        self._row = {
            _NODES: Struct("<4L" if form is _32 else "<3QL4x"),
            _BLOCKS: Struct("<2LHxx" if form is _32 else "<2QHH4x"),
        }
        self._page = functools.lru_cache(_CACHED)(self._read_page)
        self._block = functools.lru_cache(_CACHED // 4)(self._read_block)

    def take(self, count: int) -> None:
        """Count `count` bytes as read.

        Raises:
            NotReadError: more bytes were read than the limit allows.
        """
        self._left -= count
        if self._left < 0:
            raise NotReadError(Why.LIMIT, "pst: the same bytes are in many places")

    def all(self) -> Iterator[Node]:
        """Yield all nodes that are below no other node."""
        for _ in self._rows(self._blocks, _BLOCKS):
            # A row in a wrong place counts as a fault, because programs that search for the row do
            # not find it.
            pass
        for number, data, below, parent in self._rows(self._nodes, _NODES):
            yield Node(number & 0xFFFFFFFF, data, below, parent)

    def _rows(
        self, place: int, kind: int, above: int = _MAX_LEVEL, low: int = 0, high: int = 1 << 64
    ) -> Iterator[tuple[int, ...]]:
        """Yield the rows of a tree; their numbers must be at least `low` and lower than `high`."""
        self.take(self.form.page_bytes)
        level, rows = self._page(place, kind)
        bounds = [*(row[0] for row in rows), high]
        is_sorted = all(one < next_ for one, next_ in itertools.pairwise(bounds))
        if level >= above or bounds[0] < low or not is_sorted:
            self.faults += 1
        if level < above:
            for row, next_ in zip(rows, bounds[1:], strict=True):
                if level:
                    yield from self._rows(row[2], kind, level, row[0], next_)
                else:
                    yield row

    def find(self, number: int) -> Node | None:
        """Return the node with the number `number`; None if it is missing or below another node."""
        row = self._find(self._nodes, _NODES, number)
        return None if row is None else Node(number, row[1], row[2], row[3])

    def _find(self, place: int, kind: int, key: int) -> tuple[int, ...] | None:
        above = _MAX_LEVEL
        while True:
            level, rows = self._page(place, kind)
            at = bisect.bisect(rows, (key + 1,)) - 1
            if level >= above or at < 0:
                return None
            if not level:
                return rows[at] if rows[at][0] == key else None
            place, above = rows[at][2], level

    def _read_page(self, place: int, kind: int) -> tuple[int, list[tuple[int, ...]]]:
        """Return the level of a page and its rows; the list is empty if the page is invalid."""
        form = self.form
        page = self._data.read_at(min(place, self._data.size), form.page_bytes).ljust(
            form.page_bytes, b"\0"
        )
        count, length, level = form.counts.unpack_from(page, form.counts_at)
        first, second, crc = form.crc.unpack_from(page, form.crc_at)
        row = self._branch if level else self._row[kind]
        is_one = first == second == kind and length >= row.size
        is_one = is_one and count * length <= form.counts_at
        if not is_one or crc != _crc(page[: form.checked]):
            self.faults += 1
        if not is_one:
            return 0, []
        return level, [row.unpack_from(page, at * length) for at in range(count)]

    def block(self, number: int) -> bytes:
        """Return the bytes of a block, as far as they are in the file."""
        content, is_whole = self._block(number & ~1)
        # An odd number counts as a fault if the block is encoded, because some programs use its
        # lowest bit as a part of the decoding key.
        self.faults += not is_whole or (number & 1 and self._encoding == _CYCLIC)
        return content

    def hides_heap(self, content: bytes) -> bool:
        """Return whether some programs would read a heap where this module reads plain data.

        Some programs take data for a list of blocks because of its first bytes. Some programs
        decode all data, even if the header of the store says that the data is not encoded.
        """
        if content[:2] == bytes((_LIST, 1)) and len(content) >= _INNER.size + self._two.size // 2:
            (first,) = Struct(f"<{self.form.word}").unpack_from(content, _INNER.size)
            content = self._block(first & ~1)[0]
        elif not self._encoding:
            content = content[:4].translate(INVERSE)
        return len(content) > 3 and content[2] == 0xEC and content[3] in HEAPS

    def _read_block(self, number: int) -> tuple[bytes, bool]:
        row = self._find(self._blocks, _BLOCKS, number)
        if row is None:
            return b"", False
        form, (place, size, *more) = self.form, row[1:]
        place = min(place, self._data.size)
        content = self._data.read_at(place, size)
        self.take(len(content) + form.tail.size)
        end = place + size + -(size + form.tail.size) % form.unit
        tail = self._data.read_at(end, form.tail.size).ljust(form.tail.size, b"\0")
        count, crc, *lengths = form.tail.unpack(tail)
        is_whole = (count, crc) == (size, _crc(content))
        if form is _LARGE:
            # Two fields contain the length before compression. If they differ, or if the length is
            # too small, the block counts as damaged, because programs would use different lengths.
            is_whole = is_whole and size <= (more[0] or size) == (lengths[0] or size)
        if form is _LARGE and more[0] not in (0, size):
            try:
                content = zlib.decompressobj().decompress(content, more[0])
            except zlib.error:
                content = b""
            is_whole = is_whole and len(content) == more[0]
        if not number & 2:
            content = _decoded(content, self._encoding, number)
        return content, is_whole

    def blocks(self, number: int, above: int = 3) -> Iterator[int]:
        """Yield the numbers of the blocks that contain the bytes, in order.

        `number` is the block that leads to the bytes.
        """
        if not number & 2:
            yield number
            return
        raw = self.block(number)
        self.take(len(raw))
        kind, level, count, _ = _INNER.unpack_from(raw.ljust(_INNER.size, b"\0"))
        step = self._two.size // 2
        if kind != _LIST or not 0 < level < above or len(raw) < _INNER.size + count * step:
            self.faults += 1
            return
        for one in Struct(f"<{count}{self.form.word}").unpack_from(raw, _INNER.size):
            self.faults += level > 1 and not one & 2
            yield from self.blocks(one, level)

    def size(self, number: int) -> int | None:
        """Return the total length of the blocks.

        Return None if the list of the blocks states another total length.
        """
        if not number & 2:
            return len(self.block(number)) if number else 0
        said = _INNER.unpack_from(self.block(number).ljust(_INNER.size, b"\0"))[3]
        return said if said == sum(map(self._length, self.blocks(number))) else None

    def _length(self, number: int) -> int:
        """Return the length of a block without reading it; 0 if the block is cut off."""
        row = self._find(self._blocks, _BLOCKS, number & ~1)
        if row is None or row[1] + row[2] > self._data.size:
            return 0
        return (self.form is _LARGE and row[3]) or row[2]

    def chunks(self, number: int) -> Iterator[bytes]:
        """Yield the bytes to which the block `number` leads.

        Raises:
            NotReadError: bytes are missing or were changed; the error is raised after the last
                bytes.
        """
        faults, size = self.faults, self.size(number)
        for one in self.blocks(number) if number else ():
            yield self.block(one)
        if size is None or self.faults > faults:
            raise NotReadError(Why.DAMAGED, "pst: a part of it is missing or damaged")

    def below(self, number: int, above: int = 3) -> Iterator[Node]:
        """Yield the nodes that are below a node; `number` is the block that leads to them."""
        if not number:
            return
        raw = self.block(number)
        self.take(len(raw))
        at = 4 if self.form is _32 else _INNER.size
        kind, level, count, _ = _INNER.unpack_from(raw.ljust(_INNER.size, b"\0"))
        self.faults += not number & 2  # some programs decode a list of nodes, and others do not
        row = self._two if level else self._branch
        if kind != _BELOW or level >= above or len(raw) < at + count * row.size:
            self.faults += 1
            return
        for place in range(at, at + count * row.size, row.size):
            node, first, *second = row.unpack_from(raw, place)
            if level:
                yield from self.below(first, level)
            else:
                yield Node(node & 0xFFFFFFFF, first, second[0])


def _crc(data: bytes) -> int:
    """Return the checksum of a store: CRC-32 with other initial and final values."""
    return zlib.crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF


def _decoded(content: bytes, encoding: int, number: int) -> bytes:
    """Return the decoded bytes of a block."""
    if encoding == _PERMUTED:
        return content.translate(INVERSE)
    if encoding != _CYCLIC:
        return content
    salt = (number >> 16 ^ number) & 0xFFFF
    out = bytearray(len(content))
    for at, byte in enumerate(content, salt):
        low, high = at & 255, at >> 8 & 255
        middle = SWAPPED[_FORWARD[byte + low & 255] + high & 255]
        out[at - salt] = INVERSE[middle - high & 255] - low & 255
    return bytes(out)

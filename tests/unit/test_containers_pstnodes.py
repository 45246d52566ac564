"""Pages and blocks of an Outlook mail store, field by field: at each edge, and beyond it."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Sequence

import pytest

from fixtures.pst import Writer
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.pstnodes import (
    _FORWARD,
    INVERSE,
    SWAPPED,
    Node,
    Nodes,
    _decoded,
)
from tests.opened import Whole

NODES, BLOCKS = 0x81, 0x80
VERSIONS = (14, 15, 21, 23, 36)
each_version = pytest.mark.parametrize("version", VERSIONS)
each_form = pytest.mark.parametrize("version", [14, 23, 36])


def crc(data: bytes) -> int:
    return zlib.crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF


def pack(version: int, *numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}{'L' if version < 20 else 'Q'}", *numbers)


def page_of(
    version: int, kind: int, rows: Sequence[bytes], level: int = 0, *, count: int | None = None,
    length: int = 0, kinds: bytes = b"", sum_: int | None = None,
) -> bytes:  # fmt: skip
    """Return a page of a tree; `length` is the length of each row, which zeros fill."""
    length = length or len(rows[0])
    count = len(rows) if count is None else count
    page_bytes, room, padding = {14: (512, 496, 0), 23: (512, 488, 4), 36: (4096, 4056, 10)}[
        {15: 14, 21: 23}.get(version, version)
    ]
    page = b"".join(row.ljust(length, b"\0") for row in rows)[:room].ljust(room, b"\0")
    page += struct.pack("<HHBB" if version > 30 else "<BBBB", count, 9, length, level)
    page += bytes(padding)
    ends = struct.pack("<L", crc(page) if sum_ is None else sum_), pack(version, 7)
    start = (kinds or bytes((kind, kind))) + b"xx"
    return (page + start + b"".join(ends[:: -1 if version < 20 else 1])).ljust(page_bytes, b"\0")


def node_row(version: int, number: int, data: int, below: int = 0, parent: int = 0) -> bytes:
    row = pack(version, number, data, below) + struct.pack("<L", parent)
    return row + bytes(4 * (version > 20))


def block_row(version: int, number: int, place: int, size: int, more: int = 0) -> bytes:
    row = pack(version, number, place) + struct.pack("<HH", size, more)
    return row + bytes(4 * (version > 20))


@functools.cache
def head_of(version: int) -> bytes:
    out = Writer(version)
    out.node(0x21, out.properties({}))
    return out.file()[:1024]


class Store:
    """A store whose pages and blocks are written one by one."""

    def __init__(self, version: int = 23) -> None:
        self.version = version
        self.data = bytearray(head_of(version))
        self.roots = {NODES: 0, BLOCKS: 0}
        self.rows: list[bytes] = []

    def put(self, piece: bytes) -> int:
        """Add bytes; return their offset."""
        self.data += bytes(-len(self.data) % 64)
        place = len(self.data)
        self.data += piece
        return place

    def block(self, number: int, content: bytes, tail: bytes | None = None, more: int = 0) -> int:
        """Add a block; return its offset."""
        unit, size = (512, 24) if self.version > 30 else (64, 12 if self.version < 20 else 16)
        if tail is None:
            tail = self.tail(content)
        place = self.put(content + bytes(-(len(content) + size) % unit) + tail)
        self.rows.append(block_row(self.version, number, place, len(content), more))
        return place

    def tail(
        self, content: bytes, size: int | None = None, sum_: int | None = None, more: int = 0
    ) -> bytes:
        size = len(content) if size is None else size
        sum_ = crc(content) if sum_ is None else sum_
        if self.version < 20:
            return struct.pack("<H6xL", size, sum_)
        tail = struct.pack("<H2xL8x", size, sum_)
        return tail + (struct.pack("<2xHL", more, 0) if self.version > 30 else b"")

    def block_at_end(self, number: int, before: int) -> None:
        """Add a block of six bytes that begins `before` bytes before the end of the file."""
        end = self.put(b"") + (4096 if self.version > 30 else 512)
        self.rows.append(block_row(self.version, number, end - before, 6))

    def tree(self, kind: int, rows: Sequence[bytes]) -> None:
        """Add a tree of one page."""
        self.roots[kind] = self.put(page_of(self.version, kind, rows))

    def open(self, *, is_whole: bool = True) -> Nodes:
        """Return the nodes, with the blocks that were added in a tree of one page."""
        if self.rows:
            self.tree(BLOCKS, self.rows)
        at = 168 if self.version < 20 else 184
        roots = (0, self.roots[NODES], 0, self.roots[BLOCKS])
        size = len(self.data) + (not is_whole)
        words = pack(self.version, size, 0, 0, 0, *roots)
        self.data[at : at + len(words)] = words
        return Nodes(Whole(bytes(self.data)))


def store_of(*nodes: bytes, version: int = 23) -> Store:
    store = Store(version)
    store.tree(NODES, nodes or [node_row(version, 0x21, 4)])
    store.block(4, b"benign")
    return store


# The header


def test_versions_that_are_supported_are_opened() -> None:
    for version in (0, 13, *range(14, 25), 35, 36, 37, 255, 14 << 8):
        data = store_of(version=14 if version < 20 else 36 if version > 30 else 23)
        data.data[10:12] = struct.pack("<H", version)
        if version in VERSIONS:
            assert len(list(data.open().all())) == 1
            continue
        with pytest.raises(NotReadError, match=r"^pst: an unknown version$") as refused:
            data.open()
        assert refused.value.why is Why.UNSUPPORTED
    for short in (b"", b"!BDN", bytes(564)):
        with pytest.raises(NotReadError, match="an unknown version"):
            Nodes(Whole(short))


@each_version
def test_an_encoding_that_is_unknown_is_encrypted(version: int) -> None:
    for encoding in range(5):
        store = store_of(version=version)
        store.data[461 if version < 20 else 513] = encoding
        if encoding < 3:
            assert store.open().find(0x21)
            continue
        with pytest.raises(NotReadError, match=r"^pst: it is encrypted$") as refused:
            store.open()
        assert refused.value.why is Why.ENCRYPTED


@each_version
def test_a_store_that_is_shorter_than_it_says_is_damaged(version: int) -> None:
    assert store_of(version=version).open().faults == 0
    assert store_of(version=version).open(is_whole=False).faults == 1
    store = store_of(version=version)
    store.open()
    assert Nodes(Whole(bytes(store.data) + b"more")).faults == 0
    nodes = Nodes(Whole(bytes(store.data[:12])))
    assert (list(nodes.all()), nodes.faults) == ([], 2)


@pytest.mark.parametrize(("size", "most"), [
    (0, 8 << 20), (1 << 20, 8 << 20), ((1 << 20) + 1, (8 << 20) + 8), (2 << 20, 16 << 20),
])  # fmt: skip
def test_bytes_are_read_eight_times_at_most(size: int, most: int) -> None:
    store = store_of()
    store.open()
    data = bytes(store.data).ljust(size, b"\0")
    Nodes(Whole(data)).take(most)
    nodes = Nodes(Whole(data))
    with pytest.raises(NotReadError, match=r"^pst: the same bytes are in many places$") as refused:
        nodes.take(most + 1)
    assert refused.value.why is Why.LIMIT


@each_form
def test_pages_blocks_and_lists_count_as_bytes_that_are_read(version: int) -> None:
    store = store_of(version=version)
    store.block(10, struct.pack("<BBHL", 1, 1, 1, 6) + pack(version, 4))
    store.block(14, struct.pack("<BBH", 2, 0, 0) + bytes(4))
    page_bytes = 4096 if version > 30 else 512
    tail = {14: 12, 23: 16, 36: 24}[version]
    steps: list[tuple[Callable[[Nodes], object], int]] = [
        (lambda nodes: list(nodes.all()), 2 * page_bytes),
        (lambda nodes: nodes.block(4), 6 + tail),
        # A list is read once, but each use of it counts.
        (lambda nodes: [nodes.block(10), *nodes.blocks(10)], 2 * len(pack(version, 0)) + 16 + tail),
        (lambda nodes: list(nodes.below(14)), 16 + tail),
    ]
    for step, count in steps:
        nodes = store.open()
        step(nodes)
        nodes.take((8 << 20) - count)
        with pytest.raises(NotReadError):
            nodes.take(1)


# Trees of pages


@each_version
def test_a_node_has_all_fields_of_its_row(version: int) -> None:
    large = 0 if version < 20 else 1 << 32
    rows = [
        node_row(version, 0x21, 4, 6, 0x122),
        node_row(version, 0x22 | 5 * large, 8 + large, 10 + large, 0xFFFFFFFF),
    ]
    nodes = store_of(*rows, version=version).open()
    wanted = [Node(0x21, 4, 6, 0x122), Node(0x22, 8 + large, 10 + large, 0xFFFFFFFF)]
    assert (list(nodes.all()), nodes.faults) == (wanted, 0)
    assert nodes.find(0x21) == wanted[0]
    assert nodes.find(0x22 | 5 * large) == wanted[1]._replace(number=0x22 | 5 * large)


@each_form
def test_a_node_is_found_by_its_number_alone(version: int) -> None:
    numbers = [5, 6, 9, 20]
    nodes = store_of(*(node_row(version, n, 4) for n in numbers), version=version).open()
    assert [n for n in range(25) if nodes.find(n)] == numbers
    assert nodes.faults == 0


def branches(version: int, *rows: tuple[int, bytes]) -> Store:
    """Return a store whose top page has level 1; `rows` are the first number and a page of each."""
    store = store_of(version=version)
    top = [pack(version, first, 7, store.put(page)) for first, page in rows]
    store.roots[NODES] = store.put(page_of(version, NODES, top, 1))
    return store


def leaf(version: int, *numbers: int, level: int = 0) -> bytes:
    return page_of(version, NODES, [node_row(version, n, 4) for n in numbers], level)


@each_form
@pytest.mark.parametrize(
    ("first", "second", "faults"),
    [
        ((5, 6), (8, 9), 0),
        ((5, 7), (8, 9), 0),
        ((5, 8), (8, 9), 1),
        ((5, 6), (7, 9), 1),
        ((4, 6), (8, 9), 1),
        ((6, 5), (8, 9), 1),
        ((5, 5), (8, 9), 1),
        ((4, 8), (7, 6), 2),
    ],
)
def test_rows_outside_of_the_range_of_their_page_are_read_and_reported(
    version: int, first: tuple[int, int], second: tuple[int, int], faults: int
) -> None:
    nodes = branches(version, (5, leaf(version, *first)), (8, leaf(version, *second))).open()
    assert [node.number for node in nodes.all()] == [*first, *second]
    assert nodes.faults == faults


@each_form
def test_rows_of_blocks_in_a_wrong_place_are_reported(version: int) -> None:
    store = store_of(version=version)
    store.block(12, b"benign")
    store.block(8, b"benign")
    nodes = store.open()
    assert [node.number for node in nodes.all()] == [0x21]
    assert nodes.faults == 1


@each_form
def test_a_tree_has_levels_that_decrease(version: int) -> None:
    for level, is_read in ((0, True), (1, False), (2, False)):
        inner = leaf(version, 5, 6)
        if level:
            inner = page_of(version, NODES, [pack(version, 5, 7, 1024)], level)
        nodes = branches(version, (5, inner)).open()
        assert [node.number for node in nodes.all()] == [5, 6] * is_read
        assert (nodes.faults == 0) is is_read and bool(nodes.find(5)) is is_read
    # A page leads to itself.
    store = store_of(version=version)
    place = len(store.data) + -len(store.data) % 64
    assert store.put(page_of(version, NODES, [pack(version, 5, 7, place)], 1)) == place
    store.roots[NODES] = place
    nodes = store.open()
    assert (list(nodes.all()), nodes.find(5), nodes.faults) == ([], None, 1)


@each_form
@pytest.mark.parametrize("levels", [1, 7, 8])
def test_a_tree_has_eight_levels_at_most(version: int, levels: int) -> None:
    store = store_of(version=version)
    place = store.put(leaf(version, 5, 6))
    for level in range(1, levels + 1):
        place = store.put(page_of(version, NODES, [pack(version, 5, 7, place)], level))
    store.roots[NODES] = place
    nodes = store.open()
    is_read = levels < 8
    assert [node.number for node in nodes.all()] == [5, 6] * is_read
    assert (nodes.find(6) is not None) is is_read and nodes.faults == (not is_read)


@each_form
def test_a_tree_leads_to_the_first_page_that_may_have_a_number(version: int) -> None:
    pages = [(n, leaf(version, n, n + 2)) for n in (5, 10, 15)]
    nodes = branches(version, *pages).open()
    assert [n for n in range(20) if nodes.find(n)] == [5, 7, 10, 12, 15, 17]


SIZES = {14: (16, 12, 12), 23: (32, 24, 24), 36: (32, 24, 24)}
ROOMS = {14: 496, 23: 488, 36: 4056}


@each_form
def test_a_page_has_its_kind_twice_and_rows_that_fit(version: int) -> None:
    row, inner, _ = SIZES[version]
    room = ROOMS[version]
    rows = [node_row(version, number, 4) for number in range(1, 4)]
    cases: list[tuple[bytes, int, int]] = [
        (page_of(version, NODES, rows), 3, 0),
        (page_of(version, NODES, rows, length=row + 4), 3, 0),
        (page_of(version, NODES, rows, length=row - 1), 0, 1),
        (page_of(version, NODES, rows, count=2), 2, 0),
        (page_of(version, NODES, rows, kinds=b"\x81\x80"), 0, 1),
        (page_of(version, NODES, rows, kinds=b"\x80\x81"), 0, 1),
        (page_of(version, NODES, rows, kinds=b"\x80\x80"), 0, 1),
        (page_of(version, NODES, rows, kinds=b"\x82\x81"), 0, 1),
        (page_of(version, NODES, rows, kinds=b"\x82\x82"), 0, 1),
        (page_of(version, NODES, rows, sum_=0xFFFFFFFF), 3, 1),
        (page_of(version, NODES, rows, sum_=1), 3, 1),
        (page_of(version, NODES, rows, sum_=1, kinds=b"\x80\x80"), 0, 1),
        (page_of(version, NODES, rows)[:-40], 0, 1),
    ]
    for length in range(row, 255):
        count = room // length
        if count * length == room and count < 256:
            rows = [node_row(version, number, 4) for number in range(1, count + 2)]
            cases.append((page_of(version, NODES, rows[:-1], length=length), count, 0))
            cases.append((page_of(version, NODES, rows, length=length), 0, 1))
    assert len(cases) > 10
    for number, (page, count, faults) in enumerate(cases):
        store = store_of(version=version)
        store.open()
        store.rows = []
        store.roots[NODES] = store.put(page)
        nodes = store.open()
        found = [node.number for node in nodes.all()]
        assert (found, nodes.faults) == (list(range(1, count + 1)), faults), number
        assert bool(nodes.find(1)) is bool(count)
    for length, is_read in ((inner, True), (inner - 1, False)):
        store = store_of(version=version)
        place = store.put(leaf(version, 5))
        store.roots[NODES] = store.put(
            page_of(version, NODES, [pack(version, 5, 7, place)], 1, length=length)
        )
        nodes = store.open()
        assert [node.number for node in nodes.all()] == [5] * is_read
        assert nodes.faults == (not is_read)


@each_form
def test_a_row_of_a_block_has_a_least_length(version: int) -> None:
    _, _, row = SIZES[version]
    for length, is_read in ((row, True), (row + 1, True), (row - 1, False)):
        store = store_of(version=version)
        rows, store.rows = store.rows, []
        store.roots[BLOCKS] = store.put(page_of(version, BLOCKS, rows, length=length))
        nodes = store.open()
        assert nodes.block(4) == b"benign" * is_read
        assert (nodes.faults == 0) is is_read


@each_form
def test_a_page_beyond_the_end_is_damaged(version: int) -> None:
    store = store_of(version=version)
    store.open()
    for place in (len(store.data), len(store.data) + 1, (1 << 32) - 1):
        store.roots[NODES] = place
        nodes = store.open()
        assert (list(nodes.all()), nodes.find(0x21)) == ([], None) and nodes.faults


# Blocks


@each_form
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_the_end_of_a_block_is_where_its_length_puts_it(version: int, more: int) -> None:
    unit, tail = {14: (64, 12), 23: (64, 16), 36: (512, 24)}[version]
    for units in (1, 2):
        store = store_of(version=version)
        content = b"b" * (units * unit - tail + more)
        store.block(8, content)
        nodes = store.open()
        assert (nodes.block(8), nodes.block(9), nodes.faults) == (content, content, 0)


@each_form
def test_a_block_that_disagrees_with_its_end_is_read_and_reported(version: int) -> None:
    for content in (b"benign", b""):
        tails: list[tuple[dict[str, int], int]] = [
            ({}, 0), ({"size": len(content) + 1}, 1), ({"sum_": crc(content) ^ 1}, 1),
            ({"size": 9, "sum_": 9}, 1), ({"size": max(len(content) - 1, 0)}, bool(content)),
            *(({"sum_": sum_}, 1) for sum_ in (0xFFFFFFFE, 1)),
        ]  # fmt: skip
        for fields, faults in tails:
            store = store_of(version=version)
            store.block(8, content, store.tail(content, **fields))
            nodes = store.open()
            assert (nodes.block(8), nodes.faults) == (content, faults), fields
            # Each use of the block tells it again.
            assert (nodes.block(8), nodes.faults) == (content, 2 * faults)


@each_form
def test_a_block_that_is_missing_or_cut_off_is_reported(version: int) -> None:
    nodes = store_of(version=version).open()
    assert (nodes.block(8), nodes.faults) == (b"", 1)
    for before in (3, 0, -1):
        store = store_of(version=version)
        store.block_at_end(8, before)
        nodes = store.open()
        content = bytes(store.data[-before:]) if before > 0 else b""
        assert (nodes.block(8), nodes.faults, nodes.size(8)) == (content, 1, len(content))
    far = (1 << 32) - 1 if version < 20 else (1 << 64) - 1
    store = store_of(version=version)
    store.rows = [block_row(version, 8, far, 6)]
    nodes = store.open()
    assert (nodes.block(8), nodes.faults) == (b"", 1)


@pytest.mark.parametrize("encoding", [0, 1, 2])
def test_an_odd_number_is_reported_only_where_it_is_a_part_of_the_key(encoding: int) -> None:
    out = Writer(encoding=encoding)
    number = out.block(b"benign")
    inner = out.block(b"benign inner", is_inner=True)
    out.node(0x21, (number, 0))
    nodes = Nodes(Whole(out.file()))
    assert (nodes.block(number), nodes.block(inner), nodes.faults) == (
        b"benign",
        b"benign inner",
        0,
    )
    assert nodes.block(number | 1) == b"benign" and nodes.faults == (encoding == 2)
    assert (nodes.block(0x99), nodes.faults) == (b"", 1 + (encoding == 2))


@pytest.mark.parametrize(
    ("row", "tail", "faults"),
    [
        (0, 0, 0),
        (6, 6, 0),
        (6, 0, 0),
        (0, 6, 0),
        (5, 5, 2),
        (5, 6, 2),
        (7, 7, 2),
        (0, 7, 1),
        (6, 7, 1),
        (0, 5, 1),
    ],
)
def test_both_lengths_before_compression_agree(row: int, tail: int, faults: int) -> None:
    store = store_of(version=36)
    content = b"benign"
    store.block(8, content, store.tail(content, more=tail), more=row)
    nodes = store.open()
    is_plain = row in (0, 6)
    assert nodes.block(8) == content * is_plain
    assert nodes.faults == bool(faults)


@pytest.mark.parametrize(
    ("length", "content", "faults"),
    [(200, b"b" * 200, 0), (199, b"b" * 199, 0), (201, b"b" * 200, 1), (20, b"b" * 20, 0)],
)
def test_a_block_is_decompressed_up_to_its_length(length: int, content: bytes, faults: int) -> None:
    packed = zlib.compress(b"b" * 200)
    assert len(packed) < 20
    store = store_of(version=36)
    store.block(8, packed, store.tail(packed, more=length), more=length)
    store.block(10, listed(36, 8, size=length))
    nodes = store.open()
    assert (nodes.block(8), nodes.faults) == (content, faults)
    assert (nodes.size(8), nodes.size(10)) == (len(content), length)


def by_specification(data: bytes, key: int) -> bytes:
    """Decode a block as the algorithm of [MS-PST] 5.2 does."""
    word, out = (key ^ key >> 16) & 0xFFFF, bytearray()
    for byte in data:
        low, high = word % 256, word // 256
        byte = _FORWARD[(byte + low) % 256]
        byte = SWAPPED[(byte + high) % 256]
        byte = INVERSE[(byte - high) % 256]
        out.append((byte - low) % 256)
        word = (word + 1) % 65_536
    return bytes(out)


def test_the_tables_begin_as_those_of_the_specification() -> None:
    assert _FORWARD[:8] == bytes((65, 54, 19, 98, 168, 33, 110, 187))
    assert SWAPPED[:8] == bytes((20, 83, 15, 86, 179, 200, 122, 156))
    assert INVERSE[:8] == bytes((71, 241, 180, 230, 11, 106, 114, 72))
    assert _decoded(bytes(range(256)), 1, 4) == INVERSE
    assert _decoded(b"benign", 0, 4) == b"benign"


@pytest.mark.parametrize("number", [4, 0xFC, 0x1F4, 0xFFFC, 0x12345678, 0xFFFF0000, 1 << 40 | 4])
def test_a_block_is_decoded_by_all_bits_of_its_number(number: int) -> None:
    content = bytes(range(256)) * 3
    assert _decoded(content, 2, number) == by_specification(content, number & 0xFFFFFFFF)


@each_form
def test_bytes_in_which_other_programs_see_a_heap_are_reported(version: int) -> None:
    """Other programs take the data for a list of blocks, or decode data that is not encoded."""
    heap = b"\0\0\xec\xbc"
    encoded = bytes(map(INVERSE.index, heap))
    word = len(pack(version, 0))
    store = store_of(version=version)
    store.block(8, heap)
    store.block(12, heap[:3])
    store.block(16, heap[:3] + b"\xbd")
    store.block(20, heap[:2] + b"\xed\xbc")
    store.block(24, heap[:2] + b"\xeb\xbc")
    start = struct.pack("<BBHL", 1, 1, 1, 4)
    for content, is_hidden in (
        (encoded, True),
        (encoded[:3], False),
        (encoded + b"more", True),
        (encoded + bytes(20), True),
        (b"\0\0" + encoded[2:] + bytes(20), True),
        (b"\xff\xff" + encoded[2:] + bytes(20), True),
        (heap, False),
        (start + pack(version, 8), True),
        (start + pack(version, 9), True),
        (start + pack(version, 8) + b"more", True),
        (start + pack(version, 8)[: word - 1], False),
        (start + pack(version, 12), False),
        (start + pack(version, 16), False),
        (start + pack(version, 20), False),
        (start + pack(version, 24), False),
        (start + pack(version, 99), False),
        (b"\2" + start[1:] + pack(version, 8), False),
        (start[:1] + b"\2" + start[2:] + pack(version, 8), False),
    ):
        nodes = store.open()
        assert nodes.hides_heap(content) is is_hidden, content
    nodes = store.open()
    for kind in range(256):
        content = bytes(map(INVERSE.index, heap[:3] + bytes((kind,))))
        assert nodes.hides_heap(content) is (kind in b"\x6c\x7c\x8c\x9c\xa5\xac\xbc\xcc")


# Lists of blocks, and lists of nodes


def listed(version: int, *numbers: int, kind: int = 1, level: int = 1, size: int = 0,
           count: int | None = None) -> bytes:  # fmt: skip
    count = len(numbers) if count is None else count
    return struct.pack("<BBHL", kind, level, count, size) + pack(version, *numbers)


def read(nodes: Nodes, number: int) -> tuple[list[bytes], str]:
    """Return the bytes to which a block leads, and the error after them."""
    found: list[bytes] = []
    try:
        found += nodes.chunks(number)
    except NotReadError as error:
        return found, f"{error.why}: {error.detail}"
    return found, ""


@each_form
def test_a_list_leads_to_blocks_over_two_levels(version: int) -> None:
    store = store_of(version=version)
    store.block(8, b"and more")
    store.block(12, b"")
    for number, content in (
        (18, listed(version, 4, 8, size=14)),
        (22, listed(version, 12, 4, 8, size=14)),
        (26, listed(version, 18, 22, level=2, size=28)),
        (30, listed(version, 18, 22, level=2, size=27)),
        (34, listed(version, 18, 8, level=2, size=22)),
        (38, listed(version, 26, level=3, size=28)),
        (42, listed(version, 18, level=1, size=14)),
        (46, listed(version, 4, level=0, size=6)),
        (50, listed(version, 4, 8, kind=2, size=14)),
        (54, listed(version, 4, 8, count=3, size=14)),
        (58, listed(version, 4, 8, count=1, size=6)),
        (62, listed(version)),
        (66, listed(version)[:7]),
        (70, b""),
        (74, listed(version, 4, 8, size=15)),
        (78, listed(version, 4, 8, kind=0, size=14)),
    ):
        store.block(number, content)
    both = [b"benign", b"and more"]
    for number, pieces, size, is_whole in (
        (0, [], 0, True),
        (4, [b"benign"], 6, True),
        (12, [b""], 0, True),
        (18, both, 14, True),
        (22, [b"", *both], 14, True),
        (26, [*both, b"", *both], 28, True),
        (30, [*both, b"", *both], None, False),
        (34, [*both, b"and more"], 22, False),
        (38, [], None, False),
        (42, [], None, False),
        (46, [], None, False),
        (50, [], None, False),
        (54, [], None, False),
        (58, [b"benign"], 6, True),
        (62, [], 0, True),
        (74, both, None, False),
        (78, [], None, False),
        (66, [], 0, False),
        (70, [], 0, False),
        (100, [b""], 0, False),
        (102, [], 0, False),
    ):
        nodes = store.open()
        assert nodes.size(number) == size, number
        error = "" if is_whole else "damaged: pst: a part of it is missing or damaged"
        assert read(store.open(), number) == (pieces, error), number


@each_form
def test_a_block_that_is_cut_off_has_no_length(version: int) -> None:
    for before, size in ((7, 12), (6, 12), (5, None), (0, None), (-1, None)):
        store = store_of(version=version)
        store.block(10, listed(version, 4, 16, size=12))
        store.block_at_end(16, before)
        assert store.open().size(10) == size


@each_form
def test_nodes_below_a_node_are_in_lists_over_three_levels(version: int) -> None:
    large = 0 if version < 20 else 7 << 32
    at = 4 if version < 20 else 8

    def below(*rows: bytes, level: int = 0, kind: int = 2, count: int | None = None) -> bytes:
        head = struct.pack("<BBH", kind, level, len(rows) if count is None else count)
        return head.ljust(at, b"\0") + b"".join(rows)

    one, two = pack(version, 5 | large, 4, 10), pack(version, 37, 8, 0)
    store = store_of(version=version)
    for number, content in (
        (10, below(one, two)),
        (14, below(two)),
        (18, below(pack(version, 5, 10), pack(version, 37, 14), level=1)),
        (22, below(pack(version, 5, 18), level=2)),
        (26, below(pack(version, 5, 22), level=3)),
        (30, below(pack(version, 5, 18), level=1)),
        (34, below(one, two, kind=1)),
        (38, below(one, two, count=1)),
        (42, below(one, two, count=3)),
        (46, below()),
        (50, below()[: at - 1]),
        (52, below(one, two)),
        (58, below(one, two) + b"more"),
        (62, below(one, two, kind=3)),
    ):
        store.block(number, content)
    first, second = Node(5, 4, 10), Node(37, 8, 0)
    for number, found, faults in (
        (0, [], 0),
        (10, [first, second], 0),
        (14, [second], 0),
        (18, [first, second, second], 0),
        (22, [first, second, second], 0),
        (26, [], 1),
        (30, [], 1),
        (34, [], 1),
        (62, [], 1),
        (38, [first], 0),
        (42, [], 1),
        (46, [], 0),
        (50, [], 1),
        (52, [first, second], 1),
        (58, [first, second], 0),
        (98, [], 2),
        (96, [], 3),
    ):
        nodes = store.open()
        assert (list(nodes.below(number)), nodes.faults) == (found, faults), number

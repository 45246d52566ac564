"""Nodes of a store of Outlook: what a node must have, what a heap is, and what a table hides."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import pytest

from fixtures.pst import Writer, heap_of
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.pst import Pst, _Properties
from hashclient.containers.pstnodes import INVERSE, Node, Nodes
from tests.opened import Opened, Whole, opened

B = b"benign"
TREE = struct.pack("<BBBBL", 0xB5, 2, 6, 0, 0x40)
FILE = struct.pack("<HHL", 0x3701, 258, 0x60)
PROPERTIES = heap_of(0xBC, [TREE, FILE, B])


def at_top(number: int, content: bytes, below: Mapping[int, bytes] = {}) -> Opened:
    """Open a store with one node of this content, and with nodes below this node."""
    out = Writer()
    if number != 0x21:
        out.node(0x21, out.properties({}))
    parts = {one: (out.data(data), 0) for one, data in below.items()}
    out.node(number, (out.data(content), out.below(parts)))
    return opened(Pst(), out.file())


def under(number: int, content: bytes, below: Mapping[int, bytes] = {}) -> Opened:
    """Open a store with a message that has one node of this content below it."""
    out = Writer()
    out.node(0x21, out.properties({}))
    parts = {one: (out.data(data), 0) for one, data in below.items()}
    one = out.data(content) if content else 0, out.below(parts)
    out.node(4 | 1 << 5, out.properties({0x0037: (30, b"m")}, {number: one}))
    return opened(Pst(), out.file())


NO_HEAP = [b"", b"plain", b"1234567", b"12345678", b"no heap at all"]


@pytest.mark.parametrize("content", NO_HEAP)
def test_stores_folders_and_messages_must_have_properties(content: bytes) -> None:
    for number in (0x21, 2 | 9 << 5, 4 | 9 << 5, 8 | 9 << 5, 0x61):
        assert at_top(number, content).reasons == {Why.DAMAGED}
    for number in (1, 1 | 9 << 5, 3 | 9 << 5, 5 | 9 << 5, 0xD | 9 << 5, 0x1F | 9 << 5):
        assert not at_top(number, content).unread
    # Below a message, this holds for attachments.
    for number in range(0x120, 0x140):
        is_attachment = number & 0x1F == 5
        wanted = [(b"m/node-%x" % number, Why.DAMAGED)] if is_attachment else []
        assert under(number, content).unread == wanted


@pytest.mark.parametrize(
    ("content", "is_file"),
    [
        (PROPERTIES, True),
        (PROPERTIES[:2] + b"\xeb" + PROPERTIES[3:], False),
        (PROPERTIES[:2] + b"\xed" + PROPERTIES[3:], False),
        (PROPERTIES[:3] + b"\xbb" + PROPERTIES[4:], False),
    ],
)
def test_a_heap_is_known_by_its_mark_and_its_kind(content: bytes, *, is_file: bool) -> None:
    for found in (at_top(3 | 9 << 5, content), under(3 | 9 << 5, content)):
        assert found.contents == [B] * is_file and not found.unread
    for found in (at_top(4 | 9 << 5, content), under(5 | 9 << 5, content)):
        assert found.contents == [B] * is_file
        assert found.reasons == (set() if is_file else {Why.DAMAGED})


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
def test_a_tree_of_properties_has_a_header(at: int) -> None:
    tree = bytearray(TREE)
    tree[at] += 1
    found = under(5 | 9 << 5, heap_of(0xBC, [bytes(tree), FILE, B]))
    # The fifth byte is a part of the number of the item with the rows.
    assert not found.contents and found.reasons == {Why.DAMAGED}
    assert under(5 | 9 << 5, heap_of(0xBC, [TREE[:7], FILE, B])).reasons == {Why.DAMAGED}
    assert under(5 | 9 << 5, heap_of(0xBC, [TREE, FILE + b"x", B])).reasons == {Why.DAMAGED}
    found = under(5 | 9 << 5, heap_of(0xBC, [TREE + b"more", FILE, B]))
    assert found.contents == [B] and not found.unread


def test_a_property_that_occurs_twice_is_told() -> None:
    other = struct.pack("<HHL", 0x3701, 258, 0x80)
    found = under(5 | 9 << 5, heap_of(0xBC, [TREE, FILE + other, B, b"other"]))
    assert found.contents == [b"other"]
    assert found.unread == [(b"m/node-125", Why.DAMAGED), (b"", Why.DAMAGED)]


def head(at: int, top: int, rest: bytes = PROPERTIES[8:]) -> bytes:
    return struct.pack("<HBBL", at, 0xEC, 0xBC, top) + rest


SIZE = len(PROPERTIES)


@pytest.mark.parametrize(
    ("content", "is_value"),
    [
        (head(SIZE, 0x20), True),
        (head(0xFFFF, 0x20), True),
        (head(SIZE - 1, 0x20), False),
        (head(SIZE - 1, 0x21), True),
        (head(SIZE - 1, 0x28), True),
        (head(SIZE - 1, 0x30), False),
        (head(SIZE - 1, 0), True),
        (head(SIZE - 1, 0x10000), True),
        (head(SIZE - 1, 0x10020), True),
        (head(SIZE - 1, 0xFFE0), False),
    ],
)
def test_bytes_with_an_impossible_heap_are_a_value(content: bytes, *, is_value: bool) -> None:
    value = 0x1F | 9 << 5
    assert bool(under(value, content).unread) is not is_value
    # Other nodes, and nodes with nodes below them, are no values.
    assert under(4 | 9 << 5, content).unread
    assert under(value, content, {0x1F | 10 << 5: b"x"}).unread


def table(numbers: list[int], *, count: int | None = None, kind: int = 0x7C) -> bytes:
    """Return a table with columns of these numbers."""
    count = len(numbers) if count is None else count
    head = struct.pack("<BB20x", 0x7C, count)
    columns = b"".join(struct.pack("<HHL", 258, number, 0x3701) for number in numbers)
    return heap_of(kind, [head + columns])


@pytest.mark.parametrize(
    ("content", "is_unread"),
    [
        (table([]), False),
        (table([0x3702, 0x6F03, 0x6F01, 0x1013]), False),
        (table([0x3701]), True),
        (table([0x6F02]), True),
        (table([0x6F04]), True),
        (table([1, 2, 0x3701]), True),
        (table([1, 2, 0x3701], count=2), False),
        (table([1, 2], count=3), True),
        (table([1] * 255), False),
        (heap_of(0x7C, [bytes(21)]), True),
        (heap_of(0x7C, [bytes(22)]), False),
        # A table of an older kind is reported only below another node.
        (table([1], kind=0xAC), True),
    ],
)
def test_files_in_the_rows_of_a_table_are_told(content: bytes, *, is_unread: bool) -> None:
    assert bool(under(0x671, content).unread) is is_unread
    assert bool(at_top(0x14E, content).unread) is (is_unread and content[3] == 0x7C)


@pytest.mark.parametrize(
    ("method", "inner", "is_member"),
    [
        (5, PROPERTIES, False),
        (1, PROPERTIES, True),
        (None, PROPERTIES, True),
        (5, B, True),
        (6, B, True),
        (6, PROPERTIES, True),
        (5, b"", True),
    ],
)
def test_an_attached_message_is_no_file(
    method: int | None, inner: bytes, *, is_member: bool
) -> None:
    out = Writer()
    node = 3 | 9 << 5
    values: dict[int, tuple[int, bytes | int]] = {0x3701: (13, struct.pack("<LL", node, 0))}
    if method is not None:
        values[0x3705] = 3, method
    attached = out.properties(values, {node: (out.data(inner) if inner else 0, 0)})
    out.node(0x21, out.properties({}))
    out.node(4 | 1 << 5, out.properties({}, {5: attached}))
    found = opened(Pst(), out.file())
    assert found.contents == [inner] * is_member + [B] * (inner == PROPERTIES)


@pytest.mark.parametrize(
    ("kind", "value", "reasons"),
    [
        (258, B, set()),
        (13, struct.pack("<LL", 0x123, 0), set()),
        (13, struct.pack("<L", 0x123), set()),
        (13, struct.pack("<L", 0x124), {Why.DAMAGED}),
        (13, b"\x23\1\0", {Why.DAMAGED}),
        (30, B, {Why.UNSUPPORTED}),
        (257, B, {Why.UNSUPPORTED}),
        (258, 0x123, {Why.DAMAGED}),
        (258, 0x13F, set()),
        (258, 0x15F, {Why.DAMAGED}),
    ],
)
def test_a_value_is_an_item_or_a_node(kind: int, value: bytes | int, reasons: set[Why]) -> None:
    out = Writer()
    parts = dict.fromkeys((0x123, 0x13F), (out.data(B), 0))
    attached = out.properties({0x3701: (kind, value)}, parts)
    out.node(0x21, out.properties({}))
    out.node(4 | 1 << 5, out.properties({}, {5: attached}))
    found = opened(Pst(), out.file())
    assert found.contents == [B] * (Why.DAMAGED not in reasons) and found.reasons == reasons


def test_a_name_that_cannot_be_read_gives_way_to_the_next_one_and_is_told() -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    values: dict[int, tuple[int, bytes | int]]
    values = {0x3707: (30, 0x15F), 0x3704: (30, b"short"), 0x3701: (258, B)}
    out.node(4 | 1 << 5, out.properties(values))
    found = opened(Pst(), out.file())
    assert found.members == [(b"short", B)] and found.reasons == {Why.DAMAGED}


@pytest.mark.parametrize(("number", "is_unread"), [(0x15F, False), (0x13F, True)])
def test_two_nodes_of_the_same_number_below_a_node_are_told(
    number: int, *, is_unread: bool
) -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    rows = b"".join(struct.pack("<3Q", one, out.data(B), 0) for one in (0x13F, number))
    listed = out.block(struct.pack("<BBHL", 2, 0, 2, 0) + rows, is_inner=True)
    data, _ = out.properties({0x3701: (258, 0x13F)})
    out.node(4 | 1 << 5, (data, listed))
    assert bool(opened(Pst(), out.file()).unread) is is_unread


def test_bytes_of_a_file_may_look_like_encoded_properties() -> None:
    """Only bytes of a file may: where properties belong, some programs would decode them."""
    encoded = bytes(map(INVERSE.index, PROPERTIES))
    for kind, is_unread in ((0x1F, False), (0xD, True), (3, True)):
        for begin in (encoded[:2], b"\0\0", b"\xff\xff"):
            assert bool(under(kind | 9 << 5, begin + encoded[2:]).unread) is is_unread
    assert under(0x1F | 9 << 5, encoded, {0x1F | 10 << 5: b"x"}).unread


@pytest.mark.parametrize(("number", "is_read"), [(2_046, True), (2_047, True), (2_048, False)])
def test_a_block_of_a_heap_has_2047_items(number: int, *, is_read: bool) -> None:
    out = Writer(36)
    row = struct.pack("<HHL", 0x3701, 258, number << 5)
    content = heap_of(0xBC, [TREE, row, *[b""] * (number - 3), B])
    out.node(0x21, out.properties({}))
    out.node(4 | 1 << 5, (out.data(content), 0))
    found = opened(Pst(), out.file())
    assert found.contents == [B] * is_read
    assert found.reasons == (set() if is_read else {Why.DAMAGED})


def nodes_with(content: bytes) -> tuple[Nodes, Node]:
    """Return a store, and its node with this content."""
    out = Writer()
    out.node(0x21, (out.data(content), 0))
    nodes = Nodes(Whole(out.file()))
    node = nodes.find(0x21)
    assert node is not None
    return nodes, node


@pytest.mark.parametrize("count", [0, 1, 5])
def test_each_node_and_each_property_counts_as_bytes_that_are_read(count: int) -> None:
    """A node counts as 256 bytes more than its block and its properties."""
    rows = b"".join(struct.pack("<HHL", number, 3, 1) for number in range(count))
    content = heap_of(0xBC, [TREE, rows])
    nodes, node = nodes_with(content)
    _Properties(nodes, node)
    nodes.take((8 << 20) - (256 + len(content) + 16) - (8 + len(rows)))
    with pytest.raises(NotReadError):
        nodes.take(1)
    nodes, node = nodes_with(content)
    _Properties(nodes, node._replace(data=0))
    nodes.take((8 << 20) - 256)
    with pytest.raises(NotReadError):
        nodes.take(1)


class Many(Nodes):
    """A store in which each node has as many nodes below it as `count`."""

    count = 0

    def below(self, number: int, above: int = 3) -> Iterator[Node]:
        return (Node(one, 0, 0) for one in range(self.count))


def test_a_node_has_131072_nodes_below_it_at_most() -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    nodes = Many(Whole(out.file()))
    nodes.count = 131_072
    _Properties(nodes, Node(1, 0, 0))
    nodes.count += 1
    with pytest.raises(NotReadError) as refused:
        _Properties(nodes, Node(1, 0, 0))
    assert refused.value.why is Why.LIMIT


def listed_wrongly(out: Writer) -> int:
    """Write a list of blocks whose level is none; return its number."""
    return out.block(struct.pack("<BBHLQ", 1, 9, 1, 6, out.data(B)), is_inner=True)


def test_a_name_whose_blocks_cannot_be_read_gives_way_to_the_next_one_and_is_told() -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    values: dict[int, tuple[int, bytes | int]]
    values = {0x3707: (30, 0x3F), 0x3704: (30, b"short"), 0x3701: (258, B)}
    out.node(4 | 1 << 5, out.properties(values, {0x3F: (listed_wrongly(out), 0)}))
    found = opened(Pst(), out.file())
    assert found.members == [(b"short", B)] and found.reasons == {Why.DAMAGED}


def test_names_of_properties_that_cannot_be_read_are_told_and_the_rest_is_read() -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    out.node(0x61, out.properties({3: (258, 0x3F)}, {0x3F: (listed_wrongly(out), 0)}))
    out.node(4 | 8 << 5, out.properties({0x3701: (258, B)}))
    found = opened(Pst(), out.file())
    assert found.contents == [B] and found.unread[0] == (b"node-61", Why.DAMAGED)


def test_only_the_names_of_properties_at_the_top_have_no_html_body() -> None:
    body = heap_of(0xBC, [TREE, struct.pack("<HHL", 0x1013, 258, 0x60), B])
    assert under(0x61, body).members == [(b"m/node-61/body.html", B)]
    assert at_top(0x62, body).members == [(b"node-62/body.html", B)]
    found = at_top(0x61, body)
    assert not found.members and not found.unread


@pytest.mark.parametrize("kind", [0x6C, 0x8C, 0x9C, 0xA5, 0xCC])
def test_a_heap_of_another_kind_is_neither_a_table_nor_properties(kind: int) -> None:
    for items in ([TREE, FILE, B], [b"x"]):
        found = under(3 | 9 << 5, heap_of(kind, items))
        assert not found.members and not found.unread


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_header_of_a_tree_has_fixed_bytes(at: int) -> None:
    tree = bytearray(TREE)
    tree[at] -= 1
    found = under(5 | 9 << 5, heap_of(0xBC, [bytes(tree), FILE, B]))
    assert not found.contents and found.reasons == {Why.DAMAGED}


def test_a_heap_that_is_only_its_header_is_damaged() -> None:
    assert under(3 | 9 << 5, head(0, 0x20, b"")).reasons == {Why.DAMAGED}
    assert not under(3 | 9 << 5, head(0, 0x20, b"")[:7]).unread

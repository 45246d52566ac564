"""Stores of Outlook at the edges of their limits, and the names of members."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import pytest

from fixtures.mails import uuencoded
from fixtures.pst import Message, Writer, store_of
from hashclient.containers import pst
from hashclient.containers.interface import Unlisted, Why
from hashclient.containers.pst import Pst
from tests.opened import Opened, Whole, opened

FILE = Message("m", attached={"f": b"benign"})


def look(*messages: Message) -> Opened:
    assert Pst.seeks
    return opened(Pst(), store_of({"a": messages}))


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_nodes_are_below_one_another_up_to_a_limit(
    depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = FILE
    for _ in range(depth):
        message = Message("m", attached={"in": message})
    for most, reasons in ((1 + 2 * depth, set()), (2 * depth, {Why.LIMIT})):
        monkeypatch.setattr(pst, "_MAX_DEPTH", most)
        found = look(message)
        assert found.reasons == reasons
        assert found.contents == [b"benign"] * (not reasons)


def test_paths_are_the_same_however_few_folders_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = store_of({"one": [FILE], "two": [FILE, FILE]})
    wanted = [b"top/one/m/f", b"top/two/m/f", b"top/two/m/f"]
    for most in (10, 1):
        monkeypatch.setattr(pst, "_MAX_FOLDERS", most)
        assert opened(Pst(), data).names == wanted


@pytest.mark.parametrize("count", [1, 2, 3])
def test_members_come_in_batches(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pst, "_BATCH", count)
    found = list(Pst().members(Whole(store_of({"a": [FILE] * 5}))))
    sizes = [len(one) for one in found if not isinstance(one, Unlisted)]
    assert sum(sizes) == 5 and sizes[:-1] == [count] * (5 // count)


def named(values: Mapping[int, tuple[int, bytes | int]]) -> bytes:
    """Return the path of the member for a message with these properties."""
    out = Writer()
    out.node(0x21, out.properties({}))
    attached = out.properties({0x3701: (258, b"benign")})
    out.node(4 | 1 << 5, out.properties({**values}, {5: attached}))
    found = opened(Pst(), out.file())
    assert found.contents == [b"benign"]
    (name,) = found.names
    return name.removesuffix(b"/node-5")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, b"node-24"),
        ({0x0037: (30, b"subject")}, b"subject"),
        ({0x0037: (30, b"\1\1subject")}, b"subject"),
        ({0x0037: (30, b"\2\1subject")}, b"\2\1subject"),
        ({0x0037: (30, b"\0\1subject")}, b"\0\1subject"),
        ({0x0037: (258, b"subject")}, b"subject"),
        ({0x0037: (31, "\u65e5".encode("utf-16-le"))}, "\u65e5".encode()),
        ({0x0037: (31, "\1\5s".encode("utf-16-le"))}, b"s"),
        ({0x0037: (30, b"a/b/c")}, b"a_b_c"),
        ({0x0037: (30, b"")}, b"node-24"),
        ({0x3001: (30, b"name"), 0x0037: (30, b"subject")}, b"name"),
        ({0x3704: (30, b"short"), 0x3001: (30, b"name")}, b"short"),
        ({0x3707: (30, b"long"), 0x3704: (30, b"short")}, b"long"),
        ({0x3707: (30, b""), 0x3704: (30, b"short")}, b"short"),
        ({0x3708: (30, b"other")}, b"node-24"),
        ({0x0037: (30, b"s" * 512)}, b"s" * 512),
        ({0x0037: (30, b"s" * 513)}, b"s" * 512),
        ({0x0037: (31, b"s\0" * 300)}, b"s" * 256),
    ],
)
def test_a_node_has_the_first_name_that_there_is(
    values: Mapping[int, tuple[int, bytes | int]], name: bytes
) -> None:
    assert named(values) == name


def test_the_path_of_a_member_is_cut_in_front() -> None:
    names = [bytes([97 + number]) * 500 for number in range(3)]
    assert pst._joined(b"", b"x") == b"x"
    assert pst._joined(b"x", b"") == b"x"
    path = b""
    for name in names:
        path = pst._joined(path, name)
    assert path == (b"a" * 499 + b"/" + b"b" * 500) + b"/" + b"c" * 500
    assert pst._joined(b"p" * 1_001, b"x") == b"p" * 1_000 + b"/x"


@pytest.mark.parametrize(("number", "is_file"), [
    (0x3701, True), (0x6F02, True), (0x6F04, True), (0x1013, True), (0x3702, False),
    (0x6F03, False),
])  # fmt: skip
def test_properties_that_hold_a_file_are_members(number: int, *, is_file: bool) -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    out.node(4 | 1 << 5, out.properties({number: (258, b"benign")}))
    found = opened(Pst(), out.file())
    assert found.contents == [b"benign"] * is_file and not found.unread
    assert all(name.endswith(b"body.html") is (number == 0x1013) for name in found.names)


@pytest.mark.parametrize(
    ("rows", "is_unread"),
    [
        ([], False),
        ([(0x3701, 0)], True),
        ([(0x3701, 2)], True),
        ([(0x3701, 1)], False),
        ([(0x3702, 0)], False),
        ([(0x8000, 0)] * 9 + [(0x6F02, 0)], True),
    ],
)
def test_a_name_of_a_property_that_is_a_file_is_told(
    rows: list[tuple[int, int]], *, is_unread: bool
) -> None:
    raw = b"".join(struct.pack("<LHH", number, kind, 7) for number, kind in rows)
    for cut in (b"", b"odd"):
        out = Writer()
        out.node(0x21, out.properties({}))
        out.node(0x61, out.properties({3: (258, raw + cut)}))
        assert bool(opened(Pst(), out.file()).unread) is is_unread


def test_nodes_and_names_are_looked_at_up_to_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = store_of({"a": [Message("m", attached={str(n): b"benign" for n in range(4)})]})
    for most, reasons in ((6, set()), (5, {Why.LIMIT})):
        monkeypatch.setattr(pst, "_MAX_BELOW", most)
        assert opened(Pst(), data).reasons == reasons
    # What was found before is listed.
    data = store_of({"a": [FILE, Message("m", attached=dict.fromkeys("abcd", b"more"))]})
    found = opened(Pst(), data)
    assert found.contents == [b"benign"] and found.unread == [(b"", Why.LIMIT)]
    monkeypatch.undo()
    out = Writer()
    out.node(0x21, out.properties({}))
    raw = struct.pack("<LHH", 0x8000, 0, 7) * 3_000
    out.node(0x61, out.properties({3: (258, raw)}))
    blocks = -(-len(raw) // out.most)
    for most, is_unread in ((blocks, False), (blocks - 1, True)):
        monkeypatch.setattr(pst, "_MAX_NAMED_BLOCKS", most)
        assert bool(opened(Pst(), out.file()).unread) is is_unread


def heap_with_table_in_front(value: int, *, end: int = 0, count: int = 3) -> bytes:
    """Return properties whose last item, the file, ends where the block ends.

    `value` is the number of the item with the file; `end` moves the end of this item, and `count`
    is the stated number of items.
    """
    items = [struct.pack("<BBBBL", 0xB5, 2, 6, 0, 0x40)]
    items += [struct.pack("<HHL", 0x3701, 258, value), b"benign"]
    places = [12 + 4 + 2 * 4]
    for item in items:
        places.append(places[-1] + len(item))
    places[-1] += end
    table = struct.pack("<6H", count, 0, *places)
    return struct.pack("<HBBLL", 12, 0xEC, 0xBC, 0x20, 0) + table + b"".join(items)


@pytest.mark.parametrize(
    ("value", "moved", "content"),
    [
        (0x60, {}, b"benign"),
        (0x60, {"end": -1}, b"benig"),
        (0x60, {"end": -6}, b""),
        (0x60, {"end": -7}, None),
        (0x60, {"end": 1}, None),
        (0x60, {"count": 2}, None),
        (0x60, {"count": 4}, b"benign"),
        (0, {}, b""),
        (0x40, {}, struct.pack("<HHL", 0x3701, 258, 0x40)),
        (0x80, {}, None),
        (0x61, {}, None),
        (0x7F, {}, None),
        (0x10060, {}, None),
    ],
)
def test_an_item_of_a_heap_lies_within_its_block(
    value: int, moved: dict[str, int], content: bytes | None
) -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    out.node(4 | 1 << 5, (out.block(heap_with_table_in_front(value, **moved)), 0))
    found = opened(Pst(), out.file())
    assert found.contents == ([] if content is None else [content])
    assert found.reasons == ({Why.DAMAGED} if content is None else set())


@pytest.mark.parametrize("above", [(0x142, 0x122), (0x142, 0x162, 0x122), (0x122,), (0x999,)])
def test_folders_within_each_other_come_to_an_end(above: tuple[int, ...]) -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    folders = dict(zip((0x122, *above), above, strict=False))
    for number, parent in sorted(folders.items()):
        out.node(number, out.properties({0x3001: (30, b"%x" % number)}), parent)
    out.node(0x200004, out.properties({0x3701: (258, b"benign")}), 0x122)
    found = opened(Pst(), out.file())
    assert found.contents == [b"benign"] and not found.unread
    assert found.names[0].endswith(b"/node-200004") is (above != (0x122,))
    assert len(found.names[0]) < 1_100


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 80])
def test_a_path_has_as_many_folders_as_the_limit(count: int) -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    numbers = [0x2 | 0x20 * n for n in range(2, count + 2)]
    for number, parent in zip(numbers, [numbers[0], *numbers], strict=False):
        out.node(number, out.properties({0x3001: (30, b"f")}), parent)
    # The message comes before its folders, so that no path is known yet.
    out.node(0x24, out.properties({0x3701: (258, b"benign")}), numbers[-1])
    found = opened(Pst(), out.file())
    depth = min(count - 1, 64)
    assert found.members == [(b"f/" * depth + b"node-24", b"benign")]


@pytest.mark.parametrize(("count", "is_unread"), [(64, False), (65, True)])
def test_names_of_properties_are_read_in_64_blocks(count: int, *, is_unread: bool) -> None:
    out = Writer()
    most, out.most = out.most, 8
    names = out.data(struct.pack("<LHH", 0x8000, 0, 7) * count)
    out.most = most
    out.node(0x21, out.properties({}))
    out.node(0x61, out.properties({3: (258, 0x3F)}, {0x3F: (names, 0)}))
    assert bool(opened(Pst(), out.file()).unread) is is_unread


@pytest.mark.parametrize("rest", [b"", b"x", b"\0\xd8"])
def test_a_file_is_found_between_letters_of_other_scripts_and_invalid_ones(rest: bytes) -> None:
    text = "\u65e5\n" + uuencoded("u.bin", b"benign")
    out = Writer()
    out.node(0x21, out.properties({}))
    body = text.encode("utf-16-le") + rest
    out.node(4 | 1 << 5, out.properties({0x1000: (31, body)}))
    found = opened(Pst(), out.file())
    assert found.members == [(b"node-24/u.bin", b"benign")] and not found.unread


def test_sizes_of_files_are_exact() -> None:
    files = {"short": b"benign", "long": bytes(9_000), "none": b""}
    found = look(Message("m", attached=files, objects={"o": b"object"}))
    assert [(one.size, one.is_exact) for one in found.listed] == [
        (len(content), True) for content in found.contents
    ]
    assert len(found.listed) == 4

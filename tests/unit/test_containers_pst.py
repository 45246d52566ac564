"""Stores of Outlook: each attachment of a message is a member, in each version and encoding."""

from __future__ import annotations

import email
import random
import re
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from fixtures import mails
from fixtures.pst import Message, Properties, Writer, heap_of, pst_of, store_of
from hashclient.containers.interface import Why
from hashclient.containers.pst import Pst
from tests.opened import Opened, Whole, opened

LONG = random.Random(1).randbytes(200_000)
INNER = Message("within", attached={"c.bin": b"benign three", "long.bin": LONG[:9_000]})
OUTER = Message("around", attached={"deep.msg": INNER})
MESSAGE = Message(
    "one",
    html=b"<p>benign</p>",
    attached={"a.bin": b"benign one", "b.bin": LONG[:4_000], "fw.msg": OUTER, "empty": b""},
    objects={"o.bin": b"benign object", "p.bin": LONG[9_000:20_000]},
)
FOLDERS = {
    "Inbox": [MESSAGE, Message("two", attached={"long": LONG})],
    "Sent": [Message("three", attached={"in.msg": INNER})],
}
HELD = {
    "Inbox/one/body.html": b"<p>benign</p>",
    "Inbox/one/a.bin": b"benign one",
    "Inbox/one/b.bin": LONG[:4_000],
    "Inbox/one/fw.msg/around/deep.msg/within/c.bin": b"benign three",
    "Inbox/one/fw.msg/around/deep.msg/within/long.bin": LONG[:9_000],
    "Inbox/one/empty": b"",
    "Inbox/one/o.bin": b"benign object",
    "Inbox/one/p.bin": LONG[9_000:20_000],
    "Inbox/two/long": LONG,
    "Sent/three/in.msg/within/c.bin": b"benign three",
    "Sent/three/in.msg/within/long.bin": LONG[:9_000],
}
VERSIONS, ENCODINGS = (14, 23, 36), (0, 1, 2)
each_version = pytest.mark.parametrize("version", VERSIONS)


def held(found: Opened) -> dict[str, bytes]:
    return {name.decode().removeprefix("top/"): content for name, content in found.members}


@pytest.mark.sampled
@each_version
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_attachments_are_members_also_of_messages_within_others(
    version: int, encoding: int
) -> None:
    found = opened(Pst(), store_of(FOLDERS, version=version, encoding=encoding))
    assert held(found) == HELD and not found.unread


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_block_is_decoded_by_its_number_whatever_bytes_it_has(encoding: int) -> None:
    content = bytes(range(256)) * 30
    found = opened(
        Pst(), store_of({"a": [Message("m", attached={"f": content})]}, encoding=encoding)
    )
    assert found.contents == [content] and not found.unread


@each_version
def test_many_messages_and_blocks_have_trees_of_several_levels(version: int) -> None:
    messages = [Message(f"{n}", attached={"f": b"benign %d" % n}) for n in range(250)]
    found = opened(Pst(), store_of({"a": messages, "b": messages[:200]}, version=version))
    assert len(found.members) == 450 and not found.unread
    out = Writer(version)
    out.most = 64
    out.node(0x21, out.properties({}))
    attached = {5 | n << 5: out.properties({0x3701: (258, b"%d" % n)}) for n in range(400)}
    attached[5 | 500 << 5] = out.properties({0x3701: (258, LONG)})
    out.node(4 | 1 << 5, out.properties({}, attached))
    found = opened(Pst(), out.file())
    assert found.contents == [b"%d" % n for n in range(400)] + [LONG] and not found.unread


@each_version
def test_properties_that_lie_in_several_blocks_and_levels_are_read(version: int) -> None:
    out = Writer(version)
    second = 1 << (19 if version > 30 else 16)
    rows = [
        struct.pack("<HHL", number, kind, second | item << 5)
        for number, kind, item in ((0x0037, 31, 1), (0x3701, 258, 2))
    ]
    branch = struct.pack("<HLHL", 0x0037, 3 << 5, 0x3701, 4 << 5)
    first = heap_of(0xBC, [struct.pack("<BBBBL", 0xB5, 2, 6, 1, 2 << 5), branch, *rows])
    last = struct.pack("<H", 10) + b"m\0benign" + struct.pack("<HH3H", 2, 0, 2, 4, 10)
    blocks = [out.block(first), out.block(last)]
    word = "L" if version == 14 else "Q"
    names = struct.pack(f"<BBHL2{word}", 1, 1, 2, len(first + last), *blocks)
    out.node(0x21, (out.block(names, is_inner=True), 0))
    found = opened(Pst(), out.file())
    assert found.members == [(b"m", b"benign")] and not found.unread


@pytest.mark.parametrize(("levels", "is_read"), [(1, True), (2, True), (8, True), (9, False)])
def test_properties_have_trees_of_at_most_eight_levels(levels: int, is_read: bool) -> None:
    out = Writer()
    rows = struct.pack("<HHL", 0x3701, 258, 3 << 5) + struct.pack("<HHL", 0x3705, 3, 1)
    branches = [struct.pack("<HL", 0x3701, item + 5 << 5) for item in range(levels - 1)]
    top = struct.pack("<BBBBL", 0xB5, 2, 6, levels, 4 << 5)
    last = struct.pack("<HL", 0x3701, 2 << 5)
    items = [top, rows, b"benign", *branches, last]
    out.node(0x21, out.properties({}))
    lost = {5 | 9 << 5: (out.data(heap_of(0xBC, items)), 0)}
    out.node(4 | 7 << 5, out.properties({0x0037: (31, b"l\0")}, lost), 0x7777)
    found = opened(Pst(), out.file())
    assert (found.contents == [b"benign"], bool(found.unread)) == (is_read, not is_read)


@pytest.mark.parametrize("parent", [0x042, 0x8022])
def test_a_folder_may_have_any_number_and_one_within_itself_is_the_top(parent: int) -> None:
    """A folder whose parent is itself is the top, and names no path; all others do."""
    out = Writer()
    out.node(0x21, out.properties({}))
    folder: Properties = {0x3001: (31, "f".encode("utf-16-le"))}
    top: Properties = {0x3001: (31, "g".encode("utf-16-le"))}
    for number, above, values in sorted([(0x122, parent, folder), (parent, parent, top)]):
        out.node(number, out.properties(values), above)
    part = out.properties({0x3701: (258, b"benign"), 0x3705: (3, 1)})
    message = out.properties({0x0037: (31, "m".encode("utf-16-le"))}, {5 | 9 << 5: part})
    out.node(0x200004, message, 0x122)
    found = opened(Pst(), out.file())
    assert found.contents == [b"benign"] and not found.unread
    assert found.names[0].startswith(b"f/m/")


def test_names_are_of_folder_message_and_file_and_hold_no_separator() -> None:
    odd = Message("\x01\x05Re: a/b", attached={"c/d": b"1", "": b"2", "\u00e9\ud800": b"3"})
    found = opened(Pst(), store_of({"x/y": [odd], "": [odd]}))
    assert [name.decode() for name in found.names[:3]] == [
        "top/x_y/Re: a_b/c_d",
        "top/x_y/Re: a_b/node-8045",
        "top/x_y/Re: a_b/\u00e9\ufffd",
    ]
    assert not found.unread


def test_what_no_folder_and_no_table_names_is_a_member() -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    lost = {5 | 9 << 5: out.properties({0x3701: (258, b"benign"), 0x3705: (3, 1)})}
    out.node(4 | 7 << 5, out.properties({0x0037: (31, b"l\0")}, lost), 0x7777)
    found = opened(Pst(), out.file())
    assert found.members == [(b"l/node-125", b"benign")] and not found.unread


def test_a_file_that_stands_encoded_in_a_body_is_a_member() -> None:
    text = "hello\r\n" + mails.uuencoded("u.bin", b"benign " * 99).replace("\n", "\r\n")
    found = opened(Pst(), store_of({"a": [Message("m", text), Message("n", text * 9)]}))
    assert found.contents == [b"benign " * 99] * 10 and not found.unread
    assert found.names[:2] == [b"top/a/m/u.bin", b"top/a/n/u.bin"]
    out = Writer()
    out.node(0x21, out.properties({0x1000: (30, text.encode()), 0x1013: (30, b"<p>" * 3_000)}))
    assert opened(Pst(), out.file()).contents == [b"<p>" * 3_000, b"benign " * 99]


def test_a_body_or_a_folder_that_is_damaged_is_told() -> None:
    long = "text " * 2_000
    data = bytearray(store_of({"a": [Message("m", long, attached={"f": b"benign"})]}))
    data[data.index(long[:50].encode("utf-16-le"))] ^= 1
    found = opened(Pst(), bytes(data))
    assert found.unread[0] == (b"top/a/m", Why.DAMAGED) and found.contents == [b"benign"]
    out = Writer()
    out.node(0x21, out.properties({}))
    out.node(2 | 1 << 5, (out.block(heap_of(0xBC, [b"no tree.."])), 0))
    out.node(4 | 1 << 5, out.message(Message("m", attached={"f": b"benign"})), 2 | 1 << 5)
    found = opened(Pst(), out.file())
    assert found.members == [(b"m/f", b"benign")] and found.reasons == {Why.DAMAGED}


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        *((10, version, Why.UNSUPPORTED) for version in (b"\0", b"\x18", b"\x25")),
        (513, b"\x10", Why.ENCRYPTED),
    ],
)
def test_a_version_or_an_encoding_that_nobody_knows_is_unread(
    at: int, value: bytes, why: Why
) -> None:
    data = pst_of({"a": b"benign"})
    assert opened(Pst(), data[:at] + value + data[at + 1 :]).reasons == {why}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_store_that_says_a_wrong_encoding_is_unread(encoding: int) -> None:
    data = bytearray(store_of(FOLDERS, encoding=encoding))
    for other in set(ENCODINGS) - {encoding}:
        data[513] = other
        assert Why.DAMAGED in opened(Pst(), bytes(data)).reasons


def test_bytes_that_are_damaged_are_given_and_unread_and_those_beside_them_are_read() -> None:
    data = bytearray(store_of(FOLDERS))
    data[bytes(data).index(LONG[50_000:50_050]) + 4] ^= 1
    found = opened(Pst(), bytes(data))
    assert found.unread == [(b"top/Inbox/two/long", Why.DAMAGED)]
    assert held(found) == {name: HELD[name] for name in HELD if name != "Inbox/two/long"}


@pytest.mark.slow
@each_version
def test_each_byte_that_is_changed_and_each_cut_is_told(version: int) -> None:
    data = store_of({"Inbox": [MESSAGE]}, version=version, encoding=1)
    whole = set(opened(Pst(), data).contents)
    for at in range(0, len(data), 23):
        changed = bytearray(data)
        changed[at] ^= 0x41
        for bad in (bytes(changed), data[:at]):
            found = opened(Pst(), bad)
            assert found.unread or whole <= set(found.contents), at


def test_nodes_below_themselves_and_the_same_bytes_in_many_places_come_to_an_end() -> None:
    out = Writer()
    out.node(0x21, out.properties({}))
    data, _ = out.properties({0x0037: (31, b"x\0")})
    loop = out.next | 2
    rows = b"".join(struct.pack("<QQQ", 4 | n << 5, data, loop) for n in range(1, 300))
    assert out.block(struct.pack("<BBHL", 2, 0, 299, 0) + rows, is_inner=True) == loop
    out.node(4 | 1 << 5, (data, loop))
    assert opened(Pst(), out.file()).reasons == {Why.LIMIT}

    out = Writer()
    out.node(0x21, out.properties({}))
    loop = out.next | 2
    out.block(struct.pack("<BBHLQ", 1, 1, 1, 9, loop), is_inner=True)
    out.node(4 | 1 << 5, (loop, 0))
    assert opened(Pst(), out.file()).reasons == {Why.DAMAGED}


def test_messages_too_deep_in_one_another_are_unread() -> None:
    message = Message("m", attached={"f": b"benign"})
    for _ in range(40):
        message = Message("m", attached={"f": message, "beside": b"benign beside"})
    found = opened(Pst(), store_of({"a": [message]}))
    assert found.reasons == {Why.LIMIT}
    assert 30 <= found.contents.count(b"benign beside") < 40


def test_rows_of_a_tree_in_another_order_are_told() -> None:
    data = store_of({"a": [Message(attached={"f": b"benign"})]})
    page = data.rindex(b"\x81\x81") - 496
    swapped = data[page + 32 : page + 64] + data[page : page + 32] + data[page + 64 :]
    found = opened(Pst(), data[:page] + swapped)
    assert found.contents == [b"benign"] and found.reasons == {Why.DAMAGED}


def _with(
    attached: Mapping[int, tuple[int, int]],
    out: Writer,
    names: bytes = b"",
    number: int = 4 | 1 << 5,
) -> Opened:
    """Open a store of one message with the given nodes below the message."""
    out.node(0x21, out.properties({}))
    if names:
        out.node(0x61, out.properties({3: (258, names)}))
    out.node(number, out.properties({0x0037: (31, b"m\0")}, attached))
    return opened(Pst(), out.file())


def test_a_file_is_a_member_whatever_the_numbers_of_its_nodes_are() -> None:
    out = Writer()
    inner = out.properties(
        {0x3701: (13, struct.pack("<LL", 0x40, 0))}, {0x40: (out.data(b"benign"), 0)}
    )
    assert _with({5 | 1 << 5: inner}, out).contents == [b"benign"]
    out = Writer()
    inner = out.properties({0x3701: (258, b"benign"), 0x3707: (31, 0x7F)})
    found = _with({0x1F | 9 << 5: inner}, out)
    assert found.contents == [b"benign"] and found.reasons == {Why.DAMAGED}
    out = Writer()
    secure = {0x6F02: (258, b"benign html"), 0x6F04: (258, b"benign text")}
    out.node(4 | 2 << 5, out.properties({**secure}))
    found = _with({}, out)
    assert found.contents == [b"benign html", b"benign text"] and not found.unread
    out = Writer()
    found = _with({5: out.properties({0x3701: (258, b"benign")})}, out, number=0x61)
    assert found.contents == [b"benign"] and not found.unread


def test_bytes_of_an_attachment_may_look_like_properties() -> None:
    for content in (b"\1\0\xec\xbc\x1f" + LONG[:5_000], b"\xff\xff\xec\xbc\x20\0\0\0" * 999):
        found = opened(Pst(), pst_of({"a": content}))
        assert found.contents == [content] and not found.unread


@pytest.mark.parametrize("kind", [3, 30, 31, 0x1003, 0x1102])
def test_a_file_whose_type_is_another_one_than_bytes_is_unread(kind: int) -> None:
    out = Writer()
    inner = out.properties({0x3701: (kind, b"b\0e\0")})
    assert _with({5: inner}, out).reasons == {Why.UNSUPPORTED}


def test_a_value_that_is_an_item_for_some_programs_and_a_node_for_others_is_unread() -> None:
    out = Writer()
    inner = out.properties({0x3701: (258, 0x50)}, {0x50: (out.data(b"benign"), 0)})
    assert _with({5: inner}, out).reasons == {Why.DAMAGED}


def test_a_file_in_a_table_or_under_another_number_is_unread() -> None:
    out = Writer()
    table = out.table({0x3701: 258}, [(5, {0x3701: (258, b"benign")})])
    assert _with({0x671: table}, out).reasons == {Why.DAMAGED}
    for number, kind, is_unread in ((0x3701, 0, True), (0x3701, 1, False), (0x8502, 0, False)):
        names = struct.pack("<LHH", number, kind, 7)
        assert bool(_with({}, Writer(), names).unread) is is_unread
    out = Writer()
    older = out.data(heap_of(0xAC, [b"older"]))
    assert _with({0x1F | 9 << 5: (older, 0)}, out).reasons == {Why.DAMAGED}


@pytest.mark.parametrize("wrong", [-1, 0, 1])
def test_a_length_of_several_blocks_that_is_wrong_is_told_and_not_believed(wrong: int) -> None:
    out = Writer()
    blocks = out.block(b"benign "), out.block(b"and more")
    names = out.block(struct.pack("<BBHLQQ", 1, 1, 2, 15 + wrong, *blocks), is_inner=True)
    inner = out.properties({0x3701: (258, 0x3F)}, {0x3F: (names, 0)})
    found = _with({5: inner}, out)
    assert found.unread == ([(b"m/node-5", Why.DAMAGED)] if wrong else [])
    batches = Pst().members(Whole(out.file()))
    (member,) = (one for batch in batches if isinstance(batch, list) for one in batch)
    assert (member.size, member.is_exact) == ((None, False) if wrong else (15, True))


def test_a_list_of_blocks_or_nodes_whose_number_says_it_is_none_is_unread() -> None:
    out = Writer()
    data, _ = out.properties({0x3701: (258, b"benign")})
    hidden = out.block(struct.pack("<BBHLQ", 1, 1, 1, 99, data))
    assert _with({0x1F | 9 << 5: (hidden, 0)}, out).reasons == {Why.DAMAGED}
    out = Writer()
    data = out.data(b"benign")
    inner = out.block(struct.pack("<BBHLQ", 1, 1, 1, 6, data))
    names = out.block(struct.pack("<BBHLQ", 1, 2, 1, 24, inner), is_inner=True)
    attached = out.properties({0x3701: (258, 0x3F)}, {0x3F: (names, 0)})
    assert _with({5: attached}, out).reasons == {Why.DAMAGED}
    out = Writer()
    below = out.block(struct.pack("<BBHL", 2, 0, 0, 0))
    assert _with({5: (out.properties({})[0], below)}, out).reasons == {Why.DAMAGED}


def test_bytes_that_only_some_programs_decode_are_unread() -> None:
    for encoding, is_unread in ((1, False), (2, True)):
        out = Writer(encoding=encoding)
        data, below = out.properties({0x3701: (258, b"benign")})
        assert bool(_with({5: (data | 1, below)}, out).unread) is is_unread
    encoded = Writer(encoding=1)
    encoded.node(0x21, encoded.properties({}))
    heap = encoded.file()[1024:1064]
    out = Writer()
    assert _with({0xD: (out.block(heap), 0)}, out).reasons == {Why.DAMAGED}


@pytest.mark.parametrize("length", [0, 10, 9_000])
def test_a_length_before_compression_that_differs_is_told(length: int) -> None:
    data = store_of({"a": [Message("m", attached={"f": LONG[:5_000]})]}, version=36)
    changed = data.replace(struct.pack("<HHL", 2, 5_000, 0), struct.pack("<HHL", 2, length, 0))
    assert changed != data and bool(opened(Pst(), changed).unread) == bool(length)
    out = Writer(36)
    out.changes["row", 0] = 18, 3
    out.node(0x21, out.properties({}))
    assert opened(Pst(), out.file()).reasons == {Why.DAMAGED}


@pytest.mark.parametrize("size", [1, 63])
def test_a_letter_of_a_body_may_be_in_two_blocks(size: int) -> None:
    text = ("hi\n" + mails.uuencoded("u.bin", b"benign " * 99)).encode("utf-16-le")
    out = Writer()
    most, out.most = out.most, size
    body = out.data(text)
    out.most = most
    out.node(0x21, out.properties({}))
    out.node(4 | 1 << 5, out.properties({0x1000: (31, 0x3F)}, {0x3F: (body, 0)}))
    found = opened(Pst(), out.file())
    assert found.contents == [b"benign " * 99] and not found.unread


@pytest.mark.skipif(shutil.which("readpst") is None, reason="readpst is not here")
@pytest.mark.sampled
@each_version
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_readpst_extracts_is_a_member(version: int, encoding: int, tmp_path: Path) -> None:
    data = store_of(FOLDERS, version=version, encoding=encoding)
    (tmp_path / "a.pst").write_bytes(data)
    command = ["readpst", "-q", "-j", "0", "-S", "-w", "a.pst"]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    files = [path for path in tmp_path.glob("*/*/*") if path.is_file()]
    extracted = {path.read_bytes() for path in files if "-" in path.name}
    for path in (path for path in files if "-" not in path.name):
        text = re.sub(rb"(?m)^>?From .*\n", b"", path.read_bytes())
        for part in email.message_from_bytes(text).walk():
            payload = part.get_payload(decode=True)
            if part.get_filename() and isinstance(payload, bytes):
                extracted.add(payload)
    wanted = set(HELD.values()) - {b"", b"<p>benign</p>"}
    assert extracted - {b""} == wanted

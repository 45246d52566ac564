"""The records of a zip, field by field: at each edge of the accepted values, and beyond it."""

from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import pytest

from fixtures import archives
from fixtures.archives import STORED
from hashclient.containers import ziphidden
from hashclient.containers.interface import TAIL_BYTES, Why
from hashclient.containers.zip import Ranges, Zip
from hashclient.containers.zipdirectory import MAX32, Entries, ends, extra_field, wide
from hashclient.containers.zipmember import descriptor_bytes
from tests.opened import Whole, opened

A, B = b"benign A " * 40, b"benign B " * 50


def field(kind: int, content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<2H", kind, len(content) if length is None else length) + content


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (b"", None),
        (b"\1\0\0", None),
        (field(1, b""), b""),
        (field(1, b"abc"), b"abc"),
        (field(1, b"abc", 2), b"ab"),
        (field(1, b"abc", 9), b"abc"),
        (field(2, b"xy") + field(1, b"abc"), b"abc"),
        (field(2, b"") + field(1, b"abc"), b"abc"),
        (field(2, b"xy", 3) + field(1, b"abc"), None),
        (field(0x101, b"xy") + field(1, b"abc"), b"abc"),
        (field(1, b"first") + field(1, b"second"), b"first"),
    ],
)
def test_an_extra_field_is_the_first_of_its_kind(extra: bytes, found: bytes | None) -> None:
    assert extra_field(extra, 1) == found


@pytest.mark.parametrize(
    ("raw", "values", "found"),
    [
        (struct.pack("<2Q", 5, 6), (MAX32, 7, MAX32), (5, 7, 6)),
        (struct.pack("<Q", 5), (MAX32, MAX32), (5, MAX32)),
        (struct.pack("<Q", 5)[:7], (MAX32,), (MAX32,)),
        (struct.pack("<Q", 1 << 40), (MAX32 - 1, MAX32), (MAX32 - 1, 1 << 40)),
    ],
)
def test_numbers_of_64_bits_stand_in_the_order_of_those_they_replace(
    raw: bytes, values: tuple[int, ...], found: tuple[int, ...]
) -> None:
    assert wide(field(9, b"other") + field(1, raw), values) == found
    assert wide(field(9, raw), values) == values


@pytest.mark.parametrize("mark", [b"PK\7\x08", b""])
@pytest.mark.parametrize(
    ("sizes", "is_short", "is_long"),
    [
        ((4, 6), True, True),
        ((MAX32, MAX32), True, True),
        ((MAX32 + 1, 6), False, True),
        ((4, MAX32 + 1), False, True),
    ],
)
def test_a_descriptor_is_as_long_as_its_sizes_need(
    mark: bytes, sizes: tuple[int, int], *, is_short: bool, is_long: bool
) -> None:
    for form, is_one in (("<3L", is_short), ("<L2Q", is_long)):
        kept = tuple(min(size, MAX32) for size in sizes) if form == "<3L" else sizes
        raw = mark + struct.pack(form, 9, *kept)
        for behind in (b"", bytes(9)):
            length = descriptor_bytes(Whole(b"xy" + raw + behind), 2, 9, *sizes)
            assert length == (len(raw) if is_one else None)
        assert descriptor_bytes(Whole(b"xy" + raw[:-1]), 2, 9, *sizes) is None
        assert descriptor_bytes(Whole(b"xy" + raw), 2, 8, *sizes) is None


def test_ranges_touch_each_other_but_do_not_overlap() -> None:
    ranges = Ranges()
    for start, end, is_added in (
        (10, 20, True),
        (20, 30, True),
        (29, 40, False),
        (30, 31, True),
        (0, 11, False),
        (0, 10, True),
        (0, 10, False),
        (19, 21, False),
        (15, 16, False),
        (50, 60, True),
        (40, 51, False),
        (30, 32, False),
        (31, 50, True),
    ):
        assert ranges.add(start, end) is is_added, (start, end)
    assert list(ranges) == [(0, 10), (10, 20), (20, 30), (30, 31), (31, 50), (50, 60)]
    assert ranges.top == 60


def test_a_range_is_known_by_both_of_its_ends() -> None:
    ranges = Ranges()
    assert not ranges.has(0, 0) and not ranges.covers(0)
    assert ranges.add(10, 20) and ranges.add(30, 31)
    for start, end, is_one in (
        (10, 20, True), (10, 19, False), (10, 21, False), (9, 20, False), (11, 20, False),
        (20, 30, False), (30, 31, True), (31, 32, False),
    ):  # fmt: skip
        assert ranges.has(start, end) is is_one
    covered = [position for position in range(40) if ranges.covers(position)]
    assert covered == [*range(10, 20), 30]


def record(
    *, disks: tuple[int, int] = (0, 0), counts: tuple[int, int] = (1, 1), size: int = 47,
    offset: int = 0, comment: int = 0,
) -> bytes:  # fmt: skip
    """Return an end record of a zip."""
    return struct.pack("<4s4H2LH", b"PK\5\6", *disks, *counts, size, offset, comment)


ENTRY = archives.Zip().add(b"a", A).entries[0]


@pytest.mark.parametrize(
    ("tail", "is_end"),
    [
        (record(), True),
        (record()[:-1], False),
        (ENTRY + record()[:-1], True),
        (b"x" + record(disks=(0, 0), counts=(0, 0)), False),
        (record(disks=(1, 0)), False),
        (record(disks=(0, 1)), False),
        (record(disks=(1, 1)), False),
        (record(counts=(1, 2)), False),
        (record(size=46), True),
        (record(size=45), False),
        (record(counts=(2, 2), size=92), True),
        (record(counts=(2, 2), size=91), False),
        (ENTRY + b"x" + record(size=1), True),
        (ENTRY + record(disks=(5, 5)), True),
        (ENTRY[:46] + record(disks=(5, 5), size=46), True),
        (ENTRY[:46] + record(disks=(5, 5), size=45), False),
        (ENTRY[:46] + record(disks=(5, 5), size=47), False),
        (b"PK\6\7" + bytes(16) + record(disks=(5, 5)), True),
        (b"PK\6\7" + bytes(17) + record(disks=(5, 5)), False),
        (b"xPK\6\7" + bytes(15) + record(disks=(5, 5)), False),
        (record() + b"PK\5\6", True),
        (record() + record(disks=(5, 5)) * 3, True),
        (b"PK\5\6" * 9, False),
    ],
)
def test_last_bytes_are_those_of_a_zip_if_some_program_may_take_them(
    tail: bytes, *, is_end: bool
) -> None:
    assert Zip.ends(tail) is is_end


@pytest.mark.parametrize("behind", [0, 1, 22, 65_535, 65_536])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_end_record_is_found_before_any_bytes(steps: int, behind: int) -> None:
    """The file is searched in steps from its end, and a record may lie across two steps."""
    data = archives.Zip().add(b"a", A).end()
    for more in range(-23, 3, 5):
        count = steps * TAIL_BYTES + behind + more
        if count >= 0:
            assert opened(Zip(), data + b"." * count).members == [(b"a", A)]


def two_with(end: bytes) -> bytes:
    made = archives.Zip().add(b"a", A).add(b"b", B, STORED)
    return bytes(made.body) + b"".join(made.entries) + end


@pytest.mark.parametrize(
    ("fields", "is_part"),
    [
        ({"disks": (1, 0)}, True),
        ({"disks": (1, 1)}, True),
        ({"disks": (9_999, 0)}, True),
        ({"disks": (10_000, 0)}, False),
        ({"disks": (1, 2)}, False),
        ({"disks": (0, 0)}, False),
        ({"disks": (1, 0), "counts": (3, 2)}, False),
        ({"disks": (1, 0), "counts": (1, 2)}, True),
        ({"disks": (1, 0), "counts": (0, 0)}, False),
        ({"disks": (1, 0), "size": 92}, True),
        ({"disks": (1, 0), "size": 91}, False),
        ({"disks": (1, 0), "comment": 1}, False),
    ],
)
def test_a_part_of_an_archive_has_numbers_that_make_sense(
    fields: dict[str, tuple[int, int]], *, is_part: bool
) -> None:
    made = archives.Zip().add(b"a", A).add(b"b", B, STORED)
    size = sum(map(len, made.entries))
    given = {"counts": (2, 2), "size": size, "offset": len(made.body), **fields}
    out = opened(Zip(), two_with(record(**given)))  # type: ignore[arg-type]
    assert ((b"", Why.UNSUPPORTED) in out.unread) is is_part
    assert out.contents == [A, B]


def long_end(
    made: archives.Zip, *, disk: int = 0, count: int = 2, moved: int = 0, between: bytes = b""
) -> bytes:
    """Return an archive with a 64-bit end record, `moved` bytes behind its claimed place."""
    size, offset = sum(map(len, made.entries)), len(made.body) - made.base
    body = bytes(made.body) + b"".join(made.entries)
    long = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, disk, 0, count, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(body) - made.base - moved, 1)
    most = record(counts=(0xFFFF, 0xFFFF), size=MAX32, offset=MAX32)
    return body + long + between + locator + most


@pytest.mark.parametrize(
    ("front", "fields", "unread"),
    [
        (b"", {}, []),
        (b"", {"between": b"signed"}, []),
        (b"", {"between": b"signed" * 1_000}, []),
        (b"a program", {}, []),
        (b"", {"moved": 1}, []),
        (b"", {"disk": 1}, [(b"", Why.UNSUPPORTED)]),
        (b"", {"disk": 9_999}, [(b"", Why.UNSUPPORTED)]),
        (b"", {"disk": 10_000}, []),
        (b"", {"count": 3}, [(b"", Why.DAMAGED)]),
        (b"", {"count": 2 + (1 << 16)}, [(b"", Why.DAMAGED)]),
    ],
)
def test_a_long_end_record_is_where_the_locator_says_or_right_before_it(
    front: bytes, fields: dict[str, int], unread: list[tuple[bytes, Why]]
) -> None:
    made = archives.Zip(front).add(b"a", A).add(b"b", B, STORED)
    out = opened(Zip(), long_end(made, **fields))  # type: ignore[arg-type]
    assert (out.members, out.unread) == ([(b"a", A), (b"b", B)], unread)


@pytest.mark.parametrize("step", [4_000, 4_096, 4_097, 66_000])
def test_headers_are_read_together_or_apart_wherever_they_lie(step: int) -> None:
    chance = random.Random(1)
    made = archives.Zip()
    contents = []
    for number in range(40):
        contents.append(chance.randbytes(max(0, step - 31 + number % 3 - 1)))
        made.add(b"a", contents[-1], STORED)
    out = opened(Zip(), made.end())
    assert out.contents == contents and not out.unread


def test_the_last_member_may_end_where_the_file_does() -> None:
    """The directory is in front of the members. If the file lacks one byte, the member is cut."""
    made = archives.Zip()
    front = len(archives.Zip().add(b"a", b"").entries[0]) + 22
    made.put(bytes(front))
    made.base = 0
    made.add(b"a", A, STORED)
    body = bytes(made.body[front:])
    made.body.clear()
    data = made.end(offset=0) + body
    assert opened(Zip(), data).members == [(b"a", A)]
    for cut in (1, len(A), len(A) + 1, len(A) + 30, len(body)):
        out = opened(Zip(), data[:-cut])
        assert not out.contents and out.reasons == {Why.DAMAGED}


def hidden(name: bytes = b"h", *, at: int = 0, byte: int = 0, **fields: int) -> set[Why]:
    """Return why a broken member behind other bytes is unread, if no directory entry names it."""
    broken = bytearray(archives.Zip().add(name, A, data=b"\xff" * 20, local=fields).body)
    if at:
        broken[at] = byte
    out = opened(Zip(), between(b"." + bytes(broken)))
    assert out.contents == [A]
    return out.reasons


def between(*pieces: bytes) -> bytes:
    """Return an archive with other bytes behind its member."""
    return archives.Zip().add(b"a", A).put(b"".join(pieces)).end()


def local(name: bytes, content: bytes, method: int = STORED, **given: Any) -> bytes:
    return bytes(archives.Zip().add(name, content, method, **given).body)


def test_a_header_among_other_bytes_has_a_method_and_flags_that_programs_write() -> None:
    """A header with other values is chance, unless the bytes of its member fit."""
    known = {*range(11), 12, 14, 16, 18, 19, 20, *range(93, 100)}
    assert {method for method in range(120) if hidden(method=method)} == known
    flags = {0, 1, 2, 3, 4, 5, 6, 11, 13}
    assert {bit for bit in range(16) if hidden(flags=1 << bit)} == flags
    assert {version for version in range(256) if hidden(at=4, byte=version)} == set(range(64))
    for name, is_one in (
        (b"", False), (b"n" * 4_096, True), (b"n" * 4_097, False), (b"n\x1f", False),
        (b"n\x20", True),
    ):  # fmt: skip
        assert bool(hidden(name)) is is_one


def test_a_directory_without_an_entry_is_no_member_unless_it_has_bytes() -> None:
    for name, content, is_one in ((b"h/", b"", False), (b"h/", b"x", True), (b"h", b"", True)):
        out = opened(Zip(), between(local(name, content)))
        assert out.members == [(b"a", A)] + [(name, content)] * is_one and not out.unread


@pytest.mark.parametrize("method", [STORED, archives.DEFLATED])
@pytest.mark.parametrize("described", [True, False])
def test_members_without_an_entry_follow_each_other(method: int, *, described: bool) -> None:
    contents = [b"x" * count + b"PK\7\x08" * (count % 3) for count in range(1, 40)]
    data = between(*(local(b"h", each, method, described=described) for each in contents))
    out = opened(Zip(), data)
    assert out.contents == [A, *contents] and not out.unread
    # The same rule applies to several members with unusual fields, one directly behind the other.
    odd = (local(b"\1", each, method, described=described) for each in contents)
    found = opened(Zip(), between(*odd))
    assert found.contents == [A, *contents] and not found.unread


def test_marks_that_may_be_chance_are_tried_up_to_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a control character may be chance, so the bytes of the member are tried."""
    good = b"." + local(b"\1", b"x" * 100)
    wrong = b"." + local(b"\1", b"x", local={"crc": 1})
    for tries, pieces, found, reasons in (
        (3, [wrong, wrong, good], 1, set()),
        (2, [wrong, wrong, good], 0, {Why.LIMIT}),
        (2, [wrong, wrong, good, good], 0, {Why.LIMIT}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(ziphidden, "_MAX_TRIES", tries)
            out = opened(Zip(), between(*pieces))
            assert len(out.members) == 1 + found and out.reasons == reasons
            assert len(out.unread) == len(reasons)
    for most, found, limits in ((201, 2, 0), (200, 1, 1), (101, 1, 1), (100, 0, 1), (1, 0, 1)):
        with monkeypatch.context() as patch:
            patch.setattr(ziphidden, "_MAX_TRIED_BYTES", most)
            out = opened(Zip(), between(good, good))
            assert (len(out.members), len(out.unread)) == (1 + found, limits), most


def test_a_mark_is_found_wherever_the_bytes_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    data = between(*(b"." * n + local(b"h", b"x" * n) for n in range(9)))
    wanted = opened(Zip(), data).members
    assert len(wanted) == 10
    for window in (4, 5, 31, 64, 100):
        monkeypatch.setattr(ziphidden, "_WINDOW_BYTES", window)
        assert opened(Zip(), data).members == wanted


def test_the_longest_entry_of_a_directory_is_read() -> None:
    """Name, extra fields and comment have 65,535 bytes each."""
    most = 0xFFFF
    made = archives.Zip()
    for number in range(2):
        made.add(b"%d" % number * most, A)
        longest = bytearray(made.entries[-1])
        struct.pack_into("<2H", longest, 30, most, most)
        made.entries[-1] = bytes(longest) + field(9, bytes(most - 4)) + bytes(most)
    out = opened(Zip(), made.add(b"b", B).end())
    assert out.members == [(b"0" * most, A), (b"1" * most, A), (b"b", B)] and not out.unread


def test_the_last_entry_may_have_no_name() -> None:
    out = opened(Zip(), archives.Zip().add(b"a", A).add(b"", B).end())
    assert out.members == [(b"a", A), (b"", B)] and not out.unread


@pytest.mark.parametrize(("count", "is_read"), [(17, True), (18, False)])
def test_16_directories_and_more_of_the_length_of_the_file_are_read(
    count: int, *, is_read: bool
) -> None:
    """The directories overlap, and each of them has more than half of the bytes of the file."""
    none = {"flags": 0, "method": 8, "crc": 0, "packed": 0, "size": 0}
    entries = [archives.entry(b"%03d" % number, **none, offset=number) for number in range(60)]
    data = b"".join(entries)
    for number in range(count):
        start = sum(map(len, entries[:number]))
        data += record(counts=(60 - number, 60 - number), size=len(data) - start)
    out = opened(Zip(), data)
    assert [name for name, why in out.unread if why is Why.LIMIT] == [b""] * (not is_read)
    assert (b"", Why.DAMAGED) not in out.unread


def test_a_directory_that_two_end_records_name_is_read_once() -> None:
    made = archives.Zip().add(b"a", A).add(b"b", B, STORED)
    size, offset = sum(map(len, made.entries)), len(made.body)
    out = opened(Zip(), made.end() + record(counts=(2, 2), size=size, offset=offset))
    assert out.members == [(b"a", A), (b"b", B)] and not out.unread


def test_an_offset_that_is_too_large_moves_no_member() -> None:
    made = archives.Zip().add(b"a", A).add(b"b", B, STORED)
    size, offset = sum(map(len, made.entries)), len(made.body)
    for more in (1, 5, 1 << 20):
        end = record(counts=(2, 2), size=size, offset=offset + more)
        out = opened(Zip(), two_with(end))
        assert out.members == [(b"a", A), (b"b", B)] and not out.unread


def test_members_behind_the_entries_of_a_directory_are_found() -> None:
    """The end record counts these members as a part of the directory."""
    made = archives.Zip().add(b"a", A).add(b"b", B, STORED)
    size, offset = sum(map(len, made.entries)), len(made.body)
    more = local(b"h", b"hidden")
    end = record(counts=(2, 2), size=size + len(more), offset=offset)
    out = opened(Zip(), two_with(more + end))
    assert out.members == [(b"a", A), (b"b", B), (b"h", b"hidden")] and not out.unread


@pytest.mark.parametrize("before", [0, 4_000, 5_000])
def test_members_between_the_end_records_are_found(before: int) -> None:
    made = archives.Zip().add(b"a", A).add(b"b", B, STORED)
    data = long_end(made, between=bytes(before) + local(b"h", b"hidden"))
    out = opened(Zip(), data)
    assert out.members == [(b"a", A), (b"b", B), (b"h", b"hidden")] and not out.unread


@pytest.mark.parametrize(
    ("fields", "is_empty"),
    [
        ({}, True),
        ({"counts": (0, 1)}, False),
        ({"size": 1}, False),
        ({"disks": (1, 0)}, False),
        ({"disks": (0, 1)}, False),
    ],
)
def test_an_end_record_alone_is_an_empty_archive_if_its_fields_are_zero(
    fields: dict[str, Any], *, is_empty: bool
) -> None:
    given: dict[str, Any] = {"counts": (0, 0), "size": 0, **fields}
    out = opened(Zip(), record(**given))
    assert (out.members, out.unread) == ([], [] if is_empty else [(b"", Why.DAMAGED)])


def test_the_number_of_entries_has_16_bits_or_64_bits() -> None:
    made = archives.Zip().add(b"a", A).add(b"b", B, STORED)
    long = long_end(made)
    for data, bits in ((made.end(), 16), (long, 64)):
        (end,) = ends(Whole(data))
        (directory,) = end.directories
        for count in (2, 3, 2 + (1 << 15), 2 + (1 << 16), 1 + (1 << 16)):
            entries = Entries(Whole(data), directory)
            entries.count = count
            assert entries.is_complete is (count % (1 << bits) == 2), (bits, count)


def test_members_of_an_earlier_archive_are_put_in_order_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last archive is read first, so all members of the first archive are out of order."""
    first = archives.zip_of({"a": A, "b": B, "c": b"c"})
    data = first + archives.zip_of({"last": b"last"})
    assert not opened(Zip(), data).unread
    monkeypatch.setattr("hashclient.containers.zip._MAX_MOVED", 0)
    out = opened(Zip(), data)
    assert (out.members, out.unread) == ([(b"last", b"last")], [(b"", Why.LIMIT)])


@pytest.mark.parametrize("extra", [b"", b"x", b"12345", bytes(300)])
def test_extra_fields_of_a_local_header_precede_the_bytes_of_its_member(extra: bytes) -> None:
    made = archives.Zip(b"front").add(b"a", A)
    crc, size, offset = zlib.crc32(B), len(B), len(made.body) - made.base
    fields = (b"PK\3\4", 20, 0, STORED, 0, 0x5CA1, crc, size, size, 1, len(extra))
    made.put(struct.pack("<4s5H3L2H", *fields) + b"b" + extra + B)
    entry = archives.entry(
        b"b", flags=0, method=STORED, crc=crc, packed=size, size=size, offset=offset
    )
    made.entries.append(entry)
    out = opened(Zip(), made.add(b"c", A).end())
    assert out.members == [(b"a", A), (b"b", B), (b"c", A)] and not out.unread


@pytest.mark.parametrize(
    ("length", "comment", "is_part"),
    [(0, b"", True), (3, b"xyz", True), (22, b"x" * 22, True), (3, b"xy", False), (0, b"x", False)],
)
def test_a_part_of_an_archive_ends_with_its_comment(
    length: int, comment: bytes, *, is_part: bool
) -> None:
    made = archives.Zip().add(b"a", A).add(b"b", B, STORED)
    size, offset = sum(map(len, made.entries)), len(made.body)
    end = record(disks=(1, 0), counts=(2, 2), size=size, offset=offset, comment=length)
    out = opened(Zip(), two_with(end + comment))
    assert out.unread == [(b"", Why.UNSUPPORTED)] * is_part and out.contents == [A, B]


def test_bytes_between_a_directory_and_its_end_record_are_no_entries() -> None:
    for between in (bytes(100), b"PK\1\1" + bytes(100), b"PK\1\3" + bytes(100)):
        made = archives.Zip().add(b"a", A).add(b"b", B, STORED)
        out = opened(Zip(), made.end(between=between))
        assert out.members == [(b"a", A), (b"b", B)] and not out.unread


def test_an_archive_in_a_member_hides_no_archive_before_it() -> None:
    """Members of a directory have sizes, in contrast to members that no directory names."""
    inner = archives.zip_of({"x": A})
    data = archives.zip_of({"a": A}) + archives.zip_of({"inner": inner}, STORED)
    out = opened(Zip(), data)
    assert out.members == [(b"inner", inner), (b"a", A)] and not out.unread
    assert [one.size for one in out.listed] == [len(inner), len(A)]


def test_a_member_in_two_directories_hides_none_behind_it() -> None:
    made = archives.Zip().add(b"a", A).add(b"b", B, STORED)
    both, start = b"".join(made.entries), len(made.body)
    first = record(counts=(2, 2), size=len(both), offset=start)
    last = record(size=len(made.entries[0]), offset=start + len(both + first))
    out = opened(Zip(), bytes(made.body) + both + first + made.entries[0] + last)
    assert out.members == [(b"a", A), (b"b", B)] and not out.unread
    assert [one.size for one in out.listed] == [len(A), len(B)]

"""Headers of rar, cpio and cabinets, and the bytes that libarchive gets, at the edges of fields."""

from __future__ import annotations

import ctypes
import struct
import zlib
from collections.abc import Iterable

import pytest

from fixtures import others
from hashclient.containers import libarchive, libformats
from hashclient.containers.cab import Cab, _blocks, _Folder, _length, _Marks, _Passing, _table
from hashclient.containers.compressed import Zstd
from hashclient.containers.forward import Forward
from hashclient.containers.interface import Member, NotReadError, Unlisted, Why
from tests.opened import Once, Whole, opened


@pytest.mark.parametrize(
    ("raw", "at", "number", "end"),
    [
        (b"\0", 0, 0, 1),
        (b"\x7f\x01", 0, 127, 1),
        (b"\x80\x01\x05", 0, 128, 2),
        (b"xx\xff\xff\x03y", 2, (1 << 16) - 1, 5),
        (b"\xff" * 12, 0, (1 << 70) - 1, 10),
        (b"\x81", 0, 1, 1),
        (b"", 0, 0, 0),
    ],
)
def test_a_number_of_rar_has_seven_bits_in_a_byte(
    raw: bytes, at: int, number: int, end: int
) -> None:
    assert libformats._seven_bits(raw, at) == (number, end)


def five(kind: int, *rest: bytes, flags: int = 0, content: bytes = b"", extra: int = 0) -> bytes:
    """Return a block of rar 5."""
    raw = bytes([kind, flags]) + bytes([extra] * (flags & 1))
    raw += bytes([len(content)] * (flags >> 1 & 1)) + b"".join(rest)
    raw = bytes([len(raw)]) + raw
    return struct.pack("<L", zlib.crc32(raw)) + raw + content


MARK5 = b"Rar!\x1a\7\1\0"
#: The header of a member: flags, size, attributes; time and checksum; method, system; and the name.
NAME = bytes([0, 9, 0, 0, 1, 4]) + b"name"
TIMED = bytes([6, 9, 0]) + b"timecrc:" + bytes([0, 1, 4]) + b"name"


def unlisted(found: Iterable[list[Member] | Unlisted]) -> list[bytes]:
    """Return the names of the members that are not listed."""
    return [one.name for one in found if isinstance(one, Unlisted)]


@pytest.mark.parametrize(
    ("blocks", "names"),
    [
        (b"", []),
        (five(2, NAME), []),
        (five(2, NAME, flags=8), [b"name"]),
        (five(2, NAME, flags=16), [b"name"]),
        (five(2, NAME, flags=24), [b"name"]),
        (five(2, NAME, flags=32), []),
        (five(2, TIMED, flags=8), [b"name"]),
        (five(2, bytes([2]) + TIMED[1:7] + TIMED[11:], flags=8), [b"name"]),
        (five(2, bytes([4]) + TIMED[1:7] + TIMED[11:], flags=8), [b"name"]),
        (five(2, NAME, b"extra", flags=9, extra=5), [b"name"]),
        (five(2, NAME[:-2], flags=9, extra=0), [b"na"]),
        (five(3, NAME, flags=8), []),
        (five(1, NAME, flags=8), []),
        (five(5, b"\0") + five(2, NAME, flags=8), [b"name"]),
        (five(1, b"\0") + five(2, NAME, flags=8), [b"name"]),
        (five(2, NAME, flags=2, content=b"c" * 90) + five(2, NAME, flags=8), [b"name"]),
        (five(2, NAME, flags=10, content=b"c" * 90) + five(2, NAME, flags=8), [b"name"] * 2),
        (five(4, b"\0") + five(2, NAME, flags=8), []),
        (bytes(5) + five(2, NAME, flags=8), []),
        (five(2, NAME, flags=8)[:5], []),
    ],
)
def test_members_of_rar_5_that_are_in_another_volume_are_found(
    blocks: bytes, names: list[bytes]
) -> None:
    assert unlisted(libformats._left_out_of_5(Whole(MARK5 + blocks))) == names


def test_a_header_of_rar_5_is_as_long_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    block = five(2, NAME, flags=8)
    for most, names in ((len(block) - 5, [b"name"]), (len(block) - 6, [])):
        monkeypatch.setattr(libformats, "_RAR_MAX_BYTES", most)
        assert unlisted(libformats._left_out_of_5(Whole(MARK5 + block))) == names


def four(
    kind: int, flags: int, *, content: bytes = b"", high: int | None = None, name: bytes = b"name",
    length: int | None = None,
) -> bytes:  # fmt: skip
    """Return a block of rar 4. `high`: upper half of a 64-bit packed length."""
    rest = struct.pack("<L", len(content)) + bytes(15)
    rest += struct.pack("<H", len(name)) + bytes(4)
    rest += b"" if high is None else struct.pack("<2L", high, 0)
    rest += name
    size = 7 + len(rest) if length is None else length
    return struct.pack("<HBHH", 0, kind, flags, size) + rest + content


@pytest.mark.parametrize(
    ("blocks", "names"),
    [
        (b"", []),
        (four(0x74, 0), []),
        (four(0x74, 1), [b"name"]),
        (four(0x74, 2), [b"name"]),
        (four(0x74, 4), []),
        (four(0x75, 3), []),
        (four(0x73, 3), []),
        (four(0x74, 1, name=b"name\0wide"), [b"name"]),
        (four(0x74, 0x101, high=0), [b"name"]),
        (four(0x74, 0x100, high=1, content=b"c") + four(0x74, 1), []),
        (four(0x74, 0, content=b"c" * 99) + four(0x74, 1), [b"name"]),
        (four(0x74, 1, content=b"c" * 99) + four(0x74, 2), [b"name"] * 2),
        (four(0x7A, 0x8000, content=b"c" * 99) + four(0x74, 1), [b"name"]),
        (four(0x7A, 0x8100, content=b"c" * 99) + four(0x74, 1), [b"name"]),
        (four(0x73, 0x8100, content=b"c" * 99) + four(0x74, 1), [b"name"]),
        # Without the flag, no data follows the block of another kind than a file.
        (four(0x75, 0, content=b"c" * 99)[:-99] + four(0x74, 1), [b"name"]),
        (four(0x73, 0, content=b"c" * 99)[:-99] + four(0x74, 1), [b"name"]),
        (struct.pack("<HBHH", 0, 0x73, 0, 13) + bytes(6) + four(0x74, 1), [b"name"]),
        (struct.pack("<HBHH", 0, 0x73, 0, 7) + four(0x74, 1), [b"name"]),
        (struct.pack("<HBHH", 0, 0x73, 0, 6) + four(0x74, 1), []),
        (four(0x74, 1)[:11], [b""]),
        (four(0x74, 1)[:10], []),
    ],
)
def test_members_of_rar_4_that_are_in_another_volume_are_found(
    blocks: bytes, names: list[bytes]
) -> None:
    assert unlisted(libformats._left_out_of_4(Whole(b"Rar!\x1a\7\0" + blocks))) == names


@pytest.mark.parametrize("name", ["rar", "rar5"])
def test_a_rar_begins_with_a_header_whose_sum_is_right(name: str) -> None:
    data = (others.rar4_of if name == "rar" else others.rar5_of)({"a": b"benign"})
    reader = libformats.reader(name, ())
    assert isinstance(reader, libformats.Rar)
    start = 7 if name == "rar" else 8
    assert reader.length(Whole(data)) == len(data)
    for at in range(start, start + 7):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        is_one = name == "rar" and at == 9
        assert is_one or not reader.length(Whole(changed)), at
    for length in range(start + 7):
        assert not reader.length(Whole(data[:length]))


def newc(name: bytes, content: bytes, mark: bytes = b"070701") -> bytes:
    fields = [1, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
    head = mark + b"".join(b"%08x" % value for value in fields) + name + b"\0"
    head += bytes(-len(head) % 4)
    return head + content + bytes(-len(content) % 4)


def odc(name: bytes, content: bytes) -> bytes:
    head = b"070707" + b"".join(b"%06o" % n for n in (0, 1, 0o100644, 0, 0, 1, 0))
    head += b"%011o%06o%011o" % (0, len(name) + 1, len(content))
    return head + name + b"\0" + content


END = newc(b"TRAILER!!!", b"")


@pytest.mark.parametrize(
    ("data", "is_damaged"),
    [
        (b"", False),
        (newc(b"a", b"benign") + END, False),
        (newc(b"a", b"benign", b"070702") + END, False),
        (b"".join(newc(b"n" * n, b"c" * n) for n in range(9)) + END, False),
        (b"".join(odc(b"n" * n, b"c" * n) for n in range(1, 9)) + odc(b"TRAILER!!!", b""), False),
        (newc(b"a", b"benign") + END + b"0707 is behind the end" * 9, False),
        (newc(b"a", b"benign") + b"x" + END, True),
        (newc(b"a", b"benign") + END.replace(b"0", b"g", 1), True),
        (newc(b"a", b"benign")[:-1] + END, True),
        (odc(b"a", b"benign") + b"x" + odc(b"TRAILER!!!", b"") + bytes(200), True),
        (newc(b"a", b"").replace(b"070701", b"070703") + bytes(200), True),
        (b"no text at all, and no cpio" * 9, False),
    ],
)
def test_headers_of_a_cpio_are_checked_as_it_is_read(data: bytes, *, is_damaged: bool) -> None:
    for step in (1, 7, 110, 1 << 20):
        headers = libformats._Headers(Once(data, step))
        assert b"".join(iter(lambda h=headers: h.read(1 << 20), b"")) == data  # type: ignore[misc]
        assert headers.is_damaged is is_damaged


@pytest.mark.parametrize("step", [1, 2, 3, 9])
def test_two_flags_of_compress_are_cleared(step: int) -> None:
    cleared = libformats._Cleared(Once(b"\x1f\x9d\xff\xff\xff", step))
    assert b"".join(iter(lambda: cleared.read(9), b"")) == b"\x1f\x9d\x9f\xff\xff"


# The bytes that libarchive gets

DATA = bytes(range(200))


def pieces(source: libarchive._Input) -> bytes:
    block = (ctypes.c_void_p * 1)()
    count = source.read(block)  # type: ignore[arg-type]
    return ctypes.string_at(block[0] or 0, count) if count > 0 else b""


def test_the_library_may_go_anywhere_within_the_bytes() -> None:
    source = libarchive._Input(Whole(DATA), seeks=True)
    for offset, whence, found in (
        (0, 0, 0), (200, 0, 200), (201, 0, -30), (-1, 0, -30), (5, 0, 5), (5, 1, 10), (-10, 1, 0),
        (-11, 1, -30), (0, 2, 200), (-200, 2, 0), (-201, 2, -30), (1, 2, -30), (-7, 2, 193),
    ):  # fmt: skip
        assert source.seek(offset, whence) == found, (offset, whence)
    assert pieces(source) == DATA[193:]
    assert pieces(source) == b""
    assert source.seek(10, 0) == 10
    for count, found in ((5, 5), (0, 0), (-5, 0), (500, 185), (1, 0)):
        assert source.skip(count) == found
    once = libarchive._Input(Once(DATA), seeks=False)
    assert (once.seek(0, 0), once.skip(5)) == (-30, 0)
    assert pieces(once) == DATA


def test_bytes_that_the_library_did_not_take_are_at_hand() -> None:
    source = libarchive._Input(Once(DATA), seeks=False)
    assert source.rest(0) == b""
    assert pieces(source) == DATA and pieces(source) == b""
    for consumed, rest in ((0, DATA), (199, DATA[199:]), (200, b""), (201, b""), (-1, b"")):
        assert source.rest(consumed) == rest


@pytest.mark.parametrize("error", [NotReadError(Why.DAMAGED, "cut"), MemoryError()])
def test_an_error_of_the_bytes_is_kept_for_who_reads_the_archive(error: Exception) -> None:
    class Broken(Once):
        def read(self, count: int) -> bytes:
            raise error

    source = libarchive._Input(Broken(b""), seeks=False)
    assert source.read((ctypes.c_void_p * 1)()) == -30  # type: ignore[arg-type]
    assert source.error is error


# Cabinets


def test_marks_of_cabinets_are_found_wherever_the_bytes_are_divided() -> None:
    data = b"MSCx..MSCF.MMSCF...MSC"
    for step in (1, 2, 3, 4, 5, 99):
        marks, places = _Marks(Once(data, step)), []
        while marks.find():
            places.append(marks.position)
            assert marks.take(4) == b"MSCF"
        assert places == [6, 12]
        passing = _Passing(Forward(Once(data, step)))
        assert b"".join(iter(lambda p=passing: p.read(99), b"")) == data  # type: ignore[misc]
        assert (passing.last, passing.length) == (12, len(data))


@pytest.mark.parametrize("reserve", [None, (20, 4, 8), (0, 0, 0)])
def test_folders_of_a_cabinet_lie_behind_what_is_kept_free(
    reserve: tuple[int, int, int] | None,
) -> None:
    data = others.cab_of({"a": b"benign" * 50}, reserve=reserve, block_bytes=100)
    (folder,) = _table(Whole(data))
    assert (folder.blocks, folder.compression) == (3, 0)
    assert folder.reserve == (reserve[2] if reserve else 0)
    blocks = list(_blocks(Whole(data), folder))
    assert [(packed, length) for _, packed, length in blocks] == [(100, 100)] * 3
    assert b"".join(data[at : at + count] for at, count, _ in blocks) == b"benign" * 50
    assert _table(Whole(data), most=0) == []
    ends = folder.start + 8 + folder.reserve + 100
    assert len(list(_blocks(Whole(data[: ends + 8]), folder))) == 2
    assert len(list(_blocks(Whole(data[: ends + 7]), folder))) == 1


def cabinet(**fields: int) -> bytes:
    """Return a cabinet in which the given fields have other values."""
    data = bytearray(others.cab_of({"a": b"benign"}))
    places = {"length": (8, "<L"), "folders": (26, "<H"), "files": (28, "<H"), "flags": (30, "<H")}
    places |= {"start": (36, "<L"), "compression": (42, "<H")}
    for name, value in fields.items():
        at, form = places[name]
        struct.pack_into(form, data, at, value)
    return bytes(data)


SIZE = len(cabinet())
(START,) = struct.unpack_from("<L", cabinet(), 36)


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (cabinet(), SIZE),
        (cabinet() + b"behind", SIZE),
        (cabinet(length=SIZE + 1), SIZE),
        (cabinet(length=0), SIZE),
        (cabinet(length=START), SIZE),
        (cabinet(length=START + 1), START + 1),
        (cabinet(folders=0), 0),
        (cabinet(files=0), 0),
        (cabinet(start=SIZE), 0),
        (cabinet(start=SIZE - 1, length=0), SIZE),
        (cabinet(start=44), 0),
        (cabinet(start=45), SIZE),
        (cabinet(folders=4, start=60), 0),
        (cabinet(folders=4, start=69), SIZE),
        (cabinet(compression=3), SIZE),
        (cabinet(compression=4), 0),
        (cabinet(compression=0x1503), SIZE),
        (cabinet()[:35], 0),
        (cabinet()[:44], 0),
    ],
)
def test_a_cabinet_is_one_if_its_folder_is_where_its_header_says(data: bytes, length: int) -> None:
    assert _length(Whole(data)) == length
    assert Cab("cab").length(Whole(data)) == (len(data) if length else 0)


def test_members_of_short_blocks_are_cut_out_of_them() -> None:
    contents = {"empty": b"", "a": b"a" * 99, "b": b"b" * 102, "c": b"c" * 299, "d": b"d"}
    for is_packed in (False, True):
        data = others.cab_of(contents, block_bytes=100, is_packed=is_packed)
        out = opened(Cab("cab"), data)
        assert out.contents == list(contents.values()) and not out.unread
        assert out.names == [name.encode() for name in contents]
    stored = others.cab_of(contents, block_bytes=100)
    cut = opened(Cab("cab"), stored[:-1])
    assert cut.contents == list(contents.values())[:-1]
    assert cut.unread == [(b"d", Why.DAMAGED)]


def test_a_block_of_a_cabinet_has_the_length_that_it_says() -> None:
    data = others.cab_of({"a": b"a" * 150}, block_bytes=100, is_packed=True)
    folder = _Folder(struct.unpack_from("<L", data, 36)[0], 2, 1, 0)
    for length in (99, 101):
        changed = bytearray(data)
        struct.pack_into("<H", changed, folder.start + 6, length)
        assert opened(Cab("cab"), bytes(changed)).reasons == {Why.DAMAGED}
    mark = bytearray(data)
    mark[folder.start + 8] = 0
    assert opened(Cab("cab"), bytes(mark)).reasons == {Why.DAMAGED}


@pytest.mark.parametrize(("length", "names"), [(2 << 20, [b"name"]), ((2 << 20) + 1, [])])
def test_a_header_of_rar_5_has_2_mib_at_most(length: int, names: list[bytes]) -> None:
    said = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14 & 0x7F | 0x80, 1])
    assert length >> 21 == 1
    block = bytes(4) + said + bytes([2, 8]) + NAME
    assert unlisted(libformats._left_out_of_5(Whole(MARK5 + block))) == names


#: By name of a format: whether its reader goes back in the file, and whether sizes are exact.
READERS = {
    "7zip": (True, False), "rar5": (True, False), "rar": (True, False), "cab": (False, False),
    "cpio": (False, True), "ar": (False, True), "xar": (True, False), "lha": (False, False),
    "warc": (False, True), "iso9660": (True, True),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_a_reader_goes_back_and_states_sizes_as_its_format_does(name: str) -> None:
    reader = libformats.reader(name, (b"benign",))
    assert isinstance(reader, libarchive.Libarchive)
    assert (reader.name, reader.seeks, reader._is_exact) == (name, *READERS[name])
    assert reader._passwords == ((b"benign",) if name in ("7zip", "rar5", "rar") else ())


@pytest.mark.parametrize(
    ("has_zstd", "has_library", "kind"),
    [
        (True, False, Zstd),
        (True, True, libarchive.Filtered),
        (False, True, libarchive.Filtered),
        (False, False, libarchive.Filtered),
    ],
)
def test_zstd_is_decoded_by_python_only_without_the_library(
    kind: type, *, has_zstd: bool, has_library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libformats, "HAS_ZSTD", has_zstd)
    monkeypatch.setattr(libformats, "is_here", lambda: has_library)
    reader = libformats.zstd("zstd", ())
    assert isinstance(reader, kind) and reader.name == "zstd"


@pytest.mark.parametrize(
    ("kind", "length", "is_one"),
    [(0x73, 11, True), (0x73, 7, True), (0x73, 6, False), (0x73, 2, False), (0x73, 0, False),
     (0x72, 11, False), (0x74, 11, False)],
)  # fmt: skip
def test_a_rar_4_begins_with_the_header_of_the_archive(
    kind: int, length: int, *, is_one: bool
) -> None:
    header = struct.pack("<BHH", kind, 0, length) + bytes(4)
    crc = zlib.crc32(header[: max(length - 2, 0)]) & 0xFFFF
    for more in (0, 1, -1):
        data = b"Rar!\x1a\7\0" + struct.pack("<H", crc + more & 0xFFFF) + header
        length = libformats.Rar("rar").length(Whole(data))
        assert length == (len(data) if is_one and not more else 0)


@pytest.mark.parametrize("count", [0, 3, 4, 5, 6, 99])
def test_zeros_behind_the_mark_of_rar_5_begin_none(count: int) -> None:
    assert libformats.Rar("rar5").length(Whole(MARK5 + bytes(count))) == 0


@pytest.mark.parametrize(("count", "is_one"), [(57, True), (58, False)])
def test_the_first_header_of_a_rar_5_has_64_bytes_at_most(count: int, *, is_one: bool) -> None:
    data = MARK5 + five(1, b"x" * count)
    assert libformats.Rar("rar5").length(Whole(data)) == (len(data) if is_one else 0)
    for crc in (0, 0xFFFFFFFF):
        changed = data[:8] + struct.pack("<L", crc) + data[12:]
        assert not libformats.Rar("rar5").length(Whole(changed))


class Far(Whole):
    """A file in which the bytes behind the first `gap` are 4 GiB further behind."""

    gap = 0

    def read_at(self, offset: int, count: int) -> bytes:
        if offset < 1 << 32:
            return super().read_at(offset, min(count, max(self.gap - offset, 0)))
        return super().read_at(offset - (1 << 32), count)


def test_a_member_of_rar_4_may_be_longer_than_4_gib() -> None:
    first = b"Rar!\x1a\7\0" + four(0x74, 0x100, content=b"c" * 9, high=1)
    data = Far(first + four(0x74, 1))
    data.gap = len(first)
    assert unlisted(libformats._left_out_of_4(data)) == [b"name"]

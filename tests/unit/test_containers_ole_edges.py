"""Compound files at the edges of their fields: sectors, sizes, entries, and where chains end."""

from __future__ import annotations

import struct

import pytest

from fixtures.ole import SHORT, ole_of
from hashclient.containers import ole
from hashclient.containers.interface import Unlisted, Why
from hashclient.containers.ole import Ole, end_of
from tests.opened import Opened, Whole, each, opened

A = bytes(range(200))
STREAMS = {"a": A, "b": bytes(SHORT), "s/c": A[:7]}
DATA = ole_of(STREAMS)
(DIRECTORY,) = struct.unpack_from("<L", DATA, 48)
ENTRIES = (DIRECTORY + 1) * 512


def patched(*fields: tuple[int, str, int], data: bytes = DATA) -> bytes:
    made = bytearray(data)
    for at, form, value in fields:
        struct.pack_into(form, made, at, value)
    return bytes(made)


def entry(number: int, field: str, value: int) -> tuple[int, str, int]:
    """Return a change of a field of an entry: its place, its form and the new value."""
    places = {"length": (64, "<H"), "kind": (66, "<B"), "before": (68, "<L"), "behind": (72, "<L")}
    places |= {"child": (76, "<L"), "start": (116, "<L"), "size": (120, "<L"), "high": (124, "<L")}
    at, form = places[field]
    return ENTRIES + 128 * number + at, form, value


def look(*fields: tuple[int, str, int]) -> Opened:
    assert Ole.seeks
    return opened(Ole(), patched(*fields))


WHOLE = [(name.encode(), content) for name, content in STREAMS.items()]


@pytest.mark.parametrize(
    ("fields", "is_read"),
    [
        ([], True),
        ([(30, "<H", 6)], False),
        ([(30, "<H", 21)], False),
        ([(32, "<H", 10)], False),
        ([(30, "<H", 0x0109)], False),
    ],
)
def test_a_header_says_how_long_sectors_are(
    fields: list[tuple[int, str, int]], *, is_read: bool
) -> None:
    out = look(*fields)
    assert (sorted(out.members) == sorted(WHOLE)) is is_read
    assert out.reasons == (set() if is_read else {Why.DAMAGED})
    assert opened(Ole(), patched(*fields)[:511]).reasons == {Why.DAMAGED}


def test_short_sectors_may_be_as_long_as_others() -> None:
    out = look((32, "<H", 9))
    assert (b"a", A) in out.members or out.unread


@pytest.mark.parametrize(
    ("limit", "count"), [(SHORT, 1), (SHORT + 1, 1), (200, 2), (201, 1), (199, 2), (0, 2)]
)
def test_a_stream_is_short_by_the_limit_of_the_file_or_by_the_usual_one(
    limit: int, count: int
) -> None:
    out = look((56, "<L", limit))
    assert [one.name for one in out.listed].count(b"a") == count
    assert (b"a", A) in out.members
    assert [one.name for one in out.listed].count(b"b") == 1 + (limit > SHORT)


def numbers() -> dict[str, int]:
    """Return the numbers of the entries by their names."""
    found = {}
    for number in range(8):
        raw = DATA[ENTRIES + 128 * number :][:66]
        (length,) = struct.unpack_from("<H", raw, 64)
        found[raw[: max(length - 2, 0)].decode("utf-16-le")] = number
    return found


NUMBERS = numbers()
A_AT, B_AT, S_AT = NUMBERS["a"], NUMBERS["b"], NUMBERS["s"]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ([entry(A_AT, "high", 7)], [b"a", b"b", b"s/c"]),
        ([entry(A_AT, "kind", 0)], [b"b", b"s/c"]),
        ([entry(A_AT, "kind", 3)], [b"a", b"b", b"s/c"]),
        ([entry(A_AT, "length", 2)], [b"", b"b", b"s/c"]),
        ([entry(A_AT, "length", 0)], [b"", b"b", b"s/c"]),
        ([entry(A_AT, "length", 1)], [b"", b"b", b"s/c"]),
        ([entry(A_AT, "length", 66)], [b"a" + bytes(30), b"b", b"s/c"]),
        ([entry(A_AT, "length", 64)], [b"a" + bytes(30), b"b", b"s/c"]),
        ([entry(S_AT, "length", 0)], [b"a", b"b", b"/c"]),
        ([entry(S_AT, "kind", 2)], [b"a", b"b", b"s"]),
        ([entry(0, "child", 0xFFFFFFFF)], []),
    ],
)
def test_entries_have_names_kinds_and_sizes(
    fields: list[tuple[int, str, int]], names: list[bytes]
) -> None:
    out = look(*fields)
    assert sorted(one.name for one in out.listed) == sorted(names)
    assert not [why for name, why in out.unread if not name]


@pytest.mark.parametrize("field", ["before", "behind", "child"])
def test_an_entry_that_is_not_there_is_told(field: str) -> None:
    for number, is_unread in ((7, False), (8, True), (0xFFFFFFFE, True)):
        out = look(entry(S_AT if field == "child" else A_AT, field, number))
        assert ((b"", Why.DAMAGED) in out.unread) is is_unread


def test_a_directory_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    length = 2 * 512
    monkeypatch.setattr(ole, "_MAX_DIRECTORY_BYTES", length)
    assert not look().unread
    monkeypatch.setattr(ole, "_MAX_DIRECTORY_BYTES", length - 1)
    assert look().reasons == {Why.LIMIT}


def test_streams_are_searched_up_to_a_multiple_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ole_of({f"{number}/Data": bytes(SHORT) for number in range(4)})
    for times, reasons in ((1, set()), (0, {Why.LIMIT})):
        monkeypatch.setattr(ole, "_SEARCHED", times)
        assert opened(Ole(), data).reasons == reasons


@pytest.mark.parametrize("behind", [0, 1, 511, 512, 5_000])
def test_a_compound_file_ends_with_its_last_sector_that_is_used(behind: int) -> None:
    assert end_of(Whole(DATA + bytes(behind))) == len(DATA)
    for mark in (b"\xcf", b"\xd1"):
        assert end_of(Whole(mark + DATA[1:])) == 0
    assert end_of(Whole(patched((30, "<H", 3)) + bytes(behind))) == 0


@pytest.mark.parametrize("exponent", [9, 12])
def test_streams_of_all_lengths_around_a_sector_are_whole(exponent: int) -> None:
    size = 1 << exponent
    lengths = [0, 1, 63, 64, 65, SHORT - 1, SHORT, SHORT + 1, 2 * size - 1, 2 * size, 2 * size + 1]
    streams = {str(length): bytes([length % 251]) * length for length in lengths}
    for scattered in (False, True):
        out = opened(Ole(), ole_of(streams, exponent=exponent, scattered=scattered))
        assert dict(out.members) == {name.encode(): content for name, content in streams.items()}
        assert not out.unread


def test_a_chain_is_followed_only_as_far_as_a_stream_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ole, "PIECE_BYTES", 1_000)
    (found,) = Ole().members(Whole(ole_of({"a": bytes(5_000)})))
    assert isinstance(found, list) and found[0].chunks is not None
    assert [len(piece) for piece in found[0].chunks()] == [1_024] * 4 + [904]


def test_a_path_is_cut_in_front() -> None:
    storages = [chr(97 + number) * 31 for number in range(40)]
    for count in (31, 32, 40):
        path = "/".join(storages[:count])
        ((name, content),) = opened(Ole(), ole_of({f"{path}/x": A})).members
        assert content == A
        assert name == path.encode()[-1_000:] + b"/x"


@pytest.mark.parametrize("short", [6, 8, 9])
def test_a_short_sector_is_as_long_as_the_header_says(short: int) -> None:
    """The chain of a stream of one short sector needs no table."""
    data = ole_of({"a": A[:60]})
    out = opened(Ole(), patched((32, "<H", short), data=data))
    assert (b"a", A[:60]) in out.members


@pytest.mark.parametrize(("exponent", "is_read"), [(6, False), (7, True), (20, True), (21, False)])
def test_a_sector_has_128_bytes_to_1_mib(exponent: int, *, is_read: bool) -> None:
    found = each(Ole(), Whole(patched((30, "<H", exponent), (32, "<H", 6))))
    details = [one.detail for one in found if isinstance(one, Unlisted)]
    assert ("ole: an invalid header" in details) is not is_read
    if exponent == 20:
        assert sorted(opened(Ole(), ole_of(STREAMS, exponent=exponent)).members) == sorted(WHOLE)


def test_the_sectors_of_the_table_may_be_listed_behind_each_other() -> None:
    count = len(DATA) // 512 - 1
    (table,) = struct.unpack_from("<L", DATA, 76)
    free = [0xFFFFFFFF] * 126
    first = struct.pack("<128L", 0xFFFFFFFF, *free, count + 1)
    last = struct.pack("<128L", table, *free, 0xFFFFFFFE)
    listed = patched((68, "<L", count), (76, "<L", 0xFFFFFFFF))
    out = opened(Ole(), listed + first + last)
    assert sorted(out.members) == sorted(WHOLE) and not out.unread
    # A sector that leads to itself ends the list.
    loop = struct.pack("<128L", 0xFFFFFFFF, *free, count)
    assert not opened(Ole(), listed + loop + last).members


def test_the_upper_half_of_a_size_counts_where_sectors_are_longer_than_512_bytes() -> None:
    data = ole_of(STREAMS, exponent=12)
    (first,) = struct.unpack_from("<L", data, 48)
    at = (first + 1) * 4096 + 128 * A_AT + 124
    out = opened(Ole(), patched((at, "<L", 1), data=data))
    assert out.unread == [(b"a", Why.DAMAGED)] and set(out.names) == {b"b", b"s/c"}


def test_a_name_may_be_invalid_and_a_directory_empty() -> None:
    out = look((ENTRIES + 128 * A_AT, "<H", 0xD800))
    assert ("\ufffd".encode(), A) in out.members and not out.unread
    for data in (patched((48, "<L", 0xFFFFFFFE)), DATA[:512]):
        out = opened(Ole(), data)
        assert not out.members and not out.unread


def test_sizes_of_streams_are_exact() -> None:
    for one, (_, content) in zip((out := look()).listed, out.members, strict=True):
        assert one.is_exact and one.size == len(content)


@pytest.mark.parametrize(("count", "reasons"), [(4, set()), (5, {Why.LIMIT})])
def test_streams_are_searched_up_to_four_times_the_file(count: int, reasons: set[Why]) -> None:
    content = bytes(300_000)
    data = ole_of({f"{n}/Data": bytes(SHORT) if n else content for n in range(count)})
    (first,) = struct.unpack_from("<L", data, 48)
    entries = [(first + 1) * 512 + 128 * n for n in range(2 * count + 1)]
    streams = [at for at in entries if data[at + 66] == 2]
    made = bytearray(data)
    (one,) = (at for at in streams if struct.unpack_from("<L", data, at + 120) == (300_000,))
    for at in streams:
        made[at + 116 : at + 128] = data[one + 116 : one + 128]
    assert len(made) < 5 * 300_000 // 4
    out = opened(Ole(), bytes(made))
    assert out.contents == [content] * count and out.reasons == reasons


class Long(Whole):
    """A compound file with sectors of 1 MiB, and a directory that is as long as the file."""

    def __init__(self, size: int) -> None:
        head = bytearray(ole_of({}, exponent=20)[:512])
        for at, value in ((48, 1), (60, 0xFFFFFFFE), (76, 0)):
            struct.pack_into("<L", head, at, value)
        super().__init__(bytes(head).ljust(1 << 20, b"\0") + struct.pack("<2L", 0xFFFFFFFD, 1))
        self.size = size

    def read_at(self, offset: int, count: int) -> bytes:
        return super().read_at(offset, count).ljust(min(count, self.size - offset), b"\0")


@pytest.mark.parametrize(("size", "reasons"), [(65 << 20, set()), (66 << 20, {Why.LIMIT})])
def test_a_directory_has_64_mib_at_most(size: int, reasons: set[Why]) -> None:
    """The file has one sector more than its directory: the header."""
    assert opened(Ole(), Long(size)).reasons == reasons

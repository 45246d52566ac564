"""Images of optical disks: which volumes, directories and files are read, and how many."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import pytest

from fixtures.images import SECTOR, image_of, record, rock_fields
from hashclient.containers import iso, libarchive
from hashclient.containers.interface import NotReadError, Why
from tests.opened import Whole, opened
from tests.unit.test_containers_libarchive_edges import FATAL, Entry, Script

#: The sector in which records place a file; no test reads the bytes of the file.
AT = 90
FILE = AT * SECTOR, 5
#: The place that stands for a file whose parts do not lie directly behind each other.
APART = -1, 0


def image(sectors: Mapping[int, bytes], count: int = 100) -> Whole:
    """Return an ISO image of `count` sectors."""
    made = bytearray(count * SECTOR)
    for number, content in sectors.items():
        made[number * SECTOR : number * SECTOR + len(content)] = content
    return Whole(bytes(made))


def folder(sector: int, size: int = SECTOR) -> bytes:
    return record(b"d", sector, size, is_directory=True)


def file(size: int = 5, sector: int = AT, *, goes_on: bool = False, before: int = 0) -> bytes:
    """Return the directory record of a file that has `before` sectors of attributes."""
    made = bytearray(record(b"f", sector, size))
    made[1], made[25] = before, 0x80 * goes_on
    return bytes(made)


def long(length: int) -> bytes:
    """Return a record of the given length for a file without bytes."""
    return bytes([length]) + bytes(length - 1)


#: Return records that leave `left` bytes in a sector.
def until(left: int) -> bytes:
    count, more = divmod(SECTOR - left, 200)
    return long(200) * (count - 1) + long(100) + long(100 + more)


@pytest.mark.parametrize(
    ("sectors", "files"),
    [
        ({0: b""}, set()),
        ({0: file()}, {FILE}),
        ({0: file() * 2}, {FILE}),
        ({0: file(0)}, set()),
        ({0: file(1)}, {(FILE[0], 1)}),
        ({0: file(before=3)}, {(FILE[0] + 3 * SECTOR, 5)}),
        # Files in several parts; the record of the last part has no flag. Files whose parts lie
        # apart are not compared.
        ({0: file(goes_on=True)}, {FILE}),
        ({0: file(SECTOR, goes_on=True) + file(7, AT + 1)}, {(FILE[0], SECTOR + 7)}),
        ({0: file(SECTOR, goes_on=True) + file(7, AT + 2)}, {(FILE[0], SECTOR + 7), APART}),
        ({0: folder(1), 1: file(goes_on=True) + file(7, 95)}, {(FILE[0], 12), APART}),
        (
            {0: file(goes_on=True) * 2 + file(7, 95) + file(9, 96)},
            {(FILE[0], 17), (96 * SECTOR, 9), APART},
        ),
        ({0: file(SECTOR, 91, goes_on=True) + file(7, 92)}, {(91 * SECTOR, SECTOR + 7)}),
        ({0: file(goes_on=True) + file(0)}, {FILE}),
        ({0: file(0, 95, goes_on=True) + file(0)}, set()),
        # Each directory is read once; the records of a directory itself and of its parent are
        # ignored.
        ({0: folder(1), 1: file()}, {FILE}),
        ({0: folder(1) + folder(0) + file(9), 1: file() + folder(1)}, {FILE, (FILE[0], 9)}),
        ({0: record(b"\0", 1, SECTOR, is_directory=True), 1: file()}, set()),
        ({0: record(b"\1", 1, SECTOR, is_directory=True), 1: file()}, set()),
        ({0: record(b"\2", 1, SECTOR, is_directory=True), 1: file()}, {FILE}),
        ({0: record(b"\0\0", 1, SECTOR, is_directory=True), 1: file()}, {FILE}),
        ({0: folder(1, len(file())), 1: file()}, {FILE}),
        ({0: folder(1), 2: file()}, set()),
        ({0: folder(1, SECTOR + 1), 2: file()}, {FILE}),
        ({0: folder(98, 9 * SECTOR), 99: file()}, {FILE}),
        ({0: folder(100) + file()}, {FILE}),
        ({0: folder(101, 9 * SECTOR) + file()}, {FILE}),
        # Records end at a record with the length zero, and at the end of their sector.
        ({0: long(34) + file()}, {FILE}),
        ({0: long(33) + file()}, set()),
        ({0: b"\0" + file()}, set()),
        ({0: until(34) + file()}, {FILE}),
        ({0: until(33) + file()}, set()),
        ({0: folder(2, 2 * SECTOR), 2: until(34) + long(34), 3: file()}, {FILE}),
        ({0: folder(2, 2 * SECTOR), 2: b"", 3: file()}, {FILE}),
    ],
)
def test_files_are_those_of_all_directories(
    sectors: dict[int, bytes], files: set[iso.Place]
) -> None:
    assert iso._files(image(sectors), folder(0), set()) == files


def test_as_much_is_read_of_directories_as_four_times_the_image() -> None:
    sizes = [2 * SECTOR - number for number in range(5)]
    for more, is_read in ((0, True), (1, False)):
        last = 12 * SECTOR - SECTOR - sum(sizes) + more
        root = b"".join(folder(1, size) for size in (*sizes, last))
        whole = image({0: root + file()}, 3)
        if is_read:
            assert iso._files(whole, folder(0), set()) == {FILE}
        else:
            with pytest.raises(NotReadError) as caught:
                iso._files(whole, folder(0), set())
            assert caught.value.why is Why.LIMIT


def test_there_may_be_as_many_directories_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = image({0: folder(1) + folder(2) + file()})
    monkeypatch.setattr(iso, "_MAX_DIRECTORIES", 3)
    assert iso._files(whole, folder(0), set()) == {FILE}
    monkeypatch.setattr(iso, "_MAX_DIRECTORIES", 2)
    with pytest.raises(NotReadError):
        iso._files(whole, folder(0), set())


def test_a_directory_beyond_the_limit_is_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that was read in part could hide a file in which two trees differ."""
    whole = image({1: file()})
    monkeypatch.setattr(iso, "_MAX_DIRECTORY_BYTES", 2 * SECTOR)
    assert iso._files(whole, folder(0, 2 * SECTOR), set()) == {FILE}
    # The image ends before the end of the directory.
    assert iso._files(whole, folder(98, 1 << 31), set()) == set()
    with pytest.raises(NotReadError) as caught:
        iso._files(whole, folder(0, 2 * SECTOR + 1), set())
    assert caught.value.why is Why.LIMIT


def descriptor(kind: int, escape: bytes = b"", mark: bytes = b"CD001") -> bytes:
    return (bytes([kind]) + mark).ljust(88, b"\0") + escape


FIRST = descriptor(1)


@pytest.mark.parametrize(
    ("volumes", "kinds"),
    [
        ([], []),
        ([FIRST], [1]),
        ([b"\1CD002", FIRST], []),
        ([descriptor(255), FIRST], []),
        ([descriptor(0), FIRST, descriptor(3), descriptor(254)], [1]),
        *(([FIRST, descriptor(2, b"%/" + level)], [1, 2]) for level in (b"@", b"C", b"E")),
        ([FIRST, descriptor(2, b"%/D"), descriptor(2), descriptor(2, b"%G@")], [1]),
        ([descriptor(2, b"%/E"), FIRST], [2, 1]),
        ([descriptor(3)] * 63 + [FIRST], [1]),
        ([descriptor(3)] * 63 + [FIRST, descriptor(255), FIRST], [1]),
    ],
)
def test_a_tree_is_in_each_volume_before_the_last_one(
    volumes: list[bytes], kinds: list[int]
) -> None:
    whole = image({16 + number: volume for number, volume in enumerate(volumes)})
    assert [kind for kind, _ in iso._roots(whole)] == kinds


def test_an_image_with_more_descriptors_is_unread() -> None:
    """Systems look at more descriptors, so a tree behind the limit must not count as checked."""
    whole = image({16 + number: descriptor(3) for number in range(65)})
    with pytest.raises(NotReadError) as caught:
        list(iso._roots(whole))
    assert caught.value.why is Why.LIMIT


HFS = 20 * SECTOR


@pytest.mark.parametrize(
    ("marks", "files", "has_one"),
    [
        ({}, set(), False),
        *(({1024: mark}, set(), True) for mark in (b"BD", b"H+", b"HX")),
        ({1024: b"HY"}, set(), False),
        ({0: b"BD", 1025: b"BD"}, set(), False),
        ({512: b"PM", HFS + 1024: b"BD"}, set(), True),
        ({512: b"PM", HFS + 1024: b"BE"}, set(), False),
        ({512: b"PM", HFS + 1024: b"BD"}, {(HFS, 1)}, False),
        ({512: b"PM", HFS + 1024: b"BD"}, {(HFS - SECTOR, SECTOR + 1)}, False),
        ({512: b"PM", HFS + 1024: b"BD"}, {(HFS - SECTOR, SECTOR), (HFS + 1, 9)}, True),
        ({512: b"PX", HFS + 1024: b"BD"}, set(), False),
    ],
)
def test_a_tree_of_another_system_is_found_by_its_marks(
    marks: dict[int, bytes], files: set[iso.Place], *, has_one: bool
) -> None:
    made = bytearray(image({})._data)
    for at, mark in marks.items():
        made[at : at + len(mark)] = mark
        if at == 512:
            made[520:524] = (HFS // 512).to_bytes(4, "big")
            made[560:569] = b"Apple_HFS"
    assert iso._has_hfs(Whole(bytes(made)), files) is has_one


@pytest.mark.parametrize("number", [0, 1, 63, 64])
def test_a_partition_of_another_system_may_be_behind_64(number: int) -> None:
    made = bytearray(image({})._data)
    for each in range(65):
        made[512 * (1 + each) : 512 * (1 + each) + 2] = b"PM"
    at = 512 * (1 + number)
    made[at + 8 : at + 12] = (70 * SECTOR // 512).to_bytes(4, "big")
    made[at + 48 : at + 57] = b"Apple_HFS"
    made[70 * SECTOR + 1024 : 70 * SECTOR + 1026] = b"H+"
    assert iso._has_hfs(Whole(bytes(made)), set())
    if number:
        made[512:514] = b"XX"
        assert not iso._has_hfs(Whole(bytes(made)), set())


@pytest.mark.parametrize("joliet", [None, {"b": b"x"}])
def test_new_descriptors_contain_only_the_necessary_fields(joliet: dict[str, bytes] | None) -> None:
    whole = Whole(image_of({"a": b"benign"}, joliet))
    roots = dict(iso._roots(whole))
    tidied = iso._with_tidied(whole)
    assert tidied.size == whole.size
    assert tidied.read_at(0, 16 * SECTOR) == whole.read_at(0, 16 * SECTOR)
    end = (17 + len(roots)) * SECTOR
    assert tidied.read_at(end, whole.size) == whole.read_at(end, whole.size)
    assert list(roots) == ([1] if joliet is None else [1, 2])
    for number, (kind, root) in enumerate(roots.items(), 16):
        volume = tidied.read_at(number * SECTOR, SECTOR)
        assert volume[:7] == bytes([kind]) + b"CD001\1"
        count, place = whole.size // SECTOR, int.from_bytes(root[2:6], "little")
        fields = {
            80: struct.pack("<L", count) + struct.pack(">L", count),
            88: b"%/E" if kind == 2 else bytes(3),
            120: b"\1\0\0\1\1\0\0\1" + struct.pack("<H", SECTOR) + struct.pack(">H", SECTOR),
            132: bytes(8) + struct.pack("<2L", place, 0) + struct.pack(">2L", place, 0),
            156: root,
            881: b"\1",
        }
        rest = bytearray(volume[7:])
        for at, content in fields.items():
            assert volume[at : at + len(content)] == content
            rest[at - 7 : at - 7 + len(content)] = bytes(len(content))
        assert not any(rest)
    last = tidied.read_at(end - SECTOR, SECTOR)
    assert last == (b"\xffCD001\1").ljust(SECTOR, b"\0")


SP = b"SP\7\1\xbe\xef"


@pytest.mark.parametrize(
    ("root", "at", "has_one"),
    [
        (None, 0, False),
        (folder(50), 50 * SECTOR, True),
        (folder(50), 50 * SECTOR + 250, True),
        (folder(50), 50 * SECTOR + 251, False),
        (folder(50), 50 * SECTOR - 1, False),
        (folder(50)[:1] + b"\3" + folder(50)[2:], 53 * SECTOR + 34, True),
        (folder(50)[:1] + b"\3" + folder(50)[2:], 50 * SECTOR + 34, False),
    ],
)
def test_rock_ridge_is_known_by_the_first_record_of_the_root(
    root: bytes | None, at: int, *, has_one: bool
) -> None:
    made = bytearray(image({})._data)
    made[at : at + len(SP)] = SP
    assert iso._has_rock_ridge(Whole(bytes(made)), root) is has_one
    made[at + 2] = 6
    assert not iso._has_rock_ridge(Whole(bytes(made)), root)


def test_a_directory_has_64_mib_at_most() -> None:
    whole = image({0: file()})
    whole.size = 1 << 27  # the bytes behind the first sectors are missing
    assert iso._files(whole, folder(0, 64 << 20), set()) == {FILE}
    with pytest.raises(NotReadError, match="a directory of too many bytes"):
        iso._files(whole, folder(0, (64 << 20) + 1), set())


@pytest.mark.parametrize(
    ("answers", "members", "is_unread"),
    [
        ([FATAL], 0, False),
        ([Entry()], 1, False),
        ([Entry(), FATAL], 1, True),
        ([Entry(), Entry(), FATAL], 2, True),
    ],
)
def test_an_image_that_the_library_refuses_is_read_with_new_descriptors(
    answers: list[Entry | int],
    members: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_unread: bool,
) -> None:
    """If the library has already listed a member, the image is damaged. Here, it lists no more."""
    monkeypatch.setattr(libarchive, "_LIBRARY", Script(answers))
    out = opened(iso.DiskImage("iso9660", seeks=True), image_of({"a": b"benign"}))
    assert len(out.listed) == members
    assert out.reasons == ({Why.DAMAGED} if is_unread else set())


def test_files_in_parts_of_two_trees_are_different() -> None:
    parts = file(SECTOR, goes_on=True) + file(7, AT + 2)
    for root in (0, 5, 7):
        found = iso._files(image({root: parts}), folder(root), set())
        assert found == {(FILE[0], SECTOR + 7), (-1 - root * SECTOR, 0)}


@pytest.mark.parametrize("block", [2, 3, 81, 82, 83])
def test_a_tree_of_another_system_may_begin_at_any_block_of_512_bytes(block: int) -> None:
    made = bytearray(image({})._data)
    made[512:514], made[520:524], made[560:569] = b"PM", block.to_bytes(4, "big"), b"Apple_HFS"
    at = 512 * block + 1_024
    made[at : at + 2] = b"H+"
    assert iso._has_hfs(Whole(bytes(made)), set())
    made[at : at + 2] = b"\0\0"
    assert not iso._has_hfs(Whole(bytes(made)), set())


def odd(more: bytes = b"", sector: int = AT, size: int = 5) -> bytes:
    return record(b"f", sector, size, more=more)


USUAL, LINK, OTHER = rock_fields(0o100644), rock_fields(0o120777), (FILE[0] + SECTOR, 5)


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (odd(), set()),
        (odd(USUAL + b"NM\6\1\0f"), set()),
        (odd(LINK, size=0), set()),
        (odd(LINK), {FILE}),
        (odd(rock_fields(0o040755)), {FILE}),
        (odd(rock_fields(0)), {FILE}),
        (odd(USUAL * 2), {FILE}),
        *((odd(USUAL + name + b"\x10\1"), {FILE}) for name in (b"ZF", b"CE", b"CL", b"RE")),
        *((odd(USUAL + name + b"\x10\2"), set()) for name in (b"ZF", b"CE", b"CL", b"RE")),
        *((odd(rock_fields(0o100644, n)) * 2, set()) for n in (0, 5)),
        *(
            (odd(rock_fields(0o100644, n)) + odd(rock_fields(0o100644, n), AT + 1), {FILE, OTHER})
            for n in (0, 5, 1 << 31)
        ),
        (odd(rock_fields(0o100644, 5)) + odd(rock_fields(0o100644, 6), AT + 1), set()),
        (odd() + odd(rock_fields(0o100644, AT), AT + 1), {FILE, OTHER}),
        (odd() + odd(size=3), {FILE, (FILE[0], 3)}),
        (record(b"d", 1, SECTOR, is_directory=True, more=rock_fields(0o040755)), set()),
        (record(b"d", 1, SECTOR, is_directory=True, more=USUAL), {OTHER}),
        (record(b"d", 1, SECTOR, is_directory=True, more=b"RE\4\1"), {OTHER}),
        (odd(LINK)[:25] + b"\x80" + odd(LINK)[26:] + odd(sector=AT + 9), {APART}),
    ],
)
def test_a_file_that_libarchive_may_read_in_another_way_is_odd(
    records: bytes, found: set[iso.Place]
) -> None:
    seen: set[iso.Place] = set()
    iso._files(image({0: records, 1: odd(sector=AT + 1)}), folder(0), seen)
    assert seen == found


def test_images_to_start_from_are_listed_in_sections() -> None:
    def entry(first: int, kind: int, count: int, sector: int) -> bytes:
        return struct.pack("<BB4xHL", first, kind, count, sector).ljust(32, b"\0")

    listed = [
        (entry(1, 0, 0, 0), None),
        (entry(0x88, 0, 3, 30), (30 * SECTOR, 1536)),
        (b"\x90\0\2\0".ljust(32, b"\0"), None),
        (entry(0, 0x20, 1, 31), (31 * SECTOR, 512)),
        (b"\x44\x20".ljust(32, b"\0") + b"\x44\0".ljust(32, b"\0"), None),
        (entry(0x88, 1, 1, 32), (32 * SECTOR, 68 * SECTOR)),
        (b"\x91\0\1\0".ljust(32, b"\0"), None),
        (entry(0x88, 0, 0, 33) + entry(0x88, 0, 1, 34), None),
    ]
    volume = descriptor(0)[:7] + b"EL TORITO SPECIFICATION".ljust(64, b"\0") + b"\x14\0\0\0"
    whole = image({16: volume, 20: b"".join(raw for raw, _ in listed)})
    assert list(iso._starters(whole)) == [place for _, place in listed if place is not None]
    assert not list(iso._starters(image({16: volume.replace(b"EL", b"XL")})))
    endless = (b"\x90\0\xff\xff".ljust(32, b"\0") * 64 + entry(0x88, 0, 1, 1)) * 2_000
    with pytest.raises(NotReadError) as caught:
        list(iso._starters(image({16: volume, 20: endless}, 3_000)))
    assert caught.value.why is Why.LIMIT

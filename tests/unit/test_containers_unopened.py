"""Kinds of containers that are not opened: all of them are recognised, few other files are."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures import archives, unopened
from fixtures.others import elf_of, program_of, seven_zip_of
from hashclient.containers.interface import ISO_HEAD_BYTES, Expander, Unlisted
from hashclient.containers.registry import Registry
from hashclient.containers.sniffing import kind_alone, kind_by_end
from hashclient.containers.unopened import KINDS, NAMES
from tests.opened import Whole, each, has_mark, kind_by_begin, opened


def picked(data: bytes) -> list[Expander]:
    """Return the expanders that are picked for a file."""
    head, tail = data[:ISO_HEAD_BYTES], data[-2000:]
    return Registry().pick(head, tail, len(data), lambda at, count: data[at : at + count])


def in_program(data: bytes) -> list[str]:
    """Return the kinds that are found inside an executable and are not opened."""
    found = [one for expander in picked(data) for one in each(expander, Whole(data))]
    return [one.detail for one in found if isinstance(one, Unlisted)]


ROWS = {name: (kind, data) for name, kind, data in unopened.each()}


@pytest.mark.parametrize("name", ROWS)
def test_each_kind_is_recognised_and_no_expander_opens_it(name: str) -> None:
    kind, data = ROWS[name]
    head, end = memoryview(data[:ISO_HEAD_BYTES]), data[-2000:]
    assert (kind_by_begin(head) or kind_by_end(end) or "".join(in_program(data))) == kind
    assert not Registry().pick(bytes(head), b"")


#: The first bytes of files of each kind, as the usual programs write them.
BEGINS = {
    "luks": "4c554b53babe0001",
    "ewf": "455646090d0aff00010100",
    "aff": "41464631300d0a00",
    "qcow": "514649fb00000003",
    "qed": "51454400",
    "vmdk": "4b444d5601000000",
    "vhd": "636f6e6563746978",
    "vhdx": "7668647866696c65",
    "parallels": "576974686f75744672656553706163650200",
    "wim": "4d5357494d000000d0000000",
    "partclone": b"partclone-image".hex(),
    "bkf": "544150450000",
    "dbx": "cfad12fec5fd746f",
    "nsf": "1a00000400002b000000010500ff",
    "ace": "312331000000902a2a4143452a2a",
    "zoo": "5a4f4f20322e313020417263686976652e",
    "stuffit": "5349542100",
    "alz": "414c5a010a000000",
    "egg": "45474741000100",
    "lzop": "894c5a4f000d0a1a0a1040",
    "lrzip": "4c525a490006",
    "rzip": "525a49500201",
    "zpaq": "376b5374a031838b",
    "freearc": "41724301",
    "rar-1": "52457e5e",
    "chm": "495453460300000060000000",
    "installshield": "49536328",
    "onenote": "e4525c7b8cd8a74daeb15378d02996d3",
    "snappy": "ff060000734e61507059",
    "arc": "1a0250494354555245534a5047",
    "lzh": "1fa0034050a0",
    "lzx": "4c5a5800000000000000",
    "mscompress": "535a444488f0273341",
    "applesingle": "0005160000020000",
    "simg": "3aff26ed010000001c000c00",
    "p7m": "3082010a06092a864886f70d010702a0",
}


@pytest.mark.parametrize("name", BEGINS)
def test_each_kind_is_recognised_by_the_bytes_that_its_files_begin_with(name: str) -> None:
    assert kind_by_begin(bytes.fromhex(BEGINS[name]) + bytes(2_000)) == name


@pytest.mark.parametrize("name", ROWS)
def test_a_file_that_is_cut_is_of_no_kind_or_of_the_same(name: str) -> None:
    kind, data = ROWS[name]
    for length in (*range(40), 63, 100, 510, 511, 512, 1024, 1081, 1100, 1104):
        assert kind_by_begin(data[:length]) in ("", kind)
        assert kind_by_end(data[:length]) in ("", kind)


BEHIND = {
    "nothing": b"",
    "a zip": archives.zip_of({"x": b"listed"}),
    "a 7z": seven_zip_of({"x": b"listed"}),
    "zeros": bytes(40_000),
    "a zip and zeros": archives.zip_of({"x": b"listed"}) + bytes(100_000),
}


@pytest.mark.parametrize("behind", BEHIND)
def test_a_file_is_counted_without_being_opened_only_if_no_expander_would_open_it(
    behind: str,
) -> None:
    alone = {}
    for name, (_, kind_data) in ROWS.items():
        data = kind_data + BEHIND[behind]
        kind = kind_alone(len(data), lambda at, count, d=data: d[at : at + count])  # type: ignore[misc]
        assert not kind or not picked(data)
        alone[name] = kind
    begins = [name for name, (kind, data) in ROWS.items() if kind_by_begin(data[:ISO_HEAD_BYTES])]
    counted = [name for name in begins if alone[name] == ROWS[name][0]]
    assert counted == (begins if behind in ("nothing", "zeros") else [])


def test_a_file_that_is_opened_as_another_kind_is_not_counted() -> None:
    """An image for optical disks may also begin like a disk with partitions."""
    disk = unopened.disk()
    for data, kind in ((disk, "disk"), (disk[:32_769] + b"CD001" + bytes(9_000), "")):
        assert kind_alone(len(data), lambda at, count, d=data: d[at : at + count]) == kind  # type: ignore[misc]


def test_a_boot_sector_without_partitions_is_no_disk() -> None:
    disk = unopened.disk()
    assert not kind_by_begin(disk[:446] + bytes(64) + disk[510:])
    assert not kind_by_begin(disk[:446] + b"\x81" + disk[447:])
    assert not kind_by_begin(b"MZ" + disk[2:])  # the first bytes of a Linux kernel
    gpt = bytes(510) + b"\x55\xaaEFI PART" + bytes(2000)
    assert kind_by_begin(gpt) == "disk"


def test_hardly_any_file_of_anything_is_of_such_a_kind() -> None:
    chance = random.Random(8)
    blocks = [chance.randbytes(2_000) for _ in range(20_000)]
    assert not any(map(kind_by_begin, blocks))
    texts = [b"# a comment\n", b"<html>", b"<<< EOF\n", b"STUFF", b"QED", b"TAPES", b"ZOO animals"]
    assert not any(kind_by_begin(text * 200) for text in texts)


def test_ordinary_files_are_of_no_such_kind() -> None:
    folder = Path(__file__).parents[2]
    files = [*folder.glob("*/*.*"), *folder.glob("*/*/*.*"), Path(sys.executable)]
    for path in files[:600]:
        if path.is_file():
            with path.open("rb") as file:
                assert not kind_by_begin(file.read(ISO_HEAD_BYTES)), path


def test_a_name_of_a_kind_stands_in_labels_and_sentences() -> None:
    assert len(NAMES) == len({kind.name for kind in KINDS} | {"pdf"})
    assert all(name.replace("-", "").isalnum() and name.islower() for name in NAMES)


def test_an_archive_that_is_opened_is_no_such_kind() -> None:
    for data in (archives.zip_of({"a": b"b"}), archives.tar_of({"a": b"b"}), archives.xz_of(b"x")):
        assert has_mark(data) and not kind_by_begin(data)


@pytest.mark.parametrize("program", [elf_of, program_of])
def test_an_installer_is_known_behind_its_program_alone(program: Callable[[bytes], bytes]) -> None:
    mark = next(kind.in_programs for kind in KINDS if kind.name == "nsis")
    assert in_program(program(b"\4\0\0\0" + 2 * mark)) == ["nsis"]
    assert in_program(program(bytes((1 << 20) - 9) + mark)) == [
        "nsis"
    ]  # the magic bytes lie across two steps of the search
    assert not in_program(program(bytes(8 << 20) + mark))
    assert not in_program(b"x" + mark)
    both = program(mark + seven_zip_of({"a": b"benign"}))
    assert in_program(both) == ["nsis"]
    (behind,) = picked(both)
    assert opened(behind, both).contents == [b"benign"]


def test_a_mark_of_another_kind_at_the_same_place_hides_no_archive() -> None:
    content = b"ustar" * 100
    archive = seven_zip_of({"a": content})
    assert archive[257:262] == b"ustar"  # the magic bytes of a tar, with a wrong checksum
    for data in (program_of(archive), elf_of(b"front" + archive)):
        (behind,) = picked(data)
        assert opened(behind, data).contents == [content]


def test_false_marks_behind_a_program_are_looked_at_once_each() -> None:
    mark = b"7z\xbc\xaf\x27\x1c"
    data = elf_of(mark * 10_000 + seven_zip_of({"a": b"benign"}))
    (behind,) = picked(data)
    whole = Whole(data)
    assert [one for one in each(behind, whole) if isinstance(one, Unlisted)] == []
    assert whole.given < 100 * len(data)
    assert opened(behind, data).contents == [b"benign"]

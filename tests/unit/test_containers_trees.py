"""Disk images with several directory trees, and archives that consist of several files."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from fixtures import archives, images, others
from fixtures.differential.cases import PLANTED
from fixtures.differential.kinds import KINDS
from hashclient.containers import kinds, libarchive, udf
from hashclient.containers.behind import MAX_MARKS, Begun, Behind
from hashclient.containers.interface import Expander, NotReadError, Unlisted, Why
from hashclient.containers.registry import Registry
from tests.opened import Once, Opened, Whole, opened

pytestmark = pytest.mark.skipif(not libarchive.is_here(), reason="no libarchive")

BENIGN, OTHER = b"benign one" * 50, b"benign two" * 300


#: The kinds of archives that other programs find behind the end of an executable file.
ARCHIVES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "tar": archives.tar_of,
    "cab": others.cab_of,
    "rar": others.rar4_of,
    "rar5": others.rar5_of,
    "7zip": others.seven_zip_of,
    "lha": lambda _: others.packed_lha_of(b"-lh5-", 8),
}


def expander(name: str) -> Expander:
    return Registry().named(name)[0]


def in_image(data: bytes) -> Opened:
    return opened(expander("iso9660"), data)


@pytest.mark.parametrize(
    "trees",
    [
        ({"A": BENIGN, "B": OTHER},),
        ({"A": BENIGN, "B": OTHER}, {"a": BENIGN}),
        ({"A": BENIGN}, {"b": OTHER}),
        ({"A": BENIGN}, None, {"b": OTHER}),
        ({"A": BENIGN}, {"A": BENIGN}, {"b": OTHER, "none": b""}),
        (None, None, {"a": BENIGN, "b": OTHER}),
    ],
)
def test_every_tree_of_an_image_is_read(trees: tuple[dict[str, bytes] | None, ...]) -> None:
    out = in_image(images.image_of(*trees))
    assert {BENIGN, OTHER} <= set(out.contents)
    assert not out.unread and all(one.is_exact for one in out.listed)


@pytest.mark.parametrize(("place", "byte"), [(7, 1), (72, 1), (88, 1), (100, 1), (881, 2)])
def test_a_field_without_a_meaning_hides_no_tree(place: int, byte: int) -> None:
    """libarchive refuses the image because of this descriptor, but systems show the tree."""
    for joliet, reasons in ((None, set()), ({"b": OTHER}, {Why.DAMAGED})):
        data = bytearray(images.image_of({"A": BENIGN}, joliet))
        assert data[16 * images.SECTOR + place] != byte
        data[16 * images.SECTOR + place] = byte
        out = in_image(bytes(data))
        assert (out.contents, out.reasons) == ([OTHER if joliet else BENIGN], reasons)


@pytest.mark.parametrize("size", [0, 1, 512, 1024, 2049, 4096, 65535])
@pytest.mark.parametrize("volume", [16, 17])
def test_a_length_of_blocks_that_is_another_one_hides_no_tree(volume: int, size: int) -> None:
    """isoinfo ignores this length, and libarchive finds no file and reports no error."""
    both: dict[str, bytes] = {"b": OTHER}
    for joliet, tree in ((None, None), (both, None), (None, both), (both, both)):
        trees = {"A": BENIGN}, joliet, tree
        data = bytearray(images.image_of(*trees))
        at = volume * images.SECTOR + 128
        if data[at : at + 2] != images.SECTOR.to_bytes(2, "little"):
            continue
        data[at : at + 2] = size.to_bytes(2, "little")
        out = in_image(bytes(data))
        wanted = in_image(images.image_of(*trees))
        assert (sorted(out.contents), out.reasons) == (sorted(wanted.contents), {Why.UNSUPPORTED})
        assert not wanted.unread


def test_a_file_is_listed_once_where_trees_agree_about_its_place(tmp_path: Path) -> None:
    """Ordinary programs make such images, in which all trees name the same bytes."""
    if shutil.which("genisoimage") is None:
        pytest.skip("no genisoimage")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "a long name of a file").write_bytes(BENIGN)
    (tmp_path / "tree" / "deep" / "b").write_bytes(OTHER)
    path = tmp_path / "x.iso"
    words = ["genisoimage", "-quiet", "-R", "-J", "-udf", "-o", str(path), str(tmp_path / "tree")]
    subprocess.run(words, check=True, capture_output=True)
    data = path.read_bytes()
    out = in_image(data)
    assert sorted(out.contents) == [BENIGN, OTHER]
    assert not out.unread
    found = [one[0].name for one in udf.members(Whole(data), set()) if isinstance(one, list)]
    assert sorted(found) == [b"a long name of a file", b"deep/b"]


@pytest.mark.parametrize("copied", [16, 17])
def test_an_image_with_several_trees_of_one_kind_is_unread(copied: int) -> None:
    """Linux shows the tree of the last Joliet descriptor, and libarchive the tree of the first."""
    data = bytearray(images.image_of({"A": BENIGN}, {"b": OTHER}))
    sectors = {number: data[number << 11 : (number + 1) << 11] for number in (16, 17, 18)}
    for root, reasons in ((copied, set()), (16 + 17 - copied, {Why.UNSUPPORTED})):
        again = sectors[copied][:156] + sectors[root][156:190] + sectors[copied][190:]
        data[18 << 11 : 20 << 11] = again + sectors[18]
        out = in_image(bytes(data))
        assert out.reasons == reasons
        assert reasons or set(out.contents) == {BENIGN, OTHER}


def test_a_tree_of_another_kind_is_unread() -> None:
    data = bytearray(images.image_of({"A": BENIGN}))
    data[1024:1026] = b"H+"
    out = in_image(bytes(data))
    assert (out.contents, out.reasons) == ([BENIGN], {Why.UNSUPPORTED})


def test_a_tree_of_another_kind_in_a_partition_is_unread_unless_it_is_a_file() -> None:
    """A second tree, of HFS in a partition, makes the image unread, unless a file contains it."""
    volume = BENIGN.ljust(1024, b"x") + b"H+"
    for content, reasons in ((BENIGN, {Why.UNSUPPORTED}), (volume, set())):
        data = bytearray(images.image_of({"A": content}))
        if content is volume:
            start = data.index(volume)
        else:
            start = 20 << 10
            data[start : start + len(volume)] = volume
        for number, (kind, at) in enumerate(((b"Apple_map", 1), (b"Apple_HFS", start // 512)), 1):
            entry = (b"PM" + bytes(6) + at.to_bytes(4, "big")).ljust(48, b"\0") + kind
            data[number * 512 : number * 512 + len(entry)] = entry
        out = in_image(bytes(data))
        assert (out.contents, out.reasons) == ([content], reasons)


def test_a_damaged_tree_of_udf_is_unread_and_the_others_are_read() -> None:
    whole = images.image_of({"A": BENIGN}, None, {"b": OTHER})
    at = whole.index(OTHER)
    # The sectors of the anchor, the descriptors and the files.
    for place in (256, 32, 33, 300, 301):
        data = bytearray(whole)
        data[place * images.SECTOR + 4] ^= 0xFF
        out = in_image(bytes(data))
        assert BENIGN in out.contents
        assert out.unread, place
    cut = in_image(whole[: at + 10])
    assert Why.DAMAGED in cut.reasons


@pytest.mark.parametrize("kind", ["rar", "rar5"])
@pytest.mark.parametrize("begins_before", [True, False])
def test_a_member_that_is_partly_in_another_volume_is_unread(
    kind: str, *, begins_before: bool
) -> None:
    make = others.rar4_of if kind == "rar" else others.rar5_of
    data = make({"a": BENIGN}, volume=1, goes_on=8 if begins_before else 16)
    assert (b"a", Why.UNSUPPORTED) in opened(expander(kind), data).unread
    assert not opened(expander(kind), make({"a": BENIGN})).unread


def test_an_entry_that_fails_for_ever_ends_its_archive_soon() -> None:
    """libarchive does not get past a directory with content in a solid rar."""
    out = opened(expander("rar5"), others.rar5_of({"d": BENIGN, "a": OTHER}, are_directories=True))
    assert out.reasons == {Why.DAMAGED}
    assert len(out.unread) < 2_000


@pytest.mark.parametrize("attributes", [0x20, 0, 2, 0xFF])
def test_an_lha_with_attributes_of_any_system_is_read(attributes: int) -> None:
    """libarchive knows the attributes of DOS, but programs for the Amiga write other attributes."""
    contents = {"a": BENIGN, "b": OTHER, "-lh4-": BENIGN}
    for level in (0, 1):
        data = others.old_lha_of(contents, level, attributes)
        out = opened(expander("lha"), data)
        assert (out.members, out.unread) == (
            [(name.encode(), content) for name, content in contents.items()],
            [],
        )
    data = others.lha_of(BENIGN, "a", attributes)[:-1]
    out = opened(expander("lha"), data + others.lha_of(OTHER, "b", attributes))
    assert (out.members, out.unread) == ([(b"a", BENIGN), (b"b", OTHER)], [])


@pytest.mark.parametrize("level", [0, 1])
def test_an_lha_behind_a_program_is_found(level: int) -> None:
    program = b"MZ" + bytes(600) + b"-lh5- is a method"
    data = program + others.packed_lha_of(b"-lh5-", 250, level)
    (kind,) = [one for one in kinds.KINDS if one.name == "lha"]
    behind = Behind([(kind, cast(Begun, expander("lha")))])
    assert opened(behind, data).contents == [b"bs" * 250]
    stored = others.lha_of(BENIGN, "a")
    assert opened(behind, program + stored).contents == [BENIGN]
    for other in (b"-lh5-", b"-lh0."):  # the sum is wrong, or the bytes are no method
        assert opened(behind, program + stored.replace(b"-lh0-", other)).members == []


@pytest.mark.parametrize("level", [0, 1])
def test_a_name_in_an_lha_may_separate_directories_as_on_unix(level: int) -> None:
    data = bytearray(others.old_lha_of({"a|b": BENIGN}, level, 0x20))
    data[data.index(b"|")] = 0xFF
    data[1] = data[1] + 0xFF - ord("|") & 0xFF
    out = opened(expander("lha"), bytes(data))
    assert (out.members, out.unread) == ([(b"a/b", BENIGN)], [])


@pytest.mark.parametrize("name", ["日本".encode("cp932"), "é".encode(), b"\x80\xe9\xfd"])
def test_a_name_in_an_lha_may_be_any_bytes(name: bytes) -> None:
    data = bytearray(others.old_lha_of({"?" * len(name): BENIGN, "b": OTHER}, 1, 0x20))
    at = data.index(b"?")
    data[at : at + len(name)] = name
    data[1] = data[1] + sum(name) - len(name) * ord("?") & 0xFF
    out = opened(expander("lha"), bytes(data))
    assert (out.members, out.unread) == ([(name, BENIGN), (b"b", OTHER)], [])
    said = opened(expander("lha"), others.lha_of(BENIGN, "日本"))
    assert said.names == ["日本".encode()]


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("method", [b"-lh4-", b"-lh5-"])
def test_an_lha_with_a_small_window_is_read(method: bytes, level: int) -> None:
    out = opened(expander("lha"), others.packed_lha_of(method, 250, level))
    assert (out.contents, out.unread) == ([b"bs" * 250], [])


def test_what_is_wrong_in_an_lha_stays_wrong() -> None:
    """A header that is changed for libarchive gets a new checksum, unless it had a wrong one."""
    for whole in (others.lha_of(BENIGN, "a", 2), others.old_lha_of({"a": BENIGN}, 1, 2)):
        for at in (16, 20, whole.index(BENIGN) - 4, len(whole) - 9):
            data = bytearray(whole)
            data[at] ^= 1
            assert Why.DAMAGED in opened(expander("lha"), bytes(data)).reasons, at
    cut = opened(expander("lha"), others.old_lha_of({"a": BENIGN}, 1, 2)[:-60])
    assert cut.reasons == {Why.DAMAGED}


def test_a_7z_without_a_header_at_its_end_is_unread() -> None:
    data = others.seven_zip_of({"a": BENIGN}, with_end=False)
    assert opened(expander("7zip"), data).contents == [BENIGN]
    out = opened(expander("7zip"), data.partition(BENIGN)[0] + bytes(700))
    assert out.reasons == {Why.DAMAGED}


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("reserve", [None, (20, 4, 8), (0, 0, 20)])
@pytest.mark.parametrize("block_bytes", [100, 32768])
def test_a_cab_with_short_blocks_and_bytes_kept_free_is_read(
    block_bytes: int, reserve: tuple[int, int, int] | None, *, is_packed: bool
) -> None:
    contents = {"a": BENIGN, "b/c": OTHER * 20, "empty": b""}
    data = others.cab_of(contents, reserve=reserve, block_bytes=block_bytes, is_packed=is_packed)
    out = opened(expander("cab"), data)
    assert out.contents == list(contents.values()) and not out.unread
    for at in (len(data) - 30, len(data) // 2):
        assert Why.DAMAGED in opened(expander("cab"), data[:at]).reasons


def test_cabinets_behind_others_are_read_and_unread_in_a_stream() -> None:
    """cabextract searches for cabinets behind the end, or everywhere if the end is impossible."""
    one, two = others.cab_of({"a": BENIGN}), others.cab_of({"b": OTHER})
    within = others.cab_of({"two": two})
    for length, after, contents in (
        (len(one), two, [BENIGN, OTHER]),
        (len(one), b"MSCF between" + two + b"behind", [BENIGN, OTHER]),
        (1 << 31, two, [BENIGN, OTHER]),
        (len(one), b"MSCF is no cabinet", [BENIGN]),
        (len(one), one * 2, [BENIGN] * 3),
    ):
        data = one[:8] + length.to_bytes(4, "little") + one[12:] + after
        out = opened(expander("cab"), data)
        assert out.contents == contents and not out.unread
        for step in (5, 1 << 20):
            passing = opened(expander("cab"), Once(data, step))
            assert (passing.contents, passing.reasons) == ([BENIGN], {Why.UNSUPPORTED})
    broken = bytearray(one + two)
    broken[36:40] = bytes(4)
    out = opened(expander("cab"), bytes(broken))
    assert out.contents == [OTHER] and out.reasons == {Why.DAMAGED}
    for source in (within, Once(within), Once(within + b"behind", 7)):
        out = opened(expander("cab"), source)
        assert out.contents == [two] and not out.unread
    assert opened(expander("cab"), one * 65).reasons == {Why.LIMIT}


@pytest.mark.parametrize(("count", "is_refused"), [(255, False), (256, True)])
def test_a_cabinet_that_cabextract_refuses_hides_none_within_its_length(
    count: int, is_refused: bool
) -> None:
    one, two = others.cab_of({"a" * count: BENIGN}), others.cab_of({"b": OTHER})
    data = one[:8] + len(one + two).to_bytes(4, "little") + one[12:] + two
    out = opened(expander("cab"), data)
    assert (out.contents, out.unread) == ([BENIGN, OTHER] if is_refused else [BENIGN], [])
    assert bool(opened(expander("cab"), Once(data, 99)).unread) == is_refused


def test_cabinets_and_marks_behind_a_limit_are_unread() -> None:
    """The bytes behind the limit are searched as well, although magic bytes are slow to check."""
    one, two, program = (
        others.cab_of({"a": BENIGN}),
        others.cab_of({"b": OTHER}),
        b"MZ" + bytes(600),
    )
    (kind,) = [one for one in kinds.KINDS if one.name == "cab"]
    behind = Behind([(kind, cast(Begun, expander("cab")))])
    out = opened(behind, program + one * 63 + two)
    assert out.contents[-1] == OTHER and not out.unread
    assert opened(behind, program + one * 64 + two).reasons == {Why.LIMIT}
    marks = b"MSCF" * (MAX_MARKS + 1)
    for reads, begin in ((behind, program), (expander("cab"), one)):
        assert opened(reads, begin + marks[4:] + two).contents[-1] == OTHER
        out = opened(reads, begin + marks + two)
        assert OTHER not in out.contents and out.reasons == {Why.LIMIT}


@pytest.mark.parametrize("first", ARCHIVES)
@pytest.mark.parametrize("second", [name for name in ARCHIVES if name != "lha"])
def test_an_archive_in_a_program_hides_none_of_another_kind(first: str, second: str) -> None:
    """A program that extracts searches for one kind of archive and ignores the others."""
    if first == second:
        return
    decoy = bytearray(ARCHIVES[first]({"a": BENIGN}))
    if first == "cab":  # the length in the header of a cabinet is false here
        decoy[8:12] = (4096).to_bytes(4, "little")
    data = others.program_of(bytes(decoy) + bytes(40) + ARCHIVES[second]({"b": OTHER}) + bytes(999))
    (behind,) = Registry().pick(data[:4096], data[-4096:], len(data), Whole(data).read_at)
    assert OTHER in opened(behind, data).contents


def test_nothing_is_unlisted_in_whole_archives() -> None:
    contents = {"a": BENIGN, "b/c": OTHER}
    for kind, data in {
        "7zip": others.seven_zip_of(contents),
        "rar": others.rar4_of(contents),
        "rar5": others.rar5_of(contents),
        "cab": others.cab_of(contents),
        "cpio": others.cpio_binary_of(contents, ">"),
    }.items():
        found = list(expander(kind).members(Whole(data)))
        assert not [one for one in found if isinstance(one, Unlisted)], kind
        out = opened(expander(kind), data)
        assert out.contents == list(contents.values()), kind
        assert {one.is_exact for one in out.listed} == {kind == "cpio"}, kind


@pytest.mark.parametrize("form", ["newc", "odc"])
def test_a_damaged_header_of_a_cpio_is_unread_wherever_it_stands(form: str) -> None:
    whole = KINDS["cpio"].bytes_of({"form": form})
    for data in (whole, whole + bytes(512) + whole, others.cpio_binary_of({"a": BENIGN})):
        for source in (Whole(data), Once(data, 33)):
            assert not opened(expander("cpio"), source).unread
    starts = [found.start() for found in re.finditer(rb"07070[17]", whole)]
    for at in (starts[1] + 30, starts[2] + 3):
        damaged = whole[:at] + b"/" + whole[at + 1 :]
        for source in (Whole(damaged), Once(damaged, 33)):
            assert Why.DAMAGED in opened(expander("cpio"), source).reasons


def test_a_cpio_at_which_libarchive_stops_is_unread_because_of_its_header() -> None:
    data = KINDS["cpio"].bytes_of({"edits": [[0.0774859730284001, "set", 9]], "zeros": 5})
    found = [one for one in expander("cpio").members(Whole(data)) if isinstance(one, Unlisted)]
    assert [one.detail for one in found] == ["cpio: a header that is damaged"]


def test_pieces_of_a_file_that_go_on_in_themselves_have_an_end() -> None:
    data = bytearray(images.image_of(None, None, {"a": BENIGN}))
    at = data.find(struct.pack("<3L", 0, 8, len(BENIGN))) + 8
    (block,) = struct.unpack_from("<L", data, at + 4)
    again = struct.pack("<2L", 3 << 30 | 2048, block)
    data[at : at + 8] = again
    begin = data.find(BENIGN)
    data[begin + 20 : begin + 32] = struct.pack("<L", 8) + again
    assert in_image(bytes(data)).reasons == {Why.LIMIT}


@pytest.mark.parametrize(("block", "place"), [(0, 10_000), (1, 12_048), (2, None), (3, 90_000)])
def test_blocks_of_a_partition_lie_in_its_pieces(block: int, place: int | None) -> None:
    volume = object.__new__(udf._Volume)
    volume._block = 2048
    pieces: list[tuple[int | None, int]] = [(10_000, 4096), (None, 2048), (90_000, 2048)]
    volume._partitions = [udf._Pieces(pieces, [4096, 6144, 8192])]
    if place is not None:
        assert volume._place(0, block) == place
        return
    for nowhere in (block, 4):
        with pytest.raises(NotReadError):
            volume._place(0, nowhere)


def with_rock_ridge(data: bytes) -> bytes:
    """Return an image whose plain tree has the fields of Rock Ridge; its only file is `long`."""
    made = bytearray(data)
    (root,) = struct.unpack_from("<L", made, 16 * images.SECTOR + 158)
    at = place = root * images.SECTOR
    records = b""
    mode = struct.pack("<L", 0o040755) + struct.pack(">L", 0o040755)
    rights = b"PX\x24\1" + mode + bytes(25)
    for fields in (b"SP\7\1\xbe\xef\0" + rights, b"", b"NM\x09\1\0long\0"):
        length = made[place]
        records += bytes([length + len(fields)]) + made[place + 1 : place + length] + fields
        place += length
    made[at : at + len(records)] = records
    return bytes(made)


def test_a_tree_with_long_names_hides_no_file_of_another_tree() -> None:
    """Of two trees, libarchive reads the tree of Rock Ridge if there is one."""
    both = images.image_of({"A": BENIGN}, {"b": OTHER})
    assert in_image(both).members == [(b"b", OTHER), (b"A", BENIGN)]
    out = in_image(with_rock_ridge(both))
    assert out.members == [(b"long", BENIGN), (b"b", OTHER)] and not out.unread


@pytest.mark.parametrize(
    "how", ["usual", "number", "no length", "length", "link", "link to", "directory", "pipe"]
)
def test_fields_of_rock_ridge_hide_no_file(how: str) -> None:
    """libarchive uses these fields, but 7-Zip and isoinfo extract the file."""
    recipe = {"rock": how, "trees": "plain"}
    assert PLANTED[0] in in_image(KINDS["iso"].bytes_of(recipe)).contents


def test_the_image_from_which_a_machine_starts_is_a_member() -> None:
    """Only 7-Zip shows these images, which are in no directory."""
    content = BENIGN * 9
    out = in_image(images.image_of({"A": BENIGN}, starts=content))
    assert (out.members, out.unread) == ([(b"A", BENIGN), (b"[BOOT]/1", content)], [])


@pytest.mark.parametrize("mode", [0o40755, 0o120777, 0o10644, 0o100644, 0])
def test_a_mode_in_an_ar_hides_no_member(mode: int) -> None:
    """`ar` and `dpkg-deb` ignore the mode, which libarchive takes for the type of a file."""
    out = opened(expander("ar"), KINDS["ar"].bytes_of({"mode": mode}))
    assert PLANTED[0] in out.contents and len(out.members) == 3 and not out.unread


@pytest.mark.parametrize("kind", ["file", "symlink", "hardlink", "directory", "fifo"])
def test_a_type_in_a_xar_hides_no_bytes(kind: str) -> None:
    data = (
        f"<data><length>{len(BENIGN)}</length><offset>0</offset><size>{len(BENIGN)}</size></data>"
    )
    file = f"<file id='1'><name>x</name><type>{kind}</type>{data}</file>"
    text = f"<?xml version='1.0'?><xar><toc>{file}</toc></xar>".encode()
    head = struct.pack(">4sHHQQL", b"xar!", 28, 1, len(zlib.compress(text)), len(text), 0)
    out = opened(expander("xar"), head + zlib.compress(text) + BENIGN)
    assert (out.contents, out.unread) == ([BENIGN], [])


@pytest.mark.parametrize("mode", [0o120777, 0o40755, 0o100644])
def test_a_mode_in_an_lha_hides_no_member(mode: int) -> None:
    """libarchive takes the member for a link, but lha and 7-Zip extract its bytes."""
    out = opened(expander("lha"), others.lha_of(BENIGN, "x|y", mode=mode))
    assert (out.contents, out.unread) == ([BENIGN], [])


@pytest.mark.parametrize("mode", [0o40755, 0o120777, 0o10644, 0o100644, 0])
def test_a_mode_in_a_rar_hides_no_member(mode: int) -> None:
    """libarchive takes the bytes of a link in a rar 4 for its path; 7-Zip or unar extract them."""
    contents = {"a": OTHER, "x": BENIGN}
    four, five = others.rar4_of(contents, mode=mode), others.rar5_of(contents, mode=mode)
    for name, data in (("rar", four), ("rar5", five)):
        out = opened(expander(name), data)
        assert {OTHER, BENIGN} <= set(out.contents) and not out.unread


@pytest.mark.parametrize("version", [5, 6, 7])
def test_zstd_of_an_old_version_is_read(version: int) -> None:
    recipe = {"as": "zstd", "version": version, "planted": 3}
    for data in (
        KINDS["compressed"].bytes_of(recipe),
        KINDS["compressed"].bytes_of({"as": "zstd"}),
    ):
        whole, once = opened(expander("zstd"), data), opened(expander("zstd"), Once(data, 999))
        assert whole.members == once.members and not whole.unread
        assert whole.contents[0] in PLANTED and len(whole.contents) == 1

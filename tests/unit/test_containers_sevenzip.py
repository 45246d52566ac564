"""7z with methods that libarchive refuses, or decodes only in some chains of methods."""

from __future__ import annotations

import bz2
import lzma
import random
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.archives import raw_deflate
from fixtures.others import _streams, seven_zip_of, solid_seven_zip_of
from fixtures.zipmethods import deflated64
from hashclient.containers import libarchive, sevenzip
from hashclient.containers.interface import Expander, NotReadError, Why
from hashclient.containers.registry import Registry
from hashclient.containers.sevenzipheader import Coder, Folder
from tests.opened import Whole, opened

pytestmark = pytest.mark.skipif(not libarchive.is_here(), reason="no libarchive")

#: The contents include branch instructions of each processor; the last instruction is cut off.
CONTENTS = {
    "one": b"\xe8\x00\x01\x02\x00" * 900 + b"\x48\x00\x10\x01" * 900,
    "two": b"\x00\x20\x00\xeb" * 700 + random.Random(1).randbytes(20_000),
    "three": b"\x40\x00\x00\x11" * 17_000 + b"\x11\x00\x00\x00\x00\x0a" * 300 + b"\xe8\x00",
}
ALL = b"".join(CONTENTS.values())


def stored(content: bytes) -> bytes:
    """Return stored deflate blocks without matches, which are valid Deflate64 as well."""
    packer = zlib.compressobj(0, wbits=-15)
    return packer.compress(content) + packer.flush()


PACKERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x00": bytes,
    b"\x04\x01\x08": raw_deflate,
    b"\x04\x01\x09": stored,
    b"\x04\x02\x02": bz2.compress,
}
FILTERS = {
    (b"\x03", b"\x03"): {"id": lzma.FILTER_DELTA, "dist": 4},
    (b"\x03\x03\x01\x03", b""): {"id": lzma.FILTER_X86},
    (b"\x03\x03\x02\x05", b""): {"id": lzma.FILTER_POWERPC},
    (b"\x03\x03\x04\x01", b""): {"id": lzma.FILTER_IA64},
    (b"\x03\x03\x05\x01", b""): {"id": lzma.FILTER_ARM},
    (b"\x03\x03\x07\x01", b""): {"id": lzma.FILTER_ARMTHUMB},
    (b"\x03\x03\x08\x05", b""): {"id": lzma.FILTER_SPARC},
}
DELTA, X86 = list(FILTERS)[:2]


def expander() -> Expander:
    return Registry().named("7zip")[0]


def filtered(*coders: tuple[bytes, bytes]) -> bytes:
    """Return all contents after `filters`, which the reader reverses from the last to the first."""
    lzma2 = {"id": lzma.FILTER_LZMA2}
    chain = [*(FILTERS[coder] for coder in reversed(coders)), lzma2]
    packed = lzma.compress(ALL, lzma.FORMAT_RAW, filters=chain)
    return lzma.decompress(packed, lzma.FORMAT_RAW, filters=[lzma2])


def archive(packer: bytes, *coders: tuple[bytes, bytes], packs_header: bool = False) -> bytes:
    packed = PACKERS[packer](filtered(*coders))
    return solid_seven_zip_of(CONTENTS, packed, (packer, b""), *coders, packs_header=packs_header)


@pytest.mark.parametrize("packs_header", [True, False])
@pytest.mark.parametrize("packer", PACKERS)
def test_every_filter_is_taken_back_behind_every_method(
    packer: bytes, *, packs_header: bool
) -> None:
    for coders in [(), *((coder,) for coder in FILTERS), (X86, DELTA)]:
        assert not coders or filtered(*coders) != ALL
        out = opened(expander(), archive(packer, *coders, packs_header=packs_header))
        assert (out.contents, out.unread) == (list(CONTENTS.values()), [])
        assert out.names == [name.encode() for name in CONTENTS]


LZMA2 = (b"\x21", b"\x18")


@pytest.mark.parametrize("copy", [b"", b"\0"])
def test_a_copy_is_a_step_anywhere_and_a_filter_needs_no_method(copy: bytes) -> None:
    """7-Zip reads such archives, but libarchive refuses them or calls them damaged."""
    packed = lzma.compress(ALL, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
    of_x86 = filtered(X86)
    for data, coders in (
        (packed, [LZMA2, (copy, b"")]),
        (packed, [(copy, b""), LZMA2]),
        (of_x86, [X86]),
        (of_x86, [X86, (copy, b"")]),
        (of_x86, [(copy, b""), (copy, b""), X86]),
        (filtered(X86, DELTA), [X86, DELTA]),
        (ALL, [(copy, b"")]),
        (ALL, [(copy, b""), (copy, b"")]),
    ):
        out = opened(expander(), solid_seven_zip_of(CONTENTS, data, *coders))
        assert (out.contents, out.unread) == (list(CONTENTS.values()), []), coders


@pytest.mark.parametrize("coder", [(b"\0", b""), LZMA2])
def test_a_folder_is_one_member_where_nothing_says_how_many(coder: tuple[bytes, bytes]) -> None:
    packed = lzma.compress(ALL, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
    packed = packed if coder == LZMA2 else ALL
    out = opened(expander(), solid_seven_zip_of({"a": ALL}, packed, coder, says_parts=False))
    assert (out.contents, out.names, out.unread) == ([ALL], [b"a"], [])


@pytest.mark.slow
def test_another_program_reads_such_archives_as_we_do(tmp_path: Path) -> None:
    if shutil.which("7z") is None:
        pytest.skip("no 7z")
    for packer in PACKERS:
        for coder in FILTERS:
            (tmp_path / "a.7z").write_bytes(archive(packer, coder))
            words = ["7z", "x", "-y", f"-o{tmp_path}", str(tmp_path / "a.7z")]
            subprocess.run(words, check=True, capture_output=True)
            assert [(tmp_path / name).read_bytes() for name in CONTENTS] == [*CONTENTS.values()]


def test_a_member_far_behind_in_deflate64_is_read() -> None:
    content = random.Random(2).randbytes(60_000)
    packed = deflated64(content, 50_000)
    content += content[-50_000:][:1_000]
    data = solid_seven_zip_of({"a": content}, packed, (b"\x04\x01\x09", b""))
    assert opened(expander(), data).contents == [content]


def test_what_is_damaged_is_unread() -> None:
    """The checksum of each member is checked, and nothing behind the end is read."""
    whole = archive(b"\x00", DELTA)
    data = bytearray(whole)
    data[32] ^= 1
    out = opened(expander(), bytes(data))
    assert {why for _, why in out.unread} == {Why.DAMAGED} and CONTENTS["one"] not in out.contents
    packed = PACKERS[b"\x04\x01\x09"](ALL)
    cut = solid_seven_zip_of(CONTENTS, packed[:-40], (b"\x04\x01\x09", b""))
    assert Why.DAMAGED in opened(expander(), cut).reasons


@pytest.mark.parametrize(
    "coder", [(b"\x03", b""), (b"\x03\x03\x01\x03", b"\x01\0\0\0"), (b"\x0b", b"")]
)
def test_a_filter_that_is_not_read_leaves_all_to_the_library(coder: tuple[bytes, bytes]) -> None:
    data = solid_seven_zip_of(CONTENTS, ALL, (b"\x00", b""), coder)
    out = opened(expander(), data)
    assert out.unread and set(out.contents) <= {*CONTENTS.values()}


def test_a_header_of_any_bytes_ends_soon() -> None:
    """The test changes each byte of the header.

    All members are then right, or the file is unread.
    """
    contents = {"one": bytes(100), "two": b"benign" * 9}
    packed = stored(b"".join(contents.values()))
    whole = solid_seven_zip_of(contents, packed, (b"\x04\x01\x09", b""))
    start = whole.index(b"\x01\x04\x06", len(whole) - 200)
    header = whole[start:]
    for at in range(len(header)):
        for value in (0, 1, 0x7F, 0xFF):
            changed = header[:at] + bytes([value]) + header[at + 1 :]
            data = whole[:8] + bytes(24) + whole[32:start] + changed
            out = opened(expander(), data)
            assert out.unread or set(out.contents) <= {*contents.values()}, (at, value)


def test_usual_archives_are_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hashclient.containers.sevenzip._members", None)
    assert opened(expander(), seven_zip_of(CONTENTS)).contents == [*CONTENTS.values()]
    assert opened(expander(), archive(b"\x04\x01\x08")).contents == [*CONTENTS.values()]


LZMA, LZMA_2, DEFLATE64, PPMD = b"\3\1\1", b"\x21", b"\4\1\x09", b"\3\4\1"
OF_DELTA, OF_X86, OF_ARM = b"\3", b"\3\3\1\3", b"\3\3\5\1"


@pytest.mark.parametrize(
    ("methods", "is_refused"),
    [
        ([LZMA], False),
        ([LZMA_2], False),
        ([PPMD], False),
        ([b"\0"], False),
        ([b""], True),
        ([DEFLATE64], True),
        ([LZMA, OF_X86], False),
        ([LZMA, OF_ARM], True),
        ([LZMA, OF_DELTA], True),
        ([LZMA_2, OF_X86], False),
        ([LZMA_2, OF_DELTA], False),
        ([LZMA_2, OF_X86, OF_DELTA], True),
        ([LZMA, OF_X86, OF_X86], True),
        ([PPMD, OF_X86], True),
        ([DEFLATE64, OF_X86], True),
        ([OF_X86], True),
        ([LZMA, b"\0"], True),
        ([b"\0", LZMA_2], True),
    ],
)
def test_what_libarchive_refuses_is_read_here(methods: list[bytes], *, is_refused: bool) -> None:
    folder = Folder(32, 9, [Coder(method, b"", 9) for method in methods], None)
    assert sevenzip._is_refused(folder) is is_refused


@pytest.mark.parametrize(("moved", "is_found"), [(0, True), (1, False)])
@pytest.mark.parametrize("mark", [b"\x17\x06", b"\x01\x04"])
def test_a_header_of_unknown_place_is_in_the_last_512_bytes(
    mark: bytes, moved: int, *, is_found: bool
) -> None:
    header = mark.ljust(512 + moved, b"x")
    for before in (32, 33, 600):
        data = b"." * before + header
        assert sevenzip._last_header(Whole(data)) == (header if is_found else b"")
    assert sevenzip._last_header(Whole(b"." * 31 + mark + bytes(9))) == b""
    both = b"." * 40 + mark + b"one" + mark + b"two"
    assert sevenzip._last_header(Whole(both)) == mark + b"two"


def test_an_archive_behind_others_has_the_length_that_its_first_header_gives() -> None:
    reader = expander()
    assert isinstance(reader, sevenzip.SevenZip)
    for count in (6, 40, 41, 63):
        data = seven_zip_of({"a": bytes(count)})
        for behind in (b"", b"behind"):
            assert reader.length(Whole(data + behind)) == len(data)
    data = seven_zip_of({"a": b"benign"})
    for at in (8, 12, 20, 28, 31):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert reader.length(Whole(changed)) == 0
    assert reader.length(Whole(data[:31])) == 0
    unfinished = seven_zip_of({"a": b"benign"}, with_end=False)
    assert reader.length(Whole(unfinished)) == len(unfinished)
    assert reader.length(Whole(unfinished[:32] + bytes(600))) == 0
    older = unfinished[:7] + b"\3" + unfinished[8:]
    assert reader.length(Whole(older)) == len(older)


def test_a_header_lies_within_the_archive_and_is_not_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = solid_seven_zip_of(CONTENTS, ALL, (b"\0", b""))
    offset, length, _ = sevenzip._START.unpack_from(data, 12)
    assert len(data) == 32 + offset + length
    assert sevenzip._header(Whole(data)).folders[0].size == len(ALL)
    for cut in (1, 32, 33):
        with pytest.raises(ValueError, match=r"\d"):
            sevenzip._header(Whole(data[:-cut]))
    for bit in range(8):
        changed = data[:-1] + bytes([data[-1] ^ 1 << bit])
        with pytest.raises(ValueError, match=r"\d"):
            sevenzip._header(Whole(changed))
    monkeypatch.setattr(sevenzip, "_MOST_HEADER_BYTES", length)
    assert sevenzip._header(Whole(data)).folders
    monkeypatch.setattr(sevenzip, "_MOST_HEADER_BYTES", length - 1)
    with pytest.raises(ValueError, match=r"\d"):
        sevenzip._header(Whole(data))


def test_members_of_a_folder_are_read_in_any_part_and_checked() -> None:
    contents = {"a": b"one", "b": b"two!", "c": b"three"}
    data = solid_seven_zip_of(contents, b"".join(contents.values()), (b"", b""))
    out = opened(expander(), data)
    assert out.contents == list(contents.values())
    assert [(one.size, one.is_exact) for one in out.listed] == [(n, False) for n in (3, 4, 5)]
    at = data.index(b"two!")
    changed = data[:at] + b"tWo!" + data[at + 4 :]
    broken = opened(expander(), changed)
    assert broken.contents == [b"one", b"three"]
    assert broken.unread == [(b"b", Why.DAMAGED)]


def test_an_archive_whose_header_has_no_byte_is_empty() -> None:
    fields = bytes(20)
    data = b"7z\xbc\xaf\x27\x1c\0\4" + zlib.crc32(fields).to_bytes(4, "little") + fields
    found = opened(Registry().named("7zip")[0], data)
    assert (found.contents, found.unread) == ([], [])


def packed_again(data: bytes, *, size: int | None = None) -> bytes:
    """Return a 7z whose last header is packed, uncompressed; `size` replaces its length."""
    offset, length, crc = sevenzip._START.unpack_from(data, 12)
    streams = _streams(offset, length, length if size is None else size, ((b"\0", b""),),
                       b"\x0a\1" + crc.to_bytes(4, "little"))  # fmt: skip
    header = b"\x17" + streams + b"\0"
    return sevenzip._start(len(data) - 32, header) + data[32:] + header


def test_a_header_may_be_packed_three_times() -> None:
    data = solid_seven_zip_of(CONTENTS, ALL, (b"\0", b""), (b"\0", b""))
    for _ in range(3):
        data = packed_again(data)
        assert sevenzip._header(Whole(data)).folders[0].size == len(ALL)
        out = opened(expander(), data)
        assert (out.contents, out.unread) == (list(CONTENTS.values()), [])
    with pytest.raises(ValueError, match=r"^4$"):
        sevenzip._header(Whole(packed_again(data)))


def test_a_header_has_16_mib_at_most() -> None:
    most = 16 << 20
    data = solid_seven_zip_of({"a": b"benign"}, b"benign", (b"\0", b""))
    for length, text in ((most, "^7$"), (most + 1, f"^{most + 1}$")):
        whole = Whole(data[:12] + sevenzip._START.pack(0, length, 7) + data[32:])
        whole.size = 1 << 30
        with pytest.raises(ValueError, match=text):
            sevenzip._header(whole)
    too_long = packed_again(data, size=most + 1)
    with pytest.raises(ValueError, match=f"^{most + 1}$"):
        sevenzip._header(Whole(too_long))


def test_a_folder_may_end_where_the_file_does() -> None:
    content = b"benign.." * 5
    folder = Folder(32, 40, [Coder(b"\0", b"", 40), Coder(b"\0", b"", 40)], None)
    data = bytes(32) + content
    assert b"".join(sevenzip._unpacked(Whole(data), folder)) == content
    with pytest.raises(NotReadError, match="ends too early"):
        list(sevenzip._unpacked(Whole(data[:-1]), folder))


@pytest.mark.parametrize("claimed", [9, len(ALL), len(ALL) + 9])
def test_a_folder_is_as_long_as_its_last_step_says(claimed: int) -> None:
    chain = [{"id": lzma.FILTER_LZMA2}]
    packed = lzma.compress(filtered(X86), lzma.FORMAT_RAW, filters=chain)
    coders = [Coder(*LZMA2, claimed), Coder(*X86, len(ALL))]
    folder = Folder(0, len(packed), coders, None)
    assert b"".join(sevenzip._unpacked(Whole(packed), folder)) == ALL


UNIX = 0x8000


@pytest.mark.parametrize(
    ("attributes", "is_member"),
    [
        (0x20, True),
        (UNIX | 0o100644 << 16, True),
        (UNIX | 0o120777 << 16, False),
        # A directory or a pipe has no bytes, so 7-Zip extracts the bytes as a file.
        (UNIX | 0x10 | 0o040755 << 16, True),
        (UNIX | 0o010644 << 16, True),
    ],
)
def test_a_member_with_bytes_is_a_file_unless_it_is_a_link(
    attributes: int, *, is_member: bool
) -> None:
    data = seven_zip_of({"a": b"benign"}, attributes)
    assert opened(expander(), data).contents == [b"benign"] * is_member

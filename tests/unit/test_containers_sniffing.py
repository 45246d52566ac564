"""Recognising possible containers by their first bytes: all containers, and few other files."""

from __future__ import annotations

import io
import random
import re
import struct
import tarfile
from collections.abc import Sequence

import pytest

from fixtures import archives, mails, others
from hashclient.containers import fronts, sniffing
from hashclient.containers.kind import ANYWHERE, Kind, Mark, Sure
from hashclient.containers.kinds import KINDS
from hashclient.containers.mail import Eml
from hashclient.containers.mailmarks import can_be_mail, may_be_mail, may_hold_mail
from hashclient.containers.registry import Registry
from hashclient.containers.tarheader import (
    SUM_BEGINS,
    differs_from_sum,
    parse_header,
    with_sum,
)
from hashclient.scan.check.kept import may_be_container
from tests.opened import has_mark, opened

#: Bytes that occur in the magic bytes or in the front of an archive.
LETTERS = bytes(
    set(
        b'PK\x03\x04\x05\x06\x07\x0800\x1f\x8b\x9dBZh\xfd7zX\x00(\xb5/\xfd*M\x18"LIRar!E~^SCF<xbmlD'
        b"\xed\xab\xee\xdbWHC24\x9f>From \r\n:MZ\x7f#\xca\xfe\xba\xbe\xce\xcf\xfa\xed\xff\xd8"
        b"\x89NGO8"
    )
)


def test_hardly_any_file_of_anything_is_taken_for_a_container() -> None:
    chance = random.Random(7)
    blocks = [memoryview(chance.randbytes(512)) for _ in range(20_000)]
    # A block with magic bytes is sent to another process, so few other blocks may have them.
    assert sum(map(has_mark, blocks)) < 20


def test_a_new_kind_is_found_wherever_its_mark_stands_and_however_short_it_is() -> None:
    def may_be_text(data: bytes | bytearray, length: int) -> bool:
        return data.find(b"TEXT", 0, length) >= 0

    ordinary = b"\x01" * 50_000
    files = {
        "one byte where tar has five": (Mark(257, (b"Q",)), ordinary[:257] + b"Q" + ordinary[:9]),
        "far": (Mark(40_000, (b"FAR!",)), ordinary[:40_000] + b"FAR!"),
        "anywhere": (Mark(ANYWHERE, may_be=may_be_text), ordinary[:700] + b"TEXT"),
    }
    added = [Kind(name, (mark,)) for name, (mark, _) in files.items()]
    look_at, fits_none = sniffing.looks_of((*KINDS, *added))
    assert fits_none(ordinary, len(ordinary))
    for nearly in (ordinary[:40_000] + b"Fa" + ordinary[:9], ordinary[:40_000] + b"F"):
        fits_none(nearly, len(nearly))
        assert not look_at(nearly, len(nearly), True)
    assert fits_none(ordinary[:40_000] + b"Fa" + ordinary[:9], 40_011)
    for name, (_, data) in files.items():
        assert not fits_none(data, len(data))
        assert name in [kind.name for kind in look_at(data, len(data), False)]


def test_every_tar_that_is_opened_is_looked_at() -> None:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
        head = out.getvalue()[:512]
        for broken in range(512):
            damaged = bytearray(head)
            damaged[broken] ^= 0x41
            if parse_header(bytes(damaged)) or damaged[257:262] == b"ustar":
                assert has_mark(memoryview(bytes(damaged))), broken


@pytest.mark.slow
@pytest.mark.parametrize("form", ["%06o\0 ", "%08o", "\0%06o ", "  %4o\0 ", "%6o \0", "\0%6o\0"])
def test_a_tar_is_known_by_its_sum_however_it_is_written(form: str) -> None:
    """GNU tar, libarchive or Python reads each of these tars, whose only sign is the checksum."""
    head = bytearray(512)
    head[:1], head[100:136] = b"a", b"0000644\0" + 2 * b"0000000\0" + b"00000000001\0"
    total = sum(head) + 8 * 0x20
    head[148:156] = (form % total).encode()
    for block in (bytes(head), bytes(head[:148] + b"\x80" + total.to_bytes(7, "big") + head[156:])):
        assert parse_header(block)
        assert has_mark(memoryview(block))


@pytest.mark.parametrize("total", [1, 7, 8, 63, 64, 400])
def test_a_tar_whose_sum_is_that_of_signed_bytes_is_known_however_short_it_is(total: int) -> None:
    head = bytearray(512)
    head[100:136] = b"0000644\0" + 2 * b"0000000\0" + b"00000000001\0"
    lows, rest = divmod(sum(head) + 8 * 0x20 - total, 128)
    head[: lows + 1] = b"\x80" * lows + bytes([-rest % 256])
    head[148:156] = (b"%o" % total).ljust(8, b"\0")
    assert parse_header(bytes(head))
    assert has_mark(memoryview(head))


@pytest.mark.slow
def test_the_quick_look_of_a_tar_passes_over_no_sum_that_the_expression_takes() -> None:
    chance = random.Random(12)
    letters = b" \t013\0\x80xyz"
    taken = passed = 0
    for number in range(12_000):
        start = 512 * (number % 2)
        head = bytearray(b"a" * 2_000)
        at = start + 148
        head[at : at + 8] = bytes(chance.choices(letters, k=8))
        if number % 3 == 0:  # one byte of the line is no text
            head[start + chance.choice((0, 147, 156, 511))] = chance.choice(b"\0\x80\xff")
        length = chance.choice((at + 5, at + 8, 2_000))
        if head[at : at + 2] in SUM_BEGINS:
            is_one = re.compile(with_sum(start), re.DOTALL).match(head, 0, length) is not None
            differs = eval(differs_from_sum(start), {"data": head})
            assert not (is_one and differs), (length, head)
            taken += is_one
            passed += differs
    assert taken > 500 and passed > 300


def heads() -> list[bytes]:
    """Return beginnings of files with magic bytes at each place, and the same with other bytes."""
    chance = random.Random(3)
    plain = bytes(chance.choices(range(256), k=33_000))
    planted = [(mark.at, b) for kind in KINDS for mark in kind.marks for b in mark.literals]
    made = [plain[:at] + b + plain[at + len(b) :] for at, b in planted if at >= 0]
    made += [archives.lzma_of(b"x" * 50), b"xx-lh5-" + plain, archives.tar_of({"a": b"b"})]
    made += [b"\xef\xbb\xbf" + mails.mail_of({"a": b"b"}).as_bytes(), b"\n\nFrom: a\nTo: b\n"]
    made += [bytes(chance.choices(LETTERS, k=9)) + plain[:600] for _ in range(3_000)]
    for head in [*made[::9], *made[-3_005:-3_000]]:
        for at in range(0, min(len(head), 1_100), 7):
            made.append(head[:at] + bytes([chance.randrange(256)]) + head[at + 1 : 2_000])
    return made + [head[: chance.randrange(30)] for head in made[:3_000]]


def fits(kind: Kind, mark: Mark, head: bytes) -> bool:
    """Compare one sequence of magic bytes, without a lookup table."""
    at = mark.at
    if at != ANYWHERE:
        if not any(head[at:].startswith(one) for one in mark.literals):
            return False
    elif b":" not in head[:1024]:
        return False
    try:
        whole = head[: 33_792 if mark.reaches else 1152]
        return mark.is_one is None or mark.is_one(whole)
    except (struct.error, IndexError):
        return False


@pytest.mark.slow
def test_the_tables_pass_over_no_mark_that_is_declared() -> None:
    found = 0
    for head in heads():
        want = {k.name for k in KINDS for m in k.marks if m.at != -512 and fits(k, m, head)}
        assert {kind.name for kind in sniffing.look(memoryview(head))} == want, head[:600]
        assert {kind.name for kind in sniffing.look(head)} == want, head[:600]
        found += bool(want)
    assert found > 2_000


def test_hardly_any_ordinary_file_has_any_mark() -> None:
    chance = random.Random(4)
    ordinary = [memoryview(b"\xa5" + chance.randbytes(600)) for _ in range(2_000)]
    assert sum(bool(sniffing.look(head)) for head in ordinary) < 40


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_declares_what_its_readers_need(kind: Kind) -> None:
    """If a kind were missing in the table, files that no reader has opened would count as clean."""
    assert kind.marks or kind.in_programs or kind.name == "message"
    for mark in kind.marks:
        assert (mark.literals == ()) == (mark.at == ANYWHERE)
        assert mark.at != ANYWHERE or mark.may_be is not None
        assert all(len(literal) >= 2 for literal in mark.literals) or mark.at
        assert mark.at in (ANYWHERE, -512) or 0 <= mark.at <= 32_769
    assert not kind.is_front or not kind.expander
    assert kind.expander or not (kind.in_tail or kind.ends or kind.most_members)
    if kind.expander:
        (expander,) = Registry().named(kind.name)
        assert expander.name == kind.name and isinstance(expander.seeks, bool)
        assert hasattr(expander, "sniff") == (kind.sure is not Sure.MARK)
        assert hasattr(expander, "ends") == bool(kind.in_tail)
        assert hasattr(expander, "length") == bool(kind.in_programs)
    assert sum(other.name == kind.name for other in KINDS) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"\x7fELF\2\1" + b"\xff" * 58,  # tables that lie behind the largest possible offset
        b"\x7fELF\1\2" + b"\xff" * 58,
        b"MZ\x01\0\0\0".ljust(64, b"\0"),  # the program claims a negative length
        b"MZ" + b"\xff" * 62,  # the program claims to be longer than the file
    ],
)
def test_a_program_that_lies_about_its_parts_is_searched_within_the_file(head: bytes) -> None:
    program = head.ljust(9_000, b"\0") + b"7z\xbc\xaf\x27\x1c" + bytes(9_001) + b"x"

    def read_at(offset: int, count: int) -> bytes:
        assert 0 <= offset <= len(program) and count >= 0
        return program[offset : offset + count]

    front = program[: fronts.FRONT_BYTES]
    assert sniffing.has_behind(front, len(program), read_at)


def windows(*sections: tuple[bytes, int, int], optional: int = 0) -> bytes:
    """Return the first bytes of a Windows program; each section has a name, a length, a place."""
    head = b"MZ" + bytes(58) + struct.pack("<L", 84) + bytes(20)
    head += struct.pack("<4s2xH12xH2x", b"PE\0\0", len(sections), optional) + b"\xff" * optional
    return head + b"".join(struct.pack("<8s8x2L16x", *section) for section in sections)


def elf(
    order: str,
    width: int,
    segments: Sequence[tuple[int, int]] = (),
    sections: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """Return the first bytes of a Linux program (ELF).

    A segment has a place and a length. The section table has a place, a number of sections and the
    size of one.
    """
    number = "L" if width == 1 else "Q"
    table, count, size = sections
    made = bytearray(b"\x7fELF" + bytes([width, 1 if order == "<" else 2]) + bytes(18))
    made += struct.pack(f"{order}3{number}", 0, 100, table)
    size_of_segment = 40 if width == 1 else 64
    made += struct.pack(f"{order}L6H", 0, 0, size_of_segment, len(segments), size, count, 0)
    made = made.ljust(100, b"\0")
    for offset, length in segments:
        fields = "4xL8xL" if width == 1 else "8xQ16xQ"
        made += struct.pack(f"{order}{fields}", offset, length).ljust(size_of_segment, b"\xff")
    return bytes(made)


@pytest.mark.parametrize(
    ("head", "size", "places"),
    [
        (b"anything" * 20, 5_000, []),
        # DOS programs count pages of 512 bytes, and say how long the last page is.
        (b"MZ\0\0\2\0".ljust(64, b"\0"), 1_023, [(0, 1_023)]),
        (b"MZ\0\0\2\0".ljust(64, b"\0"), 1_024, []),
        (b"MZ\0\0\2\0".ljust(64, b"\0"), 1_025, [(1_024, 1)]),
        (b"MZ\1\0\2\0".ljust(64, b"\0"), 1_024, [(513, 511)]),
        (b"MZ\0\0\2\0".ljust(60, b"\0") + b"\x40\0\0\0" + b"\xff" * 90, 1_025, [(1_024, 1)]),
        (b"MZ\1\0\0\0".ljust(64, b"\0"), 1_024, [(0, 1_024)]),
        # The end of Windows programs.
        (windows((b".text", 300, 1_000)), 1_301, [(1_300, 1)]),
        (windows((b".text", 300, 1_000)), 1_300, []),
        (windows((b".data", 10, 1_300), (b".text", 300, 900)), 5_000, [(1_310, 3_690)]),
        (windows((b".text", 300, 1_000), optional=24), 5_000, [(1_300, 3_700)]),
        (windows((b".rsrc", 70, 1_000)), 5_000, [(1_000, 70), (1_070, 3_930)]),
        (windows((b".rsrc", 70, 1_000), (b"zz", 9, 4_991)), 5_000, [(1_000, 70)]),
        (windows((b".rsrc", 9 << 20, 1_000)), 10 << 20, [
            (1_000, 8 << 20), (1_000 + (9 << 20), (1 << 20) - 1_000),
        ]),
        (windows(), 5_000, [(0, 5_000)]),
        (windows(), 20 << 20, [(0, 8 << 20)]),
        (windows((b".rsrc", 70, 1_000))[:-1], 5_000, [(0, 5_000)]),
        # A Linux program ends with the table of its sections; if it has no table, its segments
        # count.
        *((elf(o, w, sections=(900, 7, 60)), 1_321, [(1_320, 1)]) for o in "<>" for w in (1, 2)),
        *((elf(o, w, sections=(900, 7, 60)), 1_320, []) for o in "<>" for w in (1, 2)),
        *(
            (elf(o, w, [(200, 30), (700, 50)]), 5_000, [(750, 4_250)])
            for o in "<>" for w in (1, 2)
        ),
        *(
            (elf(o, w, [(0, 950)], sections=(900, 0, 60)), 5_000, [(950, 4_050)])
            for o in "<>" for w in (1, 2)
        ),
        (elf("<", 2, sections=(0, 7, 60)), 5_000, [(0, 5_000)]),
        (elf("<", 2, [(700, 50)])[:-25], 5_000, [(0, 5_000)]),
    ],
)  # fmt: skip
def test_behind_a_program_is_what_none_of_its_parts_holds(
    head: bytes, size: int, places: list[tuple[int, int]]
) -> None:
    assert list(fronts.parts(head, size)) == places


def test_a_text_that_cannot_be_mail_is_recognised_by_every_reader() -> None:
    chance = random.Random(5)
    seeds = [mails.mail_of({"a": b"b"}).as_bytes(), b"From: a\r\n\tb\rTo : c\r\n" + b"x: y\n" * 200]
    seeds += [b"\xef\xbb\xbf\r\nTo: a\nX: b\nsubject: c\n\nbody", b"a: b\rFrom: c\rTo: d\r\rbody"]
    told = 0
    for _ in range(4_000):
        text = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 2, 30))):
            at = chance.randrange(min(len(text), 400))
            text[at : at + chance.choice((0, 1, 3))] = chance.choice(
                (b"\n", b"\r", b":", b" ", b"\0", b"x", b"\n-", b"To:", b"\nreceived:", b"\xff")
            )
        if not can_be_mail(bytes(text)):
            told += 1
            found = opened(Eml(), bytes(text))
            assert not found.contents and not found.unread, bytes(text)
    assert told > 500


def test_a_text_with_colons_that_is_all_there_is_need_not_be_opened() -> None:
    text = b"key: value\nother:\n  - more\n" * 40
    assert has_mark(text)
    assert not has_mark(text, is_all=True)
    for mail in (
        text + b"Subject: x\nTo: y\n",
        text + b"Received: x\n",
        b"\nFROM: a\nto :b\n" + text,
    ):
        assert has_mark(mail, is_all=True)
    # Long lines are split, and each piece is read as a line.
    assert has_mark(b"a: b\n" * 20_000, is_all=True)


@pytest.mark.parametrize("folders", [1, 1_000, 9_000])
@pytest.mark.parametrize("version", [b"\3\1", b"\0\0", b"\xff\xff"])
@pytest.mark.parametrize("behind", [0, 100, 1 << 16])
def test_a_cabinet_is_known_wherever_its_files_begin(
    folders: int, version: bytes, behind: int
) -> None:
    """7-Zip accepts bytes before the files of a cabinet; cabextract accepts any place of files."""
    data = others.cab_of({"inner": b"benign"})
    (files,) = struct.unpack_from("<L", data, 16)
    cabinet = bytearray(data[:36] + data[36:44] * folders + bytes(behind) + data[files:])
    struct.pack_into("<L", cabinet, 16, 36 + 8 * folders + behind)
    cabinet[24:26] = version
    struct.pack_into("<H", cabinet, 26, folders)
    assert [one.name for one in Registry().pick(bytes(cabinet), b"")] == ["cab"]
    assert Registry().pick(b"MSCF is the mark of cabinets, which hold other files.", b"") == []


def test_the_quick_look_leaves_out_no_file_that_may_be_mail() -> None:
    chance = random.Random(11)
    pieces = [
        b"Subject",
        b"To",
        b"x-mailer",
        b"note",
        b"\n",
        b"\r\n",
        b"\r",
        b": ",
        b":",
        b"(c)",
        b" ",
        b"\t",
        b"(\xe4)",
    ]
    pieces += [b"\xef\xbb\xbf", b"\0", b"\xff", b"> ", b"text " * 60]
    accepted = 0
    for _ in range(4_000):
        head = b"".join(chance.choices(pieces, k=chance.randrange(2, 24)))[:1_152]
        if may_be_mail(head):
            accepted += 1
            assert may_hold_mail(head, len(head)), head
    assert accepted > 100
    assert not may_hold_mail(b"not a name: of a field", 22)


@pytest.mark.parametrize("size", [534, 535, 33_792, 33_793, 34_175, 34_176, 100_000, 262_144])
def test_of_a_stream_the_same_end_counts_as_of_a_file(size: int) -> None:
    end = b"PK\5\6" + bytes(18)
    for before in (22, 533, 534, 535, size // 64 - 1, size // 64, size // 64 + 1):
        if len(end) <= before < size:
            data = (b"a" * (size - before) + end).ljust(size, b"b")
            is_one = sniffing.ends_as_container(data, size, size)
            assert is_one == (before <= max(534, size // 64))
            assert may_be_container(memoryview(data)) == is_one


def test_128_kib_may_stand_behind_a_zip_whose_file_begins_as_another_kind() -> None:
    data = b"\xff\xd8\xff\xe0" + archives.zip_of({"a": b"x"}) + bytes(128 << 10)
    for more, is_found in ((b"", True), (b"\0", False)):
        count = sniffing.tail_bytes(len(data + more), is_front=True)
        assert sniffing.has_end_of_zip((data + more)[-count:]) is is_found


MARK = b"Rar!\x1a\7\0"


@pytest.mark.parametrize("step", [60, 9_000])
def test_a_program_that_is_read_forwards_is_searched_in_the_same_places(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fronts, "SEARCHED_BYTES", 300)
    monkeypatch.setattr(sniffing, "SEARCHED_BYTES", 300)
    resources = windows((b".text", 300, 1_000), (b".rsrc", 400, 2_000))
    lying = windows((b".text", 300, 9_000))
    places = (290, 293, 294, 300, 949, 950, 1_243, 1_244, 1_999, 2_000, 2_293, 2_294, 2_399, 2_400,
              2_693, 2_694)  # fmt: skip
    for begin, wanted in (
        (resources, [2_000, 2_293, 2_400, 2_693]),
        (lying, [290, 293]),
        (elf("<", 2, [(0, 950)]), [950, 1_243]),
        (b"text" * 50, []),
    ):
        found = []
        for at in places:
            data = (begin.ljust(at, b"\0") + MARK).ljust(2_900, b"\0")
            searched = sniffing.InProgram(data[: fronts.FRONT_BYTES])
            for place in range(0, len(data), step):
                searched.watch(data[place : place + step])

            def read_at(offset: int, count: int, data: bytes = data) -> bytes:
                return data[offset : offset + count]

            is_one = sniffing.in_program(data[: fronts.FRONT_BYTES], len(data), read_at)
            assert searched.has_found() is is_one
            found += [at] * is_one
        assert found == wanted


def test_a_7z_ends_with_attributes_or_with_a_packed_header() -> None:
    contents = {"a": b"benign", "b": b"other"}
    plain = others.seven_zip_of(contents)[-1_024:]
    packed = others.solid_seven_zip_of(contents, b"benignother", (b"\0", b""), packs_header=True)[
        -1_024:
    ]
    attributes, method = b"\x15", b"\x07\x0b\1\0"
    assert (attributes in plain, method in plain) == (True, False)
    assert (attributes in packed, method in packed) == (False, True)
    for last in (plain, packed):
        assert fronts.ends_as_7z(last) and fronts.ends_as_7z(b"before" * 20 + last)
        assert not fronts.ends_as_7z(last[:-1]) and not fronts.ends_as_7z(last + b"\0x")


def test_the_header_of_a_program_may_end_with_its_first_4_kib() -> None:
    """Without the header, the first 8 MiB of the file would be searched."""
    end = 12 << 20
    section = struct.pack("<8s8x2L16x", b".text", 512, end - 512)
    header = struct.pack("<4s2xH12xH2x", b"PE\0\0", 1, 0) + section
    at = 4_096 - len(header)
    head = (b"MZ".ljust(60, b"\0") + struct.pack("<L", at)).ljust(at, b"\0") + header

    def read_at(offset: int, count: int) -> bytes:
        assert offset >= end
        return (MARK + bytes(93))[offset - end : offset - end + count]

    picked = Registry().pick(head.ljust(33_792, b"\0"), bytes(600), end + 100, read_at)
    assert [one.name for one in picked] == ["behind"]

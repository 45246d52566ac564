"""Zips: each member that some program extracts is listed; where programs disagree, it is unread."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest

from fixtures import archives
from fixtures.archives import DEFLATED, STORED
from fixtures.ole import ole_of
from hashclient.containers.interface import Member, NotReadError, Unlisted, Why
from hashclient.containers.zip import Ranges, Zip
from hashclient.containers.zipdirectory import MAX_DIRECTORIES
from tests.opened import Opened, Whole, each, opened, sniffs

A, B = b"benign A " * 40, b"benign B " * 50
NOISE = random.Random(7).randbytes(5000)


def look(data: bytes) -> Opened:
    assert sniffs(Zip(), data)
    return opened(Zip(), data)


def look_only(data: bytes) -> list[Member]:
    """List the members, and read none."""
    return [found for found in each(Zip(), Whole(data)) if isinstance(found, Member)]


def two() -> archives.Zip:
    return archives.Zip().add(b"a", A).add(b"b", B, STORED)


# Sizes that are claimed


def test_a_claim_that_is_too_small_hides_nothing_of_what_unzip_gives() -> None:
    content = bytes(random.Random(1).choices(b"abc", k=3000))
    less = {"size": 2999}
    out = look(archives.Zip().add(b"a", content, local=less, directory=less).end())
    assert out.contents == [content] and not out.unread
    assert (out.listed[0].size, out.listed[0].is_exact) == (2999, False)


def test_a_claim_that_is_too_large_is_unread() -> None:
    more = {"size": len(A) + 1}
    assert look(archives.Zip().add(b"a", A, local=more, directory=more).end()).reasons
    made = two().add(b"hidden", A, listed=False, local=more)
    assert look(made.end()).unread == [(b"hidden", Why.DAMAGED)]
    made = two().add(b"hidden", A, described=True, listed=False, local=more)
    assert look(made.end()).unread == [(b"hidden", Why.DAMAGED)]


def test_a_member_that_is_compressed_to_as_many_bytes_is_decoded() -> None:
    texts = (bytes(range(least)) + bytes(8) for least in range(200))
    content = next(text for text in texts if len(archives.raw_deflate(text)) == len(text))
    assert look(archives.Zip().add(b"a", content).end()).contents == [content]


def test_only_a_size_that_is_not_compressed_is_exact() -> None:
    assert [(m.size, m.is_exact) for m in look(two().end()).listed] == [
        (len(A), False),
        (len(B), True),
    ]


@pytest.mark.parametrize("field", ["size", "packed", "crc", "method"])
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_headers_that_do_not_agree_are_unread(field: str, method: int) -> None:
    for side in ("local", "directory"):
        lie = {field: 12 if field == "method" else 7}
        made = archives.Zip().add(b"a", A, method, **{side: lie}).add(b"b", B)  # type: ignore[arg-type]
        out = look(made.end())
        assert (b"a", Why.DAMAGED) in out.unread, side
        # One of the two headers is right, and the member is read by this header.
        assert {A, B} <= set(out.contents), side


@pytest.mark.parametrize("is_known", [False, True])
def test_a_descriptor_that_does_not_agree_is_unread(is_known: bool) -> None:
    """This also holds if the header has the same values as the directory."""
    true = {"crc": zlib.crc32(A), "packed": len(archives.raw_deflate(A)), "size": len(A)}
    local = true if is_known else {}
    good = archives.Zip().add(b"a", A, described=True, local=local).add(b"b", B)
    assert look(good.end()).contents == [A, B]
    mark = bytes(good.body).index(b"PK\7\x08")
    for at in (4, 8, 12):
        bad = bytearray(good.body)
        bad[mark + at] ^= 1
        out = look(bytes(bad))
        assert (b"a", Why.DAMAGED) in out.unread and B in out.contents


@pytest.mark.parametrize("field", ["crc", "packed", "size"])
def test_a_header_with_a_descriptor_that_contradicts_the_directory_is_unread(field: str) -> None:
    """The header may omit the values, but values that are present must be right."""
    true = {"crc": zlib.crc32(A), "packed": len(archives.raw_deflate(A)), "size": len(A)}
    for value, unread in ((0, set()), (true[field], set()), (7, {(b"a", Why.DAMAGED)})):
        made = archives.Zip().add(b"a", A, described=True, local={field: value}).add(b"b", B)
        out = look(made.end())
        assert set(out.unread) == unread and (unread or A in out.contents), value


def test_a_descriptor_has_a_mark_or_none_and_short_or_long_sizes() -> None:
    packed = archives.raw_deflate(A)
    for mark in (b"PK\7\x08", b""):
        for width in (4, 8):
            sizes = b"".join(n.to_bytes(width, "little") for n in (len(packed), len(A)))
            body = packed + mark + zlib.crc32(A).to_bytes(4, "little") + sizes
            zeros = {"packed": 0, "size": 0, "crc": 0}
            real = {"packed": len(packed)}
            made = archives.Zip().add(b"a", A, data=body, flags=8, local=zeros, directory=real)
            out = look(made.add(b"b", B).end())
            assert out.contents == [A, B] and not out.unread


def test_a_stored_member_with_two_sizes_is_unread() -> None:
    for size in (len(A) - 1, len(A) + 1):
        lie = {"size": size}
        out = look(archives.Zip().add(b"a", A, STORED, local=lie, directory=lie).end())
        assert out.reasons == {Why.DAMAGED} and not out.members


def test_bytes_behind_compressed_data_are_unread() -> None:
    out = look(archives.Zip().add(b"a", A, data=archives.raw_deflate(A) + b"hidden").end())
    assert out.unread == [(b"a", Why.DAMAGED)]


def test_another_checksum_is_unread() -> None:
    lie = {"crc": 1}
    for method in (STORED, DEFLATED):
        out = look(archives.Zip().add(b"a", A, method, local=lie, directory=lie).end())
        assert out.unread == [(b"a", Why.DAMAGED)]


@pytest.mark.parametrize("method", [STORED, DEFLATED, archives.BZIP2, archives.LZMA])
def test_large_members_are_checked_as_small_ones_are(method: int) -> None:
    content = random.Random(9).randbytes(150_000) + bytes(400_000)
    data = archives.zip_of({"a": content}, method)
    assert look(data).contents == [content]
    for at in (40, 80_000, 149_000):
        changed = bytearray(data)
        changed[at] ^= 0x10
        assert look(bytes(changed)).unread == [(b"a", Why.DAMAGED)]
    if method == DEFLATED:
        packed = archives.raw_deflate(content)
        for body in (packed + b"x", packed[:-1]):
            assert look(archives.Zip().add(b"a", content, data=body).end()).unread


# Structures in other places


@pytest.mark.parametrize("moved", [True, False])
def test_a_program_in_front_and_bytes_behind_change_nothing(*, moved: bool) -> None:
    made = archives.Zip(NOISE)
    if moved:
        made.base = 0
    data = made.add(b"a", A).add(b"b", B).end(comment=b"a comment") + b"behind"
    out = look(data)
    assert out.contents == [A, B] and not out.unread
    assert all(not member.offset for member in out.listed)


def test_members_that_no_directory_names_are_listed_with_their_place() -> None:
    made = archives.Zip().add(b"first", b"hidden 1", listed=False).add(b"a", A).put(NOISE)
    made.add(b"between", b"hidden 2", listed=False, described=True)
    made.add(b"stored", b"hidden 3", STORED, listed=False, described=True).add(b"b", B)
    made.add(b"last", b"hidden 4", STORED, listed=False)
    data = made.end() + bytes(archives.Zip().add(b"behind", b"hidden 5").body)
    out = look(data)
    assert out.contents == [A, B] + [b"hidden %d" % n for n in range(1, 6)] and not out.unread
    hidden = out.listed[2:]
    assert [member.size for member in hidden] == [None] * 5
    assert all(data[member.offset :].startswith(b"PK\3\4") for member in hidden)


@pytest.mark.parametrize("others", [b"", b"\xaa\xaa\3\0xyz"])
def test_a_member_that_no_directory_names_may_have_its_sizes_in_a_field(others: bytes) -> None:
    """The sizes of a member of more than 4 GiB are in a field, and other fields may precede it."""
    field = others + struct.pack("<2H2Q", 1, 16, len(A), len(A))
    sizes = (zlib.crc32(A), 0xFFFFFFFF, 0xFFFFFFFF, 6, len(field))
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0x5CA1, *sizes)
    out = look(archives.Zip().add(b"b", B).put(head + b"hidden" + field + A).end())
    assert sorted(out.members) == [(b"b", B), (b"hidden", A)] and not out.unread


def test_only_what_was_found_and_then_fails_is_unread() -> None:
    broken = bytearray(archives.Zip().add(b"hidden", A).body)
    broken[50] ^= 0xFF
    out = look(two().put(bytes(broken)).end())
    assert out.contents == [A, B] and out.unread == [(b"hidden", Why.DAMAGED)]
    longer = archives.Zip().add(b"hidden", b"", STORED, local={"size": 64})
    assert look(two().put(bytes(longer.body)).end()).unread == [(b"hidden", Why.DAMAGED)]
    locked = archives.Zip().add(b"locked", A, flags=1).body
    assert look(two().put(bytes(locked)).end()).unread == [(b"locked", Why.ENCRYPTED)]


def test_a_mark_by_chance_is_no_member() -> None:
    chance = random.Random(3)
    code = b"code" + b"".join(b"PK\3\4" + chance.randbytes(60) + b"\x00\x01" for _ in range(200))
    code += b"PK\3\4-PK\1\2-PK\5\6-PK\7\x08-PK\6\7-PK\6\6" * 4
    out = look(archives.Zip(code).add(b"a", A).put(code).end(comment=code[:60000]))
    assert out.contents == [A] and not out.unread


def test_a_header_with_what_no_program_writes_is_one_if_its_bytes_agree() -> None:
    odd = archives.Zip().add(b"\x01odd", A, flags=0x8000, listed=False)
    out = look(two().put(bytes(odd.body)).end())
    assert out.contents == [A, B, A] and not out.unread


def test_a_header_right_behind_a_member_is_one_whatever_it_says() -> None:
    for fields in ({"flags": 0x8001}, {"method": 99}, {"flags": 0x4000, "crc": 1}):
        made = two().add(b"\x01odd", B, listed=False, local=fields)
        out = look(made.end())
        assert out.contents == [A, B] and [name for name, _ in out.unread] == [b"\x01odd"]
    assert opened(Zip(), bytes(two().body[:20]) + archives.Zip().end()).reasons == {Why.DAMAGED}


def test_too_many_marks_that_may_be_members_are_unread() -> None:
    odd = archives.Zip().add(b"", b"", data=b"\xff", flags=0x8000).body
    assert Why.LIMIT in look(two().put(b"." + bytes(odd) * 1100).end()).reasons


def test_a_second_directory_hides_no_member() -> None:
    """The file has two archives, or a second end record: an empty one, or one in a comment."""
    one, other = two().end(), archives.Zip().add(b"c", b"C" * 90).end()
    for data in (one + other, one + archives.Zip().end(), archives.Zip().end() + one):
        out = look(data)
        assert set(out.contents) >= {A, B} and not out.unread
    assert b"C" * 90 in look(one + other).contents
    inner = two()
    comment = inner.end(offset=0, size=inner.end().find(b"PK\1\2"))
    out = look(archives.Zip().add(b"c", b"C" * 90).end(comment=comment))
    assert set(out.contents) == {A, B, b"C" * 90}


def test_a_directory_in_the_comment_of_an_entry_is_read() -> None:
    made = archives.Zip().add(b"shown", A)
    hidden = archives.Zip()
    hidden.body, hidden.base = made.body, 0
    hidden.add(b"hidden", B, listed=False)
    start = len(made.body)
    crc, packed = zlib.crc32(B), len(archives.raw_deflate(B))
    offset = bytes(made.body).rindex(b"PK\3\4")
    second = archives.entry(
        b"hidden", flags=0, method=8, crc=crc, packed=packed, size=len(B), offset=offset
    )
    outer = bytearray(made.entries[0])
    outer[32:34] = (len(second) + 22).to_bytes(2, "little")
    place = start + len(outer)
    end = (
        b"PK\5\6" + bytes(4) + b"\1\0\1\0"
        + len(second).to_bytes(4, "little") + place.to_bytes(4, "little") + b"\x16\0"
    )  # fmt: skip
    out = look(made.end(entries=[bytes(outer) + second + end], count=1))
    assert set(out.contents) == {A, B} and not out.unread


def test_an_archive_in_an_archive_is_one_member() -> None:
    inner = two().end()
    out = look(archives.Zip().add(b"inner.zip", inner, STORED).end())
    assert out.contents == [inner] and not out.unread


def test_a_directory_in_front_is_found() -> None:
    """Firefox puts the directory in front in its `omni.ja`."""
    made = two()
    body, entries = bytes(made.body), b"".join(made.entries)
    shift = 4 + len(entries)
    moved = archives.Zip()
    moved.put(bytes(4) + bytes(len(entries)))
    for name, content, method in ((b"a", A, DEFLATED), (b"b", B, STORED)):
        moved.base = 0
        moved.add(name, content, method)
    assert len(moved.body) == shift + len(body)
    data = bytearray(moved.end(entries=[], count=2, offset=4, size=len(entries)))
    data[4 : 4 + len(entries)] = b"".join(moved.entries)
    out = opened(Zip(), bytes(data))
    assert out.contents == [A, B] and not out.unread


def test_without_its_directory_members_are_read_and_something_is_unread() -> None:
    whole = two().end()
    out = look(whole[: len(whole) - 30])
    assert out.contents == [A, B] and out.unread == [(b"", Why.DAMAGED)]


def test_a_directory_with_another_number_of_entries_is_unread() -> None:
    for count in (1, 3):
        out = look(two().end(count=count))
        assert out.contents == [A, B] and out.unread == [(b"", Why.DAMAGED)]


def test_directories_without_end_are_unread() -> None:
    """The directories overlap: together they have far more entries than the file has."""
    names = {"flags": 0, "method": 8, "crc": 0, "packed": 0, "size": 0}
    entries = [archives.entry(b"%03d" % n, **names, offset=n) for n in range(3 * MAX_DIRECTORIES)]
    data = b"".join(entries)
    for number in range(2 * MAX_DIRECTORIES):
        start = sum(map(len, entries[:number]))
        data += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, len(data) - start, 0, 0)
    assert Why.LIMIT in look(data).reasons


def test_many_small_archives_one_behind_another_are_all_read() -> None:
    """A presentation of PowerPoint 2007 contains tens of small zips for older programs."""
    contents = [b"content %d of a small archive" % number for number in range(3 * MAX_DIRECTORIES)]
    out = look(b"".join(archives.zip_of({"a": content}) for content in contents))
    assert (sorted(out.contents), out.unread) == (sorted(contents), [])


@pytest.mark.parametrize(
    ("here", "count", "moved", "is_end"),
    [
        (1, 1, 0, True),
        (1, 1, 3, True),  # programs that use only the offset find the directory
        (1, 2, 0, True),  # an entry lies directly before the end record, whatever its number is
        (0, 0, 0, True),
        (1, 2, 1, False),
        (1, 2, -1, False),
        (0, 0, 1, False),
    ],
)
def test_the_last_bytes_end_as_a_zip_does(here: int, count: int, moved: int, is_end: bool) -> None:
    entry = two().entries[0]
    record = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, here, count, len(entry) + moved, 0, 0)
    for front in (b"", b"before " * 9):
        assert Zip.ends(front + entry + record + b"comment") is is_end


# Ranges


def test_members_that_overlap_are_unread() -> None:
    """The directory names the bytes of one member many times, as zip bombs do."""
    made = archives.Zip().add(b"a", A)
    again = archives.Zip().add(b"x", A).entries[0].replace(b"x", b"y")
    out = look(made.end(entries=[made.entries[0], again, again]))
    assert out.contents == [A] and [why for _, why in out.unread] == [Why.DAMAGED] * 2
    nested = archives.Zip().add(b"outer", bytes(two().body), STORED)
    start = 30 + len(b"outer")
    inside = archives.entry(
        b"a", flags=0, method=8, crc=zlib.crc32(A),
        packed=len(archives.raw_deflate(A)), size=len(A), offset=start,
    )  # fmt: skip
    assert (b"a", Why.DAMAGED) in look(nested.end(entries=[*nested.entries, inside])).unread


def test_a_member_within_the_directory_is_unread() -> None:
    made = archives.Zip().add(b"a", A)
    hidden = bytes(archives.Zip().add(b"h", B, STORED).body)
    outer = bytearray(made.entries[0])
    outer[32:34] = len(hidden).to_bytes(2, "little")
    place = len(made.body) + len(outer)
    second = archives.entry(
        b"h", flags=0, method=0, crc=zlib.crc32(B), packed=len(B), size=len(B), offset=place
    )
    out = look(made.end(entries=[bytes(outer) + hidden, second]))
    assert (b"h", Why.DAMAGED) in out.unread


def test_entries_in_another_order_are_no_overlap() -> None:
    made = archives.Zip()
    for number in range(50):
        made.add(b"%d" % number, b"content %d" % number)
    random.Random(5).shuffle(made.entries)
    out = look(made.end())
    assert sorted(out.contents) == sorted(b"content %d" % n for n in range(50))
    assert not out.unread


# Kinds of members


def test_places_beyond_every_file_are_unread() -> None:
    made = two()
    far = bytearray(made.entries[0])
    extra = b"\1\0\x08\0" + b"\xff" * 8
    far[42:46] = b"\xff" * 4
    far[30:32] = len(extra).to_bytes(2, "little")
    out = look(made.end(entries=[bytes(far) + extra, made.entries[1]]))
    assert out.unread == [(b"a", Why.DAMAGED)] and set(out.contents) == {A, B}


def test_names_are_as_they_stand() -> None:
    names = [
        b"../up",
        b"/abs",
        b"nul\0nul",
        b"\xff\xfe",
        b"",
        b"same",
        b"same",
        b"C:\\x",
        b"a" * 9000,
    ]
    made = archives.Zip()
    for number, name in enumerate(names):
        made.add(name, b"content %d" % number)
    out = look(made.end())
    assert out.names == names and len(set(out.contents)) == len(names)


def test_a_directory_has_no_bytes_unless_it_has() -> None:
    made = archives.Zip().add(b"d/", b"", STORED).add(b"e/", A, STORED).add(b"empty", b"", STORED)
    assert look(made.end()).members == [(b"e/", A), (b"empty", b"")]


def test_unsupported_members_are_unread_with_a_reason() -> None:
    made = archives.Zip().add(b"a", A, 3, data=b"x" * 20).add(b"b", A, 97, data=b"y" * 20)
    made.add(b"locked", A, flags=1).add(b"masked", A, flags=0x2041).add(b"patch", A, flags=0x20)
    made.add(b"strong", A, flags=0x40).add(b"hidden", A, flags=0x2000)
    out = look(made.add(b"c", B).end())
    assert out.contents == [B]
    assert out.unread == [
        (b"a", Why.UNSUPPORTED),
        (b"b", Why.UNSUPPORTED),
        (b"locked", Why.ENCRYPTED),
        (b"masked", Why.ENCRYPTED),
        (b"patch", Why.UNSUPPORTED),
        (b"strong", Why.ENCRYPTED),
        (b"hidden", Why.ENCRYPTED),
    ]


def test_a_part_of_an_archive_in_several_files_says_so() -> None:
    data = bytearray(two().end())
    data[-18] = 1
    assert Why.UNSUPPORTED in look(bytes(data)).reasons


def test_lzma_with_and_without_an_end_mark_and_a_window_too_large() -> None:
    data = archives.zip_of({"a": A}, archives.LZMA)
    assert look(data).contents == [A]
    at = data.index(b"\x09\x04\x05\0\x5d") + 5
    large = data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :]
    assert look(large).unread == [(b"a", Why.LIMIT)]


def test_a_header_of_lzma_that_does_not_fit_into_its_member_is_damaged() -> None:
    """The bytes behind the member are of the next header, and do not complete it."""
    for size in range(12):
        data = bytearray(archives.zip_of({"a": A}, archives.LZMA))
        local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
        for at in (local + 18, central + 20):
            data[at : at + 4] = size.to_bytes(4, "little")
        found = look(bytes(data))
        assert found.contents == [], size
        assert [why for name, why in found.unread if name == b"a"] == [Why.DAMAGED], size


@pytest.mark.slow
def test_empty_members_without_end_come_in_small_batches_as_the_directory_is_read() -> None:
    count = 70_000
    whole = Whole(archives.many_empty(count))
    found = 0
    for batch in Zip().members(whole):
        assert not isinstance(batch, Unlisted)
        if not found:
            assert whole.given < 1 << 20
        assert len(batch) < 6000
        found += len(batch)
    assert found == count


def test_a_directory_is_listed_without_reading_its_members() -> None:
    content = random.Random(2).randbytes(100_000)
    made = archives.Zip()
    for number in range(40):
        made.add(b"%d" % number, content, STORED)
    whole = Whole(made.end())
    assert len(list(each(Zip(), whole))) == 40
    assert whole.given < 200_000


def test_the_first_bytes_of_a_member_are_those_that_it_begins_with() -> None:
    noise = random.Random(3).randbytes(40_000)
    for content in (b"", b"x", A, noise, bytes(200_000), noise + bytes(90_000) + noise):
        for method in (STORED, DEFLATED):
            (member,) = look(archives.Zip().add(b"a", content, method).end()).listed
            assert member.head is not None
            for count in (1, 512, 33 << 10, 1 << 20):
                assert member.head(count) == content[:count]


def test_empty_blocks_in_front_of_a_member_are_passed_over_in_few_steps() -> None:
    class Counted(Whole):
        reads = 0

        def read_at(self, offset: int, count: int) -> bytes:
            self.reads += 1
            return super().read_at(offset, count)

    packed = b"\0\0\0\xff\xff" * 200_000 + archives.raw_deflate(A)
    whole = Counted(archives.Zip().add(b"a", A, data=packed).end())
    (member,) = (found for found in each(Zip(), whole) if isinstance(found, Member))
    before = whole.reads
    assert member.head is not None
    assert member.head(512) == A[:512]
    assert whole.reads - before < 20


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_short_member_is_checked_where_only_its_first_bytes_are_read(method: int) -> None:
    lies: list[dict[str, int]] = [{"crc": 1}]
    bodies: list[bytes | None] = [None]
    if method == DEFLATED:
        packed = archives.raw_deflate(A)
        lies.append({"size": len(A) + 1})
        bodies += [packed + b"x", packed[:-1], b"\xff" + packed[1:]]
    for body in bodies:
        for lie in lies if body is None else [{}]:
            made = archives.Zip().add(b"a", A, method, local=lie, directory=lie, data=body)
            (member,) = look_only(made.end())
            assert member.head is not None
            with pytest.raises(NotReadError):
                member.head(512)


# Archives of ordinary programs


def test_files_in_formats_built_on_zip_are_read_whole(tmp_path: Path) -> None:
    archive = archives.zip_of({"__main__.py": A, "x": B})
    signing = (32).to_bytes(8, "little") + NOISE[:24] + b"APK Sig Block 42"
    start = archive.index(b"PK\1\2")
    signed = bytearray(archive[:start] + signing + archive[start:])
    signed[-6:-2] = (start + len(signing)).to_bytes(4, "little")
    crx = b"Cr24\3\0\0\0" + (500).to_bytes(4, "little") + NOISE[:500] + archive
    sfx = Path("/bin/true").read_bytes() + archive
    for data in (b"#!/usr/bin/env python3\n" + archive, bytes(signed), crx, sfx):
        out = look(data)
        assert out.contents == [A, B] and not out.unread


@pytest.mark.skipif(not shutil.which("zip") or not shutil.which("unzip"), reason="no zip, unzip")
def test_zip_and_unzip_agree_with_it(tmp_path: Path) -> None:
    chance = random.Random(11)
    contents = {f"f{n}": chance.randbytes(chance.randrange(3000)) + bytes(n * 9) for n in range(20)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for options in (["-0"], ["-9"], ["-fz"], ["-Z", "bzip2"], ["-fd"]):
        subprocess.run(["zip", "-qX", *options, "x.zip", *contents], cwd=tmp_path, check=True)
        out = look((tmp_path / "x.zip").read_bytes())
        assert dict(out.members) == {k.encode(): v for k, v in contents.items()}, options
        for name, content in contents.items():
            given = subprocess.run(
                ["unzip", "-p", "x.zip", name], cwd=tmp_path, check=True, capture_output=True
            )
            assert given.stdout == content
        (tmp_path / "x.zip").unlink()
    piped = subprocess.run(
        ["zip", "-q", "-", "f3", "f4"], cwd=tmp_path, check=True, capture_output=True
    )
    assert look(piped.stdout).contents == [contents["f3"], contents["f4"]]
    subprocess.run(["zip", "-qP", "x", "x.zip", "f3"], cwd=tmp_path, check=True)
    assert look((tmp_path / "x.zip").read_bytes()).unread == [(b"f3", Why.ENCRYPTED)]


def test_python_agrees_with_it() -> None:
    chance = random.Random(12)
    for _ in range(30):
        contents = {
            f"{n}/{chance.randrange(99)}": chance.randbytes(chance.choice((0, 1, 50, 9000)))
            for n in range(chance.randrange(1, 9))
        }
        data = chance.randbytes(chance.choice((0, 0, 99))) + archives.zip_of(
            contents, chance.choice((0, 8, 12, 14)), streamed=chance.random() < 0.3
        )
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            want = [(name.encode(), archive.read(name)) for name in archive.namelist()]
        out = look(data)
        assert out.members == want and not out.unread


def test_members_whose_headers_disagree_are_read_by_the_directory_once_where_they_overlap() -> None:
    lying = {"crc": 5}
    made = archives.Zip().add(b"a", A, archives.STORED, local=lying)
    entries = made.entries * 50
    out = look(made.end(entries=entries))
    assert out.contents.count(A) == 1 and out.reasons == {Why.DAMAGED}


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_member_whose_headers_disagree_is_read_up_to_the_end_of_the_file(method: int) -> None:
    """If the directory is in front, the last member ends at the end of the file."""
    made = archives.Zip()
    front = len(archives.Zip().add(b"a", b"").entries[0]) + 22
    made.put(bytes(front))
    made.base = 0
    made.add(b"a", A, method, local={"crc": 5})
    body = bytes(made.body[front:])
    made.body.clear()
    data = made.end(offset=0) + body
    assert data.index(b"PK\3\4") == front
    for cut, contents, listed in ((0, [A], 2), (1, [], 1)):
        out = look(data[: len(data) - cut])
        assert out.contents == contents and out.reasons == {Why.DAMAGED}
        # If no directory names the member, the search for headers lists it nevertheless.
        assert [member.name for member in out.listed] == [b"a"] * listed


def test_members_in_another_order_than_their_entries_are_put_in_order_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hashclient.containers.zip._MAX_MOVED", 3)
    ranges = Ranges()
    # Each range lies before all earlier ranges, so `add` has to move one, then two, then three.
    for start in (90, 60, 40, 20):
        assert ranges.add(start, start + 5)
    assert list(ranges) == [(start, start + 5) for start in (20, 40, 60, 90)]
    with pytest.raises(NotReadError) as refused:
        ranges.add(0, 5)
    assert refused.value.why is Why.LIMIT


def test_members_of_a_zip_in_a_document_end_before_their_damage() -> None:
    """The sectors of the zip may be scattered in the document, so no size is certain."""
    made = archives.Zip().add(b"a", A, STORED).add(b"b", B, data=archives.raw_deflate(B) + b"x")
    out = opened(Zip(), ole_of({"Package": made.end()}))
    assert out.members == [(b"a", A)] and out.unread == [(b"b", Why.DAMAGED)]
    assert [(one.size, one.is_exact, one.head) for one in out.listed] == [
        (len(A), False, None),
        (len(B), False, None),
    ]


def test_in_a_document_a_header_with_odd_fields_is_chance() -> None:
    """In a zip file, such a header counts if it directly follows a member."""
    made = archives.Zip().add(b"a", A).add(b"\1", B, listed=False, local={"method": 77})
    data = made.end()
    assert opened(Zip(), data).unread == [(b"\1", Why.UNSUPPORTED)]
    out = opened(Zip(), ole_of({"Package": data}))
    assert (out.contents, out.unread) == ([A], [])

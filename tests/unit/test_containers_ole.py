"""OLE2: its streams and the files in office documents; hostile chains end."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures import archives
from fixtures.ole import SHORT, book, document, metafile, ole_of, package, picture, record
from hashclient.containers.interface import Why
from hashclient.containers.ole import Ole
from hashclient.containers.runs import Runs
from hashclient.containers.zip import Zip
from tests.opened import MAX_PIECE_BYTES, Opened, Whole, has_mark, opened, sniffs

CHANCE = random.Random(4)
A, B = b"benign A " * 20, CHANCE.randbytes(300_000)
STREAMS = {"a": A, "b": B, "s/c": CHANCE.randbytes(9_000), "s/t/d": CHANCE.randbytes(SHORT - 1)}
STREAMS |= {"s/t/e": CHANCE.randbytes(SHORT), "empty": b""}
#: The offset in the header of the number of the directory's first sector.
DIRECTORY_AT = 48


def look(data: bytes) -> Opened:
    assert has_mark(data) and sniffs(Ole(), data)
    return opened(Ole(), data)


def entry_at(data: bytes | bytearray, number: int) -> int:
    (sector,) = struct.unpack_from("<L", data, DIRECTORY_AT)
    return int((sector + 1) * 512 + number * 128)


@pytest.mark.parametrize("exponent", [9, 12])
@pytest.mark.parametrize("scattered", [False, True])
def test_each_stream_is_a_member(exponent: int, *, scattered: bool) -> None:
    out = look(ole_of(STREAMS, exponent=exponent, scattered=scattered))
    assert {name.decode(): content for name, content in out.members} == STREAMS
    assert not out.unread


@pytest.mark.skipif(shutil.which("7z") is None, reason="no 7z")
def test_7z_finds_the_same(tmp_path: Path) -> None:
    (tmp_path / "x.msi").write_bytes(ole_of(STREAMS, scattered=True))
    command = ["7z", "x", "-y", "-bd", "-tCompound", f"-o{tmp_path}/out", f"{tmp_path}/x.msi"]
    subprocess.run(command, check=True, capture_output=True)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    found = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in files}
    assert found == STREAMS


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("Pictures", b"front" + picture(A) + picture(B)),
        # The header of the second picture lies across two pieces.
        ("Data", picture(A) + bytes(MAX_PIECE_BYTES - 250) + picture(B)),
        ("ObjectPool/_1/WordDocument", b"text" * 99 + picture(A) + metafile(B)),
        ("PowerPoint Document", document(A) + bytes(9) + document(B)),
        ("PowerPoint Document", record(0x1011, 0, A) + b"between" + record(0x1011, 0, B)),
        ("Workbook", book(picture(A) + picture(B))),
        ("Escher/EscherStm", record(0xF01E, 0x6E1, bytes(33) + A) + picture(B)),
    ],
)
def test_pictures_and_documents_in_streams_are_members(name: str, stream: bytes) -> None:
    for scattered in (False, True):
        out = look(ole_of({name: stream}, scattered=scattered))
        assert out.contents == [stream, A, B] and not out.unread
        assert len({(member.name, member.offset) for member in out.listed}) == 3


@pytest.mark.parametrize("content", [b"", A, B])
def test_an_embedded_file_is_a_member(content: bytes) -> None:
    stream = package(content)
    out = look(ole_of({"s/\x01Ole10Native": stream}))
    assert out.contents == [stream, stream[4:], content] and not out.unread
    assert out.names[-1] == b"a.bin"


def test_an_object_that_is_no_package_begins_behind_its_length() -> None:
    out = look(ole_of({"\x01Ole10Native": struct.pack("<L", len(A)) + A}))
    assert A in out.contents and not out.unread


def test_an_embedded_file_that_is_cut_off_is_unread() -> None:
    out = look(ole_of({"\x01Ole10Native": package(B)[:-1]}))
    assert out.reasons == {Why.DAMAGED}


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("EncryptedPackage", A),
        ("WordDocument", b"\xec\xa5\xc1\0" + bytes(7) + b"\1" + A),
        ("Current User", bytes(12) + b"\xdf\xc4\xd1\xf3"),
        ("Workbook", struct.pack("<HH6xHH", 0x809, 6, 0x2F, 0) + A),
    ],
)
def test_an_encrypted_document_is_unread(name: str, stream: bytes) -> None:
    out = look(ole_of({name: stream, "other": A}))
    assert out.unread == [(name.encode(), Why.ENCRYPTED)] and A in out.contents


def test_an_ordinary_document_has_nothing_unread() -> None:
    word = b"\xec\xa5\xc1\0" + bytes(8) + CHANCE.randbytes(60_000)
    streams = {"WordDocument": word, "1Table": CHANCE.randbytes(9_000), "\x05SummaryInformation": A}
    out = look(ole_of(streams))
    assert len(out.contents) == 3 and not out.unread


def link_at(data: bytes | bytearray, number: int) -> int:
    """Return the offset of the table entry that names the second sector of a stream."""
    (start,) = struct.unpack_from("<L", data, entry_at(data, number) + 116)
    (table,) = struct.unpack_from("<L", data, 76)
    return int((table + 1) * 512 + 4 * start)


def damaged(change: Callable[[bytearray], object]) -> Opened:
    data = bytearray(ole_of({"a": A, "b": B}))
    change(data)
    return opened(Ole(), bytes(data))


def test_a_chain_that_ends_early_is_unread_and_the_rest_is_read() -> None:
    def change(data: bytearray) -> None:
        place = link_at(data, 2)
        struct.pack_into("<L", data, place + 4 * 5, 0xFFFFFFFE)

    out = damaged(change)
    assert out.unread == [(b"b", Why.DAMAGED)] and out.contents == [A]


@pytest.mark.parametrize("rest", [600, 100_000, 200_000])
def test_of_a_file_that_is_cut_off_what_is_named_and_missing_is_unread(rest: int) -> None:
    data = ole_of({"b": B, "a": A})
    out = opened(Ole(), data[:rest])
    assert out.unread or not out.listed


def test_an_entry_that_is_not_there_is_unread() -> None:
    def change(data: bytearray) -> None:
        struct.pack_into("<L", data, entry_at(data, 1) + 72, 77)

    assert (b"", Why.DAMAGED) in damaged(change).unread


def test_entries_in_a_circle_are_read_once() -> None:
    def change(data: bytearray) -> None:
        for number in (1, 2):
            struct.pack_into("<3L", data, entry_at(data, number) + 68, 1, 2, 1)

    assert sorted(damaged(change).contents) == sorted([A, B])


def test_a_size_and_a_chain_without_end_end() -> None:
    def change(data: bytearray) -> None:
        at = entry_at(data, 2)
        struct.pack_into("<L", data, link_at(data, 2), *struct.unpack_from("<L", data, at + 116))
        struct.pack_into("<L", data, at + 120, 0xFFFFFFFF)

    begin = time.process_time()
    assert damaged(change).unread == [(b"b", Why.DAMAGED)]
    assert time.process_time() - begin < 2


def test_many_streams_that_share_bytes_are_searched_up_to_a_limit() -> None:
    data = bytearray(ole_of({f"{n}/Data": B if not n else bytes(SHORT) for n in range(9)}))
    places = [entry_at(data, n) for n in range(19)]
    streams = [at for at in places if data[at + 66] == 2]
    for at in streams[1:]:
        data[at + 116 : at + 128] = data[streams[0] + 116 : streams[0] + 128]
    assert opened(Ole(), bytes(data)).reasons == {Why.LIMIT}


def test_a_header_that_nobody_reads_is_none() -> None:
    data = ole_of({"a": A})
    for at, value in ((30, 3), (30, 40), (31, 1)):
        assert not sniffs(Ole(), data[:at] + bytes([value]) + data[at + 1 :])
    assert not sniffs(Ole(), data[:511])


def test_an_archive_in_a_stream_and_behind_a_document_is_recognised() -> None:
    data = ole_of({"Package": archives.zip_of({"x": A})})
    assert [one.name for one in look(data).listed] == [b"Package"]
    from hashclient.containers.registry import Registry

    behind = data + archives.zip_of({"x": A})
    assert {one.name for one in Registry().pick(behind[:33_000], behind[-9_000:])} == {"ole", "zip"}


def test_a_zip_whose_stream_lies_in_pieces_is_a_member_of_that_alone() -> None:
    """PowerPoint 2007 writes a zip stream in pieces into each presentation that it saves as ppt."""
    inside = archives.zip_of({"x": A, "y": B, "z": CHANCE.randbytes(9_000)})
    data = ole_of({"a": inside}, scattered=True)
    assert look(data).contents == [inside]
    assert not opened(Zip(), data).unread


def test_a_zip_behind_a_document_is_read_as_any_other() -> None:
    damaged_zip = archives.zip_of({"x": B}).replace(B[500:600], bytes(100))
    assert opened(Zip(), ole_of({"a": A}) + damaged_zip).unread == [(b"x", Why.DAMAGED)]
    no_directory = archives.zip_of({"x": B}).replace(b"PK\1\2", b"PK\0\0")
    for behind in (no_directory, no_directory[:-22]):
        assert (b"", Why.DAMAGED) in opened(Zip(), ole_of({"a": A}) + behind).unread


def test_in_a_document_only_what_lies_in_pieces_is_left_out() -> None:
    """Members that overlap or have contradictory headers are listed, as programs extract them."""
    inside = bytearray(archives.zip_of({"x": B}))
    inside[14:18] = bytes(4)  # the checksum in the local header is zeroed
    out = opened(Zip(), ole_of({"a": bytes(inside)}))
    assert set(out.contents) == {B} and out.unread == [(b"x", Why.DAMAGED)]


def test_a_compressed_document_may_lack_its_end_but_no_byte() -> None:
    """PowerPoint omits the last block of compressed data, but all content must be read."""
    packer = zlib.compressobj()
    packed = packer.compress(B) + packer.flush(zlib.Z_SYNC_FLUSH)
    for claimed, unread in ((len(B), []), (len(B) + 1, [(b"PowerPoint Document", Why.DAMAGED)])):
        stream = record(0x1011, 1, struct.pack("<L", claimed) + packed)
        out = look(ole_of({"PowerPoint Document": stream}))
        assert out.unread == unread
        assert (B in out.contents) == (not unread)


def test_pieces_of_other_data_are_read_as_one() -> None:
    whole = bytes(range(256))
    runs = Runs(Whole(whole))
    for start, length in ((10, 5), (15, 5), (100, 3), (0, 2)):
        runs.add(start, length)
    want = whole[10:20] + whole[100:103] + whole[0:2]
    assert b"".join(runs.chunks()) == want and runs.size == len(want)
    for start in range(17):
        for count in range(17):
            assert runs.read_at(start, count) == want[start : start + count]
    assert runs.read(12) + runs.read(12) == want

"""Records in office documents at the edges of their fields, of pieces, and of their stream."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import pytest

from fixtures.ole import book, document, metafile, package, picture, record
from hashclient.containers import officeart
from hashclient.containers.forward import PIECE_BYTES
from hashclient.containers.interface import Data, Member, Stream, Unlisted, Why
from hashclient.containers.runs import Runs
from tests.opened import Opened, Whole, opened

A = b"benign"


class InStream:
    """An expander of the members in one stream."""

    name, seeks = "ole", True

    def __init__(self, name: bytes) -> None:
        self._name = name

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        assert isinstance(data, Whole)
        runs = Runs(data)
        if data.size:
            runs.add(0, data.size)
        return officeart.inside(self._name, runs)


def look(name: bytes, stream: bytes) -> Opened:
    return opened(InStream(name), stream)


#: Each kind of picture: its type, its instance with one identifier, and the bytes before it.
KINDS = [
    (0xF01D, 0x46A, 17), (0xF01D, 0x6E2, 17), (0xF02A, 0x46A, 17), (0xF02A, 0x6E2, 17),
    (0xF01E, 0x6E0, 17), (0xF01F, 0x7A8, 17), (0xF029, 0x6E4, 17), (0xF01A, 0x3D4, 50),
    (0xF01B, 0x216, 50), (0xF01C, 0x542, 50),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "instance", "before"), KINDS)
def test_pictures_of_each_kind_have_one_or_two_identifiers(
    kind: int, instance: int, before: int
) -> None:
    for more in (0, 1):
        # The byte 0xFE before the end of the header says that a metafile is not compressed.
        head = b"\xfe" * (before + 16 * more)
        stream = b"front" + record(kind, instance + more, head + A)
        out = look(b"Data", stream)
        assert out.members == [(b"Data", A)]
        (one,) = out.listed
        assert (one.offset, one.size, one.is_exact) == (len(stream) - len(A), len(A), True)
        assert not look(b"Data", record(kind, instance + more, head)).members
        assert look(b"Data", record(kind, instance + more, head + b"x")).contents == [b"x"]
    assert not look(b"Data", record(kind, instance + 2, bytes(66) + A)).members
    assert not look(b"Data", record(kind + 0x20, instance, bytes(66) + A)).members


@pytest.mark.parametrize("kind", [0xF01A, 0xF01B, 0xF01C])
@pytest.mark.parametrize(("mark", "is_packed"), [(0, True), (1, False), (0xFE, False)])
def test_a_metafile_says_whether_it_is_compressed(kind: int, mark: int, *, is_packed: bool) -> None:
    (instance,) = (instance for one, instance, _ in KINDS if one == kind)
    packed = zlib.compress(A)
    content = bytes(48) + bytes([mark]) + b"\xfe"
    out = look(b"Pictures", record(kind, instance, content + packed))
    assert out.contents == [A if is_packed else packed] and not out.unread
    assert (out.listed[0].size is None) is is_packed
    out = look(b"Pictures", record(kind, instance, content + packed[:-1]))
    assert out.reasons == ({Why.DAMAGED} if is_packed else set())


@pytest.mark.parametrize("kind", [0xF01D, 0xF01E])
def test_the_byte_before_another_picture_says_nothing(kind: int) -> None:
    (instance,) = {i for one, i, _ in KINDS if one == kind and i != 0x6E2}
    assert look(b"Data", record(kind, instance, bytes(17) + A)).contents == [A]


def test_documents_in_a_presentation_are_compressed_or_not() -> None:
    name = b"PowerPoint Document"
    assert look(name, record(0x1011, 0, A)).contents == [A]
    assert look(name, record(0x1011, 0, b"x")).contents == [b"x"]
    assert not look(name, record(0x1011, 0, b"")).members
    assert look(name, document(A)).contents == [A]
    assert not look(name, record(0x1011, 1, bytes(4))).members
    out = look(name, record(0x1011, 1, bytes(4) + zlib.compress(b"")))
    assert out.contents == [b""]
    # The length before the compressed bytes is compared only if their end is missing.
    assert look(name, record(0x1011, 1, b"\xff" * 4 + zlib.compress(A))).contents == [A]
    assert not look(name, record(0x1011, 2, A)).members


@pytest.mark.parametrize("more", [-1, 0, 1, 9])
def test_a_record_ends_within_its_stream(more: int) -> None:
    made = picture(A)
    stream = made[:4] + struct.pack("<L", len(made) - 8 + more) + made[8:]
    out = look(b"Data", stream)
    assert out.contents == ([] if more > 0 else [A[: len(A) + more]]) and not out.unread
    for end in (7, 8, 9, 25):
        assert not look(b"Data", stream[:end]).members


@pytest.mark.parametrize("at", [PIECE_BYTES + place for place in (-9, -8, -7, -4, -1, 0, 1)])
def test_a_record_is_found_once_wherever_pieces_begin(at: int) -> None:
    stream = bytes(at) + picture(A) + bytes(9)
    out = look(b"Data", stream)
    assert out.contents == [A] and out.listed[0].offset == at + 25
    assert not look(b"Data", stream[: at + 8]).members
    # The second piece is full of records, and one more record follows.
    many = bytes(at) + picture(A) * 3
    assert look(b"Data", many).contents == [A] * 3


def test_members_come_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(officeart, "BATCH", 2)
    found = list(InStream(b"Data").members(Whole(picture(A) * 5)))
    assert [len(one) for one in found if isinstance(one, list)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("name", "has_one"),
    [
        *((name, True) for name in (
            b"Pictures", b"Data", b"WordDocument", b"0Table", b"1Table", b"PowerPoint Document",
            b"EscherStm", b"EscherDelayStm", b"Workbook", b"Book",
        )),
        (b"a/b/Data", True), (b"Data/x", False), (b"dATA", True), (b"s/WORKBOOK", True),
        (b"Dat", False), (b"", False),
    ],
)  # fmt: skip
def test_streams_with_members_have_certain_names(name: bytes, *, has_one: bool) -> None:
    assert officeart.has_more(name) is has_one
    stream = book(picture(A)) if name.lower().endswith(b"ook") else picture(A)
    assert look(name, stream).contents == [A] * has_one
    for other in (b"\x01Ole10Native", b"\x01OLE10NATIVE", b"Current User", b"EncryptedPackage"):
        assert officeart.has_more(b"s/" + other)


@pytest.mark.parametrize(
    ("name", "stream", "is_encrypted"),
    [
        (b"WordDocument", b"\xec\xa5" + bytes(9) + b"\1", True),
        (b"WordDocument", b"\xec\xa5" + bytes(9) + b"\xff", True),
        (b"WordDocument", b"\xec\xa5" + bytes(9) + b"\xfe", False),
        (b"WordDocument", b"\xec\xa5" + bytes(8) + b"\1\0", False),
        (b"WordDocument", b"\xec\xa5" + bytes(9), False),
        (b"WordDocument", b"\xec\xa6" + bytes(9) + b"\1", False),
        (b"WordDocument", b"\xec\xa4" + bytes(9) + b"\1", False),
        (b"Workbook", b"\xec\xa5" + bytes(9) + b"\1", False),
        (b"Book", bytes(12) + b"\xdf\xc4\xd1\xf3", False),
        (b"Current User", bytes(12) + b"\xff" * 4, False),
        (b"Current User", bytes(12) + b"\xdf\xc4\xd1\xf3", True),
        (b"Current User", bytes(12) + b"\xdf\xc4\xd1\xf3x", True),
        (b"Current User", bytes(12) + b"\x5f\xc0\x91\xe3", False),
        (b"Current User", bytes(11) + b"\xdf\xc4\xd1\xf3", False),
        (b"Current User", bytes(12) + b"\xdf\xc4\xd1", False),
        (b"EncryptedPackage", b"", True),
        (b"ENCRYPTEDPACKAGE", b"", True),
        (b"Data", b"\xec\xa5" + bytes(9) + b"\1", False),
    ],
)
def test_a_document_is_encrypted_if_its_stream_says_so(
    name: bytes, stream: bytes, *, is_encrypted: bool
) -> None:
    out = look(name, stream)
    assert out.unread == [(name, Why.ENCRYPTED)] * is_encrypted and not out.members


def rows(*records: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<HH", kind, len(body)) + body for kind, body in records)


ONE, OTHER = picture(A), picture(b"other")
HALF = ONE[:20], ONE[20:]
DRAWING, CONTINUED, END, TEXT = 0xEB, 0x3C, 0x0A, 0xFC


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (rows((DRAWING, ONE)), [A]),
        (rows((DRAWING, HALF[0]), (CONTINUED, HALF[1])), [A]),
        (rows((DRAWING, HALF[0]), (DRAWING, HALF[1])), [A]),
        # A record of another kind ends the drawing; what continues it is no drawing.
        (rows((DRAWING, HALF[0]), (TEXT, b"x"), (CONTINUED, HALF[1])), []),
        (rows((DRAWING, HALF[0]), (TEXT, b"x"), (DRAWING, HALF[1])), [A]),
        (rows((CONTINUED, ONE)), []),
        (rows((TEXT, ONE), (CONTINUED, ONE)), []),
        (rows((DRAWING, b""), (CONTINUED, ONE)), [A]),
        (rows((END, b""), (DRAWING, ONE)), []),
        (rows((DRAWING, ONE), (END, b"")) + b"rest", [A]),
        (rows((DRAWING, ONE)) + b"\xeb\0\1", [A]),
        # The last record is cut off.
        (rows((DRAWING, ONE + b"xy"))[:-2], [A]),
        (rows((DRAWING, ONE))[:-1], []),
        (rows((DRAWING, ONE), (CONTINUED, OTHER + b"x"))[:-1], [A, b"other"]),
        (b"", []),
        (b"\xeb\0", []),
    ],
)
def test_drawings_of_a_workbook_are_joined_from_records(stream: bytes, found: list[bytes]) -> None:
    out = look(b"Workbook", stream)
    assert out.contents == found and not out.unread


@pytest.mark.parametrize("kind", [0x2E, 0x2F, 0x30])
def test_a_workbook_with_a_password_is_encrypted(kind: int) -> None:
    out = look(b"s/Book", rows((DRAWING, ONE), (kind, b"pw"), (DRAWING, OTHER)))
    if kind == 0x2F:
        assert out.unread == [(b"s/Book", Why.ENCRYPTED)] and not out.members
    else:
        assert out.contents == [A, b"other"] and not out.unread


NATIVE = b"\x01Ole10Native"
PACKAGE = package(A, b"n.bin")
#: The offset of the length of the path in `PACKAGE`, and of the length of the file.
PATH_AT = PACKAGE.index(b"\0\0\3\0") + 4
SIZE_AT = len(PACKAGE) - len(A) - 4


def long_at(place: int, value: int, stream: bytes = PACKAGE) -> bytes:
    return stream[:place] + struct.pack("<L", value) + stream[place + 4 :]


@pytest.mark.parametrize(
    ("stream", "files", "unread"),
    [
        (PACKAGE, [A], []),
        (PACKAGE + b"rest", [A], []),
        (long_at(SIZE_AT, len(A) - 1), [A[:-1]], []),
        (long_at(SIZE_AT, len(A) + 1), [], [Why.DAMAGED]),
        (long_at(SIZE_AT, 0), [b""], []),
        (PACKAGE[:-1], [], [Why.DAMAGED]),
        # A wrong length of the path; the place of the file is then known from the path's end.
        (long_at(PATH_AT, 1 << 20), [A], [Why.DAMAGED]),
        (long_at(PATH_AT, len(PACKAGE)), [A], [Why.DAMAGED]),
        (long_at(PATH_AT, 1), [A], [Why.DAMAGED]),
        (long_at(PATH_AT, 1)[:-1], [], [Why.DAMAGED]),
        (long_at(PATH_AT, 1 << 20)[:-1], [], [Why.DAMAGED]),
        # Without one of the fixed bytes, only a plausible length shows a package.
        (PACKAGE[:4] + b"\3" + PACKAGE[5:], [A], []),
        (PACKAGE[: PATH_AT - 2] + b"\1" + PACKAGE[PATH_AT - 1 :], [A], []),
        (PACKAGE[:4] + b"\3" + PACKAGE[5:-1], [], []),
        (PACKAGE[:4] + b"\1" + PACKAGE[5:-1], [], []),
        (long_at(SIZE_AT, 0, PACKAGE[:4] + b"\3" + PACKAGE[5:]), [], []),
        # No path ends.
        (b"\0\0\0\0\2\0title", [], []),
        (b"\0\0\0\0\2\0title\0path", [], []),
        (b"\0\0\0\0\2\0".ljust(64 << 10, b"x"), [], [Why.LIMIT]),
        (b"\0\0\0\0\2\0title\0".ljust(64 << 10, b"x"), [], [Why.LIMIT]),
        (b"\0\0\0\0\2\0".ljust((64 << 10) - 1, b"x"), [], []),
        (b"\0\0\0\0\3\0".ljust(64 << 10, b"x"), [], []),
    ],
)
def test_a_package_has_names_before_its_file(
    stream: bytes, files: list[bytes], unread: list[Why]
) -> None:
    out = look(NATIVE, stream)
    assert out.contents == [stream[4:], *files]
    assert out.names == [NATIVE, *[b"n.bin"] * len(files)]
    assert out.unread == [(NATIVE, why) for why in unread]
    assert all(one.is_exact for one in out.listed)


@pytest.mark.parametrize("length", [0, 3, 4, 5])
def test_an_embedded_object_begins_after_its_length(length: int) -> None:
    stream = b"12345"[:length]
    out = look(NATIVE, stream)
    assert (out.names, out.contents) == ([NATIVE], [stream[4:]]) and not out.unread
    assert out.listed[0].offset == 4


def test_a_metafile_has_its_own_header() -> None:
    assert look(b"1Table", b"x" + metafile(A) + b"y").contents == [A]


@pytest.mark.parametrize(("more", "reasons"), [(-1, set()), (0, set()), (1, {Why.DAMAGED})])
def test_a_compressed_document_without_an_end_has_as_many_bytes_as_it_says(
    more: int, reasons: set[Why]
) -> None:
    packer = zlib.compressobj()
    packed = packer.compress(A) + packer.flush(zlib.Z_SYNC_FLUSH)
    said = struct.pack("<L", len(A) + more)
    out = look(b"PowerPoint Document", record(0x1011, 1, said + packed))
    assert out.reasons == reasons and (out.contents == [A]) is not bool(reasons)

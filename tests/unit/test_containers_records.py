"""Records in streams of office documents and in `winmail.dat`, at the edges of their lengths."""

from __future__ import annotations

import struct
import zlib

import pytest

from fixtures.mails import attribute
from fixtures.ole import package, record
from hashclient.containers import officeart, tnef
from hashclient.containers.interface import NotReadError, Unlisted, Why
from hashclient.containers.runs import Runs
from tests.opened import Once, Whole, opened

A = b"benign"
Found = list[tuple[bytes, bytes] | Why]


def inside(name: bytes, data: bytes) -> Found:
    """Return the members of a stream that has this name, or the reason why a member is unread."""
    stream = Runs(Whole(data))
    stream.add(0, len(data))
    found: Found = []
    for each in officeart.inside(name, stream):
        if isinstance(each, Unlisted):
            found.append(each.why)
            continue
        for member in each:
            try:
                found.append((member.name, b"".join(member.chunks())))
            except NotReadError as error:
                found.append(error.why)
            assert member.size in (None, len(found[-1][1])) or isinstance(found[-1], Why)
    return found


def contents(name: bytes, data: bytes) -> list[bytes | Why]:
    return [one if isinstance(one, Why) else one[1] for one in inside(name, data)]


#: Kinds of pictures with their instance for one identifier, from the specification MS-ODRAW,
#: 2.2.23.
KINDS = [
    *((0xF01D, 0x46A), (0xF01D, 0x6E2), (0xF02A, 0x46A), (0xF02A, 0x6E2), (0xF01E, 0x6E0)),
    *((0xF01F, 0x7A8), (0xF029, 0x6E4), (0xF01A, 0x3D4), (0xF01B, 0x216), (0xF01C, 0x542)),
]


@pytest.mark.parametrize(("kind", "instance"), KINDS)
def test_a_picture_is_behind_one_identifier_or_two_and_its_header(kind: int, instance: int) -> None:
    header = b"\xff" * 34 if kind in (0xF01A, 0xF01B, 0xF01C) else b"\xff"
    for more in (0, 1):
        before = bytes(16 * (1 + more)) + header
        whole = record(kind, instance + more, before + A)
        assert contents(b"Pictures", b"x" + whole + b"y") == [A]
        assert contents(b"Pictures", whole) == [A]
        assert contents(b"Pictures", whole[:-1]) == []
        assert contents(b"Pictures", record(kind, instance + more, before)) == []
        assert contents(b"Pictures", record(kind, instance + more, before + b"a")) == [b"a"]
    for other in (-1, 2):
        assert contents(b"Pictures", record(kind, instance + other, bytes(50) + A)) == []


@pytest.mark.parametrize("kind", [0xF01A, 0xF01B, 0xF01C])
def test_a_metafile_is_packed_if_its_header_says_so(kind: int) -> None:
    instance = dict(KINDS)[kind]
    packed = zlib.compress(A)
    for flag, content in ((0, A), (1, packed), (0xFE, packed)):
        header = bytes(16 + 32) + bytes([flag, 0xFE])
        assert contents(b"Data", record(kind, instance, header + packed)) == [content]
    cut = record(kind, instance, bytes(16 + 32) + b"\0\xfe" + packed[:-1])
    assert contents(b"Data", cut) == [Why.DAMAGED]


@pytest.mark.parametrize("length", [0, 1, 3, 4, 7])
def test_a_header_that_is_cut_off_is_none(length: int) -> None:
    whole = record(0xF01D, 0x46A, bytes(17) + A)
    assert contents(b"Pictures", whole + whole[:length]) == [A]


@pytest.mark.parametrize(
    ("name", "is_searched"),
    [
        *((name, True) for name in (b"Pictures", b"Data", b"WordDocument", b"0Table", b"1Table")),
        *((name, True) for name in (b"PowerPoint Document", b"EscherStm", b"EscherDelayStm")),
        *((name, False) for name in (b"2Table", b"Picture", b"Pictures/a")),
        *((name, True) for name in (b"a/b/Pictures", b"pictures")),
    ],
)  # fmt: skip
def test_streams_with_records_are_known_by_their_names(name: bytes, *, is_searched: bool) -> None:
    assert officeart.has_more(name) is is_searched
    assert contents(name, record(0xF01D, 0x46A, bytes(17) + A)) == [A] * is_searched


@pytest.mark.parametrize(
    ("name", "data", "is_encrypted"),
    [
        (b"WordDocument", b"\xec\xa5" + bytes(9) + b"\1", True),
        (b"WordDocument", b"\xec\xa5" + bytes(9) + b"\xff", True),
        (b"WordDocument", b"\xec\xa5" + bytes(9) + b"\xfe", False),
        (b"WordDocument", b"\xec\xa5" + bytes(8) + b"\1\0", False),
        (b"WordDocument", b"\xec\xa5" + bytes(10) + b"\1", False),
        (b"WordDocument", b"\xec\xa6" + bytes(9) + b"\1", False),
        (b"WordDocument", b"\xec\xa5" + bytes(8) + b"\1", False),
        (b"Current User", bytes(12) + b"\xdf\xc4\xd1\xf3", True),
        (b"Current User", bytes(12) + b"\x5f\xc0\x91\xe3", False),
        (b"Current User", bytes(11) + b"\xdf\xc4\xd1\xf3", False),
        (b"EncryptedPackage", b"", True),
        (b"EncryptedPackages", b"", False),
    ],
)
def test_a_document_says_that_it_is_encrypted(
    name: bytes, data: bytes, *, is_encrypted: bool
) -> None:
    assert inside(b"s/" + name, data) == [Why.ENCRYPTED] * is_encrypted


def biff(*rows: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<2H", kind, len(content)) + content for kind, content in rows)


PICTURE = record(0xF01D, 0x46A, bytes(17) + A)
ONE, TWO = PICTURE[:10], PICTURE[10:]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (biff((0xEB, PICTURE)), [A]),
        (biff((0xEB, ONE), (0x3C, TWO)), [A]),
        (biff((0xEB, ONE), (0x3C, b""), (0x3C, TWO)), [A]),
        (biff((0xEB, ONE), (0xEB, TWO)), [A]),
        (biff((0xEC, ONE), (0x3C, TWO)), []),
        (biff((0xEB, ONE), (0x3D, b"x"), (0x3C, TWO)), []),
        (biff((0xEB, ONE), (0x3B, b"x"), (0x3C, TWO)), []),
        (biff((0x3C, PICTURE)), []),
        (biff((0x0A, b""), (0xEB, PICTURE)), []),
        (biff((0x0B, b""), (0xEB, PICTURE)), [A]),
        (biff((0x2F, b""), (0xEB, PICTURE)), [Why.ENCRYPTED]),
        (biff((0x09, b"begin"), (0xEB, PICTURE)) + b"\xeb\0\5", [A]),
        (biff((0xEB, PICTURE)) + struct.pack("<2H", 0x3C, 9), [A]),
        (biff((0xEB, PICTURE))[:-1], []),
        (biff((0xEB, PICTURE * 2))[:-1], [A]),
    ],
)
def test_pictures_of_a_workbook_lie_in_records_of_drawings(
    data: bytes, found: list[bytes | Why]
) -> None:
    assert contents(b"Workbook", data) == found
    assert contents(b"a/Book", data) == found


OWN = package(A, b"n")
AT = OWN.index(b"\0\0\3\0")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (OWN, [(b"n", A)]),
        (OWN + b"behind", [(b"n", A)]),
        (OWN[:-1], [Why.DAMAGED]),
        # oleobj ignores the flags, and the length of the path.
        (OWN[:4] + b"\3\0" + OWN[6:], [(b"n", A)]),
        (OWN[:AT] + b"\0\0\1\0" + OWN[AT + 4 :], [(b"n", A)]),
        (OWN[:AT] + b"\0\0\1\0" + OWN[AT + 4 : -1], []),
        (OWN[:AT] + b"\0\0\4\0" + OWN[AT + 4 : -1], []),
        (OWN[: AT + 4] + b"\1" + OWN[AT + 5 :], [Why.DAMAGED, (b"n", A)]),
        (b"....\2\0" + b"n" * (64 << 10) + OWN[6:], [Why.LIMIT]),
        (OWN[:AT], []),
        (b"\5\0\0\0\2\0name", []),
        (b"\5\0\0\0\2\0name\0path", []),
        (b"\5\0\0\0\2\0\0\0\0\0\3\0" + bytes(4) + struct.pack("<L", 3) + b"abc", [(b"", b"abc")]),
        (b"\5\0\0\0\2\0\0\0\0\0\3\0" + bytes(4) + struct.pack("<L", 0), [(b"", b"")]),
    ],
)
def test_an_embedded_file_has_two_names_and_a_path_before_it(data: bytes, found: Found) -> None:
    name = b"s/\x01Ole10Native"
    assert inside(name, data) == [(name, data[4:]), *found]


@pytest.mark.parametrize("length", [0, 1, 3, 4])
def test_an_embedded_object_without_bytes_has_none(length: int) -> None:
    assert contents(b"\x01Ole10Native", bytes(length)) == [b""]


# winmail.dat

HEAD = b"\x78\x9f\x3e\x22\1\0"
BEGIN, TITLE, DATA, OF_FILE, OF_MAIL = 0x69002, 0x18010, 0x6800F, 0x69005, 0x69003


def properties(*rows: tuple[int, int, tuple[bytes, ...]]) -> bytes:
    """Return MAPI properties: the kind, the number, and the values, each preceded by its length."""
    made = struct.pack("<L", len(rows))
    for kind, number, values in rows:
        made += struct.pack("<2HL", kind, number, len(values))
        for value in values:
            made += struct.pack("<L", len(value)) + value + bytes(-len(value) % 4)
    return made


def look(data: bytes) -> Found:
    out = opened(tnef.Tnef(), HEAD + data)
    once = opened(tnef.Tnef(), Once(HEAD + data, 7))
    assert (out.members, out.unread) == (once.members, once.unread)
    return [*out.members, *(why for _, why in out.unread)]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (attribute(DATA, A), [(b"attachment-1", A)]),
        (attribute(DATA, A, level=1), [(b"attachment-1", A)]),
        (attribute(DATA, A, level=0), [Why.DAMAGED]),
        (attribute(DATA, A, level=3), [Why.DAMAGED]),
        (attribute(DATA, b""), [(b"attachment-1", b"")]),
        (attribute(TITLE, b"n\0more") + attribute(DATA, A), [(b"n", A)]),
        (attribute(TITLE, b"n") + attribute(DATA, A) * 2, [(b"n", A)] * 2),
        (attribute(TITLE, b"n") + attribute(BEGIN, b"") + attribute(DATA, A) * 2,
         [(b"attachment-1", A), (b"attachment-2", A)]),
        (attribute(TITLE, b"n" * 4096) + attribute(DATA, A), [(b"n" * 4096, A)]),
        (attribute(TITLE, b"n" * 4097) + attribute(DATA, A), [(b"n" * 4096, A)]),
        (attribute(0x12345, A) + attribute(DATA, A), [(b"attachment-1", A)]),
        # Attributes of winmail.dat with other types.
        (attribute(0x38010, b"n\0") + attribute(0x800F, A), [(b"n", A)]),
        (attribute(0x9005, properties((258, 0x3701, (A,)))), [(b"", A)]),
        (attribute(DATA, A)[:-1], [(b"attachment-1", A), Why.DAMAGED]),
        (attribute(DATA, A)[:-2], [(b"attachment-1", A), Why.DAMAGED]),
        (attribute(DATA, A)[:-3], [Why.DAMAGED] * 2),
        (attribute(TITLE, A)[:-3], [Why.DAMAGED]),
        (attribute(OF_FILE, bytes(4))[:-3], [Why.DAMAGED]),
        (attribute(OF_FILE, bytes(4)) + attribute(DATA, A), [(b"attachment-1", A)]),
        (attribute(OF_FILE, bytes(3)) + attribute(DATA, A), [(b"attachment-1", A), Why.DAMAGED]),
        (attribute(DATA, A) + b"\1", [(b"attachment-1", A), Why.DAMAGED]),
        (attribute(DATA, A) + b"\1" + bytes(7), [(b"attachment-1", A), Why.DAMAGED]),
    ],
)  # fmt: skip
def test_attributes_follow_each_other_to_the_end(data: bytes, found: Found) -> None:
    assert look(data) == found


def test_properties_are_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = attribute(OF_MAIL, properties((258, 0x3701, (A,)))) + attribute(DATA, A)
    length = len(properties((258, 0x3701, (A,))))
    monkeypatch.setattr(tnef, "_MAX_PROPERTIES_BYTES", length)
    assert look(whole) == [(b"", A), (b"attachment-1", A)]
    monkeypatch.setattr(tnef, "_MAX_PROPERTIES_BYTES", length - 1)
    assert look(whole) == [(b"attachment-1", A), Why.LIMIT]


FIXED = {2: 4, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 10: 4, 11: 4, 20: 8, 64: 8, 72: 16}


@pytest.mark.parametrize(("kind", "length"), FIXED.items())
def test_values_of_a_fixed_length_are_passed_over(kind: int, length: int) -> None:
    last = properties((258, 9, (A,)))[4:]
    one = struct.pack("<L2H", 2, kind, 5) + b"\xff" * length
    many = struct.pack("<L2HL", 2, kind | 0x1000, 5, 3) + b"\xff" * length * 3
    for text in (one, many):
        assert list(tnef._parse(text + last)) == [(258, 9, A)]
        with pytest.raises((NotReadError, struct.error)):
            list(tnef._parse(text[:-1] + last))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (struct.pack("<L", 0), []),
        *((properties((kind, 5, (A,))), [(kind, 5, A)]) for kind in (13, 30, 31, 258)),
        *((properties((kind | 0x1000, 5, (A, b"")))
           , [(kind, 5, A), (kind, 5, b"")]) for kind in (30, 31, 258)),
        *((properties((258, 5, (b"x" * n,)), (258, 6, (A,))), [(258, 5, b"x" * n), (258, 6, A)])
          for n in range(5)),
        (properties((258, 5, ())), []),
        *((properties((kind, 5, (A,))), None) for kind in (1, 12, 14, 29, 32, 257, 259)),
        (properties((258, 5, (A,)))[:-2], [(258, 5, A)]),
        (properties((258, 5, (A,)))[:-3], None),
        (properties((258, 5, (A,)))[:-9], None),
        (struct.pack("<L", 2) + properties((258, 5, (A,)))[4:], None),
        # A property that is named by a number or by a text.
        (struct.pack("<L2H16xLL", 1, 258, 0x8000, 0, 7) + struct.pack("<2L", 1, 4) + b"abcd",
         [(258, 0x8000, b"abcd")]),
        (struct.pack("<L2H16xLL", 1, 258, 0xFFFF, 1, 5) + b"name\0\0\0\0"
         + struct.pack("<2L", 1, 4) + b"abcd", [(258, 0xFFFF, b"abcd")]),
        (struct.pack("<L2H", 1, 258, 0x7FFF) + struct.pack("<2L", 1, 4) + b"abcd",
         [(258, 0x7FFF, b"abcd")]),
    ],
)  # fmt: skip
def test_properties_have_as_many_values_as_they_say(
    text: bytes, found: list[tuple[int, int, bytes]] | None
) -> None:
    if found is None:
        with pytest.raises((NotReadError, struct.error)):
            list(tnef._parse(text))
    else:
        assert list(tnef._parse(text)) == found


def test_a_property_has_a_number_of_values_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    text = properties((258 | 0x1000, 5, (A, A, A)))
    monkeypatch.setattr(tnef, "_MAX_VALUES", 3)
    assert len(list(tnef._parse(text))) == 3
    monkeypatch.setattr(tnef, "_MAX_VALUES", 2)
    with pytest.raises(NotReadError):
        list(tnef._parse(text))


WIDE = "w".encode("utf-16-le")


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([(258, 0x3701, (A,))], [(b"t", A)]),
        ([(13, 0x3701, (b"i" * 16 + A,))], [(b"t", A)]),
        ([(258, 0x1013, (A,))], [(b"body.html", A)]),
        ([(13, 0x1013, (A,))], []),
        ([(13, 0x3702, (b"i" * 16 + A,))], []),
        ([(258, 0x3702, (A,))], []),
        ([(30, 0x3701, (A,))], []),
        ([(30, 0x3707, (b"n\0x",)), (258, 0x3701, (A,))], [(b"n", A)]),
        ([(258, 0x3701, (A,)), (30, 0x3704, (b"n",))], [(b"n", A)]),
        ([(31, 0x3704, (WIDE + b"\0\0",)), (258, 0x3701, (A,))], [(b"w", A)]),
        ([(31, 0x3707, (b"\0\0",)), (258, 0x3701, (A,))], [(b"t", A)]),
        ([(31, 0x3707, (b"n\0x",)), (258, 0x3701, (A,))], [("n\ufffd".encode(), A)]),
        ([(30, 0x3707, (b"",)), (258, 0x3701, (A,))], [(b"t", A)]),
        ([(30, 0x3706, (b"n",)), (258, 0x3701, (A,))], [(b"t", A)]),
        ([(258, 0x3707, (b"n",)), (258, 0x3701, (A,))], [(b"t", A)]),
        ([(13, 0x3707, (b"n\0",)), (258, 0x3701, (A,))], [(b"t", A)]),
        ([(258, 0x3701, (A,)), (1, 0x3701, (A,))], [(b"t", A), Why.DAMAGED]),
    ],
)
def test_objects_in_properties_are_members(
    rows: list[tuple[int, int, tuple[bytes, ...]]], found: Found
) -> None:
    for attribute_of in (OF_FILE, OF_MAIL):
        data = attribute(TITLE, b"t") + attribute(attribute_of, properties(*rows))
        assert look(data) == found


def test_properties_have_32_mib_and_65536_values_at_most() -> None:
    for length, reasons in ((32 << 20, [Why.DAMAGED]), ((32 << 20) + 1, [Why.LIMIT, Why.DAMAGED])):
        assert look(struct.pack("<BLL", 2, OF_FILE, length)) == reasons
    last = properties((258, 9, (A,)))[4:]
    for count in (1 << 16, (1 << 16) + 1):
        text = struct.pack("<L2HL", 2, 0x1002, 5, count) + bytes(4 * count) + last
        found = [A] if count == 1 << 16 else [Why.DAMAGED]
        assert look(attribute(OF_FILE, text.replace(b"\t\0", b"\1\x37"))) == (
            [(b"", A)] if found == [A] else found
        )

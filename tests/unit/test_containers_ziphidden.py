"""Local headers that no directory names: which marks count, and what is wrong with a member."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest

from fixtures import archives
from fixtures.archives import DEFLATED, LZMA, STORED
from hashclient.containers import ziphidden
from hashclient.containers.interface import NotReadError, Unlisted
from hashclient.containers.ziphidden import Search
from tests.opened import Whole

A = b"benign A " * 40
CRC, P = zlib.crc32(A), archives.raw_deflate(A)
WIDE = 0xFFFFFFFF
#: a header that no program writes: it counts only where a header is expected
ODD = archives.Zip().add(b"\1", A, 77).body
ODD_IS_UNREAD = (b"\1", "unsupported: zip: method 77")
Found = list[tuple[bytes, bytes | str]]


def header(name: bytes = b"h", content: bytes = A, method: int = STORED, **given: Any) -> bytes:
    """Return a local header and its member, without an entry in a directory."""
    return bytes(archives.Zip().add(name, content, method, **given).body)


def search(data: bytes, *gaps: tuple[int, int], is_scattered: bool = False) -> Found:
    """Return each member that is found, with its bytes or the reason why it is unread."""
    whole = Whole(data)
    found: Found = []
    for part in Search(whole, is_scattered=is_scattered).members(gaps or [(0, len(data))]):
        if isinstance(part, Unlisted):
            found.append((part.name, f"{part.why}: {part.detail}"))
            continue
        for member in part:
            assert (member.size, member.is_exact, member.head) == (None, False, None)
            assert data.startswith(b"PK\3\4", member.offset)
            assert data.startswith(member.name, member.offset + 30)
            try:
                found.append((member.name, b"".join(member.chunks())))
            except NotReadError as error:
                found.append((member.name, f"{error.why}: {error.detail}"))
    return found


def descriptor(crc: int = CRC, packed: int = len(A), size: int = len(A), *, is_long: bool = False,
               mark: bytes = b"PK\7\x08") -> bytes:  # fmt: skip
    return mark + struct.pack("<L2Q" if is_long else "<3L", crc, packed, size)


def lzma_of(content: bytes) -> bytes:
    data = archives.zip_of({"h": content}, LZMA)
    return data[31 : data.index(b"PK\1\2")]


OTHER = "damaged: zip: its sizes do not agree"
WRONG = "damaged: zip: its checksum does not agree"
BEHIND = "damaged: zip: bytes behind its compressed data"
DESCRIBED = "damaged: zip: its descriptor does not agree"
TOO_EARLY = "damaged: compressed data: ends too early"
CUT_OFF = "damaged: zip: a member that is cut off"
NO_END = "damaged: zip: a stored member without an end"
LIE = {"crc": 1, "packed": len(P), "size": len(A)}
ZEROS = {"crc": 0, "packed": 0, "size": 0}
PACKED = {"packed": len(P), "size": len(A)}
#: a block of deflate or Deflate64 that is not compressed
PLAIN_BLOCK = b"\1" + struct.pack("<2H", len(A), len(A) ^ 0xFFFF) + A


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (header(), A),
        (header(content=b""), b""),
        (header(local={"size": len(A) + 1}), OTHER),
        (header(local={"size": 0}), OTHER),
        (header(local={"crc": 1}), WRONG),
        (header(local={"packed": len(A) - 1, "size": len(A) - 1}), WRONG),
        (header(described=True), A),
        (header(described=True, local={"size": len(A)}), A),
        (header(described=True, local={"size": len(A) - 1}), OTHER),
        (header(described=True, local={"crc": 1}), A),
        (header(flags=8, local=ZEROS), NO_END),
        (header(flags=8, local=ZEROS) + descriptor(packed=9), NO_END),
        (header(flags=8, local=ZEROS) + descriptor(size=9), NO_END),
        (header(flags=8, local=ZEROS) + descriptor(crc=9), WRONG),
        (header(flags=8, local=ZEROS) + descriptor(is_long=True), A),
        (header(flags=8, local=ZEROS) + descriptor(mark=b""), NO_END),
        (header(flags=8, local=ZEROS) + descriptor()[:-1], NO_END),
        (header(flags=8) + descriptor(), A),
        (header(method=DEFLATED), A),
        (header(content=b"", method=DEFLATED), b""),
        (header(method=DEFLATED, local={"size": len(A) + 1}), OTHER),
        (header(method=DEFLATED, local={"size": len(A) - 1}), OTHER),
        (header(method=DEFLATED, local={"size": 0}), OTHER),
        (header(method=DEFLATED, local={"crc": 1}), WRONG),
        (header(method=DEFLATED, local={"crc": WIDE}), WRONG),
        (header(method=DEFLATED, data=P + b"x"), BEHIND),
        (header(method=DEFLATED, data=P[:-1]), TOO_EARLY),
        (header(method=DEFLATED, described=True), A),
        (header(method=DEFLATED, described=True, local={"size": len(A)}), A),
        (header(method=DEFLATED, described=True, local={"size": len(A) - 1}), OTHER),
        (header(method=DEFLATED, described=True, local=PACKED), A),
        (header(method=DEFLATED, described=True, local=LIE), A),
        (header(method=DEFLATED, described=True, local={**PACKED, "size": 0}), A),
        (header(method=DEFLATED, flags=8, local=LIE) + b"none", WRONG),
        (header(method=DEFLATED, flags=8, local=LIE) + descriptor(1, len(P)), WRONG),
        (header(method=DEFLATED, flags=8, local=ZEROS), DESCRIBED),
        (header(method=DEFLATED, flags=8, local=ZEROS) + descriptor(packed=len(P)), A),
        (header(method=DEFLATED, flags=8, local=ZEROS) + descriptor(1, len(P)), DESCRIBED),
        (header(method=DEFLATED, flags=8, local=ZEROS) + descriptor(packed=len(P) + 1), DESCRIBED),
        (header(method=DEFLATED, flags=8, local=ZEROS) + descriptor(CRC, len(P), 9), DESCRIBED),
        (header(method=DEFLATED, flags=8, local=ZEROS) + descriptor(packed=len(P), mark=b""), A),
        (header(method=9, data=PLAIN_BLOCK, described=True), A),
        (header(method=9, data=PLAIN_BLOCK), A),
        (header(method=9, data=PLAIN_BLOCK + b"x"), BEHIND),
        (header(method=LZMA, data=lzma_of(A)), A),
        (header(method=LZMA, data=lzma_of(A), flags=2), A),
        (header(method=LZMA, data=lzma_of(A), flags=2, described=True), A),
        (
            header(method=LZMA, data=lzma_of(A), described=True, local={"size": len(A)}),
            "damaged: zip: compressed data without an end",
        ),
    ],
)  # fmt: skip
def test_a_member_is_read_by_its_header_and_its_descriptor(data: bytes, found: bytes | str) -> None:
    for behind in (b"", b"other bytes"):
        assert search(data + behind) == [(b"h", found)]


@pytest.mark.parametrize(
    ("sizes", "field", "found"),
    [
        ((WIDE, WIDE), struct.pack("<2Q", len(A), len(P)), A),
        ((len(P), WIDE), struct.pack("<Q", len(A)), A),
        ((WIDE, len(A)), struct.pack("<Q", len(P)), A),
        ((WIDE, WIDE), struct.pack("<2Q", len(A) + 1, len(P)), OTHER),
        ((WIDE, WIDE), struct.pack("<Q", len(A)), CUT_OFF),
        ((len(P), len(A)), struct.pack("<2Q", 1, 2), A),
    ],
)
def test_sizes_of_64_bits_are_in_a_field(
    sizes: tuple[int, int], field: bytes, found: bytes | str
) -> None:
    field = struct.pack("<2H", 1, len(field)) + field
    fields = (45, 0, DEFLATED, 0, 0x5CA1, CRC, *sizes, 1, len(field))
    assert search(struct.pack("<4s5H3L2H", b"PK\3\4", *fields) + b"h" + field + P) == [
        (b"h", found)
    ]


CUT = (b"", "damaged: zip: a header that is cut off")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (b"PK\3", []),
        (b"PK\3\4", [CUT]),
        (bytes(ODD[:29]), [CUT]),
        (bytes(ODD[:30]), [CUT]),
        (bytes(ODD[:31]), [(b"\1", "unsupported: zip: method 77")]),
        (b"." + ODD[:29], []),
        (b"." + ODD, []),
        (bytes(ODD), [ODD_IS_UNREAD]),
        (b"." + header(local={"method": 77}), []),
        (b"." + header(local={"method": 97}), [(b"h", "unsupported: zip: method 97")]),
        (b"." + header(flags=1), [(b"h", "encrypted: zip: encrypted")]),
        (b"." + header(flags=1, method=97), [(b"h", "encrypted: zip: encrypted")]),
        (b"." + header(b"\1", flags=1), [(b"\1", A)]),
        (b"." + header(b"\1", b""), []),
        (b"." + header(b"\1", b"", method=DEFLATED), [(b"\1", b"")]),
        (b"." + header(b"\1", b"", described=True), [(b"\1", b"")]),
        (b"." + header(b"\1", local={"crc": 1}), []),
        (header(b"h/", b""), []),
        (header(b"h/", b"", described=True), [(b"h/", b"")]),
        # A header is expected where the member before it ends.
        (header() + ODD, [(b"h", A), ODD_IS_UNREAD]),
        (header() + ODD[:29], [(b"h", A), CUT]),
        (header() + b"." + ODD, [(b"h", A)]),
        (header(content=b"") + ODD, [(b"h", b""), ODD_IS_UNREAD]),
        (header(b"h/", b"") + ODD, [ODD_IS_UNREAD]),
        (header(method=97) + ODD, [(b"h", "unsupported: zip: method 97"), ODD_IS_UNREAD]),
        (header(flags=8) + ODD, [(b"h", A), ODD_IS_UNREAD]),
        *(
            (header(flags=8) + end + ODD, [(b"h", A), *is_expected * [ODD_IS_UNREAD]])
            for end, is_expected in (
                (descriptor(), 1), (descriptor(mark=b""), 1), (descriptor(is_long=True), 1),
                (descriptor(1), 0), (descriptor(packed=1), 0), (descriptor(size=1), 0),
            )
        ),
        (header(local={"packed": len(A) + 1, "size": len(A) + 1}), [(b"h", CUT_OFF)]),
        (header() + descriptor() + ODD, [(b"h", A)]),
        # Where a member ends is unknown if its header does not say it, or if it is no certain one.
        (header(described=True) + ODD, [(b"h", A)]),
        (b"." + header(b"\1") + ODD, [(b"\1", A)]),
        (header(local={"packed": 9_999, "size": 9_999}) + header(b"i"), [
            (b"h", CUT_OFF), (b"i", A),
        ]),
    ],
)  # fmt: skip
def test_a_header_counts_by_its_fields_or_by_its_place(data: bytes, found: Found) -> None:
    assert search(data) == found


def test_where_sectors_are_scattered_a_header_counts_by_its_fields_alone() -> None:
    for data, found in (
        (bytes(ODD), []),
        (header() + ODD, [(b"h", A)]),
        (header() + header(b"i"), [(b"h", A), (b"i", A)]),
        (b"PK\3\4", []),
    ):
        assert search(data, is_scattered=True) == found


def test_a_header_and_its_member_are_within_one_gap() -> None:
    one = header()
    for start, end, found in (
        (0, len(one), [(b"h", A)]),
        (1, len(one), []),
        (0, len(one) - 1, [(b"h", CUT_OFF)]),
        (0, 31, [(b"h", CUT_OFF)]),
        (0, 30, [CUT]),
        (0, 4, [CUT]),
        (0, 3, []),
    ):
        assert search(one + b"more", (start, end)) == found
    two = one + b"listed" + ODD
    place = len(one) + 6
    assert search(two, (0, len(one)), (place, len(two))) == [(b"h", A), ODD_IS_UNREAD]
    assert search(two, (0, len(one)), (place - 1, len(two))) == [(b"h", A)]
    # A member of unknown length ends within its gap as well.
    for method in (STORED, DEFLATED):
        described = header(method=method, described=True)
        assert search(described, (0, len(described))) == [(b"h", A)]
        ((_, error),) = search(described, (0, len(described) - 17))
        assert error in (NO_END, TOO_EARLY)


def test_a_mark_without_bytes_costs_no_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a header cannot be checked, so it never counts, and many of them hide no other one."""
    monkeypatch.setattr(ziphidden, "_MAX_TRIES", 1)
    empty, good = b"." + header(b"\1", b""), b"." + header(b"\1")
    assert search(empty * 9 + good) == [(b"\1", A)]
    assert search(empty * 9 + good + good) == [
        (b"\1", A),
        (b"", "limit: zip: too many marks of members in other bytes"),
    ]


def test_a_thousand_marks_are_tried() -> None:
    wrong, good = b"." + header(b"\1", b"x", local={"crc": 1}), b"." + header(b"\1")
    assert search(wrong * 999 + good) == [(b"\1", A)]
    assert search(wrong * 1_000 + good) == [
        (b"", "limit: zip: too many marks of members in other bytes"),
    ]


def test_a_member_that_fills_its_gap_hides_the_headers_in_its_bytes() -> None:
    inner = header(b"inner")
    whole = header(content=inner)
    assert search(whole) == [(b"h", inner)]
    assert search(whole, (0, len(whole) - 1)) == [(b"h", CUT_OFF), (b"inner", CUT_OFF)]

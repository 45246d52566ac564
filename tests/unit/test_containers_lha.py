"""Headers of lha that are rewritten for libarchive: which bytes change, and which never do."""

from __future__ import annotations

import struct

import pytest

from fixtures import others
from hashclient.containers.lha import _as_it_stands, _UsualHeaders
from tests.opened import Once, Whole

BENIGN, OTHER = b"benign " * 30, b"another benign file"


def usual(data: bytes) -> bytes:
    """Return the bytes that libarchive gets, however many bytes one read returns."""
    found = set()
    for source, count in ((Whole(data), 1 << 20), (Once(data, 5), 1 << 20), (Once(data), 7)):
        headers = _UsualHeaders(source)
        found.add(b"".join(iter(lambda h=headers, n=count: h.read(n), b"")))  # type: ignore[misc]
    (one,) = found
    return one


def header(
    name: bytes = b"name", *, method: bytes = b"-lh0-", level: int = 0, attributes: int = 0x20,
    packed: int = 0, total: int = 0,
) -> bytes:  # fmt: skip
    """Return a header of level 0 or 1, whose checksum is wrong by `total`."""
    head = method + struct.pack("<3LBBB", packed, 0xFFFF, 0xFFFFFFFF, attributes, level, len(name))
    head += name + b"\xff\xffM" + bytes(2)
    return bytes([len(head), sum(head) + total & 0xFF]) + head


@pytest.mark.parametrize("total", [0, 1, 255])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"attributes": 2}, {"attributes": 2}),
        ({"attributes": 2, "level": 1}, {"attributes": 0x20, "level": 1}),
        ({"attributes": 0xFF, "level": 1}, {"attributes": 0x20, "level": 1}),
        ({"method": b"-lh4-"}, {"method": b"-lh5-"}),
        ({"method": b"-lh4-", "level": 1, "attributes": 0}, {"method": b"-lh5-", "level": 1}),
        ({"method": b"-lh6-"}, {"method": b"-lh6-"}),
        ({"method": b"-lz4-"}, {"method": b"-lz4-"}),
        ({"name": b"a\xffb\xff\xffc"}, {"name": b"a/b//c"}),
        ({"name": b"\xff", "level": 1}, {"name": b"/", "level": 1}),
        ({"name": b""}, {"name": b""}),
        ({"name": b"-lh4-"}, {"name": b"-lh4-"}),
    ],
)
def test_a_header_is_written_anew_and_its_sum_is_as_right_as_before(
    before: dict[str, bytes], after: dict[str, bytes], total: int
) -> None:
    body = b"x" * 40
    for packed in (40, 0):
        old, new = (header(**each, packed=packed, total=total) for each in (before, after))  # type: ignore[arg-type]
        content = body[:packed]
        assert usual(old + content + b"\0") == new + content + b"\0"
        assert usual((old + content) * 3) == (new + content) * 3


def test_headers_of_level_2_get_a_sum_of_their_new_bytes() -> None:
    for attributes in (0, 2, 0x20, 0xFF):
        data = others.lha_of(BENIGN, "a", attributes)[:-1]
        assert usual(data * 2) == others.lha_of(BENIGN, "a")[:-1] * 2
    whole = others.lha_of(BENIGN, "a", 2)
    # The time, and the sum itself, which may be lower or higher.
    for at, byte in ((15, 1), *((27, 1 << bit) for bit in range(8))):
        wrong = bytearray(whole)
        wrong[at] ^= byte
        wanted = bytearray(wrong)
        wanted[19] = 0x20
        assert usual(bytes(wrong)) == bytes(wanted)
    for method, new in ((b"-lh4-", b"-lh5-"), (b"-lh7-", b"-lh7-")):
        renamed = whole.replace(b"-lh0-", method)
        changed = whole.replace(b"-lh0-", new)
        assert usual(renamed) == changed[:19] + b"\x20" + changed[20:]
    # A header without a field for its sum is rewritten as well.
    bare = struct.pack("<H5s3LBBHBH", 26, b"-lh4-", 5, 5, 0, 2, 2, 0, ord("U"), 0) + b"12345"
    assert usual(bare) == bare.replace(b"-lh4-", b"-lh5-")[:19] + b"\x20" + bare[20:]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        header(level=1, attributes=2)[:21],
        header(level=3, attributes=2) * 2,
        header(level=3, attributes=2, method=b"-lh4-"),
        b"x" * 50,
        b"\x30\0.lh4-".ljust(20, b"\0") + b"\1" + bytes(40),
        b"\x30\0,lh4-".ljust(20, b"\0") + b"\1" + bytes(40),
        b"\x13\0-lh4-".ljust(20, b"\0") + b"\1" + bytes(40),
        b"\x15\0-lh4-".ljust(20, b"\0") + b"\2" + bytes(40),
    ],
)
def test_what_is_no_header_stays_as_it_is(data: bytes) -> None:
    assert usual(data) == data


def test_a_header_has_a_least_length() -> None:
    for length, level in ((b"\x14\0", 0), (b"\x14\0", 1), (b"\x16\0", 2)):
        data = (length + b"-lh4-").ljust(20, b"\0") + bytes([level]) + bytes(40)
        assert usual(data)[2:7] == b"-lh5-"


def test_bytes_of_a_member_are_no_header() -> None:
    inner = header(method=b"-lh4-", level=1, attributes=2)
    data = header(packed=len(inner)) + inner
    assert usual(data + inner) == data + header(method=b"-lh5-", level=1)
    # A member that is longer than the rest of the file has all of it.
    assert usual(header(packed=999) + inner) == header(packed=999) + inner


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        (b"name", b"name"),
        ("\xe9\xff".encode(), b"\xe9\xff"),
        (b"\xe9", b"\xe9"),
        ("\u65e5".encode(), "\u65e5".encode()),
    ],
)
def test_a_name_is_given_as_it_stands_in_the_archive(name: bytes, raw: bytes) -> None:
    assert _as_it_stands(name) == raw

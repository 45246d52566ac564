"""Archives behind other bytes, messages in a mailbox, and headers of lha: where each begins."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from fixtures import others
from hashclient.containers import behind, mboxhalves
from hashclient.containers.behind import Behind
from hashclient.containers.interface import Data, Member, NotReadError, Stream, Unlisted, Why
from hashclient.containers.kind import Kind
from hashclient.containers.lha import Lha
from hashclient.containers.mbox import Mbox, begins
from hashclient.containers.mboxhalves import Halves
from tests.opened import Once, Whole, opened


class Begun:
    """Test archive: two letters, a digit for its length, and its content."""

    seeks = True

    def __init__(self, name: str, at: int = 0) -> None:
        self.name, self._at = name, at

    def length(self, data: Data) -> int:
        digit = data.read_at(self._at + 2, 1)
        return self._at + int(digit) if digit.isdigit() else 0

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        content = data.read(99)
        if b"!" in content:
            raise NotReadError(Why.DAMAGED, "no archive")
        yield [Member(content, len(content), is_exact=True, chunks=lambda: iter([content]))]


KINDS = [
    (Kind("one", in_programs=b"AA"), Begun("one")),
    (Kind("two", in_programs=b"BB", in_programs_at=3), Begun("two", 3)),
    (Kind("three", in_programs=b"CC"), None),
]


def found(data: bytes) -> list[bytes | str]:
    """Return the archives that are found in some bytes, and the reasons why archives are unread."""
    return [
        one.detail if isinstance(one, Unlisted) else one[0].name
        for one in Behind(KINDS).members(Whole(data))
    ]


@pytest.mark.parametrize("window", [16, 64, 1 << 20])
@pytest.mark.parametrize(
    ("data", "archives"),
    [
        (b"", []),
        (b"AA5xx", [b"AA5xx"]),
        (b"..AA5xxyy", [b"AA5xx"]),
        (b"..AA9xx", [b"AA9xx"]),
        (b"AA5xxAA4y", [b"AA5xx", b"AA4y"]),
        (b"AA9AA4y..AA3", [b"AA9AA4y..", b"AA3"]),
        (b"AA0AAA4y", [b"AA4y"]),
        (b"AAxAA4y", [b"AA4y"]),
        (b"abcBB5xx", [b"abcBB5xx"]),
        (b"..abcBB5xxAA3", [b"abcBB5xx", b"AA3"]),
        (b"..AAabBB5xx", [b"AabBB5xx"]),
        (b"AA4BB5xx", [b"AA4B", b"AA4BB5xx"]),
        (b"CC", ["three"]),
        (b"CC.CC.AA3", ["three", b"AA3"]),
        (b"AA5CC.CC", [b"AA5CC", "three"]),
        (b"AA5!.AA3", ["no archive", b"AA3"]),
        # This archive does not show its end, so the search goes on within it.
        (b"AA9abBB4", [b"AA9abBB4", b"9abBB4"]),
        (b"AA9AA3", [b"AA9AA3"]),
    ],
)
def test_archives_follow_each_other_in_other_bytes(
    data: bytes, archives: list[bytes | str], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result does not depend on the places at which the search divides the bytes."""
    monkeypatch.setattr(behind, "_WINDOW_BYTES", window)
    for before in (0, 1, 12, 13, 14, 15, 16, 17, 60, 63, 64):
        assert found(b"." * before + data) == archives, before


def test_archives_are_read_at_any_offset() -> None:
    assert Behind(KINDS).seeks and Behind(KINDS).name == "behind"


def test_two_kinds_may_begin_at_one_place() -> None:
    assert found(b"AA5BB7xx..AA3") == [b"AA5BB", b"AA5BB7xx.."[:10], b"AA3"]
    assert found(b"AAxBB5xx") == [b"AAxBB5xx"]
    assert found(b"abBB5xx") == []  # the archive would begin before the first byte


def test_archives_and_false_marks_are_looked_at_up_to_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = b"AAx" + b"AA3" * 4 + b"AAx"
    for limit, least in (("_MAX_ARCHIVES", 4), ("MAX_MARKS", 2)):
        monkeypatch.setattr(behind, limit, least)
        assert found(data) == [b"AA3"] * 4
        with monkeypatch.context() as patch:
            patch.setattr(behind, limit, least - 1)
            with pytest.raises(NotReadError) as refused:
                found(data)
            assert refused.value.why is Why.LIMIT


def test_64_archives_and_10_000_false_marks_are_looked_at() -> None:
    assert found(b"AA3" * 64) == [b"AA3"] * 64
    assert found(b"AAx" * 10_000 + b"AA3") == [b"AA3"]
    for data in (b"AA3" * 65, b"AAx" * 10_001):
        with pytest.raises(NotReadError):
            found(data)


# Mailboxes

TIME = b"From a@b Fri May  1 12:00:00 2026"


@pytest.mark.parametrize(
    ("text", "with_time", "after_blank"),
    [
        (TIME + b"\nX: y\n", True, True),
        (TIME + b"\r\nX: y\r\n", True, True),
        (TIME + b"\n>From x\n", True, True),
        (TIME + b"\nno field\n", False, False),
        (TIME + b"\n\nX: y\n", False, False),
        (TIME, False, False),
        (b"From a\nX: y\n", False, True),
        (b"From a 12:00 2026\nX: y\n", True, True),
        (b"From a 1:00 2026\nX: y\n", True, True),
        (b"From a 12:0 2026\nX: y\n", False, True),
        (b"From a 2026 12:00\nX: y\n", False, True),
        (b"From a 12:00 20260\nX: y\n", False, True),
        (b"From " + b"a" * 240 + b" 12:00 2026\nX: y\n", True, True),
        (b"From " + b"a" * 241 + b" 12:00 2026\nX: y\n", False, True),
    ],
)
def test_a_line_begins_a_message(text: bytes, *, with_time: bool, after_blank: bool) -> None:
    assert begins(text, is_after_blank=False) is with_time
    assert begins(text, is_after_blank=True) is after_blank


NEXT = b"From a\nX: y\n\n"


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (b"", []),
        (b"\n\r\n", []),
        (NEXT, [b"X: y\n\n"]),
        (b"\n" + NEXT, [b"X: y\n\n"]),
        (b"X: y\n\nbody", [b"X: y\n\nbody"]),
        (b"From a", [b""]),
        (NEXT + NEXT, [b"X: y\n\n", b"X: y\n\n"]),
        (NEXT + b"a\n" + NEXT, [b"X: y\n\na\n" + NEXT]),
        (NEXT + b"a\t\n" + NEXT, [b"X: y\n\na\t\n" + NEXT]),
        (NEXT + b"a\n\t\n" + NEXT, [b"X: y\n\na\n\t\n" + NEXT]),
        (NEXT + b"a\n\n" + NEXT, [b"X: y\n\na\n\n", b"X: y\n\n"]),
        (NEXT + b"a\r\n\r\n" + NEXT, [b"X: y\n\na\r\n\r\n", b"X: y\n\n"]),
        (NEXT + b"a\n\r\r\n" + NEXT, [b"X: y\n\na\n\r\r\n" + NEXT]),
        (NEXT + b"a\n" + TIME + b"\nX: y\n", [b"X: y\n\na\n", b"X: y\n"]),
        (NEXT + b"a\n\nFrom", [b"X: y\n\na\n\nFrom"]),
        (NEXT + b"a\n\nFrom \n", [b"X: y\n\na\n\nFrom \n"]),
        (NEXT + b"\nFrom x\n" + NEXT, [b"X: y\n\n\nFrom x\n" + NEXT]),
    ],
)
def test_messages_are_divided_at_lines(data: bytes, messages: list[bytes]) -> None:
    for step in (1, 2, 3, 5, 8, 1 << 20):
        out = opened(Mbox(), Once(data, step))
        assert (out.contents, out.unread) == (messages, [])


@pytest.mark.parametrize(("length", "count"), [(4_093, 2), (4_094, 1)])
def test_a_field_behind_a_line_is_looked_for_in_4_kib(length: int, count: int) -> None:
    data = NEXT + b"a\n\n" + b"From a".ljust(length, b"b") + b"\nX: y\n\n"
    for step in (5, 999, 1 << 20):
        assert len(opened(Mbox(), Once(data, step)).contents) == count


def test_no_field_behind_an_odd_line_shows_a_mailbox() -> None:
    for text, is_one in (
        (b"From a\nReceived: x\n\n", True),
        (b"\r\nFrom a\n more\nX: y\nReceived: x\n\n", True),
        (b"From a\nodd line\nReceived: x\n\n", False),
        (b"From a\n\nReceived: x\n\n", False),
        (b"From a\nX: y\n\n", False),
    ):
        assert Mbox().sniff(text) is is_one


def halves(*messages: bytes, step: int = 1 << 20) -> list[bytes]:
    """Return the numbers of the messages that are only a half of a mail."""
    found = Halves()
    for number, message in enumerate(messages):
        if number:
            found.leave()
        found.begin(b"%d" % number)
        for at in range(0, len(message), step):
            found.watch(message[at : at + step])
        found.end()
    return found.found


TYPE = b"Content-Type: multipart/mixed; boundary=x\n"
OTHER = b"X: y\n\n"


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([TYPE + b"\n--x\n\n"], []),
        ([TYPE + b"\n--x\n\n", OTHER], []),
        ([TYPE + b"\n--x\n\n", OTHER + b"a\n--x\n"], [b"0"]),
        ([TYPE + b"\n--x\n\n", OTHER + b"--x--\n"], [b"0"]),
        ([TYPE + b"\n", OTHER + b"--x\n"], [b"0"]),
        ([TYPE + b"\n--x\n\n--x--\n", OTHER + b"--x\n"], []),
        ([TYPE + b"\n--x--\n", OTHER + b"--x\n"], [b"0"]),
        ([TYPE + b"\n--x\n\n", OTHER + b"a --x\n"], []),
        ([TYPE + b"\n--x\n\n", OTHER + b"--y\n"], []),
        ([TYPE + b"\n--x\n\n", OTHER, OTHER + b"--x\n", OTHER + b"--x\n"], [b"0"]),
        # The second message also names the boundary `x`, so the parts behind it belong to it.
        ([TYPE + b"\n--x\n\n", TYPE + b"\n--x\n\n--x--\n"], []),
        ([TYPE + b"\n--x\n\n", TYPE + b"\n--x\n\n", OTHER + b"--x\n"], [b"1"]),
        ([TYPE.replace(b"\n", b"\r\n") + b"\r\n--x\r\n\r\n", OTHER + b"--x\r\n"], [b"0"]),
        ([b"Content-Type: message/rfc822\n\n"], []),
        ([b"Content-Type: message/rfc822\n\n", OTHER], [b"0"]),
        ([b"Content-Type: text/plain; boundary=x\n\n--x\n", OTHER + b"--x\n"], []),
        ([TYPE, OTHER + b"--x\n"], [b"0"]),
        ([OTHER + TYPE + b"\n", OTHER + b"--x\n"], []),
        ([TYPE + b"\n--x\n\n", b"no header at all", OTHER + b"--x\n"], [b"0"]),
        ([TYPE + b"\n--x\n\n", b"X: y\n--x\n"], [b"0"]),
        ([TYPE + b"\n--x\n\n-", b"-x\n\n"], []),
    ],
)
def test_a_half_has_its_boundary_behind_another_message(
    messages: list[bytes], found: list[bytes]
) -> None:
    for step in (1, 2, 3, 5, 1 << 20):
        assert halves(*messages, step=step) == found


def test_a_half_is_found_where_the_last_message_has_no_empty_line() -> None:
    data = TIME + b"\n" + TYPE + b"\n--x\n\na\n\n" + TIME + b"\nX: y\n--x\n"
    assert opened(Mbox(), data).unread == [(b"message-1", Why.DAMAGED)]


def test_a_header_and_the_boundaries_are_looked_at_up_to_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = b"X: y\n" * 20 + TYPE + b"\n--x\n\n"
    monkeypatch.setattr(mboxhalves, "MAX_HEADER_BYTES", 100)
    assert halves(long, OTHER + b"--x\n", step=10) == []
    monkeypatch.setattr(mboxhalves, "MAX_HEADER_BYTES", 101 + len(TYPE))
    assert halves(long, OTHER + b"--x\n", step=10) == [b"0"]
    many = [TYPE.replace(b"=x", b"=%d" % number) + b"\n" for number in range(3)]
    monkeypatch.setattr(mboxhalves, "MAX_OPEN", 3)
    assert halves(*many, OTHER) == []
    monkeypatch.setattr(mboxhalves, "MAX_OPEN", 2)
    assert halves(*many, OTHER) == [b"2"]


# lha


def crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def level_2(*fields: bytes, crc: int = 0, level: int = 2) -> bytes:
    """Return a level-2 header of lha with extended fields; one of them may get the checksum."""
    head = bytearray(2) + b"-lh5-" + bytes(13) + bytes([level]) + bytes(2) + b"U"
    for one in fields:
        head += struct.pack("<H", len(one) + 2) + one
    head += bytes(2)
    head[:2] = struct.pack("<H", len(head))
    at = head.find(b"\5\0\0\0\0", 24)
    if at >= 0:
        struct.pack_into("<H", head, at + 3, crc16(bytes(head)) ^ crc)
    return bytes(head)


SUM = b"\0\0\0"


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (level_2(SUM), True),
        (level_2(b"\1name", SUM), True),
        (level_2(SUM, b"\1name"), True),
        (level_2(b"\1", SUM), True),
        (level_2(b"", SUM), False),
        (level_2(b"\1name"), False),
        (level_2(), False),
        *((level_2(SUM, crc=1 << bit), False) for bit in range(16)),
        (level_2(SUM, level=3), False),
        (b"\x15\3" + bytes(18) + b"\3" + bytes(2), False),
        (bytes([21, 0, 1]) + bytes(20), False),
        (level_2(SUM)[:-1], False),
        (level_2(SUM)[:21], False),
        (level_2(SUM)[:20] + b"\3" + level_2(SUM)[21:], False),
        (others.old_lha_of({"a": b"benign"}, 0, 0x20), True),
        (others.old_lha_of({"a": b"benign"}, 1, 0x20), True),
        (b"\x15" + bytes(21), False),
        (bytes([20, 0]) + bytes(20), False),
        (b"\x15\x2d" + bytes(4) + b"-" + bytes(16), True),
        (b"\x15\x2e" + bytes(4) + b"-" + bytes(16), False),
        (b"\x15\x2e\1" + bytes(3) + b"-" + bytes(16), True),
        (b"\x15\x2c" + bytes(4) + b"," + bytes(16), False),
    ],
)
def test_an_lha_begins_with_a_header_whose_sum_is_right(data: bytes, *, is_one: bool) -> None:
    for more in (b"", b"behind" * 9):
        whole = Whole(data + more)
        assert Lha("lha").length(whole) == (whole.size if is_one else 0)

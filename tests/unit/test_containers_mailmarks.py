"""Which texts are taken for mail by their first fields, at each limit of these fields."""

from __future__ import annotations

import pytest

from hashclient.containers.interface import HEAD_BYTES
from hashclient.containers.mailmarks import (
    MailMarks,
    begins_as_mail,
    can_be_mail,
    may_be_mail,
    may_be_odd_mail,
    may_hold_mail,
)

STRONG = (
    b"Received Return-Path Delivered-To Envelope-To X-Original-To X-Received X-Mozilla-Status"
    b" X-Mozilla-Status2 X-Account-Key X-UIDL X-GM-THRID X-Gmail-Labels X-Apparently-To ARC-Seal"
    b" ARC-Message-Signature ARC-Authentication-Results DKIM-Signature Authentication-Results"
    b" Received-SPF Message-ID MIME-Version Content-Type Content-Disposition"
    b" Content-Transfer-Encoding X-Mailer X-Sender X-Receiver Newsgroups Snapshot-Content-Location"
).split()
WEAK = (
    b"From To Cc Bcc Subject Date Sender Reply-To In-Reply-To References Thread-Topic Thread-Index"
    b" Importance User-Agent List-Id Status X-Status Path Lines Organization"
).split()
#: A field that no mail program writes, and a text of such fields that fills the first bytes.
OTHER = b"Key: value\n"
FULL = OTHER * (HEAD_BYTES // len(OTHER) + 1)


@pytest.mark.parametrize("name", STRONG)
def test_one_strong_field_shows_a_mail(name: bytes) -> None:
    for text in (name, name.lower(), name.upper()):
        assert can_be_mail(OTHER + text + b": x\n")
        assert begins_as_mail(OTHER + text + b": x\n")
        assert may_be_odd_mail(b"odd line\n" + text + b": x\n")
        assert not can_be_mail(OTHER + b"X" + text + b": x\n")
        marks = MailMarks()
        marks.add_lines(b"odd\n" + text + b" : x")
        assert marks.is_mail


@pytest.mark.parametrize("name", WEAK)
def test_one_weak_field_shows_a_mail_in_the_first_line_only(name: bytes) -> None:
    line = name + b": x\n"
    assert can_be_mail(line) and begins_as_mail(line)
    assert not can_be_mail(OTHER + line) and not begins_as_mail(OTHER + line)
    assert not can_be_mail(OTHER + line * 2)
    other = b"To" if name == b"Cc" else b"Cc"
    assert can_be_mail(OTHER + line + other + b":\n")
    marks = MailMarks()
    marks.add(name.lower())
    assert not marks.is_mail
    marks.add(b"key", is_first=True)
    assert not marks.is_mail
    marks.add(name.lower(), is_first=True)
    assert marks.is_mail


@pytest.mark.parametrize(
    ("text", "is_mail"),
    [
        (b"", False),
        (b":", False),
        (b"x-mailer", False),
        (b"x-mailer:", True),
        (b"\n\nSubject: x", True),
        (b"\r\rSubject: x", True),
        (b"\xef\xbb\xbfSubject: x", True),
        (b"\xef\xbb\xbf\r\nSubject: x", True),
        (b"x\nX-Mailer: y", True),
        (b"x\rX-Mailer: y", True),
        (b"x\r\nX-Mailer: y", True),
        (b"x: X-Mailer: y", False),
        (b"x: y: z\nX-Mailer: y", True),
        (b" X-Mailer: y", False),
        (b"X-Mailer \t: y", True),
        (b"X-Mailer (c) : y", True),
        (b"X-Mailer(c): y", True),
        (b"X-Mailer" + b" " * 292 + b": y", True),
        (b"X-Mailer" + b" " * 293 + b": y", False),
        (b"x\nX-Mailer" + b" " * 291 + b": y", True),
        (b"x\nX-Mailer" + b" " * 292 + b": y", False),
        (b"Subject" + b" " * 293 + b": y", True),
        (b"Subject" + b" " * 294 + b": y", False),
        (b"To:\nX-Mailer", True),
        (b"Key:\nX-Mailer", False),
    ],
)
def test_a_field_of_mail_may_be_in_any_line(text: bytes, *, is_mail: bool) -> None:
    assert can_be_mail(text) is is_mail
    assert can_be_mail(memoryview(text)) is is_mail


def test_names_in_later_lines_have_2_to_40_letters() -> None:
    for name in (b"To", b"Snapshot-Content-Location", b"ARC-Authentication-Results"):
        marks = MailMarks()
        marks.add_lines(name + b": x\n" + name + b"x: y\n" + name + b"\nx" + name + b"(")
        assert not marks.is_mail
        marks.add_lines(b"\n" + name + b"\t(c): y\n\nCc: x")
        assert marks.is_mail


@pytest.mark.parametrize(
    ("head", "is_mail"),
    [
        (FULL, True),
        (FULL[: HEAD_BYTES - 1], False),
        (FULL[:HEAD_BYTES], True),
        (b"\r\n" + FULL, True),
        (b"\xef\xbb\xbf" + FULL, True),
        (b"\xef\xbb\xbf\n" + FULL[: HEAD_BYTES - 5], False),
        # An empty line ends the header; a fourth of the lines may be no fields, and
        # one line in any case.
        (OTHER + b"\n" + FULL, False),
        (OTHER + b"\r\n" + FULL, False),
        ((OTHER * 3 + b"odd\n") * 20, True),
        ((OTHER * 2 + b"odd\n") * 20, False),
        ((OTHER + b" more\n\tmore\n") * 40, True),
        ((OTHER * 3).replace(b"\n", b"\r") * 20, True),
        ((OTHER * 3).replace(b"\n", b"\r\n") * 20, True),
        ((OTHER * 3).replace(b"\n", b"\r\r\r\n") * 20, True),
        # The last line may be cut off, so it does not count.
        (b"Key: " + b"x" * HEAD_BYTES, True),
        (OTHER * 3 + b"odd\n" + b"x" * HEAD_BYTES, True),
        (OTHER + b"odd\n" + b"x" * HEAD_BYTES, True),
        (OTHER * 6 + b"odd\n" * 2 + b"x" * HEAD_BYTES, True),
        (OTHER * 5 + b"odd\n" * 2 + b"x" * HEAD_BYTES, False),
        (b"x" * HEAD_BYTES, False),
        (b"(c): x\n" + FULL, False),
    ],
)
def test_a_text_of_fields_alone_is_taken_for_the_beginning_of_a_header(
    head: bytes, *, is_mail: bool
) -> None:
    assert begins_as_mail(head) is is_mail


@pytest.mark.parametrize(
    ("head", "is_maybe"),
    [
        (b"a" * 512 + b": x", True),
        (b"a" * 513 + b": x", False),
        (b"\xef\xbb\xbf\n\ra: x", True),
        (b"\n\xef\xbb\xbfa: x", False),
        (b"a (c)\t: x", True),
        (b"a (" + b"c" * 200 + b"): x", True),
        (b"a (" + b"c" * 201 + b"): x", False),
        (b"a (c\nd): x", False),
        (b"a (c)", False),
        (b"a b: x", False),
        (b"(: x", False),
        (b"): x", False),
        (b"a: \0" + bytes(99), True),
        (b" a: x", False),
        (b" a: x\nKey: y", True),
        (b" a: x\rKey: y", True),
        (b" a: x\nKey (y", True),
        (b" a: x\nK: y", False),
        (b" a: x\n" + b"K" * 40 + b": y", True),
        (b" a: x\n" + b"K" * 41 + b": y", False),
        (b" a: x\n0Key: y", False),
        (b" a:\0x\nKey: y", True),
        (b" a: x".ljust(15) + b"\0\nKey: y", True),
        (b" a: x".ljust(16) + b"\0\nKey: y", False),
        (b" " * 1_022 + b":\nKey: y", False),
        (b" a: x".ljust(HEAD_BYTES - 5) + b"\nKey:", True),
        (b" a: x".ljust(HEAD_BYTES - 4) + b"\nKey: y", False),
        (b" a: x\nKey: y".ljust(HEAD_BYTES) + b"\0", True),
        (b" a: x\nKey: y".ljust(HEAD_BYTES - 1) + b"\0", False),
        (b"text\n" * 204 + b"abc:", False),
        (b"text\n" * 50 + b"Key: y", True),
        (b"text\n" * 101 + b"abc\n", False),
        (b"no colon", False),
        (b"", False),
    ],
)
def test_a_quick_look_says_whether_a_file_may_be_mail(head: bytes, *, is_maybe: bool) -> None:
    for behind in (b"", b"\nbehind: y"):
        data = bytearray(head + behind)
        assert may_hold_mail(data, len(head)) is is_maybe
        assert may_hold_mail(bytes(data), len(head)) is is_maybe


def test_the_first_colon_of_a_mail_is_among_the_first_1024_bytes() -> None:
    # The name may have 512 bytes, but blanks before the colon are not limited.
    for blanks, is_maybe in ((1_022, True), (1_023, False)):
        assert may_hold_mail(b"a" + b" " * blanks + b":", 2_000) is is_maybe


@pytest.mark.parametrize(
    ("head", "is_mail"),
    [
        (b"odd\nX-Mailer: x", True),
        (b"odd\rX-Mailer: x", True),
        (b"odd\nKey: x", False),
        (b"odd\nTo: x", False),
        (b"odd\nTo: x\nCc: y", True),
        (b"odd\nX-Mailer x", False),
        (b"odd\0\nX-Mailer: x", True),
        (b"odd".ljust(16) + b"\0\nX-Mailer: x", False),
        (b"odd".ljust(15) + b"\0\nX-Mailer: x", True),
        (b"odd\nX-Mailer: x".ljust(HEAD_BYTES - 1) + b"\0", False),
        (b"odd\nX-Mailer: x".ljust(HEAD_BYTES) + b"\0", True),
        (b"odd".ljust(HEAD_BYTES - 10) + b"\nX-Mailer:", True),
        (b"odd".ljust(HEAD_BYTES - 9) + b"\nX-Mailer:", False),
        # One weak field is enough if the header goes on after the first bytes.
        (b"odd\nTo: x\n" + FULL, True),
        ((b"odd\nTo: x\n" + FULL)[:HEAD_BYTES], True),
        ((b"odd\nTo: x\n" + FULL)[: HEAD_BYTES - 1], False),
        (b"odd\nodd\nodd\nTo: x\nKey: y\nKey: y\nKey: y\nodd\n" + b"y" * HEAD_BYTES, True),
        (b"odd\nTo: x\nodd\nodd\nodd\n" + b"y" * HEAD_BYTES, False),
        (b"odd\nTo: x\n\n" + FULL, False),
        (b"odd\nTo (c) : x\n" + FULL, True),
        (b"odd\nTo " + b"x" * HEAD_BYTES, False),
    ],
)
def test_lines_that_are_no_fields_may_come_first(head: bytes, *, is_mail: bool) -> None:
    assert may_be_odd_mail(head) is is_mail
    assert may_be_odd_mail(memoryview(head)) is is_mail
    assert may_be_mail(head) is is_mail


def test_only_the_first_bytes_of_a_file_count() -> None:
    text = b"Key: x\n" + b" y\n" * 400
    assert may_be_mail(text) and begins_as_mail(text)
    assert not may_be_mail(text[: HEAD_BYTES - 1])
    late = b"Key: x\n\n".ljust(HEAD_BYTES - 9, b"y")
    assert may_be_mail(late + b"\nTo:\nCc: ")
    assert not may_be_mail(late + b"yyyyyyyyyyyy\nX-Mailer: x")

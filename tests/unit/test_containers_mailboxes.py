"""Mailboxes and winmail.dat."""

from __future__ import annotations

import random

import pytest

from fixtures.mails import (
    FROM_LINE,
    attribute,
    base64_part,
    mbox_of,
    multipart,
    properties,
    tnef_of,
)
from hashclient.containers import tnef
from hashclient.containers.interface import Unlisted, Why
from hashclient.containers.mail import MESSAGE, Message
from hashclient.containers.mbox import Mbox
from hashclient.containers.tnef import Tnef
from tests.opened import Once, Opened, Whole, each, opened, sniffs

A, B = b"benign A " * 99, bytes(range(256)) * 9
ATTACH_DATA, ATTACH_PROPERTIES, MESSAGE_PROPERTIES = 0x0006800F, 0x00069005, 0x00069003
MARK = b"\x78\x9f\x3e\x22\1\0"


def messages(data: bytes) -> list[bytes]:
    assert sniffs(Mbox(), data)
    out = opened(Mbox(), data)
    assert not out.unread and {member.kind for member in out.listed} <= {MESSAGE}
    for step in (997, 5000):
        assert opened(Mbox(), Once(data, step)).contents == out.contents
    return out.contents


def test_each_message_is_a_member() -> None:
    parts = [multipart(base64_part("a", content)) for content in (A, B, b"x")]
    data = mbox_of(parts)
    for made in (data, data.replace(b"\n", b"\r\n")):
        found = messages(made)
        assert [opened(Message(), message).contents for message in found] == [[A], [B], [b"x"]]
    assert [member.name for member in opened(Mbox(), data).listed] == [
        b"message-1",
        b"message-2",
        b"message-3",
    ]


def test_messages_of_any_length_are_separated() -> None:
    for length in (0, 1, *range(65_500, 65_560, 7), *range(65_530, 65_540)):
        parts = [b"Subject: x\n\n" + b"y" * length, b"Subject: z\n\n"]
        assert messages(mbox_of(parts)) == [part + b"\n" for part in parts], length


@pytest.mark.parametrize(
    "line", [b"From here on\n", b"From a@b\nno field\n", b"from x\nSubject: y\n"]
)
def test_a_line_in_a_text_begins_no_message(line: bytes) -> None:
    text = b"Subject: x\n\nsome text\n" + line + b"more\n"
    assert len(messages(FROM_LINE + text)) == 1
    assert len(messages(FROM_LINE + text + b"\n" + FROM_LINE + text)) == 2


def test_a_line_with_a_time_needs_no_empty_line_before_and_one_without_does() -> None:
    first = FROM_LINE + b"Subject: x\n\ntext\n"
    assert len(messages(first + FROM_LINE + b"Subject: y\n\n")) == 2
    assert len(messages(first + b"\nFrom somebody\nSubject: y\n\n")) == 2
    assert len(messages(first + b"From somebody\nSubject: y\n\n")) == 1


HALF = b"From x@example.org Fri May  1 12:00:00 2026\nX-A: b\n\n"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("fill", [0, 70_000, 200_000])
def test_parts_behind_a_line_that_seems_to_begin_a_message_are_not_lost(
    end: bytes, fill: int
) -> None:
    """A line like the start of a new message cuts a mail in two, so its first half is damaged."""
    mail = multipart(f"\n\nbenign {'x ' * fill}", base64_part("a", A))
    head, middle, tail = mail.partition(b"\n--=-=-=\nContent")
    split = FROM_LINE + head + b"\n\n" + HALF + middle + tail
    for data in (split, split + b"\n" + mbox_of([mail])):
        text = data.replace(b"\n", end)
        out = opened(Mbox(), text)
        assert out.unread == [(b"message-1", Why.DAMAGED)]
        for step in (997, 5000):
            assert opened(Mbox(), Once(text, step)).unread == out.unread


def test_a_message_in_a_message_that_is_split_is_unread() -> None:
    mail = multipart(base64_part("a", A)).partition(b"MIME-Version: 1.0\n")[2]
    data = FROM_LINE + b"Subject: benign\nContent-Type: message/rfc822\n\n" + HALF + mail
    assert opened(Mbox(), data).unread == [(b"message-1", Why.DAMAGED)]


def test_a_message_that_lacks_its_end_is_no_half() -> None:
    mail = multipart(base64_part("a", A))
    cut = mail[: mail.rindex(b"--=-=-=--")]
    other = mail.replace(b"=-=-=", b"another")
    assert not opened(Mbox(), mbox_of([cut, other, cut])).unread
    assert not opened(Mbox(), mbox_of([mail, mail, other])).unread


def test_an_end_before_the_first_part_is_none() -> None:
    mail = multipart(base64_part("a", A))
    head, middle, tail = mail.partition(b"\n--=-=-=\n")
    data = FROM_LINE + head + b"\n--=-=-=--\n\n" + HALF + middle + tail
    assert opened(Mbox(), data).unread


def test_a_text_that_begins_with_from_is_no_mailbox() -> None:
    for text in (
        b"From here on\nall is well\n",
        b"From a\n",
        b"From a@b at 12:00:00 2026\n\nx",
        b"",
    ):
        assert not sniffs(Mbox(), text)
    assert sniffs(Mbox(), b"\n" + FROM_LINE + b"Subject: x\n\n")
    assert sniffs(Mbox(), b"From a@b\nSubject: x\nTo: y\n\n")
    assert sniffs(Mbox(), b"From a@b\nReceived: x\n\n")
    assert not sniffs(Mbox(), b"From here on\nTo: x\n\n")


# winmail.dat


def look(data: bytes) -> Opened:
    assert sniffs(Tnef(), data)
    out = opened(Tnef(), data)
    assert opened(Tnef(), Once(data, 77)).members == out.members
    return out


def test_attachments_are_members_with_their_titles() -> None:
    assert look(tnef_of({"a.bin": A, "b.bin": B})).members == [(b"a.bin", A), (b"b.bin", B)]
    untitled = MARK + attribute(ATTACH_DATA, A)
    assert look(untitled).members == [(b"attachment-1", A)]
    large = random.Random(1).randbytes(700_000)
    assert look(tnef_of({"a": large})).contents == [large]


def test_attached_messages_and_bodies_are_members() -> None:
    inner = tnef_of({"inner": A})
    values = [
        (0x1F, 0x3707, "n\xe4me.msg".encode("utf-16-le") + b"\0\0"),
        (0x0D, 0x3701, bytes(16) + inner),
    ]
    data = MARK + attribute(ATTACH_PROPERTIES, properties(values))
    data += attribute(MESSAGE_PROPERTIES, properties([(0x102, 0x1013, b"<p>x</p>")]), level=1)
    out = look(data)
    assert out.members == [("n\xe4me.msg".encode(), inner), (b"body.html", b"<p>x</p>")]
    assert look(out.contents[0]).contents == [A]


def test_properties_of_every_kind_are_passed_over() -> None:
    fixed = bytes.fromhex("03000100 01000000 40000200 0000000000000000".replace(" ", ""))
    named = bytes.fromhex("1e000080") + bytes(16) + bytes.fromhex("01000000 04000000") + b"a\0b\0"
    named += bytes.fromhex("01000000 02000000") + b"x\0\0\0"
    numbered = bytes.fromhex("03000180") + bytes(16) + bytes(4) + bytes.fromhex("07000000 01000000")
    many = bytes.fromhex("02110500 02000000 03000000") + b"abc\0" + bytes.fromhex("00000000")
    data = properties([(0x102, 0x3701, A)])
    text = (5 + 1).to_bytes(4, "little") + fixed + named + numbered + many + data[4:]
    assert look(MARK + attribute(ATTACH_PROPERTIES, text)).contents == [A]


def test_properties_that_are_none_or_too_many_are_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (
        b"\1",
        b"\xff\xff\xff\xff",
        b"\1\0\0\0\x77\0\1\0" + bytes(8),
        b"\1\0\0\0\x02\1\1\x37",
    ):
        out = look(MARK + attribute(ATTACH_PROPERTIES, text) + attribute(ATTACH_DATA, A))
        assert out.contents == [A] and out.reasons == {Why.DAMAGED}
    monkeypatch.setattr(tnef, "_MAX_PROPERTIES_BYTES", 10)
    text = properties([(0x102, 0x3701, A)])
    assert look(MARK + attribute(ATTACH_PROPERTIES, text)).reasons == {Why.LIMIT}


def test_attributes_that_are_none_are_unread() -> None:
    out = look(tnef_of({"a": A}) + b"rest that is none")
    assert out.contents == [A] and out.unread == [(b"", Why.DAMAGED)]


def test_attachments_that_nobody_reads_are_passed_over() -> None:
    whole = Whole(tnef_of({"a": bytes(500_000), "b": bytes(500_000)}))
    assert [found.name for found in each(Tnef(), whole)] == [b"a", b"b"]
    assert whole.given < 50_000
    cut = list(each(Tnef(), Whole(tnef_of({"a": bytes(500_000)})[:400_000])))
    assert isinstance(cut[-1], Unlisted)

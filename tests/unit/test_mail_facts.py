"""The header of a mail, which anybody may have written, says in which mail a match was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.containers.mailfacts import (
    MOST_HEADER_BYTES,
    MOST_RECIPIENTS,
    is_plain,
    mail_facts,
)
from hashclient.core.model import Mail

USUAL = (
    b"Received: from x (x [192.0.2.1])\r\n by y; Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    b'From: "a, b" <a@example.org>\r\nTo: b@example.org,\r\n\t"c" <c@example.org>\r\n'
    b"Cc: (note) d@example.org; b@example.org\r\nmessage-id:\r\n <1.2@example.org>\r\n\r\n"
)


def test_id_sender_and_recipients_are_taken_from_a_header_and_from_nothing_behind_it() -> None:
    recipients = ("b@example.org", "c@example.org", "d@example.org")
    expected = Mail("1.2@example.org", "a@example.org", recipients)
    for text in (USUAL, USUAL.replace(b"\r\n", b"\n"), b"\xef\xbb\xbf\r\n" + USUAL):
        assert mail_facts(text + b"To: e@example.org\nMessage-ID: <3@example.org>\n") == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"PK\3\4",
        b"name: value\nother: value\n",
        b"From a@example.org Thu Jan  1 00:00:00 2026\nMessage-ID: <1@example.org>\n\n",
        b"Subject: no address at all\nDate: today\nTo: undisclosed-recipients:;\n\n",
        b"\n\nodd line\nMessage-ID: <1@example.org>\n\n",
    ],
)
def test_no_mail_a_mailbox_and_a_mail_that_names_nobody_say_nothing(text: bytes) -> None:
    """In a mailbox, the header belongs to one message, and the match may be in another message."""
    assert mail_facts(text) is None


def test_a_few_of_each_are_taken_and_no_long_ones() -> None:
    many = b", ".join(b"u%d@example.org" % n for n in range(1_000))
    mail = mail_facts(b"Message-ID: <" + b"x" * 251 + b">\nTo: " + many + b"\n\n")
    assert mail is not None and mail.message_id is None and mail.sender is None
    assert len(mail.recipients) == MOST_RECIPIENTS
    long = mail_facts(b"MIME-Version: 1.0\nTo: %s@example.org, b@example.org\n\n" % (b"x" * 65))
    assert long == Mail(recipients=("b@example.org",))
    far = b"MIME-Version: 1.0\nX: " + b"x" * MOST_HEADER_BYTES + b"\nTo: b@example.org\n\n"
    assert mail_facts(far) is None


@pytest.mark.parametrize(
    ("header", "found"),
    [
        *((b"%b: a@x" % name, (None, None, ("a@x",))) for name in (
            b"To", b"CC", b"Bcc", b"Delivered-To", b"X-Original-To", b"envelope-to",
        )),
        *((b"%b: a@x" % name, (None, "a@x", ())) for name in (b"From", b"Sender", b"return-path")),
        (b"Reply-To: a@x\nResent-To: a@x", None),
        (b"Return-Path: <c@x>\nSender: b@x\nFrom: a@x", (None, "a@x", ())),
        (b"Return-Path: <c@x>\nSender: b@x", (None, "b@x", ())),
        (b"From: nobody\nSender: b@x", (None, "b@x", ())),
        (b"Envelope-To: c@x\nCc: b@x\nTo: a@x", (None, None, ("a@x", "b@x", "c@x"))),
        (b"To: b@x\nTo: a@x, b@x", (None, None, ("b@x", "a@x"))),
        (b"To: a@x, A@x", (None, None, ("a@x", "A@x"))),
        (b"Message-ID: <1@x>\nMessage-ID: <2@x>", ("1@x", None, ())),
        (b"Message-ID: none <1@x> <2@x>", ("1@x", None, ())),
        (b"Message-ID: 1@x", None),
        (b"Message-ID: <a b>", None),
        (b"Message-ID: <>", None),
        (b"Message-ID: <" + b"i" * 250 + b">", ("i" * 250, None, ())),
        (b"Message-ID: <" + b"i" * 251 + b">", None),
        (b"To: " + b"t" * 64 + b"@x", (None, None, ("t" * 64 + "@x",))),
        (b"To: " + b"t" * 65 + b"@x", None),
        (b"To: t@" + b"x" * 256, (None, None, ("t@" + "x" * 255,))),
        (b"To: @x", None),
        (b"To: t@", None),
        (b"To: t@[192.0.2.1]", (None, None, ("t@[192.0.2.1]",))),
        (b"To: t@[IPv6:2001:db8::1]", (None, None, ("t@[IPv6:2001:db8::1]",))),
        (b"To: t@x-y.org;u@z", (None, None, ("t@x-y.org", "u@z"))),
        (b'To: "t@x" <u@y>', (None, None, ("t@x", "u@y"))),
        (b"To:\n  a@x,\n\tb@x", (None, None, ("a@x", "b@x"))),
        (b"To: a@x\n\nCc: b@x", (None, None, ("a@x",))),
        (b"To: a@x\n\r\nCc: b@x", (None, None, ("a@x",))),
        (b"To: a@x\n\rCc: b@x", (None, None, ("a@x",))),
        (b"To: a@x\r\rCc: b@x", (None, None, ("a@x",))),
        (b"To: a@x\rCc: b@x", (None, None, ("a@x", "b@x"))),
        (b"To: a@x\r\nCc: b@x", (None, None, ("a@x", "b@x"))),
        (b"To: a@x\nno field\nCc: b@x", (None, None, ("a@x", "b@x"))),
    ],
)  # fmt: skip
def test_each_fact_is_taken_from_its_fields_in_their_order(
    header: bytes, found: tuple[str | None, str | None, tuple[str, ...]] | None
) -> None:
    for end in (b"\n\n", b"\r\n\r\n", b""):
        mail = mail_facts(b"MIME-Version: 1.0\n" + header + end)
        assert mail == (None if found is None else Mail(*found))


@pytest.mark.parametrize("count", [9, 10, 11])
def test_recipients_are_taken_up_to_a_number(count: int) -> None:
    addresses = tuple(f"u{number}@x" for number in range(count))
    mail = mail_facts(b"MIME-Version: 1.0\nTo: " + ",".join(addresses).encode() + b"\n\n")
    assert mail == Mail(recipients=addresses[:10])
    assert is_plain(Mail(recipients=addresses)) is (count <= 10)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_header_is_searched_up_to_a_length(more: int) -> None:
    start, end = b"MIME-Version: 1.0\nX: ", b"\nTo: a@xyz"
    text = start + b"x" * (65_536 + more - len(start) - len(end)) + end
    assert mail_facts(text) == Mail(recipients=("a@xyz" if more < 1 else "a@xy",))


def test_addresses_in_other_scripts_are_shown_and_what_moves_a_cursor_is_not() -> None:
    text = "From: ü@exämple.org\nTo: a\u202eb@example.org\n\n".encode()
    mail = mail_facts(text)
    assert mail is not None and mail.sender == "ü@exämple.org"
    assert "\u202e" not in mail.recipients[0]


def test_the_longest_words_of_any_header_could_be_those_of_a_mail() -> None:
    """Each byte of a header may be shown as four characters."""
    address = b"\xff" * 64 + b"@" + b"\xff" * 255
    recipients = b", ".join(b"%d" % n + address[1:] for n in range(MOST_RECIPIENTS))
    mail = mail_facts(b"From: " + address + b"\nTo: " + recipients + b"\n\n")
    assert mail is not None and mail.sender is not None and len(mail.sender) > 4 * 64
    assert len(mail.recipients) == MOST_RECIPIENTS
    assert is_plain(mail) and is_plain(Mail()) and is_plain(Mail("i", "s", ("r",)))


@pytest.mark.parametrize(
    ("word", "is_one"),
    [
        *(("x" * 1_280, True), ("x" * 1_281, False)),
        *(("a b", False), ("a<b", False), ("a>b", False), ("a\nb", False), ("a\u202eb", False)),
    ],
)
def test_words_that_no_header_gives_are_not_plain(word: str, is_one: bool) -> None:
    recipients = ("b@example.org",) * (MOST_RECIPIENTS - 1)
    for mail in (Mail(word), Mail(None, word), Mail(recipients=(*recipients, word))):
        assert is_plain(mail) == is_one
    for words in (("",), (*recipients, "b", "c")):
        assert not is_plain(Mail(recipients=words))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"From", b"To", b"Message-ID", b"X", b"Return-Path"]),
            st.binary(max_size=80) | st.just(b"<a@b>\r\nTo: c@d\x1b[2J"),
        ),
        max_size=8,
    )
)
def test_nothing_but_printable_words_gets_out_of_any_header(
    fields: list[tuple[bytes, bytes]],
) -> None:
    mail = mail_facts(b"".join(b"%s: %s\r\n" % field for field in fields) + b"\r\n")
    for text in () if mail is None else (mail.message_id, mail.sender, *mail.recipients):
        assert text is None or (text.isprintable() and " " not in text and len(text) < 4_000)

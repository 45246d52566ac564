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

"""Reads the id, the sender and the recipients in the header of a mail with a matching file.

The record of a match in a mail contains these facts, so that a person can find the mail in the logs
of a mail server. The facts may be false, because anybody can write any header. Only an id and a few
addresses are recorded, without blanks, quotes and control characters, so that no other part of a
header gets into a record.
"""

from __future__ import annotations

import re

from hashclient.containers.mailmarks import BYTE_ORDER_MARK, FIELD, begins_as_mail
from hashclient.core.model import Mail
from hashclient.system.text import printable

#: How many bytes of a mail are searched; a field after these bytes is not found.
MOST_HEADER_BYTES = 64 << 10
#: How many recipients are recorded.
MOST_RECIPIENTS = 10

#: Matches the empty line after a header; a single carriage return may also end a line.
_END = re.compile(rb"\n\r?\n|\r\r|\n\r")
_ID = re.compile(rb"<([^\x00-\x20<>\x7f]{1,250})>")
#: Matches an address, which has at most 64 bytes before its `@` and 255 bytes after it (RFC 5321,
#: 4.5.3.1).
_ADDRESS = re.compile(
    rb"""(?<![^\s<>(),;:"])[^\s<>(),;:"@\x00-\x20\x7f]{1,64}@[\w.:\[\]\x80-\xff-]{1,255}"""
)
#: The most characters of a recorded address, in which one byte may be shown as four characters.
_MOST_CHARS = 4 * (64 + 1 + 255)
_TO = (b"to", b"cc", b"bcc", b"delivered-to", b"x-original-to", b"envelope-to")


def mail_facts(head: bytes) -> Mail | None:
    """Return the id, sender and recipients of the mail that begins with `head`; None if no mail.

    The function also returns None for a mailbox, because the first header in a mailbox belongs to
    only one of its messages.
    """
    text = head[:MOST_HEADER_BYTES].removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n")
    if FIELD.match(text) is None or not begins_as_mail(text):
        return None
    end = _END.search(text)
    lines = text[: end.start() if end else None].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    fields: dict[bytes, list[bytes]] = {}
    for line in re.sub(rb"\n[ \t]", b" ", lines).split(b"\n"):
        if (found := FIELD.match(line)) is not None:
            fields.setdefault(found[1].lower(), []).append(line[found.end() :])
    ids = _all(_ID, fields, b"message-id")
    senders = _all(_ADDRESS, fields, b"from", b"sender", b"return-path")
    recipients = _all(_ADDRESS, fields, *_TO)
    if not (ids or senders or recipients):
        return None
    first = ids[0] if ids else None
    return Mail(first, senders[0] if senders else None, tuple(recipients[:MOST_RECIPIENTS]))


def is_plain(mail: Mail) -> bool:
    """Return whether `mail_facts` could have returned the facts that an untrusted process sent."""
    texts = (mail.message_id or "-", mail.sender or "-", *mail.recipients)
    return len(mail.recipients) <= MOST_RECIPIENTS and all(
        0 < len(text) <= _MOST_CHARS and text.isprintable() and not set(text) & set(" <>")
        for text in texts
    )


def _all(pattern: re.Pattern[bytes], fields: dict[bytes, list[bytes]], *names: bytes) -> list[str]:
    """Return what a pattern matches in the fields `names`, in their order, without repetition."""
    texts = b"\n".join(value for name in names for value in fields.get(name, ()))
    found = (match[match.lastindex or 0] for match in pattern.finditer(texts))
    return list(dict.fromkeys(printable(one.decode(errors="replace")) for one in found))

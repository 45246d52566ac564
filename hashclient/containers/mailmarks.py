"""Telling mail from any other text with colons: by the names of the first fields.

The worker, which holds lists and keys, checks every file that begins with a printable character by
these names. Only the process that opens containers reads whole headers (`mimeheaders`).
"""

from __future__ import annotations

import re

from hashclient.containers.interface import HEAD_BYTES

#: A field of a header, up to its colon.
FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: A longer line is no header, and may be taken in pieces.
MAX_LINE_BYTES = 64 << 10

#: Fields of mail alone: one of them is enough. Of the others, two.
_STRONG = frozenset(
    b"received return-path delivered-to envelope-to x-original-to x-received x-mozilla-status"
    b" x-mozilla-status2 x-account-key x-uidl x-gm-thrid x-gmail-labels x-apparently-to arc-seal"
    b" arc-message-signature arc-authentication-results dkim-signature authentication-results"
    b" received-spf message-id mime-version content-transfer-encoding x-mailer x-sender x-receiver"
    b" newsgroups snapshot-content-location".split()
)
_WEAK = frozenset(
    b"from to cc bcc subject date sender reply-to in-reply-to references content-type"
    b" content-disposition thread-topic thread-index importance user-agent list-id status"
    b" x-status path lines organization".split()
)
_MARKS = _STRONG | _WEAK
#: A field that begins a line, with a name no longer than any of those.
_FIELDS = re.compile(rb"(?:\A|[\r\n])([!-9;-~]{1,40}+)[ \t]*:")


class MailMarks:
    """Counts the fields that make a header one of mail."""

    def __init__(self) -> None:
        """No field was seen."""
        self._seen: set[bytes] = set()

    @property
    def is_mail(self) -> bool:
        """Whether the fields are those of mail, and not of any text with colons."""
        return bool(self._seen & _STRONG) or len(self._seen & _WEAK) > 1

    def add(self, name: bytes) -> None:
        """Take the name of a field, in lower case."""
        if name in _MARKS:
            self._seen.add(name)


def begins_as_mail(head: bytes) -> bool:
    """Recognise lines that are all header fields, some of mail as far as they are there."""
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n")
    if FIELD.match(text) is None:
        return False
    marks = MailMarks()
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    for number, line in enumerate(lines):
        if not line and number + 1 < len(lines):
            return marks.is_mail
        if line[:1] in (b" ", b"\t"):
            continue  # it continues the field before it
        found = FIELD.match(line)
        if found is not None:
            marks.add(found[1].lower())
        elif number + 1 < len(lines):  # the last line may be cut off
            return marks.is_mail  # clients skip a line that is no field
    # More fields may follow, except where this is the whole text.
    return marks.is_mail or len(head) >= HEAD_BYTES


def can_be_mail(content: bytes | memoryview) -> bool:
    """Return whether all that there is of a text has the fields of mail at the beginning of lines.

    The reader of headers looks at fewer lines than this. So a text of `MAX_LINE_BYTES` at most that
    cannot be mail is known to be none without being opened.
    """
    marks = MailMarks()
    start = len(BYTE_ORDER_MARK) if content[:3] == BYTE_ORDER_MARK else 0
    for name in _FIELDS.findall(content[start:]):
        marks.add(name.lower())
    return marks.is_mail

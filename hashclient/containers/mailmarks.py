"""Distinguishes mail from other text that contains colons, by the names of the first fields.

The worker, which has lists and keys in memory, uses this module for each file that begins with a
printable character. Only the process that opens containers parses whole headers (`mimeheaders`).
"""

from __future__ import annotations

import functools
import re

from hashclient.containers.interface import HEAD_BYTES

#: Matches the end of a field's name: some programs ignore blanks and a comment before the colon.
END_OF_NAME = rb"[ \t]*(?:\([^\r\n:]{0,200}\)[ \t]*)?:"
#: Matches a field of a header, up to its colon. A parenthesis cannot be part of a name, because it
#: begins a comment.
FIELD = re.compile(rb"([!-'*-9;-~]+)" + END_OF_NAME)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Matches the beginning of a mail, with or without a byte order mark: a header field near the
#: beginning of the file. The quantifier is possessive, because backtracking would be slow in a
#: large file that is a single word.
_begins_with_field = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n]*[!-'*-9;-~]{1,512}+" + END_OF_NAME).match
#: The possible first bytes of a mail: of a field, of a line end, or of the byte order mark.
_IN_NAME = frozenset(range(ord("!"), ord("~") + 1)) - frozenset(b"():")
_BEGINS = _IN_NAME | frozenset(b"\xef\r\n")
#: Bytes that may precede the first colon.
_BEFORE_COLON = _IN_NAME | frozenset(b"\t )")
#: A line of this length in bytes, or of more, is no header field, and may be read in pieces.
MAX_LINE_BYTES = 64 << 10

#: A header with at least one of the fields `_STRONG` is the header of a mail. A single field
#: `Content-` is enough, because programs then decode a body. Of the fields `_WEAK`, two are needed,
#: or one in the first line.
_STRONG = frozenset(
    b"received return-path delivered-to envelope-to x-original-to x-received x-mozilla-status"
    b" x-mozilla-status2 x-account-key x-uidl x-gm-thrid x-gmail-labels x-apparently-to arc-seal"
    b" arc-message-signature arc-authentication-results dkim-signature authentication-results"
    b" received-spf message-id mime-version content-type content-disposition"
    b" content-transfer-encoding x-mailer x-sender x-receiver"
    b" newsgroups snapshot-content-location".split()
)
_WEAK = frozenset(
    b"from to cc bcc subject date sender reply-to in-reply-to references"
    b" thread-topic thread-index importance user-agent list-id status"
    b" x-status path lines organization".split()
)
_MARKS = _STRONG | _WEAK
#: The most bytes of a field's name with the blanks and the comment after it, up to the colon.
_MOST_NAME_BYTES = 300
#: Finds possible field names at the beginning of each line except the first.
_names = re.compile(rb"\n([A-Za-z][A-Za-z0-9-]{1,39}+)[ \t]*[:(]").findall
#: Each pattern matches one kind of line end, because a search for two kinds takes ten times as
#: long.
_has_name, _has_old_name = (
    re.compile(end + rb"[A-Za-z][A-Za-z0-9-]{1,39}+[ \t]*[:(]").search for end in (b"\n", b"\r")
)
_ENDS = re.compile(rb"\r{0,3}\n\r?|\r")
#: At most every fourth line of a header may be no field, and one line in any case.
_ODD_SHARE = 4
_COLON = ord(":")
#: The first colon of a mail is at a lower offset than this number.
_BEGIN_BYTES = 1 << 10
#: The first bytes of a file that are examined for a zero byte, which shows that the file is no
#: text.
_ODD_BYTES = 16


class MailMarks:
    """Counts the fields that distinguish the header of a mail."""

    def __init__(self) -> None:
        """Start with no field."""
        self._seen: set[bytes] = set()
        self._begins_weak = False

    @property
    def is_mail(self) -> bool:
        """Whether the fields show a mail; other text with colons has other fields."""
        return bool(self._seen & _STRONG) or len(self._seen & _WEAK) > 1 or self._begins_weak

    def add(self, name: bytes, *, is_first: bool = False) -> None:
        """Add the name of a field, in lower case."""
        if name in _MARKS:
            self._begins_weak = self._begins_weak or is_first
            self._seen.add(name)

    def add_lines(self, text: bytes) -> None:
        """Add the names at the beginning of each line of `text`, except the first line."""
        self._seen |= _MARKS.intersection(map(bytes.lower, _names(text)))


def begins_as_mail(head: bytes) -> bool:
    """Return whether `head` begins a mail: it has fields of mail, or all its lines are fields.

    Empty lines, and lines that are no fields, are ignored before the first field, because mail
    programs ignore them.
    """
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n")
    if FIELD.match(text) is None:
        return may_be_odd_mail(head)
    if can_be_mail(text):
        return True
    return len(head) >= HEAD_BYTES and _is_header(text)


def _is_header(text: bytes) -> bool:
    """Return whether the lines are fields, and the header may continue after the last line.

    Some lines may be no fields, because programs skip such lines. One such line is allowed however
    few lines there are, because a long field may hide the lines behind it.
    """
    lines = _ENDS.split(text)[:-1]
    odd = sum(line[:1] not in (b" ", b"\t") and not FIELD.match(line) for line in lines)
    return odd * _ODD_SHARE <= max(len(lines), _ODD_SHARE) and b"" not in lines


def can_be_mail(content: bytes | memoryview) -> bool:
    """Return whether any line of a text begins with a header field of mail.

    This function accepts every line as a field that `mimeheaders` accepts, and more. Therefore a
    text of at most `MAX_LINE_BYTES` need not be opened if this function returns False.
    """
    text = bytes(content).removeprefix(BYTE_ORDER_MARK)
    if b"\r" in text:
        text = text.replace(b"\r", b"\n")
    text = text.lstrip(b"\n")
    marks = MailMarks()
    # The search goes from colon to colon, which is faster than from line to line.
    colon = text.find(b":")
    while colon >= 0:
        start = text.rfind(b"\n", max(colon - _MOST_NAME_BYTES, 0), colon) + 1
        if start or colon <= _MOST_NAME_BYTES:
            name = text[start:colon].partition(b"(")[0].rstrip(b" \t").lower()
            marks.add(name, is_first=not start)
        end = text.find(b"\n", colon)
        colon = text.find(b":", end) if end >= 0 else -1
    return marks.is_mail


def may_hold_mail(data: bytes | bytearray, length: int) -> bool:
    """Return whether a file may be a mail, by a quick test of `length` bytes of `data`."""
    # `min` is not used, because it would take as long as the search.
    colon = data.find(_COLON, 0, length if length < _BEGIN_BYTES else _BEGIN_BYTES)  # noqa: FURB136
    if colon < 0:
        return False
    if (
        data[colon - 1] in _BEFORE_COLON
        and data[0] in _BEGINS
        and _begins_with_field(data, 0, length)
    ):
        return True
    end = length if length < HEAD_BYTES else HEAD_BYTES  # noqa: FURB136
    if data.find(0, _ODD_BYTES, end) >= 0:
        return False
    return _has_name(data, 0, end) is not None or _has_old_name(data, 0, end) is not None


def may_be_mail(head: bytes) -> bool:
    """Return whether a file with the first bytes `head` may be a mail."""
    if _begins_with_field(head):
        return begins_as_mail(head[:HEAD_BYTES])
    return may_be_odd_mail(head)


@functools.cache
def _mark_expression() -> re.Pattern[bytes]:
    """Return the pattern for fields of mail, which is compiled at the first call."""
    return re.compile(rb"(?im)^(?:" + b"|".join(sorted(_MARKS)) + rb")" + END_OF_NAME)


def may_be_odd_mail(head: bytes | memoryview) -> bool:
    """Return whether a file that does not begin with a field may be a mail.

    Programs ignore the lines before the first field.
    """
    begin = head if type(head) is bytes else bytes(head[:HEAD_BYTES])
    if begin.find(b"\0", _ODD_BYTES, HEAD_BYTES) >= 0 or _COLON not in begin:
        return False
    begin = begin[:HEAD_BYTES]
    text = begin.replace(b"\r", b"\n")
    if _MARKS.isdisjoint(map(bytes.lower, _names(text))):
        # No other line begins with a field of mail, and `may_be_mail` has checked the first line.
        return False
    if can_be_mail(begin):
        return True
    # If a field is long, all further fields are after the end of `begin`, and cannot be checked
    # here.
    first = _mark_expression().search(text) if len(begin) >= HEAD_BYTES else None
    return first is not None and _is_header(begin[first.start() :])

"""The expander of mailboxes (mbox): files in which a line `From …` precedes each message.

Programs disagree whether a line that begins with `From ` within a text begins a message. In this
module, such a line begins a message under two conditions: a header field follows the line; and the
line is after an empty line, or contains a time. If the text of a mail contains a line with `From `,
some programs write `>` before it; this module does not remove the `>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hashclient.containers.forward import Forward
from hashclient.containers.interface import HEAD_BYTES, Data, Member, Stream, Unlisted, Why
from hashclient.containers.mail import MESSAGE
from hashclient.containers.mailmarks import FIELD
from hashclient.containers.mboxhalves import Halves
from hashclient.containers.mimeheaders import Collector

_LINES_BYTES = 4 << 10
#: How many bytes of the line that begins a message are searched for the time.
_TIME_BYTES = 256
_MARK = b"From "
_NEXT = b"\nFrom "
_WITH_TIME = re.compile(rb"From [^\r\n]*\b\d{1,2}:\d\d(?::\d\d)?\b[^\r\n]*\b\d{4}\b")


def begins(text: bytes, *, is_after_blank: bool) -> bool:
    """Return whether `text`, which begins with `From `, begins a message."""
    line, _, rest = text.partition(b"\n")
    if FIELD.match(rest) is None and not rest.startswith(b">From "):
        return False
    return is_after_blank or _WITH_TIME.match(line[:_TIME_BYTES]) is not None


class Mbox:
    """The expander of mbox, in all dialects."""

    name = "mbox"
    seeks = False

    def sniff(self, head: bytes) -> bool:
        """Return whether the first line begins a message: it has a time, or fields follow."""
        text = head[:HEAD_BYTES].lstrip(b"\r\n")
        if begins(text, is_after_blank=False):
            return True
        collector = Collector(is_first=False)
        for line in text.split(b"\n")[1:]:
            if not collector.add(line):
                break  # the header ends here, or the line begins no header
        return collector.is_mail

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the messages one by one.

        The caller reads each message before it takes the next message.
        """
        box = _Box(data)
        halves = Halves()
        number = 0
        box.skip_blank()
        while box.first_line():
            number += 1
            name = b"message-%d" % number
            halves.leave()
            halves.begin(name)
            message = _watched(box.message(), halves)
            yield [
                Member(
                    name,
                    None,
                    is_exact=False,
                    chunks=lambda message=message: message,  # type: ignore[misc]
                    kind=MESSAGE,
                )
            ]
            for _ in message:  # read the bytes of the message that the caller has not read
                pass
            halves.end()
            while halves.found:
                half = halves.found.pop()
                yield Unlisted(
                    half, Why.DAMAGED, "mbox: a line in it seems to begin another message"
                )


def _watched(message: Iterator[bytes], halves: Halves) -> Iterator[bytes]:
    for piece in message:
        halves.watch(piece)
        yield piece


class _Box(Forward):
    """A position in a mailbox.

    While no message is being read, the position is at the beginning of a message.
    """

    def skip_blank(self) -> None:
        """Skip empty lines at the beginning of the mailbox."""
        self._fill(_LINES_BYTES)
        rest = self._buffer[self._at :]
        self._at += len(rest) - len(rest.lstrip(b"\r\n"))

    def first_line(self) -> bool:
        """Skip the line that begins a message; return False at the end of the mailbox."""
        self._fill(_LINES_BYTES)
        if self._at == len(self._buffer):
            return False
        if self._buffer.startswith(_MARK, self._at):
            end = self._buffer.find(b"\n", self._at)
            self._at = len(self._buffer) if end < 0 else end + 1
        return True

    def message(self) -> Iterator[bytes]:
        """Yield the bytes of a message, up to the next line that begins a message."""
        while True:
            found = self._buffer.find(_NEXT, self._at)
            if found >= 0:
                before = self._buffer[max(found - 2, 0) : found]
                self._fill(found - self._at + 1 + _LINES_BYTES)
                # The offset is computed after `_fill`, which may have moved the bytes in the
                # buffer.
                found = self._buffer.find(_NEXT, self._at)
                text = self._buffer[found + 1 : found + 1 + _LINES_BYTES]
                is_begin = begins(text, is_after_blank=before[-1:] == b"\n" or before == b"\n\r")
                piece = self._buffer[self._at : found + 1]
                self._at = found + 1
                if piece:
                    yield piece
                if is_begin:
                    return
                continue
            end = max(len(self._buffer) - len(_NEXT) - 2, self._at)
            if end > self._at:
                piece = self._buffer[self._at : end]
                self._at = end
                yield piece
            if not self._more():
                if self._at < len(self._buffer):
                    piece = self._buffer[self._at :]
                    self._at = len(self._buffer)
                    yield piece
                return

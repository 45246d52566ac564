"""Finds halves: messages in which a line looks like the beginning of the next message.

A mail server that stores one mail as a mailbox does not escape a line with `From ` in the text, so
a sender could use this line to hide parts of the mail. A message is reported as a half if it begins
a multipart that does not end before the line, and if the boundary of the multipart occurs after the
line, because its parts are then uncertain. If a message is merely cut off, as many messages are,
its boundary does not occur after the line.
"""

from __future__ import annotations

from hashclient.containers.mimeheaders import Collector

#: How many bytes of a header are kept; a header may be longer, but the fields that show its kind
#: come first.
MAX_HEADER_BYTES = 64 << 10
#: The most boundaries that are searched at once; a message that exceeds `MAX_OPEN` counts as a
#: half.
MAX_OPEN = 256


class Halves:
    """Reads all bytes of all messages of a mailbox; `found` has the names of the halves."""

    def __init__(self) -> None:
        self.found: list[bytes] = []
        # The delimiters that are searched, each with the name of its message.
        self._open: dict[bytes, bytes] = {}
        self._name = b""
        self._header: bytearray | None = None
        self._is_message = False
        self._delimiters: dict[bytes, bool] = {}  # by delimiter: whether a part has begun
        self._tail = b""

    def begin(self, name: bytes) -> None:
        """Begin a message with the given name."""
        self._name, self._header = name, bytearray()
        self._is_message, self._delimiters = False, {}
        self._tail = b"\n"

    def watch(self, piece: bytes) -> None:
        """Read the next bytes of the message."""
        if self._header is not None:
            self._header += piece
            recent = bytes(self._header[-len(piece) - len(b"\n\r\n") :])
            if _body_at(recent) < 0 and len(self._header) < MAX_HEADER_BYTES:
                return
            header = bytes(self._header)
            self._end_header(header)
            piece = header
        if not (self._open or self._delimiters):
            return
        text = self._tail + piece
        for delimiter in [each for each in self._open if each in text]:
            self.found.append(self._open.pop(delimiter))
        for delimiter in list(self._delimiters):
            # Of the bytes before `piece`, only as many are searched again as a delimiter that is
            # cut can have in them.
            self._look(delimiter, text[max(len(self._tail) - len(delimiter) - 1, 0) :])
        self._tail = text[-max(map(len, [*self._open, *self._delimiters]), default=1) - 1 :]

    def end(self) -> None:
        """End the message, even if its header has no end."""
        if self._header is not None:
            header = bytes(self._header)
            self._end_header(header)
            self.watch(header)

    def leave(self) -> None:
        """End the message before another message begins; note whether it may be a half."""
        if self._is_message or len(self._open) + len(self._delimiters) > MAX_OPEN:
            self.found.append(self._name)
            return
        self._open.update(dict.fromkeys(self._delimiters, self._name))

    def _look(self, delimiter: bytes, text: bytes) -> None:
        """Note whether a part of the multipart begins in `text`, and whether the multipart ends."""
        at = text.find(delimiter)
        while at >= 0:
            end = at + len(delimiter)
            behind = text[end : end + len(b"--")]
            if len(behind) < len(b"--"):
                return  # the next call finds the delimiter again
            if behind != b"--":
                self._delimiters[delimiter] = True
            elif self._delimiters[delimiter]:
                del self._delimiters[delimiter]
                return
            at = text.find(delimiter, at + 1)

    def _end_header(self, text: bytes) -> None:
        self._header = None
        collector = Collector()
        at = _body_at(text)
        for line in (text if at < 0 else text[:at]).replace(b"\r\n", b"\n").split(b"\n"):
            collector.add(line)
        fields = collector.fields()
        if fields.is_multipart:
            self._delimiters = {b"\n--" + boundary: False for boundary in fields.boundaries}
        for delimiter in self._delimiters:
            # The parts of the present message are found in any case, so an earlier message with the
            # same delimiter is no half.
            self._open.pop(delimiter, None)
        # Multiparts of a message within a message are not tracked, so such a message always counts
        # as a half.
        self._is_message = fields.kind.startswith(b"message/")


def _body_at(text: bytes) -> int:
    """Return the offset of the empty line that ends a header, or -1."""
    places = [at for at in (text.find(b"\n\n"), text.find(b"\n\r\n")) if at >= 0]
    return min(places, default=-1)

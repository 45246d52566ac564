"""Halves of messages in a mailbox: a line within a message looks like the beginning of the next.

A mail server that keeps one mail as a mailbox does not mark a line with `From ` in a text, so a
sender could hide parts of the mail behind this line. A message is reported if it begins a multipart
and does not end the multipart before the line, and if the boundary occurs after the line: its parts
are then uncertain. If a message merely lacks its end, as many do, the boundary does not occur after
the line.
"""

from __future__ import annotations

from hashclient.containers.mimeheaders import Collector

#: A header may be longer; the fields that show its kind come before.
MAX_HEADER_BYTES = 64 << 10
#: The most boundaries that are searched; a message with more boundaries counts as a half.
MAX_OPEN = 256


class Halves:
    """Reads all bytes of all messages; `found` has the names of the halves."""

    def __init__(self) -> None:
        self.found: list[bytes] = []
        self._open: dict[bytes, bytes] = {}  # the delimiters that are searched, with their messages
        self._name = b""
        self._header: bytearray | None = None
        self._is_message = False
        self._delimiters: dict[bytes, bool] = {}  # delimiter: whether a part was begun
        self._tail = b""

    def begin(self, name: bytes) -> None:
        """Begin with a message."""
        self._name, self._header = name, bytearray()
        self._is_message, self._delimiters = False, {}
        self._tail = b"\n"

    def watch(self, piece: bytes) -> None:
        """Take the next bytes of the message."""
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
            # From the earlier bytes, only as many are kept as a cut delimiter may have.
            self._look(delimiter, text[max(len(self._tail) - len(delimiter) - 1, 0) :])
        self._tail = text[-max(map(len, [*self._open, *self._delimiters]), default=1) - 1 :]

    def end(self) -> None:
        """End the message; its header may have no end."""
        if self._header is not None:
            header = bytes(self._header)
            self._end_header(header)
            self.watch(header)

    def leave(self) -> None:
        """End the message, because another message begins."""
        if self._is_message or len(self._open) + len(self._delimiters) > MAX_OPEN:
            self.found.append(self._name)
            return
        self._open.update(dict.fromkeys(self._delimiters, self._name))

    def _look(self, delimiter: bytes, text: bytes) -> None:
        """Note whether a part begins, and whether the last part has ended."""
        at = text.find(delimiter)
        while at >= 0:
            end = at + len(delimiter)
            behind = text[end : end + len(b"--")]
            if len(behind) < len(b"--"):
                return  # the next bytes show the line again
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
            # The parts of the message are found here; a multipart left open belongs to it.
            self._open.pop(delimiter, None)
        # Contents of a message within a message are not checked here.
        self._is_message = fields.kind.startswith(b"message/")


def _body_at(text: bytes) -> int:
    """Return the place of the line that ends a header, or -1."""
    places = [at for at in (text.find(b"\n\n"), text.find(b"\n\r\n")) if at >= 0]
    return min(places, default=-1)

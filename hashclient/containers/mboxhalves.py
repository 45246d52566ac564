"""Finds halves: messages of a mailbox that a line in their own text may have cut in two.

A line that begins with `From ` begins the next message of a mailbox. If a mail server stores a mail
as a mailbox and does not escape such a line in the text, the rest of the mail looks like another
message. A sender could use this to hide parts of the mail. Therefore a message is reported as a
half if its multipart does not end, and if the boundary of this multipart occurs in a later message.
If a message is only truncated, its boundary does not occur in a later message.
"""

from __future__ import annotations

from hashclient.containers.mimeheaders import Collector

#: How many bytes of a header are kept; a header may be longer, but the fields that show its kind
#: come first.
MAX_HEADER_BYTES = 64 << 10
#: The most boundaries that are searched at the same time; if a message exceeds this number, it
#: counts as a half.
MAX_OPEN = 256


class Halves:
    """Reads all messages of a mailbox; `found` contains the names of the halves."""

    def __init__(self) -> None:
        self.found: list[bytes] = []
        # By delimiter: the name of an earlier message whose multipart did not end.
        self._open: dict[bytes, bytes] = {}
        self._name = b""
        self._header: bytearray | None = None
        self._is_message = False
        self._delimiters: dict[bytes, bool] = {}  # of the present message: whether a part has begun
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
            # A delimiter may begin before `piece`, so the last bytes before `piece` are searched
            # again.
            self._look(delimiter, text[max(len(self._tail) - len(delimiter) - 1, 0) :])
        self._tail = text[-max(map(len, [*self._open, *self._delimiters]), default=1) - 1 :]

    def end(self) -> None:
        """End the message; if no empty line ends its header, all bytes count as the header."""
        if self._header is not None:
            header = bytes(self._header)
            self._end_header(header)
            self.watch(header)

    def leave(self) -> None:
        """End a message because another one begins; remember multiparts without an end."""
        if self._is_message or len(self._open) + len(self._delimiters) > MAX_OPEN:
            self.found.append(self._name)
            return
        self._open.update(dict.fromkeys(self._delimiters, self._name))

    def _look(self, delimiter: bytes, text: bytes) -> None:
        """Note whether a part of the multipart begins, or the multipart ends, in `text`."""
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
            # If an earlier message has the same delimiter, it is no half, because the parts with
            # this delimiter belong to the present message.
            self._open.pop(delimiter, None)
        # The multiparts of a message within this message are not examined, so this message always
        # counts as a half if another message follows.
        self._is_message = fields.kind.startswith(b"message/")


def _body_at(text: bytes) -> int:
    """Return the offset of the empty line that ends a header, or -1."""
    places = [at for at in (text.find(b"\n\n"), text.find(b"\n\r\n")) if at >= 0]
    return min(places, default=-1)

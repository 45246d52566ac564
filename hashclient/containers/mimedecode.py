"""Encodings of mail, decoded piece by piece: base64, quoted-printable, and uuencode within text.

Decoding follows mail clients: characters outside base64 are skipped, and padding ends it. Where
base64 goes on after the padding, clients disagree, and the part counts as damaged.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator

import msgspec

from hashclient.containers.interface import NotReadError, Why

#: The most bytes kept of uuencoded files in one part, since the part is read as a whole first.
MAX_UU_BYTES = 16 << 20
_MAX_UU_FILES = 1000
_MAX_LINE_BYTES = 64 << 10
_TAIL_BYTES = 1024

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_OTHERS = bytes(sorted(set(range(256)) - set(_ALPHABET)))
#: No word is so long, and no line of base64 is shorter but the last one.
_LONG_LINE = re.compile(rb"\n[A-Za-z0-9+/]{20}[A-Za-z0-9+/]*=*[ \t]*(?:\r?\n|$)")
_LONGEST_LINE_BYTES = 1000
_BEGIN = re.compile(rb"begin(-base64)? +[0-7]{3,4} +([^\r\n]{1,1024})\r?\n")
_BEGINS = re.compile(rb"\n(?=begin[ -])")
_LONGEST_BEGIN_BYTES = 1100


class GoesOnError(NotReadError):
    """Base64 that goes on after its end: clients disagree what it decodes to."""

    def __init__(self) -> None:
        super().__init__(Why.DAMAGED, "mail: base64 goes on behind its end")


def base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes that base64 decodes to.

    Raises:
        GoesOnError: it goes on behind its end.
    """
    rest = b""
    pads = 0
    end: _End | None = None
    for piece in pieces:
        if end is not None:
            end.look(piece)
            continue
        kept = [rest]
        count = len(rest)
        parts = piece.split(b"=")
        for number, part in enumerate(parts):
            if number:
                # Superfluous or incomplete padding is skipped.
                pads += 1
                if count % 4 >= 2 and count % 4 + pads >= 4:
                    end = _End()
                    end.look(b"=".join(parts[number:]))
                    break
            part = part.translate(None, _OTHERS)
            if part:
                pads = 0
                kept.append(part)
                count += len(part)
        rest = b"".join(kept)
        whole = count & ~3
        if whole:
            yield binascii.a2b_base64(rest[:whole])
            rest = rest[whole:]
    if len(rest) % 4 == 1:
        rest = rest[:-1]
    if rest:
        yield binascii.a2b_base64(rest + b"=" * (-len(rest) % 4))
    if end is not None and end.goes_on:
        raise GoesOnError


class _End:
    """The text after the end of base64: words that a mailing list appends, or more base64."""

    def __init__(self) -> None:
        self._is_found = False
        self._is_short = True
        self._text = b"\n"

    def look(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._text += piece
        if _LONG_LINE.search(self._text):
            self._is_found = True
        if len(self._text) > _TAIL_BYTES:
            self._text = self._text[-_LONGEST_LINE_BYTES:]
            self._is_short = False

    @property
    def goes_on(self) -> bool:
        """Whether some of it is base64."""
        lines = self._text.translate(None, b"=").split()
        if self._is_found or not self._is_short:
            return self._is_found
        return any(lines) and not any(line.translate(None, _ALPHABET) for line in lines)


def quoted_printable(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes that quoted-printable decodes to."""
    rest = b""
    for piece in pieces:
        rest += piece
        end = rest.rfind(b"\n") + 1
        if not end and len(rest) > _MAX_LINE_BYTES:
            # A line without an end: it is cut between two escapes.
            end = len(rest) - 3
            mark = rest.rfind(b"=", end - 2, end)
            end = mark if mark >= 0 else end
        if end:
            yield binascii.a2b_qp(rest[:end])
            rest = rest[end:]
    if rest:
        yield binascii.a2b_qp(rest)


class UuFile(msgspec.Struct, frozen=True):
    """A file that stands uuencoded in a text; `error` where it cannot be read to its end."""

    name: bytes
    data: bytes
    error: NotReadError | None


class UuFinder:
    """Finds uuencoded files in a text that passes by."""

    def __init__(self) -> None:
        """Begin before the text."""
        self.files: list[UuFile] = []
        self._buffer = b"\n"
        self._name = b""
        self._lines: list[bytes] | None = None  # of the file that has begun, decoded
        self._is_base64 = False
        self._count = 0

    def watch(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces as they are, and look at them."""
        for piece in pieces:
            yield piece
            self._take(piece)
        self._end()

    def _take(self, piece: bytes) -> None:
        self._buffer += piece
        while True:
            if self._lines is None:
                if not self._begin(is_end=False):
                    return
            elif not self._go_on(is_end=False):
                return

    def _end(self) -> None:
        self._buffer += b"\n"
        while self._begin(is_end=True) if self._lines is None else self._go_on(is_end=True):
            pass
        if self._lines:
            self._finish(None)

    def _begin(self, *, is_end: bool) -> bool:
        """Look for the line that begins a file; return False where more is needed."""
        at = 0
        while found := _BEGINS.search(self._buffer, at):
            start = found.end()
            line = _BEGIN.match(self._buffer, start)
            if line is not None:
                self._name, self._is_base64 = line[2].rstrip(), line[1] is not None
                self._lines = []
                self._buffer = self._buffer[line.end() - 1 :]  # its line end begins the next
                return True
            if len(self._buffer) - start < _LONGEST_BEGIN_BYTES and not is_end:
                if b"\n" not in self._buffer[start:]:
                    self._buffer = self._buffer[max(start - 1, 0) :]
                    return False
            at = start
        self._buffer = self._buffer[-8:]
        return False

    def _go_on(self, *, is_end: bool) -> bool:
        """Decode the lines of a file; return False where more is needed."""
        at = 1  # behind the end of the line before
        while (end := self._buffer.find(b"\n", at)) >= 0:
            error = self._line(self._buffer[at:end].rstrip(b"\r"))
            if error is not None:
                self._buffer = self._buffer[end if error == "end" else at - 1 :]
                self._finish(None if error == "end" else NotReadError(Why.DAMAGED, error))
                return True
            at = end + 1
        self._buffer = self._buffer[at - 1 :]
        if len(self._buffer) > _MAX_LINE_BYTES:
            self._finish(NotReadError(Why.DAMAGED, "mail: uuencode"))
            return True
        return False

    def _line(self, line: bytes) -> str | None:
        """Take a line of a file; return "end", or why it cannot be read."""
        assert self._lines is not None
        if self._is_base64:
            if line.startswith(b"===="):
                return "end"
        elif line.rstrip() == b"end":
            return "end"
        if not line:
            return None
        try:
            data = binascii.a2b_base64(line) if self._is_base64 else _uu(line)
        except (binascii.Error, ValueError):
            return "mail: uuencode"
        self._count += len(data)
        if self._count <= MAX_UU_BYTES:
            self._lines.append(data)
        else:
            self._lines = [b""]
        return None

    def _finish(self, error: NotReadError | None) -> None:
        data = b"".join(self._lines or ())
        # A line that only looks like a beginning is followed by no data.
        is_too_much = self._count > MAX_UU_BYTES or len(self.files) == _MAX_UU_FILES
        is_file = bool(self._lines) and (bool(data) or error is not None or is_too_much)
        self._lines = None
        if is_too_much:
            error = NotReadError(Why.LIMIT, "mail: too much that is uuencoded in one part")
            data = b""
        if is_file and len(self.files) <= _MAX_UU_FILES:
            self.files.append(UuFile(self._name, data, error))


def _uu(line: bytes) -> bytes:
    """Decode a line; some programs put more behind it than its length says."""
    length = (line[0] - 32) & 63
    return binascii.a2b_uu(line[: 1 + (length * 4 + 2) // 3])

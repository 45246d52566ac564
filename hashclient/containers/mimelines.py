"""A mail read forwards: header lines, and bodies up to the line of a boundary.

Bodies come in blocks, not lines: only where a line begins with two dashes is it looked at. At most
a block and a line are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from hashclient.containers.forward import Forward
from hashclient.containers.interface import Data, Stream
from hashclient.containers.mailmarks import MAX_LINE_BYTES  # longer ones are no boundary either
from hashclient.containers.mimeheaders import Collector, is_kept

_BLOCK_BYTES = 64 << 10
_BOUNDARY_LINE_BYTES = 2048
_DASHES = b"\n--"
#: Lines that mailboxes leave in a header.
_QUIET = (b"From ", b">From ")
#: The characters of boundaries.
_USUAL = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'()+_,-./:=?")


class Hit(msgspec.Struct, frozen=True):
    """The line of a boundary: of which level, and whether it is the last of that level."""

    level: int
    is_last: bool


class Lines:
    """A position in a mail."""

    def __init__(self, data: Data | Stream) -> None:
        """Begin at the beginning."""
        self._source = Forward(data)
        self._buffer = b""
        self._at = 0
        self._is_at_end = False
        #: The boundary that ended the last part; None at the end of the mail.
        self.hit: Hit | None = None

    @property
    def position(self) -> int:
        """How many bytes were taken."""
        return self._source.position - len(self._buffer) + self._at

    def _more(self) -> bool:
        """Read a block after the bytes that are left; return False at the end."""
        block = b"" if self._is_at_end else self._source.some(_BLOCK_BYTES)
        self._buffer = self._buffer[self._at :] + block
        self._at = 0
        self._is_at_end = not block
        return bool(block)

    def peek(self, count: int) -> bytes:
        """Return the next bytes, fewer only at the end, and stay here."""
        while len(self._buffer) - self._at < count and self._more():
            pass
        return self._buffer[self._at : self._at + count]

    def skip(self, count: int) -> None:
        """Skip bytes that were looked at."""
        self._at += count

    def line(self) -> bytes:
        """Return the next line with its end; empty at the end. Of a very long one, a piece."""
        end = self._buffer.find(b"\n", self._at)
        while end < 0 and len(self._buffer) - self._at < MAX_LINE_BYTES and self._more():
            end = self._buffer.find(b"\n", self._at)
        end = len(self._buffer) if end < 0 else end + 1
        line = self._buffer[self._at : end]
        self._at = end
        return line

    def header(self, stack: Sequence[frozenset[bytes]], most: int | None = None) -> Collector:
        """Read a header up to the empty line behind it, or to a boundary of `stack` or its own.

        With `most`, reading stops after so many bytes without a field of mail.
        """
        collector = Collector()
        count = 0
        while line := self.line():
            if not line.rstrip(b"\r\n"):
                break
            if line.startswith(b"--"):
                if match([*stack, collector.boundaries()], line) is not None:
                    self._at -= len(line)
                    break
            if not collector.add(line) and not line.startswith(_QUIET):
                # Some clients take it for the beginning of the body, others pass over it.
                self._at -= len(line)
                ahead = self.peek(len(line) + MAX_LINE_BYTES)[len(line) :]
                if not _fields_follow(ahead):
                    break
                collector.is_broken = True
                self._at += len(line)
            count += len(line)
            if most is not None and count > most and not collector.is_mail:
                break
        return collector

    def body(self, stack: Sequence[frozenset[bytes]]) -> Iterator[bytes]:
        """Yield the bytes up to the next boundary of `stack`, which `hit` then is.

        The line end before a boundary belongs to it.
        """
        self.hit = None
        held = b""  # a line end that may belong to a boundary
        while True:
            # Here begins a line.
            if not stack:
                line = b""
            else:
                self.peek(_BOUNDARY_LINE_BYTES)
                line = self._boundary_line()
            if line:
                self.hit = match(stack, line)
                if self.hit is not None:
                    self._at += len(line)
                    return
            if held:
                yield held
                held = b""
            # On to the next line that begins with dashes.
            found = self._buffer.find(_DASHES, self._at) if stack else -1
            while found < 0:
                keep = len(_DASHES) + 1 if stack else 0
                end = max(len(self._buffer) - keep, self._at)
                if end > self._at:
                    piece = self._buffer[self._at : end]
                    self._at = end
                    yield piece
                if not self._more():
                    if self._at < len(self._buffer):
                        yield self._buffer[self._at :]
                        self._at = len(self._buffer)
                    return
                found = self._buffer.find(_DASHES, self._at) if stack else -1
            end = found - 1 if found > self._at and self._buffer[found - 1] == 0x0D else found
            if end > self._at:
                yield self._buffer[self._at : end]
            held = self._buffer[end : found + 1]
            self._at = found + 1

    def _boundary_line(self) -> bytes:
        """Return the line that begins here if it may be that of a boundary; it is in the buffer."""
        if not self._buffer.startswith(b"--", self._at):
            return b""
        end = self._buffer.find(b"\n", self._at, self._at + _BOUNDARY_LINE_BYTES)
        if end < 0:
            end = min(len(self._buffer), self._at + _BOUNDARY_LINE_BYTES) - 1
        return self._buffer[self._at : end + 1]


def _fields_follow(text: bytes) -> bool:
    """Return whether a field that says what the body is stands in the lines before it."""
    for line in text.split(b"\n"):
        if not line.rstrip(b"\r") or line.startswith(b"--"):
            return False
        if is_kept(line):
            return True
    return False


def match(stack: Sequence[frozenset[bytes]], line: bytes) -> Hit | None:
    """Return which boundary a line is, the innermost first; None where it is none.

    A line that only begins with a boundary counts, too, unless it equals another one: some clients
    compare no more.
    """
    text = line.rstrip()[2:]
    bare = text.removesuffix(b"--")
    begun: Hit | None = None
    for level in range(len(stack) - 1, -1, -1):
        for boundary in stack[level]:
            if text == boundary:
                return Hit(level, is_last=False)
            if bare == boundary:
                return Hit(level, is_last=True)
            if begun is None and text.startswith(boundary) and text[len(boundary)] not in _USUAL:
                begun = Hit(level, is_last=False)
    return begun

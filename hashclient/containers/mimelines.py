"""A mail read forwards: header lines, and bodies up to the line of a boundary.

Bodies come in blocks, not lines: only lines that begin with two dashes are examined. At most a
block and a line are in memory. Programs differ about lines that only resemble a boundary: a part
continues behind this line, and is marked as doubtful.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from hashclient.containers.forward import Forward
from hashclient.containers.interface import HEAD_BYTES, Data, Stream
from hashclient.containers.mailmarks import FIELD, MAX_LINE_BYTES
from hashclient.containers.mimeheaders import (
    MAX_BOUNDARY_LINE_BYTES,
    MAX_FIELD_BYTES,
    Collector,
    is_kept,
)

#: The beginning of the line behind a boundary, as far as a field needs.
_NEXT_LINE_BYTES = 512
#: The most fields and bytes of a part that are looked at: a field may be long.
_PART_FIELDS, _PART_HEADER_BYTES = 16, 16 << 10
_DASHES = b"\n--"
_find_old_dashes = re.compile(rb"[\r\n]--").search
#: Patterns for text outside of the parts: they also find a field of a part.
_find_aside, _find_old_aside = (
    re.compile(end + rb"(?=--|content-)", re.IGNORECASE).search for end in (b"\n", b"[\r\n]")
)
_LONGEST_BYTES = len(b"\r\ncontent-")
#: Lines that mailboxes leave in a header.
_QUIET = (b"From ", b">From ")
_LINE_END = re.compile(rb"\r{0,3}\n|\r")


class Boundaries:
    """The boundaries of one multipart, named by its header or guessed."""

    def __init__(self, named: Iterable[bytes] = ()) -> None:
        """Begin with the boundaries of a header."""
        self.named = frozenset(named)
        self._all = set(self.named)
        self._begins: re.Pattern[bytes] | None = None

    def copy(self) -> Boundaries:
        """Return a copy, to which other boundaries are added."""
        made = Boundaries(self.named)
        made._all |= self._all
        return made

    def add(self, boundary: bytes) -> None:
        """From now on, lines of this boundary count as well."""
        self._all.add(boundary)

    def is_line(self, text: bytes) -> bool:
        """Return whether a line, without its dashes, is a boundary."""
        return text in self._all

    def begins(self, text: bytes) -> bool:
        """Return whether a line begins with a named boundary, in any case."""
        if self._begins is None and self.named:
            self._begins = re.compile(b"|".join(map(re.escape, self.named)), re.IGNORECASE)
        return self._begins is not None and self._begins.match(text) is not None


Stack = Sequence[Boundaries]


class Hit(msgspec.Struct, frozen=True):
    """The line of a boundary: the level of its multipart, and whether it ends that multipart.

    In text outside of the parts, this may be a field that begins a part.
    """

    level: int
    is_last: bool
    is_field: bool = False


class Lines(Forward):
    """A position in a mail."""

    def __init__(
        self, data: Data | Stream, *, is_loose: bool = False, is_old: bool = False
    ) -> None:
        """Begin at the beginning.

        With `is_loose`, lines that resemble a boundary end a part. With `is_old`, a carriage return
        ends a line of a body, as on an old Mac; in headers, it always ends a line.
        """
        super().__init__(data)
        self._is_loose = is_loose
        self.is_old = is_old
        self._fields_until = 0
        self._is_first = True
        #: Whether a carriage return follows the line ends of a header: few clients find its parts.
        self.is_reversed = False
        #: Whether other lines precede the first header.
        self.is_behind_text = False
        #: The boundary that ended the last part; None at the end of the mail.
        self.hit: Hit | None = None
        #: Whether a line in the last part resembles a boundary.
        self.is_doubtful = False
        #: Whether the last part began at a field, and not at a boundary.
        self.is_at_field = False
        #: Whether the last part may end with a carriage return that was taken for its line end.
        self.may_end_with_return = False

    def line(self, most: int = MAX_LINE_BYTES) -> bytes:
        """Return the next line with its end, or a piece of a long one; empty at the end."""
        seen = 0
        found = _LINE_END.search(self._buffer, self._at)
        # A carriage return may be the first byte of a line end.
        while found is None or (found[0] == b"\r" and found.end() + 3 > len(self._buffer)):
            seen = max(len(self._buffer) - self._at - 4, 0)
            if seen >= most:
                break
            is_end = not self._more()
            found = _LINE_END.search(self._buffer, self._at + seen)
            if is_end:
                break
        end = len(self._buffer) if found is None else found.end()
        line = self._buffer[self._at : end]
        self._at = end
        return line

    def header(self, stack: Stack, most: int | None = None) -> Collector:
        """Read a header up to its empty line, or to a boundary of `stack` or of itself.

        With `most`, the text may be no mail: reading stops after this many bytes without a field of
        mail, and lines before the first field are ignored.
        """
        collector = Collector(is_first=self._is_first)
        self._is_first = False
        count = 0
        while line := self.line(MAX_FIELD_BYTES):
            is_front = most is not None and not collector.has_fields and self.position <= HEAD_BYTES
            is_return = line == b"\r"
            if not line.rstrip(b"\r\n") and not (is_return and not self.is_old):
                if is_front:
                    continue
                if collector.has_passed:
                    collector.passed(line)  # a line of a body that begins earlier
                break
            if line.startswith(b"--"):
                if match([*stack, Boundaries(collector.boundaries())], line) is not None:
                    self._at -= len(line)
                    break
            is_field = not is_return and collector.add(line)
            if is_field and not stack and line[-1:] == b"\r":
                self.is_old = True
            if is_field or line.startswith(_QUIET):
                if collector.has_passed:
                    collector.passed(line)
            elif is_front:
                self.is_behind_text = True
            else:
                self._at -= len(line)
                self.is_reversed |= is_return and collector.has_fields
                if not self._fields_follow(len(line)):
                    if is_return:
                        self._at += 1
                    collector.has_end = False
                    break
                collector.passed(line)
                self._at += len(line)
            while is_field and len(line) >= MAX_FIELD_BYTES and line[-1:] not in (b"\r", b"\n"):
                line = self.line(MAX_FIELD_BYTES)  # programs read a field of any length
            count += min(len(line), MAX_LINE_BYTES)
            if most is not None and count > most and not collector.is_mail:
                break
        return collector

    def _fields_follow(self, after: int) -> bool:
        """Return whether the lines up to the next empty line contain a field."""
        if self.position + after <= self._fields_until:
            return True
        ahead = self.peek(after + MAX_LINE_BYTES)[after:]
        at = 0
        while at < len(ahead):
            end = ahead.find(b"\n", at)
            line = ahead[at:] if end < 0 else ahead[at:end]
            if not line.rstrip(b"\r") or line.startswith(b"--"):
                return False
            if FIELD.match(line):
                self._fields_until = self.position + after + at
                return True
            at += len(line) + 1
        return False

    def body(
        self,
        stack: Stack,
        *,
        is_aside: bool = False,
        is_whole: bool = False,
        guesses: bool = True,
    ) -> Iterator[bytes]:
        """Yield the bytes up to the next boundary of `stack`; `hit` is then this boundary.

        The line end before a boundary belongs to the boundary. No client shows text outside of the
        parts: so this text ends at any line that resembles a boundary, or at a field of a part,
        unless `is_whole` is set. With `guesses`, a boundary is also a line that no header names,
        with fields of a part behind it. If a part began at a field in text outside of the parts, it
        becomes doubtful at the next field of a part.
        """
        self.is_at_field = self.hit is not None and self.hit.is_field
        self.hit = None
        self.is_doubtful = self.may_end_with_return = False
        held = b""  # a line end that may belong to a boundary
        is_apart = is_aside and (self._is_loose or not is_whole)
        may_end_at_field = is_apart or self.is_at_field
        while True:
            # A line begins at this place.
            if may_end_at_field and self.peek(1) in (b"C", b"c") and self._begins_part(0):
                # Some clients begin a part there, as if a boundary preceded the field.
                if is_apart or self._is_loose:
                    self.hit = Hit(len(stack) - 1, is_last=False, is_field=True)
                    return
                self.is_doubtful = True
            line = self._boundary_line()
            if line:
                self.hit = match(stack, line)
                if self.hit is None:
                    self.hit = self._resembling(
                        stack, line, is_aside=is_aside, is_whole=is_whole, guesses=guesses
                    )
                if self.hit is not None:
                    self.may_end_with_return = held == b"\r\n" and not line.endswith(b"\r\n")
                    self._at += len(line)
                    return
            if held:
                yield held
                held = b""
            # Go on to the next line that may end the text.
            found = self._find_begin(or_field=may_end_at_field)
            while found < 0:
                end = max(len(self._buffer) - _LONGEST_BYTES, self._at)
                if end > self._at:
                    piece = self._buffer[self._at : end]
                    self._at = end
                    yield piece
                if not self._more():
                    if self._at < len(self._buffer):
                        yield self._buffer[self._at :]
                        self._at = len(self._buffer)
                    return
                found = self._find_begin(or_field=may_end_at_field)
            end = (
                found - 1
                if self._buffer[max(found - 1, self._at) : found + 1] == b"\r\n"
                else found
            )
            if end > self._at:
                yield self._buffer[self._at : end]
            held = self._buffer[end : found + 1]
            self._at = found + 1

    def _find_begin(self, *, or_field: bool) -> int:
        """Return the place of a line end before dashes or, if wanted, a field; else -1."""
        if not (self.is_old or or_field):
            return self._buffer.find(_DASHES, self._at)
        # A single search for all marks: separate searches would read the same bytes again and
        # again.
        by_end = (_find_aside, _find_old_aside) if or_field else (_find_old_dashes,) * 2
        found = by_end[self.is_old](self._buffer, self._at)
        return -1 if found is None else found.start()

    def _boundary_line(self) -> bytes:
        """Return the line at this place if it may be a boundary's line; it is in the buffer."""
        if self.peek(2) != b"--":
            return b""
        self.peek(MAX_BOUNDARY_LINE_BYTES + _NEXT_LINE_BYTES)
        most = self._at + MAX_BOUNDARY_LINE_BYTES
        if self.is_old and (found := _LINE_END.search(self._buffer, self._at, most)) is not None:
            return self._buffer[self._at : found.end()]
        end = self._buffer.find(b"\n", self._at, most)
        if end < 0:
            end = min(len(self._buffer), most) - 1
        return self._buffer[self._at : end + 1]

    def _resembling(
        self, stack: Stack, line: bytes, *, is_aside: bool, is_whole: bool, guesses: bool
    ) -> Hit | None:
        """Return which boundary a line resembles, if it ends this body; otherwise note it.

        Either the line begins with a boundary, in upper or lower case: some clients compare no
        more. Or fields of a part follow: some clients then treat the line as a boundary that no
        header names.
        """
        text = line.rstrip()[2:]
        level = next((n for n in range(len(stack) - 1, -1, -1) if stack[n].begins(text)), None)
        if level is None and guesses:
            after = self._at + len(line)
            behind = self._buffer[after : after + _NEXT_LINE_BYTES].lstrip(b"\r")
            is_one = self._begins_part(len(line))
            if is_aside and not is_one and text.strip(b"-"):
                # An empty line: all fields of a part may be left out.
                is_one = behind.startswith(b"\n") or FIELD.match(behind) is not None
            level = len(stack) - 1 if is_one else None
        if level is None:
            return None
        if not self._is_loose and (is_whole or not is_aside):
            self.is_doubtful = True
            return None
        stack[level].add(text.removesuffix(b"--"))
        return Hit(level, is_last=False)

    def _begins_part(self, behind: int) -> bool:
        """Return whether fields follow, and one of the first fields describes the body."""
        ahead = self.peek(behind + _PART_HEADER_BYTES)[behind:]
        at = 0
        for _ in range(_PART_FIELDS):
            end = ahead.find(b"\n", at)
            line = ahead[at : end if end >= 0 else len(ahead)].lstrip(b"\r")
            if is_kept(line):
                return True
            if end < 0 or (FIELD.match(line) is None and line[:1] not in (b" ", b"\t")):
                return False
            at = end + 1
        return False


def match(stack: Stack, line: bytes) -> Hit | None:
    """Return the innermost boundary that a line matches; None if it is no boundary."""
    text = line.rstrip()[2:]
    bare = text.removesuffix(b"--")
    for level in range(len(stack) - 1, -1, -1):
        if stack[level].is_line(text):
            return Hit(level, is_last=False)
        if bare != text and stack[level].is_line(bare):
            return Hit(level, is_last=True)
    return None

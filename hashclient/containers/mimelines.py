"""Reads a mail forwards: the lines of headers, and bodies up to the line of a boundary.

Bodies are read in blocks, not in lines: only lines that begin with two dashes are examined. At most
a block and a line are in memory. Programs disagree about lines that only resemble a boundary. In
this module, a part continues after such a line, and is flagged as doubtful.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from hashclient.containers.forward import PIECE_BYTES, Forward
from hashclient.containers.interface import HEAD_BYTES, Data, Stream
from hashclient.containers.mailmarks import FIELD, MAX_LINE_BYTES
from hashclient.containers.mimeheaders import (
    MAX_BOUNDARY_LINE_BYTES,
    MAX_FIELD_BYTES,
    Collector,
    is_kept,
)

#: How many bytes after a boundary line are examined for a header field.
_NEXT_LINE_BYTES = 512
#: `_PART_FIELDS`: how many header fields are examined to decide whether they begin a part;
#: `_PART_HEADER_BYTES`: how many bytes are examined at most, because a field may be long.
_PART_FIELDS, _PART_HEADER_BYTES = 16, 16 << 10
_DASHES = b"\n--"
_find_old_dashes = re.compile(rb"[\r\n]--").search
#: Patterns for the text before, between and after the parts; they also find header fields that
#: begin a part.
_find_aside, _find_old_aside = (
    re.compile(end + rb"(?=--|content-)", re.IGNORECASE).search for end in (b"\n", b"[\r\n]")
)
_LONGEST_BYTES = len(b"\r\ncontent-")
#: The first bytes of lines that mailbox programs write into a header, and that are no fields.
_QUIET = (b"From ", b">From ")
_LINE_END = re.compile(rb"\r{0,3}\n|\r")
#: The end of a header; see `Lines` for old line ends.
_EMPTY_LINE, _EMPTY_OLD_LINE = re.compile(rb"\n\r*\n"), re.compile(rb"\n\r*\n|\r\r")


class Boundaries:
    """The boundaries of one multipart, from its header or guessed from lines in its text."""

    def __init__(self, named: Iterable[bytes] = ()) -> None:
        """Begin with the boundaries in a header."""
        self.named = frozenset(named)
        self._all = set(self.named)
        self._begins: re.Pattern[bytes] | None = None

    def copy(self) -> Boundaries:
        """Return a copy, to which boundaries can be added without changing the original."""
        made = Boundaries(self.named)
        made._all |= self._all
        return made

    def add(self, boundary: bytes) -> None:
        """Add a boundary, so that `is_line` is also true for lines with this boundary."""
        self._all.add(boundary)

    def is_line(self, text: bytes) -> bool:
        """Return whether a line, without its two dashes, is one of the boundaries."""
        return text in self._all

    def begins(self, text: bytes) -> bool:
        """Return whether a line begins with a boundary from the header, in upper or lower case."""
        if self._begins is None and self.named:
            self._begins = re.compile(b"|".join(map(re.escape, self.named)), re.IGNORECASE)
        return self._begins is not None and self._begins.match(text) is not None


Stack = Sequence[Boundaries]


class Hit(msgspec.Struct, frozen=True):
    """The line of a boundary.

    `level` is the depth of the boundary's multipart, and `is_last` says whether the line ends this
    multipart.

    If `is_field` is true, the line is no boundary, but a header field that begins a part.
    """

    level: int
    is_last: bool
    is_field: bool = False


class Lines(Forward):
    """A position in a mail."""

    def __init__(
        self, data: Data | Stream, *, is_loose: bool = False, is_old: bool = False
    ) -> None:
        """Begin at the beginning of `data`.

        With `is_loose`, a line that only resembles a boundary also ends a part. With `is_old`, a
        single carriage return ends a line of a body, as on an old Macintosh; in headers, a carriage
        return always ends a line.
        """
        super().__init__(data)
        self._is_loose = is_loose
        self.is_old = is_old
        self._fields_until = 0
        self._is_first = True
        #: `is_reversed`: whether the lines of a header end with a line feed and a carriage return,
        #: in this order; few mail clients find the parts of such a mail.
        self.is_reversed = False
        #: `is_behind_text`: whether lines that are no header fields precede the first header.
        self.is_behind_text = False
        #: `hit`: the boundary that ended the last part; None at the end of the mail.
        self.hit: Hit | None = None
        #: `is_doubtful`: whether a line in the part that was read last resembles a boundary.
        self.is_doubtful = False
        #: `is_at_field`: whether the part that was read last began at a header field without a
        #: boundary.
        self.is_at_field = False
        #: `may_end_with_return`: whether the part that was read last may end with a carriage
        #: return, which was removed as a part of the last line end.
        self.may_end_with_return = False

    def line(self, most: int = MAX_LINE_BYTES) -> bytes:
        """Return the next line with its end, or a piece of a long line; no bytes mean the end."""
        found = _LINE_END.search(self._buffer, self._at)
        # After a carriage return, one more byte is needed, because the line may end with a carriage
        # return and a line feed.
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
        """Read a header up to its empty line, or up to a boundary in the header or in `stack`.

        If `most` is given, the text may be no mail, and lines before the first field are ignored.
        If the first `most` bytes have no header field of mail, the following lines are only
        searched for these fields, which is faster, and reading stops if the header has none.
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
                    collector.passed(line)  # some mail clients began the body before this line
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
                line = self.line(MAX_FIELD_BYTES)  # a long line may still be one field
            count += min(len(line), MAX_LINE_BYTES)
            if most is not None and count > most and not collector.is_mail:
                if not self._skip_to_marks(collector):
                    break
        return collector

    def _skip_to_marks(self, collector: Collector) -> bool:
        """Skip lines of a header up to fields of mail; return False if the header has none."""
        empty = _EMPTY_OLD_LINE if self.is_old else _EMPTY_LINE
        line_end = b"\r" if self.is_old else b"\n"
        before = line_end
        while block := self.peek(PIECE_BYTES):
            text = before + block
            end = empty.search(text)
            if collector.has_marks_in(text[: end and end.start()].replace(b"\r", b"\n")):
                return True
            if end is not None:
                return False
            # The next block begins with a line, unless a line is longer than a block.
            whole = block.rfind(line_end) + 1
            before = line_end if whole else b""
            self.skip(whole or len(block))
        return False

    def _fields_follow(self, after: int) -> bool:
        """Return whether the lines up to the next empty line include a field."""
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
        """Yield the bytes of a body up to the next boundary of `stack`.

        After the last byte, `hit` is the boundary that ended the body, or None at the end of the
        mail.

        The line end before a boundary belongs to the boundary, and not to the body.

        `is_aside`: the body is text outside of the parts, which no mail client shows. Such text
        ends at each line that resembles a boundary, and at a header field of a part, unless
        `is_whole` is true. `guesses`: a line that begins with dashes also resembles a boundary if
        header fields of a part follow the line. If a part began at a header field without a
        boundary, the part becomes doubtful at the next header field of a part.
        """
        self.is_at_field = self.hit is not None and self.hit.is_field
        self.hit = None
        self.is_doubtful = self.may_end_with_return = False
        held = b""  # the last line end; it is dropped if a boundary follows
        is_apart = is_aside and (self._is_loose or not is_whole)
        may_end_at_field = is_apart or self.is_at_field
        while True:
            # Here, the position is at the beginning of a line.
            if may_end_at_field and self.peek(1) in (b"C", b"c") and self._begins_part(0):
                # In text outside of the parts, some mail clients begin a part at a header field,
                # even without a boundary.
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
            # Find the next line that may end the body.
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
        """Return the offset of the next line end before dashes (with `or_field`: or a field).

        Return -1 if no such line end follows.
        """
        if not (self.is_old or or_field):
            return self._buffer.find(_DASHES, self._at)
        # One pattern searches for dashes and fields together, because separate searches would read
        # the same bytes repeatedly.
        by_end = (_find_aside, _find_old_aside) if or_field else (_find_old_dashes,) * 2
        found = by_end[self.is_old](self._buffer, self._at)
        return -1 if found is None else found.start()

    def _boundary_line(self) -> bytes:
        """Return the line at the position if it begins with two dashes, or else no bytes."""
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
        """Return the boundary that a line resembles; flag the part as doubtful if it continues.

        None means that the body continues after the line.

        A line resembles a boundary if it begins with a boundary, in upper or lower case, because
        some mail clients compare only the beginning. A line also resembles a boundary if header
        fields of a part follow the line, because some mail clients then treat the line as a
        boundary.
        """
        text = line.rstrip()[2:]
        level = next((n for n in range(len(stack) - 1, -1, -1) if stack[n].begins(text)), None)
        if level is None and guesses:
            after = self._at + len(line)
            behind = self._buffer[after : after + _NEXT_LINE_BYTES].lstrip(b"\r")
            is_one = self._begins_part(len(line))
            if is_aside and not is_one and text.strip(b"-"):
                # A part may have no fields, so an empty line may follow its boundary.
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
        """Return whether a field that describes a body is among the first fields at `behind`."""
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
    """Return the boundary in a line, of the innermost multipart; None if there is no boundary."""
    text = line.rstrip()[2:]
    bare = text.removesuffix(b"--")
    for level in range(len(stack) - 1, -1, -1):
        if stack[level].is_line(text):
            return Hit(level, is_last=False)
        if bare != text and stack[level].is_line(bare):
            return Hit(level, is_last=True)
    return None

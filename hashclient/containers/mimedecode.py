"""Decodes the encodings of mail, piece by piece: base64, quoted-printable, and uuencode in a text.

The encodings are decoded as mail clients decode them. Mail clients differ about padding within
base64, and about blanks at the ends of lines in quoted-printable. Each way of decoding is a
function or class of its own.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator

import msgspec

from hashclient.containers.interface import NotReadError, Why

#: The most decoded bytes of all uuencoded files in one part; these bytes are in memory until the
#: end of the part.
MAX_UU_BYTES = 16 << 20
_MAX_UU_FILES = 1000
_MAX_LINE_BYTES = 64 << 10

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_OTHERS = bytes(sorted(set(range(256)) - set(_ALPHABET)))
_NEITHER = _OTHERS.replace(b"=", b"")
#: Matches the first line of a uuencoded file: some programs accept any word as the mode, or zeros
#: before the mode, and some accept a line without a name. The quantifiers are possessive, because a
#: long line of blanks would otherwise take minutes.
_BEGIN = re.compile(
    rb"begin(-base64)?[ \t]++[^\s]{1,400}+(?:[ \t]++([^\r\n]{0,4096}+)[ \t]*+)?+\r{0,2}+\n",
    re.IGNORECASE,
)
#: Matches the beginning of a uuencoded file.
begins_file = _BEGIN.match
_BEGINS = re.compile(rb"\n(?=[Bb\r])\r?(?=[Bb][Ee][Gg][Ii][Nn][ \t-])")
_ENDS = re.compile(rb"end|====", re.IGNORECASE)
_LONGEST_BEGIN_BYTES = 4600
#: `_BLANKS` matches blanks before a line end; `_DISPUTED` matches sequences in quoted-printable
#: that mail clients decode differently.
_BLANKS = re.compile(rb"(?<![ \t])[ \t]++(?=\r?\n|\Z)")
_DISPUTED = re.compile(rb"[ \t](?:\r?\n|\Z)|=(?![0-9A-Fa-f]{2}|\r?\n)")
_SOFT_BREAK = re.compile(rb"=\r?\n")
_ESCAPE = re.compile(rb"=([0-9A-Fa-f]{2})")


class Base64:
    """Decodes base64 up to its padding, as most mail clients do; notes if more base64 follows."""

    def __init__(self) -> None:
        """Prepare to decode from the first byte on."""
        #: `is_disputed`: whether characters of base64 follow the padding, or padding is missing.
        self.is_disputed = False

    def decode(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the decoded bytes."""
        rest = b""
        pads = 0
        is_ended = False
        for piece in pieces:
            if is_ended:
                self.is_disputed = self.is_disputed or bool(piece.translate(None, _OTHERS))
                continue
            kept = [rest]
            count = len(rest)
            parts = piece.split(b"=")
            for number, part in enumerate(parts):
                if number:
                    # Padding in a wrong place, or incomplete padding, is skipped.
                    pads += 1
                    if count % 4 >= 2 and count % 4 + pads >= 4:
                        is_ended = True
                        more = b"".join(parts[number:]).translate(None, _OTHERS)
                        self.is_disputed = self.is_disputed or bool(more)
                        break
                part = part.translate(None, _OTHERS)
                if part:
                    self.is_disputed |= pads > 0
                    pads = 0
                    kept.append(part)
                    count += len(part)
            rest = b"".join(kept)
            whole = count & ~3
            if whole:
                yield binascii.a2b_base64(rest[:whole])
                rest = rest[whole:]
        self.is_disputed = self.is_disputed or (bool(rest) and not is_ended)
        yield from _last(rest)


def base64_in_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the decoded bytes; after padding, another piece of base64 may follow.

    An incomplete group of characters at the end, without padding, is dropped.
    """
    rest = b""
    for piece in pieces:
        parts = (rest + piece.translate(None, _NEITHER)).split(b"=")
        rest = parts.pop()
        for part in filter(None, parts):
            yield from _last(part)
        whole = len(rest) & ~3
        yield binascii.a2b_base64(rest[:whole])
        rest = rest[whole:]


def base64_to_padding(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the decoded bytes up to the first `=`, even if a second `=` is missing."""

    def before() -> Iterator[bytes]:
        for piece in pieces:
            text, padding, _ = piece.partition(b"=")
            yield text
            if padding:
                return

    return Base64().decode(before())


def base64_without_padding(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the decoded bytes; padding is ignored like any other character."""
    return Base64().decode(piece.replace(b"=", b"") for piece in pieces)


def _last(rest: bytes) -> Iterator[bytes]:
    if len(rest) % 4 == 1:
        rest = rest[:-1]
    if rest:
        yield binascii.a2b_base64(rest + b"=" * (-len(rest) % 4))


class QuotedPrintable:
    """Decodes quoted-printable as most mail clients do; notes if some clients differ."""

    def __init__(self) -> None:
        """Prepare to decode from the first byte on."""
        #: `is_disputed`: whether a line has blanks at its end, or an escape lacks its two digits.
        self.is_disputed = False

    def decode(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the decoded bytes; blanks at the ends of lines are kept."""
        for lines in _lines(pieces):
            self.is_disputed = self.is_disputed or _DISPUTED.search(lines) is not None
            yield binascii.a2b_qp(lines)


def quoted_printable_stripped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the decoded bytes; blanks at the ends of lines are dropped, as RFC 2045 requires.

    If two hexadecimal digits do not follow a `=`, the `=` is kept unchanged.
    """
    for lines in _lines(pieces):
        text = _SOFT_BREAK.sub(b"", _BLANKS.sub(b"", lines))
        yield _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), text)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield whole lines; divide a line that is too long, but not within an escape."""
    rest = b""
    for piece in pieces:
        rest += piece
        end = rest.rfind(b"\n") + 1
        if not end and len(rest) > _MAX_LINE_BYTES:
            end = len(rest) - 3
            mark = rest.rfind(b"=", end - 2, end)
            end = mark if mark >= 0 else end
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


class UuFile(msgspec.Struct, frozen=True):
    """A uuencoded file in a text; `error` is the reason if the file cannot be read to its end."""

    name: bytes
    data: bytes
    error: NotReadError | None


class UuFinder:
    """Finds uuencoded files in a text while it is being read.

    Carriage returns at the beginning and the end of a line are ignored.

    Three groups of programs differ about the end of a file. For the first group, the file ends at
    the first line that is not uuencoded; for the second group, at a line that encodes no bytes; for
    the third group, only at the line `end`. Programs of the third group also skip lines of a wrong
    length. If the groups decode different bytes, each result is listed as a file.
    """

    def __init__(self, *, is_old: bool = False) -> None:
        """Prepare to read a text; with `is_old`, a single carriage return also ends a line."""
        self._is_old = is_old
        self.files: list[UuFile] = []
        #: The rest of `_buffer` from the index `_at` on was not searched yet; it begins with a line
        #: end.
        self._buffer, self._at = b"\n", 0
        self._name = b""
        #: The decoded lines of the present file, for each of the three groups of programs.
        self._lines: tuple[list[bytes], list[bytes], list[bytes]] | None = None
        self._is_over = self._is_at_zero = False
        self._is_base64 = False
        self._count = 0

    def watch(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces unchanged, and search them for files."""
        for piece in pieces:
            yield piece
            self._take(piece)
        self._end()

    def _take(self, piece: bytes) -> None:
        text = piece.replace(b"\r", b"\n") if self._is_old else piece
        self._buffer, self._at = self._buffer[self._at :] + text, 0
        self._search()

    def _end(self) -> None:
        self._buffer += b"\n"
        self._search()
        if self._lines is not None:
            self._finish()

    def _search(self) -> None:
        while self._begin() if self._lines is None else self._go_on():
            pass

    def _begin(self) -> bool:
        """Search for the line that begins a file; return False if more bytes are needed."""
        at = self._at
        while found := _BEGINS.search(self._buffer, at):
            start = found.end()
            line = _BEGIN.match(self._buffer, start)
            if line is not None:
                self._name, self._is_base64 = (line[2] or b"").rstrip(), line[1] is not None
                self._lines = ([], [], [])
                self._is_over = self._is_at_zero = False
                # The line end of this line is kept, because the search for the next line begins
                # with it.
                self._at = line.end() - 1
                return True
            is_near_end = len(self._buffer) - start < _LONGEST_BEGIN_BYTES
            if is_near_end and self._buffer.find(b"\n", start) < 0:
                self._at = found.start()
                return False
            at = start
        self._at = max(len(self._buffer) - len(b"\n\rbegin "), at)
        return False

    def _go_on(self) -> bool:
        """Decode the lines of a file; return False if more bytes are needed."""
        at = self._at + 1  # skip the end of the previous line
        while (end := self._buffer.find(b"\n", at)) >= 0:
            if not self._line(self._buffer[at:end].strip(b"\r")):
                # The line that ends a file may also be the first line of another file.
                self._at = at - 1
                self._finish()
                return True
            at = end + 1
        self._at = at - 1
        if len(self._buffer) - self._at > _MAX_LINE_BYTES:
            if self._is_base64:  # some programs decode a base64 line of any length
                self._add(b"", NotReadError(Why.LIMIT, "mail: a line that is too long"))
            self._finish()
            return True
        return False

    def _line(self, line: bytes) -> bool:
        """Decode a line of a file; return False if the file ends, or if another file begins."""
        assert self._lines is not None
        if _ENDS.match(line) or (line[:1] in (b"b", b"B") and _BEGIN.match(line + b"\n")):
            return False
        if not line:
            return True
        try:
            data = binascii.a2b_base64(line) if self._is_base64 else _uu(line)
        except binascii.Error:
            self._is_over, data = True, b""
        is_whole = (len(data) + 2) // 3 == len(line) // 4 and bool(data)
        self._is_at_zero = self._is_at_zero or not data
        takes = (not self._is_over, not self._is_over and not self._is_at_zero, is_whole)
        self._count += len(data) * any(takes)
        if self._count > MAX_UU_BYTES:
            self._lines = ([b""], [], [])
            return True
        for lines, is_taken in zip(self._lines, takes, strict=True):
            if is_taken:
                lines.append(data)
        return True

    def _finish(self) -> None:
        # If no uuencoded line follows, the first line was ordinary text.
        found = [data for data in dict.fromkeys(map(b"".join, self._lines or ())) if data]
        error = None
        if any(self._lines or ()) and (
            self._count > MAX_UU_BYTES or len(self.files) >= _MAX_UU_FILES
        ):
            error = NotReadError(Why.LIMIT, "mail: too much that is uuencoded in one part")
            found = [b""]
        self._lines = None
        for data in found:
            self._add(data, error)

    def _add(self, data: bytes, error: NotReadError | None) -> None:
        if len(self.files) <= _MAX_UU_FILES:
            self.files.append(UuFile(self._name, data, error))


def _uu(line: bytes) -> bytes:
    """Decode a line of uuencode.

    Some programs add bytes to a line; bytes after the length that the line states are ignored.
    """
    length = (line[0] - 32) & 63
    return binascii.a2b_uu(line[: 1 + (length * 4 + 2) // 3])

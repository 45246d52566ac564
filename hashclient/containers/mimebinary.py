"""Finds files that are encoded as yEnc or BinHex in a text; `mimedecode` finds uuencode.

The decoded bytes of a file are kept in memory, up to a limit. If an encoded file is divided over
several mails, each piece is reported as unread. Fixed lines show where a file begins and ends.
Checksums are not compared, because programs decode a file even if its checksum is wrong.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from struct import Struct

from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.mimedecode import MAX_UU_BYTES, UuFile, UuFinder

_MAX_FILES = 1000
_MAX_LINE_BYTES = 64 << 10
#: How many bytes of a `=ypart` line are searched for the number of the piece.
_MAX_PART_LINE_BYTES = 1 << 10

_BEGIN, _PART, _END = b"=ybegin ", b"=ypart ", b"=yend"
_NAME = re.compile(rb" name=([^\r\n]{0,1024})")
_SIZE = re.compile(rb" size=([0-9]{1,18})")
_RANGE = re.compile(rb" begin=([0-9]{1,18}).* end=([0-9]{1,18})")
_MINUS_42 = bytes((byte - 42) & 255 for byte in range(256))

_BINHEX = b"must be converted with BinHex"
_LETTERS = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_AS_BASE64 = bytes.maketrans(_LETTERS, _BASE64)
_OTHERS = bytes(sorted(set(range(256)) - set(_LETTERS)))
_REPEATS = b"\x90"
#: the header of a BinHex file: version, type, creator, flags; the lengths of the data fork and the
#: resource fork; a checksum
_FORKS, _CHECKSUM_BYTES = Struct(">11xLL2x"), 2


class _LineFinder:
    """Searches a text for encoded files while the text is read, beginning at each `_mark`."""

    _mark = b""

    def __init__(self, *, is_old: bool) -> None:
        self._is_old = is_old
        self.files: list[UuFile] = []
        self._rest = b""
        self._kept: bytearray | None = None
        self._is_too_much = False

    def watch(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces unchanged, and search them for files."""
        for piece in pieces:
            yield piece
            text = self._rest + (piece.replace(b"\r", b"\n") if self._is_old else piece)
            if self._is_idle and self._mark not in text:
                self._rest = text[text.rfind(b"\n") + 1 :][:_MAX_LINE_BYTES]
                continue
            *lines, rest = text.split(b"\n")
            for line in lines:
                self._line(line.strip(b"\r"))
            # A longer line is cut after `_MAX_LINE_BYTES`, which are enough to recognise the line.
            # If a cut line belongs to an encoded file, the file is reported as too long.
            self._rest = rest[:_MAX_LINE_BYTES]
            if len(rest) > _MAX_LINE_BYTES and not self._is_idle:
                self._is_too_much = True
        self._line(self._rest)
        self._finish()

    @property
    def _is_idle(self) -> bool:
        return self._kept is None

    def _line(self, line: bytes) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def _keep(self, data: bytes) -> None:
        assert self._kept is not None
        if len(self._kept) + len(data) > MAX_UU_BYTES:
            self._is_too_much = True
        else:
            self._kept += data

    def _found(self, name: bytes, data: bytes, error: NotReadError | None = None) -> None:
        if self._is_too_much or len(self.files) >= _MAX_FILES:
            error = NotReadError(Why.LIMIT, "mail: too much that is encoded in one part")
        if len(self.files) <= _MAX_FILES and (data or error is not None):
            self.files.append(UuFile(name, data, error))
        self._kept, self._is_too_much = None, False


class YencFinder(_LineFinder):
    """Finds files in yEnc."""

    _mark = _BEGIN
    _name = b""
    _size = -1
    _is_whole = True

    def _line(self, line: bytes) -> None:
        if line.startswith(_BEGIN):
            self._finish()
            name, size = _NAME.search(line), _SIZE.search(line)
            self._name = b"" if name is None else name[1].strip()
            self._size = -1 if size is None else int(size[1])
            self._kept, self._is_whole = bytearray(), True
        elif self._kept is None:
            return
        elif line.startswith(_PART):
            found = _RANGE.search(line, 0, _MAX_PART_LINE_BYTES)
            begin, end = (0, 0) if found is None else (int(found[1]), int(found[2]))
            self._is_whole = begin == 1 and end == self._size
        elif line.startswith(_END):
            self._finish()
        else:
            first, *others = line.split(b"=")
            escaped = (bytes([(one[0] - 64) & 255]) + one[1:] for one in others if one)
            self._keep(b"".join((first, *escaped)).translate(_MINUS_42))

    def _finish(self) -> None:
        if self._kept is None:
            return
        error = None
        if not self._is_whole:
            error = NotReadError(Why.UNSUPPORTED, "mail: one part of a file in several")
        self._found(self._name, bytes(self._kept), error)


class BinhexFinder(_LineFinder):
    """Finds files in BinHex 4; each file has a data fork and a resource fork, as on a Macintosh."""

    _mark = _BINHEX
    _is_near = False

    @property
    def _is_idle(self) -> bool:
        return self._kept is None and not self._is_near

    def _line(self, line: bytes) -> None:
        if _BINHEX in line:
            self._finish()
            self._is_near = True
        elif self._kept is not None:
            self._keep(line)
            if line.rstrip().endswith(b":"):
                self._finish()
        elif self._is_near and line.startswith(b":"):
            self._is_near, self._kept = False, bytearray(line[1:])
            if line.rstrip().endswith(b":") and len(line) > 1:
                self._finish()

    def _finish(self) -> None:
        if self._kept is None:
            return
        text = bytes(self._kept).translate(None, _OTHERS).translate(_AS_BASE64)
        self._kept = None
        data = _unpacked(binascii.a2b_base64(text[: len(text) & ~3] + _last(text)))
        if self._is_too_much or data is None:
            self._is_too_much = True
            self._found(b"", b"")
            return
        at = 1 + data[0] if data else 0
        name, header = data[1:at], data[at : at + _FORKS.size]
        lengths = _FORKS.unpack(header) if len(header) == _FORKS.size else ()
        at += _FORKS.size
        for length in lengths:
            fork = data[at : at + length]
            error = None
            if len(fork) < length:
                error = NotReadError(Why.DAMAGED, "mail: a file in BinHex that is cut off")
            self._found(name, fork, error)
            at += length + _CHECKSUM_BYTES


def _last(text: bytes) -> bytes:
    """Return the last characters of base64, padded to four characters."""
    rest = text[len(text) & ~3 :]
    return rest + b"=" * (-len(rest) % 4) if len(rest) > 1 else b""


def _unpacked(data: bytes) -> bytes | None:
    """Decompress bytes: 0x90 and a following number repeat the byte before 0x90.

    Return None if the expanded bytes are too long.
    """
    out, at = bytearray(), 0
    while 0 <= (mark := data.find(_REPEATS, at)) < len(data) - 1:
        out += data[at:mark]
        count = data[mark + 1]
        out += out[-1:] * (count - 1) if count else _REPEATS
        at = mark + 2
        if len(out) > MAX_UU_BYTES:
            return None
    return bytes(out + data[at:])


class FileFinder:
    """Finds files in a text that are encoded as uuencode, yEnc or BinHex."""

    def __init__(self, *, is_old: bool = False) -> None:
        """Prepare to read a text; with `is_old`, a single carriage return also ends a line."""
        self._finders = (
            UuFinder(is_old=is_old),
            YencFinder(is_old=is_old),
            BinhexFinder(is_old=is_old),
        )

    @property
    def files(self) -> list[UuFile]:
        """The found files of all three encodings (uuencode, yEnc and BinHex)."""
        return [file for finder in self._finders for file in finder.files]

    def watch(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces unchanged, and search them for files."""
        for finder in self._finders:
            pieces = finder.watch(pieces)
        return iter(pieces)

"""Decodes the body of one part in each of the ways in which different mail clients decode it.

A part is first decoded in the most usual way. During this read, the bytes of the part are kept, up
to a limit. Afterwards, the kept bytes are decoded in the other ways: by another encoding, by
another rule for padding or blanks, or with other line ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from hashclient.containers.mimedecode import (
    Base64,
    QuotedPrintable,
    base64_in_pieces,
    base64_to_padding,
    base64_without_padding,
    quoted_printable_stripped,
)
from hashclient.containers.mimeheaders import BASE64, QUOTED

#: How many bytes of a part are kept.
MAX_AGAIN_BYTES = 16 << 20
#: How many bytes a text may have to be listed with other line ends.
MAX_TEXT_BYTES = 8 << 20

#: `_BASE64_LINE` matches a line of base64, which may have too much padding. `_LEAST_BASE64`: if
#: lines at the end of a text look like base64 and have fewer bytes in all, they count as other
#: text.
_BASE64_LINE, _LEAST_BASE64 = re.compile(rb"[A-Za-z0-9+/]+=*\r{0,3}"), 32
_EMPTY_LINE = re.compile(rb"\n\r{0,2}\n")

Way = Callable[[Iterable[bytes]], Iterator[bytes]]
_FIELD_OF_PART = re.compile(rb"(?:\A|[\r\n])content-[a-z-]{4,30}[ \t]*:", re.IGNORECASE)


class Kept:
    """Keeps the bytes that are read, up to a limit."""

    def __init__(self, pieces: Iterable[bytes] = ()) -> None:
        """Begin with the given pieces of bytes."""
        self._pieces = list(pieces)
        self._left = MAX_AGAIN_BYTES
        #: Whether more bytes were read than the limit.
        self.is_too_much = False

    def watch(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces unchanged, and keep them."""
        for piece in pieces:
            self._left -= len(piece)
            if self._left >= 0:
                self._pieces.append(piece)
            else:
                self.is_too_much = True
                self._pieces.clear()
            yield piece

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def behind(self, front: bytes) -> Self:
        """Return the concatenation of `front` and the kept bytes."""
        return type(self)([front, *self._pieces])

    def behind_empty_line(self) -> Self | None:
        """Return the kept bytes after the first empty line; None without an empty line."""
        text = b"".join(self._pieces).replace(b"\r\n", b"\n")
        empty = _EMPTY_LINE.search(text)
        return type(self)([text[empty.end() :]]) if empty else None

    def without_last_line(self) -> Self:
        """Return all kept lines except the last line, which may lack a line end."""
        text = b"".join(self._pieces).removesuffix(b"\n").removesuffix(b"\r")
        return type(self)([text[: max(text.rfind(b"\n"), text.rfind(b"\r")) + 1]])

    def base64_at_end(self, *, is_known: bool) -> Self | None:
        """Return the lines of base64 at the end of the kept bytes; None if they are too short.

        A mail client that reads the header in another way may decode the lines of base64 at the
        end. If the header names base64 (`is_known`), lines of base64 are only returned if other
        lines precede them.
        """
        head = next(filter(None, self._pieces), b"").lstrip()
        if is_known and _BASE64_LINE.fullmatch(head.split(b"\n", 1)[0]) is not None:
            return None
        text = b"".join(self._pieces).strip()
        start = end = len(text)
        while end > 0:
            begin = text.rfind(b"\n", 0, end) + 1
            if _BASE64_LINE.fullmatch(text, begin, end) is None:
                break
            start, end = begin, begin - 1
        return type(self)([text[start:]]) if len(text) - start >= _LEAST_BASE64 else None

    @property
    def has_last_end(self) -> bool:
        """Whether the last line of the kept bytes ends with a line end."""
        return bool(self._pieces) and self._pieces[-1].endswith(b"\n")

    @property
    def has_parts(self) -> bool:
        """Whether the kept text may contain parts, because a line begins with a field of a part."""
        return _FIELD_OF_PART.search(b"".join(self._pieces)) is not None


class Stored:
    """The kept bytes of a part, as a stream."""

    def __init__(self, kept: Kept) -> None:
        """Create a stream that begins at the first kept byte."""
        self._pieces = iter(kept)
        self._rest = b""

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes; see `Stream.read`."""
        piece = self._rest or next(self._pieces, b"")
        self._rest = piece[count:]
        return piece[:count]


class Decoding:
    """Decodes one part in the most usual way; `is_disputed`: whether other ways would differ."""

    def __init__(self, encoding: bytes) -> None:
        """Prepare to decode a part; `encoding` is the encoding in the header of the part."""
        self._decoder: Base64 | QuotedPrintable | _Same = _DECODERS.get(encoding, _Same)()

    def decode(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the decoded bytes of the part."""
        return self._decoder.decode(pieces)

    @property
    def is_disputed(self) -> bool:
        """Whether other ways decode the part to other bytes."""
        return self._decoder.is_disputed


class _Same:
    """The decoder for a part without an encoding, or with an encoding that no program decodes."""

    is_disputed = False

    def decode(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the bytes unchanged."""
        return iter(pieces)


_DECODERS: dict[bytes, type[Base64 | QuotedPrintable]] = {
    BASE64: Base64,
    QUOTED: QuotedPrintable,
}


def first_way(encoding: bytes) -> Way:
    """Return a function that decodes an encoding in the most usual way."""
    return lambda pieces: Decoding(encoding).decode(pieces)


def other_ways(encoding: bytes) -> list[Way]:
    """Return functions that decode an encoding in the other ways."""
    if encoding == BASE64:
        return [base64_in_pieces, base64_to_padding, base64_without_padding]
    return [quoted_printable_stripped] if encoding == QUOTED else []


def other_texts(
    pieces: Iterable[bytes], *, is_cut: bool = False, is_open: bool = False
) -> list[bytes]:
    """Return variants of a text, with the line ends of other systems.

    The list is empty if the text is too long or has no line ends.

    With `is_cut`, a variant has an additional line end after its last line, because some programs
    add a line end. With `is_open`, a variant lacks its last line end, because some programs take
    this line end for a part of a boundary.
    """
    found, left = [], MAX_TEXT_BYTES
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            return []
        found.append(piece)
    text = b"".join(found)
    plain = text.replace(b"\r\n", b"\n")
    ways = [plain, plain + b"\n"] if is_cut else [plain]
    if is_open:
        ways.append(plain.removesuffix(b"\n"))
    both = (each for way in ways for each in (way, way.replace(b"\n", b"\r\n")))
    return [other for other in dict.fromkeys(both) if other != text]

"""The expander of TNEF, Outlook's `winmail.dat`: attachments, and messages attached to them.

A TNEF stream is a sequence of attributes, which is read once, forwards. Attachments are returned
while the stream is read; the MAPI properties, which contain attached messages and bodies in HTML,
are read into memory, up to a limit. Bodies in compressed RTF are no files and are not opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from struct import Struct
from struct import error as StructError  # noqa: N812

from hashclient.containers.forward import PIECE_BYTES, Forward, in_pieces
from hashclient.containers.interface import Data, Member, NotReadError, Stream, Unlisted, Why

MARK = b"\x78\x9f\x3e\x22"
_HEAD_BYTES = 6
#: an attribute: level, number and type, length
_ATTRIBUTE = Struct("<BLL")
_LEVELS = (1, 2)
_MAX_PROPERTIES_BYTES = 32 << 20
_MAX_TITLE_BYTES = 4096
#: The most values of one property.
_MAX_VALUES = 1 << 16

#: A mask for the number of an attribute; the upper half is the type, which programs ignore.
_ATTRIBUTES = 0xFFFF
_ATTACH_BEGIN, _ATTACH_TITLE, _ATTACH_DATA = 0x9002, 0x8010, 0x800F
_ATTACH_PROPERTIES, _MESSAGE_PROPERTIES = 0x9005, 0x9003

_UNSIGNED = Struct("<L")
_TAG = Struct("<HH")
#: By type: the length of a value in bytes. A value of another type begins with its length.
_FIXED = {2: 4, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 10: 4, 11: 4, 20: 8, 64: 8, 72: 16}
_OBJECT, _STRINGS, _BINARY = 13, (30, 31), 258
_MANY = 0x1000
_NAMED = 0x8000
_PROPERTY_DATA, _PROPERTY_HTML = 0x3701, 0x1013
_PROPERTY_NAMES = (0x3707, 0x3704)
#: The length of the interface identifier that precedes an attached object, in bytes.
_IDENTIFIER_BYTES = 16


class Tnef:
    """The expander of TNEF streams."""

    name = "tnef"
    seeks = False

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the attachments one by one.

        The caller reads each attachment before it takes the next attachment.
        """
        source = Forward(data)
        source.skip(_HEAD_BYTES)
        title = b""
        number = 0
        while head := source.take(_ATTRIBUTE.size):
            if len(head) < _ATTRIBUTE.size or head[0] not in _LEVELS:
                raise NotReadError(Why.DAMAGED, "tnef: an invalid attribute")
            _, attribute, length = _ATTRIBUTE.unpack(head)
            attribute &= _ATTRIBUTES
            left = length
            if attribute == _ATTACH_BEGIN:
                title = b""
            elif attribute == _ATTACH_TITLE:
                taken = source.take(min(length, _MAX_TITLE_BYTES))
                left -= len(taken)
                title = taken.split(b"\0", 1)[0]
            elif attribute == _ATTACH_DATA:
                number += 1
                value = _Value(source, length)
                name = title or b"attachment-%d" % number
                yield [Member(name, length, is_exact=True, chunks=value.chunks)]
                left = value.left
            elif attribute in (_ATTACH_PROPERTIES, _MESSAGE_PROPERTIES):
                if length > _MAX_PROPERTIES_BYTES:
                    yield Unlisted(title, Why.LIMIT, f"tnef: properties of {length} bytes")
                else:
                    taken = source.take(length)
                    left -= len(taken)
                    if not left:
                        yield from _properties(taken, title)
            if source.skip(left) < left or len(source.take(2)) < 2:
                raise NotReadError(Why.DAMAGED, "tnef: ends within an attribute")


class _Value:
    """The bytes of one attribute, which are returned only once."""

    def __init__(self, source: Forward, length: int) -> None:
        self._source = source
        self.left = length

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of the attribute."""
        while self.left:
            piece = self._source.some(min(self.left, PIECE_BYTES))
            if not piece:
                raise NotReadError(Why.DAMAGED, "tnef: ends within an attribute")
            self.left -= len(piece)
            yield piece


def _properties(text: bytes, title: bytes) -> Iterator[list[Member] | Unlisted]:
    """Yield the objects that are attached in MAPI properties."""
    name = title
    found: list[tuple[int, bytes]] = []
    error: NotReadError | None = None
    try:
        for kind, number, value in _parse(text):
            if number in _PROPERTY_NAMES and kind == _STRINGS[0]:
                name = value.split(b"\0", 1)[0] or name
            elif number in _PROPERTY_NAMES and kind == _STRINGS[1]:
                name = value.decode("utf-16-le", "replace").split("\0", 1)[0].encode() or name
            elif number == _PROPERTY_DATA and kind == _OBJECT:
                found.append((number, value[_IDENTIFIER_BYTES:]))
            elif number in (_PROPERTY_DATA, _PROPERTY_HTML) and kind == _BINARY:
                found.append((number, value))
    except (StructError, NotReadError):
        error = NotReadError(Why.DAMAGED, "tnef: invalid properties")
    for number, value in found:
        shown = name if number == _PROPERTY_DATA else b"body.html"
        chunks = partial(in_pieces, value)
        yield [Member(shown, len(value), is_exact=True, chunks=chunks)]
    if error is not None:
        yield Unlisted(title, error.why, error.detail)


def _parse(text: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the type, number and value of each MAPI property whose value states its length.

    Raises:
        NotReadError: a type is unknown, or a value extends beyond the end. struct.error: the
            properties end too early.
    """
    (count,) = _UNSIGNED.unpack_from(text, 0)
    at = 4
    for _ in range(count):
        kind, number = _TAG.unpack_from(text, at)
        at += 4
        if number >= _NAMED:
            at += 16
            is_string, length = _UNSIGNED.unpack_from(text, at)[0], 0
            at += 4
            if is_string:
                (length,) = _UNSIGNED.unpack_from(text, at)
            at += 4 + _padded(length)
        is_many, kind = kind & _MANY, kind & ~_MANY
        values = 1
        if is_many or kind not in _FIXED:
            (values,) = _UNSIGNED.unpack_from(text, at)
            at += 4
        if values > _MAX_VALUES or not (kind in _FIXED or kind in (_OBJECT, _BINARY, *_STRINGS)):
            raise NotReadError(Why.DAMAGED, "tnef: an invalid property")
        for _ in range(values):
            if kind in _FIXED:
                at += _FIXED[kind]
                continue
            (length,) = _UNSIGNED.unpack_from(text, at)
            at += 4
            if at + length > len(text):
                raise NotReadError(Why.DAMAGED, "tnef: a value that is cut off")
            yield kind, number, text[at : at + length]
            at += _padded(length)


def _padded(length: int) -> int:
    return length + -length % 4

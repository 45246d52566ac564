"""The expander of lha archives, whose headers it rewrites to a form that libarchive reads.

libarchive requires file attributes that only programs for DOS write. libarchive does not support
the method lh4, which is lh5 with a smaller window. libarchive also stops at a name that is invalid
in the current character set.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from msgspec.structs import replace

from hashclient.containers.forward import Forward
from hashclient.containers.interface import Data, Member, Stream, Unlisted
from hashclient.containers.libarchive import LINK, Libarchive

#: Offsets and sizes in the header of an lha member.
_METHOD, _PACKED, _ATTRIBUTES, _LEVEL, _FIELDS = 2, 7, 19, 20, 24
_NAME, _LEAST, _ARCHIVED, _TO_THE_END = 22, 22, 0x20, 1 << 62
_SUM_BITS = 0xA001
#: A character set in which each name is valid, because libarchive would otherwise stop at a
#: Japanese name.
_ANY_NAME = b"hdrcharset=ISO-8859-1"


class _UsualHeaders:
    """The bytes of an lha, with headers that are rewritten for libarchive.

    If the checksum of a header was right, it is computed again after the rewriting; otherwise it
    stays wrong.
    """

    def __init__(self, data: Stream) -> None:
        self._data = Forward(data)
        self._left = 0  # the number of bytes until the next header

    def read(self, count: int) -> bytes:
        if not self._left:
            head = self._data.peek(_LEAST)
            level = head[_LEVEL] if len(head) == _LEAST else 3
            length = head[0] + 2 if level < 2 else int.from_bytes(head[:2], "little")
            if level > 2 or length < _LEAST or head[_METHOD] != ord("-"):
                self._left = _TO_THE_END
            else:
                self._left = int.from_bytes(head[_PACKED : _PACKED + 4], "little")
                return _usual(self._data.take(length), level)
        piece = self._data.some(min(count, self._left))
        self._left -= len(piece)
        return piece


def _usual(header: bytes, level: int) -> bytes:
    usual = bytearray(header)
    if header.startswith(b"-lh4-", _METHOD):
        usual[_METHOD : _METHOD + 5] = b"-lh5-"
    if level:
        usual[_ATTRIBUTES] = _ARCHIVED
    if level < 2:
        name = slice(_NAME, _NAME + usual[_NAME - 1])
        # 0xff separates directories in lha names, but `/` separates directories on Unix.
        usual[name] = usual[name].replace(b"\xff", b"/")
        usual[1] = usual[1] + sum(usual[2:]) - sum(header[2:]) & 0xFF
    elif usual != header and (at := _sum_at(header)):
        if header[at : at + 2] == _sum(header, at):
            usual[at : at + 2] = _sum(usual, at)
    return bytes(usual)


def _sum_at(header: bytes) -> int:
    """Return the offset of the checksum in a header of level 2; 0 if the header has no checksum."""
    at = _FIELDS
    while (length := int.from_bytes(header[at : at + 2], "little")) > 2:
        if header[at + 2 : at + 3] == b"\0":
            return at + 3
        at += length
    return 0


def _sum(header: bytes | bytearray, at: int) -> bytes:
    """Return the checksum (CRC-16/ARC) of a header, after its checksum field was set to zero."""
    crc, steps = 0, _steps()
    for byte in header[:at] + bytes(2) + header[at + 2 :]:
        crc = crc >> 8 ^ steps[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


@functools.cache
def _steps() -> list[int]:
    """Return the table of CRC-16/ARC, which has a number for each byte value."""
    steps = list(range(256))
    for _ in range(8):
        steps = [crc >> 1 ^ _SUM_BITS * (crc & 1) for crc in steps]
    return steps


class Lha(Libarchive):
    """The expander of lha archives."""

    def length(self, data: Data) -> int:
        """See `behind.Begun`.

        The checksum of the first header shows whether an lha archive begins, but no field states
        the end of the archive.
        """
        head = data.read_at(0, _LEAST)
        if len(head) < _LEAST or head[_METHOD + 4] != ord("-"):
            return 0
        level = head[_LEVEL]
        header = data.read_at(0, head[0] + 2 if level < 2 else int.from_bytes(head[:2], "little"))
        if level == 2:
            at = _sum_at(header)
            is_one = at > 0 and header[at : at + 2] == _sum(header, at)
        else:
            is_one = level < 2 and len(header) > _LEAST and header[1] == sum(header[2:]) & 0xFF
        return data.size if is_one else 0

    def _has_bytes(self, kind: int, size: int | None) -> bool:
        # libarchive takes any entry with the mode of a link for a link, and states no size, but
        # other programs extract the bytes of the entry as a file.
        return kind == LINK or super()._has_bytes(kind, size)

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """See `Expander`."""
        for found in self.with_options(_UsualHeaders(data), _ANY_NAME):
            if isinstance(found, Unlisted):
                yield Unlisted(_as_it_stands(found.name), found.why, found.detail)
            else:
                yield [replace(one, name=_as_it_stands(one.name)) for one in found]


def _as_it_stands(name: bytes) -> bytes:
    """Return the unchanged bytes that a name has in the archive."""
    try:
        return name.decode().encode("latin-1")
    except UnicodeError:
        return name

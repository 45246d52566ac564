"""Expanders that use libarchive, and checks for damage that libarchive does not report.

libarchive lists no member of a rar that began in another volume, and does not report a damaged
header of a cpio. It takes the bytes of a member of a rar for a path if the mode says that the
member is a link, but 7-Zip extracts the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from struct import Struct
from typing import cast
from zlib import crc32

from hashclient.containers.cab import Cab
from hashclient.containers.compressed import Zstd
from hashclient.containers.decoding import HAS_ZSTD
from hashclient.containers.forward import Forward, pieces_of
from hashclient.containers.interface import (
    Data,
    Expander,
    Member,
    NotReadError,
    Stream,
    Unlisted,
    Why,
)
from hashclient.containers.iso import DiskImage
from hashclient.containers.kinds import OLD_ZSTD
from hashclient.containers.lha import Lha
from hashclient.containers.libarchive import Filtered, Libarchive, is_here
from hashclient.containers.sevenzip import SevenZip

#: a block header of rar 4: checksum, type, flags, length of the header, length of the data after it
_RAR = Struct("<2xBHHL")
_RAR_FILE, _RAR_HAS_DATA, _RAR_IS_SPLIT, _RAR_IS_LARGE, _RAR_NAME_AT = 0x74, 0x8000, 3, 0x100, 32
_RAR_MAIN, _RAR_LEAST_BYTES, _RAR4_MARK_BYTES, _RAR5_MARK_BYTES = 0x73, 7, 7, 8
_RAR5_FILE, _RAR5_CRYPT, _RAR5_IS_SPLIT = 2, 4, 0x18
#: Offsets in the header of a member of rar 4: its system, its method, and the kind in its mode.
_RAR_SYSTEM_AT, _RAR_METHOD_AT, _RAR_KIND_AT = 15, 25, 29
_RAR_UNIX, _RAR_STORED, _RAR_IS_ENCRYPTED = 3, 0x30, 4
_KIND_BITS, _LINK_BITS = 0xF0, 0xA0
_IN_ANOTHER_VOLUME = "rar: a part of it is in another volume"
#: The longest header by the documentation of rar, in bytes.
_RAR_MAX_BYTES = 2 << 20
_COMPRESS_FLAGS_AT, _COMPRESS_FLAGS = 2, 0x9F
#: A frame of zstd without content, which decoders skip.
_SKIPPED_FRAME = b"\x50\x2a\x4d\x18" + bytes(4)


class Rar(Libarchive):
    """The expander of rar archives, version 4 or 5."""

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """See `Expander`."""
        data = cast(Data, data)
        yield from (_left_out_of_5 if self.name == "rar5" else _left_out_of_4)(data)
        yield from super().members(data)

    def length(self, data: Data) -> int:
        """See `behind.Begun`.

        The checksum of the first header shows whether a rar begins, but no field states the end of
        the rar.
        """
        begins = _begins_5 if self.name == "rar5" else _begins_4
        return data.size if begins(data) else 0


def _begins_4(data: Data) -> bool:
    head = data.read_at(_RAR4_MARK_BYTES, _RAR.size)
    length = int.from_bytes(head[5:7], "little")
    if len(head) < _RAR.size or head[2] != _RAR_MAIN or length < _RAR_LEAST_BYTES:
        return False
    crc = crc32(data.read_at(_RAR4_MARK_BYTES + 2, length - 2)) & 0xFFFF
    return crc == int.from_bytes(head[:2], "little")


def _begins_5(data: Data) -> bool:
    head = data.read_at(_RAR5_MARK_BYTES, 64)
    length, start = _seven_bits(head, 4)
    return len(head) > start and crc32(head[4 : start + length]) == int.from_bytes(
        head[:4], "little"
    )


def _left_out_of_4(data: Data) -> Iterator[list[Member] | Unlisted]:
    """Yield the members of a rar 4 that libarchive does not list, or takes for links."""
    at = _RAR4_MARK_BYTES
    while len(head := data.read_at(at, _RAR_NAME_AT + 4)) >= _RAR.size:
        kind, flags, length, packed = _RAR.unpack_from(head)
        if length < _RAR_LEAST_BYTES:
            return
        is_file, is_large = kind == _RAR_FILE, flags & _RAR_IS_LARGE
        if is_file and is_large:
            packed += int.from_bytes(head[32:36], "little") << 32
        is_link = packed and len(head) >= _RAR_NAME_AT and head[_RAR_SYSTEM_AT] >= _RAR_UNIX
        is_link = is_link and head[_RAR_KIND_AT] & _KIND_BITS == _LINK_BITS
        if is_file and (is_link or flags & _RAR_IS_SPLIT):
            count = int.from_bytes(head[26:28], "little")
            name = data.read_at(at + _RAR_NAME_AT + (8 if is_large else 0), count)
            name = name.partition(b"\0")[0]
            if flags & _RAR_IS_SPLIT:
                yield Unlisted(name, Why.UNSUPPORTED, _IN_ANOTHER_VOLUME)
            elif head[_RAR_METHOD_AT] == _RAR_STORED and not flags & _RAR_IS_ENCRYPTED:
                chunks = partial(pieces_of, data, at + length, packed)
                yield [Member(name, packed, is_exact=False, chunks=chunks)]
            else:
                yield Unlisted(name, Why.UNSUPPORTED, "rar: a link whose bytes are packed")
        at += length + (packed if flags & _RAR_HAS_DATA or is_file else 0)


def _left_out_of_5(data: Data) -> Iterator[Unlisted]:
    """Yield the members of a rar 5 that libarchive does not list."""
    at = _RAR5_MARK_BYTES
    while head := data.read_at(at, 64):
        length, start = _seven_bits(head, 4)
        if not 0 < length <= _RAR_MAX_BYTES:
            return
        block = data.read_at(at + start, length)
        at += start + length
        kind, place = _seven_bits(block, 0)
        if kind == _RAR5_CRYPT:
            return
        flags, place = _seven_bits(block, place)
        extra, place = _seven_bits(block, place) if flags & 1 else (0, place)
        packed, place = _seven_bits(block, place) if flags & 2 else (0, place)
        at += packed
        if kind == _RAR5_FILE and flags & _RAR5_IS_SPLIT:
            # The length of the name and the name are directly before the extra area.
            name = _last_name(block[place : len(block) - extra])
            yield Unlisted(name, Why.UNSUPPORTED, _IN_ANOTHER_VOLUME)


def _last_name(fields: bytes) -> bytes:
    """Return the name of a member; `fields` are the fields of its header before the extra area."""
    flags, place = _seven_bits(fields, 0)
    for _ in range(2):  # skip the size and the attributes
        _, place = _seven_bits(fields, place)
    place += 4 * (flags >> 1 & 1) + 4 * (flags >> 2 & 1)  # skip the time and the checksum
    for _ in range(2):  # skip the method and the operating system
        _, place = _seven_bits(fields, place)
    length, place = _seven_bits(fields, place)
    return fields[place : place + length]


def _seven_bits(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at the offset `at`, which has seven bits in each byte, and its end."""
    value = shift = 0
    for byte in data[at : at + 10]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at


class _Cleared:
    """The bytes of a `.Z` file, without two flags that only libarchive refuses."""

    def __init__(self, data: Stream) -> None:
        self._data = data
        self._position = 0

    def read(self, count: int) -> bytes:
        piece = self._data.read(count)
        at = _COMPRESS_FLAGS_AT - self._position
        self._position += len(piece)
        if 0 <= at < len(piece):
            piece = piece[:at] + bytes([piece[at] & _COMPRESS_FLAGS]) + piece[at + 1 :]
        return piece


class Compress(Filtered):
    """The expander of `.Z` files, which the program compress writes."""

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """See `Expander`."""
        yield from super().members(_Cleared(data))


#: Matches a text header of cpio; its groups are the lengths of the member and of its name, which
#: are hexadecimal or octal.
_CPIO = re.compile(
    rb"07070[12](?=[0-9A-Fa-f]{104}).{48}(.{8}).{32}(.{8})|070707(?=[0-7]{70}).{53}(.{6})(.{11})"
)
_NEWC_BYTES, _ODC_BYTES, _LAST = 110, 76, b"TRAILER!!!\0"


class _Headers:
    """The bytes of a cpio; its text headers are checked while the bytes are read.

    libarchive skips a damaged header, and reports no error if this header is the last.
    """

    def __init__(self, data: Stream) -> None:
        self._data = data
        self._ahead = b""
        self._at = 0  # the offset of the next header in `_ahead`
        self._is_over = self._is_text = False
        self.is_damaged = False

    def read(self, count: int) -> bytes:
        piece = self._data.read(count)
        self._ahead += b"" if self._is_over else piece
        while not self._is_over and len(self._ahead) >= self._at + _NEWC_BYTES + len(_LAST):
            self._next()
        kept = min(self._at, len(self._ahead))
        self._ahead = self._ahead[kept:]
        self._at -= kept
        return piece

    def _next(self) -> None:
        """Skip a header, its name and its member; note a damaged or last header."""
        found = _CPIO.match(self._ahead, self._at)
        if found is None:
            self._is_over = True
            self.is_damaged = self._is_text or self._ahead.startswith(b"0707", self._at)
            return
        self._is_text = True
        size, name, odc_name, odc_size = found.groups()
        length = _NEWC_BYTES if size else _ODC_BYTES
        self._is_over = self._ahead.startswith(_LAST, self._at + length)
        if size:
            name_bytes = -(-(length + int(name, 16)) // 4) * 4
            self._at += name_bytes + -(-int(size, 16) // 4) * 4
        else:
            self._at += length + int(odc_name, 8) + int(odc_size, 8)


class Cpio(Libarchive):
    """The expander of cpio archives."""

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """See `Expander`."""
        headers = _Headers(data)
        try:
            yield from super().members(headers)
        except NotReadError:
            if not headers.is_damaged:
                raise
        if headers.is_damaged:
            yield Unlisted(b"", Why.DAMAGED, "cpio: a header that is damaged")


_READERS: dict[str, Callable[..., Libarchive | Filtered]] = {
    "7zip": partial(SevenZip, seeks=True),
    "rar5": partial(Rar, seeks=True, ignores_types=True),
    "rar": partial(Rar, seeks=True, ignores_types=True),
    "cab": Cab,
    "cpio": partial(Cpio, is_exact=True),
    "ar": partial(Libarchive, is_exact=True, ignores_types=True),
    "xar": partial(Libarchive, seeks=True, ignores_types=True),
    "lha": Lha,
    "compress": Compress,
    "warc": partial(Libarchive, is_exact=True),
    "iso9660": partial(DiskImage, seeks=True, is_exact=True),
}
_DECRYPTS = frozenset({"7zip", "rar5", "rar"})


def reader(name: str, passwords: tuple[bytes, ...]) -> Libarchive | Filtered:
    """Return the expander of a kind; if libarchive is missing, the expander reports this."""
    if name in _DECRYPTS:
        return _READERS[name](name, passwords=passwords)
    return _READERS.get(name, Filtered)(name)


class _Behind:
    """Some bytes, and the bytes of a stream behind them."""

    def __init__(self, front: bytes, source: Forward) -> None:
        self._front = front
        self._source = source

    def read(self, count: int) -> bytes:
        piece, self._front = self._front, b""
        return piece or self._source.some(count)


class OldZstd(Filtered):
    """The expander of zstd, also of old versions.

    libarchive recognises a frame of an old version only behind another frame.
    """

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """See `Expander`."""
        source = Forward(data)
        is_old = source.peek(len(OLD_ZSTD[0])) in OLD_ZSTD
        yield from super().members(_Behind(_SKIPPED_FRAME if is_old else b"", source))


def zstd(name: str, _passwords: tuple[bytes, ...]) -> Expander:
    """Return the expander of zstd: Python's decoder is used only if libarchive is missing."""
    return Zstd() if HAS_ZSTD and not is_here() else OldZstd(name)

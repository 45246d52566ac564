"""The expander of 7z archives: libarchive reads them, except methods that libarchive refuses.

The members of a 7z are in folders, each of which is packed by one or more steps. libarchive does
not support Deflate64. It undoes a filter (Delta, or the conversion of branch addresses) only after
some methods, and accepts a copy step only if it is the only step. If a folder has other steps, this
module parses the header and passes each folder to libarchive as a separate archive without the
refused steps. This module then undoes the filters with liblzma.

Limits: an archive is passed to libarchive unchanged if its header is longer than
`_MOST_HEADER_BYTES`, or if a folder has a password, several packed streams (BCJ2) or a filter that
liblzma lacks.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from functools import partial
from struct import Struct
from typing import cast
from zlib import crc32

from hashclient.containers import zipold
from hashclient.containers.forward import PIECE_BYTES, Forward, Joined, pieces_of
from hashclient.containers.interface import Data, Member, NotReadError, Stream, Unlisted, Why
from hashclient.containers.libarchive import LINK, Libarchive
from hashclient.containers.sevenzipheader import (
    FILES,
    FOLDER_SIZES,
    FOLDERS,
    HAS_PROPERTIES,
    HEAD_BYTES,
    HEADER,
    NAMES,
    PACKED,
    PARTS,
    SIZES,
    STREAMS,
    SUM,
    UNPACKED,
    Coder,
    Folder,
    Header,
    Part,
)

_MARK = b"7z\xbc\xaf\x27\x1c\0\4"
_START = Struct("<2QL")
#: If the offset of the last header is unknown, 7-Zip searches for the header in the last
#: `_END_BYTES` bytes; `_HEADERS`: the possible first bytes of the last header.
_END_BYTES = 512
_HEADERS = (b"\x17\x06", b"\x01\x04")
_MOST_HEADER_BYTES = 16 << 20
#: How often the header may be packed, with each packed header in another packed header.
_MOST_PACKED = 4

_LZMA, _LZMA2, _DEFLATE64, _DELTA, _X86 = b"\3\1\1", b"\x21", b"\4\1\x09", b"\3", b"\3\3\1\3"
#: The number of the copy method, which copies the bytes unchanged. An empty number also means the
#: copy method.
_COPY = b"\0"
_FILTERS = {
    _DELTA: lzma.FILTER_DELTA,
    _X86: lzma.FILTER_X86,
    b"\3\3\2\5": lzma.FILTER_POWERPC,
    b"\3\3\4\1": lzma.FILTER_IA64,
    b"\3\3\5\1": lzma.FILTER_ARM,
    b"\3\3\7\1": lzma.FILTER_ARMTHUMB,
    b"\3\3\x08\5": lzma.FILTER_SPARC,
}
#: The length of the magic bytes and the format version at the beginning of a 7z; 7-Zip compares
#: only the first number of the version.
_VERSION_END = 8
#: The size of an uncompressed chunk of LZMA2, in bytes.
_PLAIN_BYTES = 1 << 16


class SevenZip(Libarchive):
    """The expander of 7z archives."""

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """See `Expander`."""
        data = cast(Data, data)
        head = data.read_at(0, HEAD_BYTES)
        if len(head) == HEAD_BYTES and not any(head[_VERSION_END:]):
            header = _last_header(data)
            if not header:
                yield Unlisted(b"", Why.DAMAGED, "7z: no header at its end")
                return
            start = _start(data.size - len(header) - HEAD_BYTES, header)
            data = Joined(start, data, HEAD_BYTES, data.size - HEAD_BYTES)
        try:
            parts = _refused(data)
        except (ValueError, LookupError, NotReadError):
            parts = []  # libarchive reports the error
        yield from _members(data, parts) if parts else super().members(data)

    def length(self, data: Data) -> int:
        """See `behind.Begun`.

        The first header of a 7z has a checksum, and states the end of the last header.

        If the first header contains zeros in place of this end, 7-Zip searches for the last header
        at the end of the file.
        """
        head = data.read_at(0, HEAD_BYTES)
        if len(head) == HEAD_BYTES and not any(head[_VERSION_END:]) and _last_header(data):
            return data.size
        if len(head) < HEAD_BYTES or crc32(head[12:]) != int.from_bytes(head[8:12], "little"):
            return 0
        offset, length, _ = _START.unpack_from(head, 12)
        return int(HEAD_BYTES + offset + length)

    def _has_bytes(self, kind: int, size: int | None) -> bool:
        # A member without a type counts as a file, because a 7z states the type of a member only in
        # optional attributes.
        return bool(size) and kind != LINK


def _last_header(data: Data) -> bytes:
    """Return the header at the end of an archive; no bytes if no header is found there."""
    end = data.read_at(max(HEAD_BYTES, data.size - _END_BYTES), _END_BYTES)
    at = max(end.rfind(mark) for mark in _HEADERS)
    return end[at:] if at >= 0 else b""


def _start(offset: int, header: bytes) -> bytes:
    """Return the first header of an archive, which contains the place of the last header."""
    fields = _START.pack(offset, len(header), crc32(header))
    return _MARK + SUM.pack(crc32(fields)) + fields


def _refused(data: Data) -> list[Part]:
    """Return all members if libarchive might refuse one of them, or else an empty list.

    Raises:
        ValueError: this module cannot read the archive.
        LookupError: this module cannot read the archive.
        NotReadError: the header cannot be read.
    """
    header = _header(data)
    if header.says_parts and not any(map(_is_refused, header.folders)):
        return []
    for folder in header.folders:
        for method, properties, _ in _steps(folder)[1:]:
            if method not in _FILTERS or len(properties) != (method == _DELTA):
                raise ValueError(method)
    return header.members()


def _header(data: Data) -> Header:
    offset, length, crc = _START.unpack_from(data.read_at(0, HEAD_BYTES).ljust(HEAD_BYTES), 12)
    if length > _MOST_HEADER_BYTES or offset + length > data.size:
        raise ValueError(length)
    raw = data.read_at(HEAD_BYTES + offset, length)
    for _ in range(_MOST_PACKED):
        if crc32(raw) != crc:
            raise ValueError(crc)
        header = Header(raw)
        if not header.is_packed:
            return header
        (folder,) = header.folders
        if folder.size > _MOST_HEADER_BYTES:
            raise ValueError(folder.size)
        raw, crc = b"".join(_unpacked(data, folder)), folder.crc
    raise ValueError(_MOST_PACKED)


def _steps(folder: Folder) -> list[Coder]:
    """Return a folder's coders in the order of unpacking: first a method, then filters."""
    coders = [coder for coder in folder.coders if coder.method.strip(_COPY)]
    if coders and coders[0].method not in _FILTERS:
        return coders
    return [Coder(_COPY, b"", folder.packed), *coders]


def _is_refused(folder: Folder) -> bool:
    """Return whether libarchive may refuse a folder.

    The result may be True for a folder that libarchive can unpack.
    """
    if (steps := _steps(folder)) != folder.coders:
        return True
    first, *filters = [coder.method for coder in steps]
    is_read = not filters or first == _LZMA2 or (first, *filters) == (_LZMA, _X86)
    return first == _DEFLATE64 or not is_read or len(filters) > 1


def _members(data: Data, parts: list[Part]) -> Iterator[list[Member]]:
    """Yield the members; the caller reads each member before it takes the next member."""
    folder, out = None, None
    for part in parts:
        if out is None or part.folder is not folder:
            folder, out = part.folder, Forward(_Unpacked(data, part.folder))
        yield [Member(part.name, part.size, False, partial(_chunks, out, part))]  # noqa: FBT003 - a field


class _Unpacked:
    """The unpacked bytes of a folder, as a stream."""

    def __init__(self, data: Data, folder: Folder) -> None:
        self._pieces = _unpacked(data, folder)

    def read(self, _: int) -> bytes:
        return next(self._pieces, b"")


def _chunks(out: Forward, part: Part) -> Iterator[bytes]:
    """Skip the bytes before a member, and yield the bytes of the member."""
    out.skip(part.start - out.position)
    left, found = part.size, 0
    while left and (piece := out.some(min(left, PIECE_BYTES))):
        left, found = left - len(piece), crc32(piece, found)
        yield piece
    if left:
        raise NotReadError(Why.DAMAGED, "7z: ends too early")
    if part.crc not in (None, found):
        raise NotReadError(Why.DAMAGED, "7z: a checksum does not agree")


def _unpacked(data: Data, folder: Folder) -> Iterator[bytes]:
    """Yield the unpacked bytes of a folder.

    Raises:
        NotReadError: the folder is damaged, or packed by a method that libarchive does not support.
    """
    if folder.start + folder.packed > data.size:
        raise NotReadError(Why.DAMAGED, "7z: ends too early")
    first, *filters = _steps(folder)
    if not _is_refused(folder):
        return _by_library(data, folder, folder.coders)
    packed = pieces_of(data, folder.start, folder.packed)
    if first.method == _COPY:
        pieces = packed
    elif first.method == _DEFLATE64:
        old = zipold.Old(zipold.DEFLATED64, 0, first.size, lambda: next(packed, b""))
        pieces = old.chunks()
    else:
        pieces = _by_library(data, folder, [first])
    return _filtered(pieces, filters) if filters else pieces


def _filtered(pieces: Iterator[bytes], filters: list[Coder]) -> Iterator[bytes]:
    """Undo filters with liblzma.

    The bytes are wrapped in LZMA2, because liblzma undoes filters only together with a method.
    """
    chain = [
        {"id": _FILTERS[method]} | ({"dist": properties[0] + 1} if method == _DELTA else {})
        for method, properties, _ in reversed(filters)
    ]
    lzma2 = {"id": lzma.FILTER_LZMA2, "dict_size": _PLAIN_BYTES}
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[*chain, lzma2])
    for piece in pieces:
        for at in range(0, len(piece), _PLAIN_BYTES):
            plain = piece[at : at + _PLAIN_BYTES]
            yield decoder.decompress(b"\1" + (len(plain) - 1).to_bytes(2, "big") + plain)
    yield decoder.decompress(b"\0")


def _by_library(data: Data, folder: Folder, coders: list[Coder]) -> Iterator[bytes]:
    """Let libarchive unpack an archive that contains only `folder`; yield the bytes."""
    coded = b"".join(
        bytes([len(method) | HAS_PROPERTIES]) + method + _number(len(properties)) + properties
        for method, properties, _ in coders
    )
    follows = b"".join(bytes([n, n - 1]) for n in range(1, len(coders)))
    sizes = b"".join(_number(coder.size) for coder in coders)
    tail = bytes([HEADER, STREAMS, PACKED, 0, 1, SIZES]) + _number(folder.packed) + b"\0"
    tail += bytes([UNPACKED, FOLDERS, 1, 0, len(coders)]) + coded + follows
    tail += bytes([FOLDER_SIZES]) + sizes + bytes([0, PARTS, 0, 0])
    tail += bytes([FILES, 1, NAMES, 5, 0, *b"x\0\0\0", 0, 0])
    alone = Joined(_start(folder.packed, tail), data, folder.start, folder.packed, tail)
    for found in Libarchive("7zip", seeks=True).members(alone):
        if isinstance(found, Unlisted):
            raise NotReadError(found.why, found.detail)
        yield from found[0].chunks()


def _number(value: int) -> bytes:
    """Return a number, encoded for a 7z header in the longest form of a number."""
    return b"\xff" + value.to_bytes(8, "little")

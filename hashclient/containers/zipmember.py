"""Reads a member of a zip: its local header, and its bytes.

The local header, the directory entry and the descriptor must agree. If they disagree, programs
extract different bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from struct import Struct

from hashclient.containers import decoding, libarchive, zipold
from hashclient.containers.decoding import Decoder, crc32, decoded
from hashclient.containers.forward import PIECE_BYTES, Joined
from hashclient.containers.interface import HEAD_BYTES, Data, Member, NotReadError, Unlisted, Why
from hashclient.containers.zipdirectory import (
    ENDS_EARLY,
    LOCAL_MARK,
    MAX32,
    NO_LOCAL_HEADER,
    WRONG_SUM,
    Entry,
    damaged,
    wide,
)

#: the local header: mark, flags, method, checksum, compressed size, size, lengths of name and extra
#: fields
LOCAL = Struct("<4s2x2H4x3L2H")
LOCAL_BYTES = LOCAL.size
DESCRIPTOR_MARK = b"PK\7\x08"
_DESCRIPTOR_BYTES = 24
_SHORT, _LONG = Struct("<3L"), Struct("<L2Q")

# The flags of the old encryption, of the strong encryption, and of masked headers.
IS_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
HAS_END_MARK = 0x0002  # a flag of lzma members
HAS_DESCRIPTOR = 0x0008
IS_PATCH = 0x0020
#: If one of these flags is set, the local header must be compared completely: the member is
#: encrypted, has a descriptor, or is a patch.
UNUSUAL = IS_ENCRYPTED | HAS_DESCRIPTOR | IS_PATCH

STORED, DEFLATED, BZIP2, LZMA, ZSTD, XZ, PPMD = 0, 8, 12, 14, 93, 95, 98
_DECODERS: dict[int, Callable[[], Decoder]] = {
    DEFLATED: decoding.deflate,
    BZIP2: decoding.bzip2,
    XZ: decoding.xz,
}
if decoding.HAS_ZSTD:
    _DECODERS[ZSTD] = decoding.zstd
#: The methods that libarchive decodes, if it is installed.
_OF_LIBRARY = frozenset({ZSTD, PPMD} - _DECODERS.keys() if libarchive.is_here() else ())
METHODS = frozenset((STORED, LZMA, *_DECODERS, *_OF_LIBRARY, *zipold.METHODS))
#: Methods whose compressed data does not show its own end, so the header must state the number of
#: decoded bytes.
_NEEDS_SIZE = frozenset((LZMA, *_OF_LIBRARY, zipold.SHRUNK, zipold.IMPLODED))

#: The longest compressed member that is read in one step, in bytes.
_SMALL_BYTES = 64 << 10
_FIRST_BYTES = 4 << 10
_FEW_BYTES = 64
#: How many more input bytes are read than estimated, because a deflate block may begin with a table
#: of its codes, and because rare bytes have long codes.
_HEAD_EXTRA_BYTES = 512


def agree(data: Data, entry: Entry) -> tuple[int, int]:
    """Return where a member's bytes begin, and where the member ends with its descriptor.

    Raises:
        NotReadError: the local header or the descriptor disagrees with the directory.
    """
    offset, packed, size, crc, _, method, _ = entry
    block = data.read_at(offset, LOCAL_BYTES) if offset < data.size else b""
    if len(block) < LOCAL_BYTES or not block.startswith(LOCAL_MARK):
        raise damaged(NO_LOCAL_HEADER)
    _, flags, local_method, local_crc, local_packed, local_size, name, extra = LOCAL.unpack(block)
    start = offset + LOCAL_BYTES + name + extra
    if local_packed == MAX32 or local_size == MAX32:
        field = data.read_at(offset + LOCAL_BYTES + name, extra)
        local_size, local_packed = wide(field, (local_size, local_packed))
    end = start + packed
    if local_method != method:
        raise damaged("its methods do not agree")
    if end > data.size:
        raise damaged("ends beyond the end of the file")
    claims = (local_crc, local_packed, local_size)
    if flags & HAS_DESCRIPTOR:
        for claim, value in zip(claims, (crc, packed, size), strict=True):
            if claim not in (0, value):
                raise damaged("its sizes do not agree")
        length = descriptor_bytes(data, end, crc, packed, size)
        if length is None:
            raise damaged("its descriptor does not agree")
        return start, end + length
    if claims != (crc, packed, size):
        raise damaged("its sizes do not agree")
    return start, end


def by_directory(data: Data, entry: Entry) -> list[Member]:
    """Return a member as programs extract it that ignore its local header.

    Return an empty list if such programs cannot extract the member.
    """
    offset, packed, size, crc, flags, method, name = entry
    block = data.read_at(offset, LOCAL_BYTES) if offset < data.size else b""
    if len(block) < LOCAL_BYTES or not block.startswith(LOCAL_MARK) or flags & IS_PATCH:
        return []
    start = offset + LOCAL_BYTES + sum(LOCAL.unpack(block)[-2:])
    if start + packed > data.size or method not in METHODS or (not method and packed != size):
        return []
    if method == STORED:
        return [Member(name, size, is_exact=True, chunks=partial(stored, data, start, size, crc))]
    return [Member(name, size, is_exact=False, chunks=partial(unpacked, data, start, entry))]


def descriptor_bytes(data: Data, position: int, crc: int, packed: int, size: int) -> int | None:
    """Return the length of the descriptor at `position`.

    Return None if no descriptor with the given values is at `position`.
    """
    block = data.read_at(position, _DESCRIPTOR_BYTES)
    bodies = [_LONG.pack(crc, packed, size)]
    if packed <= MAX32 and size <= MAX32:
        bodies.append(_SHORT.pack(crc, packed, size))
    for mark in (DESCRIPTOR_MARK, b""):
        for body in bodies:
            if block.startswith(mark + body):
                return len(mark) + len(body)
    return None


def stored(data: Data, start: int, size: int, crc: int) -> Iterator[bytes]:
    """Yield the bytes of a member that is not compressed.

    Raises:
        NotReadError: the file ends within the member, or the checksum is wrong.
    """
    found = 0
    position, end = start, start + size
    step = size if size <= _SMALL_BYTES else _FIRST_BYTES
    while position < end:
        piece = data.read_at(position, min(step, end - position))
        if not piece:
            raise damaged("ends beyond the end of the file")
        step = PIECE_BYTES
        position += len(piece)
        found = crc32(piece, found)
        yield piece
    if found != crc:
        raise damaged(WRONG_SUM)


class Packed:
    """Reads and decodes the bytes of a compressed member.

    `position`: the offset after the last byte that was read; `found`: the checksum of the decoded
    bytes; `count`: the number of decoded bytes.
    """

    def __init__(
        self, data: Data, start: int, end: int, method: int, *, flags: int, crc: int
    ) -> None:
        """The member is between `start` and `end`; its compressed data may end before `end`."""
        self._data = data
        self._method = method
        self._flags = flags
        self._crc = crc
        self._end = end
        self._step = end - start if end - start <= _SMALL_BYTES else _FIRST_BYTES
        self.position = start
        self.found = 0
        self.count = 0

    def _read(self) -> bytes:
        piece = self._data.read_at(self.position, min(self._step, self._end - self.position))
        self._step = PIECE_BYTES
        self.position += len(piece)
        return piece

    def chunks(self, most: int | None) -> Iterator[bytes]:
        """Yield the decoded bytes; if `most` is given, stop after this number of bytes.

        Raises:
            NotReadError: the bytes are damaged.
        """
        if self._method in zipold.METHODS:
            old = zipold.Old(self._method, self._flags, most or 0, self._read)
            yield from self._counted(old.chunks())
            self.position -= old.unused
            return
        if self._method in _OF_LIBRARY:
            yield from self._counted(self._by_library(most or 0))
            self.position = self._end
            return
        if self._method == LZMA:
            head = self._data.read_at(self.position, min(9, self._end - self.position))
            if len(head) < 9 or head[2:4] != b"\5\0":
                raise damaged("its header of lzma")
            self.position += 9
            decoder = decoding.bare_lzma(head[4:])
        else:
            decoder = _DECODERS[self._method]()
        for piece in decoded(decoder, self._read, needs_end=most is None):
            if most is not None and self.count + len(piece) >= most:
                # Further bytes are cut off, because the last input bytes decode to meaningless
                # bytes.
                piece = piece[: most - self.count]
                self.position = self._end
            self.found = crc32(piece, self.found)
            self.count += len(piece)
            yield piece
            if self.count == most:
                return
        if most is not None and self.count < most:
            raise damaged("ends too early")
        self.position -= len(decoder.unused_data)

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.found = crc32(piece, self.found)
            self.count += len(piece)
            yield piece

    def _by_library(self, size: int) -> Iterator[bytes]:
        """Let libarchive decode an archive that contains only the member; yield the bytes."""
        length = self._end - self.position
        if max(size, length) >= MAX32:
            raise unsupported(self._method)
        head = LOCAL.pack(LOCAL_MARK, 0, self._method, self._crc, length, size, 1, 0) + b"x"
        # Some bytes after the member are included, because libarchive reads them before it has
        # decoded the whole member.
        alone = Joined(head, self._data, self.position, length + _FEW_BYTES)
        reader = libarchive.Libarchive("zip", formats=("zip_streamable",), seeks=True)
        for found in reader.members(alone):
            if isinstance(found, Unlisted):
                raise NotReadError(found.why, found.detail)
            yield from found[0].chunks()
            return  # libarchive would take the bytes after the member for another member


def size_needed(method: int, flags: int, size: int) -> int | None:
    """Return `size` if the compressed data does not show its own end; None otherwise."""
    if method not in _NEEDS_SIZE or (method == LZMA and flags & HAS_END_MARK):
        return None
    return size


def unpacked(data: Data, start: int, entry: Entry) -> Iterator[bytes]:
    """Return all bytes of a compressed member, even if its size differs from the claimed size.

    Raises:
        NotReadError: the bytes are damaged, or their checksum is wrong.
    """
    if entry[5] == DEFLATED and entry[1] <= _SMALL_BYTES:
        return _inflated_at_once(data, start, entry)
    return _unpacked(data, start, entry)


def _unpacked(data: Data, start: int, entry: Entry) -> Iterator[bytes]:
    _, length, size, crc, flags, method, _ = entry
    packed = Packed(data, start, start + length, method, flags=flags, crc=crc)
    yield from packed.chunks(size_needed(method, flags, size))
    if packed.position != start + length:
        raise damaged("bytes behind its compressed data")
    _check(entry, packed.count, packed.found)


def _inflated_at_once(data: Data, start: int, entry: Entry) -> Iterator[bytes]:
    """Yield the bytes of a small deflated member quickly, because most members are small."""
    inflater = decoding.inflater(-15)
    rest = data.read_at(start, entry[1])
    count = found = 0
    while not inflater.eof:
        try:
            piece = inflater.decompress(rest, PIECE_BYTES)
        except decoding.ERRORS as error:
            raise decoding.not_read(error) from error
        if piece:
            count += len(piece)
            found = crc32(piece, found)
            yield piece
        elif not inflater.eof and not inflater.unconsumed_tail:
            raise damaged(ENDS_EARLY)
        rest = inflater.unconsumed_tail
    if inflater.unused_data or len(rest):
        raise damaged("bytes behind its compressed data")
    _check(entry, count, found)


def first_stored(data: Data, start: int, entry: Entry, count: int) -> bytes:
    """Return the first `count` bytes of a stored member.

    If the member has no more bytes, its checksum is verified.

    Raises:
        NotReadError: the file ends within the member, or the checksum is wrong.
    """
    size = entry[2]
    head = data.read_at(start, min(count, size))
    if len(head) == size:
        _check(entry, size, crc32(head, 0))
    elif len(head) < count:
        raise damaged("ends beyond the end of the file")
    return head


def first_inflated(data: Data, start: int, entry: Entry, count: int) -> bytes:
    """Return the first `count` bytes of a deflated member.

    If the member has no more bytes, its length and checksum are verified.

    Raises:
        NotReadError: the bytes are damaged.
    """
    is_brief = count <= HEAD_BYTES
    inflater = decoding.brief_inflater(-15) if is_brief else decoding.inflater(-15)
    position, end = start, start + entry[1]
    # The number of bytes of the first read is estimated from the claimed sizes. If too few bytes
    # are decoded from them, more bytes are read.
    step = min(count, count * entry[1] // max(entry[2], 1)) + _HEAD_EXTRA_BYTES
    head = b""
    while len(head) < count and not inflater.eof:
        packed = data.read_at(position, min(step, end - position))
        if not packed:
            raise damaged(ENDS_EARLY)
        position += len(packed)
        step = min(2 * step, PIECE_BYTES)  # many empty blocks in a row are skipped quickly
        try:
            head += inflater.decompress(packed, count - len(head))
        except decoding.ERRORS as error:
            raise decoding.not_read(error) from error
    if inflater.eof:
        if position - len(inflater.unused_data) != end:
            raise damaged("bytes behind its compressed data")
        _check(entry, len(head), crc32(head, 0))
    return head


def _check(entry: Entry, count: int, found: int) -> None:
    """Compare the number and the checksum of the decoded bytes with the claimed values.

    Raises:
        NotReadError: the number or the checksum differs.
    """
    _, _, size, crc, _, _, _ = entry
    if found != crc:
        raise damaged(WRONG_SUM)
    if count < size:
        raise damaged("shorter than it says")  # some programs write zeros after the member


def unsupported(method: int) -> NotReadError:
    """Return the error for a member with an unsupported method."""
    return NotReadError(Why.UNSUPPORTED, f"zip: method {method}")


def encrypted() -> NotReadError:
    """Return the error for an encrypted member."""
    return NotReadError(Why.ENCRYPTED, "zip: encrypted")

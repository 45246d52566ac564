"""Expanders of compressed files: gzip, bzip2, xz, legacy lzma, and zstd (if Python has it).

Each compressed file is a container with one member: the decoded content of all its streams, one
after the other. Bytes after the last stream are ignored, as usual programs do. But some programs
also decode a stream of another kind (for example xz after gzip), so such a stream is read or is
reported as unread. The member has no claimed size, because the size field of a gzip file only
counts the last stream, modulo four gigabytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterator
from struct import Struct

from hashclient.containers import decoding
from hashclient.containers.decoding import Decoder, decoded
from hashclient.containers.forward import PIECE_BYTES, Forward
from hashclient.containers.interface import (
    HEAD_BYTES,
    Data,
    Member,
    NotReadError,
    Stream,
    Unlisted,
    Why,
)
from hashclient.containers.kinds import GZIP_MARKS, is_lzma_header

#: The size of the first read of each stream, in bytes; later reads are larger. The first read is
#: small so that a file of many small streams is not copied again for each stream.
_FIRST_BYTES = 2 << 10

#: `_GZIP_HEADER_BYTES`: the length of a gzip header without optional fields;
#: `_MAX_GZIP_HEADER_BYTES`: the most bytes of a header with its extra field, name and comment.
_GZIP_HEADER_BYTES, _MAX_GZIP_HEADER_BYTES = 10, 80 << 10
#: a gzip trailer: the checksum and the length of the decoded bytes
_GZIP_TRAILER = Struct("<2L")
_HAS_CRC, _HAS_EXTRA, _HAS_NAME, _HAS_COMMENT = 2, 4, 8, 16
_FLAGS_AT = 3
_XZ = b"\xfd7zXZ\0"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPED = b"\x2a\x4d\x18"  # preceded by a byte from 0x50 to 0x5f
#: Matches the first bytes of a stream that the program `zstd`, or Python's module `lzma`, also
#: decodes after a stream of another kind.
_JOINED = re.compile(
    rb"\x1f\x8b\x08|\xfd7zXZ\0|[\x25-\x28]\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18|\x04\x22\x4d\x18|"
    rb"\x02\x21\x4c\x18|LZIP"
)
#: The first bytes of streams (`.Z`, pack and lzh) that the program gzip, but no other program,
#: decodes after a gzip stream.
_JOINED_BY_GZIP = (b"\x1f\x9d", b"\x1f\x1e", b"\x1f\xa0")
#: The kinds of streams that Python's module `lzma` decodes one after the other. After such streams,
#: the module ignores streams of other kinds.
_JOINED_BY_PYTHON = frozenset({"xz", "lzma"})
_FOLLOWS = "a stream of another kind follows that of {}"
#: The length field of an .lzma file that does not state its decoded length, which is the usual
#: case.
_NO_LENGTH = b"\xff" * 8
#: `_TOLD_BYTES`: how many bytes are decoded to see whether a file is an .lzma file; `_TOLD_WINDOW`:
#: the window size with which these bytes are decoded.
_TOLD_BYTES, _TOLD_WINDOW = 2 * PIECE_BYTES, 4 * PIECE_BYTES


class _Input:
    """The compressed bytes, which are read in pieces; the end of the last piece can be unread."""

    def __init__(self, data: Data | Stream) -> None:
        self._bytes = Forward(data)
        self._step = _FIRST_BYTES
        #: Whether all streams of the first stream's kind were read.
        self.is_behind = False

    def piece(self) -> bytes:
        """Return the next bytes; no bytes mean the end of the input."""
        piece = self._bytes.some(self._step)
        self._step = min(4 * self._step, PIECE_BYTES)
        return piece

    def give_back(self, count: int) -> None:
        """Unread the last `count` bytes of the last piece; the next pieces are small again."""
        self._bytes.back(count)
        self._step = _FIRST_BYTES

    def skip(self, count: int) -> None:
        """Skip `count` bytes that `peek` has returned."""
        self._bytes.take(count)

    def zeros(self) -> int:
        """Skip zero bytes; return how many were skipped."""
        count = 0
        while piece := self.piece():
            rest = piece.lstrip(b"\0")
            count += len(piece) - len(rest)
            if rest:
                self.give_back(len(rest))
                break
        return count

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes, but keep the position; return fewer bytes at the end."""
        return self._bytes.peek(count)


class _Compressed:
    """The base class for compressed files, which have one member that consists of streams."""

    name = ""
    #: The bytes with which each stream begins.
    mark = b""
    seeks = False
    #: Whether any known program decodes a stream of another kind after a stream of this kind.
    is_joined = True
    #: The first bytes of streams of other kinds that only the usual program for this kind decodes
    #: after a stream of this kind.
    joins: tuple[bytes, ...] = ()

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the member; yield a second reading if streams of another kind follow."""
        source = _Input(data)
        name = self._name_of(source)
        yield [Member(name, None, is_exact=False, chunks=lambda: self.streams(source))]
        rest = source.peek(HEAD_BYTES) if self.is_joined and source.is_behind else b""
        if is_joined(rest) or rest.startswith(self.joins):
            if hasattr(data, "read_at") and (following := _following(rest)) is not None:
                if {self.name, following.name} <= _JOINED_BY_PYTHON:
                    source = _Input(data)
                    joined = self._joined(source, _JOINED_BY_PYTHON)
                    yield [Member(name, None, is_exact=False, chunks=lambda: joined)]
                    if not is_joined(source.peek(HEAD_BYTES)):
                        return
                whole = self._joined(_Input(data))
                yield [Member(name, None, is_exact=False, chunks=lambda: whole)]
            else:
                yield Unlisted(b"", Why.UNSUPPORTED, _FOLLOWS.format(self.name))

    def _joined(self, source: _Input, only: Collection[str] = ()) -> Iterator[bytes]:
        """Yield the decoded bytes of streams of this kind.

        Streams of other kinds that follow are decoded as well.

        If `only` names kinds, a stream of a kind that is not in `only` ends the file.
        """
        kind = self
        while True:
            yield from kind.streams(source)
            rest = source.peek(HEAD_BYTES)
            if not is_joined(rest):
                return
            following = _following(rest)
            if only and (following is None or following.name not in only):
                return
            if following is None or kind.name not in (self.name, following.name):
                raise NotReadError(Why.UNSUPPORTED, _FOLLOWS.format(kind.name))
            kind = following

    def begins(self, rest: bytes) -> bool:
        """Return whether `rest`, the next bytes, begin a stream of this kind."""
        return rest.startswith(self.mark)

    def _name_of(self, source: _Input) -> bytes:
        return b""

    def _decoder(self) -> Decoder:
        raise NotImplementedError

    def _goes_on(self, source: _Input) -> bool:
        return False

    def streams(self, source: _Input) -> Iterator[bytes]:
        """Yield the decoded bytes of all streams of this kind."""
        while True:
            decoder = self._decoder()
            yield from decoded(decoder, source.piece)
            source.give_back(len(decoder.unused_data))
            if not self._goes_on(source):
                source.is_behind = True
                return


def is_joined(rest: bytes) -> bool:
    """Return whether any known program decodes `rest` after a stream of another kind."""
    return _JOINED.match(rest) is not None or Lzma().sniff(rest[:HEAD_BYTES])


class Gzip(_Compressed):
    """gzip: several streams may follow each other.

    After the last gzip stream, zero bytes or other bytes may follow.
    """

    name = "gzip"
    mark = b"\x1f\x8b\x08"
    joins = _JOINED_BY_GZIP

    def _name_of(self, source: _Input) -> bytes:
        return _gzip_header(source)[1]

    def streams(self, source: _Input) -> Iterator[bytes]:
        """Yield the decoded bytes of all gzip streams; see `_Compressed.streams`."""
        error = ""
        while True:
            length, _, is_right = _gzip_header(source)
            if not length:
                raise NotReadError(Why.DAMAGED, "gzip: a header without an end")
            source.skip(length)
            crc = count = 0
            decoder = decoding.deflate()
            for piece in decoded(decoder, source.piece):
                crc, count = decoding.crc32(piece, crc), count + len(piece)
                yield piece
            source.give_back(len(decoder.unused_data))
            trailer = source.peek(_GZIP_TRAILER.size)
            source.skip(len(trailer))
            # Some programs check both checksums and the length, some check only one checksum, and
            # some check nothing.
            if not is_right:
                error = "gzip: the checksum of its header does not agree"
            elif trailer != _GZIP_TRAILER.pack(crc, count & 0xFFFFFFFF):
                error = "gzip: its checksum or its length does not agree"
            zeros = source.zeros()
            if source.peek(2) not in GZIP_MARKS:
                source.is_behind = True
                break
            if zeros:
                # gzip stops at zero bytes, but other programs decode streams after zero bytes.
                error = error or "gzip goes on behind padding"
        if error:
            raise NotReadError(Why.DAMAGED, error)


def _gzip_header(source: _Input) -> tuple[int, bytes, bool]:
    """Return a gzip header's length, the name in the header, and whether its checksum is right.

    The length is 0 if the end of the header cannot be found. Unknown flags in the header are
    ignored.
    """
    head = source.peek(_GZIP_HEADER_BYTES)
    at, name = _GZIP_HEADER_BYTES, b""
    flags = head[_FLAGS_AT] if len(head) == at else 0
    if flags & (_HAS_EXTRA | _HAS_NAME | _HAS_COMMENT | _HAS_CRC):
        head = source.peek(_MAX_GZIP_HEADER_BYTES)
    if flags & _HAS_EXTRA:
        at += 2 + int.from_bytes(head[at : at + 2], "little")
    for flag in (_HAS_NAME, _HAS_COMMENT):
        if flags & flag:
            end = head.find(b"\0", at)
            if end < 0:
                return 0, b"", False
            name = head[at:end] if flag == _HAS_NAME else name
            at = end + 1
    is_right = True
    if flags & _HAS_CRC:
        is_right = zlib.crc32(head[:at]) & 0xFFFF == int.from_bytes(head[at : at + 2], "little")
        at += 2
    return at if at <= len(head) else 0, name, is_right


class Bzip2(_Compressed):
    """bzip2: several streams may follow each other."""

    name = "bzip2"
    is_joined = False

    def _decoder(self) -> Decoder:
        return decoding.bzip2()

    def _goes_on(self, source: _Input) -> bool:
        return source.peek(3) == b"BZh"


class Xz(_Compressed):
    """xz: several streams may follow each other, with zero bytes in groups of four between them."""

    name = "xz"
    mark = _XZ

    def _decoder(self) -> Decoder:
        return decoding.xz()

    def _goes_on(self, source: _Input) -> bool:
        source.zeros()
        return source.peek(6) == _XZ


def _tells(head: bytes) -> bool:
    """Return whether the first bytes of an .lzma file can be decoded."""
    decoder, told = decoding.lzma_alone(), 0
    pieces = iter((head,))
    try:
        for piece in decoded(decoder, lambda: next(pieces, b""), needs_end=False):
            told += len(piece)
            if told >= _TOLD_BYTES:
                break
    except NotReadError:
        return False
    return told > 0 or decoder.eof


class Lzma(_Compressed):
    """The legacy format `.lzma`, which is recognised by its fields and by decoding."""

    name = "lzma"

    def begins(self, rest: bytes) -> bool:
        """Return whether `rest` begins an .lzma stream; see `_Compressed.begins`."""
        return self.sniff(rest)

    def sniff(self, head: bytes) -> bool:
        """Recognise .lzma by the rules of `xz` for its fields, and by decoding the first bytes.

        The first bytes are decoded because the fields of other files may be valid by chance, for
        example the fields of EMF pictures.
        """
        if not is_lzma_header(head):
            return False
        if head[5:13] == _NO_LENGTH and head[1:5] != _NO_LENGTH[:4]:
            # These twelve bytes have fixed values, so they show the kind without a test of the
            # rest. The rest may be damaged, because busybox returns the bytes before the damage.
            return True
        window = min(int.from_bytes(head[1:5], "little"), _TOLD_WINDOW)
        # A second attempt ignores the stated length, because busybox also decodes a file whose
        # stated length is too small.
        return any(
            _tells(head[:1] + window.to_bytes(4, "little") + size + head[13:])
            for size in {head[5:13], _NO_LENGTH}
        )

    def _decoder(self) -> Decoder:
        return decoding.lzma_alone()


class Zstd(_Compressed):
    """zstd: a file may have several frames, one after the other, and frames may be empty.

    This class is only used if Python supports zstd.
    """

    name = "zstd"

    def _decoder(self) -> Decoder:
        return decoding.zstd()

    def _goes_on(self, source: _Input) -> bool:
        mark = source.peek(4)
        return mark == _ZSTD or (mark[1:] == _ZSTD_SKIPPED and mark[0] & 0xF0 == 0x50)


#: The kinds of streams that this module decodes after a stream of another kind.
_JOINED_HERE = (Gzip(), Xz(), Lzma())


def _following(rest: bytes) -> _Compressed | None:
    """Return the element of `_JOINED_HERE` that decodes the stream in `rest`, or None."""
    return next((kind for kind in _JOINED_HERE if kind.begins(rest)), None)

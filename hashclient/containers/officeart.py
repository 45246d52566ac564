"""Finds members in the streams of old office documents: pictures, embedded files, and documents.

Each member is in a record, which has a header of eight bytes. The text of a document refers to the
members, but this module does not parse the text; instead, it searches all streams that contain
records. In a workbook, records with pictures are divided into pieces. An encrypted document is
reported as encrypted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from struct import Struct

from hashclient.containers import decoding
from hashclient.containers.forward import PIECE_BYTES, Forward
from hashclient.containers.interface import Member, NotReadError, Unlisted, Why
from hashclient.containers.runs import Runs

#: The number of members in one batch.
BATCH = 1000
#: `_WITH_RECORDS`: the names of streams that contain pictures in records; `_BOOKS`: the names of
#: streams of workbooks, which have records of another form. All names are in lower case, because
#: programs find a stream by its name in any case.
_WITH_RECORDS = frozenset(
    (b"pictures", b"data", b"worddocument", b"0table", b"1table", b"powerpoint document")
) | frozenset((b"escherstm", b"escherdelaystm"))
_BOOKS = frozenset((b"workbook", b"book"))
_NATIVE = b"\x01ole10native"
_NAMES = _WITH_RECORDS | _BOOKS | frozenset((_NATIVE, b"current user", b"encryptedpackage"))

#: The number of bytes in a record before the picture, by the first four bytes of the record. One or
#: two identifiers of 16 bytes are before the picture. After the identifiers, a metafile (EMF, WMF
#: or PICT) has its own header, and any other picture has one byte.
_PICTURES = {
    instance.to_bytes(2, "little") + kind.to_bytes(2, "little"): before + more
    for kind, one, before in (
        (0xF01D, 0x46A0, 17),  # JPEG
        (0xF01D, 0x6E20, 17),
        (0xF02A, 0x46A0, 17),
        (0xF02A, 0x6E20, 17),
        (0xF01E, 0x6E00, 17),  # PNG
        (0xF01F, 0x7A80, 17),  # DIB
        (0xF029, 0x6E40, 17),  # TIFF
        (0xF01A, 0x3D40, 50),  # EMF
        (0xF01B, 0x2160, 50),  # WMF
        (0xF01C, 0x5420, 50),  # PICT
    )
    for instance, more in ((one, 0), (one + 0x10, 16))
}
_METAFILES = (0xF01A, 0xF01B, 0xF01C)
#: The first four bytes of a record that contains a document in a presentation. `_DOCUMENT`: the
#: document is not compressed. `_PACKED_DOCUMENT`: the length of the document, and the compressed
#: document, follow.
_DOCUMENT, _PACKED_DOCUMENT = b"\0\0\x11\x10", b"\x10\0\x11\x10"
_BEFORE = {**_PICTURES, _DOCUMENT: 0, _PACKED_DOCUMENT: 4}
_find = re.compile(b"|".join(map(re.escape, _BEFORE))).finditer
_HEADER = Struct("<2xHL")
#: The compression of a metafile is stated in the second-last byte of its header.
_IS_PACKED_AT, _PACKED = -2, 0

_BIFF = Struct("<HH")
_DRAWING, _CONTINUED, _END, _FILE_PASS = 0xEB, 0x3C, 0x0A, 0x2F
_NATIVE_HEAD_BYTES = 64 << 10
_IS_PACKAGE, _IS_EMBEDDED = b"\2\0", b"\0\0\3\0"


def has_more(name: bytes) -> bool:
    """Return whether a stream with this name may contain members."""
    return _last_of(name) in _NAMES


def inside(name: bytes, stream: Runs) -> Iterator[list[Member] | Unlisted]:
    """Yield the members in a stream; the name of the stream shows the form of its records."""
    last = _last_of(name)
    if _is_encrypted(last, stream):
        yield Unlisted(name, Why.ENCRYPTED, "ole: the document is encrypted")
    elif last == _NATIVE:
        yield from _native(name, stream)
    elif last in _WITH_RECORDS:
        yield from _records(name, stream)
    elif last in _BOOKS:
        yield from _book(name, stream)


def _last_of(name: bytes) -> bytes:
    return name.rpartition(b"/")[2].lower()


def _is_encrypted(last: bytes, stream: Runs) -> bool:
    if last == b"worddocument":
        head = stream.read_at(0, 12)
        return head[:2] == b"\xec\xa5" and len(head) == 12 and bool(head[11] & 1)
    if last == b"current user":
        return stream.read_at(12, 4) == b"\xdf\xc4\xd1\xf3"
    return last == b"encryptedpackage"


def _records(name: bytes, stream: Runs) -> Iterator[list[Member]]:
    """Yield the pictures and documents in a stream with records."""
    members = _each_record(name, stream)
    while batch := list(islice(members, BATCH)):
        yield batch


def _each_record(name: bytes, stream: Runs) -> Iterator[Member]:
    at = 0
    while block := stream.read_at(at, PIECE_BYTES + _HEADER.size):
        for found in _find(block):
            if found.start() >= PIECE_BYTES:
                break
            head = stream.read_at(at + found.start(), _HEADER.size)
            if len(head) < _HEADER.size:
                break
            kind, length = _HEADER.unpack(head)
            begin = at + found.start() + _HEADER.size
            before = _BEFORE[found[0]]
            if before < length <= stream.size - begin:
                yield _record(name, stream, kind, begin, before, length - before)
        at += PIECE_BYTES


def _record(name: bytes, stream: Runs, kind: int, begin: int, before: int, length: int) -> Member:
    start = begin + before
    is_packed = before == 4
    if kind in _METAFILES:
        is_packed = stream.read_at(start + _IS_PACKED_AT, 1) == bytes([_PACKED])
    plain = partial(stream.chunks, start, length)
    if not is_packed:
        return Member(name, length, is_exact=True, chunks=plain, offset=start)

    def chunks() -> Iterator[bytes]:
        pieces, decoder, count = plain(), decoding.Inflater(15), 0
        # The end of the compressed data is not required, because PowerPoint leaves it out.
        needs_end = kind in _METAFILES
        for piece in decoding.decoded(decoder, lambda: next(pieces, b""), needs_end=needs_end):
            count += len(piece)
            yield piece
        if not decoder.eof and count < int.from_bytes(stream.read_at(begin, 4), "little"):
            raise NotReadError(Why.DAMAGED, "compressed data: ends too early")

    return Member(name, None, is_exact=False, chunks=chunks, offset=start)


def _book(name: bytes, stream: Runs) -> Iterator[list[Member] | Unlisted]:
    """Yield the pictures of a workbook.

    The records of the pictures are inside other records, in pieces of 8 kB.
    """
    source, drawings, is_drawing = Forward(stream), Runs(stream), False
    while len(head := source.take(_BIFF.size)) == _BIFF.size:
        kind, length = _BIFF.unpack(head)
        if kind == _END:
            break
        if kind == _FILE_PASS:
            yield Unlisted(name, Why.ENCRYPTED, "ole: the document is encrypted")
            return
        is_drawing = kind == _DRAWING or (kind == _CONTINUED and is_drawing)
        begin = source.position
        there = source.skip(length)
        if is_drawing and there:
            drawings.add(begin, there)
        if there < length:
            break
    yield from _records(name, drawings)


def _native(name: bytes, stream: Runs) -> Iterator[list[Member] | Unlisted]:
    """Yield an embedded file from a stream: in a package, names precede the file.

    In an embedded object that is no package, only a length precedes the file.
    """
    head = stream.read_at(0, _NATIVE_HEAD_BYTES)
    yield [_part(name, stream, 4, stream.size - 4)]
    end_of_title = head.find(b"\0", 6)
    end = head.find(b"\0", end_of_title + 1)
    is_package = head[4:6] == _IS_PACKAGE
    if min(end_of_title, end) < 0:
        if is_package and len(head) == _NATIVE_HEAD_BYTES:
            yield Unlisted(name, Why.LIMIT, "ole: an embedded file with names of this length")
        return
    # Some programs do not check the fixed bytes of a package and the length of its path. If the
    # fixed bytes are missing, a plausible length shows that the stream is a package.
    is_sure = is_package and head[end + 1 : end + 5] == _IS_EMBEDDED
    by_length = end + 9 + int.from_bytes(head[end + 5 : end + 9], "little")
    for size_at in dict.fromkeys((by_length, head.find(b"\0", end + 9) + 1 or by_length)):
        length = int.from_bytes(stream.read_at(size_at, 4), "little")
        is_sure &= size_at == by_length
        if size_at + 4 + length > stream.size:
            if is_sure:
                yield Unlisted(name, Why.DAMAGED, "ole: an embedded file that is cut off")
        elif is_sure or length:
            yield [_part(head[6:end_of_title], stream, size_at + 4, length)]


def _part(name: bytes, stream: Runs, start: int, length: int) -> Member:
    length = max(length, 0)
    chunks = partial(stream.chunks, start, length)
    return Member(name, length, is_exact=True, chunks=chunks, offset=start)

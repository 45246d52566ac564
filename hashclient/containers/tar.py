"""The expander of tar in all dialects: v7, ustar, GNU, pax, star, sparse and concatenated files.

The archive is read once, forwards, from header to header. If programs extract different members,
all of these members are listed if possible. Bytes after the end of the archive, and after a damaged
header, are searched for further headers, as `tar -i` does. If programs disagree about the size of a
member, the member is listed with the size that GNU tar uses, and is reported as unread as well. The
member is also listed with the other sizes, unless they are large. `tarheader` parses headers, and
this module interprets their sequence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from hashclient.containers import tarsparse
from hashclient.containers.forward import PIECE_BYTES, Forward
from hashclient.containers.interface import Data, Member, NotReadError, Stream, Unlisted, Why
from hashclient.containers.tarheader import (
    BLOCK_BYTES,
    MAX_OCTAL,
    Header,
    Pax,
    is_header,
    parse_header,
    parse_pax,
)

#: The longest pax header, in bytes; no program writes more.
MAX_EXTENDED_BYTES = 8 << 20
MAX_NAME_BYTES = 64 << 10

#: `_MAX_PATH_BYTES`: the longest path; `_NO_PATH` matches bytes that are hardly a path, because
#: they contain a line end, or a zero byte before their end. If a header for a long name contains
#: such bytes, the program unar extracts the bytes as a file.
_MAX_PATH_BYTES = 4096
_NO_PATH = re.compile(rb"\n|\0(?!\0*\Z)")
_LONG_NAME, _LONG_LINK = b"L", b"K"
_PAX, _PAX_SOLARIS, _PAX_GLOBAL = b"x", b"X", b"g"
_CONTINUED, _LABEL, _SPARSE = b"M", b"V", b"S"
#: The type flags of links, devices, directories and pipes, whose header may state a size although
#: no bytes follow.
_WITHOUT_BYTES = frozenset(b"1 2 3 4 5 6".split())
#: The type flags of devices and pipes, after whose headers 7-Zip reads as many bytes as the size
#: states.
_DEVICES = frozenset(b"3 4 6".split())
_TWO_SIZES = "tar: programs disagree about its size"

_ZERO_BLOCK = bytes(BLOCK_BYTES)


class Area:
    """The bytes of one member, which can be read only once.

    Bytes of the member that were not read are skipped by `finish`.
    """

    def __init__(self, source: Forward, size: int) -> None:
        """Begin at the first byte of the member."""
        self._source = source
        self.size = size
        self.left = size

    def take(self, count: int) -> bytes:
        """Return exactly `count` bytes, which should be few.

        Raises:
            NotReadError: the archive ends before the `count` bytes.
        """
        taken = self._source.take(min(count, self.left))
        self.left -= len(taken)
        if len(taken) < count:
            raise NotReadError(Why.DAMAGED, "tar: ends within a member")
        return taken

    def some(self, most: int) -> bytes:
        """Return 1 to `most` bytes; no bytes after all were returned.

        Raises:
            NotReadError: the archive ends within the member.
        """
        piece = self._source.some(min(most, self.left))
        self.left -= len(piece)
        if not piece and self.left:
            raise NotReadError(Why.DAMAGED, "tar: ends within a member")
        return piece

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes of the member."""
        while self.left:
            yield self.some(PIECE_BYTES)

    def finish(self) -> None:
        """Skip the bytes that were not read, and the padding after the member.

        Raises:
            NotReadError: the archive ends within the member.
        """
        left, self.left = self.left, 0
        if self._source.skip(left) < left:
            raise NotReadError(Why.DAMAGED, "tar: ends within a member")
        self._source.skip(-self.size % BLOCK_BYTES)


class Tar:
    """The expander of tar archives."""

    name = "tar"
    seeks = False

    def length(self, data: Data) -> int:
        """See `behind.Begun`.

        The first header of a tar has a checksum, but no field states the end of the archive.
        """
        return data.size if is_header(data.read_at(0, BLOCK_BYTES)) else 0

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the members one by one.

        The caller reads each member before it takes the next member.
        """
        source = Forward(data)
        everywhere: Pax = {}
        follows = _Follows()
        is_searching = False
        while block := source.take(BLOCK_BYTES):
            if block == _ZERO_BLOCK:
                source.skip_zeros(BLOCK_BYTES)
                is_searching = True
                continue
            header = parse_header(block)
            if header is None:
                if not is_searching:
                    yield Unlisted(b"", Why.DAMAGED, f"tar: no header at {source.position}")
                is_searching = True
                continue
            is_searching = header.size is None
            if header.size is None:
                yield Unlisted(header.name, Why.DAMAGED, "tar: an invalid size")
            elif header.kind in (_LONG_NAME, _LONG_LINK):
                text = source.peek(min(header.size, MAX_NAME_BYTES))
                if len(text) > _MAX_PATH_BYTES or _NO_PATH.search(text):
                    yield from _stored(source, header.name, header.size, source.position)
                area = Area(source, header.size)
                text = area.take(len(text)).split(b"\0", 1)[0]
                if header.kind == _LONG_NAME:
                    follows.name = text
                area.finish()
            elif header.kind in (_PAX, _PAX_SOLARIS, _PAX_GLOBAL):
                if header.kind == _PAX_SOLARIS and header.size:
                    # cpio and unar do not know the pax headers of Solaris, and extract the text of
                    # the header as a file.
                    yield from _stored(source, header.name, header.size, source.position)
                try:
                    fields = _read_pax(source, header.size)
                except NotReadError as error:
                    yield Unlisted(header.name, error.why, error.detail)
                    continue
                if header.kind != _PAX_GLOBAL:
                    follows.add(fields)
                elif sum(map(len, fields.values())) > _MAX_PATH_BYTES:
                    # The length of the fields that apply to all members is limited, because the
                    # fields are copied for each member.
                    yield Unlisted(header.name, Why.LIMIT, "tar: a pax header for all members")
                else:
                    everywhere.update(fields)
            else:
                follows.fields = {**everywhere, **follows.fields}
                yield from _member(source, header, header.size, follows, block)
                follows = _Follows()


class _Follows:
    """The fields for the next member, from extra headers before the member's own header."""

    def __init__(self) -> None:
        self.fields: Pax = {}
        self.name: bytes | None = None
        #: `is_doubtful`: whether several pax headers precede the member, and programs disagree
        #: which of them apply.
        self.is_doubtful = False
        self.sizes: list[bytes] = []

    def add(self, fields: Pax) -> None:
        """Add the fields of one pax header."""
        before = self.fields
        self.is_doubtful |= bool(before) and not before.keys() | fields.keys() <= {b"path"}
        self.fields = {**before, **fields}
        self.sizes += [value for name, value in fields.items() if name == b"size"]


def _read_pax(source: Forward, size: int) -> Pax:
    area = Area(source, size)
    is_too_long = size > MAX_EXTENDED_BYTES
    text = b"" if is_too_long else area.take(size)
    area.finish()
    if is_too_long:
        raise NotReadError(Why.LIMIT, f"tar: a pax header of {size} bytes")
    fields = parse_pax(text)
    if fields is None:
        raise NotReadError(Why.DAMAGED, "tar: a pax header")
    return fields


def _member(
    source: Forward, header: Header, header_size: int, follows: _Follows, block: bytes
) -> Iterator[list[Member] | Unlisted]:
    """Yield the member of one header, and skip its bytes."""
    offset = source.position - BLOCK_BYTES
    fields = follows.fields
    name = follows.name or header.name
    name = fields.get(b"GNU.sparse.name") or fields.get(b"path") or name
    size = header_size
    if b"size" in fields:
        if fields[b"size"].isdigit() and len(fields[b"size"]) <= 18:
            size = int(fields[b"size"])
        else:
            yield Unlisted(name, Why.DAMAGED, "tar: an invalid size")
    kind = header.kind
    is_directory = kind in (b"\0", b"0") and name.endswith(b"/")
    is_bare = kind in _WITHOUT_BYTES or kind == _LABEL or is_directory
    if is_bare and not size and not header_size:
        return
    if follows.is_doubtful or not _is_one_size(header_size, size):
        yield Unlisted(name, Why.DAMAGED, _TWO_SIZES)
        named = [int(each) for each in follows.sizes if each.isdigit() and len(each) <= 18]
        for other in {header_size, *named} - {size}:
            if 0 < other <= PIECE_BYTES:
                yield from _stored(source, name, other, offset)
    # 7-Zip reads the bytes after a label as data, but bsdtar searches these bytes for headers.
    # Therefore the bytes after a label are listed as a member, and headers in these bytes are found
    # when the member is opened.
    if is_bare and kind != _LABEL and (not size or not _bytes_follow(source)):
        if size and (kind in _DEVICES or (is_directory and kind == b"0")):
            yield Unlisted(name, Why.DAMAGED, _TWO_SIZES)
        return
    # In an old GNU sparse member, blocks with the rest of the map precede the bytes of the member.
    try:
        sparse = tarsparse.find(source, kind == _SPARSE, block, fields)
        sparse = sparse or tarsparse.with_end(fields, size)
    except NotReadError as error:
        yield Unlisted(name, error.why, error.detail)
        sparse = None  # some programs extract the stored bytes without zeros in the holes
    area = Area(source, size)
    if kind == _CONTINUED:
        yield Unlisted(name, Why.UNSUPPORTED, "tar: begins on another volume")
    if sparse is None:
        yield [Member(name, size, is_exact=True, chunks=area.chunks, offset=offset)]
    else:
        if size and not sparse.is_whole:
            yield from _stored(source, name, size, offset)
        chunks = partial(sparse.chunks, area)
        yield [Member(name, sparse.size, is_exact=True, chunks=chunks, offset=offset)]
    area.finish()


def _stored(
    source: Forward, name: bytes, size: int, offset: int
) -> Iterator[list[Member] | Unlisted]:
    """Yield a sparse member without its holes, as 7-Zip and busybox extract the member."""
    chunks = source.ahead(size)
    if chunks is None:
        yield Unlisted(name, Why.LIMIT, "tar: programs disagree about a member of this size")
    else:
        yield [Member(name, size, is_exact=False, chunks=chunks, offset=offset)]


def _is_one_size(header_size: int, size: int) -> bool:
    """Return whether programs agree on `size`.

    Programs agree if the size in the header is equal, or if the field in the header is too small
    for the size.

    busybox always uses the size in the header; 7-Zip and bsdtar ignore a size in a pax header for
    all members.
    """
    if header_size == size:
        return True
    return size > MAX_OCTAL and header_size in (0, MAX_OCTAL, size & MAX_OCTAL)


def _bytes_follow(source: Forward) -> bool:
    """Return whether the next block is no header.

    Some programs write the bytes of the linked file after the header of a link. Therefore, if the
    block after a link is no header, it belongs to these bytes.
    """
    block = source.peek(BLOCK_BYTES)
    return bool(block) and block != _ZERO_BLOCK and not is_header(block)

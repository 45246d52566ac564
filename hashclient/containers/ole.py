"""The expander of OLE2 files (doc, xls, ppt, msg, msi): streams are members; some contain members.

A file consists of sectors. The bytes of a stream are in a chain of sectors; a table contains, for
each sector, the next sector of its chain. Short streams are joined in one stream, which is divided
into short sectors and has a table of its own. A chain is followed only up to the size of the
stream, so that no chain is endless. Streams that are in no storage (directory) are not listed,
because programs do not show them.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from functools import partial
from struct import Struct
from typing import NamedTuple, cast

from hashclient.containers.forward import PIECE_BYTES
from hashclient.containers.interface import Data, Member, NotReadError, Stream, Unlisted, Why
from hashclient.containers.kinds import OLE_MARK
from hashclient.containers.officeart import BATCH, has_more, inside
from hashclient.containers.runs import Runs

#: The header: exponents of the sizes of long and short sectors; first sector of the directory; size
#: up to which streams are short; first sector of the table for short sectors; first sector of the
#: rest of the list of table sectors.
_HEADER = Struct("<30xHH14xL4xLL4xL4x")
_LISTED_AT, _HEADER_BYTES = 76, 512
#: a directory entry: name, its length, kind; previous and next sibling, first child; first sector,
#: size
_ENTRY = Struct("<64sHBx3L36xLQ")
_EMPTY, _STORAGE, _ROOT = 0, 1, 5
_NONE = 0xFFFFFFFF
#: Programs that ignore the limit for short streams in the header use this limit, in bytes.
_SHORT_BYTES = 4096
_MAX_DIRECTORY_BYTES = 64 << 20
_MAX_PATH_BYTES = 1000
#: The factor by which all searched streams together may be longer than the file, because no two
#: streams of a valid file share bytes.
_SEARCHED = 4


def end_of(data: Data) -> int:
    """Return the offset after the last used sector; 0 if the bytes are no compound file."""
    if data.read_at(0, len(OLE_MARK)) != OLE_MARK:
        return 0
    try:
        return _File(data).end
    except NotReadError:
        return 0


class _Entry(NamedTuple):
    name: bytes
    start: int
    size: int


class Ole:
    """The expander of compound files."""

    name = "ole"
    seeks = True

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the streams, and then the members in the streams."""
        data = cast(Data, data)
        file = _File(data)
        entries, is_whole = file.entries()
        if not is_whole:
            yield Unlisted(b"", Why.DAMAGED, "ole: a part of the directory is not there")
        ways = [(entry, is_short) for entry in entries for is_short in file.ways(entry)]
        for at in range(0, len(ways), BATCH):
            yield [
                Member(
                    entry.name,
                    entry.size,
                    is_exact=True,
                    chunks=partial(file.chunks, entry, is_short=is_short),
                )
                for entry, is_short in ways[at : at + BATCH]
            ]
        left = _SEARCHED * data.size
        for entry, is_short in ways:
            if not has_more(entry.name):
                continue
            stream = file.stream(entry, is_short=is_short)
            left -= stream.size
            if left < 0:
                yield Unlisted(entry.name, Why.LIMIT, "ole: the same bytes are in many streams")
                return
            yield from inside(entry.name, stream)


class _File:
    """The tables and the directory of one compound file."""

    def __init__(self, data: Data) -> None:
        self._data = data
        head = data.read_at(0, _HEADER_BYTES)
        fields = _HEADER.unpack_from(head.ljust(_HEADER_BYTES, b"\0"))
        shift, self._short, self._directory, self._limit, short_table, listed = fields
        if len(head) < _HEADER_BYTES or not 7 <= shift <= 20 or self._short > shift:
            raise NotReadError(Why.DAMAGED, "ole: an invalid header")
        self._bytes: int = 1 << shift
        #: The most sectors that the file can have, and that a valid chain can have.
        self._count = (data.size - 1) // self._bytes
        self._table = array("I")
        self._fill(head, listed)
        self._short_table = _numbers(self._chain(short_table, self._count * self._bytes))
        self._root = Runs(data)

    def _fill(self, head: bytes, listed: int) -> None:
        """Read the table of sectors.

        The header and further sectors list the sectors of the table.
        """
        places = _words(head[_LISTED_AT:])
        for _ in range(self._count + 1):
            for place in places:
                if len(self._table) >= self._count:
                    return
                if place < self._count:
                    self._table.extend(_words(self._sector(place)))
            if listed >= self._count:
                return
            words = _words(self._sector(listed))
            places, listed = words[:-1], words[-1] if words else _NONE

    @property
    def end(self) -> int:
        """The offset after the last sector that is not free according to the table."""
        used = len(self._table)
        while used and self._table[used - 1] == _NONE:
            used -= 1
        return (used + 1) * self._bytes

    def _sector(self, number: int) -> bytes:
        return self._data.read_at((number + 1) * self._bytes, self._bytes)

    def _chain(self, start: int, size: int, *, is_short: bool = False) -> Runs:
        """Return the first `size` bytes of a chain; fewer bytes if the chain ends earlier."""
        return next(self._parts(start, size, size + 1, is_short=is_short))

    def _parts(self, start: int, size: int, most: int, *, is_short: bool) -> Iterator[Runs]:
        """Yield the bytes of a chain in parts of at least `most` bytes.

        The last part of the chain may be shorter than `most` bytes.

        The chain is followed only as far as the parts are read, because many streams of a hostile
        file may have the same long chain.
        """
        data: Data
        if is_short:
            table, data = self._short_table, self._root
            length, first = 1 << self._short, 0
        else:
            table, data = self._table, self._data
            length, first = self._bytes, 1
        runs, left = Runs(data), min(size, self._data.size)
        while left > 0 and start < len(table):
            runs.add((start + first) * length, min(left, length))
            left -= length
            start = table[start]
            if runs.size >= most:
                yield runs
                runs = Runs(data)
        yield runs

    def entries(self) -> tuple[list[_Entry], bool]:
        """Return all streams that are in storages, and whether the directory is complete."""
        directory = self._chain(self._directory, self._count * self._bytes)
        if directory.size > _MAX_DIRECTORY_BYTES:
            raise NotReadError(Why.LIMIT, f"ole: a directory of {directory.size:,} bytes")
        raw = directory.read_at(0, directory.size)
        count = len(raw) // _ENTRY.size
        found: list[_Entry] = []
        todo, seen, is_whole = [(0, b"")], set[int](), True
        while todo:
            number, path = todo.pop()
            if number == _NONE or number in seen:
                continue
            if number >= count:
                is_whole = is_whole and not count
                continue
            seen.add(number)
            fields = _ENTRY.unpack_from(raw, number * _ENTRY.size)
            raw_name, length, kind, before, behind, child, start, size = fields
            if self._bytes <= 512:
                # The upper half of the size is ignored, because some programs leave arbitrary bytes
                # in it.
                size &= 0xFFFFFFFF
            if not number:
                self._root = self._chain(start, size)
                todo.append((child, b""))
                continue
            todo += [(behind, path), (before, path)]
            text = raw_name[: max(min(length, 64) - 2, 0)].decode("utf-16-le", "replace")
            name = path + text.encode()
            if kind in (_STORAGE, _ROOT):
                todo.append((child, name[-_MAX_PATH_BYTES:] + b"/"))
            elif kind != _EMPTY:
                found.append(_Entry(name, start, size))
        return found, is_whole

    def ways(self, entry: _Entry) -> list[bool]:
        """Return whether a stream is short; return both values if programs disagree."""
        return list(dict.fromkeys((entry.size < self._limit, entry.size < _SHORT_BYTES)))

    def stream(self, entry: _Entry, *, is_short: bool) -> Runs:
        """Return the bytes of a stream; fewer bytes than its size if some are missing."""
        return self._chain(entry.start, entry.size, is_short=is_short)

    def chunks(self, entry: _Entry, *, is_short: bool) -> Iterator[bytes]:
        """Yield the bytes of a stream."""
        count = 0
        for part in self._parts(entry.start, entry.size, PIECE_BYTES, is_short=is_short):
            for piece in part.chunks():
                count += len(piece)
                yield piece
        if count < entry.size:
            text = f"ole: ends after {count:,} of {entry.size:,} bytes"
            raise NotReadError(Why.DAMAGED, text)


def _words(raw: bytes) -> array[int]:
    words = array("I", raw[: len(raw) & ~3])
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _numbers(runs: Runs) -> array[int]:
    words = array("I")
    for piece in runs.chunks():
        words.extend(_words(piece))
    return words

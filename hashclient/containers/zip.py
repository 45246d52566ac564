"""The expander of zip, and of formats that are zips: office documents, jar, apk, epub.

All members that a usual program would extract are listed: the members in each directory that a
program may use, and members in bytes outside of members and directories. If the local header of a
member disagrees with the directory, the member is reported as unread, and is also listed as the
directory describes it; the member that the local header describes is found as a member without a
directory entry. Members that overlap other members or directories are reported as unread. A member
is read up to its compressed size; its claimed uncompressed size may be false.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator
from functools import partial
from typing import cast

import msgspec

from hashclient.containers.interface import Data, Member, NotReadError, Stream, Unlisted, Why
from hashclient.containers.ole import end_of
from hashclient.containers.zipdirectory import (
    ELSEWHERE,
    LOCAL_MARK,
    MAX32,
    MAX_DIRECTORIES,
    NO_DIRECTORY,
    Directory,
    Entries,
    Entry,
    damaged,
    ends,
    may_end,
)
from hashclient.containers.ziphidden import Search
from hashclient.containers.zipmember import (
    DEFLATED,
    IS_ENCRYPTED,
    IS_PATCH,
    LOCAL,
    LOCAL_BYTES,
    METHODS,
    STORED,
    UNUSUAL,
    agree,
    by_directory,
    encrypted,
    first_inflated,
    first_stored,
    stored,
    unpacked,
    unsupported,
)

#: The limit for the work of sorting, which takes some seconds: the number of ranges that are moved
#: in all because ranges were added out of order.
_MAX_MOVED = 1 << 31
#: Headers that are at most `_NEAR_BYTES` apart are read together, `_TOGETHER_BYTES` at a time.
_NEAR_BYTES = 4 << 10
_TOGETHER_BYTES = 64 << 10


class Ranges:
    """A sorted set of ranges of bytes that do not overlap, for example of all members."""

    def __init__(self) -> None:
        """Start with no ranges."""
        self._starts = array("Q")
        self._ends = array("Q")
        self.top = 0
        self._moved = 0

    def add(self, start: int, end: int) -> bool:
        """Add a range, unless it overlaps another range; return whether the range was added.

        Raises:
            NotReadError: too many ranges are out of order.
        """
        if self._moved > _MAX_MOVED:
            raise NotReadError(Why.LIMIT, "zip: too many members out of order")
        if start >= self.top:
            self._starts.append(start)
            self._ends.append(end)
            self.top = end
            return True
        at = bisect_right(self._ends, start)
        if at < len(self._starts) and self._starts[at] < end:
            return False
        self._moved += len(self._starts) - at
        self._starts.insert(at, start)
        self._ends.insert(at, end)
        return True

    def has(self, start: int, end: int) -> bool:
        """Return whether exactly the range from `start` to `end` was added."""
        at = bisect_left(self._starts, start)
        return at < len(self._starts) and (self._starts[at], self._ends[at]) == (start, end)

    def covers(self, position: int) -> bool:
        """Return whether a byte is in one of the ranges."""
        at = bisect_right(self._ends, position)
        return at < len(self._starts) and self._starts[at] <= position

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges in order."""
        return zip(self._starts, self._ends, strict=True)


class Zip:
    """The expander of zip archives."""

    name = "zip"
    seeks = True
    ends = staticmethod(may_end)

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the members in all directories, in batches, and then the members in no directory.

        A zip within a compound file (doc, ppt) is a stream of this file, and is opened as a member
        of the file. This expander also finds the zip in the bytes of the compound file itself. The
        sectors of the stream may be scattered in the file, so damaged members are left out without
        a report.
        """
        data = cast(Data, data)
        compound = end_of(data)
        if compound and max((end.end for end in ends(data)), default=data.size) <= compound:
            return _without_damaged(_Archive(data, is_scattered=True).members())
        return _Archive(data).members()


def _without_damaged(
    found: Iterator[list[Member] | Unlisted],
) -> Iterator[list[Member] | Unlisted]:
    """Yield the members that can be read.

    The bytes of a damaged member end before the damage, without an error.
    """
    for part in found:
        if not isinstance(part, Unlisted):
            yield [
                msgspec.structs.replace(
                    member, head=None, is_exact=False, chunks=partial(_before_damage, member)
                )
                for member in part
            ]
        elif not _is_elsewhere(part.detail):
            yield part


def _before_damage(member: Member) -> Iterator[bytes]:
    """Yield the bytes of a member before any damage."""
    try:
        yield from member.chunks()
    except NotReadError as error:
        if not _is_elsewhere(error.detail):
            raise


def _is_elsewhere(detail: str) -> bool:
    """Return whether the text of an error may mean that a member's bytes are scattered."""
    return detail in ELSEWHERE or detail.startswith("compressed data: ")


class _Archive:
    """An archive while its members are being listed."""

    def __init__(self, data: Data, *, is_scattered: bool = False) -> None:
        self._data = data
        self._search = Search(data, is_scattered=is_scattered)
        self._ranges = Ranges()
        # The ranges of members whose local header disagrees with the directory.
        self._doubtful = Ranges()
        self._structure: list[tuple[int, int]] = []
        self._lowest = data.size  # the lowest start in `_structure`
        self._seen: set[int] = set()
        # How many more bytes of directories may be read after the first `MAX_DIRECTORIES`
        # directories. The limit is high enough for a file of many small archives, one after the
        # other.
        self._left = data.size

    def members(self) -> Iterator[list[Member] | Unlisted]:
        """Yield all members."""
        is_found = False
        for end in ends(self._data):
            if self._ranges.covers(end.start):
                continue  # the end record belongs to an archive that is a member
            is_found = True
            self._reserve(end.start, end.end)
            if end.is_part:
                yield Unlisted(b"", Why.UNSUPPORTED, "zip: one part of several")
            is_complete = not end.directories
            for directory in end.directories:
                if directory.start in self._seen:
                    is_complete = True
                    continue
                if len(self._seen) >= MAX_DIRECTORIES:
                    self._left -= directory.limit - directory.start
                if self._left < 0:
                    yield Unlisted(b"", Why.LIMIT, "zip: too many directories")
                    is_complete = True
                    break
                self._seen.add(directory.start)
                is_complete |= yield from self._directory(directory)
            if not is_complete:
                yield Unlisted(b"", Why.DAMAGED, "zip: a directory with another number of entries")
        if not is_found:
            error = damaged(NO_DIRECTORY)
            yield Unlisted(b"", error.why, error.detail)
        yield from self._search.members(self._gaps())

    def _reserve(self, start: int, end: int) -> None:
        self._structure.append((start, end))
        self._lowest = min(self._lowest, start)

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the start and end of each range of bytes outside of members and directories."""
        top = 0
        for start, end in heapq.merge(self._ranges, sorted(self._structure)):
            if start > top:
                yield top, start
            top = max(top, end)
        if top < self._data.size:
            yield top, self._data.size

    def _directory(self, directory: Directory) -> Generator[list[Member] | Unlisted, None, bool]:
        """Yield the members of a directory; return whether the number of entries is right."""
        entries = Entries(self._data, directory)
        self._reserve(directory.start, directory.claimed_end)
        mine = len(self._structure) - 1
        is_first = len(self._seen) == 1
        for window in entries.windows():
            window.sort()
            unlisted: list[Unlisted] = []
            members = self._listed(window, unlisted, is_first=is_first)
            if members:
                yield members
            yield from unlisted
        self._structure[mine] = (directory.start, entries.end)
        return entries.is_complete

    def _listed(
        self, entries: list[Entry], unlisted: list[Unlisted], *, is_first: bool
    ) -> list[Member]:
        """Return the members for directory entries; unreadable members are added to `unlisted`.

        This method is optimised, because archives may have millions of members: a usual entry takes
        few microseconds, mostly for one read.
        """
        read_at = self._data.read_at
        unpack = LOCAL.unpack_from
        size_of_all = self._data.size
        block, block_at, length, last = b"", 0, 0, 0
        members: list[Member] = []
        for entry in entries:
            offset, packed, size, crc, flags, method, name = entry
            at = offset - block_at
            if at + LOCAL_BYTES > length:
                is_near = offset - last <= _NEAR_BYTES
                count = _TOGETHER_BYTES if is_near else LOCAL_BYTES
                block = read_at(offset, count) if offset < size_of_all else b""
                block_at, length, at = offset, len(block), 0
            last = offset
            if length - at >= LOCAL_BYTES:
                mark, local_flags, local_method, local_crc, local_packed, local_size, n, m = unpack(
                    block, at
                )
                start = offset + LOCAL_BYTES + n + m
                end = start + packed
                is_usual = (
                    local_crc == crc
                    and local_packed == packed
                    and local_size == size
                    and local_method == method
                    and not (flags | local_flags) & UNUSUAL
                    and mark == LOCAL_MARK
                    and end <= size_of_all
                    and packed != MAX32
                )
            else:
                local_flags = start = end = 0
                is_usual = False
            is_apart = True
            try:
                if not is_usual:
                    start, end = agree(self._data, entry)
                is_apart = False
                if not self._add(offset, end, is_first=is_first):
                    continue
                is_apart = True
                if (flags | local_flags) & (IS_ENCRYPTED | IS_PATCH):
                    raise _unreadable(flags | local_flags)
                if method == STORED and packed == size:
                    if size or not name.endswith(b"/"):
                        chunks = partial(stored, self._data, start, size, crc)
                        head = partial(first_stored, self._data, start, entry)
                        members.append(Member(name, size, is_exact=True, chunks=chunks, head=head))
                elif method == STORED or method not in METHODS:
                    raise damaged("its sizes do not agree") if not method else unsupported(method)
                else:
                    chunks = partial(unpacked, self._data, start, entry)
                    head = None
                    if method == DEFLATED:
                        head = partial(first_inflated, self._data, start, entry)
                    members.append(Member(name, size, is_exact=False, chunks=chunks, head=head))
            except NotReadError as error:
                if error.why is Why.LIMIT:
                    raise
                if flags & IS_ENCRYPTED:
                    error = encrypted()
                elif is_apart and (found := by_directory(self._data, entry)):
                    if self._doubtful.add(offset, offset + LOCAL_BYTES + packed):
                        members += found
                unlisted.append(Unlisted(name, error.why, error.detail))
        return members

    def _add(self, start: int, end: int, *, is_first: bool) -> bool:
        """Add the range of a member.

        Return False if another directory has already listed the member.

        Raises:
            NotReadError: the member overlaps other bytes of the archive, or too many ranges are out
                of order.
        """
        if end > self._lowest and any(a < end and start < b for a, b in self._structure):
            raise damaged("overlaps a directory")
        if self._ranges.add(start, end):
            return True
        if not is_first and self._ranges.has(start, end):
            return False
        raise damaged("overlaps another member")


def _unreadable(flags: int) -> NotReadError:
    if flags & IS_ENCRYPTED:
        return encrypted()
    return NotReadError(Why.UNSUPPORTED, "zip: a patch")

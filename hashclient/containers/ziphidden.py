"""Finds members of a zip that no directory names: before, between and after the other members.

A program that reads a zip as a stream uses each local header that it finds. Therefore the bytes
outside of members and directories are searched for local headers. A local header begins with a
mark, the four bytes `PK\3\4`, which can also occur by chance. A mark counts as a header if valid
fields follow the mark, or if the mark directly follows a member; if the member of such a header is
unreadable, it is reported as unread. Any other mark only counts as a header if the data after it
has the right checksum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from hashclient.containers.interface import Data, Member, NotReadError, Unlisted, Why
from hashclient.containers.zipdirectory import (
    HEADER_CUT,
    LOCAL_MARK,
    MAX32,
    MEMBER_CUT,
    WRONG_SUM,
    damaged,
    wide,
)
from hashclient.containers.zipmember import (
    DESCRIPTOR_MARK,
    HAS_DESCRIPTOR,
    IS_ENCRYPTED,
    LOCAL,
    LOCAL_BYTES,
    METHODS,
    STORED,
    Packed,
    descriptor_bytes,
    encrypted,
    size_needed,
    stored,
    unsupported,
)

_WINDOW_BYTES = 1 << 20
#: The flags, methods and versions that programs write; versions end at 6.3.
_KNOWN_FLAGS = 0x287F
_KNOWN_METHODS = frozenset((*range(11), 12, 14, 16, 18, 19, 20, *range(93, 100)))
_MAX_VERSION = 63
_MAX_NAME_BYTES = 4096
#: `_MAX_TRIES`: how many marks without valid fields are tried, because more marks do not occur by
#: chance; `_MAX_TRIED_BYTES`: how many bytes are decoded in all to try these marks.
_MAX_TRIES = 1000
_MAX_TRIED_BYTES = 64 << 20


class _Found(msgspec.Struct, frozen=True):
    """A local header, and the place of the member's bytes.

    `packed` is the length of the member's bytes, or None if this length is unknown.
    """

    offset: int
    name: bytes
    method: int
    flags: int
    crc: int
    packed: int | None
    size: int
    start: int
    limit: int
    is_certain: bool


class Search:
    """A search for local headers in the bytes of an archive that belong to no listed member."""

    def __init__(self, data: Data, *, is_scattered: bool = False) -> None:
        """Read nothing yet; with `is_scattered`, a header need not directly follow a member."""
        self._data = data
        self._is_scattered = is_scattered
        self._window = b""
        self._window_at = 0
        self._tries = _MAX_TRIES
        self._bytes_to_try = _MAX_TRIED_BYTES
        self._has_given_up = False

    def members(self, gaps: Iterable[tuple[int, int]]) -> Iterator[list[Member] | Unlisted]:
        """Yield the members in `gaps`: the sorted ranges of bytes outside of listed members."""
        for start, end in gaps:
            # `expected`: where a program that reads the archive as a stream expects the next
            # header.
            expected = None if self._is_scattered else start
            at = self._find(LOCAL_MARK, start, end)
            while at is not None:
                found = self._header(at, end, is_expected=at == expected)
                at += len(LOCAL_MARK)
                if found is not None:
                    yield from self._member(found)
                    at, expected = found.start, None
                    if found.is_certain and found.packed is not None and at + found.packed <= end:
                        at += found.packed
                        if not self._is_scattered:
                            expected = at + self._descriptor_bytes(found)
                elif expected == at - len(LOCAL_MARK):
                    error = damaged(HEADER_CUT)
                    yield Unlisted(b"", error.why, error.detail)
                at = self._find(LOCAL_MARK, at, end)

    def _descriptor_bytes(self, found: _Found) -> int:
        """Return the length of the descriptor after a member of known length.

        Return 0 if the member has no descriptor.
        """
        assert found.packed is not None
        if not found.flags & HAS_DESCRIPTOR:
            return 0
        end = found.start + found.packed
        values = found.crc, found.packed, found.size
        return descriptor_bytes(self._data, end, *values) or 0

    def _find(self, mark: bytes, start: int, end: int) -> int | None:
        """Return the first offset of `mark` between `start` and `end`.

        Return None if the mark is not found.
        """
        while start + len(mark) <= end:
            at = start - self._window_at
            if not 0 <= at <= len(self._window) - len(mark):
                self._window = self._data.read_at(start, _WINDOW_BYTES)
                self._window_at, at = start, 0
            found = self._window.find(mark, at, end - self._window_at)
            if found >= 0:
                return self._window_at + found
            if len(self._window) < len(mark):
                return None
            start = self._window_at + len(self._window) - len(mark) + 1
        return None

    def _header(self, offset: int, end: int, *, is_expected: bool) -> _Found | None:
        """Return the local header at `offset`; the searched range of bytes ends at `end`.

        Return None if no valid local header is at `offset`.

        With `is_expected`, a header at `offset` counts even if its fields are invalid.
        """
        block = self._data.read_at(offset, LOCAL_BYTES)
        if len(block) < LOCAL_BYTES:
            return None
        _, flags, method, crc, packed, size, name_bytes, extra_bytes = LOCAL.unpack(block)
        start = offset + LOCAL_BYTES + name_bytes + extra_bytes
        if start > end:
            return None
        name = self._data.read_at(offset + LOCAL_BYTES, name_bytes)
        is_certain = is_expected or (
            block[4] <= _MAX_VERSION
            and not flags & ~_KNOWN_FLAGS
            and method in _KNOWN_METHODS
            and 0 < name_bytes <= _MAX_NAME_BYTES
            and min(name, default=0) >= 0x20
        )
        if packed == MAX32 or size == MAX32:
            extra = self._data.read_at(offset + LOCAL_BYTES + name_bytes, extra_bytes)
            size, packed = wide(extra, (size, packed))
        is_known = packed or not flags & HAS_DESCRIPTOR
        return _Found(
            offset=offset,
            name=name,
            method=method,
            flags=flags,
            crc=crc,
            packed=packed if is_known else None,
            size=size,
            start=start,
            limit=end,
            is_certain=is_certain,
        )

    def _member(self, found: _Found) -> Iterator[list[Member] | Unlisted]:
        if found.is_certain:
            error: NotReadError | None = None
            if found.flags & IS_ENCRYPTED:
                error = encrypted()
            elif found.method not in METHODS:
                error = unsupported(found.method)
            if error is not None:
                yield Unlisted(found.name, error.why, error.detail)
                return
        elif found.method not in METHODS or self._has_given_up:
            return
        elif self._is_spent or not self._is_sound(found):
            if self._is_spent:
                self._has_given_up = True
                yield Unlisted(b"", Why.LIMIT, "zip: too many marks of members in other bytes")
            return
        if found.packed == 0 and found.name.endswith(b"/"):
            return
        chunks = partial(_chunks, self, found)
        yield [Member(found.name, None, is_exact=False, chunks=chunks, offset=found.offset)]

    @property
    def _is_spent(self) -> bool:
        return self._tries < 0 or self._bytes_to_try <= 0

    def _is_sound(self, found: _Found) -> bool:
        """Return whether the bytes after a header decode to the checksum that the header states."""
        if not found.packed and not found.flags & HAS_DESCRIPTOR:
            return False  # the header states an empty member without a checksum
        self._tries -= 1
        if self._tries < 0:
            return False
        try:
            for piece in _chunks(self, found):
                self._bytes_to_try -= len(piece)
                if self._bytes_to_try <= 0:
                    return False
        except NotReadError:
            return False
        return True

    def stored_bytes(self, found: _Found) -> tuple[int, int]:
        """Return the length and the checksum of a stored member, by its descriptor.

        Raises:
            NotReadError: no descriptor fits the bytes.
        """
        at = self._find(DESCRIPTOR_MARK, found.start, found.limit)
        while at is not None:
            block = self._data.read_at(at, 24)
            crc, length = block[4:8], at - found.start
            if length.to_bytes(8, "little")[:4] == block[8:12]:
                value = int.from_bytes(crc, "little")
                if descriptor_bytes(self._data, at, value, length, length):
                    return length, value
            at = self._find(DESCRIPTOR_MARK, at + 1, found.limit)
        raise damaged("a stored member without an end")

    @property
    def data(self) -> Data:
        """The bytes of the archive."""
        return self._data


def _chunks(search: Search, found: _Found) -> Iterator[bytes]:
    """Yield the bytes of a member that was found outside of listed members.

    Raises:
        NotReadError: the bytes are damaged, or extend into a listed member or a directory.
    """
    data = search.data
    end = found.limit if found.packed is None else found.start + found.packed
    if end > found.limit:
        raise damaged(MEMBER_CUT)
    if found.method == STORED:
        length, crc = found.packed, found.crc
        if length is None:
            length, crc = search.stored_bytes(found)
        if length != found.size and (found.size or found.packed is not None):
            raise damaged("its sizes do not agree")
        yield from stored(data, found.start, length, crc)
        return
    packed = Packed(data, found.start, end, found.method, flags=found.flags, crc=found.crc)
    most = size_needed(found.method, found.flags, found.size)
    if most is not None and found.packed is None:
        raise damaged("compressed data without an end")
    yield from packed.chunks(most)
    is_said = found.size or not found.flags & HAS_DESCRIPTOR
    if is_said and packed.count != found.size:
        raise damaged("its sizes do not agree")  # some programs write zeros after the member
    if found.packed is None:
        length = packed.position - found.start
        if descriptor_bytes(data, packed.position, packed.found, length, packed.count) is None:
            raise damaged("its descriptor does not agree")
    elif packed.position != end:
        raise damaged("bytes behind its compressed data")
    elif packed.found != found.crc:
        # The checksum in the header is wrong, so the descriptor must contain the right checksum.
        length = found.packed
        if descriptor_bytes(data, end, packed.found, length, packed.count) is None:
            raise damaged(WRONG_SUM)

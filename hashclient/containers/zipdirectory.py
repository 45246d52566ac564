"""The directories of a zip: where they may begin, and their entries.

Programs disagree about the place of the directory. Some programs use the last end record, and some
use the first end record with a valid comment. From the end record, some programs use the offset of
the directory, and some use its size. Therefore every directory that a program may use is read, and
a member that is in several directories is listed once. `ziphidden` finds members without a
directory entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

import msgspec

from hashclient.containers.interface import TAIL_BYTES, Data, NotReadError, Why

END_MARK, ENTRY_MARK, LOCAL_MARK = b"PK\5\6", b"PK\1\2", b"PK\3\4"
_END64_MARK, _LOCATOR_MARK = b"PK\6\6", b"PK\6\7"
#: the end record: disk, disk of the directory, entries on this disk, entries, size and offset of
#: the directory, length of the comment
_END = Struct("<4x4H2LH")
_END64 = Struct("<4xQ2H2L4Q")
_LOCATOR = Struct("<4xLQL")
#: an entry: mark, flags, method, checksum, compressed size, size, lengths of name, extra fields and
#: comment, offset
_ENTRY = Struct("<4s4x2H4x3L3H8xL")
ENTRY_BYTES = _ENTRY.size

MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
#: The number of directories that are read without a limit for their total length. A usual archive
#: has at most two directories, which may list millions of members. All further directories together
#: may be as long as the file, because a presentation contains tens of small archives.
MAX_DIRECTORIES = 16
_MAX_PARTS = 10_000
#: How many bytes of a directory are read at a time; the longest entry has 196,651 bytes.
_WINDOW_BYTES = 256 << 10

#: offset of the local header, compressed size, size, checksum, flags, method, name
Entry = tuple[int, int, int, int, int, int, bytes]


class Directory(msgspec.Struct, frozen=True):
    """A directory of a zip.

    The directory begins at `start`, ends at `claimed_end` by its end record, and ends at the latest
    at `limit`, where the end record begins.

    `base`: the length of other bytes before the archive, which is added to all offsets. `count`:
    the number of entries in the end record, which is stored modulo `modulus`.
    """

    start: int
    claimed_end: int
    limit: int
    base: int
    count: int
    modulus: int


class End(msgspec.Struct, frozen=True):
    """An end record.

    The end record begins at `start` (with the locator of its zip64 record), and `directories` are
    the directories that it may refer to.
    """

    start: int
    end: int
    directories: list[Directory]
    is_part: bool  # whether the archive is divided into several files


def may_end(tail: bytes) -> bool:
    """Return whether a file with the last bytes `tail` ends like a zip.

    The test is fast, and returns False for most files that are no zip.
    """
    at = tail.rfind(END_MARK)
    while at >= 0:
        if at + _END.size <= len(tail):
            disk, first_disk, here, count, size, _, _ = _END.unpack_from(tail, at)
            is_whole = disk == first_disk == 0 < here == count
            # The directory may be anywhere before the end record, because some programs use only
            # its offset.
            is_one = is_whole and (ENTRY_BYTES * count <= size or ENTRY_MARK in tail[:at])
            is_right_before = size <= at and tail[at - size : at - size + 4] == ENTRY_MARK
            if is_one or is_right_before or tail[max(at - 20, 0) :].startswith(_LOCATOR_MARK):
                return True
        elif ENTRY_MARK in tail[:at]:
            return True  # some programs accept a truncated end record
        at = tail.rfind(END_MARK, 0, at)
    return False


def ends(data: Data) -> Iterator[End]:
    """Yield the end records that a program may use, the last record first.

    Some programs search only as many last bytes as a comment can have; other programs also find an
    end record before more bytes.
    """
    is_found, start = False, data.size
    while start > 0 and not is_found:
        stop, start = start, max(start - TAIL_BYTES, 0)
        tail = data.read_at(start, stop - start + _END.size - 1)
        at = tail.rfind(END_MARK)
        while at >= 0:
            found = _end(data, start + at, tail[at : at + _END.size])
            if found is not None:
                is_found = True
                yield found
            at = tail.rfind(END_MARK, 0, at)


def _end(data: Data, position: int, record: bytes) -> End | None:
    if len(record) < _END.size:
        return None
    disk, first_disk, here, count, size, offset, comment = _END.unpack(record)
    directories = _places(data, position, size, offset, count, MAX16 + 1)
    start = position
    # The four bytes of a mark can occur by chance, so the other fields must be valid for an archive
    # in several files.
    is_part = (
        first_disk <= disk
        and 0 < disk < _MAX_PARTS
        and here <= count
        and 0 < ENTRY_BYTES * count <= size
        and position + _END.size + comment == data.size
    )
    locator = data.read_at(position - _LOCATOR.size, _LOCATOR.size) if position >= 20 else b""
    if locator[:4] == _LOCATOR_MARK:
        start = position - _LOCATOR.size
        _, claimed, _ = _LOCATOR.unpack(locator)
        # The zip64 record is at the stated offset or, if other bytes precede the archive, directly
        # before its locator.
        for place in dict.fromkeys((start - _END64.size, claimed)):
            if not 0 <= place <= start - _END64.size:
                continue
            long = data.read_at(place, _END64.size)
            if long[:4] == _END64_MARK:
                _, _, _, disk, first_disk, _, count, size, offset = _END64.unpack(long)
                is_part |= 0 < disk < _MAX_PARTS
                directories += _places(data, place, size, offset, count, 1 << 64)
    if not directories and not is_part:
        # The end record of an empty archive has no directory. The first four bytes of an end record
        # may occur in other data by chance, so they are no end record without valid fields.
        if count or size or disk or first_disk:
            return None
    return End(start, position + _END.size, directories, is_part)


def _places(
    data: Data, position: int, size: int, offset: int, count: int, modulus: int
) -> list[Directory]:
    """Return where the directory of an end record may begin, by its size and by its offset."""
    found = []
    before = position - size
    for start, base in dict.fromkeys(((before, max(before - offset, 0)), (offset, 0))):
        if 0 <= start < position and data.read_at(start, 4) == ENTRY_MARK:
            claimed_end = min(start + size, position)
            found.append(Directory(start, claimed_end, position, base, count, modulus))
    return found


class Entries:
    """The entries of one directory.

    The attributes `end` and `count` are only valid after `windows` has yielded all entries.
    """

    def __init__(self, data: Data, directory: Directory) -> None:
        """Remember the directory, without reading it."""
        self._data = data
        self._directory = directory
        self.end = directory.start
        self.count = 0

    @property
    def is_complete(self) -> bool:
        """Whether the number of entries in the directory equals the number in the end record."""
        directory = self._directory
        return self.count % directory.modulus == directory.count % directory.modulus

    def windows(self) -> Iterator[list[Entry]]:
        """Yield the entries of the directory in order, one list for each window of bytes."""
        base, limit = self._directory.base, self._directory.limit
        unpack = _ENTRY.unpack_from
        while self.end < limit:
            window = self._data.read_at(self.end, min(_WINDOW_BYTES, limit - self.end))
            last = len(window) - ENTRY_BYTES
            at = 0
            entries: list[Entry] = []
            while at <= last:
                fields = unpack(window, at)
                mark, flags, method, crc, packed, size, n, extra_bytes, comment, offset = fields
                name_end = at + ENTRY_BYTES + n
                end = name_end + extra_bytes + comment
                if mark != ENTRY_MARK or end > len(window):
                    break
                name = window[at + ENTRY_BYTES : name_end]
                if packed == MAX32 or size == MAX32 or offset == MAX32:
                    extra = window[name_end : name_end + extra_bytes]
                    size, packed, offset = wide(extra, (size, packed, offset))
                entries.append((offset + base, packed, size, crc, flags, method, name))
                at = end
            if not at:
                return  # the directory ends here, or an entry is cut off
            self.end += at
            self.count += len(entries)
            yield entries


def wide(extra: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
    """Return `values`.

    Each of the values that is 0xFFFFFFFF is replaced by the value in the zip64 extra field.
    """
    found = extra_field(extra, 1)
    if found is None:
        return values
    at = 0
    result = []
    for value in values:
        if value == MAX32 and at + 8 <= len(found):
            value = int.from_bytes(found[at : at + 8], "little")
            at += 8
        result.append(value)
    return tuple(result)


def extra_field(extra: bytes, kind: int) -> bytes | None:
    """Return the first extra field of a kind; None if no such field exists."""
    at = 0
    while at + 4 <= len(extra):
        length = int.from_bytes(extra[at + 2 : at + 4], "little")
        if int.from_bytes(extra[at : at + 2], "little") == kind:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None


#: Texts of errors that also occur if an archive is in scattered sectors of a compound file.
NO_DIRECTORY = "no directory"
NO_LOCAL_HEADER = "no local header where the directory says"
MEMBER_CUT = "a member that is cut off"
HEADER_CUT = "a header that is cut off"
WRONG_SUM = "its checksum does not agree"
ENDS_EARLY = "compressed data ends too early"
ELSEWHERE = frozenset(
    f"zip: {what}"
    for what in (NO_DIRECTORY, NO_LOCAL_HEADER, MEMBER_CUT, HEADER_CUT, WRONG_SUM, ENDS_EARLY)
)


def damaged(detail: str) -> NotReadError:
    """Return the error for a damaged zip."""
    return NotReadError(Why.DAMAGED, f"zip: {detail}")

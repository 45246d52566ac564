"""Tells by the first bytes whether a file may be a container: for every file, so it is cheap.

The worker, which holds lists and keys, looks at marks only, here, and at the first lines of a
possible mail; the registry verifies the kind, in the process that opens containers. A mark may fit
a file that is no container, but every container has one. The inventory remembers files without a
mark: where a kind is added here, these must be looked at again.
"""

from __future__ import annotations

import re

from hashclient.containers.fronts import FIRST_OF_FRONTS, FRONTS
from hashclient.containers.interface import HEAD_BYTES, ISO_HEAD_BYTES
from hashclient.containers.mailmarks import (
    END_OF_NAME,
    MAX_LINE_BYTES,
    begins_as_mail,
    can_be_mail,
    may_be_odd_mail,
)
from hashclient.containers.tarheader import BLOCK_BYTES, begins_late, is_header
from hashclient.containers.unopened import FIRST_BYTES, begins_unopened

_ISO_MARK_AT = 32_769
#: Where the mark of an image of a disk ends: no mark lies behind it.
ISO_MARK_END = 32_774
#: ISO 9660, and UDF alone.
_MARKS_OF_ISO = (b"CD001", b"BEA01")
_BEGINS_OF_ISO = b"CB"
_LZMA_BYTES = 18
#: Fewer bytes have fewer places for a mark.
_FEW_BYTES = 22

#: Marks of containers at the very beginning; of mailboxes it is a line.
_MARKS = re.compile(
    rb"PK\x03\x04|PK\x05\x06|PK\x07\x08|PK00PK|\x1f\x8b|BZh|\xfd7zXZ\x00|\x28\xb5\x2f\xfd"
    rb"|[\x50-\x5f]\x2a\x4d\x18|\x04\x22\x4d\x18|\x02\x21\x4c\x18|LZIP|7z\xbc\xaf\x27\x1c"
    rb"|Rar!\x1a\x07|MSCF|0707|\xc7\x71|\x71\xc7|!<arch>\n|\xed\xab\xee\xdb|xar!|WARC/|Cr24|x\x9f\x3e\x22"
    rb"|[\r\n]*From ",
)
#: How a mail may begin, perhaps behind a byte order mark: a field of a header, among the first
#: bytes. A word is taken as a whole: to try its parts takes long where a large file is one word.
_BEGIN_OF_MAIL = rb"(?:\xef\xbb\xbf)?[\r\n]*[!-'*-9;-~]{1,512}+" + END_OF_NAME
_FIELD = re.compile(_BEGIN_OF_MAIL)
#: The same of lha, behind two bytes of anything.
_LHA = frozenset({b"-lh", b"-lz", b"-pm"})
_MARK, _FRONT, _TEXT, _UNOPENED = 1, 2, 4, 8


def _begins_of() -> bytes:
    """Return the possible kinds by the first byte alone, which decides most files."""
    begins = bytearray(256)
    for first in b"P\x1fB\xfd\x28\x04\x02L7RM0!\xedxWCF\r\n\xc7\x71" + bytes(range(0x50, 0x60)):
        begins[first] |= _MARK
    for first in FIRST_OF_FRONTS:
        begins[first] |= _FRONT
    for first in (*range(0x21, 0x7F), *b"\r\n\xef"):
        begins[first] |= _TEXT
    for first in FIRST_BYTES:
        begins[first] |= _UNOPENED
    return bytes(begins)


_BEGINS = _begins_of()
_begins_with_field, _begins_with_mark = _FIELD.match, _MARKS.match
_begins_as_front = FRONTS.match
#: The sum in a header of tar: its first byte, its second, and all of it. A sum of signed bytes can
#: have one digit.
_TAR_BEGINS = frozenset(b" \t\n\v\f\r01234567\x00\x80")
_TAR_DIGITS = frozenset(b" \t\n\v\f\r01234567\x00")
_has_sum_of_tar = re.compile(rb"\x00?[\t-\r ]*[0-7]+(?:[\t-\r \x00]|\Z)|\x80\x00").match
_SECOND_SUM = BLOCK_BYTES + 148
#: All marks but that of an image of a disk begin in so many bytes.
_BEGIN_BYTES = 2 * BLOCK_BYTES
#: How a file begins where more than one block may come before the first header.
_LATE_BEGINS = (b"\0\0", b"#!")
#: Of .lzma and of images that begin with zeros; of ace.
_ZERO_OR_STAR = frozenset(b"\0*")
_BOOT_MARK = 0x55
_DASH, _LETTER_F, _LETTER_U = b"-fu"


def may_bear(head: bytes | memoryview) -> bool:
    """Return whether a file that begins like this is worth a closer look by the rules below.

    Most files of a tree end here. This refuses no file that a rule of `has_mark`, `may_front` or
    `unopened.kind_by_begin` accepts: it looks at one byte where they look at several.
    """
    length = len(head)
    if not length:
        return False
    if length > _BEGIN_BYTES:
        if length >= ISO_MARK_END and head[_ISO_MARK_AT] in _BEGINS_OF_ISO and _is_iso(head):
            return True
        head = bytes(head[:_BEGIN_BYTES])  # of which each look takes less
    kinds = _BEGINS[head[0]]
    if kinds and (
        (kinds & _TEXT and _begins_with_field(head))
        or (kinds & _FRONT and _begins_as_front(head))
        or (kinds & _MARK and _begins_with_mark(head))
        or (kinds & _UNOPENED and begins_unopened(head))
    ):
        return True
    if length < _FEW_BYTES:
        return (
            (length > 5 and head[2] == _DASH)
            or (length > 8 and head[4] == _LETTER_F)
            or (length >= _LZMA_BYTES and not head[13])
            or may_be_odd_mail(head)
        )
    if head[2] == _DASH or head[13] in _ZERO_OR_STAR or head[4] == _LETTER_F:
        return True
    if length >= HEAD_BYTES:
        if head[510] == _BOOT_MARK or head[257] == _LETTER_U:
            return True
        if (
            head[148] in _TAR_BEGINS
            and head[149] in _TAR_DIGITS
            and _has_sum_of_tar(head, 148, 156)
        ):
            return True
        if length > _SECOND_SUM and head[_SECOND_SUM] in _TAR_BEGINS:
            if _may_begin_late(head, min(length, _BEGIN_BYTES)):
                return True
    return may_be_odd_mail(head)


def has_mark(head: bytes | memoryview, *, is_all: bool = False) -> bool:
    """Return whether a file that begins like this may be a container, by its head.

    Single bytes are looked at first, so most files need no copy. With `is_all` the head is the
    whole file: a short text with colons but without fields of mail is then known to be no mail.
    """
    length = len(head)
    if length < 3:
        return False
    kinds = _BEGINS[head[0]]
    if kinds & _MARK and _begins_with_mark(head):
        return True
    if kinds & _TEXT and _begins_with_field(head):
        if begins_as_mail(bytes(head[:HEAD_BYTES])) and not (
            is_all and length < MAX_LINE_BYTES and not can_be_mail(head)
        ):
            return True
    elif may_be_odd_mail(head):
        return True
    if head[2] == _DASH and length > 5 and bytes(head[2:5]) in _LHA:
        return True
    if length < _LZMA_BYTES:
        return False
    if not head[13] and is_lzma_header(bytes(head[:_LZMA_BYTES])):
        return True
    if length < HEAD_BYTES:
        return False
    if head[148] in _TAR_BEGINS and head[149] in _TAR_DIGITS and _has_sum_of_tar(head, 148, 156):
        # Some texts of numbers fit so far; the checksum decides, as for the expander.
        if is_header(bytes(head[:BLOCK_BYTES])):
            return True
    if head[257] == _LETTER_U and head[257:262] == b"ustar":
        return True
    if _may_begin_late(head, length) and begins_late(bytes(head[:ISO_HEAD_BYTES])):
        return True
    return length >= ISO_MARK_END and head[_ISO_MARK_AT] in _BEGINS_OF_ISO and _is_iso(head)


def _is_iso(head: bytes | memoryview) -> bool:
    return bytes(head[_ISO_MARK_AT:ISO_MARK_END]) in _MARKS_OF_ISO


def _may_begin_late(head: bytes | memoryview, length: int) -> bool:
    """Return whether the first header of tar may lie behind the first block."""
    if length < 2 * BLOCK_BYTES:
        return False
    return wants_all_head(head) or (
        head[_SECOND_SUM] in _TAR_BEGINS
        and head[_SECOND_SUM + 1] in _TAR_DIGITS
        and _has_sum_of_tar(head, _SECOND_SUM, _SECOND_SUM + 8) is not None
    )


def is_lzma_header(begin: bytes) -> bool:
    """Return whether the fields of .lzma make sense, which has no mark.

    Programs write a window of 2^n or 3·2^n bytes, `xz` and 7-Zip open any of these, and the rules
    for the length are those of `xz`.
    """
    if len(begin) < _LZMA_BYTES or begin[0] >= 225 or begin[13]:
        return False
    window, size = int.from_bytes(begin[1:5], "little"), int.from_bytes(begin[5:13], "little")
    lowest = window & -window
    return (0 < window in (lowest, 3 * lowest) or window == 0xFFFFFFFF) and (
        size < 1 << 38 or size == (1 << 64) - 1
    )


def wants_more_head(size: int) -> bool:
    """Return whether the mark of an image of a disk may lie beyond the first bytes."""
    return size >= ISO_HEAD_BYTES


def wants_all_head(head: bytes | memoryview) -> bool:
    """Return whether a tar may begin so far behind these first bytes that more have to be read."""
    return head[:2] in _LATE_BEGINS

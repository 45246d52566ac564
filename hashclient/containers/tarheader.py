"""Parses the headers of tar: a block of 512 bytes, and the fields of pax.

A block is a header if its checksum is right. All fields are parsed as in GNU tar. A number is
binary if its first bit is set. All other numbers are octal; blanks may precede the number, and a
blank or a zero byte ends the number.
"""

from __future__ import annotations

import re
from itertools import product
from zlib import adler32

import msgspec

BLOCK_BYTES = 512
MAGIC, MAGIC_AT = b"ustar", 257
#: `SUM_AT`: the offset of the checksum field in a header; `SUM_BEGINS`: the possible first two
#: bytes of this field. If the bytes are added as signed numbers, the checksum may have only one
#: digit.
SUM_AT = 148
_SUM_BYTES = b" \t\n\v\f\r01234567\0"
SUM_BEGINS = (*(bytes(pair) for pair in product(_SUM_BYTES, repeat=2)), b"\x80\0")
_SUM = rb"\x00?[\t-\r ]{0,7}[0-7]{1,8}[\t-\r \x00]|[\x00\t-\r 0-7]{8}|\x80\x00"
_SUM_OF_TEXT = rb"[\t-\r ]{0,3}[0-7]{4,7}[\t-\r ]|[\t-\r 0-7]{8}"
#: The first bytes of files whose first header may follow more than one other block.
LATE_BEGINS = (b"\0\0", b"#!")
_MAGIC_POSIX = b"ustar\0"
_ASCII = bytes(range(128))
_ZEROS = bytes(BLOCK_BYTES)
_zeros = re.compile(rb"\0*+").match
_OCTAL = re.compile(rb"[\t-\r ]*([0-7]*)(?:[\t-\r \x00]|\Z)")
#: The largest size that fits the octal digits in a header.
MAX_OCTAL = 0o77777777777

_KEPT = frozenset(
    (
        *(b"path", b"size", b"SCHILY.realsize"),
        *(b"GNU.sparse.%b" % name for name in b"name realsize size map major minor".split()),
    )
)

Pax = dict[bytes, bytes]


class Header(msgspec.Struct, frozen=True):
    """A header; `size` is in bytes, or None if it is invalid; `kind` is the type flag."""

    name: bytes
    kind: bytes
    size: int | None


def octal(field: bytes) -> int | None:
    """Return the octal number in a field; None if the field has no number.

    A blank field is zero, as in all programs.
    """
    digits = field.rstrip(b" \0")
    if digits.isdigit():  # the form that nearly all programs write
        try:
            return int(digits, 8)
        except ValueError:
            return None
    found = _OCTAL.match(field)
    return None if found is None else int(found[1] or b"0", 8)


def number(field: bytes) -> int | None:
    """Return the octal or binary number in a field; None if it is invalid or negative."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value if field[0] == 0x80 and value < 1 << 63 else None
    return octal(field)


def with_sum(start: int) -> bytes:
    """Return a regular expression for files that may have a header at the offset `start`.

    Text files of numbers often have digits at the offset of the checksum. In a text, all bytes are
    between 0x01 and 0x7f, so the checksum would be at least 760. Therefore, in a text, the checksum
    field must have at least four digits, and a byte that ends the digits.
    """
    few = rb".{%d}[\x01-\x7f]{0,511}+[\x00\x80-\xff]" % start
    at = start + SUM_AT
    return rb"(?=.{%d}(?:%s))(?:.{%d}(?:%s)|%s)" % (at, _SUM, at, _SUM_OF_TEXT, few)


def differs_from_sum(start: int) -> str:
    """Return a Python expression that is true if the bytes are text and not a header.

    The expression is a quick test, which is false for all `data` that `with_sum` matches. The
    expression does not compare the first two bytes of the checksum field, because the marks in
    `kinds` contain these two bytes. In a text, three more bytes of a checksum must follow.
    """
    at, end = start + SUM_AT, start + BLOCK_BYTES
    others = " or ".join(f"data[{at + place}] not in {set(_SUM_BYTES[:-1])}" for place in (2, 3, 4))
    return f"({others}) and data[{start}:{end}].isascii() and data.find(0, {start}, {end}) < 0"


def is_header(block: bytes) -> bool:
    """Return whether a block contains the sum of its bytes, as signed or unsigned numbers."""
    if len(block) < BLOCK_BYTES:
        return False
    stated = _number_behind_zero(block[148:156])
    if not stated:
        return False
    # For the sum, the bytes of the checksum field itself are replaced by eight spaces.
    apart = 8 * 0x20 - sum(block[148:156])
    if block.isascii():
        # The lower half of Adler-32 is the sum of all bytes modulo 65521. The sum of a block of
        # text is smaller than 65521, and Adler-32 takes less time than a sum in Python (4 us).
        return (adler32(block) & 0xFFFF) - 1 + apart == stated
    # Some old programs computed the sum with bytes as signed numbers, from -128 to 127.
    total = sum(block) + apart
    return stated in (total, total - 256 * len(block.translate(None, _ASCII)))


def begins_late(head: bytes) -> bool:
    """Return whether the first header follows blocks of zeros, a script, or a foreign block.

    `tar -i` skips blocks of zeros, busybox skips one block of zeros, and GNU tar skips all blocks
    before the first header.
    """
    first, at = head[:BLOCK_BYTES], BLOCK_BYTES
    if first == _ZEROS:
        zeros = _zeros(head)
        at = zeros.end() // BLOCK_BYTES * BLOCK_BYTES if zeros else 0
    elif first.startswith(b"#!") and MAGIC[0] in head[BLOCK_BYTES + MAGIC_AT :: BLOCK_BYTES]:
        starts = range(BLOCK_BYTES, len(head), BLOCK_BYTES)
        at = next((at for at in starts if head.startswith(MAGIC, at + MAGIC_AT)), at)
    return is_header(head[at : at + BLOCK_BYTES])


def _number_behind_zero(field: bytes) -> int | None:
    """Return the number in a field; GNU tar also accepts a zero byte before the number."""
    return number(field if field[0] else field[1:])


def parse_header(block: bytes) -> Header | None:
    """Parse a block of 512 bytes as a header; return None if the block is no header."""
    if not is_header(block):
        return None
    name = block[:100].split(b"\0", 1)[0]
    if block[345] and block[257:263] == _MAGIC_POSIX:
        prefix = block[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name
    return Header(name, block[156:157], _number_behind_zero(block[124:136]))


def parse_pax(text: bytes) -> Pax | None:
    """Return the fields of a pax header that concern names, sizes and maps.

    Return None if the header is damaged.

    If a field occurs twice, the last value counts, as in all programs. The pieces of a sparse map
    in the old form are separate fields, which are joined by commas.
    """
    fields: Pax = {}
    pieces: list[bytes] = []
    at = 0
    while at < len(text) and text[at]:
        space = text.find(b" ", at, at + 12)
        digits = text[at:space]
        if space < 0 or not digits.isdigit():
            return None
        end = at + int(digits)
        name, equals, value = text[space + 1 : end - 1].partition(b"=")
        # If the length is too large or too small, one of these slices is empty.
        if text[end - 1 : end] != b"\n" or not equals:
            return None
        if name in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            pieces.append(value)
        elif name in _KEPT:
            fields[name] = value
        elif name.startswith(b"GNU.sparse."):
            fields[b"GNU.sparse.?"] = value  # an unknown form of sparse members
        at = end
    if pieces:
        fields[b"GNU.sparse.map"] = b",".join(pieces)
    return fields

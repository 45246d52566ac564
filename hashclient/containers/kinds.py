"""The rows of all kinds of containers; this module declares the kinds that are opened.

To add a kind that is opened, write a module with its expander (see `interface`), and add a row to
`OPENED`. A kind that is only counted, and not opened, needs no more than a row in `unopened`. If
several expanders fit a file, they are tried in the order of the rows.
"""

from __future__ import annotations

import re
from importlib.util import find_spec

from hashclient.containers import fronts, unopened
from hashclient.containers.fronts import ends_as_7z
from hashclient.containers.kind import ANYWHERE, End, Kind, Mark, Sure
from hashclient.containers.mailmarks import MAX_LINE_BYTES, can_be_mail, may_be_mail, may_hold_mail
from hashclient.containers.tarheader import (
    BLOCK_BYTES,
    LATE_BEGINS,
    MAGIC,
    MAGIC_AT,
    SUM_AT,
    SUM_BEGINS,
    begins_late,
    differs_from_sum,
    is_header,
    with_sum,
)

#: The first bytes of a stream of gzip. Of the other programs, only gzip and unar take the second
#: mark, which is that of old versions of gzip, and only unar takes the third mark.
GZIP_MARKS = b"\x1f\x8b", b"\x1f\x9e", b"\x1f\xa1"
_LZMA_BYTES = 18
#: The values that each byte of a window size in an .lzma header may have: window sizes are 2^n,
#: 3·2^n, or have all bits set. The regular expression `_LZMA` also requires a possible length of
#: the file.
_LZMA_WINDOW = bytes({0, 255, *(1 << n for n in range(8)), *(3 << n for n in range(7))})
_LZMA = rb"(?:[^\xe1-\xff][%b]{4}|\x5d\x00.{3})(?:.{4}[\x00-\x3f]\x00{3}|\xff{8})\x00" % re.escape(
    _LZMA_WINDOW
)
_LHA = b"lh0 lh1 lh2 lh3 lh4 lh5 lh6 lh7 lhd lhx lz4 lzs lz5 pm0 pm2".split()
#: The first bytes of a frame of zstd by the versions 0.5 to 0.7.
OLD_ZSTD = tuple(bytes([first]) + b"\xb5\x2f\xfd" for first in (0x25, 0x26, 0x27))
_SKIPPED_FRAMES = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))
#: A binary cpio begins with a fixed two-byte number, in either byte order. `_CPIO_TYPES` and
#: `_CPIO_LENGTHS` are the possible upper bytes of two other two-byte numbers: the file type of the
#: first member, and the length of its name.
_CPIO_TYPES, _CPIO_LENGTHS = range(0x10, 0xD0), range(0x10)


def _is_cpio(head: bytes) -> bool:
    at = 6 if head[0] == 0x71 else 7
    return head[0] == ord("0") or (
        len(head) > 21 and head[at] in _CPIO_TYPES and head[at + 14] in _CPIO_LENGTHS
    )


#: Matches the fields that browsers write into a form.
_OF_FORM = re.compile(
    rb"content-(?:disposition: ?form-data.*|type: ?(?!multipart|message)[\w.+-]+/.*|length: ?\d+"
    rb"|id: .*|transfer-encoding: ?(?:binary|7bit|8bit))"
)
OLE_MARK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

_STORES = b"SM", b"SO", b"AB"
_STORE_VERSIONS = b"\x0e\x0f\x15\x17\x24"


def _is_ole(head: bytes) -> bool:
    """Return whether the sector size in the header of a compound file is possible."""
    return len(head) >= 512 and 7 <= head[30] <= 20 and not head[31]


def _is_store(head: bytes) -> bool:
    """Return whether the type or the version in the header of an Outlook store is known.

    The program readpst only checks the version.
    """
    return head[8:10] in _STORES or head[10] in _STORE_VERSIONS


def _is_form(head: bytes) -> bool:
    """Return whether the bytes begin with a boundary and the header of a part of an HTTP form."""
    if head[:2] != b"--" or head[2:3] in b"\r\n":
        return False
    header = head.replace(b"\r", b"").partition(b"\n\n")[0].lower()
    fields = (line.partition(b":") for line in header.split(b"\n"))
    return any(
        name == b"content-disposition" and value.strip().startswith(b"form-data")
        for name, _, value in fields
    )


def _is_only_form(head: bytes) -> bool:
    """Return whether the first part of a form has no field by which programs take it for a mail."""
    header, end, _ = head.replace(b"\r", b"").partition(b"\n\n")
    lines = header.lower().split(b"\n")[1:]
    return _is_form(head) and bool(end) and all(map(_OF_FORM.fullmatch, lines))


def _is_uuencoded(head: bytes) -> bool:
    # `begins_file` is imported here because few files begin like a uuencoded file.
    from hashclient.containers.mimedecode import begins_file

    return begins_file(head) is not None


def _is_mail(head: bytes) -> bool:
    return not _is_only_form(head) and may_be_mail(head)


def _is_warc(head: bytes) -> bool:
    version, end, _ = head[5:].partition(b"\r\n")
    return bool(end) and version[:2] in (b"0.", b"1.") and version[2:].isdigit()


def _is_bzip2(head: bytes) -> bool:
    """Return whether a level and a block, or the end of an empty file, follow the mark of bzip2."""
    return head[3] in b"123456789" and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")


def _is_compress(head: bytes) -> bool:
    """Return whether the first codes of a `.Z` file are valid.

    Each byte value has a code, and each code that is read defines one new code. If a flag is set,
    the code 256 removes all codes that were defined. The first codes have nine bits each. The
    longest code that the header allows is not examined, because unar takes more than 16 bits.
    """
    bits = int.from_bytes(head[3:21], "little")
    for number in range(min(16, (len(head) - 3) * 8 // 9)):
        code = bits >> 9 * number & 0x1FF
        if number and code == 256:
            return True
        if code >= 256 + number + (number > 0 and head[2] >> 7):
            return False
    return True


def is_lzma_header(begin: bytes) -> bool:
    """Return whether the fields of an .lzma header are valid; .lzma files have no magic bytes.

    Usual programs write a window size of 2^n or 3·2^n bytes. `xz` and 7-Zip open windows of 2^n or
    3·2^n bytes; zstd and Python also open a window of zero bytes, and zstd opens any window size
    after the usual first bytes. The field with the length of the file is checked by the rules of
    `xz`.
    """
    if len(begin) < _LZMA_BYTES or begin[0] >= 225 or begin[13]:
        return False
    window, size = int.from_bytes(begin[1:5], "little"), int.from_bytes(begin[5:13], "little")
    lowest = window & -window
    if not window and not size:
        return False  # many files of other kinds begin with zeros
    is_window = window in (lowest, 3 * lowest, 0xFFFFFFFF) or begin.startswith(b"\x5d\0")
    return is_window and (size < 1 << 38 or size == (1 << 64) - 1)


OPENED = (
    Kind(
        "zip",
        (Mark(0, (b"PK\3\4", b"PK\5\6", b"PK00PK\3\4", b"PK\7\x08PK\3\4")),),
        "passwords:zip_with",
        in_tail=b"PK\5\6",
        most_members=4 << 20,  # the expander keeps 16 bytes in memory for each member
    ),
    Kind(
        "tar",
        (
            Mark(
                SUM_AT,
                SUM_BEGINS,
                is_one=lambda head: is_header(head[:BLOCK_BYTES]),
                pattern=with_sum(0),
                differs=differs_from_sum(0),
            ),
            Mark(MAGIC_AT, (MAGIC,), is_one=lambda head: len(head) >= BLOCK_BYTES),
            Mark(
                BLOCK_BYTES + SUM_AT,
                SUM_BEGINS,
                is_one=lambda head: is_header(head[BLOCK_BYTES : 2 * BLOCK_BYTES]),
                pattern=with_sum(BLOCK_BYTES),
                differs=differs_from_sum(BLOCK_BYTES),
            ),
            Mark(0, LATE_BEGINS, is_one=begins_late, reaches=True),
        ),
        "tar:Tar",
        in_programs=MAGIC,
        in_programs_at=MAGIC_AT,
    ),
    Kind(
        "gzip",
        (Mark(0, tuple(mark + b"\x08" for mark in GZIP_MARKS), is_one=lambda h: len(h) >= 10),),
        "compressed:Gzip",
    ),
    Kind("bzip2", (Mark(0, (b"BZh",), is_one=_is_bzip2),), "compressed:Bzip2"),
    Kind("xz", (Mark(0, (b"\xfd7zXZ\0",)),), "compressed:Xz"),
    Kind(
        "tnef",
        (Mark(0, (b"x\x9f\x3e\x22",), is_one=lambda head: len(head) <= 6 or head[6] in b"\1\2"),),
        "tnef:Tnef",
    ),
    Kind(
        "mbox",
        (
            Mark(
                0,
                (b"From ", b"\nF", b"\rF", b"\n\n", b"\r\r", b"\n\r", b"\r\n"),
                is_one=lambda head: head.lstrip(b"\r\n").startswith(b"From "),
            ),
        ),
        "mbox:Mbox",
        sure=Sure.VERIFIED,
        has_readings=True,
    ),
    Kind(
        "eml",
        (Mark(ANYWHERE, is_one=_is_mail, may_be=may_hold_mail),),
        "mail:Eml",
        hides_end=False,
        has_readings=True,
        # A line of more than `MAX_LINE_BYTES` is read in pieces, and each piece may begin with a
        # header field. Therefore every file of this length or more can be a mail.
        whole=lambda content: len(content) >= MAX_LINE_BYTES or can_be_mail(content),
    ),
    # No file is recognised as a `message`; only a member of a mailbox or of another message has
    # this kind.
    Kind("message", (), "mail:Message", has_readings=True),
    Kind(
        "form",
        (Mark(0, (b"--",), is_one=_is_form),),
        "form:Form",
        hides_end=False,
        has_readings=True,
    ),
    Kind(
        "encoded",
        (
            Mark(0, (b"begin ", b"begin-base64 "), is_one=_is_uuencoded),
            Mark(0, (b"=ybegin ", b"(This file must be converted with BinHex")),
        ),
        "encoded:Encoded",
        hides_end=False,
    ),
    Kind(
        "ole",
        (Mark(0, (OLE_MARK,), is_one=_is_ole),),
        "ole:Ole",
        hides_end=False,
    ),
    # The kinds of `!BDN` files: a mail store, a mail store that is a copy of a server's store, and
    # an address book.
    Kind("pst", (Mark(0, (b"!BDN",), is_one=_is_store),), "pst:Pst"),
    # If the optional library pikepdf is not installed, a pdf is only counted; a zip after the pdf
    # is still opened.
    Kind(
        "pdf",
        (Mark(0, (b"%PDF-", b"\n%PDF-", b"\r\n%PDF-", b"\xef\xbb\xbf%PDF-")),),
        "pdf:pdf" if find_spec("pikepdf") else "",
        hides_end=False,
    ),
    Kind(
        "7zip",
        (Mark(0, (b"7z\xbc\xaf\x27\x1c",)),),
        "libformats:reader",
        ends=(End(b"\0\0", ends_as_7z),),
        in_programs=b"7z\xbc\xaf\x27\x1c",
    ),
    # `ends`: the last header of a rar file consists of constant bytes.
    Kind(
        "rar5",
        (Mark(0, (b"Rar!\x1a\7\1\0",)),),
        "libformats:reader",
        ends=(End(b"\x1d\x77\x56\x51\x03\x05\x04\x00"),),
        in_programs=b"Rar!\x1a\7\1\0",
    ),
    Kind(
        "rar",
        (Mark(0, (b"Rar!\x1a\7\0",)),),
        "libformats:reader",
        ends=(End(b"\xc4\x3d\x7b\x00\x40\x07\x00"),),
        in_programs=b"Rar!\x1a\7\0",
    ),
    # Programs ignore most fields of a cabinet's header, so these fields are not checked. A zero
    # byte in the header distinguishes a cabinet from a text.
    Kind(
        "cab",
        (Mark(0, (b"MSCF",), is_one=lambda head: len(head) > 35 and 0 in head[4:36]),),
        "libformats:reader",
        in_programs=b"MSCF",
    ),
    # An rpm consists of headers and one member, a compressed cpio.
    Kind("rpm", (Mark(0, (b"\xed\xab\xee\xdb",)),), "libformats:reader"),
    Kind(
        "cpio",
        (
            Mark(
                0,
                (b"070701", b"070702", b"070707", b"\xc7\x71", b"\x71\xc7"),
                is_one=_is_cpio,
            ),
        ),
        "libformats:reader",
    ),
    Kind("ar", (Mark(0, (b"!<arch>\n",)),), "libformats:reader"),
    Kind("xar", (Mark(0, (b"xar!\0",)),), "libformats:reader"),
    # The methods of LArc and PMarc are not searched for, because libarchive reads none of them.
    Kind(
        "lha",
        (Mark(2, tuple(b"-%b-" % one for one in _LHA)),),
        "libformats:reader",
        in_programs=b"-lh",
        in_programs_at=2,
    ),
    Kind(
        "warc",
        (Mark(0, (b"WARC/",), is_one=_is_warc),),
        "libformats:reader",
    ),
    Kind("iso9660", (Mark(32_769, (b"CD001", b"BEA01")),), "libformats:reader"),
    Kind(
        "zstd",
        (Mark(0, (b"\x28\xb5\x2f\xfd", *OLD_ZSTD, *_SKIPPED_FRAMES)),),
        "libformats:zstd",
    ),
    Kind(
        "lz4",
        (Mark(0, (b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18")),),
        "libformats:reader",
    ),
    Kind(
        "compress",
        (Mark(0, (b"\x1f\x9d",), is_one=_is_compress),),
        "libformats:reader",
    ),
    Kind("lzip", (Mark(0, (b"LZIP\0", b"LZIP\1")),), "libformats:reader"),
    # lzma has no magic bytes, so the expander recognises lzma by decoding the first bytes.
    Kind(
        "lzma",
        (Mark(13, (b"\0",), is_one=is_lzma_header, pattern=_LZMA),),
        "compressed:Lzma",
        sure=Sure.GUESS,
    ),
)
KINDS = (*OPENED, *unopened.KINDS, *fronts.KINDS)

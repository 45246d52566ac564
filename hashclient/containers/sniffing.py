"""Telling by its first bytes whether a file may be a container: for every file, so it is cheap.

Whoever holds lists and keys looks at marks only, here; what a mark promises is for the registry to
find out, in the process that opens containers. A mark may promise too much, never too little.
"""

from __future__ import annotations

import re

from hashclient.containers.interface import HEAD_BYTES, ISO_HEAD_BYTES, TAIL_BYTES

_ISO_MARK_AT = 32_769
_ISO_MARK = b"CD001"
_END_OF_ZIP = b"PK\x05\x06"
_END_OF_ZIP_BYTES = 22

#: Marks of containers at the very beginning.
_MARKS = re.compile(
    rb"PK\x03\x04|PK\x05\x06|PK\x07\x08|PK00PK|\x1f[\x8b\x9d]|BZh|\xfd7zXZ\x00|\x28\xb5\x2f\xfd"
    rb"|[\x50-\x5f]\x2a\x4d\x18|\x04\x22\x4d\x18|\x02\x21\x4c\x18|LZIP|\x5d\x00\x00"
    rb"|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|RE~\^|MSCF|0707|!<arch>\n|\xed\xab\xee\xdb|xar!|WARC/"
    rb"|Cr24|x\x9f\x3e\x22"
)
#: Of lha, behind two bytes of anything.
_LHA = re.compile(rb"..-(?:lh[0-9a-zA-Z]|lz[0-9s]|pm[0-2s])-", re.DOTALL)
#: What may stand in front of a zip archive: programs, scripts, pictures, sound, films, documents.
_FRONTS = re.compile(
    rb"MZ|\x7fELF|#!|\xca\xfe\xba\xbe|[\xce\xcf]\xfa\xed\xfe|\xfe\xed\xfa[\xce\xcf]|\xff\xd8\xff"
    rb"|\x89PNG|GIF8|BM|II\*\x00|MM\x00\*|RIFF|OggS|ID3|\xff[\xf2-\xfb]|fLaC|%PDF|\x1a\x45\xdf\xa3"
    rb"|....ftyp|\x00\x00\x01[\xba\xb3]|FLV|FWS|CWS|\x30\x26\xb2\x75|8BPS|\xff\x0a|<(?:!DOC|html|svg|\?xml)",
    re.DOTALL,
)
#: How mail begins: a line of mbox, or a header field at the very beginning.
_MAIL = re.compile(rb"From |[A-Za-z][A-Za-z0-9-]{1,63}[ \t]*:|\xef\xbb\xbf|[\r\n]")
_TAR_NUMBER = re.compile(rb"[ \x00]*[0-7]+[ \x00]|\x80")


def has_mark(head: bytes | memoryview) -> bool:
    """Tell whether a file that begins like this may be a container, as far as its head tells."""
    begin = bytes(head[:HEAD_BYTES])
    if _MARKS.match(begin) or _LHA.match(begin) or _MAIL.match(begin):
        return True
    if len(begin) == HEAD_BYTES and (
        begin[257:262] == b"ustar" or _TAR_NUMBER.match(begin, 148, 156)
    ):
        return True
    return bytes(head[_ISO_MARK_AT : _ISO_MARK_AT + 5]) == _ISO_MARK


def may_front(head: bytes | memoryview) -> bool:
    """Tell whether a file that begins like this may have a zip archive behind it."""
    return _FRONTS.match(bytes(head[:16])) is not None


def has_end_of_zip(tail: bytes | memoryview) -> bool:
    """Tell whether a file that ends like this may be a zip archive, whatever it begins with."""
    if bytes(tail[-_END_OF_ZIP_BYTES:][:4]) == _END_OF_ZIP:
        return True
    return bytes(tail[-TAIL_BYTES:]).find(_END_OF_ZIP) >= 0


def wants_more_head(size: int) -> bool:
    """Tell whether the mark of an image of a disk may lie beyond the first bytes."""
    return size >= ISO_HEAD_BYTES

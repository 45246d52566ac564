"""Reads what encrypted age files show without a key: beginning, length, number of recipients.

`quarantine.age` encrypts and decrypts age files. This module does no I/O; callers pass bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from hashclient.core.errors import StateError

#: The numbers of the age format: the payload begins with a nonce, and each chunk of plain text gets
#: an authentication tag.
CHUNK_BYTES = 1 << 16
_NONCE_BYTES = 16
_TAG_BYTES = 16
#: The largest header that is accepted; the headers that this program writes are much shorter, and
#: the format sets no limit.
MAX_HEADER_BYTES = 1 << 16

VERSION_LINE = b"age-encryption.org/v1"
#: The first bytes of each age file.
MAGIC = VERSION_LINE + b"\n"
_END = re.compile(rb"^--- [A-Za-z0-9+/]{43}\n", re.MULTILINE)
_STANZA = re.compile(rb"^-> (\S+)", re.MULTILINE)
#: The beginning of the second line of an age file, for each kind of recipient that this program
#: knows.
_STANZA_HERE = re.compile(rb"\n-> (?:X25519|ssh-ed25519|ssh-rsa) ")
#: The last letters of the names of meaningless stanzas. Other programs add these stanzas to headers
#: so that readers learn to skip unknown stanzas.
_GREASE = b"-grease"


class Header(msgspec.Struct, frozen=True):
    """The length of the header of an age file, and the number of its recipients."""

    header_bytes: int
    recipients: int


class Chunks:
    """Reads an iterator of chunks of any size in pieces of a requested size."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        """Store `chunks`; no chunk is requested yet."""
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, or no bytes at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = chunk
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def parse_header(data: bytes) -> Header:
    """Read the header of an age file in its first `MAX_HEADER_BYTES`.

    Raises:
        StateError: the bytes have no header, or a longer header.
    """
    end = _END.search(data, 0, MAX_HEADER_BYTES)
    if not data.startswith(MAGIC) or end is None:
        raise StateError("not a file in the age format")
    kinds = _STANZA.findall(data, 0, end.start())
    return Header(end.end(), sum(not kind.endswith(_GREASE) for kind in kinds))


def looks_sealed(head: bytes) -> bool:
    """Return whether a file that begins with `head` may be an age file, even if damaged or cut.

    A part of the first line of an age file, or a line that names a recipient, is enough.
    """
    return (
        MAGIC.startswith(head[: len(MAGIC)])
        or head.startswith(VERSION_LINE[:-2])
        or _STANZA_HERE.search(head) is not None
    )


def sealed_bytes(header_bytes: int, size: int) -> int:
    """Return the length of an age file with `header_bytes` of header and `size` of content."""
    chunks = max(1, -(-size // CHUNK_BYTES))
    return header_bytes + _NONCE_BYTES + size + chunks * _TAG_BYTES

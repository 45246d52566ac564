"""Reads and writes tar archives as streams: only regular files, with one form of each header.

An archive is written and read in chunks, so it is never complete in memory, and never unencrypted
on the disk. An archive that is read must be, byte for byte, the archive that `write_tar` would
write for the same names and sizes: without links, directories, extensions, and bytes after the end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator

import msgspec

from hashclient.core.agefile import Chunks
from hashclient.core.errors import VerificationError

BLOCK_BYTES = tarfile.BLOCKSIZE
#: The number of bytes in which content is read at a time.
CHUNK_BYTES = 1 << 16
#: The position of the magic number in a header.
_MARK_AT = 257


class Member(msgspec.Struct, frozen=True):
    """A file of a package: its name, its length in bytes, and its content, which can be read once.

    `folder`: the folder of the file in an archive, or None.
    """

    name: str
    size: int
    chunks: Iterator[bytes]
    folder: str | None = None


def write_tar(folder: str, members: Iterable[Member]) -> Iterator[bytes]:
    """Yield the bytes of an archive that contains `members` in `folder`.

    The content of each member must have its stated size.
    """
    for member in members:
        yield _header(f"{folder}/{member.name}", member.size)
        yield from member.chunks
        yield bytes(-member.size % BLOCK_BYTES)
    yield bytes(2 * BLOCK_BYTES)


def read_tar(chunks: Iterator[bytes]) -> Iterator[Member]:
    """Yield the members of an archive; each must be read to its end before the next is requested.

    Raises:
        VerificationError: the bytes are not an archive in the form of `write_tar`, or are cut
            short.
    """
    stream = _Stream(chunks)
    while True:
        block = stream.exactly(BLOCK_BYTES)
        if not any(block):
            break
        path, size = _parse(block)
        folder, _, name = path.partition("/")
        yield Member(name, size, stream.pieces(size), folder)
        if any(stream.exactly(-size % BLOCK_BYTES)):
            raise VerificationError("archive: bytes between its files")
    if any(stream.exactly(BLOCK_BYTES)):
        raise VerificationError("archive: broken end")
    stream.end()


def looks_like_tar(head: bytes, folder: str) -> bool:
    """Return whether a file that begins with `head` may be an archive, even if damaged or cut.

    Each header contains a magic number, and the first header begins with the name `folder`: the
    magic number or this name is enough. A file that begins with a block of zeros may also be an
    archive, because a power failure can leave zeros.
    """
    name, mark = folder.encode(), tarfile.GNU_MAGIC[:5]
    has_mark = any(head.startswith(mark, at) for at in range(_MARK_AT, len(head), BLOCK_BYTES))
    return has_mark or name.startswith(head[: len(name)]) or not any(head[:BLOCK_BYTES])


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    return info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def _parse(block: bytes) -> tuple[str, int]:
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        if info.size >= 0 and _header(info.name, info.size) == block:
            return info.name, info.size
    except (tarfile.TarError, ValueError, OverflowError):
        pass
    raise VerificationError("archive: a header that is not as this program writes them")


class _Stream(Chunks):
    """The bytes of an archive, read piece by piece."""

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes.

        Raises:
            VerificationError: fewer bytes follow.
        """
        while size:
            piece = self.read(min(size, CHUNK_BYTES))
            if not piece:
                raise VerificationError("archive: cut short")
            size -= len(piece)
            yield piece

    def exactly(self, size: int) -> bytes:
        """Return the next `size` bytes.

        Raises:
            VerificationError: fewer bytes follow.
        """
        return b"".join(self.pieces(size))

    def end(self) -> None:
        """Check that the archive has no more bytes.

        Raises:
            VerificationError: the archive has more bytes.
        """
        if self.read(1):
            raise VerificationError("archive: bytes after its end")

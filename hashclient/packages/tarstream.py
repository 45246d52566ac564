"""Plain tar archives as streams: only regular files, and one spelling of each header.

An archive is made and read in chunks: it is never complete in memory, and never unencrypted on
disk. An archive that is read must be exactly the archive that would be written for the same names
and sizes: without links, directories, extensions, and bytes after the end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator

import msgspec

from hashclient.core.agefile import Chunks
from hashclient.core.errors import VerificationError

BLOCK_BYTES = tarfile.BLOCKSIZE
#: A reader takes pieces of this size.
CHUNK_BYTES = 1 << 16
#: Where a header has its mark.
_MARK_AT = 257


class Member(msgspec.Struct, frozen=True):
    """A file of a package: its name there, the length in bytes, and the content, to be read once.

    `folder` is the folder in an archive that has the file.
    """

    name: str
    size: int
    chunks: Iterator[bytes]
    folder: str | None = None


def write_tar(folder: str, members: Iterable[Member]) -> Iterator[bytes]:
    """Yield the archive of `members` in `folder`; their contents must have their stated sizes."""
    for member in members:
        yield _header(f"{folder}/{member.name}", member.size)
        yield from member.chunks
        yield bytes(-member.size % BLOCK_BYTES)
    yield bytes(2 * BLOCK_BYTES)


def read_tar(chunks: Iterator[bytes]) -> Iterator[Member]:
    """Yield the members of an archive; each has to be read to its end before the next.

    Raises:
        VerificationError: the bytes are not an archive of this form, or are cut short.
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
    """Return whether a file that begins with `head` may be an archive, perhaps damaged or cut.

    Each header has a mark, and the first header begins with the name `folder`: this beginning, or a
    mark, is enough. A power failure can leave zeros.
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
    """The bytes of an archive."""

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
        """Check that no bytes follow.

        Raises:
            VerificationError: bytes follow.
        """
        if self.read(1):
            raise VerificationError("archive: bytes after its end")

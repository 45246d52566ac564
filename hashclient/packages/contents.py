"""The files of a package, read once and in order, from a directory or an archive.

The caller passes a function that decrypts an archive: this program uses pyrage, and the one-file
tool for recipients calls the program `age`. This module writes no file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from hashclient.core.agefile import MAGIC, looks_sealed
from hashclient.core.errors import StateError, UsageError, VerificationError
from hashclient.packages.tarstream import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    Member,
    looks_like_tar,
    read_tar,
)
from hashclient.system.files import open_regular, translated
from hashclient.system.text import printable

README_NAME = "README.txt"
DOCUMENT_NAME = "document.json"
CUSTODY_NAME = "custody.jsonl"
CHECKPOINT_NAME = "checkpoint.json"
EVIDENCE_DIR = "evidence"
#: The beginning of the name of a report's folder; the id of the report follows.
FOLDER_PREFIX = "hashclient-report-"
#: The names of the first files of a package, in order, and the largest length of each in bytes.
HEAD = {
    README_NAME: 1 << 16,
    DOCUMENT_NAME: 1 << 28,
    CUSTODY_NAME: 1 << 28,
    CHECKPOINT_NAME: 1 << 12,
}
#: The first two headers of an archive are within this many bytes from its beginning.
_HEAD_BYTES = HEAD[README_NAME] + 2 * BLOCK_BYTES
#: A directory is a package only if it contains a file with one of these names, because any
#: directory may have a README.txt.
_SIGNS = frozenset({DOCUMENT_NAME, CUSTODY_NAME, CHECKPOINT_NAME, EVIDENCE_DIR})

#: A function that yields the decrypted bytes of an age file, which is given in chunks. The function
#: raises AuthorisationError if no key decrypts the file, and StateError if the file is damaged.
Opener = Callable[[Iterator[bytes]], Generator[bytes]]


def package_folder(report_id: str) -> str:
    """Return the name of the folder of a report, which an archive contains."""
    return f"{FOLDER_PREFIX}{report_id}"


@contextlib.contextmanager
def members_of(path: Path, opener: Opener | None) -> Iterator[Iterator[Member]]:
    """Yield an iterator of the files of the package at `path`; each must be read before the next.

    Raises:
        UsageError: the path has no part of a package, or the package is sealed and `opener` is not
            given.
        AuthorisationError: no key opens the package.
        VerificationError: the package is incomplete.
    """
    if path.is_dir():
        yield _from_directory(path)
        return
    # `closing` ends a thread of the opener if the reader stops before the end of the archive.
    with contextlib.closing(_chunks(path)) as chunks:
        head = next(chunks)
        is_sealed = head.startswith(MAGIC)
        if not is_sealed and not looks_like_tar(head, FOLDER_PREFIX):
            if looks_sealed(head):
                raise VerificationError(
                    "package is damaged: it does not begin like a sealed package"
                )
            raise _no_package(path)
        whole = _after(head, chunks)
        if not is_sealed:
            yield read_tar(whole)
            return
        if opener is None:
            raise UsageError(
                f"package is sealed: {printable(path)}",
                hint="give the recipient's secret key with --identity FILE",
            )
        with contextlib.closing(_opened(whole, opener)) as plain:
            yield read_tar(plain)


def _chunks(path: Path) -> Generator[bytes]:
    """Yield the content of a file.

    The first chunk is long enough to recognise the kind of the file.
    """
    with translated(path, unreadable), open_regular(path) as stream:
        yield stream.read(_HEAD_BYTES)
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _after(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from chunks


def _opened(sealed: Iterator[bytes], opener: Opener) -> Generator[bytes]:
    try:
        yield from opener(sealed)
    except StateError as error:
        raise VerificationError(f"package is damaged: {error.message}") from error


def _from_directory(path: Path) -> Iterator[Member]:
    """Yield the files of a package in a directory, in the order of the format.

    Symbolic links are refused.
    """
    try:
        names = set(os.listdir(path))  # noqa: PTH208 - only names are needed
        if names.isdisjoint(_SIGNS):
            raise _no_package(path)
        if (path / EVIDENCE_DIR).is_symlink():
            raise VerificationError("package has a link in it")
        # A directory that was unpacked from an archive without evidence has no folder for evidence.
        has_evidence = EVIDENCE_DIR in names
        evidence = sorted(os.listdir(path / EVIDENCE_DIR)) if has_evidence else []  # noqa: PTH208
    except OSError as error:
        raise VerificationError(f"package cannot be read: {error.strerror}") from error
    odd = names - HEAD.keys() - {EVIDENCE_DIR}
    if odd:
        raise VerificationError(f"package has a file too many: {printable(min(odd))}")
    for name in (*HEAD, *(f"{EVIDENCE_DIR}/{n}" for n in evidence)):
        if name not in names and not name.startswith(EVIDENCE_DIR):
            raise VerificationError(f"package lacks {name}")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(path / name, flags), "rb", buffering=0) as stream:
                status = os.fstat(stream.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise VerificationError(f"package: not a regular file: {printable(name)}")
                yield Member(name, status.st_size, _content(stream, name, status.st_size))
        except OSError as error:
            raise VerificationError(
                f"package: cannot read {printable(name)}: {error.strerror}"
            ) from error


def _content(stream: BinaryIO, name: str, size: int) -> Iterator[bytes]:
    """Yield the content of a file.

    The function raises if the file does not have exactly `size` bytes, and callers rely on this.
    """
    rest = size
    while chunk := stream.read(CHUNK_BYTES):
        rest -= len(chunk)
        if rest < 0:
            break
        yield chunk
    if rest:
        raise VerificationError(f"package: {printable(name)} is not as long as it says")


def unreadable(path: Path, error: OSError) -> UsageError:
    """Return the error for a path that cannot be read."""
    return UsageError(f"cannot read {printable(path)}: {error.strerror or error}")


def _no_package(path: Path) -> UsageError:
    """Return the error for a path without a package, which must not count as verified."""
    return UsageError(
        f"no package, and nothing was verified: {printable(path)}",
        hint="give the directory or the file that was handed over; if this is the right one, ask "
        "for it again",
    )

"""Verifies a package, on any machine: without a state directory, a configuration or a network.

The package is read as a stream, in the order of the format, and nothing is written. A package
proves that the holder of one audit key has signed it. It cannot prove whose key this is, so the key
is returned for comparison.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from hashclient.audit.record import Record
from hashclient.errors import StateError, UsageError, VerificationError
from hashclient.quarantine.age import MAGIC, looks_sealed
from hashclient.quarantine.evidence import file_chunks, unsealed
from hashclient.reporting.custody import (
    Custody,
    verify_checkpoint,
    verify_custody,
    verify_note,
)
from hashclient.reporting.destinations.package.package import (
    CHECKPOINT_NAME,
    CUSTODY_NAME,
    DOCUMENT_NAME,
    EVIDENCE_DIR,
    FOLDER_PREFIX,
    README_NAME,
    package_name,
)
from hashclient.reporting.destinations.package.tarstream import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    Member,
    looks_like_tar,
    read_tar,
)
from hashclient.reporting.destinations.registry import Verification
from hashclient.reporting.document import Document, named_in, parse_document
from hashclient.reporting.evidence import evidence_name
from hashclient.system.files import open_regular
from hashclient.system.text import for_programs, printable

#: The first files, in this order, and the longest allowed length of each, in bytes.
_HEAD = {
    README_NAME: 1 << 16,
    DOCUMENT_NAME: 1 << 28,
    CUSTODY_NAME: 1 << 28,
    CHECKPOINT_NAME: 1 << 12,
}
#: The first two headers of an archive lie within as many bytes.
_HEAD_BYTES = _HEAD[README_NAME] + 2 * BLOCK_BYTES
#: A note holds a handful of records of the audit log.
MAX_NOTE_BYTES = 1 << 24
#: A directory with none of these names is no package; anything may have a README.txt.
_SIGNS = frozenset({DOCUMENT_NAME, CUSTODY_NAME, CHECKPOINT_NAME, EVIDENCE_DIR})
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")


class Verified(msgspec.Struct, frozen=True):
    """A verified package: its content, and the key that signed it, hexadecimal."""

    document: Document
    custody: Custody
    evidence: int
    public_key: str


class VerifiedNote(msgspec.Struct, frozen=True):
    """A verified note of retraction, and the key that signed it, hexadecimal."""

    report_id: str
    record: Record
    public_key: str


def verify_package(
    path: Path, *, identities: Sequence[Any] = (), public_key: str | None = None
) -> Verified:
    """Verify a package: a directory, an archive, or an archive that one of `identities` opens.

    1. It has only the files of the format: no links, no other types, no other names, each file
       within its limit.
    2. The document follows the format strictly.
    3. The chain of custody verifies by itself, see `verify_custody`. Its key is `public_key`, if
       that is given.
    4. Its last record is about this report, names who reports and whose lists matched as the
       document does, and has the hashes of exactly the files of the package. All files of an
       archive are in the folder of this report.
    5. The checkpoint is of the same log and covers that record.
    6. The evidence is exactly as in the document, by name, length and hash.

    Raises:
        UsageError: it has nothing of a package, it is sealed and no identity is given, or
            `public_key` is not a key.
        AuthorisationError: none of `identities` opens it.
        VerificationError: a check failed.
    """
    expected = None if public_key is None else _parse_key(public_key)
    with _members(path, identities) as members:
        head, folders = {}, set()
        for name, limit in _HEAD.items():  # 1
            member = next(members, None)
            if member is None or member.name != name:
                raise VerificationError(f"package lacks {name}, or has it in another place")
            if member.size > limit:
                raise VerificationError(f"package: {name} is longer than {limit} bytes")
            head[name] = b"".join(member.chunks)
            folders.add(member.folder)
        document = parse_document(head[DOCUMENT_NAME])  # 2
        custody = verify_custody(head[CUSTODY_NAME])  # 3
        key = custody.identity.public_key
        if expected is not None and key != expected:
            raise VerificationError(
                f"package is signed by another key than expected: {key}",
                hint="the package is from somebody else, or the reporter has a new audit log",
            )
        signed = custody.last.data  # 4
        if signed.get("report") != document.report:
            raise VerificationError("the signed record is about another report")
        names = named_in(document)
        if {name: signed.get(name) for name in names} != names:
            raise VerificationError("the signed record names another reporter or other providers")
        named = [(m.id, m.evidence) for m in document.matches if m.evidence is not None]
        wanted = {evidence.name: evidence for _, evidence in named}
        if any(e.name != evidence_name(i) for i, e in named) or len(wanted) != len(named):
            raise VerificationError("the document names evidence of one match for another")
        hashes = {name: e.sha256 for name, e in wanted.items()}
        for name in (README_NAME, DOCUMENT_NAME):
            hashes[name] = hashlib.sha256(head[name]).hexdigest()
        if signed.get("files") != hashes:
            raise VerificationError("the files are not those that the signed record names")
        verify_checkpoint(head[CHECKPOINT_NAME], custody)  # 5
        for member in members:  # 6
            folders.add(member.folder)
            evidence = wanted.pop(member.name, None)
            if evidence is None:
                raise VerificationError(f"package has a file too many: {printable(member.name)}")
            computed = hashlib.sha256()
            for chunk in member.chunks:
                computed.update(chunk)
            if (member.size, computed.hexdigest()) != (evidence.length, evidence.sha256):
                raise VerificationError(f"evidence is not the signed file: {member.name}")
        if wanted:
            raise VerificationError(f"evidence is missing: {min(wanted)}")
        if not folders <= {None, package_name(document.report, ())}:
            raise VerificationError("archive: a file outside of the folder of its report")
    return Verified(document, custody, len(hashes) - 2, key)


def verify(path: Path, *, identities: Sequence[Any], public_key: str | None = None) -> Verification:
    """Verify a package or a note of retraction; return the result.

    Raises:
        UsageError, AuthorisationError, VerificationError: as `verify_package` says.
    """
    if is_note(path):
        note = verify_retraction(path, public_key=public_key)
        facts = {
            "retracted": note.report_id,
            "time": for_programs(note.record.time),
            "reason": note.record.data.get("reason"),
            "public_key": note.public_key,
        }
        return Verification("the note of retraction verifies", facts)
    found = verify_package(path, identities=identities, public_key=public_key)
    document = found.document
    facts = {
        "report": document.report,
        "created": for_programs(document.created),
        "organisation": document.reporter.organisation,
        "contact": document.reporter.contact,
        "matches": len(document.matches),
        "evidence": found.evidence,
        "packaged": for_programs(found.custody.last.time),
        "custody_records": found.custody.records,
        "public_key": found.public_key,
    }
    return Verification("the package verifies", facts)


def is_note(path: Path) -> bool:
    """Return whether `path` looks like a note of retraction, not like a package.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if path.is_dir():
            return False
        with open_regular(path) as stream:
            return stream.read(1) == b"{"
    except OSError as error:
        raise _unreadable(path, error) from error


def verify_retraction(path: Path, *, public_key: str | None = None) -> VerifiedNote:
    """Verify a note that a package is retracted.

    Raises:
        UsageError: it cannot be read, or `public_key` is not a key.
        VerificationError: a check failed.
    """
    expected = None if public_key is None else _parse_key(public_key)
    try:
        with open_regular(path) as stream:
            text = stream.read(MAX_NOTE_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(text) > MAX_NOTE_BYTES:
        raise VerificationError(f"note is longer than {MAX_NOTE_BYTES} bytes")
    identity, record = verify_note(text)
    if expected is not None and identity.public_key != expected:
        raise VerificationError(
            f"note is signed by another key than expected: {identity.public_key}"
        )
    return VerifiedNote(str(record.data["report"]), record, identity.public_key)


def _parse_key(text: str) -> str:
    key = text.strip().lower()
    if not _PUBLIC_KEY.fullmatch(key):
        raise UsageError(
            f"not a public key of an audit log: {printable(text)}",
            hint="it has 64 hexadecimal digits; `hashclient audit verify` shows it there",
        )
    return key


@contextlib.contextmanager
def _members(path: Path, identities: Sequence[Any]) -> Iterator[Iterator[Member]]:
    if path.is_dir():
        yield _from_directory(path)
        return
    try:
        with open_regular(path) as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error
    is_sealed = head.startswith(MAGIC)
    if not is_sealed and not looks_like_tar(head, FOLDER_PREFIX):
        if looks_sealed(head):
            raise VerificationError("package is damaged: it does not begin as a sealed one does")
        raise _no_package(path)
    if is_sealed and not identities:
        raise UsageError(
            f"package is sealed: {printable(path)}",
            hint="give the recipient's secret key with --identity FILE",
        )
    # A reader that stops early must not leave a thread behind.
    with contextlib.closing(file_chunks(path)) as chunks:
        if not is_sealed:
            yield read_tar(chunks)
            return
        with contextlib.closing(_opened(chunks, identities)) as plain:
            yield read_tar(plain)


def _opened(sealed: Iterator[bytes], identities: Sequence[Any]) -> Generator[bytes]:
    try:
        yield from unsealed(sealed, identities)
    except StateError as error:
        raise VerificationError(f"package is damaged: {error.message}") from error


def _from_directory(path: Path) -> Iterator[Member]:
    """Yield the files of a package in the order of the format; links are refused."""
    try:
        names = set(os.listdir(path))  # noqa: PTH208 - names
        if names.isdisjoint(_SIGNS):
            raise _no_package(path)
        if EVIDENCE_DIR not in names:
            raise VerificationError(f"package lacks {EVIDENCE_DIR}/")
        if (path / EVIDENCE_DIR).is_symlink():
            raise VerificationError("package has a link in it")
        evidence = sorted(os.listdir(path / EVIDENCE_DIR))  # noqa: PTH208
    except OSError as error:
        raise VerificationError(f"package cannot be read: {error.strerror}") from error
    odd = names - _HEAD.keys() - {EVIDENCE_DIR}
    if odd:
        raise VerificationError(f"package has a file too many: {printable(min(odd))}")
    for name in (*_HEAD, *(f"{EVIDENCE_DIR}/{n}" for n in evidence)):
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
    """Yield the content of a file, which must have `size` bytes: callers rely on this."""
    rest = size
    while chunk := stream.read(CHUNK_BYTES):
        rest -= len(chunk)
        if rest < 0:
            break
        yield chunk
    if rest:
        raise VerificationError(f"package: {printable(name)} is not as long as it says")


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot read {printable(path)}: {error.strerror or error}")


def _no_package(path: Path) -> UsageError:
    """Return the error for what has nothing of a package; it must not pass for a verified one."""
    return UsageError(
        f"no package, and nothing was verified: {printable(path)}",
        hint="give the directory or the file that was handed over; if this is it, ask for it again",
    )

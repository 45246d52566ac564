"""Verifies a package on any machine, without a state directory, a configuration or a network.

The package is read as a stream, in the order of its format, and no file is written. A valid package
proves that the owner of one audit key has signed the package. This module cannot prove whose key
has signed a package, so the key is returned to be compared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hashclient.audit.record import Record
from hashclient.core.errors import UsageError, VerificationError
from hashclient.packages.answer import BEGINNING, Answer, parse_answer
from hashclient.packages.chain import Custody, verify_checkpoint, verify_custody, verify_note
from hashclient.packages.contents import (
    CHECKPOINT_NAME,
    CUSTODY_NAME,
    DOCUMENT_NAME,
    HEAD,
    README_NAME,
    Opener,
    members_of,
    package_folder,
    unreadable,
)
from hashclient.packages.document import Document, named_in, parse_document
from hashclient.system.files import open_regular, translated
from hashclient.system.text import printable

#: The largest note in bytes; a note contains some records of the audit log.
MAX_NOTE_BYTES = 1 << 24
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")


class Verified(msgspec.Struct, frozen=True):
    """A verified package: its content, and the key that signed it, in hexadecimal."""

    document: Document
    custody: Custody
    evidence: int
    public_key: str


class VerifiedNote(msgspec.Struct, frozen=True):
    """A verified note of retraction or destruction, and the key that signed it, in hexadecimal.

    `matches`: the matches whose sealed files were destroyed. `record`: the last record of the note.
    """

    report_id: str
    record: Record
    public_key: str
    matches: tuple[str, ...] = ()


def verify_package(
    path: Path,
    *,
    opener: Opener | None = None,
    public_key: str | None = None,
    on_evidence: Callable[[str, Iterator[bytes]], None] | None = None,
) -> Verified:
    """Verify a package: a directory, an archive, or an encrypted archive that `opener` decrypts.

    `on_evidence` is called with the name of each sealed file and an iterator of its bytes. The
    caller must not rely on the bytes of sealed files before `verify_package` returns.

    1. The package contains only files of the format: no links, no other types and no other names,
       and no file is too long.
    2. The document follows its format strictly.
    3. The chain of custody is valid, see `verify_custody`. The key of the chain of custody is
       `public_key`, if `public_key` is given.
    4. The last record of the chain is about the report of the document, names the same reporter and
       providers, and has the hashes of exactly the files of the package. All files of an archive
       are in the folder of the report.
    5. The checkpoint is of the same log as the chain of custody and covers the last record of the
       chain.
    6. The evidence has exactly the names, lengths and hashes that the document has.

    Raises:
        UsageError: the path has no part of a package, the package is sealed and `opener` is not
            given, or `public_key` is not a key.
        AuthorisationError: no key opens the package.
        VerificationError: a rule is broken.
    """
    expected = None if public_key is None else _parse_key(public_key)
    with members_of(path, opener) as members:
        head: dict[str, bytes] = {}
        folders: set[str | None] = set()
        for name, limit in HEAD.items():  # rule 1 of `verify_package`
            member = next(members, None)
            if member is None or member.name != name:
                raise VerificationError(f"package lacks {name}, or has it in another place")
            if member.size > limit:
                raise VerificationError(f"package: {name} is longer than {limit} bytes")
            head[name] = b"".join(member.chunks)
            folders.add(member.folder)
        document = parse_document(head[DOCUMENT_NAME])  # rule 2 of `verify_package`
        custody = verify_custody(head[CUSTODY_NAME])  # rule 3 of `verify_package`
        key = custody.identity.public_key
        if expected is not None and key != expected:
            raise VerificationError(
                f"package is signed by another key than expected: {key}",
                hint="the package is from somebody else, or the reporter has a new audit log",
            )
        signed = custody.last.data  # rule 4 of `verify_package`
        if signed.get("report") != document.report:
            raise VerificationError("the signed record is about another report")
        names = named_in(document)
        if {name: signed.get(name) for name in names} != names:
            raise VerificationError("the signed record names another reporter or other providers")
        named = [(name, one) for m in document.matches for name, one in m.sealed.items()]
        wanted = dict(named)
        if any(one.name != name for name, one in named) or len(wanted) != len(named):
            raise VerificationError("the document names evidence of one match for another")
        hashes = {name: one.sha256 for name, one in named}
        for name in (README_NAME, DOCUMENT_NAME):
            hashes[name] = hashlib.sha256(head[name]).hexdigest()
        if signed.get("files") != hashes:
            raise VerificationError("the files are not those that the signed record names")
        verify_checkpoint(head[CHECKPOINT_NAME], custody)  # rule 5 of `verify_package`
        for member in members:  # rule 6 of `verify_package`
            folders.add(member.folder)
            if member.name not in wanted:
                raise VerificationError(f"package has a file too many: {printable(member.name)}")
            evidence = wanted.pop(member.name)
            computed = hashlib.sha256()
            chunks = _hashed(member.chunks, computed.update)
            if on_evidence is not None:
                on_evidence(member.name, chunks)
            for _ in chunks:
                pass
            if (member.size, computed.hexdigest()) != (evidence.length, evidence.sha256):
                raise VerificationError(f"evidence is not the signed file: {member.name}")
        if wanted:
            raise VerificationError(f"evidence is missing: {min(wanted)}")
        if not folders <= {None, package_folder(document.report)}:
            raise VerificationError("archive: a file outside of the folder of its report")
    return Verified(document, custody, len(hashes) - 2, key)


def _hashed(chunks: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for chunk in chunks:
        update(chunk)
        yield chunk


def is_note(path: Path) -> bool:
    """Return whether the file at `path` looks like a note and not like a package.

    Raises:
        UsageError: the path cannot be read.
    """
    with translated(path, unreadable):
        if path.is_dir():
            return False
        with open_regular(path) as stream:
            return stream.read(1) == b"{"


def verify_retraction(path: Path, *, public_key: str | None = None) -> VerifiedNote:
    """Verify a note that a report is retracted, or that its files were destroyed.

    Raises:
        UsageError, VerificationError: `verify_note_file` refuses the file, or the file is an
            answer.
    """
    found = verify_note_file(path, public_key=public_key)
    if not isinstance(found, VerifiedNote):
        raise VerificationError("not a note but an answer")
    return found


def verify_note_file(path: Path, *, public_key: str | None = None) -> VerifiedNote | Answer:
    """Verify a note, or the answer of an organisation, with the key that it names.

    `public_key`: the reporter's key, which signs a note, and which an answer names.

    Raises:
        UsageError: the file cannot be read, or `public_key` is not a key.
        VerificationError: the note or the answer breaks a rule.
    """
    expected = None if public_key is None else _parse_key(public_key)
    with translated(path, unreadable), open_regular(path) as stream:
        text = stream.read(MAX_NOTE_BYTES + 1)
    if len(text) > MAX_NOTE_BYTES:
        raise VerificationError(f"note is longer than {MAX_NOTE_BYTES} bytes")
    if text.startswith(BEGINNING):
        answer = parse_answer(text)
        if expected not in (None, answer.public_key):
            raise VerificationError(f"answer to another reporter: {answer.public_key}")
        return answer
    note = verify_note(text)
    key = note.identity.public_key
    if expected is not None and key != expected:
        raise VerificationError(f"note is signed by another key than expected: {key}")
    return VerifiedNote(note.report, note.last, key, note.matches)


def _parse_key(text: str) -> str:
    key = text.strip().lower()
    if not _PUBLIC_KEY.fullmatch(key):
        raise UsageError(
            f"not a public key of an audit log: {printable(text)}",
            hint="a key has 64 hexadecimal digits; `hashclient audit verify` shows it on the "
            "reporter's machine",
        )
    return key

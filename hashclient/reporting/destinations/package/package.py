"""Makes a package, which is a directory, or an archive that is encrypted to its recipients.

A package contains the document of the report, the chain of custody, a checkpoint of the audit log
and the sealed evidence. A package can be verified on any machine by `hashclient-verify`. A package
gets its name when it is complete, and never replaces another file. An archive is encrypted while it
is made, so it is never written to a disk without encryption. `docs/reporting.md` specifies the
format.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from hashclient.audit.log import checkpoint
from hashclient.core.agefile import Chunks
from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.packages.contents import (
    CHECKPOINT_NAME,
    CUSTODY_NAME,
    DOCUMENT_NAME,
    EVIDENCE_DIR,
    README_NAME,
    package_folder,
)
from hashclient.packages.document import Document, named_in
from hashclient.packages.tarstream import Member, write_tar
from hashclient.quarantine.age import parse_recipients
from hashclient.quarantine.evidence import Proven, sealed_source
from hashclient.quarantine.sealing import seal_stream
from hashclient.reporting.custody import bind
from hashclient.reporting.describing import encode_document
from hashclient.reporting.report import Package
from hashclient.session import Session
from hashclient.system.beneath import Directory
from hashclient.system.files import MAX_TEXT_BYTES, TEMP_PREFIX, state_error
from hashclient.system.outputs import give_name, named_directory, new_directory
from hashclient.system.text import printable

SEALED_SUFFIX = ".tar.age"
#: The highest number of sealed files in a package. The number of files is limited because one
#: record of the audit log contains the hashes of all files, and the length of a record is limited.
MOST_FILES = 10_000

_README = """\
Report {report}

document.json    what is reported: paths, entries of lists, what was done; no digests
custody.jsonl    the chain of custody: signed records of the reporter's audit log
checkpoint.json  a signed statement that the log holds these records
evidence/        the files, each sealed in the age format under the id of its match; ID.facts.age
                 has facts about its source, ID.1.age and so on belong to it

The files were matched by digest. A person has viewed those with "viewed": true in document.json,
and no others. Handle them as the law demands.

To verify all of this on any machine, of several packages at once:

    hashclient-verify DIRECTORY...

That is one file, which the reporter can give you. It needs Python 3.11 on Linux, OpenSSL 3, and for
sealed files age. Where hashclient is installed, `hashclient report verify` does the same. Both
print the public key of the reporter's audit log. Compare it with the key that the reporter gives
you in another way, by telephone, say: only that shows whose report it is.

To open a file, with the secret key of one of the recipients that document.json names for it:

    age -d -i SECRET-KEY-FILE -o OUTPUT evidence/ID.age
"""


class Content(msgspec.Struct, frozen=True):
    """The content of a package: the document, and the proven sealed files by file name."""

    document: Document
    evidence: Mapping[str, Proven]


def package_name(report_id: str, recipients: Sequence[str]) -> str:
    """Return the file name of a package; an encrypted package has the suffix `SEALED_SUFFIX`."""
    return f"{package_folder(report_id)}{SEALED_SUFFIX if recipients else ''}"


def gather(
    document: Document, places: Sequence[Path], stuck: dict[str, HashclientError]
) -> Content:
    """Find the sealed files that `document` names in the directories `places`; check their hashes.

    The file `evidence/MATCH.REST` of a package has the path `MATCH.REST` or `MATCH/evidence.REST`
    in one of the directories. If a file is missing or damaged, the exception is added to `stuck`,
    by match id.
    """
    found = {}
    for match in document.matches:
        try:
            for name, known in match.sealed.items():
                found[name] = sealed_source(
                    _find(match.id, name, places), known.sha256, known.length
                )
        except StateError as error:
            stuck[match.id] = error
    return Content(document, found)


def _find(match_id: str, name: str, places: Sequence[Path]) -> Path:
    base = Path(name).name
    names = (base, f"{match_id}/evidence{base.removeprefix(match_id)}")
    for path in (place / each for place in places for each in names):
        if path.is_file():
            return path
    raise StateError(
        f"sealed copy is missing: match {match_id}",
        hint="`hashclient quarantine verify` checks all of them",
    )


def remove_unfinished(directory: Directory, report_id: str) -> None:
    """Remove incomplete packages of a report that killed attempts have left in `directory`."""
    prefix = f"{TEMP_PREFIX}{package_folder(report_id)}"
    with contextlib.suppress(OSError):
        for name in directory.names():
            if name.startswith(prefix):
                _remove(directory, name, report_id)


class Packager:
    """Makes packages in a directory."""

    def __init__(self, directory: Path, recipients: Sequence[str], session: Session) -> None:
        """Store the arguments; no file is made yet."""
        self._directory = directory
        self._recipients = recipients
        self._session = session

    def is_there(self, package: Package) -> bool:
        """Return whether the package that the record of a report names exists in the directory.

        Raises:
            StateError: another file has the name of the package, or the package cannot be read.
        """
        target = self._directory / package.name
        try:
            with named_directory(self._directory) as directory:
                status = directory.status(package.name)
                if status is None:
                    return False
                found = _digest_of(directory, package.name, status)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise state_error("cannot read", target, error) from error
        if found != package.sha256:
            raise _taken(target)
        return True

    @contextlib.contextmanager
    def made(self, content: Content, data: Mapping[str, object]) -> Iterator[Package]:
        """Make a package under a temporary name; rename the package after the block.

        1. The README and the document are hashed; the hashes of the evidence are known from
           `gather`.
        2. A signed record is written to the audit log. The signed record contains the hashes of the
           files, the reporter and the destination, and the providers of the lists.
        3. All files are written durably; the evidence is compared with its hashes again.
        4. The caller's block runs and saves the name of the package in the record of the report.
        5. The package gets its final name, unless another file has this name.

        Raises:
            UsageError: the package would have more than `MOST_FILES` sealed files.
            StateError: the package cannot be written, or another file has its name; no package was
                made.
            AuditError: the audit log cannot be written or does not verify.
        """
        report_id = content.document.report
        name = package_name(report_id, self._recipients)
        target = self._directory / name
        if not self._directory.is_dir():
            raise StateError(
                f"no directory for packages: {printable(self._directory)}",
                hint="make it, or mount its file system; it is `directory` in [report.to]",
            )
        if os.path.lexists(target):
            raise _taken(target)
        if len(content.evidence) > MOST_FILES:
            raise UsageError(
                f"a package has at most {MOST_FILES:,} sealed files, not {len(content.evidence):,}",
                hint="retract the report, and prepare several reports of fewer matches",
            )
        files = {
            README_NAME: _readme(report_id),
            DOCUMENT_NAME: encode_document(content.document),
        }
        hashes = {n: hashlib.sha256(text).hexdigest() for n, text in files.items()}  # 1
        for match in content.document.matches:
            hashes |= {name: one.sha256 for name, one in match.sealed.items()}
        ids = {report_id, *(match.id for match in content.document.matches)}
        names = named_in(content.document)
        files[CUSTODY_NAME] = bind(self._session, ids, {**data, **names}, hashes)  # 2
        files[CHECKPOINT_NAME] = checkpoint(self._session.settings.layout.audit)
        try:
            with named_directory(self._directory) as directory:
                remove_unfinished(directory, report_id)
                temporary = f"{TEMP_PREFIX}{name}.{os.urandom(8).hex()}"
                write = self._write_archive if self._recipients else self._write_directory
                try:
                    with write(directory, temporary, files, content) as (held, digest):  # 3
                        yield Package(name, digest)  # 4
                        self._put_in_place(directory, temporary, name, held)  # 5
                finally:
                    with contextlib.suppress(OSError):
                        _remove(directory, temporary, report_id)
        except OSError as error:
            raise StateError(
                f"cannot write package: {printable(target)}: {error.strerror or error}",
                hint="nothing is there now; look at the place, the permissions and the space of"
                " `directory` in [report.to]",
            ) from error

    @staticmethod
    def _put_in_place(directory: Directory, temporary: str, name: str, held: int) -> None:
        try:
            give_name(directory, temporary, name, held)
        except FileExistsError as error:
            raise _taken(Path(directory.path_of(name))) from error

    @contextlib.contextmanager
    def _write_archive(
        self, directory: Directory, name: str, files: Mapping[str, bytes], content: Content
    ) -> Iterator[tuple[int, str]]:
        with os.fdopen(directory.create(name), "wb") as stream:
            members = [
                *(Member(n, len(text), iter((text,))) for n, text in files.items()),
                *(
                    Member(n, proven.size, proven.chunks())
                    for n, proven in content.evidence.items()
                ),
            ]
            folder = package_folder(content.document.report)
            keys = parse_recipients(self._recipients)
            sealed = seal_stream(Chunks(write_tar(folder, members)).read, stream.write, keys)
            _sync(stream)
            yield stream.fileno(), sealed.sha256

    @staticmethod
    @contextlib.contextmanager
    def _write_directory(
        directory: Directory, name: str, files: Mapping[str, bytes], content: Content
    ) -> Iterator[tuple[int, str]]:
        with (
            new_directory(directory, name) as package,
            new_directory(package, EVIDENCE_DIR) as inner,
        ):
            for file, text in files.items():
                with os.fdopen(package.create(file), "wb") as stream:
                    stream.write(text)
                    _sync(stream)
            for file, proven in content.evidence.items():
                with os.fdopen(inner.create(file.removeprefix(f"{EVIDENCE_DIR}/")), "wb") as stream:
                    for chunk in proven.chunks():
                        stream.write(chunk)
                    _sync(stream)
            inner.sync()
            package.sync()
            yield package.fd, hashlib.sha256(files[CUSTODY_NAME]).hexdigest()


def _sync(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _digest_of(directory: Directory, name: str, status: os.stat_result) -> str:
    """Return the SHA-256 of an archive, or of the `custody.jsonl` of a directory."""
    with contextlib.ExitStack() as stack:
        if stat.S_ISDIR(status.st_mode):
            directory, name = stack.enter_context(directory.beneath(name)), CUSTODY_NAME
        fd = directory.open(name, os.O_RDONLY | os.O_NONBLOCK)
        stream = stack.enter_context(os.fdopen(fd, "rb"))
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "none: it is no file"
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _readme(report_id: str) -> bytes:
    return _README.format(report=report_id).encode("ascii")


def _remove(directory: Directory, name: str, report_id: str) -> None:
    """Remove a file or directory that `made` has written for a report, and no other files.

    The content is checked because the owner of `directory` may have given the name to another
    directory of this user.
    """
    status = directory.status(name)
    if status is None:
        return
    if not stat.S_ISDIR(status.st_mode):
        directory.unlink(name)
        return
    with directory.beneath(name) as package:
        has_files = package.status(README_NAME) is not None  # `made` writes the README first
        if has_files:
            with os.fdopen(package.open(README_NAME, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
                # A killed attempt may have written a part of the README, or nothing of it.
                if not _readme(report_id).startswith(stream.read(MAX_TEXT_BYTES)):
                    return
            for file in (DOCUMENT_NAME, CUSTODY_NAME, CHECKPOINT_NAME):
                if package.status(file) is not None:
                    package.unlink(file)
        elif package.names() not in ([], [EVIDENCE_DIR]):
            return
        if package.status(EVIDENCE_DIR) is not None:
            with package.beneath(EVIDENCE_DIR) as inner:
                for file in inner.names() if has_files else ():
                    if file.endswith(".age"):
                        inner.unlink(file)
            os.rmdir(EVIDENCE_DIR, dir_fd=package.fd)
        if has_files:
            package.unlink(README_NAME)
    os.rmdir(name, dir_fd=directory.fd)


def _taken(target: Path) -> StateError:
    return StateError(
        f"something is there already: {printable(target)}",
        hint="nothing is ever overwritten: look at the file, then move it away",
    )

"""Makes a package: a directory, or one archive sealed to its recipients.

A package holds the report document, the chain of custody, a checkpoint of the audit log and the
sealed evidence, and can be verified by `verify` anywhere. It appears in its directory as a whole,
under its own name, and never replaces another file. An archive is encrypted while it is made, so it
is never on a disk in the clear. `docs/reporting.md` specifies the format.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from hashclient.audit.log import checkpoint
from hashclient.errors import StateError
from hashclient.quarantine.age import Chunks, parse_recipients
from hashclient.quarantine.evidence import Proven, sealed_source
from hashclient.quarantine.sealing import seal_stream
from hashclient.reporting.custody import bind
from hashclient.reporting.destinations.package.tarstream import Member, write_tar
from hashclient.reporting.document import Document, encode_document
from hashclient.reporting.report import Package
from hashclient.session import Session
from hashclient.system.beneath import rename_noreplace
from hashclient.system.files import TEMP_PREFIX, fsync_dir, state_error
from hashclient.system.text import printable

README_NAME = "README.txt"
DOCUMENT_NAME = "document.json"
CUSTODY_NAME = "custody.jsonl"
CHECKPOINT_NAME = "checkpoint.json"
EVIDENCE_DIR = "evidence"
SEALED_SUFFIX = ".tar.age"

_README = """\
Report {report}

document.json    what is reported: paths, entries of lists, what was done; no digests
custody.jsonl    the chain of custody: signed records of the reporter's audit log
checkpoint.json  a signed statement that the log holds these records
evidence/        the files, each sealed in the age format under the id of its match

The files were matched by digest alone; nobody has viewed them. Handle them as the law demands.

To verify all of this, anywhere, without any set-up:

    hashclient report verify DIRECTORY

It prints the public key of the reporter's audit log. Compare it with the key that the reporter
gives you in another way, by telephone, say: only that shows whose report it is.

To open a file, with the secret key of one of the recipients that document.json names for it:

    age -d -i SECRET-KEY-FILE -o OUTPUT evidence/ID.age
"""


class Content(msgspec.Struct, frozen=True):
    """The content of a package: the document, and the proven evidence, by its name there."""

    document: Document
    evidence: Mapping[str, Proven]


def package_name(report_id: str, recipients: Sequence[str]) -> str:
    """Return the name of a package, which says whether it is sealed."""
    return f"hashclient-report-{report_id}{SEALED_SUFFIX if recipients else ''}"


def gather(document: Document, places: Sequence[Path]) -> Content:
    """Find and prove the evidence that `document` names, in one of the directories `places`.

    In each, evidence is found as `<match id>.age` or as `<match id>/evidence.age`.

    Raises:
        StateError: evidence is missing or damaged.
    """
    evidence = {}
    for match in document.matches:
        if match.evidence is None:
            continue
        names = (f"{match.id}.age", f"{match.id}/evidence.age")
        found = [p / name for p in places for name in names if (p / name).is_file()]
        if not found:
            raise StateError(
                f"sealed copy is missing: match {match.id}",
                hint="`hashclient quarantine verify` checks all of them",
            )
        known = match.evidence
        evidence[known.name] = sealed_source(found[0], known.sha256, known.length)
    return Content(document, evidence)


def remove_unfinished(directory: Path, report_id: str) -> None:
    """Remove from `directory` the leftovers of a killed attempt at the package of a report."""
    with contextlib.suppress(OSError):
        for leftover in directory.glob(f"{TEMP_PREFIX}{package_name(report_id, ())}*"):
            _remove(leftover)


class Packager:
    """Makes one package in one directory."""

    def __init__(self, directory: Path, recipients: Sequence[str], session: Session) -> None:
        """Keep the arguments; nothing is made yet."""
        self._directory = directory
        self._recipients = recipients
        self._session = session

    def is_there(self, package: Package) -> bool:
        """Return whether the announced package is in its place.

        Raises:
            StateError: another file has its name, or it cannot be read.
        """
        target = self._directory / package.name
        if not os.path.lexists(target):
            return False
        read_from = target / CUSTODY_NAME if target.is_dir() else target
        try:
            with read_from.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise state_error("cannot read", read_from, error) from error
        if found != package.sha256:
            raise _taken(target)
        return True

    @contextlib.contextmanager
    def made(self, content: Content, data: Mapping[str, object]) -> Iterator[Package]:
        """Make the package under a temporary name, and put it in its place after the block.

        1. The other files are hashed; the evidence was proven when it was gathered.
        2. The audit log binds them: a signed record has all these hashes, and `data` about the
           report.
        3. All files are written and synced; the evidence is compared once more.
        4. The block runs, in which the caller notes the name that is about to appear.
        5. The package gets its name, unless another file has it.

        Raises:
            StateError: it cannot be written, or its place is taken; no package is there then.
            AuditError: the audit log cannot be written or does not verify.
        """
        report_id = content.document.report
        name = package_name(report_id, self._recipients)
        target, temporary = self._directory / name, self._directory / f"{TEMP_PREFIX}{name}"
        if not self._directory.is_dir():
            raise StateError(
                f"no directory for packages: {printable(self._directory)}",
                hint="make it, or mount its file system; it is `directory` in [report.to]",
            )
        if os.path.lexists(target):
            raise _taken(target)
        files = {
            README_NAME: _README.format(report=report_id).encode("ascii"),
            DOCUMENT_NAME: encode_document(content.document),
        }
        hashes = {n: hashlib.sha256(text).hexdigest() for n, text in files.items()}  # 1
        for evidence in (match.evidence for match in content.document.matches):
            if evidence is not None:
                hashes[evidence.name] = evidence.sha256
        ids = {report_id, *(match.id for match in content.document.matches)}
        files[CUSTODY_NAME] = bind(self._session, ids, data, hashes)  # 2
        files[CHECKPOINT_NAME] = checkpoint(self._session.settings.layout.audit)
        try:
            _remove(temporary)
            try:
                if self._recipients:  # 3
                    digest = self._write_archive(temporary, files, content)
                else:
                    self._write_directory(temporary, files, content)
                    digest = hashlib.sha256(files[CUSTODY_NAME]).hexdigest()
                yield Package(name, digest)  # 4
                self._put_in_place(temporary.name, name)  # 5
            finally:
                with contextlib.suppress(OSError):
                    _remove(temporary)
        except OSError as error:
            raise StateError(
                f"cannot write package: {printable(target)}: {error.strerror or error}",
                hint="nothing is there now; look at the place, the permissions and the space of"
                " `directory` in [report.to]",
            ) from error

    def _put_in_place(self, temporary: str, name: str) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            rename_noreplace(fd, temporary, name)
            os.fsync(fd)
        except FileExistsError as error:
            raise _taken(self._directory / name) from error
        finally:
            os.close(fd)

    def _write_archive(self, path: Path, files: Mapping[str, bytes], content: Content) -> str:
        with _new_file(path) as write:
            members = [
                *(Member(n, len(text), iter((text,))) for n, text in files.items()),
                *(
                    Member(n, proven.size, proven.chunks())
                    for n, proven in content.evidence.items()
                ),
            ]
            keys = parse_recipients(self._recipients)
            return seal_stream(Chunks(write_tar(members)).read, write, keys).sha256

    @staticmethod
    def _write_directory(path: Path, files: Mapping[str, bytes], content: Content) -> None:
        path.mkdir(mode=0o700)
        (path / EVIDENCE_DIR).mkdir(mode=0o700)
        for name, text in files.items():
            with _new_file(path / name) as write:
                write(text)
        for name, proven in content.evidence.items():
            with _new_file(path / name) as write:
                for chunk in proven.chunks():
                    write(chunk)
        fsync_dir(path / EVIDENCE_DIR)
        fsync_dir(path)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Make a new file, and sync it in the end."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as stream:
        yield stream.write
        stream.flush()
        os.fsync(stream.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _taken(target: Path) -> StateError:
    return StateError(
        f"something is there already: {printable(target)}",
        hint="nothing is ever overwritten: move it away, after a look at what it is",
    )

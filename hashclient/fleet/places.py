"""The places of status documents: directories that other users can write to, and buckets.

Other users can put anything into a place: symbolic links, pipes, huge files, and names with control
characters. So names are looked up only in the open directory, symbolic links are not followed, and
no more bytes are read than a document may have. A place also contains checkpoints of this machine's
audit log.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hashclient.audit.record import Checkpoint, Identity, parse_checkpoint
from hashclient.core.errors import (
    AuditError,
    StateError,
    UnreachableError,
    UsageError,
    VerificationError,
)
from hashclient.core.objecturi import ObjectUri, is_object_uri, parse_prefix
from hashclient.fleet.document import MAX_STATUS_BYTES, SUFFIX, verify_status
from hashclient.system.background import together
from hashclient.system.beneath import Directory
from hashclient.system.files import TEMP_PREFIX, read_bounded, user_path
from hashclient.system.outputs import replaced_file
from hashclient.system.text import printable

#: The largest number of documents in a place; a place with more is refused, because nobody has this
#: many machines.
MOST_DOCUMENTS = 20_000
#: The number of objects that are read together before they are parsed.
_AT_ONCE = 64
_TOO_LONG = f"longer than {MAX_STATUS_BYTES:,} bytes"


class Found(NamedTuple):
    """A file or an object with the name of a document: its bytes, or why they were not read."""

    name: str
    data: bytes = b""
    problem: str | None = None


class Folder:
    """A directory with status documents."""

    def __init__(self, path: Path) -> None:
        """Store the path; the directory is not opened yet."""
        self._path = path
        self.text = printable(path)

    @property
    def id(self) -> str:
        """The absolute path of the directory as a text, which identifies the place.

        Raises:
            OSError: the path is relative, and the working directory was removed.
        """
        return printable(self._path.absolute())

    def write(self, name: str, data: bytes) -> None:
        """Write a document to the directory in one step.

        Raises:
            UsageError, StateError: the document cannot be written.
        """
        try:
            # Other users must be able to read the document, so its mode permits everybody to read.
            # The permissions of the directory decide who can reach the document.
            with replaced_file(self._path / name, mode=0o644) as stream:
                stream.write(data)
        except StateError as error:
            raise StateError(
                error.message, hint="check the directory that machines publish to"
            ) from error

    def read(self, *endings: str) -> Iterator[Found]:
        """Yield the files whose names have one of `endings`, ordered by name.

        Raises:
            UsageError: the place cannot be read, or has too many documents.
        """
        try:
            with Directory.given(self._path) as directory:
                for name in _checked(_names(directory), endings, self.text):
                    # A document may be removed after the names were read.
                    with contextlib.suppress(FileNotFoundError):
                        yield _read(directory, name)
        except OSError as error:
            raise UsageError(
                f"cannot read {self.text}: {error.strerror or error}",
                hint="name the directory, or the bucket, that machines publish to",
            ) from error


def _names(directory: Directory) -> Iterator[str]:
    fd = directory.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as entries:
            yield from (entry.name for entry in entries)
    finally:
        os.close(fd)


def _checked(names: Iterator[str], endings: tuple[str, ...], where: str) -> list[str]:
    """Return the names with one of `endings`, sorted; names of unfinished files are left out.

    Raises:
        UsageError: the place has too many files.
    """
    wanted = (n for n in names if n.endswith(endings) and not n.startswith(TEMP_PREFIX))
    kept = list(itertools.islice(wanted, MOST_DOCUMENTS + 1))
    if len(kept) > MOST_DOCUMENTS:
        raise UsageError(
            f"more than {MOST_DOCUMENTS:,} documents: {where}", hint="remove those of old machines"
        )
    return sorted(kept)


def _read(directory: Directory, name: str) -> Found:
    # The kind of a file is checked first, because opening a link, a pipe or a device could do harm
    # or wait for ever.
    status = directory.status(name)
    if status is None:
        raise FileNotFoundError(name)
    try:
        if not stat.S_ISREG(status.st_mode):
            return Found(name, problem="not a regular file")
        with os.fdopen(directory.open(name, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return Found(name, problem="not a regular file")
            data = read_bounded(stream, status.st_size, MAX_STATUS_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        return Found(name, problem=error.strerror or str(error))
    return Found(name, problem=_TOO_LONG) if len(data) > MAX_STATUS_BYTES else Found(name, data)


class Bucket:
    """A bucket with status documents, or the keys in it that begin with a prefix and a slash."""

    def __init__(self, uri: ObjectUri) -> None:
        """Open the store; no object is read yet."""
        from hashclient.objects.stores import open_store

        prefix = uri.key.rstrip("/")
        self._uri = ObjectUri(uri.scheme, uri.bucket, f"{prefix}/" if prefix else "")
        self._store = open_store(self._uri)
        self.id = self.text = self._uri.text

    def write(self, name: str, data: bytes) -> None:
        """Write a document to the bucket.

        Raises:
            UnreachableError: the store failed.
            UsageError: the package for this kind of store is not installed.
        """
        with self._errors("write to"):
            self._store.put(self._uri.key + name, data)

    def read(self, *endings: str) -> Iterator[Found]:
        """Yield the objects whose names have one of `endings`, ordered by name.

        Raises:
            UnreachableError: the store failed.
            UsageError: the place has too many objects, or the package for this kind of store is not
                installed.
        """
        with self._errors("read"):
            names = _checked(self._names(), endings, self.text)
        for start in range(0, len(names), _AT_ONCE):
            for found in together(self._read, names[start : start + _AT_ONCE]):
                if found is not None:
                    yield found

    def _names(self) -> Iterator[str]:
        from hashclient.objects.s3 import S3

        if isinstance(self._store, S3):
            yield from self._store.names(self._uri.key)
            return
        from hashclient.objects.failures import StoreError, Trouble
        from hashclient.objects.listing import ListingEndedError, list_pages

        begin = len(self._uri.key)
        try:
            for page in list_pages(self._store, self._uri):
                for key in page.column("key"):
                    name = os.fsdecode(key.as_py())[begin:]
                    if "/" not in name:
                        yield name
        except ListingEndedError as error:
            raise StoreError(Trouble.OTHER, str(error)) from None

    def _read(self, name: str) -> Found | None:
        from hashclient.objects.failures import StoreError, Trouble

        data = bytearray()

        def take(chunk: memoryview) -> None:
            data.extend(chunk)
            if len(data) > MAX_STATUS_BYTES:
                raise _TooLongError

        try:
            self._store.read(self._uri.key + name, None, take)
        except _TooLongError:
            return Found(name, problem=_TOO_LONG)
        except StoreError as error:
            return None if error.trouble is Trouble.GONE else Found(name, problem=error.reason)
        return Found(name, bytes(data))

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        from hashclient.objects.failures import StoreError

        try:
            yield
        except StoreError as error:
            raise UnreachableError(
                f"cannot {what} {self.text}: {error}", hint="check the credentials and the network"
            ) from None


class _TooLongError(Exception):
    """An object has more bytes than a document may have."""


def place_at(where: str) -> Folder | Bucket:
    """Return the directory or the bucket that `where` names.

    Raises:
        UsageError: the text is empty, or has not the form of a path or a URI.
    """
    if not where:  # often from an unset variable of a shell; it would be the working directory
        raise UsageError("no directory and no bucket is named", hint="`.` is this directory")
    return Bucket(parse_prefix(where)) if is_object_uri(where) else Folder(user_path(where))


def checkpoints_at(place: Folder | Bucket, identity: Identity) -> list[Checkpoint]:
    """Return the checkpoints of a log at a place.

    The checkpoints are in status documents, and in files with one checkpoint each.

    All other files and objects are ignored: files of other machines, and damaged or forged files.

    Raises:
        AuditError: the place has no checkpoint of this log, so nothing shows which records the log
            had.
        HashclientError: the place cannot be read.
    """
    found = []
    for one in place.read(SUFFIX, ".json"):
        try:
            checkpoint = verify_status(one.data).checkpoint
        except VerificationError:
            try:
                checkpoint = parse_checkpoint(one.data, trim=True)
            except AuditError:
                continue
        if checkpoint.identity == identity:
            found.append(checkpoint)
    if not found:
        raise AuditError(
            f"no checkpoint of this log is there: {place.text}",
            hint="if this machine has published there, somebody has replaced its log",
        )
    return found

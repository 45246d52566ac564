"""The files of an audit log: locking them, reading them forwards and backwards, and their keys.

The modules of `audit` that write and that read a log use this module. The length of a line is
bounded, so memory is bounded whatever the file contains. Errors of the system become `AuditError`.
"""

from __future__ import annotations

import contextlib
import os
from binascii import a2b_base64
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from hashclient.audit.record import MAX_LINE_BYTES, Record, broken, parse_record
from hashclient.core.errors import AuditError, ConfigError, StateError
from hashclient.system import files
from hashclient.system.layout import (
    AUDIT_PUBLIC_KEY_NAME,
    CLOSED_LOG_NAME,
    CLOSED_LOG_PATTERN,
    LOG_NAME,
)
from hashclient.system.secrets import read_secret
from hashclient.system.text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: The seconds to wait for the lock of the log. An append needs the lock for milliseconds, so a
#: process that keeps it longer is stuck.
LOCK_WAIT_S = 5.0

HINT_GONE = "restore it, or move the whole audit directory away to start a new log"

_CHUNK_BYTES = 1 << 16
#: The form in which this program writes a private key: the first and last lines of PEM, and the
#: bytes of PKCS #8 before the 32 bytes of the key (RFC 8410, section 7).
_BEGIN, _END = b"-----BEGIN PRIVATE KEY-----\n", b"\n-----END PRIVATE KEY-----\n"
_PKCS8, _KEY_BYTES = bytes.fromhex("302e020100300506032b657004220420"), 32


class Closed(msgspec.Struct, frozen=True):
    """A closed file of the log, and its number."""

    number: int
    path: Path


class Log(msgspec.Struct, frozen=True):
    """An open log that is read; `end` is the offset after its last whole line, in bytes.

    `closed`: the earlier files of the log that are present, in order. `name`: the name of this file
    in messages.
    """

    stream: IO[bytes]
    end: int
    torn_bytes: int
    closed: tuple[Closed, ...] = ()
    name: str = ""

    def where(self, line: int) -> str:
        """Return a text for messages that names a line of the log."""
        return f"{self.name} line {line}".lstrip()


class Tail(msgspec.Struct, frozen=True):
    """The end of a log: its last record, its last signed record, and how many records follow it."""

    last: Record | None
    signed: Record | None
    unsigned: int
    torn_bytes: int


@contextlib.contextmanager
def open_log(directory: Path, *, required: bool = False) -> Iterator[Log]:
    """Open the log to read its present records; writers may append more meanwhile.

    Raises:
        AuditError: the log cannot be read; or the log is missing, but `required` or a public key
            says that it existed.
        StateError: no log exists.
    """
    path = directory / LOG_NAME
    with contextlib.ExitStack() as stack:
        size = 0
        closed: tuple[Closed, ...] = ()
        with audit_errors("cannot read the audit log", path):
            with contextlib.suppress(FileNotFoundError):
                stream, closed = _open_current(path, stack)
                size = os.fstat(stream.fileno()).st_size
                files.release(stream.fileno())
            had_log = required or (directory / AUDIT_PUBLIC_KEY_NAME).exists()
        if size == 0 and had_log:
            raise AuditError(f"the audit log is gone: {printable(path)}", hint=HINT_GONE)
        if size == 0:
            raise StateError(
                f"no audit log yet: {printable(path)}",
                hint="it starts with the first fetch or scan; or check --state-dir",
            )
        with audit_errors("cannot read the audit log", path):
            torn_bytes = _torn_bytes(stream.fileno(), size)
            yield Log(stream, size - torn_bytes, torn_bytes, closed)


def _open_current(path: Path, stack: contextlib.ExitStack) -> tuple[IO[bytes], tuple[Closed, ...]]:
    """Open and lock the current file of the log; return it, and the closed files before it.

    Raises:
        OSError: the file cannot be opened.
        AuditError: another process has locked the log for too long.
    """
    while True:
        stream = stack.enter_context(files.open_at_once(path))
        files.refuse_irregular(path)
        lock(stream.fileno(), LOCK_WAIT_S, shared=True)
        if is_current(stream.fileno(), path):
            return stream, closed_files(path.parent, stream.fileno())
        stream.close()  # another process has closed this file meanwhile, and begun the next file


def is_current(fd: int, path: Path) -> bool:
    """Return whether the file open as `fd` is the file at `path`.

    Raises:
        OSError: no file has the name `path`.
    """
    return os.path.samestat(os.fstat(fd), path.stat())


def closed_files(directory: Path, current: int | None) -> tuple[Closed, ...]:
    """Return the closed files in `directory`, in order.

    `current` is the descriptor of the open file.

    A file that also has the name of the open file is not closed yet.

    Raises:
        OSError: the directory cannot be read.
    """
    found = []
    for name in os.listdir(directory):  # noqa: PTH208 - only names are needed
        match = CLOSED_LOG_PATTERN.fullmatch(name)
        if match is None or name != CLOSED_LOG_NAME.format(int(match[1])):
            continue
        with contextlib.suppress(FileNotFoundError):  # the file was moved to an archive just now
            if current is None or not is_current(current, directory / name):
                found.append(Closed(int(match[1]), directory / name))
    return tuple(sorted(found, key=lambda part: part.number))


@contextlib.contextmanager
def open_closed(part: Closed) -> Iterator[Log]:
    """Open a closed file of the log.

    Raises:
        AuditError: the file cannot be read, or does not end with a whole line.
    """
    with (
        audit_errors("cannot read the audit log", part.path),
        files.open_at_once(part.path) as stream,
    ):
        files.refuse_irregular(part.path)
        size = os.fstat(stream.fileno()).st_size
        torn_bytes = _torn_bytes(stream.fileno(), size)
        if torn_bytes or not size:
            broken(part.path.name, "not written to its end")
        yield Log(stream, size, 0, (), part.path.name)


def first_record(fd: int) -> Record:
    """Read the first record of the file open as `fd`.

    Raises:
        AuditError: the record is broken.
    """
    line, newline, _ = os.pread(fd, MAX_LINE_BYTES, 0).partition(b"\n")
    if not newline:
        broken("line 1", f"longer than {MAX_LINE_BYTES} bytes, or not written to its end")
    return parse_record(line, "line 1")


def lines(log: Log) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of a log without newlines, with their numbers from 1.

    Raises:
        AuditError: a line is too long, or the file became shorter meanwhile.
    """
    number, left = 0, log.end
    while left:
        number += 1
        line = log.stream.readline(min(left, MAX_LINE_BYTES))
        left -= len(line)
        if not line.endswith(b"\n"):
            # `left` bytes should remain, but the line does not end: it is too long, or the file
            # became shorter while it was read.
            broken(log.where(number), f"longer than {MAX_LINE_BYTES} bytes, or cut meanwhile")
        yield number, line[:-1]


def records(log: Log) -> Iterator[Record]:
    """Parse a log from its start to its last whole line.

    Raises:
        AuditError: a line is broken.
    """
    for number, line in lines(log):
        yield parse_record(line, log.where(number))


def records_backward(fd: int, end: int) -> Iterator[Record]:
    """Parse the whole lines that end at `end`, the last line first.

    Raises:
        AuditError: a line is broken.
    """
    lines = _split_backward(fd, end)
    next(lines)  # skip the empty piece after the last newline
    for number, line in enumerate(lines, 1):
        yield parse_record(line, f"line {number} from its end")


def _split_backward(fd: int, size: int) -> Iterator[bytes]:
    """Yield the pieces between the newlines of the first `size` bytes, the last piece first."""
    rest = b""
    while size:
        start = max(0, size - _CHUNK_BYTES)
        chunk = os.pread(fd, size - start, start)
        if len(chunk) != size - start:
            broken("its end", "cut while it was being read")
        first, *others = (chunk + rest).split(b"\n")
        yield from reversed(others)
        if len(first) > MAX_LINE_BYTES:
            broken("its end", f"a line longer than {MAX_LINE_BYTES} bytes")
        rest, size = first, start
    yield rest


def _torn_bytes(fd: int, size: int) -> int:
    """Return the number of bytes after the last newline, which a killed writer has left."""
    return len(next(_split_backward(fd, size)))


def read_tail(fd: int, size: int) -> Tail:
    """Read the log backwards to its last signed record.

    Only the last line is read, unless a writer was killed.

    Raises:
        AuditError: a line is broken, or does not follow the line before.
    """
    torn_bytes = _torn_bytes(fd, size)
    last = previous = None
    for unsigned, record in enumerate(records_backward(fd, size - torn_bytes)):
        if previous is not None and (record.hash, record.seq + 1) != (previous.prev, previous.seq):
            broken(f"line {unsigned} from its end", "it does not follow the line before it")
        last = last or record
        if record.sig is not None:
            return Tail(last, record, unsigned, torn_bytes)
        previous = record
    if last is not None:
        broken("line 1", "it is not signed")
    return Tail(None, None, 0, torn_bytes)


def lock(fd: int, wait_s: float, *, shared: bool = False) -> None:
    """Lock the log, and wait up to `wait_s` seconds for other processes.

    Closing `fd` releases the lock.

    Raises:
        AuditError: another process has locked the log for too long.
        OSError: the log cannot be locked.
    """
    if not files.acquire(fd, shared=shared, wait_s=wait_s):
        raise AuditError(
            f"the audit log stayed locked by another process for {wait_s:g} s",
            hint="look for a hashclient process that is stopped, or that uses a very slow disk",
        )


def load_key(path: Path) -> Ed25519PrivateKey:
    """Load the private key of the log, which other users must not be able to read.

    Raises:
        AuditError, ConfigError: the file is no Ed25519 key, or other users can read it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = read_secret(path, "audit key")
    if (own := _own_form(pem)) is not None:
        return Ed25519PrivateKey.from_private_bytes(own)
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise _not_a_key(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_a_key(path)
    return key


def _own_form(pem: bytes) -> bytes | None:
    """Return the bytes of a private key in the form that this program writes; None for other forms.

    Importing the library that reads all forms would take longer than appending a record.
    """
    text = pem.removeprefix(_BEGIN).removesuffix(_END)
    if len(text) != len(pem) - len(_BEGIN) - len(_END):
        return None
    try:
        der = a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
    own = der.removeprefix(_PKCS8)
    return own if len(own) == _KEY_BYTES and len(der) == len(_PKCS8) + _KEY_BYTES else None


def load_public_key(directory: Path) -> bytes | None:
    """Return the 32 bytes of the public key in `directory`, or None if it has no key.

    Raises:
        AuditError: the file is not a public key.
        OSError: the file cannot be read.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    path = directory / AUDIT_PUBLIC_KEY_NAME
    try:
        key = serialization.load_pem_public_key(files.read_regular(path, files.MAX_TEXT_BYTES))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _not_a_key(path) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _not_a_key(path)
    return key.public_bytes_raw()


def _not_a_key(path: Path) -> AuditError:
    return AuditError(f"not an Ed25519 key in PEM: {printable(path)}", hint=HINT_GONE)


@contextlib.contextmanager
def audit_errors(what: str, path: Path) -> Iterator[None]:
    """Translate errors of the system and of `system.files` into AuditError."""
    try:
        yield
    except OSError as error:
        state = files.state_error(what, path, error)
        raise AuditError(state.message, hint=state.hint) from error
    except (StateError, ConfigError) as error:
        raise AuditError(error.message, hint=error.hint) from error

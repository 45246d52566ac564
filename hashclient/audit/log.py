"""The audit log: a hash-chained, signed, append-only record of the acts of this installation.

The log has one JSON object a line in `log.jsonl` and in the files closed before, next to the
Ed25519 key that signs the records (`key.pem`, private; `key.pub`). Every record's hash covers the
record before it, and the last record of every append is signed: so `verify` finds an edit, a
removal or an insertion anywhere. `record` encodes records, `file` opens files, `rotation` closes a
file, `reading` reads the log; this module writes the log. The owner of the key can write a new log:
only a checkpoint kept elsewhere shows that, or a tail that was cut off. The callers choose the
content, and must not record a digest of a list or a credential.

A signature takes 30 microseconds, more than all other work to record a match, and OpenSSL lets
other threads run meanwhile. So for a large batch, as many threads sign as the machine has
processors. The threads have ended when this returns: a process with threads should not fork.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hashclient.audit.file import (
    HINT_GONE,
    LOCK_WAIT_S,
    audit_errors,
    is_current,
    load_key,
    lock,
    read_tail,
)
from hashclient.audit.parts import bodies_of
from hashclient.audit.reading import Report, checkpoint, read, verify
from hashclient.audit.record import (
    CLOSED,
    EVENT_PATTERN,
    FORMAT,
    GENESIS,
    MAX_LINE_BYTES,
    NO_HASH,
    OWN_EVENTS,
    RECOVERED,
    SEGMENT,
    Encoded,
    Event,
    Record,
    chain_record,
    chain_unsigned,
    encode_body,
    finish_record,
    format_time,
    sign_hash,
    verify_signature,
)
from hashclient.audit.rotation import NoLinksError, Rotated, rotate
from hashclient.core.errors import AuditError, StateError, UsageError
from hashclient.system import files
from hashclient.system.files import write_all
from hashclient.system.layout import AUDIT_KEY_NAME, AUDIT_PUBLIC_KEY_NAME, LOG_NAME
from hashclient.system.text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


#: To start a thread takes as long as some signatures.
_MANY = 64
_MOST_THREADS = 8


def sign_all(hashes: Sequence[str], key: Ed25519PrivateKey) -> list[str]:
    """Return the signatures of the records with these hashes, in the same order."""
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    if len(hashes) < _MANY or threads < 2:
        return [sign_hash(record_hash, key) for record_hash in hashes]
    from hashclient.system.background import Task

    def sign(first: int) -> list[str]:
        return [sign_hash(record_hash, key) for record_hash in hashes[first::threads]]

    tasks: dict[int, Task[list[str]]] = {}
    try:
        for first in range(1, threads):
            tasks[first] = Task(lambda first=first: sign(first), "sign")  # type: ignore[misc]
    except StateError:
        pass  # if no other thread can start, this thread signs
    signatures = [""] * len(hashes)
    for first in range(threads):
        signatures[first::threads] = tasks[first].result() if first in tasks else sign(first)
    return signatures


__all__ = [
    "AuditLog",
    "Encoded",
    "Event",
    "Record",
    "Report",
    "Rotated",
    "checkpoint",
    "read",
    "verify",
]

#: A record that closes a file has at most this length, with its newline.
_CLOSING_BYTES = 1024
#: Bytes of a line for an event that has no signature of its own.
_LONG_BODY_CHARS = MAX_LINE_BYTES // 2


class AuditLog:
    """The writer. Any number of processes and threads may append to one log at once."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], datetime],
        lock_wait_s: float = LOCK_WAIT_S,
        max_bytes: int | None = None,
    ) -> None:
        """The first append reads or makes the files; `clock` gives aware times.

        A file of the log of `max_bytes` is closed before the next append.
        """
        self._directory = directory
        self._clock = clock
        self._lock_wait_s = lock_wait_s
        self._max_bytes = max_bytes

    def append(
        self,
        events: Sequence[Event | Encoded],
        *,
        durable: bool = False,
        sign_each: bool = False,
    ) -> None:
        """Record `events` as one signed batch; with `durable`, they survive a power failure.

        With `sign_each` every record has a signature, so that it can be handed over without later
        records.

        An event that is too large for a line becomes several records (`parts`).

        The first append makes the key and the genesis record. The rest of a killed append is
        repaired before, and the repair is recorded.

        Raises:
            AuditError: the log cannot be written or its end is broken; nothing was recorded.
            ValueError, TypeError: an event has a name that is not allowed, or data that is no JSON.
        """
        if not events:
            return
        for name in {event.event for event in events}:
            if name in OWN_EVENTS or not EVENT_PATTERN.fullmatch(name):
                raise ValueError(f"not a name for an event: {name}")
        bodies = [body for event in events for body in bodies_of(event)]
        path = self._directory / LOG_NAME
        with audit_errors("cannot write the audit log", path):
            files.make_private_dir(self._directory)
            fd = self._open_locked(path)
            try:
                if self._is_full(fd):
                    fd = self._next(fd)
                self._append_locked(fd, bodies, durable=durable, sign_each=sign_each)
            finally:
                os.close(fd)

    def rotate(self) -> Rotated | None:
        """Close the current file of the log, and begin the next; return the closed file.

        None means that the current file has no record yet.

        Raises:
            AuditError: the file cannot be closed, or no log exists yet.
            UsageError: the file system cannot do it.
        """
        path = self._directory / LOG_NAME
        with audit_errors("cannot write the audit log", path):
            if not path.exists():
                raise AuditError(
                    f"no audit log to close: {printable(path)}",
                    hint="it starts with the first fetch or scan; or check --state-dir",
                )
            fd = self._open_locked(path)
            try:
                tail = read_tail(fd, os.fstat(fd).st_size)
                if tail.last is not None and tail.last.event == SEGMENT:
                    return None
                rotated, new = self._rotate(fd)
                os.close(new)
                return rotated
            except NoLinksError as error:
                raise UsageError(
                    f"the file system has no hard links: {printable(self._directory)}",
                    hint="the log stays in one file there",
                ) from error
            finally:
                os.close(fd)

    def _open_locked(self, path: Path) -> int:
        """Open and lock the current file; make a missing file."""
        while True:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(path, flags, 0o600)
            try:
                lock(fd, self._lock_wait_s)
                if is_current(fd, path):
                    return fd
            except FileNotFoundError:
                pass  # somebody has moved the file away
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # another process has closed the file meanwhile, and begun the next

    def _is_full(self, fd: int) -> bool:
        """Return whether the next record belongs in another file."""
        size = os.fstat(fd).st_size
        if self._max_bytes is not None and size >= self._max_bytes:
            tail = read_tail(fd, size)
            return tail.last is not None and tail.last.event != SEGMENT
        # A kill may have come after it was closed. The last line says so near its beginning.
        end = os.pread(fd, _CLOSING_BYTES, max(0, size - _CLOSING_BYTES))
        if f'"event":"{CLOSED}"'.encode() not in end:
            return False
        last = read_tail(fd, size).last
        return last is not None and last.event == CLOSED

    def _next(self, fd: int) -> int:
        """Close the file open as `fd`, and return the next; return `fd` if that is not possible."""
        try:
            _, new = self._rotate(fd)
        except (NoLinksError, OSError, AuditError) as error:
            last = read_tail(fd, os.fstat(fd).st_size).last
            if last is None or last.event != CLOSED:
                return fd  # the file was not closed, so the log continues in it
            if not isinstance(error, NoLinksError):
                raise
            where = printable(self._directory)
            raise AuditError(
                f"the audit log is closed, and cannot go on in another file: {where}",
                hint="move the state directory to a file system that has hard links",
            ) from error
        os.close(fd)
        return new

    def _rotate(self, fd: int) -> tuple[Rotated, int]:
        """Close the file open as `fd`; return it, and the next file, open and locked.

        Raises:
            NoLinksError, AuditError, OSError: as `rotation.rotate`.
        """

        def append(to: int, bodies: list[str]) -> None:
            self._append_locked(to, bodies, durable=True, sign_each=False)

        tail = read_tail(fd, os.fstat(fd).st_size)
        if tail.last is None or tail.signed is None:
            raise AuditError(
                f"no record in the audit log: {printable(self._directory / LOG_NAME)}",
                hint=HINT_GONE,
            )
        key = self._key(log_is_new=False)
        verify_signature(
            tail.signed, key.public_key().public_bytes_raw().hex(), "its last signed line"
        )
        return rotate(self._directory, fd, key, self._clock, append)

    def _append_locked(self, fd: int, bodies: list[str], *, durable: bool, sign_each: bool) -> None:
        size = os.fstat(fd).st_size
        tail = read_tail(fd, size)
        end = size - tail.torn_bytes
        key = self._key(log_is_new=end == 0)
        public_key = key.public_key().public_bytes_raw().hex()
        if tail.torn_bytes or tail.unsigned:
            repair = {"dropped_bytes": tail.torn_bytes, "adopted_records": tail.unsigned}
            bodies.insert(0, encode_body(RECOVERED, repair))
        if tail.last is None or tail.signed is None:
            seq, prev = 0, NO_HASH
            identity = {"log_id": os.urandom(16).hex(), "public_key": public_key}
            bodies.insert(0, encode_body(GENESIS, {"format": FORMAT, **identity}))
        else:
            verify_signature(tail.signed, public_key, "its last signed line")
            seq, prev = tail.last.seq, tail.last.hash
        lines = _chain(bodies, seq, format_time(self._clock()), prev, key, sign_each=sign_each)
        if tail.torn_bytes:
            os.ftruncate(fd, end)
        try:
            write_all(fd, b"".join(lines))
            if durable or end == 0:
                os.fsync(fd)
        except BaseException:  # also for a signal: a failed append must not be recorded
            with contextlib.suppress(OSError):
                os.ftruncate(fd, end)
            raise
        self._publish(key, log_is_new=end == 0)

    def _key(self, *, log_is_new: bool) -> Ed25519PrivateKey:
        """Load the key, or make it for a new log. The lock is held."""
        path = self._directory / AUDIT_KEY_NAME
        # key.pub is written when the genesis record is on the disk: it proves that a log was there.
        if log_is_new and (self._directory / AUDIT_PUBLIC_KEY_NAME).exists():
            where = printable(self._directory / LOG_NAME)
            raise AuditError(f"the audit log is gone, but not its key: {where}", hint=HINT_GONE)
        if path.exists():
            return load_key(path)
        if not log_is_new:
            where = printable(path)
            raise AuditError(f"the key of the audit log is gone: {where}", hint=HINT_GONE)
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        files.sweep_temporary(self._directory)
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        files.write_atomic(path, pem)
        return key

    def _publish(self, key: Ed25519PrivateKey, *, log_is_new: bool) -> None:
        """Write key.pub, unless it exists, once the genesis record is on the disk."""
        path = self._directory / AUDIT_PUBLIC_KEY_NAME
        if log_is_new:
            files.fsync_dir(self._directory)
        if not path.exists():
            from cryptography.hazmat.primitives import serialization

            files.sweep_temporary(self._directory)
            pem = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            files.write_atomic(path, pem)


def _chain(
    bodies: Sequence[str],
    seq: int,
    time: str,
    prev: str,
    key: Ed25519PrivateKey,
    *,
    sign_each: bool,
) -> list[bytes]:
    """Return the lines of a batch that follows the record number `seq`, whose hash is `prev`.

    The last record of a batch is signed and covers the others; genesis is a batch of its own. A
    very long record is signed as well: otherwise, the record that repairs it and contains a copy of
    it would be too long.

    Raises:
        AuditError: a line would be too long.
    """
    last = len(bodies) - 1
    lines: list[bytes] = []
    heads: list[tuple[int, bytes, str]] = []
    begun = 0
    for place, body in enumerate(bodies):
        if not (sign_each or seq + place == 0 or place == last or len(body) > _LONG_BODY_CHARS):
            continue
        prev = chain_unsigned(seq + 1 + begun, time, bodies[begun:place], prev, lines)
        head, prev = chain_record(seq + 1 + place, time, body, prev, signed=True)
        heads.append((len(lines), head, prev))
        lines.append(b"")
        begun = place + 1
    signatures = sign_all([record_hash for _, _, record_hash in heads], key)
    for (at, head, record_hash), signature in zip(heads, signatures, strict=True):
        lines[at] = finish_record(head, record_hash, signature)
    return lines

"""The audit log: a hash-chained, signed, append-only record of what this installation has done.

`log.jsonl` and the closed files contain one JSON object on each line; the Ed25519 key that signs
the records is in the same directory (`key.pem`, private; `key.pub`). The hash of each record covers
the record before it, and the last record of each append is signed, so `verify` finds an edit, a
removal or an insertion anywhere. `record` encodes records, `file` opens files, `rotation` closes a
file, and `reading` reads the log; this module writes the log. The owner of the key could write a
new log, or cut off the end of the log; only a checkpoint that is kept in another place shows such a
change. The callers choose the content of records, which must not include a digest of a list or a
credential.

A signature takes 30 microseconds, which is more than all other work of recording a match, and
OpenSSL lets other threads run meanwhile. So a large batch is signed by several threads, up to the
number of processors. The signing threads end before the append returns, because a process with
threads should not fork.
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


#: Batches with fewer records are signed by one thread, because starting a thread takes as long as
#: some signatures.
_MANY = 64
_MOST_THREADS = 8


def sign_all(hashes: Sequence[str], key: Ed25519PrivateKey) -> list[str]:
    """Return the signatures of the records with the hashes `hashes`, in the same order."""
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
        pass  # if no other thread can start, this thread signs all records
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

#: The largest length in bytes of a record that closes a file, including its newline.
_CLOSING_BYTES = 1024
#: If the body of a record (its event and data) has at least this many characters, the record gets
#: its own signature.
_LONG_BODY_CHARS = MAX_LINE_BYTES // 2


class AuditLog:
    """Appends records to the log. Several processes and threads may append to one log at once."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], datetime],
        lock_wait_s: float = LOCK_WAIT_S,
        max_bytes: int | None = None,
    ) -> None:
        """Prepare appending; the first append reads or creates the files.

        `clock` returns times with a time zone.

        If a file of the log has reached `max_bytes`, it is closed before the next append.
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
        """Record `events` as one signed batch; with `durable`, the batch survives a power failure.

        With `sign_each` every record has a signature, so that a record can be given to others
        without the records after it.

        An event that is too large for one line becomes several records (`parts`).

        The first append creates the key and the genesis record. If an earlier append was killed,
        the log is repaired first, and the repair is recorded.

        Raises:
            AuditError: the log cannot be written, or its end is broken; no event was recorded.
            ValueError, TypeError: the name of an event is not allowed, or its data is not JSON.
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
        """Close the current file of the log, and begin the next file; return the closed file.

        The result is None if the current file has no record of an event yet.

        Raises:
            AuditError: the file cannot be closed, or no log exists yet.
            UsageError: the file system has no hard links.
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
        """Open and lock the current file of the log; create it if it is missing."""
        while True:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(path, flags, 0o600)
            try:
                lock(fd, self._lock_wait_s)
                if is_current(fd, path):
                    return fd
            except FileNotFoundError:
                pass  # the file was moved away meanwhile
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # another process has closed this file meanwhile, and begun the next file

    def _is_full(self, fd: int) -> bool:
        """Return whether the next record must be written to a new file."""
        size = os.fstat(fd).st_size
        if self._max_bytes is not None and size >= self._max_bytes:
            tail = read_tail(fd, size)
            return tail.last is not None and tail.last.event != SEGMENT
        # A process may have been killed after it had closed the file and before it began the next.
        # The last line of a closed file is short and contains the event `CLOSED`, so it is enough
        # to read the end of the file.
        end = os.pread(fd, _CLOSING_BYTES, max(0, size - _CLOSING_BYTES))
        if f'"event":"{CLOSED}"'.encode() not in end:
            return False
        last = read_tail(fd, size).last
        return last is not None and last.event == CLOSED

    def _next(self, fd: int) -> int:
        """Close the file open as `fd`, and return the next file.

        Return `fd` if closing is not possible.
        """
        try:
            _, new = self._rotate(fd)
        except (NoLinksError, OSError, AuditError) as error:
            last = read_tail(fd, os.fstat(fd).st_size).last
            if last is None or last.event != CLOSED:
                return fd  # the file was not closed, so the log continues in this file
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
        """Close the file open as `fd`; return the closed file, and the next file, open and locked.

        Raises:
            NoLinksError, AuditError, OSError: `rotation.rotate` has failed.
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
        # a signal also undoes the append, because a failed append must not be recorded
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, end)
            raise
        self._publish(key, log_is_new=end == 0)

    def _key(self, *, log_is_new: bool) -> Ed25519PrivateKey:
        """Load the key of the log, or create it for a new log.

        The caller must have the lock of the log.
        """
        path = self._directory / AUDIT_KEY_NAME
        # `key.pub` is written after the genesis record is on the disk, so `key.pub` proves that a
        # log existed.
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
        """Write `key.pub` after the genesis record is on the disk, unless `key.pub` exists."""
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
    """Return the lines of a batch after the record number `seq`, whose hash is `prev`.

    The last record of a batch is signed and covers the other records; the genesis record is a batch
    of its own. A very long record is signed as well, because a record that repairs an unsigned
    record contains a copy of it, and would be too long.

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

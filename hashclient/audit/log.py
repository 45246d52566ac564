"""The audit log: a hash-chained, signed, append-only record of what this installation did.

One JSON object a line in `log.jsonl`, next to the Ed25519 key that signs it (`key.pem`, private;
`key.pub`). Every record's hash covers the record before it, and the last record of every append is
signed, so an edit, a removal or an insertion anywhere is found by `verify`. `record` knows the
bytes of a record, `file` the files. Whoever owns the key can write a new log: that, and a tail
cut off, only show against a checkpoint kept elsewhere. What goes in is the callers' choice and
duty: never a digest of a list, never a credential.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hashclient.audit.file import (
    HINT_GONE,
    LOCK_WAIT_S,
    audit_errors,
    load_key,
    load_public_key,
    lock,
    open_log,
    read_tail,
    records,
    records_backward,
)
from hashclient.audit.record import (
    EVENT_PATTERN,
    FORMAT,
    GENESIS,
    NO_HASH,
    RECOVERED,
    Checkpoint,
    Event,
    Identity,
    Record,
    broken,
    chain_record,
    encode_body,
    encode_checkpoint,
    finish_record,
    format_time,
    parse_checkpoint,
    parse_genesis,
    verify_signature,
)
from hashclient.audit.signing import sign_all
from hashclient.errors import AuditError
from hashclient.system import files
from hashclient.system.files import write_all
from hashclient.system.layout import AUDIT_KEY_NAME, AUDIT_PUBLIC_KEY_NAME, LOG_NAME
from hashclient.system.text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "AuditLog",
    "Event",
    "Record",
    "Report",
    "checkpoint",
    "read",
    "verify",
]

_HINT_CRASH = "a killed command leaves this; the next one that writes to the log repairs it"


class Report(msgspec.Struct, frozen=True):
    """What `verify` found; `seq` and `hash` are the last record's, `public_key` is hexadecimal."""

    records: int
    first_time: datetime
    last_time: datetime
    seq: int
    hash: str
    log_id: str
    public_key: str


class AuditLog:
    """The writer. Any number of processes and threads may append to one log at once."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], datetime],
        lock_wait_s: float = LOCK_WAIT_S,
    ) -> None:
        """Nothing is read or made before the first append; `clock` gives aware times."""
        self._directory = directory
        self._clock = clock
        self._lock_wait_s = lock_wait_s

    def append(
        self, events: Sequence[Event], *, durable: bool = False, sign_each: bool = False
    ) -> None:
        """Record `events` as one signed batch; with `durable`, so that power may fail afterwards.

        With `sign_each` every record has a signature of its own, so that it can be handed over
        without those after it.

        The first append makes the key and the genesis record. What a killed append has left is
        repaired before, and the repair is recorded.

        Raises:
            AuditError: the log cannot be written or its end is broken; nothing was recorded.
            ValueError, TypeError: an event has a name that is not allowed, or data that is no JSON.
        """
        if not events:
            return
        for event in events:
            if event.event in (GENESIS, RECOVERED) or not EVENT_PATTERN.fullmatch(event.event):
                raise ValueError(f"not a name for an event: {event.event}")
        bodies = [encode_body(event.event, event.data) for event in events]
        path = self._directory / LOG_NAME
        with audit_errors("cannot write the audit log", path):
            files.make_private_dir(self._directory)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(path, flags, 0o600)
            try:
                lock(fd, self._lock_wait_s)
                self._append_locked(fd, bodies, durable=durable, sign_each=sign_each)
            finally:
                os.close(fd)

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
            identity = {"log_id": secrets.token_hex(16), "public_key": public_key}
            bodies.insert(0, encode_body(GENESIS, {"format": FORMAT, **identity}))
        else:
            verify_signature(tail.signed, public_key, "its last signed line")
            seq, prev = tail.last.seq, tail.last.hash
        now = format_time(self._clock())
        heads, hashes, signed = [], [], []
        for left, body in zip(range(len(bodies) - 1, -1, -1), bodies, strict=True):
            seq += 1
            # The last record of a batch is signed and covers the others; genesis stands alone.
            signed.append(sign_each or seq == 1 or not left)
            head, prev = chain_record(seq, now, body, prev, signed=signed[-1])
            heads.append(head)
            hashes.append(prev)
        signatures = iter(
            sign_all([h for h, is_signed in zip(hashes, signed, strict=True) if is_signed], key)
        )
        lines = [
            finish_record(head, record_hash, next(signatures) if is_signed else None)
            for head, record_hash, is_signed in zip(heads, hashes, signed, strict=True)
        ]
        if tail.torn_bytes:
            os.ftruncate(fd, end)
        try:
            write_all(fd, b"".join(lines))
            if durable or end == 0:
                os.fsync(fd)
        except BaseException:  # a signal's too: what the caller does not know of is not recorded
            with contextlib.suppress(OSError):
                os.ftruncate(fd, end)
            raise
        self._publish(key, log_is_new=end == 0)

    def _key(self, *, log_is_new: bool) -> Ed25519PrivateKey:
        """Load the key, or make it for a new log. The lock is held."""
        path = self._directory / AUDIT_KEY_NAME
        # key.pub comes after a genesis record that is on the disk: where it is, there was a log.
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
        """Write key.pub unless it is there, once the genesis record is on the disk."""
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


def verify(
    directory: Path, checkpoint: bytes | None = None, public_key: bytes | None = None
) -> Report:
    """Check every record of the log in `directory`, in memory that does not grow with it.

    1. The checkpoint, when one is given, is well-formed and signed by the key it names.
    2. Each line is what the writer writes for its content, and its hash is right.
    3. The first record, and no other, is a genesis record, signed by the key it names. That key is
       `public_key` (32 bytes), or else `key.pub` where it exists, and the checkpoint's.
    4. Records count from 1, and each holds the hash of the one before.
    5. Each signature is right, and the last record has one.
    6. The record of the checkpoint is there, unaltered.

    Raises:
        AuditError: a check failed; the message names the first bad line.
        StateError: there is no log yet, and nothing says that there ever was.
    """
    expected = None if checkpoint is None else parse_checkpoint(checkpoint, trim=True)  # 1
    with open_log(directory, required=checkpoint is not None) as log:
        lines = records(log)  # 2
        last = next(lines, None)
        if last is None:
            broken("line 1", "not written to its end", _HINT_CRASH)
        genesis = last
        identity = parse_genesis(genesis, "line 1")  # 3
        key = public_key or load_public_key(directory)
        if key is not None and key.hex() != identity.public_key:
            broken("line 1", "the log is of another key than expected")
        if expected is not None and expected.identity != identity:
            broken("line 1", "the log is not the one of the checkpoint")
        seq, prev = 0, NO_HASH
        for last in itertools.chain((genesis,), lines):
            seq += 1
            where = f"line {seq}"
            if last.event == GENESIS and last is not genesis:  # 3
                broken(where, "a second genesis record")
            if last.seq != seq:  # 4
                broken(where, "wrong seq")
            if last.prev != prev:
                broken(where, "wrong prev: a record before it was altered, removed or put in")
            prev = last.hash
            if last.sig is not None:  # 5
                verify_signature(last, identity.public_key, where)
            if expected is not None and expected.seq == seq:  # 6
                if (last.hash, format_time(last.time)) != (expected.hash, expected.time):
                    broken(where, "not the record of the checkpoint")
    if expected is not None and seq < expected.seq:  # 6
        broken(f"line {expected.seq}", f"missing: the log ends at line {seq}")
    if log.torn_bytes:  # 2
        broken(f"line {seq + 1}", "not written to its end", _HINT_CRASH)
    if last.sig is None:  # 5
        broken(f"line {seq}", "the last record is not signed", _HINT_CRASH)
    return Report(
        seq, genesis.time, last.time, seq, last.hash, identity.log_id, identity.public_key
    )


def checkpoint(directory: Path) -> bytes:
    """Verify the log and return a signed statement of its head, to be kept somewhere else.

    Raises:
        AuditError: the log does not verify, or its key is not there.
        StateError: there is no log yet.
    """
    report = verify(directory)
    with open_log(directory) as log:
        # A checkpoint of records that a power loss takes away would accuse an honest log.
        os.fsync(log.stream.fileno())
    path = directory / AUDIT_KEY_NAME
    with audit_errors("cannot read the key of the audit log", path):
        key = load_key(path)
    if key.public_key().public_bytes_raw().hex() != report.public_key:
        where = printable(path)
        raise AuditError(f"not the key of this audit log: {where}", hint=HINT_GONE)
    identity = Identity(report.log_id, report.public_key)
    head = Checkpoint(identity, report.seq, report.hash, format_time(report.last_time))
    return encode_checkpoint(head, key)


def read(
    directory: Path,
    *,
    event: str | Collection[str] | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> Iterator[Record]:
    """Yield records in their order: those of `event`, not before `since`, the newest `limit`.

    Each line is checked by itself, the chain and the signatures are not: that is `verify`. With a
    limit only the end of the log is read. A last line that is not whole is no record.

    Raises:
        AuditError: the log cannot be read, or a line is broken.
        StateError: there is no log yet.
    """
    events = {event} if isinstance(event, str) else event

    def is_wanted(record: Record) -> bool:
        return (events is None or record.event in events) and (
            since is None or record.time >= since
        )

    with open_log(directory) as log:
        if limit is None:
            yield from filter(is_wanted, records(log))
        else:
            backward = records_backward(log.stream.fileno(), log.end)
            newest = list(itertools.islice(filter(is_wanted, backward), limit))
            yield from reversed(newest)

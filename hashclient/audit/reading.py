"""Reads records of the audit log, verifies that the log is intact, and makes checkpoints.

The log consists of one or several files; all files except the last are closed. If the first files
were archived, the first remaining file begins with a signed record that names the last archived
record. Reading needs a bounded amount of memory, however long the log is.

`chained` reads lines fast for programs that count records, and reports missing records. `chained`
checks the hash of each line, and that each line follows the line before it. `chained` does not
check signatures and spelling, which `verify` checks. `chained` also reads archived files in other
folders.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hashclient.audit.file import (
    HINT_GONE,
    Closed,
    Log,
    audit_errors,
    closed_files,
    first_record,
    lines,
    load_key,
    load_public_key,
    open_closed,
    open_log,
    read_tail,
    records,
    records_backward,
)
from hashclient.audit.record import (
    CLOSED,
    GENESIS,
    NO_HASH,
    SEGMENT,
    Checkpoint,
    Head,
    Identity,
    Record,
    broken,
    encode_checkpoint,
    format_time,
    line_hash,
    parse_checkpoint,
    parse_head,
    verify_signature,
)
from hashclient.core.errors import AuditError
from hashclient.core.model import Time
from hashclient.system.layout import AUDIT_KEY_NAME, CLOSED_LOG_NAME
from hashclient.system.text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_HINT_CRASH = "a killed command has left this; the next command that writes to the log repairs it"
_HINT_MISSING = (
    "restore the file from the archive; only the oldest files may be archived, never a file "
    "between others"
)


class Report(msgspec.Struct, frozen=True):
    """The result of `verify`.

    `seq` and `hash` describe the last record; `public_key` is hexadecimal.

    `records`: the number of records on this machine. `first_time`: the time of the first record on
    this machine. `first_segment`, `segment`: the numbers of the first and the last file of the log
    on this machine. `archived_seq`, `archived_hash`: the number and the hash of the last archived
    record; 0 and None if no record is archived. `is_closed`: whether the last file is closed,
    because the next file is missing or a process was killed before it began the next file.
    """

    records: int
    first_time: datetime
    last_time: datetime
    seq: int
    hash: str
    log_id: str
    public_key: str
    first_segment: int = 1
    segment: int = 1
    archived_seq: int = 0
    archived_hash: str | None = None
    is_closed: bool = False


def verify(
    directory: Path,
    checkpoint: bytes | None = None,
    public_key: bytes | None = None,
    *,
    others: Sequence[Checkpoint] = (),
) -> Report:
    """Verify every record of the log in `directory`, in a bounded amount of memory.

    1. The checkpoint, if given, is well-formed and signed by the key that it names. `others` are
       more checkpoints, which were parsed already.
    2. Each line has exactly the form that the writer uses for its content, and its hash is right.
    3. Only the first record of the log is a genesis record, and it is signed by the key that it
       names. The first record has the public key `public_key` (32 bytes), or otherwise the key in
       `key.pub` if the file exists; and the checkpoints have the same key as the first record.
    4. Records are numbered from 1, and each record contains the hash of the record before it.
    5. Each signature is right, and the last record is signed.
    6. The record of each checkpoint exists and is unaltered. If there are several checkpoints,
       checkpoints of archived records are skipped.
    7. If the log has several files, the last record of each file except the last closes the file,
       and the first record of each file except the first names the closing record of the file
       before. Only the first files of a log may be missing.

    Raises:
        AuditError: a rule is broken; the message names the first bad line.
        StateError: no log exists, and nothing shows that a log ever existed.
    """
    # Rule 1 of `verify`.
    given = () if checkpoint is None else (parse_checkpoint(checkpoint, trim=True),)
    expected = sorted((*given, *others), key=lambda one: one.seq)
    with open_log(directory, required=bool(expected)) as log:
        key = public_key or load_public_key(directory)
        check = _Check(expected, key)
        for number, part in _numbered(log):
            with open_closed(part) as closed:
                check.file(closed, number)
        check.file(log, None)
    check.end()
    if log.torn_bytes:  # rule 2 of `verify`
        broken(log.where(check.lines + 1), "not written to its end", _HINT_CRASH)
    if check.last.sig is None:  # rule 5 of `verify`
        broken(log.where(check.lines), "the last record is not signed", _HINT_CRASH)
    return check.report()


def _numbered(log: Log) -> Iterator[tuple[int, Closed]]:
    """Yield the closed files of a log, and refuse a missing file between them."""
    before = None
    for part in log.closed:
        if before is not None and part.number != before + 1:
            _missing(before + 1)
        before = part.number
        yield part.number, part


def _missing(number: int) -> None:
    broken(CLOSED_LOG_NAME.format(number), "it is missing", _HINT_MISSING)


class _Check:
    """A run of `verify`: what was verified so far, and which file and record should come next."""

    def __init__(self, expected: Sequence[Checkpoint], key: bytes | None) -> None:
        #: The checkpoints, in the order of their records.
        self._expected = expected
        self._by_seq: dict[int, list[Checkpoint]] = {}
        for one in expected:
            self._by_seq.setdefault(one.seq, []).append(one)
        self._key = key
        self._first: Head | None = None
        self._first_time: datetime | None = None
        self._number = 0
        self._count = 0
        self._seq, self._prev = 0, NO_HASH
        self.last: Record
        #: The number of lines of the file that was verified last.
        self.lines = 0

    def file(self, log: Log, number: int | None) -> None:
        """Verify a file, which should have the number `number`; None stands for the current file.

        Raises:
            AuditError: a rule is broken.
        """
        lines = records(log)  # rule 2 of `verify`
        first = next(lines, None)
        if first is None:
            broken(log.where(1), "not written to its end", _HINT_CRASH)
        head = parse_head(first, log.where(1))  # rules 3 and 7 of `verify`
        if self._first is None:
            self._begin(head, log.where(1))
            self._first_time = first.time
        elif head.genesis != self._first.genesis:
            broken(log.where(1), "the file belongs to another log")
        elif number is None and head.number > self._number + 1:
            _missing(self._number + 1)
        if head.number != (number or self._number + 1):
            broken(log.where(1), f"it is of file {head.number}")
        self._number, self.lines = head.number, 0
        is_over = False
        for record in itertools.chain((first,), lines):
            self.lines += 1
            where = log.where(self.lines)
            if record is not first and record.event in (GENESIS, SEGMENT):  # rule 3 of `verify`
                kind = "genesis record" if record.event == GENESIS else "beginning"
                broken(where, f"a second {kind}")
            if is_over:
                broken(where, "it follows the record that closes its file")
            is_over = record.event == CLOSED  # rule 7 of `verify`
            if is_over and (record.sig is None or record.data != {"segment": head.number}):
                broken(where, "it does not close its file")
            self._record(record, head.identity, where)
        if number is not None and not is_over:
            broken(log.where(self.lines), "its file is not closed: records are missing")

    def _begin(self, head: Head, where: str) -> None:
        """Verify the first file that is present."""
        if self._key is not None and self._key.hex() != head.identity.public_key:
            broken(where, "the log is signed with another key than expected")
        expected, before = self._expected, head.before
        if any(one.identity != head.identity for one in expected):
            broken(where, "the log is not the log of the checkpoint")
        self._first, self._number = head, head.number - 1
        if before is None:
            return
        self._seq, self._prev = before.seq, before.hash
        if expected and expected[-1].seq < before.seq:  # rule 6 of `verify`
            raise AuditError(
                f"the record of the checkpoint was archived: record {expected[-1].seq}",
                hint="restore the archived files, or verify a copy of all files together",
            )
        if any(one != before for one in self._by_seq.get(before.seq, ())):
            broken(where, "the archived files do not end with the record of the checkpoint")

    def _record(self, record: Record, identity: Identity, where: str) -> None:
        self._seq += 1
        if record.seq != self._seq:  # rule 4 of `verify`
            broken(where, "wrong seq")
        if record.prev != self._prev:
            broken(where, "wrong prev: an earlier record was changed, removed or inserted")
        self._prev = record.hash
        if record.sig is not None:  # rule 5 of `verify`
            verify_signature(record, identity.public_key, where)
        for expected in self._by_seq.get(record.seq, ()):  # rule 6 of `verify`
            if (record.hash, format_time(record.time)) != (expected.hash, expected.time):
                broken(where, "not the record of the checkpoint")
        self._count += 1
        self.last = record

    def end(self) -> None:
        """Check that the record of the last checkpoint was found.

        Raises:
            AuditError: the record of the checkpoint was not found.
        """
        last = self._expected[-1].seq if self._expected else 0
        if self._seq < last:  # rule 6 of `verify`
            broken(f"line {last}", f"missing: the log ends at line {self._seq}")

    def report(self) -> Report:
        """Return the result of `verify`."""
        assert self._first is not None and self._first_time is not None
        identity, before = self._first.identity, self._first.before
        return Report(
            self._count,
            self._first_time,
            self.last.time,
            self._seq,
            self.last.hash,
            identity.log_id,
            identity.public_key,
            self._first.number,
            self._number,
            0 if before is None else before.seq,
            None if before is None else before.hash,
            self.last.event == CLOSED,
        )


def checkpoint(directory: Path) -> bytes:
    """Verify the log and return a signed statement about its last record.

    Raises:
        AuditError: the verification fails, or the key of the log is missing.
        StateError: no log exists.
    """
    report = verify(directory)
    identity = Identity(report.log_id, report.public_key)
    head = Checkpoint(identity, report.seq, report.hash, format_time(report.last_time))
    with open_log(directory) as log:
        return _signed(head, directory, log)[0]


def identity_of(directory: Path) -> Identity:
    """Return the identity of a log, from its first record.

    Raises:
        AuditError: no log exists, or its first record is broken.
    """
    with open_log(directory, required=True) as log:
        return _identity(log)


def _identity(log: Log) -> Identity:
    return parse_head(first_record(log.stream.fileno()), log.where(1)).identity


def head_checkpoint(directory: Path) -> tuple[bytes, Ed25519PrivateKey]:
    """Return a checkpoint of the last signed record, and the key of the log.

    The records before the last signed record are not verified, so `head_checkpoint` is quick even
    for a long log.

    Raises:
        AuditError: the end of the log is broken, or the key of the log is missing.
        StateError: no log exists yet.
    """
    with open_log(directory) as log:
        fd = log.stream.fileno()
        last = read_tail(fd, log.end).signed
        if last is None:
            broken("line 1", "it is not signed")
        identity = _identity(log)
        verify_signature(last, identity.public_key, "its last signed line")
        head = Checkpoint(identity, last.seq, last.hash, format_time(last.time))
        return _signed(head, directory, log)


def _signed(head: Checkpoint, directory: Path, log: Log) -> tuple[bytes, Ed25519PrivateKey]:
    # The log is first synced to the disk (fsync). If a power loss removed records that the
    # checkpoint covers, a later verification would take the log for forged.
    os.fsync(log.stream.fileno())
    path = directory / AUDIT_KEY_NAME
    with audit_errors("cannot read the key of the audit log", path):
        key = load_key(path)
    if key.public_key().public_bytes_raw().hex() != head.identity.public_key:
        where = printable(path)
        raise AuditError(f"not the key of this audit log: {where}", hint=HINT_GONE)
    return encode_checkpoint(head, key), key


def newest(directory: Path, since: datetime, most: int) -> Iterator[Record]:
    """Yield the newest records from `since` on, at most `most`, the last record first.

    Raises:
        AuditError: the log cannot be read, or a line is broken.
        StateError: no log exists yet.
    """
    with open_log(directory) as log:
        records_of = itertools.islice(_newest(log), most)
        yield from itertools.takewhile(lambda record: record.time >= since, records_of)


def read(
    directory: Path,
    *,
    event: str | Collection[str] | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> Iterator[Record]:
    """Yield records in order: the newest `limit` records with an event of `event`, from `since` on.

    Each line is checked by itself; `verify` checks the chain and the signatures. With `limit`, only
    the end of the log is read. A last line without a newline is ignored. Archived records are not
    yielded.

    Raises:
        AuditError: the log cannot be read, or a line is broken.
        StateError: no log exists yet.
    """
    events = {event} if isinstance(event, str) else event

    def is_wanted(record: Record) -> bool:
        return (events is None or record.event in events) and (
            since is None or record.time >= since
        )

    with open_log(directory) as log:
        if limit is None:
            yield from filter(is_wanted, _each(log.closed, records))
            yield from filter(is_wanted, records(log))
        else:
            yield from reversed(list(itertools.islice(filter(is_wanted, _newest(log)), limit)))


def _newest(log: Log) -> Iterator[Record]:
    """Yield all records, the last record first."""
    return itertools.chain(_backward(log), _each(tuple(reversed(log.closed)), _backward))


def read_backward(directory: Path) -> Iterator[Record]:
    """Yield all records, the newest first; each line is checked by itself, as in `read`.

    Raises:
        AuditError, StateError: the log cannot be read, as in `read`.
    """
    with open_log(directory) as log:
        yield from _newest(log)


def _each(
    parts: Collection[Closed], read_one: Callable[[Log], Iterator[Record]]
) -> Iterator[Record]:
    for part in parts:
        with open_closed(part) as closed:
            yield from read_one(closed)


def _backward(log: Log) -> Iterator[Record]:
    return records_backward(log.stream.fileno(), log.end)


class Line(msgspec.Struct, frozen=True, gc=False):
    """A record whose data is undecoded JSON."""

    seq: int
    time: Time
    event: str
    data: msgspec.Raw
    prev: str
    hash: str
    sig: str | None = None


class Gap(msgspec.Struct, frozen=True):
    """Missing records: their first and last number, and the time of the record after them."""

    first: int
    last: int
    until: datetime


_decode = msgspec.json.Decoder(Line).decode


def chained(directory: Path, archives: Sequence[Path] = ()) -> Iterator[Line | Gap]:
    """Yield the records of a log in order, and a `Gap` wherever records are missing.

    `archives`: more folders with closed files of the log.

    Raises:
        AuditError: a file cannot be read, a hash is wrong, or a line does not follow the line
            before it. StateError: no log exists yet.
    """
    with ExitStack() as stack:
        log = stack.enter_context(open_log(directory))
        parts = {part.number: part for part in log.closed}
        for archive in archives:
            with audit_errors("cannot read the archived files", archive):
                parts |= {part.number: part for part in closed_files(archive, None)}
        chain = _Chain()
        for _, part in sorted(parts.items()):
            with open_closed(part) as closed:
                yield from chain.of(closed)
        yield from chain.of(log)


class _Chain:
    """Follows the chain of records from file to file."""

    def __init__(self) -> None:
        self._seq = 0
        self._hash: str | None = None

    def of(self, log: Log) -> Iterator[Line | Gap]:
        """Yield the records of a file, which follows the files that were given before."""
        seq, before = self._seq, self._hash
        for number, text in lines(log):
            try:
                line = _decode(text)
            # json raises RecursionError for values that are nested very deeply
            except (ValueError, RecursionError):
                broken(log.where(number), "no record")
            if line.hash != line_hash(text, signed=line.sig is not None):
                broken(log.where(number), "wrong hash")
            if line.seq != seq + 1 and number == 1 and line.event == SEGMENT and line.seq > seq:
                yield Gap(seq + 1, line.seq - 1, line.time)
            elif line.seq != seq + 1 or (before is not None and line.prev != before):
                broken(log.where(number), "not the record that follows the record before")
            seq, before = line.seq, line.hash
            yield line
        self._seq, self._hash = seq, before

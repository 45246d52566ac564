"""The chain of custody: the records of the audit log that concern one report, and their check.

Records are handed over line by line as they stand in the log, each with its hash and a signature
of its own, so whoever gets them needs neither the log nor this machine. A record without one is
covered by a later record, which is about other matches; so a copy of it is logged and signed, and
handed over. The last one is the record that the report was packaged; it names the hash of every
file of the package and of the lines before it, so one signature of the audit key covers all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from hashclient.audit.log import Event, read
from hashclient.audit.record import (
    GENESIS,
    SEGMENT,
    BrokenRecordError,
    Checkpoint,
    Identity,
    Record,
    broken,
    parse_checkpoint,
    parse_genesis,
    parse_head,
    parse_record,
    verify_signature,
)
from hashclient.errors import AuditError, VerificationError
from hashclient.session import Session
from hashclient.system.strictjson import parse_json

#: The event whose record binds a package, and the one that takes a report back.
PACKAGED = "report-packaged"
RETRACTED = "report-retracted"
#: The event of a signed copy of one earlier record, whole, in `record` of its data.
COPIED = "record-signed"
#: So many copies are logged at once, which bounds the memory that they take.
COPIES_AT_ONCE = 512

NOTE_FORMAT = "hashclient-retraction/1"


class Custody(msgspec.Struct, frozen=True):
    """A verified chain of custody: whose log it is, its last record, how many there are."""

    identity: Identity
    last: Record
    records: int


def collect(audit_dir: Path, ids: Collection[str], copied: Collection[str] = ()) -> list[bytes]:
    """Return the genesis record and all that name one of `ids`, as lines without newlines.

    A record without a signature is left out if its hash is in `copied`: the log has a signed copy
    of it. Else all records up to the next signature follow it, which covers them. What was archived
    away is not among them, but the genesis record is: each file of the log has it.

    Raises:
        AuditError: the log is broken.
        StateError: there is none.
    """
    wanted = frozenset(ids)
    lines: list[bytes] = []
    open_end = False
    for record in read(audit_dir):
        if not lines:
            lines.append(parse_head(record, "line 1").genesis.line)
        if record.event in (GENESIS, SEGMENT):
            continue
        if open_end or _names(record.data, wanted):
            if not open_end and record.sig is None and record.hash in copied:
                continue
            lines.append(record.line)
            open_end = record.sig is None
    return lines


def sign_copies(session: Session, ids: Collection[str]) -> set[str]:
    """Log a signed copy of each record that names one of `ids` and has no signature of its own.

    Returns the hashes of all records that the log has a copy of then, also from before.

    Such a record is copied only if the next signature in the log covers it: it is right, and the
    records between are joined to it by their hashes. After the last signature there is what a
    killed command has left; the append of the copies adopts it, as any other would.

    Raises:
        AuditError: the log is broken or cannot be written.
        StateError: there is none.
    """
    wanted = frozenset(ids)
    copied: set[str] = set()
    copies: dict[str, Record] = {}
    #: Of the records since the last signature, those that are wanted.
    waiting: list[Record] = []
    identity: Identity | None = None
    previous: Record | None = None
    for record in read(session.settings.layout.audit):
        if identity is None:
            identity = parse_head(record, "line 1").identity
        if previous is not None and previous.sig is None and record.prev != previous.hash:
            broken(f"record {record.seq}", "it does not follow the record before it")
        previous = record
        if record.event == COPIED and record.sig is not None:
            verify_signature(record, identity.public_key, f"record {record.seq}")
            copied.add(_hash_of_copy(record))
        elif record.sig is None and _names(record.data, wanted):
            waiting.append(record)
        if record.sig is not None and waiting:
            verify_signature(record, identity.public_key, f"record {record.seq}")
            copies.update((w.hash, w) for w in waiting)
            waiting.clear()
    copies.update((w.hash, w) for w in waiting)
    missing = [record for record_hash, record in copies.items() if record_hash not in copied]
    for start in range(0, len(missing), COPIES_AT_ONCE):
        part = missing[start : start + COPIES_AT_ONCE]
        events = [Event(COPIED, {"record": json.loads(record.line)}) for record in part]
        session.audit.append(events, durable=True, sign_each=True)
    return copied | copies.keys()


def _hash_of_copy(record: Record) -> str:
    """Return the hash of the record that `record` is a copy of; empty if it is none."""
    copy = record.data.get("record")
    return str(copy.get("hash", "")) if isinstance(copy, dict) else ""


def _names(value: Any, wanted: frozenset[str]) -> bool:
    """Tell whether one of `wanted` stands anywhere in JSON values."""
    if isinstance(value, str):
        return value in wanted
    if isinstance(value, dict):
        return any(_names(inner, wanted) for inner in value.values())
    return isinstance(value, list) and any(_names(inner, wanted) for inner in value)


def bind(
    session: Session,
    ids: Collection[str],
    data: Mapping[str, Any],
    files: Mapping[str, str],
) -> bytes:
    """Log that a report was packaged, and return its chain of custody, which ends with that record.

    `ids` are those of the report and of its matches, `data` says more of the report, `files` are
    the SHA-256 of the files of the package, hexadecimal, by name.

    Raises:
        AuditError: the log is broken or cannot be written.
    """
    audit_dir = session.settings.layout.audit
    copied = sign_copies(session, ids)
    before = b"".join(line + b"\n" for line in collect(audit_dir, ids, copied))
    bound = {**data, "files": dict(files), "custody_sha256": hashlib.sha256(before).hexdigest()}
    archived = parse_head(next(read(audit_dir)), "line 1").before
    if archived is not None:  # what was recorded up to then is not in the chain
        bound["archived_seq"] = archived.seq
    session.audit.append([Event(PACKAGED, bound)], durable=True)
    for record in read(audit_dir, event=PACKAGED, limit=1):
        if record.data == bound:
            return before + record.line + b"\n"
    raise AuditError("another program logs packages at the same moment", hint="try again")


def verify_custody(text: bytes) -> Custody:
    """Check a chain of custody by itself.

    1. Each line is what the writer of the log writes for its content, and its hash is right.
    2. The first record, and no other, is a genesis record, signed by the key it names.
    3. Records come in their order in the log, none twice.
    4. Each signature is right, and a record without one is joined to the next by its hash. A copy
       is of a record before it, spelled as the log spells it, with the right hash.
    5. The last record says that a report was packaged, is signed, and names the hash of the lines
       before it, so that none of them is missing.

    Raises:
        VerificationError: a check failed.
    """
    lines = text.split(b"\n")
    if lines.pop() != b"" or not lines:
        raise VerificationError("chain of custody is cut short")
    try:
        return _verify(lines, text)
    except BrokenRecordError as error:
        raise VerificationError(
            f"the chain of custody does not verify: {error.where}: {error.reason}"
        ) from error


def _verify(lines: list[bytes], text: bytes) -> Custody:
    last = parse_record(lines[0], "line 1")  # 1
    identity = parse_genesis(last, "line 1")  # 2
    for number, line in enumerate(lines[1:], 2):
        previous, last = last, parse_record(line, f"line {number}")  # 1
        _verify_next(previous, last, identity, number)
    if last.event != PACKAGED or last.sig is None:  # 5
        raise VerificationError("chain of custody does not end with the record of a package")
    before = text[: len(text) - len(lines[-1]) - 1]
    if last.data.get("custody_sha256") != hashlib.sha256(before).hexdigest():
        raise VerificationError("chain of custody lacks lines, or has others")
    return Custody(identity, last, len(lines))


def _verify_next(previous: Record, record: Record, identity: Identity, number: int) -> None:
    where = f"chain of custody, line {number}"
    if record.event == GENESIS:
        raise VerificationError(f"{where}: a second genesis record")
    if record.seq <= previous.seq:  # 3
        raise VerificationError(f"{where}: out of order")
    if record.sig is not None:  # 4
        verify_signature(record, identity.public_key, f"line {number}")
    if previous.sig is None and record.prev != previous.hash:
        raise VerificationError(f"{where}: it does not follow the unsigned line before it")
    if record.event == COPIED:
        _verify_copy(record, number)


def _verify_copy(record: Record, number: int) -> None:
    where = f"line {number}"
    try:
        line = json.dumps(record.data["record"], separators=(",", ":")).encode("ascii")
    except (KeyError, ValueError, RecursionError):
        raise VerificationError(f"chain of custody, {where}: it holds no copy") from None
    if set(record.data) != {"record"} or parse_record(line, where).seq >= record.seq:
        raise VerificationError(f"chain of custody, {where}: it is no copy of an earlier record")


def verify_checkpoint(text: bytes, custody: Custody) -> Checkpoint:
    """Check that a checkpoint is of the same log and vouches for the last record of `custody`.

    Raises:
        VerificationError: it is not, or does not.
    """
    try:
        checkpoint = parse_checkpoint(text)
    except AuditError as error:
        raise VerificationError(error.message) from error
    if checkpoint.identity != custody.identity:
        raise VerificationError("the checkpoint is of another log than the chain of custody")
    if checkpoint.seq < custody.last.seq or (
        checkpoint.seq == custody.last.seq and checkpoint.hash != custody.last.hash
    ):
        raise VerificationError("the checkpoint does not vouch for the chain of custody")
    return checkpoint


def retraction_note(audit_dir: Path, report_id: str) -> bytes:
    """Return a document that says that a package is retracted: the records that say so, signed.

    Raises:
        AuditError: the log is broken.
        StateError: there is none.
    """
    records: list[Record] = []
    for record in read(audit_dir):
        if not records:
            records.append(parse_head(record, "line 1").genesis)
        if record.event in (PACKAGED, RETRACTED) and record.data.get("report") == report_id:
            records.append(record)
    document = {
        "format": NOTE_FORMAT,
        "report": report_id,
        "records": [json.loads(record.line) for record in records],
    }
    return _spelled(document)


def _spelled(note: Any) -> bytes:
    """Return the one spelling of a note."""
    return json.dumps(note, indent=1).encode() + b"\n"


def verify_note(text: bytes) -> tuple[Identity, Record]:
    """Check a retraction note; return whose log it is from and the record of the retraction.

    1. It is spelled as the writer spells it, byte for byte.
    2. Its records verify as those of a log do, and the first is the genesis record.
    3. The others are about this report, in their order in the log, and say that it was packaged,
       and in the end that it is retracted.

    Raises:
        VerificationError: it is not such a note, or something in it was changed.
    """
    try:
        document = parse_json(text)
        if _spelled(document) != text:  # 1
            raise VerificationError("the note is not in canonical form")
        report_id, values = document["report"], document["records"]
        lines = [json.dumps(v, separators=(",", ":")).encode("ascii") for v in values]
        records = [parse_record(line, f"record {n}") for n, line in enumerate(lines, 1)]  # 2
        identity = parse_genesis(records[0], "record 1")
        for number, record in enumerate(records[1:], 2):
            verify_signature(record, identity.public_key, f"record {number}")
    except BrokenRecordError as error:
        raise VerificationError(
            f"the retraction does not verify: {error.where}: {error.reason}"
        ) from error
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise VerificationError(f"not a document of the format {NOTE_FORMAT}") from error
    last = records[-1]
    if (  # 3
        set(document) != {"format", "report", "records"}
        or document["format"] != NOTE_FORMAT
        or last.event != RETRACTED
        or any(r.event not in (PACKAGED, RETRACTED) for r in records[1:])
        or any(r.data.get("report") != report_id for r in records[1:])
        or any(after.seq <= before.seq for before, after in pairwise(records))
    ):
        raise VerificationError("the note does not say that the report is retracted")
    return identity, last

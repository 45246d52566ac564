"""The chain of custody of a report: its records of the audit log, and their verification.

Records are handed over line by line as they stand in the log, each with its hash and its own
signature, so the recipient needs neither the log nor this machine. A record without a signature is
covered by a later record about other matches; so a copy of the record is logged and signed, and the
copy is handed over. The last record says that the report was packaged. It has the hash of every
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

#: The event of the record that binds a package, and the event of a retraction.
PACKAGED = "report-packaged"
RETRACTED = "report-retracted"
#: The event of a signed copy; `record` of its data holds one whole earlier record.
COPIED = "record-signed"
#: How many copies are logged at once; this bounds memory.
COPIES_AT_ONCE = 512

NOTE_FORMAT = "hashclient-retraction/1"


class Custody(msgspec.Struct, frozen=True):
    """A verified chain of custody: the identity of the log, the last record, their number."""

    identity: Identity
    last: Record
    records: int


def collect(audit_dir: Path, ids: Collection[str], copied: Collection[str] = ()) -> list[bytes]:
    """Return the genesis record and all records with one of `ids`, as lines without newlines.

    A record without a signature is left out if its hash is in `copied`, since the log has a signed
    copy of it. Otherwise all records up to the next signature, which covers them, follow it.
    Archived records are left out, but not the genesis record, which each file of the log has.

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
    """Log a signed copy of each record that has one of `ids` and no signature.

    Returns the hashes of all records of which the log now has a copy, older copies included.

    A record is copied only if the next signature in the log covers it: the signature is right, and
    the hashes join the records in between. Records after the last signature come from a killed
    command; the append of the copies adopts them, as any append would.

    Raises:
        AuditError: the log is broken or cannot be written.
        StateError: there is none.
    """
    wanted = frozenset(ids)
    copied: set[str] = set()
    copies: dict[str, Record] = {}
    #: The wanted records since the last signature.
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
    """Return the hash of the record that `record` copies; empty if it is no copy."""
    copy = record.data.get("record")
    return str(copy.get("hash", "")) if isinstance(copy, dict) else ""


def _names(value: Any, wanted: frozenset[str]) -> bool:
    """Return whether one of `wanted` is anywhere in JSON values."""
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

    `ids` are the ids of the report and of its matches, `data` has further facts about the report,
    `files` has the SHA-256 of each file of the package, hexadecimal, by name.

    Raises:
        AuditError: the log is broken or cannot be written.
    """
    audit_dir = session.settings.layout.audit
    copied = sign_copies(session, ids)
    before = b"".join(line + b"\n" for line in collect(audit_dir, ids, copied))
    bound = {**data, "files": dict(files), "custody_sha256": hashlib.sha256(before).hexdigest()}
    archived = parse_head(next(read(audit_dir)), "line 1").before
    if archived is not None:  # records before that time are not in the chain
        bound["archived_seq"] = archived.seq
    session.audit.append([Event(PACKAGED, bound)], durable=True)
    for record in read(audit_dir, event=PACKAGED, limit=1):
        if record.data == bound:
            return before + record.line + b"\n"
    raise AuditError("another program logs packages at the same moment", hint="try again")


def verify_custody(text: bytes) -> Custody:
    """Verify a chain of custody by itself.

    1. Each line is spelled as the writer of the log spells its content, and its hash is right.
    2. The first record, and no other, is a genesis record, signed by the key it names.
    3. Records are in their order in the log, and none comes twice.
    4. Each signature is right, and a record without one is joined to the next by its hash. A copy
       holds an earlier record, spelled as the log spells it, with the right hash.
    5. The last record says that a report was packaged, is signed, and has the hash of the lines
       before it, so none of them is missing.

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
    """Verify that a checkpoint is of the same log and covers the last record of `custody`.

    Raises:
        VerificationError: it is of another log, or does not cover the record.
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
        raise VerificationError("the checkpoint does not cover the chain of custody")
    return checkpoint


def retraction_note(audit_dir: Path, report_id: str) -> bytes:
    """Return the note that a package is retracted: the signed records that say so.

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
    """Verify a retraction note; return the identity of its log and the record of the retraction.

    1. It is spelled as the writer spells it, byte for byte.
    2. Its records verify like those of a log, and the first is the genesis record.
    3. The other records are about this report, in their order in the log; they say that it was
       packaged and, in the end, that it is retracted.

    Raises:
        VerificationError: the document is no such note, or was changed.
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

"""The chain of custody of a report: records of the audit log, verified by `packages.chain`.

The records are handed over exactly as they are in the audit log, each with its hash and its own
signature, so that the recipient can verify them without the audit log and without this machine. A
record without a signature is only covered by the signature of a later record, perhaps about other
matches. Instead of a record without a signature, a signed copy of the record is written to the
audit log and handed over. The last record of the chain says that the report was packaged. The last
record of the chain contains the hash of every file of the package and the hash of the earlier lines
of the chain, so one signature of the audit key covers the whole package.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hashclient.audit.log import Event, read
from hashclient.audit.record import (
    GENESIS,
    SEGMENT,
    Identity,
    Record,
    broken,
    parse_head,
    verify_signature,
)
from hashclient.core.errors import AuditError
from hashclient.packages.chain import (
    ANSWERED,
    COPIED,
    DESTRUCTION,
    PACKAGED,
    PURGED,
    RETRACTED,
    RETRACTION,
    spelled_note,
)
from hashclient.session import Session

#: The number of copies that are logged at once, which limits the use of memory.
COPIES_AT_ONCE = 512


def collect(audit_dir: Path, ids: Collection[str], copied: Collection[str] = ()) -> list[bytes]:
    """Return the genesis record and all records that contain one of `ids`, as lines.

    A record without a signature is left out if its hash is in `copied`, because the audit log
    contains a signed copy of it. If no signed copy of an unsigned record exists, all records up to
    the next signature are returned, too, because this signature covers the unsigned record.
    Archived records are not returned, except for the genesis record, which each file of the audit
    log contains.

    Raises:
        AuditError: the audit log is broken.
        StateError: no audit log exists.
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
    """Log a signed copy of each unsigned record that contains one of `ids`.

    Return the hashes of all records that now have a signed copy in the audit log.

    A record is copied only if the next signature in the audit log covers it, that is, if this
    signature is right and the hashes chain the records in between. Records after the last signature
    in the log were written by a killed command. Records after the last signature are copied as
    well, because the next signature of the audit log will cover them.

    Raises:
        AuditError: the audit log is broken or cannot be written.
        StateError: no audit log exists.
    """
    wanted = frozenset(ids)
    copied: set[str] = set()
    copies: dict[str, Record] = {}
    #: The unsigned records since the last signature that contain one of `ids`.
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
    """If `record` is a copy of another record, return the hash of the other record; else empty."""
    copy = record.data.get("record")
    return str(copy.get("hash", "")) if isinstance(copy, dict) else ""


def _names(value: Any, wanted: frozenset[str]) -> bool:
    """Return whether a JSON value contains one of the texts `wanted` at any depth."""
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
    """Log that a report was packaged; return the chain of custody, which ends with this record.

    `ids` are the ids of the report and of its matches. `data` are further facts about the report.
    `files` is the SHA-256 of each file of the package, hexadecimal, by file name.

    Raises:
        AuditError: the audit log is broken or cannot be written.
    """
    audit_dir = session.settings.layout.audit
    copied = sign_copies(session, ids)
    before = b"".join(line + b"\n" for line in collect(audit_dir, ids, copied))
    bound = {**data, "files": dict(files), "custody_sha256": hashlib.sha256(before).hexdigest()}
    archived = parse_head(next(read(audit_dir)), "line 1").before
    if archived is not None:  # the chain does not contain the archived records
        bound["archived_seq"] = archived.seq
    session.audit.append([Event(PACKAGED, bound)], durable=True)
    for record in read(audit_dir, event=PACKAGED, limit=1):
        if record.data == bound:
            return before + record.line + b"\n"
    raise AuditError("another program logs packages at the same moment", hint="try again")


def retraction_note(audit_dir: Path, report_id: str) -> bytes:
    """Return a note that a package was retracted, made of signed records of the audit log.

    Raises:
        AuditError: the audit log is broken.
        StateError: no audit log exists.
    """
    note = _note(audit_dir, RETRACTION, report_id, (PACKAGED, RETRACTED))
    assert note is not None
    return note


def destruction_note(audit_dir: Path, report_id: str) -> bytes | None:
    """Return the signed note that sealed files were destroyed at a recipient's request, or None.

    A file that was destroyed before the request, or whose request was archived, is left out.

    Raises:
        AuditError: the audit log is broken.
        StateError: no audit log exists.
    """
    return _note(audit_dir, DESTRUCTION, report_id, (PACKAGED, ANSWERED))


def _note(
    audit_dir: Path, note_format: str, report_id: str, events: Collection[str]
) -> bytes | None:
    records: list[Record] = []
    ordered = set[str]()
    destroyed: list[str] = []
    for record in read(audit_dir):
        if not records:
            records.append(parse_head(record, "line 1").genesis)
        if record.event in events and record.data.get("report") == report_id:
            records.append(record)
            for asked in record.data.get("requests", ()):
                if asked["request"] == "destroy":
                    ordered.update(asked["matches"])
        elif record.event == PURGED and record.data.get("id") in ordered:
            records.append(record)
            destroyed.append(record.data["id"])
    while records and note_format == DESTRUCTION and records[-1].event != PURGED:
        records.pop()
    if not records:
        return None
    named = {"matches": destroyed} if note_format == DESTRUCTION else {}
    lines = [json.loads(record.line) for record in records]
    return spelled_note({"format": note_format, "report": report_id, **named, "records": lines})

"""The chain of custody of a report: its records of the audit log. `packages.chain` verifies it.

Records are handed over line by line, exactly as in the log, each with its hash and its own
signature. So the recipient needs neither the log nor this machine. If a record has no signature,
only a later record about other matches covers it. So a copy of the record is logged and signed, and
the copy is handed over. The last record says that the report was packaged. The last record has the
hash of every file of the package and the hash of the earlier lines, so one signature of the audit
key covers the whole package.
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

#: How many copies are logged at once; this bounds memory.
COPIES_AT_ONCE = 512


def collect(audit_dir: Path, ids: Collection[str], copied: Collection[str] = ()) -> list[bytes]:
    """Return the genesis record and all records with one of `ids`, as lines without newlines.

    A record without a signature is left out if its hash is in `copied`: the log has a signed copy.
    Otherwise, all records up to the next signature, which covers this record, follow it. Archived
    records are left out, but not the genesis record, which each file of the log has.

    Raises:
        AuditError: the log is broken.
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
    """Log a signed copy of each unsigned record with one of `ids`.

    Returns the hashes of all records that have a copy in the log now, including older copies.

    A record is copied only if the next signature in the log covers it: the signature is right, and
    the hashes join the records in between. Records after the last signature come from a killed
    command; the append of the copies adopts them, as any append would.

    Raises:
        AuditError: the log is broken or cannot be written.
        StateError: no audit log exists.
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
    """Return whether JSON values contain one of `wanted` anywhere."""
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
    """Log that a report was packaged; return its chain of custody, which ends with this record.

    `ids` are the ids of the report and of its matches, `data` has further facts about the report,
    and `files` has the SHA-256 of each file of the package, hexadecimal, by name.

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


def retraction_note(audit_dir: Path, report_id: str) -> bytes:
    """Return the note that a package is retracted: the signed records about the retraction.

    Raises:
        AuditError: the log is broken.
        StateError: no audit log exists.
    """
    note = _note(audit_dir, RETRACTION, report_id, (PACKAGED, RETRACTED), None)
    assert note is not None
    return note


def destruction_note(audit_dir: Path, report_id: str, matches: Collection[str]) -> bytes | None:
    """Return the note that sealed files were destroyed at the body's request, or None.

    The body asked to destroy the files of `matches`.

    Raises:
        AuditError: the log is broken.
        StateError: no audit log exists.
    """
    return _note(audit_dir, DESTRUCTION, report_id, (PACKAGED, ANSWERED), frozenset(matches))


def _note(
    audit_dir: Path,
    note_format: str,
    report_id: str,
    events: Collection[str],
    matches: frozenset[str] | None,
) -> bytes | None:
    records: list[Record] = []
    destroyed: list[str] = []
    for record in read(audit_dir):
        if not records:
            records.append(parse_head(record, "line 1").genesis)
        if record.event in events and record.data.get("report") == report_id:
            records.append(record)
        elif matches and record.event == PURGED and record.data.get("id") in matches:
            records.append(record)
            destroyed.append(record.data["id"])
    while records and matches is not None and records[-1].event != PURGED:
        records.pop()
    if not records:
        return None
    named = {} if matches is None else {"matches": destroyed}
    lines = [json.loads(record.line) for record in records]
    return spelled_note({"format": note_format, "report": report_id, **named, "records": lines})

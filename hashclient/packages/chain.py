"""The rules that verify a chain of custody, its checkpoint, and notes of later events.

`reporting.custody` makes chains of custody and notes. The functions of this module verify bytes
only, because recipients have neither the log nor the machine of the log.
"""

from __future__ import annotations

import hashlib
import io
import json
from itertools import pairwise
from typing import Any

import msgspec

from hashclient.audit.record import (
    GENESIS,
    BrokenRecordError,
    Checkpoint,
    Identity,
    Record,
    parse_checkpoint,
    parse_genesis,
    parse_record,
    verify_signature,
)
from hashclient.core.errors import AuditError, VerificationError
from hashclient.packages.document import MatchId, ReportId
from hashclient.system.strictjson import parse_json

#: The event of the record that has the hashes of a package, and the event of a retraction.
PACKAGED = "report-packaged"
RETRACTED = "report-retracted"
#: The event of a signed copy; `record` in its data is a whole earlier record.
COPIED = "record-signed"

#: The events of an organisation's answer, and of the destruction of a sealed file.
ANSWERED = "report-answered"
PURGED = "purged"

#: For each format of a note, the event to which the note refers. A note of destruction names the
#: matches whose files were destroyed.
RETRACTION = "hashclient-retraction/1"
DESTRUCTION = "hashclient-destruction/1"
_ABOUT = {RETRACTION: RETRACTED, DESTRUCTION: PURGED}


class Custody(msgspec.Struct, frozen=True):
    """A verified chain of custody: identity of its log, last record, and number of records."""

    identity: Identity
    last: Record
    records: int


def verify_custody(text: bytes) -> Custody:
    """Verify a chain of custody without other documents.

    1. Each line has the form in which the log writes its content, and the hash in the line is
       right.
    2. Only the first record is a genesis record, and it is signed by the key that it names.
    3. The records have the order of the log, and no record occurs twice.
    4. Each signature is right, and a record without a signature is followed by the record that
       contains its hash. A copy contains an earlier record in the form in which the log writes it,
       with the right hash.
    5. The last record says that a report was packaged. The last record is signed and has the hash
       of all lines before it, so no line is missing.

    Raises:
        VerificationError: a rule is broken.
    """
    if not text.endswith(b"\n"):
        raise VerificationError("chain of custody is cut short")
    try:
        return _verify(text)
    except BrokenRecordError as error:
        raise VerificationError(
            f"the chain of custody does not verify: {error.where}: {error.reason}"
        ) from error


def _verify(text: bytes) -> Custody:
    # The lines are parsed one by one, because a list of short lines would need many times the
    # memory of the text.
    lines = io.BytesIO(text)
    line, number = next(lines), 1
    last = parse_record(line[:-1], "line 1")  # rule 1 of `verify_custody`
    identity = parse_genesis(last, "line 1")  # rule 2 of `verify_custody`
    for line in lines:
        number += 1
        # Rule 1 of `verify_custody`.
        previous, last = last, parse_record(line[:-1], f"line {number}")
        _verify_next(previous, last, identity, number)
    if last.event != PACKAGED or last.sig is None:  # rule 5 of `verify_custody`
        raise VerificationError("chain of custody does not end with the record of a package")
    before = text[: len(text) - len(line)]
    if last.data.get("custody_sha256") != hashlib.sha256(before).hexdigest():
        raise VerificationError("chain of custody lacks lines, or has others")
    return Custody(identity, last, number)


def _verify_next(previous: Record, record: Record, identity: Identity, number: int) -> None:
    where = f"chain of custody, line {number}"
    if record.event == GENESIS:
        raise VerificationError(f"{where}: a second genesis record")
    if record.seq <= previous.seq:  # rule 3 of `verify_custody`
        raise VerificationError(f"{where}: out of order")
    if record.sig is not None:  # rule 4 of `verify_custody`
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
    """Verify that a checkpoint is of the log of `custody` and covers its last record.

    Raises:
        VerificationError: the checkpoint is of another log, or does not cover the last record.
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


def spelled_note(note: Any) -> bytes:
    """Return the bytes of a note in its canonical form."""
    return json.dumps(note, indent=1).encode() + b"\n"


class Note(msgspec.Struct, frozen=True):
    """A verified note: the report, the matches (of a destruction), the log, and the last record."""

    format: str
    report: str
    matches: tuple[str, ...]
    identity: Identity
    last: Record


def verify_note(text: bytes) -> Note:
    """Verify a note of retraction, or of the destruction of files.

    1. The note has, byte for byte, the form in which the writer writes it.
    2. The records of the note are valid like records of a log, and the first is the genesis record.
    3. The other records of a note are about its report, and in the order of the log. The records of
       the report say that it was packaged and, for a destruction, what the organisation has
       answered.
    4. The last records say that the report is retracted; or that exactly the sealed files of the
       matches in the note were destroyed, as the organisation has ordered.

    Raises:
        VerificationError: the document is not a note of retraction or destruction, or was changed.
    """
    try:
        document = parse_json(text)
        if spelled_note(document) != text:  # rule 1 of `verify_note`
            raise VerificationError("the note is not in canonical form")
        report_id = msgspec.convert(document["report"], ReportId)
        about, values = _ABOUT[document["format"]], document["records"]
        matches = msgspec.convert(document.get("matches", []), tuple[MatchId, ...])
        lines = [json.dumps(v, separators=(",", ":")).encode("ascii") for v in values]
        # Rule 2 of `verify_note`.
        records = [parse_record(line, f"record {n}") for n, line in enumerate(lines, 1)]
        identity = parse_genesis(records[0], "record 1")
        for number, record in enumerate(records[1:], 2):
            verify_signature(record, identity.public_key, f"record {number}")
        others, last = records[1:], records[-1]
        destroyed = tuple(r.data["id"] for r in others if r.event == PURGED)
        reports = [r for r in others if r.event != PURGED]
        requests = [q for r in reports if r.event == ANSWERED for q in r.data["requests"]]
        ordered = {m for q in requests if q["request"] == "destroy" for m in q["matches"]}
    except BrokenRecordError as error:
        raise VerificationError(
            f"the note does not verify: {error.where}: {error.reason}"
        ) from error
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise VerificationError(f"not a document of the formats {' and '.join(_ABOUT)}") from error
    allowed = {PACKAGED, RETRACTED} if about == RETRACTED else {PACKAGED, ANSWERED, PURGED}
    keys = {"format", "report", "records"} | ({"matches"} if about == PURGED else set())
    if (
        set(document) != keys
        or any(r.event not in allowed for r in others)  # rule 3 of `verify_note`
        or any(r.data.get("report") != report_id for r in reports)
        or any(after.seq <= before.seq for before, after in pairwise(records))
        or last.event != about  # rule 4 of `verify_note`
        or matches != destroyed
        or not ordered.issuperset(matches)
    ):
        raise VerificationError(
            "the note does not say that the report is retracted, or its files destroyed"
        )
    return Note(document["format"], report_id, matches, identity, last)

"""Records and checkpoints of the audit log as values and bytes, with hashes and signatures.

This module uses no files, no clock and no keys of its own; `file` and `log` do the I/O. Each record
    must equal, byte for byte, what the writer would write for its content; every other form is
    invalid. `docs/audit-log.md` specifies the format of the log for other programs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from hashclient.core.errors import AuditError
from hashclient.system.versions import is_newer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT = "hashclient-audit/1"
CHECKPOINT_FORMAT = "hashclient-audit-checkpoint/1"
SEGMENT_FORMAT = "hashclient-audit-segment/1"

#: The largest length of a line including its newline, which bounds the memory of a reader.
MAX_LINE_BYTES = 1 << 20
MAX_CHECKPOINT_BYTES = 4096

#: The names of events that only the log itself records, and callers cannot record.
GENESIS = "genesis"
RECOVERED = "audit-recovered"
#: `SEGMENT`: the event of the first record of each file but the first. `CLOSED`: the event of the
#: last record of a closed file.
SEGMENT = "segment"
CLOSED = "segment-closed"
OWN_EVENTS = frozenset({GENESIS, RECOVERED, SEGMENT, CLOSED})
EVENT_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,63}")

#: The value of `prev` in the first record of a log.
NO_HASH = "0" * 64

# Each use of SHA-256 and Ed25519 has its own tag, so a value that was made for one use is not valid
# for another. The tag of a record says whether a signature follows, so removing a signature makes
# the hash wrong.
_TAG_UNSIGNED = b"hashclient audit record v1\n"
_TAG_SIGNED = b"hashclient audit signed record v1\n"
_TAG_SIGNATURE = b"hashclient audit signature v1\n"
_TAG_CHECKPOINT = b"hashclient audit checkpoint v1\n"

_KEYS = ("seq", "time", "event", "data", "prev", "hash")
_CHECKPOINT_KEYS = ("format", "log_id", "public_key", "seq", "hash", "time", "sig")
_HEX_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_HEX_KEY = r"[0-9a-f]{64}"
_HEX_ID = r"[0-9a-f]{32}"

_HINT_ALTERED = "the log was altered or the disk fails; keep a copy, see docs/audit-log.md"
_HINT_NEWER = "a newer hashclient has written this log; use that version"
_HINT_CHECKPOINT = "give a file made by `hashclient audit checkpoint`, whole and unchanged"
_CHECKPOINT = "checkpoint"

# The output is ASCII only, so that a log that is shown on a terminal cannot control the terminal.
_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
#: Encodes a single text as JSON.
_quote = json.encoder.encode_basestring_ascii


class Event(msgspec.Struct, frozen=True):
    """An event to record: its name and JSON values, without listed digests and credentials.

    Only the log itself records events with the names in `OWN_EVENTS`. Invalid Unicode in a text is
    stored as U+FFFD; `path_fields` encodes paths without loss.
    """

    event: str
    data: Mapping[str, Any]


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """An event whose data is JSON text already: `text` is exactly what `encode_body` would write.

    Encoding the data once saves time, because a scan can find a hundred thousand matches that
    differ little. The data must not contain lone surrogates.
    """

    event: str
    text: str

    @property
    def body(self) -> str:
        """The part of a line that does not depend on its place in the log."""
        return f'"event":"{self.event}","data":{self.text}'


class BrokenRecordError(AuditError):
    """A record differs from the record that the log's writer wrote.

    `where` names the record, and `reason` the fault.
    """

    def __init__(self, where: str, reason: str, hint: str) -> None:
        super().__init__(f"the audit log does not verify: {where}: {reason}", hint=hint)
        self.where = where
        self.reason = reason


class Record(msgspec.Struct, frozen=True):
    """A line of the log.

    `prev` and `hash` are SHA-256 in hexadecimal; `sig` is an Ed25519 signature or None.
    """

    seq: int
    time: datetime
    event: str
    data: dict[str, Any]
    prev: str
    hash: str
    sig: str | None

    @property
    def line(self) -> bytes:
        """The line of the record in the log, without its newline."""
        body = encode_body(self.event, self.data)
        head = _head(self.seq, format_time(self.time), body, self.prev)
        return head + _ending(self.hash, self.sig)


class Identity(msgspec.Struct, frozen=True):
    """The identity of a log: random id and public key of its genesis record, in hexadecimal."""

    log_id: str
    public_key: str


class Checkpoint(msgspec.Struct, frozen=True):
    """A signed statement that the log `identity` has a record `seq` with this hash and time."""

    identity: Identity
    seq: int
    hash: str
    time: str


def format_time(time: datetime) -> str:
    """Return a time with a time zone as RFC 3339 in UTC, always with microseconds and `Z`."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def encode_body(event: str, data: Mapping[str, Any]) -> str:
    """Return the part of a line that does not depend on its place in the log.

    Raises:
        ValueError, TypeError: `data` is not a JSON object.
    """
    text = _to_json(dict(data))
    # the text has a character beyond the BMP, which is kept, or a lone surrogate, which is replaced
    if "\\ud" in text:
        plain = json.dumps(dict(data), ensure_ascii=False)
        text = _to_json(json.loads(plain.encode("utf-8", "surrogatepass").decode(errors="replace")))
    return f'"event":{_quote(event)},"data":{text}'


def encode_record(
    seq: int, time: str, body: str, prev: str, key: Ed25519PrivateKey | None
) -> tuple[bytes, str]:
    """Return a line with its newline, signed if `key` is given, and the hash of the line.

    Raises:
        AuditError: the line would be too long.
    """
    head, record_hash = chain_record(seq, time, body, prev, signed=key is not None)
    sig = None if key is None else sign_hash(record_hash, key)
    return finish_record(head, record_hash, sig), record_hash


def chain_unsigned(
    seq: int, time: str, bodies: Sequence[str], prev: str, lines: list[bytes]
) -> str:
    """Append lines with newlines to `lines`, numbered from `seq`; return the hash of the last line.

    The lines are the lines that `chain_record` and `finish_record` make, but are made faster,
    because a scan can record many events.

    Raises:
        AuditError: a line would be too long.
    """
    tagged = hashlib.sha256(_TAG_UNSIGNED)
    for number, body in enumerate(bodies, seq):
        head = f'{{"seq":{number},"time":"{time}",{body},"prev":"{prev}"'.encode("ascii")
        chained = tagged.copy()
        chained.update(head)
        prev = chained.hexdigest()
        line = head + f',"hash":"{prev}"}}\n'.encode("ascii")
        if len(line) > MAX_LINE_BYTES:
            _refuse_long(line)
        lines.append(line)
    return prev


def chain_record(seq: int, time: str, body: str, prev: str, *, signed: bool) -> tuple[bytes, str]:
    """Return the part of a line that its hash covers, and the hash."""
    head = _head(seq, time, body, prev)
    return head, _hash(head, signed=signed)


def sign_hash(record_hash: str, key: Ed25519PrivateKey) -> str:
    """Return the signature of the record with the hash `record_hash`."""
    return key.sign(_TAG_SIGNATURE + bytes.fromhex(record_hash)).hex()


def finish_record(head: bytes, record_hash: str, sig: str | None) -> bytes:
    """Return one whole line with its newline.

    Raises:
        AuditError: the line would be too long.
    """
    line = head + _ending(record_hash, sig) + b"\n"
    _refuse_long(line)
    return line


def _refuse_long(line: bytes) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise AuditError(f"an event is too large for the audit log: {len(line)} bytes")


def parse_record(line: bytes, where: str) -> Record:
    """Parse a line (without its newline), and check its spelling and its hash.

    Raises:
        AuditError: the line is wrong; the message has the fault and `where`.
    """
    if len(line) >= MAX_LINE_BYTES:
        broken(where, f"longer than {MAX_LINE_BYTES} bytes")
    values = _parse_object(line, where)
    sig = values.get("sig")
    if tuple(values) != (_KEYS if sig is None else (*_KEYS, "sig")):
        broken(where, "unknown, missing or misplaced keys")
    seq, text, event, data, prev, record_hash = (values[key] for key in _KEYS)
    time = _parse_time(text)
    if (
        type(seq) is not int
        or time is None
        or not isinstance(event, str)
        or not isinstance(data, dict)
        or not isinstance(prev, str)
        or not isinstance(record_hash, str)
        or not (sig is None or (isinstance(sig, str) and _HEX_SIGNATURE.fullmatch(sig)))
    ):
        broken(where, "a value of the wrong type or form")
    try:
        head = _head(seq, text, encode_body(event, data), prev)
    except (ValueError, RecursionError):  # an invalid number, or values that are nested very deeply
        broken(where, "not in canonical form")
    if line != head + _ending(record_hash, sig):
        broken(where, "not in canonical form: a duplicated key or another spelling")
    if record_hash != _hash(head, signed=sig is not None):
        broken(where, "wrong hash")
    return Record(seq, time, event, data, prev, record_hash, sig)


def verify_signature(record: Record, public_key: str, where: str) -> None:
    """Verify the signature of a signed record.

    Raises:
        AuditError: the signature was not made by the key `public_key` (hexadecimal).
    """
    if record.sig is None:
        broken(where, "it is not signed")
    _verify(record.sig, _TAG_SIGNATURE + bytes.fromhex(record.hash), public_key, where)


def parse_genesis(record: Record, where: str) -> Identity:
    """Check that `record` is a genesis record, signed by the key in it.

    Return the identity of the log.

    Raises:
        AuditError: the record is not a valid genesis record.
    """
    log_id = record.data.get("log_id")
    public_key = record.data.get("public_key")
    if (
        record.event != GENESIS
        or record.data != {"format": FORMAT, "log_id": log_id, "public_key": public_key}
        or not isinstance(log_id, str)
        or not isinstance(public_key, str)
        or not re.fullmatch(_HEX_ID, log_id)
        or not re.fullmatch(_HEX_KEY, public_key)
    ):
        _refuse_first(record, FORMAT, where, "not a genesis record")
    verify_signature(record, public_key, where)
    return Identity(log_id, public_key)


class Head(msgspec.Struct, frozen=True):
    """The content of the first record of a file; `number` is the number of the file, from 1.

    `genesis`: the first record of the whole log. `before`: the last record of the file before,
    described as in a checkpoint; None in the first file.
    """

    identity: Identity
    genesis: Record
    number: int
    before: Checkpoint | None


def segment_data(number: int, genesis: Record, closed: Record) -> dict[str, Any]:
    """Return the data of the first record of file `number`.

    `closed` is the last record of the file before.
    """
    before = (closed.seq, closed.hash, format_time(closed.time))
    return _segment_data(number, json.loads(genesis.line), before)


def _segment_data(number: int, genesis: Any, closed: tuple[int, str, str]) -> dict[str, Any]:
    before = dict(zip(("seq", "hash", "time"), closed, strict=True))
    return {"format": SEGMENT_FORMAT, "segment": number, "genesis": genesis, "closed": before}


def parse_head(record: Record, where: str) -> Head:
    """Check that `record` can be the first record of a file of the log, and return its content.

    The first record of a file is the genesis record, or a record that continues the log: signed by
    the same key as the genesis record, and following the record that it names.

    Raises:
        AuditError: the record cannot be the first of a file.
    """
    if record.event != SEGMENT:
        return Head(parse_genesis(record, where), record, 1, None)
    data = record.data
    closed, number = data.get("closed"), data.get("segment")
    try:
        line = _to_json(data["genesis"]).encode("ascii")
        values = closed["seq"], closed["hash"], closed["time"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError, RecursionError):
        _refuse_first(record, SEGMENT_FORMAT, where, "not the first record of a file")
    genesis = parse_record(line, where)
    identity = parse_genesis(genesis, where)
    follows = record.prev == values[1] and type(values[0]) is int and record.seq == values[0] + 1
    if (
        type(number) is not int
        or number < 2
        or not follows
        or values[0] < number
        or _parse_time(values[2]) is None
        or (genesis.seq, genesis.prev) != (1, NO_HASH)
        or _to_json(data) != _to_json(_segment_data(number, json.loads(line), values))
    ):
        _refuse_first(record, SEGMENT_FORMAT, where, "not the first record of a file")
    verify_signature(record, identity.public_key, where)
    return Head(identity, genesis, number, Checkpoint(identity, *values))


def _refuse_first(record: Record, known: str, where: str, reason: str) -> NoReturn:
    """Raise the error for a first record; its format may be later than the format `known`."""
    is_later = is_newer(str(record.data.get("format")), known)
    broken(where, reason, _HINT_NEWER if is_later else _HINT_ALTERED)


def encode_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> bytes:
    """Return the signed document of `checkpoint`, which `parse_checkpoint` can parse."""
    head = _checkpoint_head(checkpoint)
    return head + _checkpoint_ending(key.sign(_TAG_CHECKPOINT + head).hex())


def parse_checkpoint(document: bytes, *, trim: bool = False) -> Checkpoint:
    """Parse a checkpoint, and verify its signature with the key that it names.

    With `trim`, white space around the document is ignored, because a person may have sent it by
    mail.

    Raises:
        AuditError: the document is not, byte for byte, a checkpoint that `encode_checkpoint` has
            made.
    """
    where = _CHECKPOINT
    if len(document) > MAX_CHECKPOINT_BYTES:
        broken(where, "too large")
    if trim:
        document = document.strip() + b"\n"
    values = _parse_object(document, where)
    if tuple(values) != _CHECKPOINT_KEYS or values["format"] != CHECKPOINT_FORMAT:
        broken(where, f"not of the format {CHECKPOINT_FORMAT}")
    sig, seq = values.pop("sig"), values["seq"]
    texts = [sig, *(values[key] for key in ("log_id", "public_key", "hash", "time"))]
    if type(seq) is not int or seq < 1 or not all(isinstance(text, str) for text in texts):
        broken(where, "a value of the wrong type or form")
    if not _HEX_SIGNATURE.fullmatch(sig) or not re.fullmatch(_HEX_KEY, values["public_key"]):
        broken(where, "a value of the wrong type or form")
    identity = Identity(values["log_id"], values["public_key"])
    checkpoint = Checkpoint(identity, seq, values["hash"], values["time"])
    head = _checkpoint_head(checkpoint)
    if document != head + _checkpoint_ending(sig):
        broken(where, "not in canonical form: a duplicated key or another spelling")
    _verify(sig, _TAG_CHECKPOINT + head, identity.public_key, where)
    return checkpoint


def broken(where: str, reason: str, hint: str = _HINT_ALTERED) -> NoReturn:
    """Raise the error for a broken log or checkpoint, with the place of the fault."""
    if where == _CHECKPOINT:
        raise AuditError(f"the checkpoint does not verify: {reason}", hint=_HINT_CHECKPOINT)
    raise BrokenRecordError(where, reason, hint)


def _head(seq: int, time: str, body: str, prev: str) -> bytes:
    """Return the bytes of a line that its hash covers: all bytes before the key `hash`."""
    return f'{{"seq":{seq},"time":"{time}",{body},"prev":{_quote(prev)}'.encode("ascii")


def _ending(record_hash: str, sig: str | None) -> bytes:
    signature = "" if sig is None else f',"sig":"{sig}"'
    return f',"hash":{_quote(record_hash)}{signature}}}'.encode("ascii")


def line_hash(line: bytes, *, signed: bool) -> str:
    """Return the hash that a line must have; the spelling of the line is not checked."""
    return _hash(line[: line.rfind(b',"hash":')], signed=signed)


def _hash(head: bytes, *, signed: bool) -> str:
    return hashlib.sha256((_TAG_SIGNED if signed else _TAG_UNSIGNED) + head).hexdigest()


def _checkpoint_head(checkpoint: Checkpoint) -> bytes:
    """Return the bytes of a checkpoint that its signature covers: all before the key `sig`."""
    values = (
        CHECKPOINT_FORMAT,
        checkpoint.identity.log_id,
        checkpoint.identity.public_key,
        checkpoint.seq,
        checkpoint.hash,
        checkpoint.time,
    )
    document = dict(zip(_CHECKPOINT_KEYS[:-1], values, strict=True))
    return _to_json(document).removesuffix("}").encode("ascii")


def _checkpoint_ending(sig: str) -> bytes:
    return f',"sig":"{sig}"}}\n'.encode("ascii")


def _parse_object(text: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError):
        broken(where, "broken JSON")
    if not isinstance(values, dict):
        broken(where, "not a JSON object")
    return values


def _parse_time(text: Any) -> datetime | None:
    """Return the time in `text` if `format_time` would write exactly this text, otherwise None."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
        return time if time.tzinfo is not None and format_time(time) == text else None
    except (ValueError, OverflowError):
        return None


def _verify(sig: str, message: bytes, public_key: str, where: str) -> None:
    from hashclient.audit.ed25519 import BadSignatureError, verify

    try:
        verify(bytes.fromhex(public_key), bytes.fromhex(sig), message)
    except BadSignatureError:
        broken(where, "bad signature")

"""The audit log: the records, the faults that `verify` finds, checkpoints, reading."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hashclient.audit import file as audit_file
from hashclient.audit.log import AuditLog, Event, Record, checkpoint, read, verify
from hashclient.audit.record import (
    MAX_LINE_BYTES,
    NO_HASH,
    Checkpoint,
    Identity,
    encode_body,
    encode_checkpoint,
    encode_record,
    parse_record,
)
from hashclient.core.errors import AuditError, HashclientError, StateError
from hashclient.system.text import path_fields

START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def ticking_clock() -> Callable[[], datetime]:
    """Return a clock that is a minute later each time it is read."""
    minutes = iter(range(1_000_000))
    return lambda: START + timedelta(minutes=next(minutes))


def match(number: int) -> Event:
    return Event("match", {"path": f"/srv/{number}", "entry": f"e{number}", "list": "demo"})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit"


@pytest.fixture
def log(directory: Path) -> AuditLog:
    """A log of a genesis record (line 1) and three appends (line 2, lines 3 to 5, line 6)."""
    log = AuditLog(directory, clock=ticking_clock())
    log.append([Event("init", {"provider": "demo"})])
    log.append([Event("scan-start", {"roots": ["/srv"]}), match(1), match(2)])
    log.append([Event("scan-end", {"matches": 2, "seconds": 1.5, "complete": True})])
    return log


def lines_of(directory: Path) -> list[bytes]:
    return (directory / "log.jsonl").read_bytes().splitlines(keepends=True)


def write_lines(directory: Path, lines: list[bytes]) -> None:
    (directory / "log.jsonl").write_bytes(b"".join(lines))


def private_key(directory: Path) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key((directory / "key.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def failure(action: Callable[[], Any], kind: type[HashclientError] = AuditError) -> str:
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.hint
    return caught.value.message


# Writing


def test_first_append_starts_the_log_with_a_signed_genesis_record(directory: Path) -> None:
    AuditLog(directory, clock=lambda: START).append([Event("init", {"provider": "demo"})])
    genesis, first = map(json.loads, lines_of(directory))
    assert list(genesis) == ["seq", "time", "event", "data", "prev", "hash", "sig"]
    assert (genesis["seq"], genesis["event"], genesis["prev"]) == (1, "genesis", "0" * 64)
    assert genesis["time"] == "2026-01-31T12:00:00.000000Z"
    assert genesis["data"]["format"] == "hashclient-audit/1"
    assert (
        genesis["data"]["public_key"]
        == private_key(directory).public_key().public_bytes_raw().hex()
    )
    assert (first["seq"], first["event"], first["prev"]) == (2, "init", genesis["hash"])


def test_only_its_owner_can_read_the_log_and_its_key(log: AuditLog, directory: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes["log.jsonl"] == modes["key.pem"] == 0o600
    assert set(modes) == {"log.jsonl", "key.pem", "key.pub"}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_two_logs_have_different_ids_and_keys(tmp_path: Path) -> None:
    reports = []
    for name in ("a", "b"):
        AuditLog(tmp_path / name, clock=lambda: START).append([match(1)])
        reports.append(verify(tmp_path / name))
    assert reports[0].log_id != reports[1].log_id
    assert reports[0].public_key != reports[1].public_key


def test_a_record_too_long_to_be_copied_into_another_is_signed(directory: Path) -> None:
    log = AuditLog(directory, clock=lambda: START)
    long = Event("match", {"hits": "x" * (MAX_LINE_BYTES // 2)})
    log.append([match(1), long, match(2), match(3)])
    signed = [record.seq for record in read(directory) if record.sig is not None]
    assert signed == [1, 3, 5]


def test_the_last_record_of_an_append_is_signed(log: AuditLog, directory: Path) -> None:
    signed = [record.seq for record in read(directory) if record.sig is not None]
    assert signed == [1, 2, 5, 6]


def test_another_program_can_verify_the_log_from_the_specification(
    log: AuditLog, directory: Path
) -> None:
    """This test uses only the rules of docs/audit-log.md, and nothing of the package."""
    pem = (directory / "key.pub").read_bytes()
    key = serialization.load_pem_public_key(pem)
    assert isinstance(key, Ed25519PublicKey)
    previous = "0" * 64
    for number, line in enumerate(lines_of(directory), 1):
        record = json.loads(line)
        covered = line[: line.rindex(b',"hash":')]
        tag = b"signed record" if "sig" in record else b"record"
        digest = hashlib.sha256(b"hashclient audit " + tag + b" v1\n" + covered)
        assert (record["seq"], record["prev"]) == (number, previous)
        assert record["hash"] == digest.hexdigest()
        if "sig" in record:
            message = b"hashclient audit signature v1\n" + digest.digest()
            key.verify(bytes.fromhex(record["sig"]), message)
        previous = record["hash"]
    document = checkpoint(directory)
    statement = json.loads(document)
    assert statement["hash"] == previous
    covered = document[: document.rindex(b',"sig":')]
    key.verify(bytes.fromhex(statement["sig"]), b"hashclient audit checkpoint v1\n" + covered)


def test_an_append_of_nothing_makes_nothing(directory: Path) -> None:
    AuditLog(directory, clock=lambda: START).append([])
    assert not directory.exists()


@pytest.mark.parametrize(
    "name", ["genesis", "audit-recovered", "", "Match", "a b", "x" * 65, "a\n"]
)
def test_names_that_are_the_logs_own_or_malformed_are_a_bug(directory: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name for an event"):
        AuditLog(directory, clock=lambda: START).append([match(1), Event(name, {})])
    assert not directory.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, 2}])
def test_data_that_is_no_json_is_a_bug_and_leaves_the_log_alone(
    log: AuditLog, directory: Path, value: object
) -> None:
    before = lines_of(directory)
    with pytest.raises((ValueError, TypeError)):
        log.append([match(3), Event("match", {"value": value})])
    assert lines_of(directory) == before


def test_an_event_that_is_too_large_leaves_the_log_alone(log: AuditLog, directory: Path) -> None:
    before = lines_of(directory)
    with pytest.raises(AuditError, match="too large"):
        log.append([match(3), Event("match", {"path": "x" * MAX_LINE_BYTES})])
    assert lines_of(directory) == before


def test_the_longest_line_that_is_written_can_be_read(log: AuditLog, directory: Path) -> None:
    log.append([Event("match", {"path": ""})])
    room = MAX_LINE_BYTES - len(lines_of(directory)[-1])
    log.append([Event("match", {"path": "x" * room})])
    assert len(lines_of(directory)[-1]) == MAX_LINE_BYTES
    log.append([match(1)])
    assert verify(directory).records == len(list(read(directory, limit=100))) == 9


def test_times_are_kept_in_utc(directory: Path) -> None:
    zone = datetime.fromisoformat("2026-01-31T13:00:00.25+01:00")
    AuditLog(directory, clock=lambda: zone).append([match(1)])
    assert json.loads(lines_of(directory)[1])["time"] == "2026-01-31T12:00:00.250000Z"


def test_paths_that_are_not_utf8_are_kept_as_bytes_too() -> None:
    path = os.fsdecode(b"/srv/\xff\xfe.jpg")
    assert path_fields("/srv/é") == {"path": "/srv/é"}
    assert path_fields(path) == {"path": "/srv/\ufffd\ufffd.jpg", "path_b64": "L3Nydi///i5qcGc="}


def test_text_that_is_not_unicode_does_not_stop_the_log(directory: Path) -> None:
    data = {"reason": "bad \udcff", "ok": "😀 \\ud800", "list": ["\ud800", 1]}
    AuditLog(directory, clock=lambda: START).append([Event("refused", data)])
    verify(directory)
    (record,) = read(directory, event="refused")
    assert "\udcff" not in record.data["reason"] and record.data["reason"].startswith("bad \ufffd")
    assert record.data["ok"] == data["ok"]


def test_lines_are_ascii_without_control_characters(directory: Path) -> None:
    AuditLog(directory, clock=lambda: START).append(
        [Event("match", {"path": "\x1b[2J\u202e\x7fé"})]
    )
    for line in lines_of(directory):
        assert all(0x20 <= byte < 0x7F for byte in line[:-1])


# Results of verify


def test_verify_reports_what_the_log_holds(log: AuditLog, directory: Path) -> None:
    report = verify(directory)
    last = json.loads(lines_of(directory)[-1])
    assert (report.records, report.seq, report.hash) == (6, 6, last["hash"])
    assert (report.first_time, report.last_time) == (START, START + timedelta(minutes=2))
    assert report.log_id == json.loads(lines_of(directory)[0])["data"]["log_id"]


def reseal(lines: list[bytes], key: Ed25519PrivateKey | None = None) -> list[bytes]:
    """Renumber, rechain and rehash lines, as a forger would.

    Signatures are renewed only with `key`.
    """
    forged = []
    prev = NO_HASH
    for seq, line in enumerate(lines, 1):
        record = json.loads(line)
        body = encode_body(record["event"], record["data"])
        signer = (key or Ed25519PrivateKey.generate()) if "sig" in record else None
        new, prev = encode_record(seq, record["time"], body, prev, signer)
        forged.append(new)
    return forged


def edit(old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """Return a function that changes line 4 only."""

    def change(lines: list[bytes]) -> list[bytes]:
        assert old in lines[3]
        return [*lines[:3], lines[3].replace(old, new, 1), *lines[4:]]

    return change


def without_signature(line: bytes) -> bytes:
    return line[: line.rindex(b',"sig"')] + b"}\n"


def rehashed(line: bytes) -> bytes:
    """Return a line with the hash of its content, however the line is spelled."""
    head = line[: line.rindex(b',"hash"')]
    digest = hashlib.sha256(b"hashclient audit record v1\n" + head).hexdigest()
    return head + f',"hash":"{digest}"}}\n'.encode()


CHANGES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "no json": (edit(b"{", b""), "line 4: broken JSON"),
    "not ascii": (edit(b"e1", b"\xff"), "line 4: broken JSON"),
    "data": (edit(b"/srv/1", b"/srv/9"), "line 4: wrong hash"),
    "seq": (edit(b'"seq":4', b'"seq":5'), "line 4: wrong hash"),
    "seq bool": (edit(b'"seq":4', b'"seq":true'), "line 4: a value of the wrong type"),
    "seq float": (edit(b'"seq":4', b'"seq":4.0'), "line 4: a value of the wrong type"),
    "time form": (edit(b"2026-01-31T", b"2026-01-31 "), "line 4: a value of the wrong type"),
    "time value": (edit(b"2026-01", b"2026-13"), "line 4: a value of the wrong type"),
    "time type": (
        edit(b'"2026-01-31T12:01:00.000000Z"', b"1"),
        "line 4: a value of the wrong type",
    ),
    "time renamed": (edit(b'"time":"', b'"time":1,"was":"'), "line 4: unknown, missing"),
    "space": (edit(b'"data":', b'"data": '), "line 4: not in canonical form"),
    "key renamed": (edit(b'"seq"', b'"SEQ"'), "line 4: unknown, missing or misplaced keys"),
    "key twice": (edit(b'"seq":4,', b'"seq":4,"seq":4,'), "line 4: not in canonical form: a dup"),
    "data key twice": (edit(b'"list"', b'"list":"x","list"'), "line 4: not in canonical form: a d"),
    "key too many": (edit(b'"hash"', b'"extra":1,"hash"'), "line 4: unknown, missing or"),
    "sig null": (edit(b"}\n", b',"sig":null}\n'), "line 4: unknown, missing or misplaced keys"),
    "sig form": (edit(b"}\n", b',"sig":"AA"}\n'), "line 4: a value of the wrong type"),
    "infinity": (edit(b'"/srv/1"', b"1e999"), "line 4: not in canonical form"),
    "deep": (edit(b'"/srv/1"', b"[" * 100_000), "line 4: broken JSON"),
    "long number": (edit(b'"/srv/1"', b"1" * 5000), "line 4: broken JSON"),
    "long line": (edit(b"/srv/1", b"x" * MAX_LINE_BYTES), "line 4: longer than 1048576 bytes"),
    "no object": (lambda lines: [*lines[:3], b"[]\n", *lines[4:]], "line 4: not a JSON object"),
    "empty line": (lambda lines: [*lines[:3], b"\n", *lines[3:]], "line 4: broken JSON"),
    "removed": (lambda lines: [*lines[:3], *lines[4:]], "line 4: wrong seq"),
    "swapped": (lambda lines: [*lines[:3], lines[4], lines[3], lines[5]], "line 4: wrong seq"),
    "doubled": (lambda lines: [*lines[:3], lines[2], *lines[3:]], "line 4: wrong seq"),
    "resealed": (lambda lines: [*lines[:2], *reseal(lines[1:])[1:]], "line 3: wrong seq"),
    "rechained": (
        lambda lines: [
            *lines[:4],
            *reseal([*lines[:3], edit(b"/srv/1", b"")(lines)[3], *lines[4:]])[4:],
        ],
        "line 5: wrong prev",
    ),
    "sig removed": (
        lambda lines: [*lines[:4], without_signature(lines[4]), lines[5]],
        "line 5: wrong hash",
    ),
    "last sig removed": (
        lambda lines: [*lines[:5], without_signature(lines[5])],
        "line 6: wrong hash",
    ),
    "unsigned tail": (lambda lines: lines[:4], "line 4: the last record is not signed"),
    "torn": (lambda lines: [*lines, b'{"seq":7'], "line 7: not written to its end"),
    "no newline": (lambda lines: [*lines[:5], lines[5][:-1]], "line 6: not written to its end"),
    "torn genesis": (lambda lines: [lines[0][:-1]], "line 1: not written to its end"),
    "no genesis": (lambda lines: lines[1:], "line 1: not a genesis record"),
    "genesis forged": (lambda lines: reseal(lines[1:]), "line 1: not a genesis record"),
    "genesis of another key": (reseal, "line 1: bad signature"),
    "genesis edited": (
        lambda lines: [lines[0].replace(b'"log_id":"', b'"log_id":"0'), *lines[1:]],
        "line 1: wrong hash",
    ),
    "seq rehashed": (
        lambda lines: [*lines[:3], rehashed(lines[3].replace(b'"seq":4', b'"seq":5'))],
        "line 4: wrong seq",
    ),
    "space rehashed": (
        lambda lines: [*lines[:3], rehashed(lines[3].replace(b":4,", b":4,\t"))],
        "line 4: not in canonical form",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_verify_names_the_first_bad_line_and_why(log: AuditLog, directory: Path, name: str) -> None:
    change, message = CHANGES[name]
    write_lines(directory, change(lines_of(directory)))
    assert message in failure(lambda: verify(directory))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"event":"match"', b'"event":5'),
        (b'"event":"match"', b'"event":["match"]'),
        (b'"event":"match"', b'"event":null'),
        (b'"prev":"', b'"prev":7,"was":"'),
        (b'"data":{', b'"data":[],"was":{'),
        (b'"data":{', b'"data":null,"was":{'),
        (b'"data":{', b'"data":"","was":{'),
    ],
)
def test_each_value_of_a_record_has_its_type(
    log: AuditLog, directory: Path, old: bytes, new: bytes
) -> None:
    """An attacker can compute the right hash of a changed record, so types are checked as well."""
    line = lines_of(directory)[3]
    assert line.count(old) == 1
    changed = json.loads(line.replace(old, new))
    changed.pop("was", None)
    line = rehashed(json.dumps(changed, separators=(",", ":")).encode() + b"\n")
    with pytest.raises(AuditError, match="line 4: a value of the wrong type or form"):
        parse_record(line[:-1], "line 4")
    record = json.loads(lines_of(directory)[3])
    for value in (5, None, ["0" * 64], True):
        other = json.dumps({**record, "hash": value}, separators=(",", ":")).encode()
        with pytest.raises(AuditError, match="line 4: a value of the wrong type or form"):
            parse_record(other, "line 4")


def test_a_batch_signed_by_another_key_is_found(log: AuditLog, directory: Path) -> None:
    lines = lines_of(directory)
    last = json.loads(lines[-1])
    body = encode_body("scan-end", {})
    other = Ed25519PrivateKey.generate()
    forged, _ = encode_record(6, last["time"], body, last["prev"], other)
    write_lines(directory, [*lines[:-1], forged])
    assert "line 6: bad signature" in failure(lambda: verify(directory))


def test_a_second_genesis_record_is_found_even_with_the_key(log: AuditLog, directory: Path) -> None:
    lines = lines_of(directory)
    write_lines(directory, reseal([*lines, lines[0]], private_key(directory)))
    assert "line 7: a second genesis record" in failure(lambda: verify(directory))


def test_an_unsigned_genesis_record_is_found(log: AuditLog, directory: Path) -> None:
    lines = lines_of(directory)
    lines[0] = without_signature(lines[0])
    write_lines(directory, reseal(lines, private_key(directory)))
    assert "line 1: it is not signed" in failure(lambda: verify(directory))
    (directory / "log.jsonl").write_bytes(lines_of(directory)[0])
    assert "line 1: it is not signed" in failure(lambda: log.append([match(1)]))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "hashclient-audit/2"},
        {"format": None},
        {"more": 1},
        {"log_id": 12345678901234567890123456789012},
        {"log_id": ["0" * 32]},
        {"log_id": "0" * 31},
        {"log_id": "0" * 33},
        {"log_id": "A" * 32},
        {"log_id": "0" * 31 + "\n"},
        {"log_id": None},
        {"public_key": 1},
        {"public_key": ["0" * 64]},
        {"public_key": "0" * 63},
        {"public_key": "0" * 62 + "0x"},
        {"public_key": None},
    ],
    ids=str,
)
def test_a_genesis_record_is_what_the_format_says(
    log: AuditLog, directory: Path, change: dict[str, object]
) -> None:
    """The owner of the key can sign any first record, but only one form of record starts a log."""
    lines = lines_of(directory)
    genesis = json.loads(lines[0])
    genesis["data"].update(change)
    write_lines(directory, reseal([json.dumps(genesis).encode()], private_key(directory)))
    (directory / "key.pub").unlink()
    assert "line 1: not a genesis record" in failure(lambda: verify(directory))


@pytest.mark.parametrize("version", [1, 2])
def test_a_log_of_a_later_format_is_not_called_altered(
    log: AuditLog, directory: Path, version: int
) -> None:
    genesis = json.loads(lines_of(directory)[0])
    genesis["data"] |= {"format": f"hashclient-audit/{version}", "more": 1}
    write_lines(directory, reseal([json.dumps(genesis).encode()], private_key(directory)))
    with pytest.raises(AuditError, match="line 1: not a genesis record") as caught:
        verify(directory)
    assert ("newer hashclient" in (caught.value.hint or "")) is (version > 1)


def test_a_first_record_of_another_event_is_no_genesis_record(
    log: AuditLog, directory: Path
) -> None:
    genesis = json.loads(lines_of(directory)[0])
    genesis["event"] = "start"
    write_lines(directory, reseal([json.dumps(genesis).encode()], private_key(directory)))
    assert "line 1: not a genesis record" in failure(lambda: verify(directory))


def test_the_log_must_be_of_the_expected_key(log: AuditLog, directory: Path) -> None:
    key = private_key(directory).public_key().public_bytes_raw()
    assert verify(directory, public_key=key).public_key == key.hex()
    other = Ed25519PrivateKey.generate().public_key()
    message = failure(lambda: verify(directory, public_key=other.public_bytes_raw()))
    assert "line 1: the log is signed with another key" in message
    pem = other.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (directory / "key.pub").write_bytes(pem)
    assert "line 1: the log is signed with another key" in failure(lambda: verify(directory))


def test_a_log_copied_without_its_keys_verifies(
    log: AuditLog, directory: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "log.jsonl").write_bytes((directory / "log.jsonl").read_bytes())
    assert verify(copy, checkpoint(directory)) == verify(directory)


def test_without_a_log_there_is_nothing_to_verify_yet(directory: Path) -> None:
    assert "no audit log yet" in failure(lambda: verify(directory), StateError)
    assert "no audit log yet" in failure(lambda: checkpoint(directory), StateError)
    assert "no audit log yet" in failure(lambda: list(read(directory)), StateError)


@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_a_log_that_has_gone_is_missed(log: AuditLog, directory: Path, how: str) -> None:
    kept = checkpoint(directory)
    if how == "removed":
        (directory / "log.jsonl").unlink()
    else:
        (directory / "log.jsonl").write_bytes(b"")
    assert "the audit log is gone" in failure(lambda: verify(directory))
    assert "the audit log is gone" in failure(lambda: log.append([match(3)]))
    (directory / "key.pub").unlink()
    assert "the audit log is gone" in failure(lambda: verify(directory, kept))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log(directory: Path) -> None:
    log = AuditLog(directory, clock=lambda: START)
    for _ in range(8):
        log.append([Event("match", {"path": "x" * 1000})] * 500)
    assert (directory / "log.jsonl").stat().st_size > 4_000_000
    verify(directory)  # the modules are imported here, before memory is measured
    tracemalloc.start()
    try:
        verify(directory)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_line_that_is_too_long_takes_no_memory(log: AuditLog, directory: Path) -> None:
    """A disk may have garbled a log, or somebody may want the process that reads it killed."""
    lines = lines_of(directory)
    write_lines(directory, [*lines[:3], b"x" * (24 * MAX_LINE_BYTES) + b"\n", *lines[3:]])
    tracemalloc.start()
    try:
        for action in (lambda: verify(directory), lambda: list(read(directory, limit=10))):
            assert "longer than 1048576 bytes" in failure(action)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * MAX_LINE_BYTES


# Appending to a log that exists


def test_a_broken_end_is_not_built_upon(log: AuditLog, directory: Path) -> None:
    lines = lines_of(directory)
    for changed, message in (
        ([*lines[:5], lines[5].replace(b'"matches":2', b'"matches":0')], "wrong hash"),
        ([*lines, b"{}\n"], "unknown, missing or misplaced keys"),
        ([*lines, b"x" * (2 * MAX_LINE_BYTES)], "a line longer than"),
        ([*lines, b"x" * MAX_LINE_BYTES + b"\n"], "longer than"),
        ([*lines[:5], reseal(lines)[5]], "bad signature"),
        (reseal(lines[2:4]), "line 1: it is not signed"),
        ([lines[1], lines[3], lines[2]], "it does not follow the line before it"),
    ):
        write_lines(directory, changed)
        assert message in failure(lambda: log.append([match(3)]))
        assert lines_of(directory) == changed


def test_a_lost_key_is_not_replaced(log: AuditLog, directory: Path) -> None:
    (directory / "key.pem").unlink()
    assert "the key of the audit log is gone" in failure(lambda: log.append([match(3)]))
    assert not (directory / "key.pem").exists()
    assert "cannot read audit key" in failure(lambda: checkpoint(directory))


def test_another_key_is_not_used(log: AuditLog, directory: Path, tmp_path: Path) -> None:
    AuditLog(tmp_path / "other", clock=lambda: START).append([match(1)])
    (directory / "key.pem").write_bytes((tmp_path / "other" / "key.pem").read_bytes())
    assert "bad signature" in failure(lambda: log.append([match(3)]))
    assert "not the key of this audit log" in failure(lambda: checkpoint(directory))


def test_a_key_that_others_can_read_is_not_used(log: AuditLog, directory: Path) -> None:
    (directory / "key.pem").chmod(0o640)
    assert "can be read by others" in failure(lambda: log.append([match(3)]))


def test_a_key_in_another_spelling_is_the_same_key(log: AuditLog, directory: Path) -> None:
    pem = (directory / "key.pem").read_bytes()
    begin, text, end = pem.splitlines()
    halved = b"\n".join((begin, text[:40], text[40:], end))
    for spelling in (pem, pem.replace(b"\n", b"\r\n"), halved, b"a comment\n" + pem):
        (directory / "key.pem").write_bytes(spelling)
        log.append([match(3)])
        assert checkpoint(directory)
    for none in (text, text + b"\n" + end, begin + b"\n" + text, pem.replace(text, text[:40])):
        (directory / "key.pem").write_bytes(none)
        assert "not an Ed25519 key" in failure(lambda: log.append([match(3)]))


def test_a_key_that_is_not_ed25519_is_refused(log: AuditLog, directory: Path) -> None:
    other = X25519PrivateKey.generate()
    private = other.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = other.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    encrypted = private_key(directory).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    for content in (b"nothing", private, encrypted):
        (directory / "key.pem").write_bytes(content)
        assert "not an Ed25519 key" in failure(lambda: log.append([match(3)]))
    for content in (b"nothing", public):
        (directory / "key.pub").write_bytes(content)
        assert "not an Ed25519 key" in failure(lambda: verify(directory))


def test_a_stuck_writer_is_not_waited_for_for_ever(log: AuditLog, directory: Path) -> None:
    impatient = AuditLog(directory, clock=lambda: START, lock_wait_s=0)
    with (directory / "log.jsonl").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert "stayed locked" in failure(lambda: impatient.append([match(3)]))
        fcntl.flock(stream, fcntl.LOCK_UN)
        impatient.append([match(3)])
    assert verify(directory).records == 7


# Readers and writers at once


def test_readers_wait_for_a_writer(
    log: AuditLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that saw half of an append would call the log broken."""
    monkeypatch.setattr(audit_file, "LOCK_WAIT_S", 0)
    with (directory / "log.jsonl").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert "stayed locked" in failure(lambda: verify(directory))
        assert "stayed locked" in failure(lambda: list(read(directory)))
        fcntl.flock(stream, fcntl.LOCK_UN)
    assert verify(directory).records == 6


def test_readers_do_not_wait_for_each_other(
    log: AuditLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_file, "LOCK_WAIT_S", 0)
    with (directory / "log.jsonl").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        assert verify(directory).records == 6


@pytest.mark.parametrize("limit", [None, 3])
def test_a_slow_reader_holds_up_no_writer(
    log: AuditLog, directory: Path, limit: int | None
) -> None:
    """A pager shows the log, perhaps for hours, while records are appended."""
    shown = read(directory, limit=limit)
    next(shown)
    AuditLog(directory, clock=lambda: START, lock_wait_s=0).append([match(3)])
    assert len(list(shown)) == (5 if limit is None else limit - 1)
    assert verify(directory).records == 7


# Checkpoints


def test_a_checkpoint_holds_while_the_log_grows(log: AuditLog, directory: Path) -> None:
    kept = checkpoint(directory)
    assert verify(directory, kept) == verify(directory)
    log.append([match(3)])
    assert verify(directory, kept).records == 7


def test_white_space_around_a_checkpoint_that_was_kept_is_none_of_it(
    log: AuditLog, directory: Path
) -> None:
    verify(directory, b"\r\n " + checkpoint(directory) + b"\n\n")


def test_a_tail_cut_off_shows_only_against_a_checkpoint(log: AuditLog, directory: Path) -> None:
    kept = checkpoint(directory)
    write_lines(directory, lines_of(directory)[:5])
    assert verify(directory).records == 5
    assert "line 6: missing: the log ends at line 5" in failure(lambda: verify(directory, kept))


def test_a_log_rewritten_by_the_owner_of_the_key_differs_from_a_checkpoint(
    log: AuditLog, directory: Path
) -> None:
    kept = checkpoint(directory)
    lines = lines_of(directory)
    lines[3] = lines[3].replace(b"/srv/1", b"/srv/9")
    write_lines(directory, reseal(lines, private_key(directory)))
    verify(directory)
    assert "line 6: not the record of the checkpoint" in failure(lambda: verify(directory, kept))


def test_another_log_shows_against_a_checkpoint(
    log: AuditLog, directory: Path, tmp_path: Path
) -> None:
    kept = checkpoint(directory)
    AuditLog(tmp_path / "other", clock=lambda: START).append([match(1)])
    message = failure(lambda: verify(tmp_path / "other", kept))
    assert "line 1: the log is not the log of the checkpoint" in message


def test_a_broken_log_gets_no_checkpoint(log: AuditLog, directory: Path) -> None:
    write_lines(directory, lines_of(directory)[:4])
    assert "not signed" in failure(lambda: checkpoint(directory))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"seq":6', b'"seq":5', "bad signature"),
        (b'"seq":6', b'"seq":"6"', "a value of the wrong type"),
        (b'"seq":6', b'"seq":6,"seq":6', "not in canonical form"),
        (b'"seq"', b'"number"', "not of the format"),
        (b"checkpoint/1", b"checkpoint/2", "not of the format"),
        (b'"sig":"', b'"sig":"x', "a value of the wrong type or form"),
        (b"{", b"", "broken JSON"),
        (b"{", b" " * 5000 + b"{", "too large"),
    ],
)
def test_a_changed_checkpoint_is_refused(
    log: AuditLog, directory: Path, old: bytes, new: bytes, message: str
) -> None:
    kept = checkpoint(directory)
    assert old in kept
    changed = kept.replace(old, new, 1)
    assert f"the checkpoint does not verify: {message}" in failure(
        lambda: verify(directory, changed)
    )


def test_a_checkpoint_of_no_record_is_refused(log: AuditLog, directory: Path) -> None:
    report = verify(directory)
    none = Checkpoint(Identity(report.log_id, report.public_key), 0, report.hash, "")
    document = encode_checkpoint(none, private_key(directory))
    assert "wrong type or form" in failure(lambda: verify(directory, document))


# Reading


def seqs(records: list[Record]) -> list[int]:
    return [record.seq for record in records]


def test_read_selects_by_event_time_and_number(log: AuditLog, directory: Path) -> None:
    second = START + timedelta(minutes=1)
    assert seqs(list(read(directory))) == [1, 2, 3, 4, 5, 6]
    assert seqs(list(read(directory, event="match"))) == [4, 5]
    assert seqs(list(read(directory, event=("init", "scan-end")))) == [2, 6]
    assert seqs(list(read(directory, since=second))) == [3, 4, 5, 6]
    assert seqs(list(read(directory, limit=2))) == [5, 6]
    assert seqs(list(read(directory, limit=100))) == [1, 2, 3, 4, 5, 6]
    assert seqs(list(read(directory, event="match", since=second, limit=1))) == [5]
    assert list(read(directory, limit=0)) == []


def test_an_event_is_selected_by_its_whole_name(log: AuditLog, directory: Path) -> None:
    log.append([Event("match-withdrawn", {}), Event("re-match", {})])
    assert seqs(list(read(directory, event="match"))) == [4, 5]
    assert seqs(list(read(directory, event="match-withdrawn"))) == [7]
    assert seqs(list(read(directory, event="scan-start-match"))) == []


def test_a_record_gives_back_its_line(log: AuditLog, directory: Path) -> None:
    assert [record.line + b"\n" for record in read(directory)] == lines_of(directory)


def test_lines_longer_than_a_block_are_read_from_the_end_too(directory: Path) -> None:
    log = AuditLog(directory, clock=lambda: START)
    for length in (1, 200_000, 65_536, 0, 130_000):
        log.append([Event("match", {"path": "x" * length})])
    assert list(read(directory, limit=9)) == list(read(directory))


def test_read_leaves_a_torn_line_out_and_names_a_broken_one(log: AuditLog, directory: Path) -> None:
    lines = lines_of(directory)
    write_lines(directory, [*lines, b'{"seq":7,'])
    assert seqs(list(read(directory, limit=1))) == [6]
    assert len(list(read(directory))) == 6
    write_lines(directory, [*lines[:4], b"{}\n", lines[5]])
    assert "line 5: unknown" in failure(lambda: list(read(directory)))
    assert "line 2 from its end: unknown" in failure(lambda: list(read(directory, limit=2)))


@pytest.mark.parametrize("limit", [None, 1_000])
def test_a_log_cut_while_it_is_read_is_an_error(directory: Path, limit: int | None) -> None:
    log = AuditLog(directory, clock=lambda: START)
    log.append([Event("match", {"path": "x" * 1000})] * 400)

    class CutLater(set[str]):
        def __contains__(self, event: object) -> bool:
            os.truncate(directory / "log.jsonl", 0)
            return True

    assert "cut" in failure(lambda: list(read(directory, event=CutLater(), limit=limit)))

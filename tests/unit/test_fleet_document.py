"""Status documents: files in `tests/vectors/status`, the schema, and values that never occur.

Run as a program, with the project on the path, this file writes the vectors again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.fleet import HOUR, NOW, Box, edited
from hashclient.audit.log import AuditLog, Event
from hashclient.config.settings import Config, Settings
from hashclient.core.errors import ExitCode, VerificationError
from hashclient.core.kinds import MatchState
from hashclient.core.model import HeldEntry
from hashclient.fleet import making
from hashclient.fleet.document import (
    MAX_STATUS_BYTES,
    MOST_LISTS,
    ListState,
    Machine,
    Runs,
    encode_status,
    verify_status,
)
from hashclient.fleet.making import make_document
from hashclient.session import Session
from hashclient.status.status import AuditStatus, ListStatus, Refusal, Status
from hashclient.system.signed import sign_document
from tests.kit.depth import examples
from tests.unit.test_prometheus import manifest, record

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "status"
SCHEMA = json.loads((ROOT / "docs" / "status.schema.json").read_bytes())
EXPECT = "expect.json"
BOX, OTHER = Box(1), Box(2)
NAME, GOOD = BOX.file()
LINE, SIGNED, _ = GOOD.split(b"\n")
TAG = b"hashclient status v1\n"


def raw(**changes: object) -> bytes:
    """Return a document with changed or additional values and a right signature."""
    return sign_document(msgspec.json.decode(LINE) | changes, TAG, BOX.key)


def stamped(tag: bytes) -> bytes:
    return sign_document(msgspec.json.decode(LINE), tag, BOX.key)


def deep() -> bytes:
    text = "[" * 30_000 + "]" * 30_000
    return (
        LINE.replace(b'"runs":{', b'"runs":' + text.encode() + b',"x":{') + b"\n" + SIGNED + b"\n"
    )


CASES: Mapping[str, Callable[[], bytes]] = {
    "all-is-well": lambda: GOOD,
    "no-record-of-matches": lambda: BOX.file(matches=None)[1],
    "nothing-ran": lambda: BOX.file(runs={}, lists=(), not_opened={})[1],
    "edited": lambda: edited(GOOD, exit_code=8),
    "signature-of-another-key": lambda: LINE + b"\n" + OTHER.file()[1].split(b"\n")[1] + b"\n",
    "signature-for-another-use": lambda: stamped(b"hashclient feedback v1\n"),
    "checkpoint-of-another-log": lambda: raw(checkpoint=OTHER.checkpoint(3)),
    "checkpoint-edited": lambda: raw(checkpoint=BOX.checkpoint(3).replace('"seq":3', '"seq":4')),
    "one-line": lambda: LINE + b"\n",
    "cut": lambda: GOOD[:-1],
    "too-long": lambda: raw(version="x" * MAX_STATUS_BYTES),
    "nested-deeply": deep,
    "key-twice": lambda: LINE.replace(b"{", b'{"counter":9,', 1) + b"\n" + SIGNED + b"\n",
    "one-key-more": lambda: raw(path="/srv/files"),
    "another-format": lambda: raw(format="hashclient-status/2"),
    "id-that-is-a-path": lambda: raw(machine={"id": "../x", "name": "a", "copy": "0" * 16}),
    "kind-that-is-a-path": lambda: raw(not_opened={"/srv/x": 1}),
    "unknown-command": lambda: raw(runs={"rm": {"last": "2026-01-31T12:00:00Z"}}),
    "negative-count": lambda: raw(to_review=-1),
    "time-without-a-zone": lambda: raw(made="2026-01-31T12:00:00"),
}
GOOD_CASES = [*CASES][:3]


def result(data: bytes) -> str:
    try:
        return verify_status(data).key
    except VerificationError:
        return "refused"


@pytest.mark.parametrize("name", CASES)
def test_each_vector_has_the_expected_result(name: str) -> None:
    expected = json.loads((VECTORS / EXPECT).read_text())
    data = (VECTORS / f"{name}.jsonl").read_bytes()
    assert data == CASES[name]()
    assert result(data) == expected[name]
    assert (expected[name] == "refused") is (name not in GOOD_CASES)


def test_there_are_no_others() -> None:
    names = {f"{name}.jsonl" for name in CASES}
    assert {path.name for path in VECTORS.iterdir()} == {*names, EXPECT, "README.md"}


def test_the_schema_accepts_the_good_vectors_and_no_others_that_it_can_refuse() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for name in GOOD_CASES:
        jsonschema.validate(json.loads(CASES[name]().split(b"\n")[0]), SCHEMA)
    for name in [*CASES][-7:-1]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(CASES[name]().split(b"\n")[0]), SCHEMA)


def test_the_schema_says_what_the_program_reads() -> None:
    """The schema has each key of each object, and says which keys are required."""

    def keys(schema: Mapping[str, Any]) -> tuple[set[str], set[str]]:
        assert schema["additionalProperties"] is False
        return set(schema["properties"]), set(schema.get("required", ()))

    made = msgspec.json.schema(type(BOX.document()))["$defs"]
    assert keys(SCHEMA) == keys(made.pop("StatusDocument"))
    assert {name: keys(part) for name, part in SCHEMA["$defs"].items()} == {
        name: keys(part) for name, part in made.items() if "properties" in part
    }


def test_any_byte_that_is_changed_is_noticed() -> None:
    for place in range(0, len(GOOD), 37):
        with pytest.raises(VerificationError):
            verify_status(GOOD[:place] + bytes([GOOD[place] ^ 1]) + GOOD[place + 1 :])


def test_the_longest_document_fits() -> None:
    most = (1 << 53) - 1
    time = NOW + timedelta(microseconds=123_456)
    one = ListState("l" * 64, "p" * 64, "unusable", most, time, time, time, 255)
    document = BOX.document(
        lists=(one,) * MOST_LISTS,
        machine=Machine(BOX.log_id, "\\" * 255, "0" * 16),
        not_opened={f"{n:02}" + "k" * 62: most for n in range(100)},
        matches=dict.fromkeys(MatchState, most),
    )
    assert len(encode_status(document, BOX.key)) <= MAX_STATUS_BYTES


# Values of the state that must not leave the machine: paths, entries, persons, and reasons that
# contain such values.
_secrets = st.text(st.characters(codec="utf-8", exclude_characters='"\\'), min_size=5, max_size=30)
_words = _secrets.map(lambda text: f"\N{LATIN SMALL LETTER THORN}{text}")


def texts(value: object) -> Iterator[str]:
    """Yield all texts of a JSON value, and all keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def _session(directory: Path) -> Session:
    return Session(Settings(directory, directory / "config.toml", None, Config()), now=lambda: NOW)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    directory = tmp_path_factory.mktemp("machine")
    AuditLog(directory / "audit", clock=lambda: NOW - HOUR).append(
        [
            Event("scan-start", {"by": "þroot", "directory": "/srv/þ"}),
            Event("match", {"path": "/srv/þ/file", "entry": "þ-1"}),
            Event("scan-end", {"inputs": 5, "match": 1, "unread": 2, "exit_code": 11}),
            Event("refused", {"provider": "hotline", "exit_code": 4, "reason": "/srv/þ"}),
        ]
    )
    return _session(directory)


@examples(100)
@given(words=st.lists(_words, min_size=4, max_size=4), names=st.lists(_words, max_size=3))
def test_no_path_digest_entry_or_person_is_in_a_document(
    session: Session, words: list[str], names: list[str]
) -> None:
    path, entry, person, reason = words
    digest = "ab" * 32
    refusal = Refusal(NOW, ExitCode.UNVERIFIED, reason)
    status = Status(
        [
            ListStatus("baseline", manifest(), ExitCode.OK, reason, "main", refused=refusal),
            *(ListStatus(name, None, ExitCode.STATE, reason, name) for name in names),
        ],
        {person: reason},
        ExitCode.STATE,
        matches=dict.fromkeys(MatchState, 3),
        held=(HeldEntry("baseline", entry, 4, 0, 0, 4),),
        audit=AuditStatus(
            record("x"),
            record("scan-end", by=person, directory=path, not_opened={path: 1, "disk": 2}),
            {"baseline": path},
        ),
        problems=[f"{path}: {digest}"],
    )
    document, data = make_document(session, status, 3, 0)
    line = data.split(b"\n")[0].decode()
    assert "\N{LATIN SMALL LETTER THORN}" not in line and digest not in line
    assert verify_status(data).document == document
    allowed = re.compile(
        r"[a-z][a-z0-9_./-]*|[0-9a-f]{16,64}|[0-9.]+|\d{4}-\d\d-\d\dT[\d:.]+Z|\{.*checkpoint/1.*\}"
    )
    machine = {document.machine.name, document.version}
    assert [
        t for t in texts(json.loads(line)) if t not in machine and not allowed.fullmatch(t)
    ] == []
    assert document.lists_omitted == len(names)


def test_a_document_says_what_the_log_and_the_status_have(session: Session) -> None:
    status = Status(
        [ListStatus("baseline", manifest(), ExitCode.STALE, "STALE", "main")],
        {},
        ExitCode.STALE,
        audit=AuditStatus(record("x"), record("scan-end", not_opened={"disk": 2})),
    )
    document, _ = make_document(session, status, 1, 2)
    scan, fetch = document.runs["scan"], document.runs["fetch"]
    assert (scan.runs, scan.failed, scan.exit_code) == (1, 1, 11)
    assert (scan.inputs, scan.match, scan.unread) == (5, 1, 2)
    assert (fetch.runs, fetch.failed, fetch.exit_code) == (1, 1, 4)
    (one,) = document.lists
    assert (one.name, one.provider, one.state, one.generation) == ("baseline", "main", "stale", 7)
    assert document.not_opened == {"disk": 2}
    assert document.matches is None
    assert document.failed_publications == 2
    assert document.counted_since == NOW - 24 * HOUR


@pytest.mark.parametrize("code", [{}, {"exit_code": None}, {"exit_code": 256}, {"exit_code": -1}])
def test_a_run_whose_exit_code_is_not_known_has_failed(
    tmp_path: Path, code: dict[str, object]
) -> None:
    log = AuditLog(tmp_path / "audit", clock=lambda: NOW - HOUR)
    log.append([Event("scan-end", {"inputs": 5, **code})])
    document, _ = make_document(_session(tmp_path), Status([], {}, ExitCode.STATE), 1, 0)
    assert document.runs["scan"] == Runs(NOW - HOUR, None, 1, failed=1, inputs=5)


def test_counts_of_a_long_log_begin_later_and_say_when(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", clock=lambda: NOW - HOUR)
    log.append([Event("scan-end", {"inputs": 1})] * 10)
    log.append([Event("match", {})] * 50)
    with mock.patch.object(making, "MOST_RECORDS", 50):
        document, _ = make_document(_session(tmp_path), Status([], {}, ExitCode.STATE), 1, 0)
    assert document.counted_since == NOW - HOUR
    assert document.runs == {}


def test_an_unfinished_log_gives_a_checkpoint_of_its_last_signed_record(session: Session) -> None:
    path = session.settings.layout.audit / "log.jsonl"
    before = path.read_bytes()
    status = Status([], {}, ExitCode.STATE)
    whole = make_document(session, status, 1, 0)[0].checkpoint
    try:
        path.write_bytes(before + b'{"seq":')
        assert make_document(session, status, 1, 0)[0].checkpoint == whole
    finally:
        path.write_bytes(before)


def test_the_list_that_is_not_fresh_comes_first_and_others_are_left_out(session: Session) -> None:
    fresh = [ListStatus(f"l-{n:03}", manifest(), ExitCode.OK, None, "main") for n in range(200)]
    bad = ListStatus("zz", None, ExitCode.STATE, "never fetched", "main")
    document, _ = make_document(session, Status([*fresh, bad], {}, ExitCode.STATE), 1, 0)
    assert (document.lists[0].name, document.lists[0].state) == ("zz", "unusable")
    assert (len(document.lists), document.lists_omitted) == (MOST_LISTS, 51)


def main() -> None:
    """Write all vectors of status documents again."""
    VECTORS.mkdir(exist_ok=True)
    for name, make in CASES.items():
        (VECTORS / f"{name}.jsonl").write_bytes(make())
    expected = {name: result(make()) for name, make in CASES.items()}
    (VECTORS / EXPECT).write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()

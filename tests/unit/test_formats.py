"""The formats text and jsonl: every line that they write."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Action, Algorithm, Kind, MatchState
from hashclient.core.model import Acted, Gap, Handled, Hit, MatchRef, MissingList
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Summary
from hashclient.formats.jsonl import JsonlFormatter
from hashclient.formats.registry import FORMATS, Context, formatter
from hashclient.formats.text import TextFormatter, human_bytes
from hashclient.system.text import path_fields
from tests.contract.readers import JSONL
from tests.outcomes import handled

MATCH = Hit("baseline", "e-1", "synthetic", 3, (Algorithm.MD5, Algorithm.SHA1), complete=True)
CONFLICT = Hit("local", "e-2", "other", 1, (Algorithm.SHA256,), complete=False)
THEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
RECORDED = MatchRef("3kdz7wnq2m", MatchState.REPORTED, THEN, THEN + timedelta(days=1))
ACTED = Acted(Action.QUARANTINE, done=False, detail="not quarantined: its list is stale")
SCAN = Context("scan", THEN)
WITH_DIGESTS = Context("scan", THEN, show_digests=True)


def test_every_format_can_be_made_and_no_other() -> None:
    for name, (_, class_name) in FORMATS.items():
        assert type(formatter(name, SCAN)).__name__ == class_name
    with pytest.raises(KeyError):
        formatter("xml", SCAN)


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (handled(Kind.CLEAN, "a/b", 7), "clean     a/b"),
        (
            handled(Kind.MATCH, "a\nb", 7, hits=(MATCH,)),
            "match     a\\x0ab  baseline e-1 (synthetic; md5, sha1 agree)",
        ),
        (
            handled(Kind.CONFLICT, "a", 7, hits=(CONFLICT,)),
            "conflict  a  local e-2 (other; sha256 agrees, others do not)",
        ),
        (
            handled(Kind.MATCH, "a", 7, hits=(MATCH, CONFLICT), record=RECORDED),
            (
                "match     a  [3kdz7wnq2m]  baseline e-1 (synthetic; md5, sha1 agree);"
                " local e-2 (other; sha256 agrees, others do not)"
            ),
        ),
        (
            handled(Kind.MATCH, "a", 7, hits=(MATCH,), acted=(ACTED,)),
            (
                "match     a  baseline e-1 (synthetic; md5, sha1 agree)"
                "  -> not quarantined: its list is stale"
            ),
        ),
        (
            handled(Kind.MATCH, "a", 7, reason="would only be recorded", hits=(MATCH,)),
            "match     a  baseline e-1 (synthetic; md5, sha1 agree)  would only be recorded",
        ),
        (handled(Kind.SKIPPED, "a", reason="named pipe"), "skipped   a  named pipe"),
        (handled(Kind.UNREAD, "a", reason="gone\r"), "unread    a  gone\\x0d"),
    ],
)
def test_lines_for_people(outcome: Handled, line: str) -> None:
    assert TextFormatter(SCAN).outcome(outcome) == line


def test_a_recorded_match_begins_with_its_state() -> None:
    outcome = handled(Kind.MATCH, "a", 7, hits=(MATCH,), record=RECORDED)
    line = TextFormatter(Context("matches", THEN)).outcome(outcome)
    assert line == "reported      a  [3kdz7wnq2m]  baseline e-1 (synthetic; md5, sha1 agree)"


def test_digests_for_people_come_last() -> None:
    outcome = handled(Kind.CLEAN, "a", 1, digests={Algorithm.SHA1: b"\x01", Algorithm.MD5: b"\x02"})
    assert TextFormatter(WITH_DIGESTS).outcome(outcome) == "clean     a  md5=02  sha1=01"


def test_the_summary_for_people() -> None:
    states = (
        ListState("baseline", 3, THEN, fresh=True),
        ListState("local", 1, THEN, fresh=False),
        ListState("old", 2, THEN, fresh=False, in_grace=True),
    )
    summary = Summary(lists=states)
    summary.counts[Kind.CLEAN] = 12_345
    summary.counts[Kind.MATCH] = 1
    summary.files_read, summary.bytes_read, summary.elapsed_s = 12_346, 1_234_567, 2.26
    text = TextFormatter(SCAN).end(summary)
    assert text is not None
    assert text.split("\n") == [
        "12,346 inputs: 12,345 clean, 1 match, 0 conflicts, 0 skipped, 0 unread",
        "read 12,346 files, 1.2 MB, in 2.3 s",
        "list baseline, generation 3, fresh until 2026-01-02 03:04 UTC",
        "list local, generation 1, expired 2026-01-02 03:04 UTC, STALE",
        "list old, generation 2, expired 2026-01-02 03:04 UTC, in its grace period",
        "exit 11: 1 match; list local is stale",
    ]


def test_evidence_of_an_answer_besides_reading() -> None:
    summary = Summary(lists=(), files_read=1, bytes_read=68, elapsed_s=0.04)
    for ruled_out, unchanged, believed, end in (
        (0, 0, 0, ""),
        (2, 0, 0, "; 2 ruled out by size"),
        (0, 1_000, 0, "; 1,000 known unchanged"),
        (2, 1, 0, "; 2 ruled out by size, 1 known unchanged"),
        (0, 5, 3, "; 5 known unchanged, 3 of them believed unchanged"),
    ):
        summary.ruled_out_by_size, summary.known_unchanged = ruled_out, unchanged
        summary.believed_unchanged = believed
        lines = (TextFormatter(SCAN).end(summary) or "").split("\n")
        assert f"read 1 file, 68 B, in 0.0 s{end}" in lines
    lines = (TextFormatter(Context("lookup", THEN)).end(summary) or "").split("\n")
    assert not [line for line in lines if "ruled out" in line]


def test_failures_of_a_run_in_words() -> None:
    md5, sha1, sha256 = Algorithm
    summary = Summary(
        lists=(),
        missing=(
            MissingList("other", "main", "never fetched"),
            MissingList("third", None, "damaged\x1b"),
            MissingList(None, "second", "no list was ever fetched"),
        ),
        gaps=(
            Gap("other", (md5,), 12, 2_000_000, 37),
            Gap("local", (md5, sha1), 1, 1, 1),
            Gap("local", (md5, sha1, sha256), 2, 2, 1),
        ),
        stopped=ExitCode.TERMINATED,
        failed=ExitCode.AUDIT,
        failure="cannot write the audit log\x1b",
    )
    text = TextFormatter(SCAN).end(summary)
    assert text is not None
    assert text.split("\n")[2:-1] == [
        "list other is missing: never fetched",
        "list third is missing: damaged\\x1b",
        "the lists of provider second are missing: no list was ever fetched",
        "other: 12 of 2,000,000 entries have no md5; 37 inputs cannot be distinguished from them",
        "local: 1 of 1 entries has neither md5 nor sha1; 1 input cannot be distinguished from it",
        (
            "local: 2 of 2 entries have neither md5 nor sha1 nor sha256;"
            " 1 input cannot be distinguished from them"
        ),
        "interrupted by SIGTERM: the remaining inputs were not checked",
        "failed: cannot write the audit log\\x1b",
    ]
    summary.gaps_accepted = True
    text = TextFormatter(SCAN).end(summary)
    assert text is not None
    ends = [line.split("; ")[1] for line in text.split("\n")[5:7]]
    assert ends == [
        "37 inputs count as clean all the same, since gaps are accepted",
        "1 input counts as clean all the same, since gaps are accepted",
    ]


def test_a_failure_without_words_is_named_by_its_code() -> None:
    text = TextFormatter(SCAN).end(Summary(lists=(), failed=ExitCode.UNREACHABLE))
    assert text is not None
    assert "failed: exit code 4: provider unreachable (worth a retry)" in text.split("\n")
    assert "there was nothing to check" not in text


def test_a_summary_of_nothing_says_so() -> None:
    lines = (TextFormatter(SCAN).end(Summary(lists=())) or "").split("\n")
    assert "there was nothing to check" in lines
    assert lines[-1].startswith("exit 3: ")
    one = Summary(lists=())
    one.counts[Kind.CLEAN] = one.files_read = 1
    lines = (TextFormatter(SCAN).end(one) or "").split("\n")
    assert lines[0].startswith("1 input: ")
    assert lines[1].startswith("read 1 file, ")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_550_000, "1.6 MB"),
        (2_000_000_000, "2.0 GB"),
        (7e12, "7.0 TB"),
        (7e15, "7000.0 TB"),
    ],
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_paths_in_json_lose_nothing() -> None:
    assert path_fields("grün") == {"path": "grün"}
    assert path_fields(os.fsdecode(b"a\xffb")) == {"path": "a\ufffdb", "path_b64": "Yf9i"}


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (
            handled(Kind.UNREAD, "a", reason="gone"),
            '{"type": "unread", "schema": 1, "path": "a", "size": null, "reason": "gone"}',
        ),
        (
            handled(Kind.CLEAN, "a", 1, digests={Algorithm.SHA1: b"\1" * 20}),
            (
                '{"type": "clean", "schema": 1, "path": "a", "size": 1,'
                f' "digests": {{"sha1": "{"01" * 20}"}}}}'
            ),
        ),
        (
            handled(Kind.MATCH, "a", 5, None, (MATCH, CONFLICT), record=RECORDED, acted=(ACTED,)),
            (
                '{"type": "match", "schema": 1, "path": "a", "size": 5, "id": "3kdz7wnq2m",'
                ' "state": "reported", "in_place": true, "first_seen": "2026-01-02T03:04:00Z",'
                ' "last_seen": "2026-01-03T03:04:00Z",'
                ' "list": "baseline", "entry": "e-1", "category": "synthetic", "generation": 3,'
                ' "algorithms": ["md5", "sha1"], "more": [{"list": "local", "entry": "e-2",'
                ' "category": "other", "generation": 1, "algorithms": ["sha256"],'
                ' "complete": false}], "actions": [{"action": "quarantine", "done": false,'
                ' "detail": "not quarantined: its list is stale"}]}'
            ),
        ),
    ],
)
def test_lines_for_scripts(outcome: Handled, line: str) -> None:
    assert JsonlFormatter(WITH_DIGESTS).outcome(outcome) == line


@pytest.mark.parametrize(
    "change",
    [
        {"type": "other"},
        {"size": -1},
        {"size": 1.5},
        {"id": "0123456789"},
        {"state": "lost"},
        {"first_seen": "yesterday"},
        {"digests": {"md5": "zz"}},
        {"digest": "x"},
        {"algorithms": []},
        {"complete": True},
        {"generation": 0},
        {"entry": "a b"},
        {"path": None},
        {"more": []},
        {"actions": [{"action": "delete", "done": True, "detail": ""}]},
    ],
)
def test_the_schema_refuses_what_no_line_may_be(change: dict[str, Any]) -> None:
    outcome = handled(Kind.MATCH, "p", 5, hits=(MATCH,), record=RECORDED)
    line = json.loads(JsonlFormatter(SCAN).outcome(outcome))
    JSONL.validate(line)
    with pytest.raises(jsonschema.ValidationError):
        JSONL.validate(line | change)
    with pytest.raises(jsonschema.ValidationError):
        JSONL.validate({name: value for name, value in line.items() if name != "state"})

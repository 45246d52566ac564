"""What every report format has to keep, whatever an outcome holds."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.errors import ExitCode
from hashclient.model import Algorithm, Hit, Kind, ListState, Outcome
from hashclient.formats import FORMATS, Formatter
from hashclient.summary import Summary
from tests.support import ROOT, bytes_path

SCHEMA = json.loads((ROOT / "docs" / "jsonl.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

DIGESTS = {a: bytes([a]) * a.digest_bytes for a in Algorithm}
AWFUL_PATHS = (
    b"plain",
    b"",
    b"-rf",
    b"new\nline\r",
    b"\x1b]0;title\x07\x1b[2J",
    b"\xff\xfe/\x80",
    b"\x00",
    b"tab\tnul\x7f",
    "grün/文/😀".encode(),
    "right\u202eleft\u2028\u2029\x85".encode(),
    b'{"type": "summary"}',
    b"back\\slash\"quote'",
    b"x" * 5000,
)
HITS = (
    Hit("baseline", "e-1", "synthetic", 3, (Algorithm.MD5, Algorithm.SHA256), complete=True),
    Hit("local", "e-2", "other", 1, (Algorithm.SHA1,), complete=False),
)


def outcomes(path: str) -> list[Outcome]:
    return [
        Outcome(Kind.CLEAN, path, 0, digests=DIGESTS),
        Outcome(Kind.CLEAN, path, None),
        Outcome(Kind.MATCH, path, 5, hits=HITS[:1], digests=DIGESTS),
        Outcome(Kind.MATCH, path, 2**40, hits=HITS, digests=DIGESTS),
        Outcome(Kind.CONFLICT, path, None, hits=HITS[1:], digests=DIGESTS, origin="sums:7"),
        Outcome(Kind.SKIPPED, path, reason="named pipe"),
        Outcome(Kind.UNREAD, path, reason="permission denied"),
    ]


def summaries() -> list[Summary]:
    then = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    states = (
        ListState("baseline", 3, then, fresh=True),
        ListState("local", 1, then, fresh=False),
        ListState("old", 9, then, fresh=False, in_grace=True),
    )
    full = Summary(states, stopped=ExitCode.INTERRUPTED)
    for outcome in outcomes("x"):
        full.add(outcome)
    full.files_read, full.bytes_read, full.elapsed_s = 12_345, 2**50, 1e6
    return [Summary(()), Summary(states), full, Summary(states[:1], failed=ExitCode.AUDIT)]


@pytest.fixture(params=sorted(FORMATS))
def name(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def formatter(name: str, *, show_digests: bool = False) -> Formatter:
    return FORMATS[name](show_digests)


@pytest.mark.parametrize("raw", AWFUL_PATHS, ids=lambda raw: repr(raw[:12]))
def test_an_outcome_is_one_line_that_a_terminal_can_show(name: str, raw: bytes) -> None:
    for show_digests in (False, True):
        for outcome in outcomes(os.fsdecode(raw)):
            line = formatter(name, show_digests=show_digests).outcome(outcome)
            assert line.isprintable()
            assert str(outcome.kind) in line


def test_digests_are_shown_when_asked_for_and_only_then(name: str) -> None:
    for outcome in outcomes("path"):
        hidden = formatter(name).outcome(outcome)
        shown = formatter(name, show_digests=True).outcome(outcome)
        for digest in DIGESTS.values():
            assert digest.hex() not in hidden
            assert (digest.hex() in shown) == bool(outcome.digests)


def test_different_paths_give_different_lines(name: str) -> None:
    lines = {
        formatter(name).outcome(Outcome(Kind.UNREAD, os.fsdecode(raw), reason="gone"))
        for raw in (*AWFUL_PATHS, b"\xfe", b"\\xfe", b"\\\\xfe", "\ufffd".encode())
    }
    assert len(lines) == len(AWFUL_PATHS) + 4


def test_every_hit_is_named_with_its_list_and_category(name: str) -> None:
    line = formatter(name).outcome(Outcome(Kind.MATCH, "path", 5, hits=HITS))
    for text in ("baseline", "e-1", "synthetic", "local", "e-2", "other", "md5", "sha256"):
        assert text in line


def test_the_summary_has_every_count_and_the_exit_code(name: str) -> None:
    for summary in summaries():
        text = formatter(name).summary(summary)
        assert all(line.isprintable() for line in text.split("\n"))
        assert str(int(summary.exit_code)) in text
        for kind in Kind:
            assert str(kind) in text
        for state in summary.lists:
            assert state.name in text


def test_a_path_of_any_bytes_keeps_its_line(name: str) -> None:
    @given(st.binary(max_size=40))
    def keeps(raw: bytes) -> None:
        line = formatter(name).outcome(Outcome(Kind.UNREAD, os.fsdecode(raw), reason="gone"))
        assert line.isprintable()

    keeps()


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert {int(code) for code in ExitCode} - {ExitCode.BUG} == set(
        SCHEMA["$defs"]["summary"]["properties"]["exit_code"]["enum"]
    )


@pytest.mark.parametrize("raw", AWFUL_PATHS, ids=lambda raw: repr(raw[:12]))
def test_jsonl_is_ascii_and_fits_the_schema_and_keeps_the_path(raw: bytes) -> None:
    for show_digests in (False, True):
        for outcome in outcomes(os.fsdecode(raw)):
            line = formatter("jsonl", show_digests=show_digests).outcome(outcome)
            assert line.isascii()
            document = json.loads(line)
            VALIDATOR.validate(document)
            assert next(iter(document)) == "type"
            assert document["type"] == outcome.kind
            assert document["size"] == outcome.size
            assert bytes_path(document) == raw
            assert ("path_b64" in document) == ("�" in document["path"])


def test_jsonl_names_the_best_hit_first_and_the_others_after() -> None:
    document = json.loads(formatter("jsonl").outcome(Outcome(Kind.MATCH, "p", 5, hits=HITS)))
    assert document == {
        "type": "match",
        "path": "p",
        "size": 5,
        "list": "baseline",
        "entry": "e-1",
        "category": "synthetic",
        "generation": 3,
        "algorithms": ["md5", "sha256"],
        "more": [
            {
                "list": "local",
                "entry": "e-2",
                "category": "other",
                "generation": 1,
                "algorithms": ["sha1"],
            }
        ],
    }


def test_jsonl_summaries_fit_the_schema_and_add_up() -> None:
    for summary in summaries():
        line = formatter("jsonl").summary(summary)
        assert line.isascii()
        document = json.loads(line)
        VALIDATOR.validate(document)
        assert next(iter(document)) == "type"
        assert document["inputs"] == sum(document[kind] for kind in Kind)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "other"},
        {"size": -1},
        {"size": 1.5},
        {"digests": {"md5": "zz"}},
        {"digest": "x"},
        {"algorithms": []},
        {"generation": 0},
        {"entry": "a b"},
        {"path": None},
        {"more": []},
    ],
)
def test_the_schema_refuses_what_no_line_may_be(change: dict[str, Any]) -> None:
    line = json.loads(formatter("jsonl").outcome(Outcome(Kind.MATCH, "p", 5, hits=HITS)))
    VALIDATOR.validate(line)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(line | change)


def test_formats_do_no_input_or_output() -> None:
    for path in (ROOT / "hashclient" / "report").glob("*.py"):
        assert "open(" not in Path(path).read_text()

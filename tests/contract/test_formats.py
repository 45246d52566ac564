"""Rules for every output format, for any outcome.

A report is written as the commands write it, read back by the reader of its format, and compared
with its input. One table names the fields that a format leaves out by design.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Action, Algorithm, Kind, MatchState
from hashclient.core.model import (
    Acted,
    Gap,
    Handled,
    HeldEntry,
    Hit,
    Invocation,
    MatchRef,
    MissingList,
)
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Summary
from hashclient.formats.registry import FORMATS, Context, formatter
from tests.contract.readers import (
    JSONL_SCHEMA,
    Fields,
    Report,
    expected,
    expected_counts,
    expected_run,
    read_csv,
    read_ecs,
    read_html,
    read_jsonl,
    read_sarif,
    read_text,
)
from tests.kit import ROOT
from tests.outcomes import handled

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DIGESTS = {a: bytes([160 + a]) * a.digest_bytes for a in Algorithm}
AWFUL_PATHS = (
    b"plain",
    b"",
    b"/",
    b"/srv/files/a.tar.gz",
    b"./a//b/../.c",
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
    b"=1+1",
    b"+1;=cmd|'/c calc'!A1",
    b"@SUM(A1)",
    b"a;=1",
    "\uff1d1".encode(),
    b"'=quoted",
    b'a,b";c',
    b"http://example.org/a?b#c%20d",
    b"<script>alert(1)</script>",
    b'"><img src=x onerror=alert(1)>',
    b"</script></style>&amp;",
)
ABOUT = Invocation("host-1", "root (sudo: mary)", "/root", ("/srv/files", "\udcff\n\x1b"), 7)
HITS = (
    Hit("baseline", "e-1", "synthetic", 3, (Algorithm.MD5, Algorithm.SHA256), complete=True),
    Hit("local", "E:2", "other", 2**53 - 1, (Algorithm.SHA1,), complete=False),
)
RECORDED = MatchRef("bcdfghjkmn", MatchState.FOUND, NOW.replace(year=2025), NOW)
TAKEN = msgspec.structs.replace(RECORDED, state=MatchState.QUARANTINED, in_place=False)
ACTED = (
    Acted(Action.QUARANTINE, done=True, detail="quarantined for 2 recipients"),
    Acted(Action.REPORT, done=False, detail="not reported: the disk is full"),
)


@dataclass(frozen=True)
class Format:
    """An output format: the function that reads its text, and the facts that it leaves out."""

    read: Callable[[str], Report]
    #: Fields of a file, or of its hits, that the format leaves out.
    without: frozenset[str] = frozenset()
    #: Kinds of outcomes that the format counts but does not list.
    unlisted: frozenset[Kind] = frozenset()
    shows_digests: bool = True
    #: Whether the summary of this format has counts and the lists that were used.
    has_counts: bool = True
    #: Whether an outcome is one or several lines that are written when it is found.
    is_lines: bool = True


TABLE = {
    "text": Format(
        read_text, without=frozenset({"size", "state", "in_place", "generation", "actions"})
    ),
    "jsonl": Format(read_jsonl),
    "csv": Format(read_csv, has_counts=False),
    "sarif": Format(read_sarif, unlisted=frozenset({Kind.CLEAN}), is_lines=False),
    "ecs": Format(read_ecs),
    "html": Format(
        read_html, without=frozenset({"generation"}), shows_digests=False, is_lines=False
    ),
}


def outcomes(path: str) -> list[Handled]:
    planned = (Acted(Action.REPORT, done=None, detail="would be reported to police"),)
    return [
        handled(Kind.CLEAN, path, 0, digests=DIGESTS),
        handled(Kind.CLEAN, path, None),
        handled(Kind.MATCH, path, 5, hits=HITS[:1], digests=DIGESTS),
        handled(Kind.MATCH, path, 2**63 - 1, hits=HITS, record=RECORDED, acted=ACTED),
        handled(Kind.MATCH, path, 6, hits=HITS[:1], record=RECORDED, acted=planned),
        handled(Kind.MATCH, path, 8, hits=HITS[:1], record=TAKEN),
        handled(Kind.MATCH, path, 7, "would only be recorded", HITS[:1], record=RECORDED),
        handled(Kind.CONFLICT, path, None, hits=HITS[1:], digests=DIGESTS, origin="sums:7"),
        handled(Kind.SKIPPED, path, reason="named pipe"),
        handled(Kind.UNREAD, path, reason="permission denied"),
        handled(Kind.UNREAD, path, reason="damaged: it ends early", members=("in!/a.zip", "")),
        handled(
            Kind.ACCEPTED, path, reason="accepted until 2030-01-01: x", members=("\udcff", "b")
        ),
        handled(Kind.EXCEPTED, path, 7, "exception x-1: a mistake", HITS[:1], record=RECORDED),
    ]


def summaries() -> list[Summary]:
    states = (
        ListState("baseline", 3, NOW, fresh=True),
        ListState("local", 1, NOW, fresh=False),
        ListState("old.er", 9, NOW, fresh=False, in_grace=True),
    )
    missing = (
        MissingList("other", "main", "never fetched"),
        MissingList("third", None, "its manifest is damaged: /srv/[x]{y}"),
        MissingList(None, "second", "no list was ever fetched"),
    )
    gaps = (
        Gap("baseline", (Algorithm.MD5,), 12, 2_000_000, 37),
        Gap("local", (Algorithm.MD5, Algorithm.SHA1, Algorithm.SHA256), 1, 1, 1),
    )
    full = Summary(lists=states, stopped=ExitCode.INTERRUPTED, missing=missing, gaps=gaps)
    full.failed, full.failure = ExitCode.AUDIT, "cannot write the audit log: /srv/x: disk full"
    for outcome in outcomes("x"):
        full.add(outcome.outcome)
    full.counts[Kind.CLEAN] = 2**40
    full.files_read, full.bytes_read, full.elapsed_s = 12_345, 2**60, 1e6
    full.ruled_out_by_size, full.known_unchanged = 1_234_567, 2**40
    full.believed_unchanged = 7_654_321
    full.opens_containers, full.members, full.members_read = True, 5, 4
    full.not_opened = {"disk": 2, "dbx": 1_234}
    clean = Summary(lists=states[:1])
    clean.counts[Kind.CLEAN] = 1
    return [
        Summary(lists=()),
        Summary(lists=states),
        full,
        clean,
        Summary(lists=states[:1], failed=ExitCode.AUDIT),
        Summary(lists=states[:1], stopped=ExitCode.TERMINATED),
        Summary(lists=states[:1], missing=missing[:1], ruled_out_by_size=1),
        Summary(lists=states[:1], gaps=gaps[1:], gaps_accepted=True, known_unchanged=1),
    ]


def write(
    name: str,
    found: Iterable[Handled],
    summary: Summary | None = None,
    *,
    command: str = "scan",
    show_digests: bool = False,
    about: Invocation | None = ABOUT,
) -> str:
    """Return a report as the commands write it."""
    written = formatter(name, Context(command, NOW, show_digests, about))
    parts = [written.begin(), *(written.outcome(o) for o in found), written.end(summary)]
    text = "".join(f"{part}\n" for part in parts if part is not None)
    # The text has no control characters, even if paths in the outcomes contain some.
    assert text.replace("\n", "").isprintable()
    return text


def told(files: Sequence[Fields], form: Format) -> list[Fields]:
    """Return `files` without facts that the format leaves out, in one order for all formats."""

    def cut(fields: Fields) -> dict[str, Any]:
        return {k: v for k, v in fields.items() if k not in form.without}

    kept = [f for f in files if f["kind"] not in form.unlisted]
    cuts = [cut(f) | {"hits": [cut(hit) for hit in f["hits"]]} for f in kept]
    return sorted(cuts, key=repr)


@pytest.fixture(params=sorted(FORMATS))
def name(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def form(name: str) -> Format:
    return TABLE[name]


def test_the_table_has_every_format_in_its_order() -> None:
    assert list(TABLE) == list(FORMATS)


@pytest.mark.sampled
@pytest.mark.parametrize("show_digests", [False, True])
@pytest.mark.parametrize("raw", AWFUL_PATHS, ids=lambda raw: repr(raw[:12]))
def test_no_field_of_an_outcome_is_lost(
    name: str, form: Format, raw: bytes, show_digests: bool
) -> None:
    found = outcomes(os.fsdecode(raw))
    summary = summaries()[2]
    report = form.read(write(name, found, summary, show_digests=show_digests))
    assert told(report.files, form) == told([expected(o) for o in found], form)


@pytest.mark.sampled
def test_a_path_of_any_bytes_comes_back(name: str, form: Format) -> None:
    @given(st.binary(max_size=40).filter(lambda raw: name != "text" or b" " not in raw))
    def comes_back(raw: bytes) -> None:
        found = [handled(Kind.UNREAD, os.fsdecode(raw), reason="gone")]
        (file,) = form.read(write(name, found, summaries()[0])).files
        assert file["path"] == raw

    comes_back()


def test_different_paths_give_different_reports(name: str) -> None:
    paths = {*AWFUL_PATHS, b"\xfe", b"\\xfe", b"\\\\xfe", "\ufffd".encode(), b"a\\x3b=1"}
    reports = {
        write(name, [handled(Kind.UNREAD, os.fsdecode(raw), reason="gone")]) for raw in paths
    }
    assert len(reports) == len(paths)


def test_digests_are_shown_when_asked_for_and_only_then(name: str, form: Format) -> None:
    found = outcomes("path")
    hidden = write(name, found, summaries()[2])
    shown = write(name, found, summaries()[2], show_digests=True)
    for digest in DIGESTS.values():
        assert digest.hex() not in hidden
        assert (digest.hex() in shown) == form.shows_digests


@pytest.mark.parametrize("number", range(len(summaries())))
def test_the_summary_has_every_count_the_lists_and_the_exit_code(
    name: str, form: Format, number: int
) -> None:
    summary = summaries()[number]
    report = form.read(write(name, [], summary))
    assert report.files == []
    assert report.exit_code == summary.exit_code
    if form.has_counts:
        assert report.counts == expected_counts(summary)
        assert report.lists == {state.name for state in summary.lists}


@pytest.mark.parametrize("number", range(len(summaries())))
def test_every_format_has_the_failures_and_the_evidence_of_a_run(
    name: str, form: Format, number: int
) -> None:
    summary = summaries()[number]
    assert form.read(write(name, [], summary)).run == expected_run(summary)


@pytest.mark.parametrize("stopped", [ExitCode.INTERRUPTED, ExitCode.TERMINATED])
def test_a_run_with_a_match_that_was_interrupted_does_not_look_complete(
    name: str, form: Format, stopped: ExitCode
) -> None:
    found = [o for o in outcomes("path") if o.outcome.kind is Kind.MATCH]
    texts = []
    for ended in (None, stopped):
        summary = Summary(lists=summaries()[3].lists, stopped=ended)
        for outcome in found:
            summary.add(outcome.outcome)
        texts.append(write(name, found, summary))
    complete, early = (form.read(text) for text in texts)
    assert complete.run is not None and early.run is not None
    assert (complete.exit_code, complete.run.interrupted_by) == (10, None)
    assert early.exit_code == 11
    assert early.run.interrupted_by == ("SIGTERM" if stopped == 143 else "SIGINT")
    assert "interrupted" in texts[1]
    assert told(early.files, form) == told(complete.files, form)


@pytest.mark.sampled
def test_a_report_of_a_run_that_was_cut_off_does_not_look_complete(name: str, form: Format) -> None:
    """A report without its last lines, one or several, looks incomplete."""
    found = outcomes("path")
    text = write(name, found, summaries()[3])
    assert form.read(text).exit_code is not None
    lines = text.splitlines(keepends=True)
    for kept in range(len(lines)):
        try:
            report = form.read("".join(lines[:kept]))
        except (AssertionError, LookupError, ValueError):
            continue  # the cut output cannot be parsed any more
        assert report.exit_code is None


@pytest.mark.parametrize("command", ["scan", "matches"])
def test_a_command_that_failed_says_so_and_nothing_else(
    name: str, form: Format, command: str
) -> None:
    for code in set(ExitCode) - {ExitCode.OK}:
        summary = Summary(lists=())
        if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
            summary.stopped = code
        else:
            summary.failed, summary.failure = code, "what went wrong: /srv/\u6587"
        text = write(name, [], summary, command=command)
        report = form.read(text)
        assert (report.files, report.exit_code) == ([], code)
        assert report.run == expected_run(summary)
        assert "othing found" not in text


def test_a_report_without_a_summary_says_nothing_of_a_run(name: str, form: Format) -> None:
    # Every recorded match is written as a match with its state.
    found = [o for o in outcomes("path") if o.record and o.outcome.kind is Kind.MATCH]
    for some in (found, []):
        report = form.read(write(name, some, None, command="matches"))
        assert told(report.files, form) == told([expected(o) for o in some], form)
        assert (report.counts, report.exit_code) == ({}, None)


def test_where_by_whom_and_for_what_a_run_was_called_is_in_every_format(name: str) -> None:
    summary = summaries()[3]
    summary.elapsed_s = 12.3
    text = write(name, [], summary)
    for word in ("host-1", "root (sudo: mary)", "/root", "/srv/files", "12.3", "7"):
        assert word in text or (name == "ecs" and word in ("12.3", "7")), word
    for odd in AWFUL_PATHS:
        path = os.fsdecode(odd)
        about = Invocation(path, path, path, (path,) * 100, 1)
        write(name, [], summary, about=about)
        write(name, [], summary, about=Invocation(path, path, None))
    assert "host-1" not in write(name, [], summary, about=None)


def test_skipped_files_are_counted_by_reason(name: str, form: Format) -> None:
    summary = Summary(lists=())
    for reason in ("symbolic link", "symbolic link", "socket", None):
        summary.add(handled(Kind.SKIPPED, "x", reason=reason).outcome)
    text = write(name, [], summary)
    assert summary.skipped == {"symbolic link": 2, "socket": 1, "other reasons": 1}
    for reason in summary.skipped:
        assert reason in text
    assert form.read(text).files == []


def test_kinds_that_are_not_opened_are_counted_by_kind(name: str, form: Format) -> None:
    summary = Summary(lists=(), opens_containers=True, not_opened={"qcow": 2, "dbx": 1})
    text = write(name, [], summary)
    for kind, number in summary.not_opened.items():
        assert re.search(rf"{kind}\W{{1,6}}{number}\b", text), text
    assert form.read(text).files == []
    assert "qcow" not in write(name, [], Summary(lists=(), opens_containers=True))


def test_entries_with_held_matches_are_named_with_their_numbers(name: str, form: Format) -> None:
    """If the record cannot be read at the end, at least the number of held matches is shown."""
    sentence = "entry d-1 of baseline matched 100,000 files: 100 isolated, 2 reported, 99,898 held"
    held = HeldEntry("baseline", "d-1", 100_000, 100, 2, 99_898)
    assert held.text == sentence
    summary = Summary(lists=(), held=99_898, held_entries=(held,))
    summary.counts[Kind.MATCH] = 100_000
    assert summary.exit_code is ExitCode.MATCH_ATTENTION
    text = write(name, [], summary)
    if name == "jsonl":
        (shown,) = json.loads(text.splitlines()[-1])["held_entries"]
        assert shown == msgspec.structs.asdict(held)
    else:
        assert sentence in text
    assert form.read(text).files == []
    summary.held_entries = (held,) * 51
    text = write(name, [], summary)
    assert name == "jsonl" or (text.count(sentence), "of more entries are" in text) == (50, True)
    assert re.search(r"99[,.]?898", write(name, [], Summary(lists=(), held=99_898)))


def test_reasons_without_end_are_summed_up() -> None:
    summary = Summary(lists=())
    for number in range(1000):
        summary.add(handled(Kind.SKIPPED, "x", reason=f"reason {number}").outcome)
    assert len(summary.skipped) == 51
    assert sum(summary.skipped.values()) == summary.counts[Kind.SKIPPED] == 1000


def test_an_interrupted_report_is_valid_with_its_outcomes_so_far(name: str, form: Format) -> None:
    found = outcomes("path")
    for stop in range(len(found) + 1):
        summary = Summary(lists=(), stopped=ExitCode.INTERRUPTED)
        for outcome in found[:stop]:
            summary.add(outcome.outcome)
        report = form.read(write(name, found[:stop], summary))
        assert told(report.files, form) == told([expected(o) for o in found[:stop]], form)


@pytest.mark.sampled
def test_words_of_others_stay_words(name: str, form: Format) -> None:
    for raw in AWFUL_PATHS:
        words = os.fsdecode(raw)
        acted = (Acted(Action.REPORT, done=False, detail=words),)
        found = [
            handled(Kind.UNREAD, "path", reason=words or "-"),
            handled(Kind.MATCH, "path", 5, hits=HITS[:1], record=RECORDED, acted=acted),
        ]
        text = write(name, found, summaries()[0])
        if name != "text":
            assert {file["path"] for file in form.read(text).files} == {b"path"}


def test_formats_of_lines_write_a_line_when_it_is_found(name: str, form: Format) -> None:
    if not form.is_lines:
        return
    for command in ("scan", "matches"):
        written = formatter(name, Context(command, NOW))
        for outcome in outcomes("path"):
            text = written.outcome(outcome)
            assert text is not None
            several = len(outcome.outcome.hits) if name in ("csv", "ecs") else 1
            assert text.count("\n") + 1 == max(1, several)


def test_every_state_of_a_match_can_be_written(name: str, form: Format) -> None:
    for state in MatchState:
        recorded = msgspec.structs.replace(RECORDED, state=state)
        found = [handled(Kind.MATCH, "path", 5, hits=HITS[:1], record=recorded)]
        text = write(name, found, None, command="matches")
        assert str(state) in text
        if "state" not in form.without:
            (file,) = form.read(text).files
            assert file["state"] == state


def test_the_schema_of_jsonl_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(JSONL_SCHEMA)
    definitions = JSONL_SCHEMA["$defs"]
    codes = set(definitions["summary"]["properties"]["exit_code"]["enum"])
    assert codes == set(ExitCode)
    hit = definitions["hit"]["properties"]
    assert hit["state"]["enum"] == list(MatchState)
    assert hit["actions"]["items"]["properties"]["action"]["enum"] == list(Action)


def test_formats_do_no_input_or_output() -> None:
    paths = list((ROOT / "hashclient" / "formats").glob("*.py"))
    assert len(paths) > len(FORMATS)
    for path in paths:
        assert "open(" not in path.read_text()
        assert "now()" not in path.read_text()

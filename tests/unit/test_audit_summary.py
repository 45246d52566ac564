"""The summary of the audit log: each figure is counted by hand, and damaged logs are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hashclient.audit.log import AuditLog, Event
from hashclient.audit.record import encode_record
from hashclient.audit.summary import Outage, summarise
from hashclient.core.errors import AuditError
from hashclient.core.figures import Spread
from tests.kit import measured
from tests.kit.depth import count_of

START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
FRESH = {"list": "a", "generation": 3, "fresh": True}


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def write(directory: Path, events: Iterable[tuple[float, Event]]) -> AuditLog:
    """Append events to a log; each event has the number of minutes between `START` and its time."""
    now = [START]
    log = AuditLog(directory, clock=lambda: now[0])
    for minutes, event in events:
        now[0] = at(minutes)
        log.append([event])
    return log


def scan_end(**more: Any) -> Event:
    return Event("scan-end", {"inputs": 0, "interrupted": False, "exit_code": 0, **more})


def hit(name: str = "a", category: str | None = "x") -> dict[str, Any]:
    return {"list": name, "entry": "e", "category": category}


YEAR: list[tuple[float, Event]] = [
    (0, Event("fetch", {"provider": "p", "list": "a", "generation": 3, "before": None,
                        "published": "2026-01-31T11:00:00Z"})),
    (1, Event("refused", {"provider": "p", "list": None, "exit_code": 4, "reason": "no"})),
    (2, Event("refused", {"provider": "p", "list": "a", "exit_code": 4, "reason": "no"})),
    (9, Event("fetch", {"provider": "p", "list": "a", "generation": 3, "before": 3,
                        "published": "2026-01-31T11:00:00Z"})),
    (10, Event("scan-start", {"lists": [FRESH], "missing": []})),
    (11, Event("match", {"id": "one", "hits": [hit(), hit()], "held": True})),
    (11, Event("match", {"id": "two", "hits": [hit("a"), hit("b", None)]})),
    (12, Event("quarantined", {"id": "two"})),
    (13, scan_end(inputs=9, clean=5, match=2, unread=2, files_read=7, bytes_read=700,
                  unread_reasons={"gone": 2}, not_opened={"pdf": 1}, members=4, exit_code=11)),
    (20, Event("scan-start", {"lists": [{**FRESH, "fresh": False}],
                              "missing": [{"list": "b", "provider": "p", "problem": "gone"}]})),
    (21, Event("match", {"id": "two", "hits": [hit()], "times": 4})),
    (21, Event("match", {"id": "two", "hits": [hit()], "part": 2, "parts": 2})),
    (25, Event("refused", {"provider": "p", "list": "a", "exit_code": 6, "reason": "forged"})),
    (30, Event("released", {"id": "one", "by": "anna"})),
    (31, Event("quarantined", {"id": "one"})),
    (32, Event("reviewed", {"id": "one", "verdict": "rejected", "by": "anna"})),
    (33, Event("reviewed", {"id": "one", "verdict": "confirmed", "by": "anna"})),
    (40, Event("report-submitted", {"report": "r", "matches": ["one", "two"]})),
    (50, Event("watch-look", {"lists": [FRESH], "missing": [], "inputs": 3, "clean": 3,
                              "unread_reasons": {"gone": 1}, "exit_code": 3,
                              "interrupted": True})),
    (51, Event("report-prepared", {"report": "r", "matches": ["one", "two"]})),
    (51, Event("report-failed", {"report": "r", "reason": "no"})),
    (52, Event("report-acknowledged", {"report": "r", "matches": ["one", "two"]})),
    (52, Event("report-retracted", {"report": "r", "matches": ["one"]})),
    (53, Event("restored", {"id": "one"})),
    (53, Event("purged", {"id": "two"})),
    (54, Event("gone", {"id": "three"})),
    (54, Event("withdrawn", {"id": "one"})),
    (54, Event("closed", {"id": "one"})),
    (55, Event("exception-added", {"id": "x", "by": "bert", "made_by": "bert"})),
    (55, Event("exception-added", {"id": "y", "by": "anna", "made_by": "anna"})),
    (55, Event("exception-approved", {"id": "x", "by": "anna", "made_by": "bert"})),
    (55, Event("exception-renewed", {"id": "x", "by": "bert", "made_by": "bert"})),
    (55, Event("exceptions-exported", {"by": "bert", "version": 1})),
    (55, Event("exceptions-imported", {"by": "bert", "version": 1})),
    (55, Event("exception-removed", {"id": "x", "by": "anna", "made_by": "bert"})),
    (55, Event("exceptions-cleared", {"by": "anna"})),
    (56, Event("reviewed", {"id": "two", "verdict": "rejected", "by": "bert"})),
    (57, Event("lookup-start", {"lists": [], "missing": []})),
    (57, Event("lookup-end", {"inputs": 4, "clean": 1, "conflict": 1, "skipped": 1, "accepted": 1,
                              "gone": 1, "exit_code": 3, "interrupted": False})),
    (58, scan_end(inputs=6, excepted=6, members=2, members_read=1, ruled_out_by_size=1,
                  ruled_out_by_claim=2, known_unchanged=3, believed_unchanged=1, objects=5,
                  by_store_digest=4, not_opened={"pdf": 1, "disk": 1})),
    (60, Event("refused", {"provider": "p", "list": None, "exit_code": 4, "reason": "no"})),
]  # fmt: skip

#: All figures of the summary, counted by hand. The test adds the id of the log and the hash of its
#: last record.
COUNTED: dict[str, Any] = {
    "schema": "hashclient-audit-summary/1",
    "since": None,
    "until": None,
    "logs": 1,
    "records": 42,
    "first_seq": 1,
    "last_seq": 42,
    "gaps": [],
    "repaired": 0,
    "runs": {
        "lookup": {"runs": 1, "unfinished": 0, "interrupted": 0, "exit_codes": {"3": 1}},
        "scan": {"runs": 2, "unfinished": 0, "interrupted": 0, "exit_codes": {"11": 1, "0": 1}},
        "watch": {"runs": 1, "unfinished": 0, "interrupted": 1, "exit_codes": {"3": 1}},
    },
    "checked": {
        "inputs": 9 + 3 + 4 + 6,
        "clean": 5 + 3 + 1,
        "match": 2,
        "conflict": 1,
        "skipped": 1,
        "unread": 2,
        "accepted": 1,
        "excepted": 6,
        "files_read": 7,
        "bytes_read": 700,
        "gone": 1,
        "ruled_out_by_size": 1,
        "known_unchanged": 3,
        "believed_unchanged": 1,
        "ruled_out_by_claim": 2,
        "by_store_digest": 4,
        "members": 4 + 2,
        "members_read": 1,
        "objects": 5,
    },
    "unread": {"gone": 3},
    "not_opened": {"disk": 1, "pdf": 2},
    "matches": {
        "answers": 1 + 1 + 4,
        "different": 2,
        "held": 1,
        "by_list": {"a": 3, "b": 1},
        "by_category": {"None": 1, "x": 3},
    },
    "acts": {
        "isolated": 2,
        "restored": 1,
        "purged": 1,
        "prepared": 1,
        "submitted": 1,
        "acknowledged": 1,
        "retracted": 1,
        "failed": 1,
        "gone": 1,
        "withdrawn": 1,
        "closed": 1,
    },
    "reviewed": {"confirmed": 1, "rejected": 1},
    # Tables of Wilson's interval show 9.45 % to 90.55 % for 1 of 2.
    "precision": {"share": 0.5, "low": 0.0945, "high": 0.9055},
    # Isolation took at most one minute for `two`, and at most twenty minutes for `one`.
    "to_isolation": {"count": 2, "median_s": 630.0, "p95_s": 1200.0},
    "to_report": {"count": 2, "median_s": 1740.0, "p95_s": 1740.0},
    "decisions": {
        "all exceptions given up": {"anna": 1},
        "exceptions added": {"anna": 1, "bert": 1},
        "exceptions approved by a second person": {"anna": 1},
        "exceptions exported": {"bert": 1},
        "exceptions removed": {"anna": 1},
        "exceptions renewed": {"bert": 1},
        "files of exceptions imported": {"bert": 1},
        "held matches released": {"anna": 1},
    },
    "lists": {
        "a": {
            "updates": 1,
            "refused": 1,
            "runs": 3,
            "runs_not_fresh": 1,
            "runs_missing": 0,
            # Runs began 70, 80 and 110 minutes after the generation was published.
            "age": {"count": 3, "median_s": 4800.0, "p95_s": 6600.0},
        },
        "b": {
            "updates": 0,
            "refused": 0,
            "runs": 0,
            "runs_not_fresh": 0,
            "runs_missing": 1,
            "age": {"count": 0, "median_s": None, "p95_s": None},
        },
    },
    "outages": [
        {
            "provider": "p",
            "since": "2026-01-31T12:01:00Z",
            "until": "2026-01-31T12:09:00Z",
            "failures": 2,
        },
        {"provider": "p", "since": "2026-01-31T13:00:00Z", "until": None, "failures": 1},
    ],
}


def test_each_figure_is_as_counted_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "audit", YEAR)
    out = msgspec.to_builtins(summarise(tmp_path / "audit"))
    lines = (tmp_path / "audit" / "log.jsonl").read_bytes().splitlines()
    first, last = msgspec.json.decode(lines[0]), msgspec.json.decode(lines[-1])
    assert (out.pop("log_id"), out.pop("last_hash")) == (first["data"]["log_id"], last["hash"])
    out["precision"] = {name: round(share, 4) for name, share in out["precision"].items()}
    assert out == COUNTED
    # A key is absent, not zero, if no event of its kind happened in the year.
    assert not [name for name in ("checked", "acts", "reviewed") if 0 in out[name].values()]


def test_the_repair_of_a_log_that_was_torn_by_a_kill_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "audit", YEAR[:3])
    with (tmp_path / "audit" / "log.jsonl").open("ab") as stream:
        stream.write(b'{"seq":5,"time"')
    write(tmp_path / "audit", YEAR[3:])
    assert summarise(tmp_path / "audit").repaired == 1


def test_records_before_the_period_count_only_where_it_refers_to_them(tmp_path: Path) -> None:
    write(tmp_path / "audit", YEAR)
    out = summarise(tmp_path / "audit", since=at(30), until=at(50))
    assert (out.records, out.first_seq, out.last_seq) == (5, 15, 19)
    assert (out.matches.answers, out.matches.different) == (0, 0)
    assert out.to_isolation == Spread(1, 1200.0, 1200.0)
    assert (out.runs, out.outages) == ({}, [])
    late = summarise(tmp_path / "audit", since=at(5), until=at(7))
    assert late.records == 0 and late.outages == [Outage("p", at(1), at(9), 2)]


def test_archived_files_count_and_missing_ones_are_a_gap(tmp_path: Path) -> None:
    log = write(tmp_path / "audit", YEAR[:9])
    whole = tmp_path / "whole"
    log.rotate()
    write(tmp_path / "audit", YEAR[9:12])
    log.rotate()
    write(tmp_path / "audit", YEAR[12:])
    everything = summarise(tmp_path / "audit")
    whole.mkdir()
    for number in (1, 2):
        (tmp_path / "audit" / f"log-{number:06}.jsonl").rename(whole / f"log-{number:06}.jsonl")
    assert summarise(tmp_path / "audit", [whole]) == everything
    first, second = whole / "log-000001.jsonl", whole / "log-000002.jsonl"
    third = tmp_path / "audit" / "log.jsonl"
    begins = [msgspec.json.decode(p.read_bytes().splitlines()[0])["seq"] for p in (second, third)]
    left = summarise(tmp_path / "audit")
    assert [(g.first, g.last) for g in left.gaps] == [(1, begins[1] - 1)]
    assert left.log_id == everything.log_id
    second.rename(tmp_path / "second")
    between = summarise(tmp_path / "audit", [whole])
    assert [(g.first, g.last) for g in between.gaps] == [(begins[0], begins[1] - 1)]
    assert first.exists()


def test_a_file_of_another_log_does_not_count(tmp_path: Path) -> None:
    log, other = (write(tmp_path / name, YEAR) for name in ("audit", "other"))
    log.rotate()
    other.rotate()
    write(tmp_path / "audit", YEAR)
    log.rotate()
    first = "log-000001.jsonl"
    (tmp_path / "audit" / first).unlink()
    archive = tmp_path / "archive"
    archive.mkdir()
    theirs = (tmp_path / "other" / first).read_bytes().splitlines(keepends=True)
    # Without the last records, a gap between the two files is possible.
    (archive / first).write_bytes(b"".join(theirs[:-3]))
    assert len(summarise(tmp_path / "audit").gaps) == 1
    with pytest.raises(AuditError, match="different logs"):
        summarise(tmp_path / "audit", [archive])


@pytest.mark.slow
def test_a_record_in_several_parts_counts_once_and_its_lists_whole(tmp_path: Path) -> None:
    used: list[dict[str, Any]] = [
        {**FRESH, "list": f"{'l' * 200}{number}"} for number in range(2000)
    ]
    missing = [{"list": n["list"], "provider": "p", "problem": "x" * 200} for n in used]
    hits = [hit(n["list"], "even" if n["list"][-1] in "02468" else "odd") for n in used]
    ids = [f"{number:016}{number:016}" for number in range(20_000)]
    large = Event("report-submitted", {"report": "r", "matches": ids})
    events = [
        (0, Event("fetch", {"provider": "p", "list": used[-1]["list"], "generation": 3,
                            "before": None, "published": "2026-01-31T11:00:00Z"})),
        (1, Event("scan-start", {"lists": used, "missing": missing})),
        (2, Event("match", {"id": ids[0], "hits": [*hits, *hits], "held": True, "times": 3})),
        (2, Event("match", {"id": ids[-1], "hits": hits[:1]})),
        (3, scan_end(inputs=2, match=2, missing=missing, unread_reasons={"gone": 1})),
        (4, Event("watch-look", {"lists": used, "missing": missing, "inputs": 1, "exit_code": 0})),
        (5, large),
    ]  # fmt: skip
    write(tmp_path / "audit", events)
    out = summarise(tmp_path / "audit")
    assert out.records > 2 * len(events)  # the audit log has more records than the test has events
    assert {name: (run.runs, run.unfinished) for name, run in out.runs.items()} == {
        "scan": (1, 0),
        "watch": (1, 0),
    }
    assert (out.checked["inputs"], out.checked["match"], out.unread) == (3, 2, {"gone": 1})
    assert {(one.runs, one.runs_missing) for one in out.lists.values()} == {(2, 2)}
    assert out.lists[used[-1]["list"]].age.count == 2
    assert (out.matches.answers, out.matches.different, out.matches.held) == (4, 2, 1)
    assert out.matches.by_list == {n["list"]: 1 + (n == used[0]) for n in used}
    assert out.matches.by_category == {"even": 2, "odd": 1}
    assert (out.acts["submitted"], out.to_report.count) == (1, 2)


def test_tables_are_sorted_so_the_same_log_gives_the_same_bytes_in_every_process(
    tmp_path: Path,
) -> None:
    hits = [hit(name, name) for name in "hgfedcba"]
    write(tmp_path / "audit", [(0, Event("match", {"id": "one", "hits": hits}))])
    found = summarise(tmp_path / "audit").matches
    assert [*found.by_list] == [*found.by_category] == [*"abcdefgh"]


def test_a_run_that_began_before_the_period_hides_none_that_did_not_end(tmp_path: Path) -> None:
    start = Event("scan-start", {"lists": [], "missing": []})
    write(tmp_path / "audit", [(0, start), (2, scan_end()), (3, start)])
    run = summarise(tmp_path / "audit", since=at(1)).runs["scan"]
    assert (run.runs, run.unfinished) == (2, 1)


EDITS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a value": lambda lines: [lines[0], lines[1].replace(b'"p"', b'"q"'), *lines[2:]],
    "a line is missing": lambda lines: [*lines[:3], *lines[4:]],
    "exchanged": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "no record": lambda lines: [*lines[:2], b"{}", *lines[2:]],
    "no text": lambda lines: [*lines[:2], b"\xff", *lines[2:]],
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_log_that_was_changed_is_not_summarised(tmp_path: Path, edit: str) -> None:
    write(tmp_path / "audit", YEAR)
    path = tmp_path / "audit" / "log.jsonl"
    path.write_bytes(b"\n".join(EDITS[edit](path.read_bytes().splitlines())) + b"\n")
    with pytest.raises(AuditError):
        summarise(tmp_path / "audit")


NOW = "2026-01-31T13:00:00.000000Z"
#: Records with the right hash and no signature. Whoever can write to the log can write such
#: records.
FORGED = {
    "no time zone": (NOW.removesuffix("Z"), '"event":"x","data":{}'),
    "no object": (NOW, '"event":"scan-end","data":[]'),
    "deep": (NOW, f'"event":"x","data":{"[" * 50_000}{"]" * 50_000}'),
    "hits": (NOW, '"event":"match","data":{"hits":1}'),
    "lists": (NOW, '"event":"scan-start","data":{"lists":[{}]}'),
    "missing": (NOW, '"event":"watch-look","data":{"missing":["a"]}'),
    "published": (NOW, '"event":"fetch","data":{"published":1}'),
    "generation": (NOW, '"event":"fetch","data":{"published":"2026-01-31T11:00:00Z"}'),
    "year": (NOW, '"event":"fetch","data":{"generation":1,"published":"0001-01-01T00:00:00"}'),
    "count": (NOW, '"event":"scan-end","data":{"inputs":"1"}'),
    "reasons": (NOW, '"event":"scan-end","data":{"unread_reasons":[1]}'),
    "matches": (NOW, '"event":"report-submitted","data":{"matches":[1]}'),
    "part": (NOW, '"event":"scan-start","data":{"part":"2"}'),
    "genesis": (NOW, '"event":"segment","data":{}'),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_record_with_other_values_than_the_program_writes_ends_with_9(
    tmp_path: Path, kind: str
) -> None:
    write(tmp_path / "audit", YEAR)
    path = tmp_path / "audit" / "log.jsonl"
    last = msgspec.json.decode(path.read_bytes().splitlines()[-1])
    time, body = FORGED[kind]
    line, _ = encode_record(last["seq"] + 1, time, body, last["hash"], None)
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(AuditError, match="does not verify"):
        summarise(tmp_path / "audit")


@pytest.mark.slow
def test_a_long_log_is_summarised_in_little_memory(tmp_path: Path) -> None:
    """The log has a million records in a deep run of the tests."""
    scans, now = count_of(1000), [START]
    log = AuditLog(tmp_path / "audit", clock=lambda: now[0])
    for scan in range(scans):
        now[0] += timedelta(hours=1)
        found = [f"{scan}-{number}" for number in range(499)]
        log.append([
            Event("scan-start", {"lists": [FRESH], "missing": []}),
            *(Event("match", {"id": name, "hits": [hit()]}) for name in found),
            *(Event("quarantined", {"id": name}) for name in found),
            scan_end(inputs=20_000, match=499, exit_code=10),
        ])  # fmt: skip
    words = ("audit", "summary", "--from", "2026-01-01", "--to", "2027-01-01", "--format", "json")
    run, _, peak_kb = measured("--state-dir", tmp_path, *words)
    found_there = json.loads(run.out)
    assert (run.code, found_there["records"]) == (0, scans * 1000 + 1)
    assert found_there["acts"]["isolated"] == found_there["matches"]["different"] == scans * 499
    assert found_there["checked"]["inputs"] == scans * 20_000
    assert peak_kb < 150_000


def test_every_figure_is_a_row_with_a_name_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "audit", YEAR)
    rows = list(summarise(tmp_path / "audit").rows())
    names = [(section, name) for section, name, _ in rows]
    assert len(set(names)) == len(names)
    assert ("unread", "gone", 3) in rows and ("outages", "2: failures", 1) in rows

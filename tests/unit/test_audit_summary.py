"""The summary of the audit log: each figure as counted by hand, and as a simple model counts it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.audit.log import AuditLog, Event
from hashclient.audit.record import encode_record
from hashclient.audit.summary import ListTotals, Outage, summarise
from hashclient.core.figures import Spread, spread, wilson
from hashclient.errors import AuditError

START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
FRESH = {"list": "a", "generation": 3, "fresh": True}


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def write(directory: Path, events: Iterable[tuple[float, Event]]) -> AuditLog:
    """Log events, each at so many minutes after the start."""
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
    (60, Event("refused", {"provider": "p", "list": None, "exit_code": 4, "reason": "no"})),
]  # fmt: skip


def test_each_figure_is_as_counted_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "audit", YEAR)
    out = summarise(tmp_path / "audit")
    assert (out.records, out.first_seq, out.last_seq, out.repaired) == (21, 1, 21, 0)
    assert out.gaps == []
    runs = {name: msgspec.to_builtins(run) for name, run in out.runs.items()}
    one = {"interrupted": 0, "unfinished": 0}
    assert runs == {
        "scan": {**one, "runs": 2, "unfinished": 1, "exit_codes": {"11": 1}},
        "watch": {**one, "runs": 1, "interrupted": 1, "exit_codes": {"3": 1}},
    }
    counted = {name: number for name, number in out.checked.items() if number}
    assert counted == {
        "inputs": 12, "clean": 8, "match": 2, "unread": 2,
        "files_read": 7, "bytes_read": 700, "members": 4,
    }  # fmt: skip
    assert (out.unread, out.not_opened) == ({"gone": 3}, {"pdf": 1})
    assert (out.matches.answers, out.matches.different, out.matches.held) == (6, 2, 1)
    assert out.matches.by_list == {"a": 3, "b": 1}
    assert out.matches.by_category == {"x": 3, "None": 1}
    assert {name: n for name, n in out.acts.items() if n} == {"isolated": 2, "submitted": 1}
    assert out.to_isolation == Spread(2, 630.0, 1200.0)
    assert out.to_report == Spread(2, 1740.0, 1740.0)
    assert out.reviewed == {"confirmed": 1, "rejected": 0} and out.precision == wilson(1, 1)
    assert out.decisions == {"held matches released": {"anna": 1}}
    age = spread([70 * 60, 80 * 60, 110 * 60])
    assert out.lists == {
        "a": ListTotals(updates=1, refused=1, runs=3, runs_not_fresh=1, age=age),
        "b": ListTotals(runs_missing=1),
    }
    assert out.outages == [Outage("p", at(1), at(9), 2), Outage("p", at(60), None, 1)]


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
    (archive / first).write_bytes(b"".join(theirs[:-3]))  # a gap may be behind it
    assert len(summarise(tmp_path / "audit").gaps) == 1
    with pytest.raises(AuditError, match="different logs"):
        summarise(tmp_path / "audit", [archive])


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
    assert out.records > 2 * len(events)  # there are parts
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
#: Records with the right hash and no signature, which anybody can write who can write to the log.
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


_IDS = st.sampled_from(["m1", "m2", "m3"])
_EVENTS = st.one_of(
    st.builds(
        lambda i, n: Event("match", {"id": i, "hits": [hit(n)]}), _IDS, st.sampled_from("ab")
    ),
    st.builds(lambda i: Event("quarantined", {"id": i}), _IDS),
    st.builds(lambda i: Event("report-submitted", {"matches": [i]}), _IDS),
    st.just(Event("scan-start", {"lists": [], "missing": []})),
    st.builds(
        lambda n, r: scan_end(inputs=n, unread=n, unread_reasons={r: n}),
        st.integers(0, 9),
        st.sampled_from(["gone", "damaged"]),
    ),
)


def model(events: Sequence[tuple[float, Event]], since: float, until: float) -> dict[str, Any]:
    """Count the simple way."""
    inside = [(t, e) for t, e in events if since <= t < until]
    matched = [e.data["id"] for _, e in inside if e.event == "match"]
    reasons: dict[str, int] = {}
    for _, e in inside:
        for reason, count in e.data.get("unread_reasons", {}).items():
            reasons[reason] = reasons.get(reason, 0) + count
    isolated: dict[str, float] = {}
    for t, e in inside:
        if e.event == "quarantined":
            isolated.setdefault(e.data["id"], t)
    found: dict[str, float] = {}
    for t, e in events:
        if e.event == "match" and t < until:
            found.setdefault(e.data["id"], t)
    waits = [60 * (t - found[i]) for i, t in isolated.items() if i in found and found[i] <= t]
    ends = unfinished = 0
    for _, e in inside:
        ends += e.event == "scan-end"
        unfinished = max(0, unfinished + (e.event == "scan-start") - (e.event == "scan-end"))
    return {
        "answers": len(matched),
        "different": len(set(matched)),
        "unread": dict(sorted(reasons.items())),
        "isolated": sum(e.event == "quarantined" for _, e in inside),
        "median": median(waits) if waits else None,
        "runs": ends + unfinished,
    }


@given(st.lists(_EVENTS, max_size=25), st.integers(0, 12), st.integers(13, 30))
def test_it_agrees_with_a_simple_model(events: list[Event], since: int, until: int) -> None:
    timed = [(float(n), event) for n, event in enumerate(events, 1)]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "audit", timed or [(0.0, Event("init", {}))])
        out = summarise(Path(folder) / "audit", since=at(since), until=at(until))
        again = summarise(Path(folder) / "audit", since=at(since), until=at(until))
    assert msgspec.json.encode(out) == msgspec.json.encode(again)
    wanted = model(timed, since, until)
    runs = out.runs.get("scan")
    assert {
        "answers": out.matches.answers,
        "different": out.matches.different,
        "unread": out.unread,
        "isolated": out.acts["isolated"],
        "median": out.to_isolation.median_s,
        "runs": 0 if runs is None else runs.runs,
    } == wanted


def test_every_figure_is_a_row_with_a_name_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "audit", YEAR)
    rows = list(summarise(tmp_path / "audit").rows())
    names = [(section, name) for section, name, _ in rows]
    assert len(set(names)) == len(names)
    assert ("unread", "gone", 3) in rows and ("outages", "2: failures", 1) in rows

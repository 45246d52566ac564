"""`audit summary` agrees with a simple model, figure by figure, in any log and any period.

The model reads the lines of the files itself and keeps all of them; for each figure, it looks at
all records.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.audit.log import AuditLog, Event
from hashclient.audit.summary import Summary, summarise
from tests.kit import fast_directory
from tests.kit.depth import examples

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
COUNTED = [
    "inputs",
    "clean",
    "match",
    "conflict",
    "skipped",
    "unread",
    "accepted",
    "excepted",
    "files_read",
    "bytes_read",
    "gone",
    "ruled_out_by_size",
    "known_unchanged",
    "believed_unchanged",
    "ruled_out_by_claim",
    "by_store_digest",
    "members",
    "members_read",
    "objects",
]
ACTS = {
    "isolated": "quarantined",
    "restored": "restored",
    "purged": "purged",
    "prepared": "report-prepared",
    "submitted": "report-submitted",
    "acknowledged": "report-acknowledged",
    "retracted": "report-retracted",
    "failed": "report-failed",
    "gone": "gone",
    "withdrawn": "withdrawn",
    "closed": "closed",
}
DECISIONS = {
    "held matches released": "released",
    "exceptions added": "exception-added",
    "exceptions approved by a second person": "exception-approved",
    "exceptions renewed": "exception-renewed",
    "exceptions removed": "exception-removed",
    "exceptions exported": "exceptions-exported",
    "files of exceptions imported": "exceptions-imported",
    "all exceptions given up": "exceptions-cleared",
}

ids, names = st.sampled_from(["m1", "m2", "m3"]), st.sampled_from("ab")
people, providers = st.sampled_from(["anna", "bert"]), st.sampled_from("pq")
commands = st.sampled_from(["scan", "lookup", "serve"])
numbers = st.integers(0, 99)


def data(**values: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(values)


ends = st.fixed_dictionaries(
    {"exit_code": st.sampled_from([0, 3, 10, 11]), "interrupted": st.booleans()},
    optional={
        **dict.fromkeys(COUNTED, numbers),
        "unread_reasons": st.dictionaries(st.sampled_from(["gone", "damaged"]), numbers),
        "not_opened": st.dictionaries(st.sampled_from(["pdf", "disk"]), numbers),
    },
)
beginnings = data(
    lists=st.lists(data(list=names, generation=st.integers(1, 3), fresh=st.booleans())),
    missing=st.lists(data(list=st.none() | names, provider=providers, problem=st.just("gone"))),
)
matches = st.fixed_dictionaries(
    {"hits": st.lists(data(list=names, category=st.none() | names), max_size=3)},
    optional={"id": ids, "held": st.booleans(), "times": st.integers(1, 5)},
)
fetches = data(
    provider=providers,
    list=names,
    generation=st.integers(1, 3),
    before=st.none() | st.integers(1, 3),
    published=st.integers(0, 600).map(lambda n: f"{START - timedelta(minutes=n):%FT%TZ}"),
)
refusals = data(provider=providers, list=st.none() | names, exit_code=st.sampled_from([4, 5, 6]))


def of(names: Iterable[str], values: st.SearchStrategy[dict[str, Any]]) -> Any:
    return st.builds(Event, st.sampled_from(sorted(names)), values)


events = st.one_of(
    of(["match"], matches),
    of(["match"], matches),
    of(["quarantined"], data(id=ids)),
    of(["report-submitted"], data(matches=st.lists(ids))),
    of(ACTS.values(), data(id=ids, matches=st.lists(ids))),
    of(["reviewed"], data(id=ids, verdict=st.sampled_from(["confirmed", "rejected"]), by=people)),
    of(DECISIONS.values(), data(by=people)),
    of(["fetch"], fetches),
    of(["refused"], refusals),
    of(["scan-start", "lookup-start", "serve-start"], beginnings),
    of(["scan-end", "lookup-end", "serve-end"], ends),
    of(["watch-look"], st.builds(lambda one, other: one | other, beginnings, ends)),
    of(["init", "notice-shown", "excepted", "conflict"], data(by=people)),
)
#: What happens to a log file before the log is summarised: it stays, is archived, or is lost.
HERE, ARCHIVED, LOST = "here", "archived", "lost"
steps = st.tuples(events, st.integers(0, 9), st.sampled_from([False, False, False, True]))


class Record(msgspec.Struct):
    """A record of the audit log."""

    seq: int
    time: datetime
    event: str
    data: dict[str, Any]
    hash: str


def model(records: Sequence[Record], since: datetime | None, until: datetime | None) -> Any:
    """Return the summary as plain values."""
    inside = [
        r
        for r in records
        if (since is None or since <= r.time) and (until is None or r.time < until)
    ]
    first = records[0].data
    found = [r for r in inside if r.event == "match"]
    done = [r for r in inside if r.event.endswith("-end") or r.event == "watch-look"]
    said = {r.data["id"]: r.data["verdict"] for r in inside if r.event == "reviewed"}
    verdicts = {word: [*said.values()].count(word) for word in ("confirmed", "rejected")}
    submitted = [
        (i, r.time) for r in inside if r.event == "report-submitted" for i in r.data["matches"]
    ]
    isolated = [(r.data["id"], r.time) for r in inside if r.event == "quarantined"]
    return {
        "schema": "hashclient-audit-summary/1",
        "since": None if since is None else shown(since),
        "until": None if until is None else shown(until),
        "log_id": first.get("log_id") or first["genesis"]["data"]["log_id"],
        "logs": 1,
        "records": len(inside),
        "first_seq": inside[0].seq if inside else 0,
        "last_seq": inside[-1].seq if inside else 0,
        "last_hash": inside[-1].hash if inside else "",
        "gaps": [
            {"first": before + 1, "last": r.seq - 1, "until": shown(r.time)}
            for before, r in zip([0, *(r.seq for r in records)], records, strict=False)
            if r.seq != before + 1
        ],
        "repaired": sum(r.event == "audit-recovered" for r in inside),
        "runs": runs(inside),
        "checked": {name: sum(r.data.get(name, 0) for r in done) for name in COUNTED},
        "unread": added(r.data.get("unread_reasons", {}) for r in done),
        "not_opened": added(r.data.get("not_opened", {}) for r in done),
        "matches": {
            "answers": sum(r.data.get("times", 1) for r in found),
            "different": len({r.data["id"] for r in found if "id" in r.data}),
            "held": sum(r.data.get("held", False) for r in found),
            "by_list": added(dict.fromkeys({h["list"] for h in r.data["hits"]}, 1) for r in found),
            "by_category": added(
                dict.fromkeys({str(h["category"]) for h in r.data["hits"]}, 1) for r in found
            ),
        },
        "acts": {name: sum(r.event == event for r in inside) for name, event in ACTS.items()},
        "reviewed": verdicts,
        "precision": interval(verdicts["confirmed"], len(said)),
        "to_isolation": spread(waits(records, isolated)),
        "to_report": spread(waits(records, submitted)),
        "decisions": {
            name: added({r.data["by"]: 1} for r in inside if r.event == event)
            for name, event in sorted(DECISIONS.items())
            if any(r.event == event for r in inside)
        },
        "lists": lists(records, inside),
        "outages": outages(records, since, until),
    }


def shown(time: datetime) -> str:
    return f"{time:%FT%TZ}"


def added(tables: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for table in tables:
        total.update(table)
    return dict(sorted(total.items()))


def runs(inside: Sequence[Record]) -> dict[str, Any]:
    found = {}
    for command in ("lookup", "scan", "serve", "watch"):
        left = 0
        ended: list[dict[str, Any]] = []
        for r in inside:
            if r.event == f"{command}-start":
                left += 1
            elif r.event in (f"{command}-end", f"{command}-look"):
                left, ended = max(left - 1, 0), [*ended, r.data]
        if left or ended:
            found[command] = {
                "runs": len(ended) + left,
                "unfinished": left,
                "interrupted": sum(end["interrupted"] for end in ended),
                "exit_codes": dict(Counter(str(end["exit_code"]) for end in ended)),
            }
    return found


def waits(records: Sequence[Record], acts: Sequence[tuple[str, datetime]]) -> list[float]:
    """Return the time between the first record of each match and the first action on it."""
    took = []
    for match_id in dict(acts):
        times = [r.time for r in records if r.event == "match" and r.data.get("id") == match_id]
        act = min(time for name, time in acts if name == match_id)
        if times and times[0] <= act:
            took.append((act - times[0]).total_seconds())
    return took


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(seconds)
    if not ordered:
        return {"count": 0, "median_s": None, "p95_s": None}
    # The smallest value that is at least as large as 95 % of the values.
    p95 = next(s for s in ordered if sum(o <= s for o in ordered) * 20 >= 19 * len(ordered))
    return {"count": len(ordered), "median_s": statistics.median(ordered), "p95_s": p95}


def interval(good: int, count: int) -> Any:
    """Return Wilson's interval, by the formula without nested fractions."""
    if not count:
        return None
    z = 1.959964
    half = z * math.sqrt(good * (count - good) / count + z * z / 4)
    low, high = ((good + z * z / 2 + side) / (count + z * z) for side in (-half, half))
    about = {"share": good / count, "low": max(0.0, low), "high": min(1.0, high)}
    return {name: pytest.approx(share, abs=1e-9) for name, share in about.items()}


def lists(records: Sequence[Record], inside: Sequence[Record]) -> dict[str, Any]:
    fetched = [r for r in inside if r.event == "fetch"]
    refused = [r for r in inside if r.event == "refused" and r.data["exit_code"] != 4]
    used = [(r, one) for r in inside for one in r.data.get("lists", ())]
    gone = [one for r in inside for one in r.data.get("missing", ())]
    asked = [r for r in inside if r.event == "refused"]
    every = {r.data["list"] for r in [*fetched, *asked]} | {one["list"] for one in gone}
    return {
        name: {
            "updates": sum(
                r.data["list"] == name and r.data["before"] != r.data["generation"] for r in fetched
            ),
            "refused": sum(r.data["list"] == name for r in refused),
            "runs": sum(one["list"] == name for _, one in used),
            "runs_not_fresh": sum(one["list"] == name and not one["fresh"] for _, one in used),
            "runs_missing": sum(one["list"] == name for one in gone),
            "age": spread(
                [a for r, one in used if one["list"] == name for a in age(records, r, one)]
            ),
        }
        for name in sorted((every | {one["list"] for _, one in used}) - {None})
    }


def age(records: Sequence[Record], run: Record, used: dict[str, Any]) -> list[float]:
    """Return the age of a list at a run's start; an empty list if no earlier record has it."""
    said = [
        r.data["published"]
        for r in records
        if r.seq < run.seq
        and r.event == "fetch"
        and (r.data["list"], r.data["generation"]) == (used["list"], used["generation"])
    ]
    return [(run.time - datetime.fromisoformat(one)).total_seconds() for one in said[-1:]]


def outages(
    records: Sequence[Record], since: datetime | None, until: datetime | None
) -> list[dict[str, Any]]:
    found = []
    for provider in "pq":
        asked = [
            r for r in records if r.event in ("fetch", "refused") and r.data["provider"] == provider
        ]
        failed: list[Record] = []
        for r in [*asked, None]:
            if r is not None and r.event == "refused" and r.data["exit_code"] == 4:
                failed.append(r)
            elif failed:
                end = None if r is None else r.time
                is_over = since is not None and end is not None and end < since
                if not is_over and (until is None or failed[0].time < until):
                    found.append(
                        {
                            "provider": provider,
                            "since": shown(failed[0].time),
                            "until": None if end is None else shown(end),
                            "failures": len(failed),
                        }
                    )
                failed = []
    return sorted(found, key=lambda one: (one["since"], one["provider"]))


def write(directory: Path, written: Sequence[tuple[Event, int, bool]]) -> list[Path]:
    """Write a log in several files, and return them; the last one is the open file."""
    now = [START]
    log = AuditLog(directory, clock=lambda: now[0])
    log.append([Event("init", {})])
    for event, minutes, closes in written:
        now[0] += timedelta(minutes=minutes)
        log.append([event])
        if closes:
            log.rotate()
    return [*sorted(directory.glob("log-*.jsonl")), directory / "log.jsonl"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with fast_directory() as directory, mock.patch("os.fsync"):
        yield directory


@pytest.mark.slow
@examples(100)
@given(
    st.lists(steps, max_size=30),
    st.lists(st.sampled_from([HERE, HERE, ARCHIVED, ARCHIVED, LOST]), min_size=30, max_size=30),
    st.none() | st.integers(0, 120),
    st.none() | st.integers(1, 120),
)
def test_each_figure_is_that_of_a_simple_model(
    place: Path,
    written: list[tuple[Event, int, bool]],
    places: list[str],
    since: int | None,
    length: int | None,
) -> None:
    check(place, written, places, since, length)


@examples(15)
@given(st.lists(steps, max_size=15))
def test_each_figure_of_a_whole_log_is_that_of_a_simple_model(
    place: Path, written: list[tuple[Event, int, bool]]
) -> None:
    check(place, written, [HERE] * 15, None, None)


def check(
    directory: Path,
    written: list[tuple[Event, int, bool]],
    places: list[str],
    since: int | None,
    length: int | None,
) -> None:
    """Compare the summary with the model, with some files archived and some lost."""
    begin = None if since is None else START + timedelta(minutes=since)
    end = None if length is None else (begin or START) + timedelta(minutes=length)
    with tempfile.TemporaryDirectory(dir=directory) as name:
        folder = Path(name)
        *closed, last = write(folder / "audit", written)
        (archive := folder / "archive").mkdir()
        lines: list[bytes] = []
        for path, place in zip(closed, places, strict=False):
            lines += path.read_bytes().splitlines() if place != LOST else []
            if place == ARCHIVED:
                path.rename(archive / path.name)
            elif place == LOST:
                path.unlink()
        lines += last.read_bytes().splitlines()
        records = [msgspec.json.decode(line, type=Record) for line in lines]
        one, again = (
            summarise(folder / "audit", [archive], since=begin, until=end) for _ in range(2)
        )
    text = msgspec.json.encode(one)
    assert text == msgspec.json.encode(again)
    assert {*json.loads(text)} == {*Summary.__struct_fields__}
    assert json.loads(text) == model(records, begin, end)

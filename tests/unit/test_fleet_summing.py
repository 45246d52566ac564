"""Audit summaries of several machines are added up: each figure is a sum or a maximum."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.audit.log import Event
from hashclient.audit.summary import SCHEMA, Outage, Summary, summarise
from hashclient.core.errors import UsageError
from hashclient.core.figures import Spread
from hashclient.fleet.summing import add_up, parse_summary
from tests.kit import call
from tests.kit.depth import examples
from tests.unit.test_audit_summary import FRESH, START, at, hit, scan_end, write

LISTS = Event("scan-start", {"lists": [FRESH], "missing": []})


def summary(**values: object) -> Summary:
    number = len(json.dumps(values, default=str))
    return msgspec.structs.replace(Summary(SCHEMA, None, None, f"log {number}"), **values)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Write the audit logs of two machines, and return their summaries."""
    match = Event("match", {"id": "m-1", "hits": [hit()]})
    write(tmp_path / "a", [(0, LISTS), (1, match), (2, scan_end(inputs=5, match=1, exit_code=10))])
    write(
        tmp_path / "b",
        [
            (0, LISTS),
            (1, match),
            (2, match),
            (3, Event("quarantined", {"id": "m-1"})),
            (4, scan_end(inputs=7, unread=2, unread_reasons={"x": 2}, exit_code=11)),
            (5, LISTS),
        ],
    )
    files = []
    for name in ("a", "b"):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_bytes(msgspec.json.encode(summarise(tmp_path / name)))
    return files


def test_each_figure_is_the_sum_as_counted_by_hand(two: list[Path]) -> None:
    total = add_up([parse_summary(path.read_bytes()) for path in two])
    assert (total.schema, total.logs, total.log_id) == ("hashclient-fleet-summary/1", 2, "")
    assert (total.checked["inputs"], total.checked["unread"]) == (12, 2)
    assert total.unread == {"x": 2}
    assert (total.matches.answers, total.matches.by_list) == (3, {"a": 3})
    scan = total.runs["scan"]
    assert (scan.runs, scan.unfinished, scan.exit_codes) == (3, 1, {"10": 1, "11": 1})
    assert total.acts["isolated"] == 1
    assert total.to_isolation == Spread(1, 120.0, 120.0)
    assert total.lists["a"].runs == 3


def test_the_command_writes_it_in_every_format_and_twice_the_same(two: list[Path]) -> None:
    for output_format in ("text", "json", "csv", "html"):
        words = ("fleet", "summary", *two, "--format", output_format)
        done = call(*words)
        assert (done.code, done.err) == (0, "")
        assert done.out == call(*words).out
        assert "12" in done.out
    assert call("fleet", "summary", two[0], two[0]).code == 2
    (two[0].parent / "bad.json").write_text("{}")
    refused = call("fleet", "summary", two[0].parent / "bad.json")
    assert refused.code == 2 and "not a summary of an audit log" in refused.err


def test_names_of_others_are_shown_escaped(two: list[Path]) -> None:
    text = two[0].read_text().replace('"by_list":{"a"', '"by_list":{"a\\u001b[2J"')
    two[0].write_text(text)
    for output_format in ("text", "csv", "html"):
        assert "\x1b" not in call("fleet", "summary", *two, "--format", output_format).out


@pytest.mark.parametrize(
    "value",
    [
        {"reviewed": {"confirmed": 5, "rejected": -4}},
        {"reviewed": {"confirmed": 10**400}},
        {"records": -1},
        {
            "outages": [
                {"provider": "p", "since": "2026-01-01T00:00:00", "until": None, "failures": 1}
            ]
        },
        {"since": "2026-01-01T00:00:00"},
        {"schema": "hashclient-fleet-summary/1"},
    ],
)
def test_a_file_with_what_no_log_has_is_refused(tmp_path: Path, value: dict[str, object]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(msgspec.to_builtins(summary()) | value))
    done = call("--state-dir", tmp_path / "state", "fleet", "summary", path)
    assert (done.code, done.out) == (2, "")
    assert "not a summary of an audit log" in done.err


def test_a_key_that_is_there_twice_is_refused() -> None:
    text = msgspec.json.encode(summary())
    with pytest.raises(ValueError, match="same key twice"):
        parse_summary(text.replace(b"{", b'{"records":1,', 1))


def test_other_periods_are_refused() -> None:
    with pytest.raises(UsageError, match="different periods"):
        add_up([summary(), summary(since=START)])
    with pytest.raises(UsageError, match="different periods, or there is none"):
        add_up([])


def test_outages_that_overlap_are_one() -> None:
    def outage(begin: float, end: float | None, provider: str = "p") -> Outage:
        return Outage(provider, at(begin), None if end is None else at(end), 2)

    first = summary(outages=[outage(0, 10), outage(30, None)])
    second = summary(outages=[outage(5, 20), outage(40, 50), outage(0, 1, "q")], records=7)
    assert add_up([first, second]).outages == [
        Outage("p", at(0), at(20), 4),
        Outage("p", at(30), None, 4),
        Outage("q", at(0), at(1), 2),
    ]


_tables = st.dictionaries(st.sampled_from("abc"), st.integers(0, 1000))


@examples(100)
@given(st.lists(st.tuples(_tables, st.integers(0, 99)), min_size=1, max_size=6))
def test_tables_are_added_by_their_keys(parts: list[tuple[dict[str, int], int]]) -> None:
    summaries = [
        msgspec.structs.replace(Summary(SCHEMA, None, None, str(n)), unread=table, records=count)
        for n, (table, count) in enumerate(parts)
    ]
    total = add_up(summaries)
    assert total.records == sum(count for _, count in parts)
    keys = {key for table, _ in parts for key in table}
    assert total.unread == {
        key: sum(table.get(key, 0) for table, _ in parts) for key in sorted(keys)
    }

"""Lines that are put together from prepared parts equal the lines of the encoders."""

from __future__ import annotations

import csv
import io
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hashclient.audit.log import Encoded
from hashclient.audit.record import (
    NO_HASH,
    chain_record,
    chain_unsigned,
    encode_body,
    finish_record,
    parse_record,
)
from hashclient.core.kinds import Algorithm, Kind, MatchState
from hashclient.core.model import Handled, Hit, MatchRef, Outcome, Recorded
from hashclient.formats.csv import COLUMNS, CsvFormatter
from hashclient.formats.jsonl import JsonlFormatter
from hashclient.formats.registry import Context
from hashclient.formats.text import TextFormatter
from hashclient.scan.run import recorder

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)

paths = st.binary(max_size=40).map(lambda raw: "/" + os.fsdecode(raw.replace(b"\0", b"")))
hits = st.builds(
    Hit,
    st.sampled_from(("base", "other")),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=6),
    st.integers(1, 3),
    st.integers(1, 7).map(Algorithm.in_mask),
    st.booleans(),
)
records = st.builds(
    MatchRef,
    st.text(alphabet="bcd2345", min_size=10, max_size=10),
    st.sampled_from(MatchState),
    st.sampled_from((NOW, NOW + timedelta(microseconds=7))),
    st.sampled_from((NOW, NOW + timedelta(days=1))),
    st.booleans(),
)
found = st.builds(
    Handled,
    st.builds(
        Outcome,
        st.sampled_from((Kind.MATCH, Kind.CONFLICT)),
        paths,
        st.none() | st.integers(0, 2**60),
        st.none() | st.just("why"),
        st.lists(hits, max_size=2).map(tuple),
        origin=st.none() | st.just("sums:1"),
        members=st.sampled_from(((), ("in", "ner"))),
    ),
    st.none() | records,
)
many = st.lists(found, max_size=5)


@settings(max_examples=25)
@given(many)
def test_lines_of_json_are_those_of_the_encoder(outcomes: list[Handled]) -> None:
    formatter = JsonlFormatter(Context("scan", NOW))
    for handled in outcomes:
        assert formatter.outcome(handled) == json.dumps(formatter._document(handled))


@settings(max_examples=25)
@given(many)
def test_rows_and_lines_say_what_a_fresh_formatter_says(outcomes: list[Handled]) -> None:
    """Text that was rendered for one outcome must not occur in the line of another outcome."""
    for made in (CsvFormatter, TextFormatter):
        formatter = made(Context("scan", NOW))
        for handled in outcomes:
            assert formatter.outcome(handled) == made(Context("scan", NOW)).outcome(handled)


@settings(max_examples=25)
@given(many)
def test_each_row_has_the_fields_of_its_hit(outcomes: list[Handled]) -> None:
    formatter = CsvFormatter(Context("scan", NOW))
    for handled in outcomes:
        rows = list(csv.DictReader(io.StringIO(formatter.outcome(handled)), COLUMNS))
        shown = handled.outcome.hits
        assert len(rows) == max(1, len(shown))
        assert [row["generation"] for row in rows] == ([str(h.generation) for h in shown] or [""])
        assert [row["complete"] for row in rows] == (
            ["yes" if h.complete else "no" for h in shown] or [""]
        )
        for row in rows:
            assert row["id"] == ("" if handled.record is None else handled.record.id)
            assert row["state"] == ("" if handled.record is None else handled.record.state)


@settings(max_examples=25)
@given(many)
def test_a_match_in_the_log_has_the_spelling_of_the_log(outcomes: list[Handled]) -> None:
    events = recorder.MatchEvents()
    for handled in outcomes:
        recorded = Recorded(handled.outcome, handled.record)
        event = events.of(recorded)
        data: dict[str, Any] = recorder._data(recorded)
        body = event.body if isinstance(event, Encoded) else encode_body(event.event, event.data)
        assert body == encode_body(str(handled.outcome.kind), data)


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.text(max_size=4), st.integers(), max_size=2), max_size=6))
def test_a_chain_made_in_one_go_is_that_of_its_records(data: list[dict[str, int]]) -> None:
    bodies = [encode_body("match", one) for one in data]
    lines: list[bytes] = []
    last = chain_unsigned(5, "2026-05-01T12:00:00.000000Z", bodies, NO_HASH, lines)
    prev = NO_HASH
    for number, (body, line) in enumerate(zip(bodies, lines, strict=True), 5):
        head, prev = chain_record(number, "2026-05-01T12:00:00.000000Z", body, prev, signed=False)
        assert line == finish_record(head, prev, None)
        assert parse_record(line[:-1], "a line").hash == prev
    assert last == prev

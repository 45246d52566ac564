"""An event that is too large for one line of the audit log is recorded in several lines."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hashclient.audit.log import AuditLog, Encoded, Event, read, verify
from hashclient.audit.parts import MAX_BODY_CHARS, bodies_of
from hashclient.audit.record import MAX_LINE_BYTES, encode_body
from hashclient.core.errors import AuditError

NOW = datetime(2026, 1, 31, tzinfo=UTC)
HITS = [{"list": f"l{n}", "entry": "e" * 60} for n in range(30_000)]


def data_of(bodies: list[str]) -> list[dict[str, object]]:
    return [json.loads(f"{{{body}}}")["data"] for body in bodies]


def test_an_event_that_fits_is_one_record_as_it_is() -> None:
    data = {"path": "/srv/é", "hits": HITS[:3]}
    assert bodies_of(Event("match", data)) == [encode_body("match", data)]
    largest = Event(
        "match", {"text": "a" * (MAX_BODY_CHARS - len(encode_body("match", {"text": ""})))}
    )
    assert len(bodies_of(largest)) == 1


@pytest.mark.parametrize("is_encoded", [False, True])
def test_a_larger_one_is_several_which_together_have_all_of_it(is_encoded: bool) -> None:
    data = {"id": "m", "path": "/srv/a", "hits": HITS, "size": 7, "missing": ["x", "y"]}
    event: Event | Encoded = Event("match", data)
    if is_encoded:
        event = Encoded("match", json.dumps(data, separators=(",", ":")))
    parts = data_of(bodies_of(event))
    assert len(parts) > 5
    assert [part["part"] for part in parts] == [*range(1, len(parts) + 1)]
    assert {(p["parts"], p["id"], p["path"], p["size"]) for p in parts} == {
        (len(parts), "m", "/srv/a", 7)
    }
    for key in ("hits", "missing"):
        assert [value for part in parts for value in part[key]] == data[key]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_every_part_fits_into_a_line_beside_others(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", clock=lambda: NOW)
    log.append([Event("one", {}), Event("match", {"id": "m", "hits": HITS}), Event("two", {})])
    records = list(read(tmp_path / "audit"))
    assert [r.event for r in records][:2] == ["genesis", "one"]
    assert records[-1].event == "two"
    assert {r.event for r in records[2:-1]} == {"match"}
    assert all(len(r.line) < MAX_LINE_BYTES // 2 for r in records)
    assert verify(tmp_path / "audit", None).records == len(records)


def test_a_value_that_is_no_list_is_not_cut(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", clock=lambda: NOW)
    with pytest.raises(AuditError, match="too large"):
        log.append([Event("note", {"text": "a" * MAX_LINE_BYTES})])

"""The format `ecs`: one event for each hit, list and run."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Action, Algorithm, Kind, MatchState
from hashclient.core.model import Acted, Gap, Handled, Hit, MatchRef, MissingList
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Summary
from hashclient.formats.ecs import ECS_VERSION, EcsFormatter
from hashclient.formats.registry import Context
from hashclient.system.text import for_programs
from tests.contract.readers import DATA, check_ecs
from tests.outcomes import handled

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HIT = Hit("baseline", "e-1", "synthetic", 3, (Algorithm.MD5, Algorithm.SHA1), complete=True)
OTHER = Hit("local", "e-2", "other", 1, (Algorithm.SHA256,), complete=False)
RECORDED = MatchRef("3kdz7wnq2m", MatchState.QUARANTINED, NOW - timedelta(days=1), NOW)


def events(
    outcome: Handled, *, command: str = "scan", show_digests: bool = False
) -> list[dict[str, Any]]:
    text = EcsFormatter(Context(command, NOW, show_digests)).outcome(outcome)
    found = [json.loads(line) for line in text.split("\n")]
    for event in found:
        check_ecs(event)
    return found


def test_the_version_is_that_of_the_table() -> None:
    assert (DATA / f"ecs-fields-{ECS_VERSION}.json").exists()


def test_a_match_is_an_alert_with_the_entry_as_its_rule() -> None:
    acted = (Acted(Action.QUARANTINE, done=True, detail="quarantined"),)
    digests = {Algorithm.MD5: b"\1" * 16}
    outcome = handled(
        Kind.MATCH, "/srv/a.tar.gz", 5, None, (HIT,), digests=digests, record=RECORDED, acted=acted
    )
    (event,) = events(outcome)
    assert event == {
        "@timestamp": "2026-01-02T03:04:05Z",
        "ecs": {"version": ECS_VERSION},
        "message": "match: /srv/a.tar.gz: list baseline, entry e-1, category synthetic",
        "event": {
            "module": "hashclient",
            "dataset": "hashclient.scan",
            "kind": "alert",
            "category": ["file"],
            "type": ["info"],
            "action": "match",
            "outcome": "success",
            "severity": 99,
            "start": "2026-01-01T03:04:05Z",
            "end": "2026-01-02T03:04:05Z",
        },
        "file": {
            "path": "/srv/a.tar.gz",
            "name": "a.tar.gz",
            "directory": "/srv",
            "extension": "gz",
            "size": 5,
        },
        "rule": {
            "id": "e-1",
            "name": "baseline/synthetic",
            "category": "synthetic",
            "ruleset": "baseline",
            "version": "3",
        },
        "labels": {
            "match_id": "3kdz7wnq2m",
            "match_state": "quarantined",
            "match_in_place": "yes",
            "quarantine": "yes",
            "actions": "quarantined",
            "algorithms": "md5 sha1",
            "complete": "yes",
        },
    }
    (with_digests,) = events(outcome, show_digests=True)
    assert with_digests["file"].pop("hash") == {"md5": "01" * 16}
    assert with_digests == event


def test_every_hit_is_an_event() -> None:
    one, other = events(handled(Kind.MATCH, "a", 5, hits=(HIT, OTHER)))
    assert (one["rule"]["id"], other["rule"]["id"]) == ("e-1", "e-2")
    assert (one["labels"]["complete"], other["labels"]["complete"]) == ("yes", "no")
    assert one["file"] == other["file"] == {"path": "a", "name": "a", "size": 5}


@pytest.mark.parametrize(
    ("kind", "event_kind", "outcome", "severity"),
    [
        (Kind.CLEAN, "event", "success", None),
        (Kind.MATCH, "alert", "success", 99),
        (Kind.CONFLICT, "alert", "unknown", 47),
        (Kind.SKIPPED, "event", None, None),
        (Kind.UNREAD, "event", "failure", 21),
    ],
)
def test_kinds(kind: Kind, event_kind: str, outcome: str | None, severity: int | None) -> None:
    hits = (HIT,) if kind in (Kind.MATCH, Kind.CONFLICT) else ()
    (event,) = events(handled(kind, "a", None, "why", hits))
    about = event["event"]
    assert about["kind"] == event_kind
    assert about.get("outcome") == outcome
    assert about.get("severity") == severity
    assert about["reason"] == "why"
    assert event["message"].endswith(": why")


def test_a_recorded_match_is_a_state_dated_when_it_was_last_seen() -> None:
    outcome = handled(Kind.MATCH, "a", 5, hits=(HIT,), record=RECORDED)
    (event,) = events(outcome, command="matches")
    assert event["event"]["kind"] == "state"
    assert event["event"]["dataset"] == "hashclient.matches"
    assert event["@timestamp"] == for_programs(RECORDED.last_seen)


def test_a_path_that_is_not_utf_8_has_its_bytes_in_a_label() -> None:
    (event,) = events(handled(Kind.UNREAD, os.fsdecode(b"d/\xff.x"), reason="gone"))
    assert event["file"] == {
        "path": "d/\ufffd.x",
        "name": "\ufffd.x",
        "directory": "d",
        "extension": "x",
    }
    assert event["labels"] == {"path_b64": "ZC//Lng="}
    assert event["message"] == "unread: d/\\xff.x: gone"


def test_lists_and_the_run_come_last() -> None:
    states = (
        ListState("baseline", 3, NOW, fresh=True),
        ListState("local", 1, NOW, fresh=False),
        ListState("old", 2, NOW, fresh=False, in_grace=True),
    )
    summary = Summary(
        lists=states, elapsed_s=1.5, files_read=7, bytes_read=2**50, ruled_out_by_size=3
    )
    summary.counts[Kind.CLEAN] = 2**40
    text = EcsFormatter(Context("scan", NOW)).end(summary)
    assert text is not None
    *lists, run = [json.loads(line) for line in text.split("\n")]
    for event in (*lists, run):
        check_ecs(event)
    assert [(e["rule"]["ruleset"], e["event"]["outcome"]) for e in lists] == [
        ("baseline", "success"),
        ("local", "failure"),
        ("old", "success"),
    ]
    assert [e["event"]["reason"].split(":")[0] for e in lists] == [
        "fresh",
        "stale",
        "in its grace period",
    ]
    assert run["process"] == {"name": "hashclient", "exit_code": 7}
    assert run["event"]["duration"] == 1_500_000_000
    assert run["event"]["end"] == run["@timestamp"] == "2026-01-02T03:04:06.500000Z"
    assert run["hashclient"] == {
        "inputs": 2**40,
        "clean": 2**40,
        "accepted": 0,
        "excepted": 0,
        "match": 0,
        "conflict": 0,
        "skipped": 0,
        "unread": 0,
        "files_read": 7,
        "bytes_read": 2**50,
        "ruled_out_by_size": 3,
        "known_unchanged": 0,
        "believed_unchanged": 0,
        "gone": 0,
        "held": 0,
    }
    assert run["labels"] == {"interrupted": "no"}


def test_lists_that_are_missing_gaps_and_the_end_are_events_of_their_own() -> None:
    summary = Summary(
        lists=(),
        missing=(
            MissingList("other", "main", "never fetched"),
            MissingList(None, "second", "no list was ever fetched"),
        ),
        gaps=(Gap("local", (Algorithm.MD5, Algorithm.SHA1), 1, 3, 1),),
        stopped=ExitCode.TERMINATED,
        failed=ExitCode.AUDIT,
        failure="disk full",
    )
    text = EcsFormatter(Context("lookup", NOW)).end(summary)
    assert text is not None
    other, second, gap, run = [json.loads(line) for line in text.split("\n")]
    for event in (other, second, gap, run):
        check_ecs(event)
    assert other["rule"] == {"ruleset": "other"} and "rule" not in second
    assert other["event"]["reason"] == "missing: never fetched"
    assert [e["labels"]["provider"] for e in (other, second)] == ["main", "second"]
    assert [e["event"]["outcome"] for e in (other, second, gap)] == [*("failure",) * 2, "unknown"]
    assert gap["labels"] == {"algorithms": "md5 sha1"}
    assert gap["event"]["severity"] == 21
    assert run["labels"] == {
        "interrupted": "yes",
        "interrupted_by": "SIGTERM",
        "failure": "disk full",
        "gaps_accepted": "no",
    }


@pytest.mark.parametrize(
    ("summary", "outcome"),
    [
        (Summary(lists=()), "success"),
        (Summary(lists=(), stopped=ExitCode.TERMINATED), "failure"),
        (Summary(lists=(), failed=ExitCode.AUDIT), "failure"),
        (Summary(lists=(), missing=(MissingList("other", "main", "never fetched"),)), "failure"),
    ],
)
def test_a_run_that_did_not_come_to_its_end_failed(summary: Summary, outcome: str) -> None:
    text = EcsFormatter(Context("scan", NOW)).end(summary)
    assert text is not None
    assert json.loads(text.split("\n")[-1])["event"]["outcome"] == outcome

"""The format sarif: results, rules, notifications and caps."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Action, Algorithm, Kind, MatchState
from hashclient.core.model import Acted, Handled, Hit, MatchRef, MissingList
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Summary
from hashclient.formats import sarif
from hashclient.formats.registry import Context
from hashclient.formats.sarif import SarifFormatter, uri_of
from tests.contract.readers import read_sarif
from tests.outcomes import handled

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HIT = Hit("baseline", "e-1", "synthetic", 3, (Algorithm.MD5, Algorithm.SHA1), complete=True)
OTHER = Hit("baseline", "e-2", "other", 3, (Algorithm.SHA256,), complete=True)
PARTLY = Hit("baseline", "e-3", "synthetic", 3, (Algorithm.SHA256,), complete=False)
RECORDED = MatchRef("3kdz7wnq2m", MatchState.FOUND, NOW, NOW)


def match(path: str = "a", hit: Hit = HIT, **more: Any) -> Handled:
    return handled(Kind.MATCH, path, 5, hits=(hit,), **more)


def conflict(path: str = "a") -> Handled:
    return handled(Kind.CONFLICT, path, 5, hits=(PARTLY,))


def run_of(
    *found: Handled, summary: Summary | None = None, show_digests: bool = False
) -> dict[str, Any]:
    written = SarifFormatter(Context("scan", NOW, show_digests))
    parts = [written.begin(), *(written.outcome(outcome) for outcome in found)]
    text = "\n".join(part for part in [*parts, written.end(summary)] if part is not None)
    read_sarif(text)  # `read_sarif` checks the text against the schema
    run: dict[str, Any] = json.loads(text)["runs"][0]
    return run


def levels(run: dict[str, Any]) -> list[tuple[str, str]]:
    return [(result["ruleId"], result["level"]) for result in run["results"]]


def notifications(run: dict[str, Any]) -> list[tuple[str, str]]:
    (invocation,) = run["invocations"]
    found = invocation["toolExecutionNotifications"]
    return [(n["descriptor"]["id"], n["message"]["text"]) for n in found]


def test_a_result_says_what_was_found_where_and_no_digest() -> None:
    acted = (Acted(Action.QUARANTINE, done=True, detail="quarantined"),)
    digests = {Algorithm.MD5: b"\1" * 16}
    run = run_of(match("b/ü.txt", record=RECORDED, acted=acted, digests=digests))
    assert run["results"] == [
        {
            "ruleId": "baseline/synthetic",
            "ruleIndex": 0,
            "level": "error",
            "message": {
                "text": "Match: list baseline, entry e-1, category synthetic: md5, sha1 agree."
                " Recorded as 3kdz7wnq2m, found."
            },
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": "b/%C3%BC.txt"},
                        "region": {"startLine": 1},
                    }
                }
            ],
            "partialFingerprints": {"hashclient/v1": "baseline/e-1"},
            "properties": {
                "path": "b/ü.txt",
                "size": 5,
                "id": "3kdz7wnq2m",
                "state": "found",
                "in_place": True,
                "first_seen": "2026-01-02T03:04:05Z",
                "last_seen": "2026-01-02T03:04:05Z",
                "hits": [
                    {
                        "complete": True,
                        "list": "baseline",
                        "entry": "e-1",
                        "category": "synthetic",
                        "generation": 3,
                        "algorithms": ["md5", "sha1"],
                    }
                ],
                "actions": [{"action": "quarantine", "done": True, "detail": "quarantined"}],
            },
        }
    ]


def test_digests_are_properties_of_a_result_when_asked_for() -> None:
    outcome = match(digests={Algorithm.MD5: b"\1" * 16})
    (result,) = run_of(outcome, show_digests=True)["results"]
    assert result["properties"]["digests"] == {"md5": "01" * 16}


def test_there_is_one_rule_for_a_list_and_category_and_one_for_its_conflicts() -> None:
    run = run_of(match("a"), conflict("b"), match("c", OTHER), match("d"))
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [
        "baseline/synthetic",
        "baseline/other",
        "baseline/synthetic/conflict",
    ]
    assert [rule["defaultConfiguration"]["level"] for rule in rules] == [
        "error",
        "error",
        "warning",
    ]
    assert levels(run) == [
        ("baseline/synthetic", "error"),
        ("baseline/other", "error"),
        ("baseline/synthetic", "error"),
        ("baseline/synthetic/conflict", "warning"),
    ]


@pytest.mark.parametrize("state", MatchState)
def test_a_match_that_asks_for_nothing_any_more_is_a_note(state: MatchState) -> None:
    recorded = MatchRef("3kdz7wnq2m", state, NOW, NOW)
    is_over = state in ("gone", "withdrawn", "excepted", "restored", "purged", "closed")
    assert levels(run_of(match(record=recorded))) == [
        ("baseline/synthetic", "note" if is_over else "error")
    ]


def test_an_excepted_match_is_a_result_that_says_by_what_it_is_suppressed() -> None:
    why = "exception x-1: a mistake"
    (result,) = run_of(handled(Kind.EXCEPTED, "a", 5, why, (HIT,)))["results"]
    assert (result["ruleId"], result["level"]) == ("baseline/synthetic", "note")
    assert result["suppressions"] == [
        {"kind": "external", "status": "accepted", "justification": why}
    ]


def test_unchecked_files_are_notifications_and_clean_ones_are_counted() -> None:
    summary = Summary(lists=())
    found = [
        handled(Kind.UNREAD, "a", reason="permission {denied} [0]"),
        handled(Kind.SKIPPED, "b", reason="named pipe"),
        handled(Kind.CLEAN, "c", 1),
    ]
    for outcome in found:
        summary.add(outcome.outcome)
    run = run_of(*found, summary=summary)
    assert run["results"] == []
    # A SARIF viewer would take braces for placeholders and brackets for links.
    assert notifications(run) == [
        ("unread", "permission _denied_ _0_"),
        ("skipped", "named pipe"),
        ("skips", "skipped 1: named pipe 1"),
    ]
    assert (run["properties"]["clean"], run["properties"]["inputs"]) == (1, 3)


def test_the_invocation_says_how_it_ended() -> None:
    states = (
        ListState("baseline", 3, NOW, fresh=True),
        ListState("local", 1, NOW, fresh=False),
        ListState("old", 1, NOW, fresh=False, in_grace=True),
    )
    summary = Summary(
        lists=states, stopped=ExitCode.INTERRUPTED, failed=ExitCode.AUDIT, elapsed_s=2.5
    )
    summary.missing = (MissingList("other", "main", "never fetched [here]"),)
    run = run_of(summary=summary)
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 130
    assert invocation["startTimeUtc"] == "2026-01-02T03:04:05Z"
    assert invocation["endTimeUtc"] == "2026-01-02T03:04:07Z"
    assert notifications(run) == [
        ("missing", "list other is missing: never fetched _here_"),
        ("stale", "list local expired 2026-01-02T03:04:05Z"),
        ("stale", "list old expired 2026-01-02T03:04:05Z, in its grace period"),
        ("stopped", "interrupted by SIGINT: the remaining inputs were not checked"),
        ("failed", f"exit code 9: {ExitCode.AUDIT.meaning}"),
    ]


def test_a_match_is_written_when_it_is_found() -> None:
    written = SarifFormatter(Context("scan", NOW))
    first, second = (written.outcome(match(path)) for path in "ab")
    assert first is not None and json.loads(first)["ruleIndex"] == 0
    assert second is not None and second.startswith(",")


def test_no_conflict_and_no_excepted_match_takes_the_place_of_a_match(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sarif, "MAX_RESULTS", 4)
    excepted = [handled(Kind.EXCEPTED, f"e{n}", 5, "exception x-1", (HIT,)) for n in range(5)]
    run = run_of(*excepted, conflict("c0"), match("m0"), match("m1"))
    assert [result["properties"]["path"] for result in run["results"]] == ["m0", "m1", "c0", "e0"]
    assert notifications(run)[:1] == [
        ("left-out", "4 more of kind excepted would be too many for this output")
    ]
    run = run_of(*(conflict(f"c{n}") for n in range(6)), match("m0"))
    assert [result["properties"]["path"] for result in run["results"]] == ["m0", "c0", "c1", "c2"]
    assert notifications(run) == [
        ("left-out", "3 more of kind conflict would be too many for this output")
    ]


def test_omissions_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "MAX_RESULTS", 1)
    monkeypatch.setattr(sarif, "MAX_NOTIFICATIONS", 1)
    unread = [handled(Kind.UNREAD, f"u{n}", reason="gone") for n in range(3)]
    run = run_of(match(), *unread, match(), match(), conflict())
    assert len(run["results"]) == 1
    assert notifications(run) == [
        ("unread", "gone"),
        ("left-out", "1 more of kind conflict would be too many for this output"),
        ("left-out", "2 more of kind match would be too many for this output"),
        ("left-out", "2 more of kind unread would be too many for this output"),
    ]


def test_the_caps_are_what_code_hosts_take() -> None:
    assert sarif.MAX_RESULTS == 25_000


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("a/b.txt", "a/b.txt"),
        ("./a//b/./c", "a/b/c"),
        ("../a", "../a"),
        ("a/../b", "a/../b"),
        (".", "./"),
        ("", "./"),
        ("/", "file:///"),
        ("/srv/a b", "file:///srv/a%20b"),
        ("//srv/a", "file:///srv/a"),
        ("http://x/y?z#w", "http%3A/x/y%3Fz%23w"),
        ("c:/x", "c%3A/x"),
        ("100%", "100%25"),
        ("\udcff", "%FF"),
        ("ü", "%C3%BC"),
    ],
)
def test_uris(path: str, uri: str) -> None:
    assert uri_of(path) == uri


def test_a_member_of_a_container_is_an_artifact_in_another() -> None:
    written = SarifFormatter(Context("scan", NOW))
    found = [
        handled(Kind.MATCH, "d/o.zip", 5, hits=(HIT,), members=("in/b.zip", name))
        for name in ("x y", "z")
    ]
    text = "\n".join(filter(None, [written.begin(), *map(written.outcome, found)]))
    (run,) = json.loads(text + written.end(None))["runs"]
    assert [(a["location"]["uri"], a.get("parentIndex")) for a in run["artifacts"]] == [
        ("d/o.zip", None),
        ("/in/b.zip", 0),
        ("/x%20y", 1),
        ("/z", 1),
    ]
    related = [
        result["relatedLocations"][0]["physicalLocation"]["artifactLocation"]
        for result in run["results"]
    ]
    assert related == [{"uri": "/x%20y", "index": 2}, {"uri": "/z", "index": 3}]
    places = {
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in run["results"]
    }
    assert places == {"d/o.zip"}

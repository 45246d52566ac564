"""Facts from the history of a match: the tests use histories that nearly show each fact."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hashclient.core import match as module
from hashclient.core.kinds import Algorithm, MatchState, Verdict
from hashclient.core.match import (
    Match,
    Place,
    Step,
    destruction_ordered,
    is_doubted,
    keep_asked,
    members_of,
    new_id,
    new_ids,
    person_of,
    progress_of,
    reviews_of,
    standing_steps,
    taken_back,
    verdict_of,
    was_viewed,
)
from hashclient.core.model import Hit

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def story(*steps: str | tuple[str, dict[str, Any]]) -> list[Step]:
    """Return a history of events with details; each event is one minute after the one before."""
    pairs = [(step, dict[str, Any]()) if isinstance(step, str) else step for step in steps]
    return [Step(NOW + timedelta(minutes=n), *pair) for n, pair in enumerate(pairs)]


def answered(by: str, *requests: str) -> tuple[str, dict[str, Any]]:
    return "answered", {"by": by, "requests": [{"request": r, "text": f"{r}!"} for r in requests]}


def by(event: str, person: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return event, {"by": person, **more}


@pytest.mark.parametrize(
    ("steps", "kept_by", "destroyed"),
    [
        ([], None, None),
        (["answered"], None, None),
        ([answered("a")], None, None),
        ([answered("a", "more")], None, None),
        ([answered("a", "keep")], "a", None),
        ([answered("a", "destroy")], None, "destroy! (a)"),
        ([answered("a", "keep", "destroy")], None, "destroy! (a)"),
        ([answered("a", "destroy", "keep", "more")], "a", None),
        ([answered("a", "keep"), answered("b", "destroy")], None, "destroy! (b)"),
        ([answered("a", "destroy"), answered("b", "keep")], "b", None),
        ([answered("a", "keep"), answered("b", "more"), "gone"], "a", None),
        ([answered("a", "keep"), by("note", "x", requests=[{"request": "destroy"}])], "a", None),
        ([answered("a", "keep"), "hold-ended"], None, None),
        (["hold-ended", answered("a", "keep"), "on-hold"], "a", None),
        ([answered("a", "keep"), "hold-ended", answered("b", "keep")], "b", None),
    ],
)
def test_the_last_request_of_a_body_counts(
    steps: Sequence[Any], kept_by: str | None, destroyed: str | None
) -> None:
    asked = keep_asked(story(*steps))
    assert (None if asked is None else (asked["by"], asked["text"])) == (
        None if kept_by is None else (kept_by, "keep!")
    )
    assert destruction_ordered(story(*steps)) == destroyed


def test_of_several_requests_to_keep_the_latest_end_counts() -> None:
    ends = [("a", "2029"), ("b", "2030"), ("c", "2027")]
    steps = [
        by("answered", name, requests=[{"request": "keep", "text": name, "until": f"{year}-01-31"}])
        for name, year in ends
    ]
    asked = keep_asked(story(*steps))
    assert asked is not None
    assert (asked["by"], asked["until"], asked["text"]) == ("b", "2030-01-31", "a; b; c")


C, R, NEW = "confirmed", "rejected", "content-changed"


@pytest.mark.parametrize(
    ("steps", "verdicts", "doubted"),
    [
        ([], [None, None], False),
        (["found", by(C, "a")], [Verdict.CONFIRMED, None], False),
        ([by(C, "a"), by(C, "a")], [Verdict.CONFIRMED, None], False),
        ([by(C, "a"), by(C, "b")], [Verdict.CONFIRMED] * 2, False),
        ([by(C, "a"), by(R, "b")], [None, None], True),
        ([by(R, "a"), by(C, "a")], [Verdict.CONFIRMED, None], False),
        ([by(C, "a"), by(R, "a")], [Verdict.REJECTED, None], True),
        ([by(R, "a"), NEW], [None, None], False),
        ([by(R, "a"), NEW, by(C, "b")], [Verdict.CONFIRMED, None], False),
        ([by(C, "root (login: a)"), by(C, "root (sudo: a)")], [Verdict.CONFIRMED, None], False),
    ],
)
def test_a_verdict_is_that_of_enough_people_who_agree(
    steps: Sequence[Any], verdicts: list[Verdict | None], doubted: bool
) -> None:
    shown = story(*steps)
    assert [verdict_of(shown, people) for people in (1, 2)] == verdicts
    assert verdict_of(shown, 3) is None
    assert is_doubted(shown) is doubted


def test_a_view_counts_for_the_content_that_was_viewed() -> None:
    seen, unseen = by(C, "a", viewed=True), by(C, "a", viewed="yes")
    for steps, expected in (
        ([], False),
        ([unseen], False),
        ([seen], True),
        ([seen, unseen], True),
        ([unseen, seen], True),
        ([seen, NEW, unseen], False),
        ([by("found", "a", viewed=True)], False),
    ):
        assert was_viewed(story(*steps)) is expected, steps
    assert [step.event for step in reviews_of(story(R, NEW, C, "found", R))] == [C, R]


@pytest.mark.parametrize(
    ("operator", "person"),
    [
        ("mary", "mary"),
        ("root (login: mary)", "mary"),
        ("root (login: mary, uid 0)", "mary"),
        ("root (sudo: mary, of sales)", "mary, of sales"),
        ("root (other: mary)", "root (other: mary)"),
        ("root (login: mary) x", "root (login: mary) x"),
        ("a (b) (login: mary)", "a (b) (login: mary)"),
    ],
)
def test_the_person_behind_an_operator(operator: str, person: str) -> None:
    assert person_of(operator) == person


def of(event: str, report: str) -> tuple[str, dict[str, Any]]:
    return event, {"report": report}


@pytest.mark.parametrize(
    ("steps", "standing", "progress"),
    [
        ([], [], "found"),
        (["held"], ["held"], "held"),
        (["held", "released"], [], "found"),
        (["held", "quarantined", "released"], ["quarantined"], "quarantined"),
        (["quarantined", "found"], [], "found"),
        (["quarantined", "found", "held"], ["held"], "held"),
        ([of("reported", "r"), "held"], ["reported", "held"], "reported"),
        ([of("reported", "r"), of("report-retracted", "r")], [], "found"),
        ([of("report-retracting", "r"), of("reported", "r")], [], "found"),
        ([of("reported", "r"), of("report-retracted", "s")], ["reported"], "reported"),
        (["closed", "gone", "listed-again"], [], "found"),
        (["acknowledged", "quarantined"], ["acknowledged", "quarantined"], "acknowledged"),
    ],
)
def test_progress_is_the_furthest_step_that_stands(
    steps: Sequence[Any], standing: list[str], progress: str
) -> None:
    shown = story(*steps)
    assert [step.event for step in standing_steps(shown)] == standing
    assert progress_of(shown, in_place=True) == progress
    at_least = "quarantined" if progress in ("found", "held") else progress
    assert progress_of(shown, in_place=False) == at_least


def test_reports_that_are_being_taken_back_are_taken_back() -> None:
    shown = story(of("report-retracting", "a"), of("report-retracted", "b"), of("reported", "c"))
    assert taken_back(shown) == {"a", "b"}


def test_members_are_those_of_their_events_alone() -> None:
    shown = story(
        *(
            "in-member",
            ("in-member", {"members": ["a", "b"]}),
            ("recorded-again", {"members": "x"}),
        ),
        *(("found", {"members": "y"}), ("answered", {"members": "z"})),
    )
    assert members_of(shown) == [(), ("a", "b")]


@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 200])
def test_ids_are_distinct_ascending_and_of_the_letters_that_differ(count: int) -> None:
    ids = new_ids(count)
    assert len(set(ids)) == count and ids == sorted(ids)
    assert all(re.fullmatch(r"[bcdfghjkmnpqrstvwxz2-9]{10}", one) for one in [*ids, new_id()])
    begins_alike = len({one[:4] for one in ids}) == 1
    assert begins_alike if count in (1, *range(32, 999)) else count == 0 or not begins_alike


def test_each_letter_of_an_id_is_as_likely_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 256 values of a byte, 243 are used (nine times 27), and the last 13 are dropped."""
    monkeypatch.setattr(os, "urandom", lambda _: bytes(range(256)))
    letters = module._letters(243)
    assert {letters.count(letter) for letter in letters} == {9}
    assert len(set(letters)) == 27
    assert module._letters(300) == letters + letters[:57]


@pytest.mark.parametrize(
    ("standing", "other", "same"),
    [
        (None, None, False),
        (None, "1 a", False),
        ("1 a", None, False),
        ("1 a", "1 a", True),
        ("1 a", "2 a", False),
        ("1 a", "1 b", False),
        ("1 a b", "1 c b", True),
        ("1 1", "1 2", False),
        ("1", "1", False),
    ],
)
def test_a_directory_is_the_same_if_one_name_of_its_file_system_is(
    standing: str | None, other: str | None, same: bool
) -> None:
    assert Place("/a", standing).is_at(other) is same


def hit(entry: str, withdrawn: int | None = None) -> Hit:
    return Hit("l", entry, "c", 1, (Algorithm.MD5,), True, withdrawn)


@pytest.mark.parametrize(
    ("state", "hits", "ended"),
    [
        ("found", [hit("a")], None),
        ("found", [hit("a", 2)], "withdrawn"),
        ("found", [hit("a", 2), hit("b")], None),
        ("gone", [hit("a")], None),
        ("withdrawn", [hit("a")], "withdrawn"),
        ("closed", [hit("a", 2)], "closed"),
        ("excepted", [hit("a")], "excepted"),
    ],
)
def test_a_match_has_ended_by_its_state_or_with_its_last_entry(
    state: str, hits: list[Hit], ended: str | None
) -> None:
    match = Match(
        *("id", "/a", 5, MatchState(state), True, "k", {}, NOW, NOW, tuple(hits)), times_seen=None
    )
    assert match.ended == ended
    assert [one.entry for one in match.standing] == [h.entry for h in hits if h.stands]
    assert match.by_entry == {("l", one.entry): one for one in hits}
    handled = match.handled()
    assert (handled.outcome.path, handled.outcome.size) == ("/a", 5)
    assert handled.record == match.ref
    assert (match.ref.in_place, match.ref.held) == (True, False)


@pytest.mark.parametrize(
    ("path", "is_stream"),
    [("stdin:x", True), ("serve:unix:/s", True), ("/stdin:x", False), ("served:", False)],
)
def test_a_stream_is_known_by_how_its_path_begins(path: str, is_stream: bool) -> None:
    match = Match("id", path, None, MatchState.FOUND, True, "k", {}, NOW, NOW, ())
    assert match.is_stream is is_stream
    assert (match.times_seen, match.seen) == (None, None)

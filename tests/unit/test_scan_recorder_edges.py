"""The entries of a run in the log, field by field, and how often a failure is reported."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hashclient.audit.log import AuditLog, Encoded, Event
from hashclient.audit.record import encode_body
from hashclient.core.errors import AuditError, ExitCode, StateError
from hashclient.core.kinds import Algorithm, Kind, MatchState
from hashclient.core.match import Place
from hashclient.core.model import (
    Gap,
    Hit,
    Mail,
    MatchRef,
    MissingList,
    Outcome,
    Outer,
    Recorded,
)
from hashclient.matches.recording import MAX_NAME_CHARS
from hashclient.matches.selection import Left, Selection
from hashclient.matches.store import Matches
from hashclient.matches.tables import to_text
from hashclient.scan.run import recorder
from hashclient.scan.run.recorder import (
    MAX_LOGGED_ARGUMENTS_CHARS,
    SIGNED_EACH,
    MatchEvents,
    RunRecord,
)
from hashclient.system.layout import MATCHES_NAME
from hashclient.system.text import MAX_LOGGED_PATH_CHARS
from tests.unit.test_recorder import DIGEST, HIT, NOW, PARTIAL, Holding, Run, match

REF = MatchRef("3kdz7wnq2m", MatchState.FOUND, NOW, NOW)
HELD = MatchRef("3kdz7wnq2m", MatchState.HELD, NOW, NOW, held=True)
MAIL = Mail("<1@x>", "a@x", ("b@x",))
OF_HIT = {
    "list": "base",
    "entry": "e-1",
    "category": "synthetic",
    "generation": 3,
    "algorithms": ["md5", "sha1"],
    "complete": True,
}
OF_PARTIAL = {
    "list": "old",
    "entry": "e-2",
    "category": "synthetic",
    "generation": 1,
    "algorithms": ["md5"],
    "complete": False,
}
LONG = "/" + "n" * (MAX_LOGGED_PATH_CHARS - 1)


def found(path: str = "/srv/a", *hits: Hit, size: int | None = 9, **how: Any) -> Outcome:
    return Outcome(how.pop("kind", Kind.MATCH), path, size, hits=hits, **how)


def test_limits_that_the_log_relies_on() -> None:
    assert (MAX_LOGGED_ARGUMENTS_CHARS, SIGNED_EACH) == (65_536, 64)


@pytest.mark.parametrize(
    ("outcome", "record", "data"),
    [
        (found(), None, {"path": "/srv/a", "size": 9, "hits": []}),
        (found(size=None), None, {"path": "/srv/a", "size": None, "hits": []}),
        (found("/a", HIT, size=0), REF, {"id": REF.id, "path": "/a", "size": 0, "hits": [OF_HIT]}),
        (
            found("/a", HIT, PARTIAL),
            HELD,
            {"id": REF.id, "held": True, "path": "/a", "size": 9, "hits": [OF_HIT, OF_PARTIAL]},
        ),
        (
            found("\u65e5\u672c", PARTIAL, kind=Kind.CONFLICT),
            None,
            {"path": "\u65e5\u672c", "size": 9, "hits": [OF_PARTIAL]},
        ),
        (
            found("a digest", origin="sums:1"),
            None,
            {"path": "sums:1", "size": 9, "hits": []},
        ),
        (
            found(os.fsdecode(b"/\xff"), HIT),
            HELD,
            {
                "id": REF.id,
                "held": True,
                "path": "/\ufffd",
                "path_b64": "L/8=",
                "size": 9,
                "hits": [OF_HIT],
            },
        ),
        (found(LONG), None, {"path": LONG, "size": 9, "hits": []}),
        (found(LONG + "x"), None, {"path": LONG + "\u2026", "size": 9, "hits": []}),
        (
            found(door="mx", exceptions=("x-1", "x-2"), kind=Kind.EXCEPTED),
            REF,
            {
                "id": REF.id,
                "path": "/srv/a",
                "size": 9,
                "hits": [],
                "exceptions": ["x-1", "x-2"],
                "door": "mx",
            },
        ),
        (
            found(members=("a", os.fsdecode(b"\xff")), outer=Outer(99, {}, 2, MAIL)),
            None,
            {
                "path": "/srv/a",
                "members": ["a", "\ufffd"],
                "size": 9,
                "hits": [],
                "mail": {"message_id": "<1@x>", "sender": "a@x", "recipients": ["b@x"]},
            },
        ),
        (found(door="mx"), None, {"path": "/srv/a", "size": 9, "hits": [], "door": "mx"}),
        (
            found(members=("n" * MAX_NAME_CHARS, "n" * (MAX_NAME_CHARS + 1))),
            None,
            {"path": "/srv/a", "members": ["n" * 1_000] * 2, "size": 9, "hits": []},
        ),
    ],
)
def test_each_field_of_a_match_in_the_log(
    outcome: Outcome, record: MatchRef | None, data: dict[str, Any]
) -> None:
    """The two ways to encode an entry write the same text, with the fields in this order."""
    recorded = Recorded(outcome, record)
    events = MatchEvents()
    for event in (events.of(recorded), events.of(recorded)):
        body = event.body if isinstance(event, Encoded) else encode_body(event.event, event.data)
        assert body == encode_body(outcome.kind.value, data)
    assert list(recorder._data(recorded)) == list(data)


def test_hits_that_differ_only_in_the_entry_are_told_apart() -> None:
    hits = [Hit("base", name, "c", 1, (Algorithm.MD5,), complete=True) for name in ("e-1", 'e"2')]
    event = MatchEvents().of(Recorded(found("/a", *hits)))
    assert isinstance(event, Encoded)
    assert [hit["entry"] for hit in json.loads(event.text)["hits"]] == ["e-1", 'e"2']


@pytest.mark.parametrize(
    ("path", "members", "data"),
    [
        ("/a", (), {"path": "/a", "reason": "why"}),
        (LONG + "x", ("m",), {"path": LONG + "\u2026", "members": ["m"], "reason": "why"}),
    ],
)
def test_what_is_accepted_is_logged_with_its_reason(
    run: Run, path: str, members: tuple[str, ...], data: dict[str, Any]
) -> None:
    run.add(Outcome(Kind.ACCEPTED, path, reason="why", members=members))
    assert run.logged() == [("accepted", data)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_run_in_a_directory_that_was_removed_has_none(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.summary.missing = (MissingList(None, "main", "never fetched"),)
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path / "d")
    (tmp_path / "d").rmdir()
    run.record.start(["."])
    ((_, data),) = run.logged()
    assert data["directory"] is None
    assert data["missing"] == [{"list": None, "provider": "main", "problem": "never fetched"}]


@pytest.mark.parametrize("brief", [False, True])
def test_the_end_has_each_number_and_a_small_run_its_start_as_well(
    tmp_path: Path, brief: bool
) -> None:
    run, summary = Run(tmp_path, "watch", brief=brief), None
    summary = run.summary
    summary.files_read, summary.bytes_read, summary.gone, summary.held = 1, 2, 3, 0
    summary.excepted, summary.unread = {"x": 4}, {"y": 5}
    summary.gaps = (Gap("base", (Algorithm.MD5,), 1, 5, 7),)
    summary.gaps_accepted = True
    summary.missing = (MissingList("other", "main", "damaged"),)
    for number, kind in enumerate(Kind, 10):
        summary.counts[kind] = number
    run.record.start(["/srv", "/home"])
    run.record.end()
    *_, (event, end) = run.logged()
    assert event == ("watch" if brief else "watch-end")
    assert (end["files_read"], end["bytes_read"], end["gone"], end["held"]) == (1, 2, 3, 0)
    assert (end["excepted_by"], end["unread_reasons"]) == ({"x": 4}, {"y": 5})
    assert [end[kind.value] for kind in Kind] == [10 + n for n in range(len(Kind))]
    assert end["inputs"] == sum(10 + n for n in range(len(Kind)))
    assert (len(end["gaps"]), end["gaps_accepted"]) == (1, True)
    assert end["missing"] == [{"list": "other", "provider": "main", "problem": "damaged"}]
    assert (end["interrupted"], end["failed"]) == (False, None)
    assert end.get("arguments") == (["/srv", "/home"] if brief else None)
    assert len(end.get("lists", [])) == (2 if brief else 0)


def test_a_small_run_logs_its_arguments_as_far_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_LOGGED_ARGUMENTS_CHARS", 3)
    run = Run(tmp_path, "watch", brief=True)
    run.record.start(["/a", "/b", "/c"])
    run.record.end()
    ((_, end),) = run.logged()
    assert (end["arguments"], end["arguments_omitted"]) == (["/a"], 2)


@pytest.fixture
def appended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], bool, bool]]:
    """Return the events of each append, and whether it was durable, and each record signed."""
    calls: list[tuple[list[str], bool, bool]] = []
    append = AuditLog.append

    def noting(
        log: AuditLog,
        events: Sequence[Event | Encoded],
        *,
        durable: bool = False,
        sign_each: bool = False,
    ) -> Any:
        calls.append(([event.event for event in events], durable, sign_each))
        return append(log, events, durable=durable, sign_each=sign_each)

    monkeypatch.setattr(AuditLog, "append", noting)
    return calls


def left(matches: Selection, _began: datetime) -> Iterator[Left]:
    for one in matches.find():
        yield Left(one.id, os.fsencode(one.path), "", to_text(one.last_seen))


def test_matches_reach_the_disk_before_they_are_shown_and_other_entries_need_not(
    run: Run, appended: list[tuple[list[str], bool, bool]]
) -> None:
    """Only the records that a report contains have their own signatures."""
    run.record.start([])
    run.add(Outcome(Kind.CLEAN, "/srv/b"), Outcome(Kind.UNREAD, "/srv/c"))
    run.add(Outcome(Kind.CONFLICT, "/d", 1, hits=(PARTIAL,)), Outcome(Kind.ACCEPTED, "/e"))
    run.add(match("/srv/a", tags={Algorithm.MD5: DIGEST}), Outcome(Kind.CONFLICT, "/d", 1))
    run.record.keep_counts([(run.kept[0], 2, [])])
    run.record.note_gone(left)
    run.record.end()
    assert appended == [
        (["scan-start"], False, False),
        (["conflict", "accepted"], True, False),
        (["match", "conflict"], True, True),
        (["match"], True, False),
        (["gone"], True, True),
        (["scan-end"], False, False),
    ]


@pytest.mark.parametrize(("more", "is_signed"), [(0, True), (1, False)])
def test_all_entries_that_are_logged_together_count_for_the_signatures(
    run: Run, appended: list[tuple[list[str], bool, bool]], more: int, is_signed: bool
) -> None:
    conflicts = [Outcome(Kind.CONFLICT, "/d", 1)] * (SIGNED_EACH - 1 + more)
    run.add(match("/srv/a"), *conflicts)
    assert [each for _, _, each in appended] == [is_signed]


def test_places_are_asked_for_remembered_outcomes_only(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def places(outcomes: Sequence[Outcome]) -> list[Place]:
        asked.append([one.path for one in outcomes])
        return [Place("/real" + one.path) for one in outcomes]

    run = Run(tmp_path, places_of=places)
    run.add(Outcome(Kind.CLEAN, "/c"))
    excepted = Outcome(Kind.EXCEPTED, "/b", 1, hits=(HIT,), exceptions=("x-1",))
    run.add(match("/a"), excepted, match("/d", origin="sums"), Outcome(Kind.CONFLICT, "/e", 1))
    assert asked == [["/a", "/b"]]
    assert [one.record is not None for one in run.kept] == [True, True, False, False]
    with Matches(tmp_path) as matches:
        assert sorted(one.path for one in matches.find()) == ["/real/a", "/real/b"]


def test_an_excepted_match_is_not_held(tmp_path: Path) -> None:
    hit = Hit("base", "e-h", "synthetic", 3, (Algorithm.MD5,), complete=True)
    about: dict[str, Any] = {"hits": (hit,), "tags": {Algorithm.MD5: DIGEST}}
    run = Run(tmp_path, decision=Holding())
    run.add(
        Outcome(Kind.MATCH, "/a", 1, **about),
        Outcome(Kind.EXCEPTED, "/b", 1, exceptions=("x-1",), **about),
    )
    assert [one.record and one.record.held for one in run.kept] == [True, False]
    assert run.summary.held == 1


def in_the_way(directory: Path, name: str) -> None:
    """Let the log (`audit`) or the record of matches fail from now on."""
    path = directory / name
    if name == "audit":
        if path.exists():
            path.rename(directory / "away")
        path.touch()
    else:
        path.unlink(missing_ok=True)
        path.mkdir()


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [("audit", AuditError, ExitCode.AUDIT), (MATCHES_NAME, StateError, ExitCode.STATE)],
)
def test_a_failure_while_matches_are_noted_as_gone_is_reported_once(
    run: Run, name: str, error: type[Exception], code: ExitCode
) -> None:
    """The end of the run is logged if the log works; a match that is not logged is not gone."""
    run.add(match("/srv/a", tags={Algorithm.MD5: DIGEST}))
    in_the_way(run.directory, name)
    run.record.note_gone(left)
    assert ([type(one) for one in run.failures], run.summary.gone) == ([error], 0)
    run.summary.held = 1
    run.record.note_gone(left)
    run.record.end()
    assert [type(one) for one in run.failures] == [error]
    assert run.summary.failed is code
    if name == "audit":
        with Matches(run.directory) as matches:
            assert [one.state for one in matches.find()] == [MatchState.FOUND]
    else:
        assert run.logged()[-1][1]["failed"] == ExitCode.STATE


@pytest.mark.parametrize("name", ["audit", MATCHES_NAME])
def test_after_a_failure_no_match_is_noted_as_gone(run: Run, name: str) -> None:
    """Without the log or the record, `gone` would be in only one of them."""
    in_the_way(run.directory, name)
    run.record.start([])
    run.add(match("/srv/a"))
    assert len(run.failures) == 1
    asked: list[datetime] = []

    def find(_: Selection, began: datetime) -> Iterator[Left]:
        asked.append(began)
        return iter(())

    run.record.note_gone(find)
    assert (asked, len(run.failures)) == ([], 1)


def test_without_the_log_counts_are_still_recorded_and_without_the_record_logged(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    run.add(match("serve:s", is_stream=True))
    in_the_way(tmp_path, "audit")
    for _ in range(2):
        run.record.keep_counts([(run.kept[0], 2, [])])
    assert [type(one) for one in run.failures] == [AuditError]
    with Matches(tmp_path) as matches:
        (one,) = matches.find()
        assert one.times_seen == 5


def test_a_match_is_as_old_as_the_batch_in_which_it_was_recorded(tmp_path: Path) -> None:
    """The start of the run is passed on, too: what a run has seen itself is not gone."""
    run, now = Run(tmp_path), [NOW]
    session = run.record._session
    session.now = lambda: now[0]
    asked: list[datetime] = []

    def find(_: Selection, began: datetime) -> Iterator[Left]:
        asked.append(began)
        return iter(())

    now.append(now.pop() + timedelta(minutes=1))
    run.add(match("/srv/a"))
    assert run.kept[0].record is not None
    assert run.kept[0].record.first_seen == NOW + timedelta(minutes=1)
    run.record.note_gone(find)
    assert asked == [NOW]


def test_a_run_that_records_nothing_makes_no_record_of_matches(run: Run) -> None:
    run.add(Outcome(Kind.CONFLICT, "/d", 1), match("name", origin="sums:1"))
    run.record.keep_counts([(run.kept[0], 2, [])])
    run.summary.held = 1
    run.record.end()
    assert not (run.directory / MATCHES_NAME).exists()
    assert isinstance(run.record, RunRecord)

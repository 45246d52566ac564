"""Retracted reports: files that were due for destruction are not due any more.

The acknowledgement of a report starts the period after which quarantined files are destroyed. A
retraction of the report stops the period at once, in each order of kills and failures.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fixtures.crash import FailAt, in_child, kill_at, watched
from fixtures.desk import WHO, A, B, Desk, desk_and_service
from fixtures.reporting_service import Fault
from hashclient.audit.log import read
from hashclient.core.errors import AuditError, HashclientError, StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.packages.verify import verify_package, verify_retraction
from hashclient.quarantine.store import Room
from hashclient.reporting.report import Report, State
from hashclient.reporting.settling import reopen
from tests.kit import call, fast_directory

SECOND = '[report.to.second]\nkind = "package"\ndirectory = "{}"\n'
KEPT = "kept until a report of it is acknowledged"


@pytest.fixture
def desk() -> Iterator[Desk]:
    with fast_directory() as directory:
        yield Desk(directory, SECOND.format(directory / "out"), keep_days=30)


@pytest.fixture
def match(desk: Desk) -> Match:
    match = desk.find("a", A)
    desk.quarantine(match)
    return match


@pytest.fixture
def acknowledged(desk: Desk, match: Match) -> Report:
    """Return an acknowledged report that is so old that its file is due for destruction."""
    report = desk.prepare(match)
    assert desk.send(report).error is None
    desk.acknowledge(report)
    desk.wait(days=31)
    assert desk.due(match).is_due
    return desk.outbox.get(report.id)


def kept(desk: Desk, match: Match) -> bool:
    """Return whether the sealed content of a match stays in quarantine."""
    due = desk.due(match)
    purged = desk.purge(match)
    assert (due.is_due, due.why, purged.done) == (False, KEPT, False)
    return (desk.settings.layout.quarantine / match.id / "evidence.age").exists()


def test_a_retraction_ends_retention(desk: Desk, match: Match, acknowledged: Report) -> None:
    before = len(desk.events())
    sent = desk.retract(acknowledged, "the wrong file")
    assert sent.error is None and sent.report.state is State.RETRACTED
    assert desk.get(match).state is MatchState.QUARANTINED
    assert kept(desk, match)
    assert desk.events()[before:] == [
        "matches-reopened",
        "report-retracting",
        "report-retracted",
    ]
    (logged,) = read(desk.settings.layout.audit, event="matches-reopened")
    assert logged.data == {
        "report": acknowledged.id,
        "to": "police",
        "by": WHO,
        "reason": "the wrong file",
        "matches": [match.id],
    }
    assert desk.story(match)[-2:] == ["report-retracting", "report-retracted"]
    # The match may be reported again, and the time starts with that report's acknowledgement.
    again = desk.prepare(match)
    desk.send(again)
    assert desk.get(match).state is MatchState.REPORTED and kept(desk, match)
    desk.acknowledge(again)
    assert not desk.due(match).is_due
    desk.wait(days=31)
    assert desk.due(match).is_due and desk.purge(match).done


def test_a_retraction_of_what_was_only_handed_over(desk: Desk, match: Match) -> None:
    report = desk.prepare(match)
    desk.send(report)
    assert desk.get(match).state is MatchState.REPORTED
    desk.retract(report)
    assert desk.get(match).state is MatchState.QUARANTINED and kept(desk, match)
    with pytest.raises(UsageError, match="is retracted"):
        desk.acknowledge(report)
    desk.wait(days=400)
    assert kept(desk, match)


def test_a_retraction_of_what_was_never_sent_ends_no_other_report(
    desk: Desk, match: Match, acknowledged: Report
) -> None:
    other = desk.prepare(match, to="second")
    desk.retract(other)
    assert desk.get(match).state is MatchState.ACKNOWLEDGED
    assert desk.due(match).is_due


def test_of_two_reports_that_name_a_file_the_other_one_stands(
    desk: Desk, match: Match, acknowledged: Report
) -> None:
    other = desk.prepare(match, to="second")
    desk.send(other)
    desk.acknowledge(other)
    desk.wait(days=1)
    desk.retract(acknowledged)
    # The time counts from the acknowledgement that is valid.
    assert desk.get(match).state is MatchState.ACKNOWLEDGED
    due = desk.due(match)
    assert not due.is_due and due.at is not None and (due.at - desk.now()).days == 29
    desk.wait(days=29)
    assert desk.due(match).is_due
    desk.retract(other)
    assert desk.get(match).state is MatchState.QUARANTINED and kept(desk, match)


def test_a_file_that_is_reported_elsewhere_only_is_not_due(
    desk: Desk, match: Match, acknowledged: Report
) -> None:
    other = desk.prepare(match, to="second")
    desk.send(other)
    desk.retract(acknowledged)
    assert desk.get(match).state is MatchState.REPORTED and kept(desk, match)


def test_a_hold_outranks_a_retraction_and_ends_in_nothing_due(
    desk: Desk, match: Match, acknowledged: Report
) -> None:
    marks: dict[str, Any] = {"reason": "order"}
    with desk.record() as record:
        desk.room().hold(match.id, record, **marks)
    desk.retract(acknowledged)
    assert desk.due(match).why.startswith("on hold")
    with desk.record() as record:
        desk.room().release(match.id, record, **marks)
    assert kept(desk, match)


@pytest.mark.parametrize("state", [MatchState.CLOSED, MatchState.RESTORED, MatchState.PURGED])
def test_settled_matches_stay_settled(
    desk: Desk, match: Match, acknowledged: Report, state: MatchState
) -> None:
    with desk.record() as record:
        record.change(match.id, state, desk.now(), {})
    desk.retract(acknowledged)
    assert desk.get(match).state is state


def test_a_match_listed_again_goes_on_without_a_retracted_report(
    desk: Desk, match: Match, acknowledged: Report
) -> None:
    hit = match.hits[0]
    with desk.record() as record:
        record.withdraw(hit.list_name, [hit.entry], 4, desk.now())
    desk.retract(acknowledged)
    assert desk.get(match).state is MatchState.WITHDRAWN
    with desk.record() as record:
        assert record.list_again(match.id, [hit], desk.now()).state is MatchState.QUARANTINED
    assert kept(desk, match)


def test_a_retracted_match_in_place_is_found_again(desk: Desk) -> None:
    match = desk.find("a", A)
    report = desk.prepare(match)
    desk.send(report)
    desk.acknowledge(report)
    desk.retract(report)
    assert desk.get(match).state is MatchState.FOUND
    desk.quarantine(match)
    desk.wait(days=400)
    assert desk.get(match).state is MatchState.QUARANTINED and kept(desk, match)


def test_a_lost_record_is_filled_from_the_quarantine(
    desk: Desk, match: Match, acknowledged: Report
) -> None:
    (desk.settings.state_dir / "matches.db").unlink()
    with desk.record() as record:
        list(desk.room().recover(record))
    desk.retract(acknowledged)
    assert desk.get(match).state is MatchState.QUARANTINED and kept(desk, match)


def test_a_report_that_a_policy_wanted_is_wanted_again_when_the_file_is_found_again(
    desk: Desk,
) -> None:
    match = desk.find("a", A)

    def wanted() -> Report | None:
        with desk.record() as record:
            return desk.outbox.prepare_wanted("police", record, most=9)

    def found() -> bool:
        assert desk.find("a", A).id == match.id
        with desk.record() as record:
            return record.want_report(match.id, "police", desk.now())

    assert found() and found()
    report = wanted()
    assert report is not None and wanted() is None and not found()
    desk.send(report)
    assert not found()
    desk.retract(report)
    # A report that a person has retracted is not prepared again automatically.
    assert wanted() is None and desk.send_due() == []
    assert found()
    again = wanted()
    assert again is not None and again.id != report.id and again.matches == (match.id,)
    assert wanted() is None and not found()


def each_change(desk: Desk) -> Iterator[int]:
    """Yield the number of the change of the disk at which a test interferes; the caller stops."""
    start = desk.directory / "start"
    start.mkdir()
    places = (desk.settings.state_dir, desk.out)
    for place in places:
        shutil.copytree(place, start / place.name)
    for number in range(1, 100):
        for place in places:
            shutil.rmtree(place)
            shutil.copytree(start / place.name, place)
        yield number
    raise AssertionError("it does not come to an end")


def reason_of(desk: Desk, report: Report) -> str | None:
    decided = desk.outbox.get(report.id).retraction
    return None if decided is None else decided.reason


@pytest.mark.slow
def test_killed_at_each_change_while_a_report_is_taken_back(
    desk: Desk, match: Match, acknowledged: Report
) -> None:
    note = desk.out / f"hashclient-report-{acknowledged.id}-retraction.json"
    seen = set()
    for number in each_change(desk):

        def work(number: int = number) -> None:
            with watched(kill_at(number)):
                desk.retract(acknowledged, "first")

        status = in_child(work)
        report = desk.outbox.get(acknowledged.id)
        due, state = desk.due(match).is_due, desk.get(match).state
        seen.add((report.state, report.is_retracting, state))
        # Items are due until the retraction has reopened the matches.
        begun = "matches-reopened" in desk.events() and state is not MatchState.ACKNOWLEDGED
        assert due == (not begun)
        if report.retraction is not None:
            assert not due
            # The next command that sends carries out the retraction.
            assert [s.error for s in desk.send_due()] in ([], [None])
            assert desk.outbox.get(report.id).state is State.RETRACTED
        elif begun:
            with pytest.raises(UsageError, match=r"is acknowledged|being retracted"):
                desk.acknowledge(report)
        if not note.exists():
            # The person whose command was interrupted retracts the report again.
            assert desk.retract(acknowledged, "second").error is None
        assert reason_of(desk, acknowledged) == ("second" if report.retraction is None else "first")
        assert kept(desk, match)
        assert desk.get(match).state is MatchState.QUARANTINED
        assert verify_retraction(note).report_id == acknowledged.id
        story = desk.story(match)
        assert story.count("report-retracting") == story.count("report-retracted") == 1
        if status == 0:
            break
    assert number > 12
    assert len(seen) >= 4


def test_a_retraction_that_was_killed_before_it_was_logged_is_logged_before_its_note_is_written(
    desk: Desk, match: Match, acknowledged: Report
) -> None:
    with (
        mock.patch.object(desk.outbox, "settle", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        desk.retract(acknowledged)
    assert desk.outbox.get(acknowledged.id).state is State.RETRACTED
    assert desk.retract(acknowledged).error is None
    note = desk.out / f"hashclient-report-{acknowledged.id}-retraction.json"
    assert verify_retraction(note).report_id == acknowledged.id
    assert "report-retracted" in desk.story(match)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_disk_that_fails_at_each_change_while_a_report_is_taken_back(
    desk: Desk, match: Match, acknowledged: Report, code: int
) -> None:
    failures = 0
    for number in each_change(desk):
        fault = FailAt(number, code)
        try:
            with watched(fault):
                error = desk.retract(acknowledged).error
        except HashclientError as raised:
            error = raised
        assert error is None or isinstance(error, StateError | AuditError)
        failures += error is not None
        report = desk.outbox.get(acknowledged.id)
        if report.retraction is not None or desk.get(match).state is not MatchState.ACKNOWLEDGED:
            assert not desk.due(match).is_due
        desk.wait(days=2)
        for sent in desk.send_due():
            assert sent.error is None
        if desk.outbox.get(acknowledged.id).state is not State.RETRACTED:
            assert desk.retract(acknowledged).error is None
        assert kept(desk, match)
        if not fault.fired:
            break
    assert failures > 8


def test_without_the_log_nothing_is_taken_back(
    desk: Desk, match: Match, acknowledged: Report
) -> None:
    log = desk.settings.layout.audit / "log.jsonl"
    text = log.read_bytes()
    log.write_bytes(text[:-30] + b"x" + text[-29:])
    with pytest.raises(AuditError):
        desk.retract(acknowledged)
    assert desk.outbox.get(acknowledged.id) == acknowledged
    assert desk.get(match).state is MatchState.ACKNOWLEDGED
    log.write_bytes(text)
    assert desk.retract(acknowledged).error is None and kept(desk, match)


def test_an_acknowledgement_that_was_not_recorded_is_not_recorded_later(
    desk: Desk, match: Match
) -> None:
    """The state is as after a kill between the report's record and the record of matches."""
    report = desk.prepare(match)
    desk.send(report)
    with mock.patch.object(desk.outbox, "settle", lambda report, _record: report):
        desk.acknowledge(report)
    assert desk.get(match).state is MatchState.REPORTED
    desk.retract(report)
    assert desk.send_due() == []
    desk.wait(days=400)
    assert "acknowledged" not in desk.story(match) and kept(desk, match)


def test_an_acknowledgement_of_a_report_that_is_being_retracted_is_not_recorded(
    desk: Desk, match: Match
) -> None:
    report = desk.prepare(match)
    desk.send(report)
    with mock.patch.object(desk.outbox, "settle", lambda report, _record: report):
        report = desk.acknowledge(report)
    with desk.record() as record:
        reopen(desk.outbox.session, report, record, reason="killed after this")
    assert desk.send_due() == []
    desk.wait(days=400)
    assert desk.outbox.get(report.id).settled is State.ACKNOWLEDGED
    assert desk.get(match).state is MatchState.QUARANTINED and kept(desk, match)


def test_a_report_that_is_being_taken_back_is_not_acknowledged(desk: Desk, match: Match) -> None:
    report = desk.prepare(match)
    desk.send(report)
    with desk.record() as record:
        reopen(desk.outbox.session, report, record, reason="killed after this")
    with pytest.raises(UsageError, match="is being retracted"):
        desk.acknowledge(report)
    report = desk.outbox.decide_retraction(desk.outbox.get(report.id), reason="and this")
    with pytest.raises(UsageError, match="is being retracted"):
        desk.acknowledge(report)
    (sent,) = desk.send_due()
    assert sent.error is None and sent.report.state is State.RETRACTED
    assert kept(desk, match)


def test_taking_back_what_was_handed_over_is_tried_again_after_a_pause(
    desk: Desk, match: Match, acknowledged: Report
) -> None:
    police = desk.settings.config.report.to.pop("police")
    sent = desk.retract(acknowledged)
    assert sent.error is not None
    assert (sent.report.state, sent.report.is_retracting) == (State.ACKNOWLEDGED, True)
    assert kept(desk, match)
    # A person must act, so the timer does not try, and fail, every quarter of an hour.
    assert desk.send_due() == []
    desk.settings.config.report.to["police"] = police
    desk.wait(days=2)
    (sent,) = desk.send_due()
    assert sent.error is None and sent.report.state is State.RETRACTED
    assert sent.report.problem is None


def test_a_file_whose_report_is_retracted_while_it_is_purged_stays(
    desk: Desk, match: Match, acknowledged: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Room.log

    def meanwhile(room: Room, event: str, *arguments: object, **data: object) -> None:
        log(room, event, *arguments, **data)  # type: ignore[arg-type] # as the caller gave it
        if event == "purging":
            desk.retract(acknowledged)

    monkeypatch.setattr(Room, "log", meanwhile)
    purged = desk.purge(match)
    assert (purged.done, purged.detail) == (False, f"not purged: {KEPT}")
    assert desk.get(match).state is MatchState.QUARANTINED
    assert (desk.settings.layout.quarantine / match.id / "evidence.age").exists()


def test_a_service_that_has_finished_a_report_keeps_it_acknowledged() -> None:
    with fast_directory() as directory, desk_and_service(directory) as (desk, service):
        match = desk.find("b", B)
        report = desk.prepare(match, to="hotline")
        service.fail("finish", Fault(reset="after"))
        desk.send_due()
        sent = desk.retract(report)
        assert isinstance(sent.error, UsageError)
        assert desk.get(match).state is MatchState.ACKNOWLEDGED
        assert not desk.outbox.get(report.id).is_retracting
        assert "matches-reopened" not in desk.events()


def test_a_kill_when_a_report_turns_out_to_be_finished() -> None:
    """The report can no longer be retracted, and the command does not try it again."""
    with fast_directory() as directory, desk_and_service(directory) as (desk, service):
        match = desk.find("b", B)
        report = desk.prepare(match, to="hotline")
        service.fail("finish", Fault(reset="after"))
        desk.send_due()
        killed = mock.patch.object(desk.outbox, "settle", side_effect=KeyboardInterrupt)
        with killed, pytest.raises(KeyboardInterrupt):
            desk.retract(report)
        report = desk.outbox.get(report.id)
        assert report.state is State.ACKNOWLEDGED and report.retraction is not None
        service.requests.clear()
        desk.wait(days=2)
        assert desk.send_due() == [] == service.requests
        assert desk.get(match).state is MatchState.ACKNOWLEDGED


def test_on_the_command(tmp_path: Path) -> None:
    desk = Desk(tmp_path, keep_days=0)
    match = desk.find("a", A)
    desk.quarantine(match)
    report = desk.prepare(match)
    desk.send(report)
    desk.acknowledge(report)

    def run(*arguments: object) -> str:
        result = call("--state-dir", desk.settings.state_dir, *arguments)
        assert result.code == 0, result
        return result.out

    purge = ("quarantine", "purge", "--dry-run")
    assert "would be purged: due since" in run(*purge)
    run("report", "retract", report.id, "--reason", "a mistake")
    assert f"not purged: {KEPT}" in run(*purge)
    assert KEPT in run("quarantine", "show", match.id)
    (found,) = map(json.loads, run("matches", "--format", "jsonl").splitlines())
    assert found["state"] == "quarantined"
    shown = run("matches", "show", match.id)
    assert "report-retracting" in shown and "report-retracted" in shown
    assert verify_package(desk.out / f"hashclient-report-{report.id}").evidence == 1
    again = json.loads(run("report", "prepare", "--all", "--format", "json"))
    assert again["matches"] == [match.id] and again["id"] != report.id

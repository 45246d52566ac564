"""Reports during changes of matches, files, the configuration or the person who sends.

The change happens when a report is prepared or half sent. Withdrawn matches are not reported, a
begun report is ended at the service, and all displayed states are true.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.desk import A, B, Desk, desk_and_service
from fixtures.reporting_service import Fault, ReportingService
from hashclient.config.tables import PackageDestination
from hashclient.core.errors import AuditError, ConfigError, ExitCode, StateError, UnreachableError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.reporting.report import Call, Report, State
from tests.kit import fast_directory


@pytest.fixture
def both() -> Iterator[tuple[Desk, ReportingService]]:
    with fast_directory() as directory, desk_and_service(directory) as made:
        yield made


@pytest.fixture
def desk(both: tuple[Desk, ReportingService]) -> Desk:
    return both[0]


@pytest.fixture
def service(both: tuple[Desk, ReportingService]) -> ReportingService:
    return both[1]


@pytest.fixture
def matches(desk: Desk) -> list[Match]:
    return [desk.find("a", A), desk.find("b", B)]


@pytest.fixture
def report(desk: Desk, matches: list[Match]) -> Report:
    return desk.prepare(*matches, to="hotline")


def change(desk: Desk, match: Match, state: MatchState) -> None:
    with desk.record() as record:
        if state is MatchState.WITHDRAWN:
            hit = match.hits[0]
            record.withdraw(hit.list_name, [hit.entry], hit.generation + 1, desk.now())
        else:
            record.change(match.id, state, desk.now(), {})


@pytest.mark.sampled
@pytest.mark.parametrize("state", [MatchState.WITHDRAWN, MatchState.RESTORED, MatchState.PURGED])
@pytest.mark.parametrize(
    ("call", "nth", "fault"),
    [
        ("submit", 0, Fault(reset="after")),
        ("upload", 0, Fault(code=1000)),
        ("fileinfo", 1, Fault(reset="after")),
        ("finish", 0, Fault(status=401)),
    ],
)
def test_a_match_withdrawn_while_a_report_is_open_is_left_out(
    desk: Desk,
    service: ReportingService,
    matches: list[Match],
    report: Report,
    call: str,
    nth: int,
    fault: Fault,
    state: MatchState,
) -> None:
    service.fail(call, *[Fault()] * nth, fault)
    (sent,) = desk.send_due()
    assert sent.error is not None
    change(desk, matches[1], state)
    sent = desk.send(report)
    assert sent.error is None
    assert sent.report.left_out == (matches[1].id,)
    assert [f.data for f in service.finished.files.values()] == [A]
    assert matches[1].id.encode() not in service.finished.document
    assert service.states().count("open") == (call == "submit")
    assert desk.get(matches[1]).state is state


def test_a_match_withdrawn_after_the_report_may_be_finished_stays_in_it(
    desk: Desk, service: ReportingService, matches: list[Match], report: Report
) -> None:
    service.fail("finish", Fault(reset="after"))
    desk.send_due()
    change(desk, matches[1], MatchState.WITHDRAWN)
    sent = desk.send(report)
    assert sent.error is None and sent.report.state is State.ACKNOWLEDGED
    assert sent.report.matches == report.matches
    assert "acknowledged" in desk.story(matches[1])
    assert desk.get(matches[1]).state is MatchState.WITHDRAWN


def test_a_file_quarantined_while_a_report_is_open_waits_for_the_key(
    desk: Desk, service: ReportingService, matches: list[Match], report: Report
) -> None:
    service.fail("upload", Fault(), Fault(code=1000))
    desk.send_due()
    desk.quarantine(matches[1])
    sent = desk.send(report)
    assert sent.error is None and "waits" in sent.detail
    assert sent.report.problem is not None
    assert sent.report.problem.exit_code == ExitCode.INCOMPLETE
    # Until the key is given, no report stays open at the service.
    assert service.states() == ["retracted"]
    (sent,) = desk.send_due(identities=desk.identities())
    assert sent.error is None
    assert [f.data for f in service.finished.files.values()] == [A, B]


def test_the_right_key_after_a_wrong_one(desk: Desk, service: ReportingService) -> None:
    other = Desk(desk.directory / "other")
    match = desk.find("a", A)
    desk.quarantine(match)
    desk.prepare(match, to="hotline")
    (sent,) = desk.send_due(identities=other.identities())
    assert sent.error is not None and sent.error.exit_code is ExitCode.UNAUTHORISED
    assert desk.send_due() == []
    (sent,) = desk.send_due(identities=desk.identities())
    assert sent.error is None
    assert "open" not in service.states()


def test_no_such_report_in_answer_to_opening_one(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    service.fail("submit", Fault(code=5001))
    (sent,) = desk.send_due()
    assert isinstance(sent.error, StateError)
    assert desk.send(report).error is None
    assert service.states() == ["finished"]


def test_retracting_what_may_be_finished_and_is_unknown_there(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    service.fail("finish", Fault(reset="before"))
    desk.send_due()
    (remote_id,) = service.reports
    service.vanish()
    sent = desk.retract(report)
    assert sent.report.state is State.RETRACTED
    (note,) = sent.notes
    assert remote_id in note and "ask the recipient" in note


@pytest.mark.parametrize("call", ["upload", "finish"])
def test_a_destination_that_is_something_else_now(
    desk: Desk, service: ReportingService, report: Report, call: str
) -> None:
    """The name of a service now belongs to a directory: the open report is not retracted there."""
    service.fail(call, Fault(reset="before"))
    desk.send_due()
    to = desk.settings.config.report.to
    hotline, to["hotline"] = to["hotline"], PackageDestination(directory=str(desk.out))
    for sent in (desk.send(report), desk.retract(report)):
        assert isinstance(sent.error, ConfigError) and "another one now" in sent.error.message
        assert sent.report.state is State.FAILED
    assert service.states() == ["open"] and list(desk.out.iterdir()) == []
    to["hotline"] = hotline
    desk.wait(days=2)
    (sent,) = desk.send_due()
    assert sent.error is None and sent.report.state is State.RETRACTED
    assert service.states() == ["retracted"]


def test_a_package_is_not_taken_back_at_a_service(
    desk: Desk, service: ReportingService, matches: list[Match]
) -> None:
    report = desk.prepare(matches[0])
    desk.send(report)
    to = desk.settings.config.report.to
    police, to["police"] = to["police"], to["hotline"]
    sent = desk.retract(report)
    assert isinstance(sent.error, ConfigError)
    assert sent.report.state is State.SUBMITTED
    assert service.requests == []
    to["police"] = police
    assert desk.retract(report).report.state is State.RETRACTED
    assert {p.name for p in desk.out.iterdir()} == {
        f"hashclient-report-{report.id}",
        f"hashclient-report-{report.id}-retraction.json",
    }


def test_a_finished_report_is_not_called_unsent_after_the_log_broke(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    log = desk.settings.layout.audit / "log.jsonl"
    kept: list[bytes] = []

    def break_log() -> None:
        text = log.read_bytes()
        kept.append(text)
        log.write_bytes(text[:-30] + b"x" + text[-29:])

    service.fail("finish", Fault(hook=break_log))
    (sent,) = desk.send_due()
    assert isinstance(sent.error, AuditError)
    assert (sent.detail, sent.report.state) == ("acknowledged", State.ACKNOWLEDGED)
    log.write_bytes(kept[0])
    assert desk.send_due() == []
    assert service.states() == ["finished"]
    assert "report-acknowledged" in desk.events()


def test_two_services_under_one_name(desk: Desk, service: ReportingService, report: Report) -> None:
    """A report that the other service does not know is started again, or waits for a person."""
    service.fail("upload", Fault(code=1000))
    desk.send_due()
    (desk.directory / "second").mkdir()
    with desk_and_service(desk.directory / "second") as (second_desk, second):
        desk.settings.config.report.to["hotline"] = second_desk.settings.config.report.to["hotline"]
        sent = desk.send(report)
        assert sent.error is None
        assert second.states() == ["finished"]


def test_a_doubt_about_finishing_is_not_ended_by_another_service(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    service.fail("finish", Fault(reset="after"))
    (sent,) = desk.send_due()
    assert isinstance(sent.error, UnreachableError)
    kept, service.reports = service.reports, {}
    sent = desk.send(report)
    assert isinstance(sent.error, StateError)
    assert sent.report.remote.in_doubt is Call.FINISH
    service.reports = kept
    assert desk.send(report).report.state is State.ACKNOWLEDGED
    assert service.states() == ["finished"]

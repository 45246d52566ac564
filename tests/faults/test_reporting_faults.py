"""Reports and failures in between: broken connections, kills, full disks, two commands at once.

In the end the service has exactly one finished report for each report on this machine. Only reports
whose id never arrived on this machine stay open at the service, where they expire.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.crash import FailAt, in_child, kill_at, watched
from fixtures.desk import A, B, Desk, desk_and_service
from fixtures.reporting_service import Fault, ReportingService
from hashclient.audit.log import Event
from hashclient.audit.log import verify as verify_audit
from hashclient.config.tables import ServiceDestination
from hashclient.core.errors import (
    AuditError,
    AuthorisationError,
    ConfigError,
    HashclientError,
    LockedError,
    StateError,
    UnreachableError,
    UsageError,
    VerificationError,
)
from hashclient.core.kinds import Algorithm, Kind, MatchState
from hashclient.core.match import Match
from hashclient.core.model import Hit, Outcome
from hashclient.packages.verify import verify_package
from hashclient.reporting.destinations.cybertipline.plan import make_plan
from hashclient.reporting.destinations.interface import Work
from hashclient.reporting.outbox import Outbox
from hashclient.reporting.report import Call, Report, State
from tests.kit import fast_directory
from tests.kit.depth import changes, of_changes

CALLS = ("submit", "upload", "fileinfo", "finish")
#: An upper bound for the changes of the disk in one attempt.
MOST = 300


@pytest.fixture
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Desk, ReportingService]]:
    """A desk and a service; a parameter may replace the long timeout by another, in seconds."""
    timeout_s = getattr(request, "param", 60.0)
    with fast_directory() as directory, desk_and_service(directory, timeout_s=timeout_s) as made:
        yield made


@pytest.fixture
def desk(both: tuple[Desk, ReportingService]) -> Desk:
    return both[0]


@pytest.fixture
def service(both: tuple[Desk, ReportingService]) -> ReportingService:
    return both[1]


@pytest.fixture
def report(desk: Desk) -> Report:
    return desk.prepare(desk.find("a", A), desk.find("b", B), to="hotline")


def each_change(desk: Desk) -> Iterator[int]:
    """Yield the number of the change at which a test interferes, each time from the same state.

    The caller stops at the first number that no change reaches.
    """
    kept = desk.directory / "kept"
    shutil.copytree(desk.settings.state_dir, kept)
    for number in changes(MOST):
        shutil.rmtree(desk.settings.state_dir)
        shutil.copytree(kept, desk.settings.state_dir)
        shutil.rmtree(desk.out)
        desk.out.mkdir()
        yield number
    raise AssertionError("it does not come to an end")


def send_until_done(desk: Desk, report: Report) -> Report:
    """Send as cron does, until the report is finished."""
    for _ in range(5):
        for sent in desk.send_due():
            if sent.error is None:
                return sent.report
            assert isinstance(sent.error, UnreachableError | VerificationError)
        desk.wait(days=2)
    raise AssertionError("it does not come to an end")


def check_one_finished(desk: Desk, service: ReportingService, report: Report) -> None:
    """Check that the service has the complete report once, and no other report is open."""
    finished = service.finished
    assert [f.data for f in finished.files.values()] == [A, B][: len(report.matches)]
    assert all(f.details is not None for f in finished.files.values())
    known = set(desk.outbox.get(report.id).remote.past)
    for report_id, remote in service.reports.items():
        if remote.state == "open":
            assert report_id not in known
            assert not remote.files
    assert service.states().count("open") <= 1
    done = desk.outbox.get(report.id)
    assert done.state is State.ACKNOWLEDGED
    assert service.reports[done.reference or ""] is finished
    with desk.record() as record:
        for match_id in report.matches:
            assert record.get(match_id).state is MatchState.ACKNOWLEDGED
    verify_audit(desk.settings.layout.audit)


@pytest.mark.sampled
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_a_line_that_is_cut_at_any_call(
    desk: Desk, service: ReportingService, report: Report, call: str, when: str
) -> None:
    service.fail(call, Fault(reset=when))
    (sent,) = desk.send_due()
    assert isinstance(sent.error, UnreachableError)
    assert sent.report.remote.in_doubt == ("open" if call == "submit" else call)
    assert desk.send_due() == []  # the failed report is not due immediately
    done = send_until_done(desk, report)
    assert done.state is State.ACKNOWLEDGED
    check_one_finished(desk, service, report)
    assert desk.send_due() == []


@pytest.mark.sampled
@pytest.mark.parametrize("both", [1.0], indirect=True)
@pytest.mark.parametrize("call", CALLS)
def test_a_service_that_says_nothing(
    desk: Desk, service: ReportingService, report: Report, call: str
) -> None:
    service.fail(call, Fault(stall=True))
    (sent,) = desk.send_due()
    assert isinstance(sent.error, UnreachableError)
    send_until_done(desk, report)
    check_one_finished(desk, service, report)


@pytest.mark.sampled
@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize(
    ("call", "nth"),
    [("submit", 0), ("upload", 0), ("fileinfo", 0), ("upload", 1), ("fileinfo", 1), ("finish", 0)],
)
def test_killed_at_any_call(
    desk: Desk, service: ReportingService, report: Report, call: str, nth: int, carried_out: bool
) -> None:
    def kill() -> None:
        os.kill(int((desk.directory / "pid").read_text()), signal.SIGKILL)

    def work() -> None:
        (desk.directory / "pid").write_text(str(os.getpid()))
        desk.send_due()

    fault = Fault(hook=kill, reset="after") if carried_out else Fault(hook=kill, code=1000)
    service.fail(call, *[Fault()] * nth, fault)
    assert in_child(work) == -signal.SIGKILL
    assert desk.outbox.get(report.id).remote.in_doubt == ("open" if call == "submit" else call)
    send_until_done(desk, report)
    check_one_finished(desk, service, report)


@pytest.mark.slow
def test_killed_at_each_change_of_the_disk(desk: Desk, service: ReportingService) -> None:
    report = desk.prepare(desk.find("a", A), to="hotline")
    killed = 0
    for number in each_change(desk):
        service.reports.clear()

        def work(number: int = number) -> None:
            with watched(kill_at(number)):
                desk.send_due()

        status = in_child(work)
        assert status in {0, -signal.SIGKILL}
        if desk.outbox.get(report.id).state is not State.ACKNOWLEDGED:
            send_until_done(desk, report)
        else:
            desk.send_due()
        check_one_finished(desk, service, report)
        if status == 0:
            break
        killed += 1
    assert killed > of_changes(20)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_disk_fails_at_each_change(desk: Desk, service: ReportingService, code: int) -> None:
    report = desk.prepare(desk.find("a", A), to="hotline")
    failures = 0
    for number in each_change(desk):
        service.reports.clear()
        fault = FailAt(number, code)
        try:
            with watched(fault):
                sent = desk.send_due()
            errors = [s.error for s in sent if s.error is not None]
        except HashclientError as error:
            errors = [error]
        if errors:
            assert all(isinstance(e, StateError | AuditError) for e in errors)
            failures += 1
        if not fault.fired:
            break
        desk.wait(days=2)
        if desk.outbox.get(report.id).state is not State.ACKNOWLEDGED:
            send_until_done(desk, report)
        else:
            desk.send_due()
        check_one_finished(desk, service, report)
    assert failures > of_changes(20)


@pytest.mark.slow
def test_a_package_killed_at_each_change_of_the_disk(desk: Desk) -> None:
    match = desk.find("a", A)
    desk.quarantine(match)
    report = desk.prepare(match)
    for number in each_change(desk):

        def work(number: int = number) -> None:
            with watched(kill_at(number)):
                desk.send_due()

        status = in_child(work)
        # Whoever reads the directory sees no package, or a complete one.
        shown = [path for path in desk.out.iterdir() if not path.name.startswith(".")]
        for path in shown:
            assert verify_package(path).evidence == 1
        for sent in desk.send_due():
            assert sent.error is None
        (path,) = desk.out.iterdir()
        assert verify_package(path).document.report == report.id
        assert desk.outbox.get(report.id).state is State.SUBMITTED
        assert desk.get(match).state is MatchState.REPORTED
        if status == 0:
            break
    assert number > 15


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_package_when_the_disk_fails_at_each_change(desk: Desk, code: int) -> None:
    match = desk.find("a", A)
    desk.quarantine(match)
    desk.prepare(match)
    failures = 0
    for number in each_change(desk):
        fault = FailAt(number, code)
        try:
            with watched(fault):
                errors = [s.error for s in desk.send_due() if s.error is not None]
        except HashclientError as error:
            errors = [error]
        assert all(isinstance(e, StateError | AuditError) for e in errors)
        failures += bool(errors)
        for path in desk.out.iterdir():
            assert path.name.startswith(".tmp-") or verify_package(path).evidence == 1
        desk.wait(days=2)
        for sent in desk.send_due():
            assert sent.error is None
        (path,) = desk.out.iterdir()
        assert verify_package(path).evidence == 1
        assert desk.get(match).state is MatchState.REPORTED
        if not fault.fired:
            break
    assert failures > of_changes(10)


@pytest.mark.slow
def test_preparing_killed_at_each_change_of_the_disk(desk: Desk) -> None:
    match = desk.find("a", A)
    for number in each_change(desk):

        def work(number: int = number) -> None:
            with watched(kill_at(number)):
                desk.prepare(match)

        status = in_child(work)
        there = list(desk.outbox.reports())
        if there:
            with desk.record() as record:
                desk.outbox.settle_new(record)
        else:
            desk.prepare(match)
        (report,) = desk.outbox.reports()
        assert report.settled is State.PREPARED
        assert desk.story(match).count("report-prepared") == 1
        assert "report-prepared" in desk.events()
        left = {p.name for p in desk.settings.layout.reports.iterdir()}
        assert left == {report.id, "prepare.lock"}
        if status == 0:
            break
    assert number > 8


def test_two_at_once(desk: Desk, service: ReportingService, report: Report) -> None:
    refused: list[LockedError] = []

    def second() -> None:
        with pytest.raises(LockedError) as caught:
            desk.send_due()
        refused.append(caught.value)

    # The second command starts during the upload of the first attempt.
    service.fail("upload", Fault(hook=second))
    (sent,) = desk.send_due()
    assert sent.error is None
    assert "another command" in refused[0].message and "nothing" not in refused[0].message
    check_one_finished(desk, service, report)


def test_a_report_can_be_prepared_while_another_is_sent(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    other = desk.find("c", b"third")
    service.fail("upload", Fault(hook=lambda: prepared.append(desk.prepare(other, to="hotline"))))
    prepared: list[Report] = []
    (sent,) = desk.send_due()
    assert sent.error is None
    (sent,) = desk.send_due()
    assert sent.report.id == prepared[0].id
    assert service.states() == ["finished", "finished"]


def test_a_report_in_doubt_at_finish_and_unknown_there_needs_a_person(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    service.fail("finish", Fault(reset="before"))
    desk.send_due()
    service.vanish()
    desk.wait(days=2)
    (sent,) = desk.send_due()
    assert isinstance(sent.error, StateError) and "--again" in (sent.error.hint or "")
    assert sent.report.remote.in_doubt is Call.FINISH
    assert service.reports == {}
    # The person has asked the recipient, and starts the report again.
    sent = desk.send(report, again=True)
    assert sent.error is None
    assert len(sent.report.remote.past) == 1
    check_one_finished(desk, service, report)


def test_a_report_that_vanished_before_finish_is_begun_again(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    service.fail("upload", Fault(), Fault(code=1000))
    (sent,) = desk.send_due()
    assert isinstance(sent.error, UnreachableError)
    service.vanish()
    send_until_done(desk, report)
    check_one_finished(desk, service, report)


def test_a_service_that_loses_reports_again_and_again(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    service.fail("upload", *[Fault(code=5001)] * 3)
    (sent,) = desk.send_due()
    assert isinstance(sent.error, UnreachableError)
    assert service.requests.count("submit") == 3


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("code", "kind", "state"),
    [
        (1000, UnreachableError, State.SUBMITTING),
        (1300, UnreachableError, State.SUBMITTING),
        (2000, AuthorisationError, State.FAILED),
        (3100, AuthorisationError, State.FAILED),
        (4100, ConfigError, State.FAILED),
        (5002, AuthorisationError, State.FAILED),
        (5101, StateError, State.SUBMITTING),
        (7777, UnreachableError, State.SUBMITTING),
    ],
)
@pytest.mark.parametrize("call", CALLS)
def test_every_code_at_every_call(
    desk: Desk,
    service: ReportingService,
    report: Report,
    call: str,
    code: int,
    kind: type[HashclientError],
    state: State,
) -> None:
    service.fail(call, Fault(code=code))
    (sent,) = desk.send_due()
    assert type(sent.error) is kind
    assert f"code {code}, request req-" in sent.error.message
    assert sent.report.state is state
    assert sent.report.problem is not None and sent.report.problem.message == sent.error.message
    failed = json.loads((desk.settings.layout.audit / "log.jsonl").read_text().splitlines()[-1])
    assert failed["event"] == "report-failed"
    assert failed["data"]["requests"]
    # A report that is refused for good is not left open at the service.
    if kind is not UnreachableError:
        assert "open" not in service.states()
    desk.wait(days=2)
    sent = desk.send(report)
    assert sent.error is None
    check_one_finished(desk, service, report)


@pytest.mark.sampled
@pytest.mark.parametrize(("status", "kind"), [(401, AuthorisationError), (403, AuthorisationError)])
@pytest.mark.parametrize("call", ["status", *CALLS])
def test_a_credential_that_is_refused(
    desk: Desk,
    service: ReportingService,
    report: Report,
    call: str,
    status: int,
    kind: type[HashclientError],
) -> None:
    service.fail(call, Fault(status=status))
    (sent,) = desk.send_due()
    assert type(sent.error) is kind
    assert sent.report.state is State.FAILED
    assert "dummy-password" not in str(sent)
    desk.wait(days=2)
    send_until_done(desk, report)
    check_one_finished(desk, service, report)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=503, headers=(("Retry-After", "7200"),)),
        Fault(status=429, headers=(("Retry-After", "7200"),)),
        Fault(status=404),
        Fault(status=500, body=b"<a><responseCode>0</responseCode></a>"),
        Fault(status=400, body=b"<a><responseCode>1000</responseCode></a>"),
        Fault(status=302, headers=(("Location", "http://127.0.0.1:9/"),)),
        Fault(body=b"<html>"),
        Fault(body=b"<a/>"),
        Fault(body=b"<a><responseCode>zero</responseCode></a>"),
        Fault(body=b"<a><responseCode>-0</responseCode></a>"),
        Fault(body=b"<a><responseCode>0</responseCode><responseCode>4000</responseCode></a>"),
        Fault(body=b'<!DOCTYPE a [<!ENTITY x "0">]><a><responseCode>&x;</responseCode></a>'),
        Fault(body=b"<a>" * 100_000),
        Fault(body=b"x" * (1 << 20 | 1)),
        Fault(status=200, headers=(("Content-Encoding", "gzip"),)),
    ],
)
@pytest.mark.parametrize("call", ["submit", "upload", "finish"])
def test_answers_that_are_none(
    desk: Desk, service: ReportingService, report: Report, call: str, fault: Fault
) -> None:
    service.fail(call, fault)
    (sent,) = desk.send_due()
    assert type(sent.error) is UnreachableError
    assert "list" not in (sent.error.hint or "")
    assert "provider" not in sent.error.message + (sent.error.hint or "")
    wait = (sent.report.next_attempt or desk.now()) - desk.now()
    assert wait.total_seconds() == (
        7200 if fault.headers[:1] == (("Retry-After", "7200"),) else 300
    )
    send_until_done(desk, report)
    check_one_finished(desk, service, report)


@pytest.mark.sampled
@pytest.mark.parametrize("call", ["upload", "fileinfo", "finish"])
def test_an_answer_about_another_report_is_none(
    desk: Desk, service: ReportingService, report: Report, call: str
) -> None:
    files = b"<fileId>file1</fileId><fileId>file2</fileId>"
    body = b"<a><responseCode>0</responseCode><reportId>9</reportId>%b</a>" % files
    service.fail(call, Fault(body=body))
    (sent,) = desk.send_due()
    assert isinstance(sent.error, UnreachableError) and "another report" in sent.error.message
    send_until_done(desk, report)
    check_one_finished(desk, service, report)


def test_a_refusal_may_name_report_0(desk: Desk, service: ReportingService, report: Report) -> None:
    body = b"<a><responseCode>4100</responseCode><reportId>0</reportId></a>"
    service.fail("fileinfo", Fault(body=body))
    (sent,) = desk.send_due()
    assert isinstance(sent.error, ConfigError) and "code 4100" in sent.error.message
    assert sent.report.state is State.FAILED and service.states() == ["retracted"]


@pytest.mark.parametrize("again", [False, True])
def test_a_report_that_somebody_else_has_finished_waits_for_a_person(
    desk: Desk, service: ReportingService, report: Report, again: bool
) -> None:
    def finish() -> None:
        (remote,) = service.reports.values()
        remote.state = "finished"

    service.fail("upload", Fault(), Fault(hook=finish, code=5102))
    for _ in range(3):
        (sent,) = desk.send_due()
        assert isinstance(sent.error, StateError) and "finished" in sent.error.message
        desk.wait(days=2)
    assert service.requests.count("upload") == 2
    # The person has asked the recipient whether the files have arrived.
    sent = desk.send(report, again=True) if again else desk.retract(report)
    assert sent.report.state is State.ACKNOWLEDGED
    assert [len(r.files) for r in service.reports.values()] == ([1, 2] if again else [1])


@pytest.mark.slow
def test_other_bytes_than_were_sent(desk: Desk, service: ReportingService, report: Report) -> None:
    service.fail("upload", Fault(md5="0" * 32))
    (sent,) = desk.send_due()
    assert isinstance(sent.error, VerificationError)
    assert service.states() == ["retracted"]
    send_until_done(desk, report)
    check_one_finished(desk, service, report)


def change(desk: Desk) -> None:
    (desk.files / "b").write_bytes(b"secret")


def swap_for_a_link(desk: Desk) -> None:
    (desk.files / "other").write_bytes(B)
    (desk.files / "b").unlink()
    (desk.files / "b").symlink_to("other")


def remove(desk: Desk) -> None:
    (desk.files / "b").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("do", [change, swap_for_a_link, remove])
def test_a_file_that_changes_is_not_sent(
    desk: Desk, service: ReportingService, report: Report, do: Callable[[Desk], None]
) -> None:
    # The change happens after the report was opened and the first file arrived.
    service.fail("upload", Fault(hook=lambda: do(desk)))
    (sent,) = desk.send_due()
    # The open report is retracted, the changed match is set apart, and the rest is reported.
    assert sent.error is None and sent.report.matches == report.matches[:1]
    assert service.states() == ["retracted", "finished"]
    assert [[f.data for f in r.files.values()] for r in service.reports.values()] == [[A], [A]]
    (apart,) = sent.report.apart
    waiting = desk.outbox.get(apart.report)
    assert waiting.matches == report.matches[1:] and waiting.problem is not None
    desk.wait(days=2)
    (sent,) = desk.send_due()
    assert isinstance(sent.error, StateError) and sent.report.id == waiting.id
    assert "open" not in service.states()
    # The settled match is left out, so nothing is left to report.
    with desk.record() as record:
        record.change(report.matches[1], MatchState.CLOSED, desk.now(), {})
    done = desk.send(waiting)
    assert done.error is None and done.report.state is State.RETRACTED


def test_a_file_swapped_after_it_was_proven_is_not_sent(
    desk: Desk, service: ReportingService, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was opened and proven is sent, whatever file has its path now."""
    from hashclient.quarantine import evidence
    from hashclient.quarantine.evidence import Proven

    original = evidence._check_tags

    def swap(proven: Proven, *args: Any) -> None:
        original(proven, *args)
        path = Path(proven.source.name)
        path.unlink()
        path.write_bytes(b"secret")

    monkeypatch.setattr(evidence, "_check_tags", swap)
    desk.send_due()
    sent = [[f.data for f in remote.files.values()] for remote in service.reports.values()]
    assert sent == [[A, B]]
    assert {path.read_bytes() for path in desk.files.iterdir()} == {b"secret"}


def test_no_report_leaves_without_its_evidence_while_the_quarantine_is_not_mounted(
    desk: Desk, service: ReportingService
) -> None:
    match = desk.find("a", A)
    desk.quarantine(match)
    package, filed = desk.prepare(match), desk.prepare(match, to="hotline")
    service.fail("upload", Fault(code=1000))
    assert desk.send(filed, identities=desk.identities()).error is not None
    with desk.unmounted():
        for report in package, filed:
            failed = desk.send(report, identities=desk.identities()).error
            assert isinstance(failed, StateError) and "quarantine is not there" in failed.message
    assert list(desk.out.iterdir()) == [] and service.states() == ["open"]
    for report in package, filed:
        assert desk.send(report, identities=desk.identities()).error is None
    assert [file.data for file in service.finished.files.values()] == [A]
    (sent,) = desk.out.iterdir()
    assert (sent / "evidence" / f"{match.id}.age").exists()


def test_retracted_while_open_at_the_service(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    service.fail("fileinfo", Fault(code=1000))
    desk.send_due()
    service.fail("retract", Fault(reset="after"))
    sent = desk.retract(report)
    assert isinstance(sent.error, UnreachableError)
    assert sent.report.is_open
    desk.wait(days=2)
    # A person had decided to retract before the kill, so the next scheduled run retracts the
    # report.
    (sent,) = desk.send_due()
    assert sent.error is None and sent.report.state is State.RETRACTED
    assert service.states() == ["retracted"]
    assert desk.send_due() == []
    assert desk.events()[-1] == "report-retracted"


def test_retracting_what_may_be_finished(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    service.fail("finish", Fault(reset="after"))
    desk.send_due()
    sent = desk.retract(report)
    assert isinstance(sent.error, UsageError) and "finished" in sent.error.message
    assert desk.outbox.get(report.id).state is State.ACKNOWLEDGED
    check_one_finished(desk, service, report)


def test_retracting_what_was_not_finished_after_all(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    service.fail("finish", Fault(reset="before"))
    desk.send_due()
    assert desk.retract(report).report.state is State.RETRACTED
    assert service.states() == ["retracted"]


@pytest.mark.slow
def test_pauses_double_up_to_a_day(desk: Desk, service: ReportingService, report: Report) -> None:
    pauses = []
    for _ in range(11):
        service.fail("status", Fault(status=500))
        (sent,) = desk.send_due()
        assert sent.report.next_attempt is not None
        pauses.append((sent.report.next_attempt - desk.now()).total_seconds() / 60)
        desk.time = sent.report.next_attempt
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440]
    assert desk.send(report).error is None


def test_a_broken_audit_log_stops_what_would_be_sent(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    log = desk.settings.layout.audit / "log.jsonl"
    text = log.read_bytes()
    log.write_bytes(text[:-30] + b"x" + text[-29:])
    (sent,) = desk.send_due()
    assert isinstance(sent.error, AuditError)
    assert service.requests == []
    log.write_bytes(text)
    (sent,) = desk.send_due()
    assert sent.error is None


def test_one_report_that_fails_keeps_no_other_back(
    desk: Desk, service: ReportingService, report: Report
) -> None:
    (desk.outbox.folder(report.id) / "report.json").write_text("{")
    other = desk.find("c", b"third")
    with pytest.raises(StateError, match="damaged"):
        # A damaged report may contain any match.
        desk.prepare(other, to="hotline")
    second = desk.prepare(other, to="hotline", again=True)
    with desk.sender() as sender:
        attempts = sender.send_due()
        assert next(attempts).report.id == second.id
        with pytest.raises(StateError, match="damaged"):
            next(attempts)
    assert service.states() == ["finished"]


def recorded(desk: Desk, path: str, *, is_stream: bool = False) -> Match:
    """Record a match without a file on this machine."""
    hit = Hit("baseline", "e-1", "synthetic", 3, (Algorithm.MD5,), complete=True)
    outcome = Outcome(Kind.MATCH, path, 5, hits=(hit,), tags={Algorithm.MD5: b"0" * 16})
    outcome = msgspec.structs.replace(outcome, is_stream=is_stream, is_object=not is_stream)
    with desk.record() as record:
        (ref,) = record.record([outcome], desk.sealer().key_id, desk.now())
        match = record.get(ref.id)
    data = {"id": match.id, "path": match.path, "size": match.size}
    desk.audit.append([Event("match", data)], durable=True, sign_each=True)
    return match


def test_a_stream_is_reported_without_its_content(desk: Desk, service: ReportingService) -> None:
    match = recorded(desk, "upload", is_stream=True)
    assert match.in_place and match.is_stream
    done = desk.send(desk.prepare(match, to="hotline"))
    assert done.error is None
    assert service.finished.files == {}


def test_an_object_is_looked_for_in_its_bucket_and_not_on_the_disk(desk: Desk) -> None:
    match = recorded(desk, "s3://bucket/key")
    report, outbox = desk.prepare(match, to="hotline"), Outbox(desk.session_of("x"))
    document = outbox.document(report)
    table = desk.settings.config.report.to["hotline"]
    assert isinstance(table, ServiceDestination) and table.evidence == "file"
    with desk.record() as record:
        plan, waiting, stuck = make_plan(document, table, Work(outbox, record))
    assert (plan.upload, waiting, stuck) == ((match.id,), [], {})

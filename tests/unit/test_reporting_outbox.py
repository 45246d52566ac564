"""The outbox: which matches may be reported, where this is recorded, and damaged records."""

from __future__ import annotations

import contextlib
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fixtures.desk import WHO, A, B, Desk
from fixtures.reporting_service import Fault, ReportingService
from hashclient.audit.log import read
from hashclient.core.errors import AuditError, ConfigError, LockedError, StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.packages.document import parse_document
from hashclient.quarantine.age import parse_recipients, seal
from hashclient.quarantine.evidence import plain_source, source_in_place
from hashclient.quarantine.vault import evidence_path
from hashclient.reporting.outbox import MAX_MATCHES, Outbox
from hashclient.reporting.report import Report, State
from hashclient.reporting.submit import Sender
from hashclient.system.files import writer_lock
from tests.kit import open_files

SECOND = '[report.to.second]\nkind = "package"\ndirectory = "/nowhere"\n'
HOTLINE = (
    '[report.to.hotline]\nkind = "cybertipline"\nurl = "https://127.0.0.1:9/ws"\n'
    'incident_type = "x"\nbasic_file = "/nowhere"\n'
)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, SECOND)


def test_a_report_is_noted_everywhere(desk: Desk) -> None:
    match = desk.find("a", b"x")
    report = desk.prepare(match)
    assert report.state is State.PREPARED and report.is_due(desk.now())
    assert list(desk.outbox.reports()) == [report] == [desk.outbox.get(report.id)]
    assert desk.events()[-1] == "report-prepared"
    assert desk.story(match) == ["found", "report-prepared"]
    assert desk.get(match).state is MatchState.FOUND
    document = desk.outbox.document(report)
    assert [m.id for m in document.matches] == [match.id]
    assert document.reporter.organisation == "Example"
    folder = desk.outbox.folder(report.id)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in folder.iterdir())


def test_a_match_is_reported_once_to_each(desk: Desk) -> None:
    first, second = desk.find("a", b"x"), desk.find("b", b"y")
    report = desk.prepare(first)
    with pytest.raises(UsageError, match=f"in report {report.id} to police already"):
        desk.prepare(second, first)
    assert desk.prepare(second, first, to="second").matches == (second.id, first.id)
    assert desk.prepare(first, again=True).id != report.id
    desk.send(report)
    with pytest.raises(UsageError, match="already"):
        desk.prepare(first)


def test_a_match_of_a_retracted_report_can_be_reported_again(desk: Desk) -> None:
    match = desk.find("a", b"x")
    report = desk.prepare(match)
    sent = desk.retract(report)
    assert (sent.report.state, sent.detail) == (State.RETRACTED, "retracted")
    assert desk.send_due() == []
    with pytest.raises(UsageError, match="retracted already"):
        desk.send(report)
    desk.prepare(match)


@pytest.mark.parametrize(
    "state", [MatchState.WITHDRAWN, MatchState.RESTORED, MatchState.PURGED, MatchState.CLOSED]
)
def test_matches_that_must_not_be_reported(desk: Desk, state: MatchState) -> None:
    match = desk.find("a", b"x")
    with desk.record() as record:
        record.change(match.id, state, desk.now(), {})
    with pytest.raises(UsageError, match=f"it is {state}"):
        desk.prepare(match)
    assert list(desk.outbox.reports()) == []


def test_a_report_of_a_file_that_is_gone_does_not_call_it_in_place(desk: Desk) -> None:
    match = desk.find("a", b"x")
    with desk.record() as record:
        record.change(match.id, MatchState.GONE, desk.now(), {})
    report = desk.prepare(match)
    assert desk.send(report).error is None
    document = parse_document((desk.outbox.folder(report.id) / "document.json").read_bytes())
    assert (document.matches[0].state, document.matches[0].in_place) == ("gone", False)


def test_a_match_withdrawn_before_sending_is_left_out(desk: Desk) -> None:
    first, second = desk.find("a", b"x"), desk.find("b", b"y")
    report = desk.prepare(first, second)
    with desk.record() as record:
        record.withdraw("baseline", [first.hits[0].entry], 4, desk.now())
    sent = desk.send(report)
    assert (sent.report.matches, sent.report.left_out) == ((second.id,), (first.id,))
    assert desk.get(first).state is MatchState.WITHDRAWN
    assert desk.get(second).state is MatchState.REPORTED


def test_a_report_of_which_nothing_is_left_is_dropped(desk: Desk) -> None:
    match = desk.find("a", b"x")
    report = desk.prepare(match)
    with desk.record() as record:
        record.change(match.id, MatchState.CLOSED, desk.now(), {})
    (sent,) = desk.send_due()
    assert sent.error is None and sent.report.state is State.RETRACTED
    assert list(desk.out.iterdir()) == []
    assert desk.outbox.get(report.id).retraction is not None


@pytest.mark.parametrize("others", [0, 1])
def test_a_match_that_a_report_left_out_is_reported_when_it_is_listed_again(
    desk: Desk, others: int
) -> None:
    """The file is in quarantine, so no scan finds it and asks for a report again."""
    match = desk.find("a", b"x")
    matches = [match, *(desk.find(str(n), b"y") for n in range(others))]
    desk.quarantine(match)
    with desk.record() as record:
        for one in matches:
            record.want_report(one.id, "police", desk.now())
        report = desk.outbox.prepare_wanted("police", record, most=9)
        assert report is not None and len(report.matches) == 1 + others
        record.withdraw("baseline", [match.hits[0].entry], 4, desk.now())
        assert desk.send(report).report.left_out == (match.id,)
        assert desk.outbox.prepare_wanted("police", record, most=9) is None
        record.list_again(match.id, match.hits, desk.now())
        again = desk.outbox.prepare_wanted("police", record, most=9)
        assert again is not None and again.matches == (match.id,)
        assert desk.send(again).report.state is State.SUBMITTED
        assert not record.want_report(match.id, "police", desk.now())
        assert record.get(match.id).state is MatchState.REPORTED


def test_a_scan_may_ask_again_for_a_report_of_a_match_that_was_set_apart_and_retracted(
    desk: Desk,
) -> None:
    first, second = desk.find("a", b"x"), desk.find("b", b"y")
    report = desk.prepare(first, second)
    with desk.record() as record:
        _, other = desk.outbox.set_apart(report, {second.id: None}, record)
        assert not record.want_report(second.id, "police", desk.now())
        desk.retract(other)
        assert record.want_report(second.id, "police", desk.now())
        assert not record.want_report(first.id, "police", desk.now())


def test_numbers_of_matches(desk: Desk) -> None:
    match = desk.find("a", b"x")
    with desk.record() as record, pytest.raises(UsageError, match="not of 0"):
        desk.outbox.prepare([], record, "police")
    assert desk.prepare(match, match).matches == (match.id,)
    # One record of the audit log can contain the ids of a full report.
    assert MAX_MATCHES * 13 < 1 << 20


def test_destinations(tmp_path: Path) -> None:
    desk = Desk(tmp_path, HOTLINE)
    match = desk.find("a", b"x")
    with pytest.raises(UsageError, match="nobody") as caught:
        desk.prepare(match, to="nobody")
    assert "hotline, police" in (caught.value.hint or "")
    with desk.record() as record, pytest.raises(UsageError, match="no destination"):
        desk.outbox.prepare([match], record, None)
    desk.prepare(match, to="hotline")


def test_a_service_wants_to_know_who_reports(tmp_path: Path) -> None:
    desk = Desk(tmp_path, HOTLINE, reporter=False)
    match = desk.find("a", b"x")
    with pytest.raises(ConfigError, match="email"):
        desk.prepare(match, to="hotline")
    desk.prepare(match, to="police")


def test_a_credential_that_is_missing_is_for_a_person(tmp_path: Path) -> None:
    desk = Desk(tmp_path, HOTLINE)
    sent = desk.send(desk.prepare(desk.find("a", b"x"), to="hotline"))
    assert isinstance(sent.error, ConfigError)
    assert sent.report.state is State.FAILED


def test_after_a_failing_audit_log_the_rest_is_logged_later(desk: Desk) -> None:
    match = desk.find("a", b"x")
    log = desk.settings.layout.audit / "log.jsonl"
    kept = log.read_bytes()
    log.write_bytes(kept[:-20] + (b"1" if kept[-20:-19] == b"0" else b"0") + kept[-19:])
    with pytest.raises(AuditError):
        desk.prepare(match)
    (report,) = desk.outbox.reports()
    assert report.settled is None
    log.write_bytes(kept)
    other = desk.prepare(desk.find("b", b"y"))
    assert desk.outbox.get(report.id).settled is State.PREPARED
    assert desk.events()[-2:] == ["report-prepared"] * 2
    assert desk.story(match) == ["found", "report-prepared"]
    assert other.settled is State.PREPARED


@pytest.mark.parametrize("act", ["send due", "send", "retract"])
def test_a_report_that_a_kill_kept_from_being_known_is_sent_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Only a later `report prepare` would settle the report, so sending must not wait for that."""
    match = desk.find("a", b"x")

    def killed(*_arguments: object) -> Report:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(desk.outbox, "settle", killed)
        with pytest.raises(KeyboardInterrupt):
            desk.prepare(match)
    (report,) = desk.outbox.reports()
    assert report.settled is None and desk.story(match) == ["found"]
    if act == "send due":
        (sent,) = desk.send_due()
    else:
        sent = desk.send(report) if act == "send" else desk.retract(report)
    assert sent.error is None
    wanted = State.RETRACTED if act == "retract" else State.SUBMITTED
    assert sent.report.state is wanted and sent.report.settled is wanted
    assert desk.events().count("report-prepared") == 1
    assert desk.story(match)[:2] == ["found", "report-prepared"]
    assert len(desk.story(match)) == 3


def test_a_sent_report_without_a_record_is_named_when_it_is_asked_for_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = desk.find("a", b"x")
    report = desk.prepare(match)

    def killed(*_arguments: object) -> Report:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(desk.outbox, "settle", killed)
        with pytest.raises(KeyboardInterrupt):
            desk.send(report)
    assert desk.outbox.get(report.id).state is State.SUBMITTED
    assert desk.get(match).state is MatchState.FOUND
    with pytest.raises(UsageError, match="is submitted already"):
        desk.send(report)
    assert desk.get(match).state is MatchState.REPORTED
    assert desk.outbox.get(report.id).settled is State.SUBMITTED


@pytest.mark.parametrize(
    "report_id", ["", "r-", "x", "r-bbbbbbbbbb", "r-/../../x", "../x", "r-\0", "r-\n\x1b[2J"]
)
def test_ids_that_are_none(desk: Desk, report_id: str) -> None:
    desk.prepare(desk.find("a", b"x"))
    with pytest.raises(UsageError, match="no report has the id") as caught:
        desk.outbox.get(report_id)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"format": "other"}'])
def test_a_damaged_record(desk: Desk, text: bytes) -> None:
    report = desk.prepare(desk.find("a", b"x"))
    path = desk.outbox.folder(report.id) / "report.json"
    good = path.read_bytes()
    no_zone = re.sub(rb'("created": "[^"]*)Z"', rb'\1"', good)
    for broken in (text, good.replace(report.id.encode(), b"r-bbbbbbbbbb", 1), no_zone):
        path.write_bytes(broken)
        with pytest.raises(StateError):
            desk.outbox.get(report.id)
    path.write_bytes(good)
    (desk.outbox.folder(report.id) / "document.json").write_bytes(text)
    with pytest.raises(StateError, match="damaged"):
        desk.outbox.document(report)


def test_a_report_from_the_end_of_time_is_not_overdue(desk: Desk) -> None:
    report = desk.prepare(desk.find("a", b"x"))
    assert report.is_overdue(desk.now() + timedelta(hours=25), 24)
    last = report.replace(created=datetime.max.replace(tzinfo=UTC))
    assert not last.is_overdue(desk.now(), 24)


def test_a_record_of_matches_that_was_begun_again(desk: Desk) -> None:
    report = desk.prepare(desk.find("a", b"x"))
    desk.send(report)
    for path in desk.settings.state_dir.glob("matches.db*"):
        path.unlink()
    with desk.record() as record:
        done = desk.outbox.acknowledge(report.id, "case", record)
    assert done.settled is State.ACKNOWLEDGED


def test_retracting_needs_no_destination_where_nobody_knows(desk: Desk, tmp_path: Path) -> None:
    report = desk.prepare(desk.find("a", b"x"), to="second")
    desk.settings.config.report.to.pop("second")
    sent = desk.send(report)
    assert isinstance(sent.error, UsageError) and "second" in sent.error.message
    assert desk.retract(report).report.state is State.RETRACTED


def test_a_package_that_was_never_finished_leaves_nothing(desk: Desk) -> None:
    report, other = desk.prepare(desk.find("a", b"x")), desk.prepare(desk.find("b", b"y"))
    # A kill in the middle of writing leaves these files.
    left = desk.out / f".tmp-hashclient-report-{report.id}"
    (left / "evidence").mkdir(parents=True)
    kept = desk.out / f".tmp-hashclient-report-{other.id}.tar.age"
    kept.touch()
    sealed = desk.outbox.folder(report.id) / "sealed"
    sealed.mkdir()
    assert desk.retract(report).report.state is State.RETRACTED
    assert not left.exists() and not sealed.exists() and kept.exists()


def test_a_half_written_record_is_removed(desk: Desk) -> None:
    report = desk.prepare(desk.find("a", b"x"))
    (desk.outbox.folder(report.id) / ".tmp-half").touch()
    desk.send(report)
    left = {path.name for path in desk.outbox.folder(report.id).iterdir()}
    assert left == {"report.json", "document.json"}


def test_each_act_is_recorded_with_who_did_it(desk: Desk) -> None:
    match = desk.find("a", b"x")
    report = desk.prepare(match)
    with desk.record() as record:
        Sender(Outbox(desk.session_of("second")), record).send(report.id)
        Outbox(desk.session_of("third")).acknowledge(report.id, "case", record)
        told = {step.event: step.detail.get("by") for step in record.story(match.id)}
    logged = {r.event: r.data.get("by") for r in read(desk.settings.layout.audit)}
    assert [told[e] for e in ("report-prepared", "reported", "acknowledged")] == [
        WHO,
        "second",
        "third",
    ]
    events = ("report-prepared", "report-submitted", "report-acknowledged")
    assert [logged[e] for e in events] == [WHO, "second", "third"]


def test_a_clock_that_was_ahead_keeps_nothing_back(desk: Desk) -> None:
    report = desk.prepare(desk.find("a", b"x"))
    desk.out.rmdir()
    desk.wait(days=30_000)
    (sent,) = desk.send_due()
    assert isinstance(sent.error, StateError)
    assert desk.send_due() == []
    desk.wait(days=-30_000)
    desk.out.mkdir()
    (sent,) = desk.send_due()
    assert sent.report.state is State.SUBMITTED and sent.report.id == report.id


def test_a_report_that_is_being_made_is_not_sent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the report is settled, another command may still write its record."""
    report = desk.prepare(desk.find("a", b"x"))
    desk.outbox.save(report.replace(settled=None))
    monkeypatch.setattr(desk.outbox, "settle_new", lambda _: None)
    assert desk.send_due() == []
    for act in (desk.send, desk.retract):
        with pytest.raises(LockedError, match="is being prepared"):
            act(report)
    assert list(desk.out.iterdir()) == []


def test_a_folder_without_a_record_is_damaged_and_keeps_no_other_back(desk: Desk) -> None:
    match = desk.find("a", b"x")
    report = desk.prepare(match)
    (desk.settings.layout.reports / "r-bbbbbbbbbb").mkdir()
    (desk.settings.layout.reports / "r-notes.txt").touch()
    with pytest.raises(StateError, match="damaged"):
        desk.outbox.get("r-bbbbbbbbbb")
    with desk.sender() as sender:
        attempts = sender.send_due()
        assert next(attempts).report.id == report.id
        with pytest.raises(StateError, match="damaged"):
            next(attempts)
    assert desk.get(match).state is MatchState.REPORTED


def test_a_report_that_scans_want_is_prepared_once(desk: Desk) -> None:
    matches = [desk.find(name, name.encode()) for name in "abc"]
    with desk.record() as record:
        for match in matches:
            record.want_report(match.id, "police", desk.now())

        def prepare(to: str = "police") -> Report | None:
            return desk.outbox.prepare_wanted(to, record, most=2)

        made = [prepare(), prepare()]
        assert [len(r.matches) for r in made if r is not None] == [2, 1]
        assert prepare() is None and prepare("second") is None


@pytest.mark.parametrize("how", ["killed", "record from a backup"])
def test_a_match_in_a_report_unknown_to_the_record_is_not_reported_twice(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    match = desk.find("a", b"x")
    with desk.record() as record:
        record.want_report(match.id, "police", desk.now())
        if how == "killed":

            def killed(*_arguments: object) -> Report:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(desk.outbox, "settle", killed)
                with pytest.raises(KeyboardInterrupt):
                    desk.outbox.prepare_wanted("police", record, most=2)
        else:
            assert desk.outbox.prepare_wanted("police", record, most=2) is not None
            record._db.execute("DELETE FROM step WHERE event = 'report-prepared'")
        assert desk.outbox.prepare_wanted("police", record, most=2) is None
    (report,) = desk.outbox.reports()
    assert report.settled is State.PREPARED
    assert report.matches == (match.id,)


def test_a_report_that_scans_ask_for_goes_to_its_destination_only(desk: Desk) -> None:
    match = desk.find("a", b"x")
    with desk.record() as record:
        record.want_report(match.id, "second", desk.now())
        second = desk.settings.config.report.to.pop("second")
        with pytest.raises(ConfigError, match="1 matches reported to second, which is not"):
            desk.outbox.prepare_wanted("second", record, most=2)
        assert list(desk.outbox.reports()) == []
        desk.settings.config.report.to["second"] = second
        report = desk.outbox.prepare_wanted("second", record, most=2)
    assert report is not None and report.matches == (match.id,)


def test_a_report_to_another_body_is_not_the_report_that_scans_ask_for(desk: Desk) -> None:
    """Otherwise a match that waited for its review would never be reported to the first body."""
    match = desk.find("a", b"x")
    with desk.record() as record:
        record.want_report(match.id, "police", desk.now())
        for _ in range(2):
            desk.retract(desk.prepare(match, to="second"))
            record.want_report(match.id, "police", desk.now())
        desk.prepare(match, to="second")
        police = desk.settings.config.report.to.pop("police")
        assert desk.outbox.prepare_wanted("police", record, most=2) is None
        desk.settings.config.report.to["police"] = police
        report = desk.outbox.prepare_wanted("police", record, most=2)
        assert report is not None and report.matches == (match.id,)
        assert desk.outbox.prepare_wanted("police", record, most=2) is None


def test_only_what_was_handed_over_is_acknowledged_and_once(desk: Desk) -> None:
    match = desk.find("a", b"x")
    report = desk.prepare(match)
    dropped = desk.prepare(desk.find("b", b"y"))
    desk.retract(dropped)

    def acknowledge(some: Report) -> Report:
        with desk.record() as record:
            return desk.outbox.acknowledge(some.id, "ref-1", record)

    for unsent in (report, dropped):
        with pytest.raises(UsageError, match=r"is (prepared|retracted)"):
            acknowledge(unsent)
    assert desk.get(match).state is MatchState.FOUND
    assert desk.outbox.get(report.id).is_open
    desk.send(report)
    assert acknowledge(report).settled is State.ACKNOWLEDGED
    with pytest.raises(UsageError, match="is acknowledged"):
        acknowledge(report)
    # Repeated looks do not record an event again.
    told = desk.events()
    assert desk.send_due() == []
    assert desk.events() == told
    assert [told.count(f"report-{e}") for e in ("submitted", "acknowledged")] == [1, 1]
    assert desk.story(match) == ["found", "report-prepared", "reported", "acknowledged"]


def test_the_first_decision_to_take_a_report_back_is_kept(desk: Desk) -> None:
    report = desk.prepare(desk.find("a", b"x"))
    first = desk.outbox.decide_retraction(report, by="alice", reason="a mistake")
    desk.wait(days=1)
    second = desk.outbox.decide_retraction(first, by="bob", reason="another")
    assert second.retraction == first.retraction == desk.outbox.get(report.id).retraction


def test_a_copy_of_something_else_in_quarantine_is_not_sent_in_the_clear(desk: Desk) -> None:
    """Any writer to the quarantine can seal another file to the officer and describe it rightly."""
    match = desk.find("a", b"what matched")
    desk.quarantine(match)
    directory = desk.settings.layout.quarantine
    other = io.BytesIO()
    seal(io.BytesIO(b"another one!").read, other.write, parse_recipients([desk.officer_public]))
    arguments = (desk.get(match), directory, desk.identities(), desk.sealer())
    with plain_source(*arguments) as proven:
        assert b"".join(proven.chunks()) == b"what matched"
    evidence_path(directory, match.id).write_bytes(other.getvalue())
    with pytest.raises(StateError, match="sealed copy is damaged"), plain_source(*arguments):
        pass


@pytest.mark.parametrize("is_changed", [False, True])
def test_proving_a_file_in_its_place_leaves_nothing_open(desk: Desk, is_changed: bool) -> None:
    match = desk.find("a", b"x")
    if is_changed:
        Path(match.path).write_bytes(b"y")
    before = open_files()
    with contextlib.suppress(StateError), source_in_place(match, desk.sealer()) as proven:
        assert b"".join(proven.chunks()) == b"x"
    assert open_files() == before


def test_a_finished_report_cannot_be_taken_back(tmp_path: Path) -> None:
    with ReportingService(tmp_path) as service:
        desk = Desk(tmp_path, f"[report.to.hotline]\n{service.table()}")
        report = desk.prepare(desk.find("a", b"x"), to="hotline")
        sent = desk.send(report)
        assert sent.report.reference == "4711"
        with pytest.raises(UsageError, match="finished at the service as 4711"):
            desk.retract(report)


@pytest.mark.parametrize("tls", [False, True])
def test_a_proper_submission(tmp_path: Path, tls: bool) -> None:
    with ReportingService(tmp_path, tls=tls) as service:
        desk = Desk(tmp_path, f"[report.to.hotline]\n{service.table()}")
        first, second = desk.find("a", b"x" * 300_000), desk.find(b"b\xff", b"")
        for match in (first, second):
            desk.quarantine(match)
        report = desk.prepare(first, second, to="hotline")
        # A sealed file waits for the officer's key, and the service gets no request before.
        (sent,) = desk.send_due()
        assert sent.error is None and sent.detail == "waits: 2 files are sealed in quarantine"
        assert service.requests == [] and desk.send_due() == []
        (sent,) = desk.send_due(identities=desk.identities())
        assert sent.detail == "finished: hotline calls it 4711"
        calls = ["upload", "fileinfo"]
        assert service.requests == ["status", "xsd", "submit", *calls, *calls, "finish"]
        assert [f.data for f in service.finished.files.values()] == [b"x" * 300_000, b""]
        assert [r.id for r in sent.report.remote.requests] == service.request_ids[2:]
        schema = desk.outbox.folder(report.id) / "schema.xsd"
        assert schema.read_bytes() == service.schema


def test_sealed_evidence_is_uploaded_as_it_is(tmp_path: Path) -> None:
    with ReportingService(tmp_path) as service:
        desk = Desk(tmp_path, f"[report.to.hotline]\n{service.table(evidence='sealed')}")
        first, second = desk.find("a", b"one"), desk.find("b", b"two")
        desk.quarantine(first)
        assert desk.send(desk.prepare(first, second, to="hotline")).error is None
        (file,) = service.finished.files.values()
        evidence = desk.settings.layout.quarantine / first.id / "evidence.age"
        assert file.data == evidence.read_bytes()
        assert file.details is not None and b"originalFileHash" not in file.details
        assert f"match {second.id}".encode() in service.finished.document


def test_no_evidence_where_none_is_wanted(tmp_path: Path) -> None:
    with ReportingService(tmp_path) as service:
        desk = Desk(tmp_path, f"[report.to.hotline]\n{service.table(evidence='none')}")
        match = desk.find("a", b"one")
        assert desk.send(desk.prepare(match, to="hotline")).error is None
        assert service.requests == ["status", "xsd", "submit", "finish"]
        assert f"match {match.id}".encode() in service.finished.document


def test_a_report_that_does_not_fit_is_not_sent(tmp_path: Path) -> None:
    with ReportingService(tmp_path) as service:
        desk = Desk(tmp_path, f"[report.to.hotline]\n{service.table(incident_type='Other')}")
        sent = desk.send(desk.prepare(desk.find("a", b"x"), to="hotline"))
        assert isinstance(sent.error, ConfigError) and "incidentType" in sent.error.message
        assert service.requests == ["status", "xsd"]
        service.schema = b"<html/>"
        assert desk.send(sent.report).error is not None
        assert "submit" not in service.requests


def test_a_schema_that_is_too_long(tmp_path: Path) -> None:
    with ReportingService(tmp_path) as service:
        desk = Desk(tmp_path, f"[report.to.hotline]\n{service.table()}")
        service.schema = service.schema + b" " * (5 << 20)
        sent = desk.send(desk.prepare(desk.find("a", b"x"), to="hotline"))
        assert sent.error is not None and "longer than" in sent.error.message
        assert service.requests == ["status", "xsd"]


def test_files_that_the_service_does_not_name(tmp_path: Path) -> None:
    body = b"<reportDoneResponse><responseCode>0</responseCode><files/></reportDoneResponse>"
    with ReportingService(tmp_path) as service:
        desk = Desk(tmp_path, f"[report.to.hotline]\n{service.table()}")
        service.fail("finish", Fault(body=body))
        sent = desk.send(desk.prepare(desk.find("a", b"x"), to="hotline"))
        assert sent.report.state is State.ACKNOWLEDGED
        assert "does not name 1 of the files" in sent.notes[0]


def test_other_keys_prove_nothing(tmp_path: Path) -> None:
    with ReportingService(tmp_path) as service:
        desk = Desk(tmp_path, f"[report.to.hotline]\n{service.table()}")
        report: Report = desk.prepare(desk.find("a", b"x"), to="hotline")
        (desk.settings.state_dir / "seal.key").unlink()
        desk.sealer()  # the sealer makes a new seal key
        sent = desk.send(report)
        assert sent.error is not None and "another key" in sent.error.message
        assert service.states() == ["retracted"]


def test_a_second_command_waits_to_prepare_and_does_not_send(desk: Desk) -> None:
    match = desk.find("a", b"x")
    desk.settings.layout.reports.mkdir(mode=0o700)
    with writer_lock(desk.settings.layout.reports / "lock"):
        report = desk.prepare(match)
        with pytest.raises(StateError, match="another command is working on reports"):
            desk.send(report)


class _Killed(BaseException):
    """Stands for a kill: no handler catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_while_matches_are_set_apart_loses_none_and_sends_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """One of the two matches has lost its sealed copy."""
    original, numbers = Outbox.save, range(1, 20)
    for number in numbers:
        directory = tmp_path / str(number)
        directory.mkdir()
        desk, seen = Desk(directory), [0]
        good, bad = desk.find("a", A), desk.find("b", B)
        for match in (good, bad):
            desk.quarantine(match)
        (desk.settings.layout.quarantine / bad.id / "evidence.age").rename(directory / "kept")
        report = desk.prepare(good, bad)

        def save(outbox: Outbox, report: Report, number: int = number) -> Report:
            seen[0] += 1  # noqa: B023 - of this round
            if seen[0] != number:  # noqa: B023
                return original(outbox, report)
            if after:
                original(outbox, report)
            raise _Killed

        with monkeypatch.context() as patch, contextlib.suppress(_Killed):
            patch.setattr(Outbox, "save", save)
            desk.send(report)
        desk.wait(days=2)
        desk.send_due()
        (directory / "kept").rename(desk.settings.layout.quarantine / bad.id / "evidence.age")
        desk.wait(days=2)
        desk.send_due()
        reports = [*desk.outbox.reports()]
        assert sorted(i for r in reports for i in r.matches) == sorted((good.id, bad.id))
        assert {r.state for r in reports} == {State.SUBMITTED}
        assert len([*desk.out.iterdir()]) == len(reports) == 2
        if seen[0] < number:
            assert number > 4
            break
    else:
        raise AssertionError("it does not come to an end")

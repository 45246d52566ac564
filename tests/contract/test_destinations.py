"""Rules for every kind of destination: it gets each report exactly once, and retracts if it can.

Each test runs against every kind in the registry; a new kind needs an `OtherSide` in this module.
"""

from __future__ import annotations

import shutil
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.desk import A, B, Desk, desk_and_service, load_unconfined
from fixtures.reporting_service import Fault, ReportingService
from hashclient.audit.log import verify as verify_audit
from hashclient.config.tables import ReportConfig
from hashclient.core.errors import UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.reporting.destinations.interface import Destination, Work
from hashclient.reporting.destinations.registry import KINDS, kind_of
from hashclient.reporting.outbox import Outbox
from hashclient.reporting.report import Report, State
from tests.kit import fast_directory

ROOT = Path(__file__).parents[2] / "hashclient"
#: An upper bound for the writes of the journal in one attempt.
MOST = 40


class _Killed(BaseException):
    """A simulated kill: no handler catches it."""


class OtherSide:
    """A place where reports of one kind arrive. `name` is its name in the configuration."""

    def __init__(self, desk: Desk, service: ReportingService) -> None:
        self.desk = desk
        self.service = service

    name = ""

    def arrived(self) -> list[str]:
        """Return the reports that the destination has and that were not retracted."""
        raise NotImplementedError

    def unfinished(self) -> int:
        """Return how many reports are unfinished, among those whose ids the client has received."""
        raise NotImplementedError

    def is_out_of_order(self) -> None:
        """Let each delivery fail from now on."""
        raise NotImplementedError

    def is_mended(self) -> None:
        """Let the destination work again."""
        raise NotImplementedError


class Directory(OtherSide):
    """The directory into which packages are written."""

    name = "police"

    def arrived(self) -> list[str]:
        notes = {path.name for path in self.desk.out.glob("*-retraction.json")}
        packages = {path.name for path in self.desk.out.glob("hashclient-report-*")} - notes
        return [name for name in packages if f"{name}-retraction.json" not in notes]

    def unfinished(self) -> int:
        return len(list(self.desk.out.glob(".*")))

    def is_out_of_order(self) -> None:
        shutil.rmtree(self.desk.out)

    def is_mended(self) -> None:
        self.desk.out.mkdir()


class Hotline(OtherSide):
    """A reporting service on loopback."""

    name = "hotline"

    def arrived(self) -> list[str]:
        return [name for name, report in self.service.reports.items() if report.state == "finished"]

    def unfinished(self) -> int:
        # If the client never learnt the id of an opened report, the report expires at the service.
        known: set[str] = set()
        for report in self.desk.outbox.reports():
            known |= {*report.remote.past, report.remote.report_id or ""}
        return sum(
            report.state == "open" and (name in known or bool(report.files))
            for name, report in self.service.reports.items()
        )

    def is_out_of_order(self) -> None:
        self.service.fail("status", Fault(code=1000))

    def is_mended(self) -> None:
        """Do nothing, because only one request fails."""


SIDES = {"package": Directory, "cybertipline": Hotline}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def side(kind: str) -> Iterator[OtherSide]:
    with fast_directory() as directory, desk_and_service(directory) as (desk, service):
        yield SIDES[kind](desk, service)


@pytest.fixture
def match(side: OtherSide) -> Match:
    return side.desk.find("a", A)


@pytest.fixture
def report(side: OtherSide, match: Match) -> Report:
    return side.desk.prepare(match, to=side.name)


def destination_of(side: OtherSide, work: Work) -> Destination:
    table = side.desk.settings.config.report.to[side.name]
    made: Destination = load_unconfined(kind_of(table))(work, table)
    return made


def test_each_table_of_the_configuration_is_of_a_kind() -> None:
    (_, tables) = typing.get_args(typing.get_type_hints(ReportConfig)["to"])
    assert {table.__struct_config__.tag for table in typing.get_args(tables)} == set(KINDS)
    assert set(SIDES) == set(KINDS)


@pytest.mark.parametrize("path", ["outbox.py", "submit.py", "report.py", "describing.py"])
def test_the_outbox_knows_no_kind_of_destination_by_name(path: str) -> None:
    for file in (ROOT / "reporting" / path, ROOT / "cli" / "report.py"):
        code = file.read_text()
        for word in (*(f'"{kind}"' for kind in KINDS), "PackageDest", "ServiceDest"):
            assert word not in code, file
        assert not any(f"destinations.{kind}" in code for kind in KINDS), file


def test_to_make_one_does_nothing(side: OtherSide) -> None:
    side.is_out_of_order()
    with side.desk.record() as record:
        destination_of(side, Work(side.desk.outbox, record))
    assert side.arrived() == [] and side.unfinished() == 0 and side.service.reports == {}


def test_a_rehearsal_says_what_is_sent_and_changes_nothing(
    side: OtherSide, report: Report, match: Match
) -> None:
    def state() -> dict[Path, bytes]:
        files = side.desk.settings.state_dir.rglob("*")
        return {path: path.read_bytes() for path in files if path.is_file()}

    side.is_out_of_order()
    before = state()
    with side.desk.sender() as sender:
        ((shown, found),) = sender.rehearse(None)
        assert list(sender.rehearse([report.id])) == [(shown, found)]
    assert shown == report and state() == before
    assert side.arrived() == [] and side.service.reports == {}
    text = b"".join(found.texts.values()).decode()
    assert match.hits[0].entry in text and "desk@example.org" in text
    assert "contact of [report] is not set" in found.missing
    side.is_mended()
    side.service.faults.clear()
    assert side.desk.send(report).error is None
    with side.desk.sender() as sender:
        assert list(sender.rehearse(None)) == []
        with pytest.raises(UsageError, match="already"):
            list(sender.rehearse([report.id]))


def test_a_prepared_report_is_handed_over_once(
    side: OtherSide, report: Report, match: Match
) -> None:
    assert side.arrived() == []
    sent = side.desk.send(report)
    assert sent.error is None
    assert sent.report.state in (State.SUBMITTED, State.ACKNOWLEDGED)
    assert len(side.arrived()) == 1 and side.unfinished() == 0
    assert side.desk.get(match).state in (MatchState.REPORTED, MatchState.ACKNOWLEDGED)
    assert side.desk.events().count("report-submitted") == 1
    with pytest.raises(UsageError, match="already"):
        side.desk.send(report)
    assert side.desk.send_due() == []
    assert len(side.arrived()) == 1


def killed(patch: pytest.MonkeyPatch, number: int, *, after: bool) -> list[int]:
    """Kill one write of the journal, before or after it, and return the count of writes."""
    original, seen = Outbox.save, [0]

    def save(outbox: Outbox, report: Report) -> Report:
        seen[0] += 1
        if seen[0] != number:
            return original(outbox, report)
        if after:
            original(outbox, report)
        raise _Killed

    patch.setattr(Outbox, "save", save)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_entry_of_the_journal_hands_over_no_second_one(
    side: OtherSide, match: Match, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    report = side.desk.prepare(match, to=side.name)
    for number in range(1, MOST):
        before = len(side.arrived())
        with monkeypatch.context() as patch:
            seen = killed(patch, number, after=after)
            try:
                side.desk.send(report)
            except _Killed:
                pass
        side.desk.wait(days=2)
        side.desk.send_due()
        assert len(side.arrived()) == before + 1, number
        assert side.unfinished() == 0, number
        assert not side.desk.outbox.get(report.id).is_open
        if seen[0] < number:
            assert number > 2
            break
        report = side.desk.prepare(match, to=side.name, again=True)
    else:
        raise AssertionError("it does not come to an end")
    verify_audit(side.desk.settings.layout.audit)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_retraction_after_a_kill_is_complete(
    side: OtherSide, match: Match, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    for number in range(1, MOST):
        report = side.desk.prepare(match, to=side.name, again=True)
        before = len(side.arrived())
        with monkeypatch.context() as patch:
            seen = killed(patch, number, after=after)
            try:
                side.desk.send(report)
            except _Killed:
                pass
        if seen[0] < number:
            assert number > 2
            break
        if side.desk.outbox.get(report.id).state is State.ACKNOWLEDGED:
            with pytest.raises(UsageError, match="is finished"):
                side.desk.retract(report)
            continue
        sent = side.desk.retract(report)
        assert side.unfinished() == 0, number
        if sent.error is None:
            assert sent.report.state is State.RETRACTED, number
            assert len(side.arrived()) == before, number
        else:
            assert "is finished" in sent.error.message and len(side.arrived()) == before + 1
    else:
        raise AssertionError("it does not come to an end")


def test_a_report_that_was_not_sent_is_retracted_without_a_request(
    side: OtherSide, report: Report
) -> None:
    side.is_out_of_order()
    sent = side.desk.retract(report)
    assert sent.error is None and sent.report.state is State.RETRACTED
    with side.desk.record() as record:
        assert destination_of(side, Work(side.desk.outbox, record)).is_taken_back(sent.report)
    side.is_mended()
    assert side.desk.send_due() == [] and side.arrived() == []


def test_a_handed_over_report_is_retracted_or_the_retraction_is_refused(
    side: OtherSide, report: Report, match: Match, kind: str
) -> None:
    done = side.desk.send(report).report
    if not KINDS[kind].takes_back:
        with pytest.raises(UsageError, match="is finished") as raised:
            side.desk.retract(report)
        assert raised.value.hint
        assert side.desk.outbox.get(report.id) == done and len(side.arrived()) == 1
        return
    sent = side.desk.retract(report)
    assert sent.error is None and sent.report.state is State.RETRACTED
    assert side.arrived() == []
    assert side.desk.get(match).state is MatchState.FOUND
    with side.desk.record() as record:
        assert destination_of(side, Work(side.desk.outbox, record)).is_taken_back(sent.report)
    with pytest.raises(UsageError, match="retracted already"):
        side.desk.retract(report)


def test_a_match_that_ended_meanwhile_is_left_out(side: OtherSide, match: Match) -> None:
    other = side.desk.find("b", B)
    report = side.desk.prepare(match, other, to=side.name)
    with side.desk.record() as record:
        record.change(other.id, MatchState.CLOSED, side.desk.now(), {})
    sent = side.desk.send(report)
    assert sent.error is None
    assert (sent.report.matches, sent.report.left_out) == ((match.id,), (other.id,))
    assert [m.id for m in side.desk.outbox.document(sent.report).matches] == [match.id]


def test_a_report_of_which_nothing_is_left_is_dropped(side: OtherSide, report: Report) -> None:
    with side.desk.record() as record:
        record.change(report.matches[0], MatchState.CLOSED, side.desk.now(), {})
    sent = side.desk.send(report)
    assert sent.report.state is State.RETRACTED and "dropped" in sent.detail
    assert side.arrived() == [] and side.unfinished() == 0


def test_where_nothing_can_be_done_it_waits_and_says_why(
    side: OtherSide, report: Report, match: Match
) -> None:
    side.is_out_of_order()
    sent = side.desk.send(report)
    assert sent.error is not None and sent.error.hint
    assert sent.report.is_open and sent.report.next_attempt is not None
    assert sent.report.problem is not None and sent.report.problem.message == sent.error.message
    assert side.desk.get(match).state is MatchState.FOUND
    assert side.desk.send_due() == []  # a retry is not due yet
    side.is_mended()
    side.desk.wait(days=2)
    (sent,) = side.desk.send_due()
    assert sent.error is None and len(side.arrived()) == 1


def test_a_confirmation_is_noted_once(side: OtherSide, report: Report, match: Match) -> None:
    """Some kinds confirm a report themselves; for other kinds, a person notes it."""
    done = side.desk.send(report).report
    if done.state is State.SUBMITTED:
        done = side.desk.acknowledge(report)
    assert (done.state, done.settled) == (State.ACKNOWLEDGED, State.ACKNOWLEDGED)
    assert done.reference
    assert side.desk.get(match).state is MatchState.ACKNOWLEDGED
    with pytest.raises(UsageError, match="is acknowledged"):
        side.desk.acknowledge(report)
    assert side.desk.events().count("report-acknowledged") == 1

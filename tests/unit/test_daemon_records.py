"""The records of streams: each is made with the lists and the seal key that judged the stream."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from fixtures.client import Client
from fixtures.simulator import Simulator
from hashclient.audit.log import read
from hashclient.config.settings import Settings, parse_config
from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Action, Kind, MatchState
from hashclient.core.match import Place
from hashclient.core.model import Acted, Handled, MatchRef, Outcome
from hashclient.daemon import ledger as module
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.ledger import REPEAT_S, REPORTS_S, SEARCH_S, Ledger, Records
from hashclient.daemon.lists import InUse
from hashclient.daemon.program import ContentChecker
from hashclient.daemon.uploads import Upload, judge
from hashclient.daemon.users import Peer
from hashclient.matches.rows import place_of
from hashclient.matches.store import Matches
from hashclient.reporting.outbox import Outbox
from hashclient.session import Session
from tests.kit import csv_of

LISTED = (b"listed one", b"listed two")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FOUND = MatchRef("bcdfgh2345", MatchState.FOUND, NOW, NOW)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    simulator = Simulator(tmp_path / "provider")
    simulator.publish(csv_of({f"e-{n}": data for n, data in enumerate(LISTED)}), "base")
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    return client


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with closing(asyncio.new_event_loop()) as loop:
        yield loop


def lists_of(client: Client) -> InUse:
    return InUse(client.open(), client.session)


def judged(lists: InUse, data: bytes) -> Upload:
    """Judge content as a finished stream of a client, and return the stream with its outcome."""
    client: Any = SimpleNamespace(peer=Peer("serve:s,uid=1", "uid=1", True))
    upload = Upload(lists, "-", client, (b"", b""), 0.0)
    upload.update(memoryview(data))
    judge([upload])
    assert upload.outcome is not None
    return upload


@pytest.mark.parametrize("is_ended", [False, True])
def test_a_stream_is_recorded_under_the_seal_key_that_it_was_judged_with(
    client: Client, loop: asyncio.AbstractEventLoop, is_ended: bool
) -> None:
    """Between judgement and record, a fetch may have changed the key and rebuilt the lists."""
    before = lists_of(client)
    counts = Counts(1)
    streams, paths = (
        Ledger(client.session, counts.row(0), (), before, act=False) for _ in range(2)
    )
    streams.use(before)
    records = Records(loop, streams, paths, lambda _found: loop.stop())
    early = judged(before, LISTED[0])
    client.settings.layout.seal_key.unlink()
    client.session.sealer(create=True)
    client.fetch(rebuild=True)
    after = lists_of(client)
    assert after.key_id != before.key_id
    records.use(after)
    records.leave({"disk image": 1}, before)
    records._is_recording = is_ended  # at the end, all waiting records are written
    records.add([early, judged(after, LISTED[1])])
    if not is_ended:
        loop.run_forever()
    records.end_streams()
    paths.end()
    assert counts.total(Count.FAILURES) == 0
    events = [r for r in read(client.settings.layout.audit) if r.event in ("match", "serve-end")]
    assert [r.event for r in events] == ["serve-end"] * 2 + ["match", "serve-end"] * 2
    # One `serve-end` record counts the unopened files and the match that the former lists judged.
    assert [r.data.get("not_opened") for r in events] == [None] * 3 + [{"disk image": 1}] + [
        None
    ] * 2
    with Matches(client.settings.state_dir) as record:
        by_entry = {match.hits[0].entry: match for match in record.find()}
    assert len(by_entry) == len(LISTED)
    for number, lists in enumerate((before, after)):
        match = by_entry[f"e-{number}"]
        assert match.key_id == lists.key_id
        for algorithm, tag in match.tags.items():
            digest = judged(lists, LISTED[number]).digester.finish()[algorithm]
            assert lists.judge.sealer.tags_of(algorithm, [digest]).tobytes() == tag


def test_a_match_whose_record_broke_off_is_recorded_when_it_comes_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If memory runs out during a record, the match must not count as recorded for an hour."""
    lists = lists_of(client)
    streams = Ledger(client.session, Counts(1).row(0), (), lists, act=False)
    outcome = judged(lists, LISTED[0]).outcome
    assert outcome is not None

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(Matches, "record", fail)
        with pytest.raises(MemoryError):
            streams.add([outcome], lists)
    streams.add([outcome], lists)
    with Matches(client.settings.state_dir) as record:
        assert [match.hits[0].entry for match in record.find()] == ["e-0"]


def reporting(client: Client) -> Session:
    """Return a session with a policy that asks for a report of each match."""
    directory = client.settings.state_dir / "out"
    directory.mkdir()
    config = parse_config(
        '[[policy]]\nactions = ["report"]\n[report]\norganisation = "o"\ncontact = "c"\n'
        f'[report.to.desk]\nkind = "package"\ndirectory = "{directory}"\n',
        "config.toml",
    )
    settings = Settings(client.settings.state_dir, directory / "config.toml", None, config)
    return Session(settings, now=lambda: datetime.now(UTC), environ={})


def test_reports_are_prepared_of_own_matches_and_at_most_once_a_minute(client: Client) -> None:
    """Only a client whose own matches were recorded causes reports to be prepared."""
    session = reporting(client)
    lists = InUse(session.open_lists(), session)
    moment = 1_000.0
    ours, theirs = (
        Ledger(session, Counts(1).row(0), (), lists, act=True, clock=lambda: moment)
        for _ in range(2)
    )
    one, other = (judged(lists, data).outcome for data in LISTED)
    assert one is not None and other is not None

    def reports() -> int:
        return len(Outbox(session).reported("desk"))

    ours.prepare_reports()
    theirs.add([one], lists, each=True)
    moment += REPORTS_S
    ours.prepare_reports()
    assert reports() == 0
    ours.add([one], lists, each=True)
    ours.prepare_reports()
    assert reports() == 1
    ours.add([other], lists, each=True)
    for later, made in ((REPORTS_S - 0.5, 1), (0.5, 2)):
        moment += later
        ours.prepare_reports()
        assert reports() == made
    for ledger in (ours, theirs):
        ledger.end()


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_program_prepares_reports_without_a_further_match(
    client: Client, monkeypatch: pytest.MonkeyPatch, is_closed: bool
) -> None:
    session, moment = reporting(client), 1_000.0
    with ContentChecker(session, members=False) as checker:
        monkeypatch.setattr(checker._ledger, "_clock", lambda: moment)

        def reports() -> int:
            checker._reporter.submit(int).result()  # the work before has ended
            return len(Outbox(session).reported("desk"))

        for data in LISTED:
            assert checker.check(data).kind is Kind.MATCH and reports() == 1
        if not is_closed:
            moment += REPORTS_S
            assert checker.doubt is None and reports() == 2
    assert len(Outbox(session).reported("desk")) == 2


def test_a_report_that_cannot_be_prepared_now_is_prepared_later(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, moment = reporting(client), REPORTS_S
    lists = InUse(session.open_lists(), session)
    counts = Counts(1)
    streams = Ledger(session, counts.row(0), (), lists, act=True, clock=lambda: moment)
    made: list[list[object]] = [[StateError("no room")], ["a report"], []]
    monkeypatch.setattr(module, "prepare_wanted", lambda _: iter(made.pop(0)))
    for left in (2, 1, 1):
        streams.prepare_reports()
        assert len(made) == left and counts.total(Count.FAILURES) == 1
        moment += REPORTS_S


def test_a_run_begins_with_its_lists_and_ends_with_others(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = lists_of(client)
    same, other = lists_of(client), lists_of(client).doubted()
    monkeypatch.setattr(other, "key_id", "another")
    streams = Ledger(client.session, Counts(1).row(0), ("-",), lists, act=False)
    streams.end()  # nothing was written to the audit log

    def events() -> list[str]:
        if not client.settings.layout.audit.exists():
            return []
        return [r.event for r in read(client.settings.layout.audit) if r.event.startswith("serve")]

    streams.leave({}, lists)
    assert events() == []
    first = streams.use(lists)
    assert streams.use(lists) is streams.use(same) is first
    begun = len(events())
    streams.leave({"disk image": 2}, lists)
    streams.leave({"disk image": 1}, lists)
    assert streams.use(other) is not first
    assert len(events()) == begun * 2 + 1 and events()[begun] == "serve-end"
    streams.end()
    streams.end()
    assert events()[-1] == "serve-end" and len(events()) == begun * 2 + 2
    ends = [r.data for r in read(client.settings.layout.audit) if r.event == "serve-end"]
    assert [data.get("not_opened") for data in ends] == [{"disk image": 3}, None]


def test_content_that_comes_again_is_counted_and_recorded_once_unless_each_is_wanted(
    client: Client,
) -> None:
    lists = lists_of(client)
    streams = Ledger(client.session, Counts(1).row(0), (), lists, act=True)
    one, other = (judged(lists, data).outcome for data in LISTED)
    assert one is not None and other is not None
    assert [handled.outcome for handled in streams.add([one, other], lists)] == [one, other]
    assert streams.add([one], lists) == []
    assert [handled.outcome for handled in streams.add([one], lists, each=True)] == [one]
    streams.end()
    with Matches(client.settings.state_dir) as record:
        times = {match.hits[0].entry: match.times_seen for match in record.find()}
    assert times == {"e-0": 3, "e-1": 1}
    logged = [r.data for r in read(client.settings.layout.audit) if r.event == "match"]
    assert [data.get("times") for data in logged] == [None, None, None, 1]


def test_a_failure_is_counted_and_logged_by_its_message_or_its_type(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hashclient.daemon")
    counts = Counts(1)
    streams = Ledger(client.session, counts.row(0), (), lists_of(client), act=False)
    streams.failed(ValueError("odd"))
    streams.failed(StateError("disk is full"))
    assert counts.total(Count.FAILURES) == 2
    said = [record.getMessage() for record in caplog.records]
    assert said == ["not recorded: ValueError", "not recorded: disk is full"]


@pytest.mark.parametrize(
    ("record", "done", "failures"),
    [
        *((None, False, 1), (None, True, 0), (None, None, 0)),
        *(
            (FOUND, False, 1),
            (FOUND, True, 0),
            (msgspec.structs.replace(FOUND, held=True), False, 0),
        ),
    ],
)
def test_an_action_that_has_failed_is_counted_unless_its_match_is_held(
    client: Client, record: MatchRef | None, done: bool | None, failures: int
) -> None:
    counts = Counts(1)
    streams = Ledger(client.session, counts.row(0), (), lists_of(client), act=False)
    acted = tuple(Acted(Action.QUARANTINE, one, "") for one in (True, done))
    handled = Handled(Outcome(Kind.MATCH, "serve:s"), record, acted)
    responder: Any = SimpleNamespace(respond_all=lambda _: iter([handled]))
    streams._wants_reports = False
    assert streams._act_on([], responder) == [handled]
    assert counts.total(Count.FAILURES) == failures
    assert streams._wants_reports


def outcome_of(lists: InUse, data: bytes) -> Outcome:
    outcome = judged(lists, data).outcome
    assert outcome is not None
    return outcome


def logged(client: Client, *events: str) -> list[dict[str, Any]]:
    return [r.data for r in read(client.settings.layout.audit) if r.event in events]


def test_after_a_failure_the_next_match_gets_a_new_recorder_in_the_same_run(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk may have free space again. Each recorder reports its first failure."""
    caplog.set_level("INFO", "hashclient.daemon")
    lists, counts = lists_of(client), Counts(1)
    streams = Ledger(client.session, counts.row(0), ("-",), lists, act=False)
    streams.use(lists)
    one, other = (outcome_of(lists, data) for data in LISTED)

    def refuse(*_: object) -> None:
        raise StateError("cannot use the record")

    with monkeypatch.context() as broken:
        broken.setattr(Matches, "record", refuse)
        for number, outcome in enumerate((one, other, one), 1):
            assert streams.add([outcome], lists) == [Handled(outcome)]
            assert counts.total(Count.FAILURES) == number
    assert [r.getMessage() for r in caplog.records] == ["not recorded: cannot use the record"] * 3
    (handled,) = streams.add([one], lists)
    assert handled.record is not None and counts.total(Count.FAILURES) == 3
    assert streams.add([one], lists) == []
    streams.end()
    assert len(logged(client, "serve-start")) == 1
    (end,) = logged(client, "serve-end")
    assert (end["match"], end["failed"], end["exit_code"]) == (2, None, 10)
    assert [r.get("times") for r in logged(client, "match")] == [None] * 4 + [1]


def test_the_end_of_a_run_counts_each_match_and_names_the_lists(client: Client) -> None:
    lists = lists_of(client)
    streams = Ledger(client.session, Counts(1).row(0), ("unix:/s",), lists, act=True)
    one = outcome_of(lists, LISTED[0])
    excepted = msgspec.structs.replace(one, kind=Kind.EXCEPTED, exceptions=("x",))
    for found, each in (([one], False), ([one, excepted], False), ([one], True)):
        streams.add(found, lists, each=each)
    streams.end()
    (start,), (end,) = logged(client, "serve-start"), logged(client, "serve-end")
    assert start["arguments"] == ["unix:/s"] and start["missing"] == []
    assert [about["list"] for about in start["lists"]] == ["base"]
    assert (end["match"], end["excepted"], end["inputs"]) == (3, 1, 4)


def test_counts_are_written_when_they_are_due_whichever_method_is_called(client: Client) -> None:
    lists, moment = lists_of(client), 5.0
    streams = Ledger(client.session, Counts(1).row(0), (), lists, act=False, clock=lambda: moment)
    one, other = (outcome_of(lists, data) for data in LISTED)

    def times() -> list[int]:
        return [r["times"] for r in logged(client, "match") if "times" in r]

    streams.add([one], lists)
    for _ in range(8):
        streams.add([one], lists)
    assert times() == []
    streams.add([one], lists)
    assert times() == [9]
    for call in (streams.prepare_reports, lambda: streams.use(lists)):
        before = times()
        streams.add([other], lists)
        streams.add([other], lists)
        moment += REPEAT_S - SEARCH_S
        call()
        assert times() == before
        moment += SEARCH_S
        call()
        assert times() == [*before, 1]
    streams.add([one], lists)
    assert "times" not in logged(client, "match")[-1]


def test_the_policy_is_applied_only_if_there_is_one_and_it_is_wanted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(module, "Responder", lambda *given: made.append(given))
    lists = lists_of(client)
    ruled = reporting(client)
    for session, act in ((client.session, True), (ruled, False), (ruled, True)):
        Ledger(session, Counts(1).row(0), (), lists, act=act)
    assert made == [(ruled, lists.states)]


def test_new_lists_that_the_policy_does_not_fit_are_recorded_from_without_actions(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = reporting(client)
    before, after, last = (InUse(session.open_lists(), session) for _ in range(3))
    for lists, key_id in ((after, "b"), (last, "c")):
        monkeypatch.setattr(lists, "key_id", key_id)
    counts, prepared = Counts(1), list[object]()

    def prepare(session: Session) -> tuple[()]:
        prepared.append(session)
        return ()

    monkeypatch.setattr(module, "prepare_wanted", prepare)
    streams = Ledger(session, counts.row(0), (), before, act=True, clock=lambda: 99.0)
    one, other = (outcome_of(before, data) for data in LISTED)

    def refuse(*_: object) -> None:
        raise UsageError("a rule names a list that is unknown")

    with monkeypatch.context() as refusing:
        refusing.setattr(module, "Responder", refuse)
        streams.use(after)
        assert counts.total(Count.FAILURES) == 1
        (handled,) = streams.add([one], after)
        assert handled.record is not None and handled.acted == ()
        streams.prepare_reports()
        assert counts.total(Count.FAILURES) == 1 and not prepared
    (handled,) = streams.add([other], last)
    assert [acted.action for acted in handled.acted] == [Action.REPORT]
    streams.prepare_reports()
    assert len(prepared) == 1
    streams.end()


def test_a_report_that_cannot_be_prepared_is_counted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = reporting(client)
    counts, lists = Counts(1), lists_of(client)
    made = [StateError("no room"), "a report", StateError("no room")]
    monkeypatch.setattr(module, "prepare_wanted", lambda _: iter(made))
    streams = Ledger(session, counts.row(0), (), lists, act=True, clock=lambda: REPORTS_S)
    for _ in range(2):  # the second call finds no new match
        streams.prepare_reports()
    assert counts.total(Count.FAILURES) == 2


def test_a_match_of_a_stream_is_at_its_door_and_one_of_a_file_at_its_path() -> None:
    stream = Outcome(Kind.MATCH, "serve:s,uid=1", is_stream=True)
    file = Outcome(Kind.MATCH, "/d/f", door="serve:s,uid=1")
    assert module._places_of([stream, file]) == [Place("serve:s,uid=1"), place_of(file)]
    assert place_of(file).path == "/d/f"


class Book:
    """Replaces a ledger of `Records`: notes its calls, and waits or fails in them."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.error: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def _call(self, what: object) -> None:
        assert self.go_on.wait(60)
        self.calls.append(what)
        if self.error is not None:
            raise self.error

    def add(self, outcomes: object, lists: object) -> None:
        self._call((lists, outcomes))

    def prepare_reports(self) -> None:
        self._call("reports")

    def failed(self, error: Exception) -> None:
        self.calls.append(error)

    def end(self) -> None:
        self.calls.append("end")


def upload(name: str, lists: str = "new") -> Any:
    return SimpleNamespace(lists=lists, recorded=lambda: [f"{name}1", f"{name}2"])


@pytest.mark.parametrize("error", [None, ValueError("odd")])
def test_streams_that_come_during_a_write_are_recorded_together_in_the_next(
    loop: asyncio.AbstractEventLoop, error: Exception | None
) -> None:
    book, found = Book(), list[list[Upload]]()
    streams: Any = book
    a, b, c, d = (upload("a"), upload("b"), upload("c", "old"), upload("d"))

    def recorded(uploads: list[Upload]) -> None:
        found.append(uploads)
        if len(found) == 2:
            loop.stop()

    records = Records(loop, streams, streams, recorded)
    book.error = error
    book.go_on.clear()
    records.add([])
    for some in ([a], [b, c], [], [d]):
        records.add(some)
    loop.call_soon(book.go_on.set)
    loop.run_forever()
    assert found == [[a], [b, c, d]]
    failed = [] if error is None else [error]
    assert book.calls == [
        *[("new", ["a1", "a2"]), *failed],
        *[("new", ["b1", "b2", "d1", "d2"]), *failed, ("old", ["c1", "c2"]), *failed],
    ]
    records.end_streams()
    assert book.calls[-1] == "end" and len(found) == 2


def test_at_the_end_streams_are_waited_for_and_reports_are_not(
    loop: asyncio.AbstractEventLoop,
) -> None:
    book, reports, asked = Book(), Book(), list[dict[str, bool]]()
    records = Records(loop, *cast("tuple[Any, Any]", (book, book)), lambda _: None)
    book.go_on.clear()
    records.add([upload("a")])
    records.add([upload("b")])
    shutdown, shutdown_reports = records._thread.shutdown, records._reporter.shutdown

    def end(**how: bool) -> None:
        asked.append(how)
        book.go_on.set()  # the stream that is being recorded can now be written
        shutdown(**how)

    def end_reports(**how: bool) -> None:
        asked.append(how)
        shutdown_reports(**how)

    records._thread.shutdown = end  # type: ignore[method-assign, assignment]
    records._reporter.shutdown = end_reports  # type: ignore[method-assign, assignment]
    reports.go_on.clear()
    records._reporter.submit(reports.prepare_reports)
    records.end_streams()
    assert book.calls == [("new", ["a1", "a2"]), ("new", ["b1", "b2"]), "end"]
    assert reports.calls == []
    reports.go_on.set()
    assert asked == [{"wait": True}, {"wait": False, "cancel_futures": True}]


def test_reports_of_both_ledgers_are_prepared_one_preparation_at_a_time(
    loop: asyncio.AbstractEventLoop,
) -> None:
    streams, paths = Book(), Book()
    records = Records(loop, *cast("tuple[Any, Any]", (streams, paths)), lambda _: None)
    streams.error = error = OSError("odd")
    streams.go_on.clear()
    for _ in range(3):
        records.prepare_reports()
    streams.go_on.set()
    assert records._reporting is not None
    records._reporting.result(60)
    assert (streams.calls, paths.calls) == (["reports", error], ["reports"])
    records.prepare_reports()
    records._reporting.result(60)
    assert paths.calls == ["reports"] * 2
    records.end_streams()

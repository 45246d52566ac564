"""The records of streams: each is made with the lists and the seal key that judged the stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fixtures.client import Client
from fixtures.simulator import Simulator
from hashclient.audit.log import read
from hashclient.config.settings import Settings, parse_config
from hashclient.core.kinds import Action, Kind, MatchState
from hashclient.core.model import Acted, Handled, MatchRef, Outcome
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.ledger import REPORTS_S, Ledger, Records
from hashclient.daemon.lists import InUse
from hashclient.daemon.uploads import Upload, judge
from hashclient.daemon.users import Peer
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


def test_reports_are_prepared_of_own_matches_and_at_most_once_a_minute(
    client: Client, tmp_path: Path
) -> None:
    """Only a client whose own matches were recorded causes reports to be prepared."""
    (tmp_path / "out").mkdir()
    config = parse_config(
        '[[policy]]\nactions = ["report"]\n[report]\norganisation = "o"\ncontact = "c"\n'
        f'[report.to.desk]\nkind = "package"\ndirectory = "{tmp_path / "out"}"\n',
        "config.toml",
    )
    settings = Settings(client.settings.state_dir, tmp_path / "config.toml", None, config)
    session = Session(settings, now=lambda: datetime.now(UTC), environ={})
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


def test_a_failure_is_counted_and_named_without_its_content(client: Client) -> None:
    counts = Counts(1)
    streams = Ledger(client.session, counts.row(0), (), lists_of(client), act=False)
    streams.failed(ValueError("odd"))
    assert counts.total(Count.FAILURES) == 1


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

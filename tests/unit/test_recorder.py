"""The records of a run; a failure to write them is reported once and counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hashclient.audit import log as audit_log
from hashclient.config.settings import Config, Settings
from hashclient.core.errors import AuditError, ExitCode, StateError
from hashclient.core.kinds import Algorithm, Kind, MatchState
from hashclient.core.model import Gap, HeldEntry, Hit, MissingList, Outcome, Recorded
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Summary
from hashclient.formats.fields import HELD_ENTRIES
from hashclient.matches.selection import Left, Selection
from hashclient.matches.store import Matches
from hashclient.matches.tables import to_text
from hashclient.scan.run import recorder
from hashclient.scan.run.recorder import SIGNED_EACH, RunRecord
from hashclient.session import Session, current_operator
from hashclient.system.layout import MATCHES_NAME as DATABASE_NAME

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LISTS = (ListState("base", 3, NOW, fresh=True), ListState("old", 1, NOW, fresh=False))
HIT = Hit("base", "e-1", "synthetic", 3, (Algorithm.MD5, Algorithm.SHA1), complete=True)
PARTIAL = Hit("old", "e-2", "synthetic", 1, (Algorithm.MD5,), complete=False)
DIGEST = bytes(range(16))


class Run:
    """A run whose state is in a directory; `failures` are the errors of writing."""

    def __init__(self, directory: Path, command: str = "scan", **how: Any) -> None:
        self.directory = directory
        self.summary = Summary(lists=LISTS)
        self.failures: list[AuditError | StateError] = []
        self.kept: list[Recorded] = []
        settings = Settings(directory, directory / "config.toml", None, Config())
        session = Session(settings, now=lambda: NOW)
        self.record = RunRecord(
            session, command, self.summary, "key", on_failure=self.failures.append, **how
        )

    def add(self, *outcomes: Outcome) -> None:
        for outcome in outcomes:
            self.summary.add(outcome)
        self.kept = self.record.keep(outcomes)

    def logged(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the events and data, without the events that the log writes itself."""
        found = audit_log.read(self.directory / "audit")
        return [(r.event, dict(r.data)) for r in found if r.event != "genesis"]

    def remembered(self) -> list[str]:
        with Matches(self.directory) as matches:
            return [m.path for m, _ in matches.of_entries("base", matches.standing("base"))]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def match(path: str, **kwargs: Any) -> Outcome:
    digests = {Algorithm.MD5: DIGEST}
    return Outcome(Kind.MATCH, path, 16, hits=(HIT, PARTIAL), digests=digests, **kwargs)


def test_a_run_is_logged_from_its_start_to_its_end(run: Run) -> None:
    run.record.start(["/srv"])
    run.add(match("/srv/a"), Outcome(Kind.CLEAN, "/srv/b"), Outcome(Kind.UNREAD, "/srv/c"))
    run.add(Outcome(Kind.CONFLICT, "/srv/d", 16, hits=(PARTIAL,)), Outcome(Kind.SKIPPED, "/srv/e"))
    reason = "accepted until 2030-01-01: encrypted: encrypted"
    run.add(Outcome(Kind.ACCEPTED, "/srv/f", reason=reason, members=("a", "b")))
    why = "exception x-1"
    run.add(Outcome(Kind.EXCEPTED, "/srv/g", 16, why, hits=(HIT,), exceptions=("x-1",)))
    run.record.end()
    events = run.logged()
    order = ["scan-start", "match", "conflict", "accepted", "excepted", "scan-end"]
    assert [event for event, _ in events] == order
    start, found, conflict, accepted, excepted, end = (data for _, data in events)
    assert (excepted["path"], excepted["exceptions"]) == ("/srv/g", ["x-1"])
    assert accepted == {"path": "/srv/f", "members": ["a", "b"], "reason": reason}
    assert start == {
        "host": os.uname().nodename,
        "by": current_operator(),
        "directory": str(Path.cwd()),
        "arguments": ["/srv"],
        "lists": [
            {"list": "base", "generation": 3, "fresh": True},
            {"list": "old", "generation": 1, "fresh": False},
        ],
        "missing": [],
    }
    assert (found["path"], found["size"]) == ("/srv/a", 16)
    assert found["hits"][0] == {
        "list": "base",
        "entry": "e-1",
        "category": "synthetic",
        "generation": 3,
        "algorithms": ["md5", "sha1"],
        "complete": True,
    }
    assert [hit["complete"] for hit in found["hits"]] == [True, False]
    assert conflict["path"] == "/srv/d"
    assert end == {
        "inputs": 7,
        **{str(kind): 1 for kind in Kind},
        "excepted_by": {"exception x-1": 1},
        "ruled_out_by_size": 0,
        "known_unchanged": 0,
        "believed_unchanged": 0,
        "files_read": 0,
        "bytes_read": 0,
        "unread_reasons": {"other reasons": 1},
        "gone": 0,
        "held": 0,
        "missing": [],
        "interrupted": False,
        "failed": None,
        "exit_code": 11,
    }
    assert run.failures == []


def test_the_end_says_what_keeps_a_run_from_being_whole_and_what_it_rests_on(run: Run) -> None:
    summary = run.summary
    summary.missing = (MissingList("other", "main", "never fetched"),)
    summary.gaps = (Gap("base", (Algorithm.MD5, Algorithm.SHA1), 1, 5, 7),)
    summary.ruled_out_by_size, summary.known_unchanged, summary.believed_unchanged = 3, 4, 2
    summary.stopped, summary.failed = ExitCode.TERMINATED, ExitCode.STATE
    run.record.start([])
    run.add(match("/srv/a"))
    run.record.end()
    start, _, end = (data for _, data in run.logged())
    missing = [{"list": "other", "provider": "main", "problem": "never fetched"}]
    assert start["missing"] == end["missing"] == missing
    gap = {"list": "base", "algorithms": ["md5", "sha1"], "entries": 1, "live": 5, "rows": 7}
    assert (end["gaps"], end["gaps_accepted"]) == ([gap], False)
    numbers = ("ruled_out_by_size", "known_unchanged", "believed_unchanged")
    assert [end[name] for name in numbers] == [3, 4, 2]
    assert (end["interrupted"], end["failed"], end["exit_code"]) == (True, 8, 11)
    audit_log.verify(run.directory / "audit")


def test_matches_are_remembered_and_conflicts_are_not(run: Run) -> None:
    run.add(Outcome(Kind.CONFLICT, "/srv/d", 16, hits=(PARTIAL,)), match("/srv/a"))
    assert run.remembered() == ["/srv/a"]
    conflict, found = run.kept
    assert conflict.record is None
    assert found.record is not None
    with Matches(run.directory) as matches:
        assert matches.get(found.record.id).ref == found.record
    assert [data.get("id") for _, data in run.logged()] == [None, found.record.id]


def test_each_match_in_the_log_can_be_handed_over_alone(run: Run) -> None:
    run.add(match("/srv/a"), match("/srv/b"))
    assert all(r.sig is not None for r in audit_log.read(run.directory / "audit"))


def test_no_digest_is_left_behind(run: Run) -> None:
    run.record.start([])
    run.add(match("/srv/a"), match(DIGEST.hex(), origin="sums:1"))
    run.record.end()
    data = b"".join(path.read_bytes() for path in run.directory.rglob("*") if path.is_file())
    assert b"sums:1" in data and b"/srv/a" in data
    assert DIGEST.hex().encode() not in data and DIGEST not in data


def test_a_lookup_has_no_path_to_remember(tmp_path: Path) -> None:
    run = Run(tmp_path, "lookup")
    run.record.start([])
    run.add(match("name in a sum file", origin="sums:1"))
    run.record.end()
    assert [event for event, _ in run.logged()] == ["lookup-start", "match", "lookup-end"]
    assert run.logged()[1][1]["path"] == "sums:1"
    assert not (tmp_path / DATABASE_NAME).exists()


def test_kept_outcomes_are_written_and_returned_in_order(run: Run) -> None:
    given = [match("/srv/1"), Outcome(Kind.CLEAN, "/srv/2"), match("/srv/3")]
    run.add(*given)
    assert [k.outcome.path for k in run.kept] == ["/srv/1", "/srv/2", "/srv/3"]
    assert [k.record is None for k in run.kept] == [False, True, False]
    assert len(run.remembered()) == 2 and len(run.logged()) == 2
    run.add()
    run.record.end()
    run.record.end()
    assert len(run.remembered()) == 2 and len(run.logged()) == 3


def test_a_log_that_cannot_be_written_is_reported_once_and_counts(run: Run) -> None:
    (run.directory / "audit").write_text("in the way")
    run.record.start([])
    run.add(match("/srv/a"))
    run.record.end()
    assert [type(error) for error in run.failures] == [AuditError]
    assert run.summary.failed is ExitCode.AUDIT
    assert run.summary.exit_code is ExitCode.MATCH_ATTENTION
    # The match is remembered although the log has failed.
    assert run.remembered() == ["/srv/a"]


def test_a_record_that_cannot_be_written_is_reported_once_and_counts(
    run: Run,
) -> None:
    (run.directory / DATABASE_NAME).mkdir()
    run.record.start([])
    run.add(match("/srv/a"))
    run.add(match("/srv/b"))
    assert run.kept[0].record is None
    run.record.end()
    assert [type(error) for error in run.failures] == [StateError]
    assert run.summary.failed is ExitCode.STATE
    assert [event for event, _ in run.logged()] == ["scan-start", "match", "match", "scan-end"]
    assert run.logged()[-1][1]["exit_code"] == 11


def test_the_first_of_two_failures_counts(run: Run) -> None:
    (run.directory / "audit").write_text("in the way")
    (run.directory / DATABASE_NAME).mkdir()
    run.record.start([])
    run.add(Outcome(Kind.CLEAN, "/srv/b"))
    assert run.summary.exit_code is ExitCode.AUDIT
    run.add(match("/srv/a"))
    run.record.end()
    assert [type(error) for error in run.failures] == [AuditError, StateError]
    assert run.summary.failed is ExitCode.AUDIT


@pytest.mark.parametrize(
    "arguments",
    [
        [f"/srv/{'n' * 200}-{n}" for n in range(9_000)],
        ["\udcff" * 120_000] * 15,
        ["\1" * 4_000] * 400,
        ["\U0001f600" * 20_000] * 6,
    ],
    ids=["many", "bytes", "controls", "planes"],
)
def test_arguments_beyond_measure_keep_no_match_out_of_the_log(
    run: Run, arguments: list[str]
) -> None:
    run.record.start(arguments)
    run.add(match("/srv/a"))
    run.record.end()
    assert run.failures == []
    assert [event for event, _ in run.logged()] == ["scan-start", "match", "scan-end"]
    start = run.logged()[0][1]
    assert len(start["arguments"]) + start["arguments_omitted"] == len(arguments)
    assert start["arguments"]
    # The list is stale, so the exit code asks for attention.
    assert run.summary.exit_code is ExitCode.MATCH_ATTENTION
    assert run.summary.failed is None


@pytest.mark.parametrize("count", [SIGNED_EACH, SIGNED_EACH + 1])
def test_of_many_matches_that_are_logged_together_the_last_record_is_signed(
    run: Run, count: int
) -> None:
    run.record.start([])
    run.add(*(match(f"/srv/{n}") for n in range(count)))
    records = list(audit_log.read(run.directory / "audit", event="match"))
    signed = [record.sig is not None for record in records]
    assert signed == [count == SIGNED_EACH] * (count - 1) + [True]
    audit_log.verify(run.directory / "audit")


def test_a_small_run_is_one_record_at_its_end(tmp_path: Path) -> None:
    run = Run(tmp_path, "watch", brief=True)
    run.record.start(["/srv"])
    assert not (tmp_path / "audit").exists()
    run.add(Outcome(Kind.CLEAN, "/srv/b"))
    run.record.end()
    run.record.end()
    ((event, data),) = run.logged()
    assert (event, data["arguments"], data["inputs"], data["clean"]) == ("watch", ["/srv"], 1, 1)
    assert [one["list"] for one in data["lists"]] == ["base", "old"]


@pytest.mark.parametrize("opens", [None, False, True])
@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("not_opened", [{}, {"pdf": 2}])
def test_the_end_tells_of_containers_and_stores_only_where_they_count(
    run: Run, opens: bool | None, asks: bool, not_opened: dict[str, int]
) -> None:
    summary = run.summary
    summary.opens_containers, summary.asks_stores, summary.not_opened = opens, asks, not_opened
    summary.members, summary.members_read, summary.ruled_out_by_claim = 5, 4, 3
    summary.objects, summary.by_store_digest = 7, 6
    run.record.end()
    end = run.logged()[-1][1]
    of_containers = {"opens_containers", "members", "members_read", "ruled_out_by_claim"}
    assert of_containers & set(end) == (set() if opens is None else of_containers)
    assert ("not_opened" in end) is (opens is not None or bool(not_opened))
    assert end.get("not_opened", not_opened) == not_opened
    assert (end.get("objects"), end.get("by_store_digest")) == ((7, 6) if asks else (None, None))
    if opens is not None:
        numbers = [end[name] for name in ("members", "members_read", "ruled_out_by_claim")]
        assert (end["opens_containers"], numbers) == (opens, [5, 4, 3])


class Holding:
    """Replaces the brake: it holds the matches whose paths end in `h`."""

    def decide(self, cases: Sequence[Any], _permits: object, now: datetime) -> dict[str, bool]:
        assert now == NOW
        return {case.id: case.hits[0].entry.endswith("h") for case in cases}


@pytest.mark.parametrize("holds", [False, True])
def test_held_matches_are_counted_and_their_entries_named(tmp_path: Path, holds: bool) -> None:
    run = Run(tmp_path, decision=Holding() if holds else None)
    hits = [Hit("base", name, "synthetic", 3, (Algorithm.MD5,), complete=True) for name in "gh"]
    tags = {Algorithm.MD5: DIGEST}
    run.add(*(Outcome(Kind.MATCH, f"/srv/{h.entry}", 1, hits=(h,), tags=tags) for h in hits))
    run.add(Outcome(Kind.CLEAN, "/srv/c"))
    run.record.end()
    events = [data for event, data in run.logged() if event == "match"]
    assert [data.get("held", False) for data in events] == [False, holds]
    assert run.summary.held == run.logged()[-1][1]["held"] == int(holds)
    assert [one.entry for one in run.summary.held_entries] == (["h"] if holds else [])


def test_more_entries_are_asked_for_than_are_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run asks for one entry more than it shows, to know whether there are further entries."""
    asked: list[int] = []

    def entries(_: Matches, most: int) -> tuple[HeldEntry, ...]:
        asked.append(most)
        return ()

    monkeypatch.setattr(Matches, "held_entries", entries)
    run.add(match("/srv/a"))
    run.record.end()
    assert asked == []
    other = Run(run.directory)
    other.summary.held = 1
    other.record.end()
    other.record.end()  # asks no second time
    assert asked == [HELD_ENTRIES + 1]
    monkeypatch.undo()
    (run.directory / DATABASE_NAME).write_bytes(b"no database" * 99)
    damaged = Run(run.directory)
    damaged.summary.held = 1
    damaged.record.end()
    assert [type(error) for error in damaged.failures] == [StateError]


def test_how_often_a_match_came_again_is_recorded_and_logged(run: Run) -> None:
    run.record.keep_counts([])
    run.add(match("serve:s", is_stream=True), Outcome(Kind.CONFLICT, "/c", hits=(PARTIAL,)))
    found, conflict = run.kept
    run.record.keep_counts([(found, 3, ["<id>"]), (conflict, 2, [])])
    (_, first), (_, second) = run.logged()[-2:]
    assert (first["times"], first["message_ids"], second["times"]) == (3, ["<id>"], 2)
    assert "message_ids" not in second and "id" not in second
    assert found.record is not None
    with Matches(run.directory) as matches:
        assert matches.get(found.record.id).times_seen == 4
        assert matches.story(found.record.id)[-1].event == "seen-again"
    (run.directory / DATABASE_NAME).unlink()
    (run.directory / DATABASE_NAME).mkdir()
    run.record.keep_counts([(found, 1, [])])
    run.record.keep_counts([(found, 1, [])])
    assert len(run.failures) == 1
    assert run.logged()[-1][1]["times"] == 1


@pytest.mark.parametrize("batch", [1, 2, 3, 512])
def test_matches_that_are_gone_are_logged_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    assert recorder.GONE_BATCH == 512
    monkeypatch.setattr(recorder, "GONE_BATCH", batch)
    run = Run(tmp_path)
    asked: list[datetime] = []

    def find(matches: Selection, began: datetime) -> Iterator[Left]:
        asked.append(began)
        found = matches.find()
        yield from (
            Left(one.id, os.fsencode(one.path), "", to_text(one.last_seen)) for one in found
        )

    run.record.note_gone(find)  # no match was ever recorded
    assert (asked, run.summary.gone) == ([], 0)
    run.add(*(match(f"/srv/{n}", tags={Algorithm.MD5: DIGEST}) for n in range(5)))
    run.record.note_gone(find)
    assert asked == [NOW]
    gone = [data["path"] for event, data in run.logged() if event == "gone"]
    assert sorted(gone) == [f"/srv/{n}" for n in range(5)]
    assert run.summary.gone == 5
    with Matches(run.directory) as matches:
        assert {one.state for one in matches.find()} == {MatchState.GONE}
    run.record.note_gone(lambda *_: iter(()))
    assert run.summary.gone == 5
    (run.directory / DATABASE_NAME).write_bytes(b"no database" * 99)
    run.record.note_gone(find)
    assert len(run.failures) == 1


@pytest.mark.parametrize(
    ("lengths", "kept", "cut"),
    [
        ([99], 1, False),
        ([98, 0], 2, False),
        ([99, 0], 1, False),
        ([100], 0, False),
        ([51], 1, True),
        ([50, 48], 2, False),
        ([500, 48], 2, True),
        ([500, 49], 1, True),
    ],
)
def test_arguments_are_logged_as_far_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], kept: int, cut: bool
) -> None:
    """An argument uses its length plus one of the 100 characters; a long argument is cut."""
    monkeypatch.setattr(recorder, "MAX_LOGGED_ARGUMENTS_CHARS", 100)
    monkeypatch.setattr(
        recorder, "MAX_LOGGED_PATH_CHARS", 50 if cut or lengths == [50, 48] else 999
    )
    fields = recorder._argument_fields(["x" * length for length in lengths])
    assert len(fields["arguments"]) == kept
    assert fields.get("arguments_omitted", 0) == len(lengths) - kept
    assert (fields["arguments"][:1] == ["x" * 50 + "…"]) is cut

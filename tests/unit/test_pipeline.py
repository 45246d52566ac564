"""A run: outcomes are recorded and acted upon before they are returned, however the run ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.audit import log as audit_log
from hashclient.config.settings import Config, Settings
from hashclient.core.errors import AuditError, ExitCode, HashclientError, StateError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Handled, Hit, Outcome
from hashclient.core.model import Recorded as RecordedOutcome
from hashclient.core.verdict import Summary
from hashclient.matches.store import Matches
from hashclient.scan.run.engine import Progress
from hashclient.scan.run.pipeline import (
    PORTION,
    FrontEnd,
    Observer,
    Run,
    Scan,
    _by_path_bytes,
)
from hashclient.scan.run.recorder import RunRecord
from hashclient.session import Session
from hashclient.system.layout import MATCHES_NAME

NOW = datetime(2026, 5, 1, tzinfo=UTC)
HIT = Hit("base", "e-1", "synthetic", 3, (Algorithm.MD5,), complete=True)
TAGS = {Algorithm.MD5: bytes(16)}


def match(path: str) -> Outcome:
    return Outcome(Kind.MATCH, path, 4, hits=(HIT,), tags=TAGS)


class Watching(Observer):
    """An observer that notes the calls and failures that a run reports."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failures: list[HashclientError] = []

    def progressed(self) -> None:
        self.calls.append("progressed")

    def failed(self, error: HashclientError) -> None:
        self.failures.append(error)

    def ending(self, run: Run) -> None:
        self.calls.append(f"ending {int(run.exit_code)}")


class Blocks:
    """A guard that notes which of its blocks are open."""

    def __init__(self) -> None:
        self.open: list[str] = []

    @contextmanager
    def _block(self, name: str) -> Iterator[None]:
        self.open.append(name)
        try:
            yield
        finally:
            self.open.remove(name)

    def held(self) -> AbstractContextManager[None]:
        return self._block("held")

    def barred(self) -> AbstractContextManager[None]:
        return self._block("barred")

    def last(self) -> AbstractContextManager[None]:
        return self._block("last")


class Recorded:
    """A state directory without lists, and the records that runs write to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        settings = Settings(directory, directory / "config.toml", None, Config())
        self.session = Session(settings, now=lambda: NOW)
        self.is_closed = False

    def run(self, items: Sequence[Outcome | BaseException | None], **front: Any) -> Run:
        """Return a run of outcomes; None lets time pass, and an exception is raised."""
        summary = Summary(lists=())
        progress = Progress(summary)

        def found() -> Generator[Outcome | Progress]:
            try:
                for item in items:
                    if isinstance(item, BaseException):
                        raise item
                    if item is not None:
                        summary.add(item)
                    yield item or progress
            finally:
                self.is_closed = True

        observer = front.get("observer", Observer())
        recorder = RunRecord(self.session, "scan", summary, "key", on_failure=observer.failed)
        arguments, actions = ["/srv"], front.pop("actions", None)
        front_end = FrontEnd(**front)
        return Run(
            found(), recorder, summary, arguments=arguments, actions=actions, front=front_end
        )

    def logged(self) -> list[str]:
        return [r.event for r in audit_log.read(self.directory / "audit") if r.event != "genesis"]

    def end(self) -> Any:
        (record,) = audit_log.read(self.directory / "audit", event="scan-end")
        return record.data

    def remembered(self) -> list[str]:
        with Matches(self.directory, create=False) as matches:
            return [found.path for found in matches.find()]


@pytest.fixture
def world(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def paths(found: Sequence[Handled]) -> list[str]:
    return [handled.outcome.path for handled in found]


def test_yielded_matches_are_in_the_record_and_the_log(world: Recorded) -> None:
    blocks, watching = Blocks(), Watching()
    run = world.run([match("/a"), None, match("/b")], guard=blocks, observer=watching)
    seen = []
    for handled in run:
        assert "held" in blocks.open and "barred" not in blocks.open
        assert handled.record is not None
        assert handled.outcome.path in world.remembered()
        seen.append(handled)
        assert world.logged().count("match") >= len(seen)
    assert paths(seen) == ["/a", "/b"]
    assert world.logged() == ["scan-start", "match", "match", "scan-end"]
    assert (run.exit_code, world.end()["exit_code"]) == (ExitCode.MATCH, 10)
    assert watching.calls == ["progressed", "ending 10"]
    assert world.is_closed and blocks.open == []


def test_outcomes_can_be_taken_in_portions(world: Recorded) -> None:
    names = [f"/{n:03d}" for n in range(PORTION + 5)]
    run = world.run([*map(match, names), None, match("/last")])
    given = list(run.portions())
    assert [len(portion) for portion in given] == [PORTION, 5, 1]
    assert [h.outcome.path for portion in given for h in portion] == [*names, "/last"]


def test_a_failure_of_the_run_comes_after_the_last_portion(world: Recorded) -> None:
    run = world.run([match("/a"), match("/b"), StateError("a worker has died")])
    portions = run.portions()
    assert paths(next(portions)) == ["/a", "/b"]
    with pytest.raises(StateError, match="a worker has died"):
        next(portions)


def test_an_interruption_leaves_what_was_not_taken(world: Recorded) -> None:
    stops = {KeyboardInterrupt: ExitCode.INTERRUPTED}
    names = [f"/{n:03d}" for n in range(2 * PORTION)]
    run = world.run([*map(match, names), None, match("/last")], stops=stops)
    taken = paths(next(run.portions()))
    run.interrupt(KeyboardInterrupt())
    assert taken + paths(list(run)) == names
    assert run.summary.stopped is ExitCode.INTERRUPTED
    assert world.logged().count("match") == len(names)


def test_a_run_does_no_work_before_it_is_iterated(world: Recorded) -> None:
    world.run([match("/a")]).close()
    assert not (world.directory / "audit").exists()
    assert not (world.directory / MATCHES_NAME).exists()


def test_leaving_early_records_what_was_found_and_says_so(world: Recorded) -> None:
    with world.run([match("/a"), match("/b"), None, match("/c")]) as run:
        assert next(run).outcome.path == "/a"
    assert world.is_closed
    assert world.remembered() == ["/a", "/b"]
    assert world.logged() == ["scan-start", "match", "match", "scan-end"]
    assert (world.end()["interrupted"], world.end()["match"]) == (True, 2)
    assert run.summary.stopped is ExitCode.INTERRUPTED
    assert run.exit_code is ExitCode.MATCH_ATTENTION
    assert list(run) == []


def test_an_interruption_that_nobody_named_goes_on_to_the_caller(world: Recorded) -> None:
    run = world.run([match("/a"), KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        list(run)
    assert world.remembered() == ["/a"]
    assert world.logged() == ["scan-start", "match", "scan-end"]
    assert run.exit_code is ExitCode.MATCH_ATTENTION


def test_a_stop_that_was_named_ends_the_run_regularly(world: Recorded) -> None:
    watching = Watching()
    stops = {KeyboardInterrupt: ExitCode.TERMINATED}
    run = world.run([match("/a"), KeyboardInterrupt()], observer=watching, stops=stops)
    assert paths(list(run)) == ["/a"]
    assert run.summary.stopped is ExitCode.TERMINATED
    assert watching.calls == ["ending 11"]
    assert world.end()["interrupted"] is True


def test_an_interruption_of_the_caller_can_be_handed_on(world: Recorded) -> None:
    """After `interrupt`, the run returns the outcomes that are already recorded, and then ends."""
    stops = {KeyboardInterrupt: ExitCode.INTERRUPTED}
    run = world.run([match("/a"), match("/b"), None, match("/c")], stops=stops)
    assert next(run).outcome.path == "/a"
    run.interrupt(KeyboardInterrupt())
    assert paths(list(run)) == ["/b"]
    assert world.logged() == ["scan-start", "match", "match", "scan-end"]
    assert run.summary.stopped is ExitCode.INTERRUPTED


def test_a_failure_of_the_run_is_raised_after_the_matches(world: Recorded) -> None:
    failure = StateError("a worker has died")
    run = world.run([match("/a"), match("/b"), failure])
    found: list[Handled] = []
    with pytest.raises(StateError, match="a worker has died"):
        found.extend(run)  # the found matches are in the list although `extend` failed
    assert paths(found) == ["/a", "/b"]
    assert run.failure is failure
    assert (world.end()["failed"], world.end()["exit_code"]) == (8, 11)


def test_memory_that_runs_out_is_a_failure_like_others(world: Recorded) -> None:
    run = world.run([Outcome(Kind.CLEAN, "/a"), MemoryError()])
    with pytest.raises(StateError, match="not enough memory"):
        list(run)
    assert run.exit_code is ExitCode.STATE


@pytest.mark.parametrize("when", ["first", "last"])
def test_giving_up_counts_what_failed(world: Recorded, when: str) -> None:
    run = world.run([match("/a"), match("/b")])
    left: Callable[[], Any] = (lambda: list(run)) if when == "last" else (lambda: next(run))
    left()
    run.give_up(AuditError("cannot write the output"))
    assert run.summary.failure == "cannot write the output"
    assert run.exit_code is ExitCode.MATCH_ATTENTION
    assert world.remembered() == ["/a", "/b"]
    assert world.logged().count("match") == 2 and world.logged().count("scan-end") == 1
    assert list(run) == []


@pytest.mark.parametrize("failed", [None, ExitCode.STATE])
def test_an_act_that_has_failed_is_a_failure_of_the_run(
    world: Recorded, failed: ExitCode | None
) -> None:
    actions = SimpleNamespace(failed=failed, end=lambda: iter(()), want_reports=lambda _: None)
    with world.run([], actions=actions) as run:
        list(run)
    assert run.summary.failed is failed


def test_an_interruption_after_the_end_is_none_of_the_run(world: Recorded) -> None:
    run = world.run([match("/a")])
    assert paths(list(run)) == ["/a"]
    run.give_up(KeyboardInterrupt())
    assert run.exit_code is ExitCode.MATCH and run.summary.stopped is None


def test_a_failure_to_record_is_reported_and_counts_and_the_run_goes_on(world: Recorded) -> None:
    (world.directory / MATCHES_NAME).mkdir()
    watching = Watching()
    run = world.run([match("/a"), None, match("/b")], observer=watching)
    assert [handled.record for handled in run] == [None, None]
    assert [type(error) for error in watching.failures] == [StateError]
    assert run.exit_code is ExitCode.MATCH_ATTENTION


def test_where_nothing_was_found_there_is_nothing_clean(world: Recorded) -> None:
    run = world.run([])
    assert list(run) == []
    assert run.exit_code is ExitCode.INCOMPLETE
    assert world.logged() == ["scan-start", "scan-end"]


def test_outcomes_recorded_together_come_by_path(world: Recorded) -> None:
    paths = ["/b", "/\udcff", "/a/c", "/a"]
    run = world.run([*map(match, paths), None, match("/0")])
    run._by_path = Scan._by_path
    assert [h.outcome.path for h in run] == ["/a", "/a/c", "/b", "/\udcff", "/0"]
    # The results of lookups are in the order of the digests.
    run = world.run([*map(match, paths), None])
    assert [h.outcome.path for h in run] == paths


def many(prefix: str, count: int = 600) -> list[Outcome]:
    return [match(f"/{prefix}-{n:05d}") for n in range(count)]


def test_a_large_batch_that_cannot_be_recorded_is_given_out_and_said_once(
    world: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StateError("no room")

    monkeypatch.setattr(Matches, "record", fail)
    watching = Watching()
    first, later = many("a"), many("b")
    run = world.run([None, *first, None, *later], observer=watching)
    found = list(run)
    assert len(found) == len(first) + len(later)
    assert all(handled.record is None for handled in found)
    assert world.remembered() == []
    assert world.logged().count("match") == len(found)
    assert [error.message for error in watching.failures] == ["no room"]
    assert run.summary.failed is ExitCode.STATE


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_batch_that_memory_was_short_for_is_recorded_once_more_and_given_out(
    world: Recorded, monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    keep = RunRecord.keep
    failed: list[Sequence[Outcome]] = []

    def keep_once_without_memory(
        self: RunRecord, batch: Sequence[Outcome]
    ) -> list[RecordedOutcome]:
        if failed:
            return keep(self, batch)
        failed.append(batch)
        if is_committed:
            keep(self, batch)
        raise MemoryError

    monkeypatch.setattr(RunRecord, "keep", keep_once_without_memory)
    first, later = many("a"), many("b", 2)
    run = world.run([None, *first, None, *later])
    seen: list[Handled] = []
    with pytest.raises(StateError, match="there is not enough memory"):
        seen.extend(run)
    assert paths(seen) == [one.path for one in (*first, *later)][: len(seen)]
    assert len(seen) >= len(first)
    assert sorted(world.remembered()) == sorted(paths(seen))
    assert world.logged()[-1] == "scan-end"


@pytest.mark.parametrize(
    "names", [["b", "a\x80", "a", "é", "\U0001f600", "\uffff"], ["b", "\udcff", "é", "\uffee"]]
)
def test_the_order_is_that_of_the_bytes(names: list[str]) -> None:
    outcomes = [match(f"/{name}") for name in names]
    outcomes.sort(key=_by_path_bytes(outcomes))
    found = [os.fsencode(outcome.path) for outcome in outcomes]
    assert found == sorted(found)

"""A run step by step: which signals are delayed when, and what counts if the run ends early."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.audit import log as audit_log
from hashclient.core.errors import AuditError, ConfigError, ExitCode, HashclientError, StateError
from hashclient.core.kinds import Action, Kind, MatchState
from hashclient.core.model import Acted, Handled, MatchRef, Outcome
from hashclient.core.model import Recorded as RecordedOutcome
from hashclient.core.verdict import Summary
from hashclient.scan.run import gone, pipeline
from hashclient.scan.run.engine import Progress
from hashclient.scan.run.pipeline import (
    BATCH,
    PORTION,
    FrontEnd,
    Observer,
    Run,
    Scan,
    Unguarded,
    exceptions_of,
)
from hashclient.scan.run.recorder import RunRecord
from tests.kit import csv_of
from tests.unit.test_checker import lists_of
from tests.unit.test_pipeline import NOW, Blocks, Recorded, Watching, match, paths

CTRL_C: dict[type[BaseException], ExitCode] = {KeyboardInterrupt: ExitCode.INTERRUPTED}
ENDED = MatchRef("3kdz7wnq2m", MatchState.QUARANTINED, NOW, NOW)


@pytest.fixture
def world(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


class Terminated(BaseException):
    """The exception for a signal; a test derives another exception from it."""


class TerminatedAgain(Terminated):
    """The exception of a second signal."""


class Acting:
    """Replaces the actions of a run; it notes the calls, and the blocks that are open then."""

    def __init__(self, blocks: Blocks | None = None, *reports: Any) -> None:
        self.blocks = blocks or Blocks()
        self.reports = reports
        self.failed: ExitCode | None = None
        self.held: set[str] = set()
        self.calls: list[tuple[str, str, list[str]]] = []
        self.given: list[tuple[str, MatchRef | None, bool]] = []

    def note(self, call: str, about: str = "") -> None:
        self.calls.append((call, about, list(self.blocks.open)))

    def want_reports(self, found: Sequence[RecordedOutcome]) -> None:
        self.note("want", " ".join(one.outcome.path for one in found))

    def leave(self, ready: deque[RecordedOutcome]) -> Iterator[Handled]:
        while ready and ready[0].outcome.path in self.held:
            one = ready.popleft()
            self.note("leave", one.outcome.path)
            yield Handled(one.outcome, one.record)

    def respond(self, recorded: RecordedOutcome, *, ended: bool = False) -> Handled:
        self.note("respond", recorded.outcome.path)
        self.given.append((recorded.outcome.path, recorded.record, ended))
        acted = Acted(Action.QUARANTINE, done=not ended, detail="done")
        return Handled(recorded.outcome, ENDED, (acted,))

    def end(self) -> Iterator[Any]:
        self.note("end")
        for one in self.reports:
            if isinstance(one, HashclientError):
                raise one
            yield one


class Noting(Watching):
    """An observer that notes reports, and the blocks that are open at the end."""

    def __init__(self, blocks: Blocks | None = None) -> None:
        super().__init__()
        self.blocks = blocks or Blocks()
        self.reports: list[Any] = []

    def prepared(self, report: Any) -> None:
        self.reports.append(report)

    def ending(self, run: Run) -> None:
        super().ending(run)
        self.calls.append(" ".join(self.blocks.open))


def test_sizes_that_memory_and_the_screen_rely_on() -> None:
    assert (BATCH, PORTION) == (4_096, 512)


def test_without_a_front_end_nothing_is_delayed_and_nothing_is_shown() -> None:
    front, guard = FrontEnd(), Unguarded()
    assert (type(front.guard), type(front.observer), front.stops) == (Unguarded, Observer, {})
    for block in (guard.held, guard.barred, guard.last):
        with pytest.raises(KeyboardInterrupt), block():
            raise KeyboardInterrupt
    nothing: Any = None
    observer = front.observer
    observer.progressed()
    observer.failed(StateError("x"))
    observer.file_system_changed("/mnt")
    observer.noticed("text")
    observer.prepared(nothing)
    observer.ending(nothing)


@pytest.mark.parametrize(("count", "taken"), [(2, 2), (3, 3), (4, 3), (7, 3)])
def test_so_many_outcomes_are_recorded_at_once(
    world: Recorded, monkeypatch: pytest.MonkeyPatch, count: int, taken: int
) -> None:
    """No more outcomes are taken from the workers before these are yielded."""
    monkeypatch.setattr(pipeline, "BATCH", 3)
    kept: list[int] = []
    keep = RunRecord.keep

    def noted(self: RunRecord, outcomes: Sequence[Outcome]) -> list[RecordedOutcome]:
        kept.append(len(outcomes))
        return keep(self, outcomes)

    monkeypatch.setattr(RunRecord, "keep", noted)
    watching = Watching()
    with world.run([match(f"/{n}") for n in range(count)], observer=watching) as run:
        assert next(run).outcome.path == "/0"
        assert (kept, run.summary.counts[Kind.MATCH]) == ([taken], taken)
        assert len(list(run)) == count - 1
    assert [n for n in kept if n] == [3] * (count // 3) + [count % 3] * (count % 3 > 0)
    assert watching.calls.count("progressed") == count // 3


def test_what_is_found_first_waits_for_the_start_and_for_the_next_batch(world: Recorded) -> None:
    """The workers begin before the start is logged, which stays first in the log."""
    started: list[bool] = []
    audit = world.directory / "audit"

    class Looking(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            for one in super().__iter__():
                started.append(audit.exists())
                yield one

    run = world.run(Looking([match("/b"), match("/c"), None, match("/d")]))
    assert paths(list(run)) == ["/b", "/c", "/d"]
    assert started == [False, True, True, True]
    assert world.logged() == ["scan-start", *["match"] * 3, "scan-end"]


@pytest.mark.parametrize("error", [StateError("no list"), KeyboardInterrupt(), ValueError("x")])
def test_the_start_is_logged_even_if_the_first_outcome_fails(
    world: Recorded, error: BaseException
) -> None:
    run = world.run([error], stops=CTRL_C)
    if isinstance(error, KeyboardInterrupt):
        assert list(run) == []
    else:
        with pytest.raises(type(error)):
            list(run)
    assert world.logged()[0] == "scan-start"


def test_matches_are_acted_upon_one_by_one_while_signals_can_come(world: Recorded) -> None:
    blocks = Blocks()
    acting, watching = Acting(blocks), Noting(blocks)
    acting.held = {"/a", "/b", "/e"}
    items = [*map(match, ("/a", "/b", "/c", "/d", "/e")), None]
    run = world.run(items, actions=acting, guard=blocks, observer=watching)
    for handled in run:
        acting.note("given", handled.outcome.path)
    assert acting.calls == [
        ("want", "/a /b /c /d /e", ["held"]),
        ("leave", "/a", ["held"]),
        ("leave", "/b", ["held"]),
        ("given", "/a", ["held"]),
        ("given", "/b", ["held"]),
        ("respond", "/c", []),
        ("given", "/c", ["held"]),
        ("respond", "/d", []),
        ("given", "/d", ["held"]),
        ("leave", "/e", ["held"]),
        ("given", "/e", ["held"]),
        *[("want", "", ["held"]), ("want", "", ["last", "held"])],
        ("end", "", ["last"]),
    ]
    assert watching.calls == ["progressed", "ending 10", "last"]


def test_without_actions_outcomes_are_given_out_with_their_records(world: Recorded) -> None:
    (handled,) = world.run([match("/a")])
    assert handled.record is not None and handled.record.state is MatchState.FOUND
    assert handled.acted == ()


@pytest.mark.parametrize(("when", "ended"), [("before", True), ("after", True), ("never", False)])
def test_an_outcome_whose_action_was_interrupted_is_still_given_out(
    world: Recorded, when: str, ended: bool
) -> None:
    """After a complete action, the outcome has the record as the action has left it."""
    blocks, coming = Blocks(), {when}

    def signal(now: str) -> None:
        if now in coming:
            coming.remove(now)
            raise KeyboardInterrupt

    class Interrupted(Acting):
        def respond(self, recorded: RecordedOutcome, *, ended: bool = False) -> Handled:
            handled = super().respond(recorded, ended=ended)
            signal("before")
            return handled

    acting = Interrupted()

    def held() -> Any:
        if acting.given:
            signal("after")
        return blocks.held()

    guard: Any = SimpleNamespace(held=held, barred=blocks.barred, last=blocks.last)
    run = world.run([match("/a"), match("/b"), None], actions=acting, guard=guard, stops=CTRL_C)
    found = list(run)
    assert paths(found) == ["/a", "/b"]
    again = [("/a", True)] * ended
    assert [(path, late) for path, _, late in acting.given] == [
        ("/a", False),
        *again,
        ("/b", ended),
    ]
    if ended:
        record = acting.given[1][1]
        assert record is not None
        assert record.state is (MatchState.QUARANTINED if when == "after" else MatchState.FOUND)
        assert run.summary.stopped is ExitCode.INTERRUPTED
    assert [one.acted[0].done for one in found] == [not ended] * 2


@pytest.mark.parametrize("is_stopped", [False, True])
def test_reports_are_prepared_at_the_end_unless_the_run_was_stopped(
    world: Recorded, is_stopped: bool
) -> None:
    watching, acting = Noting(), Acting(None, "one", "two")
    stop = [KeyboardInterrupt()] * is_stopped
    list(world.run([match("/a"), *stop], actions=acting, observer=watching, stops=CTRL_C))
    assert watching.reports == ([] if is_stopped else ["one", "two"])


@pytest.mark.parametrize("failed", [None, ExitCode.STALE])
def test_a_report_that_cannot_be_prepared_is_a_failure_of_the_run(
    world: Recorded, failed: ExitCode | None
) -> None:
    """The first failure counts: that of the report, before that of an action."""
    watching, error = Noting(), ConfigError("no destination")
    acting = Acting(None, "one", error, "two")
    acting.failed = failed
    run = world.run([], actions=acting, observer=watching)
    assert list(run) == []
    assert (watching.reports, watching.failures) == (["one"], [error])
    assert (run.summary.failed, run.summary.failure) == (error.exit_code, "no destination")
    assert world.end()["failed"] == error.exit_code


@pytest.mark.parametrize("is_first", [False, True])
def test_an_action_that_failed_replaces_no_earlier_failure(world: Recorded, is_first: bool) -> None:
    acting = Acting()
    acting.failed = ExitCode.STALE
    run = world.run([], actions=acting)
    if is_first:
        run.summary.failed = ExitCode.STATE
    assert list(run) == []
    assert run.summary.failed is (ExitCode.STATE if is_first else ExitCode.STALE)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TerminatedAgain(), ExitCode.TERMINATED),
        (Terminated(), ExitCode.TERMINATED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
)
@pytest.mark.parametrize("where", ["run", "caller"])
def test_the_exit_code_is_that_of_the_signal(
    world: Recorded, error: BaseException, code: ExitCode, where: str
) -> None:
    stops = {**CTRL_C, Terminated: ExitCode.TERMINATED}
    run = world.run([match("/a"), None, *[error] * (where == "run"), match("/b")], stops=stops)
    assert next(run).outcome.path == "/a"
    if where == "caller":
        run.interrupt(error)
    assert list(run) == []
    assert (run.summary.stopped, world.end()["match"]) == (code, 1)
    assert run.failure is None


def test_an_error_of_the_caller_that_is_no_signal_goes_back_to_the_caller(world: Recorded) -> None:
    run = world.run([match("/a"), None, match("/b")], stops=CTRL_C)
    next(run)
    with pytest.raises(ValueError, match="caller"):
        run.interrupt(ValueError("of the caller"))
    assert world.is_closed


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StateError("late")])
def test_a_run_that_has_ended_gives_an_interruption_back(
    world: Recorded, error: BaseException
) -> None:
    run = world.run([match("/a")], stops=CTRL_C)
    list(run)
    with pytest.raises(type(error)):
        run.interrupt(error)
    assert run.summary.stopped is None


def test_the_first_signal_gives_the_exit_code(world: Recorded) -> None:
    stops = {**CTRL_C, Terminated: ExitCode.TERMINATED}
    run = world.run([match("/a"), match("/b"), None], stops=stops)
    next(run)
    run.interrupt(Terminated())
    run.close()
    assert run.summary.stopped is ExitCode.TERMINATED
    assert world.logged().count("scan-end") == 1


def test_an_outcome_that_is_counted_but_not_recorded_is_not_in_the_end(world: Recorded) -> None:
    """A signal may come between the two; kinds that are not recorded keep their counts."""
    kinds = (Kind.MATCH, Kind.CONFLICT, Kind.EXCEPTED)
    for stopped in (False, True):
        items = [*[Outcome(kind, f"/{kind}") for kind in kinds], Outcome(Kind.CLEAN, "/c"), None]
        run = world.run([*items, *[KeyboardInterrupt()] * stopped], stops=CTRL_C)
        for kind in kinds:
            run.summary.counts[kind] += 1
        run.summary.counts[Kind.CLEAN] += 1
        assert len(list(run)) == 4
        assert [run.summary.counts[kind] for kind in kinds] == [1 if stopped else 2] * 3
        assert run.summary.counts[Kind.CLEAN] == 2


@pytest.mark.parametrize("error", [AuditError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_over", [False, True])
def test_giving_up_ends_the_run_for_good(
    world: Recorded, error: BaseException, is_over: bool
) -> None:
    """The latest error of the program itself counts, and a signal only if the run was not over."""
    run = world.run([match("/a"), match("/b"), None, match("/c")], stops=CTRL_C)
    assert len(list(run) if is_over else [next(run)]) == (3 if is_over else 1)
    run.summary.fail(StateError("earlier"))
    run.give_up(error)
    is_error = isinstance(error, HashclientError)
    text, code = ("disk full", ExitCode.AUDIT) if is_error else ("earlier", ExitCode.STATE)
    assert (run.summary.failure, run.summary.failed) == (text, code)
    stopped = None if is_error or is_over else ExitCode.INTERRUPTED
    assert run.summary.stopped is stopped
    assert list(run) == []
    assert world.logged().count("match") == (3 if is_over else 2)
    assert world.logged().count("scan-end") == 1
    run.give_up(error)
    run.close()
    assert world.logged().count("scan-end") == 1


def test_giving_up_before_the_first_outcome_was_wanted_logs_the_end(world: Recorded) -> None:
    run = world.run([match("/a")])
    run.give_up(AuditError("x"))
    assert world.logged() == ["scan-end"]
    assert list(run) == []


def test_a_signal_while_the_end_is_shown_goes_on_to_the_caller(world: Recorded) -> None:
    class Ending(Observer):
        def ending(self, run: Run) -> None:
            raise KeyboardInterrupt

    run = world.run([match("/a")], observer=Ending())
    assert next(run).outcome.path == "/a"
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert world.logged().count("scan-end") == 1
    assert run.summary.stopped is ExitCode.INTERRUPTED


class Gone:
    """A scan of trees; it notes when it looks for matches that are gone."""

    def __init__(self, world: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.asked: list[tuple[Any, ...]] = []
        monkeypatch.setattr(gone, "find_gone", self.find)

    def find(self, *about: Any) -> Iterator[Any]:
        self.asked.append(about)
        return iter(())

    def scan(
        self,
        items: Sequence[Outcome | BaseException],
        *,
        roots: Sequence[tuple[str, str]] = (("/srv", "/srv"),),
        unknown: StateError | None = None,
        is_missing: bool = False,
        **front: Any,
    ) -> Scan:
        summary = Summary(lists=())
        recorder = RunRecord(self.world.session, "scan", summary, "key", on_failure=print)

        def found() -> Iterator[Outcome]:
            for item in items:
                if isinstance(item, BaseException):
                    raise item
                summary.add(item)
                yield item

        outcomes: Any = found()
        mounts: Any = SimpleNamespace(unknown=unknown, is_missing=is_missing)
        coverage: Any = SimpleNamespace(roots=roots)
        self.of_trees = coverage, mounts
        return Scan(
            outcomes,
            recorder,
            Progress(summary),
            mounts,
            coverage,
            arguments=["/srv"],
            actions=None,
            front=FrontEnd(**front),
        )


@pytest.mark.parametrize(
    ("how", "looks"),
    [
        ({}, True),
        ({"roots": ()}, False),
        ({"unknown": StateError("x")}, False),
        ({"is_missing": True}, True),
    ],
)
@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), StateError("x")])
def test_what_is_gone_is_looked_for_after_a_whole_scan_of_trees(
    world: Recorded,
    monkeypatch: pytest.MonkeyPatch,
    how: dict[str, Any],
    looks: bool,
    error: BaseException | None,
) -> None:
    finding = Gone(world, monkeypatch)
    last = [] if error is None else [error]
    scan = finding.scan([match("/srv/a"), *last], stops=CTRL_C, **how)
    found: list[Handled] = []
    if isinstance(error, StateError):
        with pytest.raises(StateError):
            found.extend(scan)
    else:
        found.extend(scan)
    assert paths(found) == ["/srv/a"]
    assert [about[1:] for about in finding.asked] == [(*finding.of_trees, NOW)] * (
        looks and error is None
    )
    assert scan.is_mount_missing is how.get("is_missing", False)
    assert scan.progress.summary is scan.summary
    assert world.logged()[-1] == "scan-end"


def test_a_scan_gives_outcomes_by_path_and_logs_its_arguments(
    world: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = Gone(world, monkeypatch).scan([match("/b"), match("/a")])
    assert paths(list(scan)) == ["/a", "/b"]
    (start,) = audit_log.read(world.directory / "audit", event="scan-start")
    assert start.data["arguments"] == ["/srv"]


def test_rulings_that_cannot_be_used_fail_the_run_and_except_nothing(
    world: Recorded, tmp_path: Path
) -> None:
    lists_dir = tmp_path / "lists"
    lists_dir.mkdir()
    layout = world.session.settings.layout
    layout.exceptions.parent.mkdir()
    layout.exceptions.write_bytes(b"no rulings")
    summary, watching = Summary(lists=()), Watching()
    lists = lists_of(lists_dir, base=csv_of({"e-1": b"listed"}))
    one = match("/a")
    assert exceptions_of(world.session, lists, summary, watching).rule(one) is one
    assert [type(error) for error in watching.failures] == [StateError]
    assert summary.failed is ExitCode.STATE
    assert summary.failure == watching.failures[0].message

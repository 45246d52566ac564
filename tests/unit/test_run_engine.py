"""The composition of a scan: the order of its parts, its counts, and the progress display."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hashclient.containers.limits import Options
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.index.open_lists import OpenLists
from hashclient.scan.executors.interface import TICK_S
from hashclient.scan.run import engine as module
from hashclient.scan.run.engine import Progress, _Checkers, scan
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Advance, Result, Task
from tests.kit import csv_of
from tests.unit.test_checker import lists_of

MATCH, SKIPPED, CLEAN = (
    Outcome(kind, f"/{kind}") for kind in (Kind.MATCH, Kind.SKIPPED, Kind.CLEAN)
)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    return lists_of(tmp_path_factory.mktemp("lists"), base=csv_of({"e-1": b"listed"}))


class Source:
    """Replaces the source of a scan: it has no inputs, and notes the calls."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def batches(self) -> Iterator[Task | Outcome]:
        return iter(())

    def again(self) -> Iterator[Task | Outcome]:
        self.done.append("again")
        yield SKIPPED

    def lose(self, inodes: list[int]) -> None:
        self.done.append(inodes)

    def close(self) -> None:
        self.done.append("closed")


class Parts:
    """Replaces the part of a scan that checks inputs: it yields given results."""

    def __init__(self, *results: Result | Outcome | Advance) -> None:
        self.results = results
        self.is_closed = False

    def run(self, _work: object, _make: object) -> Iterator[Result | Outcome | Advance]:
        return self.check()

    def check(self, *_: object, **__: object) -> Iterator[Result | Outcome | Advance]:
        try:
            yield from self.results
        finally:
            self.is_closed = True


def found(
    lists: OpenLists, *results: Result | Outcome | Advance, **how: Any
) -> tuple[list[Outcome], Summary, Progress]:
    progress = Progress(Summary(lists=lists.states))
    source = how.pop("source", Source())
    executor: Any = Parts(*results)
    options = how.pop("options", ScanOptions())
    items = list(scan(source, lists, progress, options, executor=executor, **how))
    assert all(item is progress for item in items if isinstance(item, Progress))
    return [item for item in items if isinstance(item, Outcome)], progress.summary, progress


def counted(summary: Summary) -> dict[Kind, int]:
    return {kind: count for kind, count in summary.counts.items() if count}


def test_the_parts_of_a_scan_come_one_after_the_other(lists: OpenLists) -> None:
    source: Any = Source()
    stream: Any = Parts(Outcome(Kind.UNREAD, "-"))
    objects: Any = Parts(Outcome(Kind.UNREAD, "s3://b/k"))
    outcomes, summary, _ = found(
        lists,
        Outcome(Kind.UNREAD, "/f"),
        source=source,
        again=source,
        stream=stream,
        objects=objects,
    )
    assert [one.path for one in outcomes] == ["-", "/f", "/skipped", "s3://b/k"]
    assert source.done == ["again", "closed"]
    assert objects.is_closed
    assert (summary.asks_stores, summary.opens_containers) == (True, False)
    _, other, _ = found(lists, containers=Options())
    assert (other.asks_stores, other.opens_containers) == (False, True)


def test_each_input_is_counted_once(lists: OpenLists) -> None:
    """A clean file is counted once, although its result and its outcome both mention it."""
    result = Result(clean=2, outcomes=[CLEAN, MATCH], files_read=3, bytes_read=7, lost=[8])
    source: Any = Source()
    outcomes, summary, _ = found(lists, result, SKIPPED, CLEAN, source=source, again=source)
    assert outcomes == [CLEAN, MATCH, SKIPPED, CLEAN, SKIPPED]
    assert counted(summary) == {Kind.CLEAN: 3, Kind.MATCH: 1, Kind.SKIPPED: 2}
    assert (summary.files_read, summary.bytes_read) == (3, 7)
    assert source.done == [[8], "again", "closed"]
    assert summary.elapsed_s > 0


def test_an_outcome_counts_as_it_is_accepted(lists: OpenLists) -> None:
    def accept(outcomes: list[Outcome]) -> list[Outcome]:
        assert outcomes
        return [
            msgspec.structs.replace(one, kind=Kind.ACCEPTED) if one.kind is Kind.UNREAD else one
            for one in outcomes
        ]

    unread = Outcome(Kind.UNREAD, "/u")
    outcomes, summary, _ = found(
        lists, unread, Result(outcomes=[unread, MATCH]), Result(clean=1), accept=accept
    )
    assert [one.kind for one in outcomes] == [Kind.ACCEPTED, Kind.ACCEPTED, Kind.MATCH]
    assert counted(summary) == {Kind.ACCEPTED: 2, Kind.MATCH: 1, Kind.CLEAN: 1}


def test_a_scan_that_ends_early_closes_its_parts(lists: OpenLists) -> None:
    source: Any = Source()
    objects: Any = Parts(SKIPPED, SKIPPED)
    progress = Progress(Summary(lists=lists.states))
    executor: Any = Parts()
    items = scan(source, lists, progress, ScanOptions(), executor=executor, objects=objects)
    assert next(items) is SKIPPED
    items.close()
    assert objects.is_closed and source.done == ["closed"]
    assert counted(progress.summary) == {Kind.SKIPPED: 1}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("looks_s", "step_s", "shown"),
    [
        # Progress is shown at the beginning, and then at most five times a second.
        (0.0, 0.0625, [0, 4, 8, 12]),
        (0.0, 0.25, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        # If showing progress takes 50 ms, it is shown again a second later.
        (0.05, 0.25, [0, 4, 8, 12]),
    ],
)
def test_progress_is_shown_as_often_as_it_costs_little(
    lists: OpenLists,
    monkeypatch: pytest.MonkeyPatch,
    looks_s: float,
    step_s: float,
    shown: list[int],
) -> None:
    assert (TICK_S, module.TICK_SHARE) == (0.2, 20)
    clock, number = Clock(), 0
    monkeypatch.setattr(module, "time", clock)

    def results() -> Iterator[Advance]:
        nonlocal number
        for count in range(13):
            number = count
            yield Advance()
            clock.now += step_s

    executor: Any = SimpleNamespace(run=lambda *_: results())
    progress, seen = Progress(Summary(lists=lists.states)), list[int]()
    source: Any = Source()
    for item in scan(source, lists, progress, ScanOptions(), executor=executor):
        assert item is progress
        seen.append(number)
        assert progress.summary.elapsed_s == clock.now - 100.0
        clock.now += looks_s
    assert seen == shown
    assert progress.summary.elapsed_s == clock.now - 100.0


def test_bytes_of_large_files_are_ahead_until_their_result_comes() -> None:
    progress = Progress(Summary(lists=()))
    for count, path in ((5, "/a"), (7, "/b"), (5, "/a"), (9, None)):
        progress.advance(Advance(count, path))
    assert (progress.reading, progress.bytes_ahead) == ({"/a": 10, "/b": 7}, 17)
    progress.count(Result(clean=1, bytes_read=3))
    assert progress.bytes_ahead == 17
    progress.count(Result(bytes_read=10, reported=Advance(10, "/a")))
    assert (progress.reading, progress.summary.bytes_read) == ({"/b": 7}, 13)
    progress.count(Result(reported=Advance(1, "/unknown")))
    assert progress.summary.counts[Kind.CLEAN] == 1


@pytest.mark.parametrize("opens", [False, True])
def test_checkers_are_made_as_the_options_say_and_end_together(
    lists: OpenLists, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, opens: bool
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(
        module, "Checker", lambda judge, **how: made.append({"judge": judge, **how})
    )
    closed: list[object] = []
    memory: Any = SimpleNamespace(
        open=lambda: "cache", learns=True, close=lambda: closed.append("memory")
    )
    judge, options = lists.judge(), ScanOptions(show_clean=True, sparse=True)
    containers = Options() if opens else None
    before = datetime.now(UTC).timestamp() * 1e9
    make = _Checkers(judge, options, memory, containers)
    on_bytes: Callable[[int], None] = print
    make(on_bytes)
    (how,) = made
    assert before - 1e6 <= how.pop("since_ns") <= datetime.now(UTC).timestamp() * 1e9
    members = how.pop("members")
    assert how == {
        "judge": judge,
        "cache": "cache",
        "learn": True,
        "keep_clean": True,
        "sparse": True,
        "on_bytes": on_bytes,
    }
    assert (members is not None) is opens
    assert all(one._keep_clean and one._options is containers for one in make._opened)
    for one in make._opened:
        monkeypatch.setattr(one, "close", lambda: closed.append("members"))
    make.close()
    assert closed == ["memory", *["members"] * opens]


@pytest.mark.parametrize("how", [False, True])
def test_each_part_of_a_scan_has_the_options_of_the_scan(
    monkeypatch: pytest.MonkeyPatch, how: bool
) -> None:
    given: list[tuple[object, ...]] = []

    class Noting(Parts):
        def check(self, *args: object, **options: object) -> Iterator[Result]:
            given.append((*args, options))
            return (one for one in list[Result]())

    def judge(*, all_digests: bool) -> str:
        assert all_digests is how
        return "judge"

    def here(jobs: int | None) -> Any:
        given.append(("here", jobs))
        return Parts()

    monkeypatch.setattr(module, "Here", here)
    lists: Any = SimpleNamespace(judge=judge)
    part: Any = Noting()
    source: Any = Source()
    options = ScanOptions(all_digests=how, show_clean=how, jobs=3)
    progress = Progress(Summary(lists=()))
    items = scan(source, lists, progress, options, stream=part, objects=part)
    assert list(items) == []
    keeps = {"keep_clean": how}
    assert given[0] == ("here", 3)
    assert given[1] == ("judge", None, keeps)
    (name, make, options_of_objects) = given[2]
    assert (name, options_of_objects) == ("judge", keeps)
    assert callable(make) and make() is None

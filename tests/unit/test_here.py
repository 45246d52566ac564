"""Work on this machine: the tasks that this process does, and the tasks for other processes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.executors import here as module
from hashclient.scan.executors.here import PROBE_NAMES, PROBE_S, Here
from hashclient.scan.values.work import Group, Result, Task


def names_in(task: Task) -> list[str]:
    return [name for group in task for name in group.names]


class Checkers:
    """Simulates a checker: a task takes `took_s`, and names that end in `-` are handed back."""

    def __init__(self, took_s: float) -> None:
        self.now = 500.0
        self.took_s = took_s
        self.checked: list[list[str]] = []
        self.is_closed = False

    def __call__(self, _: object) -> Checkers:
        return self

    def check(self, task: Task, *, defer: bool) -> Result:
        assert defer
        self.checked.append(names_in(task))
        self.now += self.took_s
        later = [
            group._replace(names=[name])
            for group in task
            for name in group.names
            if name.endswith("-")
        ]
        return Result(clean=len(names_in(task)), deferred=later)

    def close(self) -> None:
        self.is_closed = True


def run(
    monkeypatch: pytest.MonkeyPatch, *work: Task | Outcome, took_s: float = 0.0
) -> tuple[Checkers, list[list[str]], list[Any]]:
    """Return the checkers, the tasks of other processes, and the results of this process."""
    checkers, others = Checkers(took_s), list[list[str]]()

    def elsewhere(left: Iterator[Task | Outcome], made: Checkers) -> Iterator[Result]:
        assert made.is_closed
        for item in left:
            assert not isinstance(item, Outcome)
            others.append(names_in(item))
            yield Result()

    made = Here(None)
    monkeypatch.setattr(made, "_in_processes", elsewhere)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: checkers.now))
    return checkers, others, list(made.run(iter(work), checkers))  # type: ignore[arg-type]


def task(count: int, end: str = "") -> Task:
    return [Group("/d", [f"{n}{end}" for n in range(count)], follow=False)]


SKIPPED = Outcome(Kind.SKIPPED, "/s")


def test_little_work_is_so_many_names_and_so_long() -> None:
    assert (PROBE_NAMES, PROBE_S) == (16, 0.1)


@pytest.mark.parametrize(
    ("count", "took_s", "here", "elsewhere"),
    [
        (1, 5.0, [1], []),
        (16, 5.0, [16], []),
        (17, 0.0, [16, 1], []),
        (17, 0.099, [16, 1], []),
        (17, 0.101, [16], [1]),
        (40, 0.0, [16, 24], []),
        (40, 1.0, [16], [24]),
    ],
)
def test_a_single_task_is_done_here_as_long_as_it_is_quick(
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    took_s: float,
    here: list[int],
    elsewhere: list[int],
) -> None:
    checkers, others, items = run(monkeypatch, SKIPPED, task(count), took_s=took_s)
    assert [len(names) for names in checkers.checked] == here
    assert [len(names) for names in others] == elsewhere
    done = [name for names in checkers.checked + others for name in names]
    assert done == [str(n) for n in range(count)]
    assert items[0] == SKIPPED
    assert checkers.is_closed is bool(elsewhere)


def test_large_files_are_left_to_others_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    checkers, others, _ = run(monkeypatch, task(2, "-"))
    assert checkers.checked == [["0-", "1-"]]
    assert others == [["0-"], ["1-"]]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_more_tasks_than_one_are_for_others(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    checkers, others, items = run(monkeypatch, SKIPPED, *[task(1)] * count)
    assert checkers.checked == []
    assert others == [["0"]] * count
    assert items[0] == SKIPPED and len(items) == count + 1


def test_without_work_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    checkers, others, items = run(monkeypatch, SKIPPED, SKIPPED)
    assert (checkers.checked, others, items) == ([], [], [SKIPPED] * 2)
    assert not checkers.is_closed

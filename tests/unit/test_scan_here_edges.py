"""Work in this process, and the content and form of its messages to other processes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest

from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Outcome
from hashclient.scan.executors import here as module
from hashclient.scan.executors import pacing, processes, wire
from hashclient.scan.executors.here import Here, Inline
from hashclient.scan.executors.interface import TICK_S, single_tasks
from hashclient.scan.executors.wire import Failed, Names
from hashclient.scan.values.work import Group, Result, Task

SKIPPED = Outcome(Kind.SKIPPED, "/s")


def task(*names: str) -> Task:
    return [Group("/d", list(names), follow=False)]


def names_in(one: Task) -> list[str]:
    return [name for group in one for name in group.names]


class Checkers:
    """Makes one checker: a file whose name ends in `-` is deferred, under its name without it."""

    def __init__(self) -> None:
        self.made: list[object] = []
        self.checked: list[tuple[list[str], bool]] = []

    def __call__(self, on_bytes: object) -> Checkers:
        self.made.append(on_bytes)
        return self

    def check(self, one: Task, *, defer: bool) -> Result:
        names = names_in(one)
        self.checked.append((names, defer))
        later = [group for name in names if name.endswith("-") for group in task(name[:-1])]
        return Result(clean=len(names) - len(later), deferred=later)


@pytest.mark.parametrize("hands_back", [False, True])
def test_deferred_files_are_checked_next_or_handed_back(hands_back: bool) -> None:
    checkers = Checkers()
    work: Iterator[Task | Outcome] = iter([SKIPPED, task("a-", "b-", "c"), SKIPPED, task("d")])
    inline = Inline(hand_back=True) if hands_back else Inline()
    items: list[Any] = list(inline.run(work, cast("Any", checkers)))
    assert checkers.made == [None]  # one checker, which reports no bytes
    later = [] if hands_back else [["a"], ["b"]]
    order = [["a-", "b-", "c"], *later, ["d"]]
    assert checkers.checked == [(names, hands_back) for names in order]
    results = [item for item in items if item is not SKIPPED]
    assert [items.index(SKIPPED), len(items)] == [0, 2 + len(order)]
    back = [[names_in([group]) for group in result.deferred] for result in results]
    assert back == ([[["a"], ["b"]], []] if hands_back else [[]] * 4)
    assert [result.clean for result in results] == ([1, 1] if hands_back else [1, 1, 1, 1])


def test_without_files_no_checker_is_made() -> None:
    checkers = Checkers()
    assert list(Inline().run(iter([SKIPPED]), cast("Any", checkers))) == [SKIPPED]
    assert checkers.made == []


def test_each_deferred_group_is_a_task() -> None:
    groups = [*task("a", "b"), *task("c")]
    assert list(single_tasks(groups)) == [[groups[0]], [groups[1]]]
    assert list(single_tasks([])) == []


@pytest.mark.parametrize(
    ("jobs", "processors", "pool"), [(None, 3, (3, 48)), (2, 3, (2, 2)), (1, 8, (1, 1))]
)
def test_processes_are_as_many_as_the_user_says_or_as_there_are_processors(
    monkeypatch: pytest.MonkeyPatch, jobs: int | None, processors: int, pool: tuple[int, int]
) -> None:
    made: list[Any] = []

    class Pool:
        def __init__(self, jobs: int, make: object, most: int) -> None:
            made.append((jobs, most, make))

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            made.append("closed")

        def run(self, work: Iterator[Any], tick_s: float) -> Iterator[Any]:
            made.append(tick_s)
            yield from work

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    monkeypatch.setattr(module, "usable_processors", lambda count: count)
    monkeypatch.setattr(pacing, "most_workers", lambda count: 16 * count)
    monkeypatch.setattr(processes, "Pool", Pool)
    assert module.default_jobs() == processors
    make: Any = object()
    assert list(Here(jobs)._in_processes(iter([SKIPPED]), make)) == [SKIPPED]
    assert made == [(*pool, make), TICK_S, "closed"]
    assert TICK_S == 0.2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("a\\b ü", "a\\b ü"),
        ("a\n", "a\\x0a"),
        ("\x1b[2J\\", "\\x1b[2J\\\\"),
        ("\udcff", "\\xff"),
    ],
)
def test_text_of_another_process_does_nothing_to_a_terminal(text: str, shown: str) -> None:
    assert wire.shown(text) == shown
    for hint in (None, text):
        error = Failed(text, hint).error
        assert (error.message, error.hint) == (shown, None if hint is None else shown)


@pytest.mark.parametrize(
    ("directory", "is_relative"),
    [(b"", True), (b"d", True), (b"./", True), (b"/", False), (b"/d", False)],
)
def test_a_relative_directory_depends_on_where_the_scan_was_started(
    directory: bytes, is_relative: bool
) -> None:
    names = Names(directory, b"a", 1, False)
    assert names.is_relative is is_relative
    fields = (names.identity, names.inodes, names.file_system, names.signs, names.is_named)
    assert fields == (None, b"", 0, b"", False)


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("is_named", [False, True])
def test_a_task_arrives_as_it_was_sent(follow: bool, is_named: bool) -> None:
    first = Group(
        "/\udcff",
        ["a\n", "\udcfe", ""],
        follow,
        identity=(None, 2**63),
        inodes=array("Q", [1, 2**64 - 1, 0]),
        is_named=is_named,
    )
    sent = [first, Group("", ["b"], not follow, identity=(3, 4))]
    assert wire.decode_task(wire.encode_task(sent)) == sent
    assert wire.decode_task(wire.encode_task([])) == []
    assert [one.count for one in map(wire.names_of, sent)] == [3, 1]


def test_digests_are_sent_between_processes_of_one_machine_alone() -> None:
    digests = {Algorithm.MD5: b"d" * 16}
    outcome = Outcome(Kind.CLEAN, "/a", digests=digests, members=("x", "\udcff"))
    result = Result(clean=1, outcomes=[outcome])
    for packed, found in (
        (wire.pack_result(result), digests),
        (wire.pack_result(result, digests=False), {}),
    ):
        message = wire.decode_message(wire.encode(packed))
        assert isinstance(message, Result)
        assert message.outcomes == [msgspec.structs.replace(outcome, digests=found)]
    (packed_outcome,) = wire.pack_outcomes([outcome])
    assert packed_outcome.path == b"/a" and packed_outcome.members == (b"x", b"\xff")
    assert (packed_outcome.rest.path, packed_outcome.rest.members) == ("", ())
    assert packed_outcome.rest.digests == digests


def test_a_message_is_a_number_a_result_or_an_error() -> None:
    assert wire.decode_message(wire.encode(5)) == 5
    error = wire.decode_message(wire.encode(Failed("damaged", "fetch")))
    assert isinstance(error, StateError)
    assert (error.message, error.hint) == ("damaged", "fetch")
    others: tuple[Any, ...] = ("text", [], ["other"], None, 1.5, {})
    for other in others:
        with pytest.raises(msgspec.ValidationError):
            wire.decode_message(wire.encode(other))
    assert wire.pack_result(Result()).large == []

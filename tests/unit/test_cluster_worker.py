"""Batches of a cluster's worker: which files they have, how long they run, what is sent back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.errors import StateError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome, Seen
from hashclient.scan.cluster import named, worker
from hashclient.scan.cluster.messages import Known, Lost, ToCheck, paths_of
from hashclient.scan.cluster.named import MOUNTED, OTHER, NamedFiles, only_same
from hashclient.scan.executors.wire import (
    Checked,
    Failed,
    Names,
    encode,
    group_of,
    names_of,
    unpack_result,
)
from hashclient.scan.values.work import TASK_NAMES, WORKER_FAILED, Group, Result, Task
from tests.kit import write_tree

SEEN = Seen(1, 2, 3, 4)


class Checker:
    """Reports a clean file for each name, and hands back the files whose name ends in `-`."""

    def __init__(self) -> None:
        self.tasks: list[list[str]] = []
        self.spent_after = 99

    def check(self, task: Task) -> Result:
        names = [name for group in task for name in group.names]
        self.tasks.append(names)
        later = [
            group._replace(names=[name.rstrip("-") for name in group.names])
            for group in task
            if group.names[0].endswith("-")
        ]
        outcomes = [
            Outcome(Kind.CLEAN, f"{group.directory}/{name}", seen=SEEN)
            for group in task
            for name in group.names
            if not name.endswith("-")
        ]
        return Result(clean=len(outcomes), outcomes=outcomes, deferred=later)


class Allowance:
    """Replaces the time limit of a batch: the time is over after a number of tasks."""

    spent_s = 1.5

    def __init__(self, checker: Checker) -> None:
        self.checker = checker

    @property
    def is_spent(self) -> bool:
        return len(self.checker.tasks) >= self.checker.spent_after


@pytest.fixture
def checker(monkeypatch: pytest.MonkeyPatch) -> Checker:
    made, seconds = Checker(), list[float]()

    def allow(most_s: float) -> Allowance:
        seconds.append(most_s)
        assert seconds == [worker.BATCH_MOST_S]
        return Allowance(made)

    monkeypatch.setattr(worker, "Allowance", allow)
    return made


def checked(
    checker: Checker, *groups: Names, base: str | None = "/", **how: Any
) -> tuple[list[str], Checked]:
    """Return the paths of all outcomes of a batch, and the answer of the worker."""
    given: list[Sequence[Known]] = []

    def make(known: Sequence[Known]) -> Any:
        given.append(known)
        return checker

    answer = worker.checked(make, base, encode(ToCheck(groups)), **how)
    assert list(map(list, given)) == [[]]
    return [one.path for one in unpack_result(answer).outcomes], answer


def batch(directory: str, *names: str) -> Names:
    return names_of(Group(directory, list(names), follow=False))


def test_the_limits_of_a_batch() -> None:
    assert (worker.BATCH_MOST_S, worker.LARGE_BYTES, worker.MOST_RUNS) == (2.0, 256 << 20, 16)
    assert worker.PREPARE_S == 120.0


@pytest.mark.parametrize("count", [0, 1, TASK_NAMES, TASK_NAMES + 1, 2 * TASK_NAMES + 5])
def test_a_batch_is_checked_in_tasks_in_its_order(checker: Checker, count: int) -> None:
    names = [f"f{n}" for n in range(count)]
    groups = [batch("/d", *names)] if names else []
    paths, answer = checked(checker, *groups)
    assert paths == [f"/d/{name}" for name in names]
    assert [len(task) for task in checker.tasks] == [
        min(TASK_NAMES, count - at) for at in range(0, count, TASK_NAMES)
    ]
    assert (answer.clean, answer.taken_s, answer.deferred, answer.large) == (count, 1.5, [], [])


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_what_does_not_fit_into_the_time_goes_back_in_its_order(
    checker: Checker, tasks: int
) -> None:
    checker.spent_after = tasks
    names = [f"f{n}" for n in range(2 * TASK_NAMES + 5)]
    paths, answer = checked(checker, batch("/d", *names), batch("/e", "g"))
    done = min(tasks * TASK_NAMES, len(names) + 1)
    every = [f"/d/{name}" for name in names] + ["/e/g"]
    assert paths == every[:done]
    assert [*paths_of(answer.deferred)] == every[done:]


def test_what_is_handed_back_is_checked_next_one_by_one(checker: Checker) -> None:
    paths, _ = checked(checker, batch("/d", "a-"), batch("/e", "b"))
    assert checker.tasks == [["a-", "b"], ["a"]]
    assert paths == ["/e/b", "/d/a"]


@pytest.mark.parametrize(
    ("base", "directory", "looked", "told"),
    [
        ("/", "/d", "/d", "/d"),
        ("/base", "/d", "/d", "/d"),
        ("/base", "d", "/base/d", "d"),
        ("/base", "", "/base/", ""),
        (None, "d", "d", "d"),
    ],
)
def test_relative_paths_are_those_of_the_client(
    checker: Checker, base: str | None, directory: str, looked: str, told: str
) -> None:
    seen: list[str] = []
    check = checker.check

    def noted(task: Task) -> Result:
        seen.extend(group.directory for group in task)
        return check(task)

    checker.check = noted  # type: ignore[method-assign]
    checker.spent_after = 1
    names = [f"f{n}" for n in range(TASK_NAMES + 1)]
    paths, answer = checked(checker, batch(directory, *names), base=base)
    assert seen == [looked]
    assert paths[0] == f"{told}/f0"
    assert [group.directory for group in answer.deferred] == [told.encode()]


@pytest.mark.parametrize("is_beside", [False, True])
def test_devices_are_named_on_the_same_machine_alone(checker: Checker, is_beside: bool) -> None:
    _, answer = checked(checker, batch("/d", "a"), is_beside=is_beside)
    (outcome,) = unpack_result(answer).outcomes
    assert outcome.seen == (SEEN if is_beside else Seen(None, 2, None, 4))
    assert worker._without_devices(Outcome(Kind.CLEAN, "a")).seen is None


@pytest.mark.parametrize("names", [["large"], ["small"], ["gone"], ["small", "large"]])
def test_a_large_file_is_not_checked_beside_others(
    checker: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    monkeypatch.setattr(worker, "LARGE_BYTES", 5)
    write_tree(tmp_path, {"large": b"12345", "small": b"1234"})
    task = [Group(str(tmp_path), names, follow=False)]
    assert worker._is_large(task) is (names == ["large"])
    assert not worker._is_large(task * 2)
    # A batch of one task is checked, even if the task is a large file.
    paths, answer = checked(checker, batch(str(tmp_path), *names))
    assert (paths, answer.large) == ([f"{tmp_path}/{name}" for name in names], [])
    groups = [batch(str(tmp_path), name) for name in ("large", "small")]
    monkeypatch.setattr(worker, "TASK_NAMES", 1)
    monkeypatch.setattr(worker, "Allowance", lambda _: Allowance(checker))
    paths, answer = checked(checker, *groups)
    assert paths == [f"{tmp_path}/small"]
    assert [*paths_of(answer.large)] == [f"{tmp_path}/large"]


def test_the_answer_of_a_batch_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Any:
        raise error

    assert worker.caught(lambda: 5) == 5
    failed = worker.caught(lambda: fail(StateError("damaged", hint="fetch")))
    assert failed == Failed("damaged", "fetch")
    assert worker.caught(lambda: fail(ValueError("secret"))) == Lost(WORKER_FAILED)
    work: Any = SimpleNamespace(used=0.0)
    monkeypatch.setitem(worker._runs, "run", work)
    assert worker.with_work("run", lambda _: 7) == encode(7)
    assert work.used > 0
    assert worker.with_work("other", lambda _: 7) == encode(Lost(WORKER_FAILED))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "t", {"a": b"1", "b": b"22", "c": b"333"})


def looked_at(tree: Path, *names: str) -> Names:
    (asked,) = NamedFiles().look_at(Group(str(tree), list(names), follow=True))
    return asked


@pytest.mark.parametrize("changed", ["", "size", "time", "inode"])
def test_a_named_file_is_the_same_by_its_inode_size_and_time(tree: Path, changed: str) -> None:
    asked, b = looked_at(tree, "a", "b", "c"), tree / "b"
    times = (b.stat().st_atime_ns, b.stat().st_mtime_ns)
    if changed == "size":
        b.write_bytes(b"222")
    if changed == "inode":
        b.rename(tree / "kept")
        b.write_bytes(b"22")
    os.utime(b, ns=(times[0], times[1] + (changed == "time")))
    same, others = only_same(asked, None)
    assert same is not None
    assert group_of(same).names == (["a", "c"] if changed else ["a", "b", "c"])
    assert [(one.path, one.kind, one.reason) for one in others] == (
        [(str(b), Kind.UNREAD, OTHER)] if changed else []
    )


def test_of_a_group_of_other_files_nothing_is_left(tree: Path) -> None:
    asked = looked_at(tree, "a", "b")
    for name in "ab":
        (tree / name).write_bytes(b"of another size")
    same, others = only_same(asked, "/elsewhere")
    assert (same, len(others)) == (None, 2)
    unsigned = batch(str(tree), "a")
    assert only_same(unsigned, None) == (unsigned, [])


@pytest.mark.parametrize(
    ("mtime_ns", "signed"),
    [
        (0, 0),
        (-1, -1),
        (2**63 - 1, 2**63 - 1),
        (2**63, -(2**63)),
        (2**63 + 5, -(2**63) + 5),
        (-(2**63), -(2**63)),
        (-(2**63) - 1, 2**63 - 1),
    ],
)
def test_any_time_has_a_sign(mtime_ns: int, signed: int) -> None:
    status: Any = SimpleNamespace(st_ino=7, st_size=8, st_mtime_ns=mtime_ns)
    assert named._sign_of(status) == (7, 8, signed)


def test_files_of_each_file_system_are_a_group_and_each_is_looked_up_once(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing files and files on a file system without a number are in a group without one."""
    stat, asked = os.stat, list[int]()

    def other(path: Any, **how: Any) -> Any:
        found = stat(path, **how)
        device = {"a": 1, "b": 2, "c": 1, "d": 3}.get(path)
        if device is None:
            return found
        return SimpleNamespace(
            st_dev=device, st_ino=found.st_ino, st_size=found.st_size, st_mtime_ns=found.st_mtime_ns
        )

    (tree / "d").write_bytes(b"")
    client = NamedFiles()

    def at(_name: str, _fd: int, device: int, *, follow: bool) -> Any:
        assert follow
        asked.append(device)
        return None if device == 3 else SimpleNamespace(number=device * 10)

    client._identities = SimpleNamespace(at=at)  # type: ignore[assignment]
    monkeypatch.setattr(os, "stat", other)
    parts = client.look_at(Group(str(tree), ["a", "b", "gone", "c", "d"], follow=True))
    monkeypatch.undo()
    assert asked == [1, 2, 3]
    found = {part.file_system: group_of(part).names for part in parts}
    assert found == {10: ["a", "c"], 20: ["b"], 0: ["gone", "d"]}
    assert all(only_same(part, None) == (part, []) for part in parts)


@pytest.mark.parametrize("directory", ["{}/t", "{}/link", "t", "link"])
@pytest.mark.parametrize("point", ["{}/t/b", "{}/link/b", "t/b", "link/b"])
def test_a_listed_file_at_a_mount_point_is_unread(
    checker: Checker, tmp_path: Path, directory: str, point: str
) -> None:
    """The client's mount points begin with the tree as the user named it, the worker's are real."""
    tree = write_tree(tmp_path / "t", {"a": b"", "b": b""})
    (tmp_path / "link").symlink_to(tree)
    directory, point = directory.replace("{}", str(tmp_path)), point.replace("{}", str(tmp_path))
    how: dict[str, Any] = {"base": str(tmp_path), "mounted": frozenset({point})}
    is_same = point in (f"{directory}/b", f"{tree}/b")
    _, answer = checked(checker, batch(directory, "a", "b"), **how)
    reasons = [one.reason for one in unpack_result(answer).outcomes if one.path.endswith("b")]
    assert [reason == MOUNTED for reason in reasons] == [is_same]


def test_a_named_file_at_a_mount_point_is_compared_by_its_status_alone(
    checker: Checker, tree: Path
) -> None:
    _, answer = checked(checker, looked_at(tree, "a"), mounted=frozenset({f"{tree}/a"}))
    (outcome,) = unpack_result(answer).outcomes
    assert outcome.kind is Kind.CLEAN

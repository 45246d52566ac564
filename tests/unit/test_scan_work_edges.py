"""Groups of names, parts of tasks, reasons, and results that are joined."""

from __future__ import annotations

import errno
from array import array
from typing import Any

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.values.work import (
    NO_INODES,
    NOT_THERE,
    TASK_NAMES,
    Group,
    Result,
    Task,
    divided,
    join,
    reason_of,
)

GROUP = Group("/d", ["a", "b", "c"], True, (5, 6), array("Q", [1, 2, 3]), is_named=True)


def named(task: Task) -> list[tuple[str, list[str], list[int]]]:
    return [(group.directory, group.names, [*group.inodes]) for group in task]


@pytest.mark.parametrize(
    ("sizes", "names", "first", "rest"),
    [
        ([3], 1, [1], [2]),
        ([3], 3, [3], []),
        ([3], 4, [3], []),
        ([2, 3], 1, [1], [1, 3]),
        ([2, 3], 2, [2], [3]),
        ([2, 3], 3, [2, 1], [2]),
        ([2, 3], 5, [2, 3], []),
        ([2, 3], 9, [2, 3], []),
        ([2, 0, 3], 2, [2], [0, 3]),
        ([1, 1, 1], 2, [1, 1], [1]),
        ([], 1, [], []),
    ],
)
def test_the_first_names_of_a_task_are_a_task(
    sizes: list[int], names: int, first: list[int], rest: list[int]
) -> None:
    task, number = [], 0
    for size in sizes:
        numbers = range(number, number + size)
        listed = Group(f"/{number}", [str(n) for n in numbers], follow=True)
        task.append(listed._replace(inodes=array("Q", numbers)))
        number += size
    parts = divided(task, names)
    assert [[len(group.names) for group in part] for part in parts] == [first, rest]
    flat = [(name, inode) for part in parts for _, found, inodes in named(part)
            for name, inode in zip(found, inodes, strict=True)]  # fmt: skip
    assert flat == [(str(n), n) for n in range(number)]
    assert all(group.follow for part in parts for group in part)


def test_a_part_of_a_group_keeps_everything_else() -> None:
    assert GROUP.part(1, 2) == GROUP._replace(names=["b"], inodes=array("Q", [2]))
    assert GROUP.part(1) == GROUP._replace(names=["b", "c"], inodes=array("Q", [2, 3]))
    assert GROUP.only(("x",), [7]) == GROUP._replace(names=["x"], inodes=array("Q", [7]))
    assert GROUP.only(["x", "y"], [0, 7]).inodes == array("Q", [0, 7])
    assert GROUP.only(["x", "y"], [0, 0]) == GROUP._replace(names=["x", "y"], inodes=NO_INODES)
    assert TASK_NAMES == 512


@pytest.mark.parametrize(
    ("directory", "path"), [("", "n"), ("/", "/n"), ("d", "d/n"), ("d/", "d/n"), (".", "./n")]
)
def test_a_path_is_joined_as_the_user_gave_it(directory: str, path: str) -> None:
    assert join(directory, "n") == path


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOENT, "No such file"), NOT_THERE),
        (OSError(errno.ESTALE, "Stale file handle"), "stale file handle"),
        (OSError(errno.EACCES, "Permission denied"), "permission denied"),
        (OSError("Odd"), "odd"),
        (OSError(5, ""), "[errno 5] "),
    ],
)
def test_a_reason_is_that_of_the_system_in_small_letters(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason


def test_results_of_one_task_are_joined() -> None:
    def result(number: int) -> Result:
        made: dict[str, Any] = {
            name: number for name in Result.__struct_fields__ if name.endswith(("read", "clean"))
        }
        outcome = Outcome(Kind.CLEAN, f"/{number}")
        return Result(
            **made,
            outcomes=[outcome],
            learned=[(number, b"r")],
            seen=[(number, 0)],
            containers=[(number, b"r", b"m")],
            lost=[number],
            not_opened={"luks": number, f"kind {number}": 1},
        )

    whole = result(1)
    whole.add(result(10))
    assert (whole.clean, whole.files_read, whole.bytes_read, whole.members_read) == (11,) * 4
    assert [one.path for one in whole.outcomes] == ["/1", "/10"]
    assert (whole.learned, whole.lost) == ([(1, b"r"), (10, b"r")], [1, 10])
    assert whole.seen == [(1, 0), (10, 0)]
    assert whole.containers == [(1, b"r", b"m"), (10, b"r", b"m")]
    assert whole.not_opened == {"luks": 11, "kind 1": 1, "kind 10": 1}

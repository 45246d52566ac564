"""The queue of files and directories for workers of a cluster: sizes and order of batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.cluster import backlog as module
from hashclient.scan.cluster.backlog import FIRST_NAMES, MOST_STARTS, Backlog
from hashclient.scan.cluster.messages import paths_of
from hashclient.scan.executors.wire import Names, names_of
from hashclient.scan.values.work import Group, Start


def names(directory: str, count: int) -> Names:
    return names_of(Group(directory, [str(n) for n in range(count)], follow=False))


def test_the_size_of_batches() -> None:
    numbers = (module.BATCH_S, FIRST_NAMES, module.LEAST_NAMES, module.MOST_NAMES, MOST_STARTS)
    assert numbers == (0.75, 5_000, 500, 20_000, 64)


@pytest.mark.parametrize(
    ("took", "names"),
    [
        ([], 5_000),
        ([(0, 9.0)], 5_000),
        ([(1_000, 1.0)], 3_938),
        ([(1_000, 0.5)], 4_125),
        ([(1, 0.0)], 3_938),  # a time of zero counts as one millisecond
        ([(1_000, 1.0), (1_000, 1.0)], 3_141),
        ([(100_000, 1.0)], 20_000),
    ],
)
def test_a_batch_has_as_many_files_as_the_last_ones_could_check(
    took: list[tuple[int, float]], names: int
) -> None:
    backlog = Backlog()
    for count, seconds in took:
        backlog.took(count, seconds)
    assert backlog.batch_names == names


@pytest.mark.parametrize(
    ("counts", "batches"),
    [
        ([], []),
        ([5_000], [5_000]),
        ([4_999, 1, 1], [5_000, 1]),
        ([4_999, 500, 1], [5_499, 1]),
        ([5_001, 1], [5_001, 1]),
        ([2_500, 2_500, 2_500], [5_000, 2_500]),
    ],
)
def test_files_are_handed_out_by_batches(counts: list[int], batches: list[int]) -> None:
    backlog, taken = Backlog(), []
    backlog.add_groups([names(f"/{n}", count) for n, count in enumerate(counts)])
    assert backlog.names == sum(counts)
    assert backlog.wants_names() is (sum(counts) < 5_000)
    while (batch := backlog.take_files()) is not None:
        taken.append(sum(group.count for group in batch.groups))
        assert backlog.names == sum(counts) - sum(taken)
    assert taken == batches


@pytest.mark.parametrize("paths", [["/a", "/b", "c"], ["a", "b", "/c"]])
def test_a_batch_has_either_absolute_or_relative_paths(paths: list[str]) -> None:
    backlog = Backlog()
    backlog.add_groups([names(path, 1) for path in paths])
    batches = [backlog.take_files(), backlog.take_files()]
    assert [batch and len(batch.groups) for batch in batches] == [2, 1]
    assert backlog.is_empty


def test_large_files_come_first_and_no_more_names_are_wanted_then() -> None:
    backlog = Backlog()
    assert (backlog.wants_names(), backlog.is_empty) == (True, True)
    backlog.large.append(names("/l", 1))
    assert (backlog.wants_names(), backlog.is_empty, backlog.names) == (False, False, 0)
    batch = backlog.take_files()
    assert batch is not None and [*paths_of(batch.groups)] == ["/l/0"]
    assert backlog.take_files() is None


@pytest.mark.parametrize(
    ("starts", "slots", "taken"),
    [
        *((1, 1, 1), (1, 9, 1), (3, 1, 1), (4, 1, 2), (5, 1, 2), (8, 2, 2), (8, 0, 8), (9, 0, 9)),
        *((127, 1, 63), (128, 1, 64), (130, 1, 64), (1_000, 1, 64)),
    ],
)
def test_directories_are_shared_by_all_workers(starts: int, slots: int, taken: int) -> None:
    backlog = Backlog()
    assert backlog.take_directories(slots) is None
    given = [Start(b"/%d" % n) for n in range(starts)]
    backlog.add_starts(given)
    assert not backlog.is_empty
    batch = backlog.take_directories(slots)
    assert batch is not None and [*batch.starts] == given[:taken]


def test_files_that_are_left_out_are_not_counted() -> None:
    backlog = Backlog(lambda group: None if group.count == 2 else group)
    backlog.add_groups([names("/a", 1), names("/b", 2), names("/c", 3)])
    assert backlog.names == 4
    backlog.add_groups([names("/d", 1), names("/e", 1)], first=True)
    groups, directories = backlog.empty()
    assert [group.directory for group in groups] == [b"/d", b"/e", b"/a", b"/c"]
    assert (directories, backlog.names, backlog.is_empty) == ([], 0, True)


def test_a_wide_directory_is_read_until_there_is_a_directory_or_too_many_outcomes() -> None:
    read = []

    def items() -> Iterator[Names | Outcome | Start]:
        for number in range(5_002):
            read.append(number)
            yield Outcome(Kind.SKIPPED, f"/w/{number}")
        yield names("/w", 3)
        yield Start(b"/w/d")
        yield names("/w", 4)

    backlog = Backlog()
    backlog.wide.append(("/w", items()))
    assert not backlog.is_empty
    assert (len(backlog.read_wide()), len(read)) == (5_000, 5_000)
    assert (len(backlog.read_wide()), backlog.names) == (2, 3)
    assert backlog.read_wide() == []  # the wide directory must be listed first
    assert backlog.take_directories(1) is not None
    assert (backlog.read_wide(), backlog.names, backlog.wide) == ([], 7, [])

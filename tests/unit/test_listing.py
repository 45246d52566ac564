"""Directories read ahead: the names, their order, and open descriptors."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import queue
import resource
import threading
from array import array
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from hashclient.core.errors import StateError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources import listing, trees
from hashclient.scan.sources.interface import TASK_S, TaskBuilder
from hashclient.scan.sources.listing import (
    ENTRY_S,
    FIRST_ENTRIES,
    MOST_ENTRIES,
    MOST_STEPS,
    SLOW_STEPS,
    STEP_S,
    Lister,
    Listing,
)
from hashclient.scan.sources.trees import Trees
from hashclient.scan.sources.walk import OPEN_DEPTH
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Group, join
from hashclient.system import background
from tests.kit import open_files, wait_until, write_tree


class Waiting(Lister):
    """A lister that treats each step as slow, and uses threads from the beginning."""

    is_slow = property(lambda _: True, lambda _, __: None)
    may_thread = property(lambda _: True, lambda _, __: None)


@pytest.fixture
def _ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "Lister", Waiting)


def listed(top: Path, **options: object) -> tuple[list[str], list[tuple[str, Kind]]]:
    """Return the files and other outcomes that a walk lists, in the order of the walk."""
    found: list[str] = []
    outcomes: list[tuple[str, Kind]] = []
    for item in Trees([str(top)], ScanOptions(**options)).batches():  # type: ignore[arg-type]
        if isinstance(item, Outcome):
            outcomes.append((item.path, item.kind))
        else:
            found += [join(group.directory, name) for group in item for name in group.names]
    return found, outcomes


def test_listing_ahead_gives_the_same_names_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{a}/{b}/{n}" for a in range(40) for b in range(5) for n in range(3)]
    names += ["f", "0/g", *("i/" * n + "f" for n in range(1, 9))]
    tree = write_tree(tmp_path / "t", dict.fromkeys(names, b""))
    (tree / "3" / "link").symlink_to("/nowhere")
    os.mkfifo(tree / "4" / "0" / "pipe")
    before = open_files()
    plain = listed(tree, exclude=("17",))
    monkeypatch.setattr(trees, "Lister", Waiting)
    assert listed(tree, exclude=("17",)) == plain
    assert set(plain[0]) == {f"{tree}/{name}" for name in names if "17" not in name.split("/")}
    assert open_files() == before


@pytest.mark.usefixtures("_ahead")
def test_a_deep_and_wide_tree_goes_through_few_descriptors(tmp_path: Path) -> None:
    top = tmp_path / "t"
    deep = top
    for _ in range(2 * OPEN_DEPTH):
        for side in range(4):
            (deep / f"s{side}").mkdir(parents=True)
            (deep / f"s{side}" / "f").touch()
        deep /= "d"
    gc.collect()  # files that earlier tests left open must not be closed during this test
    before, most = open_files(), 0
    count = 0
    for item in Trees([str(top)], ScanOptions()).batches():
        most = max(most, open_files())
        assert not isinstance(item, Outcome)
        count += sum(len(group.names) for group in item)
    assert count == 8 * OPEN_DEPTH
    assert most - before <= OPEN_DEPTH * 2 + 3 * listing.OF_ALL
    assert open_files() == before


@pytest.mark.usefixtures("_ahead")
def test_a_directory_that_cannot_be_opened_ahead_is_left_to_the_walk(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a/f": b"", "b/f": b"", "c/f": b""})

    def failing(fd: int | None, name: str, *, follow: bool) -> listing.Open:
        if name == "b" or (
            name == "c" and threading.current_thread() is not threading.main_thread()
        ):
            raise OSError(errno.EACCES if name == "b" else errno.EMFILE, "no")
        return opened(fd, name, follow=follow)

    opened = listing.open_in
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "open_in", failing)
        found, outcomes = listed(tmp_path)
    assert sorted(found) == [f"{tmp_path}/a/f", f"{tmp_path}/c/f"]
    assert outcomes == [(f"{tmp_path}/b", Kind.UNREAD)]


@pytest.mark.usefixtures("_ahead")
@pytest.mark.parametrize("step_s", [STEP_S, 0])
def test_a_walk_does_not_wait_for_a_thread_that_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """A thread may fail for lack of memory, whether it lists a directory or stats names."""
    tree = write_tree(tmp_path / "t", {"a/f": b"", "b/f": b""})

    def failing(entries: Sequence[os.DirEntry[str]]) -> listing.Chunk:
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError
        return typed(entries)

    typed = listing.typed
    monkeypatch.setattr(listing, "typed", failing)
    monkeypatch.setattr(listing, "STEP_S", step_s)
    with pytest.raises(MemoryError):
        listed(tree)


@pytest.mark.usefixtures("_ahead")
def test_a_link_that_takes_the_place_of_a_directory_is_not_followed_ahead(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a/f": b"", "b/f": b"", "c/f": b""})
    write_tree(tmp_path / "elsewhere", {"secret": b""})

    def swapping(fd: int | None, name: str, *, follow: bool) -> listing.Open:
        if name == "b" and not (tree / "b").is_symlink():
            (tree / "b").rename(tmp_path / "away")
            (tree / "b").symlink_to("../elsewhere")
        return opened(fd, name, follow=follow)

    opened = listing.open_in
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "open_in", swapping)
        found, outcomes = listed(tree)
    assert sorted(found) == [f"{tree}/a/f", f"{tree}/c/f"]
    assert outcomes == [(f"{tree}/b", Kind.UNREAD)]


def test_a_link_that_takes_the_place_of_a_directory_that_was_moved_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "t", {"a/f": b"", "b/f": b"", "c/f": b""})
    write_tree(tmp_path / "elsewhere", {"secret": b""})

    def swapping(fd: int | None, name: str, *, follow: bool) -> listing.Open:
        if name == "b" and (tree / "b").exists():
            (tree / "b").rename(tree / "moved")
        elif name == "moved" and not (tree / "moved").is_symlink():
            (tree / "moved").rename(tmp_path / "away")
            (tree / "moved").symlink_to("../elsewhere")
        return opened(fd, name, follow=follow)

    opened = listing.open_in
    monkeypatch.setattr(listing, "open_in", swapping)
    # Every directory counts as the root of a mount, where the walk accepts any inode.
    monkeypatch.setattr("hashclient.scan.sources.walk.is_mount_root", lambda _: True)
    found, outcomes = listed(tree)
    assert sorted(found) == [f"{tree}/a/f", f"{tree}/c/f"]
    assert outcomes == [(f"{tree}/b", Kind.UNREAD)]


@pytest.mark.usefixtures("_ahead")
def test_a_directory_longer_than_is_kept_ahead_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "NAMES_AHEAD", 10)
    monkeypatch.setattr(listing, "SLOW_ENTRIES", 4)
    names = [f"{d}/{n}" for d in range(3) for n in range(50)]
    tree = write_tree(tmp_path / "t", dict.fromkeys(names, b""))
    before = open_files()
    assert sorted(listed(tree)[0]) == sorted(f"{tree}/{name}" for name in names)
    assert open_files() == before


@pytest.mark.usefixtures("_ahead")
def test_reading_that_fails_keeps_what_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "t", {f"{d}/{n}": b"" for d in range(3) for n in range(9)})
    bad, scandir = (tree / "1").stat().st_ino, os.scandir

    class Failing:
        def __init__(self, fd: int) -> None:
            self._entries = scandir(fd)
            self._fails = os.fstat(fd).st_ino == bad
            self._count = 0

        def __iter__(self) -> Failing:
            return self

        def __next__(self) -> os.DirEntry[str]:
            self._count += 1
            if self._fails and self._count > 5:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return next(self._entries)

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def close(self) -> None:
            self._entries.close()

    monkeypatch.setattr(os, "scandir", Failing)
    found, outcomes = listed(tree)
    assert outcomes == [(f"{tree}/1", Kind.UNREAD)]
    assert len(found) == 9 + 5 + 9


@pytest.mark.usefixtures("_ahead")
def test_a_directory_of_another_file_system_is_not_closed_before_its_thread_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory stays open while a thread reads it: its descriptor number could be reused."""
    tree = write_tree(tmp_path / "t", {"a/f": b"", "b/f": b"", "c/f": b""})
    other = (tree / "b").stat().st_ino
    opened, scandir, close = listing.open_in, os.scandir, os.close
    held, is_closed, read = -1, threading.Event(), []

    def open_in(fd: int | None, name: str, *, follow: bool) -> listing.Open:
        nonlocal held
        inner, status, opened_ns = opened(fd, name, follow=follow)
        if status.st_ino == other:
            held = inner
            status = os.stat_result((*status[:2], status.st_dev + 1, *status[3:]))
        return inner, status, opened_ns

    def reading(fd: int) -> object:
        if fd == held:
            is_closed.wait(0.1)
            read.append(os.fstat(fd).st_ino)
        return scandir(fd)

    def closing(fd: int) -> None:
        nonlocal held
        # the number of the closed descriptor is used again
        is_held, held = fd == held, -1 if fd == held else held
        close(fd)
        if is_held:
            is_closed.set()

    monkeypatch.setattr(listing, "open_in", open_in)
    monkeypatch.setattr(os, "scandir", reading)
    monkeypatch.setattr(os, "close", closing)
    found, outcomes = listed(tree, one_file_system=True)
    assert (sorted(found), outcomes) == (
        [f"{tree}/a/f", f"{tree}/c/f"],
        [(f"{tree}/b", Kind.SKIPPED)],
    )
    assert read == [other]


@pytest.mark.usefixtures("_ahead")
def test_a_caller_that_stops_early_leaves_no_file_open(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {f"{a}/{b}/f": b"" for a in range(30) for b in range(3)})
    before = open_files()
    items = Trees([str(tree)], ScanOptions()).batches()
    next(items)
    assert isinstance(items, Generator)
    items.close()
    wait_until(lambda: open_files() == before, os.getpid())


@pytest.mark.usefixtures("_ahead")
def test_a_system_without_room_for_threads_lists_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(work: object, name: str) -> None:
        raise StateError("cannot start a thread")

    monkeypatch.setattr(listing, "start_thread", refuse)
    monkeypatch.setattr(background, "start_thread", refuse)
    names = {f"{a}/{b}/f": b"" for a in range(8) for b in range(3)}
    tree = write_tree(tmp_path / "t", names)
    assert sorted(listed(tree)[0]) == sorted(f"{tree}/{name}" for name in names)


def test_threads_and_the_walk_share_one_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the walk may make the queue: with two queues, a thread and the walk would hang."""
    makers: list[str] = []

    class Queue(queue.SimpleQueue[object]):
        def __init__(self) -> None:
            makers.append(threading.current_thread().name)

    monkeypatch.setattr(queue, "SimpleQueue", Queue)
    write_tree(tmp_path, {f"d{number}/f": b"x" for number in range(4)})
    monkeypatch.setattr(trees, "Lister", Waiting)
    assert len(listed(tmp_path)[0]) == 4
    assert len(makers) > 1
    assert set(makers) == {threading.current_thread().name}


def test_no_thread_is_started_before_two_tasks_were_taken(tmp_path: Path) -> None:
    """After two tasks the caller forks its workers. A process with threads must not fork."""
    clock = iter(range(1_000_000))
    lister = Lister(lambda: float(next(clock)))  # each step of the listing takes a second
    fd = os.open(write_tree(tmp_path / "t", {"a/f": b"", "b/f": b""}), os.O_RDONLY)
    before = {*threading.enumerate()}  # a thread of an earlier test may end meanwhile
    for _ in range(3):
        list(lister.read(fd))
    assert lister.is_slow
    assert lister.ahead(fd, "a") is None
    assert {*threading.enumerate()} <= before
    lister.may_thread = True
    ahead = lister.ahead(fd, "a")
    assert ahead is not None
    lister.close()
    os.close(fd)


def test_listing_is_slow_after_steps_that_wait_and_quick_again_after_others() -> None:
    lister = Lister()
    seen = []
    for seconds in (1.0, 1.0, *[STEP_S / 10] * 10):
        lister.note(seconds, entries=100)
        seen.append(lister.is_slow)
    assert seen[:3] == [False, True, True]  # one slow step alone may be a pause of the process
    assert not seen[-1]


@pytest.mark.slow
def test_more_entries_are_read_at_a_time_as_long_as_that_is_quick(tmp_path: Path) -> None:
    names = dict.fromkeys(map(str, range(2_000)), b"")
    fd = os.open(write_tree(tmp_path / "t", names), os.O_RDONLY)
    sizes = [len(chunk.names) for chunk in Lister(lambda: 0.0).read(fd)]
    os.close(fd)
    assert sizes[:3] == [FIRST_ENTRIES * 2**n for n in range(3)]
    assert max(sizes) == MOST_ENTRIES
    assert sum(sizes) == 2_000


def test_types_that_take_long_are_looked_at_side_by_side() -> None:
    at_once = threading.Barrier(4)

    class Slow:
        def __init__(self, number: int) -> None:
            self.name = str(number)

        def is_file(self, *, follow_symlinks: bool) -> bool:
            if self.name != "0" and int(self.name) % 4 == 1:
                at_once.wait(60)  # wait until other threads stat names as well
            return True

        def inode(self) -> int:
            return int(self.name) + 1

    clock = iter(range(100))
    entries = [Slow(n) for n in range(17)]
    found = Lister(lambda: float(next(clock)))._typed_together(entries)  # type: ignore[arg-type]
    assert found == listing.Chunk([str(n) for n in range(17)], array("Q", range(1, 18)), [])


def test_a_task_is_full_after_some_time() -> None:
    now = 0.0
    tasks = TaskBuilder(lambda: now)
    one, two, three = (Group("d", [name], follow=False) for name in "abc")
    assert tasks.add(one) is None
    now = TASK_S / 2
    assert tasks.add(two) is None
    now = TASK_S
    assert tasks.add(three) == [one, two, three]
    assert tasks.full == 1
    # The time of the next task starts at the first directory of that task.
    now = 10.0
    assert tasks.add(one) is None


def test_steps_are_waits_by_their_time_and_their_entries() -> None:
    """A slow step adds two to the count of slow steps, up to eight. A fast step subtracts one."""
    assert (STEP_S, ENTRY_S, SLOW_STEPS, MOST_STEPS) == (0.0005, 0.000005, 3, 8)
    assert (listing.OF_ONE, listing.OF_ALL, listing.SLOW_ENTRIES) == (16, 64, 64)
    for seconds, entries, waits in (
        *((STEP_S, 0, False), (STEP_S + ENTRY_S, 0, True)),
        *((STEP_S + 99 * ENTRY_S, 100, False), (STEP_S + 101 * ENTRY_S, 100, True)),
    ):
        lister = Lister()
        lister._count = 64
        lister.note(seconds, entries)
        assert (lister._steps, lister._count) == ((2, FIRST_ENTRIES) if waits else (0, 128))
        assert not lister.is_slow
    lister, seen = Lister(), []
    for seconds in (1.0, 1.0, 1.0, 1.0, 1.0, 0.0, *[0.0] * 8):
        lister.note(seconds)
        seen.append((lister._steps, lister.is_slow))
    assert seen[:6] == [(2, False), (4, True), (6, True), (8, True), (8, True), (7, True)]
    assert seen[6:] == [(n, n > 0) for n in (6, 5, 4, 3, 2, 1, 0, 0)]
    # While the count of slow steps is zero, a step reads more entries each time, up to 512.
    assert lister._count == FIRST_ENTRIES * 2
    for _ in range(20):
        lister.note(0.0)
    assert lister._count == MOST_ENTRIES == 512


@pytest.mark.parametrize(
    ("descriptors", "directories"),
    [(0, 0), (15, 0), (16, 1), (31, 1), (1023, 63), (1024, 64), (1 << 20, 64), (-1, 64)],
)
def test_directories_read_ahead_take_an_eighth_of_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, directories: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, -1))
    assert listing._room() == directories


def chunk(*sizes: int) -> listing.Chunk:
    """Return a chunk with this number of files and of other entries."""
    files, others = [*sizes, 0][:2]
    names = [str(n) for n in range(files)]
    return listing.Chunk(names, array("Q", range(files)), [("o", 0, 9)] * others)


@pytest.mark.parametrize(
    ("chunks", "most", "kept"),
    [
        ([], 2, 0),
        ([chunk(2)], 2, 1),
        ([chunk(2), chunk(1), chunk(1)], 2, 2),
        ([chunk(3), chunk(1)], 2, 1),
        ([chunk(1, 1), chunk(0, 1), chunk(1)], 2, 2),
        ([chunk(0, 0), chunk(0, 0)], 0, 2),
    ],
)
def test_a_directory_is_read_ahead_until_there_are_more_names_than_wanted(
    chunks: list[listing.Chunk], most: int, kept: int
) -> None:
    left = iter(chunks)
    found = listing.read_ahead(left, most)
    assert found == (chunks[:kept], [])
    assert list(listing.given_out(*found, left)) == chunks


def test_an_error_ahead_is_raised_after_the_names_before_it() -> None:
    def broken() -> Generator[listing.Chunk]:
        yield chunk(1)
        raise OSError(errno.EIO, "broken")

    kept, failures = listing.read_ahead(broken(), 9)
    assert (kept, len(failures)) == ([chunk(1)], 1)
    given = listing.given_out(kept, failures, iter([chunk(2)]))
    assert next(given) == chunk(1)
    with pytest.raises(OSError, match="broken"):
        next(given)


@pytest.mark.parametrize(
    ("began", "took", "threads"),
    [(0.0, 0.0, False), (0.0, STEP_S, True), (0.0, STEP_S / 2, False), (5.0, 0.0, False)],
)
def test_types_are_looked_at_in_threads_if_the_first_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began: float, took: float, threads: bool
) -> None:
    write_tree(tmp_path, {str(n): b"" for n in range(10)})
    slices: list[int] = []

    def side_by_side(
        do: object, items: Sequence[Sequence[object]], *, threads: int
    ) -> list[object]:
        assert threads == len(items)
        slices.extend(map(len, items))
        return background.together(do, items, threads=1)  # type: ignore[arg-type]

    monkeypatch.setattr(listing, "together", side_by_side)
    clock = iter((began, began + took))
    with os.scandir(tmp_path) as entries:
        found = Lister(lambda: next(clock))._typed_together([*entries])
    assert sorted(found.names) == sorted(str(n) for n in range(10))
    assert slices == ([4, 4, 1] if threads else [])


def test_no_more_directories_are_read_ahead_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {f"{n}/x": b"" for n in range(4)})
    monkeypatch.setattr(listing, "_room", lambda: 2)
    started: list[object] = []
    monkeypatch.setattr(listing, "start_thread", lambda work, _: started.append(work))
    lister, fd = Waiting(), os.open(tmp_path, os.O_RDONLY)
    begun = [lister.ahead(fd, str(n)) for n in range(3)]
    assert [one is not None for one in begun] == [True, True, False]
    assert len(started) == 2
    for one in begun[:2]:
        assert one is not None
        one.run()
        found = lister.take(one)
        assert found is not None
        (opened, _, _), chunks = found
        assert [name for part in chunks for name in part.names] == ["x"]
        os.close(opened)
    # A free thread reads the next directory.
    assert lister.ahead(fd, "3") is not None
    assert len(started) == 2
    lister.close()
    assert lister._waiting.qsize() == 3 + 2
    lefts = [lister._waiting.get() for _ in range(3)]
    assert lefts[:2] == begun[:2] and lefts[2] is not None
    lefts[2].run()  # `run` closes a directory that the walk has given up
    os.close(fd)


@pytest.mark.parametrize(("step_s", "is_slow"), [(0.0, False), (1.0, True)])
@pytest.mark.parametrize("how", ["open", "read"])
def test_the_steps_of_a_listing_are_timed(
    tmp_path: Path, how: str, step_s: float, is_slow: bool
) -> None:
    write_tree(tmp_path, {"d/f": b""})
    clock = itertools.count(5.0, step_s)
    lister, fd = Lister(lambda: next(clock)), os.open(tmp_path, os.O_RDONLY)
    for _ in range(4):
        if how == "open":
            os.close(lister.open(fd, "d", follow=False)[0])
        else:
            assert [chunk.others[0][0] for chunk in lister.read(fd)] == ["d"]
            os.lseek(fd, 0, os.SEEK_SET)
    os.close(fd)
    assert lister.is_slow is is_slow


def test_where_listing_is_quick_no_directory_is_read_ahead(tmp_path: Path) -> None:
    lister = Lister()
    lister.may_thread = True
    assert (lister.ahead(-1, "d"), lister._threads) == (None, 0)


def test_a_directory_for_which_there_is_no_memory_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> listing.Chunk:
        raise MemoryError

    write_tree(tmp_path, {"d/f": b""})
    before = open_files()
    one = Listing(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), "d")
    monkeypatch.setattr(listing, "typed", fail)
    one.run()
    assert isinstance(one.found.get(), MemoryError)
    assert open_files() == before


@pytest.mark.parametrize("is_early", [True, False])
def test_a_directory_that_nobody_needs_is_closed_before_or_after_the_thread_has_it(
    tmp_path: Path, *, is_early: bool
) -> None:
    (tmp_path / "d").mkdir()
    before = open_files()
    one = Listing(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), "d")
    if is_early:
        one.leave()
        assert open_files() == before + 1
    one.run()
    assert (one.found.get() is None) is is_early
    if not is_early:
        one.leave()
    assert open_files() == before

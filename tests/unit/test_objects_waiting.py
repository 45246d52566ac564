"""Objects that wait: until the end of a run, and for a thread that reads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.errors import StateError
from hashclient.objects.pages import page_of
from hashclient.scan.check.kept import Spool
from hashclient.scan.objects import pending as pending_module
from hashclient.scan.objects import threads as threads_module
from hashclient.scan.objects.pending import Pending
from hashclient.scan.objects.reader import StoppedError
from hashclient.scan.objects.threads import Page, Threads
from hashclient.scan.objects.wanted import Checked, Wanted
from hashclient.scan.values.work import Result
from tests.kit import open_files


def wanted(number: int) -> Wanted:
    return Wanted(f"k{number}", number, None, None)


def keys(pending: Pending) -> list[str]:
    return [one.key for one in pending.take()]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 7])
def test_single_objects_are_counted_wherever_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Objects wait in memory until a page is full, and then in a file."""
    monkeypatch.setattr(pending_module, "TOGETHER", 3)
    files, pending = open_files(), Pending(Spool(tmp_path / "spool", 1))
    for number in range(count):
        pending.add(wanted(number))
        assert pending.count == number + 1
    assert (open_files() != files) == (count >= 3)
    assert keys(pending) == [f"k{number}" for number in range(count)]
    assert (pending.count, keys(pending), open_files()) == (0, [], files)
    # The queue of pending objects can be used again.
    pending.add(wanted(9))
    assert (pending.count, keys(pending)) == (1, ["k9"])


def test_a_thousand_single_objects_are_a_page() -> None:
    assert pending_module.TOGETHER == 1_000


def test_pages_and_single_objects_are_counted_together(tmp_path: Path) -> None:
    pending = Pending(Spool(tmp_path, 1))
    for first, count in ((0, 2), (2, 0), (2, 3)):
        pending.add_page(page_of([(f"k{n}", n) for n in range(first, first + count)]))
        assert pending.count == first + count
    pending.add(wanted(5))
    assert pending.count == 6
    assert keys(pending) == [f"k{number}" for number in range(6)]


def test_objects_that_are_dropped_are_gone(tmp_path: Path) -> None:
    files, pending = open_files(), Pending(Spool(tmp_path, 1))
    pending.close()
    pending.add_page(page_of([("a", 1)]))
    pending.add(wanted(1))
    pending.close()
    assert (pending.count, keys(pending), open_files()) == (0, [], files)


@pytest.mark.parametrize("broken", ["its directory", "its disk"])
def test_a_disk_without_room_for_waiting_objects_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The disk is full when the last bytes are written from memory to the file."""
    directory = tmp_path / "spool"
    if broken == "its directory":
        directory.write_text("no directory")
    else:
        monkeypatch.setattr(Spool, "open", lambda _: os.open("/dev/full", os.O_RDWR))
    files, pending = open_files(), Pending(Spool(directory, 1))
    with pytest.raises(StateError, match="cannot keep the waiting objects") as failed:
        pending.add_page(page_of([(f"{n:x}" * 999, n, None, None, None) for n in range(999)]))
    assert "trust_etag off" in str(failed.value.hint)
    assert pending.count == 0
    pending.close()
    pending.add(wanted(1))
    with pytest.raises(StateError, match="the waiting objects"):
        keys(pending)
    pending.close()
    assert (pending.count, open_files()) == (0, files)


class Room:
    """Replaces the semaphore of pages: it counts how many pages may be listed ahead."""

    def __init__(self) -> None:
        self.free = 0

    def release(self, count: int) -> None:
        assert count > 0
        self.free += count


def threads_of(pages: Iterator[Any], most: int = 2, reader: object = None) -> Threads:
    return Threads(pages, lambda _: reader, most)  # type: ignore[arg-type, return-value]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Return started threads that do nothing before the test calls them."""
    works: list[Callable[[], None]] = []

    def start(work: Callable[[], None], _: str) -> Any:
        if len(works) == 3:
            raise StateError("cannot start a thread")
        works.append(work)
        return works[-1]

    monkeypatch.setattr(threads_module, "start_thread", start)
    return works


def test_three_pages_are_listed_before_one_is_taken() -> None:
    """One page is being sorted, and two pages are listed ahead."""
    threads = threads_of(iter([page_of([(str(n), n)]) for n in range(9)]))
    acquire = threads._room.acquire

    def wait() -> bool:
        if not acquire(blocking=False):
            raise TimeoutError
        return True

    threads._room.acquire = wait  # type: ignore[method-assign, assignment]
    threads._list()
    assert all(isinstance(threads.next(0), Page) for _ in range(3))
    with pytest.raises(TimeoutError):
        threads.next(0)
    assert not threads.is_over


@pytest.mark.parametrize("backlog", [1, 2, 3])
def test_no_page_is_listed_while_too_many_objects_wait(
    monkeypatch: pytest.MonkeyPatch, started: list[Callable[[], None]], backlog: int
) -> None:
    """Listing pauses while many objects wait, and continues when their number falls."""
    monkeypatch.setattr(threads_module, "BACKLOG", 2)
    threads, room = threads_of(iter(())), Room()
    threads._room = room  # type: ignore[assignment]
    for number in range(backlog):
        threads.read(wanted(number))
    for batch in ("one", "two"):
        threads._events.put(Page(batch))
        assert threads.next(0) == Page(batch)
    assert room.free == (2 if backlog <= 2 else 0)
    threads._events.put(Checked(Result(), wanted(0)))
    threads.next(0)
    assert room.free == 2
    assert threads.backlog == backlog - 1
    threads._events.put(Checked(Result(), wanted(0)))
    threads.next(0)
    assert room.free == 2
    assert len(started) == min(2, backlog)


def test_two_thousand_objects_wait_and_two_seconds_are_enough_to_stop() -> None:
    assert (threads_module.BACKLOG, threads_module.STOP_S) == (2_000, 2.0)


def test_a_bucket_is_done_when_it_is_listed_and_every_object_is_read(
    started: list[Callable[[], None]],
) -> None:
    threads = threads_of(iter(()))
    assert threads.next(0) is None
    states = [threads.is_over]
    threads.read(wanted(1))
    for event in (Page(None), Checked(Result(), wanted(1))):
        states.append(threads.is_over)
        threads._events.put(event)
        assert threads.next(0) == event
    assert [*states, threads.is_over] == [False, False, False, True]
    assert len(started) == 1
    failed = threads_of(iter(()))
    failed.end_listing()
    assert failed.is_over


@pytest.mark.parametrize(("most", "expected"), [(1, [1, 1, 1, 1]), (9, [1, 1, 2, 3])])
def test_a_reader_is_started_only_when_all_others_are_busy(
    started: list[Callable[[], None]], most: int, expected: list[int]
) -> None:
    threads, counts = threads_of(iter(()), most), []
    for number in range(4):
        threads.read(wanted(number))
        counts.append(len(started))
        if number == 0:
            threads._events.put(Checked(Result(), wanted(0)))
            threads.next(0)
    assert counts == expected
    assert threads.backlog == 3
    # The system has room for three threads, which read all pages.
    for number in range(4):
        threads.read(wanted(number))
    assert threads.backlog == 7
    assert threads._todo.qsize() == 8


def test_a_system_without_room_for_any_thread_is_an_error(
    started: list[Callable[[], None]],
) -> None:
    started += [lambda: None] * 3
    with pytest.raises(StateError):
        threads_of(iter(())).__enter__()
    threads = threads_of(iter(()))
    with pytest.raises(StateError):
        threads.read(wanted(1))
    assert threads.backlog == 0


def test_threads_that_do_not_stop_are_left_after_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time limit for stopping applies to all threads together, not to each thread."""
    now, waited = [100.0], []

    class Stuck:
        def join(self, seconds: float) -> None:
            waited.append(seconds)
            now[0] += 1.5

    monkeypatch.setattr(threads_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    threads = threads_of(iter(()))
    threads._readers = [Stuck(), Stuck()]  # type: ignore[list-item]
    threads._lister = Stuck()  # type: ignore[assignment]
    threads.__exit__()
    assert waited == [2.0, 0.5, 0.0]
    assert threads._todo.qsize() == 2


def test_after_the_end_nothing_more_is_listed_or_read(
    started: list[Callable[[], None]],
) -> None:
    checked = []

    class Reader:
        def check(self, one: Wanted) -> Checked:
            checked.append(one.key)
            if one.key == "k2":
                threads._stopped = True
            if one.key == "k3":
                raise StoppedError
            return Checked(Result(), one)

    listed = iter(page_of([(str(n), n)]) for n in range(9))
    threads = threads_of(listed, 1, Reader())
    for number in (1, 2, 9, 3, 4):
        threads.read(wanted(number))
    started[0]()  # the reading thread stops before the next object
    assert checked == ["k1", "k2"]
    threads._list()
    threads._stopped = False
    started[0]()  # the object whose reading was interrupted has no result
    assert checked == ["k1", "k2", "k3"]
    events = [threads.next(0) for _ in range(4)]
    assert [isinstance(event, Checked) for event in events] == [True, True, False, False]
    assert events[3] is None
    assert len(list(listed)) == 8
    assert not threads.is_over

"""Threads: their results arrive in order, and they end when the caller wants no more results."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from hashclient.core.errors import StateError, UsageError
from hashclient.system import background
from hashclient.system.background import Task, ahead, beside, together
from tests.kit import NoThread

ROOM = 2


def test_values_made_ahead_come_in_order() -> None:
    assert list(ahead(iter(range(100)), ROOM)) == list(range(100))
    assert list(ahead(map(str, ahead(iter(range(20)), ROOM)), ROOM)) == [str(n) for n in range(20)]
    assert list(ahead(iter(()), ROOM)) == []


def test_only_so_much_is_made_ahead() -> None:
    numbers = itertools.count()
    made = ahead(numbers, ROOM)
    assert [next(made) for _ in range(10)] == list(range(10))
    made.close()
    # At most one item more than the queue has places is taken from the source.
    assert next(numbers) <= 10 + ROOM + 1


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def failing() -> Iterator[int]:
        yield from range(5)
        raise UsageError("enough")

    made = ahead(map(int, ahead(failing(), ROOM)), ROOM)
    assert [next(made) for _ in range(5)] == list(range(5))
    with pytest.raises(UsageError, match="enough"):
        next(made)


def test_threads_end_when_no_more_is_wanted() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    made = ahead(map(int, ahead(endless(), ROOM)), ROOM)
    assert next(made) == 0
    made.close()
    del made
    assert closed.wait(60)


def test_a_task_gives_its_result_or_what_it_has_raised() -> None:
    begun, free = threading.Event(), threading.Event()

    def work() -> int:
        begun.set()
        assert free.wait(60)
        return 7

    task = Task(work, "test")
    assert begun.wait(60) and not task.wait(0)
    free.set()
    assert task.wait(60)
    assert (task.result(), task.result()) == (7, 7)

    def failing() -> None:
        raise UsageError("enough")

    with pytest.raises(UsageError, match="enough"):
        Task(failing, "test").result()


def test_no_room_for_a_thread_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "Thread", NoThread)
    with pytest.raises(StateError, match="cannot start a thread") as caught:
        next(ahead(iter(range(3)), ROOM))
    assert "ulimit -u" in (caught.value.hint or "")
    with pytest.raises(StateError, match="cannot start a thread"):
        Task(int, "test")


def test_several_are_done_together_in_order_whatever_room_for_threads_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []

    class Few(threading.Thread):
        """Replaces `Thread` on a system that has room for three threads."""

        def start(self) -> None:
            begun.append(1)
            if len(begun) > 3:
                raise RuntimeError("can't start new thread")
            super().start()

    expected = [str(number) for number in range(50)]
    assert together(str, range(50)) == expected
    for kind in (Few, NoThread):
        monkeypatch.setattr(background, "Thread", kind)
        assert together(str, range(50)) == expected


def test_what_one_of_several_raises_is_raised() -> None:
    def work(number: int) -> None:
        if number == 3:
            raise UsageError("enough")

    with pytest.raises(UsageError, match="enough"):
        together(work, range(200))


@pytest.mark.parametrize("has_room", [True, False])
def test_what_is_done_beside_is_done_as_well_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, has_room: bool
) -> None:
    done: list[str] = []
    if not has_room:
        monkeypatch.setattr(background, "Thread", NoThread)
    beside(None, lambda: done.append("here"))
    beside(lambda: done.append("there"), lambda: done.append("here"))
    assert sorted(done) == ["here", "here", "there"]


def test_an_interrupted_wait_ends_when_nothing_runs_any_more() -> None:
    """A signal interrupts the first `join`, and the second `join` returns at once."""
    interrupted, begun, done = threading.Event(), list[int](), list[int]()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def work(number: int) -> None:
        begun.append(number)
        try:  # if the caller runs the function itself, the interrupt happens here
            if number == 1:
                os.kill(os.getpid(), signal.SIGINT)
            assert interrupted.wait(60)
            signal.sigtimedwait([], 0.05)
        finally:
            done.append(number)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            together(work, range(200))
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(done) == sorted(begun) and len(begun) < 200


def test_an_interrupt_while_a_thread_starts_waits_for_what_this_thread_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interrupt arrives when the thread runs already, before `together` has noted it."""
    begun, go_on, done = threading.Event(), threading.Event(), list[int]()
    start = background.start_thread

    def start_and_interrupt(work: Callable[[], None], name: str) -> threading.Thread:
        start(work, name)
        assert begun.wait(60)
        threading.Timer(0.05, go_on.set).start()
        raise KeyboardInterrupt

    def work(number: int) -> None:
        begun.set()
        assert go_on.wait(60)
        done.append(number)

    monkeypatch.setattr(background, "start_thread", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        together(work, range(200))
    assert done == [0]


def test_a_thread_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(threading.Event):
        """An event that wakes nobody."""

        def set(self) -> None:
            pass

    class SilentToo(threading.Condition):
        """A condition that wakes nobody."""

        def notify_all(self) -> None:
            pass

    monkeypatch.setattr(background, "Event", Silent)
    monkeypatch.setattr(background, "Condition", SilentToo)
    monkeypatch.setattr(background, "_LOOK_S", 0.01)
    task = Task(lambda: 7, "gone")
    while not task.wait(0.01):
        pass
    assert task.result() == 7
    assert together(str, [1, 2, 3]) == ["1", "2", "3"]
    with pytest.raises(ZeroDivisionError):
        Task(lambda: 1 // 0, "gone").result()
    with pytest.raises(ZeroDivisionError):
        together(lambda number: 1 // number, [0, 1])

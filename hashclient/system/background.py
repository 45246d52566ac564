"""Runs functions in threads while the calling thread waits for their results.

The threads of this module are daemon threads, because Ctrl-C must not wait for a thread that reads
a silent pipe or a slow server.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from threading import Condition, Event, Semaphore, Thread, current_thread
from typing import Generic, TypeVar

from hashclient.core.errors import StateError

T = TypeVar("T")
_In = TypeVar("_In")

#: How many threads call fsync at once; the file system makes all their files durable with one
#: commit of its journal.
_AT_ONCE = 8
#: Seconds between two checks whether the awaited thread is still running.
_LOOK_S = 1


def start_thread(work: Callable[[], None], name: str) -> Thread:
    """Run `work`, which must not raise an exception, in a new thread.

    Raises:
        StateError: the system cannot start a thread.
    """
    thread = Thread(target=work, name=f"hashclient-{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # "can't start new thread"
        raise StateError(
            "cannot start a thread",
            hint="raise the limit of processes and threads (`ulimit -u`, `TasksMax=`) or of memory",
        ) from error
    return thread


def together(do: Callable[[_In], T], items: Sequence[_In], *, threads: int = _AT_ONCE) -> list[T]:
    """Return the results of `do` for all items; several items are processed in several threads.

    `do` should wait for the disk or a network, because only then threads save time. If the system
    cannot start `threads` threads, the threads that were started process all items; if none was
    started, the calling thread processes all items.
    """
    if len(items) < 2:
        return [do(item) for item in items]
    left, done, running = deque(enumerate(items)), dict[int, T](), dict[int, Thread]()
    changed = Condition()

    def work() -> None:
        while True:
            with changed:
                if not left:
                    return
                number, item = left.popleft()
                running[number] = current_thread()
            try:
                done[number] = do(item)
            finally:
                with changed:
                    del running[number]
                    changed.notify_all()

    def is_alone() -> bool:
        return not any(t.is_alive() for t in running.values() if t is not current_thread())

    tasks: list[Task[None]] = []
    try:
        with contextlib.suppress(StateError):
            while left and len(tasks) < min(len(items), threads):
                tasks.append(Task(work, "together"))
        if not tasks:
            work()
        for task in tasks:
            task.result()
    finally:
        # Wait until `running` is empty, because an interrupt may come before the newest task is in
        # `tasks`.
        with changed:
            left.clear()
            while not changed.wait_for(is_alone, _LOOK_S):
                pass
    return [done[number] for number in range(len(items))]


class Task(Generic[T]):
    """A function that runs in a thread, and its result."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        """Begin `work` in a new thread.

        Raises:
            StateError: the system cannot start a thread.
        """
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        # An event is used because a second call of `Thread.join` after an interrupted call does not
        # wait.
        self._ended = Event()
        self._thread = start_thread(self._run, name)

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - `result` raises the exception
            self._error = error
        finally:
            self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait for at most `seconds` seconds; return whether the work has ended.

        Both the event and the thread are checked, because a wait for the event was seen to last for
        ever after the thread had ended.
        """
        return self._ended.wait(seconds) or not self._thread.is_alive()

    def result(self) -> T:
        """Wait until the work has ended; return the result, or raise the exception, of the work.

        Raises:
            StateError: the thread ended without a result or an exception.
        """
        while not self.wait(_LOOK_S):
            pass
        if self._error is not None:
            raise self._error
        if not self._results:
            raise StateError("a thread ended without a result")
        return self._results[0]


def beside(work: Callable[[], None] | None, here: Callable[[], None]) -> None:
    """Run `work` in a thread while the calling thread calls `here`; wait for both.

    If `work` is None, only `here` is called. If the system cannot start a thread, `work` is called
    before `here`.
    """
    if work is None:
        here()
        return
    try:
        task = Task(work, "beside")
    except StateError:
        work()
        here()
        return
    try:
        here()
    finally:
        task.result()


def ahead(items: Iterator[T], room: int) -> Generator[T]:
    """Yield `items`; a thread takes up to `room` items from the iterator in advance.

    If the iterator raises an exception, this function raises the exception after the items before
    it. The thread saves time only if the iterator runs code of libraries that release Python's
    global lock.

    Raises:
        StateError: the system cannot start a thread.
    """
    from queue import SimpleQueue

    ready: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
    free = Semaphore(room)
    wanted = True

    def make() -> None:
        try:
            for item in items:
                ready.put((item,))
                free.acquire()
                if not wanted:
                    return
            ready.put(None)
        except BaseException as error:  # noqa: BLE001 - `ahead` raises the exception
            ready.put(error)

    start_thread(make, "ahead")
    try:
        while (got := ready.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            free.release()
            yield got[0]
    finally:
        wanted = False
        free.release()

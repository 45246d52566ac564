"""Work in a thread, while another thread waits for it.

The threads are daemon threads: Ctrl-C must not wait for a silent pipe or a slow server.
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

#: How many threads wait for the disk at once: one commit of the disk's journal serves all of them.
_AT_ONCE = 8
#: Seconds between two checks whether a thread that is waited for is still running.
_LOOK_S = 1


def start_thread(work: Callable[[], None], name: str) -> Thread:
    """Run `work`, which must not raise, in a thread of its own.

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
    """Return the results of `do` for all items; threads do several items, which wait for the disk.

    If the system cannot start so many threads, the threads that have begun do all items, or the
    calling thread does.
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
        # Wait for `running`, not for tasks: an interrupt may come before the newest is in `tasks`.
        with changed:
            left.clear()
            while not changed.wait_for(is_alone, _LOOK_S):
                pass
    return [done[number] for number in range(len(items))]


class Task(Generic[T]):
    """A piece of work that has begun, and its result."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        """Begin `work`.

        Raises:
            StateError: the system cannot start a thread.
        """
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        # After a signal has interrupted `Thread.join`, the next one would not wait.
        self._ended = Event()
        self._thread = start_thread(self._run, name)

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self._error = error
        finally:
            self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait for at most this many seconds; return whether the thread has ended, with its work.

        A wait for the event alone was seen to last for ever, though the thread was gone.
        """
        return self._ended.wait(seconds) or not self._thread.is_alive()

    def result(self) -> T:
        """Wait for the end of the work; return its result, or raise its exception.

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
    """Do `work`, if any, in a thread while the calling thread calls `here`; wait for both.

    If the system cannot start a thread, `here` is called first, then `work` is done.
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
    """Yield `items`; a thread makes up to `room` items in advance.

    If making an item raises an exception, it is raised instead of yielding the item. The thread
    helps if the time is spent in libraries that release Python's lock.

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
        except BaseException as error:  # noqa: BLE001 - it is raised where the item would be
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

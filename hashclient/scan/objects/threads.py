"""Threads for a bucket: one thread lists it, several read objects, another yields results.

Processes would be no faster than threads, because requests take long, and the libraries let other
threads run while a request waits. A process in which the library obstore has started must not be
forked. All results are returned through one queue. The threads are daemons, and stop at the next
chunk once the scan has ended, because a server that does not answer must not delay Ctrl-C.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Semaphore, Thread
from typing import Any, Self

import msgspec

from hashclient.core.errors import StateError
from hashclient.scan.objects.reader import ObjectReader, StoppedError
from hashclient.scan.objects.wanted import Checked, Wanted
from hashclient.system.background import start_thread

#: No more pages are listed while more than this many objects wait to be read.
BACKLOG = 2_000
#: The seconds to wait for the threads to stop at the end of a scan.
STOP_S = 2.0


class Page(msgspec.Struct, frozen=True):
    """A page of a listing; `batch` is None at the end of the listing."""

    batch: Any | None


#: What a thread puts into the queue; after an exception, the thread puts nothing more.
Event = Page | Checked | BaseException


class Work(ABC):
    """Lists one bucket and reads its objects, in this process or on other machines.

    A value of this class is used as a context manager.
    """

    def __init__(self) -> None:
        #: The number of objects that wait to be read, or are being read.
        self.backlog = 0
        self._is_listed = False

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_ended: object) -> None:
        """Stop all work that is unfinished."""

    @property
    def is_over(self) -> bool:
        """Whether the listing has ended, and the results of all objects were returned."""
        return self._is_listed and not self.backlog

    def end_listing(self) -> None:
        """Note that no more pages come, because the listing has failed."""
        self._is_listed = True

    @abstractmethod
    def read(self, wanted: Wanted) -> None:
        """Queue an object to be read; `next` returns its result later."""

    @abstractmethod
    def next(self, seconds: float) -> Page | Checked | None:
        """Return the next result, or None if no result comes within this many seconds."""


class Threads(Work):
    """The threads that list and read one bucket in this process."""

    def __init__(
        self,
        pages: Iterator[Any],
        make_reader: Callable[[Callable[[], bool]], ObjectReader],
        most: int,
    ) -> None:
        """List `pages`, and read with up to `most` threads, each with a reader from `make_reader`.

        `make_reader` is called in the thread of the caller. Its argument is a function that returns
        whether the scan has ended.
        """
        super().__init__()
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._todo: SimpleQueue[Wanted | None] = SimpleQueue()
        self._room = Semaphore(2)
        self._pages = pages
        self._make_reader = make_reader
        self._most = most
        self._readers: list[Thread] = []
        self._lister: Thread | None = None
        self._stopped = False
        self._owed = 0

    def __enter__(self) -> Self:
        """Start the thread that lists.

        Raises:
            StateError: the system cannot start a thread.
        """
        self._lister = start_thread(self._list, "lister")
        return self

    def __exit__(self, *_ended: object) -> None:
        self._stopped = True
        self._room.release(2)
        deadline = time.monotonic() + STOP_S
        for _thread in self._readers:
            self._todo.put(None)
        for thread in [*self._readers, self._lister]:
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def read(self, wanted: Wanted) -> None:
        """Queue an object to be read; `next` returns its result later.

        Raises:
            StateError: the system cannot start a thread.
        """
        if len(self._readers) < min(self._most, self.backlog + 1):
            reader = self._make_reader(lambda: self._stopped)
            try:
                self._readers.append(start_thread(lambda: self._read(reader), "reader"))
            except StateError:
                self._most = len(self._readers)
                if not self._readers:
                    raise
        self.backlog += 1
        self._todo.put(wanted)

    def next(self, seconds: float) -> Page | Checked | None:
        """Return the next result, or None if no result comes within this many seconds.

        Raises:
            BaseException: the exception that a thread has raised.
        """
        try:
            event = self._events.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, Checked):
            self.backlog -= 1
        else:
            self._owed += 1
            self._is_listed = event.batch is None
        if self._owed and self.backlog <= BACKLOG:
            self._room.release(self._owed)
            self._owed = 0
        return event

    def _list(self) -> None:
        try:
            for batch in self._pages:
                self._events.put(Page(batch))
                self._room.acquire()
                if self._stopped:
                    return
            self._events.put(Page(None))
        except BaseException as error:  # noqa: BLE001 - `next` raises the error instead
            self._events.put(error)

    def _read(self, reader: ObjectReader) -> None:
        try:
            while (wanted := self._todo.get()) is not None and not self._stopped:
                self._events.put(reader.check(wanted))
        except StoppedError:
            return
        except BaseException as error:  # noqa: BLE001 - `next` raises the error instead
            self._events.put(error)

"""Reading directories, some entries at a time, and several directories at once on slow storage.

A walk reads one directory after the other, which costs nothing if the kernel has them in memory.
Where each request takes milliseconds, threads open and read ahead the next directories of the walk,
and find out the types that a directory does not give. If they cannot open or read a directory, the
walk tries by itself: so the walk reports only what it has met, in its own order.

Limits: only so many directories are open ahead, with so many names of each.
"""

from __future__ import annotations

import heapq
import itertools
import os
import resource
import stat
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from hashclient.core.errors import StateError
from hashclient.scan.sources.finding_again import (
    DIRECTORY_FLAGS,
    Entry,
    lagging_ns,
    type_of,
    with_status,
)
from hashclient.system.background import start_thread

if TYPE_CHECKING:
    _Entries = os._ScandirIterator[str]  # noqa: SLF001 - it has no other name

#: An open directory, its status, and when it was opened.
Open = tuple[int, os.stat_result, int]


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Some entries of a directory: the names of files with their inodes, and all others."""

    names: list[str]
    inodes: array[int]
    others: list[Entry]


#: Entries that are read at a time: at first, at most, and at most where each takes long.
FIRST_ENTRIES, MOST_ENTRIES, SLOW_ENTRIES = 8, 512, 64
#: A step of the walk counts as a wait if it takes longer than so many seconds, and so many more for
#: each entry.
STEP_S, ENTRY_S = 0.0005, 0.000005
#: Listing is slow if so many more of the last steps were waits than not; more are not counted.
SLOW_STEPS, MOST_STEPS = 3, 8
#: Threads that read ahead; directories that they read or have read, in one directory and in all.
THREADS, OF_ONE, OF_ALL = 32, 16, 64
#: Names of a directory that are read ahead.
NAMES_AHEAD = 512
#: The share of the descriptors of this process that directories read ahead may take, two for each.
_DESCRIPTOR_SHARE = 0.125
#: Entries of unknown type that one thread is given at a time.
_SLICE = 4


def typed(entries: Sequence[os.DirEntry[str]]) -> Chunk:
    """Return entries by their types, as `type_of` finds them."""
    names: list[str] = []
    inodes: list[int] = []
    others: list[Entry] = []
    # Where names are listed, this loop takes most of the time.
    for entry in entries:
        try:
            is_file = entry.is_file(follow_symlinks=False)
        except OSError:
            is_file = False
        if is_file or (mode := type_of(entry)) == stat.S_IFREG:
            names.append(entry.name)
            inodes.append(entry.inode())
        else:
            others.append((entry.name, mode, entry.inode()))
    return Chunk(names, array("Q", inodes), others)


class Lister:
    """Reads directories for one walk, and knows whether it waits for the storage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without threads; they need `may_thread`."""
        self._clock = clock
        self._steps = 0
        self._count = FIRST_ENTRIES
        self._threads: _Threads | None = None
        #: Set by the walk when its caller has forked the workers.
        self.may_thread = False
        #: Whether listing has waited recently.
        self.is_slow = False

    def note(self, seconds: float, entries: int = 0) -> None:
        """Note how long a step has taken: to open a directory, or to read so many entries."""
        if seconds > STEP_S + ENTRY_S * entries:
            self._steps = min(MOST_STEPS, self._steps + 2)
            self.is_slow = self.is_slow or self._steps > SLOW_STEPS
            self._count = FIRST_ENTRIES
        elif self._steps:
            self._steps -= 1
            self.is_slow = self.is_slow and self._steps > 0
        elif self._count < MOST_ENTRIES:
            self._count *= 2

    def open(self, directory_fd: int | None, name: str, *, follow: bool) -> Open:
        """Open a directory in an open one.

        Raises:
            OSError: it cannot be opened, is none, or is a link and `follow` is not set.
        """
        began = self._clock()
        opened = open_in(directory_fd, name, follow=follow)
        self.note(self._clock() - began)
        return opened

    def read(self, fd: int) -> Iterator[Chunk]:
        """Yield the entries of an open directory, some at a time.

        Raises:
            OSError: it cannot be read to its end; raised after the entries that could be read.
        """
        with os.scandir(fd) as entries:
            yield from self.read_on(iter(entries))

    def read_on(self, entries: Iterator[os.DirEntry[str]]) -> Iterator[Chunk]:
        """Yield the rest of a directory; see `read`."""
        while True:
            raw: list[os.DirEntry[str]] = []
            began, failure, threads = self._clock(), None, self._at_hand()
            most = self._count if threads is None else SLOW_ENTRIES
            try:
                raw.extend(itertools.islice(entries, most))
            except OSError as error:  # earlier entries are in the list
                failure = error
            if raw:
                chunk = typed(raw) if threads is None else threads.typed(raw, self._clock)
                self.note(self._clock() - began, len(raw))
                yield chunk
            if failure is not None:
                raise failure
            if len(raw) < most:
                return

    def ahead(self, directory_fd: int, name: str, depth: int) -> Listing | None:
        """Begin to open and read a directory in an open one; None if it is not read ahead.

        Those at the greatest `depth` come first: a walk needs them first.
        """
        threads = self._at_hand()
        return None if threads is None else threads.begin(directory_fd, name, depth)

    def _at_hand(self) -> _Threads | None:
        """Return the threads, if listing waits and threads are allowed."""
        if not (self.is_slow and self.may_thread):
            return None
        if self._threads is None:
            self._threads = _Threads()
        return self._threads

    def close(self) -> None:
        """Close all that was opened ahead."""
        if self._threads is not None:
            self._threads.close()


def open_in(directory_fd: int | None, name: str, *, follow: bool) -> Open:
    """Open a directory in an open one, and return its status as well.

    Raises:
        OSError: it cannot be opened, is none, or is a link and `follow` is not set.
    """
    flags = DIRECTORY_FLAGS | (0 if follow else os.O_NOFOLLOW)
    opened_ns = lagging_ns()
    return *with_status(os.open(name, flags, dir_fd=directory_fd)), opened_ns


class Listing:
    """A directory that a thread opens and reads; the caller takes it or leaves it."""

    def __init__(self, threads: _Threads, directory_fd: int, name: str) -> None:
        from queue import SimpleQueue

        self._threads = threads
        self._directory_fd, self._name = directory_fd, name
        self._opened: SimpleQueue[Open | None] = SimpleQueue()
        #: Chunks; then the rest to be read, an error, or None at the end.
        self._chunks: SimpleQueue[Chunk | _Entries | Exception | None] = SimpleQueue()
        #: Guards these: whether it was begun, and whether it is not wanted any more.
        self._lock = threading.Lock()
        self._begun = self._left = False
        self._fd = -1

    def run(self) -> None:
        """Open and read it, in a thread."""
        with self._lock:
            if self._begun:  # or left, which counts as that
                return
            self._begun = True
        try:
            opened = open_in(self._directory_fd, self._name, follow=False)
        except OSError:
            opened = None
        with self._lock:
            os.close(self._directory_fd)
            if opened is not None and self._left:
                os.close(opened[0])
                return
            self._fd = -1 if opened is None else opened[0]
        self._opened.put(opened)
        if opened is not None:
            self._read(opened[0])

    def _read(self, fd: int) -> None:
        try:
            entries = os.scandir(fd)
        except OSError as error:
            self._chunks.put(error)
            return
        last: _Entries | Exception | None = entries
        try:
            for _ in range(0, NAMES_AHEAD, SLOW_ENTRIES):
                raw: list[os.DirEntry[str]] = []
                if self._left:
                    break
                try:
                    raw.extend(itertools.islice(entries, SLOW_ENTRIES))
                except OSError as error:
                    last = error
                if raw:
                    self._chunks.put(typed(raw))
                elif last is entries:
                    last = None
                if last is not entries:
                    break
        except Exception as error:  # noqa: BLE001 - the caller, who waits for it, raises it
            last = error
        if last is not entries:
            entries.close()
        with self._lock:
            if self._left:
                entries.close()
            self._chunks.put(last)

    def take(self) -> Open | None:
        """Return the open directory, which is the caller's now; None if the caller is to open it.

        That is so if it could not be opened, or if no thread has come to it yet.
        """
        with self._lock:
            if not self._begun:
                self._begun = True
                os.close(self._directory_fd)
                self._threads.gave_up(self)
                return None
        opened = self._opened.get()
        self._threads.gave_up(self)
        return opened

    def read(self, lister: Lister) -> Iterator[Chunk]:
        """Yield its entries, some at a time; see `Lister.read`."""
        try:
            while isinstance(item := self._chunks.get(), Chunk):
                yield item
            if isinstance(item, Exception):
                raise item
            if item is not None:
                with item as entries:
                    yield from lister.read_on(entries)
        finally:
            self._drop()

    def drop(self) -> None:
        """Read no further; it was taken, and its descriptor is the caller's."""
        chunk = self._chunks.get()  # from now on the thread has a descriptor of its own
        self._chunks.put(chunk)
        self._drop()

    def leave(self) -> None:
        """Close it; it was not taken."""
        with self._lock:
            if not self._begun:
                self._begun = True
                os.close(self._directory_fd)
            elif self._fd >= 0 and not self._left:
                os.close(self._fd)
            self._left = True
        self._threads.gave_up(self)
        self._drop()

    def _drop(self) -> None:
        """Close the rest, now or when the thread has come to its end."""
        with self._lock:
            self._left = True
            while not self._chunks.empty():
                item = self._chunks.get()
                if item is not None and not isinstance(item, (Chunk, Exception)):
                    item.close()


class _Threads:
    """Threads that list and look: first for a caller that waits, then the deepest directory."""

    def __init__(self) -> None:
        self._jobs: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._ready = threading.Condition()
        self._count = self._idle = 0
        self._closed = False
        self._listings: set[Listing] = set()
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._room = OF_ALL
        if descriptors != resource.RLIM_INFINITY:
            self._room = min(OF_ALL, int(descriptors * _DESCRIPTOR_SHARE / 2))

    def begin(self, directory_fd: int, name: str, depth: int) -> Listing | None:
        """Begin to list a directory; None where there is no room for it."""
        if len(self._listings) >= self._room:
            return None
        try:
            listing = Listing(self, os.dup(directory_fd), name)
        except OSError:
            return None
        self._listings.add(listing)
        self._do(-depth, listing.run)
        return listing

    def gave_up(self, listing: Listing) -> None:
        """Forget a listing: it is taken."""
        self._listings.discard(listing)

    def typed(self, entries: Sequence[os.DirEntry[str]], clock: Callable[[], float]) -> Chunk:
        """Return entries as `typed` does; use threads if the first look takes long."""
        from queue import SimpleQueue

        began = clock()
        first = typed(entries[:1])
        rest = entries[1:]
        if clock() - began < STEP_S:
            return _joined([first, typed(rest)])
        slices = [rest[at : at + _SLICE] for at in range(0, len(rest), _SLICE)]
        done: SimpleQueue[tuple[int, Chunk | Exception]] = SimpleQueue()

        def look(number: int) -> None:
            try:
                done.put((number, typed(slices[number])))
            except Exception as error:  # noqa: BLE001 - the caller, who waits for it, raises it
                done.put((number, error))

        for number in range(len(slices)):
            self._do(-1 << 30, lambda number=number: look(number))  # type: ignore[misc]
        chunks = [first] * (1 + len(slices))
        for _ in slices:
            number, part = done.get()
            if isinstance(part, Exception):
                raise part
            chunks[1 + number] = part
        return _joined(chunks)

    def _do(self, rank: int, job: Callable[[], None]) -> None:
        with self._ready:
            heapq.heappush(self._jobs, (rank, next(self._numbers), job))
            wanted = len(self._jobs) > self._idle and self._count < THREADS
            self._count += wanted
            self._ready.notify()
        if wanted:
            try:
                start_thread(self._work, "list")
            except StateError:
                with self._ready:
                    self._count -= 1
                    alone = not self._count
                if alone:
                    job()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._jobs:
                    if self._closed:
                        return
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
                _, _, job = heapq.heappop(self._jobs)
            job()

    def close(self) -> None:
        """Close listings that were not taken, and let the threads end."""
        with self._ready:
            self._closed = True
            self._jobs.clear()
            self._ready.notify_all()
        for listing in list(self._listings):
            listing.leave()


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    return Chunk(
        [name for chunk in chunks for name in chunk.names],
        array("Q", [inode for chunk in chunks for inode in chunk.inodes]),
        [entry for chunk in chunks for entry in chunk.others],
    )

"""Reading directories, some entries at a time, and several directories at once on slow storage.

A walk reads one directory after the other, which is fast if the kernel has the directories in
memory. If each request takes milliseconds, threads open and read the next directories of the walk
ahead. Threads also read the types of entries if a directory does not contain the types. If a thread
cannot open or read a directory, the walk tries again itself, so that errors are reported in the
order of the walk. The number of directories that are open ahead is limited, and so is the number of
names that are read ahead from each directory.
"""

from __future__ import annotations

import functools
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
from hashclient.system.background import start_thread, together

if TYPE_CHECKING:
    from queue import SimpleQueue

#: The descriptor of an open directory, its status, and the time when the directory was opened.
Open = tuple[int, os.stat_result, int]


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Some entries of a directory: the names and inodes of files, and all other entries."""

    names: list[str]
    inodes: array[int]
    others: list[Entry]


#: The number of entries that are read at a time: `FIRST_ENTRIES` at first, at most `MOST_ENTRIES`,
#: and at most `SLOW_ENTRIES` on slow storage.
FIRST_ENTRIES, MOST_ENTRIES, SLOW_ENTRIES = 8, 512, 64
#: A step of the walk is a wait if it takes longer than `STEP_S` seconds, plus `ENTRY_S` seconds for
#: each entry.
STEP_S, ENTRY_S = 0.0005, 0.000005
#: A counter of steps rises by two with each wait, up to `MOST_STEPS`, and falls by one with each
#: other step. Listing becomes slow when the counter exceeds `SLOW_STEPS`, and is slow until the
#: counter is 0.
SLOW_STEPS, MOST_STEPS = 3, 8
#: The most directories that are read ahead, each by one thread: `OF_ONE` within one directory, and
#: `OF_ALL` in all.
OF_ONE, OF_ALL = 16, 64
#: The number of names that are read ahead from one directory.
NAMES_AHEAD = 512
#: The share of the file descriptors of this process for directories that are read ahead; each such
#: directory uses two descriptors.
_DESCRIPTOR_SHARE = 0.125
#: The number of entries of unknown type that one thread gets at a time.
_SLICE = 4


def typed(entries: Sequence[os.DirEntry[str]]) -> Chunk:
    """Return entries, divided into files and other entries by `type_of`."""
    names: list[str] = []
    inodes: list[int] = []
    others: list[Entry] = []
    # This loop takes most of the time of a listing.
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
    """Reads directories for one walk, and measures whether the walk waits for the storage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without threads; threads are only started if `may_thread` is set."""
        self._clock = clock
        self._steps = 0
        self._count = FIRST_ENTRIES
        #: The listings that were handed to threads, and that the walk has not taken yet.
        self._ahead: set[Listing] = set()
        self._threads = 0
        #: Whether threads may be started; the walk sets this after its caller has forked the
        #: workers.
        self.may_thread = False
        #: Whether the walk has recently waited for the storage.
        self.is_slow = False

    @functools.cached_property
    def _waiting(self) -> SimpleQueue[Listing | None]:
        """The listings that no thread has begun, and None for each thread that must end."""
        from queue import SimpleQueue  # imported here, because few walks need it

        return SimpleQueue()

    def note(self, seconds: float, entries: int = 0) -> None:
        """Note the duration of a step: opening a directory, or reading a number of entries."""
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
        """Open a subdirectory of an open directory.

        Raises:
            OSError: the path cannot be opened, is no directory, or is a symbolic link and `follow`
                is not set.
        """
        began = self._clock()
        opened = open_in(directory_fd, name, follow=follow)
        self.note(self._clock() - began)
        return opened

    def read(self, fd: int) -> Iterator[Chunk]:
        """Yield the entries of an open directory, some entries at a time.

        Raises:
            OSError: the directory cannot be read to its end; raised after the readable entries.
        """
        with os.scandir(fd) as entries:
            while True:
                raw: list[os.DirEntry[str]] = []
                began, failure, waits = self._clock(), None, self._has_threads
                most = SLOW_ENTRIES if waits else self._count
                try:
                    raw.extend(itertools.islice(entries, most))
                except OSError as error:  # `raw` has the entries that were read before the error
                    failure = error
                if raw:
                    chunk = self._typed_together(raw) if waits else typed(raw)
                    self.note(self._clock() - began, len(raw))
                    yield chunk
                if failure is not None:
                    raise failure
                if len(raw) < most:
                    return

    def _typed_together(self, entries: Sequence[os.DirEntry[str]]) -> Chunk:
        """Return entries as `typed` does; use threads if the type of the first entry takes long."""
        began = self._clock()
        first, rest = typed(entries[:1]), entries[1:]
        if self._clock() - began < STEP_S:
            return _joined([first, typed(rest)])
        slices = [rest[at : at + _SLICE] for at in range(0, len(rest), _SLICE)]
        return _joined([first, *together(typed, slices, threads=len(slices))])

    def ahead(self, directory_fd: int, name: str) -> Listing | None:
        """Let a thread open and read a directory in an open directory; None if threads are busy."""
        if not self._has_threads or len(self._ahead) >= _room():
            return None
        # `_waiting` is created here, because two threads could create two queues
        waiting = self._waiting
        try:
            if self._threads <= len(self._ahead):
                start_thread(self._serve, "list")
                self._threads += 1
            listing = Listing(os.dup(directory_fd), name)
        except (OSError, StateError):
            return None
        self._ahead.add(listing)
        waiting.put(listing)
        return listing

    def _serve(self) -> None:
        while (listing := self._waiting.get()) is not None:
            listing.run()

    def take(self, listing: Listing) -> tuple[Open, Iterator[Chunk]] | None:
        """Return a directory that was opened ahead, and its entries; the caller must close it.

        A result of None says that the thread could not open the directory: the caller must open it.
        """
        self._ahead.discard(listing)
        found = listing.found.get()
        if isinstance(found, BaseException):
            raise found
        return found

    @property
    def _has_threads(self) -> bool:
        """Whether listing is slow, and threads are allowed."""
        return self.is_slow and self.may_thread

    def close(self) -> None:
        """Close all directories that were opened ahead, now or when their threads end."""
        for listing in self._ahead:
            listing.leave()
        for _ in range(self._threads):
            self._waiting.put(None)


def open_in(directory_fd: int | None, name: str, *, follow: bool) -> Open:
    """Open a subdirectory of an open directory; return its descriptor, its status, and the time.

    Raises:
        OSError: the path cannot be opened, is no directory, or is a symbolic link and `follow` is
            not set.
    """
    flags = DIRECTORY_FLAGS | (0 if follow else os.O_NOFOLLOW)
    opened_ns = lagging_ns()
    return *with_status(os.open(name, flags, dir_fd=directory_fd)), opened_ns


class Listing:
    """A directory that a thread opens, and begins to read."""

    def __init__(self, directory_fd: int, name: str) -> None:
        """Open `name` in an open directory, whose descriptor is closed by this object."""
        from queue import SimpleQueue

        self._directory_fd, self._name = directory_fd, name
        #: The result of the thread: the open directory and its entries, or an exception that the
        #: walk raises; None if the thread could not open the directory.
        self.found: SimpleQueue[tuple[Open, Iterator[Chunk]] | BaseException | None] = SimpleQueue()
        #: The lock for `_fd`, and for `_left`, which says that the walk does not need the
        #: directory.
        self._lock = threading.Lock()
        self._fd, self._left = -1, False

    def run(self) -> None:
        """Open the directory and read its first names, in a thread."""
        try:
            self.found.put(self._begun())
        except BaseException as error:  # noqa: BLE001 - `Lister.take` raises the exception
            self.found.put(error)

    def _begun(self) -> tuple[Open, Iterator[Chunk]] | None:
        try:
            opened = open_in(self._directory_fd, self._name, follow=False)
        except OSError:
            return None
        finally:
            os.close(self._directory_fd)
        chunks = Lister().read(opened[0])
        try:
            kept, failures = read_ahead(chunks, NAMES_AHEAD)
        except BaseException:  # for example, no memory is left; `Lister.take` raises the exception
            os.close(opened[0])
            raise
        with self._lock:
            if self._left:
                os.close(opened[0])
                return None
            self._fd = opened[0]
        return opened, given_out([_joined(kept)], failures, chunks)

    def leave(self) -> None:
        """Close the directory, now or when the thread has finished reading."""
        with self._lock:
            self._left = True
            if self._fd >= 0:
                os.close(self._fd)


def read_ahead(chunks: Iterator[Chunk], most: int) -> tuple[list[Chunk], list[OSError]]:
    """Read entries until more than `most` are read; return the entries, and an error if any."""
    kept: list[Chunk] = []
    try:
        for chunk in chunks:
            kept.append(chunk)
            most -= len(chunk.names) + len(chunk.others)
            if most < 0:
                break
    except OSError as error:
        return kept, [error]
    return kept, []


def given_out(
    kept: Sequence[Chunk], failures: Sequence[OSError], rest: Iterator[Chunk]
) -> Iterator[Chunk]:
    """Yield the entries that were read ahead; afterwards raise their error, or yield the rest."""
    yield from kept
    for failure in failures:
        raise failure
    yield from rest


def _room() -> int:
    """Return how many directories may be read ahead."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return OF_ALL
    return min(OF_ALL, int(descriptors * _DESCRIPTOR_SHARE / 2))


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    return Chunk(
        [name for chunk in chunks for name in chunk.names],
        array("Q", [inode for chunk in chunks for inode in chunk.inodes]),
        [entry for chunk in chunks for entry in chunk.others],
    )

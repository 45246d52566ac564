"""Streams that may be containers: kept while they arrive, and read again after their end.

The beginning and the end of a stream show whether it may be a container. If the beginning shows no
container, only the last few bytes are kept.

All streams share a limited amount of memory. Longer streams are moved to files without a name,
which nobody can open, and which vanish when the process ends. A stream has no verdict if neither
memory nor disk space is left for it. Several threads may use one `Spool`, but only one thread may
use a stream.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from hashclient.containers.interface import ISO_HEAD_BYTES
from hashclient.containers.sniffing import (
    ends_as_container,
    ends_as_other,
    has_end_of_zip,
    is_front,
    is_opened,
    kind_by_end,
    look,
    not_opened,
    tail_bytes,
)
from hashclient.scan.values.work import reason_of

#: The reason why the members of a stream that was not kept are unknown.
BEHIND = "limit: only the end of the stream shows that it is an archive; scan it as a file"


def may_be_container(data: bytes | memoryview) -> bool:
    """Return whether content may be a container, or of a kind that is not opened.

    `data` must be the whole content.
    """
    size = len(data)
    head = end = bytes(data[:ISO_HEAD_BYTES])
    if size > ISO_HEAD_BYTES:
        end = bytes(data[-tail_bytes(size, is_front=False) :])
    return bool(look(head)) or ends_as_container(end, len(end), size)


class Kept:
    """Keeps a stream in memory to be read again, if the stream may be a container."""

    def __init__(self, most_bytes: int) -> None:
        """Keep a stream of at most `most_bytes` bytes."""
        self._most_bytes = most_bytes
        self._fd: int | None = None
        self._head: bytearray | None = bytearray()
        self._end = bytearray()
        self.length = 0
        #: The reason why the stream could not be kept, or None.
        self.failure: str | None = None
        #: The kind of a stream that is not opened; empty for other streams.
        self.not_opened = ""

    def update(self, chunk: memoryview) -> None:
        """Examine and keep the next bytes of the stream."""
        self.length += len(chunk)
        if self._head is not None:
            self._head += chunk
            if len(self._head) < ISO_HEAD_BYTES:
                return
            chunk = self._decide()
        if self._fd is not None:
            self._write(chunk)
        else:
            self._keep_end(chunk)

    def finish(self, content: bytearray | memoryview | None = None) -> int | None:
        """Return a descriptor of the whole stream; None if the stream is no container.

        If a stream was not kept, only its end is known. If the last bytes of such a stream are
        those of an archive, `content` supplies the whole stream; if `content` is missing, `failure`
        is set.
        """
        if self._head is not None:
            chunk = self._decide(is_all=True)
            if self._fd is not None:
                self._write(chunk)
        elif self._fd is None and self.failure is None and self._has_end():
            if content is None:
                self.failure = BEHIND
            else:
                self._begin()
                self._write(memoryview(content))
        elif self._fd is None:
            self.not_opened = self.not_opened or kind_by_end(self._end)
        return self._fd

    def close(self) -> None:
        """Delete the bytes that were kept."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _decide(self, *, is_all: bool = False) -> memoryview:
        """Examine the first bytes, and begin to keep a possible container; return the bytes."""
        head = bytes(self._head or b"")
        self._head = None
        view = memoryview(head)
        if is_all:
            if may_be_container(head):
                self._begin()
            return view
        found = look(head)
        if is_opened(found) or is_front(found):
            self._begin()
        else:
            self.not_opened = not_opened(found)
            self._keep_end(view)
        return view

    def _begin(self) -> None:
        try:
            self._fd = os.memfd_create("hashclient")
        except OSError as error:
            self.failure = reason_of(error)

    def _keep_end(self, chunk: memoryview) -> None:
        """Keep the last bytes of the stream, enough to contain the end of an archive."""
        most = tail_bytes(self.length, is_front=False)
        if len(chunk) >= most:
            self._end[:] = chunk[-most:]
            return
        self._end += chunk
        if len(self._end) > 2 * most:
            del self._end[:-most]

    def _has_end(self) -> bool:
        end = bytes(self._end[-tail_bytes(self.length, is_front=False) :])
        return has_end_of_zip(end) or ends_as_other(end)

    def _write(self, chunk: memoryview) -> None:
        if self.length > self._most_bytes:
            self.failure = f"limit: more than {self._most_bytes >> 20} MiB of a stream"
            self.close()
            return
        try:
            while chunk and self._fd is not None:
                chunk = chunk[os.write(self._fd, chunk) :]
        except OSError as error:
            self.failure = reason_of(error)
            self.close()


#: The bytes of memory that all streams of one process may take together.
MEMORY_BYTES = 32 << 20
_COPY_BYTES = 1 << 20
_NO_ROOM = "limit: there is no room for more streams that may be containers"
#: The seconds between two checks whether a stream that waits for space is still needed.
_LOOK_S = 0.2


class Room(Protocol):
    """The space that the streams of one user may take."""

    def take(self, count: int) -> bool:
        """Reserve this many bytes; return whether the user may have them."""

    def give_back(self, count: int) -> None:
        """Release this many bytes."""


class Spool:
    """The memory and the disk space for the streams of one process."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        """Use at most `most_bytes` of disk in `directory`, which is created when first needed."""
        self._directory = directory
        self._most_bytes = most_bytes
        self.memory_bytes = 0
        self.disk_bytes = 0
        self._lock = threading.Lock()
        self._room = threading.Condition()
        self._reserved = 0

    def keep(self, room: Room | None = None) -> Spooled:
        """Return an object that keeps one stream if it may be a container.

        `room` limits the bytes of the user who sends the stream, if there are several users.
        """
        return Spooled(self, MEMORY_BYTES + self._most_bytes, room)

    def has_memory(self, count: int) -> bool:
        """Reserve this many bytes of memory; return whether they were free."""
        with self._lock:
            if self.memory_bytes + count > MEMORY_BYTES:
                return False
            self.memory_bytes += count
            return True

    def has_disk(self, count: int) -> bool:
        """Reserve this many bytes of disk space; return whether they were free."""
        with self._lock:
            if self.disk_bytes + count > self._most_bytes:
                return False
            self.disk_bytes += count
            return True

    def give_back(self, memory_bytes: int, disk_bytes: int) -> None:
        """Release the memory and the disk space of a stream."""
        with self._lock:
            self.memory_bytes -= memory_bytes
            self.disk_bytes -= disk_bytes

    @contextlib.contextmanager
    def reserved(self, count: int, is_stopped: Callable[[], bool]) -> Iterator[None]:
        """Wait until this many bytes are free for a stream, and reserve them for the `with` block.

        The reservation prevents that space runs out in the middle of a stream whose length is
        known. A stream that is longer than the whole space waits until the other streams have
        ended, and fails later. The wait also ends when `is_stopped` returns True.
        """
        count = min(count, self._most_bytes)
        with self._room:
            while self._reserved and self._reserved + count > self._most_bytes:
                if is_stopped():
                    break
                self._room.wait(_LOOK_S)
            self._reserved += count
        try:
            yield
        finally:
            with self._room:
                self._reserved -= count
                self._room.notify_all()

    def open(self) -> int:
        """Return a descriptor of a new, empty file without a name.

        Raises:
            OSError: the file cannot be created.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
            return os.open(self._directory, flags, 0o600)
        except OSError:  # the file system does not support unnamed files
            import tempfile

            fd, name = tempfile.mkstemp(dir=self._directory)
            os.unlink(name)  # noqa: PTH108 - `name` is a text
            return fd


class Spooled(Kept):
    """A stream that is kept in memory, or in a file without a name."""

    def __init__(self, spool: Spool, most_bytes: int, room: Room | None = None) -> None:
        super().__init__(most_bytes)
        self._spool = spool
        self._user_room = room
        self._in_memory = self._on_disk = self._of_user = 0

    def close(self) -> None:
        """Delete the bytes that were kept, and release their memory and disk space."""
        self._spool.give_back(self._in_memory, self._on_disk)
        if self._user_room is not None and self._of_user:
            self._user_room.give_back(self._of_user)
        self._in_memory = self._on_disk = self._of_user = 0
        super().close()

    def keep_all(self) -> None:
        """Keep the stream whatever its first bytes are; must be called before the first bytes come.

        Raises:
            OSError: the system has no memory for the stream.
        """
        self._head = None
        self._fd = os.memfd_create("hashclient")

    def _write(self, chunk: memoryview) -> None:
        if self._user_room is not None:
            if not self._user_room.take(len(chunk)):
                self._fail(_NO_ROOM)
                return
            self._of_user += len(chunk)
        if not self._on_disk and self._spool.has_memory(len(chunk)):
            self._in_memory += len(chunk)
        elif not self._has_disk(len(chunk)):
            return
        super()._write(chunk)

    def _has_disk(self, count: int) -> bool:
        """Reserve disk space for this many more bytes, and for the bytes in memory."""
        wanted = count + self._in_memory
        if not self._spool.has_disk(wanted):
            self._fail(_NO_ROOM)
            return False
        is_first, self._on_disk = not self._on_disk, self._on_disk + wanted
        if is_first:
            try:
                self._move()
            except OSError as error:
                self._fail(reason_of(error))
                return False
            self._spool.give_back(self._in_memory, 0)
            self._in_memory = 0
        return True

    def _move(self) -> None:
        """Move the bytes in memory to a file."""
        assert self._fd is not None
        fd = self._spool.open()
        try:
            at = 0
            while part := os.pread(self._fd, _COPY_BYTES, at):
                view = memoryview(part)
                while view:
                    view = view[os.write(fd, view) :]
                at += len(part)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd

    def _fail(self, reason: str) -> None:
        self.close()
        self.failure = reason

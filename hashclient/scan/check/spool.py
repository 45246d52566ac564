"""Room for streams that may be containers: they are kept until their members were checked.

All streams share a little memory; longer ones are moved to files without a name, which nobody can
open and which end with the process. A stream without room has no verdict. Threads may share the
room; a stream belongs to one thread.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from hashclient.scan.check.kept import Kept
from hashclient.scan.values.reasons import reason_of

#: Bytes in memory, of all streams of one process together.
MEMORY_BYTES = 32 << 20
_COPY_BYTES = 1 << 20
_NO_ROOM = "limit: there is no room for more streams that may be containers"
#: How often a thread that waits for room checks whether the stream is still wanted.
_LOOK_S = 0.2


class Room(Protocol):
    """The part of the room that one user may have."""

    def take(self, count: int) -> bool:
        """Take so many bytes, if the user may have them."""
        ...

    def give_back(self, count: int) -> None:
        """Take so many bytes back."""
        ...


class Spool:
    """The room for the streams of one process."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        """Have `most_bytes` of disk in `directory`, which is made when it is first needed."""
        self._directory = directory
        self._most_bytes = most_bytes
        self.memory_bytes = 0
        self.disk_bytes = 0
        self._lock = threading.Lock()
        self._room = threading.Condition()
        self._reserved = 0

    def keep(self, room: Room | None = None) -> Spooled:
        """Return a store for one stream, which keeps the stream if it may be a container.

        `room` is the part of the stream's user, if there are several.
        """
        return Spooled(self, MEMORY_BYTES + self._most_bytes, room)

    def has_memory(self, count: int) -> bool:
        """Take so many bytes of memory, if there are."""
        with self._lock:
            if self.memory_bytes + count > MEMORY_BYTES:
                return False
            self.memory_bytes += count
            return True

    def has_disk(self, count: int) -> bool:
        """Take so many bytes of disk, if there are."""
        with self._lock:
            if self.disk_bytes + count > self._most_bytes:
                return False
            self.disk_bytes += count
            return True

    def give_back(self, memory_bytes: int, disk_bytes: int) -> None:
        """Take back the room of a stream."""
        with self._lock:
            self.memory_bytes -= memory_bytes
            self.disk_bytes -= disk_bytes

    @contextlib.contextmanager
    def reserved(self, count: int, is_stopped: Callable[[], bool]) -> Iterator[None]:
        """Wait until there is room for one more stream of so many bytes, and keep it for the block.

        So a stream of known length does not run out of room in its middle. A stream that is longer
        than all the room only waits for the others, and fails later. The wait ends, too, when it
        `is_stopped`.
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
        """Return a descriptor of an empty file without a name.

        Raises:
            OSError: there can be none.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
            return os.open(self._directory, flags, 0o600)
        except OSError:  # a file system that knows no such files
            fd, name = tempfile.mkstemp(dir=self._directory)
            os.unlink(name)  # noqa: PTH108 - mkstemp gives a text
            return fd


class Spooled(Kept):
    """A stream that is kept, in memory or in a file."""

    def __init__(self, spool: Spool, most_bytes: int, room: Room | None = None) -> None:
        super().__init__(most_bytes)
        self._spool = spool
        self._user_room = room
        self._in_memory = self._on_disk = self._of_user = 0

    def close(self) -> None:
        """Drop the bytes that were kept, and give back their room."""
        self._spool.give_back(self._in_memory, self._on_disk)
        if self._user_room is not None and self._of_user:
            self._user_room.give_back(self._of_user)
        self._in_memory = self._on_disk = self._of_user = 0
        super().close()

    def keep_all(self) -> None:
        """Keep it whatever it begins with: before anything has come.

        Raises:
            OSError: there is no room.
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
        """Take room on the disk for so many more bytes, and for the bytes in memory."""
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

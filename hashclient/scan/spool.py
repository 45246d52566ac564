"""Room for streams that may be containers: they are kept until what is in them was checked.

Little of them is kept in memory, together for all streams; what goes beyond is moved to files
without a name, which nobody can open and nothing outlives. What has no room has no verdict. Threads
may share the room; a stream is one thread's.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from hashclient.scan.members import Kept
from hashclient.scan.reasons import reason_of

#: Bytes in memory, of all streams of one process together.
MEMORY_BYTES = 32 << 20
_COPY_BYTES = 1 << 20
#: How often who waits for room looks whether that is still wanted.
_LOOK_S = 0.2


class Spool:
    """The room that the streams of one process have."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        """Have `most_bytes` of disk in `directory`, which is made when it is first needed."""
        self._directory = directory
        self._most_bytes = most_bytes
        self.memory_bytes = 0
        self.disk_bytes = 0
        self._lock = threading.Lock()
        self._room = threading.Condition()
        self._reserved = 0

    def keep(self) -> Spooled:
        """Return what keeps one stream, as far as it may be a container."""
        return Spooled(self, MEMORY_BYTES + self._most_bytes)

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
        """Take back what a stream had."""
        with self._lock:
            self.memory_bytes -= memory_bytes
            self.disk_bytes -= disk_bytes

    @contextlib.contextmanager
    def reserved(self, count: int, is_stopped: Callable[[], bool]) -> Iterator[None]:
        """Wait until there is room for one more stream of so many bytes, and keep it for the block.

        Who knows how long a stream is need not find out in its middle that others have the room.
        What has no room at all does not wait: it will be told so. The wait ends, too, when it
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

    def __init__(self, spool: Spool, most_bytes: int) -> None:
        super().__init__(most_bytes)
        self._spool = spool
        self._in_memory = self._on_disk = 0

    def close(self) -> None:
        """Let go of what was kept, and of the room that it had."""
        self._spool.give_back(self._in_memory, self._on_disk)
        self._in_memory = self._on_disk = 0
        super().close()

    def keep_all(self) -> None:
        """Keep it whatever it begins with: before anything has come.

        Raises:
            OSError: there is no room.
        """
        self._head = None
        self._fd = os.memfd_create("hashclient")

    def _write(self, chunk: memoryview) -> None:
        if not self._on_disk and self._spool.has_memory(len(chunk)):
            self._in_memory += len(chunk)
        elif not self._has_disk(len(chunk)):
            return
        super()._write(chunk)

    def _has_disk(self, count: int) -> bool:
        """Have room for so many more bytes on the disk, and for what was in memory until now."""
        wanted = count + self._in_memory
        if not self._spool.has_disk(wanted):
            self._fail("limit: there is no room for more streams that may be containers")
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
        """Move what is in memory to a file."""
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

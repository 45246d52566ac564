"""The process that opens containers: it serves one worker, which sends one file at a time.

The process has no key, no list and no index in memory, because it is started as a new program, and
not as a copy (fork) of the worker. The process cannot open files in its sandbox, so all modules are
imported before the sandbox takes effect. A hostile file may take over the process at any time, so
the worker uses the answers of the process only for the file that it has sent.
"""

from __future__ import annotations

import contextlib
import locale
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from hashclient.containers.driver import Driver
from hashclient.containers.forward import Anywhere
from hashclient.containers.interface import Data, NotReadError, Why
from hashclient.containers.libarchive import load_charsets
from hashclient.containers.limits import MIB, LimitError
from hashclient.containers.protocol import (
    NAMES_AT_ONCE_BYTES,
    ROWS_AT_ONCE,
    Ask,
    BrokenError,
    Channel,
    Done,
    Job,
    Masks,
    Ready,
    Row,
    Rows,
    Setup,
    decode_to_child,
)
from hashclient.containers.registry import Registry
from hashclient.containers.sandbox import die_with_parent, lock
from hashclient.core.model import Mail

#: Seconds of processor time within which a reader must read a byte or find a member.
STALL_S = 60

#: Codecs for names, which are loaded in advance, because each codec is a Python module and no
#: module can be imported in the sandbox. Python's parser of encoded words uses the first codec; the
#: next two are for names in disk images, documents, mail stores and 7z; all further codecs are for
#: names of files in mail.
_CODECS = (
    *("raw-unicode-escape", "utf-16-le", "utf-16-be", "utf-8", "utf-7", "ascii", "latin-1"),
    *("iso-8859-2", "iso-8859-5", "iso-8859-7", "iso-8859-9", "iso-8859-15", "koi8-r", "koi8-u"),
    *("cp437", "cp850", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1256", "cp1257"),
    *("gb2312", "gbk", "gb18030", "big5", "euc-jp", "iso-2022-jp", "shift_jis", "cp932", "euc-kr"),
)


class Stall:
    """Stops the code that reads a container if it uses processor time without any progress.

    Hostile bytes may send a reader into an endless loop. The time limit for a file is an hour,
    because files may be large, and without this class an endless loop would occupy a processor for
    this hour.
    """

    def __init__(self, interval_s: float = STALL_S) -> None:
        """Set a timer: check the progress after each `interval_s` seconds of processor time."""
        self._steps: Callable[[], int] | None = None
        self._last = -1
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, interval_s, interval_s)

    @contextlib.contextmanager
    def watching(self, steps: Callable[[], int]) -> Iterator[None]:
        """Check the progress while a `with` block opens a file; `steps()` counts it."""
        self._steps, self._last = steps, -1
        try:
            yield
        finally:
            self._steps = None

    def _look(self, *_: object) -> None:
        if self._steps is None:
            return
        steps = self._steps()
        if steps == self._last:
            raise LimitError(f"its reader found nothing more in {STALL_S} s")
        self._last = steps


class FileData(Anywhere):
    """A file that the worker has sent as an open descriptor; it is read by position."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size
        self.bytes_read = 0

    def read_at(self, offset: int, count: int) -> bytes:
        """Return the bytes at `offset`; see `Data.read_at`."""
        wanted = min(count, self.size - offset)
        if wanted <= 0:
            return b""
        try:
            data = os.pread(self._fd, wanted, offset)
            while len(data) < wanted and (
                more := os.pread(self._fd, wanted - len(data), offset + len(data))
            ):
                data += more
        except OSError as error:
            raise NotReadError(Why.DAMAGED, (error.strerror or str(error)).lower()) from error
        self.bytes_read += len(data)
        return data


class Out:
    """Collects results, and sends them to the worker in messages."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._containers: list[tuple[int, int, bytes, Mail | None]] = []
        self._rows: list[Row] = []
        self._names_bytes = 0
        self._last = 0

    def ask(self, sizes: Sequence[int]) -> bytes:
        """Ask the worker for masks; see `driver.Sink`."""
        self.flush()
        self._channel.send(Ask(list(sizes)))
        answer = decode_to_child(self._channel.receive())
        if not isinstance(answer, Masks) or len(answer.masks) != len(sizes):
            raise BrokenError("no answer")
        return answer.masks

    def container(self, parent: int, name: bytes, mail: Mail | None = None) -> int:
        """Add a container; see `driver.Sink`."""
        self._last += 1
        self._containers.append((self._last, parent, name, mail))
        self._count(name)
        return self._last

    def row(self, row: Row) -> None:
        """Add a row; see `driver.Sink`."""
        self._rows.append(row)
        self._count(row.name)

    def flush(self) -> None:
        """Send the collected results."""
        if self._rows or self._containers:
            self._channel.send(Rows(self._containers, self._rows))
            self._containers, self._rows, self._names_bytes = [], [], 0

    def _count(self, name: bytes) -> None:
        self._names_bytes += len(name)
        waiting = len(self._rows) + len(self._containers)
        if waiting >= ROWS_AT_ONCE or self._names_bytes >= NAMES_AT_ONCE_BYTES:
            self.flush()


def serve(channel: Channel, setup: Setup, registry: Registry, stall: Stall) -> None:
    """Open file after file that the worker sends, until the worker closes the channel."""
    while True:
        job = decode_to_child(channel.receive())
        if not isinstance(job, Job):
            raise BrokenError("no job")
        fd = channel.take_fd()
        try:
            out = Out(channel)
            driver = Driver(registry, setup.limits, job, out, verify_sizes=setup.verify_sizes)

            opened: list[FileData] = []

            def open_data(
                fd: int = fd, size: int = job.size, opened: list[FileData] = opened
            ) -> Data:
                opened.append(FileData(fd, size))
                return opened[-1]

            def steps(driver: Driver = driver, opened: list[FileData] = opened) -> int:
                return driver.steps + sum(data.bytes_read for data in opened)

            with stall.watching(steps):
                driver.run(open_data)
            out.flush()
        finally:
            os.close(fd)
        # The kernel ends the process when it has used a certain processor time in all. Therefore a
        # process that has used much of this time is replaced before the next file.
        is_tired = time.process_time() > setup.limits.time_s
        channel.send(Done(driver.bytes_out, is_tired))


def main(fd: int) -> None:
    """Serve the worker at the other end of the socket `fd`."""
    # Ctrl-C in a terminal signals all processes of the group, but the worker decides when this
    # process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=fd))
    with contextlib.suppress(BrokenError, KeyboardInterrupt):
        setup = decode_to_child(channel.receive())
        if not isinstance(setup, Setup):
            return
        die_with_parent(setup.parent)
        with contextlib.suppress(locale.Error):
            # The locale is set because libarchive would lose some names of members in another
            # locale.
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        registry = Registry(setup.passwords)
        load_charsets()
        for codec in _CODECS:
            "".encode(codec)
        # The traceback is not printed, because Python would import modules to print it, which the
        # sandbox forbids.
        sys.tracebacklimit = 0
        stall = Stall()
        locks = lock(setup.limits.memory_mib * MIB, 2 * setup.limits.time_s)
        channel.send(Ready(locks))
        serve(channel, setup, registry, stall)


if __name__ == "__main__":
    main(int(sys.argv[1]))

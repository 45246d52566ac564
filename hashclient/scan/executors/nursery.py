"""A process that forks all workers of a run, from the state at the start of the run.

Later, the process that hands out work has threads, which list directories, and SQLite open, which
writes records: a fork would carry both into a worker that can use neither. The nursery is forked
before that. It has the lists mapped as well, so its workers start at once and share the pages. It
does nothing but fork and wait, and ends with its workers when its parent is gone.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import struct
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess
from socket import AF_UNIX, MSG_DONTWAIT, SOCK_SEQPACKET, recv_fds, send_fds, socket, socketpair

from hashclient.scan.executors.interface import MakeChecker
from hashclient.scan.executors.worker import SIGNALS, become_child, serve

#: A question has the process to wait for, or 0 to fork one, with a descriptor to serve. An answer
#: has an exit code or a process, and the number of an error.
_QUESTION = struct.Struct("=q")
_ANSWER = struct.Struct("=qi")


class Nursery:
    """Forks workers with checkers from `make`."""

    def __init__(self, make: MakeChecker) -> None:
        """Fork it; this process must have only one thread at that time.

        Raises:
            OSError: the system has no room for it.
        """
        #: The connections to requested workers; the workers that have begun; the last error.
        self._asked: deque[Connection] = deque()
        self._born: list[tuple[int, Connection]] = []
        self._error = 0
        self.end, its_end = socketpair(AF_UNIX, SOCK_SEQPACKET)
        try:
            # Not a daemon, which could have no children.
            self._process = forked(_tend, its_end, self.end, make, daemon=False)
        except OSError:
            self.end.close()
            raise
        finally:
            its_end.close()

    @property
    def asked(self) -> int:
        """How many workers were asked for and are not there yet."""
        return len(self._asked)

    def ask_for_one(self) -> None:
        """Ask for a worker without waiting for it; `born` returns it when it is there.

        Raises:
            OSError: the system has no room for it, or the nursery has ended.
        """
        ours, its = Pipe()
        try:
            send_fds(self.end, [_QUESTION.pack(0)], [its.fileno()])
        except OSError:
            ours.close()
            raise
        finally:
            its.close()
        self._asked.append(ours)

    def born(self, *, wait: bool = False) -> list[tuple[int, Connection]]:
        """Return the workers that are there since the last time, with the connections to them.

        With `wait`, wait for all that were asked for.

        Raises:
            OSError: the system has no room for one, or the nursery has ended.
        """
        with contextlib.suppress(BlockingIOError):
            while self._asked:
                self._take_one(0 if wait else MSG_DONTWAIT)
        if self._error and not self._born:
            error, self._error = self._error, 0
            raise OSError(error, os.strerror(error))
        born, self._born = self._born, []
        return born

    def _take_one(self, flags: int) -> None:
        """Take the answer about the first worker that was asked for.

        Raises:
            BlockingIOError: it is not there yet.
        """
        pid, error = self._answer(flags)
        connection = self._asked.popleft()
        if error:
            connection.close()
            self._error = error
        else:
            self._born.append((pid, connection))

    def exit_code(self, pid: int) -> int | None:
        """Wait until a worker has ended; return its exit code, None if the nursery has ended."""
        try:
            self.end.send(_QUESTION.pack(pid))
            while self._asked:  # these were asked for before
                self._take_one(0)
        except OSError:
            return None
        code, error = self._answer(0)
        return None if error else code

    def _answer(self, flags: int) -> tuple[int, int]:
        try:
            answer = self.end.recv(_ANSWER.size, flags)
        except ConnectionError:
            answer = b""
        number, error = _ANSWER.unpack(answer or _ANSWER.pack(0, errno.ECHILD))
        return int(number), int(error)

    def close(self, wait_s: float | None = None) -> None:
        """End it and its workers that are still there; wait for it, for `wait_s` at most."""
        for connection in [*self._asked, *(born for _, born in self._born)]:
            connection.close()
        self.end.close()
        self._process.join(wait_s)
        if self._process.exitcode is not None:
            self._process.close()


def forked(work: Callable[..., None], *args: object, daemon: bool = True) -> BaseProcess:
    """Run `work` in a process of its own.

    Raises:
        OSError: the system has no room for it.
    """
    context = multiprocessing.get_context("fork")
    process = context.Process(target=work, args=args, daemon=daemon)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _tend(end: socket, not_ours: socket, make: MakeChecker) -> None:
    """Answer until the parent is gone; the workers end with this process."""
    become_child([not_ours])
    born: dict[int, BaseProcess] = {}
    while True:
        message, fds, _, _ = recv_fds(end, _QUESTION.size, 1)
        if not message:
            return
        (pid,) = _QUESTION.unpack(message)
        number, error = 0, 0
        try:
            if pid:
                process = born.pop(pid)
                process.join()
                number = process.exitcode or 0
                process.close()
            else:
                with Connection(fds[0]) as connection:
                    process = forked(serve, connection, [end], make)
                number = process.pid or 0
                born[number] = process
        except OSError as failure:
            error = failure.errno or errno.EIO
        with contextlib.suppress(BrokenPipeError):
            end.send(_ANSWER.pack(number, error))

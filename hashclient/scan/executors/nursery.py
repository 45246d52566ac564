"""A process that forks all workers of a run, from the state at the start of the run.

Later, the process that distributes work has threads that list directories, and an open SQLite
database: a fork would copy both into a worker that can use neither. So the nursery is forked first.
The nursery also has the lists mapped, so its workers start at once and share the pages. The nursery
only forks and waits, and ends with its workers when its parent is gone.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import struct
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess
from socket import AF_UNIX, SOCK_SEQPACKET, recv_fds, send_fds, socket, socketpair

from hashclient.scan.executors.interface import MakeChecker
from hashclient.scan.executors.worker import SIGNALS, become_child, serve

#: A question contains the process to wait for, or 0 to fork one, with a descriptor to serve. An
#: answer contains an exit code or a process, and the number of an error.
_QUESTION = struct.Struct("=q")
_ANSWER = struct.Struct("=qi")


class Nursery:
    """Forks workers with checkers from `make`."""

    def __init__(self, make: MakeChecker) -> None:
        """Fork the nursery; at that time this process must have only one thread.

        Raises:
            OSError: the system cannot start a process.
        """
        self._end, its_end = socketpair(AF_UNIX, SOCK_SEQPACKET)
        try:
            # Not a daemon: a daemon may have no children.
            self._process = forked(_tend, its_end, self._end, make, daemon=False)
        except OSError:
            self._end.close()
            raise
        finally:
            its_end.close()

    def fork_one(self) -> tuple[int, Connection]:
        """Fork a worker; return its process and the connection to it.

        Raises:
            OSError: the system cannot start a process, or the nursery has ended.
        """
        ours, its = Pipe()
        try:
            send_fds(self._end, [_QUESTION.pack(0)], [its.fileno()])
            return self._answer(), ours
        except OSError:
            ours.close()
            raise
        finally:
            its.close()

    def exit_code(self, pid: int) -> int | None:
        """Wait until a worker has ended; return its exit code, None if the nursery has ended."""
        try:
            self._end.send(_QUESTION.pack(pid))
            return self._answer()
        except OSError:
            return None

    def _answer(self) -> int:
        """Return the number in an answer.

        Raises:
            OSError: the answer is an error, or the nursery has ended.
        """
        answer = self._end.recv(_ANSWER.size) or _ANSWER.pack(0, errno.ECHILD)
        number, error = _ANSWER.unpack(answer)
        if error:
            raise OSError(error, os.strerror(error))
        return int(number)

    def close(self, wait_s: float | None = None) -> None:
        """End the nursery and its remaining workers; wait for it, for at most `wait_s`."""
        self._end.close()
        self._process.join(wait_s)
        if self._process.exitcode is not None:
            self._process.close()


def forked(work: Callable[..., None], *args: object, daemon: bool = True) -> BaseProcess:
    """Run `work` in a process of its own.

    Raises:
        OSError: the system cannot start a process.
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
    """Answer questions until the parent is gone; the workers end with this process."""
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

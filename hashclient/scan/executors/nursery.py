"""The nursery: a process that forks all workers of a run.

The nursery is forked at the start of the run, before the parent starts threads that list
directories, and before the parent opens an SQLite database. A fork of the parent would copy the
state of the threads and the database connection into a worker, which can use neither. The nursery
has the lists mapped, so its workers start at once and share the pages of the lists. The nursery
only forks workers and waits for them. When its parent has ended, the nursery ends itself and its
workers.
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

#: A question contains the process id of a worker to wait for. In place of a process id, 0 asks the
#: nursery to fork a worker, which serves the descriptor that is sent with the question. An answer
#: contains an exit code or a process id, and an error number.
_QUESTION = struct.Struct("=q")
_ANSWER = struct.Struct("=qi")


class Nursery:
    """The parent's side of the nursery, which forks workers with checkers from `make`."""

    def __init__(self, make: MakeChecker) -> None:
        """Fork the nursery; this process must have only one thread at the time of the call.

        Raises:
            OSError: the system cannot start a process.
        """
        self._end, its_end = socketpair(AF_UNIX, SOCK_SEQPACKET)
        try:
            # The nursery is not a daemon, because multiprocessing forbids a daemon to have
            # children.
            self._process = forked(_tend, its_end, self._end, make, daemon=False)
        except OSError:
            self._end.close()
            raise
        finally:
            its_end.close()

    def fork_one(self) -> tuple[int, Connection]:
        """Fork a worker; return its process id and the connection to the worker.

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
        """Wait until a worker has ended; return its exit code, or None if the nursery has ended."""
        try:
            self._end.send(_QUESTION.pack(pid))
            return self._answer()
        except OSError:
            return None

    def _answer(self) -> int:
        """Receive an answer of the nursery, and return the number in it.

        Raises:
            OSError: the answer is an error, or the nursery has ended.
        """
        answer = self._end.recv(_ANSWER.size) or _ANSWER.pack(0, errno.ECHILD)
        number, error = _ANSWER.unpack(answer)
        if error:
            raise OSError(error, os.strerror(error))
        return int(number)

    def close(self, wait_s: float | None = None) -> None:
        """End the nursery and the remaining workers; wait for them for at most `wait_s` seconds."""
        self._end.close()
        self._process.join(wait_s)
        if self._process.exitcode is not None:
            self._process.close()


def forked(work: Callable[..., None], *args: object, daemon: bool = True) -> BaseProcess:
    """Run `work` in a new process, which is forked from this process.

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
    """Answer questions until the parent has ended; the workers end together with this process."""
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

"""Worker processes: the parent sends tasks, and workers return results.

No file is lost when a worker dies: its files are unread, and a new worker replaces the dead worker.

A nursery forks all workers, with the lists already mapped, so that workers start at once and share
the pages of the lists. The parent lists directories only when a worker is free, so that little
memory is used. One worker runs for each processor, and more workers run while workers wait for
storage (`pacing`). If a worker cannot read an index, the run ends, because no other worker can read
the index either.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

import msgspec

# `ciphers` is imported before the fork, so that workers do not import it one by one.
from cryptography.hazmat.primitives import ciphers  # noqa: F401

from hashclient.containers import sniffing  # noqa: F401 - also imported before the fork
from hashclient.core.errors import ExitCode, StateError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.executors.interface import MakeChecker, single_tasks
from hashclient.scan.executors.nursery import Nursery
from hashclient.scan.executors.pacing import Pacing, Times
from hashclient.scan.executors.wire import decode_message, encode_task
from hashclient.scan.values.work import WORKER_DIED, Advance, Result, Task, join
from hashclient.system.log import Log
from hashclient.system.process import bad_page

#: The longest message, in bytes, that is sent to a busy worker: a socket accepts three such
#: messages before the worker reads any.
MAX_AHEAD_BYTES = 32 << 10
#: The run ends after this many workers were replaced, because many dead workers show that the
#: machine has a problem.
MAX_REPLACED = 16
#: The seconds that workers have to end when the run ends.
END_S = 3.0
_log = Log("scan")
#: The exit codes of a worker that cannot read an index: from its handler of SIGBUS, or without a
#: handler.
_BAD_PAGE_CODES = (ExitCode.STATE, -signal.SIGBUS)


class _Worker(msgspec.Struct):
    pid: int
    connection: Connection
    tasks: deque[Task] = msgspec.field(default_factory=deque)
    #: The progress of the first of `tasks`, as the worker has reported it.
    reported: Advance = Advance()
    times: Times = msgspec.field(default_factory=Times)


class Pool:
    """Runs tasks in worker processes; a pool is used as a context manager."""

    def __init__(self, jobs: int, make: MakeChecker, most: int | None = None) -> None:
        """Start `jobs` workers, each with a checker from `make`, and later up to `most` workers.

        Raises:
            StateError: the system cannot start a process.
        """
        try:
            self._nursery = Nursery(make)
        except OSError as error:
            raise _no_room(error) from error
        self._pacing = Pacing(jobs, most)
        self._workers: list[_Worker] = []
        self._replaced = 0
        #: Large files, and tasks whose message is too long for a busy worker; an idle worker gets
        #: them.
        self._waiting: deque[Task] = deque()
        #: The part of a divided task that was not sent yet.
        self._rest: Task = []
        self._walking = True

    def __enter__(self) -> Pool:
        try:
            for _ in range(self._pacing.jobs):
                self._fork_one()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                raise _no_room(error) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.connection.close()
        # All workers end with the nursery, except a worker that waits for a file server that does
        # not answer.
        self._nursery.close(END_S)

    def _fork_one(self) -> None:
        """Start a worker.

        Raises:
            OSError: the system cannot start a process, or the nursery has ended.
        """
        pid, connection = self._nursery.fork_one()
        self._workers.append(_Worker(pid, connection))
        _log.debug("started worker process %d", pid)

    def run(
        self, tasks: Iterator[Task | Outcome], tick_s: float
    ) -> Iterator[Result | Outcome | Advance]:
        """Yield the results of `tasks` as soon as they come; yield outcomes in `tasks` unchanged.

        The first `Advance` is yielded when all workers have work, and the next at least every
        `tick_s` seconds.

        Raises:
            StateError: workers keep dying, or a worker cannot read an index.
        """
        begun = False
        while True:
            yield from self._hand_out(tasks)
            busy = [worker for worker in self._workers if worker.tasks]
            if not busy:
                return
            if not begun:
                begun = True
                yield Advance()
            left_s = 0 if self._lacks_workers else self._pacing.due - time.monotonic()
            ready = wait([w.connection for w in busy], max(0, min(tick_s, left_s)))
            if not ready and time.monotonic() < self._pacing.due:
                yield Advance()
            dead: list[_Worker] = []
            failure: StateError | None = None
            for worker in [w for w in busy if w.connection in ready]:
                message = self._receive(worker)
                if message is None:
                    dead.append(worker)
                    continue
                if isinstance(message, StateError):
                    failure = message
                    continue
                if isinstance(message, Result):
                    # Each deferred group becomes a task: a group is one large file, or the rest of
                    # a directory.
                    self._waiting.extend(single_tasks(message.deferred))
                    message.deferred = []
                yield message
            # The results of other workers are yielded before the error that ends the run is raised.
            if failure is not None:
                raise failure
            for worker in dead:
                yield self._bury(worker)
            if time.monotonic() >= self._pacing.due:
                self._look()
            self._grow()

    def _hand_out(self, tasks: Iterator[Task | Outcome]) -> Iterator[Outcome]:
        """Send tasks while a worker is free; yield outcomes among the tasks."""
        while True:
            # The worker with the fewest tasks gets the next task, so that all workers end at about
            # the same time.
            worker = min(self._workers[: self._pacing.wanted], key=lambda w: len(w.tasks))
            if len(worker.tasks) >= (1 if self._waiting else self._pacing.ahead):
                return
            if self._waiting:
                task, rest = self._pacing.divide(self._waiting.popleft())
                if rest:
                    self._waiting.appendleft(rest)
            elif self._rest:
                task, self._rest = self._pacing.divide(self._rest)
            else:
                item = next(tasks, None) if self._walking else None
                if item is None:
                    self._walking = False
                    return
                if isinstance(item, Outcome):
                    yield item
                    continue
                task, self._rest = self._pacing.divide(item)
            if not self._send(worker, task):
                self._waiting.append(task)

    def _send(self, worker: _Worker, task: Task) -> bool:
        """Send a task to a worker; return False if the task is too long to wait at a busy worker.

        A busy worker may be sending a long result: if the parent sent a long task at the same time,
        both would wait for each other forever.
        """
        message = encode_task(task)
        if worker.tasks and len(message) > MAX_AHEAD_BYTES:
            return False
        worker.tasks.append(task)
        self._pacing.sent(worker.times)
        try:
            worker.connection.send_bytes(message)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the worker has died, which the next read from the connection shows
        return True

    def _grow(self) -> None:
        """Start one of the missing workers; results are read before the next worker is started."""
        if self._lacks_workers:
            try:
                self._fork_one()
            except OSError as error:
                _log.info("no more worker processes: %s", error.strerror)
                self._pacing.limit(len(self._workers))

    @property
    def _lacks_workers(self) -> bool:
        """Whether fewer workers run than wanted, and work waits for more workers."""
        return len(self._workers) < self._pacing.wanted and bool(
            self._walking or self._rest or self._waiting
        )

    def _look(self) -> None:
        """Measure how workers spend their time; end workers that are not needed any more."""
        unread = wait([w.connection for w in self._workers], 0)
        read = [w for w in self._workers if w.connection not in unread]
        self._pacing.look([(w.pid, w.times) for w in read])
        # The last workers are ended first, so that the initial workers keep running.
        for worker in self._workers[: self._pacing.wanted - 1 : -1]:
            if not worker.tasks:
                self._workers.remove(worker)
                worker.connection.close()
                self._nursery.exit_code(worker.pid)

    def _receive(self, worker: _Worker) -> Result | StateError | Advance | None:
        """Return the message of a worker, or None if the worker died.

        If the worker cannot read an index, the message is a `StateError`.
        """
        try:
            message = decode_message(worker.connection.recv_bytes())
        except (EOFError, OSError):  # the worker may have died in the middle of a message
            return None
        if isinstance(message, int):
            group = worker.tasks[0][0]  # a file that takes long is alone in its task
            path = join(group.directory, group.names[0])
            worker.reported = Advance(worker.reported.bytes_ahead + message, path)
            return Advance(message, path)
        if isinstance(message, Result):
            task = worker.tasks.popleft()
            self._pacing.ended(worker.times, task, message.taken_s, is_last=not worker.tasks)
            message.reported, worker.reported = worker.reported, Advance()
        return message

    def _bury(self, worker: _Worker) -> Result:
        """Replace a dead worker; return the files of its tasks as unread.

        Raises:
            StateError: the worker died because it could not read an index, no worker is left, or
                more than `MAX_REPLACED` workers have died.
        """
        self._workers.remove(worker)
        worker.connection.close()
        code = self._nursery.exit_code(worker.pid)
        if code in _BAD_PAGE_CODES:
            raise bad_page()
        _log.info("a worker process has died: %s", code)
        self._replaced += 1
        if self._replaced > MAX_REPLACED:
            raise StateError(
                f"worker processes keep dying (exit code {code})",
                hint="the machine may be out of memory; try fewer --jobs",
            )
        try:
            self._fork_one()
        except OSError as error:
            _log.info("no worker process: %s", error.strerror)
        if not self._workers:
            raise StateError(
                "a worker process has died, and there is no room for another",
                hint="the machine may be out of memory; try fewer --jobs",
            )
        return Result(
            outcomes=[
                Outcome(Kind.UNREAD, join(group.directory, name), reason=WORKER_DIED)
                for task in worker.tasks
                for group in task
                for name in group.names
            ],
            reported=worker.reported,
        )


def _no_room(error: OSError) -> StateError:
    return StateError(
        f"cannot start a worker process: {error.strerror}",
        hint="try fewer --jobs, or raise the limits of processes and open files",
    )

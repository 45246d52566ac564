"""Worker processes: tasks go out, results come back, and nothing is lost when one dies.

Workers are forked with the lists already mapped, so they start at once and share the pages. The
parent walks only when a worker has room, which keeps memory flat. Messages are msgpack with paths
as bytes. A worker that dies turns the files it had into unread ones and is replaced. One that
cannot read an index ends the run, since no other can either.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import msgspec

from hashclient.core.algorithms import Algorithm
from hashclient.core.kinds import Kind
from hashclient.core.model import Hit, Outcome, Outer
from hashclient.errors import ExitCode, StateError
from hashclient.scan.executors.interface import (
    Advance,
    MakeChecker,
    Result,
    single_tasks,
)
from hashclient.scan.reasons import WORKER_DIED
from hashclient.scan.sources.files import join
from hashclient.scan.sources.interface import Group, Task
from hashclient.system.log import Log
from hashclient.system.process import bad_page, end_at_bad_pages, forget_exit_codes, is_debugged

#: Tasks that wait at a worker, so that it never waits for the parent.
TASKS_AHEAD = 3
#: Longest message that waits at a worker: a socket takes three of them without anybody reading.
MAX_AHEAD_BYTES = 32 << 10
#: Bytes of a large file between two notes of progress.
PROGRESS_BYTES = 32 << 20
#: How often workers are replaced before something is held to be wrong with the machine.
MAX_REPLACED = 16
_log = Log("scan")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: How a worker ends that cannot read an index: in its handler, or without one.
_BAD_PAGE_CODES = (ExitCode.STATE, -signal.SIGBUS)


class _WireGroup(msgspec.Struct, array_like=True):
    directory: bytes
    names: bytes  # joined by NUL, which no name holds
    follow: bool


class _WireOutcome(msgspec.Struct, array_like=True):
    kind: Kind
    path: bytes
    size: int | None
    reason: str | None
    hits: tuple[Hit, ...]
    digests: Mapping[Algorithm, bytes]
    tags: Mapping[Algorithm, bytes]
    members: list[bytes]
    outer: Outer | None
    obstacle: str | None


class _WireResult(msgspec.Struct, array_like=True):
    clean: int
    files_read: int
    bytes_read: int
    ruled_out_by_size: int
    known_unchanged: int
    believed_unchanged: int
    ruled_out_by_claim: int
    members: int
    members_read: int
    outcomes: list[_WireOutcome]
    deferred: list[_WireGroup]
    learned: list[tuple[int, bytes]]
    seen: list[tuple[int, int]]
    containers: list[tuple[int, bytes, bytes]]


_decode_task = msgspec.msgpack.Decoder(list[_WireGroup]).decode
#: Besides results there are bytes read of a large file, and the two lines of an error.
_decode_message = msgspec.msgpack.Decoder(int | str | _WireResult).decode
_encode = msgspec.msgpack.Encoder().encode


def _pack_task(task: Task) -> list[_WireGroup]:
    return [
        _WireGroup(os.fsencode(g.directory), os.fsencode("\0".join(g.names)), g.follow)
        for g in task
    ]


def _unpack_task(groups: list[_WireGroup]) -> Task:
    return [
        Group(os.fsdecode(g.directory), os.fsdecode(g.names).split("\0"), g.follow) for g in groups
    ]


def _pack_result(result: Result) -> _WireResult:
    outcomes = [
        _WireOutcome(
            o.kind,
            os.fsencode(o.path),
            o.size,
            o.reason,
            o.hits,
            o.digests,
            o.tags,
            [os.fsencode(name) for name in o.members],
            o.outer,
            o.obstacle,
        )
        for o in result.outcomes
    ]
    return _WireResult(
        result.clean,
        result.files_read,
        result.bytes_read,
        result.ruled_out_by_size,
        result.known_unchanged,
        result.believed_unchanged,
        result.ruled_out_by_claim,
        result.members,
        result.members_read,
        outcomes,
        _pack_task(result.deferred),
        result.learned,
        result.seen,
        result.containers,
    )


def _unpack_result(wire: _WireResult) -> Result:
    outcomes = [
        Outcome(
            o.kind,
            os.fsdecode(o.path),
            o.size,
            o.reason,
            o.hits,
            o.digests,
            tags=o.tags,
            members=tuple([os.fsdecode(name) for name in o.members]),
            outer=o.outer,
            obstacle=o.obstacle,
        )
        for o in wire.outcomes
    ]
    return Result(
        wire.clean,
        wire.files_read,
        wire.bytes_read,
        wire.ruled_out_by_size,
        wire.known_unchanged,
        wire.believed_unchanged,
        wire.ruled_out_by_claim,
        wire.members,
        wire.members_read,
        outcomes,
        _unpack_task(wire.deferred),
        wire.learned,
        wire.seen,
        wire.containers,
    )


def _work(connection: Connection, parent_ends: list[Connection], make: MakeChecker) -> None:
    """Serve tasks until the parent closes its end."""
    # The terminal sends Ctrl-C to the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    forget_exit_codes()
    end_at_bad_pages()
    # What goes wrong here ends as unread files; only who looks for a bug wants to see more.
    if not is_debugged():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for end in parent_ends:
        end.close()
    # What was inherited lives as long as the worker: looking through it again and again is in vain.
    # Measured with two workers and 40,000 small files: 587 ms of CPU time in all instead of 599.
    gc.freeze()
    unsaid = 0

    def on_bytes(count: int) -> None:
        nonlocal unsaid
        unsaid += count
        if unsaid >= PROGRESS_BYTES:
            connection.send_bytes(_encode(unsaid))
            unsaid = 0

    checker = make(on_bytes)
    try:
        while True:
            task = _unpack_task(_decode_task(connection.recv_bytes()))
            try:
                result = checker.check(task)
            except StateError as error:  # an index is damaged; any other worker would see the same
                connection.send_bytes(_encode(f"{error.message}\n{error.hint or ''}"))
                return
            connection.send_bytes(_encode(_pack_result(result)))
            unsaid = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class _Worker(msgspec.Struct):
    process: BaseProcess
    connection: Connection
    tasks: deque[Task] = msgspec.field(default_factory=deque)
    #: How much of the first of them it has told of.
    told: Advance = Advance()


class Processes:
    """Runs batches in processes of their own, which end with the run."""

    def __init__(self, jobs: int, tick_s: float) -> None:
        """Run `jobs` at a time, and tell that time has passed every `tick_s` seconds."""
        self._jobs = jobs
        self._tick_s = tick_s

    def run(
        self, work: Iterator[Task | Outcome], make_checker: MakeChecker
    ) -> Iterator[Result | Outcome | Advance]:
        """Yield what `work` comes to, as it comes; see `Executor`."""
        with Pool(self._jobs, make_checker) as pool:
            yield from pool.run(work, self._tick_s)


class Pool:
    """Runs tasks in worker processes; use it as a context manager."""

    def __init__(self, jobs: int, make: MakeChecker) -> None:
        """Start `jobs` workers, each with a checker from `make`."""
        self._make = make
        self._jobs = jobs
        self._workers: list[_Worker] = []
        self._replaced = 0

    def __enter__(self) -> Pool:
        try:
            for _ in range(self._jobs):
                self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.terminate()
            worker.connection.close()
        for worker in self._workers:
            worker.process.join()

    def _start(self) -> None:
        """Start one more worker.

        Raises:
            StateError: the system has no room for it.
        """
        try:
            self._fork()
        except OSError as error:
            raise StateError(
                f"cannot start a worker process: {error.strerror}",
                hint="try fewer --jobs, or raise the limits of processes and open files",
            ) from error

    def _fork(self) -> None:
        # Forking is safe here: the parent has one thread, and the lists are mapped already.
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        ends = [w.connection for w in self._workers] + [ours]
        process = context.Process(target=_work, args=(theirs, ends, self._make), daemon=True)
        # A signal before the worker has its own handlers would run the parent's in it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._workers.append(_Worker(process, ours))
        _log.debug("started worker process %d", process.pid)

    def run(
        self, tasks: Iterator[Task | Outcome], tick_s: float
    ) -> Iterator[Result | Outcome | Advance]:
        """Yield what `tasks` come to, as it comes, and outcomes among them as they are.

        An `Advance` comes first, when all workers are at it, and then at least every `tick_s`
        seconds.

        Raises:
            StateError: workers keep dying, or one cannot read an index.
        """
        # Large files, and tasks too long to wait at a worker: they go to one that has nothing else.
        waiting: deque[Task] = deque()
        walking, begun = True, False
        while True:
            while True:
                # The one that has least to do: at the end, all of them end together.
                worker = min(self._workers, key=lambda w: len(w.tasks))
                if len(worker.tasks) >= (1 if waiting else TASKS_AHEAD):
                    break
                item = waiting.popleft() if waiting else next(tasks, None) if walking else None
                if item is None:
                    walking = False
                    break
                if isinstance(item, Outcome):
                    yield item
                elif not self._send(worker, item):
                    waiting.append(item)
            busy = {w.connection: w for w in self._workers if w.tasks}
            if not busy:
                return
            if not begun:
                begun = True
                yield Advance()
            ready = wait(list(busy), tick_s)
            if not ready:
                yield Advance()
            dead: list[_Worker] = []
            failure: StateError | None = None
            for connection in ready:
                assert isinstance(connection, Connection)
                message = self._receive(busy[connection])
                if message is None:
                    dead.append(busy[connection])
                    continue
                if isinstance(message, StateError):
                    failure = message
                    continue
                if isinstance(message, Result):
                    # A large file is a task of its own, and so is the rest of a directory.
                    waiting.extend(single_tasks(message.deferred))
                    message.deferred = []
                yield message
            # What others have found comes before what ends the run.
            if failure is not None:
                raise failure
            for worker in dead:
                yield self._bury(worker)

    def _send(self, worker: _Worker, task: Task) -> bool:
        """Send a task; False if it is too long to wait at a worker that is busy.

        Such a worker may be sending a long result itself: each would wait for the other to read.
        """
        message = _encode(_pack_task(task))
        if worker.tasks and len(message) > MAX_AHEAD_BYTES:
            return False
        worker.tasks.append(task)
        try:
            worker.connection.send_bytes(message)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died; reading from it will say so
        return True

    @staticmethod
    def _receive(worker: _Worker) -> Result | StateError | Advance | None:
        """Return what a worker says, None if it has died; the error is that of an index."""
        try:
            message = _decode_message(worker.connection.recv_bytes())
        except (EOFError, OSError):  # perhaps in the middle of a message
            return None
        if isinstance(message, int):
            group = worker.tasks[0][0]  # a file that takes long has a task of its own
            path = join(group.directory, group.names[0])
            worker.told = Advance(worker.told.bytes_ahead + message, path)
            return Advance(message, path)
        if isinstance(message, str):
            text, _, hint = message.partition("\n")
            return StateError(text, hint=hint or None)
        worker.tasks.popleft()
        result = _unpack_result(message)
        result.told, worker.told = worker.told, Advance()
        return result

    def _bury(self, worker: _Worker) -> Result:
        """Replace a dead worker and return its files as unread.

        Raises:
            StateError: the next one would die as well, or many have.
        """
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join()
        if worker.process.exitcode in _BAD_PAGE_CODES:
            raise bad_page()
        _log.info("a worker process has died: %s", worker.process.exitcode)
        self._replaced += 1
        if self._replaced > MAX_REPLACED:
            raise StateError(
                f"worker processes keep dying (exit code {worker.process.exitcode})",
                hint="the machine may be out of memory; try fewer --jobs",
            )
        self._start()
        return Result(
            outcomes=[
                Outcome(Kind.UNREAD, join(group.directory, name), reason=WORKER_DIED)
                for task in worker.tasks
                for group in task
                for name in group.names
            ],
            told=worker.told,
        )

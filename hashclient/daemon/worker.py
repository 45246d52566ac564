"""One process of a daemon: it accepts, reads, judges, records and answers.

One thread does all that must be quick; paths and descriptors are read in others. What ends at about
the same time is judged together and recorded together, before anybody is answered.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hashclient import __version__
from hashclient.core.digests import CHUNK_BYTES, digest_of
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon.answers import OK, answer, unknown
from hashclient.daemon.connection import Connection, Form
from hashclient.daemon.counts import Count, Row
from hashclient.daemon.ledger import Ledger
from hashclient.daemon.lists import InUse, Lists
from hashclient.daemon.options import Options
from hashclient.daemon.paths import check_path, read_descriptor
from hashclient.daemon.protocol import Command
from hashclient.daemon.uploads import Upload, judge
from hashclient.errors import HashclientError
from hashclient.session import Session
from hashclient.system.log import Log

_log = Log("daemon")

#: Bytes of a stream that are kept, so that it need not be digested in every way it could match; and
#: how many where more connections than `MANY` are open.
KEPT_BYTES = 1 << 20
KEPT_BYTES_OF_MANY = 1 << 18
MANY = 64
#: Connections that are accepted at a time: other processes want some as well.
_ACCEPTED = 8
#: Threads that read paths and descriptors.
_READERS = 8
#: Seconds between two looks at what has gone idle, and at the lists.
SWEEP_S = 1.0
#: Seconds that open requests have to end when the daemon is stopped.
GRACE_S = 5.0

_KINDS = {
    Kind.MATCH: Count.MATCH,
    Kind.CONFLICT: Count.CONFLICT,
    Kind.UNREAD: Count.UNREAD,
}


class Worker:
    """Serves listening sockets until it is told to stop."""

    def __init__(
        self,
        session: Session,
        listeners: Sequence[socket.socket],
        options: Options,
        counts: Row,
        arguments: Sequence[str],
    ) -> None:
        """Open the lists, and log that the daemon starts.

        Raises:
            StateError: no list can be used.
            ConfigError: the seal key is missing or malformed.
        """
        self.options = options
        self.counts = counts
        #: What every connection reads into; it is used up before the next one reads.
        self.buffer = memoryview(bytearray(CHUNK_BYTES))
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._session = session
        self._parent = os.getppid()
        self._arguments = arguments
        self._listeners = listeners
        self._lists = Lists(session)
        self._ledger = Ledger(session, self.lists, counts, arguments, act=options.act)
        #: Matches of paths are recorded apart: to take a file away may take its time.
        self._of_paths: Ledger | None = None
        self._of_paths_lock = threading.Lock()
        self._readers = ThreadPoolExecutor(_READERS, "reader")
        self._connections: set[Connection] = set()
        self._ended: list[Upload] = []
        self._stopping = False
        self._corked: set[Connection] | None = None
        self._clean_for: InUse | None = None
        self._clean_answer = b""
        self.reload_all: Callable[[], None] = self.reload
        self.stop_all: Callable[[], None] = self.stop

    @property
    def lists(self) -> InUse:
        """The lists as they are now."""
        return self._lists.now

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP opens the lists again."""
        loop = self.loop
        for listener in self._listeners:
            loop.add_reader(listener, self._accept, listener)
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # the parent decides what it means
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.call_later(SWEEP_S, self._sweep)
        try:
            loop.run_forever()
        finally:
            for connection in list(self._connections):
                connection.close()
            self._readers.shutdown(wait=False, cancel_futures=True)
            self._ledger.end()
            if self._of_paths is not None:
                self._of_paths.end()
            loop.close()

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Call `do` after so many seconds."""
        self.loop.call_later(seconds, do)

    def stop(self) -> None:
        """Accept no more, let open requests end, and stop."""
        if self._stopping:
            return
        self._stopping = True
        for listener in self._listeners:
            self.loop.remove_reader(listener)
        for connection in [c for c in self._connections if c.is_idle]:
            connection.close()
        if not self._connections:
            self.loop.stop()
        else:
            self.later(GRACE_S, self.loop.stop)

    def reload(self) -> None:
        """Open the lists again."""
        self._refresh(force=True)

    def _refresh(self, *, force: bool = False) -> None:
        if self._lists.refresh(force=force):
            self.counts.add(Count.RELOADS)
            self._ledger.end()
            self._ledger.begin(self.lists)
            with self._of_paths_lock:
                if self._of_paths is not None:
                    self._of_paths.end()
                    self._of_paths = None

    def _sweep(self) -> None:
        if os.getppid() != self._parent:
            self.stop()  # the daemon is gone: nobody would restart this, or could stop it
        now = time.monotonic()
        for connection in list(self._connections):
            if connection.stream_took(now) > self.options.stream_s:
                connection.give_up("the stream takes too long.")
            elif connection.is_idle or connection.stream_took(now):
                if now > connection.last + self.options.idle_s:
                    self.counts.add(Count.IDLE)
                    connection.close()
        self._refresh()
        self._readers.submit(self._prepare_reports)
        self.later(SWEEP_S, self._sweep)

    def _prepare_reports(self) -> None:
        with self._of_paths_lock:
            if self._of_paths is not None:
                self._of_paths.prepare_reports()
        self._ledger.prepare_reports()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # out of descriptors, say: those that are open go on
                _log.info("cannot accept: %s", error.strerror)
                self.loop.remove_reader(listener)
                self.later(SWEEP_S, functools.partial(self._listen_again, listener))
                return
            if len(self._connections) >= self.options.max_connections:
                self.counts.add(Count.REFUSED)
                sock.close()
                continue
            sock.setblocking(False)  # noqa: FBT003 - the socket's own word
            is_unix = sock.family == socket.AF_UNIX
            if not is_unix:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.counts.add(Count.CONNECTIONS)
            self.counts.add(Count.OPEN)
            self._connections.add(Connection(self, sock, is_unix=is_unix))

    def _listen_again(self, listener: socket.socket) -> None:
        if not self._stopping:
            self.loop.add_reader(listener, self._accept, listener)

    def closed(self, connection: Connection) -> None:
        """Take note that a connection is closed."""
        self._connections.discard(connection)
        self.counts.add(Count.OPEN, -1)
        if self._stopping and not self._connections:
            self.loop.stop()

    def upload(self, name: str, answered: Callable[[Outcome | None], None]) -> Upload:
        """Begin a stream."""
        kept = KEPT_BYTES if len(self._connections) <= MANY else KEPT_BYTES_OF_MANY
        return Upload(self.lists, name, answered, time.monotonic(), kept)

    def is_surely_clean(self, data: memoryview) -> bool:
        """Tell of most streams that are there as a whole and match nothing; count those."""
        lists = self.lists
        may_be_listed = lists.may_be_listed
        for algorithm in lists.judge.plan(len(data)):
            if may_be_listed(algorithm, digest_of(algorithm, data)):
                return False
        self._count_clean(len(data))
        return True

    def _count_clean(self, length: int) -> None:
        self.counts.add(Count.BYTES, length)
        self.counts.timed(0.0)
        self._count(None)

    @property
    def clean_answer(self) -> bytes:
        """What is said of a stream that matches nothing."""
        lists = self.lists
        if lists is not self._clean_for:
            self._clean_for = lists
            self._clean_answer = f"stream: {self.answers(None)[0]}".encode()
        return self._clean_answer

    def ended(self, upload: Upload) -> None:
        """Take a stream that has come to its end; what may match is judged with others."""
        if upload.is_surely_clean():
            self._count_clean(upload.digester.length)
            upload.answered(None)
            return
        if not self._ended:
            self.loop.call_soon(self._judge)
        self._ended.append(upload)

    def _judge(self) -> None:
        """Judge what has ended, record what matches, and answer."""
        uploads, self._ended = self._ended, []
        started = time.monotonic()
        outcomes = judge(uploads)
        found = [outcome for outcome in outcomes if outcome is not None]
        if found:
            self._ledger.add(found)
        counts, took = self.counts, time.monotonic() - started
        self._corked = set()
        for upload, outcome in zip(uploads, outcomes, strict=True):
            counts.add(Count.BYTES, upload.digester.length)
            self._count(outcome)
            counts.timed(took)
            upload.answered(outcome)
        # All that a client is told goes out at once.
        corked, self._corked = self._corked, None
        for connection in corked:
            connection.writable()

    def flush(self, connection: Connection) -> None:
        """Write what a connection has to say, soon."""
        if self._corked is None:
            connection.writable()
        else:
            self._corked.add(connection)

    def _count(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self.counts.add(_KINDS[outcome.kind])
        elif self.lists.doubt is None:
            self.counts.add(Count.CLEAN)
        else:
            self.counts.add(Count.NO_VERDICT)

    def answers(self, outcome: Outcome | None, *, every: bool = False) -> list[str]:
        """Return what is said of an input; None is a clean one."""
        return answer(outcome, self.lists.doubt, self.options.no_verdict, every=every)

    def without_verdict(self, word: str, reason: str) -> list[str]:
        """Return what is said of an input that was not read for a reason of the daemon's."""
        self.counts.add(Count.UNREAD)
        return [unknown(word, reason.rstrip("."), self.options.no_verdict)]

    def check_path(self, connection: Connection, command: Command, path: str, form: Form) -> None:
        """Check what is at a path, and answer with what is not clean there."""
        self._readers.submit(self._in_thread, self._check_path, connection, path, form, command)

    def check_descriptor(self, connection: Connection, fd: int, form: Form) -> None:
        """Check the file that a descriptor is, and answer."""

        def told(found: Outcome | None) -> None:
            connection.answer(form, [f"fd[{fd}]: {text}" for text in self.answers(found)])

        upload = self.upload(f"fd[{fd}]", told)
        self._readers.submit(self._in_thread, self._read_descriptor, connection, fd, upload)

    def _in_thread(self, do: Callable[..., None], connection: Connection, *values: object) -> None:
        """Do something in a thread; a failure is a failure of that one request."""
        try:
            do(connection, *values)
        except HashclientError as error:
            _log.info("request failed: %s", error.message)
            self._soon(connection.close)
        except BaseException:
            self._soon(connection.close)
            raise

    def _soon(self, do: Callable[..., None], *values: object) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(do, *values)

    def _read_descriptor(self, _: Connection, fd: int, upload: Upload) -> None:
        try:
            failed = read_descriptor(fd, upload, time.monotonic() + self.options.stream_s)
        finally:
            os.close(fd)
        if failed is None:
            self._soon(self.ended, upload)
        else:
            self._soon(self._failed, upload, failed)

    def _failed(self, upload: Upload, outcome: Outcome) -> None:
        self._count(outcome)
        upload.answered(outcome)

    def _check_path(
        self,
        connection: Connection,
        path: str,
        form: Form,
        command: Command,
    ) -> None:
        lists, clean = self.lists, True
        every, first_only = command is Command.ALLMATCHSCAN, command is Command.SCAN
        if not path.startswith("/"):
            lines = [f"{path}: {unknown('Path', 'not an absolute path', self.options.no_verdict)}"]
            self._soon(self._answer_path, connection, form, lines, [])
            return
        for outcomes in check_path(lists, path):
            found = [o for o in outcomes if o.kind in (Kind.MATCH, Kind.CONFLICT)]
            if found:
                self._record(found, lists)
            if outcomes:
                clean = False
                said = [
                    f"{o.path}: {text}" for o in outcomes for text in self.answers(o, every=every)
                ]
                done = first_only and bool(found)
                said = said[:1] if done else said
                self._soon(self._answer_path, connection, form, said, outcomes, not done)
                if done:
                    return
        if clean:
            self._soon(self._answer_path, connection, form, self._clean(path), [None])
        else:
            self._soon(self._answer_path, connection, form, [], [])

    def _clean(self, path: str) -> list[str]:
        return [f"{path}: {text}" for text in self.answers(None)]

    def _answer_path(
        self,
        connection: Connection,
        form: Form,
        lines: list[str],
        outcomes: Sequence[Outcome | None],
        more: bool = False,  # noqa: FBT001, FBT002 - called by the loop
    ) -> None:
        for outcome in outcomes:
            self._count(outcome)
        connection.answer(form, lines, last=not more)

    def _record(self, found: list[Outcome], lists: InUse) -> None:
        with self._of_paths_lock:
            if self._of_paths is None:
                self._of_paths = Ledger(
                    self._session, lists, self.counts, self._arguments, act=self.options.act
                )
            self._of_paths.add(found)

    def say(self, command: Command | None, *, is_unix: bool) -> str:
        """Return the answer to a command that is about the daemon itself."""
        match command:
            case Command.PING:
                return "PONG"
            case Command.VERSION:
                return self._version()
            case Command.VERSIONCOMMANDS:
                words = " ".join(c.value.decode() for c in Command)
                return f"{self._version()}| COMMANDS: {words}"
            case Command.STATS:
                return self._stats()
            case Command.RELOAD:
                self.reload_all()
                return "RELOADING"
            case Command.SHUTDOWN if is_unix:
                self.loop.call_soon(self.stop_all)
                return OK
        return "UNKNOWN COMMAND"

    def _version(self) -> str:
        return f"hashclient {__version__}/{self.lists.generations}/{time.ctime()}"

    def _stats(self) -> str:
        """Return the state in the form that programs which watch a clamd read."""
        return (
            "POOLS: 1\n\nSTATE: VALID PRIMARY\n"
            f"THREADS: live {len(self._connections)}  idle 0 max {self.options.max_connections}"
            f" idle-timeout {self.options.idle_s:.0f}\n"
            f"QUEUE: {len(self._ended)} items\n\tSTATS 0.000000\n\n"
            "MEMSTATS: heap N/A mmap N/A used N/A free N/A releasable N/A pools 1 pools_used N/A"
            " pools_total N/A\nEND"
        )

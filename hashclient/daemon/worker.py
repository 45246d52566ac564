"""One process of a daemon: it accepts, reads, judges, records and answers.

One thread does the quick work; other threads read paths and descriptors. Streams that end at about
the same time are judged and recorded together, before they are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hashclient.core.digests import CHUNK_BYTES, digest_of
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.version import __version__
from hashclient.daemon.answers import OK, answer, unknown
from hashclient.daemon.connection import Connection
from hashclient.daemon.counts import Count, Row
from hashclient.daemon.descriptors import raise_limit
from hashclient.daemon.doors import Peer, peer_of
from hashclient.daemon.host import STREAM, Client, Form
from hashclient.daemon.ledger import Ledger
from hashclient.daemon.lists import InUse, Lists
from hashclient.daemon.openers import Openers, OpeningJob, worst
from hashclient.daemon.options import Options, Paths
from hashclient.daemon.paths import NOT_YOURS, DescriptorJob, PathJob, PathRecords
from hashclient.daemon.protocol import Command
from hashclient.daemon.records import StreamRecords
from hashclient.daemon.shares import Places, Share
from hashclient.daemon.turns import Job, Turns
from hashclient.daemon.uploads import Upload, judge
from hashclient.scan.checker import DIRECTORIES
from hashclient.scan.kept import may_be_container
from hashclient.scan.opening import FILES_AHEAD
from hashclient.scan.sources.files import OPEN_DEPTH
from hashclient.scan.sources.listing import OF_ALL
from hashclient.scan.spool import MEMORY_BYTES, Spool
from hashclient.session import Session
from hashclient.system.log import Log
from hashclient.system.rights import Rights, can_act_as_others

_log = Log("daemon")

#: Bytes of a stream that are kept, so that not all digests must be computed as it arrives; and how
#: many if more than `MANY` connections are open.
KEPT_BYTES = 1 << 20
KEPT_BYTES_OF_MANY = 1 << 18
MANY = 64
#: Connections accepted at a time, so that other processes get some, too.
_ACCEPTED = 8
#: A stream gets at most this share of the remaining bytes that may be kept.
KEPT_SHARE = 8
#: Fewer bytes are not worth keeping.
LEAST_KEPT_BYTES = 4096
#: Threads that read paths, and threads that read descriptors.
_READERS = 8
#: Threads that open containers, each with a process: those of up to so many bytes, and others.
OPENERS = 8
OPENERS_OF_LARGE = 4
SMALL_BYTES = 8 << 20
#: Descriptors of a thread that reads a path: directories and files of its checker; directories of
#: its walk, and others that are listed ahead, each open twice; one on each file system, and some to
#: start a process.
_PATH_DESCRIPTORS = DIRECTORIES + FILES_AHEAD + 2 * (OPEN_DEPTH + 1 + OF_ALL) + 16
#: Those of a thread that opens a container: its process, and some to start that.
_OPENER_DESCRIPTORS = 6
#: Descriptors reserved for files that are read and written, besides connections: those of all
#: threads, and some for records, logs and lists.
SPARE_DESCRIPTORS = (
    _READERS * _PATH_DESCRIPTORS + (OPENERS + OPENERS_OF_LARGE) * _OPENER_DESCRIPTORS + 128
)
#: Where there are not many more, connections may have one in so many.
_LEAST_SHARE = 4
#: Files that clients hand over may take one in so many descriptors, and so many at most.
_FILES_SHARE, MOST_FILES = 8, 4096
#: Seconds between two checks for idle connections and for new lists.
SWEEP_S = 1.0
#: Seconds in which open requests must end when the daemon is stopped.
GRACE_S = 5.0

_KINDS = {
    Kind.MATCH: Count.MATCH,
    Kind.CONFLICT: Count.CONFLICT,
    Kind.UNREAD: Count.UNREAD,
}


def room_for_clients(descriptors: int) -> int:
    """Return how many connections there may be in a process that may have so many descriptors."""
    return max(1, descriptors // _LEAST_SHARE, descriptors - SPARE_DESCRIPTORS)


class Worker:
    """Serves listening sockets until it is asked to stop."""

    def __init__(
        self,
        session: Session,
        listeners: Sequence[socket.socket],
        options: Options,
        counts: Row,
        arguments: Sequence[str],
        parent: int,
    ) -> None:
        """Open the lists, and log the start of the daemon, whose process is `parent`.

        Raises:
            StateError: no list can be used.
            ConfigError: the seal key is missing or malformed.
        """
        self.options = options
        self.counts = counts
        #: The read buffer of all connections; its bytes are handled before the next connection
        #: reads.
        self.buffer = memoryview(bytearray(CHUNK_BYTES))
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._session = session
        self._parent = parent
        self._arguments = arguments
        self._listeners = listeners
        self._lists = Lists(session)
        self._doubt = self.lists.doubt
        self.is_stopping = False
        limit = raise_limit()
        share = functools.partial(Share, percent=options.user_share)
        self._open_files = share(max(1, min(MOST_FILES, limit // _FILES_SHARE)))
        self._kept = share(MEMORY_BYTES + options.spool_bytes)
        self._connections = Places(
            share(min(options.max_connections, room_for_clients(limit))), counts, time.monotonic
        )
        ledger = functools.partial(Ledger, session, counts, arguments, act=options.act)
        self._records = StreamRecords(self.loop, ledger(self.lists), counts, self._answer_all)
        self._of_paths = PathRecords(ledger)
        self._paths = Turns(self.loop, _READERS, "path", options.user_share)
        self._files = Turns(self.loop, _READERS, "descriptor", options.user_share)
        #: Containers may take long: other files do not wait for them, and neither do
        #: small ones for large ones.
        self._openings = Turns(self.loop, OPENERS, "container", options.user_share)
        self._large = Turns(self.loop, OPENERS_OF_LARGE, "large container", options.user_share)
        self._turns = (self._paths, self._files, self._openings, self._large)
        self._kept_bytes = 0
        self.openers: Openers | None = None
        if options.containers is not None:
            rules = session.settings.config.accept
            self.openers = Openers(options.containers, rules, lambda: session.now().date())
        self._spool = Spool(session.settings.layout.spool, options.spool_bytes)
        self._ended: list[Upload] = []
        self._corked: set[Client] | None = None
        #: The answer to a stream without a match, by the reason why it may be listed all the same.
        self._said: dict[str | None, bytes] = {}
        self.reload_all: Callable[[], None] = self.reload
        self.stop_all: Callable[[], None] = self.stop

    @property
    def lists(self) -> InUse:
        """The lists as they are now."""
        return self._lists.now

    def run(self) -> None:
        """Serve until SIGTERM; SIGHUP opens the lists again."""
        loop = self.loop
        for listener in self._listeners:
            loop.add_reader(listener, self._accept, listener)
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.call_later(SWEEP_S, self._sweep)
        loop.set_exception_handler(self._failed)
        try:
            loop.run_forever()
        finally:
            self.is_stopping = True
            for connection in self._connections:
                connection.close()
            self._records.end()
            if self.openers is not None:
                self.openers.stop_all()
            for turns in self._turns:
                turns.close()
            self._of_paths.end()
            if self.openers is not None:
                self.openers.close()
            loop.close()

    def _failed(self, _: object, context: dict[str, Any]) -> None:
        """Note an unexpected failure, which may leave a client waiting for ever.

        The state after it is unknown, so this process ends, and another one takes its place.
        """
        _log.info("failed: %s", type(context.get("exception")).__name__)
        self.loop.stop()

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Call `do` after this many seconds."""
        self.loop.call_later(seconds, do)

    def stop(self) -> None:
        """Accept no more, let open requests end, and stop."""
        if self.is_stopping:
            return
        self.is_stopping = True
        for listener in self._listeners:
            self.loop.remove_reader(listener)
        for connection in [c for c in self._connections if c.is_silent]:
            connection.close()
        if not len(self._connections):
            self.loop.stop()
        else:
            self.later(GRACE_S, self.loop.stop)

    def reload(self) -> None:
        """Open the lists again."""
        self._refresh(force=True)

    def _refresh(self, *, force: bool = False) -> None:
        if self._lists.refresh(force=force):
            self.counts.add(Count.RELOADS)
        self._records.use(self.lists)
        self._doubt = self.lists.doubt

    def _sweep(self) -> None:
        if os.getppid() != self._parent:
            self.stop()  # the parent is gone: nobody could restart or stop this process
        now = time.monotonic()
        for connection in self._connections:
            connection.close_if_gone()
            if connection.stream_took(now) > self.options.stream_s:
                connection.give_up("the stream takes too long.")
            elif connection.look(now) or (
                connection.waits_for_client and now > connection.last + self.options.idle_s
            ):
                self.counts.add(Count.IDLE)
                connection.close()
        self._connections.forget_searches()
        # No file is isolated because of a list that has become stale.
        self._refresh(force=self.lists.doubt != self._doubt)
        self._records.prepare_reports(self._of_paths.prepare_reports)
        self.later(SWEEP_S, self._sweep)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # for example no descriptors left: open connections go on
                _log.info("cannot accept: %s", error.strerror)
                self.loop.remove_reader(listener)
                self.later(SWEEP_S, functools.partial(self._listen_again, listener))
                return
            peer = peer_of(self._arguments[self._listeners.index(listener)], sock)
            if not self._connections.take(peer):
                self.counts.add(Count.REFUSED)
                sock.close()
                continue
            sock.setblocking(False)  # noqa: FBT003 - the socket's own word
            if not peer.is_local:
                with contextlib.suppress(OSError):  # gone again: a read will show it
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.counts.add(Count.CONNECTIONS)
            self.counts.add(Count.OPEN)
            self._connections.add(Connection(self, sock, peer))

    def _listen_again(self, listener: socket.socket) -> None:
        if not self.is_stopping:
            self.loop.add_reader(listener, self._accept, listener)

    def closed(self, connection: Client) -> None:
        """Note that a connection is closed."""
        self._connections.remove(connection)
        self.counts.add(Count.OPEN, -1)
        for turns in self._turns:
            turns.closed(connection)
        if self.is_stopping and not len(self._connections):
            self.loop.stop()

    def upload(self, name: str, peer: Peer, answered: Callable[[Outcome | None], None]) -> Upload:
        """Begin a stream that came from `peer`."""
        most = KEPT_BYTES if len(self._connections) <= MANY else KEPT_BYTES_OF_MANY
        kept = min(most, max(0, self.options.kept_bytes - self._kept_bytes) // KEPT_SHARE)
        if kept < LEAST_KEPT_BYTES:
            kept = 0
        self._kept_bytes += kept
        spooled = (
            None
            if self.openers is None or name != STREAM
            else self._spool.keep(self._kept.room_of(peer))
        )
        return Upload(self.lists, name, peer.door, answered, time.monotonic(), kept, spooled)

    def release(self, upload: Upload) -> None:
        """Drop a stream; its room is free for others."""
        self._kept_bytes -= upload.reserved_bytes
        upload.reserved_bytes = 0
        upload.let_go()

    def has_room(self, connection: Client) -> None:
        """Go on with work that waited for room in a connection's answers."""
        for turns in self._turns:
            turns.resume(connection)

    def clean_answer(self, data: memoryview) -> bytes | None:
        """Return and count the answer to an ordinary stream without a match; None for others."""
        if self.openers is not None and may_be_container(data):
            return None
        lists = self._lists.now
        may_be_listed = lists.may_be_listed
        for algorithm in lists.judge.plan(len(data)):
            if may_be_listed(algorithm, digest_of(algorithm, data)):
                return None
        doubt = lists.doubt
        self.counts.clean(Count.CLEAN if doubt is None else Count.NO_VERDICT, len(data))
        said = self._said.get(doubt)
        if said is None:
            (text,) = answer(None, doubt, self.options.no_verdict)
            said = self._said[doubt] = f"stream: {text}".encode()
        return said

    def ended(self, upload: Upload, client: Client) -> None:
        """Accept a stream that has ended; a possible container is opened first."""
        if upload.may_be_container():
            self.open_container(OpeningJob(self, upload), upload, client)
        else:
            self.looked_inside(upload)

    def open_container(self, job: Job, upload: Upload, client: Client) -> None:
        """Open a container for a client, in turn."""
        is_large = upload.digester.length > SMALL_BYTES
        (self._large if is_large else self._openings).add(client, job)

    def looked_inside(self, upload: Upload) -> None:
        """Accept a stream whose members are judged; the stream itself is judged soon."""
        self.release(upload)
        if upload.not_opened:
            self.count_not_opened(upload.not_opened)
            self._records.leave(upload.not_opened, upload.lists)
        if upload.is_surely_clean():
            doubt = upload.lists.doubt
            verdict = Count.CLEAN if doubt is None else Count.NO_VERDICT
            self.counts.clean(verdict, upload.digester.length)
            upload.answered(None)
            return
        if not self._ended:
            self.loop.call_soon(self._judge)
        self._ended.append(upload)

    def _judge(self) -> None:
        """Judge the ended streams; answer clean ones, and record the others."""
        uploads, self._ended = self._ended, []
        started = time.monotonic()
        outcomes = [
            worst([*([] if whole is None else [whole]), *upload.inside])
            for upload, whole in zip(uploads, judge(uploads), strict=True)
        ]
        took = time.monotonic() - started
        for upload in uploads:
            self.counts.add(Count.BYTES, upload.digester.length)
            self.counts.timed(took)
        self._answer_all([(u, None) for u, o in zip(uploads, outcomes, strict=True) if o is None])
        found = [(u, o) for u, o in zip(uploads, outcomes, strict=True) if o is not None]
        if found:
            self._records.add(found)

    def _answer_all(self, judged: Sequence[tuple[Upload, Outcome | None]]) -> None:
        """Answer; all answers to one client are sent together."""
        self._corked = set()
        for upload, outcome in judged:
            self.count(outcome, upload.lists)
            upload.answered(outcome)
        corked, self._corked = self._corked, None
        for connection in corked:
            connection.writable()

    def flush(self, connection: Client) -> None:
        """Send a connection's answers soon."""
        if self._corked is None:
            connection.writable()
        else:
            self._corked.add(connection)

    def count(self, outcome: Outcome | None, lists: InUse) -> None:
        """Count an input by its verdict; None means clean."""
        if outcome is not None:
            self.counts.add(_KINDS[outcome.kind])
        elif lists.doubt is None:
            self.counts.add(Count.CLEAN)
        else:
            self.counts.add(Count.NO_VERDICT)

    def count_not_opened(self, kinds: Mapping[str, int]) -> None:
        """Count files of kinds that are not opened."""
        self.counts.add_not_opened(kinds)

    def answers(self, upload: Upload, outcome: Outcome | None) -> list[str]:
        """Return the answer to a stream; the outcome None means clean.

        It depends on the lists that the stream began with, even if more complete ones have come
        since.
        """
        return answer(outcome, upload.lists.doubt, self.options.no_verdict)

    def without_verdict(self, word: str, reason: str) -> list[str]:
        """Return the answer to an input that the daemon did not read, for its own reasons."""
        self.counts.add(Count.UNREAD)
        return [unknown(word, reason.rstrip("."), self.options.no_verdict)]

    def check_path(self, connection: Client, command: Command, path: str, form: Form) -> None:
        """Check the file or tree at a path, and answer with all that is not clean."""
        job = PathJob(self, self._of_paths, connection, command, path, form)
        self._paths.add(connection, job)

    def may_name(self, peer: Peer) -> Rights | None:
        """Return the rights with which paths of `peer` are opened; None for those of the daemon.

        Raises:
            PermissionError: it may name none, since the kernel cannot say what it could read.
        """
        if self.options.paths is Paths.ANY or peer.is_trusted:
            return None
        if peer.rights is None or not can_act_as_others():
            raise PermissionError(errno.EPERM, NOT_YOURS)
        return peer.rights

    def check_descriptor(self, connection: Client, fd: int, form: Form) -> None:
        """Check the file that a descriptor is, and answer."""

        def on_outcome(found: Outcome | None) -> None:
            said = self.answers(upload, found)
            connection.file_ended()
            connection.answer(form, [f"{upload.name}: {text}" for text in said])

        upload = self.upload(f"fd[{fd}]", connection.peer, on_outcome)
        self._files.add(connection, DescriptorJob(self, connection, fd, upload))

    def hold_file(self, peer: Peer) -> bool:
        """Count one more open file of a user; return False if the user may have no more."""
        return self._open_files.take(peer)

    def let_go_of_files(self, peer: Peer, count: int) -> None:
        """Count so many open files less."""
        self._open_files.give_back(peer, count)

    def say(self, command: Command | None, peer: Peer) -> str:
        """Return the answer to a command of `peer` about the daemon itself."""
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
            case Command.RELOAD if peer.is_trusted:
                self.reload_all()
                return "RELOADING"
            case Command.SHUTDOWN if peer.is_trusted:
                self.loop.call_soon(self.stop_all)
                return OK
            case Command.RELOAD | Command.SHUTDOWN:
                return "COMMAND UNAVAILABLE"
        return "UNKNOWN COMMAND"

    def _version(self) -> str:
        return f"hashclient {__version__}/{self.lists.generations}/{time.ctime()}"

    def _stats(self) -> str:
        """Return the state in the form for programs that watch a clamd."""
        return (
            "POOLS: 1\n\nSTATE: VALID PRIMARY\n"
            f"THREADS: live {len(self._connections)}  idle 0 max {self.options.max_connections}"
            f" idle-timeout {self.options.idle_s:.0f}\n"
            f"QUEUE: {len(self._ended)} items\n\tSTATS 0.000000\n\n"
            "MEMSTATS: heap N/A mmap N/A used N/A free N/A releasable N/A pools 1 pools_used N/A"
            " pools_total N/A\nEND"
        )

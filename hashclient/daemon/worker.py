"""A process of a daemon, which accepts clients, watches their connections, and stops cleanly.

If a new client comes and the highest number of connections is reached, another connection is
closed. A silent connection is closed first. If no connection is silent, a connection that sends
very slowly is closed. If no connection is slow, a connection of the user with the most connections
is closed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hashclient.daemon.checks import OPENERS, OPENERS_OF_LARGE, READERS, Checks
from hashclient.daemon.connection import Connection
from hashclient.daemon.counts import Count, Row
from hashclient.daemon.options import Options
from hashclient.daemon.users import Peer, Share, peer_of
from hashclient.scan.check.checker import DIRECTORIES
from hashclient.scan.check.opening_files import FILES_AHEAD
from hashclient.scan.sources.listing import OF_ALL
from hashclient.scan.sources.walk import OPEN_DEPTH
from hashclient.session import Session
from hashclient.system.log import Log

_log = Log("daemon")

#: The highest number of connections that are accepted at a time, so that other processes also
#: accept connections.
_ACCEPTED = 8
#: The highest number of descriptors of a thread that reads a path. The number is the sum of three
#: numbers: the directories and files that the checker opens; two for each directory that the walk
#: has open or lists in advance; and 16 for file systems and for starting a process.
_PATH_DESCRIPTORS = DIRECTORIES + FILES_AHEAD + 2 * (OPEN_DEPTH + 1 + OF_ALL) + 16
#: The highest number of descriptors of a thread that opens a container, for its process and for
#: starting the process.
_OPENER_DESCRIPTORS = 6
#: The number of descriptors that connections may not use, because threads, records, logs and lists
#: need them.
SPARE_DESCRIPTORS = (
    READERS * _PATH_DESCRIPTORS + (OPENERS + OPENERS_OF_LARGE) * _OPENER_DESCRIPTORS + 128
)
#: The highest limit of descriptors that a process sets for itself.
MOST_DESCRIPTORS = 1 << 17
#: Connections may always use 1/`_LEAST_SHARE` of all descriptors.
_LEAST_SHARE = 4
#: Files that clients pass may use 1/`_FILES_SHARE` of all descriptors, and at most `MOST_FILES`.
_FILES_SHARE, MOST_FILES = 8, 4096
#: Seconds between two checks for idle connections and changed lists.
SWEEP_S = 1.0
#: Seconds that a stopped daemon still waits for unanswered requests.
GRACE_S = 5.0


def raise_limit() -> int:
    """Raise the limit of descriptors of this process as far as allowed, and return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def room_for_clients(descriptors: int) -> int:
    """Return how many connections a process with a limit of `descriptors` may have."""
    return max(1, descriptors // _LEAST_SHARE, descriptors - SPARE_DESCRIPTORS)


class Worker:
    """Serves listening sockets in one process until SIGTERM."""

    def __init__(
        self,
        session: Session,
        listeners: Sequence[tuple[socket.socket, str]],
        options: Options,
        counts: Row,
        parent: int,
    ) -> None:
        """Open the lists, and log the start of the daemon; `parent` is the id of its parent.

        `listeners` are the listening sockets and their names.

        Raises:
            StateError: no list can be used.
            ConfigError: the seal key is missing or malformed.
        """
        self._counts = counts
        self._parent = parent
        self._listeners = listeners
        limit = raise_limit()
        most_files = max(1, min(MOST_FILES, limit // _FILES_SHARE))
        names = [name for _, name in listeners]
        self.checks = Checks(session, options, counts, names, parent, most_files)
        self._loop = self.checks.loop
        most = min(options.max_connections, room_for_clients(limit))
        self._connections = Connections(Share(most, options.user_share), counts, time.monotonic)

    def run(self) -> None:
        """Serve clients until SIGTERM; after SIGHUP, open the lists again."""
        loop = self._loop
        for listener, name in self._listeners:
            loop.add_reader(listener, self._accept, listener, name)
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGHUP, functools.partial(self.checks.refresh, force=True))
        loop.call_later(SWEEP_S, self._sweep)
        loop.set_exception_handler(self._failed)
        try:
            loop.run_forever()
        finally:
            self.checks.is_stopping = True
            for connection in self._connections:
                connection.close()
            self.checks.end()

    def _failed(self, _: object, context: dict[str, Any]) -> None:
        """Log an unexpected exception in the event loop, and stop this process.

        This process ends because its state is unknown after the exception, and a client may wait
        for ever. The parent process starts another process.
        """
        _log.info("failed: %s", type(context.get("exception")).__name__)
        self._loop.stop()

    def _stop(self) -> None:
        """Accept no more clients, wait for unanswered requests, and stop."""
        if self.checks.is_stopping:
            return
        self.checks.is_stopping = True
        for listener, _ in self._listeners:
            self._loop.remove_reader(listener)
        for connection in [c for c in self._connections if c.is_silent]:
            connection.close()
        if not len(self._connections):
            self._loop.stop()
        else:
            self._loop.call_later(GRACE_S, self._loop.stop)

    def _sweep(self) -> None:
        if os.getppid() != self._parent:
            self._stop()  # the parent process has ended
        now = time.monotonic()
        for connection in self._connections:
            connection.look(now)
        self._connections.forget_searches()
        self.checks.refresh()
        self.checks.records.prepare_reports()
        self._loop.call_later(SWEEP_S, self._sweep)

    def _accept(self, listener: socket.socket, name: str) -> None:
        for _ in range(_ACCEPTED):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # for example, this process has no free descriptor
                _log.info("cannot accept: %s", error.strerror)
                self._loop.remove_reader(listener)
                self._loop.call_later(SWEEP_S, self._accept_again, listener, name)
                return
            peer = peer_of(name, sock)
            if not self._connections.take(peer):
                self._counts.add(Count.REFUSED)
                sock.close()
                continue
            sock.setblocking(False)  # noqa: FBT003 - the socket's own word
            if not peer.is_local:
                with contextlib.suppress(OSError):  # the client has gone; a read will fail
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._counts.add(Count.CONNECTIONS)
            self._counts.add(Count.OPEN)
            self._connections.add(Connection(self.checks, sock, peer, self._closed))

    def _accept_again(self, listener: socket.socket, name: str) -> None:
        if not self.checks.is_stopping:
            self._loop.add_reader(listener, self._accept, listener, name)

    def _closed(self, connection: Connection) -> None:
        """Remove a closed connection from the list of connections."""
        self._connections.remove(connection)
        self._counts.add(Count.OPEN, -1)
        self.checks.closed(connection)
        if self.checks.is_stopping and not len(self._connections):
            self._loop.stop()


#: A connection that was silent for `SILENT_S` seconds can be closed for a new client. For each
#: user, this process searches for a connection to close at most once in `SEARCH_S` seconds.
SILENT_S = 1.0
SEARCH_S = 0.05


class Connections:
    """The connections of one process: limits their number, and closes some for new clients."""

    def __init__(self, share: Share, counts: Row, clock: Callable[[], float]) -> None:
        """Each connection takes one unit of `share`; `clock` returns the time in seconds."""
        self._share = share
        self._counts = counts
        self._clock = clock
        #: The open connections, the oldest first.
        self._clients: dict[Connection, None] = {}
        self._searched: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._clients))

    def take(self, peer: Peer) -> bool:
        """Take a unit of the share for a new connection; return whether a unit was taken.

        If no unit is free, first close a connection that is silent, that is slow, or whose user has
        the most connections.
        """
        if self._share.take(peer):
            return True
        now = self._clock()
        if now < self._searched.get(peer.user, 0.0):
            return False
        found = self._in_the_way(peer, now)
        if found is None:
            self._searched[peer.user] = now + SEARCH_S
            return False
        found.close()
        return self._share.take(peer)

    def add(self, client: Connection) -> None:
        """Add a connection after `take` has returned True for it."""
        self._clients[client] = None

    def remove(self, client: Connection) -> None:
        """Remove a closed connection, and give back its unit of the share."""
        if client in self._clients:
            del self._clients[client]
            self._share.give_back(client.peer)

    def forget_searches(self) -> None:
        """Forget the times of searches for connections to close; called at intervals."""
        self._searched.clear()

    def _in_the_way(self, peer: Peer, now: float) -> Connection | None:
        """Return the connection to close for a new connection of `peer`, or None."""
        clients = [c for c in self._clients if c.waits_for_client]
        if self._share.left:  # only the limit of this user is reached
            clients = [c for c in clients if c.peer.user == peer.user]
        for client in clients:
            if now > client.last + SILENT_S:
                self._counts.add(Count.IDLE)
                return client
        for client in clients:
            if client.is_slow(now):
                self._counts.add(Count.SLOW)
                return client
        others = [c for c in clients if not c.peer.is_trusted and c.peer.user != peer.user]
        largest = max(others, key=lambda c: self._share.of(c.peer.user), default=None)
        if largest is None:
            return None
        if self._share.of(largest.peer.user) <= self._share.of(peer.user) + 1:
            return None
        self._counts.add(Count.CROWDED)
        return largest

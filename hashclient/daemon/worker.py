"""One process of a daemon: it accepts clients, looks after them, and ends in good order."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

from hashclient.daemon.checks import OPENERS, OPENERS_OF_LARGE, READERS, Checks
from hashclient.daemon.connection import Connection
from hashclient.daemon.counts import Count, Row
from hashclient.daemon.descriptors import raise_limit
from hashclient.daemon.doors import peer_of
from hashclient.daemon.options import Options
from hashclient.daemon.places import Places
from hashclient.daemon.shares import Share
from hashclient.scan.check.checker import DIRECTORIES
from hashclient.scan.check.opening import FILES_AHEAD
from hashclient.scan.sources.listing import OF_ALL
from hashclient.scan.sources.walk import OPEN_DEPTH
from hashclient.session import Session
from hashclient.system.log import Log

_log = Log("daemon")

#: Connections accepted at a time, so that other processes get some, too.
_ACCEPTED = 8
#: Descriptors of a thread that reads a path: directories and files of its checker; directories of
#: its walk, and others that are listed ahead, each open twice; one on each file system, and some to
#: start a process.
_PATH_DESCRIPTORS = DIRECTORIES + FILES_AHEAD + 2 * (OPEN_DEPTH + 1 + OF_ALL) + 16
#: Those of a thread that opens a container: its process, and some to start that.
_OPENER_DESCRIPTORS = 6
#: Descriptors reserved for files that are read and written, besides connections: those of all
#: threads, and some for records, logs and lists.
SPARE_DESCRIPTORS = (
    READERS * _PATH_DESCRIPTORS + (OPENERS + OPENERS_OF_LARGE) * _OPENER_DESCRIPTORS + 128
)
#: Connections may have this part of all descriptors in any case.
_LEAST_SHARE = 4
#: Files that clients hand over may take one in so many descriptors, and so many at most.
_FILES_SHARE, MOST_FILES = 8, 4096
#: Seconds between two checks for idle connections and for new lists.
SWEEP_S = 1.0
#: Seconds in which open requests must end when the daemon is stopped.
GRACE_S = 5.0


def room_for_clients(descriptors: int) -> int:
    """Return how many connections there may be in a process that may have so many descriptors."""
    return max(1, descriptors // _LEAST_SHARE, descriptors - SPARE_DESCRIPTORS)


class Worker:
    """Serves listening sockets until it is asked to stop."""

    def __init__(
        self,
        session: Session,
        listeners: Sequence[tuple[socket.socket, str]],
        options: Options,
        counts: Row,
        parent: int,
    ) -> None:
        """Open the lists, and log the start of the daemon, whose process is `parent`.

        `listeners` are sockets and their names.

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
        self._connections = Places(Share(most, options.user_share), counts, time.monotonic)

    def run(self) -> None:
        """Serve until SIGTERM; SIGHUP opens the lists again."""
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
        """Note an unexpected failure, which may leave a client waiting for ever.

        The state after it is unknown, so this process ends, and another one takes its place.
        """
        _log.info("failed: %s", type(context.get("exception")).__name__)
        self._loop.stop()

    def _stop(self) -> None:
        """Accept no more, let open requests end, and stop."""
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
            self._stop()  # the parent is gone: nobody could restart or stop this process
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
            except OSError as error:  # for example no descriptors left: open connections go on
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
                with contextlib.suppress(OSError):  # gone again: a read will show it
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._counts.add(Count.CONNECTIONS)
            self._counts.add(Count.OPEN)
            self._connections.add(Connection(self.checks, sock, peer, self._closed))

    def _accept_again(self, listener: socket.socket, name: str) -> None:
        if not self.checks.is_stopping:
            self._loop.add_reader(listener, self._accept, listener, name)

    def _closed(self, connection: Connection) -> None:
        """Note that a connection is closed."""
        self._connections.remove(connection)
        self._counts.add(Count.OPEN, -1)
        self.checks.closed(connection)
        if self.checks.is_stopping and not len(self._connections):
            self._loop.stop()

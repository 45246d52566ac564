"""The connections of one process, and which of them make place for others.

If all connections are taken, room is made: a silent client is closed first, then one that sends
very slowly, then one of the user who has the most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hashclient.daemon.connection import Connection
from hashclient.daemon.counts import Count, Row
from hashclient.daemon.doors import Peer
from hashclient.daemon.shares import Share

#: A connection that was silent for this long is closed if there are too many and others come; and
#: the seconds between two searches for such connections by one user.
SILENT_S = 1.0
SEARCH_S = 0.05


class Places:
    """The connections of one process: how many there may be, and who makes place for others."""

    def __init__(self, share: Share, counts: Row, clock: Callable[[], float]) -> None:
        """Allow as many connections as `share` has; `clock` gives seconds."""
        self._share = share
        self._counts = counts
        self._clock = clock
        #: By age, the oldest first.
        self._clients: dict[Connection, None] = {}
        self._searched: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._clients))

    def take(self, peer: Peer) -> bool:
        """Take a place for one more connection; return whether there is one.

        If there is none, a connection is closed that is silent or slow, or whose user has the most.
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
        """Note a connection for which a place was taken."""
        self._clients[client] = None

    def remove(self, client: Connection) -> None:
        """Note that a connection is closed; its place is free."""
        if client in self._clients:
            del self._clients[client]
            self._share.give_back(client.peer)

    def forget_searches(self) -> None:
        """Forget when places were searched: called from time to time."""
        self._searched.clear()

    def _in_the_way(self, peer: Peer, now: float) -> Connection | None:
        """Return the connection that is closed for one of `peer`."""
        clients = [c for c in self._clients if c.waits_for_client]
        if self._share.left:  # its user has reached the part of one user, and makes place itself
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
        if largest is None or self._share.left:
            return None
        if self._share.of(largest.peer.user) <= self._share.of(peer.user) + 1:
            return None
        self._counts.add(Count.CROWDED)
        return largest

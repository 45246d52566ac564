"""What each user may have of a daemon, so that one leaves something for the others.

All connections of one user, be it a user id or an address, share what the user may have: a part of
all connections, of all open files that clients hand over, and of all bytes of streams that are
kept. Root and the user of the daemon are bounded by the whole alone. If all connections are taken,
room is made: a silent client is closed first, then one that sends very slowly, then one of the user
who has the most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from hashclient.daemon.counts import Count, Row
from hashclient.daemon.doors import Peer

if TYPE_CHECKING:
    from hashclient.daemon.host import Client

#: A connection that was silent for this long is closed if there are too many and others come; and
#: the seconds between two searches for such connections by one user.
SILENT_S = 1.0
SEARCH_S = 0.05


class Share:
    """Something of which there is so much for all users, and a part of that for each.

    Several threads may use it.
    """

    def __init__(self, most: int, percent: int) -> None:
        """There are `most` for all; each user may have `percent` of them, one at least."""
        self._most = most
        self._of_each = max(1, most * percent // 100)
        self._lock = threading.Lock()
        self._taken = 0
        self._by_user: dict[str, int] = {}

    def take(self, peer: Peer, count: int = 1) -> bool:
        """Take so many if there are and the user may have them; return whether it is so."""
        with self._lock:
            mine = self.of(peer.user) + count
            of_each = self._most if peer.is_trusted else self._of_each
            if self._taken + count > self._most or mine > of_each:
                return False
            self._taken += count
            self._by_user[peer.user] = mine
            return True

    def give_back(self, peer: Peer, count: int = 1) -> None:
        """Take so many back."""
        with self._lock:
            self._taken -= count
            self._by_user[peer.user] -= count
            if not self._by_user[peer.user]:
                del self._by_user[peer.user]

    def of(self, user: str) -> int:
        """Return how many a user has."""
        return self._by_user.get(user, 0)

    @property
    def is_full(self) -> bool:
        """Whether there are no more for anybody."""
        return self._taken >= self._most

    def room_of(self, peer: Peer) -> Room:
        """Return the part of one user, to take from."""
        return Room(self, peer)


class Room(msgspec.Struct, frozen=True):
    """The part of one user in a share; it is a `scan.spool.Room`."""

    share: Share
    peer: Peer

    def take(self, count: int) -> bool:
        """Take so many, if the user may have them."""
        return self.share.take(self.peer, count)

    def give_back(self, count: int) -> None:
        """Take so many back."""
        self.share.give_back(self.peer, count)


class Places:
    """The connections of one process: how many there may be, and who makes place for others."""

    def __init__(self, share: Share, counts: Row, clock: Callable[[], float]) -> None:
        """Have as many as there are in `share`."""
        self._share = share
        self._counts = counts
        self._clock = clock
        #: By age, the oldest first.
        self._clients: dict[Client, None] = {}
        self._searched: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._clients))

    def take(self, peer: Peer) -> bool:
        """Take a place for one more connection; return whether there is one.

        A connection that is no use to its client, or of which its user has too many, is closed.
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

    def add(self, client: Client) -> None:
        """Note a connection for which a place was taken."""
        self._clients[client] = None

    def remove(self, client: Client) -> None:
        """Note that a connection is closed; its place is free."""
        if client in self._clients:
            del self._clients[client]
            self._share.give_back(client.peer)

    def forget_searches(self) -> None:
        """Forget when places were searched: called from time to time."""
        self._searched.clear()

    def _in_the_way(self, peer: Peer, now: float) -> Client | None:
        """Return the connection that is closed for one of `peer`."""
        clients = [c for c in self._clients if c.waits_for_client]
        if not self._share.is_full:  # it has all that one user may have
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
        if largest is None or not self._share.is_full:
            return None
        if self._share.of(largest.peer.user) <= self._share.of(peer.user) + 1:
            return None
        self._counts.add(Count.CROWDED)
        return largest

"""The limits of each user of a daemon, so that one leaves something for the others.

All connections of one user, be it a user id or an address, share what the user may have: a part of
all connections, of all open files that clients hand over, and of all bytes of streams that are
kept. Root and the user of the daemon are bounded by the whole alone.
"""

from __future__ import annotations

import threading

import msgspec

from hashclient.daemon.doors import Peer


class Share:
    """A number that all users share; each user may take a part of it.

    Several threads may use it.
    """

    def __init__(self, most: int, percent: int) -> None:
        """All users may have `most`; each one may have `percent` of them, but at least one."""
        self._most = most
        self._of_each = max(1, most * percent // 100)
        self._lock = threading.Lock()
        self._taken = 0
        self._by_user: dict[str, int] = {}

    def take(self, peer: Peer, count: int = 1) -> bool:
        """Take `count` if so many are left and the user may have them; return whether it did."""
        with self._lock:
            mine = self.of(peer.user) + count
            of_each = self._most if peer.is_trusted else self._of_each
            if self._taken + count > self._most or mine > of_each:
                return False
            self._taken += count
            self._by_user[peer.user] = mine
            return True

    def give_back(self, peer: Peer, count: int = 1) -> None:
        """Give back `count` that were taken."""
        with self._lock:
            self._taken -= count
            self._by_user[peer.user] -= count
            if not self._by_user[peer.user]:
                del self._by_user[peer.user]

    def of(self, user: str) -> int:
        """Return how many a user has."""
        return self._by_user.get(user, 0)

    @property
    def left(self) -> int:
        """How many are left for all."""
        return self._most - self._taken

    def room_of(self, peer: Peer) -> Room:
        """Return the part of one user, to take from."""
        return Room(self, peer)


class Room(msgspec.Struct, frozen=True):
    """The part of one user in a share; it is a `scan.check.kept.Room`."""

    share: Share
    peer: Peer

    def take(self, count: int) -> bool:
        """Take `count` if so many are left and the user may have them; return whether it did."""
        return self.share.take(self.peer, count)

    def give_back(self, count: int) -> None:
        """Give back `count` that were taken."""
        self.share.give_back(self.peer, count)


class HandedOver:
    """Open files that a client has handed over and that are not answered."""

    def __init__(self, share: Share, peer: Peer) -> None:
        """Start without files; `share` counts those of the user."""
        self._share, self._peer = share, peer
        #: All files, and those that the user's share counts.
        self._files = self._counted = 0

    @property
    def is_beyond(self) -> bool:
        """Whether a file is beyond its user's share; each client may have one such file."""
        return self._files > self._counted

    def begin(self) -> None:
        """Take one more."""
        self._files += 1
        self._counted += self._share.take(self._peer)

    def end(self) -> None:
        """Note that one is answered."""
        self._files -= 1
        if self._counted > self._files:
            self._counted -= 1
            self._share.give_back(self._peer)

    def let_go(self) -> None:
        """Let go of all: the connection is closed."""
        if self._counted:
            self._share.give_back(self._peer, self._counted)
            self._counted = 0

"""The users of a daemon: finds the user of a client, and limits what each user can use.

The `door` of a client is a text with the name of the socket and of the user, which records of
streams contain in place of a path. The text contains no port and no process id of the client, so
content that a client sends repeatedly has one record.

A user is a user id or an IP address. One user can use only a part of all connections, of all open
files that clients pass, and of all kept bytes of streams, so that the rest is free for other users.
For root and the user of the daemon, only the limits for all users together apply.
"""

from __future__ import annotations

import array
import socket
import struct
import threading

import msgspec

from hashclient.core.match import SERVED_PREFIX
from hashclient.system.rights import Rights
from hashclient.system.strangers import trusted_users

#: struct ucred of unix(7): the process id, user id and group id of a client.
_PEER = struct.Struct("=iII")
#: SO_PEERGROUPS of asm-generic/socket.h, and the highest number of bytes that Python's getsockopt
#: accepts.
_SO_PEERGROUPS, _GROUPS_BYTES = 59, 1024


class Peer(msgspec.Struct, frozen=True):
    """The user at the other end of a connection.

    `door` names the client in records. `user` is a user id or an IP address; the limits of one user
    apply to all connections with the same `user`. `rights` are the ids of the client, or None at a
    TCP port, where the kernel does not know the ids.
    """

    door: str
    user: str
    is_local: bool
    rights: Rights | None = None

    @property
    def is_trusted(self) -> bool:
        """Whether the user is root or the user of the daemon."""
        return self.rights is not None and self.rights.uid in trusted_users()


def peer_of(listener: str, sock: socket.socket) -> Peer:
    """Return the user at the other end of `sock`, accepted at the address `listener`.

    For a Unix socket, the kernel returns the ids of the client; for a TCP port, the user is the IP
    address of the client.
    """
    is_local = sock.family == socket.AF_UNIX
    door = f"{SERVED_PREFIX}{listener}"
    try:
        if is_local:
            about = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            _, uid, gid = _PEER.unpack(about)
            rights = Rights(uid, gid, _groups_of(sock))
            return Peer(f"{door},uid={uid}", f"uid={uid}", is_local, rights)
        address = sock.getpeername()[0]
        return Peer(f"{door},from={address}", f"from={address}", is_local)
    except OSError:  # the client has closed the connection; a read will fail
        return Peer(door, "", is_local)


def _groups_of(sock: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of a client; none if they are unknown or too many."""
    try:
        return tuple(
            array.array("I", sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES))
        )
    except OSError:
        return ()


class Share:
    """A limited number of units, for example connections; each user may take a part of them.

    Several threads may call the methods of the same `Share`.
    """

    def __init__(self, most: int, percent: int) -> None:
        """Let all users take `most` units, and each user `percent` % of them, at least 1."""
        self._most = most
        self._of_each = max(1, most * percent // 100)
        self._lock = threading.Lock()
        self._taken = 0
        self._by_user: dict[str, int] = {}

    def take(self, peer: Peer, count: int = 1) -> bool:
        """Take `count` units, if both limits allow it; return whether they were taken."""
        with self._lock:
            mine = self.of(peer.user) + count
            of_each = self._most if peer.is_trusted else self._of_each
            if self._taken + count > self._most or mine > of_each:
                return False
            self._taken += count
            self._by_user[peer.user] = mine
            return True

    def give_back(self, peer: Peer, count: int = 1) -> None:
        """Return `count` units that were taken."""
        with self._lock:
            self._taken -= count
            self._by_user[peer.user] -= count
            if not self._by_user[peer.user]:
                del self._by_user[peer.user]

    def of(self, user: str) -> int:
        """Return how many units of the share a user has taken."""
        return self._by_user.get(user, 0)

    @property
    def left(self) -> int:
        """The number of units of the share that no user has taken."""
        return self._most - self._taken

    def room_of(self, peer: Peer) -> Room:
        """Return an object that takes units of the share for one user."""
        return Room(self, peer)


class Room(msgspec.Struct, frozen=True):
    """Takes units of a share for one user; implements `scan.check.kept.Room`."""

    share: Share
    peer: Peer

    def take(self, count: int) -> bool:
        """Take `count` units, if both limits allow it; return whether they were taken."""
        return self.share.take(self.peer, count)

    def give_back(self, count: int) -> None:
        """Return `count` units that were taken."""
        self.share.give_back(self.peer, count)


class HandedOver:
    """Counts the open files that a client has passed and that are not answered yet."""

    def __init__(self, share: Share, peer: Peer) -> None:
        """Begin without files; `share` limits the files of all clients of a user."""
        self._share, self._peer = share, peer
        #: The number of open files of the client, and the number of these files that `share`
        #: counts.
        self._files = self._counted = 0

    @property
    def is_beyond(self) -> bool:
        """Whether the client has passed one file beyond the limit of its user; one is accepted."""
        return self._files > self._counted

    def begin(self) -> None:
        """Count one more open file of the client."""
        self._files += 1
        self._counted += self._share.take(self._peer)

    def end(self) -> None:
        """Count one file less, because it is answered."""
        self._files -= 1
        if self._counted > self._files:
            self._counted -= 1
            self._share.give_back(self._peer)

    def let_go(self) -> None:
        """Give back all units of the share, because the connection is closed."""
        if self._counted:
            self._share.give_back(self._peer, self._counted)
            self._counted = 0

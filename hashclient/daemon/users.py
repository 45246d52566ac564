"""The users of a daemon: the user of a client, and the limits of each user.

The `door` of a client is the name of the socket and of the user. Records of streams have this name
in place of a path. The name contains no port and no process of the client, so content that a client
sends often has one record.

A user is a user id or an address. All connections of one user share a part of all connections, of
all open files that clients pass, and of all kept bytes of streams. So no user can take all
connections, files or bytes. Only the limits for all users apply to root and the user of the daemon.
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

#: struct ucred of unix(7): process, user and group of a client.
_PEER = struct.Struct("=iII")
#: SO_PEERGROUPS of asm-generic/socket.h, and the most bytes that Python takes from a socket.
_SO_PEERGROUPS, _GROUPS_BYTES = 59, 1024


class Peer(msgspec.Struct, frozen=True):
    """The client's side of a connection.

    `door` names the client in records. All connections of one `user`, a user id or an address,
    share the limits of one user. `rights` are None for a client at a port, who has no credentials.
    """

    door: str
    user: str
    is_local: bool
    rights: Rights | None = None

    @property
    def is_trusted(self) -> bool:
        """Whether the client is root or the user of the daemon."""
        return self.rights is not None and self.rights.uid in trusted_users()


def peer_of(listener: str, sock: socket.socket) -> Peer:
    """Return the user at the other end of `sock`, which was accepted at the address `listener`.

    At a socket in the file system, the kernel says who connected; at a port, there is an address.
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
    except OSError:  # the client is gone; a read will fail
        return Peer(door, "", is_local)


def _groups_of(sock: socket.socket) -> tuple[int, ...]:
    """Return the other groups of a client; none if the kernel names none, or very many."""
    try:
        return tuple(
            array.array("I", sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES))
        )
    except OSError:
        return ()


class Share:
    """A number that all users share; each user may take a part of it.

    Several threads may use the same `Share`.
    """

    def __init__(self, most: int, percent: int) -> None:
        """All users together may use `most`; each user may use `percent`, but at least 1."""
        self._most = most
        self._of_each = max(1, most * percent // 100)
        self._lock = threading.Lock()
        self._taken = 0
        self._by_user: dict[str, int] = {}

    def take(self, peer: Peer, count: int = 1) -> bool:
        """Take `count`, if the share and the user allow it; return whether they were taken."""
        with self._lock:
            mine = self.of(peer.user) + count
            of_each = self._most if peer.is_trusted else self._of_each
            if self._taken + count > self._most or mine > of_each:
                return False
            self._taken += count
            self._by_user[peer.user] = mine
            return True

    def give_back(self, peer: Peer, count: int = 1) -> None:
        """Return `count` that were taken."""
        with self._lock:
            self._taken -= count
            self._by_user[peer.user] -= count
            if not self._by_user[peer.user]:
                del self._by_user[peer.user]

    def of(self, user: str) -> int:
        """Return how many units of the share a user has."""
        return self._by_user.get(user, 0)

    @property
    def left(self) -> int:
        """Return how many units are left for all users."""
        return self._most - self._taken

    def room_of(self, peer: Peer) -> Room:
        """Return the part of one user, to take from."""
        return Room(self, peer)


class Room(msgspec.Struct, frozen=True):
    """The part of one user in a share; it is a `scan.check.kept.Room`."""

    share: Share
    peer: Peer

    def take(self, count: int) -> bool:
        """Take `count`, if the share and the user allow it; return whether they were taken."""
        return self.share.take(self.peer, count)

    def give_back(self, count: int) -> None:
        """Return `count` that were taken."""
        self.share.give_back(self.peer, count)


class HandedOver:
    """Open files that a client has passed, and that are not answered yet."""

    def __init__(self, share: Share, peer: Peer) -> None:
        """Start without files; `share` counts the files of the user."""
        self._share, self._peer = share, peer
        #: All files, and the files that the user's share counts.
        self._files = self._counted = 0

    @property
    def is_beyond(self) -> bool:
        """Whether a file exceeds its user's share; one such file is allowed for each client."""
        return self._files > self._counted

    def begin(self) -> None:
        """Take one more file."""
        self._files += 1
        self._counted += self._share.take(self._peer)

    def end(self) -> None:
        """Note that one file is answered."""
        self._files -= 1
        if self._counted > self._files:
            self._counted -= 1
            self._share.give_back(self._peer)

    def let_go(self) -> None:
        """Release all files: the connection is closed."""
        if self._counted:
            self._share.give_back(self._peer, self._counted)
            self._counted = 0

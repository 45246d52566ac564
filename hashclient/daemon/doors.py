"""Who a client is, and the names of doors: through which socket something came, and from whom.

Records of streams have such a name in place of a path. A name has no port and no process of the
client: so content that a client sends often has one record.
"""

from __future__ import annotations

import array
import socket
import struct

import msgspec

from hashclient.core.match import SERVED_PREFIX
from hashclient.system.rights import Rights
from hashclient.system.strangers import trusted_users

#: struct ucred of unix(7): process, user and group of a client.
_PEER = struct.Struct("=iII")
#: SO_PEERGROUPS of asm-generic/socket.h, and the most bytes that Python takes from a socket.
_SO_PEERGROUPS, _GROUPS_BYTES = 59, 1024


class Peer(msgspec.Struct, frozen=True):
    """The other side of a connection.

    `door` names it in records. All connections of one `user`, a user id or an address, share the
    limits of one user. `rights` are None for a client at a port, who has no credentials.
    """

    door: str
    user: str
    is_local: bool
    rights: Rights | None = None

    @property
    def is_trusted(self) -> bool:
        """Whether it is root or the user of the daemon."""
        return self.rights is not None and self.rights.uid in trusted_users()


def peer_of(listener: str, sock: socket.socket) -> Peer:
    """Return who is at the other end of `sock`, which was accepted at the address `listener`.

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
    except OSError:  # gone again: a read will show it
        return Peer(door, "", is_local)


def _groups_of(sock: socket.socket) -> tuple[int, ...]:
    """Return the other groups of a client; none if the kernel does not say, or there are many."""
    try:
        return tuple(
            array.array("I", sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES))
        )
    except OSError:
        return ()

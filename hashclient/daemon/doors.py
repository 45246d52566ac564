"""The names of doors: through which socket something came, and from which client.

Records of streams have them in place of a path. A name has no port and no process of the client, so
that the same content from one client has one record however often it comes.
"""

from __future__ import annotations

import socket
import struct

from hashclient.core.match import SERVED_PREFIX

#: struct ucred of unix(7): process, user and group of a client.
_PEER = struct.Struct("=iII")


def door_of(listener: str, sock: socket.socket) -> str:
    """Return the name of data through `sock`, which was accepted at the address `listener`.

    At a socket in the file system, the client is named by its user id; at a port, by its address.
    """
    try:
        if sock.family == socket.AF_UNIX:
            about = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            _, uid, _ = _PEER.unpack(about)
            return f"{SERVED_PREFIX}{listener},uid={uid}"
        return f"{SERVED_PREFIX}{listener},from={sock.getpeername()[0]}"
    except OSError:  # gone again: a read will show it
        return f"{SERVED_PREFIX}{listener}"

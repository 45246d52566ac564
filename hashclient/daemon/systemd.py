"""The interface to systemd: sockets that it passes, and the message that the daemon is ready.

sd_listen_fds(3) and sd_notify(3) describe both; without systemd the functions do nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from hashclient.system.log import Log

_log = Log("daemon")
_FIRST_DESCRIPTOR = 3


def passed_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets passed to this process; children do not inherit them."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = []
    for fd in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        os.set_inheritable(fd, False)  # noqa: FBT003 - the function's own word
        sockets.append(socket.socket(fileno=fd))
    return sockets


def notify(environ: MutableMapping[str, str], state: str) -> None:
    """Send systemd a message, such as `READY=1`."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), address)
    except OSError as error:
        _log.info("cannot notify systemd: %s", error.strerror)

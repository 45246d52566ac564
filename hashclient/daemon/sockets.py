"""Opens listening sockets, at a port or in a directory that no other user may change.

The directory of a Unix socket stays open. The socket is made, gets its mode, and is removed by the
descriptor of this directory, without following a symbolic link. The path is refused if other users
may change a directory of the path, because these users could put their own socket at the path and
answer in place of the daemon.

systemd may pass sockets to the daemon (sd_listen_fds(3)), and gets a message when the daemon is
ready (sd_notify(3)). Without systemd, both steps are skipped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

from hashclient.core.errors import LockedError, StateError, UsageError
from hashclient.daemon.options import Address, TcpAddress, UnixAddress
from hashclient.system.beneath import Directory, Identity, identity_of
from hashclient.system.files import make_public_dir, writer_lock
from hashclient.system.listening import cannot_listen
from hashclient.system.log import Log
from hashclient.system.strangers import Stranger, stranger_on, trusted_users
from hashclient.system.text import printable

BACKLOG = 1024


def listen(address: Address, mode: int, stack: contextlib.ExitStack) -> socket.socket:
    """Listen at an address; closing `stack` removes a socket in the file system.

    A socket in the file system gets the mode `mode`. A socket that no daemon uses any more is
    replaced.

    Raises:
        StateError: the address cannot be used.
        UsageError: other users may change a directory of the path.
    """
    if isinstance(address, UnixAddress):
        try:
            return _listen_unix(address.path, mode, stack)
        except (LockedError, UsageError):
            raise
        except (OSError, StateError) as error:
            what = error.message if isinstance(error, StateError) else error.strerror or error
            raise StateError(
                f"cannot listen at {address}: {what}",
                hint="see whether this user may make files there, or give --bind another path",
            ) from error
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise cannot_listen(str(address), error) from error


def _listen_unix(path: Path, mode: int, stack: contextlib.ExitStack) -> socket.socket:
    """Listen at a path in the file system.

    1. No other user may change a directory of the path; a missing directory is made.
    2. The directory of the socket is opened and stays open.
    3. A lock file in the directory is locked, so that two daemons that start at the same time do
       not remove each other's socket.
    4. A socket of a daemon that has ended is removed.
    5. The new socket gets its mode before the daemon listens.
    """
    _refuse(path, stranger_on(path.parent))
    if not path.parent.exists():
        # All users may enter the directory, because the group and the mode of the socket decide who
        # may use the socket.
        umask = os.umask(0o022)
        try:
            make_public_dir(path.parent)
        finally:
            os.umask(umask)
    directory = stack.enter_context(Directory.given(path.parent))
    lock = path.with_name(f"{path.name}.lock")
    _refuse_owner(path, lock, directory.status(lock.name))
    busy = f"cannot listen at {UnixAddress(path)}: another daemon is there"
    hint = "end that one, or give --bind another path"
    stack.enter_context(writer_lock(lock, busy=busy, hint=hint, directory=directory.fd))
    status = directory.status(path.name)
    if status is not None:
        if not stat.S_ISSOCK(status.st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket is in its place")
        _refuse_owner(path, path, status)
        directory.unlink_if(path.name, identity_of(status))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        stack.callback(_remove, directory, path.name, _bind(listener, directory, path.name, mode))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind(listener: socket.socket, directory: Directory, name: str, mode: int) -> Identity:
    """Bind a socket to a name in a directory and set its mode; return its device and inode."""
    umask = os.umask(0o777 & ~mode)
    try:
        listener.bind(f"/proc/self/fd/{directory.fd}/{name}")
    finally:
        os.umask(umask)
    fd = directory.open(name, os.O_PATH)
    try:
        # The mode of the socket is set again, because a default access control list of the
        # directory may have changed the mode.
        os.chmod(f"/proc/self/fd/{fd}", mode)  # noqa: PTH101 - the open file, under any name
        return identity_of(os.fstat(fd))
    finally:
        os.close(fd)


def _remove(directory: Directory, name: str, identity: Identity) -> None:
    with contextlib.suppress(OSError):  # the directory may have been removed already
        directory.unlink_if(name, identity)


def _refuse_owner(path: Path, found: Path, status: os.stat_result | None) -> None:
    if status is not None and status.st_uid not in trusted_users():
        _refuse(path, Stranger(str(found), f"user {status.st_uid}"))


def _refuse(path: Path, stranger: Stranger | None) -> None:
    if stranger is not None:
        raise UsageError(
            f"cannot listen at {UnixAddress(path)}: {stranger.who} may change"
            f" {printable(stranger.path)}",
            hint="anyone who may do that could answer in place of the daemon; give --bind a path"
            " where only root and the user of the daemon may write",
        )


def name_of(listener: socket.socket) -> str:
    """Return the address of a listening socket in the form of the option `--bind`."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return str(UnixAddress(Path(os.fsdecode(name))))
    return str(TcpAddress(name[0], name[1]))


_log = Log("daemon")
_FIRST_DESCRIPTOR = 3
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


def passed_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that systemd has passed; child processes do not inherit them.

    Raises:
        StateError: a passed descriptor is no listening socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return [_passed(fd) for fd in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))]


def _passed(fd: int) -> socket.socket:
    """Return the socket of a descriptor that systemd has passed.

    Raises:
        StateError: the descriptor is no listening socket, so no client would ever be accepted.
    """
    try:
        os.set_inheritable(fd, False)  # noqa: FBT003 - the function's own word
        sock = socket.socket(fileno=fd)
        if sock.family in _FAMILIES and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return sock
        sock.detach()
    except (OSError, OverflowError):
        pass
    raise StateError(
        f"cannot listen: descriptor {fd} from systemd is no listening socket",
        hint="give the socket unit ListenStream=, and Accept=no",
    )


def notify(environ: MutableMapping[str, str], state: str) -> None:
    """Send systemd a message, for example `READY=1`."""
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

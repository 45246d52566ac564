"""The sockets of a daemon: their modes, and directories that others may change are refused."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashclient.core.errors import StateError, UsageError
from hashclient.daemon.options import TcpAddress, UnixAddress
from hashclient.daemon.sockets import _passed, listen, notify, passed_sockets
from tests.kit.attacker import ATTACKER, needs_root, open_ground


@pytest.fixture
def ground() -> Iterator[Path]:
    with open_ground() as made:
        yield made


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_socket_has_its_mode_and_is_removed_in_the_end(ground: Path, mode: int) -> None:
    path = ground / "made" / "socket"
    umask = os.umask(0o022)
    try:
        with contextlib.ExitStack() as stack:
            listener = listen(UnixAddress(path), mode, stack)
            stack.callback(listener.close)
            assert stat.S_IMODE(path.stat().st_mode) == mode
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
            with contextlib.ExitStack() as second, pytest.raises(StateError):
                listen(UnixAddress(path), mode, second)
            assert path.exists()
    finally:
        assert os.umask(umask) == 0o022
    assert not path.exists()


def test_a_socket_that_nobody_uses_is_replaced_and_a_file_is_not(ground: Path) -> None:
    path = ground / "socket"
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(path))
    with contextlib.ExitStack() as stack:
        stack.callback(listen(UnixAddress(path), 0o600, stack).close)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        # At the end, another program may have made a file with the name of the socket.
        path.unlink()
        path.write_text("a file")
    assert path.read_text() == "a file"
    with contextlib.ExitStack() as stack, pytest.raises((StateError, UsageError)):
        listen(UnixAddress(path), 0o600, stack)
    assert path.read_text() == "a file"


@needs_root
@pytest.mark.parametrize("what", ["directory", "above", "socket", "lock", "mode"])
def test_no_socket_is_made_where_others_may_exchange_it(ground: Path, what: str) -> None:
    place = ground / "above" / "directory"
    place.mkdir(parents=True)
    if what == "socket":
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.bind(str(place / "socket"))
    if what == "lock":
        (place / "socket.lock").touch()
    if what == "mode":
        place.chmod(0o777)
    else:
        places = {"directory": place, "above": place.parent, "socket": place / "socket"}
        os.chown(places.get(what, place / "socket.lock"), ATTACKER, ATTACKER)
    with contextlib.ExitStack() as stack, pytest.raises(UsageError):
        listen(UnixAddress(place / "socket"), 0o600, stack)


def test_a_port_is_listened_at_by_one(ground: Path) -> None:
    with contextlib.ExitStack() as stack:
        listener = listen(TcpAddress("127.0.0.1", 0), 0o600, stack)
        stack.callback(listener.close)
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 5).close()
        with pytest.raises(StateError):
            listen(TcpAddress("127.0.0.1", port), 0o600, stack)


@pytest.mark.parametrize(
    ("pid", "count"), [("1", "1"), (None, "1"), ("own", "x"), ("own", ""), ("own", "0")]
)
def test_sockets_that_are_passed_to_others_are_not_taken(pid: str | None, count: str) -> None:
    environ = {"LISTEN_FDS": count, "LISTEN_FDNAMES": "name", "OTHER": "stays"}
    if pid is not None:
        environ["LISTEN_PID"] = str(os.getpid()) if pid == "own" else pid
    assert passed_sockets(environ) == []
    assert environ == {"OTHER": "stays"}


def test_sockets_that_are_passed_are_taken_and_named_and_no_other_descriptor(
    ground: Path,
) -> None:
    """The test starts a process, because passed descriptors are a process's first descriptors."""
    path = ground / "socket"
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(path))
        unix.listen()
        fds = [unix.fileno(), tcp.fileno()]
        for count in range(3):
            script = _PASSED.format(fds=fds, count=count)
            done = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, pass_fds=fds, check=True
            )
            names = [f"unix:{path}", f"127.0.0.1:{tcp.getsockname()[1]}"]
            assert done.stdout.decode().split() == [f"{name}=False" for name in names[:count]]


_PASSED = """
import fcntl, os
kept = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in {fds}]  # none of them is written over
for n, fd in enumerate(kept):
    os.dup2(fd, 3 + n)
from hashclient.daemon.sockets import name_of, passed_sockets
environ = dict(LISTEN_PID=str(os.getpid()), LISTEN_FDS="{count}", LISTEN_FDNAMES="x")
found = passed_sockets(environ)
assert not environ and [sock.fileno() for sock in found] == [*range(3, 3 + {count})]
print(*(f"{{name_of(sock)}}={{sock.get_inheritable()}}" for sock in found))
"""


def test_a_passed_descriptor_that_no_client_can_reach_is_refused() -> None:
    with contextlib.ExitStack() as stack:
        near, _far = map(stack.enter_context, socket.socketpair())
        others = [
            stack.enter_context(socket.socket(socket.AF_INET, kind))
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        ]
        null = stack.enter_context(Path("/dev/null").open("rb"))
        for fd in (
            null.fileno(),
            near.fileno(),
            *(sock.fileno() for sock in others),
            1 << 20,
            1 << 40,
        ):
            with pytest.raises(StateError, match=f"descriptor {fd} from systemd"):
                _passed(fd)
        assert near.send(b"x") == 1  # the descriptor is still open


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, is_abstract: bool) -> None:
    name = f"@hashclient-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name[1:]}" if is_abstract else name)
        systemd.settimeout(5)
        notify({"NOTIFY_SOCKET": name}, "READY=1")
        assert systemd.recv(99) == b"READY=1"
    for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}):
        notify(environ, "READY=1")  # without a service manager, `notify` has no effect

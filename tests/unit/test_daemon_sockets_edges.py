"""Sockets of a daemon: each refusal with its message, and what is left after a failure."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashclient.core.errors import HashclientError, LockedError, StateError, UsageError
from hashclient.daemon import sockets as module
from hashclient.daemon.options import Address, TcpAddress, UnixAddress
from hashclient.daemon.sockets import BACKLOG, listen, name_of, notify, passed_sockets
from tests.kit import open_files
from tests.kit.attacker import ATTACKER, needs_root, open_ground

HINT = "see whether this user may make files there, or give --bind another path"
OTHERS = (
    "anyone who may do that could answer in place of the daemon; give --bind a path where only root"
    " and the user of the daemon may write"
)


@pytest.fixture
def ground() -> Iterator[Path]:
    files, umask = open_files(), os.umask(0o022)
    with open_ground() as made:
        yield made
    assert (os.umask(umask), open_files()) == (0o022, files)


@contextlib.contextmanager
def listening(address: Address, mode: int = 0o600) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack, listen(address, mode, stack) as listener:
        yield listener


def refused(address: Address) -> HashclientError:
    with pytest.raises(HashclientError) as found, listening(address):
        pass
    return found.value


def test_a_file_in_its_place_is_an_error_of_the_state(ground: Path) -> None:
    path = ground / "socket"
    path.touch()
    error = refused(UnixAddress(path))
    what = "a file that is no socket is in its place"
    assert (error.message, error.hint) == (f"cannot listen at unix:{path}: {what}", HINT)
    assert type(error) is StateError and path.exists()


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_only_a_socket_is_replaced(ground: Path, kind: str) -> None:
    path = ground / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(ground / "other"))
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("other")
    else:
        os.mkfifo(path)
    before = path.lstat()
    assert type(refused(UnixAddress(path))) is StateError
    assert path.lstat() == before and (ground / "other").is_socket()


def test_a_file_in_place_of_a_directory_is_an_error_in_the_words_of_the_system(
    ground: Path,
) -> None:
    (ground / "file").touch()
    path = ground / "file" / "socket"
    error = refused(UnixAddress(path))
    assert type(error) is StateError
    assert error.message.startswith(f"cannot listen at unix:{path}: ")
    assert error.hint == HINT


def test_a_second_daemon_at_the_same_path_is_refused(ground: Path) -> None:
    path = ground / "socket"
    with listening(UnixAddress(path)):
        error = refused(UnixAddress(path))
        assert type(error) is LockedError
        assert error.message == f"cannot listen at unix:{path}: another daemon is there"
        assert error.hint == "end that one, or give --bind another path"
        assert path.is_socket()
    assert not path.exists()
    with listening(UnixAddress(path)):
        assert path.is_socket()


@needs_root
@pytest.mark.parametrize("name", ["socket", "socket.lock"])
def test_a_file_of_another_user_in_its_place_is_named(ground: Path, name: str) -> None:
    path = ground / "socket"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(ground / name))
    os.chown(ground / name, ATTACKER, ATTACKER)
    error = refused(UnixAddress(path))
    who = f"user {ATTACKER} may change {ground / name}"
    assert (error.message, error.hint) == (f"cannot listen at unix:{path}: {who}", OTHERS)
    assert type(error) is UsageError


@pytest.mark.parametrize("below", ["", "made/deep"])
def test_a_directory_that_everybody_may_write_to_is_named(ground: Path, below: str) -> None:
    ground.chmod(0o777)
    path = ground / below / "socket"
    error = refused(UnixAddress(path))
    who = f"everybody may change {ground}"
    assert (error.message, error.hint) == (f"cannot listen at unix:{path}: {who}", OTHERS)
    assert list(ground.iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_missing_directories_are_open_to_all_and_the_socket_to_whom_its_mode_says(
    ground: Path, umask: int
) -> None:
    path = ground / "a" / "b" / "socket"
    before = os.umask(umask)
    try:
        with listening(UnixAddress(path), 0o620):
            modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, *path.parents[:2])]
            assert modes == [0o620, 0o755, 0o755]
            assert stat.S_IMODE(path.with_name("socket.lock").stat().st_mode) == 0o600
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@pytest.mark.parametrize("step", ["bind", "listen", "chmod"])
def test_after_a_failure_nothing_is_open(
    ground: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    class Failing(socket.socket):
        pass

    if step == "chmod":
        monkeypatch.setattr(os, "chmod", fail)
    else:
        monkeypatch.setattr(Failing, step, fail, raising=False)
        monkeypatch.setattr(socket, "socket", Failing)
    path = ground / "socket"
    error = refused(UnixAddress(path))
    assert error.message == f"cannot listen at unix:{path}: Input/output error"
    if step != "chmod":
        assert not path.exists()


def test_a_name_that_is_too_long_for_a_socket_is_an_error_of_the_state(ground: Path) -> None:
    error = refused(UnixAddress(ground / ("n" * 108)))
    assert error.message.endswith("path too long")
    assert error.hint == HINT


@pytest.mark.parametrize("act", ["nothing", "removed", "replaced", "moved"])
def test_at_the_end_only_the_own_socket_is_removed(ground: Path, act: str) -> None:
    place = ground / "d"
    path = place / "socket"
    with contextlib.ExitStack() as opened:
        with listening(UnixAddress(path)) as listener:
            assert listener.family == socket.AF_UNIX and not listener.get_inheritable()
            if act == "removed":
                path.unlink()
            if act == "replaced":
                path.rename(place / "kept")
                other = opened.enter_context(socket.socket(socket.AF_UNIX))
                other.bind(str(path))
            if act == "moved":
                place.rename(ground / "e")
        assert path.exists() == (act == "replaced")
        assert not (ground / "e" / "socket").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_has_a_name_which_the_error_has_if_it_is_in_use(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ).close()
    except OSError:
        pytest.skip("this machine has no such address")
    with listening(TcpAddress(host, 0)) as listener:
        port = listener.getsockname()[1]
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        assert (name_of(listener), listener.get_inheritable()) == (shown, False)
        error = refused(TcpAddress(host, port))
        assert error.message == f"cannot listen at {shown}: address already in use"
        assert error.hint == "another daemon may use this port; end it, or choose another port"


def test_many_clients_may_wait_to_be_accepted(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BACKLOG == 1024
    asked: list[object] = []
    create = socket.create_server

    def noting(*given: object, **how: object) -> socket.socket:
        asked.append(how["backlog"])
        return create(*given, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_server", noting)
    with listening(TcpAddress("127.0.0.1", 0)), listening(UnixAddress(ground / "s")) as listener:
        assert asked == [BACKLOG]
        assert name_of(listener).startswith("unix:/")


@pytest.mark.parametrize("host", ["127.0.0.1", "unix"])
def test_a_socket_of_systemd_is_taken_over(ground: Path, host: str) -> None:
    address: Address = UnixAddress(ground / "s") if host == "unix" else TcpAddress(host, 0)
    with listening(address) as listener:
        fd = os.dup(listener.fileno())
        os.set_inheritable(fd, True)
        with module._passed(fd) as found:
            assert (found.fileno(), found.family) == (fd, listener.family)
            assert found.getsockname() == listener.getsockname()
            assert not found.get_inheritable()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_sockets_of_systemd_are_the_descriptors_from_three_on(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(module, "_passed", asked.append)
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count)}
    assert len(passed_sockets(environ)) == count
    assert (asked, environ) == ([3, 4, 5][:count], {})


def test_a_descriptor_of_systemd_that_is_no_socket_has_advice() -> None:
    with Path("/dev/null").open("rb") as null, pytest.raises(StateError) as error:
        module._passed(fd := null.fileno())
    said = f"cannot listen: descriptor {fd} from systemd is no listening socket"
    assert error.value.message == said
    assert error.value.hint == "give the socket unit ListenStream=, and Accept=no"


def test_a_message_that_systemd_does_not_get_is_logged(
    ground: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hashclient.daemon")
    notify({"NOTIFY_SOCKET": str(ground / "nobody")}, "READY=1")
    notify({}, "READY=1")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["cannot notify systemd: No such file or directory"]

"""Containers that take long to open do not delay files, streams or small containers."""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.archives import gzip_of, zip_of
from hashclient.containers.cage import MAX_VAIN_STARTS
from hashclient.daemon.checks import OPENERS, OPENERS_OF_LARGE, SMALL_BYTES
from tests.clamd import Daemon, everything, instream, open_for_reading, serving
from tests.kit import csv_of, make_state, wait_until, write_tree

LISTED = b"listed one"
FOUND = b"stream: Hashclient.base.e-1 FOUND\0"
#: A container that unpacks to gigabytes, which takes long. The entry has no size, so the container
#: is read to its end.
PIECE = gzip_of(bytes(16 << 20))
SMALL = PIECE * 200
LARGE = PIECE * (SMALL_BYTES // len(PIECE) + 1)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED}, sized=False)})
    with serving(state, tmp_path / "run", "--jobs", 1) as daemon:
        yield daemon


def opening(daemon: Daemon) -> list[int]:
    """Return the processes that have begun to open containers."""
    (pid,) = daemon.workers()
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += map(int, (task / "children").read_text().split())
    return [child for child in children if seconds_of(child) > 0.4]


def seconds_of(pid: int) -> float:
    """Return the processor time of a process, including the tenth of a second of its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def held_up(daemon: Daemon, container: bytes, threads: int) -> Iterator[None]:
    """Send two containers for each thread of the daemon, and suspend the opening processes."""
    with contextlib.ExitStack() as stack:
        for _ in range(2 * threads):
            sock = stack.enter_context(daemon.connect())
            sock.sendall(instream(container))
        wait_until(lambda: len(opening(daemon)) >= threads, daemon.process.pid)
        stopped = opening(daemon)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert len(stopped) == threads
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGKILL)


def ask_about_everything_else(daemon: Daemon, tree: Path) -> None:
    """Ask about a stream, an open file and a path, none of them a container."""
    assert daemon.ask(instream(LISTED)) == FOUND
    for name, answer in (("clean", b": OK\0"), ("listed", b": Hashclient.base.e-1 FOUND\0")):
        fd = open_for_reading(tree / name)
        assert daemon.ask_descriptor(fd).endswith(answer)
        os.close(fd)
        assert daemon.ask(b"zSCAN %s\0" % os.fsencode(tree / name)).endswith(answer)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {"clean": b"a benign dummy", "listed": LISTED, "in.zip": zip_of({"x": LISTED})}
    return write_tree(tmp_path / "t", files)


@pytest.mark.slow
def test_large_containers_hold_up_nothing_small(daemon: Daemon, tree: Path) -> None:
    with held_up(daemon, LARGE, OPENERS_OF_LARGE):
        ask_about_everything_else(daemon, tree)
        assert daemon.ask(instream((tree / "in.zip").read_bytes())) == FOUND
        fd = open_for_reading(tree / "in.zip")
        assert daemon.ask_descriptor(fd).endswith(b": Hashclient.base.e-1 FOUND\0")
        os.close(fd)


@pytest.mark.deep
def test_small_containers_that_take_long_hold_up_no_files(daemon: Daemon, tree: Path) -> None:
    with held_up(daemon, SMALL, OPENERS):
        ask_about_everything_else(daemon, tree)


@pytest.mark.slow
def test_a_process_that_opens_and_dies_is_no_verdict(daemon: Daemon) -> None:
    """Some content makes an opening process die; the daemon still opens other containers."""
    for _ in range(MAX_VAIN_STARTS):
        with daemon.connect() as sock:
            sock.sendall(instream(SMALL))
            wait_until(lambda: bool(opening(daemon)), daemon.process.pid)
            for pid in opening(daemon):
                os.kill(pid, signal.SIGKILL)
            assert b"Hashclient.Unread FOUND" in everything(sock)
    assert daemon.ask(instream(zip_of({"x": LISTED}))) == FOUND


@pytest.mark.slow
@pytest.mark.parametrize("way", ["stream", "descriptor", "path"])
def test_no_container_is_opened_for_a_client_that_has_gone(
    daemon: Daemon, tmp_path: Path, way: str
) -> None:
    path = write_tree(tmp_path / "t", {"a": SMALL}) / "a"
    with daemon.connect() as sock:
        if way == "stream":
            sock.sendall(instream(SMALL))
        elif way == "path":
            sock.sendall(b"zSCAN %s\0" % os.fsencode(path))
        else:
            sock.sendall(b"zFILDES\0")
            fd = open_for_reading(path)
            rights = array.array("i", [fd])
            sock.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            os.close(fd)
        wait_until(lambda: bool(opening(daemon)), daemon.process.pid)
        (pid,) = opening(daemon)
        os.kill(pid, signal.SIGSTOP)  # the stopped process does not finish its work
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), daemon.process.pid)
    assert daemon.ask(instream(zip_of({"x": LISTED}))) == FOUND

"""Leases: what they prove, and that a broken lease does not end the process."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hashclient.system.leases import can_lease, is_unwritable

#: A script that takes a lease while another process opens the file, and prints whether it survived.
HOLDER = """
import fcntl, os, signal, sys
from hashclient.system.leases import can_lease
signal.signal(signal.SIGIO, signal.SIG_DFL)
if sys.argv[2] == "ready":
    assert can_lease() and can_lease()
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
child = os.fork()
if child == 0:
    try:
        os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)
    except BlockingIOError:
        os._exit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
print("still here")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file on a file system with leases, or skip the test."""
    path = tmp_path / "f"
    path.write_bytes(b"content")
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        pytest.skip("no leases here")
    finally:
        os.close(fd)
    return path


@pytest.fixture
def handler() -> object:
    """Set the default action of SIGIO, and restore the former action afterwards."""
    before = signal.getsignal(signal.SIGIO)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGIO, before)


def test_it_shows_whether_anybody_has_a_file_open_for_writing(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    other = os.open(path, os.O_RDONLY)
    assert is_unwritable(fd) is True
    writer = os.open(path, os.O_WRONLY)
    assert is_unwritable(fd) is False
    os.close(writer)
    # The lease was given up, so another process may open the file for writing.
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.close(writer)
    assert is_unwritable(fd) is True
    for each in (fd, other):
        os.close(each)


def test_where_the_kernel_does_not_say_it_is_not_known() -> None:
    fd = os.open("/proc/version", os.O_RDONLY)
    assert is_unwritable(fd) in {None, True}
    os.close(fd)
    assert is_unwritable(fd) is None


@pytest.mark.parametrize(
    ("ready", "code", "said"), [("ready", 0, "still here\n"), ("not", -signal.SIGIO, "")]
)
def test_a_program_that_opens_a_leased_file_ends_no_scan(
    path: Path, ready: str, code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDER, path, ready], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, said), done.stderr


@pytest.mark.usefixtures("handler")
def test_a_program_that_has_another_use_for_the_signal_keeps_it() -> None:
    def own(*_: object) -> None:
        pass

    signal.signal(signal.SIGIO, own)
    assert not can_lease()
    assert signal.getsignal(signal.SIGIO) is own


@pytest.mark.usefixtures("handler")
def test_a_thread_leases_only_where_the_signal_is_ignored_already() -> None:
    told: list[bool] = []

    def ask() -> None:
        thread = threading.Thread(target=lambda: told.append(can_lease()))
        thread.start()
        thread.join()

    ask()
    assert signal.getsignal(signal.SIGIO) is signal.SIG_DFL
    assert can_lease()
    ask()
    assert told == [False, True]

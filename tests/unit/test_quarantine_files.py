"""Programs that still have a file open: found by name, or at least noticed."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hashclient.quarantine.isolators.files import UNSEEN, open_elsewhere

#: This program maps its input file, closes the file, and waits.
MAPPER = """
import mmap, os, signal
held = mmap.mmap(0, 0, prot=mmap.PROT_READ)
os.closerange(3, 100)  # Python keeps a copy of the descriptor
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
print(flush=True)
signal.pause()
"""


@contextmanager
def opened(path: Path, *, unlinked: bool) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    if unlinked:
        path.unlink()
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def held(path: Path, *command: str) -> Iterator[int]:
    """Run a program whose input is the file; yield its process number after its first output."""
    with path.open("rb") as stream:
        holder = subprocess.Popen(command, stdin=stream, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "f"
    path.write_text("f")
    return path


def has_leases(path: Path) -> bool:
    with opened(path, unlinked=False) as fd:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            return False
    return True


@pytest.mark.parametrize("unlinked", [True, False])
@pytest.mark.parametrize("leases", [True, False])
def test_a_process_that_has_a_file_open_is_found(
    file: Path, unlinked: bool, leases: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "no leases here")

    if not leases:
        monkeypatch.setattr(fcntl, "fcntl", refuse)
    script = "import signal; print(flush=True); signal.pause()"
    with held(file, sys.executable, "-c", script) as pid:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        with opened(file, unlinked=unlinked) as fd:
            assert open_elsewhere(fd) == [f"{name} ({pid})"]


@pytest.mark.parametrize("unlinked", [True, False])
def test_a_file_that_nobody_else_has_open_is_free(file: Path, unlinked: bool) -> None:
    with opened(file, unlinked=unlinked) as fd:
        assert open_elsewhere(fd) == []  # this process does not count
        assert open_elsewhere(fd) == []  # and no lease is left


def test_a_file_that_is_mapped_and_not_open_is_in_use(file: Path) -> None:
    if not has_leases(file):
        pytest.skip("this file system has no leases")
    with held(file, sys.executable, "-c", MAPPER), opened(file, unlinked=True) as fd:
        assert open_elsewhere(fd) == [UNSEEN]

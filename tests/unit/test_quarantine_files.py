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

from hashclient.quarantine.isolators import files
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


@pytest.mark.parametrize(
    ("target", "links", "is_held"),
    [
        ("{file}", 1, True),
        ("{file}", 2, True),
        ("{file}", 0, False),
        ("{file} (deleted)", 0, True),
        ("{file} (deleted)", 1, True),
        ("../f", 1, False),
        ("../f (deleted)", 0, False),
        ("{file}-other", 1, False),
    ],
)
def test_only_a_descriptor_that_may_be_the_file_is_looked_at(
    tmp_path: Path, file: Path, target: str, links: int, is_held: bool
) -> None:
    """A look at another one could wait for a server that hangs."""
    os.link(file, tmp_path / "f (deleted)")
    (tmp_path / "f-other").touch()
    (tmp_path / "fd").mkdir()
    (tmp_path / "fd" / "3").symlink_to("pipe:[1]")
    (tmp_path / "fd" / "4").symlink_to(target.format(file=file))
    fields = list(file.stat())
    fields[3] = links
    status = os.stat_result(fields)
    assert files._holds(tmp_path / "fd", status) is is_held


@pytest.mark.parametrize(
    ("links", "programs", "text"),
    [
        (0, 0, []),
        (1, 0, ["1 other name of it remains"]),
        (2, 0, ["2 other names of it remain"]),
        (0, 1, ["still open in p0"]),
        (1, 5, ["1 other name of it remains", "still open in p0, p1, p2, p3, p4"]),
        (0, 6, ["still open in p0, p1, p2, p3, p4 and 1 more"]),
        (0, 9, ["still open in p0, p1, p2, p3, p4 and 4 more"]),
    ],
)
def test_what_remains_of_a_file_is_said(
    file: Path, monkeypatch: pytest.MonkeyPatch, links: int, programs: int, text: list[str]
) -> None:
    monkeypatch.setattr(files, "open_elsewhere", lambda _: [f"p{n}" for n in range(programs)])
    for number in range(links):
        os.link(file, file.with_name(f"link-{number}"))
    with opened(file, unlinked=True) as fd:
        assert list(files._remains(fd)) == text

"""Files that are opened ahead: in order, with the usual outcome, and none left open."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashclient.scan.check.opening_files import FILE_FLAGS, FILES_AHEAD, WAITS, OpenedAhead, Waits
from tests.kit import open_files, write_tree


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    names = {f"{n:03d}": f"content {n}".encode() for n in range(3 * FILES_AHEAD)}
    tree = write_tree(tmp_path / "t", names)
    fd = os.open(tree, os.O_RDONLY)
    before = open_files()
    yield tree, fd
    assert open_files() == before
    os.close(fd)


def taken(ahead: OpenedAhead, count: int) -> list[bytes | int | None]:
    """Return the content of the next files, or the number of the error."""
    found: list[bytes | int | None] = []
    for _ in range(count):
        try:
            fd = ahead.take()
        except OSError as error:
            found.append(error.errno)
        else:
            found.append(os.read(fd, 100))
            os.close(fd)
    return found


def test_files_come_in_their_order_and_errors_in_their_place(directory: tuple[Path, int]) -> None:
    tree, fd = directory
    os.mkfifo(tree / "pipe")
    (tree / "link").symlink_to("000")
    names = ["005", "gone", "002", "link", *(f"{n:03d}" for n in range(50)), "pipe"]
    ahead = OpenedAhead(names, FILE_FLAGS | os.O_NOFOLLOW, fd)
    expected: list[bytes | int] = [b"content 5", errno.ENOENT, b"content 2", errno.ELOOP]
    expected += [f"content {n}".encode() for n in range(50)]
    assert taken(ahead, len(names)) == [*expected, b""]
    ahead.close()


def test_some_are_open_ahead_and_what_is_not_taken_is_closed(directory: tuple[Path, int]) -> None:
    tree, fd = directory
    before = open_files()
    ahead = OpenedAhead(sorted(os.listdir(tree)), FILE_FLAGS, fd)  # noqa: PTH208 - names alone
    assert open_files() == before
    taken(ahead, 1)
    assert open_files() == before + FILES_AHEAD - 1
    ahead.close()
    assert open_files() == before


def test_too_few_descriptors_for_many_make_no_file_unread(directory: tuple[Path, int]) -> None:
    tree, fd = directory
    names = sorted(os.listdir(tree))  # noqa: PTH208 - names alone
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 6, hard))
        ahead = OpenedAhead(names, FILE_FLAGS, fd)
        found = taken(ahead, len(names))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == [f"content {n}".encode() for n in range(len(names))]


def test_files_that_were_given_back_are_opened_when_they_are_taken(
    directory: tuple[Path, int],
) -> None:
    tree, fd = directory
    names = ["gone", *sorted(os.listdir(tree))]  # noqa: PTH208 - names alone
    before = open_files()
    ahead = OpenedAhead(names, FILE_FLAGS, fd)
    found = taken(ahead, 3)
    ahead.give_back()
    assert open_files() == before
    found += taken(ahead, 1)
    assert open_files() == before  # no further file may be opened ahead
    ahead.give_back()
    found += taken(ahead, len(names) - 4)
    assert found == [errno.ENOENT, *(f"content {n}".encode() for n in range(len(names) - 1))]


def test_whether_a_thread_waits_is_said_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits()
    first = waits.count()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        signal.sigtimedwait([], 0.01)
        os._exit(0)
    os.close(writing)
    os.read(reading, 1)  # wait until the child process has ended
    os.waitpid(pid, 0)
    os.close(reading)
    assert waits.count() > first

    now = 0
    monkeypatch.setattr(Waits, "count", staticmethod(lambda: now))
    for waited, left_out, files, often in (
        (WAITS, 0, 8, False),
        (100, 0, 50, True),
        (0, 0, 0, True),  # no file was read, so nothing shows whether reading waits
        (10, 0, 500, False),
        # Nearly all of the waiting happened while an archive was opened, and does not count.
        (100, 98, 50, False),
    ):
        waits.begin()
        now += left_out
        waits.leave_out(now - left_out)
        now += waited - left_out
        waits.end(files)
        assert waits.often == often

"""Listed directories and files at the edges: long paths, exchanged names, and times."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hashclient.scan.sources import finding_again as module
from hashclient.scan.sources.finding_again import (
    Entry,
    MovedError,
    has_changed,
    inode_of,
    is_glibc,
    is_mounted_on,
    is_newer,
    is_same,
    lagging_ns,
    looked_at,
    open_directory,
    open_listed,
)
from hashclient.scan.values.work import Identity
from tests.kit import fast_directory, open_files


@pytest.mark.parametrize(("name", "count"), [("d" * 199, 42), ("\N{PARTY POPPER}" * 60, 17)])
def test_a_path_that_is_too_long_for_one_call_is_opened_in_pieces(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    """A path may have few characters and many bytes; the kernel takes 4095 bytes."""
    with fast_directory() as top:
        fd = open_directory(str(top))
        for _ in range(count):
            os.mkdir(name, dir_fd=fd)
            inner = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.symlink(".", "link", dir_fd=fd)
        inode, before = os.fstat(fd).st_ino, open_files()
        long = "/".join([name] * count)
        monkeypatch.chdir(top)
        for path in (long, f"{top}/{long}", f"{top}//{long.replace('/', '//', 9)}", f"{long}/."):
            opened = open_directory(path)
            assert os.fstat(opened).st_ino == inode
            os.close(opened)
        os.close(open_directory(f"{long}/link", follow=True))
        for path, error in (("link", NotADirectoryError), ("no/d", FileNotFoundError)):
            with pytest.raises(error):
                open_directory(f"{long}/{path}")
        assert open_files() == before
        os.close(fd)


@pytest.mark.parametrize(
    ("identity", "is_it"),
    [((7, 5), True), ((None, 5), True), ((8, 5), False), ((7, 6), False), ((None, 6), False)],
)
def test_a_directory_is_the_listed_one_by_its_numbers(identity: Identity, is_it: bool) -> None:
    status: Any = SimpleNamespace(st_dev=7, st_ino=5)
    assert is_same(status, identity) is is_it


def test_without_an_identity_the_directory_at_the_path_is_opened(tmp_path: Path) -> None:
    fd, status = open_listed(str(tmp_path), None)
    os.close(fd)
    assert status.st_ino == tmp_path.stat().st_ino
    with pytest.raises(FileNotFoundError):
        open_listed(f"{tmp_path}/no", None)


@pytest.mark.parametrize("name", ["open_directory", "_open_beside"])
def test_only_a_directory_that_is_gone_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls: list[str] = []

    def fail(path: str, *_: object, **__: object) -> int:
        calls.append(path)
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(OSError, match="broken"):
        open_listed(f"{tmp_path}/no", (1, 1))
    assert calls == [f"{tmp_path}/no"]


@pytest.mark.parametrize("path", ["was", "was//", "./was", "link/was", "link//was/"])
def test_a_renamed_directory_is_found_beside_its_path_however_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "now").mkdir()
    (tmp_path / "link").symlink_to(".")
    status = (tmp_path / "now").stat()
    monkeypatch.chdir(tmp_path)
    before = open_files()
    fd, opened = open_listed(path, (status.st_dev, status.st_ino))
    os.close(fd)
    assert opened.st_ino == status.st_ino
    assert open_files() == before


def test_a_renamed_directory_of_the_root_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")
    with os.scandir("/") as entries:
        (status, *_) = [
            entry.stat()
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and entry.inode() == entry.stat().st_ino
        ]
    fd, opened = open_listed("/no such directory", (status.st_dev, status.st_ino))
    os.close(fd)
    assert opened.st_ino == status.st_ino


def looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Let each look at a path show the next of the files `answers`; return them, and the looks."""
    statuses: dict[str, Any] = {"-": FileNotFoundError()}
    for name in sorted(set("".join(answers.values())) - {"-"}):
        (tmp_path / name).touch()
        statuses[name] = (tmp_path / name).stat()
    rest, looks = {path: iter(names) for path, names in answers.items()}, list[str]()

    def look(path: str) -> object:
        looks.append(path)
        return statuses[next(rest[path])]

    monkeypatch.setattr(module, "_looked_at", look)
    return statuses, looks


@pytest.mark.parametrize(
    ("answers", "looks", "found"),
    [
        ({"a": "1", "b": "2"}, "ab", "12"),
        ({"a": "11", "b": "12", "c": "3"}, "abcab", "123"),
        ({"a": "112", "b": "111", "c": "-"}, "abcabab", "21-"),
        ({"a": "-", "b": "-"}, "ab", "--"),
        ({"a": "1" * 13, "b": "1" * 13, "c": "2"}, "abc" + "ab" * 12, "112"),
    ],
)
def test_two_paths_with_one_file_are_looked_at_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, str],
    looks: str,
    found: str,
) -> None:
    """Two paths may lead to one file, so the looks end after twelve attempts."""
    statuses, seen = looking(tmp_path, monkeypatch, answers)
    assert looked_at([*answers]) == [statuses[name] for name in found]
    assert "".join(seen) == looks


def test_a_path_that_is_given_twice_is_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses, looks = looking(tmp_path, monkeypatch, {"a": "11"})
    assert looked_at(["a", "a"]) == [statuses["1"]] * 2
    assert looks == ["a", "a"]


@pytest.mark.parametrize(
    ("mtime", "ctime", "after_ns", "has"),
    [
        (5, 9, 0, True),
        (5, 9, 20_000_000, True),
        (5, 9, 20_000_001, False),
        (9, 5, 20_000_000, True),
        (9, 5, 20_000_001, False),
        (5, 8, 1 << 60, True),
        (6, 9, 1 << 60, True),
    ],
)
def test_a_change_shows_in_the_times_or_was_too_recent_to_show(
    monkeypatch: pytest.MonkeyPatch, mtime: int, ctime: int, after_ns: int, has: bool
) -> None:
    """A change in the same tick of the clock, 20 ms at most, may have the same time."""
    now: Any = SimpleNamespace(st_mtime_ns=mtime, st_ctime_ns=ctime)
    before: Any = now
    if after_ns == 1 << 60:
        before = SimpleNamespace(st_mtime_ns=5, st_ctime_ns=9)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda _: now)
        found = has_changed(3, before, 9 + after_ns)
    assert found is has


@pytest.mark.parametrize(("coarse", "now"), [(0, 10_000_000), (989_999_999, 999_999_999)])
def test_the_clock_of_files_may_be_late_by_a_tick(
    monkeypatch: pytest.MonkeyPatch, coarse: int, now: int
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: {5: coarse}[clock])
    assert lagging_ns() == now
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _: 990_000_001)
    assert lagging_ns() == 1_000_000_000


def test_a_name_is_asked_about_without_opening_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a named pipe would wait for a writer, and a link leads elsewhere."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    kinds: list[int] = []

    def born(fd: int) -> int:
        kinds.append(stat.S_IFMT(os.fstat(fd).st_mode))
        return 10

    monkeypatch.setattr(module, "born_ns", born)
    fd = open_directory(str(tmp_path))
    before = open_files()
    assert is_newer(fd, "pipe", 9)
    assert is_newer(fd, "link", 9)
    assert kinds == [stat.S_IFIFO, stat.S_IFLNK]
    assert not is_mounted_on(fd, "pipe")
    assert not is_mounted_on(fd, "gone")
    monkeypatch.setattr(module, "is_mount_root", lambda _: True)
    assert is_mounted_on(fd, "pipe")
    assert open_files() == before
    os.close(fd)


@pytest.mark.parametrize(
    ("shown", "act", "is_found"),
    [
        ([("f", 1)], "", True),
        ([("g", 0), ("f", 1)], "", True),
        ([("f", 0)], "", False),
        ([("f", 1), ("f", 0)], "", False),
        ([("g", 1)], "", False),
        ([], "", False),
        ([("f", 1)], "change", False),
        ([("f", 1)], "remove", False),
        ([("f", 1)], "mount", False),
    ],
)
def test_the_inode_of_a_file_may_differ_from_its_entry(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shown: Sequence[tuple[str, int]],
    act: str,
    is_found: bool,
) -> None:
    """Only of a directory at rest, and of a file on which nothing is mounted."""
    file = tmp_path / "f"
    file.touch()
    inode = file.stat().st_ino
    entries: list[Entry] = [(name, stat.S_IFREG, inode + more) for name, more in shown]
    os.utime(tmp_path, ns=(0, 0))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if act == "change":
            (tmp_path / "new").touch()
        elif act == "remove":
            file.unlink()

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(module, "snapshot", lambda _: entries)
    monkeypatch.setattr(module, "is_mount_root", lambda _: act == "mount")
    fd = open_directory(str(tmp_path))
    found = inode_of(fd, "f")
    os.close(fd)
    assert found == (inode if is_found else None)
    assert slept == ([] if act == "mount" else [0.02])


@pytest.mark.parametrize(
    ("answer", "is_it"),
    [("glibc 2.31", True), ("musl", False), (None, False), (ValueError(), False)],
    ids=str,
)
def test_the_c_library_is_told_by_the_system(
    monkeypatch: pytest.MonkeyPatch, answer: Any, is_it: bool
) -> None:
    names: list[str] = []

    def confstr(name: str) -> str | None:
        names.append(name)
        if isinstance(answer, ValueError):
            raise answer
        return cast("str | None", answer)

    monkeypatch.setattr(os, "confstr", confstr)
    assert is_glibc() is is_it
    assert names == ["CS_GNU_LIBC_VERSION"]


def test_how_long_a_file_is_looked_for() -> None:
    assert (module.ROUNDS, module.TICK_S, module.TICK_NS) == (12, 0.02, 10_000_000)
    gone = {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ESTALE, errno.ENXIO}
    assert gone == module.GONE
    assert MovedError().errno == errno.EAGAIN

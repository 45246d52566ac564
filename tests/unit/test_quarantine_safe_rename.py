"""Places: no link in the path, no name replaced, and only the right file removed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fixtures.crash import watched
from hashclient.quarantine import safe_rename as module
from hashclient.quarantine.safe_rename import (
    Place,
    Removal,
    open_file,
    open_named,
    open_place,
    put_back,
    reason_of,
    remove_exactly,
)
from hashclient.system import beneath
from hashclient.system.beneath import move_aside, rename_noreplace
from hashclient.system.strangers import Stranger
from tests.kit import open_files

PRIVATE = ".hashclient-x"


@pytest.fixture(params=["renameat2", "links", "neither"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system lack some features of Linux's native file systems."""

    def refuse(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.EINVAL, "cannot")

    def no_links(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if request.param != "renameat2":
        monkeypatch.setattr(beneath, "renameat2", refuse)
    if request.param == "neither":
        monkeypatch.setattr(os, "link", no_links)


@contextmanager
def at(path: Path) -> Iterator[Place]:
    with open_place(str(path)) as place:
        yield place


@pytest.mark.usefixtures("_way")
def test_a_rename_replaces_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with at(tmp_path / "a") as place:
        with pytest.raises(FileExistsError):
            rename_noreplace(place.fd, "a", "b")
        rename_noreplace(place.fd, "a", "c")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"b": "b", "c": "a"}


@pytest.mark.usefixtures("_way")
def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with at(tmp_path / "a") as place, pytest.raises(FileNotFoundError):
        rename_noreplace(place.fd, "a", "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_way")
def test_the_file_that_is_meant_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with at(tmp_path / "a") as place, open_file(place) as (fd, status):
        assert remove_exactly(place, PRIVATE, fd, status) is Removal.REMOVED
        assert os.fstat(fd).st_nlink == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("what", ["file", "link", "directory"])
def test_another_file_under_the_name_is_put_back(tmp_path: Path, what: str) -> None:
    (tmp_path / "a").write_text("a")
    with at(tmp_path / "a") as place, open_file(place) as (fd, _):
        other = tmp_path / "other"
        if what == "file":
            other.write_text("other")
        elif what == "link":
            other.symlink_to("nowhere")
        else:
            other.mkdir()
        (tmp_path / "a").rename(tmp_path / "moved")
        other.rename(tmp_path / "a")
        status = os.fstat(fd)
        assert remove_exactly(place, PRIVATE, fd, status) is Removal.OTHER
    assert {p.name for p in tmp_path.iterdir()} == {"a", "moved"}
    assert (tmp_path / "a").is_symlink() == (what == "link")
    assert (tmp_path / "a").is_dir() == (what == "directory")
    assert (tmp_path / "moved").read_text() == "a"


@pytest.mark.usefixtures("_way")
def test_a_file_saved_over_the_name_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """An editor saves in this way: it writes a new file and renames it to the old name."""
    outcomes = set()
    for number in range(1, 8):
        directory = tmp_path / str(number)
        directory.mkdir()
        path = directory / "a"
        path.write_text("a")
        left = number

        def act(_name: str, _argument: object, path: Path = path) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                path.with_name("new").write_text("saved")
                os.rename(path.with_name("new"), path)  # noqa: PTH104 - not what is counted

        with at(path) as place, open_file(place) as (fd, status), watched(act):
            outcomes.add(remove_exactly(place, PRIVATE, fd, status))
        kept = [p.name for p in directory.iterdir() if p.read_text() == "saved"]
        assert len(kept) == (left <= 0)
    assert outcomes >= {Removal.REMOVED, Removal.OTHER}


@pytest.mark.usefixtures("_way")
def test_a_private_name_that_somebody_has_taken_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / PRIVATE).write_text("planted")
    with at(tmp_path / "a") as place, open_file(place) as (fd, status):
        assert remove_exactly(place, PRIVATE, fd, status) is Removal.REMOVED
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {PRIVATE: "planted"}


def test_a_lease_is_waited_for(tmp_path: Path) -> None:
    """The kernel asks the holder of a lease to end the lease; who opens the file waits for it."""
    path = tmp_path / "a"
    path.write_text("a")
    script = (
        "import fcntl, os, signal, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "def release(*_): fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)\n"
        "signal.signal(signal.SIGIO, release)\n"
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print(flush=True)\n"
        "while True: signal.pause()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert holder.stdout is not None
    try:
        if not holder.stdout.readline():
            pytest.skip("this file system has no leases")
        with at(path) as place, open_file(place) as (fd, _):
            assert os.read(fd, 2) == b"a"
    finally:
        holder.kill()
        holder.communicate()


def test_a_file_that_was_changed_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with at(tmp_path / "a") as place, open_file(place) as (fd, status):
        (tmp_path / "a").write_text("b")
        assert remove_exactly(place, PRIVATE, fd, status) is Removal.CHANGED
    assert (tmp_path / "a").read_text() == "b"


def test_a_change_that_hides_its_time_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("a")
    with at(path) as place, open_file(place) as (fd, status):
        path.write_text("b")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert remove_exactly(place, PRIVATE, fd, status) is Removal.CHANGED
    assert path.read_text() == "b"


def test_a_file_that_is_written_to_while_it_is_aside_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, aside = tmp_path / "a", tmp_path / PRIVATE
    path.write_text("a")
    real = beneath.renameat2

    def and_write(directory: int, source: str, target: str) -> None:
        real(directory, source, target)
        if target == PRIVATE:
            aside.write_text("longer")

    monkeypatch.setattr(beneath, "renameat2", and_write)
    with at(path) as place, open_file(place) as (fd, status):
        assert remove_exactly(place, PRIVATE, fd, status) is Removal.CHANGED
    assert path.read_text() == "longer" and not aside.exists()


def test_a_file_that_cannot_be_put_back_keeps_the_private_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("a")
    real = beneath.renameat2

    def and_take_the_name(directory: int, source: str, target: str) -> None:
        real(directory, source, target)
        if target == PRIVATE:
            (tmp_path / "a").write_text("third")

    with at(tmp_path / "a") as place, open_file(place) as (fd, _):
        (tmp_path / "a").rename(tmp_path / "moved")
        (tmp_path / "a").write_text("second")
        monkeypatch.setattr(beneath, "renameat2", and_take_the_name)
        assert remove_exactly(place, PRIVATE, fd, os.fstat(fd)) is Removal.STRANDED
        assert not put_back(place.at(PRIVATE), "a")
    found = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert found == {"a": "third", "moved": "a", PRIVATE: "second"}


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_no_component_may_be_a_link(tmp_path: Path, depth: int) -> None:
    (tmp_path / "r0" / "r1" / "r2").mkdir(parents=True)
    (tmp_path / "r0" / "r1" / "r2" / "f").write_text("f")
    parts = ["r0", "r1", "r2"]
    link = tmp_path.joinpath(*parts[: depth + 1])
    link.rename(tmp_path / "real")
    link.symlink_to(tmp_path / "real")
    with pytest.raises(OSError) as raised, at(tmp_path / "r0/r1/r2/f"):
        pass
    assert raised.value.errno == errno.ELOOP
    assert reason_of(raised.value) == f"a link leads to it ({link}): scan it by its real path"


def test_a_directory_is_not_left_by_a_link_that_comes_later(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("f")
    with at(tmp_path / "d" / "f") as place:
        (tmp_path / "d").rename(tmp_path / "moved")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "f").write_text("innocent")
        (tmp_path / "d").symlink_to("other")
        with open_file(place) as (fd, status):
            assert remove_exactly(place, PRIVATE, fd, status) is Removal.REMOVED
    assert (tmp_path / "other" / "f").read_text() == "innocent"
    assert list((tmp_path / "moved").iterdir()) == []


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    reasons = []
    for name in ("pipe", "link", ".", "missing"):
        path = tmp_path / name
        with (
            open_place(f"{tmp_path}/{name}") as place,
            pytest.raises(OSError) as raised,
            open_file(place),
        ):
            pass
        reasons.append(reason_of(raised.value))
        assert name != "link" or str(path) in reasons[-1]
    assert reasons[0] == reasons[2] == "not a regular file"
    assert reasons[1].startswith("a link leads to it")
    assert reasons[3] == "not there any more"


def test_a_file_in_the_root_and_a_path_beyond_the_kernels_limit(tmp_path: Path) -> None:
    with open_place("/etc") as place:
        assert place.path == "/etc" and place.status() is not None
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=fd)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("f", os.O_CREAT, dir_fd=fd))
    os.close(fd)
    path = f"{tmp_path}/" + ("d" * 200 + "/") * 30 + "f"
    with open_place(path) as place:
        assert len(place.path) > 4096 and place.status() is not None
    subprocess.run(["rm", "-rf", tmp_path / ("d" * 200)], check=True)


@pytest.mark.skipif(
    shutil.which("chattr") is None or os.geteuid() != 0, reason="only root has chattr"
)
@pytest.mark.parametrize(
    ("flag", "target", "word"),
    [
        ("i", "f", "the file is immutable"),
        ("a", "f", "the file is append-only"),
        ("i", ".", "the directory is immutable"),
        ("a", ".", "the directory is append-only"),
    ],
)
def test_attributes_that_forbid_it_are_named(
    tmp_path: Path, flag: str, target: str, word: str
) -> None:
    (tmp_path / "f").write_text("f")
    if subprocess.run(["chattr", f"+{flag}", tmp_path / target], check=False).returncode:
        pytest.skip("this file system has no such attributes")
    try:
        with at(tmp_path / "f") as place, open_file(place) as (fd, status):
            with pytest.raises(PermissionError) as raised:
                remove_exactly(place, PRIVATE, fd, status)
            assert reason_of(raised.value, place).startswith(word)
    finally:
        subprocess.run(["chattr", f"-{flag}", tmp_path / target], check=True)
    assert (tmp_path / "f").read_text() == "f"


@pytest.mark.skipif(
    shutil.which("chattr") is None or os.geteuid() != 0, reason="only root has chattr"
)
def test_attributes_of_what_a_link_leads_to_are_not_those_of_the_link(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("f")
    (tmp_path / "link").symlink_to("f")
    if subprocess.run(["chattr", "+i", tmp_path / "f"], check=False).returncode:
        pytest.skip("this file system has no such attributes")
    try:
        with at(tmp_path / "f") as place:
            error = PermissionError(errno.EPERM, "not permitted")
            assert reason_of(error, place.at("link")) == reason_of(error)
            assert reason_of(error, place).startswith("the file is immutable")
    finally:
        subprocess.run(["chattr", "-i", tmp_path / "f"], check=True)


# --- descriptors -------------------------------------------------------------------------


def fail(*_arguments: object, **_more: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(
    "path", ["d/e/f", "d/link/f", "d/f/g", "d/missing/f", "d/e/missing", "d/pipe", "d/link"]
)
def test_no_descriptor_stays_open_whatever_is_there(tmp_path: Path, path: str) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").write_text("f")
    (tmp_path / "d" / "f").write_text("f")
    (tmp_path / "d" / "link").symlink_to("e")
    os.mkfifo(tmp_path / "d" / "pipe")
    before = open_files()
    for opened in (open_place(f"{tmp_path}/{path}"), open_named(tmp_path / path)):
        with contextlib.suppress(OSError), opened as place, open_file(place) as (fd, _):
            assert os.read(fd, 2) == b"f"
        assert open_files() == before


@pytest.mark.parametrize("error", [OSError(), KeyboardInterrupt()])
def test_no_descriptor_stays_open_whatever_ends_the_work(
    tmp_path: Path, error: BaseException
) -> None:
    (tmp_path / "f").write_text("f")
    before = open_files()
    for opened in (open_place(f"{tmp_path}/f"), open_named(tmp_path / "f")):
        with pytest.raises(type(error)), opened as place, open_file(place):
            raise error
        assert open_files() == before


def test_a_file_that_cannot_be_opened_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("f")
    real = os.open

    def refuse(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if path.startswith("/proc/self/fd/"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    before = open_files()
    with pytest.raises(PermissionError), at(tmp_path / "f") as place, open_file(place):
        pass
    assert open_files() == before


@pytest.mark.parametrize("failing", [None, "fsync", "ioctl"])
def test_looking_and_syncing_leave_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str | None
) -> None:
    (tmp_path / "f").write_text("f")
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif failing == "ioctl":
        monkeypatch.setattr(fcntl, "ioctl", fail)
    with at(tmp_path / "f") as place:
        before = open_files()
        place.try_sync()
        assert open_files() == before
        why = reason_of(PermissionError(errno.EPERM, os.strerror(errno.EPERM)), place)
        assert why == "the system does not permit it"
        assert open_files() == before


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("name", ["a", "missing", "directory"])
def test_moving_leaves_nothing_open(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "directory").mkdir()
    with at(tmp_path / "a") as place:
        before = open_files()
        for move, target in ((move_aside, PRIVATE), (rename_noreplace, "b")):
            with contextlib.suppress(OSError):
                move(place.fd, name, target)
            assert open_files() == before


def test_a_directory_that_may_not_be_read_is_synced_with_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"))
    with at(tmp_path / "f") as place, monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse_all)
        place.sync()
    assert synced == ["all"]


def refuse_all(*_arguments: object, **_more: object) -> int:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


# --- file systems with fewer features -----------------------------------------------------


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_rename_that_cannot_be_asked_for_is_made_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def cannot(*_arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(beneath, "renameat2", cannot)
    (tmp_path / "a").write_text("a")
    with at(tmp_path / "a") as place:
        move_aside(place.fd, "a", PRIVATE)
        rename_noreplace(place.fd, PRIVATE, "b")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"b": "a"}


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_rename_that_fails_is_not_tried_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(beneath, "renameat2", broken)
    (tmp_path / "a").write_text("a")
    with at(tmp_path / "a") as place:
        for move in (move_aside, rename_noreplace):
            with pytest.raises(OSError) as raised:
                move(place.fd, "a", "b")
            assert raised.value.errno == code
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_link_that_fails_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Only on a file system without links is a plain rename used, which could replace a file."""

    def cannot(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "cannot")

    def broken(*_arguments: object, **_more: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(beneath, "renameat2", cannot)
    monkeypatch.setattr(os, "link", broken)
    (tmp_path / "a").write_text("a")
    for there in (False, True):
        if there:
            (tmp_path / "b").write_text("b")
        with at(tmp_path / "a") as place, pytest.raises(OSError) as raised:
            rename_noreplace(place.fd, "a", "b")
        assert raised.value.errno == code
        found = {p.name: p.read_text() for p in tmp_path.iterdir()}
        assert found == {"a": "a"} | ({"b": "b"} if there else {})


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_links_says_so_in_several_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def cannot(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "cannot")

    def no_links(*_arguments: object, **_more: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(beneath, "renameat2", cannot)
    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").symlink_to("nowhere")  # a dangling link must stay, too
    with at(tmp_path / "a") as place:
        with pytest.raises(FileExistsError):
            rename_noreplace(place.fd, "a", "b")
        rename_noreplace(place.fd, "a", "c")
    assert {p.name for p in tmp_path.iterdir()} == {"b", "c"}
    assert (tmp_path / "b").is_symlink()


def test_a_private_name_that_was_made_goes_away_where_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "cannot")

    monkeypatch.setattr(beneath, "renameat2", cannot)
    monkeypatch.setattr(os, "rename", fail)
    (tmp_path / "a").write_text("a")
    with at(tmp_path / "a") as place, pytest.raises(OSError) as raised:
        move_aside(place.fd, "a", PRIVATE)
    assert raised.value.errno == errno.EIO
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "a"}


@pytest.mark.parametrize("planted", ["file", "link"])
def test_a_file_planted_under_the_private_name_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    def cannot(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "cannot")

    monkeypatch.setattr(beneath, "renameat2", cannot)
    (tmp_path / "a").write_text("a")
    if planted == "file":
        (tmp_path / PRIVATE).write_text("planted")
    else:
        (tmp_path / PRIVATE).symlink_to("target")
    with at(tmp_path / "a") as place, pytest.raises(FileExistsError):
        move_aside(place.fd, "a", PRIVATE)
    assert (tmp_path / "a").read_text() == "a"
    assert (tmp_path / PRIVATE).is_symlink() == (planted == "link")
    assert not (tmp_path / "target").exists()


@pytest.mark.usefixtures("_way")
def test_an_error_while_the_name_is_aside_brings_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("a")
    with at(tmp_path / "a") as place, open_file(place) as (fd, status):
        with monkeypatch.context() as patch:
            real = os.unlink

            def refuse(name: str, **kwargs: int) -> None:
                if name == PRIVATE and not (tmp_path / "a").exists():
                    fail()
                real(name, **kwargs)

            patch.setattr(os, "unlink", refuse)
            with pytest.raises(OSError) as raised:
                remove_exactly(place, PRIVATE, fd, status)
        assert raised.value.errno == errno.EIO
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "a"}


# --- reasons and attributes ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOENT, "x"), "not there any more"),
        (OSError(errno.ESTALE, "x"), "not there any more"),
        (OSError(errno.EROFS, "x"), "read-only file system"),
        (OSError(errno.EACCES, "x"), "permission denied"),
        (OSError(errno.EPERM, "x"), "the system does not permit it"),
        (OSError(errno.ENOSPC, "x"), "no space left on its file system"),
        (OSError(errno.EBUSY, "x"), "something is mounted on it"),
        (OSError(errno.EIO, "Input/Output error"), "input/output error"),
        (OSError("Odd"), "odd"),
        (OSError(errno.ELOOP, "x"), "a link leads to it (it is one): scan it by its real path"),
        (OSError(errno.ELOOP, "x", b"/a\xff"), r"a link leads to it (/a\xff): scan it by its"),
    ],
    ids=str,
)
def test_the_reason_of_an_error_is_said(error: OSError, why: str) -> None:
    assert reason_of(error).startswith(why)
    assert ("scan it by its" in why) or reason_of(error) == why


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (0x10, "{} is immutable (`chattr -i` makes it mutable)"),
        (0x20, "{} is append-only (`chattr -a` ends that)"),
        (0x30, "{} is immutable (`chattr -i` makes it mutable)"),
        (0x80010, "{} is immutable (`chattr -i` makes it mutable)"),
        (0x4F, None),
        (0x10 << 32, None),  # the kernel writes four bytes
    ],
)
@pytest.mark.parametrize("target", ["the file", "the directory"])
def test_an_attribute_of_the_file_or_its_directory_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, flags: int, words: str | None
) -> None:
    (tmp_path / "f").touch()
    inode = (tmp_path if target == "the directory" else tmp_path / "f").stat().st_ino

    def ioctl(fd: int, request: int, given: bytes) -> bytes:
        assert (request, given) == (0x80086601, bytes(8))
        return (flags if os.fstat(fd).st_ino == inode else 0).to_bytes(8, "little")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    denied = OSError(errno.EPERM, "x")
    other = OSError(errno.EACCES, "x")
    with at(tmp_path / "f") as place:
        expected = "the system does not permit it" if words is None else words.format(target)
        assert reason_of(denied, place) == expected
        assert reason_of(denied) == "the system does not permit it"
        assert reason_of(other, place) == "permission denied"


def test_attributes_of_a_link_and_of_a_pipe_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it
    inode = (tmp_path / "f").stat().st_ino

    def ioctl(fd: int, _request: int, _given: bytes) -> bytes:
        return (0x10 if os.fstat(fd).st_ino == inode else 0).to_bytes(8, "little")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    before = open_files()
    with at(tmp_path / "f") as place:
        for name in ("link", "pipe", "none"):
            why = reason_of(OSError(errno.EPERM, "x"), place.at(name))
            assert why == "the system does not permit it"
    assert open_files() == before


@pytest.mark.parametrize(
    ("code", "becomes"),
    [
        *((code, errno.EIO) for code in (errno.ENOENT, errno.ELOOP, errno.EISDIR)),
        *((code, code) for code in (errno.EACCES, errno.EPERM, errno.ENXIO)),
    ],
)
def test_a_file_that_was_found_and_cannot_be_opened_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, becomes: int
) -> None:
    (tmp_path / "f").touch()
    real = os.open

    def refuse(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if path.startswith("/proc/self/fd/"):
            raise OSError(code, os.strerror(code))
        return real(path, flags, *args, **kwargs)

    with at(tmp_path / "f") as place:
        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(OSError) as raised, open_file(place):
            pass
    assert raised.value.errno == becomes
    assert (raised.value.filename == place.path) == (becomes != code)


@pytest.mark.parametrize("is_strange", [False, True])
def test_a_named_place_may_be_behind_a_link_that_no_stranger_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_strange: bool
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").touch()
    stranger = Stranger("/shared", "user 7") if is_strange else None
    monkeypatch.setattr(module, "stranger_on", lambda _: stranger)
    with open_named(tmp_path / "real" / "f") as place:
        assert place.path == str(tmp_path / "real" / "f")
        inode = place.directory_inode()
    if is_strange:
        with pytest.raises(OSError) as raised, open_named(tmp_path / "link" / "f"):
            pass
        assert raised.value.errno == errno.ELOOP
    else:
        with open_named(tmp_path / "link" / "f") as place:
            assert (place.name, place.directory_inode()) == ("f", inode)
            assert place.status() is not None
    for path, code in (("none/f", errno.ENOENT), ("file/f", errno.ENOTDIR)):
        with pytest.raises(OSError) as raised, open_named(tmp_path / path):
            pass
        assert raised.value.errno == code


@pytest.mark.parametrize(
    ("content", "later_ns", "removal"),
    [
        ("b", 0, Removal.REMOVED),  # only the time shows that a file was written to
        ("b", 1, Removal.CHANGED),
        ("b", -1, Removal.CHANGED),
        ("ab", 0, Removal.CHANGED),
        ("", 0, Removal.CHANGED),
    ],
)
def test_a_file_that_is_aside_is_known_by_its_size_and_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, later_ns: int, removal: Removal
) -> None:
    path, aside = tmp_path / "a", tmp_path / PRIVATE
    path.write_text("a")
    real = beneath.renameat2

    def and_write(directory: int, source: str, target: str) -> None:
        real(directory, source, target)
        if target == PRIVATE:
            aside.write_text(content)
            os.utime(aside, ns=(status.st_atime_ns, status.st_mtime_ns + later_ns))

    monkeypatch.setattr(beneath, "renameat2", and_write)
    with at(path) as place, open_file(place) as (fd, status):
        assert remove_exactly(place, PRIVATE, fd, status) is removal
    assert path.exists() is (removal is Removal.CHANGED) and not aside.exists()


@pytest.mark.parametrize("keeps", ["the private name", "the old name"])
def test_a_file_system_that_keeps_a_name_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: str
) -> None:
    path = tmp_path / "a"
    path.write_text("a")
    with at(path) as place, open_file(place) as (fd, status):

        def unlink(name: str, *, dir_fd: int) -> None:
            if keeps == "the old name":
                os.rename(name, "a", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", unlink)
            with pytest.raises(OSError) as raised:
                remove_exactly(place, PRIVATE, fd, status)
    assert raised.value.strerror == "its file system has kept a name that it seemed to remove"
    name = PRIVATE if keeps == "the private name" else "a"
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(tmp_path / name))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_place_is_a_directory_of_one_device(tmp_path: Path) -> None:
    with at(tmp_path / "f") as place:
        status = tmp_path.stat()
        assert place.identity() == (status.st_dev, status.st_ino)
        assert place.directory_inode() == status.st_ino
        assert place.status() is None
        (tmp_path / "f").symlink_to("nowhere")
        assert place.status() is not None and place.at("g").path == str(tmp_path / "g")

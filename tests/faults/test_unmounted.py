"""Shares that are not mounted: an empty mount point is unread, not clean.

The mounts are real, which only root can make; each test unmounts its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.check.checker import Checker
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import MOVED
from hashclient.session import Session
from hashclient.system.layout import MOUNTS_NAME as FILE_NAME
from tests.kit import Run, call, csv_of, make_state, run, write_tree

LISTED = b"listed"
NOT_MOUNTED = "not mounted: a file system was here (tmpfs)"
OTHER = "not mounted: another file system was here (tmpfs)"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_state(tmp_path_factory.mktemp("site"), {"base": csv_of({"e-1": LISTED})})


@pytest.fixture
def state(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "state"))


@pytest.fixture
def srv(tmp_path: Path) -> Path:
    """Return the scanned directory, which has a file and the mount point of a share."""
    return write_tree(tmp_path / "srv", {"beside": b"benign", "share/x": b""})


@pytest.fixture(autouse=True)
def _unmounted(srv: Path) -> Iterator[None]:
    (srv / "share/x").unlink()
    yield
    mounts = Path("/proc/self/mountinfo").read_bytes().split(b"\n")
    for _ in range(sum(os.fsencode(srv) in line for line in mounts)):
        for path in (*srv.rglob("*"), srv):
            subprocess.run(["umount", "-l", path], capture_output=True, check=False)


def mount(*args: object) -> None:
    done = subprocess.run(["mount", *map(str, args)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")


def unmount(path: Path) -> None:
    subprocess.run(["umount", path], check=True)


@contextlib.contextmanager
def mounted(path: Path, files: dict[str, bytes], source: str = "share") -> Iterator[None]:
    mount("-t", "tmpfs", source, path)
    write_tree(path, files)
    yield
    unmount(path)


def scan(state: Path, *args: object) -> Run:
    return call("--state-dir", state, "scan", "--format", "jsonl", "--show-all", *args)


def unread(result: Run) -> dict[str, str]:
    return {line["path"]: line["reason"] for line in result.lines[:-1] if line["type"] == "unread"}


@pytest.mark.parametrize("given", ["share", "above"])
def test_a_share_that_is_not_mounted_is_missed(state: Path, srv: Path, given: str) -> None:
    """An unmounted share is reported until it is mounted again or its record is removed."""
    share = srv / "share"
    paths = [srv / "beside", share] if given == "share" else [srv]
    assert scan(state, *paths).code == 0  # as at the first scan, no file system is known yet
    with mounted(share, {"f": LISTED, "sub/g": b"x"}):
        assert scan(state, *paths).code == 10
    for _ in range(2):
        missed = scan(state, *paths)
        assert (missed.code, unread(missed)) == (3, {str(share): NOT_MOUNTED})
        assert missed.outcomes[f"{srv}/beside"] == "clean"
        assert "inventory forget" in missed.err
    with mounted(share, {"f": b"x"}):
        back = scan(state, *paths)
        assert (back.code, back.err) == (0, "")
    forgotten = call("--state-dir", state, "inventory", "forget", share)
    assert (forgotten.code, forgotten.out) == (0, f"forgotten: {share}\n")
    assert scan(state, *paths).code == 0
    log = call("--state-dir", state, "audit", "show", "--event", "mount-forgotten").out
    assert str(share) in log


def test_a_match_beside_it_is_reported(state: Path, srv: Path) -> None:
    with mounted(srv / "share", {"f": b"x"}):
        assert scan(state, srv).code == 0
    (srv / "beside").write_bytes(LISTED)
    assert scan(state, srv).code == 11


def test_files_skipped_by_request_are_not_gone(state: Path, srv: Path) -> None:
    share = srv / "share"
    with mounted(share, {"f": b"x"}):
        assert scan(state, srv).code == 0
        assert scan(state, "--one-file-system", srv).code == 0
    for options in (
        ["--one-file-system"],
        ["--exclude", "share"],
        ["--exclude", f"{share}"],
    ):
        assert scan(state, *options, srv).code == 0, options
    # A PATH that the user gives is not skipped by the option.
    assert scan(state, "--one-file-system", srv, share).code == 3


def test_a_file_in_the_mount_point_of_a_missing_share_is_scanned(state: Path, srv: Path) -> None:
    """Example: a file in the mount point says that the share is missing."""
    share = srv / "share"
    with mounted(share, {"f": b"x"}):
        assert scan(state, srv).code == 0
    (share / "NOT-MOUNTED").write_bytes(LISTED)
    missed = scan(state, srv)
    assert (missed.code, unread(missed)) == (11, {str(share): NOT_MOUNTED})
    assert missed.outcomes[f"{share}/NOT-MOUNTED"] == "match"


def test_a_directory_within_a_share(state: Path, srv: Path) -> None:
    """A directory of the same name below the mount point is not the directory of the share."""
    data = srv / "share/data"
    data.mkdir()
    with mounted(srv / "share", {"data/f": b"x"}):
        assert scan(state, srv / "beside", data).code == 0
    missed = scan(state, srv / "beside", data)
    assert (missed.code, unread(missed)) == (3, {str(data): NOT_MOUNTED})
    data.rmdir()
    assert unread(scan(state, data)) == {str(data): "no such file or directory"}


def test_an_empty_directory_on_the_right_file_system_is_as_ever(state: Path, srv: Path) -> None:
    share = srv / "share"
    with mounted(share, {}):
        for _ in range(2):
            assert scan(state, srv).code == 0
            assert scan(state, srv / "beside", share).code == 0
    empty = srv / "empty"
    empty.mkdir()
    (empty / "f").touch()
    assert scan(state, srv / "beside", empty).code == 0
    (empty / "f").unlink()
    assert scan(state, srv / "beside", empty).code == 0


def test_another_file_system_in_its_place(state: Path, srv: Path) -> None:
    """An empty file system may be mounted by mistake; one with files replaces the old one."""
    share = srv / "share"
    with mounted(share, {"f": b"x"}, "one"):
        assert scan(state, srv).code == 0
        with mounted(share, {}, "two"):
            missed = scan(state, srv)
            assert (missed.code, unread(missed)) == (3, {str(share): OTHER})
        with mounted(share, {"f": b"x"}, "three"):
            taken = scan(state, srv)
            assert taken.code == 0
            assert f"another file system than before: {share}" in taken.err
            assert scan(state, srv).err == ""
        missed = scan(state, srv)
        assert "another file system than before" in missed.err


def test_a_bind_mount_of_the_same_file_system(state: Path, srv: Path, tmp_path: Path) -> None:
    """A bind mount of the surrounding file system does not change the device at the mount point."""
    behind = write_tree(tmp_path / "behind", {"f": b"x"})
    mount("--bind", behind, srv / "share")
    assert scan(state, srv).code == 0
    unmount(srv / "share")
    assert unread(scan(state, srv)) == {
        f"{srv}/share": f"not mounted: a file system was here ({kind_of(srv)})"
    }
    # In another mount namespace, the same files are visible without the bind mount.
    (srv / "share/f").write_bytes(b"x")
    assert scan(state, srv).code == 0


def kind_of(path: Path) -> str:
    command = ["findmnt", "-n", "-o", "FSTYPE", "--target", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def attach(image: Path) -> str:
    """Return a loop device that shows `image`."""
    done = subprocess.run(
        ["losetup", "-f", "--show", image], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop devices: {done.stderr.strip()}")
    return done.stdout.strip()


def test_a_disk_may_change_its_name(state: Path, srv: Path, tmp_path: Path) -> None:
    """The disk is recognised by its UUID, even if it is mounted under another device name."""
    image, share = tmp_path / "image", srv / "share"
    with image.open("wb") as stream:
        stream.truncate(4 << 20)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no ext4")
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    devices: list[str] = []
    try:
        for _ in range(2):
            devices.append(attach(image))
            mount(devices[-1], share)
            shutil.rmtree(share / "lost+found", ignore_errors=True)
            assert scan(state, srv).code == 0
            unmount(share)
    finally:
        for device in devices:
            subprocess.run(["losetup", "-d", device], check=True)
    assert len(set(devices)) == 2
    assert unread(scan(state, srv)) == {str(share): "not mounted: a file system was here (ext4)"}


def test_a_share_that_is_unmounted_before_its_first_scan_reaches_it(
    state: Path, srv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, share = Mounts.watched, srv / "share"

    def unmounting(mounts: Mounts, path: str, fd: int) -> frozenset[str]:
        found = watched(mounts, path, fd)
        unmount(share)
        return found

    mount("-t", "tmpfs", "share", share)
    with monkeypatch.context() as patch:
        patch.setattr(Mounts, "watched", unmounting)
        missed = scan(state, srv)
    assert (missed.code, unread(missed)) == (3, {str(share): NOT_MOUNTED})
    assert scan(state, srv).code == 0  # no scan has seen a file of the share


@pytest.mark.parametrize("there", [{}, {"f": b"older", "sub/g": b"older"}])
def test_files_that_wait_to_be_read_while_their_share_is_unmounted_are_unread(
    state: Path, srv: Path, there: dict[str, bytes]
) -> None:
    """The mount point does not count as a directory that has replaced the listed directory."""
    share, judge = write_tree(srv / "share", there), Session.of(state).open_lists().judge()
    with mounted(share, {"f": LISTED, "sub/g": LISTED}):
        (task,) = Trees([str(srv)], ScanOptions()).batches()
    assert not isinstance(task, Outcome)
    result = Checker(judge, since_ns=time.time_ns() + 10**9).check(task)
    reason = MOVED if there else "no such file or directory"
    assert {(o.path, o.kind, o.reason) for o in result.outcomes} == {
        (f"{share}/f", Kind.UNREAD, MOVED),
        (f"{share}/sub/g", Kind.UNREAD, reason),
    }
    assert result.clean == 1


@pytest.mark.slow
def test_names_of_any_bytes(state: Path, tmp_path: Path, srv: Path) -> None:
    share = Path(os.fsdecode(os.fsencode(srv) + b"/a b\n\\\xff\t"))
    share.mkdir()
    mount("-t", "tmpfs", "share", share)
    (share / "f").touch()
    assert scan(state, srv).code == 0
    subprocess.run(["umount", os.fsencode(share)], check=True)
    missed = run("--state-dir", state, "scan", "--format", "jsonl", os.fsencode(srv))
    assert missed.code == 3
    (line,) = missed.lines[:-1]
    assert (line["reason"], "path_b64" in line) == (NOT_MOUNTED, True)
    listed = run("--state-dir", state, "inventory", "mounts").out.splitlines()
    assert len(listed) == 2
    assert all(line.isprintable() for line in listed)
    assert run("--state-dir", state, "inventory", "forget", os.fsencode(share)).code == 0
    assert scan(state, srv).code == 0


def test_a_link_to_a_share(state: Path, srv: Path) -> None:
    """If a PATH is a link, the mount is remembered by the target of the link."""
    (srv / "link").symlink_to("share")
    with mounted(srv / "share", {"f": b"x"}):
        assert scan(state, srv / "share").code == 0
    assert scan(state, srv / "link").code == 3
    assert call("--state-dir", state, "inventory", "forget", srv / "link").code == 0


def test_state_that_cannot_be_written(state: Path, srv: Path) -> None:
    """Remembered mounts are still used, and a warning says that no mount can be added."""
    with mounted(srv / "share", {"f": b"x"}):
        assert scan(state, srv).code == 0
    (srv / "other").mkdir()
    (state / "mounts.lock").unlink()
    before = (state / FILE_NAME).read_bytes()
    subprocess.run(["chattr", "+i", state], check=False)
    try:
        missed = scan(state, srv / "beside", srv, srv / "other")
    finally:
        subprocess.run(["chattr", "-i", state], check=False)
    assert unread(missed) == {f"{srv}/share": NOT_MOUNTED}
    assert (state / FILE_NAME).read_bytes() == before
    if "mounts.lock" not in missed.err:
        pytest.skip("no immutable directories here")
    assert missed.code == 3

"""Which file systems are trusted: real file systems of this machine, and lines of mountinfo."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fixtures.faulty_fs import File, mounted, why_not
from hashclient.system import filesystems
from hashclient.system.filesystems import (
    FULL,
    NONE,
    NONZERO,
    SizeTrust,
    ask_at,
    fuse_trust,
    trust_in,
    trust_of,
)

FIRST_NAMESPACE = b"         0          0 4294967295\n"
DEVICE = os.makedev(0, 39)

needs_fuse = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def line(
    *,
    device: bytes = b"0:39",
    where: bytes = b"/m",
    tags: bytes = b"",
    kind: bytes = b"fuse",
    source: bytes = b"server",
    options: bytes = b"rw,user_id=1000,group_id=1000,allow_other",
) -> bytes:
    """Return a line of mountinfo."""
    return b"42 27 %s / %s rw,nosuid%s - %s %s %s\n" % (device, where, tags, kind, source, options)


@contextmanager
def opened(path: Path | str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def trust(path: Path | str) -> SizeTrust:
    with opened(path) as fd:
        return trust_of(fd, os.fstat(fd).st_dev)


def trust_at(name: str, directory_fd: int, device: int, *, follow: bool) -> SizeTrust:
    return ask_at(trust_of, name, directory_fd, device, follow, NONE)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/version",
        "/sys/kernel",
        "/sys/fs/cgroup/unified",
        "/sys/kernel/debug",
        "/sys/kernel/tracing",
        "/sys/kernel/security",
        "/sys/fs/bpf",
        "/dev/pts",
        "/dev/mqueue",
    ],
)
def test_file_systems_of_the_kernel_are_not_relied_on(path: str) -> None:
    others = {Path(other).stat().st_dev for other in ("/", "/dev", "/sys/fs/cgroup")}
    if not Path(path).exists() or Path(path).stat().st_dev in others:
        pytest.skip("it is not mounted here")
    assert trust(path) is NONE


def test_disks_and_memory_are_relied_on(tmp_path: Path) -> None:
    assert trust(tmp_path) is FULL
    if Path("/dev/shm").is_dir():
        assert trust("/dev/shm") is FULL


def test_where_nothing_is_open_nothing_is_relied_on(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    os.close(fd)
    assert trust_of(fd, os.makedev(8, 1)) is NONE


def test_a_python_without_foreign_functions_relies_on_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    monkeypatch.setattr(filesystems, "_fstatfs", filesystems._fstatfs.__wrapped__)
    assert trust(tmp_path) is NONE


@needs_fuse
@pytest.mark.parametrize(("user_id", "expected"), [(0, NONZERO), (1, NONE), (4321, NONE)])
def test_fuse_is_relied_on_by_the_user_who_has_mounted_it(
    tmp_path: Path, user_id: int, expected: SizeTrust
) -> None:
    with mounted(tmp_path, {"f": File(b"x")}, user_id=user_id):
        assert trust(tmp_path) is trust(tmp_path / "f") is expected


@needs_fuse
def test_fuse_that_is_not_in_the_table_of_mounts_is_not_relied_on(tmp_path: Path) -> None:
    """Examples: a lazily unmounted file system, or a file system of another mount namespace."""
    with mounted(tmp_path, {"f": File(b"x")}):
        fd = os.open(tmp_path / "f", os.O_RDONLY)
        try:
            device = os.fstat(fd).st_dev
            assert trust_of(fd, device) is NONZERO
            subprocess.run(["umount", "--lazy", tmp_path], check=True)
            assert trust_of(fd, device) is NONE
        finally:
            os.close(fd)


@needs_fuse
def test_without_proc_no_fuse_is_relied_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_proc(_: str) -> bytes:
        raise FileNotFoundError

    with mounted(tmp_path, {"f": File(b"x")}):
        monkeypatch.setattr(filesystems, "_read", no_proc)
        assert trust(tmp_path) is NONE


@pytest.mark.parametrize(
    ("kind", "major", "expected"),
    [
        (0x01021997, 0, NONZERO),
        *((0x6969, 0, FULL), (0x9FA0, 0, NONE)),
        *((0, 0, NONE), (0, 8, FULL)),
    ],
)
def test_file_systems_that_are_not_here(kind: int, major: int, expected: SizeTrust) -> None:
    """Kinds that this machine lacks: 9p, whose server may invent files; NFS; proc; unknown."""
    assert trust_in(kind, os.makedev(major, 99)) is expected


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory")
def test_the_file_of_another_device_has_no_effect() -> None:
    """A file on another device than the scanned file has no effect on the trust in its size."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, opened(name) as fd:
        Path(name, "f").touch()
        device = os.fstat(fd).st_dev
        assert trust_at("f", fd, device, follow=False) is FULL
        assert trust_at("f", fd, os.makedev(0, 1 << 19), follow=False) is NONE


@needs_fuse
def test_a_file_may_be_a_file_system_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    link = tmp_path / "link"
    link.symlink_to("f")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        own = os.fstat(fd).st_dev
        with mounted(file, {"": File(b"x")}, user_id=4321):
            device = file.stat().st_dev
            assert trust_at("f", fd, device, follow=False) is NONE
            assert trust_at("link", fd, device, follow=True) is NONE
        with mounted(file, {"": File(b"x")}):
            assert trust_at("f", fd, file.stat().st_dev, follow=False) is NONZERO
            assert trust_at("link", fd, file.stat().st_dev, follow=True) is NONZERO
            # The link is on the disk, and the file that it leads to is on `device`.
            assert trust_at("link", fd, file.stat().st_dev, follow=False) is NONE
        # After the unmount, the kernel knows no file system for this device.
        assert trust_at("f", fd, device, follow=False) is NONE
        assert trust_at("f", fd, own, follow=False) is FULL
        with pytest.raises(FileNotFoundError):
            trust_at("gone", fd, device, follow=False)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("mounts", "user", "expected"),
    [
        (line(), 1000, NONZERO),
        (line(), 1001, NONE),
        (line(), 0, NONE),
        (line(), 100, NONE),
        (line(kind=b"fuse.sshfs", tags=b" shared:5 master:7"), 1000, NONZERO),
        (line(kind=b"virtiofs", options=b"rw"), 0, NONZERO),
        (line(options=b"rw"), 0, NONE),
        (line(options=b"rw,group_id=0"), 0, NONE),
        (line(options=b"rw,x_user_id=1000"), 1000, NONE),
        (b"", 1000, NONE),
        (line(device=b"0:3") + line(device=b"0:390") + line(device=b"1:39"), 1000, NONE),
        (line(device=b"0:4", options=b"rw,user_id=0") + line(), 0, NONE),
        (line(device=b"0:4", options=b"rw,user_id=0") + line(), 1000, NONZERO),
        (b"42 27 0:39", 1000, NONE),
        (b"42 27 0:39 / /m rw -", 1000, NONE),
        (b"\n42\n" + line(), 1000, NONZERO),
    ],
)
def test_lines_of_mountinfo(mounts: bytes, user: int, expected: SizeTrust) -> None:
    assert fuse_trust(DEVICE, mounts, FIRST_NAMESPACE, user) is expected


@pytest.mark.parametrize("place", ["where", "source", "kind"])
@pytest.mark.parametrize("end", [b"\r", b"\x0b", b"\x1c", b"\xc2\x85"])
def test_no_name_that_a_user_gives_is_taken_for_a_line(place: str, end: bytes) -> None:
    """The kernel writes a space and a newline in octal, but other line separators unchanged."""
    forged = b"x%s42 27 0:39 / /m rw - fuse s rw,user_id=0" % end
    mounts = line(**{place: forged.replace(b" ", b"\\040")})
    assert fuse_trust(DEVICE, mounts, FIRST_NAMESPACE, 0) is NONE
    assert fuse_trust(DEVICE, mounts, FIRST_NAMESPACE, 1000) is NONZERO


@pytest.mark.parametrize(
    "uid_map", [b"0 1000 1\n", b"0 0 65536\n", b"", b"0 0 4294967295\n1 2 3\n"]
)
def test_numbers_of_users_count_in_the_first_namespace_only(uid_map: bytes) -> None:
    assert fuse_trust(DEVICE, line(), uid_map, 1000) is NONE

"""False facts from real file systems: types, times and numbers that could hide a listed file.

The tests use prepared disks, snapshots, shared maps and automounts. Only root can mount, and each
test unmounts its file systems.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hashclient.core.kinds import Algorithm
from hashclient.scan.cache import cache
from hashclient.scan.check.reading import DIRECTORY
from hashclient.scan.sources.mounts import UNIDENTIFIED
from tests.disks import make_image, mounted, needs_mounts, tool
from tests.kit import Run, call, csv_of, environment, make_state, write_tree

LISTED = b"listed"
BENIGN = b"benign"
#: Types of files in an ext4 directory, whose numbers differ from `DT_REG` and so on.
REGULAR, FOLDER, PIPE, LINK, UNKNOWN = 1, 2, 5, 7, 0

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state whose entry has no size, so that every file is read."""
    rows = csv_of({"e-1": LISTED}, algorithms=(Algorithm.SHA1,), sized=False)
    return make_state(tmp_path_factory.mktemp("site"), {"base": rows})


@pytest.fixture
def state(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FRESH_NS", "FRESH_PROVEN_NS", "COARSE_NS"):
        monkeypatch.setattr(cache, name, 0)
    return Path(shutil.copytree(template, tmp_path / "state"))


def scan(state: Path, *args: object) -> Run:
    return call(
        "--state-dir", state, "scan", "--format", "jsonl", "--show-all", "--jobs", "1", *args
    )


def found(result: Run) -> dict[str, str]:
    """Return the outcome of each input by name: its kind, or the reason why it was not checked."""
    return {Path(line["path"]).name: line.get("reason", line["type"]) for line in result.lines[:-1]}


def ext4(image: Path, source: Path, types: Mapping[str, tuple[int, int]]) -> Path:
    """Make an ext4 image whose directory claims other types: the old and new type of each name."""
    with image.open("wb") as stream:
        stream.truncate(16 << 20)
    tool("mkfs.ext4", "-q", "-O", "^metadata_csum", "-d", source, image)
    raw = bytearray(image.read_bytes())
    for name, (old, new) in types.items():
        entry = bytes([len(name), old]) + name.encode()
        assert raw.count(entry) == 1
        raw[raw.find(entry) + 1] = new
    image.write_bytes(raw)
    return image


# Types of names in a directory


@pytest.mark.slow
@needs_mounts
@pytest.mark.parametrize("options", [[], ["--follow-symlinks"]])
def test_a_disk_that_calls_a_file_something_else_hides_nothing(
    state: Path, tmp_path: Path, options: list[str]
) -> None:
    files = {"file-link": LISTED, "file-pipe": LISTED, "file-none": LISTED, "file-folder": LISTED}
    files |= {"folder-link/a": LISTED, "folder-pipe/b": LISTED, "folder-file/c": LISTED}
    types = {
        "file-link": (REGULAR, LINK),
        "file-pipe": (REGULAR, PIPE),
        "file-none": (REGULAR, UNKNOWN),
        "file-folder": (REGULAR, FOLDER),
        "folder-link": (FOLDER, LINK),
        "folder-pipe": (FOLDER, PIPE),
        "folder-file": (FOLDER, REGULAR),
    }
    image = ext4(tmp_path / "image", write_tree(tmp_path / "source", files), types)
    with mounted("-o", "loop,ro", image, tmp_path / "m") as tree:
        assert (tree / "file-link").read_bytes() == LISTED
        result = scan(state, *options, tree)
    matches = dict.fromkeys(("file-link", "file-pipe", "file-none", "a", "b"), "match")
    unread = {"file-folder": "not a directory", "folder-file": DIRECTORY}
    assert found(result) == matches | unread
    assert result.code == 11


@needs_mounts
def test_a_folder_that_is_called_a_file_is_not_passed_over(state: Path, tmp_path: Path) -> None:
    """The scan lists only this folder, so that no other file decides the exit code."""
    source = write_tree(tmp_path / "source", {"d/c": LISTED, "beside": BENIGN})
    image = ext4(tmp_path / "image", source, {"d": (FOLDER, REGULAR)})
    with mounted("-o", "loop,ro", image, tmp_path / "m") as tree:
        for options in ([], ["--no-inventory"]):
            result = scan(state, *options, tree)
            assert found(result) == {"d": DIRECTORY, "beside": "clean"}
            assert result.code == 3


# Automounts


@contextlib.contextmanager
def automount(where: Path, files: Mapping[str, bytes]) -> Iterator[None]:
    """Mount autofs at `where`, which mounts a file system with `files` on its first use."""
    reading, writing = os.pipe()
    daemon = os.fork()
    if daemon == 0:
        try:
            # A process in the group of an autofs daemon triggers no mount, so the daemon gets its
            # own group.
            os.setpgid(0, 0)
            options = f"fd={writing},pgrp={os.getpid()},minproto=5,maxproto=5,direct"
            number = _libc.mount(b"auto", os.fsencode(where), b"autofs", 0, options.encode())
            os.close(writing)
            if number != 0:
                os._exit(1)
            top = os.open(where, os.O_RDONLY)
            while True:
                packet = os.read(reading, 4096)
                if not packet:
                    os._exit(0)
                (token,) = struct.unpack_from("=I", packet, 8)
                subprocess.run(["mount", "-t", "tmpfs", "share", where], check=True)
                write_tree(where, files)
                fcntl.ioctl(top, 0x9360, token)  # the ioctl AUTOFS_IOC_READY
        finally:
            os._exit(2)
    os.close(writing)
    os.close(reading)
    try:
        deadline = time.monotonic() + 10
        while b" - autofs auto " not in Path("/proc/self/mountinfo").read_bytes():
            if os.waitpid(daemon, os.WNOHANG)[0] or time.monotonic() > deadline:
                daemon = 0
                pytest.skip("no autofs here")
            time.sleep(0.01)
        yield
    finally:
        while where.stat().st_dev != where.parent.stat().st_dev:
            if subprocess.run(["umount", "--lazy", where], check=False).returncode:
                break
        if daemon:
            os.kill(daemon, 9)
            os.waitpid(daemon, 0)


@needs_mounts
def test_an_automount_that_is_given_is_not_another_file_system(state: Path, tmp_path: Path) -> None:
    """A given automount is mounted when it is opened, and only then is its file system known."""
    share = tmp_path / "share"
    share.mkdir()
    write_tree(tmp_path / "other", {"beside": BENIGN})
    with automount(share, {"f": LISTED}):
        result = scan(state, "--one-file-system", share, tmp_path / "other")
    assert found(result) == {"f": "match", "beside": "clean"}
    assert result.code == 10


# Files that are mapped into memory


def settle() -> None:
    """Wait until the written files are older than the files that follow."""
    time.sleep(0.02)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory")
def test_a_store_through_a_map_of_memory_is_seen(state: Path) -> None:
    """Files of tmpfs are never written back, so a store through a map never sets their times."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        path = Path(name, "f")
        path.write_bytes(BENIGN)
        with path.open("r+b") as stream, mmap.mmap(stream.fileno(), len(BENIGN)) as stored:
            # The first store through the map sets the file's times. Later stores do not, because
            # the page is in memory.
            stored[:] = BENIGN
            before = path.stat()
            settle()
            assert scan(state, name).code == 0
            stored[:] = LISTED
            assert path.stat().st_ctime_ns == before.st_ctime_ns
            assert scan(state, name).code == 10


@needs_mounts
def test_another_disk_of_the_same_number_is_not_known(state: Path, tmp_path: Path) -> None:
    """A tool for reproducible images made both disks and set all times."""
    where, statuses = tmp_path / "m", []
    done = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no loop device here")
    device = done.stdout.strip()
    for content, code in ((BENIGN, 0), (LISTED, 10)):
        source = write_tree(tmp_path / content.decode(), {"f": content})
        image = ext4(tmp_path / "image", source, {})
        for field in ("mtime", "ctime"):
            tool("debugfs", "-w", "-R", f"set_inode_field f {field} @1500000000", image)
            tool("debugfs", "-w", "-R", f"set_inode_field f {field}_extra 0", image)
        with mounted("-o", f"loop={device},ro", image, where):
            status = (where / "f").stat()
            statuses.append((status.st_dev, status.st_ino, status.st_ctime_ns))
            result = scan(state, where)
        assert (result.code, result.summary["known_unchanged"]) == (code, 0)
    assert len(set(statuses)) == 1


def snapshot(source: Path, directory: Path, name: str) -> None:
    """Make a snapshot of a btrfs subvolume with a system call, without starting a process."""
    source_fd, directory_fd = (os.open(path, os.O_RDONLY) for path in (source, directory))
    try:
        request = struct.pack("=qQQ4Q", source_fd, 0, 0, 0, 0, 0, 0) + name.encode()
        fcntl.ioctl(directory_fd, 0x50009417, bytearray(request.ljust(4096, b"\0")))
    finally:
        os.close(source_fd)
        os.close(directory_fd)


@needs_mounts
def test_a_snapshot_that_takes_the_place_of_another_is_not_known(
    state: Path, tmp_path: Path
) -> None:
    """A writer makes two snapshots within one tick of the clock and exchanges them."""
    image = make_image(tmp_path / "image", "btrfs")
    with mounted("-o", "loop", image, tmp_path / "m") as top:
        tool("btrfs", "subvolume", "create", top / "sub")
        now, name = top / "now", top / "sub/f"
        for attempt in range(50):
            with name.open("wb", buffering=0) as stream:
                stream.write(BENIGN)
                snapshot(top / "sub", top, f"old-{attempt}")
                stream.seek(0)
                stream.write(LISTED)
            old = top / f"old-{attempt}"
            if (old / "f").stat().st_ctime_ns == name.stat().st_ctime_ns:
                break
        else:
            pytest.skip("no two changes within one tick")
        assert (old / "f").read_bytes() == BENIGN
        snapshot(top / "sub", top, "kept")
        old.rename(now)
        before = (now / "f").stat()
        settle()
        assert scan(state, now).code == 0
        tool("btrfs", "subvolume", "delete", now)
        snapshot(top / "kept", top, "now")
        after = (now / "f").stat()
        assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
        assert scan(state, now).code == 10
        if after.st_dev != before.st_dev:
            pytest.skip("the number of the device was not given again")


# File systems that earlier scans have seen


@pytest.mark.slow
@needs_mounts
def test_without_proc_a_share_that_is_not_mounted_is_not_clean(state: Path, tmp_path: Path) -> None:
    """Without /proc, nobody can see whether the remembered share is mounted, so it is unread."""
    beside = write_tree(tmp_path / "other", {"beside": BENIGN})
    share = tmp_path / "share"
    command = ["--state-dir", state, "scan", "--format", "jsonl", "--show-all", share, beside]
    with mounted("-t", "tmpfs", "share", share):
        write_tree(share, {"f": BENIGN})
        assert call(*command).code == 0
    assert call(*command).code == 3
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"),
            *(sys.executable, "-m", "hashclient", *map(str, command)),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "umount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"proc cannot be taken away: {done.stderr.strip()}")
    assert done.returncode == 3, done.stderr
    assert done.stdout.count(UNIDENTIFIED) == 2

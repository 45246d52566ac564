"""Matches on file systems that take each other's place under one name: none of them is away."""

from __future__ import annotations

import os
import struct
import subprocess
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.cli.test_gone import LISTED, World
from tests.disks import make_image, mounted, needs_mounts

pytestmark = needs_mounts


def test_another_disk_under_the_name_of_the_device_has_lost_nothing(tmp_path: Path) -> None:
    """As one stick after the other is `/dev/sdb1`."""
    world = World(tmp_path)
    one, two = (make_image(tmp_path / name, "ext4") for name in ("one", "two"))
    place = world.tree / "stick"

    def device() -> str:
        done = subprocess.run(["findmnt", "-no", "SOURCE", place], capture_output=True, check=True)
        return done.stdout.decode().strip()

    with mounted("-o", "loop", one, place):
        (place / "a").write_bytes(LISTED)
        world.scan()
        before = device()
    with mounted("-o", "loop", two, place):
        if device() != before:
            pytest.skip("another loop device")
        assert world.scan().summary["gone"] == 0
    assert world.states()["stick/a"] == "found"
    with mounted("-o", "loop", one, place):
        (place / "a").unlink()
        assert world.scan().summary["gone"] == 1
    assert world.states()["stick/a"] == "gone"


def test_another_folder_mounted_over_it_has_lost_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scan()
    (tmp_path / "empty").mkdir()
    with mounted("--bind", tmp_path / "empty", world.tree / "sub"):
        assert world.scan().summary["gone"] == 0
    assert world.states()["sub/deep/a"] == "found"


class Vault:
    """A directory that is encrypted, on a disk of its own."""

    def __init__(self, disk: Path) -> None:
        self.path = disk / "vault"
        self.path.mkdir()
        self._root = os.open(disk, os.O_RDONLY)
        key = bytearray(struct.pack("=II32sII32s64s", 2, 0, b"", 64, 0, b"", bytes(range(64))))
        try:
            ioctl(self._root, 0xC0506617, key)  # FS_IOC_ADD_ENCRYPTION_KEY
            self._id = bytes(key[8:24])
            fd = os.open(self.path, os.O_RDONLY)
            # FS_IOC_SET_ENCRYPTION_POLICY
            ioctl(fd, 0x800C6613, struct.pack("=BBBBB3s16s", 2, 1, 4, 2, 0, b"", self._id))
            os.close(fd)
        except OSError as error:
            pytest.skip(f"no fscrypt: {error}")

    def lock(self) -> None:
        os.sync()
        # FS_IOC_REMOVE_ENCRYPTION_KEY
        ioctl(self._root, 0xC0406618, bytearray(struct.pack("=II32sI20s", 2, 0, self._id, 0, b"")))
        os.close(self._root)


@pytest.mark.parametrize("name", ["a", "deep/a"])
def test_a_folder_that_is_encrypted_and_locked_has_lost_nothing(tmp_path: Path, name: str) -> None:
    """The kernel says of each name in it that there is no such file."""
    world = World(tmp_path)
    disk = make_image(tmp_path / "disk", "ext4", "-O", "encrypt", "-b", 4096)
    with mounted("-o", "loop", disk, world.tree / "disk") as place:
        vault = Vault(place)
        for path in (vault.path / name, vault.path / "b"):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(LISTED)
        world.scan()
        (vault.path / "b").unlink()
        assert world.scan().summary["gone"] == 1
        vault.lock()
        assert not (vault.path / name).exists()
        locked = world.scan()
        assert (locked.code, locked.summary["gone"]) == (11, 0)
    assert world.states()[f"disk/vault/{name}"] == "found"
    assert world.states()["disk/vault/b"] == "gone"

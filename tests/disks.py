"""Real file systems for tests: on loop devices, mounted by root, and unmounted afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")

#: The smallest image, in bytes, that the tool of each file system accepts.
_IMAGE_BYTES = {"ext4": 16 << 20, "btrfs": 128 << 20, "xfs": 320 << 20}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_PROT_READ, _PROT_WRITE, _MAP_SHARED = 1, 2, 1


def tool(*command: object) -> None:
    """Run a tool that makes a file system; skip the test if the tool is not installed."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"no {command[0]}")
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


@contextlib.contextmanager
def mounted(*args: object) -> Iterator[Path]:
    """Mount with mount(8), whose last argument is the mount point; unmount at the end."""
    where = Path(str(args[-1]))
    where.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *map(str, args)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", where], check=True)


def make_image(path: Path, kind: str, *options: object) -> Path:
    """Make an image file with an empty file system."""
    with path.open("wb") as stream:
        stream.truncate(_IMAGE_BYTES[kind])
    tool(f"mkfs.{kind}", "-q", *options, path)
    return path


@contextlib.contextmanager
def disk(directory: Path, kind: str) -> Iterator[Path]:
    """Make an empty file system below `directory`, and mount it."""
    if kind == "tmpfs":
        with mounted("-t", "tmpfs", "memory", directory / "m") as where:
            yield where
        return
    image = make_image(directory / f"{kind}.image", kind)
    with mounted("-o", "loop", image, directory / "m") as where:
        yield where


class Vault:
    """An encrypted directory (fscrypt) on a separate mounted disk."""

    #: Options of mkfs.ext4.
    OPTIONS = ("-O", "encrypt", "-b", 4096)

    def __init__(self, disk: Path) -> None:
        """Make the vault in the top directory; skip the test if the kernel cannot."""
        self.path = disk / "vault"
        self.path.mkdir()
        self._root = os.open(disk, os.O_RDONLY)
        key = bytearray(struct.pack("=II32sII32s64s", 2, 0, b"", 64, 0, b"", bytes(range(64))))
        try:
            ioctl(self._root, 0xC0506617, key)  # FS_IOC_ADD_ENCRYPTION_KEY
            self._id = bytes(key[8:24])
            fd = os.open(self.path, os.O_RDONLY)
            # The ioctl FS_IOC_SET_ENCRYPTION_POLICY.
            ioctl(fd, 0x800C6613, struct.pack("=BBBBB3s16s", 2, 1, 4, 2, 0, b"", self._id))
            os.close(fd)
        except OSError as error:
            pytest.skip(f"no fscrypt: {error}")

    def lock(self) -> None:
        """Remove the key."""
        os.sync()
        # The ioctl FS_IOC_REMOVE_ENCRYPTION_KEY.
        ioctl(self._root, 0xC0406618, bytearray(struct.pack("=II32sI20s", 2, 0, self._id, 0, b"")))
        os.close(self._root)


class Map:
    """A shared map of a file for reading and writing, whose descriptor is closed."""

    def __init__(self, path: Path) -> None:
        """Map a whole file."""
        fd = os.open(path, os.O_RDWR)
        try:
            self._bytes = os.fstat(fd).st_size
            prot = _PROT_READ | _PROT_WRITE
            self._place = _libc.mmap(None, self._bytes, prot, _MAP_SHARED, fd, 0)
        finally:
            os.close(fd)
        assert self._place not in {None, ctypes.c_void_p(-1).value}

    def read(self) -> bytes:
        """Read the whole map."""
        return ctypes.string_at(self._place, self._bytes)

    def store(self, data: bytes) -> None:
        """Store bytes at the beginning of the map."""
        assert len(data) <= self._bytes
        ctypes.memmove(self._place, data, len(data))

    def close(self) -> None:
        """Close the map."""
        _libc.munmap(self._place, self._bytes)

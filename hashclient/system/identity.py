"""Identifies the file system of a file by a number that no other file system gets.

`st_dev` is not enough. The next mount may get the same number; and if a file system is not on a
single block device (btrfs, overlay, a network), its number may change at each start. So a file
system is identified by the first item of this list that it has:

1. its UUID, if the file system is on built-in disks; on btrfs the UUID of the subvolume, too, since
   a snapshot has the inodes of its source;
2. on ext4, if the kernel does not give the UUID, the number that statfs(2) makes of it;
3. on a network, its type, the mounted source, and the directory of the source;
4. otherwise the number of its mount, which is not used again until the machine is restarted.

A UUID can be forged as easily as times. So portable media are identified by their mount only: loop
devices, removable media, and devices on a bus for removable media. A file system mounted by a user
is not identified at all, since the user may be able to write to its image past the file system.
A file system that has no item of the list is not identified either.

Limits: a bit-by-bit copy of a disk that replaces the original counts as the original.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sys
from array import array
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import msgspec

from hashclient.system.filesystems import (
    BTRFS,
    CLUSTER,
    EXT,
    NETWORK,
    STACKED,
    XFS,
    Mount,
    ask_at,
    keeps_ctime,
    kind_of,
    mount_of,
    unescaped,
    with_trait,
)

_NETWORK, _CLUSTER, _STACKED = map(with_trait, (NETWORK, CLUSTER, STACKED))
#: Types on which leases were tested against writes through maps made before and after the lease.
#: xfs is left out: a user who may write to two files can exchange their contents without a change
#: of times (`XFS_IOC_SWAPEXT`). overlay is left out: the kernel does not count a memory map of its
#: files.
_LEASES_PROVE = frozenset({EXT, BTRFS})

#: From linux/fs.h: the request, and the length of its answer.
_GET_UUID, _UUID_BYTES = 0x80111500, 17
#: From linux/btrfs.h: the request, the length of its answer, and the offset of the UUID in the
#: answer.
_BTRFS_INFO, _BTRFS_INFO_BYTES, _BTRFS_UUID = 0x8400941F, 1024, slice(16, 32)
#: The same three values for the request about the subvolume of a file. The number of a deleted
#: subvolume may be used again after the file system is mounted again. The number of the first
#: subvolume is never used again; this subvolume may have no UUID.
_SUBVOLUME_INFO, _SUBVOLUME_INFO_BYTES, _SUBVOLUME_UUID = 0x81F8943C, 504, slice(296, 312)
_FIRST_SUBVOLUME = (5).to_bytes(8, sys.byteorder)
#: From xfs/xfs_fs.h: the same three values for the request about the geometry, for kernels before
#: 6.9.
_XFS_GEOMETRY, _XFS_GEOMETRY_BYTES, _XFS_UUID = 0x80705864, 112, slice(64, 80)
#: From linux/stat.h and linux/fcntl.h.
_STATX_MNT_ID_UNIQUE, _STATX_BTIME, _AT_EMPTY_PATH = 0x4000, 0x800, 0x1000
_STATX_ATTR_MOUNT_ROOT = 0x2000

_SYS = Path("/sys")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: A device with such a part in its path in /sys can be pulled out, or is not a disk.
_LOOSE = r"/(usb|mmc|fw|pcmcia|virtual)"
#: The most layers of device mapper and RAID that are followed.
_MAX_LAYERS = 16


class Identity(msgspec.Struct, frozen=True):
    """A file system: a number of 63 bits, which identifies it in the record of files.

    `proves` says whether a granted lease proves that nobody can change a file without a trace; if
    `is_local` is False, a refused lease proves nothing either.
    """

    number: int
    proves: bool = False
    is_local: bool = True


class Facts:
    """The facts of this machine about the mount of an open file; tests have other facts."""

    #: Where mount(8) and udisks record who has mounted a file system.
    utab = Path("/run/mount/utab")

    def kind_of(self, fd: int) -> int:
        """Return the type of the file system, as `filesystems.kind_of`."""
        return kind_of(fd)

    def mount_of(self, fd: int) -> Mount | None:
        """Return the mount, as `filesystems.mount_of`."""
        return mount_of(fd)

    def unique_mount(self, fd: int) -> int | None:
        """Return the number of the mount, as `unique_mount`."""
        return unique_mount(fd)

    def boot_id(self) -> bytes:
        """Return bytes that identify the machine since its start, as `boot_id`."""
        return boot_id()

    def disk_name(self, path: Path) -> bytes | None:
        """Return bytes that distinguish a disk from copies, as `_disk_name`."""
        return _disk_name(path)


class Identities:
    """The file systems that one process meets.

    The facts about a mount stay true for the life of the process, since the mount's number is not
    used again.
    """

    def __init__(self, facts: Facts | None = None) -> None:
        """Start without any file system; `facts` are the facts of this machine by default."""
        self._facts = facts or Facts()
        self._known: dict[tuple[int, int, int], Identity | None] = {}

    def of(self, fd: int, device: int) -> Identity | None:
        """Return the file system of an open file, whose `st_dev` is `device`.

        Return None if an unchanged status does not mean an unchanged file, or the file system
        cannot be identified.
        """
        try:
            kind = self._facts.kind_of(fd)
            if not keeps_ctime(kind):
                return None
            number = os.fstatvfs(fd).f_fsid
        except OSError:
            return None
        mount = self._facts.unique_mount(fd)
        key = (mount or 0, device, number)
        if mount is None or key not in self._known:
            self._known[key] = _identify(self._facts, fd, kind, *key)
        return self._known[key]

    def at(self, name: str, directory_fd: int, device: int, *, follow: bool) -> Identity | None:
        """Return the file system of a file in an open directory; `device` is its `st_dev`."""
        try:
            return ask_at(self.of, name, directory_fd, device, follow, None)
        except OSError:
            return None


def _identify(
    facts: Facts, fd: int, kind: int, mount: int, device: int, number: int
) -> Identity | None:
    """Identify a file system; the numbers in comments are the numbers of the module's list."""
    name = None
    if kind in _NETWORK:
        name = _export_of(facts.mount_of(fd))  # 3
    elif _is_users(facts.mount_of(fd), facts.utab):
        return None
    elif kind not in _STACKED:
        name = _uuid_of(facts, fd, kind, device, number)  # 1, 2
    if name is None and mount:
        boot = facts.boot_id()
        name = b"mount %s %d %d %d" % (boot, mount, device, number) if boot else None  # 4
    if name is None:
        return None
    is_local = kind not in _NETWORK and kind not in _CLUSTER
    return Identity(_number_of(name), kind in _LEASES_PROVE, is_local)


def _number_of(name: bytes) -> int:
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1


def _uuid_of(facts: Facts, fd: int, kind: int, device: int, number: int) -> bytes | None:
    """Return a lasting identification of a file system on built-in disks; else None."""
    within: bytes | None = b""
    try:
        if kind == BTRFS:
            within = _subvolume_of(fd)
            # Files of btrfs have device numbers without a device, and btrfs may have any number of
            # disks.
            uuid = ioctl(fd, _BTRFS_INFO, bytes(_BTRFS_INFO_BYTES))[_BTRFS_UUID]
            text = uuid.hex()
            parts = (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
            folder = _SYS / "fs/btrfs" / "-".join(parts) / "devices"
            disks = sorted(folder.iterdir())
        else:
            uuid = _asked_uuid(fd, kind)
            disks = [_SYS / f"dev/block/{os.major(device)}:{os.minor(device)}"]
        names = [facts.disk_name(path) for path in disks]
    except OSError:
        return None
    if not any(uuid):
        uuid = b"%x" % number if kind == EXT and number else b""
    if not uuid or not names or None in names or within is None:
        return None
    return b" ".join([b"uuid", uuid.hex().encode(), *filter(None, [*names, within])])


def _subvolume_of(fd: int) -> bytes | None:
    """Return a lasting identification of a btrfs subvolume; None if it has none.

    Raises:
        OSError: the kernel does not know this request (before version 4.18).
    """
    info = ioctl(fd, _SUBVOLUME_INFO, bytes(_SUBVOLUME_INFO_BYTES))
    uuid = info[_SUBVOLUME_UUID]
    return uuid.hex().encode() if any(uuid) or info[:8] == _FIRST_SUBVOLUME else None


def told_uuids(directory_fd: int) -> list[bytes]:
    """Return the UUID of the file system of an open directory; empty if the kernel has none.

    The descriptor need not be open for reading, but the directory must be readable.
    """
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)
    except OSError:
        return []
    try:
        uuid = _asked_uuid(fd, kind_of(fd))
    except OSError:
        return []
    finally:
        os.close(fd)
    return [uuid.hex().encode()] if any(uuid) else []


def _asked_uuid(fd: int, kind: int) -> bytes:
    """Return the UUID from the kernel; empty, without an error, if the kernel has none."""
    with contextlib.suppress(OSError):
        return ioctl(fd, _GET_UUID, bytes(_UUID_BYTES))[1:]
    with contextlib.suppress(OSError):
        if kind == XFS:
            return ioctl(fd, _XFS_GEOMETRY, bytes(_XFS_GEOMETRY_BYTES))[_XFS_UUID]
    return b""


def _disk_name(path: Path, layers: int = 0) -> bytes | None:
    """Return text that distinguishes a block device from copies; None if not built in.

    `path` is the device's place in /sys. A volume of the device mapper has a number there, which
    differs from the number of its snapshots.

    Raises:
        OSError: the device does not exist.
    """
    path = path.resolve(strict=True)
    if (path / "partition").exists():
        path = path.parent
    below = list((path / "slaves").iterdir())
    if below and layers < _MAX_LAYERS:
        names = [_disk_name(disk, layers + 1) for disk in below]
        own = _read(path / "dm/uuid")
        # A volume of the device mapper without a UUID may be a snapshot of another volume on these
        # disks.
        if None in names or (not own and (path / "dm").exists()):
            return None
        return b" ".join(filter(None, [own, *sorted(filter(None, names))]))
    if re.search(_LOOSE, str(path)):
        return None
    for place in (path, *path.parents):
        if _read(place / "removable") in {b"1", b"removable"}:
            return None
    return b""


def _is_users(mount: Mount | None, utab: Path) -> bool:
    """Return whether a user has mounted the file system, by the records of mount(8) and udisks."""
    if mount is None:
        return True
    for line in (_read(utab) or b"").splitlines():
        fields = dict(field.partition(b"=")[::2] for field in line.split(b" "))
        options = fields.get(b"OPTS", b"").split(b",") + fields.get(b"ATTRS", b"").split(b",")
        names = {option.partition(b"=")[0] for option in options}
        source, point = (unescaped(fields.get(key, b"")) for key in (b"SRC", b"TARGET"))
        is_it = source == mount.source or point == os.fsencode(mount.point)
        if is_it and names & {b"user", b"users", b"uhelper"}:
            return True
    return False


def _export_of(mount: Mount | None) -> bytes | None:
    """Return the type, source and directory of a network mount."""
    if mount is None:
        return None
    return b"\0".join([b"network", mount.kind.encode(), mount.source, mount.root])


def boot_id() -> bytes:
    """Return bytes that identify this machine since its start; empty if that is unknown."""
    return _read(_BOOT_ID) or b""


def unique_mount(fd: int) -> int | None:
    """Return the number of the mount that a file was opened on; it is not used again.

    Return None if the kernel does not know this request (before version 6.8).
    """
    status = _status(fd)
    if status is None:
        return None
    # The mask is the first word of 32 bits in either byte order; the mount's number is at 144.
    return status[18] if memoryview(status).cast("B").cast("I")[0] & _STATX_MNT_ID_UNIQUE else None


def attributes(fd: int) -> int:
    """Return the statx(2) attributes of an open file; none if the kernel does not have the call."""
    status = _status(fd)
    return 0 if status is None else status[1]


def is_mount_root(fd: int) -> bool:
    """Return whether an open file or directory is the root of a mount.

    Return False with a kernel before 5.8, which does not say this. Nobody can rename a path with
    this form.
    """
    return bool(attributes(fd) & _STATX_ATTR_MOUNT_ROOT)


def born_ns(fd: int) -> int | None:
    """Return when an open file was made, in nanoseconds; None if its file system does not say."""
    status = _status(fd)
    if status is None or not status[0] & _STATX_BTIME:
        return None
    return status[10] * 1_000_000_000 + (status[11] & 0xFFFFFFFF)


def _status(fd: int) -> array[int] | None:
    """Return the answer of statx(2) about an open file in words of 64 bits; None if it fails."""
    statx = _statx()
    status = array("Q", bytes(256))
    return status if statx is not None and statx(fd, status) == 0 else None


@functools.cache
def _statx() -> Callable[[int, array[int]], int] | None:
    """Return the function of the C library; None if the library has no such function."""
    try:
        import ctypes

        function = ctypes.CDLL(None).statx
    except (ImportError, OSError, AttributeError):
        return None

    def statx(fd: int, status: array[int]) -> int:
        place = ctypes.c_void_p(status.buffer_info()[0])
        return int(function(fd, b"", _AT_EMPTY_PATH, _STATX_MNT_ID_UNIQUE | _STATX_BTIME, place))

    return statx


def _read(path: Path) -> bytes | None:
    """Return the stripped text of a kernel file; None if it cannot be read."""
    try:
        return path.read_bytes().strip()
    except OSError:
        return None

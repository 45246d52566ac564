"""Identifies the file system of a file by a number that no other file system has.

`st_dev` does not identify a file system, because the kernel may give the same number to the next
mount. If a file system is not on a single block device (btrfs, overlay, a network), its `st_dev`
may also change at each start of the machine. A file system is identified by the first known fact of
this list:

1. its UUID, if the file system is on built-in disks; on btrfs, also the UUID of the subvolume,
   because a snapshot has the same inodes as its source;
2. on ext4, if the kernel does not return the UUID, the number that statfs(2) computes from the
   UUID;
3. on a network, the type of the file system, the mounted source, and the directory of the source;
4. otherwise the unique number of its mount, which the kernel does not reuse until the machine is
   restarted.

A file system on a loop device, on removable media, or on a bus for removable media is identified
only by its mount, because a UUID on portable media can be forged. A file system that an ordinary
user has mounted is not identified at all, because this user may be able to write to the image of
the file system directly. A file system is not identified either if no fact of the list is known.

Limit: a bit-by-bit copy of a disk that replaces the original disk counts as the original disk.
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
#: The types of file systems for which tests have shown that a lease excludes writes through memory
#: maps, whether the maps were made before or after the lease. A lease on xfs proves nothing,
#: because a user who may write to two files can exchange their contents without a change of times
#: (`XFS_IOC_SWAPEXT`). A lease on overlay proves nothing, because the kernel grants the lease in
#: spite of a writable memory map.
_LEASES_PROVE = frozenset({EXT, BTRFS})

#: From linux/fs.h: the ioctl(2) request for the UUID, and the length of the answer.
_GET_UUID, _UUID_BYTES = 0x80111500, 17
#: From linux/btrfs.h: the ioctl(2) request about the file system, the length of the answer, and the
#: offset of the UUID in the answer.
_BTRFS_INFO, _BTRFS_INFO_BYTES, _BTRFS_UUID = 0x8400941F, 1024, slice(16, 32)
#: From linux/btrfs.h: the ioctl(2) request about the subvolume of a file, the length of the answer,
#: and the offset of the UUID in the answer. btrfs may reuse the number of a deleted subvolume after
#: the next mount of the file system. btrfs never reuses the number of the first subvolume, which
#: may have no UUID.
_SUBVOLUME_INFO, _SUBVOLUME_INFO_BYTES, _SUBVOLUME_UUID = 0x81F8943C, 504, slice(296, 312)
_FIRST_SUBVOLUME = (5).to_bytes(8, sys.byteorder)
#: From xfs/xfs_fs.h: the ioctl(2) request about the geometry, the length of the answer, and the
#: offset of the UUID in the answer. The request is used only on kernels before 6.9.
_XFS_GEOMETRY, _XFS_GEOMETRY_BYTES, _XFS_UUID = 0x80705864, 112, slice(64, 80)
#: Flags of statx(2), from linux/stat.h and linux/fcntl.h.
_STATX_MNT_ID_UNIQUE, _STATX_BTIME, _AT_EMPTY_PATH = 0x4000, 0x800, 0x1000
_STATX_ATTR_MOUNT_ROOT = 0x2000

_SYS = Path("/sys")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: A device with one of these names in its path in /sys can be pulled out, or is not a disk.
_LOOSE = r"/(usb|mmc|fw|pcmcia|virtual)"
#: The highest number of nested device-mapper and RAID devices that are followed.
_MAX_LAYERS = 16


class Identity(msgspec.Struct, frozen=True):
    """A file system: `number` has 63 bits, and identifies the file system in the inventory.

    `proves` says whether a granted lease proves that nobody can change a file without a change of
    its times. `is_local` is False if other machines can write to the file system; then a refused
    lease proves nothing.
    """

    number: int
    proves: bool = False
    is_local: bool = True


class Facts:
    """Asks the kernel what identifies the mount of an open file; tests replace this class."""

    #: The file in which mount(8) and udisks record which user has mounted a file system.
    utab = Path("/run/mount/utab")

    def kind_of(self, fd: int) -> int:
        """Return the type of the file system of an open file, as `filesystems.kind_of`."""
        return kind_of(fd)

    def mount_of(self, fd: int) -> Mount | None:
        """Return the mount of an open file, as `filesystems.mount_of`."""
        return mount_of(fd)

    def unique_mount(self, fd: int) -> int | None:
        """Return the unique number of the mount of an open file, as the function `unique_mount`."""
        return unique_mount(fd)

    def boot_id(self) -> bytes:
        """Return bytes that identify this start of the machine, as the function `boot_id`."""
        return boot_id()

    def disk_name(self, path: Path) -> bytes | None:
        """Return bytes that distinguish a disk from its copies, as `_disk_name`."""
        return _disk_name(path)


class Identities:
    """A cache of the identities of file systems, for one process.

    The facts about a mount stay valid for the life of the process, because the kernel does not
    reuse the unique number of a mount.
    """

    def __init__(self, facts: Facts | None = None) -> None:
        """Begin with an empty cache; by default, `facts` asks the kernel of this machine."""
        self._facts = facts or Facts()
        self._known: dict[tuple[int, int, int], Identity | None] = {}

    def of(self, fd: int, device: int) -> Identity | None:
        """Return the identity of the file system of an open file, whose `st_dev` is `device`.

        Return None if a file can change without a change of its status on this file system, or if
        the file system cannot be identified.
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
        """Return the identity of the file system of the file `name`, whose `st_dev` is `device`."""
        try:
            return ask_at(self.of, name, directory_fd, device, follow, None)
        except OSError:
            return None


def _identify(
    facts: Facts, fd: int, kind: int, mount: int, device: int, number: int
) -> Identity | None:
    """Identify a file system; comments give the numbers of the list in the module docstring."""
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
    """Return a lasting identification of a file system on built-in disks; None for other disks."""
    within: bytes | None = b""
    try:
        if kind == BTRFS:
            within = _subvolume_of(fd)
            # The disks are found by the UUID, because the `st_dev` of a btrfs file belongs to no
            # block device, and a btrfs file system may have several disks.
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
    """Return a lasting identification of a file's btrfs subvolume; None if it has no UUID.

    Raises:
        OSError: the kernel is older than 4.18 and does not know the request.
    """
    info = ioctl(fd, _SUBVOLUME_INFO, bytes(_SUBVOLUME_INFO_BYTES))
    uuid = info[_SUBVOLUME_UUID]
    return uuid.hex().encode() if any(uuid) or info[:8] == _FIRST_SUBVOLUME else None


def told_uuids(directory_fd: int) -> list[bytes]:
    """Return a list with the UUID of a directory's file system; empty if the kernel knows no UUID.

    The descriptor may be opened with O_PATH, but this process must be allowed to read the
    directory.
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
    """Return the UUID of a file's file system; empty, without an error, if it is not known."""
    with contextlib.suppress(OSError):
        return ioctl(fd, _GET_UUID, bytes(_UUID_BYTES))[1:]
    with contextlib.suppress(OSError):
        if kind == XFS:
            return ioctl(fd, _XFS_GEOMETRY, bytes(_XFS_GEOMETRY_BYTES))[_XFS_UUID]
    return b""


def _disk_name(path: Path, layers: int = 0) -> bytes | None:
    """Return text that distinguishes a block device from its copies; None if it is not built in.

    `path` is the directory of the device in /sys. For a volume of the device mapper, the text
    contains the volume's UUID, which differs from the UUIDs of its snapshots.

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
        # A device-mapper volume without a UUID may be a snapshot of another volume on the same
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
    """Return whether an ordinary user has mounted a file system, by the table `utab`."""
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
    """Return the type, source and source directory of a network mount."""
    if mount is None:
        return None
    return b"\0".join([b"network", mount.kind.encode(), mount.source, mount.root])


def boot_id() -> bytes:
    """Return bytes that identify this start of the machine; empty if they are not known."""
    return _read(_BOOT_ID) or b""


def mount_namespace() -> bytes:
    """Return bytes that identify the mounts that this process sees; empty if they are unknown."""
    try:
        number = os.fsencode(os.readlink("/proc/self/ns/mnt"))  # noqa: PTH115 - no path
    except OSError:
        return b""
    boot = boot_id()
    return boot and boot + number  # the number alone is the same on many machines


def unique_mount(fd: int) -> int | None:
    """Return the unique number of the mount of an open file, which the kernel does not reuse.

    Return None if the kernel is older than 6.8 and does not know the unique number.
    """
    status = _status(fd)
    if status is None:
        return None
    # In struct statx, the mask is the first word of 32 bits, and the mount number is at byte 144.
    return status[18] if memoryview(status).cast("B").cast("I")[0] & _STATX_MNT_ID_UNIQUE else None


def attributes(fd: int) -> int:
    """Return the statx(2) attributes of an open file; 0 if the kernel does not have statx(2)."""
    status = _status(fd)
    return 0 if status is None else status[1]


def is_mount_root(fd: int) -> bool:
    """Return whether an open file or directory is the root of a mount.

    Return False on a kernel before 5.8, because its statx(2) does not have the attribute.
    """
    return bool(attributes(fd) & _STATX_ATTR_MOUNT_ROOT)


def born_ns(fd: int) -> int | None:
    """Return the birth time of an open file in nanoseconds; None if it is not known."""
    status = _status(fd)
    if status is None or not status[0] & _STATX_BTIME:
        return None
    return status[10] * 1_000_000_000 + (status[11] & 0xFFFFFFFF)


def _status(fd: int) -> array[int] | None:
    """Return the result of statx(2) for an open file in words of 64 bits; None after an error."""
    statx = _statx()
    status = array("Q", bytes(256))
    return status if statx is not None and statx(fd, status) == 0 else None


@functools.cache
def _statx() -> Callable[[int, array[int]], int] | None:
    """Return statx(2) of the C library; None if the library does not have statx(2)."""
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
    """Return the bytes of a file without white space at both ends; None after an error."""
    try:
        return path.read_bytes().strip()
    except OSError:
        return None

"""Which file system a file is on, by a number that no other one gets, as far as that can be had.

`st_dev` is no such number: it is given again to whatever is mounted next, and where there is no
single block device (btrfs, overlay, a network) it may be another one after each start. So a file
system is known, whichever of these comes first,

1. by its UUID, if it lies on disks that are built in;
   on btrfs that of the subvolume besides: a snapshot has the inodes of its source;
2. on ext4, if the kernel does not say the UUID, by the number that statfs(2) makes of it;
3. on a network, by its type, what was mounted, and which directory of that;
4. else by its mount, which has a number that is not given again until the machine is started.

A UUID is forged as easily as times are. So media that somebody may bring along are known by their
mount only: loop devices, and what can be taken out or is on a bus for such. Of what a user has
mounted nothing is known at all: the image that it lies in may be theirs to write to, beside the
file system. Nor where none of this can be had.

Limits: a disk that was copied bit by bit, and takes the place of the first one, is that one.
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
from typing import NamedTuple

from hashclient.system.filesystems import ask_at, keeps_ctime, kind_of
from hashclient.system.fstypes import BTRFS, CLUSTER, EXT, NETWORK, STACKED, XFS, with_trait
from hashclient.system.mountinfo import mount_of, unescaped

_NETWORK, _CLUSTER, _STACKED = map(with_trait, (NETWORK, CLUSTER, STACKED))
#: Where a lease was tried, on each of these, against stores through maps made before and after. Not
#: xfs: whoever may write to two files can exchange their contents there, and no time changes
#: (`XFS_IOC_SWAPEXT`). Not overlay: a map of a file of it is none for the kernel.
_LEASES_PROVE = frozenset({EXT, BTRFS})

#: From linux/fs.h: the request, and the length of what it fills in.
_GET_UUID, _UUID_BYTES = 0x80111500, 17
#: From linux/btrfs.h: the same, and where the UUID is in it.
_BTRFS_INFO, _BTRFS_INFO_BYTES, _BTRFS_UUID = 0x8400941F, 1024, slice(16, 32)
#: And of the subvolume that a file is in. Its number is given again once it has been deleted and
#: the file system was mounted again; but for that of the first one, which may have no UUID.
_SUBVOLUME_INFO, _SUBVOLUME_INFO_BYTES, _SUBVOLUME_UUID = 0x81F8943C, 504, slice(296, 312)
_FIRST_SUBVOLUME = (5).to_bytes(8, sys.byteorder)
#: From xfs/xfs_fs.h: the same of its geometry, for kernels before 6.9.
_XFS_GEOMETRY, _XFS_GEOMETRY_BYTES, _XFS_UUID = 0x80705864, 112, slice(64, 80)
#: From linux/stat.h and linux/fcntl.h.
_STATX_MNT_ID_UNIQUE, _AT_EMPTY_PATH = 0x4000, 0x1000

_SYS, _BOOT_ID, _UTAB = (
    Path("/sys"),
    Path("/proc/sys/kernel/random/boot_id"),
    Path("/run/mount/utab"),
)
#: What has one of these on its way through /sys can be pulled out, or is no disk.
_LOOSE = re.compile(r"/(usb|mmc|fw|pcmcia|virtual)", re.ASCII)
#: Layers of device mapper and RAID that are looked through.
_MAX_LAYERS = 16


class Identity(NamedTuple):
    """A file system: its number, of 63 bits, under which its files are remembered.

    `before` is the number that it had until version 3 of the inventory, where that was good enough.
    `proves` says whether a lease proves that nobody can change a file without a trace; where
    `is_local` is unset, that none is given says nothing either.
    """

    number: int
    before: int | None = None
    proves: bool = False
    is_local: bool = True


class Identities:
    """The file systems that one process comes across.

    What was found out about a mount holds as long as the process: its number is not given again.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[tuple[int, int, int], Identity | None] = {}

    def of(self, fd: int, device: int) -> Identity | None:
        """Return the file system of an open file, whose `st_dev` is `device`.

        None where an unchanged status does not tell an unchanged file, or it cannot be named.
        """
        try:
            kind = kind_of(fd)
            if not keeps_ctime(kind):
                return None
            number = os.fstatvfs(fd).f_fsid
        except OSError:
            return None
        mount = unique_mount(fd)
        key = (mount or 0, device, number)
        if mount is None or key not in self._known:
            self._known[key] = _identify(fd, kind, *key)
        return self._known[key]

    def at(self, name: str, directory_fd: int, device: int, *, follow: bool) -> Identity | None:
        """Return the same for a file in an open directory, whose `st_dev` just was `device`."""
        try:
            return ask_at(self.of, name, directory_fd, device, follow, None)
        except OSError:
            return None


def _identify(fd: int, kind: int, mount: int, device: int, number: int) -> Identity | None:
    """Name a file system; the numbers are the module's."""
    name, before = None, None
    if kind in _NETWORK:
        name = _export_of(fd)  # 3
    elif _is_users(fd):
        return None
    elif kind not in _STACKED:
        name = _uuid_of(fd, kind, device, number)  # 1, 2
        # Until now it was the number of the device, with that of statfs(2): good for a fixed disk.
        before = None if name is None else _number_of(b"%d %d" % (device, number))
    if name is None and mount:
        boot = _read(_BOOT_ID)
        name = None if boot is None else b"mount %s %d %d %d" % (boot, mount, device, number)  # 4
    if name is None:
        return None
    is_local = kind not in _NETWORK and kind not in _CLUSTER
    return Identity(_number_of(name), before, kind in _LEASES_PROVE, is_local)


def _number_of(name: bytes) -> int:
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1


def _uuid_of(fd: int, kind: int, device: int, number: int) -> bytes | None:
    """Return what stands for a file system for good, if it lies on disks that are built in."""
    within: bytes | None = b""
    try:
        if kind == BTRFS:
            within = _subvolume_of(fd)
            # Its files are on devices that are none, and it may have any number of disks.
            uuid = ioctl(fd, _BTRFS_INFO, bytes(_BTRFS_INFO_BYTES))[_BTRFS_UUID]
            text = uuid.hex()
            parts = (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
            folder = _SYS / "fs/btrfs" / "-".join(parts) / "devices"
            disks = sorted(folder.iterdir())
        else:
            uuid = _asked_uuid(fd, kind)
            disks = [_SYS / f"dev/block/{os.major(device)}:{os.minor(device)}"]
        names = [_disk_name(path) for path in disks]
    except OSError:
        return None
    if not any(uuid):
        uuid = b"%x" % number if kind == EXT and number else b""
    if not uuid or not names or None in names or within is None:
        return None
    return b" ".join([b"uuid", uuid.hex().encode(), *filter(None, [*names, within])])


def _subvolume_of(fd: int) -> bytes | None:
    """Return what stands for a subvolume of btrfs for good; None if it has no such thing.

    Raises:
        OSError: the kernel does not say it (it does from version 4.18 on).
    """
    told = ioctl(fd, _SUBVOLUME_INFO, bytes(_SUBVOLUME_INFO_BYTES))
    uuid = told[_SUBVOLUME_UUID]
    return uuid.hex().encode() if any(uuid) or told[:8] == _FIRST_SUBVOLUME else None


def told_uuids(directory_fd: int) -> list[bytes]:
    """Return the UUID of the file system of an open directory, if the kernel says it: one or none.

    It need not be open for reading; that it can be opened so is needed.
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
    """Return the UUID that the kernel says; nothing if it does not, which is no error."""
    with contextlib.suppress(OSError):
        return ioctl(fd, _GET_UUID, bytes(_UUID_BYTES))[1:]
    with contextlib.suppress(OSError):
        if kind == XFS:
            return ioctl(fd, _XFS_GEOMETRY, bytes(_XFS_GEOMETRY_BYTES))[_XFS_UUID]
    return b""


def _disk_name(path: Path, layers: int = 0) -> bytes | None:
    """Return what tells a block device from its copies, mostly nothing; None if it is not built in.

    `path` is its place in /sys. A volume of the device mapper has a number of its own there, which
    a snapshot of it does not share.

    Raises:
        OSError: there is no such device.
    """
    path = path.resolve(strict=True)
    if (path / "partition").exists():
        path = path.parent
    below = list((path / "slaves").iterdir())
    if below and layers < _MAX_LAYERS:
        names = [_disk_name(disk, layers + 1) for disk in below]
        own = _read(path / "dm/uuid")
        # A volume of the device mapper without one may be a snapshot of another of these disks.
        if None in names or (not own and (path / "dm").exists()):
            return None
        return b" ".join(filter(None, [own, *sorted(filter(None, names))]))
    if _LOOSE.search(str(path)):
        return None
    for place in (path, *path.parents):
        if _read(place / "removable") in {b"1", b"removable"}:
            return None
    return b""


def _is_users(fd: int) -> bool:
    """Tell whether a user has mounted it, as far as mount(8) and udisks note that."""
    mount = mount_of(fd)
    if mount is None:
        return True
    for line in (_read(_UTAB) or b"").splitlines():
        fields = dict(field.partition(b"=")[::2] for field in line.split(b" "))
        options = fields.get(b"OPTS", b"").split(b",") + fields.get(b"ATTRS", b"").split(b",")
        names = {option.partition(b"=")[0] for option in options}
        source, point = (unescaped(fields.get(key, b"")) for key in (b"SRC", b"TARGET"))
        is_it = source == mount.source or point == os.fsencode(mount.point)
        if is_it and names & {b"user", b"users", b"uhelper"}:
            return True
    return False


def _export_of(fd: int) -> bytes | None:
    """Return what was mounted of a network: type, source, and directory of it."""
    mount = mount_of(fd)
    if mount is None:
        return None
    return b"\0".join([b"network", mount.kind.encode(), mount.source, mount.root])


def unique_mount(fd: int) -> int | None:
    """Return the number of the mount that a file was opened on, which is not given again.

    None if the kernel does not say it (it does from version 6.8 on).
    """
    status = _status(fd)
    if status is None:
        return None
    # The mask is the first word of 32 bits, whichever way round; the number of the mount is at 144.
    return status[18] if memoryview(status).cast("B").cast("I")[0] & _STATX_MNT_ID_UNIQUE else None


def attributes(fd: int) -> int:
    """Return the attributes of an open file, as statx(2) has them; of a kernel without it, none."""
    status = _status(fd)
    return 0 if status is None else status[1]


def _status(fd: int) -> array[int] | None:
    """Return what statx(2) says of an open file, in words of 64 bits; None if it says nothing."""
    statx = _statx()
    status = array("Q", bytes(256))
    return status if statx is not None and statx(fd, status) == 0 else None


@functools.cache
def _statx() -> Callable[[int, array[int]], int] | None:
    """Return the function of the C library; None where there is none."""
    try:
        import ctypes

        function = ctypes.CDLL(None).statx
    except (ImportError, OSError, AttributeError):
        return None

    def statx(fd: int, status: array[int]) -> int:
        place = ctypes.c_void_p(status.buffer_info()[0])
        return int(function(fd, b"", _AT_EMPTY_PATH, _STATX_MNT_ID_UNIQUE, place))

    return statx


def _read(path: Path) -> bytes | None:
    """Return what a file of the kernel says, without white space around it; None if it cannot."""
    try:
        return path.read_bytes().strip()
    except OSError:
        return None

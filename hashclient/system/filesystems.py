"""Decides whether a scan can rely on the sizes and times of files on a file system.

A scan does not open a file if no entry has the size of the file, and does not read a file again if
its status is unchanged. Skipping a file because of its size or status is safe only if the kernel
itself maintains the status. For example, files of proc and sysfs have the size 0 or 4,096 with any
content, and the status of a FUSE file is chosen by a program that an ordinary user may have
started. The files of a file system that is not in the table `_TRAITS` are always read, so that no
match is missed.

Times are less reliable than sizes. An unchanged status means an unchanged file only if each change
of the file sets ctime, and nothing else can set ctime. The times of files are unreliable on these
file systems, for example:

- FAT has no ctime;
- a program chooses the ctime in FUSE;
- the maker of an image of squashfs or iso9660 chose the ctime in the image;
- on tmpfs, a process can write through a memory map that it has first read from, without a change
  of the times of the file.

The module `identity` identifies a file system, because the kernel reuses device numbers.

Limits: a file system that root has mounted on top of another file system (overlay, a loop device)
    is trusted like any file system of its type, and a server of NFS or SMB is trusted like a disk.

The type of a file system is its magic number in statfs(2). The magic numbers are from linux/magic.h
or, for file systems that are not part of Linux, from the headers of these file systems. Mounts are
read from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
"""

from __future__ import annotations

import enum
import errno
import functools
import os
import re
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec


class Mount(msgspec.Struct, frozen=True):
    """A line of /proc/self/mountinfo: mount point, directory of the source, type, source."""

    point: str
    root: bytes
    kind: str
    source: bytes


def parse_mountinfo(text: bytes) -> dict[int, Mount]:
    """Return the mounts in the content of a mountinfo file, by mount number."""
    mounts = {}
    for line in text.split(b"\n"):
        left, _, right = line.partition(b" - ")
        fields, more = left.split(b" "), right.split(b" ")
        if len(fields) >= 6 and len(more) >= 2:
            point, root, source = (unescaped(raw) for raw in (fields[4], fields[3], more[1]))
            kind = more[0].decode("ascii", "replace")
            mounts[int(fields[0])] = Mount(os.fsdecode(point), root, kind, source)
    return mounts


def unescaped(raw: bytes) -> bytes:
    """Return a mountinfo field with its octal escapes of white space and `\\` decoded."""
    if b"\\" not in raw:
        return raw
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), raw)


def mount_number(fd: int) -> int | None:
    """Return the number in mountinfo of the mount of an open file; None if it is not known."""
    try:
        text = Path(f"/proc/self/fdinfo/{fd}").read_bytes()
    except OSError:
        return None
    found = re.search(rb"^mnt_id:\s*([0-9]+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def mount_of(fd: int) -> Mount | None:
    """Return the mount of an open file; None if the mount is not known."""
    number = mount_number(fd)
    try:
        text = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return None
    return None if number is None else parse_mountinfo(text).get(number)


def mount_points() -> frozenset[str]:
    """Return the paths at which this process sees something mounted; empty if they are unknown."""
    try:
        text = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return frozenset()
    return frozenset(mount.point for mount in parse_mountinfo(text).values())


EXT, BTRFS, XFS = 0xEF53, 0x9123683E, 0x58465342
FUSE, NINE_P = 0x65735546, 0x01021997

#: The trait of types that report reliable sizes of files even without a block device.
SIZES = 1
#: The trait of types that set the ctime of a file at each change, in the kernel or at a server.
#: bcachefs does not have this trait, because a file and its snapshots have the same device and
#: inode numbers.
CTIME = 2
#: The trait of types whose files are changed only by the local kernel, so that it can report
#: changes.
TELLS = 4
#: The traits of types whose files can be changed by other machines without this kernel: through a
#: server (NETWORK), or on a shared disk (CLUSTER).
NETWORK, CLUSTER = 8, 16
#: The trait of types that store their files on other file systems and have no disk of their own.
STACKED = 32

_TRAITS = {
    BTRFS: SIZES | CTIME | TELLS,  # btrfs
    0xCA451A4E: SIZES | TELLS,  # bcachefs
    0x2FC12FC1: SIZES | CTIME | TELLS,  # zfs
    0x24051905: SIZES | CTIME | TELLS,  # ubifs
    0x01021994: SIZES | TELLS,  # tmpfs, devtmpfs
    0x858458F6: SIZES | TELLS,  # ramfs
    0x958458F6: SIZES,  # hugetlbfs
    0x794C7630: SIZES | CTIME | TELLS | STACKED,  # overlay
    0x61756673: SIZES | CTIME | STACKED,  # aufs
    0x0000F15F: SIZES | CTIME | TELLS | STACKED,  # ecryptfs
    0xE0F5E1E2: SIZES,  # erofs, which may lie in a file
    0x00006969: SIZES | CTIME | NETWORK,  # nfs
    0x0000517B: SIZES | CTIME | NETWORK,  # smb
    0xFF534D42: SIZES | CTIME | NETWORK,  # cifs
    0xFE534D42: SIZES | CTIME | NETWORK,  # smb2 and later
    0x00C36400: SIZES | CTIME | NETWORK,  # ceph
    0x5346414F: SIZES,  # afs
    0x6B414653: SIZES,  # afs of the kernel
    0x73757245: SIZES,  # coda
    0x0BD00BD0: SIZES | CTIME | NETWORK,  # lustre
    0x47504653: SIZES | CTIME | NETWORK,  # gpfs
    0x19830326: SIZES | CTIME | NETWORK,  # beegfs
    0x20030528: SIZES,  # orangefs
    0xAAD7AAEA: SIZES,  # panfs
    0x786F4256: SIZES,  # vboxsf
    0xBACBACBC: SIZES,  # vmhgfs
    0x7C7C6673: SIZES,  # prl_fs
    EXT: CTIME | TELLS,  # ext2, ext3, ext4
    XFS: CTIME | TELLS,  # xfs
    0xF2F52010: CTIME | TELLS,  # f2fs
    0x3153464A: CTIME | TELLS,  # jfs
    0x52654973: CTIME | TELLS,  # reiserfs
    0x00003434: CTIME | TELLS,  # nilfs2
    0x7366746E: CTIME | TELLS,  # ntfs3
    0x01161970: CTIME | CLUSTER,  # gfs2
    0x7461636F: CTIME | CLUSTER,  # ocfs2
    0x00004D44: TELLS,  # FAT
    0x2011BAB0: TELLS,  # exFAT
}


def with_trait(trait: int) -> frozenset[int]:
    """Return the magic numbers of the types that have the trait `trait`."""
    return frozenset(number for number, traits in _TRAITS.items() if traits & trait)


_T = TypeVar("_T")


class SizeTrust(enum.Enum):
    """How reliable the status of files on a file system is."""

    #: The status is not reliable: a file may have any number of bytes, and may change without a
    #: change of its status.
    NONE = enum.auto()
    #: The status is as reliable as the program behind the file system, because the scanning user
    #: has mounted it. A size of 0 may mean "not known", and a read may return more bytes than the
    #: size.
    NONZERO = enum.auto()
    #: The kernel maintains the sizes, and no read returns more bytes than the size.
    FULL = enum.auto()


#: The members of `SizeTrust` as variables, because looking up a member of an enumeration is ten
#: times as slow.
NONE, NONZERO, FULL = SizeTrust

#: The types of file systems with the trait SIZES, with the trait CTIME, and with the trait TELLS.
_TRUSTED, _KEEP_CTIME, _REPORT_CHANGES = map(with_trait, (SIZES, CTIME, TELLS))


def keeps_ctime(kind: int) -> bool:
    """Return whether each change of a file sets its ctime on a file system of type `kind`."""
    return kind in _KEEP_CTIME


def reports_changes(fd: int) -> bool:
    """Return whether the kernel sees each change that any program makes below an open directory.

    The kernel does not see changes that another machine makes on a network file system, or changes
    that a FUSE program makes in its own storage.
    """
    try:
        return kind_of(fd) in _REPORT_CHANGES
    except OSError:
        return False


def trust_of(fd: int, device: int) -> SizeTrust:
    """Return how reliable the file system of an open file is; `device` is the file's `st_dev`."""
    try:
        kind = kind_of(fd)
        if kind == FUSE:
            return fuse_trust(device, _read("mountinfo"), _read("uid_map"), os.geteuid())
    except OSError:
        return NONE
    return trust_in(kind, device)


def trust_in(kind: int, device: int) -> SizeTrust:
    """Return how reliable a file system is by its type, which is not FUSE, and its `st_dev`."""
    if kind == NINE_P:
        return NONZERO
    # Sizes on a block device are trusted for every type of file system.
    return FULL if kind in _TRUSTED or os.major(device) else NONE


@functools.cache
def _fstatfs() -> Callable[[int, array[int]], int] | None:
    """Return fstatfs(2) of the C library; None in a Python without ctypes."""
    try:
        import ctypes

        function = ctypes.CDLL(None).fstatfs
    except (ImportError, AttributeError):
        return None

    def fstatfs(fd: int, status: array[int]) -> int:
        return int(function(ctypes.c_int(fd), ctypes.c_void_p(status.buffer_info()[0])))

    return fstatfs


def kind_of(fd: int) -> int:
    """Return the magic number of the file system of an open file.

    Raises:
        OSError: the type is not known.
    """
    fstatfs = _fstatfs()
    # The type is the first field of struct statfs, a long; the array is much longer than the
    # struct.
    status = array("l", bytes(512))
    if fstatfs is None or fstatfs(fd, status) != 0:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return status[0] & 0xFFFFFFFF


def ask_at(
    ask: Callable[[int, int], _T],
    name: str,
    directory_fd: int,
    device: int,
    follow: bool,  # noqa: FBT001 - passed on
    otherwise: _T,
) -> _T:
    """Call `ask` for the file system of a file whose `st_dev` was `device`; return the result.

    The file is `name` in an open directory. `ask` is called with `device` and a descriptor, which
    may be opened with O_PATH. Return `otherwise` if the `st_dev` of the file is not `device` any
    more.

    Raises:
        OSError: the file cannot be found, or what `ask` raises.
    """
    if os.fstat(directory_fd).st_dev == device:
        return ask(directory_fd, device)
    # File and directory have different device numbers, because something is mounted on the file, or
    # because the file system is an overlay.
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(name, flags, dir_fd=directory_fd)
    try:
        return ask(fd, device) if os.fstat(fd).st_dev == device else otherwise
    finally:
        os.close(fd)


def fuse_trust(device: int, mounts: bytes, uid_map: bytes, user: int) -> SizeTrust:
    """Return how reliable a FUSE file system is for the user `user`.

    `mounts` is `/proc/self/mountinfo`, as in proc_pid_mountinfo(5), and `uid_map` is
    `/proc/self/uid_map`. A FUSE file system is reliable only if it is virtiofs, or if `user` has
    mounted it, which the option `user_id` in mountinfo shows.
    """
    wanted = b"%d:%d" % (os.major(device), os.minor(device))
    for line in mounts.split(b"\n"):
        # Fields contain no space or newline, because the kernel escapes both in octal.
        mount, _, file_system = line.partition(b" - ")
        if mount.split(b" ")[2:3] != [wanted]:
            continue
        kind, _, options = (file_system + b"   ").split(b" ")[:3]
        if kind == b"virtiofs":  # a file system that the host of a virtual machine shares
            return NONZERO
        # In a user namespace other than the first, `user_id` may be a number of another namespace.
        same_numbers = uid_map.split() == [b"0", b"0", b"4294967295"]
        if same_numbers and b"user_id=%d" % user in options.split(b","):
            return NONZERO
    return NONE


def _read(name: str) -> bytes:
    return Path("/proc/self", name).read_bytes()

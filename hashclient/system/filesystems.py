"""Decides which file systems have sizes and times that can be relied on.

A scan does not open a file if no entry has its size, and does not read a file again if its status
is unchanged. Both rules need a kernel that keeps the status itself. Files of proc and sysfs have
size 0 or 4,096 whatever they contain. The status of a FUSE file comes from a program that an
ordinary user may have mounted. A file system that this table does not know is not trusted: its
files are read, so that no match is missed.

Times are less reliable than sizes. An unchanged status means an unchanged file only if each change
sets ctime, and nobody can set ctime in another way. FAT has no ctime; in FUSE a program chooses the
ctime; in an image of squashfs or iso9660 the maker of the image chose it. On tmpfs, a writable
memory map that was first read from can be written to without any change of times, even if the map
is made late. `identity` identifies a file system, since device numbers are used again.

Limits: a file system that root has put on top of another file system (overlay, a loop device) is
    trusted like any file system of its type, and a server of NFS or SMB is trusted like a disk.

The types of file systems are known by their number in statfs(2). The numbers are from
linux/magic.h, and for file systems that are not part of Linux, from the headers of these. A type
that is not in the table has no trait, so its sizes and times are not relied on. Mounts are read
from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
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
    """Read all mounts, by the number of the mount."""
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
    """Return a field unescaped: the kernel and mount(8) write white space and `\\` in octal."""
    if b"\\" not in raw:
        return raw
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), raw)


def mount_number(fd: int) -> int | None:
    """Return the number in mountinfo of the mount that a file was opened on; None if unknown."""
    try:
        text = Path(f"/proc/self/fdinfo/{fd}").read_bytes()
    except OSError:
        return None
    found = re.search(rb"^mnt_id:\s*([0-9]+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def mount_of(fd: int) -> Mount | None:
    """Return the mount that a file was opened on; None if that is not known."""
    number = mount_number(fd)
    try:
        text = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return None
    return None if number is None else parse_mountinfo(text).get(number)


EXT, BTRFS, XFS = 0xEF53, 0x9123683E, 0x58465342
FUSE, NINE_P = 0x65735546, 0x01021997

#: Sizes can be relied on even without a block device below.
SIZES = 1
#: Each change of a file sets its ctime, in the kernel or at a server. bcachefs is an exception: its
#: snapshots share the numbers of device and inode.
CTIME = 2
#: The local kernel makes each change itself, so it can report changes.
TELLS = 4
#: Other machines can change files without asking this kernel: through a server, or on a shared
#: disk.
NETWORK, CLUSTER = 8, 16
#: The file system lies on top of other file systems, and has no disk of its own.
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
    """Return the numbers of the types that have a trait."""
    return frozenset(number for number, traits in _TRAITS.items() if traits & trait)


_T = TypeVar("_T")


class SizeTrust(enum.Enum):
    """How far the status of the files of a file system can be relied on."""

    #: Nothing is reliable: a file may have any number of bytes, and may change without a trace.
    NONE = enum.auto()
    #: As reliable as the server, since the scanning user has mounted the file system. Size 0 may
    #: mean "not known", and a read may go beyond the size.
    NONZERO = enum.auto()
    #: The kernel keeps the sizes: no read goes beyond them.
    FULL = enum.auto()


#: Plain names for these constants: looking up a member of an enumeration is ten times as slow.
NONE, NONZERO, FULL = SizeTrust

#: The types without a block device whose sizes are trusted, the types whose ctime shows each
#: change, and the types whose changes this kernel reports.
_TRUSTED, _KEEP_CTIME, _REPORT_CHANGES = map(with_trait, (SIZES, CTIME, TELLS))


def keeps_ctime(kind: int) -> bool:
    """Return whether each change of a file sets its ctime, on a file system of type `kind`."""
    return kind in _KEEP_CTIME


def reports_changes(fd: int) -> bool:
    """Return whether the kernel sees each change below an open directory, by any program.

    The kernel does not see changes by another machine on a network file system, or by a program
    behind FUSE in its own store.
    """
    try:
        return kind_of(fd) in _REPORT_CHANGES
    except OSError:
        return False


def trust_of(fd: int, device: int) -> SizeTrust:
    """Return how far the file system of an open file is trusted; `device` is its `st_dev`."""
    try:
        kind = kind_of(fd)
        if kind == FUSE:
            return fuse_trust(device, _read("mountinfo"), _read("uid_map"), os.geteuid())
    except OSError:
        return NONE
    return trust_in(kind, device)


def trust_in(kind: int, device: int) -> SizeTrust:
    """Return how far file systems of a type are trusted, but for FUSE; `device` is an `st_dev`."""
    if kind == NINE_P:
        return NONZERO
    # A file system on a block device counts as a disk, in any format.
    return FULL if kind in _TRUSTED or os.major(device) else NONE


@functools.cache
def _fstatfs() -> Callable[[int, array[int]], int] | None:
    """Return the function of the C library; None in a Python without ctypes."""
    try:
        import ctypes

        function = ctypes.CDLL(None).fstatfs
    except (ImportError, AttributeError):
        return None

    def fstatfs(fd: int, status: array[int]) -> int:
        return int(function(ctypes.c_int(fd), ctypes.c_void_p(status.buffer_info()[0])))

    return fstatfs


def kind_of(fd: int) -> int:
    """Return the number of the type of the file system that an open file is on.

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
    """Ask about the file system of a file in an open directory, whose `st_dev` just was `device`.

    `ask` is called with a descriptor, which may be of type O_PATH, and `device`; the answer is
    `otherwise` if another file system is there by now.

    Raises:
        OSError: the file cannot be found, or what `ask` raises.
    """
    if os.fstat(directory_fd).st_dev == device:
        return ask(directory_fd, device)
    # Something is mounted on the file itself, or the file system is an overlay.
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(name, flags, dir_fd=directory_fd)
    try:
        return ask(fd, device) if os.fstat(fd).st_dev == device else otherwise
    finally:
        os.close(fd)


def fuse_trust(device: int, mounts: bytes, uid_map: bytes, user: int) -> SizeTrust:
    """Return how far a FUSE file system is trusted by `user`.

    `mounts` is `/proc/self/mountinfo`, as in proc_pid_mountinfo(5), and `uid_map` is
    `/proc/self/uid_map`. A user other than root can mount FUSE, and is named there.
    """
    wanted = b"%d:%d" % (os.major(device), os.minor(device))
    for line in mounts.split(b"\n"):
        # No field has a space or a newline: the kernel writes them in octal.
        mount, _, file_system = line.partition(b" - ")
        if mount.split(b" ")[2:3] != [wanted]:
            continue
        kind, _, options = (file_system + b"   ").split(b" ")[:3]
        if kind == b"virtiofs":  # shared by the host of a virtual machine
            return NONZERO
        # In a user namespace other than the first, the number may be a number from outside.
        same_numbers = uid_map.split() == [b"0", b"0", b"4294967295"]
        if same_numbers and b"user_id=%d" % user in options.split(b","):
            return NONZERO
    return NONE


def _read(name: str) -> bytes:
    return Path("/proc/self", name).read_bytes()

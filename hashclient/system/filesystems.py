"""Tells which file systems have sizes and times that can be relied on.

A scan does not open a file whose size no entry has, and does not read a file again whose status is
unchanged. Both are sound only where the kernel keeps the status itself. Files of proc and sysfs
have size 0 or 4,096 whatever they hold, and the status of a FUSE file comes from a program that an
ordinary user may have mounted. A file system that is not known here is not relied on: its files are
read, so no match is missed.

Times are less reliable than sizes. An unchanged status means an unchanged file only where each
change sets ctime and nobody can set ctime otherwise. FAT has no ctime; with FUSE a program chooses
it; in an image of squashfs or iso9660 its maker chose it. On tmpfs, a writable memory map that was
first read from can be written to without any change of times, however late the map was made.
`identity` finds out which file system it is, since device numbers are used again.

Limits: a file system that root has put on top of another one (overlay, a loop device) is trusted
like any other of its type, and a server of NFS or SMB is trusted like a disk.
"""

from __future__ import annotations

import enum
import errno
import functools
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hashclient.system.fstypes import CTIME, FUSE, NINE_P, SIZES, TELLS, with_trait

_T = TypeVar("_T")


class SizeTrust(enum.Enum):
    """How far the status of the files of a file system can be relied on."""

    #: Not at all: a file may hold any number of bytes, and may change without a trace.
    NONE = enum.auto()
    #: As far as its server, since the scanning user has mounted it. Size 0 may mean "not known",
    #: and a read may go beyond the size.
    NONZERO = enum.auto()
    #: The kernel keeps the sizes: no read goes beyond them.
    FULL = enum.auto()


#: As plain names, since looking up a member of an enumeration is ten times as slow.
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
    # A file system on a block device counts as a disk, of whatever format.
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
    # The type is the first field of struct statfs, a long; the struct is much shorter than this.
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
        # In a user namespace other than the first, the number may be one from outside.
        same_numbers = uid_map.split() == [b"0", b"0", b"4294967295"]
        if same_numbers and b"user_id=%d" % user in options.split(b","):
            return NONZERO
    return NONE


def _read(name: str) -> bytes:
    return Path("/proc/self", name).read_bytes()

"""Which file systems have sizes and times that can be relied on.

A scan does not open a file whose size no entry has, and does not read one again whose status is
unchanged. Both are sound only where the kernel vouches for the status. Files of proc and sysfs say
0 or 4,096 whatever they hold, and what FUSE says comes from a program, which an ordinary user may
have mounted. What is not known here is not relied on: that costs reading, and hides nothing.

Times say less than sizes. An unchanged status tells an unchanged file only where each change sets
ctime and nobody else can. FAT has none, FUSE what its program likes, an image of squashfs or of
iso9660 whatever its maker chose; and on tmpfs a map that is made for writing and first read from is
stored into without setting any time, however late it was made. Which file system it is says
`identity`, since the number of a device is given again.

Limits: a file system that root has laid upon another one (overlay, a loop device) is trusted for
itself, and a server of NFS or SMB like a disk.
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
    #: As far as its server is: whoever scans has mounted it. Size 0 may stand for "not known", and
    #: a read may go beyond the size.
    NONZERO = enum.auto()
    #: The kernel keeps the sizes: no read goes beyond them.
    FULL = enum.auto()


#: By themselves, since looking up a member of an enumeration costs as much as ten other names.
NONE, NONZERO, FULL = SizeTrust

#: Those without a block device whose sizes are trusted, those whose ctime shows each change, and
#: those whose changes this kernel tells.
_TRUSTED, _KEEP_CTIME, _TELL_OF_CHANGES = map(with_trait, (SIZES, CTIME, TELLS))


def keeps_ctime(kind: int) -> bool:
    """Tell whether each change of a file sets its ctime, on a file system of type `kind`."""
    return kind in _KEEP_CTIME


def tells_of_changes(fd: int) -> bool:
    """Tell whether the kernel learns of each change below an open directory, whoever makes it.

    What another machine changes on a network file system, or a program behind FUSE in its own
    store, this kernel does not see.
    """
    try:
        return kind_of(fd) in _TELL_OF_CHANGES
    except OSError:
        return False


def trust_of(fd: int, device: int) -> SizeTrust:
    """Tell how far the file system of an open file is trusted; `device` is its `st_dev`."""
    try:
        kind = kind_of(fd)
        if kind == FUSE:
            return fuse_trust(device, _read("mountinfo"), _read("uid_map"), os.geteuid())
    except OSError:
        return NONE
    if kind == NINE_P:
        return NONZERO
    # What lies on a block device is a disk, of whatever format.
    return FULL if kind in _TRUSTED or os.major(device) else NONE


@functools.cache
def _fstatfs() -> Callable[[int, array[int]], int] | None:
    """Return the function of the C library; None in a Python without foreign functions."""
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
        OSError: it cannot be found out.
    """
    fstatfs = _fstatfs()
    # The type is the first field of struct statfs, a long, and the whole is much shorter than this.
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

    `ask` gets a descriptor, which may be one of a path alone, and `device`; the answer is
    `otherwise` if another file system is there by now.

    Raises:
        OSError: the file cannot be found, or what `ask` raises.
    """
    if os.fstat(directory_fd).st_dev == device:
        return ask(directory_fd, device)
    # Something is mounted on the file itself, or it is overlay's.
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(name, flags, dir_fd=directory_fd)
    try:
        return ask(fd, device) if os.fstat(fd).st_dev == device else otherwise
    finally:
        os.close(fd)


def fuse_trust(device: int, mounts: bytes, uid_map: bytes, user: int) -> SizeTrust:
    """Tell how far a FUSE file system is trusted by `user`.

    `mounts` is `/proc/self/mountinfo`, as in proc_pid_mountinfo(5), and `uid_map` is
    `/proc/self/uid_map`. Whoever is not root can mount FUSE, and is named there.
    """
    wanted = b"%d:%d" % (os.major(device), os.minor(device))
    for line in mounts.split(b"\n"):
        # No field has a space or a newline: the kernel writes them in octal.
        mount, _, file_system = line.partition(b" - ")
        if mount.split(b" ")[2:3] != [wanted]:
            continue
        kind, _, options = (file_system + b"   ").split(b" ")[:3]
        if kind == b"virtiofs":  # of the machine that this one runs on; only root mounts it
            return NONZERO
        # In another user namespace than the first, the number may be one of the world outside.
        same_numbers = uid_map.split() == [b"0", b"0", b"4294967295"]
        if same_numbers and b"user_id=%d" % user in options.split(b","):
            return NONZERO
    return NONE


def _read(name: str) -> bytes:
    return Path("/proc/self", name).read_bytes()

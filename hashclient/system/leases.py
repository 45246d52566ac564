"""Asks the kernel, by a lease, whether anybody can change a file without a change of its times.

A write through a shared memory map sets the times of a file only when the kernel makes the page
writable. After the first write, the same process can write to the page again and again without a
change of times. A read lease (fcntl(2), `F_SETLEASE`) is refused while the file is open for writing
anywhere, and a writable map counts as open. So if a lease is granted before a file is read, nobody
has a writable page of the file. To change the file later, a process must open it first, and this
change sets the times.

While a lease is held, a process that opens the file for writing has to wait, and the kernel sends
SIGIO to the holder. SIGIO ends a process that does not ignore it. So the lease is returned at once,
or after one short read. If the holder keeps somebody waiting for longer than
`/proc/sys/fs/lease-break-time` seconds (45 by default, at least 1), the kernel breaks the lease.
"""

from __future__ import annotations

import errno
import signal
from fcntl import F_RDLCK, F_SETLEASE, F_UNLCK, fcntl

from hashclient.system.filesystems import BTRFS, EXT, XFS, kind_of

#: Types on which tests showed that a lease keeps every writer out: ext2 to ext4, btrfs, xfs. Not
#: overlay, because a map there belongs to another file; not network file systems, because other
#: machines do not ask this kernel.
_KEEPS_OUT = frozenset({EXT, BTRFS, XFS})


def can_lease() -> bool:
    """Make this process ignore SIGIO; False if the process handles SIGIO: then it must not lease.

    Only the main thread can change the handling of signals; a program that scans in other threads
    may call this before.
    """
    handler = signal.getsignal(signal.SIGIO)
    if handler is signal.SIG_DFL:
        try:
            signal.signal(signal.SIGIO, signal.SIG_IGN)
        except ValueError:
            return False
        return True
    return handler is signal.SIG_IGN


def hold(fd: int) -> bool | None:
    """Take a lease: True if nobody has the file open for writing; writers wait from then on.

    `fd` is open for reading only; closing it ends the lease. Return None if the kernel does not
    say: another user owns the file and this process has no CAP_LEASE, or the file system has no
    leases.
    """
    try:
        if F_RDLCK:
            fcntl(fd, F_SETLEASE, F_RDLCK)
        else:  # F_RDLCK is 0 nearly everywhere; an argument takes time: Python tries a string first
            fcntl(fd, F_SETLEASE)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


def keeps_out(fd: int) -> bool:
    """Return whether a lease on a file keeps it unchanged for as long as the lease is held."""
    try:
        return kind_of(fd) in _KEEPS_OUT
    except OSError:
        return False


def is_unwritable(fd: int) -> bool | None:
    """Return the result of `hold`, and return the lease at once."""
    return hold(fd) and let_go(fd)


def let_go(fd: int) -> bool:
    """Return the lease from `hold`; False if the kernel has broken it meanwhile."""
    try:
        fcntl(fd, F_SETLEASE, F_UNLCK)
    except OSError:
        return False
    return True

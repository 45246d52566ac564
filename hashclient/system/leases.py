"""Finds out by a lease whether any process can change a file without a change of its times.

A write through a shared memory map sets the times of a file only when the kernel makes the page
writable. After the first write, the same process can write to the page again without a change of
times. The kernel refuses a read lease (fcntl(2), `F_SETLEASE`) on a file while any process has the
file open for writing or has a writable map of it. If a read lease is granted before a file is read,
no process has a writable page of the file. To change the file later, a process must first open the
file for writing, and the first write after that sets the times.

While a lease is held, a process that opens the file for writing has to wait, and the kernel sends
SIGIO to the holder. SIGIO ends a process that does not ignore the signal. This program releases a
lease at once, or after one short read. If the holder makes another process wait for longer than
`/proc/sys/fs/lease-break-time` seconds (45 by default, at least 1), the kernel breaks the lease.
"""

from __future__ import annotations

import errno
import signal
from fcntl import F_RDLCK, F_SETLEASE, F_UNLCK, fcntl

from hashclient.system.filesystems import BTRFS, EXT, XFS, kind_of

#: The types of file systems for which tests have shown that a lease excludes every writer: ext2 to
#: ext4, btrfs, xfs. A lease on an overlay file does not exclude all writers, because a memory map
#: of the file belongs to a file below the overlay. A lease on a network file system does not
#: exclude all writers, because other machines do not ask this kernel.
_KEEPS_OUT = frozenset({EXT, BTRFS, XFS})


def can_lease() -> bool:
    """Make this process ignore SIGIO; return False if it cannot and must not take leases.

    This process cannot ignore SIGIO if it has a handler for SIGIO. Only the main thread can change
    the handling of signals, so a program that scans in other threads should call this function
    first in the main thread.
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
    """Take a read lease; return True if no process has the file open for writing.

    While the lease is held, processes that open the file for writing must wait. `fd` is open only
    for reading; closing `fd` ends the lease. Return None if no lease is possible, because another
    user owns the file and this process does not have CAP_LEASE, or because the file system has no
    leases.
    """
    try:
        if F_RDLCK:
            fcntl(fd, F_SETLEASE, F_RDLCK)
        else:  # F_RDLCK is 0 on most machines, and fcntl is faster without a third argument
            fcntl(fd, F_SETLEASE)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


def keeps_out(fd: int) -> bool:
    """Return whether a file cannot change while a lease on the file is held, by its file system."""
    try:
        return kind_of(fd) in _KEEPS_OUT
    except OSError:
        return False


def is_unwritable(fd: int) -> bool | None:
    """Return the result of `hold`, and release the lease at once."""
    return hold(fd) and let_go(fd)


def let_go(fd: int) -> bool:
    """Release the lease from `hold`; return False if the kernel has broken the lease meanwhile."""
    try:
        fcntl(fd, F_SETLEASE, F_UNLCK)
    except OSError:
        return False
    return True

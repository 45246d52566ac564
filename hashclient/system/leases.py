"""Whether somebody can change a file without its times showing it: asked of the kernel by a lease.

A store through a shared memory map sets the times of a file only when the kernel makes the page
writable; whoever had that done before can store again, as often as they like, and no time changes.
A read lease (fcntl(2), `F_SETLEASE`) is refused while the file is open for writing anywhere, and a
map counts as open for as long as it lasts. So where one is granted before a file is read, nobody
has such a page: whoever changes the file later has to open it first, and what they do shows.

While a lease is held, who opens the file for writing waits, and the kernel tells the holder by
SIGIO, which ends a process that does not ignore it. So it is given back at once, or after a single
short read. The kernel takes it away from who keeps somebody waiting for longer than
`/proc/sys/fs/lease-break-time`, which is 45 seconds, and one at least.
"""

from __future__ import annotations

import errno
import signal
from fcntl import F_RDLCK, F_SETLEASE, F_UNLCK, fcntl

from hashclient.system.filesystems import kind_of
from hashclient.system.fstypes import BTRFS, EXT, XFS

#: Where a lease was seen to keep every writer out: ext2 to ext4, btrfs, xfs. Not overlay, where the
#: map of a file is one of another file, nor a network, where other machines do not ask this one.
_KEEPS_OUT = frozenset({EXT, BTRFS, XFS})
#: F_RDLCK. Where that is 0, as on nearly all machines, it is passed without an argument; one that
#: is given is tried as a string first, which takes half as long as the lease itself.
_READ = (F_RDLCK,) if F_RDLCK else ()


def can_lease() -> bool:
    """Make this process ignore SIGIO; False if it has another use for it, and must not lease.

    Only the main thread can change that; a program that runs scans in others may do so beforehand.
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
    """Tell whether nobody has a file open for writing, and let nobody until it is closed.

    `fd` is open for reading only. None where the kernel does not say: the file is somebody else's
    and CAP_LEASE is lacking, or its file system knows no leases.
    """
    try:
        fcntl(fd, F_SETLEASE, *_READ)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


def keeps_out(fd: int) -> bool:
    """Tell whether a file does not change as long as a lease on it is held."""
    try:
        return kind_of(fd) in _KEEPS_OUT
    except OSError:
        return False


def is_unwritable(fd: int) -> bool | None:
    """Tell the same, and let others go on at once."""
    return hold(fd) and let_go(fd)


def let_go(fd: int) -> bool:
    """Give back what `hold` has got; False if the kernel has taken it away meanwhile."""
    try:
        fcntl(fd, F_SETLEASE, F_UNLCK)
    except OSError:
        return False
    return True

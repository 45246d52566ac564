"""Whether somebody can change a file without its times showing it: asked of the kernel by a lease.

A store through a shared memory map sets the times of a file only when the kernel makes the page
writable; whoever had that done before can store again, as often as they like, and no time changes.
A read lease (fcntl(2), `F_SETLEASE`) is refused while the file is open for writing anywhere, and a
map counts as open for as long as it lasts. So where one is granted before a file is read, nobody
has such a page: whoever changes the file later has to open it first, and what they do shows.

The lease is given back at once. Who opens the file for writing meanwhile waits for that, and the
kernel tells the holder by SIGIO, which ends a process that does not ignore it.
"""

from __future__ import annotations

import errno
import signal
from fcntl import F_RDLCK, F_SETLEASE, F_UNLCK, fcntl


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


def is_unwritable(fd: int) -> bool | None:
    """Tell whether nobody has a file open for writing; `fd` is open for reading only.

    None where the kernel does not say: the file is somebody else's and CAP_LEASE is lacking, or
    its file system knows no leases.
    """
    try:
        fcntl(fd, F_SETLEASE, F_RDLCK)
        fcntl(fd, F_SETLEASE, F_UNLCK)
    except OSError as error:
        # In the second call: it was held for so long that the kernel has taken it away.
        return False if error.errno == errno.EAGAIN else None
    return True

"""Who still has a file open that has just lost its name: they can still read it.

The kernel knows whether anybody has; `/proc` knows who, as far as this process may see. What runs
in another container, or on the other side of a network file system, is not seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hashclient.system.text import printable

#: Said where the kernel knows of somebody, and `/proc` does not.
UNSEEN = "a program that is not to be seen from here"


def open_elsewhere(fd: int) -> list[str]:
    """Return which other programs use the file open as `fd`, as `name (pid)`, or `UNSEEN`."""
    status = os.fstat(fd)
    is_used = None if status.st_nlink else _is_used(fd)
    if is_used is False:  # nearly always; a look at all processes takes milliseconds
        return []
    found = sorted(_holders(status))
    return [UNSEEN] if is_used and not found else found


def _is_used(fd: int) -> bool | None:
    """Tell whether anybody else uses a file that has no name any more; None if that is not known.

    If so, the kernel grants no lease. For a file that has a name we must not have one: whoever
    opened it would have to wait, and we would get a signal.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError:  # not every file system has leases, and not everybody may have one
        return None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _holders(status: os.stat_result) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if _holds(process / "fd", status):
                name = (process / "comm").read_text(errors="replace").strip()
                yield f"{printable(name)} ({process.name})"


def _holds(descriptors: Path, status: os.stat_result) -> bool:
    for descriptor in descriptors.iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            target = os.readlink(descriptor)  # noqa: PTH115 - any bytes, and fast
            # Asking for its status may hang, where its server does: only if it may be the file.
            may_be = target.startswith("/") and (status.st_nlink or target.endswith(" (deleted)"))
            if may_be and os.path.samestat(descriptor.stat(), status):
                return True
    return False

"""Measures how long processes and threads run, and how long they wait for a processor.

The times are read from `/proc/PID/schedstat` of the scheduler, in nanoseconds. The times show
whether a process is slow because the machine is busy or because the storage is slow.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

#: From linux/posix-timers.h: the lowest bits of the clock id of a process; the higher bits are the
#: complement of its process id.
_PROCESS_CLOCK = 2


class Busy(NamedTuple):
    """How long a process ran and waited for a processor, and how often it got a processor.

    `queued_s` and `slices` are 0 if the kernel does not count them.
    """

    ran_s: float
    queued_s: float = 0.0
    slices: int = 0


def busy_of(pid: int) -> Busy | None:
    """Return the times of a process since its start; None if the process does not exist."""
    with contextlib.suppress(OSError, ValueError):
        ran, queued, slices, *_ = Path(f"/proc/{pid}/schedstat").read_bytes().split()
        return Busy(int(ran) / 1e9, int(queued) / 1e9, int(slices))
    try:
        return Busy(time.clock_gettime(~pid << 3 | _PROCESS_CLOCK))
    except OSError:
        return None


class Allowance:
    """A time limit for the calling thread; time of waiting for a processor does not count."""

    def __init__(self, seconds: float) -> None:
        """Start to measure the time of the calling thread; the limit is `seconds`."""
        self._thread = threading.get_native_id()
        self._seconds = seconds
        self._queued = self._queued_s()
        self._began = time.monotonic()
        self._until = self._began + seconds

    @property
    def spent_s(self) -> float:
        """The seconds since the start, without the time of waiting for a processor."""
        return time.monotonic() - self._began - (self._queued_s() - self._queued)

    @property
    def is_spent(self) -> bool:
        """Whether the time limit is reached."""
        now = time.monotonic()
        if now < self._until:
            return False
        left = self._seconds - self.spent_s
        self._until = now + left  # reading /proc takes longer than reading the clock
        return left <= 0

    def _queued_s(self) -> float:
        busy = busy_of(self._thread)
        return 0.0 if busy is None else busy.queued_s


def is_runnable(pid: int) -> bool:
    """Return whether a process is running or is waiting for a processor.

    `busy_of` does not show a wait that has not ended, because the kernel counts a wait only after
    its end.
    """
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"R"
    return False


def children_of(parents: Collection[int]) -> list[tuple[int, int]]:
    """Return the child processes of `parents`, as pairs of parent and child.

    This function reads a file for every process of the machine, so it should not be called often.
    """
    found: list[tuple[int, int]] = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - not sorted, and no objects
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name of the program, in parentheses, may contain spaces and parentheses.
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            if (parent := int(fields[1])) in parents:
                found.append((parent, int(name)))
    return found

"""The quotas of processor time and memory that control groups set for this process.

The kernel shows a process all processors and all memory of the machine even if a control group sets
a quota. A program that starts one process for each processor is throttled if the quota is smaller.
This module reads control groups of version 1 and of version 2. The files of all groups above a
group are read, because the quota of a group is limited by the quotas of the groups above it. A file
of a group that cannot be read counts as no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: The usual mount point of control groups, and the file that names the control groups of this
#: process.
MOUNTED = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
#: The file in which the kernel shows the free and used memory of the machine.
MEMINFO = Path("/proc/meminfo")


def usable_processors(
    allowed: int, *, mounted: Path | None = None, own_groups: Path | None = None
) -> int:
    """Return how many of `allowed` processors the quota of processor time permits, rounded up."""
    quotas = [
        quota
        for group in _groups("cpu", mounted or MOUNTED, own_groups or OWN_GROUPS)
        if (quota := _quota(group))
    ]
    return max(1, min([allowed, *map(math.ceil, quotas)]))


def available_memory(
    *, mounted: Path | None = None, own_groups: Path | None = None, meminfo: Path | None = None
) -> int | None:
    """Return how many bytes of memory are available to this process without swapping.

    The result is the minimum of MemAvailable of the machine and the unused bytes of each control
    group. Return None if none of these numbers is known.
    """
    left = [
        free
        for group in _groups("memory", mounted or MOUNTED, own_groups or OWN_GROUPS)
        if (free := _memory_left(group)) is not None
    ]
    available = _fields(meminfo or MEMINFO).get("MemAvailable:")
    if available is not None:
        left.append(available << 10)
    return max(0, min(left)) if left else None


def _groups(controller: str, mounted: Path, own_groups: Path) -> Iterator[Path]:
    """Yield the directory of each control group of this process, innermost first.

    In version 1, each controller has its own groups; only the groups of `controller` are yielded.

    The root directory of the mounted hierarchy is yielded, too, because `own_groups` in a container
    may contain the path of a group on the host, whose directory does not exist in the container.
    """
    try:
        lines = own_groups.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number, controllers) == ("0", ""):
            # If groups of version 1 are in use, version 2 may be mounted at `unified`.
            roots = [mounted, mounted / "unified"]
        elif controller in controllers.split(","):
            roots = [mounted / controllers, mounted / controller]
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        if ".." in inner.parts:  # the group is outside of this cgroup namespace
            inner = PurePosixPath()
        for root in roots:
            for group in (inner, *inner.parents):
                yield root / group


def _quota(group: Path) -> float | None:
    """Return the quota of a control group as a number of processors; None means no quota."""
    try:
        # Version 2: the quota or `max`, and the period, in microseconds.
        used, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        # Version 1: quota and period are in two files; a quota of -1 means no quota.
        share = _number(group / "cpu.cfs_quota_us")
        of = _number(group / "cpu.cfs_period_us")
    else:
        share, of = _digits(used), _digits(period)
    return share / of if share and of and share > 0 and of > 0 else None


def _memory_left(group: Path) -> int | None:
    """Return how many bytes a control group may still allocate; None if the group has no limit.

    Inactive pages of the page cache count as free, because the kernel can drop them.
    """
    for limit, used, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _number(group / limit), _number(group / used)
        if most is not None and now is not None:
            return most - now + _fields(group / "memory.stat").get(idle, 0)
    return None


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers in a file whose lines contain a name and a number, by name."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return {}
    found = ((line[0], _digits(line[1])) for line in lines if len(line) > 1)
    return {word: number for word, number in found if number is not None}


def _number(path: Path) -> int | None:
    try:
        return _digits(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None


def _digits(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None

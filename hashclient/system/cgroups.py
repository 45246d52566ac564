"""The quotas of processor time and memory that a control group gives this process.

With a quota the kernel still shows all processors and all memory. If a program starts one process
for each processor, the kernel throttles all these processes together. Both hierarchies of groups
are read: version 2 and version 1. A group cannot have more than the groups above it, so the files
of all these groups are read. A file that cannot be read sets no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: Where the groups are mounted on today's systems, and the file that names our groups.
MOUNTED = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
#: The kernel's numbers on the memory of the machine.
MEMINFO = Path("/proc/meminfo")


def usable_processors(
    allowed: int, *, mounted: Path | None = None, own_groups: Path | None = None
) -> int:
    """Return how many of `allowed` processors the quota of processor time is worth, rounded up."""
    quotas = [
        quota
        for group in _groups("cpu", mounted or MOUNTED, own_groups or OWN_GROUPS)
        if (quota := _quota(group))
    ]
    return max(1, min([allowed, *map(math.ceil, quotas)]))


def available_memory(
    *, mounted: Path | None = None, own_groups: Path | None = None, meminfo: Path | None = None
) -> int | None:
    """Return how many bytes of memory can still be used without harm to other programs.

    The result is the lowest of the kernel's number for the machine and the remaining bytes of each
    group. Return None if no number is known.
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
    """Yield the directory of each of our groups, innermost first, of both versions.

    In version 1, these are the groups of `controller`.

    In a container, the path of a group may be its path on the host. Then only the directories of
    our groups exist in this hierarchy.
    """
    try:
        lines = own_groups.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number, controllers) == ("0", ""):
            # Where groups of version 1 are in use, version 2 may be mounted elsewhere.
            roots = [mounted, mounted / "unified"]
        elif controller in controllers.split(","):
            roots = [mounted / controllers, mounted / controller]
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        if ".." in inner.parts:  # the path is outside of this namespace
            inner = PurePosixPath()
        for root in roots:
            for group in (inner, *inner.parents):
                yield root / group


def _quota(group: Path) -> float | None:
    """Return the quota of one group in processors, None if the group has none."""
    try:
        # Version 2: `max 100000`, or microseconds of processor time and of the period.
        used, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        # Version 1: two files; -1 means no quota.
        share = _number(group / "cpu.cfs_quota_us")
        of = _number(group / "cpu.cfs_period_us")
    else:
        share, of = _digits(used), _digits(period)
    return share / of if share and of and share > 0 and of > 0 else None


def _memory_left(group: Path) -> int | None:
    """Return how many bytes one group has left, None if the group has no limit.

    The kernel can free pages of files that were not used for a while, so these count as free.
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
    """Return the numbers in a file of lines, each by the word before it."""
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

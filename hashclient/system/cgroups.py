"""How much processor time and memory a control group lets this process have, as a container says.

The kernel still shows all processors and all memory then. A quota of processor time is no set of
processors: whoever starts a process for each that it may run on gets them all throttled together.
Both hierarchies of groups are read: the one of version 2, and those of version 1. A group can have
no more than those above it, so each of them is looked at. What cannot be read limits nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: Where the groups are mounted on any system of today, and what says which of them we are in.
MOUNTED = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
#: What the kernel says of the memory of the machine.
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
    """Return how many bytes of memory may still be taken without anybody being hurt.

    It is what the kernel says of the machine, or what a group has left. None if neither is known.
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
    """Yield the directory of each group that we are in, innermost first, of both versions.

    Those of version 1 are of `controller`.

    Within a container, the path of a group may be the one outside of it: then only the directories
    that are there are those of our groups.
    """
    try:
        lines = own_groups.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number, controllers) == ("0", ""):
            # Beside groups of version 1, that of version 2 may have a place of its own.
            roots = [mounted, mounted / "unified"]
        elif controller in controllers.split(","):
            roots = [mounted / controllers, mounted / controller]
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        if ".." in inner.parts:  # outside of what this namespace shows
            inner = PurePosixPath()
        for root in roots:
            for group in (inner, *inner.parents):
                yield root / group


def _quota(group: Path) -> float | None:
    """Return the quota of one group in processors, None if it has none."""
    try:
        # Version 2: `max 100000`, or how many microseconds of so many.
        used, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        # Version 1: two files, and -1 is no quota.
        share = _number(group / "cpu.cfs_quota_us")
        of = _number(group / "cpu.cfs_period_us")
    else:
        share, of = _digits(used), _digits(period)
    return share / of if share and of and share > 0 and of > 0 else None


def _memory_left(group: Path) -> int | None:
    """Return how many bytes one group has left, None if it has no limit.

    Pages of files that nobody has used for a while are given up when they are needed.
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

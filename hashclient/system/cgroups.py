"""The quota of processor time that a control group (a container or a unit) gives this process.

With a quota the kernel still shows all processors. If a program starts one process for each of
them, the kernel throttles all of these together. Both hierarchies of groups are read: version 2 and
version 1. A group cannot have more than the groups above it, so each of these is read. A file that
cannot be read sets no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: Where the groups are mounted on today's systems, and the file that names our groups.
MOUNTED = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_processors(
    allowed: int, *, mounted: Path | None = None, own_groups: Path | None = None
) -> int:
    """Return how many of `allowed` processors the quota of processor time is worth, rounded up."""
    quotas = [
        quota
        for group in _groups(mounted or MOUNTED, own_groups or OWN_GROUPS)
        if (quota := _quota(group))
    ]
    return max(1, min([allowed, *map(math.ceil, quotas)]))


def _groups(mounted: Path, own_groups: Path) -> Iterator[Path]:
    """Yield the directory of each of our groups, innermost first, of both versions.

    In a container, the path of a group may be its path outside; then only those directories exist
    here that belong to our groups.
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
        elif "cpu" in controllers.split(","):
            roots = [mounted / controllers, mounted / "cpu"]
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        if ".." in inner.parts:  # outside of this namespace
            inner = PurePosixPath()
        for root in roots:
            for group in (inner, *inner.parents):
                yield root / group


def _quota(group: Path) -> float | None:
    """Return the quota of one group in processors, None if it has none."""
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


def _number(path: Path) -> int | None:
    try:
        return _digits(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None


def _digits(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None

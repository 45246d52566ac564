"""Mounted file systems, read from `/proc/self/mountinfo` (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_OCTAL = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo: mount point, directory of the source, type, source."""

    point: str
    root: bytes
    kind: str
    source: bytes


def parse_mountinfo(text: bytes) -> dict[int, Mount]:
    """Read all mounts, by the number of the mount."""
    mounts = {}
    for line in text.split(b"\n"):
        left, _, right = line.partition(b" - ")
        fields, more = left.split(b" "), right.split(b" ")
        if len(fields) >= 6 and len(more) >= 2:
            point, root, source = (unescaped(raw) for raw in (fields[4], fields[3], more[1]))
            kind = more[0].decode("ascii", "replace")
            mounts[int(fields[0])] = Mount(os.fsdecode(point), root, kind, source)
    return mounts


def unescaped(raw: bytes) -> bytes:
    """Return a field unescaped: the kernel and mount(8) write white space and `\\` in octal."""
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), raw)


def mount_number(fd: int) -> int | None:
    """Return the number in that list of the mount that a file was opened on; None if unknown."""
    try:
        text = Path(f"/proc/self/fdinfo/{fd}").read_bytes()
    except OSError:
        return None
    found = re.search(rb"^mnt_id:\s*([0-9]+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def mount_of(fd: int) -> Mount | None:
    """Return the mount that a file was opened on; None if that is not known."""
    number = mount_number(fd)
    try:
        text = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return None
    return None if number is None else parse_mountinfo(text).get(number)

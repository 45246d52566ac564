"""The file systems of earlier scans, by which a scan notices that a mount is missing.

The directory of an unmounted share is empty, and a scan of this directory would prove nothing. So a
small file (`remembered`) contains the file system of each directory that a user gave, and of each
mount point that a scan met, and the place of the directory in its file system. A directory on which
a file system was mounted when the walk began, but is not any more, is unread as well. `_objection`
judges a directory whose identity has changed:

1. The same directory of the same file system is correct.
2. A directory below autofs is correct, because the walk itself sees whether opening the directory
   mounts a file system.
3. A former mount point where nothing is mounted is not correct. Exception: a bind mount of the
   surrounding file system, if the directory is not empty, because other mount namespaces may lack
   this mount.
4. Another file system that is empty is not correct, because it may have been mounted by mistake:
   the former file system is missing.
5. Another file system with files is correct: it has replaced the former file system, which is
   forgotten.

A file system is missing until it is mounted again, or until a user runs `inventory forget`.

A file system is identified by its UUID, by the number that statfs(2) returns, or by the source of
the mount. Two file systems that have one identifier in common are treated as the same file system,
because other identifiers, such as the names of disks, may change when a machine starts. Only hashes
of the identifiers are stored, because the source of a mount can contain a password. Limits: a
missing mount is not noticed if a symbolic link leads to its mount point, or if its mount point is a
file.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hashclient.core.errors import StateError
from hashclient.scan.sources.remembered import MAX_PATH_BYTES, Record, add, by_path
from hashclient.scan.values.work import join
from hashclient.system.filesystems import Mount, mount_number, parse_mountinfo
from hashclient.system.identity import told_uuids
from hashclient.system.text import path_fields, printable

DAY_S = 86_400

#: File systems of the kernel itself: no scan misses their files if they are not mounted.
_PSEUDO = frozenset(
    {
        *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs"),
        *("efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs"),
        *("securityfs", "selinuxfs", "sysfs", "tracefs"),
    }
)
#: The type of a directory on which a program mounts a file system when the directory is opened.
_AUTOFS = "autofs"
#: The types of file systems for which statfs(2) returns a number that is made from the UUID; for
#: other types, the number is made from the device.
_NUMBERED_BY_UUID = frozenset({"ext2", "ext3", "ext4", "btrfs"})
UNIDENTIFIED = "cannot tell which file system this is: /proc cannot be read"
_BY_UUID = "/dev/disk/by-uuid"


class Mounts:
    """The remembered directories, and the directories that one scan meets.

    A failure is reported once and never stops a scan. While the file systems of earlier scans are
    unknown, the scan is incomplete.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        now: Callable[[], float] = time.time,
        on_failure: Callable[[StateError], None] = lambda _: None,
        on_change: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Read the remembered directories from `state_dir`.

        `on_change` is called with the path of a directory that is on another file system than
        before, if there is no objection.
        """
        self._state_dir = state_dir
        self._today = int(now() // DAY_S)
        self._on_failure = on_failure
        self._on_change = on_change
        self._records: dict[str, Record] = {}
        self._seen: dict[str, Record] = {}
        self._mountinfo = b""
        self._mounts: dict[int, Mount] = {}
        #: The types of the file systems that were mounted when a walk began, by mount point.
        self._begun: dict[str, str] = {}
        #: The present mount points and the remembered directories, in ascending order.
        self._watched: list[str] = []
        self._uuids: dict[bytes, list[bytes]] = {}
        #: Why the file systems of earlier scans are unknown, or None. While the file systems of
        #: earlier scans are unknown, no missing file system can be noticed.
        self.unknown: StateError | None = None
        #: Whether a file system of an earlier scan is missing.
        self.is_missing = False
        try:
            self._records = by_path(state_dir)
        except StateError as error:
            self.unknown = error
            on_failure(error)

    def watched(self, path: str, fd: int) -> frozenset[str]:
        """Return the directories below `path` (open as `fd`) that `look` must examine.

        The returned paths begin with `path`.
        """
        real = real_path(fd)
        if real is None:
            return frozenset()
        self._read_mountinfo()
        below = "/" if real == "/" else f"{real}/"
        found = set()
        kinds = {mount.point: mount.kind for mount in self._mounts.values()}
        for name in self._watched[bisect.bisect_right(self._watched, below) :]:
            if not name.startswith(below):
                break
            found.add(join(path, name[len(below) :]))
            if kinds.get(name, _AUTOFS) not in _PSEUDO | {_AUTOFS}:
                self._begun.setdefault(name, kinds[name])
        return frozenset(found)

    def look(self, fd: int, *, given: bool) -> str | None:
        """Note where an open directory is; return why it differs from the last scan, or None.

        A directory that was `given` by the user is always remembered; another directory is
        remembered if it is a mount point.
        """
        now = self._record_of(fd)
        if now is None:
            # Either the scan remembers no directory, or the directory cannot be compared.
            return UNIDENTIFIED if self._records and not _can_identify(fd) else None
        path = now.real_path
        before = self._records.get(path)
        if before is not None:
            objection = _objection(before, now, lambda: _is_empty(fd))
            if objection is not None:
                self.is_missing = True
                return objection
            if not _is_same(before, now) and now.point != "/":
                self._on_change(path)
        elif path in self._begun and not now.is_point:
            return _not_mounted(self._begun[path])
        if given or now.is_point:
            self._seen[path] = now
        return None

    def save(self) -> None:
        """Write the directories that this scan met to the file, if a directory has changed."""
        changed = {
            path: record
            for path, record in self._seen.items()
            if record != self._records.get(record.real_path)
        }
        self._seen = {}
        if not changed:
            return
        try:
            add(self._state_dir, changed)
        except StateError as error:
            self._on_failure(error)

    def standing_of(self, fd: int, rest: bytes = b"") -> str | None:
        """Return an identity of the path `rest` in an open directory; see `core.match.Place`.

        Only names of a file system that no other file system can get are used. With other names,
        all matches on the old file system could seem to be gone. `standing_of` returns None if the
        file system has no permanent name.
        """
        path, mount = real_path(fd), self._mount_of(fd)
        if path is None or mount is None:
            return None
        inner = _inner(path, mount, rest)
        if inner is None:
            return None
        try:
            names = [_hash(mount.kind, name) for name in self._own_names(mount, fd)]
        except OSError:
            return None
        return " ".join([_hash("inner", inner), *names]) if names else None

    def _own_names(self, mount: Mount, fd: int) -> Iterator[bytes]:
        """Yield the names of a file system that no other file system can get.

        Raises:
            OSError: the status of the file system cannot be read.
        """
        if mount.source.startswith(b"/dev/"):
            # Another disk may get the name of this device later. With most types of file systems,
            # the other disk may also get the number.
            number = os.fstatvfs(fd).f_fsid if mount.kind in _NUMBERED_BY_UUID else 0
            uuids = self._uuids_at(mount.source) or told_uuids(fd)
            yield from (b"uuid " + uuid for uuid in uuids)
            if number:
                yield b"number %x" % number
        elif b"/" in mount.source or b":" in mount.source:
            yield b"source " + mount.source
        elif number := os.fstatvfs(fd).f_fsid:
            yield b"device %d %x" % (os.fstat(fd).st_dev, number)

    def _record_of(self, fd: int) -> Record | None:
        path = real_path(fd)
        mount = self._mount_of(fd)
        if path is None or mount is None or mount.kind in _PSEUDO:
            return None
        point, raw = os.fsencode(mount.point), os.fsencode(path)
        inner = _inner(path, mount)
        if inner is None or len(raw) > MAX_PATH_BYTES:
            return None
        fields = path_fields(path)
        return Record(
            path=fields["path"],
            point_bytes=len(point),
            kind=mount.kind,
            names=tuple(_hash(mount.kind, name) for name in self._names(mount, fd)),
            inner=_hash("inner", inner),
            seen_day=self._today,
            path_b64=fields.get("path_b64"),
        )

    def _names(self, mount: Mount, fd: int) -> Iterator[bytes]:
        """Yield the names by which a file system may be recognized."""
        yield b"source " + mount.source
        if not mount.source.startswith(b"/dev/"):
            return
        with contextlib.suppress(OSError):
            if number := os.fstatvfs(fd).f_fsid:
                yield b"number %x" % number
        yield from (b"uuid " + uuid for uuid in self._uuids_at(mount.source))

    def _uuids_at(self, source: bytes) -> Sequence[bytes]:
        if source not in self._uuids:
            self._uuids[source] = list(_uuids_of(source))
        return self._uuids[source]

    def _mount_of(self, fd: int) -> Mount | None:
        """Return the mount of an open directory; None if the mount cannot be determined."""
        number = mount_number(fd)
        self._read_mountinfo()
        return None if number is None else self._mounts.get(number)

    def _read_mountinfo(self) -> None:
        """Read the mounts again: mounts change during a scan, and their numbers are reused."""
        try:
            text = Path("/proc/self/mountinfo").read_bytes()
        except OSError:
            text = b""
        if text != self._mountinfo or not self._watched:
            self._mountinfo, self._mounts = text, parse_mountinfo(text)
            points = {mount.point for mount in self._mounts.values()}
            self._watched = sorted(points.union(self._records))


def _objection(before: Record, now: Record, is_empty: Callable[[], bool]) -> str | None:
    """Return why a directory is not the directory of the last scan, by the rules of the module."""
    if _is_same(before, now):  # rule 1 of the module
        return None
    # rule 2 of the module; no file system can be missing at the root directory `/`
    if now.kind == _AUTOFS or before.point == now.point == "/":
        return None
    if now.point_bytes < before.point_bytes:  # rule 3 of the module
        if set(before.names) & set(now.names) and not is_empty():
            return None
        return _not_mounted(before.kind)
    if is_empty():  # rule 4 of the module
        return f"not mounted: another file system was here ({printable(before.kind)})"
    return None  # rule 5 of the module


def _not_mounted(kind: str) -> str:
    return f"not mounted: a file system was here ({printable(kind)})"


def _is_same(before: Record, now: Record) -> bool:
    return before.inner == now.inner and bool(set(before.names) & set(now.names))


def _inner(path: str, mount: Mount, rest: bytes = b"") -> bytes | None:
    """Return the path of `rest` inside its file system; None if `path` is outside the mount."""
    if mount.point != "/" and path != mount.point and not path.startswith(f"{mount.point}/"):
        return None
    inside = os.fsencode(path)[len(os.fsencode(mount.point)) :].strip(b"/")
    return b"/".join(part for part in (mount.root.strip(b"/"), inside, rest) if part)


def _uuids_of(source: bytes) -> Iterator[bytes]:
    """Yield the UUIDs under which the system knows a block device."""
    device = os.path.realpath(source)
    with contextlib.suppress(OSError), os.scandir(_BY_UUID) as links:
        for link in links:
            if os.fsencode(os.path.realpath(link.path)) == device:
                yield os.fsencode(link.name)


def _hash(kind: str, value: bytes) -> str:
    return hashlib.sha256(kind.encode() + b"\0" + value).hexdigest()[:32]


def real_path(fd: int) -> str | None:
    """Return the path of an open directory without symbolic links; None if it is unknown."""
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - the path may be any bytes
        return path if path.startswith("/") and os.fstat(fd).st_nlink else None
    except OSError:
        return None


def _can_identify(fd: int) -> bool:
    """Return whether /proc shows the paths of open directories, and the mounts."""
    try:
        os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - the path may be any bytes
        for name in (f"fdinfo/{fd}", "mountinfo"):
            Path("/proc/self", name).read_bytes()
    except OSError:
        return False
    return True


def _is_empty(fd: int) -> bool:
    """Return whether an open directory is empty; an unreadable directory counts as not empty."""
    try:
        # The directory is opened again, because reading `fd` would move its position, which the
        # walk needs.
        again = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            with os.scandir(again) as entries:
                return next(entries, None) is None
        finally:
            os.close(again)
    except OSError:
        return False

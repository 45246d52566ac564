"""Opening directories, and finding listed files again, also while somebody renames them.

A scan lists a directory, and opens it and its files later. The owner may exchange two names in
between, and exchange them back. So an opened file or directory counts only if it has the listed
inode. Otherwise the directory above is listed again, at one instant (`snapshot`), which shows where
the listed inode is now (`where_now`); `ROUNDS` limits how often. A file that was replaced, for
example by an editor that saves, does not count as missed: the new file under its name is checked.

Limits: nobody looks for a file that was moved to another directory. If an older file has its name
now (`is_older`), the listed file is unread; if a new file has its name, the listed file counts as
replaced. A server of a network file system, or a program behind FUSE, may change a directory while
the kernel lists it. Any user may do this if the directory has more than a million names.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from hashclient.scan.values.work import MOVED, Identity
from hashclient.system.identity import born_ns, is_mount_root

T = TypeVar("T")

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
#: Longest path given to the kernel in one call; PATH_MAX is 4096 bytes, its end included.
MAX_PATH_BYTES = 4000

#: How often a listed file is looked for: if somebody exchanges two names all the time, half of the
#: attempts find the wrong file.
ROUNDS = 12
#: How often a directory is looked for if it is not visible.
_ROUNDS_WITHOUT = 3
#: Errors of a name that is gone, or that another kind of file has now.
GONE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ESTALE, errno.ENXIO})
#: A time longer than any tick of the clock for file times, and the longest tick.
TICK_S, TICK_NS = 0.02, 10_000_000
#: The number of CLOCK_REALTIME_COARSE in linux/time.h.
_COARSE_CLOCK = 5
#: Bytes of a directory that one call reads: at first (enough for most directories), and at most.
_FIRST_BYTES, _MOST_BYTES = 1 << 17, 1 << 26
#: `struct linux_dirent64` before the name: inode, offset, length, type.
_HEAD = struct.Struct("=QqHB")

#: A name in a directory, its type as in `st_mode`, and its inode.
Entry = tuple[str, int, int]


class MovedError(OSError):
    """A file or directory that was listed was not found again: names kept changing."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, MOVED)


def lagging_ns() -> int:
    """Return the time now; later changes have a time at most `TICK_NS` before it.

    The clock that gives files their times lags behind, by more than a tick if it is held up.
    """
    return min(time.time_ns(), time.clock_gettime_ns(_COARSE_CLOCK) + TICK_NS)


def open_directory(path: str, *, follow: bool = False) -> int:
    """Open a directory of any depth; an empty path means the current directory.

    Raises:
        OSError: the path cannot be opened, is no directory, or is a link and `follow` is not set.
    """
    flags = DIRECTORY_FLAGS | (0 if follow else os.O_NOFOLLOW)
    if len(path) <= MAX_PATH_BYTES // 4:  # a character has four bytes at most
        return os.open(path or ".", flags)
    rest, fd = os.fsencode(path), None
    try:
        while len(rest) > MAX_PATH_BYTES and (end := rest.rfind(b"/", 0, MAX_PATH_BYTES)) > 0:
            inner = os.open(rest[:end], DIRECTORY_FLAGS, dir_fd=fd)
            if fd is not None:
                os.close(fd)
            fd, rest = inner, rest[end:].lstrip(b"/")
        return os.open(rest or b".", flags, dir_fd=fd)
    finally:
        if fd is not None:
            os.close(fd)


def with_status(fd: int) -> tuple[int, os.stat_result]:
    """Return an open directory and its status.

    Raises:
        OSError: the status cannot be read; the directory is then closed.
    """
    try:
        return fd, os.fstat(fd)
    except OSError:
        os.close(fd)
        raise


def is_same(status: os.stat_result, identity: Identity) -> bool:
    """Return whether a directory with this status is the listed directory."""
    return status.st_ino == identity[1] and identity[0] in (None, status.st_dev)


def open_listed(path: str, identity: Identity | None) -> tuple[int, os.stat_result]:
    """Open a directory that was listed before, even if its name has changed since.

    Links on the way are followed: they may lead to the same directory, and to no other. Without an
    `identity`, the present directory is opened.

    Raises:
        OSError: the directory cannot be opened; for a `MovedError`, another directory was in its
            place.
    """
    try:
        fd, status = with_status(open_directory(path, follow=True))
        if identity is None or is_same(status, identity):
            return fd, status
        os.close(fd)
        failure: OSError = MovedError()
    except OSError as error:
        if identity is None or error.errno not in GONE:
            raise
        failure = error
    try:
        return _find_listed(path, identity, failure)
    finally:
        del failure  # its traceback has this frame: a cycle, which would keep all that callers have


def _find_listed(path: str, identity: Identity, failure: OSError) -> tuple[int, os.stat_result]:
    """Open a directory that was listed, and is not at its path now: see `open_listed`."""
    missing = 0
    for number in range(ROUNDS):
        try:
            fd = open_directory(path, follow=True) if number % 2 else _open_beside(path, identity)
        except OSError as error:
            if error.errno not in GONE:
                raise
            continue
        if fd is None:
            missing += 1
            if missing >= _ROUNDS_WITHOUT:
                break
            continue
        opened = with_status(fd)
        if is_same(opened[1], identity):
            return opened
        os.close(fd)
        failure = MovedError()
    try:
        raise failure
    finally:
        del failure  # see `open_listed`


def _open_beside(path: str, identity: Identity) -> int | None:
    """Open the directory with an inode, in the directory where it was; None if not found.

    Raises:
        OSError: one of the two directories cannot be opened.
    """
    above, _, _ = path.rstrip("/").rpartition("/")
    fd = open_directory(above or ("/" if path.startswith("/") else ""), follow=True)
    try:
        for name, _, inode in snapshot(fd):
            if inode == identity[1]:
                return os.open(name, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
        return None
    finally:
        os.close(fd)


def looked_at(paths: Sequence[str]) -> list[os.stat_result | OSError]:
    """Return the status at each path, or its error; links are followed.

    If somebody exchanges two paths in this time, both may show the same file. So equal paths are
    compared again, a few times, until they differ. The paths may stay equal, because different
    names can lead to one file.
    """
    found = [_looked_at(path) for path in paths]
    for _ in range(ROUNDS):
        names: dict[Identity, set[str]] = {}
        for path, status in zip(paths, found, strict=True):
            if isinstance(status, os.stat_result):
                names.setdefault((status.st_dev, status.st_ino), set()).add(path)
        doubles = {path for same in names.values() if len(same) > 1 for path in same}
        if not doubles:
            break
        found = [
            _looked_at(path) if path in doubles else status
            for path, status in zip(paths, found, strict=True)
        ]
    return found


def _looked_at(path: str) -> os.stat_result | OSError:
    try:
        return os.stat(path)  # noqa: PTH116 - a path may be any bytes
    except OSError as error:
        return error


def has_changed(fd: int, before: os.stat_result, opened_ns: int) -> bool:
    """Return whether names in a directory may have changed since it was opened, with a status.

    Raises:
        OSError: the status of the directory cannot be read.
    """
    now = os.fstat(fd)
    if (now.st_mtime_ns, now.st_ctime_ns) != (before.st_mtime_ns, before.st_ctime_ns):
        return True
    # The clock of these times moves in steps of some milliseconds.
    return max(now.st_mtime_ns, now.st_ctime_ns) >= opened_ns - TICK_S * 1e9


def where_now(now: Sequence[Entry], name: str, inode: int) -> tuple[str, int] | None:
    """Return the present name of a listed inode, with the inode; if gone, the inode of `name`.

    None if `name` is gone, too.
    """
    elsewhere = replaced = None
    for found, _, number in now:
        if number == inode:
            if found == name:
                return name, inode
            elsewhere = found, inode
        elif found == name:
            replaced = name, number
    return elsewhere or replaced


def is_older(fd: int, name: str, since_ns: int) -> bool:
    """Return whether an entry of an open directory was made before a time.

    A new file under the name of a listed file was saved over it. An older file was moved there,
    perhaps in exchange, so the listed file may still exist. False if the file system does not know
    when a file was made.
    """
    born = _born_ns(fd, name)
    return born is not None and born < since_ns - TICK_S * 1e9


def is_newer(fd: int, name: str, since_ns: int) -> bool:
    """Return whether a file in an open directory was made after a time.

    False if the file is gone, or if the file system does not know when a file was made. The clock
    for file times lags behind, so a file that was made just after the time may count as older.
    """
    born = _born_ns(fd, name)
    return born is not None and born > since_ns


def _born_ns(fd: int, name: str) -> int | None:
    """Return when a file was made; None if the file is gone or its file system does not say."""
    return _asked(fd, name, born_ns)


def is_mounted_on(fd: int, name: str) -> bool:
    """Return whether something is mounted on a name in an open directory.

    The directory then shows the inode of the hidden file below the mount, even if both are on one
    file system.
    """
    return _asked(fd, name, is_mount_root) or False


def _asked(fd: int, name: str, question: Callable[[int], T]) -> T | None:
    """Return the answer to a question about a name in an open directory; None if it is gone."""
    try:
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return None
    try:
        return question(opened)
    finally:
        os.close(opened)


def inode_of(fd: int, name: str) -> int | None:
    """Return the inode of a name in an open directory that shows another inode for it.

    Some file systems number entries in another way than files: FAT, some FUSE and overlays. None if
    the directory has changed meanwhile: two names may have been exchanged. Also None if only this
    name differs, since something is mounted on it. The search takes some time.

    Raises:
        OSError: the directory cannot be read.
    """
    if is_mounted_on(fd, name):
        return None
    before = os.fstat(fd)
    # Whatever changes from now on has another time.
    time.sleep(TICK_S)
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return None
    shown = {inode for found, _, inode in snapshot(fd) if found == name}
    after = os.fstat(fd)
    is_steady = (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    return status.st_ino if is_steady and shown and status.st_ino not in shown else None


def snapshot(fd: int) -> list[Entry]:
    """Return the entries of an open directory at one instant, as far as the kernel can tell.

    During one call nobody can rename, so one call must return all names.

    Raises:
        OSError: the directory cannot be read, or was removed.
    """
    opened = os.open(".", DIRECTORY_FLAGS, dir_fd=fd)
    try:
        read = _getdents()
        if read is None:
            with os.scandir(opened) as entries:
                return [(entry.name, type_of(entry), entry.inode()) for entry in entries]
        size = _FIRST_BYTES
        while True:
            pieces = [read(opened, size)]
            # A file system that returns names in pieces, as FUSE does, never returns more in one
            # call.
            may_fit = len(pieces[0]) > size // 2 and size < _MOST_BYTES
            while pieces[-1]:
                pieces.append(read(opened, size))
                if pieces[-1] and may_fit:
                    break
            if not pieces[-1]:
                return [entry for piece in pieces for entry in _parsed(piece, opened)]
            os.lseek(opened, 0, os.SEEK_SET)
            size *= 8
    finally:
        os.close(opened)


def _parsed(raw: bytes, fd: int) -> Iterator[Entry]:
    at = 0
    while at < len(raw):
        inode, _, length, kind = _HEAD.unpack_from(raw, at)
        name = raw[at + _HEAD.size : at + length].split(b"\0", 1)[0]
        at += length
        if name in (b".", b".."):
            continue
        yield os.fsdecode(name), kind << 12 or _type_in(fd, name), inode


def _type_in(fd: int, name: bytes) -> int:
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except OSError:
        return stat.S_IFREG


def type_of(entry: os.DirEntry[str]) -> int:
    """Return the type of an entry, as in `st_mode`.

    The type that a directory gives for a name is believed if the entry will be opened: then its
    true type shows. An entry that would be skipped is looked at first, since a manipulated disk may
    call a file a link. If the type cannot be found out, since the entry has vanished, say, it
    counts as a file.
    """
    try:
        if entry.is_file(follow_symlinks=False):
            return stat.S_IFREG
        if entry.is_dir(follow_symlinks=False):
            return stat.S_IFDIR
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    except OSError:
        return stat.S_IFREG


@functools.cache
def _getdents() -> Callable[[int, int], bytes] | None:
    """Return a function that reads at most so many bytes of entries; None if unavailable."""
    try:
        import ctypes

        function = ctypes.CDLL(None, use_errno=True).getdents64
    except (ImportError, AttributeError):
        return None
    function.restype = ctypes.c_ssize_t

    def getdents(fd: int, most: int) -> bytes:
        buffer = ctypes.create_string_buffer(most)
        count = function(ctypes.c_int(fd), buffer, ctypes.c_size_t(most))
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return ctypes.string_at(buffer, count)

    return getdents


def is_glibc() -> bool:
    """Return whether the C library is that of GNU."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False

"""Opening directories and finding listed files again, even while somebody renames them.

A scan lists a directory, and opens the directory and its files later. The owner of the directory
may exchange two names in the meantime, and exchange them back. So an opened file or directory is
used only if it has the listed inode. If the inode differs, the parent directory is listed again, at
one instant (`snapshot`), which shows where the listed inode is now (`where_now`). A file or
directory is looked for at most `ROUNDS` times. A file that was replaced, for example by an editor
that saves, is not missed, because the new file under its name is checked.

Limits: a file that was moved to another directory is not looked for. If an older file has the name
of a listed file now (`is_older`), the listed file is unread. If a new file has the name of a listed
file now, the listed file was replaced. A server of a network file system, or a FUSE program, may
change a directory while the kernel lists it. If a directory has more than a million names, any user
may change it while it is listed.
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
from hashclient.system.filesystems import FUSE, NETWORK, NINE_P, kind_of, with_trait
from hashclient.system.identity import born_ns, is_mount_root

T = TypeVar("T")

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
#: The longest path, in bytes, that is passed to the kernel in one call. PATH_MAX is 4096 bytes,
#: including the final NUL.
MAX_PATH_BYTES = 4000

#: The number of attempts to find a listed file. If somebody exchanges two names all the time, half
#: of the attempts find the wrong file.
ROUNDS = 12
#: The number of attempts to find a directory that its parent directory does not show.
_ROUNDS_WITHOUT = 3
#: The errors for a name that does not exist any more, or that now belongs to a file of another
#: type.
GONE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ESTALE, errno.ENXIO})
#: `TICK_NS`: the longest tick of the clock that gives files their times, in nanoseconds. `TICK_S`:
#: a time in seconds, longer than any tick of a clock.
TICK_S, TICK_NS = 0.02, 10_000_000
#: The types of file systems on which a user may be able to set the time when a file was created:
#: for example, smb has the attribute `user.cifs.creationtime`.
_SETTABLE = with_trait(NETWORK) | {FUSE, NINE_P}
#: The number of CLOCK_REALTIME_COARSE in linux/time.h.
_COARSE_CLOCK = 5
#: The size of the buffer for one call that reads a directory: `_FIRST_BYTES` at first, which is
#: enough for most directories, and at most `_MOST_BYTES`.
_FIRST_BYTES, _MOST_BYTES = 1 << 17, 1 << 26
#: The struct `linux_dirent64` up to the name: inode, offset, length, type.
_HEAD = struct.Struct("=QqHB")

#: An entry of a directory: its name, its type as in `st_mode`, and its inode.
Entry = tuple[str, int, int]


class MovedError(OSError):
    """A listed file or directory was not found again, because names kept changing."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, MOVED)


def lagging_ns() -> int:
    """Return a time; the time of a later change is at most `TICK_NS` before it.

    The clock that gives files their times is late, by more than one tick if the kernel updates the
    clock late.
    """
    return min(time.time_ns(), time.clock_gettime_ns(_COARSE_CLOCK) + TICK_NS)


def open_directory(path: str, *, follow: bool = False) -> int:
    """Open a directory, however long its path is; an empty path is the current directory.

    Raises:
        OSError: the path cannot be opened, is no directory, or is a symbolic link and `follow` is
            not set.
    """
    flags = DIRECTORY_FLAGS | (0 if follow else os.O_NOFOLLOW)
    if len(path) <= MAX_PATH_BYTES // 4:  # one character takes at most four bytes
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
    """Return the descriptor of an open directory, and the status of the directory.

    Raises:
        OSError: the status cannot be read; the descriptor is closed.
    """
    try:
        return fd, os.fstat(fd)
    except OSError:
        os.close(fd)
        raise


def is_same(status: os.stat_result, identity: Identity) -> bool:
    """Return whether a directory with this status is the directory with this identity."""
    return status.st_ino == identity[1] and identity[0] in (None, status.st_dev)


def open_listed(path: str, identity: Identity | None) -> tuple[int, os.stat_result]:
    """Open a directory that was listed before, even if its name has changed since.

    Links in the path are followed, because they cannot lead to a directory with another identity.
    Without an `identity`, the directory at the path is opened.

    Raises:
        OSError: the directory cannot be opened; `MovedError`: another directory is at the path.
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
        # the traceback of `failure` refers to this frame, a cycle that would keep objects of
        # callers alive
        del failure


def _find_listed(path: str, identity: Identity, failure: OSError) -> tuple[int, os.stat_result]:
    """Open a listed directory that is not at its path now; see `open_listed`."""
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
        del failure  # a reference cycle, as in `open_listed`


def _open_beside(path: str, identity: Identity) -> int | None:
    """Open the directory with this identity in its former parent directory; None if not found.

    Raises:
        OSError: the directory or its former parent directory cannot be opened.
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
    """Return for each path the status of its file, or the error; symbolic links are followed.

    If somebody exchanges two paths during the calls, both paths may show the same file. So paths
    with the same file are examined again, at most `ROUNDS` times, until the files differ. Two paths
    may have the same file in each attempt, because two paths can lead to one file.
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
    """Return whether names in a directory may have changed since it was opened with a status.

    `before` is the status when the directory was opened, at `opened_ns`.

    Raises:
        OSError: the status of the directory cannot be read.
    """
    now = os.fstat(fd)
    if (now.st_mtime_ns, now.st_ctime_ns) != (before.st_mtime_ns, before.st_ctime_ns):
        return True
    # A change in the same tick of the clock may have the same time, so a recent time may hide a
    # change.
    return max(now.st_mtime_ns, now.st_ctime_ns) >= opened_ns - TICK_S * 1e9


def where_now(now: Sequence[Entry], name: str, inode: int) -> tuple[str, int] | None:
    """Return the present name of a listed inode, and the inode.

    If no entry has the inode, return `name` and the inode that `name` has now. If `name` does not
    exist either, return None.
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
    """Return whether an entry of an open directory was created before a time.

    A new file under the name of a listed file was saved in place of the listed file. An older file
    under the name of a listed file was moved there, perhaps by exchanging two names, so the listed
    file may still exist. `is_older` returns False if the file system does not record when a file
    was created.
    """
    born = _born_ns(fd, name)
    return born is not None and born < since_ns - TICK_S * 1e9


def is_newer(fd: int, name: str, since_ns: int) -> bool:
    """Return whether an entry of an open directory was created after a time.

    `is_newer` returns False if the file is gone, if the file system does not record when a file was
    created, if a user may be able to set this time (`_SETTABLE`), or if this time is in the future,
    because the clock was wrong. The clock that gives files their times is late, so a file that was
    created just after the time may have an earlier time.
    """
    try:
        is_settable = kind_of(fd) in _SETTABLE
    except OSError:
        return False
    born = None if is_settable else _born_ns(fd, name)
    return born is not None and since_ns < born <= time.time_ns()


def _born_ns(fd: int, name: str) -> int | None:
    """Return when a file was created; None if the file is gone, or the time is not recorded."""
    return _asked(fd, name, born_ns)


def is_mounted_on(fd: int, name: str) -> bool:
    """Return whether something is mounted on a name in an open directory.

    If something is mounted on a name, the directory shows the inode of the file that the mount
    hides, even if both are on one file system.
    """
    return _asked(fd, name, is_mount_root) or False


def _asked(fd: int, name: str, question: Callable[[int], T]) -> T | None:
    """Open a file by its name, and return what `question` returns for it; None if it is gone."""
    try:
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return None
    try:
        return question(opened)
    finally:
        os.close(opened)


def inode_of(fd: int, name: str) -> int | None:
    """Return the real inode of a file whose directory shows another inode for the file's name.

    Some file systems have different inode numbers for entries of directories and for files: FAT,
    some FUSE file systems and some overlays. `inode_of` returns None if the directory has changed
    during the call, because two names may have been exchanged. `inode_of` also returns None if
    something is mounted on the name, because the inode of only this name differs. The function
    waits for `TICK_S`.

    Raises:
        OSError: the directory cannot be read.
    """
    if is_mounted_on(fd, name):
        return None
    before = os.fstat(fd)
    # After this pause, every change of the directory has a new time.
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

    The kernel does not rename entries during one call, so one call must return all names.

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
            # A file system that returns names in pieces, such as FUSE, never returns more in one
            # call, however large the buffer is.
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

    If the entry will be opened, the type that the directory contains is used, because opening the
    entry shows its true type. If the entry would be skipped, its status is read first, because a
    manipulated disk may call a file a symbolic link. If the type cannot be determined, for example
    because the entry has vanished, the entry is treated as a file.
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
    """Return a function that reads entries into at most `most` bytes; None if unavailable."""
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
    """Return whether the C library is the GNU C library."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False

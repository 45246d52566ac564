"""The place of a file: an open directory, opened without following a link, and a name in it.

All operations use the open directory, so a change of the path above cannot lead to another
directory. A name is moved without replacing another file. A file is unlinked only under a private
name, which nobody else uses, and after proof that it is the right file. Errors are the system's;
`reason_of` puts them in words.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hashclient.system.beneath import (
    Directory,
    held_parent,
    move_aside,
    rename_noreplace,
    sync_directory,
)
from hashclient.system.strangers import stranger_on
from hashclient.system.text import printable

#: The name of a file in the short time between the move aside and the unlink.
PRIVATE_NAME = ".hashclient-{}"
#: The name of a file while it is written. A leftover of a kill is replaced.
NEW_NAME = ".hashclient-{}.new"

#: From linux/fs.h; Python defines none of these constants.
_FS_IOC_GETFLAGS = 0x80086601
_FS_IMMUTABLE_FL = 0x10
_FS_APPEND_FL = 0x20

#: Why a file is still in place although its name was removed without an error.
KEPT = "its file system has kept a name that it seemed to remove"
#: The words for an empty place.
GONE = "not there any more"
_WORDS = {
    errno.ENOENT: GONE,
    errno.ESTALE: GONE,
    errno.EROFS: "read-only file system",
    errno.EACCES: "permission denied",
    errno.EPERM: "the system does not permit it",
    errno.ENOSPC: "no space left on its file system",
    errno.EBUSY: "something is mounted on it",
}


class Place(msgspec.Struct, frozen=True):
    """An open directory, its path, and a name in it; `os.fsencode` returns the name's bytes."""

    fd: int
    directory: str
    name: str

    @property
    def path(self) -> str:
        """The path of the place."""
        return os.path.join(self.directory, self.name)  # noqa: PTH118 - any bytes

    def at(self, name: str) -> Place:
        """Return the place of another name in the same directory."""
        return Place(self.fd, self.directory, name)

    def status(self) -> os.stat_result | None:
        """Return the status of the file there, or of a link itself; None if the place is empty.

        Raises:
            OSError: the status cannot be read.
        """
        try:
            return os.stat(self.name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def directory_inode(self) -> int:
        """Return the inode of the directory."""
        return os.fstat(self.fd).st_ino

    def identity(self) -> tuple[int, int]:
        """Return the device and the inode of the directory.

        The inode alone is not enough: the top directories of two disks have the same inode.
        """
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino

    def sync(self) -> None:
        """Make changes of names durable.

        Raises:
            OSError: the directory cannot be synced.
        """
        sync_directory(self.fd)

    def try_sync(self) -> None:
        """Make changes of names durable if possible, where a failure does no harm."""
        with contextlib.suppress(OSError):
            self.sync()


class Removal(enum.Enum):
    """How the removal of a file ends.

    Except after REMOVED, the file has its old name again; if somebody has taken the old name
    meanwhile, the file is STRANDED under the private name.
    """

    REMOVED = enum.auto()
    OTHER = enum.auto()
    CHANGED = enum.auto()
    STRANDED = enum.auto()


def is_unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether a file is the same and unchanged, as far as is known."""
    return all(
        getattr(before, name) == getattr(after, name)
        for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    )


@contextlib.contextmanager
def open_place(path: str) -> Iterator[Place]:
    """Open the directory of an absolute path, of any length, through no link.

    Raises:
        OSError: a component is a link (ELOOP, with its path), is missing or is not a directory.
    """
    with held_parent(path) as (directory, name):
        yield Place(directory.fd, directory.path, name)


@contextlib.contextmanager
def open_named(path: Path) -> Iterator[Place]:
    """Open the directory of an absolute path that the user has just named.

    Links are followed if nobody else could have put them there.

    Raises:
        OSError: the directory cannot be opened, or is behind a link that others could have changed
            (ELOOP).
    """
    try:
        directory = Directory.plain(path.parent)
    except OSError as error:
        if error.errno != errno.ELOOP or stranger_on(path.parent) is not None:
            raise
        directory = Directory.given(path.parent)
    with directory:
        yield Place(directory.fd, directory.path, path.name)


@contextlib.contextmanager
def open_file(place: Place) -> Iterator[tuple[int, os.stat_result]]:
    """Open the regular file at a place for reading; yield the descriptor and the status.

    Raises:
        OSError: the file cannot be opened, is a link (ELOOP) or not a regular file (EISDIR for all
            types).
    """
    # The type is checked before opening, since opening a device may have effects. The checked file
    # itself is opened, so this may block until a lease on the file is broken.
    known = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
    try:
        mode = os.fstat(known).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place.path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EISDIR, "not a regular file", place.path)
        try:
            fd = os.open(f"/proc/self/fd/{known}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            # The place has a file. An error of the file system, or of a system without /proc, must
            # not mean that the place is empty.
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.EISDIR):
                raise
            raise OSError(errno.EIO, "it cannot be opened", place.path) from error
    finally:
        os.close(known)
    try:
        yield fd, os.fstat(fd)
    finally:
        with contextlib.suppress(OSError):  # it was only read; some file systems fail here
            os.close(fd)


def remove_exactly(place: Place, private: str, fd: int, status: os.stat_result) -> Removal:
    """Unlink the name at a place if it is the file open as `fd`, unchanged since `status`.

    1. The file is unchanged, as far as the system knows.
    2. The name is moved to the name `private` in the same directory, without replacing a file; if
       `private` is taken, to a random name. From here on nobody can exchange the file through its
       old name.
    3. The moved file has the same inode, and its content was not changed meanwhile. Otherwise the
       file is moved back.
    4. The private name is unlinked, and neither name belongs to the file any more: a file system
       of a program may say that it did what it did not do, or join two directories that both have
       the file.

    A kill in between leaves the file under the private name; the next act deals with it. The
    caller syncs the directory: until then, a power loss can bring the name back.

    Raises:
        OSError: the name cannot be moved or unlinked; the name is restored, if possible.
    """
    if not is_unchanged(status, os.fstat(fd)):  # 1
        return Removal.CHANGED
    try:
        hidden = _move_aside(place, private)  # 2
    except NotADirectoryError:  # a directory, which cannot replace a file
        return Removal.OTHER
    try:
        found = os.stat(hidden.name, dir_fd=place.fd, follow_symlinks=False)  # 3
        if not os.path.samestat(found, status):
            return Removal.OTHER if put_back(hidden, place.name) else Removal.STRANDED
        if (found.st_size, found.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            return Removal.CHANGED if put_back(hidden, place.name) else Removal.STRANDED
        os.unlink(hidden.name, dir_fd=place.fd)  # 4
        for left in (hidden, place):
            if (now := left.status()) is not None and os.path.samestat(now, status):
                raise OSError(errno.EIO, KEPT, left.path)
    except BaseException:
        put_back(hidden, place.name)
        raise
    return Removal.REMOVED


def put_back(hidden: Place, name: str) -> bool:
    """Move the file at `hidden` back to `name`; return False if `name` is taken, for example."""
    try:
        rename_noreplace(hidden.fd, hidden.name, name)
    except OSError:
        return False
    hidden.try_sync()  # the file has the old or the private name
    return True


def _move_aside(place: Place, private: str) -> Place:
    try:
        move_aside(place.fd, place.name, private)
    except FileExistsError:
        private = f"{private}-{secrets.token_hex(8)}"
        move_aside(place.fd, place.name, private)
    return place.at(private)


def reason_of(error: OSError, place: Place | None = None) -> str:
    """Return in words why an operation at a place failed."""
    if error.errno == errno.ELOOP:
        where = printable(os.fsdecode(error.filename)) if error.filename else "it is one"
        return f"a link leads to it ({where}): scan it by its real path"
    if error.errno == errno.EPERM and place is not None and (flag := _flag(place)):
        return flag
    return _WORDS.get(error.errno or 0, (error.strerror or str(error)).lower())


def _flag(place: Place) -> str | None:
    """Return which attribute forbids removing a file from its directory, or None."""
    for name, what in ((place.name, "file"), (".", "directory")):
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=place.fd)
            try:
                answer = fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8))
            finally:
                os.close(fd)
            value = int.from_bytes(answer[:4], "little")
            if value & _FS_IMMUTABLE_FL:
                return f"the {what} is immutable (`chattr -i` makes it mutable)"
            if value & _FS_APPEND_FL:
                return f"the {what} is append-only (`chattr -a` ends that)"
    return None

"""Opens the directory of a file without following symbolic links, and removes exactly one file.

All operations use the open directory, so a change of the path cannot lead them to another
directory. A file is renamed without replacing another file. A file is unlinked only under a private
name, which no other program uses, and after a check that it is the right file. The functions raise
`OSError`; `reason_of` returns a message for an `OSError`.
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

#: The private name, under which a file is checked and then unlinked; `{}` is the match id.
PRIVATE_NAME = ".hashclient-{}"
#: The name of a file while it is written; a file of this name that a killed process has left is
#: replaced.
NEW_NAME = ".hashclient-{}.new"

#: The ioctl(2) request for the attributes of `chattr`, and two attributes, from linux/fs.h.
_FS_IOC_GETFLAGS = 0x80086601
_FS_IMMUTABLE_FL = 0x10
_FS_APPEND_FL = 0x20

#: The message if a file still exists although its name was removed without an error.
KEPT = "its file system has kept a name that it seemed to remove"
#: The message if no file has the name.
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
    """An open directory, its path, and a file name in it, decoded with surrogateescape."""

    fd: int
    directory: str
    name: str

    @property
    def path(self) -> str:
        """The path of the directory joined with the name."""
        return os.path.join(self.directory, self.name)  # noqa: PTH118 - any bytes

    def at(self, name: str) -> Place:
        """Return the place of another name in the same directory."""
        return Place(self.fd, self.directory, name)

    def status(self) -> os.stat_result | None:
        """Return the status of the file or symbolic link with this name; None if it does not exist.

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

        The inode does not suffice, because the top directories of two disks can have the same
        inode.
        """
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino

    def sync(self) -> None:
        """Make changes of names in the directory durable.

        Raises:
            OSError: fsync fails.
        """
        sync_directory(self.fd)

    def try_sync(self) -> None:
        """Make changes of names in the directory durable, and ignore a failure."""
        with contextlib.suppress(OSError):
            self.sync()


class Removal(enum.Enum):
    """How the removal of a file ended.

    After OTHER (it was another file) and CHANGED (the file has changed), the file has its old name
    again. After STRANDED, the file has the private name, because another file has got the old name
    meanwhile.
    """

    REMOVED = enum.auto()
    OTHER = enum.auto()
    CHANGED = enum.auto()
    STRANDED = enum.auto()


def is_unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether two statuses are those of the same, unchanged file."""
    return all(
        getattr(before, name) == getattr(after, name)
        for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    )


@contextlib.contextmanager
def open_place(path: str) -> Iterator[Place]:
    """Open the directory of an absolute path of any length; no component may be a symbolic link.

    Raises:
        OSError: a component is a symbolic link (ELOOP, with its path), is missing or is not a
            directory.
    """
    with held_parent(path) as (directory, name):
        yield Place(directory.fd, directory.path, name)


@contextlib.contextmanager
def open_named(path: Path) -> Iterator[Place]:
    """Open the directory of an absolute path that the user has just named.

    Symbolic links are followed if no other user could have made them.

    Raises:
        OSError: the directory cannot be opened, or the path contains a symbolic link that another
            user could have made (ELOOP).
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
    """Open the regular file at a place for reading; yield its descriptor and its status.

    Raises:
        OSError: the file cannot be opened, is a symbolic link (ELOOP) or not a regular file (EISDIR
            for all types).
    """
    # The type is checked before the file is opened for reading, because opening a device may have
    # effects. Opening the file may block until another process has released a lease on it.
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
            # ENOENT, ELOOP and EISDIR would mean that the place has no regular file, but a regular
            # file was found. The error is replaced by EIO; its cause may be the file system, or a
            # missing /proc.
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.EISDIR):
                raise
            raise OSError(errno.EIO, "it cannot be opened", place.path) from error
    finally:
        os.close(known)
    try:
        yield fd, os.fstat(fd)
    finally:
        with contextlib.suppress(OSError):  # some file systems report an error at close
            os.close(fd)


def remove_exactly(place: Place, private: str, fd: int, status: os.stat_result) -> Removal:
    """Unlink the name at a place if its file is open as `fd`, and is unchanged since `status`.

    1. The status of the file must be unchanged.
    2. The file is renamed to `private` in the same directory, without replacing a file, or to a
       random name if `private` is taken. After the rename, other programs cannot exchange the file
       through its old name.
    3. If the renamed file has another inode, size or modification time than the open file, the
       renamed file gets its old name again.
    4. The private name is unlinked, and neither name may belong to the file any more. The names are
       checked because a FUSE file system may report success without removing a name, or may combine
       two directories that both contain the file.

    If the process is killed meanwhile, the file keeps the private name until the next operation on
    the match. The caller must make the directory durable, because a power loss can undo a removal
    that is not durable.

    Raises:
        OSError: the file cannot be renamed or unlinked; the file gets its old name again, if
            possible.
    """
    if not is_unchanged(status, os.fstat(fd)):  # 1
        return Removal.CHANGED
    try:
        hidden = _move_aside(place, private)  # 2
    except NotADirectoryError:  # the name belongs to a directory
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
    """Rename the file at `hidden` to `name`; return False if this fails."""
    try:
        rename_noreplace(hidden.fd, hidden.name, name)
    except OSError:
        return False
    hidden.try_sync()  # after a power loss, the file may have its private name
    return True


def _move_aside(place: Place, private: str) -> Place:
    try:
        move_aside(place.fd, place.name, private)
    except FileExistsError:
        private = f"{private}-{secrets.token_hex(8)}"
        move_aside(place.fd, place.name, private)
    return place.at(private)


def reason_of(error: OSError, place: Place | None = None) -> str:
    """Return a message that says why an operation at a place failed."""
    if error.errno == errno.ELOOP:
        where = printable(os.fsdecode(error.filename)) if error.filename else "it is one"
        return f"a link leads to it ({where}): scan it by its real path"
    if error.errno == errno.EPERM and place is not None and (flag := _flag(place)):
        return flag
    return _WORDS.get(error.errno or 0, (error.strerror or str(error)).lower())


def _flag(place: Place) -> str | None:
    """Return a message if a `chattr` attribute of the file or directory forbids the removal."""
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

"""Opens files relative to open directories, so that nobody can redirect access to another file.

A rename or a symbolic link could redirect access by a path.

The kernel resolves a path at each call, so another user who may write to a directory of the path
can exchange the names in this directory between two calls. This module opens a directory once;
every later system call on a name in the directory uses the descriptor of the directory and follows
no symbolic link. Only `Directory.given` follows symbolic links, because the user has chosen the
path that `Directory.given` opens.

`openat2` opens a path of many components in one call; if the kernel lacks or forbids `openat2`, the
components of the path are opened one after the other. The functions of this module raise `OSError`.
The module `strangers` finds out which other users may write to the directories of a path.

Limit: the owner of an open directory may move the directory. After the move, the descriptor still
leads to the same directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import stat
from collections.abc import Iterator
from typing import Self

#: Flags that open a directory without the permission to read it.
HELD_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

#: The number of the system call openat2(2) on all machines, and the `resolve` flags of openat2(2),
#: from linux/openat2.h.
_SYS_OPENAT2 = 437
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
#: The errors of openat2(2) on a kernel before 5.6, or behind a seccomp filter that does not know
#: openat2(2).
_NO_OPENAT2 = frozenset({errno.ENOSYS, errno.EPERM})
#: Longest path that is passed to the kernel in one call, in bytes; PATH_MAX is 4096 bytes, with the
#: final null byte.
_MAX_PATH_BYTES = 4000

#: The flags of renameat2(2), from linux/fs.h; Python does not define them.
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
#: The errors of renameat2(2) on a file system (NFS, some FUSE) or kernel that cannot rename without
#: replacing.
_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
#: The errors of link(2) on a file system without hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP})

#: The device and the inode of a file or directory, which stay the same when it is renamed.
Identity = tuple[int, int]


def identity_of(status: os.stat_result) -> Identity:
    """Return the device and the inode in the status of a file or directory."""
    return status.st_dev, status.st_ino


class Directory:
    """An open directory, and its path for messages; the context manager closes the directory."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        """Take over the descriptor `fd` of the directory with the path `path`."""
        self.fd = fd
        self.path = path

    @classmethod
    def given(cls, path: str | os.PathLike[str]) -> Self:
        """Open a directory that the user has just named; symbolic links in the path are followed.

        Raises:
            OSError: the path cannot be opened, or is no directory.
        """
        path = os.fspath(path)
        return cls(os.open(path or ".", HELD_FLAGS), path)

    @classmethod
    def plain(cls, path: str | os.PathLike[str]) -> Self:
        """Open a directory whose path contains no symbolic link.

        Raises:
            OSError: a component is a symbolic link (ELOOP, with its path), is missing or is no
                directory.
        """
        path = os.fspath(path)
        return cls(open_plain(path or ".", HELD_FLAGS), path)

    def beneath(self, rest: str) -> Directory:
        """Open a directory below this directory by a path that contains no symbolic link.

        Raises:
            OSError: as `plain`; EXDEV if `rest` leads out of this directory.
        """
        return Directory(open_beneath(self.fd, rest, HELD_FLAGS), self.path_of(rest))

    def __enter__(self) -> Self:
        """Return the open directory."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the directory."""
        os.close(self.fd)

    def path_of(self, name: str) -> str:
        """Return the path of the file `name` in this directory."""
        return os.path.join(self.path, name)  # noqa: PTH118 - any bytes

    def identity(self) -> Identity:
        """Return the device and the inode of this directory."""
        return identity_of(os.fstat(self.fd))

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open the file `name` in this directory; a symbolic link is refused.

        Raises:
            OSError: the file cannot be opened; ELOOP for a symbolic link.
        """
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.fd)

    def create(self, name: str, mode: int = 0o600) -> int:
        """Create a new regular file with exactly the mode `mode`, without regard to the umask.

        Raises:
            FileExistsError: a file or symbolic link with this name exists.
            OSError: the file cannot be created.
        """
        fd = self.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        try:
            os.fchmod(fd, mode)
        except OSError:
            os.close(fd)
            raise
        return fd

    def status(self, name: str) -> os.stat_result | None:
        """Return the status of the file or symbolic link `name`; None if the name does not exist.

        Raises:
            OSError: the status cannot be read.
        """
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Return the names in this directory, unsorted.

        Raises:
            OSError: the directory cannot be read.
        """
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            return os.listdir(fd)  # noqa: PTH208 - of a descriptor
        finally:
            os.close(fd)

    def unlink(self, name: str) -> None:
        """Remove the name of a file that is not a directory.

        Raises:
            OSError: the name cannot be removed.
        """
        os.unlink(name, dir_fd=self.fd)

    def unlink_if(self, name: str, identity: Identity) -> bool:
        """Remove `name` if it belongs to the file with `identity`; return whether it was removed.

        The file is renamed to a random name before the final check, so nobody can exchange the file
        between the check and the removal. If the renamed file has another identity, it gets its old
        name again.

        Raises:
            OSError: the file cannot be renamed or removed.
        """
        status = self.status(name)
        if status is None or identity_of(status) != identity:
            return False
        aside = f".hashclient-{os.urandom(8).hex()}"
        move_aside(self.fd, name, aside)
        found = os.stat(aside, dir_fd=self.fd, follow_symlinks=False)
        if identity_of(found) != identity:
            rename_noreplace(self.fd, aside, name)
            return False
        os.unlink(aside, dir_fd=self.fd)
        return True

    def rename(self, source: str, target: str) -> None:
        """Rename `source` in this directory to `target`, and replace a file with the name `target`.

        Raises:
            OSError: the name cannot be renamed.
        """
        os.replace(source, target, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def rename_noreplace(self, source: str, target: str) -> None:
        """Rename a private name in this directory; see the function `rename_noreplace`."""
        rename_noreplace(self.fd, source, target)

    def sync(self) -> None:
        """Make changes of names in this directory durable.

        Raises:
            OSError: fsync fails.
        """
        sync_directory(self.fd)


def sync_directory(directory: int) -> None:
    """Make changes of names in an open directory durable.

    Raises:
        OSError: fsync fails.
    """
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:  # this process may write to the directory, but not read it
        os.sync()
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_plain(path: str, flags: int) -> int:
    """Open a path of any length; no component of the path may be a symbolic link.

    Raises:
        OSError: a component is a symbolic link (ELOOP, with its path), or the path cannot be
            opened.
    """
    return _open(None, path, flags, _RESOLVE_NO_SYMLINKS)


def open_beneath(directory: int, rest: str, flags: int) -> int:
    """Open a path of any length below an open directory.

    No component may be a symbolic link or `..`. An empty `rest` opens the directory itself.

    Raises:
        OSError: as `open_plain`; EXDEV if `rest` is absolute or has a component `..`.
    """
    if rest.startswith("/") or ".." in rest.split("/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), rest)
    return _open(directory, rest or ".", flags, _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH)


def _open(directory: int | None, path: str, flags: int, resolve: int) -> int:
    """Open a path in pieces that are short enough for the kernel."""
    rest, held = os.fsencode(path), None
    try:
        while len(rest) > _MAX_PATH_BYTES and (end := rest.rfind(b"/", 0, _MAX_PATH_BYTES)) > 0:
            inner = _open_piece(directory, rest[:end], HELD_FLAGS, resolve)
            if held is not None:
                os.close(held)
            directory, held, rest = inner, inner, rest[end:].lstrip(b"/")
        return _open_piece(directory, rest or b".", flags, resolve)
    finally:
        if held is not None:
            os.close(held)


def _open_piece(directory: int | None, path: bytes, flags: int, resolve: int) -> int:
    try:
        return openat2(directory, path, flags | os.O_CLOEXEC, resolve)
    except OSError as error:
        # ELOOP does not say which component is a symbolic link, so the components are opened one
        # after the other. EAGAIN means that the kernel could not check, because of a rename at the
        # same time, whether the path stays below the directory.
        if error.errno not in (*_NO_OPENAT2, errno.ELOOP, errno.EAGAIN):
            raise
    return _open_by_components(directory, path, flags)


def _open_by_components(directory: int | None, path: bytes, flags: int) -> int:
    *directories, name = [part for part in path.split(b"/") if part] or [b"."]
    if path.startswith(b"/"):
        fd = os.open("/", HELD_FLAGS)
    else:
        fd = os.open(".", HELD_FLAGS, dir_fd=directory)
    try:
        for n, component in enumerate(directories):
            try:
                inner = os.open(component, HELD_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
            except NotADirectoryError as error:
                _refuse_link(fd, component, directories[: n + 1], path, error)
                raise
            os.close(fd)
            fd = inner
        try:
            opened = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except NotADirectoryError as error:
            _refuse_link(fd, name, [*directories, name], path, error)
            raise
        if flags & os.O_PATH and stat.S_ISLNK(os.fstat(opened).st_mode):
            os.close(opened)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))
        return opened
    finally:
        os.close(fd)


def _refuse_link(
    fd: int, name: bytes, parts: list[bytes], path: bytes, error: NotADirectoryError
) -> None:
    """Raise an OSError (ELOOP) if a component that is not a directory is a symbolic link."""
    if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
        start = b"/" if path.startswith(b"/") else b""
        link = os.fsdecode(start + b"/".join(parts))
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), link) from error


class _OpenHow(ctypes.Structure):
    """`struct open_how` of linux/openat2.h."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def openat2(directory: int | None, path: bytes, flags: int, resolve: int) -> int:
    """Call the system's openat2; None as `directory` means the working directory.

    Raises:
        OSError: openat2(2) failed; ENOSYS if the kernel does not have openat2(2).
    """
    how = _OpenHow(flags, 0, resolve)
    at = -100 if directory is None else directory  # AT_FDCWD
    while True:
        fd: int = _libc().syscall(
            _SYS_OPENAT2, at, ctypes.c_char_p(path), ctypes.byref(how), ctypes.sizeof(how)
        )
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), os.fsdecode(path))


@contextlib.contextmanager
def held_parent(path: str) -> Iterator[tuple[Directory, str]]:
    """Open the parent directory of an absolute path; yield the directory and the last component.

    No component of the path may be a symbolic link.

    Raises:
        OSError: as `Directory.plain`.
    """
    parent, _, name = path.rstrip("/").rpartition("/")
    with Directory.plain(parent or "/") as directory:
        yield directory, name


def move_aside(directory: int, name: str, private: str) -> None:
    """Rename `name` to the name `private`, which no other program uses, without replacing a file.

    If the file system cannot rename without replacing, a new file `private` is made and then
    replaced. A hard link and an unlink are not used, because the unlink could remove another file
    that has got the old name after the link was made.

    Raises:
        FileExistsError: `private` exists.
        NotADirectoryError: `name` is a directory, and the file system cannot rename without
            replacing.
        OSError: the file cannot be renamed.
    """
    try:
        renameat2(directory, name, private)
        return
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(private, flags, 0o600, dir_fd=directory))
    try:
        os.rename(name, private, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(private, dir_fd=directory)
        raise


def rename_noreplace(directory: int, source: str, target: str) -> None:
    """Rename the private name `source` to `target` in a directory, without replacing a file.

    If the file system cannot rename without replacing, a hard link `target` is made and `source` is
    unlinked. The effect is the same as of a rename, because no other program uses `source`. If the
    file system has no hard links either, another program could make `target` between the check for
    `target` and the rename.

    Raises:
        FileExistsError: `target` exists.
        OSError: the file cannot be renamed.
    """
    try:
        renameat2(directory, source, target)
        return
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    try:
        os.link(source, target, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with contextlib.suppress(FileNotFoundError):
            os.stat(target, dir_fd=directory, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(source, target, src_dir_fd=directory, dst_dir_fd=directory)
    else:
        os.unlink(source, dir_fd=directory)


def exchange(directory: int, name: str, other: str) -> bool:
    """Exchange two names in one step; return False if the file system cannot exchange names.

    Raises:
        OSError: the names cannot be exchanged.
    """
    try:
        renameat2(directory, name, other, _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def renameat2(directory: int, source: str, target: str, flags: int = _RENAME_NOREPLACE) -> None:
    """Call the system's renameat2 on names in `directory`, by default with RENAME_NOREPLACE.

    Raises:
        OSError: renameat2(2) failed; EINVAL or ENOSYS if the call or the flags are not supported.
    """
    function = getattr(_libc(), "renameat2", None)  # needs glibc 2.28 or musl 1.2.6
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = os.fsencode(source), os.fsencode(target)
    if function(directory, names[0], directory, names[1], flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

"""Writes files that a user names, for example outputs, keys, tokens and bundles.

Other users may be able to write to the directory of an output file, and exchange its files at any
time. To be safe from other users, this module opens the components of the path one after the other,
uses the directory by its descriptor, and applies these rules:

1. A symbolic link is followed only if nobody except root and the user of this process may change
   the symbolic link, its directory, or the path to it. For example, a symbolic link in /tmp is
   never followed.
2. In a directory that other users may write to, an existing file is written to only if root or the
   user of this process owns it. If the existing file is a regular file, it must also have only one
   name.
3. If other users may change a directory above the directory of the file, an existing file is not
   written to or replaced, because these users may have exchanged directories of the path. A group
   of the system that has only programs as members is trusted (rule 3 of `strangers`).
4. Links in /proc, to which for example /dev/stdout and /dev/fd lead, are always followed, because
   they lead to open files.

The module `strangers` decides which users are other users. A new file never replaces a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

from hashclient.core.errors import UsageError
from hashclient.system.beneath import HELD_FLAGS, Directory, Identity, identity_of
from hashclient.system.files import TEMP_PREFIX, file_in, state_errors, write_all
from hashclient.system.strangers import (
    Stranger,
    adds_names_at,
    is_for_programs,
    stranger_at,
    trusted_users,
)
from hashclient.system.text import printable

#: The highest number of symbolic links that are followed in a path; the limit of the kernel is the
#: same.
_MOST_LINKS = 40
#: How often `Place.open` tries again if other programs make and remove the file at the same time.
_MOST_TRIES = 100
_HINT = "choose a directory that only you may write to, or give the real path of the file"


class Place:
    """The place of a file that a user named: an open directory and a file name."""

    def __init__(self, path: str) -> None:
        """Open the root for an absolute `path`, the working directory for a relative path."""
        start = "/" if path.startswith("/") else "."
        self.name = ""
        self.directory = Directory.given(start)
        #: The first directory in which other users may change the path to the present directory, or
        #: None.
        self._changes_way: Stranger | None = None
        #: Like `_changes_way`, but groups of the system that have only programs as members are
        #: trusted.
        self._moves_on_way: Stranger | None = None
        #: The present directory, if other users may add names to it; otherwise None.
        self._adds_names: Stranger | None = None
        self._changes_here: Stranger | None = None
        self.is_of_proc = False
        self._look()

    def _look(self) -> None:
        status, path = os.fstat(self.directory.fd), self.directory.path
        self._changes_here = stranger_at(path, status)
        self._moves_here = None if is_for_programs(status) else self._changes_here
        self._adds_names = self._changes_here or adds_names_at(path, status)
        self.is_of_proc = status.st_dev == _device_of_proc()

    def enter(self, name: str, *, follow: bool = False) -> None:
        """Open the directory `name` here; follow a symbolic link only if `follow` is set."""
        flags = HELD_FLAGS if follow else HELD_FLAGS | os.O_NOFOLLOW
        inner = os.open(name, flags, dir_fd=self.directory.fd)
        os.close(self.directory.fd)
        if name != "..":
            self._changes_way = self._changes_way or self._changes_here
            self._moves_on_way = self._moves_on_way or self._moves_here
        self.directory = Directory(inner, self.directory.path_of(name))
        self._look()

    def restart(self) -> None:
        """Replace the present directory by the root."""
        os.close(self.directory.fd)
        self.directory = Directory.given("/")
        self._look()

    def check_link(self, name: str) -> None:
        """Refuse the symbolic link `name` in the present directory if other users may have made it.

        Raises:
            UsageError: other users may change the symbolic link.
        """
        if (who := self._changes_way or self._adds_names) is not None:
            shown = printable(self.directory.path_of(name))
            raise UsageError(f"a link that {who.who} may have made: {shown}", hint=_HINT)

    def check_way(self) -> None:
        """Refuse to use an existing file if other users may have changed the path to its directory.

        This function trusts groups of the system that have only programs as members, because these
        groups can only exchange directories in the same parent directory. Symbolic links that these
        groups may change are not followed.

        Raises:
            UsageError: other users may have changed the path.
        """
        if self.is_of_proc or self._changes_here is not None:
            return
        if (who := self._moves_on_way) is not None:
            shown = printable(self.directory.path_of(self.name))
            raise UsageError(
                f"{shown} is there already, on a way that {who.who} may change:"
                f" {printable(who.path)}",
                hint=f"remove it, or {_HINT}",
            )

    def check(self, status: os.stat_result) -> None:
        """Refuse to write to an existing file that other users may have made.

        Raises:
            UsageError: other users may have made the file.
        """
        self.check_way()
        if self.is_of_proc:
            return
        shown = printable(self.directory.path_of(self.name))
        if (who := self._adds_names) is not None:
            if status.st_uid not in trusted_users():
                raise UsageError(
                    f"{shown} belongs to another user, in a directory that {who.who} may write to",
                    hint=f"remove it, or {_HINT}",
                )
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                raise UsageError(
                    f"{shown} has other names, in a directory that {who.who} may write to",
                    hint=f"remove it, or {_HINT}",
                )

    def status(self) -> os.stat_result | None:
        """Return the status of the file, or None if the file does not exist.

        Raises:
            OSError: the status cannot be read.
        """
        try:
            return os.stat(self.name, dir_fd=self.directory.fd, follow_symlinks=self.is_of_proc)
        except FileNotFoundError:
            return None

    def open(self, mode: int = 0o666) -> int:
        """Open the file for writing; make a missing file, and do not truncate an existing file.

        Raises:
            UsageError: the rules of this module forbid writing to the file.
            OSError: the file cannot be opened.
        """
        for _ in range(_MOST_TRIES):
            if not self.is_of_proc:
                with contextlib.suppress(FileExistsError):
                    return self.directory.open(
                        self.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode
                    )
            with contextlib.suppress(FileNotFoundError):
                return self._open_existing()
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), os.fspath(self.name))

    def _open_existing(self) -> int:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        if not self.is_of_proc:
            flags |= os.O_NOFOLLOW
        try:
            fd = os.open(self.name, flags, dir_fd=self.directory.fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                _refuse_new_link(self)
            if error.errno != errno.ENXIO or self.is_of_proc:
                raise
            return self._open_waiting(error)
        try:
            self.check(os.fstat(fd))
            os.set_blocking(fd, True)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _open_waiting(self, error: OSError) -> int:
        """Open a pipe and wait for its reader, as a shell does; for another file, raise `error`."""
        held = self.directory.open(self.name, os.O_PATH)
        try:
            status = os.fstat(held)
            self.check(status)
            if not stat.S_ISFIFO(status.st_mode):
                raise error
            # /proc/self/fd leads to the checked file; its name could lead to another file by now.
            return os.open(f"/proc/self/fd/{held}", os.O_WRONLY | os.O_CLOEXEC)
        finally:
            os.close(held)


def _refuse_new_link(place: Place) -> NoReturn:
    shown = printable(place.directory.path_of(place.name))
    raise UsageError(f"somebody has just made a link with this name: {shown}", hint=_HINT)


def _device_of_proc() -> int | None:
    try:
        return os.stat("/proc").st_dev  # noqa: PTH116
    except OSError:
        return None


@contextlib.contextmanager
def place_of(path: str | os.PathLike[str], *, follow: bool = True) -> Iterator[Place]:
    """Yield the place of a file.

    If the last component is a symbolic link, it is followed only if `follow` is set.

    Raises:
        UsageError: the path contains a symbolic link that other users may have made.
        OSError: a directory is missing or may not be entered, or the path does not end with a file
            name.
    """
    text = os.fspath(path)
    place = Place(text)
    rest, links = text.split("/")[::-1], 0
    try:
        while rest:
            name = rest.pop()
            is_last = not rest
            if is_last and name in ("", ".", ".."):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), text)
            if name in ("", "."):
                continue
            place.name = name
            is_link = _is_link(place.directory, name)
            if is_link and not place.is_of_proc and (follow or not is_last):
                place.check_link(name)
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), text)
                target = os.readlink(name, dir_fd=place.directory.fd)
                rest += target.split("/")[::-1]
                if target.startswith("/"):
                    place.restart()
            elif not is_last:
                place.enter(name, follow=place.is_of_proc)
        yield place
    finally:
        os.close(place.directory.fd)


@contextlib.contextmanager
def named_directory(path: str | os.PathLike[str]) -> Iterator[Directory]:
    """Open a directory that a user named; symbolic links in its path are followed as in `place_of`.

    Raises:
        UsageError: the path contains a symbolic link that other users may have made.
        OSError: the directory is missing or may not be entered.
    """
    with place_of(f"{os.fspath(path)}/.tmp-", follow=False) as place:
        yield place.directory


@contextlib.contextmanager
def new_directory(directory: Directory, name: str) -> Iterator[Directory]:
    """Make a directory with mode 0700 and open it.

    Raises:
        OSError: the directory cannot be made, or another user has put another directory in its
            place.
    """
    os.mkdir(name, 0o700, dir_fd=directory.fd)
    with directory.beneath(name) as made:
        status = os.fstat(made.fd)
        # Another user may have exchanged the new directory for another directory of this user, to
        # which other users have access.
        is_ours = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        if not is_ours or made.names():
            raise OSError(errno.EBUSY, "somebody has exchanged it", made.path)
        yield made


def give_name(directory: Directory, temporary: str, name: str, held: int) -> None:
    """Rename the file open as `held` from `temporary` to `name`, durably.

    Raises:
        FileExistsError: a file `name` exists.
        OSError: the file cannot be renamed, or another program has exchanged it.
    """
    directory.rename_noreplace(temporary, name)
    status = directory.status(name)
    if status is None or identity_of(status) != identity_of(os.fstat(held)):
        raise OSError(errno.EBUSY, "somebody has exchanged it", directory.path_of(name))
    directory.sync()


@contextlib.contextmanager
def placed_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory, which is renamed to `path` when the block ends without an error.

    The yielded path in /proc/self/fd leads to the new directory even if other users rename the
    directory.

    Raises:
        UsageError: the path contains a symbolic link that other users may have made.
        FileExistsError: a file or directory `path` exists.
        OSError: the directory cannot be made, or another program has exchanged it.
    """
    temporary = f"{TEMP_PREFIX}{os.urandom(8).hex()}"
    with named_directory(path.parent) as parent, new_directory(parent, temporary) as made:
        try:
            yield Path(f"/proc/self/fd/{made.fd}")
            give_name(parent, temporary, path.name, made.fd)
        except BaseException:
            _empty(made)
            for name in (temporary, path.name):
                with contextlib.suppress(OSError):
                    status = parent.status(name)
                    if status is not None and identity_of(status) == made.identity():
                        os.rmdir(name, dir_fd=parent.fd)
            raise


def _empty(directory: Directory) -> None:
    """Remove the content of a directory to which only the user of this process may write."""
    import shutil  # the import is slow and rarely needed

    with contextlib.suppress(OSError):
        for name in directory.names():
            with contextlib.suppress(IsADirectoryError):
                directory.unlink(name)
            shutil.rmtree(name, ignore_errors=True, dir_fd=directory.fd)


def _is_link(directory: Directory, name: str) -> bool:
    status = directory.status(name)
    return status is not None and stat.S_ISLNK(status.st_mode)


@contextlib.contextmanager
def replaced_file(path: Path, *, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """Open a new file, which replaces the file `path` when the block ends without an error.

    If `path` is a symbolic link, the symbolic link is replaced and not followed.

    Raises:
        UsageError: the path contains a symbolic link that other users may have made, or the file
            exists and other users may have changed the path to it.
        StateError: as `files.atomic_file`.
    """
    with contextlib.ExitStack() as stack:
        with state_errors("cannot write", path):
            place = stack.enter_context(place_of(path, follow=False))
            if place.status() is not None:
                place.check_way()
        yield stack.enter_context(file_in(place.directory, place.name, mode))


def make_folder(path: Path) -> None:
    """Make the directory `path` with mode 0700, unless a file or directory `path` exists.

    Raises:
        UsageError: the directory cannot be made.
    """
    try:
        with place_of(path, follow=False) as place:
            if place.status() is None:
                os.mkdir(place.name, 0o700, dir_fd=place.directory.fd)
                place.directory.sync()
    except OSError as error:
        raise UsageError(
            f"cannot make directory {printable(path)}: {error.strerror or error}",
            hint="choose another place; nothing was changed",
        ) from error


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> Identity:
    """Write a new file, and return its device and inode; after a failure, remove the file.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    try:
        with place_of(path, follow=False) as place:
            fd = place.directory.create(place.name, mode)
            identity = identity_of(os.fstat(fd))
            try:
                write_all(fd, data)
                os.fsync(fd)
                place.directory.sync()
            except BaseException:
                with contextlib.suppress(OSError):
                    place.directory.unlink_if(place.name, identity)
                raise
            finally:
                os.close(fd)
    except FileExistsError as error:
        raise UsageError(
            f"file exists: {printable(path)}", hint="nothing is overwritten; choose another name"
        ) from error
    except OSError as error:
        raise UsageError(
            f"cannot write {printable(path)}: {error.strerror or error}",
            hint="choose another place; nothing was changed",
        ) from error
    return identity


def remove_new(path: Path, identity: Identity) -> None:
    """Remove a file that `write_new` has made, if the name still belongs to it.

    Raises:
        UsageError, OSError: the file cannot be removed.
    """
    with place_of(path, follow=False) as place:
        place.directory.unlink_if(place.name, identity)

"""Watches directory trees by inotify(7): notes changed files, and whether changes were missed.

inotify reports changes in one directory, not in a tree, so each directory gets its own watch. A new
directory is watched before it is listed, so that a file that is created in between is reported
twice, and is not missed. Changes are missed if there are more changes than the kernel's queue can
store, or if the kernel allows no more watches; only a scan of all trees finds missed changes.

The kernel does not report three things, so this module checks them at regular times: whether each
root is still the watched directory, which file systems are mounted below the roots, and whether a
directory that could not be read has become readable. A directory that may not be read is reported
like a changed file, so that a scan reports the directory as unread.

Limits: the following changes are not reported: a write through a shared memory map, a write through
a hard link outside the trees, a write to a file that is not closed, a new length that is set by
path (truncate(2)), and a change by another machine on a network file system (trees on such a file
system are refused). The kernel also does not report that a file has become readable.

The flag IN_MODIFY would report writes to files that are not closed, and truncate(2). IN_MODIFY is
not used, because the kernel reports it for each write(2). With IN_MODIFY, a program that writes to
two files in turn, as fast as it can, would cause reports that take a quarter of a processor and
fill the kernel's queue. With IN_MODIFY, a file that stays open, for example a log or a database,
would be read again from its beginning after each of its lines.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from inotify_simple import INotify, flags

from hashclient.core.errors import StateError, UsageError
from hashclient.scan.values.work import join
from hashclient.system.beneath import open_plain
from hashclient.system.filesystems import parse_mountinfo, reports_changes
from hashclient.system.log import Log
from hashclient.system.text import printable

_log = Log("watch")

#: The events that a watch requests: a file was written and closed, moved into the directory, or
#: created in the directory as a hard link; a subdirectory was created, deleted or moved.
_MASK = int(
    flags.CLOSE_WRITE
    | flags.MOVED_TO
    | flags.CREATE
    | flags.MOVED_FROM
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
    | flags.EXCL_UNLINK
)
#: The flags are plain integers and not members of an enumeration, because comparing members would
#: take longer than all other work for an event.
_OVERFLOW = int(flags.Q_OVERFLOW)
_GONE = int(flags.DELETE_SELF | flags.IGNORED | flags.UNMOUNT)
_MOVED, _IS_DIRECTORY, _MOVED_FROM = (
    int(flag) for flag in (flags.MOVE_SELF, flags.ISDIR, flags.MOVED_FROM)
)
#: The flags of all events, except events about a file that was written, linked or moved into a
#: directory.
_UNUSUAL = _OVERFLOW | _GONE | _MOVED | _IS_DIRECTORY | _MOVED_FROM
#: The number of unreadable directories that one call of `look_around` tries to open, in about 3 ms.
_MOST_TRIED = 1000
_FULL_HINT = "raise it: sysctl fs.inotify.max_user_watches=1048576"


class _State(NamedTuple):
    """The identity of the directory that is at the path of a root.

    If the directory cannot be opened, `device` is the error number and `inode` is 0.
    """

    device: int | None
    inode: int
    is_watched: bool


class Changes:
    """The changes below some directories."""

    def __init__(self, roots: Sequence[str], *, without: Sequence[str] = ()) -> None:
        """Watch `roots`, which are absolute paths of directories.

        Trees below `without` are left out.

        Raises:
            UsageError: a root is no directory, or the kernel does not report the changes below a
                root.
            StateError: the kernel's limit of watches or of inotify instances is reached.
        """
        self._roots = roots
        # The excluded paths, each with a slash at its end. Excluded paths that are neither above
        # nor below a root are left out, because every change is compared with each of these paths.
        tops = tuple(f"{root.rstrip('/')}/" for root in roots)
        self._without = tuple(
            below
            for below in (f"{path.rstrip('/')}/" for path in without)
            if below.startswith(tops) or any(top.startswith(below) for top in tops)
        )
        #: The watched directories: `_paths` maps the number of each watch to the path, and
        #: `_numbers` maps the path to the number.
        self._paths: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        #: Directories for which this process lacks permission, in the order in which `look_around`
        #: tries to open them again.
        self._closed: dict[str, None] = {}
        #: The files that have changed since the last call of `take`.
        self._files: set[str] = set()
        #: `missed`: whether changes were missed since the last scan of all trees for another reason
        #: than an overflow; `overflowed`: whether the kernel's queue of events has overflowed since
        #: the last scan of all trees.
        self.missed = self.overflowed = False
        #: Whether all directories are watched; the kernel may refuse a new watch at any time.
        self.is_whole = True
        self._is_starting = True
        #: `_mounted`: the mounts at and below the roots; `unseen`: the mount points below which the
        #: kernel does not report all changes.
        self._mounted: frozenset[tuple[int, str]] = frozenset()
        self._states: list[_State] = []
        self._mountinfo, self._mounts_then = b"", self._mounted
        self.unseen: frozenset[str] = frozenset()
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            raise StateError(
                f"cannot watch: {error.strerror}",
                hint="there may be too many: sysctl fs.inotify.max_user_instances",
            ) from error
        try:
            for root in roots:
                self._begin(root)
            # `look_again` also drops the names of the files that already exist, because the first
            # scan reads these files.
            self.look_again()
        except BaseException:
            self.close()
            raise
        self._is_starting = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the inotify instance."""
        self._inotify.close()

    def fileno(self) -> int:
        """Return the inotify descriptor, which becomes readable when events have arrived."""
        return int(self._inotify.fileno())

    @property
    def directories(self) -> int:
        """The number of watched directories."""
        return len(self._paths)

    def _begin(self, root: str) -> None:
        """Check that the tree at a root can be watched."""
        try:
            is_reported = _reports(root)
        except OSError as error:
            raise UsageError(
                f"cannot watch {printable(root)}: {(error.strerror or '').lower()}",
                hint="a directory is watched, and all that is below it",
            ) from error
        if not is_reported:
            raise UsageError(
                f"cannot watch {printable(root)}: this machine does not see changes by others on"
                " this kind of file system",
                hint="scan it by a timer instead, or run `watch` on the server that has the disk",
            )

    def look_again(self) -> None:
        """Watch all directories that are not watched yet, and forget all noted changes."""
        self.missed = self.overflowed = False
        self.is_whole = True
        self._files.clear()
        self._closed.clear()
        self._mounted = self._mounts()
        self.unseen = frozenset(p for _, p in self._mounted if not _is_reported(p))
        for root in self._roots:
            if not self._state_of(root).is_watched:
                self._drop_trees({root})
            for _ in self._add(root):
                pass
        self._states = [self._state_of(root) for root in self._roots]

    def look_around(self) -> bool:
        """Check roots, mounts and unreadable directories; return whether changes were missed.

        The files in directories that have become readable count as changed files.
        """
        if [self._state_of(root) for root in self._roots] != self._states:
            _log.info("another directory than before is in the place of one that is watched")
            self.missed = True
        if self._mounts() != self._mounted:
            _log.info("the mounts have changed")
            self.missed = True
        self._try_closed()
        return self.missed

    def _try_closed(self) -> None:
        """Watch the directories that have become readable."""
        for path in list(itertools.islice(self._closed, _MOST_TRIED)):
            del self._closed[path]
            try:
                os.close(_open(path))
            except OSError as error:
                if error.errno == errno.EACCES:
                    self._closed[path] = None
                # If opening `path` now fails with another error, the directory was removed or
                # replaced, and the kernel reports this. If its event was lost, a scan of all trees
                # follows.
                continue
            self._files.update(self._add(path))

    def _state_of(self, root: str) -> _State:
        """Return the state of the directory at `root`, and whether this directory is watched.

        If the directory is already watched, adding a watch returns the same number.
        """
        try:
            fd = _open(root)
        except OSError as error:
            return _State(error.errno, 0, is_watched=False)
        try:
            status = os.fstat(fd)
            number = self._watch(fd)
        except OSError as error:
            return _State(error.errno, 0, is_watched=False)
        finally:
            os.close(fd)
        if number not in self._paths:
            self._remove(number)  # `_add` watches the directory with all directories below it
        is_watched = number == self._numbers.get(root)
        return _State(status.st_dev, status.st_ino, is_watched=is_watched)

    def _remove(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self._inotify.rm_watch(number)

    def _mounts(self) -> frozenset[tuple[int, str]]:
        """Return the mounts at and below the roots, as mount numbers and mount points."""
        try:
            text = Path("/proc/self/mountinfo").read_bytes()
        except OSError:
            return frozenset()
        if text == self._mountinfo:
            return self._mounts_then
        table = parse_mountinfo(text)
        below = tuple(f"{root.rstrip('/')}/" for root in self._roots)
        found = ((number, mount.point) for number, mount in table.items())
        self._mountinfo = text
        self._mounts_then = frozenset(
            (n, p) for n, p in found if f"{p.rstrip('/')}/".startswith(below)
        )
        return self._mounts_then

    def read(self) -> bool:
        """Read and handle the events of inotify that have arrived.

        Return whether changes were missed since the last scan of all trees.
        """
        paths, add, is_without = self._paths, self._files.add, self._is_without
        some_without = bool(self._without)
        # The directories that were created, deleted or moved, each once: the owner of a large tree
        # may rename its top many times in a moment, and each time is not a reason to list the tree.
        touched: dict[str, None] = {}
        left: set[str] = set()
        for number, mask, _, name in self._inotify.read(timeout=0):
            directory = paths.get(number)
            if not mask & _UNUSUAL:
                if directory is not None:
                    path = f"{directory}/{name}" if directory != "/" else f"/{name}"
                    if not (some_without and is_without(path)):
                        add(path)
            elif mask & _OVERFLOW:
                _log.info("the kernel reported more changes than its queue holds")
                self.overflowed = True
            elif directory is None:
                continue
            elif mask & _GONE:
                self._forget(number)
            elif mask & _MOVED:
                # Only the move of a root is handled here, because the watch of the parent directory
                # reports the move of any other directory.
                if directory in self._roots:
                    left.add(directory)
                    self.missed = True
            elif mask & _IS_DIRECTORY:
                path = f"{directory.rstrip('/')}/{name}"
                touched[path] = None
                if mask & _MOVED_FROM:
                    left.add(path)
        if left:
            self._drop_trees(left)
        # Another directory may already be at a path from which one was moved, for example if two
        # directories were exchanged.
        for path in touched:
            self._files.update(self._add(path))
        return self.missed or self.overflowed

    def take(self) -> set[str]:
        """Return the files that have changed since the last call, and forget them."""
        files, self._files = self._files, set()
        return files

    def _is_without(self, path: str) -> bool:
        return f"{path}/".startswith(self._without) if self._without else False

    def _add(self, top: str) -> Iterator[str]:
        """Watch a directory and all directories below it; yield the files in these directories."""
        waiting = [top]
        while waiting:
            path = waiting.pop()
            if self._is_without(path):
                continue
            try:
                fd = _open(path)
            except OSError as error:
                if error.errno == errno.EACCES:
                    yield path
                    self._closed[path] = None
                else:
                    self._failed(path, error)
                continue
            try:
                self._note(self._watch(fd), path)
                with os.scandir(fd) as entries:
                    for entry in entries:
                        inner = join(path, entry.name)
                        is_directory = _is_directory(entry)
                        if is_directory is not False:
                            waiting.append(inner)
                        if not is_directory and not self._is_without(inner):
                            yield inner
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    self._full(path)
                    return
                if error.errno in (errno.EACCES, errno.EIO):
                    yield path
                else:
                    self._failed(path, error)
            finally:
                os.close(fd)

    def _watch(self, fd: int) -> int:
        """Watch the directory that is open as a descriptor; return the number of the watch.

        Raises:
            OSError: the kernel does not watch the directory.
        """
        number: int = self._inotify.add_watch(f"/proc/self/fd/{fd}", _MASK)
        return number

    def _failed(self, path: str, error: OSError) -> None:
        """Log that a directory, or a part of it, cannot be watched.

        A missing directory is ignored.
        """
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            _log.info("cannot watch %s: %s", printable(path), error.strerror)
            self.is_whole = False

    def _note(self, number: int, path: str) -> None:
        """Record that the directory at `path` has the watch `number`."""
        before, other = self._paths.get(number), self._numbers.get(path)
        if before is not None and before != path:
            del self._numbers[before]  # a directory that was moved keeps its watch
        if other is not None and other != number:
            # Another directory was at `path` before, so its watch is removed. If this directory was
            # moved to a place in a watched tree, the kernel reports the move, and the directory
            # gets a new watch.
            del self._paths[other]
            self._remove(other)
        self._paths[number], self._numbers[path] = path, number

    def _full(self, path: str) -> None:
        """Handle the error that the kernel allows no more watches.

        Raises:
            StateError: the kernel's limit of watches was reached while the first watches were
                added.
        """
        message = f"cannot watch {printable(path)}: the system's limit of watches is reached"
        if self._is_starting:
            raise StateError(message, hint=_FULL_HINT)
        _log.info("%s", message)
        self.is_whole = False

    def _forget(self, number: int) -> None:
        path = self._paths.pop(number, None)
        if path is not None and self._numbers.get(path) == number:
            del self._numbers[path]
        if path in self._roots:
            self.missed = True

    def _drop_trees(self, tops: Collection[str]) -> None:
        """End the watches in directory trees that were moved away.

        A directory tree that is still in a watched tree is watched again at its new path.
        """
        for path in [p for p in self._numbers if _is_within(p, tops)]:
            number = self._numbers.pop(path)
            self._paths.pop(number, None)
            self._remove(number)


def _is_within(path: str, tops: Collection[str]) -> bool:
    """Return whether a path is one of `tops` or below one of them."""
    while path and path not in tops:
        path = path.rpartition("/")[0]
    return bool(path)


def _open(path: str) -> int:
    """Open a directory, but fail if a symbolic link is on its path.

    By a symbolic link, an attacker could make this process watch another tree.

    Raises:
        OSError: the directory cannot be opened.
    """
    return open_plain(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)


def _is_directory(entry: os.DirEntry[str]) -> bool | None:
    """Return whether an entry is a directory; return None if the file system does not tell."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return None


def _is_reported(path: str) -> bool:
    """Return whether changes below a directory are reported.

    Return True if the directory cannot be opened.
    """
    try:
        return _reports(path)
    except OSError:
        return True


def _reports(path: str) -> bool:
    """Return whether the kernel reports all changes below a directory.

    Raises:
        OSError: the directory cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return reports_changes(fd)
    finally:
        os.close(fd)

"""Walking trees: from the paths a user gave to groups of names worth checking.

The walk only lists directories; checkers look at the sizes of files. It holds one name at a time
and a bounded number of open directories, so its memory does not grow with the tree. Directories are
opened from their parents, piece by piece where a path is longer than the kernel takes at once, and
never through a link that took a directory's place.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.reasons import reason_of
from hashclient.scan.sources.interface import TASK_NAMES, Group, Task, TaskBuilder
from hashclient.scan.sources.listing import (
    DIRECTORY_FLAGS,
    Entry,
    Frame,
    Lister,
    Listing,
    with_status,
)

#: Directories held open at a time; those further up are read to their end, and closed.
OPEN_DEPTH = 32
#: The most trees, and the most directories that could not be listed, in memory.
MAX_COVERED = 10_000
#: Longest path given to the kernel in one call; PATH_MAX is 4096 bytes, its end included.
_MAX_PATH_BYTES = 4000

OTHER_FILE_SYSTEM = "other file system"

#: Why the target of a link cannot be followed.
_NOWHERE = {
    errno.ELOOP: "loop of symbolic links",
    errno.ENOENT: "dangling symbolic link",
    errno.ENOTDIR: "dangling symbolic link",
}


class WalkOptions(msgspec.Struct, frozen=True):
    """The limits of a walk. `exclude` are shell patterns, as `compile_excludes` reads them."""

    exclude: tuple[str, ...] = ()
    one_file_system: bool = False
    follow_symlinks: bool = False


def open_directory(path: str, *, follow: bool = False) -> int:
    """Open a directory of any depth; an empty path is the current one.

    Raises:
        OSError: it cannot be opened, is no directory, or is a link and `follow` is not set.
    """
    flags = DIRECTORY_FLAGS | (0 if follow else os.O_NOFOLLOW)
    rest, fd = os.fsencode(path), None
    try:
        while len(rest) > _MAX_PATH_BYTES and (end := rest.rfind(b"/", 0, _MAX_PATH_BYTES)) > 0:
            inner = os.open(rest[:end], DIRECTORY_FLAGS, dir_fd=fd)
            if fd is not None:
                os.close(fd)
            fd, rest = inner, rest[end:].lstrip(b"/")
        return os.open(rest or b".", flags, dir_fd=fd)
    finally:
        if fd is not None:
            os.close(fd)


def join(directory: str, name: str) -> str:
    """Join a directory as the user named it and a name in it."""
    if not directory or directory.endswith("/"):
        return directory + name
    return f"{directory}/{name}"


def compile_excludes(patterns: Sequence[str]) -> Callable[[str, str], bool]:
    """Return a test of (directory, name) against shell patterns.

    A pattern without a slash is matched against the name alone, one with a slash against the path
    as it is reported; `*` matches slashes too.
    """
    names = [fnmatch.translate(p) for p in patterns if "/" not in p]
    paths = [fnmatch.translate(p.rstrip("/")) for p in patterns if "/" in p]
    match_name = re.compile("|".join(names)).match if names else None
    match_path = re.compile("|".join(paths)).match if paths else None

    def excluded(directory: str, name: str) -> bool:
        if match_name is not None and match_name(name):
            return True
        return match_path is not None and match_path(join(directory, name)) is not None

    return excluded


class Places(Protocol):
    """Knows the file systems of directories when they were scanned before."""

    def watched(self, path: str, fd: int) -> frozenset[str]:
        """Return the directories below `path`, open as `fd`, that `look` wants to see."""
        ...

    def look(self, fd: int, *, given: bool) -> str | None:
        """Note an open directory, `given` or met; return why it is not the one scanned before."""
        ...

    def save(self) -> None:
        """Keep the notes for the next scan."""
        ...


class Coverage:
    """The trees of a finished walk, and the directories in them that it could not list.

    It only has trees and failures: listed names cost nothing here.
    """

    def __init__(self, options: WalkOptions) -> None:
        """No tree is covered yet."""
        #: The trees: their paths as given, and their paths without links.
        self.roots: list[tuple[str, str]] = []
        self.one_file_system = options.one_file_system
        self._excluded = compile_excludes(options.exclude) if options.exclude else None
        self._failed: set[str] = set()

    def begin(self, tree: str) -> None:
        """Note that the walk of the tree at a path is complete."""
        if len(self.roots) < MAX_COVERED:
            self.roots.append((tree, os.path.realpath(tree)))

    def fail(self, directory: str) -> None:
        """Note a directory that was not listed; with too many, no tree counts as covered."""
        if len(self._failed) < MAX_COVERED:
            self._failed.add(directory)

    def has_failed(self, directory: str) -> bool:
        """Return whether a directory, by its path in the walk, may not have been listed."""
        return len(self._failed) >= MAX_COVERED or directory in self._failed

    def excludes(self, directory: str, name: str) -> bool:
        """Return whether a name in a directory was to be left out."""
        return self._excluded is not None and self._excluded(directory, name)


class Trees:
    """The files at paths and below them: the source of a scan that is given PATHs."""

    def __init__(
        self, paths: Sequence[str], options: WalkOptions, places: Places | None = None
    ) -> None:
        """List `paths`; with `places`, a directory that is not the one of before is unread."""
        self._paths = paths
        self._options = options
        self._places = places
        #: The trees that were covered; final at the end of the walk.
        self.coverage = Coverage(options)

    @property
    def arguments(self) -> Sequence[str]:
        """The paths."""
        return self._paths

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield tasks and outcomes; see `walk`."""
        return walk(self._paths, self._options, self._places, self.coverage)

    def close(self) -> None:
        """Save the notes of `places`, as far as the walk has come."""
        if self._places is not None:
            self._places.save()


def walk(
    paths: Sequence[str],
    options: WalkOptions,
    places: Places | None = None,
    coverage: Coverage | None = None,
) -> Iterator[Task | Outcome]:
    """Yield tasks of about `TASK_NAMES` names, and skipped or unread outcomes.

    Covered trees are noted in `coverage`.

    A path that is a link is followed: the user named it. Regular files are only listed here; they
    may change or vanish before they are opened. A directory that is not the one of before, as
    `places` knows, is unread, and its present files are listed all the same.
    """
    tasks, lister = TaskBuilder(), Lister()
    try:
        for item in _walk(paths, options, places, coverage, lister):
            if isinstance(item, Outcome):
                yield item
            elif (task := tasks.add(item)) is not None:
                yield task
                # A caller that takes a second task has already forked its workers.
                lister.may_thread = tasks.full >= 2
        if tasks.groups:
            yield tasks.groups
    finally:
        lister.close()


def _walk(
    paths: Sequence[str],
    options: WalkOptions,
    places: Places | None,
    coverage: Coverage | None,
    lister: Lister,
) -> Iterator[Group | Outcome]:
    """Yield groups of names, and outcomes; see `walk`."""
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - a path may be any bytes
        except OSError as error:
            yield Outcome(Kind.UNREAD, path, reason=reason_of(error))
            continue
        if stat.S_ISDIR(status.st_mode):
            tree = path.rstrip("/") or "/"
            if coverage is not None:
                coverage.begin(tree)
            for item in _Tree(options, places, lister).walk(tree):
                if coverage is not None and isinstance(item, Outcome) and item.kind is Kind.UNREAD:
                    coverage.fail(item.path)
                yield item
        elif stat.S_ISREG(status.st_mode):
            directory, name = os.path.split(path)
            yield Group(directory, [name], follow=True)
        else:
            yield Outcome(Kind.SKIPPED, path, reason=kind_of(status.st_mode))


def kind_of(mode: int) -> str:
    """Return the name of a file type that is never read."""
    for test, name in (
        (stat.S_ISFIFO, "named pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISBLK, "block device"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISDIR, "directory"),
    ):
        if test(mode):
            return name
    return "not a regular file"


class _Tree:
    """The walk of one tree, depth first."""

    def __init__(self, options: WalkOptions, places: Places | None, lister: Lister) -> None:
        self._options = options
        self._lister = lister
        #: The device of the tree's own directory, once it is open.
        self._device: int | None = None
        self._places = places
        #: Directories that are looked at when they are entered: they are mount points, or were.
        self._watched: frozenset[str] = frozenset()
        self._excluded = compile_excludes(options.exclude) if options.exclude else None
        self._stack: list[Frame] = []
        #: Directories entered through links: each is entered so once, which ends every loop.
        self._followed: set[tuple[int, int]] = set()

    def walk(self, path: str) -> Iterator[Group | Outcome]:
        """Yield groups of names, and outcomes of paths that are not listed."""
        try:
            refused = self._enter(path, follow=True)
            if refused is not None:
                yield refused
            while self._stack:
                yield from self._advance(self._stack[-1])
                if len(self._stack) > OPEN_DEPTH:
                    yield from self._park(self._stack[-1 - OPEN_DEPTH])
        finally:
            for frame in self._stack:
                if frame.fd is not None:
                    os.close(frame.fd)

    def _advance(self, frame: Frame) -> Iterator[Group | Outcome]:
        """Read on in `frame` until a directory in it is entered or it is at its end."""
        depth = len(self._stack)
        try:
            while True:
                for name, mode in frame.rest:
                    if self._excluded is not None and self._excluded(frame.path, name):
                        yield Outcome(Kind.SKIPPED, join(frame.path, name), reason="excluded")
                    elif mode == stat.S_IFREG:
                        frame.names.append(name)
                    else:
                        outcome = self._special(frame, name, mode)
                        if outcome is not None:
                            yield outcome
                        if len(self._stack) > depth:
                            return
                    if len(frame.names) >= TASK_NAMES:
                        yield self._group(frame)
                        frame.names = []
                if frame.names and self._lister.is_slow:
                    # Workers must not wait for the rest of a slow directory.
                    yield self._group(frame)
                    frame.names = []
                chunk = next(frame.chunks, None)
                if chunk is None:
                    break
                frame.rest = iter(chunk)
                if self._lister.is_slow:
                    self._look_ahead(frame, chunk)
        except OSError as error:
            # The directory was removed, or its medium fails, in the middle of it.
            yield Outcome(Kind.UNREAD, frame.path, reason=reason_of(error))
        if frame.names:
            yield self._group(frame)
        self._stack.pop()
        if frame.fd is not None:
            os.close(frame.fd)

    def _look_ahead(self, frame: Frame, chunk: Iterable[Entry]) -> None:
        """Have the directories of a new chunk read ahead, except those that are left out."""
        for name, mode in chunk:
            if mode == stat.S_IFDIR and not (
                self._excluded is not None and self._excluded(frame.path, name)
            ):
                frame.later.append(name)
        frame.look_ahead(self._lister, len(self._stack))

    def _park(self, frame: Frame) -> Iterator[Outcome]:
        """Close a directory until the walk comes back to it."""
        if frame.fd is None:
            return
        rest = list(frame.rest)
        try:
            for chunk in frame.chunks:
                rest += chunk
        except OSError as error:
            yield Outcome(Kind.UNREAD, frame.path, reason=reason_of(error))
        frame.rest, frame.chunks = iter(rest), iter(())
        os.close(frame.fd)
        frame.fd = None

    def _group(self, frame: Frame) -> Group:
        return Group(frame.path, frame.names, self._options.follow_symlinks)

    def _special(self, frame: Frame, name: str, mode: int) -> Outcome | None:
        """Handle an entry that is no file; return None if it was listed or entered."""
        path = join(frame.path, name)
        if stat.S_ISDIR(mode):
            listing = frame.listing_of(name, self._lister, len(self._stack))
            return self._enter(path, parent=frame.fd, follow=False, listing=listing)
        if not stat.S_ISLNK(mode) or not self._options.follow_symlinks:
            return Outcome(Kind.SKIPPED, path, reason=kind_of(mode))
        try:
            status = self._stat_link(frame, name)
        except OSError as error:
            if error.errno in _NOWHERE:
                return Outcome(Kind.SKIPPED, path, reason=_NOWHERE[error.errno])
            return Outcome(Kind.UNREAD, path, reason=reason_of(error))
        if self._options.one_file_system and status.st_dev != self._device:
            return Outcome(Kind.SKIPPED, path, reason=OTHER_FILE_SYSTEM)
        if stat.S_ISREG(status.st_mode):
            frame.names.append(name)
            return None
        if not stat.S_ISDIR(status.st_mode):
            return Outcome(Kind.SKIPPED, path, reason=kind_of(status.st_mode))
        identity = (status.st_dev, status.st_ino)
        if identity in self._followed or any(f.identity == identity for f in self._stack):
            return Outcome(Kind.SKIPPED, path, reason="directory is scanned by another path")
        self._followed.add(identity)
        return self._enter(path, parent=frame.fd, follow=True)

    @staticmethod
    def _stat_link(frame: Frame, name: str) -> os.stat_result:
        """Return the status of the target of a link in `frame`."""
        if frame.fd is not None:
            return os.stat(name, dir_fd=frame.fd)
        fd = open_directory(frame.path, follow=True)
        try:
            return os.stat(name, dir_fd=fd)
        finally:
            os.close(fd)

    def _enter(
        self,
        path: str,
        *,
        follow: bool,
        parent: int | None = None,
        listing: Listing | None = None,
    ) -> Outcome | None:
        """Put directory `path` on the stack, or return why not; `parent` is the one it is in.

        It may have been opened ahead, as `listing`. A directory that is not the one of before is
        put there, too, and the outcome says so.
        """
        opened = None if listing is None else listing.take()
        try:
            if opened is None:
                listing = None
                if parent is None:
                    opened = with_status(open_directory(path, follow=follow))
                else:
                    opened = self._lister.open(parent, path.rpartition("/")[2], follow=follow)
        except OSError as error:
            return Outcome(Kind.UNREAD, path, reason=reason_of(error))
        fd, status = opened
        if self._device is None:
            # Not before it is open: only that makes an automount come.
            self._device = status.st_dev
        if self._options.one_file_system and status.st_dev != self._device:
            os.close(fd)
            return Outcome(Kind.SKIPPED, path, reason=OTHER_FILE_SYSTEM)
        is_root = not self._stack
        identity = (status.st_dev, status.st_ino)
        # Automounts come while the walk goes on: another device, too, is a reason to look.
        is_watched = (
            is_root or path in self._watched or status.st_dev != self._stack[-1].identity[0]
        )
        lister = self._lister
        chunks = lister.read(fd) if listing is None else listing.read(lister)
        self._stack.append(Frame(path, fd, identity, chunks))
        if is_watched and self._places is not None:
            if is_root and not self._options.one_file_system:
                self._watched = self._places.watched(path, fd)
            reason = self._places.look(fd, given=is_root)
            if reason is not None:
                return Outcome(Kind.UNREAD, path, reason=reason)
        return None

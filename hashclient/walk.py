"""Walking trees: from the paths a user gave to groups of names worth checking.

The walk lists directories and nothing more; whoever checks the names looks at their sizes. It holds
one name at a time and a bounded number of open directories, so its memory does not grow with the
tree. Directories are opened by descriptor, piece by piece where a path is longer than the kernel
takes at once, and never through a link that took a directory's place.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hashclient.model import Kind, Outcome

#: Names in a task: enough to make handing it over cheap, few enough to share work evenly.
TASK_NAMES = 256
#: Directories held open at a time; deeper ones are read to their end at once.
OPEN_DEPTH = 32
#: Longest path given to the kernel in one call; PATH_MAX is 4096 bytes, its end included.
_MAX_PATH_BYTES = 4000

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK


class Group(NamedTuple):
    """Names of regular files in one directory; `follow` says whether a name may be a link."""

    directory: str
    names: list[str]
    follow: bool


#: What is handed to a worker at a time.
Task = list[Group]


@dataclass(frozen=True, slots=True)
class WalkOptions:
    """What a walk leaves out. `exclude` are shell patterns, as `compile_excludes` reads them."""

    exclude: tuple[str, ...] = ()
    one_file_system: bool = False
    follow_symlinks: bool = False


def open_directory(path: str, *, follow: bool = False) -> int:
    """Open a directory of any depth; an empty path is the current one.

    Raises:
        OSError: it cannot be opened, is no directory, or is a link and `follow` is not set.
    """
    flags = _DIRECTORY_FLAGS | (0 if follow else os.O_NOFOLLOW)
    if len(path) < _MAX_PATH_BYTES and len(os.fsencode(path)) < _MAX_PATH_BYTES:
        return os.open(path or ".", flags)
    fd = os.open("/" if path.startswith("/") else ".", _DIRECTORY_FLAGS)
    try:
        parts = [part for part in path.split("/") if part]
        while parts:
            # Names are at most 255 bytes, so fifteen always fit in one call.
            piece, parts = parts[:15], parts[15:]
            inner = os.open("/".join(piece), flags if not parts else _DIRECTORY_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = inner
    except OSError:
        os.close(fd)
        raise
    return fd


def join(directory: str, name: str) -> str:
    """Join a directory as the user named it and a name in it."""
    if not directory or directory.endswith("/"):
        return directory + name
    return f"{directory}/{name}"


def reason_of(error: OSError) -> str:
    """Return why an input was not read, in the words of the system."""
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return "no such file or directory"
    return (error.strerror or str(error)).lower()


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


def walk(paths: Sequence[str], options: WalkOptions) -> Iterator[Task | Outcome]:
    """Yield tasks of about `TASK_NAMES` names, and outcomes of what was skipped or unread.

    A path that is a link is followed: the user named it. Regular files are only listed here;
    between now and their being opened they may change or vanish.
    """
    tasks = _TaskBuilder()
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - a path may be any bytes
        except OSError as error:
            yield Outcome(Kind.UNREAD, path, reason=reason_of(error))
            continue
        if stat.S_ISDIR(status.st_mode):
            tree = path.rstrip("/") or "/"
            for item in _Tree(options, status.st_dev).walk(tree):
                if isinstance(item, Outcome):
                    yield item
                elif (task := tasks.add(item)) is not None:
                    yield task
        elif stat.S_ISREG(status.st_mode):
            directory, name = os.path.split(path)
            if (task := tasks.add(Group(directory, [name], follow=True))) is not None:
                yield task
        else:
            yield Outcome(Kind.SKIPPED, path, reason=kind_of(status.st_mode))
    if tasks.groups:
        yield tasks.groups


def kind_of(mode: int) -> str:
    """Name a file type that is never read."""
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


class _TaskBuilder:
    """Joins groups of small directories into tasks of a useful size."""

    def __init__(self) -> None:
        self.groups: Task = []
        self._names = 0

    def add(self, group: Group) -> Task | None:
        self.groups.append(group)
        self._names += len(group.names)
        if self._names < TASK_NAMES:
            return None
        full, self.groups, self._names = self.groups, [], 0
        return full


@dataclass(slots=True)
class _Frame:
    """A directory being read: what is left of it, and the files found since the last task."""

    path: str
    fd: int
    identity: tuple[int, int]
    entries: Iterator[os.DirEntry[str]]
    names: list[str]


class _Tree:
    """The walk of one tree, depth first."""

    def __init__(self, options: WalkOptions, device: int) -> None:
        self._options = options
        self._device = device
        self._excluded = compile_excludes(options.exclude) if options.exclude else None
        self._stack: list[_Frame] = []
        #: Directories entered through links: each is entered so once, which ends every loop.
        self._followed: set[tuple[int, int]] = set()

    def walk(self, path: str) -> Iterator[Group | Outcome]:
        """Yield groups of names and outcomes of what is not listed."""
        try:
            refused = self._enter(path, follow=True)
            if refused is not None:
                yield refused
            while self._stack:
                yield from self._advance(self._stack[-1])
        finally:
            for frame in self._stack:
                os.close(frame.fd)

    def _advance(self, frame: _Frame) -> Iterator[Group | Outcome]:
        """Read on in `frame` until a directory in it is entered or it is at its end."""
        names = frame.names
        try:
            for entry in frame.entries:
                name = entry.name
                if self._excluded is not None and self._excluded(frame.path, name):
                    yield Outcome(Kind.SKIPPED, join(frame.path, name), reason="excluded")
                elif entry.is_file(follow_symlinks=False):
                    names.append(name)
                    if len(names) >= TASK_NAMES:
                        yield self._group(frame)
                        frame.names = names = []
                elif entry.is_dir(follow_symlinks=False):
                    refused = self._enter(join(frame.path, name), follow=False)
                    if refused is None:
                        return
                    yield refused
                else:
                    outcome = self._other(frame, entry)
                    if outcome is not None:
                        yield outcome
                    elif self._stack[-1] is not frame:
                        return
        except OSError as error:
            # The directory was removed, or its medium fails, in the middle of it.
            yield Outcome(Kind.UNREAD, frame.path, reason=reason_of(error))
        if names:
            yield self._group(frame)
        self._stack.pop()
        os.close(frame.fd)

    def _group(self, frame: _Frame) -> Group:
        return Group(frame.path, frame.names, self._options.follow_symlinks)

    def _other(self, frame: _Frame, entry: os.DirEntry[str]) -> Outcome | None:
        """Deal with a link or a special file; None if it was listed or entered."""
        path = join(frame.path, entry.name)
        if not entry.is_symlink():
            mode = entry.stat(follow_symlinks=False).st_mode
            return Outcome(Kind.SKIPPED, path, reason=kind_of(mode))
        if not self._options.follow_symlinks:
            return Outcome(Kind.SKIPPED, path, reason="symbolic link")
        try:
            status = os.stat(entry.name, dir_fd=frame.fd)
        except OSError as error:
            loop = error.errno == errno.ELOOP
            reason = "loop of symbolic links" if loop else "dangling symbolic link"
            return Outcome(Kind.SKIPPED, path, reason=reason)
        if stat.S_ISREG(status.st_mode):
            frame.names.append(entry.name)
            return None
        if not stat.S_ISDIR(status.st_mode):
            return Outcome(Kind.SKIPPED, path, reason=kind_of(status.st_mode))
        identity = (status.st_dev, status.st_ino)
        if identity in self._followed or any(f.identity == identity for f in self._stack):
            return Outcome(Kind.SKIPPED, path, reason="directory is scanned by another path")
        self._followed.add(identity)
        return self._enter(path, follow=True)

    def _enter(self, path: str, *, follow: bool) -> Outcome | None:
        """Put directory `path` on the stack, or return why not."""
        try:
            fd = open_directory(path, follow=follow)
        except OSError as error:
            return Outcome(Kind.UNREAD, path, reason=reason_of(error))
        try:
            status = os.fstat(fd)
            if self._options.one_file_system and status.st_dev != self._device:
                os.close(fd)
                return Outcome(Kind.SKIPPED, path, reason="other file system")
            entries: Iterator[os.DirEntry[str]] = os.scandir(fd)
            if len(self._stack) >= OPEN_DEPTH:
                entries = iter(list(entries))
        except OSError as error:
            os.close(fd)
            return Outcome(Kind.UNREAD, path, reason=reason_of(error))
        self._stack.append(_Frame(path, fd, (status.st_dev, status.st_ino), entries, []))
        return None

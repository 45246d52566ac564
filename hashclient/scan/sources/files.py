"""Walking trees: from the paths a user gave to groups of names worth checking.

The walk only lists directories; checkers look at the sizes of files. It holds one name at a time
and a bounded number of open directories, so its memory does not grow with the tree. Directories are
opened from their parents, piece by piece where a path is longer than the kernel takes at once, and
never through a link that took a directory's place.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import stat
import time
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.reasons import MOVED, reason_of
from hashclient.scan.sources.again import Again
from hashclient.scan.sources.directories import (
    GONE,
    ROUNDS,
    Identity,
    MovedError,
    inode_of,
    is_newer,
    is_older,
    is_same,
    looked_at,
    open_directory,
    open_listed,
    snapshot,
    where_now,
    with_status,
)
from hashclient.scan.sources.frame import AT_ONCE, Frame
from hashclient.scan.sources.interface import TASK_NAMES, Group, Task, TaskBuilder
from hashclient.scan.sources.listing import Chunk, Lister, Listing, Open
from hashclient.system.identity import is_mount_root
from hashclient.system.strangers import is_shared, trusted_users

#: Directories held open at a time; those further up are read to their end, and closed.
OPEN_DEPTH = 32
#: The most trees, and the most directories that could not be listed, in memory.
MAX_COVERED = 10_000

EXCLUDED = "excluded"
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
            # A link on the way that is exchanged now leads nowhere: then nothing is gone there.
            with contextlib.suppress(OSError):
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
        self._again = Again()

    @property
    def arguments(self) -> Sequence[str]:
        """The paths."""
        return self._paths

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield tasks and outcomes; see `walk`."""
        return walk(self._paths, self._options, self._places, self.coverage, self._again)

    def again(self) -> Iterator[Task | Outcome]:
        """Yield what was moved since it was listed; see `again`.

        Call it when all that `batches` has given was checked. Each task is to be checked before the
        next one is asked for.
        """
        tasks = TaskBuilder()
        try:
            for item in self._again.found(Lister()):
                if isinstance(item, Outcome):
                    if item.kind is Kind.UNREAD:
                        self.coverage.fail(item.path)
                    yield item
                elif item is not None:
                    if (task := tasks.add(item)) is not None:
                        yield task
                elif tasks.groups:
                    yield tasks.groups
                    tasks = TaskBuilder()
        except OSError as error:  # the notes cannot be read
            for path in self._paths:
                self.coverage.fail(path)
                yield Outcome(Kind.UNREAD, path, reason=reason_of(error))

    def close(self) -> None:
        """Save the notes of `places`, as far as the walk has come."""
        self._again.close()
        if self._places is not None:
            self._places.save()


def walk(
    paths: Sequence[str],
    options: WalkOptions,
    places: Places | None = None,
    coverage: Coverage | None = None,
    again: Again | None = None,
) -> Iterator[Task | Outcome]:
    """Yield tasks of about `TASK_NAMES` names, and skipped or unread outcomes.

    Covered trees are noted in `coverage`, and directories that others may write to in `again`.

    A path that is a link is followed: the user named it. Regular files are only listed here; they
    may change or vanish before they are opened. A directory that is not the one of before, as
    `places` knows, is unread, and its present files are listed all the same.
    """
    tasks, lister = TaskBuilder(), Lister()
    try:
        for item in _walk(paths, options, places, coverage, lister, again):
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
    again: Again | None,
) -> Iterator[Group | Outcome]:
    """Yield groups of names, and outcomes; see `walk`."""
    for path, status in zip(paths, looked_at(paths), strict=True):
        if isinstance(status, OSError):
            yield Outcome(Kind.UNREAD, path, reason=reason_of(status))
        elif stat.S_ISDIR(status.st_mode):
            tree = path.rstrip("/") or "/"
            if coverage is not None:
                coverage.begin(tree)
            identity = (status.st_dev, status.st_ino)
            for item in _Tree(options, places, lister, again).walk(tree, identity):
                if coverage is not None and isinstance(item, Outcome) and item.kind is Kind.UNREAD:
                    coverage.fail(item.path)
                yield item
        elif stat.S_ISREG(status.st_mode):
            directory, name = os.path.split(path)
            yield Group(directory, [name], follow=True, inodes=array("Q", [status.st_ino]))
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

    def __init__(
        self, options: WalkOptions, places: Places | None, lister: Lister, again: Again | None
    ) -> None:
        self._options = options
        self._lister = lister
        self._again = again
        #: Directories that were entered since they are looked at `again`; None before.
        self._late: set[tuple[int, int]] | None = None
        #: The device of the tree's own directory, once it is open.
        self._device: int | None = None
        self._places = places
        #: Directories that are looked at when they are entered: they are mount points, or were.
        self._watched: frozenset[str] = frozenset()
        self._excluded = compile_excludes(options.exclude) if options.exclude else None
        self._stack: list[Frame] = []
        #: Directories entered through links: each is entered so once, which ends every loop.
        self._followed: set[tuple[int, int]] = set()
        #: File systems whose directories show other inodes than theirs for directories in them.
        self._differing: set[int] = set()
        self._since_ns = time.time_ns()
        self._ours = trusted_users()

    def walk(self, path: str, identity: Identity) -> Iterator[Group | Outcome]:
        """Yield groups of names, and outcomes of paths that are not listed.

        If another directory is there by now, it is walked, and the one with `identity` is unread.
        """
        refused = self._enter(path, follow=True)
        if refused is not None:
            yield refused
        elif self._stack and not is_same(self._stack[-1].status, identity):
            fd = self._stack[-1].fd
            if fd is not None and not is_mount_root(fd):  # an automount comes when it is opened
                yield Outcome(Kind.UNREAD, path, reason=MOVED)
        yield from self._go_on()

    def walk_late(self, frame: Frame, lister: Lister) -> Iterator[Group | Outcome]:
        """Yield what is new in a directory, and was there before the scan; see `again`."""
        self._late = set() if self._late is None else self._late
        self._lister = lister
        self._stack.append(frame)
        yield from self._go_on()

    def _go_on(self) -> Iterator[Group | Outcome]:
        """Walk the directories on the stack."""
        try:
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
                for entry in frame.rest:
                    outcome = self._special(frame, *entry)
                    if outcome is not None:
                        yield outcome
                    if len(self._stack) > depth:
                        return
                # Workers must not wait for the rest of a slow directory.
                while len(frame.names) >= TASK_NAMES or (frame.names and self._lister.is_slow):
                    yield self._group(frame)
                chunk = next(frame.chunks, None)
                if is_last := chunk is None:
                    chunk = frame.missed() if frame.count > AT_ONCE else None
                    if chunk is None:
                        break
                if not frame.is_listed:
                    frame.note(chunk)
                    if self._leaves_out:
                        chunk = yield from self._leave_out(frame, chunk)
                    frame.is_listed = is_last
                frame.take_in(chunk)
                frame.rest = iter(chunk.others)
                if self._lister.is_slow:
                    self._look_ahead(frame, chunk)
        except OSError as error:
            # The directory was removed, or its medium fails, in the middle of it.
            yield Outcome(Kind.UNREAD, frame.path, reason=reason_of(error))
        while frame.names:
            yield self._group(frame)
        self._stack.pop()
        if frame.fd is not None:
            os.close(frame.fd)
        if frame.is_shared and self._again is not None:
            try:
                self._again.note(self, frame)
            except OSError as error:
                yield Outcome(Kind.UNREAD, frame.path, reason=reason_of(error))

    @property
    def _leaves_out(self) -> bool:
        return self._excluded is not None or self._late is not None

    def _leave_out(self, frame: Frame, chunk: Chunk) -> Generator[Outcome, None, Chunk]:
        """Return the entries of a new chunk that are not to be left out."""
        if self._late is not None:
            chunk = self._from_before(frame, chunk)
        if self._excluded is None:
            return chunk
        kept = Chunk([], array("Q"), [])
        for name, inode in zip(chunk.names, chunk.inodes, strict=True):
            if self._excluded(frame.path, name):
                yield Outcome(Kind.SKIPPED, join(frame.path, name), reason=EXCLUDED)
            else:
                kept.names.append(name)
                kept.inodes.append(inode)
        for entry in chunk.others:
            if self._excluded(frame.path, entry[0]):
                yield Outcome(Kind.SKIPPED, join(frame.path, entry[0]), reason=EXCLUDED)
            else:
                kept.others.append(entry)
        return kept

    def _from_before(self, frame: Frame, chunk: Chunk) -> Chunk:
        """Return the directories of a late chunk, and what was not made since the walk began."""
        assert frame.fd is not None
        fd, since_ns = frame.fd, self._since_ns
        files = zip(chunk.names, chunk.inodes, strict=True)
        kept = [one for one in files if not is_newer(fd, one[0], since_ns)]
        others = [
            entry
            for entry in chunk.others
            if entry[1] == stat.S_IFDIR or not is_newer(fd, entry[0], since_ns)
        ]
        return Chunk([name for name, _ in kept], array("Q", [inode for _, inode in kept]), others)

    def _look_ahead(self, frame: Frame, chunk: Chunk) -> None:
        """Have the directories of a new chunk read ahead."""
        frame.later.extend([name for name, mode, _ in chunk.others if mode == stat.S_IFDIR])
        frame.look_ahead(self._lister, len(self._stack))

    def _park(self, frame: Frame) -> Iterator[Outcome]:
        """Close a directory until the walk comes back to it."""
        if frame.fd is None:
            return
        kept: list[Chunk] = []
        try:
            for chunk in frame.chunks if frame.is_listed else frame.whole():
                left = chunk
                if self._leaves_out and not frame.is_listed:
                    left = yield from self._leave_out(frame, chunk)
                kept.append(left)
        except OSError as error:
            yield Outcome(Kind.UNREAD, frame.path, reason=reason_of(error))
        frame.chunks, frame.is_listed = iter(kept), True
        os.close(frame.fd)
        frame.fd = None

    def _group(self, frame: Frame) -> Group:
        """Take the next group of names."""
        names, inodes = frame.take(TASK_NAMES)
        return Group(frame.path, names, self._options.follow_symlinks, frame.identity, inodes)

    def _special(self, frame: Frame, name: str, mode: int, inode: int) -> Outcome | None:
        """Handle an entry that is no file; return None if it was listed or entered."""
        path = join(frame.path, name)
        if stat.S_ISDIR(mode):
            listing = None
            if frame.ahead or frame.later:
                listing = frame.listing_of(name, self._lister, len(self._stack))
            return self._enter(path, frame=frame, inode=inode, follow=False, listing=listing)
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
            # The inode of the link says nothing of the file.
            frame.take_in(Chunk([name], array("Q", [0]), []))
            return None
        if not stat.S_ISDIR(status.st_mode):
            return Outcome(Kind.SKIPPED, path, reason=kind_of(status.st_mode))
        identity = (status.st_dev, status.st_ino)
        if identity in self._followed or any(f.identity == identity for f in self._stack):
            return Outcome(Kind.SKIPPED, path, reason="directory is scanned by another path")
        self._followed.add(identity)
        return self._enter(path, frame=frame, follow=True, target=identity)

    @staticmethod
    def _stat_link(frame: Frame, name: str) -> os.stat_result:
        """Return the status of the target of a link in `frame`."""
        with _held(frame) as fd:
            return os.stat(name, dir_fd=fd)

    def _enter(
        self,
        path: str,
        *,
        follow: bool,
        frame: Frame | None = None,
        inode: int = 0,
        target: tuple[int, int] | None = None,
        listing: Listing | None = None,
    ) -> Outcome | None:
        """Put directory `path` on the stack, or return why not; it was listed in `frame`.

        There it had `inode`, or the directory that a link leads to was `target`. It may have been
        opened ahead, as `listing`. A directory that is not the one of before is put there, too, and
        the outcome says so.
        """
        opened = None if listing is None else listing.take()
        lost: str | None = None
        try:
            if opened is None:
                listing = None
                if frame is None or frame.fd is None:
                    opened = self._open(path, frame, follow=follow)
                else:
                    opened = self._lister.open(frame.fd, path.rpartition("/")[2], follow=follow)
            fd, status, opened_ns = opened
            if (
                inode not in (0, status.st_ino)
                and frame is not None
                and not self._is_listed(fd, status, frame, inode)
            ):
                if listing is not None:
                    listing.drop()
                    listing = None
                os.close(fd)
                path, (fd, status, opened_ns), lost = self._find(path, frame, inode, MovedError())
        except OSError as error:
            if not inode or frame is None or error.errno not in GONE:
                return Outcome(Kind.UNREAD, path, reason=reason_of(error))
            if self._late is not None:  # wherever it is now, that directory has changed
                return None
            try:
                path, (fd, status, opened_ns), lost = self._find(path, frame, inode, error)
            except OSError as failure:
                return Outcome(Kind.UNREAD, path, reason=reason_of(failure))
        if (refused := self._refused(path, status, target)) is not None:
            if listing is not None:
                listing.drop()
            os.close(fd)
            return refused
        is_root = not self._stack
        # Automounts come while the walk goes on: another device, too, is a reason to look.
        is_watched = (
            is_root or path in self._watched or status.st_dev != self._stack[-1].status.st_dev
        )
        lister = self._lister
        chunks = lister.read(fd) if listing is None else listing.read(lister)
        self._stack.append(
            Frame(path, fd, status, opened_ns, chunks, is_shared=is_shared(status, self._ours))
        )
        if is_watched and self._places is not None:
            if is_root and not self._options.one_file_system:
                self._watched = self._places.watched(path, fd)
            reason = self._places.look(fd, given=is_root)
            if reason is not None:
                return Outcome(Kind.UNREAD, path, reason=reason)
        return None if lost is None else Outcome(Kind.UNREAD, path, reason=lost)

    def _refused(
        self, path: str, status: os.stat_result, target: Identity | None
    ) -> Outcome | None:
        """Return why an open directory is not entered, if so; for `target` see `_enter`."""
        identity = (status.st_dev, status.st_ino)
        if target not in (None, identity):
            return Outcome(Kind.UNREAD, path, reason=MOVED)
        if self._device is None:
            # Not before it is open: only that makes an automount come.
            self._device = status.st_dev
        if self._options.one_file_system and status.st_dev != self._device:
            return Outcome(Kind.SKIPPED, path, reason=OTHER_FILE_SYSTEM)
        if self._late is not None:
            if identity in self._late:  # so nobody has it walked again and again
                return Outcome(Kind.UNREAD, path, reason=MOVED)
            self._late.add(identity)
        return None

    def _open(self, path: str, frame: Frame | None, *, follow: bool) -> Open:
        """Open a directory, in that of `frame` if it was listed there.

        Raises:
            OSError: it cannot be opened.
        """
        if frame is None:
            opened_ns = time.time_ns()
            return *with_status(open_directory(path, follow=follow)), opened_ns
        with _held(frame) as fd:
            return self._lister.open(fd, path.rpartition("/")[2], follow=follow)

    def _is_listed(self, fd: int, status: os.stat_result, frame: Frame, inode: int) -> bool:
        """Return whether an open directory is the one that `frame` lists with an inode.

        Where another one is mounted, the inode is that of the directory below.
        """
        device = status.st_dev
        return (
            status.st_ino == inode
            or device != frame.status.st_dev
            or device in self._differing
            or is_mount_root(fd)
        )

    def _find(
        self, path: str, frame: Frame, inode: int, failure: OSError
    ) -> tuple[str, Open, str | None]:
        """Open a directory that is not the listed one any more, where it is now; return its path.

        If the listed one is gone, the directory that has its name now is opened. If that has come
        from elsewhere, the reason why the listed one is unread is returned, too.

        Raises:
            OSError: it cannot be opened; it is `failure` if it is gone.
        """
        name = path.rpartition("/")[2]
        with _held(frame) as parent:
            for number in range(ROUNDS):
                found = where_now(snapshot(parent), name, inode)
                if found is None:
                    break
                try:
                    opened = self._lister.open(parent, found[0], follow=False)
                except OSError as error:
                    if error.errno not in GONE:
                        raise
                    failure = error
                    continue
                if self._is_listed(*opened[:2], frame, found[1]):
                    is_other = found[1] != inode and not frame.lists(found[1])
                    is_lost = is_other and is_older(parent, found[0], self._since_ns)
                    return join(frame.path, found[0]), opened, MOVED if is_lost else None
                os.close(opened[0])
                failure = MovedError()
                if number == 1 and inode_of(parent, found[0]) is not None:
                    self._differing.add(frame.status.st_dev)
        raise failure


@contextlib.contextmanager
def _held(frame: Frame) -> Iterator[int]:
    """Yield the descriptor of a directory, which is opened again if it was closed.

    Raises:
        OSError: it cannot be opened.
    """
    if frame.fd is not None:
        yield frame.fd
        return
    fd, _ = open_listed(frame.path, frame.identity)
    try:
        yield fd
    finally:
        os.close(fd)

"""The walk of a tree: directories are listed one after the other, depth first.

The walk only lists files; checkers read them. The walk keeps one name at a time and a limited
number of open directories, so its memory does not grow with the tree. A directory is opened from
its parent directory, and never through a symbolic link that has replaced the directory. A path that
is too long for one call of the kernel is opened in pieces. The frontier decides which directories
are entered. The process that distributes work uses this walk, and so does a worker of a cluster.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from array import array
from collections.abc import Generator, Iterator

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources.again import Again
from hashclient.scan.sources.finding_again import (
    GONE,
    ROUNDS,
    Entry,
    MovedError,
    inode_of,
    is_newer,
    is_older,
    is_same,
    lagging_ns,
    open_directory,
    open_listed,
    snapshot,
    where_now,
    with_status,
)
from hashclient.scan.sources.frame import Frame, chunk_of
from hashclient.scan.sources.frontier import OTHER_FILE_SYSTEM, Frontier, compile_excludes, kind_of
from hashclient.scan.sources.listing import Chunk, Lister, Listing, Open
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import (
    MOVED,
    TASK_NAMES,
    Group,
    Identity,
    Item,
    Start,
    join,
    reason_of,
)
from hashclient.system.identity import is_mount_root
from hashclient.system.strangers import is_shared, trusted_users

#: The most directories of the walk that are open at the same time. Directories further up the tree
#: are read to their end, and closed.
OPEN_DEPTH = 32
EXCLUDED = "excluded"
#: Reasons why a symbolic link is skipped, by the error of reading the status of its target.
_NOWHERE = {
    errno.ELOOP: "loop of symbolic links",
    errno.ENOENT: "dangling symbolic link",
    errno.ENOTDIR: "dangling symbolic link",
}


class Walk:
    """The walk of one tree, depth first."""

    def __init__(
        self,
        frontier: Frontier,
        options: ScanOptions,
        lister: Lister,
        again: Again | None = None,
        base: str = "",
    ) -> None:
        """List the directories that `frontier` admits.

        `again` gets a note of each directory that other users may write to.

        Relative paths are below `base`, if `base` is given.
        """
        self._frontier = frontier
        self._base = base
        self._follow = options.follow_symlinks
        self._lister = lister
        self._again = again
        #: The directories that were entered during the passes of `again`; None before these passes.
        self._late: set[tuple[int, int]] | None = None
        self._excluded = compile_excludes(options.exclude) if options.exclude else None
        self._stack: list[Frame] = []
        #: The devices of file systems whose directories show another inode for a subdirectory than
        #: the status of the subdirectory.
        self._differing: set[int] = set()
        self._since_ns = time.time_ns()
        self._ours = trusted_users()

    def walk(
        self, path: str, identity: Identity | None = None, *, follow: bool = True
    ) -> Iterator[Item]:
        """Yield groups of names, and outcomes of paths that are not listed.

        If another directory than that with `identity` is at `path` now, the other directory is
        walked, and the directory with `identity` is unread. If `follow` is true, the path itself
        may be a symbolic link.
        """
        first = self._enter(path, follow=follow)
        if first is None and identity is not None and self._stack:
            fd, status = self._stack[-1].fd, self._stack[-1].status
            # The identity also changes if opening the directory mounts an automount.
            if fd is not None and not is_same(status, identity) and not is_mount_root(fd):
                first = Outcome(Kind.UNREAD, path, reason=MOVED)
        yield from self._go_on(first)

    def walk_listed(self, path: str, inode: int, above: int) -> Iterator[Item]:
        """Yield items as `walk` does, for a directory that was listed before.

        `inode` is the inode of the directory, and `above` is the inode of its parent directory.

        An inode of 0 is unknown.
        """
        directory = os.path.split(path)[0]
        opened_ns = lagging_ns()
        try:
            parent = open_listed(self._where(directory), (None, above) if above else None)
        except OSError as error:
            yield Outcome(Kind.UNREAD, path, reason=reason_of(error))
            return
        frame = Frame(directory, *parent, opened_ns, iter(()), is_listed=True)
        self._frontier.begin(directory, *parent)
        self._stack.append(frame)
        yield from self._go_on(self._enter(path, frame=frame, inode=inode, follow=False))

    def walk_late(self, frame: Frame, lister: Lister) -> Iterator[Item]:
        """Yield the new entries of a directory that are older than the scan; see `again`."""
        self._late = set() if self._late is None else self._late
        self._lister = lister
        self._stack.append(frame)
        yield from self._go_on()

    def _go_on(self, first: Outcome | Start | None = None) -> Iterator[Item]:
        """Yield `first`, if given, and the items of the walk of the directories on the stack."""
        try:
            if first is not None:
                yield first
            while self._stack:
                yield from self._advance(self._stack[-1])
                if len(self._stack) > OPEN_DEPTH:
                    yield from self._park(self._stack[-1 - OPEN_DEPTH])
        finally:
            for frame in self._stack:
                if frame.fd is not None:
                    os.close(frame.fd)

    def _advance(self, frame: Frame) -> Iterator[Item]:
        """Read from `frame` until the walk enters a directory in it, or until its end."""
        depth = len(self._stack)
        try:
            while True:
                for entry in frame.rest:
                    outcome = self._special(frame, *entry)
                    if outcome is not None:
                        yield outcome
                    if len(self._stack) > depth:
                        return
                # Groups are yielded before the end of a slow directory, so that workers do not wait
                # for the rest.
                while len(frame.names) >= TASK_NAMES or (frame.names and self._lister.is_slow):
                    yield self._group(frame)
                chunk = next(frame.chunks, None)
                if is_last := chunk is None:
                    chunk = frame.missed()
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
            # The directory was removed, or its storage failed, during the listing.
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
        """Return a new chunk without the entries that the walk omits.

        Excluded entries are omitted. In the passes of `again`, entries that are no directories are
        omitted if they were created since the walk began.
        """
        kept: list[Entry] = []
        names = chunk.names
        files = zip(names, [stat.S_IFREG] * len(names), chunk.inodes, strict=True)
        for entry in [*files, *chunk.others]:
            name, mode, _ = entry
            is_late_file = self._late is not None and mode != stat.S_IFDIR
            if is_late_file and frame.fd is not None and is_newer(frame.fd, name, self._since_ns):
                continue
            if self._excluded is not None and self._excluded(frame.path, name):
                yield Outcome(Kind.SKIPPED, join(frame.path, name), reason=EXCLUDED)
            else:
                kept.append(entry)
        return chunk_of(kept)

    def _look_ahead(self, frame: Frame, chunk: Chunk) -> None:
        """Let threads begin to read the directories of a new chunk."""
        frame.later.extend([name for name, mode, _ in chunk.others if mode == stat.S_IFDIR])
        frame.look_ahead(self._lister)

    def _park(self, frame: Frame) -> Iterator[Outcome]:
        """Close a directory until the walk returns to it; keep its remaining entries in memory."""
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
        """Remove and return the next group of names."""
        names, inodes = frame.take(TASK_NAMES)
        return Group(frame.path, names, self._follow, frame.identity, inodes)

    def _special(self, frame: Frame, name: str, mode: int, inode: int) -> Outcome | Start | None:
        """Handle an entry that is no file; return None if it was listed or entered."""
        path = join(frame.path, name)
        if stat.S_ISDIR(mode):
            if (left := self._frontier.takes(path, inode, frame)) is not None:
                return left
            listing = None
            if frame.ahead or frame.later:
                listing = frame.listing_of(name, self._lister)
            return self._enter(path, frame=frame, inode=inode, follow=False, listing=listing)
        if not stat.S_ISLNK(mode) or not self._follow:
            return Outcome(Kind.SKIPPED, path, reason=kind_of(mode))
        try:
            with self._held(frame) as fd:
                status = os.stat(name, dir_fd=fd)
        except OSError as error:
            if error.errno in _NOWHERE:
                return Outcome(Kind.SKIPPED, path, reason=_NOWHERE[error.errno])
            return Outcome(Kind.UNREAD, path, reason=reason_of(error))
        if self._frontier.is_beyond(status):
            return Outcome(Kind.SKIPPED, path, reason=OTHER_FILE_SYSTEM)
        if stat.S_ISREG(status.st_mode):
            # The listed inode is the inode of the symbolic link, and not of the file, so the inode
            # of the file is unknown.
            frame.take_in(Chunk([name], array("Q", [0]), []))
            return None
        if not stat.S_ISDIR(status.st_mode):
            return Outcome(Kind.SKIPPED, path, reason=kind_of(status.st_mode))
        identity = (status.st_dev, status.st_ino)
        if not self._frontier.follows(identity, self._stack):
            return Outcome(Kind.SKIPPED, path, reason="directory is scanned by another path")
        return self._enter(path, frame=frame, follow=True, target=identity)

    def _enter(
        self,
        path: str,
        *,
        follow: bool,
        frame: Frame | None = None,
        inode: int = 0,
        target: tuple[int, int] | None = None,
        listing: Listing | None = None,
    ) -> Outcome | Start | None:
        """Put the directory at `path` on the stack, or return an outcome or a start instead.

        - `frame`: the parent directory in which the directory was listed; None for the top
          directory of a tree.
        - `inode`: the inode that the directory had in `frame`; 0 if unknown.
        - `target`: for a symbolic link, the identity of the directory to which the link led.
        - `listing`: the open directory and its entries, if a thread has read the directory ahead.

        If another directory has replaced the listed directory, the other directory is entered, and
        the outcome says so.
        """
        begun = None if listing is None else self._lister.take(listing)
        lost: str | None = None
        try:
            if begun is not None:
                opened = begun[0]
            elif frame is None or frame.fd is None:
                opened = self._open(path, frame, follow=follow)
            else:
                opened = self._lister.open(frame.fd, path.rpartition("/")[2], follow=follow)
            fd, status, opened_ns = opened
            if (
                inode not in (0, status.st_ino)
                and frame is not None
                and not self._is_listed(fd, status, frame, inode)
            ):
                begun = None
                os.close(fd)
                path, (fd, status, opened_ns), lost = self._find(path, frame, inode, MovedError())
        except OSError as error:
            if not inode or frame is None or error.errno not in GONE:
                return Outcome(Kind.UNREAD, path, reason=reason_of(error))
            # a moved directory has changed its new parent directory, which `again` lists again
            if self._late is not None:
                # `again` also looks for the directory in its listed parent directory, if it returns
                if self._again is not None:
                    self._again.lost.add(inode)
                return None
            try:
                path, (fd, status, opened_ns), lost = self._find(path, frame, inode, error)
            except OSError as failure:
                return Outcome(Kind.UNREAD, path, reason=reason_of(failure))
        enters, outcome = self._admitted(path, fd, status, frame, target)
        if not enters:
            os.close(fd)
            return outcome
        read = self._lister.read(fd) if begun is None else begun[1]
        chunks = self._frontier.bounded(path, status.st_ino, frame, read)
        if isinstance(chunks, Start):
            os.close(fd)
            return chunks
        self._stack.append(
            Frame(path, fd, status, opened_ns, chunks, is_shared=is_shared(status, self._ours))
        )
        if outcome is None and lost is not None:
            outcome = Outcome(Kind.UNREAD, path, reason=lost)
        return outcome

    def _admitted(
        self,
        path: str,
        fd: int,
        status: os.stat_result,
        frame: Frame | None,
        target: Identity | None,
    ) -> tuple[bool, Outcome | Start | None]:
        """Return whether to enter an open directory, and an outcome; see `_enter`."""
        identity = (status.st_dev, status.st_ino)
        if target not in (None, identity):
            return False, Outcome(Kind.UNREAD, path, reason=MOVED)
        if frame is None:
            return True, self._frontier.begin(path, fd, status)
        enters: bool = True
        outcome: Outcome | Start | None = None
        if self._frontier.is_border(path, fd, status, frame.status):
            enters, outcome = self._frontier.cross(path, fd, status)
        if enters and self._late is not None:
            if identity in self._late:  # a directory that `again` returns is walked only once
                return False, Outcome(Kind.UNREAD, path, reason=MOVED)
            self._late.add(identity)
        return enters, outcome

    def _open(self, path: str, frame: Frame | None, *, follow: bool) -> Open:
        """Open a directory, in the directory of `frame` if it was listed there.

        Raises:
            OSError: the directory cannot be opened.
        """
        if frame is None:
            opened_ns = lagging_ns()
            return *with_status(open_directory(self._where(path), follow=follow)), opened_ns
        with self._held(frame) as fd:
            return self._lister.open(fd, path.rpartition("/")[2], follow=follow)

    def _is_listed(self, fd: int, status: os.stat_result, frame: Frame, inode: int) -> bool:
        """Return whether an open directory may be the directory that `frame` lists with an inode.

        If something is mounted on the directory, `inode` is the inode of the directory that the
        mount hides.
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
        """Open a listed directory whose name has changed; return its path and the directory.

        If the listed directory is gone, the directory that has its name now is opened. If the
        opened directory was moved to the name from another directory, the third value is the reason
        why the listed directory is unread; otherwise it is None.

        Raises:
            OSError: the directory cannot be opened; `failure` is raised if the directory is gone.
        """
        name = path.rpartition("/")[2]
        with self._held(frame) as parent:
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
                    if found[1] != inode and self._again is not None:
                        self._again.lost.add(inode)
                    return join(frame.path, found[0]), opened, MOVED if is_lost else None
                os.close(opened[0])
                failure = MovedError()
                if number == 1 and inode_of(parent, found[0]) is not None:
                    self._differing.add(frame.status.st_dev)
        raise failure

    @contextlib.contextmanager
    def _held(self, frame: Frame) -> Iterator[int]:
        """Yield the descriptor of a directory; open the directory again if it was closed.

        Raises:
            OSError: the directory cannot be opened.
        """
        if frame.fd is not None:
            yield frame.fd
            return
        fd, _ = open_listed(self._where(frame.path), frame.identity)
        try:
            yield fd
        finally:
            os.close(fd)

    def _where(self, path: str) -> str:
        """Return the path to open for `path`, which may be relative to the base of the walk."""
        return f"{self._base}/{path}" if self._base and not path.startswith("/") else path

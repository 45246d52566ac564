"""A directory that a walk is in: its listed entries, and the entries that are not read yet.

If names change while a directory is read, the kernel may return neither the old name of a file nor
the new name. So a directory that has changed during its listing is listed once more, in one call of
the kernel (`missed`). Limit: if a changed directory has more than `MOST_LISTED` names, missed files
cannot be found.
"""

from __future__ import annotations

import itertools
import os
import stat
from array import array
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from hashclient.scan.sources.finding_again import (
    Entry,
    MovedError,
    has_changed,
    is_glibc,
    snapshot,
)
from hashclient.scan.sources.listing import OF_ONE, Chunk, Lister, Listing
from hashclient.scan.values.work import NO_INODES

#: One call of the kernel lists at least this many names at one instant, because the GNU C library
#: has a buffer of 32 KiB, and a name takes at most 280 bytes. Other C libraries may have smaller
#: buffers.
AT_ONCE = 100 if is_glibc() else 0
#: The most inodes of a directory that are kept until the directory is read to its end.
MOST_LISTED = 1 << 22


def mark_of(entry: Entry) -> int:
    """Return a number that identifies an entry: the inode, for a directory also its name."""
    name, mode, inode = entry
    return hash((name, inode)) & (1 << 64) - 1 if mode == stat.S_IFDIR else inode


def chunk_of(entries: Sequence[Entry]) -> Chunk:
    """Return entries, divided into files and other entries."""
    files = [entry for entry in entries if entry[1] == stat.S_IFREG]
    return Chunk(
        [name for name, _, _ in files],
        array("Q", [inode for _, _, inode in files]),
        [entry for entry in entries if entry[1] != stat.S_IFREG],
    )


class Frame(msgspec.Struct):
    """A directory that a walk is in: its entries that are not yielded yet, and its listed inodes.

    - `fd`: the descriptor of the directory; None if the directory is closed, and its remaining
      entries are in memory.
    - `status`: the status of the directory before its first read, at `opened_ns`.
    - `chunks`: the entries that are not read yet; if `is_listed` is set, these entries are in
      memory.
    - `names`, `inodes`: files that were read, but not yielded yet.
    - `rest`: other entries that were read, but not handled yet.
    - `count`: the number of entries that were read.
    - `listed`: the inodes of the entries that were read; empty if `count` exceeds `MOST_LISTED`. A
      second listing removes inodes that have left the directory.
    - `ahead`: the subdirectories that threads are reading already.
    - `later`: the subdirectories that threads may read.
    - `is_shared`: whether other users may write to the directory.
    - `marks`: if `is_shared` is set, the numbers (`mark_of`) that identify the subdirectories.
    - `changed_ns`: if the directory is listed again, the time of its last change at the earlier
      listing.
    """

    path: str
    fd: int | None
    status: os.stat_result
    opened_ns: int
    chunks: Iterator[Chunk]
    is_listed: bool = False
    count: int = 0
    names: list[str] = msgspec.field(default_factory=list)
    inodes: array[int] = NO_INODES
    rest: Iterator[Entry] = iter(())
    listed: list[array[int]] = msgspec.field(default_factory=list)
    ahead: dict[str, Listing] = msgspec.field(default_factory=dict)
    later: deque[str] = msgspec.field(default_factory=deque)
    is_shared: bool = False
    marks: list[int] = msgspec.field(default_factory=list)
    changed_ns: int = -1

    @property
    def identity(self) -> tuple[int, int]:
        """The device and the inode of the directory."""
        return self.status.st_dev, self.status.st_ino

    def note(self, chunk: Chunk) -> None:
        """Note the inodes of entries that were read."""
        others = chunk.others
        self.count += len(chunk.names) + len(others)
        self.listed.append(chunk.inodes)
        if others:
            self.listed.append(array("Q", [inode for _, _, inode in others]))
            if self.is_shared:
                self.marks += map(mark_of, others)
        if self.count > MOST_LISTED:
            self.listed.clear()

    def take_in(self, chunk: Chunk) -> None:
        """Add the files of a chunk, which only this frame may use; `rest` must be empty."""
        if self.names:
            self.names += chunk.names
            self.inodes.extend(chunk.inodes)
        else:
            self.names, self.inodes = chunk.names, chunk.inodes

    def take(self, count: int) -> tuple[list[str], array[int]]:
        """Remove and return up to `count` files, with their inodes."""
        names, inodes = self.names, self.inodes
        if len(names) <= count:
            self.names, self.inodes = [], NO_INODES
            return names, inodes
        self.names, self.inodes = names[count:], inodes[count:]
        return names[:count], inodes[:count]

    def lists(self, inode: int) -> bool:
        """Return whether a listed entry of the directory had this inode."""
        return any(inode in part for part in self.listed)

    def whole(self) -> Iterator[Chunk]:
        """Yield the entries that are not read yet, and entries that the listing has missed.

        Raises:
            OSError: the directory cannot be read; raised after the readable entries.
        """
        for chunk in self.chunks:
            self.note(chunk)
            yield chunk
        if (missed := self.missed()) is not None:
            self.note(missed)
            yield missed

    def missed(self) -> Chunk | None:
        """Return the entries that the listing may have missed; called once, at its end.

        If names change while a directory is read, the kernel may return neither the old name of a
        file nor the new name. A listing in one call of the kernel misses no name.

        Raises:
            OSError: the directory cannot be read again, or has changed and has too many names.
        """
        if self.fd is None or self.is_listed or self.count <= AT_ONCE:
            return None
        if not has_changed(self.fd, self.status, self.opened_ns):
            return None
        if self.count > MOST_LISTED:
            raise MovedError
        listed, now = set(itertools.chain.from_iterable(self.listed)), snapshot(self.fd)
        new = [entry for entry in now if entry[2] not in listed]
        # An inode that is not in `now` has left the directory. An inode that left the directory and
        # returns was not renamed within it, so the inode is not kept in `listed`.
        self.listed = [array("Q", listed.intersection([inode for _, _, inode in now]))]
        return chunk_of([entry for entry in new if entry[1] in (stat.S_IFREG, stat.S_IFDIR)])

    def look_ahead(self, lister: Lister) -> None:
        """Let threads begin to read the next subdirectories, up to the limits."""
        while self.later and self.fd is not None and len(self.ahead) < OF_ONE:
            listing = lister.ahead(self.fd, self.later[0])
            if listing is None:
                return
            self.ahead[self.later.popleft()] = listing

    def listing_of(self, name: str, lister: Lister) -> Listing | None:
        """Return a thread's listing of a subdirectory, if any; let threads begin more listings."""
        listing = self.ahead.pop(name, None)
        if self.later:
            if self.later[0] == name:
                self.later.popleft()
            self.look_ahead(lister)
        return listing

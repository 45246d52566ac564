"""A directory that a walk is in: its listed entries, and entries that are not read yet.

If names change while a directory is read, the kernel may show neither the old name of a file nor
the new one. So a directory that has changed during the listing is listed once more, in one call of
the kernel (`missed`). Limit: if a changed directory has very many names, missed files cannot be
found.
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

#: One call of the kernel lists this many names at one instant: the C library has a buffer of 32
#: KiB, and a name takes 280 bytes at most. Other libraries may have smaller buffers.
AT_ONCE = 100 if is_glibc() else 0
#: The inodes of a directory that are kept until it is read to its end.
MOST_LISTED = 1 << 22


def mark_of(entry: Entry) -> int:
    """Return a mark that shows whether an entry was listed; for a directory, its name counts."""
    name, mode, inode = entry
    return hash((name, inode)) & (1 << 64) - 1 if mode == stat.S_IFDIR else inode


def chunk_of(entries: Sequence[Entry]) -> Chunk:
    """Return entries by their types."""
    files = [entry for entry in entries if entry[1] == stat.S_IFREG]
    return Chunk(
        [name for name, _, _ in files],
        array("Q", [inode for _, _, inode in files]),
        [entry for entry in entries if entry[1] != stat.S_IFREG],
    )


class Frame(msgspec.Struct):
    """A directory that a walk is in: its remaining entries, and the files since the last group.

    Without `fd` the directory is closed, and its remaining entries are in memory. `status` is the
    status of the directory, and `opened_ns` the time, before the first read. `names` are files with
    their `inodes`, `rest` other entries that were read, and `chunks` entries that are not read yet:
    if the directory `is_listed`, they are in memory. `listed` are the inodes of `count` entries so
    far, unless they are too many; inodes that were gone at the second listing are removed. `ahead`
    has subdirectories that threads read already, `later` has subdirectories that threads may read.
    If others may write to the directory, it `is_shared`, and `marks` has the marks of its
    subdirectories. If it is listed again, `changed_ns` is its time of change at the earlier
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
        """Take the entries of a chunk, which nobody else may use; `rest` is empty."""
        if self.names:
            self.names += chunk.names
            self.inodes.extend(chunk.inodes)
        else:
            self.names, self.inodes = chunk.names, chunk.inodes

    def take(self, count: int) -> tuple[list[str], array[int]]:
        """Return up to this many files, with their inodes."""
        names, inodes = self.names, self.inodes
        if len(names) <= count:
            self.names, self.inodes = [], NO_INODES
            return names, inodes
        self.names, self.inodes = names[count:], inodes[count:]
        return names[:count], inodes[:count]

    def lists(self, inode: int) -> bool:
        """Return whether one of the directory's entries had an inode."""
        return any(inode in part for part in self.listed)

    def whole(self) -> Iterator[Chunk]:
        """Yield the rest of the directory's entries, and entries that were missed.

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
        """Return entries that the listing may have missed; call it once, when all entries are read.

        If names change while a directory is read, the kernel may show neither the old name of a
        file nor the new one. A listing in one call of the kernel misses no name.

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
        # Other inodes have left the directory: an inode that comes back was not renamed within it.
        self.listed = [array("Q", listed.intersection([inode for _, _, inode in now]))]
        return chunk_of([entry for entry in new if entry[1] in (stat.S_IFREG, stat.S_IFDIR)])

    def look_ahead(self, lister: Lister) -> None:
        """Let threads begin to read the next subdirectories, as many as the limits allow."""
        while self.later and self.fd is not None and len(self.ahead) < OF_ONE:
            listing = lister.ahead(self.fd, self.later[0])
            if listing is None:
                return
            self.ahead[self.later.popleft()] = listing

    def listing_of(self, name: str, lister: Lister) -> Listing | None:
        """Return a subdirectory if it was begun ahead; begin the next subdirectories."""
        listing = self.ahead.pop(name, None)
        if self.later:
            if self.later[0] == name:
                self.later.popleft()
            self.look_ahead(lister)
        return listing

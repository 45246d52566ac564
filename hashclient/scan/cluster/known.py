"""The inventory on a cluster: the client sends with each batch the records of its files.

1. A worker that lists a directory returns the inodes of the files, and the number of their file
   system (`system.identity`). For files that a user named, the client itself reads the inodes
   (`named`).
2. With a batch, the client sends the records that its inventory has of the inodes in the batch,
   unless a record is due. A record contains times and tags, but never digests.
3. The worker reads the status of each file, in the same way as with an inventory of its own. A
   record is used only if the worker finds the same file system, inode, size and times. The results
   of the worker contain the new records.

If the worker is on another machine, only network file systems and cluster file systems are used
(`Shared`), because a local disk with the same UUID is only a copy. No record of a network or
cluster file system is proven, because a lease on one machine proves nothing about another machine.

Limit: the members of containers are sent up to `MOST_MEMBER_BYTES` for each batch; further
containers are opened again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from hashclient.core.errors import StateError
from hashclient.scan.cache import cache
from hashclient.scan.cache.cache import Inventory
from hashclient.scan.cache.inside import Inside, unchanged
from hashclient.scan.cache.interface import Cache
from hashclient.scan.cache.memory import InventoryPlace
from hashclient.scan.cache.records import PLAIN, RECORD, Records, of_inodes
from hashclient.scan.cluster.messages import INODE, Known, some_of
from hashclient.scan.executors.wire import Names, names_of
from hashclient.scan.values.work import Block, Group
from hashclient.system.identity import Identities, Identity, boot_id

#: The most bytes of members of containers that are sent with one batch.
MOST_MEMBER_BYTES = 8 << 20


class Shared(Identities):
    """The identities of file systems that are the same on another machine."""

    def of(self, fd: int, device: int) -> Identity | None:
        """Return the file system of an open file; None if only this machine has the file system."""
        identity = super().of(fd, device)
        return None if identity is None or identity.is_local else identity


def identities_beside(boot: bytes) -> Identities:
    """Return the identities of file systems for a worker; `boot` is the client's `boot_id`."""
    return Identities() if is_beside(boot) else Shared()


def is_beside(boot: bytes) -> bool:
    """Return whether the client with this `boot_id` is on this machine."""
    return bool(boot) and boot == boot_id()


class Remembered:
    """The client's side: the records in its inventory, for one thread.

    Without an inventory, no file is known.
    """

    def __init__(self, place: InventoryPlace | None, *, opens: bool) -> None:
        """Keep the arguments; with `opens`, the members of containers are sent, too."""
        self._place = place
        self._opens = opens
        self._inventory: Inventory | None = None
        self._seen: list[Block] = []

    def begin(self) -> bool:
        """Open the inventory; return whether it exists."""
        if self._place is not None:
            try:
                self._inventory = self._place.reader()
            except StateError:
                self._place = None  # the writer will make a new inventory, or report why it cannot
        return self._inventory is not None

    def of(self, groups: Sequence[Names]) -> tuple[Known, ...]:
        """Return the records of the files in groups."""
        inventory, found = self._inventory, list[Known]()
        if inventory is None:
            return ()
        by_file_system: dict[int, list[bytes]] = {}
        for group in groups:
            if group.file_system:
                by_file_system.setdefault(group.file_system, []).append(group.inodes)
        room = MOST_MEMBER_BYTES
        for number, raw in by_file_system.items():
            inodes = np.sort(np.frombuffer(b"".join(raw), INODE))
            try:
                records, old = inventory.records_at(number, inodes)
                containers = []
                if self._opens:
                    plain = records["ino"][records["mask"] & np.uint8(PLAIN) != 0]
                    others = sorted(set(inodes.tolist()).difference(plain.tolist()))
                    containers = inventory.containers_at(number, others) if others else []
            except StateError:
                # The inventory is damaged, or was busy for long. Without the inventory, every file
                # is read, which gives the same outcomes, but takes longer.
                self.close()
                return ()
            self._seen += old
            kept = []
            for record, members in containers:
                room -= len(members)
                if room >= 0:
                    kept.append((record, members))
            if len(records) or kept:
                found.append(Known(number, records.tobytes(), kept))
        return tuple(found)

    def seen(self) -> list[Block]:
        """Return the blocks in which files were found since the last call of `seen`."""
        seen, self._seen = self._seen, []
        return seen

    def close(self) -> None:
        """Close the inventory; afterwards no file is known."""
        if self._inventory is not None:
            self._inventory.close()
            self._inventory = None


class Received(Cache):
    """The worker's side: a cache of the records that came with the batch, for one thread."""

    def __init__(self, reread_days: int) -> None:
        """Begin without records; believed records are due after `reread_days`."""
        self._reread_days = reread_days
        self._known: dict[int, Known] = {}

    def take(self, known: Sequence[Known]) -> None:
        """Replace the records by the records of the next batch."""
        self._known = {one.file_system: one for one in known}

    def at(self, file_system: int, inodes: npt.NDArray[np.uint64]) -> tuple[Records, list[Block]]:
        """Return one record for each inode (see `Cache.at`); no returned record is due."""
        known = self._known.get(file_system)
        return of_inodes(np.frombuffer(known.records if known else b"", RECORD), inodes), []

    def inside_at(
        self, file_system: int, statuses: Sequence[os.stat_result]
    ) -> Iterable[tuple[int, Inside, bool]]:
        """Return the members of containers that are unchanged."""
        known = self._known.get(file_system)
        containers = known.containers if known else ()
        return unchanged(containers, statuses, cache.today(), self._reread_days)


def as_before(groups: Sequence[Group], batch: Sequence[Names]) -> list[Names]:
    """Restore groups that a worker did not check to the form that they had in their batch.

    A file that has a new name, which is not in the batch, is returned with its new name.
    """
    left: dict[tuple[bytes, bool], Counter[str]] = {}
    for group in groups:
        left.setdefault((os.fsencode(group.directory), group.follow), Counter()).update(group.names)
    found = []
    for names in batch:
        counts = left.get((names.directory, names.follow))
        if not counts:
            continue
        rows = []
        for row, name in enumerate(os.fsdecode(names.names).split("\0")):
            if counts[name] > 0:  # a file may be twice in a batch, and only once in `groups`
                counts[name] -= 1
                rows.append(row)
        if rows:
            found.append(some_of(names, rows))
    for group in groups:
        counts = left[os.fsencode(group.directory), group.follow]
        if new := [*(Counter(group.names) & counts).elements()]:
            counts.subtract(new)
            found.append(names_of(Group(group.directory, new, group.follow)))
    return found

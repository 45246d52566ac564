"""The interfaces of a cache of records of files, and of the place where a cache is opened.

`tests/contract/test_caches.py` checks the contract for each cache:

- The record of a file is used only while the identity and the status of the file are unchanged; a
  believed record only until it is due.
- A file that was not stored is not known.
- A later record of a file replaces an earlier record; if the size and times are unchanged, the
  later record also gets the tags of the earlier record.
- If a record is lost, its file is read again; losing a record has no other consequence.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hashclient.scan.cache.inside import Inside
from hashclient.scan.cache.records import RECORD, Records, records_of
from hashclient.scan.values.work import Block, Container
from hashclient.system.identity import Identity


class Cache:
    """Records of files, found by file system and inode; `Inventory` is the cache on disk."""

    def at(self, file_system: int, inodes: npt.NDArray[np.uint64]) -> tuple[Records, list[Block]]:
        """Return one record for each inode, and the blocks that were not seen today.

        If an inode has no record, a record of another inode is returned in its place, so the caller
        must compare the inodes. A block of neighbouring inodes counts as seen on a day when a scan
        finds a file of the block. A record that is due (too old to be used) is returned with mask
        0, which means without tags.

        Raises:
            StateError: the cache cannot be read.
        """
        raise NotImplementedError

    def inside_at(
        self, file_system: int, statuses: Sequence[os.stat_result]
    ) -> Iterable[tuple[int, Inside, bool]]:
        """Return the members of containers that are unchanged; see `inside.unchanged`.

        Raises:
            StateError: the cache cannot be read.
        """
        raise NotImplementedError

    def find(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
    ) -> tuple[Records, list[Block]]:
        """Return the record of each file that is unchanged, and the blocks not seen today.

        `identities` contains for each `st_dev` the file system that is mounted now, or None if
        files of this file system are not remembered. Records are in the order of `statuses`. A
        record with mask 0 says that the file has no record, that the file has changed, or that its
        record is due.

        Raises:
            StateError: the cache cannot be read.
        """
        asked = records_of(statuses)
        known = np.zeros(len(statuses), RECORD)
        old: list[Block] = []
        for identity, rows in by_file_system(statuses, identities):
            known[rows], blocks = self.at(identity.number, asked["ino"][rows])
            old += blocks
        same = (
            (known["ino"] == asked["ino"])
            & (known["mtime"] == asked["mtime"])
            & (known["ctime"] == asked["ctime"])
            & (known["size"] == asked["size"])
        )
        known["mask"][~same] = 0
        return known, old

    def find_inside(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
    ) -> dict[int, tuple[Inside, bool]]:
        """Return the recorded members of each unchanged container, by its index in `statuses`.

        A flag for each container says whether its record is only believed (not proven: see
        `records`). `identities` has the same meaning as for `find`.

        Raises:
            StateError: the cache cannot be read.
        """
        found: dict[int, tuple[Inside, bool]] = {}
        for identity, rows in by_file_system(statuses, identities):
            mine = [statuses[row] for row in rows.tolist()]
            for number, members, believed in self.inside_at(identity.number, mine):
                found[int(rows[number])] = members, believed
        return found

    def store(
        self,
        batches: Sequence[tuple[int, bytes]],
        seen: Sequence[Block] = (),
        containers: Sequence[Container] = (),
    ) -> None:
        """Add records of files, and note today as the day when blocks were last seen.

        `batches` contains for each file system the records of its files, as bytes of `RECORD`.
        `seen` are the blocks in which the scan has found files. `containers` are the members that
        were found inside files.

        Raises:
            StateError: the cache cannot be written.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close all open resources; this implementation does nothing."""


def by_file_system(
    statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
) -> Iterator[tuple[Identity, npt.NDArray[np.intp]]]:
    """Yield each remembered file system, with the rows of its files in `statuses`.

    `identities` contains for each `st_dev` the file system that is mounted now.
    """
    devices = list(map(attrgetter("st_dev"), statuses))
    for device in set(devices):
        identity = identities.get(device)
        # all files are of one file system
        if identity is not None and devices.count(device) == len(devices):
            yield identity, np.arange(len(devices))
        elif identity is not None:
            yield identity, np.flatnonzero(np.array(devices, np.uint64) == device)


class CachePlace(Protocol):
    """The place of a cache on the disk: opens the cache there, or removes the cache."""

    def reader(self) -> Cache | None:
        """Open the cache for reading; return None if the cache does not exist.

        Raises:
            StateError: the cache cannot be opened.
        """

    def writer(self) -> Cache:
        """Open the cache for writing; make the cache if it does not exist.

        Raises:
            StateError: the cache cannot be opened; if the error is a `DamagedInventoryError`, the
                caller removes the cache.
        """

    def remove(self) -> None:
        """Remove the cache.

        Raises:
            StateError: the cache cannot be removed.
        """

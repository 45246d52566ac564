"""The interface of the cache: records of files, and where a process opens them.

`tests/contract/test_caches.py` checks the contract for each cache. A file is known only while its
identity and status are unchanged, and without a proof only until it is due. A file that was not
stored is not known. A later record replaces an earlier record, or adds to it if the content is the
same. Lost records only cause files to be read again.
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
    """Records of files, found by file system and inode; `Inventory` keeps them on disk."""

    def at(self, file_system: int, inodes: npt.NDArray[np.uint64]) -> tuple[Records, list[Block]]:
        """Return a record for each inode, maybe of another inode, and blocks not seen for a day.

        The mask of a record that is due is 0.

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
        """Return the record of each file that is unchanged, and blocks not seen for a day.

        `identities` has for each `st_dev` the present file system, or None if nothing is remembered
        there. Records are in the order of `statuses`; mask 0 says that a file is not known, has
        changed, or is due.

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
        """Return the known members of unchanged files, by their place in `statuses`.

        A flag for each file says whether its record is only believed. `identities` are as for
        `find`.

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
        """Add records, given by file system as bytes of `RECORD`, and note blocks in use.

        `containers` are the members that were found inside of files.

        Raises:
            StateError: the cache cannot be written.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close all open resources; the default has none to close."""


def by_file_system(
    statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
) -> Iterator[tuple[Identity, npt.NDArray[np.intp]]]:
    """Yield each remembered file system, with the rows of its files in `statuses`.

    `identities` has for each `st_dev` the file system that is there now.
    """
    devices = list(map(attrgetter("st_dev"), statuses))
    for device in set(devices):
        identity = identities.get(device)
        if identity is not None and devices.count(device) == len(devices):  # one file system
            yield identity, np.arange(len(devices))
        elif identity is not None:
            yield identity, np.flatnonzero(np.array(devices, np.uint64) == device)


class CachePlace(Protocol):
    """The place of a cache."""

    def reader(self) -> Cache | None:
        """Open the cache to ask it; return None if it does not exist.

        Raises:
            StateError: the cache cannot be opened.
        """

    def writer(self) -> Cache:
        """Open the cache to store in it, and make a cache if none exists.

        Raises:
            StateError: the cache cannot be opened; after a `DamagedInventoryError`, remove it.
        """

    def remove(self) -> None:
        """Remove the cache.

        Raises:
            StateError: the cache cannot be removed.
        """

"""Which files are unchanged: by the records of an inventory, or by those that came with a batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hashclient.scan.cache.inside import Inside
from hashclient.scan.cache.records import RECORD, Records, records_of
from hashclient.system.identity import Identity


class ByInode:
    """The answers of a cache whose records are found by file system and inode."""

    def at(
        self, file_system: int, inodes: npt.NDArray[np.uint64]
    ) -> tuple[Records, list[tuple[int, int]]]:
        """Return for each inode its record, or that of another one, and blocks not seen for a day.

        The mask of a record that is due is 0.

        Raises:
            StateError: it cannot be asked.
        """
        raise NotImplementedError

    def inside_at(
        self, file_system: int, statuses: Sequence[os.stat_result]
    ) -> Iterable[tuple[int, Inside, bool]]:
        """Return the members of containers that are unchanged; see `inside.unchanged`.

        Raises:
            StateError: it cannot be asked.
        """
        raise NotImplementedError

    def find(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
    ) -> tuple[Records, list[tuple[int, int]]]:
        """Return the record of each file that is unchanged, and blocks not seen for a day.

        `identities` has for each `st_dev` the file system that is there now, None where nothing is
        remembered. Records are parallel to `statuses`; mask 0 says that a file is not known, has
        changed, or is due.

        Raises:
            StateError: it cannot be asked.
        """
        asked = records_of(statuses)
        known = np.zeros(len(statuses), RECORD)
        old: list[tuple[int, int]] = []
        devices = {status.st_dev for status in statuses}
        for device in devices:
            identity = identities.get(device)
            if identity is None:
                continue
            mine = (
                np.array([s.st_dev == device for s in statuses])
                if len(devices) > 1
                else slice(None)
            )
            known[mine], blocks = self.at(identity.number, asked["ino"][mine])
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
        """Return the known members of files that are unchanged, by their place in `statuses`.

        Each comes with a flag: whether it is only believed. `identities` are as for `find`.

        Raises:
            StateError: it cannot be asked.
        """
        found: dict[int, tuple[Inside, bool]] = {}
        by_device: dict[int, list[int]] = {}
        for place, status in enumerate(statuses):
            by_device.setdefault(status.st_dev, []).append(place)
        for device, places in by_device.items():
            identity = identities.get(device)
            if identity is None:
                continue
            mine = [statuses[place] for place in places]
            for number, members, believed in self.inside_at(identity.number, mine):
                found[places[number]] = members, believed
        return found

"""Records of files that were read, as a cache keeps them: in columns.

A record is proven if nobody could have changed the file since without a new time (`leases`), and
believed otherwise. A proven record does not age. A believed record becomes due, and is ignored,
some days after the file was read. The exact day depends on the inode, so that each day has a part
of the files.
"""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hashclient.core.kinds import Algorithm

#: The bits of `mask` for algorithms, and one more bit: the file was looked at, and is no container.
#: On the disk this bit has no meaning; there the number `meaning` counts (`meanings`).
TAGS, PLAIN = 7, 64

Records = npt.NDArray[np.void]

#: The record of one file. `mask` has the algorithms whose tags are known; `tags` are two words for
#: each of MD5, SHA-1, SHA-256 in that order. A record with mask 0 is empty. Times are nanoseconds
#: modulo 2**64: anybody may give a file a time of long ago or far ahead. `read_day` is the day when
#: the oldest of the tags was made, counted from 1970, or 0 if the record is proven. For a file that
#: is no container, `begin` is its first byte. On the disk, `meaning` is the number of a meaning
#: (`meanings`); older records have zero there.
RECORD = np.dtype(
    [
        ("ino", "<u8"),
        ("size", "<i8"),
        ("mtime", "<u8"),
        ("ctime", "<u8"),
        ("mask", "u1"),
        ("tags", "<u8", (3, 2)),
        ("read_day", "<u2"),
        ("begin", "u1"),
        ("meaning", "u1"),
    ]
)

#: The place of an algorithm's tag in a record.
SLOT = {algorithm: number for number, algorithm in enumerate(Algorithm)}

_WORD = 2**64 - 1
_values_of = operator.attrgetter("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")


def records_of(statuses: Sequence[os.stat_result]) -> Records:
    """Return records of files as they are, without any tag."""
    records = np.zeros(len(statuses), RECORD)
    values = itertools.chain.from_iterable(map(_values_of, statuses))
    try:
        columns = np.fromiter(values, np.int64, 4 * len(statuses)).reshape(-1, 4)
    except OverflowError:
        words = [value & _WORD for status in statuses for value in _values_of(status)]
        columns = np.array(words, np.uint64).view(np.int64).reshape(-1, 4)
    for place, name in enumerate(("ino", "size", "mtime", "ctime")):
        records[name] = columns[:, place]
    return records


def are_due(records: Records, day: int, reread_days: int) -> npt.NDArray[np.bool_]:
    """Return which files must be read again by `day`, because their records have no proof.

    Each inode has a fixed day in each period of `reread_days`: its record is due on the first of
    these days after the read. A record with a day in the future was made while the clock was wrong.
    """
    read = records["read_day"].astype(np.int64)
    if reread_days < 1 or not read.any():
        return read > 0
    place = (records["ino"] % np.uint64(reread_days)).astype(np.int64)
    passed = (day - place) // reread_days > (read - place) // reread_days
    return (read > 0) & (passed | (read > day))


def _adds(old: Records, new: Records, day: int, reread_days: int) -> npt.NDArray[np.bool_]:
    """Return for which files an earlier record has tags that the later record lacks.

    `old` and `new` must be records of the same content. If the earlier record is proven, the
    content is still the same: all tags are proven. If the earlier record has no proof, its tags
    keep their age: until they are due, they are added to a believed record, but never to a proven
    record.
    """
    proven = old["read_day"] == 0
    believed = ~proven & (new["read_day"] != 0)
    adds: npt.NDArray[np.bool_] = proven | (believed & ~are_due(old, day, reread_days))
    return adds


def of_inodes(stored: Records, inodes: npt.NDArray[np.uint64]) -> Records:
    """Return a record for each inode, maybe of another inode; `stored` ascends by inode."""
    if not len(stored):
        return np.zeros(len(inodes), RECORD)
    position = stored["ino"].searchsorted(inodes)
    position[position == len(stored)] = 0
    return stored.take(position)


def merged_records(old: Records, new: Records, day: int, reread_days: int) -> Records:
    """Join records that ascend by inode: the last record of an inode counts, with earlier tags."""
    # Here and above: to take rows of records by number, `take` is ten times as fast as an index.
    new = new.take(np.flatnonzero(np.append(new["ino"][1:] != new["ino"][:-1], True)))
    if not len(old):
        return new
    position = old["ino"].searchsorted(new["ino"])
    position[position == len(old)] = 0
    before = old.take(position)
    same = before["ino"] == new["ino"]
    kept = np.ones(len(old), np.bool_)
    kept[position[same]] = False
    for name in ("size", "mtime", "ctime"):
        same &= before[name] == new[name]
    same &= _adds(before, new, day, reread_days)
    for number in range(3):
        bit = np.uint8(1 << number)
        adds = np.flatnonzero(same & (before["mask"] & ~new["mask"] & bit != 0))
        if len(adds):
            new["tags"][adds, number] = before["tags"][adds, number]
            new["mask"][adds] |= bit
            new["read_day"][adds] = before["read_day"][adds]
    adds = np.flatnonzero(same & (before["mask"] & ~new["mask"] & np.uint8(PLAIN) != 0))
    new["mask"][adds] |= np.uint8(PLAIN)
    new["begin"][adds] = before["begin"][adds]
    new["read_day"][adds] = before["read_day"][adds]
    new["read_day"][same & (before["read_day"] == 0)] = 0
    merged = np.frombuffer(old.take(np.flatnonzero(kept)).tobytes() + new.tobytes(), RECORD)
    return merged.take(np.argsort(merged["ino"], kind="stable"))

"""What a task has learned for the cache: records of files that were read, or looked at.

A file that somebody had open for writing while it was read is left out, and so is one that changed
so shortly before that another change may bear the same time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hashclient.scan.cache.cache import are_settled, today
from hashclient.scan.cache.records import PLAIN, Records, records_of
from hashclient.scan.check.judging import Files
from hashclient.scan.values.work import Container
from hashclient.system.identity import Identity

#: File systems by `st_dev`; None where nothing is remembered.
FileSystems = Mapping[int, Identity | None]
#: The number of a file system, and records as bytes.
Learned = tuple[int, bytes]
#: A file that was looked at: its status, whether nobody could write to it, None if that is not
#: known, and its first byte.
LookedAt = tuple[os.stat_result, bool | None, int]


def learned_of(files: Files, identities: FileSystems, started_ns: int) -> Iterator[Learned]:
    """Yield records of files read since `started_ns`."""
    statuses, tags = files.statuses, files.records
    for device in {status.st_dev for status in statuses}:
        identity = identities.get(device)
        if identity is None:
            continue
        kept = np.array(files.reliable, np.bool_)
        if identity.is_local:
            kept &= [unwritable is not False for unwritable in files.unwritable]
        kept &= [bool(digests) for digests in files.digests]
        kept &= [status.st_dev == device for status in statuses]
        rows = np.flatnonzero(kept)
        chosen = statuses if len(rows) == len(kept) else [statuses[row] for row in rows.tolist()]
        records = records_of(chosen)
        for column in ("tags", "mask"):
            records[column] = tags[column].take(rows, axis=0)
        begins = np.array(files.begins, np.int16).take(rows)
        records["mask"] |= np.where(begins >= 0, np.uint8(PLAIN), np.uint8(0))
        records["begin"] = begins.astype(np.uint8)
        records["read_day"] = today()
        if identity.proves:
            is_proven = np.array([unwritable is True for unwritable in files.unwritable])
            records["read_day"][is_proven.take(rows)] = 0
        for number in files.known:
            # A file that the cache knew was read again in part. It keeps the day of its record, and
            # its first byte, at which nobody looked again.
            for column in ("read_day", "begin"):
                records[column][rows == number] = tags[column][number]
        yield from _settled(identity, records, started_ns)


def learned_of_plain(
    plain: Sequence[LookedAt], identities: FileSystems, started_ns: int
) -> Iterator[Learned]:
    """Yield records of files that are no containers, of which nothing else is new."""
    day = today()
    for device in {status.st_dev for status, _, _ in plain}:
        identity = identities.get(device)
        if identity is None:
            continue
        looked_at = [
            one
            for one in plain
            if one[0].st_dev == device and not (identity.is_local and one[1] is False)
        ]
        records = records_of([status for status, _, _ in looked_at])
        records["mask"] = PLAIN
        records["begin"] = [begin for _, _, begin in looked_at]
        proven = 0 if identity.proves else day
        records["read_day"] = [proven if unwritable else day for _, unwritable, _ in looked_at]
        yield from _settled(identity, records, started_ns)


def learned_of_containers(
    inside: Sequence[tuple[os.stat_result, bool | None, bytes]],
    identities: FileSystems,
    started_ns: int,
) -> Iterator[Container]:
    """Yield the members that were found inside of files, with the record of each file."""
    for status, unwritable, members in inside:
        seen = [(status, unwritable, 0)]
        for file_system, record in learned_of_plain(seen, identities, started_ns):
            yield file_system, record, members


def _settled(identity: Identity, records: Records, started_ns: int) -> Iterator[Learned]:
    settled = records.take(np.flatnonzero(are_settled(records, started_ns)))
    if len(settled):
        yield identity.number, settled.tobytes()

"""Files that were checked: the digests of each, their tags, and their records for a cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from hashclient.core.algorithms import Algorithm, mask_of
from hashclient.core.model import Seen
from hashclient.index.matcher import Judge, Plan
from hashclient.scan.cache import are_settled, today
from hashclient.scan.inside import Container
from hashclient.scan.records import PLAIN, RECORD, Records, records_of
from hashclient.scan.sources.interface import Group, join
from hashclient.system.identity import Identity

#: The place of an algorithm's tag in a record of the cache.
SLOT = {algorithm: number for number, algorithm in enumerate(Algorithm)}
#: File systems by `st_dev`; None where nothing is remembered.
FileSystems = Mapping[int, Identity | None]
#: The number of a file system, and records as bytes.
Learned = tuple[int, bytes]


class File(msgspec.Struct, gc=False):
    """A file to be judged: its path, its status, its length in bytes, and its digests so far.

    `directory` is the status of the directory that it was opened in.
    `digests` are those of `plan` that were computed in this run: none, if it was not read. `record`
    has what the cache knows of the file. `reliable` says whether its size and times can be relied
    on, and `unwritable` whether nobody could write to it when it was read, None if that is not
    known. `begin` is its first byte if it was looked at and is no container, else -1. `spare` are
    digests of the other algorithms that entries have; they count only when they are asked for, so
    that the outcome of a file does not depend on the files before it.
    """

    group: Group
    directory: os.stat_result
    name: str
    status: os.stat_result
    length: int
    plan: Plan
    digests: list[bytes]
    reliable: bool
    unwritable: bool | None = None
    begin: int = -1
    record: np.void | None = None
    spare: list[bytes] = []

    @property
    def path(self) -> str:
        """Where it is."""
        return join(self.group.directory, self.name)

    @property
    def seen(self) -> Seen:
        """Which file it is, and in which directory."""
        return seen_of(self.group, self.directory, self.status)

    def by_algorithm(self) -> dict[Algorithm, bytes]:
        """Return the digests that were computed."""
        return dict(zip(self.plan, self.digests, strict=True))


def seen_of(group: Group, directory: os.stat_result, status: os.stat_result) -> Seen:
    """Return which file has `status`; `directory` is that of the open directory of `group`."""
    if group.follow:
        return Seen(None, None, status.st_dev, status.st_ino)
    return Seen(directory.st_dev, directory.st_ino, status.st_dev, status.st_ino)


class Look(msgspec.Struct, gc=False):
    """A file that is settled itself, but may still be a container.

    It is settled by the cache where it `is_known`, or only `is_believed`, otherwise by its size.
    """

    name: str
    status: os.stat_result
    is_known: bool = False
    is_believed: bool = False


def records_of_tags(judge: Judge, files: Sequence[File]) -> Records:
    """Return records of the tags of files, without the identity and status of the files."""
    records = np.zeros(len(files), RECORD)
    by_plan: dict[Plan, list[int]] = {}
    for number, file in enumerate(files):
        if file.record is None:
            by_plan.setdefault(file.plan, []).append(number)
        else:
            records[number] = file.record
    seal_digests(judge, files, records, by_plan)
    return records


def seal_digests(
    judge: Judge, files: Sequence[File], records: Records, by_plan: Mapping[Plan, Sequence[int]]
) -> None:
    """Note the tags of the digests that were computed last; `by_plan` are numbers of files."""
    for plan, numbers in by_plan.items():
        rows = np.array(numbers)
        for place, algorithm in enumerate(plan, -len(plan)):
            digests = [files[n].digests[place] for n in numbers]
            tags = judge.sealer.tags_of(algorithm, digests)
            records["tags"][rows, SLOT[algorithm]] = tags
        records["mask"][rows] |= np.uint8(mask_of(plan))


def learned_of(
    files: Sequence[File], tags: Records, identities: FileSystems, started_ns: int
) -> Iterator[Learned]:
    """Yield records of files read since `started_ns`, for the cache.

    A file that somebody had open for writing is left out.
    """
    day = today()
    statuses = [file.status for file in files]
    for device in {status.st_dev for status in statuses}:
        identity = identities.get(device)
        if identity is None:
            continue
        is_local = identity.is_local
        numbers = [
            number
            for number, file in enumerate(files)
            if file.digests
            and file.reliable
            and not (is_local and file.unwritable is False)
            and file.status.st_dev == device
        ]
        rows = np.array(numbers, np.intp)
        chosen, of_chosen = files, statuses
        if len(numbers) < len(files):
            chosen, of_chosen = [files[n] for n in numbers], [statuses[n] for n in numbers]
        records = records_of(of_chosen)
        for column in ("tags", "mask"):
            records[column] = tags[column].take(rows, axis=0)
        begins = np.array([file.begin for file in chosen], np.int16)
        records["mask"] |= np.where(begins >= 0, np.uint8(PLAIN), np.uint8(0))
        records["begin"] = begins.astype(np.uint8)
        is_proven = np.zeros(len(chosen), np.bool_)
        if identity.proves:
            is_proven[:] = [file.unwritable is True for file in chosen]
        records["read_day"] = np.where(is_proven, 0, day)
        # A file that the cache knew and that was read again in part keeps the day of its record.
        was_known = [number for number in numbers if files[number].record is not None]
        if was_known:
            at = np.searchsorted(rows, was_known)
            records["read_day"][at] = tags["read_day"].take(was_known)
        yield from _settled(identity, records, started_ns)


def learned_of_plain(
    plain: Sequence[tuple[os.stat_result, bool | None, int]],
    identities: FileSystems,
    started_ns: int,
) -> Iterator[Learned]:
    """Yield records of files that are no containers, of which nothing else is new.

    With each status goes whether nobody could write to the file, None if that is not known; and the
    first byte.
    """
    by_device: dict[int, list[tuple[os.stat_result, bool | None, int]]] = {}
    day = today()
    for one in plain:
        by_device.setdefault(one[0].st_dev, []).append(one)
    for device, looked_at in by_device.items():
        identity = identities.get(device)
        if identity is None:
            continue
        if identity.is_local:
            looked_at = [one for one in looked_at if one[1] is not False]
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

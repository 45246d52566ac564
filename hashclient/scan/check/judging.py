"""Judge the files of a task: look up the tags of all files together, and judge the files that hit.

If a digest of a file hits, the other digests of the entry are computed from the file. These digests
are computed in the order of the directories of the files. Afterwards all files that hit are judged
at once, so that a match takes little more time than a clean file.

Files that were read are remembered (`learn`). A file is not remembered if a process had it open for
writing while it was read, or if it changed so recently that another change may have the same time.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Outcome
from hashclient.index.matcher import Columns, Judge, Plan, verdict
from hashclient.lists.wire import Uint8, Uint32, Uint64
from hashclient.scan.cache.cache import are_settled, today
from hashclient.scan.cache.interface import by_file_system
from hashclient.scan.cache.records import PLAIN, RECORD, SLOT, Records, records_of
from hashclient.scan.check.opening_files import Directory
from hashclient.scan.check.reading import Read, Reader, SetAside
from hashclient.scan.sources.finding_again import open_listed
from hashclient.scan.values.work import Result, reason_of
from hashclient.system.identity import Identity

_ALL = mask_of(Algorithm)
_TAG_BYTES = 16

#: A file that was read, or that has a record in the cache: its directory, its name, its first byte,
#: and the result of reading. The first byte is -1 if the file may be a container. For a file that
#: has a record in the cache, the result contains no digests.
Row = tuple[Directory, str, int, Read]


class Files(msgspec.Struct, gc=False):
    """The files of a task that wait to be judged: the columns of `Row`, and the tags of the files.

    `digests` begins with the digests of the plan, and may continue with digests of other algorithms
    that entries have. A digest that is not in the plan is used only if an entry needs it, so that
    the outcome of a file does not depend on earlier files. `known` are the records of files that
    the cache knows, by the index of the file; these files were not read.
    """

    records: Records
    known: Mapping[int, np.void]
    directories: Sequence[Directory]
    names: Sequence[str]
    begins: Sequence[int]
    plans: list[Plan]
    digests: list[list[bytes]]
    lengths: Sequence[int]
    statuses: Sequence[os.stat_result]
    reliable: Sequence[bool]
    unwritable: Sequence[bool | None]

    def seal(self, judge: Judge, plan: Plan, numbers: Sequence[int], start: int = 0) -> None:
        """Compute the tags of the digests of `plan`, which begin at index `start` in `digests`."""
        is_all = len(numbers) == len(self.digests)
        digests = self.digests if is_all else [self.digests[number] for number in numbers]
        rows = slice(None) if is_all else np.array(numbers)
        for place, algorithm in enumerate(plan, start):
            tags = judge.sealer.tags_of(algorithm, list(map(itemgetter(place), digests)))
            self.records["tags"][rows, SLOT[algorithm]] = tags
        self.records["mask"][rows] |= np.uint8(mask_of(plan))

    def of(self, number: int) -> dict[Algorithm, bytes]:
        """Return the digests of a file by algorithm, without digests that no entry needed."""
        return dict(zip(self.plans[number], self.digests[number], strict=False))


def files_of(judge: Judge, rows: Sequence[Row], known: Mapping[int, np.void]) -> Files:
    """Return the files of a task in columns, with their tags."""
    if not rows:
        return Files(np.zeros(0, RECORD), {}, [], [], [], [], [], [], [], [], [])
    directories, names, begins, reads = zip(*rows, strict=True)
    plans, digests, *others = zip(*reads, strict=True)
    records = np.zeros(len(rows), RECORD)
    files = Files(records, known, directories, names, begins, list(plans), list(digests), *others)
    different = set(plans)
    for plan in different:
        numbers = range(len(rows))
        files.seal(
            judge, plan, [n for n in numbers if plans[n] == plan] if len(different) > 1 else numbers
        )
    for number, record in known.items():
        files.records[number] = record
    return files


def judge_files(judge: Judge, reader: Reader, files: Files, result: Result) -> dict[int, Outcome]:
    """Return the outcomes of the files that are not clean, by the index of the file.

    If further digests are computed, the digests and their tags are added to `files`. Files that
    were read or known are counted in `result`.

    Raises:
        StateError: an index cannot be read.
    """
    records = files.records
    is_hit, wanted = judge.wanted_by_row(columns_of(records), len(records))
    rows = np.flatnonzero(is_hit)
    if not len(rows):
        return {}
    missing = wanted[rows] & ~records["mask"][rows]
    outcomes = _read_further(judge, reader, files, (rows, missing), result)
    for number, lacks in zip(rows.tolist(), missing.tolist(), strict=True):
        if not lacks and not files.digests[number]:
            result.known_unchanged += 1
            result.believed_unchanged += int(records["read_day"][number] != 0)
    numbers = [number for number in rows.tolist() if number not in outcomes]
    chosen = records[numbers]
    sizes: Uint64 = np.array([files.lengths[number] for number in numbers], np.uint64)
    hits = judge.hits_by_row(columns_of(chosen), sizes)
    tags, masks = chosen["tags"].tobytes(), (chosen["mask"] & _ALL).tolist()
    width = _TAG_BYTES * len(SLOT)
    for row, found in hits.items():
        number = numbers[row]
        directory = files.directories[number]
        outcomes[number] = Outcome(
            verdict(found),
            directory.path(files.names[number]),
            files.lengths[number],
            hits=found,
            digests=files.of(number),
            tags={
                a: tags[(start := row * width + _TAG_BYTES * SLOT[a]) : start + _TAG_BYTES]
                for a in Algorithm.in_mask(masks[row])
            },
            seen=directory.seen(files.statuses[number]),
        )
    return outcomes


def columns_of(records: npt.NDArray[np.void], masks: Uint8 | None = None) -> Columns:
    """Return the tags of records by algorithm, with the row of each tag.

    The records are of files or of members, which both have a mask, and tags by algorithm. `masks`,
    if given, are used in place of the masks of the records.
    """
    columns: Columns = {}
    for algorithm in Algorithm:
        chosen = (records["mask"] if masks is None else masks) & np.uint8(algorithm)
        rows: Uint32 = np.flatnonzero(chosen).astype(np.uint32)
        if len(rows):
            tags = np.ascontiguousarray(records["tags"][rows, SLOT[algorithm]])
            columns[algorithm] = tags, rows
    return columns


def _read_further(
    judge: Judge,
    reader: Reader,
    files: Files,
    needed: tuple[np.ndarray, np.ndarray],
    result: Result,
) -> dict[int, Outcome]:
    """Read files again for missing digests; return the outcomes of files that cannot be read.

    `needed` are the indexes of files, and for each file the mask of the algorithms that are
    missing.
    """
    ended: dict[int, Outcome] = {}
    by_plan: dict[Plan, list[int]] = {}
    rows, masks = needed
    with contextlib.ExitStack() as stack:
        opened: tuple[str, int, int] | None = None
        directory_fd = -1
        for number, mask in zip(rows.tolist(), masks.tolist(), strict=True):
            if not mask:
                continue
            directory, plan = files.directories[number], Algorithm.in_mask(mask)
            digests, computed = files.digests[number], files.plans[number]
            was_read = bool(digests)
            if len(digests) > len(computed):
                places = _places(judge.every_algorithm, computed, plan)
                digests[len(computed) :] = [digests[place] for place in places]
            else:
                try:
                    path, status = directory.group.directory, directory.status
                    if (path, status.st_dev, status.st_ino) != opened:
                        stack.close()
                        opened = None
                        directory_fd, _ = open_listed(path, (status.st_dev, status.st_ino))
                        stack.callback(os.close, directory_fd)
                        opened = path, status.st_dev, status.st_ino
                    fd = os.open(files.names[number], directory.flags, dir_fd=directory_fd)
                    try:
                        digests += reader.read_more(
                            fd, plan, files.statuses[number], files.lengths[number]
                        )
                    finally:
                        os.close(fd)
                except (OSError, SetAside) as error:
                    # The file is unread now, so it is not counted as read.
                    result.files_read -= was_read
                    ended[number] = outcome_of(directory.path(files.names[number]), error)
                    continue
                result.files_read += not was_read
            files.plans[number] += plan
            by_plan.setdefault(plan, []).append(number)
    for plan, numbers in by_plan.items():
        files.seal(judge, plan, numbers, -len(plan))
    return ended


@functools.lru_cache(maxsize=1 << 9)
def _places(every: Plan, computed: Plan, wanted: Plan) -> list[int]:
    """Return the index of each `wanted` digest in `computed`, followed by the rest of `every`."""
    spare = [*computed, *(algorithm for algorithm in every if algorithm not in computed)]
    return [spare.index(algorithm) for algorithm in wanted]


def outcome_of(path: str, error: OSError | SetAside) -> Outcome:
    """Return the outcome of a file that was not checked, by its error."""
    if isinstance(error, SetAside):
        return Outcome(error.kind, path, reason=str(error))
    return Outcome(Kind.UNREAD, path, reason=reason_of(error))


def listed_rows(judge: Judge, records: Records, masks: Uint8) -> set[int]:
    """Look up the tags in the mask of each record; return the rows of listed records."""
    listed: set[int] = set()
    for algorithm, (tags, rows) in columns_of(records, masks).items():
        listed.update(rows[judge.are_listed(algorithm, tags)].tolist())
    return listed


def learn(
    result: Result,
    files: Files,
    plain: Sequence[tuple[os.stat_result, int]],
    inside: Sequence[tuple[os.stat_result, bool | None, bytes]],
    identities: Mapping[int, Identity | None],
    started_ns: int,
) -> None:
    """Add records of files to a result; all files were read or examined after `started_ns`.

    `plain` are the files that are no containers, each with its first byte. `inside` are the
    containers, each with its members. `identities` contains the file systems by `st_dev`, or None
    for a file system whose files are not remembered.
    """
    since = identities, started_ns
    statuses, begins = [status for status, _ in plain], [begin for _, begin in plain]
    result.learned += _learned(statuses, [None] * len(plain), begins, *since)
    result.learned += _learned(files.statuses, files.unwritable, files.begins, *since, files)
    for status, unwritable, members in inside:
        for number, record in _learned([status], [unwritable], [0], *since):
            result.containers.append((number, record, members))


def _learned(
    statuses: Sequence[os.stat_result],
    unwritable: Sequence[bool | None],
    begins: Sequence[int],
    identities: Mapping[int, Identity | None],
    started_ns: int,
    files: Files | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Yield records of files that were examined or read, with the number of their file system.

    `unwritable` is True if no process could write to the file, False if a process could, and None
    if this is unknown. `begins` are the first bytes of files that are no containers, and -1 for
    other files. `files` contains the files if they were read, so that their records get tags.
    """
    for identity, rows in by_file_system(statuses, identities):
        kept = np.ones(len(statuses), np.bool_)
        if identity.is_local:
            kept &= [nobody is not False for nobody in unwritable]
        if files is not None:
            kept &= np.fromiter(files.reliable, np.bool_, len(kept))
            kept &= np.fromiter(map(bool, files.digests), np.bool_, len(kept))
        rows = rows[kept[rows]]
        is_all = len(rows) == len(statuses)
        records = records_of(statuses if is_all else [statuses[row] for row in rows.tolist()])
        begin = np.fromiter(begins, np.int16, len(statuses)).take(rows)
        records["mask"] = np.where(begin >= 0, np.uint8(PLAIN), np.uint8(0))
        records["begin"] = begin.astype(np.uint8)
        records["read_day"] = today()
        if identity.proves:
            records["read_day"][[unwritable[row] is True for row in rows.tolist()]] = 0
        if files is not None:
            records["tags"] = files.records["tags"].take(rows, axis=0)
            records["mask"] |= files.records["mask"].take(rows)
            for number in files.known:
                # The cache had a record of this file, and a second read computed only the missing
                # digests. The record keeps the day and the first byte of the earlier read.
                for column in ("read_day", "begin"):
                    records[column][rows == number] = files.records[column][number]
        settled = records.take(np.flatnonzero(are_settled(records, started_ns)))
        if len(settled):
            yield identity.number, settled.tobytes()

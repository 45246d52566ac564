"""Judge the files of a task: look up their tags together, then judge all files that hit.

Where a digest of a file hits, the other digests that the entry has are computed from the file, in
the order of the directories; then all files that hit are judged at once. So a file that matches
costs little more than one that does not.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hashclient.core.algorithms import Algorithm, mask_of
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.index.matcher import Columns, Judge, Plan, verdict
from hashclient.lists.wire import Uint8, Uint32, Uint64
from hashclient.scan.checked import SLOT, File, seal_digests
from hashclient.scan.executors.interface import Result
from hashclient.scan.reading import Reader, SetAside
from hashclient.scan.reasons import reason_of
from hashclient.scan.records import Records
from hashclient.scan.sources.directories import open_listed
from hashclient.scan.sources.interface import join

#: How a file is opened: never waiting, and never as the terminal of this process.
FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_ALL = mask_of(Algorithm)
_TAG_BYTES = 16


def judge_files(
    judge: Judge, reader: Reader, files: Sequence[File], records: Records, result: Result
) -> dict[int, Outcome]:
    """Return the outcomes of the files that are not clean, by their numbers.

    `records` have the tags of `files`. Further tags are added there and in the files; files that
    were read or known are counted in `result`.

    Raises:
        StateError: an index cannot be read.
    """
    is_hit, wanted = judge.wanted_by_row(columns_of(records), len(files))
    rows = np.flatnonzero(is_hit)
    if not len(rows):
        return {}
    missing = wanted[rows] & ~records["mask"][rows]
    outcomes = _read_further(judge, reader, files, records, (rows, missing), result)
    for number, lacks in zip(rows.tolist(), missing.tolist(), strict=True):
        if not lacks and not files[number].digests:
            result.known_unchanged += 1
            result.believed_unchanged += int(records["read_day"][number] != 0)
    if outcomes:
        rows = rows[[number not in outcomes for number in rows.tolist()]]
    chosen = records[rows]
    sizes: Uint64 = np.array([files[number].length for number in rows.tolist()], np.uint64)
    hits = judge.hits_by_row(columns_of(chosen), sizes)
    tags, masks = chosen["tags"].tobytes(), (chosen["mask"] & _ALL).tolist()
    width = _TAG_BYTES * len(SLOT)
    numbers = rows.tolist()
    for row, found in hits.items():
        file, number = files[numbers[row]], numbers[row]
        outcomes[number] = Outcome(
            verdict(found),
            file.path,
            file.length,
            hits=found,
            digests=file.by_algorithm(),
            tags={
                a: tags[(start := row * width + _TAG_BYTES * SLOT[a]) : start + _TAG_BYTES]
                for a in Algorithm.in_mask(masks[row])
            },
            seen=file.seen,
        )
    return outcomes


def columns_of(records: npt.NDArray[np.void]) -> Columns:
    """Return the tags of records, by algorithm, and the rows they belong to.

    Records are those of files or of members: both have a mask, and tags by algorithm.
    """
    columns: Columns = {}
    masks = records["mask"]
    for algorithm in Algorithm:
        rows: Uint32 = np.flatnonzero(masks & np.uint8(algorithm)).astype(np.uint32)
        if len(rows):
            tags = np.ascontiguousarray(records["tags"][rows, SLOT[algorithm]])
            columns[algorithm] = tags, rows
    return columns


def _read_further(
    judge: Judge,
    reader: Reader,
    files: Sequence[File],
    records: Records,
    needed: tuple[np.ndarray, np.ndarray],
    result: Result,
) -> dict[int, Outcome]:
    """Compute the other digests of entries; return outcomes of files that cannot be read again.

    `needed` are the numbers of files and the masks of the algorithms that they lack.
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
            file, plan = files[number], Algorithm.in_mask(mask)
            if file.spare:
                _take_spare(judge, file, plan)
                by_plan.setdefault(plan, []).append(number)
                continue
            try:
                path, status = file.group.directory, file.directory
                if (path, status.st_dev, status.st_ino) != opened:
                    stack.close()
                    opened = None
                    directory_fd, _ = open_listed(path, (status.st_dev, status.st_ino))
                    stack.callback(os.close, directory_fd)
                    opened = path, status.st_dev, status.st_ino
                digests = _read_again(reader, directory_fd, file, plan)
            except (OSError, SetAside) as error:
                # The file is unread after all, and each file is counted once.
                result.files_read -= 1 if file.digests else 0
                ended[number] = outcome_of(join(file.group.directory, file.name), error)
                continue
            result.files_read += 0 if file.digests else 1
            file.plan += plan
            file.digests += digests
            by_plan.setdefault(plan, []).append(number)
    seal_digests(judge, files, records, by_plan)
    return ended


def _take_spare(judge: Judge, file: File, plan: Plan) -> None:
    """Let more digests of a file count that were computed when it was read."""
    spare = file.spare
    file.digests += [spare[place] for place in _places(judge.every_algorithm, file.plan, plan)]
    file.plan += plan
    file.spare = []


@functools.lru_cache(maxsize=1 << 9)
def _places(every: Plan, computed: Plan, wanted: Plan) -> list[int]:
    """Return where the digests of `wanted` are among those of `every` that are not `computed`."""
    spare = [algorithm for algorithm in every if algorithm not in computed]
    return [spare.index(algorithm) for algorithm in wanted]


def _read_again(reader: Reader, directory_fd: int, file: File, plan: Plan) -> list[bytes]:
    """Compute more digests of the same file that was read before, or that is known."""
    flags = FILE_FLAGS if file.group.follow else FILE_FLAGS | os.O_NOFOLLOW
    fd = os.open(file.name, flags, dir_fd=directory_fd)
    try:
        return reader.read_more(fd, plan, file.status, file.length)
    finally:
        os.close(fd)


def outcome_of(path: str, error: OSError | SetAside) -> Outcome:
    """Return the outcome of a file that was not checked."""
    if isinstance(error, SetAside):
        return Outcome(error.kind, path, reason=str(error))
    return Outcome(Kind.UNREAD, path, reason=reason_of(error))


def listed_rows(judge: Judge, records: Records, masks: Uint8) -> set[int]:
    """Look up, of each record, the tags in its mask; return the rows of those that are listed."""
    listed: set[int] = set()
    for algorithm in Algorithm:
        rows = np.flatnonzero(masks & np.uint8(algorithm))
        if len(rows):
            tags = np.ascontiguousarray(records["tags"][rows, SLOT[algorithm]])
            listed.update(rows[judge.are_listed(algorithm, tags)].tolist())
    return listed

"""Checking files: what to compute, computing it in one read, looking it up, judging the answer.

A `Checker` works through tasks of names. For each file, 1 its size says which digests could still
matter, and if none could it is not even opened; 2 the cheapest digests that cover the entries left
are computed in one read; 3 all digests of a task are looked up together; 4 where one hits, the
entry's other digests are computed too: all must agree. What a file was is proven by its status
before and after the reading. It knows nothing of processes; a worker has one and so has a test.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hashclient.hashing import CHEAPEST_COVER, digest_fd
from hashclient.index import Index
from hashclient.model import Algorithm, Hit, Kind, Outcome
from hashclient.seal import Sealer
from hashclient.walk import Group, Task, join, kind_of, open_directory, reason_of

#: In a task of several files, one of at least this size is handed back, to be a task of its own.
DEFER_BYTES = 4 << 20
#: A task stops after reading this much and hands the rest back, so that no worker ends late.
TASK_BYTES = 64 << 20
#: Sizes whose plan is remembered; bounds the memory that a tree of many sizes takes.
PLANS_KEPT = 1 << 16
#: How often a file that changes while it is read is read again.
ATTEMPTS = 3

_FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
CHANGED = "changed while being read"


@dataclass(slots=True)
class TaskResult:
    """What a task came to: counts of the usual, outcomes of the rest, and work handed back."""

    clean: int = 0
    files_read: int = 0
    bytes_read: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    deferred: Task = field(default_factory=list)


@dataclass(slots=True)
class _Read:
    """A file that was read: where, what it was then, its length in bytes, its digests so far."""

    group: Group
    name: str
    status: os.stat_result
    length: int
    digests: dict[Algorithm, bytes]

    @property
    def path(self) -> str:
        return join(self.group.directory, self.name)


class _UnreadError(Exception):
    """A file ends as unread; the message is the reason."""


class _SkippedError(Exception):
    """A name turned out not to be a regular file; the message is what it is."""


class Judge:
    """Looks digests up in all lists and judges what is found."""

    def __init__(self, indexes: Sequence[Index], sealer: Sealer) -> None:
        """Ask `indexes`, all sealed under the key of `sealer`."""
        self._indexes = indexes
        self._sealer = sealer
        self._plans: dict[int | None, tuple[Algorithm, ...]] = {}
        #: Whether entries without a size make every file worth reading, whatever its size.
        self.reads_everything = any(index.unsized_masks for index in indexes)

    def plan(self, size: int | None) -> tuple[Algorithm, ...]:
        """Return the algorithms to compute for an input of `size` bytes, None if not known."""
        plan = self._plans.get(size)
        if plan is None:
            masks = 0
            for index in self._indexes:
                masks |= index.masks_of_size(size)
            plan = Algorithm.in_mask(CHEAPEST_COVER[masks])
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            self._plans[size] = plan
        return plan

    def find(
        self, algorithm: Algorithm, digests: list[bytes]
    ) -> dict[int, list[tuple[int, int, int]]]:
        """Look digests of one algorithm up; return (list, run, row) by the digest's number."""
        tags = self._sealer.tags_of(algorithm, digests)
        result: dict[int, list[tuple[int, int, int]]] = {}
        for number, index in enumerate(self._indexes):
            found = index.find(algorithm, tags)
            for query, run, row in zip(
                found.queries.tolist(), found.runs.tolist(), found.rows.tolist(), strict=True
            ):
                result.setdefault(query, []).append((number, run, row))
        return result

    def wanted(self, rows: list[tuple[int, int, int]]) -> int:
        """Return the mask of all algorithms that the entries at `rows` have."""
        mask = 0
        for number, run, row in rows:
            mask |= int(self._indexes[number].runs[run].masks[row])
        return mask

    def hits(self, digests: dict[Algorithm, bytes], size: int | None) -> tuple[Hit, ...]:
        """Return every entry that one of an input's digests hits, complete ones first."""
        found: list[dict[Algorithm, set[tuple[int, int]]]] = [{} for _ in self._indexes]
        available = 0
        for algorithm, digest in digests.items():
            available |= algorithm
            for number, run, row in self.find(algorithm, [digest]).get(0, ()):
                found[number].setdefault(algorithm, set()).add((run, row))
        hits: list[Hit] = []
        for index, by_algorithm in zip(self._indexes, found, strict=True):
            if by_algorithm:
                hits += index.hits(by_algorithm, available, size)
        return tuple(sorted(hits, key=lambda hit: not hit.complete))


def outcome_of(
    path: str, size: int | None, hits: tuple[Hit, ...], digests: dict[Algorithm, bytes]
) -> Outcome:
    """Turn the hits of one input into its outcome; without any it is clean."""
    kind = Kind.CLEAN
    if hits:
        kind = Kind.MATCH if hits[0].complete else Kind.CONFLICT
    return Outcome(kind, path, size, hits=hits, digests=digests)


class Checker:
    """Checks tasks of files against open lists."""

    def __init__(
        self,
        judge: Judge,
        *,
        keep_clean: bool = False,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Check with `judge`; `keep_clean` reports clean files one by one as well.

        `on_bytes` hears of the progress within large files.
        """
        self._judge = judge
        self._keep_clean = keep_clean
        self._on_bytes = on_bytes

    def check(self, task: Task, *, defer: bool = False) -> TaskResult:
        """Check every file of a task; each ends in an outcome, a count or `deferred`.

        A file that has the task to itself is checked whatever its size, unless `defer` is set.
        """
        result = TaskResult()
        alone = not defer and sum(len(group.names) for group in task) == 1
        reads: list[_Read] = []
        for group in task:
            if result.bytes_read >= TASK_BYTES:
                result.deferred.append(group)
            else:
                self._read_group(group, result, reads, alone=alone)
        self._judge_reads(reads, result)
        return result

    def _read_group(
        self, group: Group, result: TaskResult, reads: list[_Read], *, alone: bool
    ) -> None:
        directory, names, follow = group
        try:
            fd = open_directory(directory, follow=True)
        except OSError as error:
            reason = reason_of(error)
            result.outcomes += [
                Outcome(Kind.UNREAD, join(directory, name), reason=reason) for name in names
            ]
            return
        deferred: list[str] = []
        try:
            for position, name in enumerate(names):
                if result.bytes_read >= TASK_BYTES:
                    deferred += names[position:]
                    break
                try:
                    read = self._read(fd, group, name, result, whole=alone)
                    if read is not None:
                        reads.append(read)
                except OSError as error:
                    outcome = Outcome(Kind.UNREAD, join(directory, name), reason=reason_of(error))
                    result.outcomes.append(outcome)
                except _UnreadError as error:
                    outcome = Outcome(Kind.UNREAD, join(directory, name), reason=str(error))
                    result.outcomes.append(outcome)
                except _SkippedError as error:
                    outcome = Outcome(Kind.SKIPPED, join(directory, name), reason=str(error))
                    result.outcomes.append(outcome)
        finally:
            os.close(fd)
        if deferred:
            result.deferred.append(Group(directory, deferred, follow))

    def _plan(self, status: os.stat_result) -> tuple[Algorithm, ...]:
        """Return the algorithms to compute for a file of this status."""
        if not stat.S_ISREG(status.st_mode):
            raise _SkippedError(kind_of(status.st_mode))
        plan = self._judge.plan(status.st_size)
        if not plan and status.st_size == 0 and os.major(status.st_dev) == 0:
            # Files of proc and its like say they are empty and are not; they are on devices
            # without a major number. What they hold is known only when they are read.
            return self._judge.plan(None)
        return plan

    def _read(
        self, directory_fd: int, group: Group, name: str, result: TaskResult, *, whole: bool
    ) -> _Read | None:
        """Read one file as its plan says; None if it needs no reading or was deferred.

        Raises:
            OSError: it cannot be opened or read.
            _UnreadError: it kept changing.
            _SkippedError: it is no longer a regular file.
        """
        if not self._judge.reads_everything:
            status = os.stat(name, dir_fd=directory_fd, follow_symlinks=group.follow)
            if not self._plan(status):
                self._add_clean(group, name, status.st_size, result)
                return None
        flags = _FILE_FLAGS if group.follow else _FILE_FLAGS | os.O_NOFOLLOW
        fd = os.open(name, flags, dir_fd=directory_fd)
        try:
            before = os.fstat(fd)
            plan = self._plan(before)
            if before.st_size >= DEFER_BYTES and not whole:
                result.deferred.append(Group(group.directory, [name], group.follow))
                return None
            digests, length = digest_fd(fd, plan, before.st_size, self._on_bytes)
            result.bytes_read += length
            after = os.fstat(fd)
            if length != before.st_size or not _same_content(before, after):
                plan, digests, length, after = self._read_unsteady(fd, after, result)
        finally:
            os.close(fd)
        result.files_read += 1
        return _Read(group, name, after, length, dict(zip(plan, digests, strict=True)))

    def _read_unsteady(
        self, fd: int, status: os.stat_result, result: TaskResult
    ) -> tuple[tuple[Algorithm, ...], list[bytes], int, os.stat_result]:
        """Read a file again that changed, or that holds something else than its size says.

        No size rules anything out then. Returns what was computed, the digests, the length, and
        the status that was the same before and after.
        """
        plan = self._judge.plan(None)
        for _ in range(ATTEMPTS - 1):
            os.lseek(fd, 0, os.SEEK_SET)
            digests, length = digest_fd(fd, plan, status.st_size, self._on_bytes)
            result.bytes_read += length
            before, status = status, os.fstat(fd)
            if _same_content(before, status):
                return plan, digests, length, status
        raise _UnreadError(CHANGED)

    def _judge_reads(self, reads: list[_Read], result: TaskResult) -> None:
        """Look all digests of a task up together, then judge the few files that hit."""
        by_algorithm: dict[Algorithm, list[int]] = {}
        for number, read in enumerate(reads):
            for algorithm in read.digests:
                by_algorithm.setdefault(algorithm, []).append(number)
        found: dict[int, list[tuple[int, int, int]]] = {}
        for algorithm, numbers in by_algorithm.items():
            digests = [reads[number].digests[algorithm] for number in numbers]
            for query, rows in self._judge.find(algorithm, digests).items():
                found.setdefault(numbers[query], []).extend(rows)
        for number, read in enumerate(reads):
            outcome = None
            if number in found:
                outcome = self._judge_hit(read, found[number], result)
            if outcome is None or outcome.kind is Kind.CLEAN:
                self._add_clean(read.group, read.name, read.length, result, read.digests)
            else:
                result.outcomes.append(outcome)

    def _judge_hit(
        self, read: _Read, rows: list[tuple[int, int, int]], result: TaskResult
    ) -> Outcome:
        """Compute what the entries that were hit have besides, and judge."""
        missing = self._judge.wanted(rows)
        for algorithm in read.digests:
            missing &= ~algorithm
        if missing:
            chosen = Algorithm.in_mask(missing)
            try:
                digests = self._read_again(read, chosen, result)
            except OSError as error:
                return Outcome(Kind.UNREAD, read.path, reason=reason_of(error))
            except _UnreadError as error:
                return Outcome(Kind.UNREAD, read.path, reason=str(error))
            read.digests.update(zip(chosen, digests, strict=True))
        hits = self._judge.hits(read.digests, read.length)
        return outcome_of(read.path, read.length, hits, read.digests)

    def _read_again(
        self, read: _Read, algorithms: tuple[Algorithm, ...], result: TaskResult
    ) -> list[bytes]:
        """Compute more digests of the very file that was read before."""
        directory_fd = open_directory(read.group.directory, follow=True)
        try:
            fd = os.open(read.name, _FILE_FLAGS, dir_fd=directory_fd)
        finally:
            os.close(directory_fd)
        try:
            if not _same_content(os.fstat(fd), read.status):
                raise _UnreadError(CHANGED)
            digests, length = digest_fd(fd, algorithms, read.status.st_size, self._on_bytes)
            result.bytes_read += length
            if not _same_content(os.fstat(fd), read.status):
                raise _UnreadError(CHANGED)
            return digests
        finally:
            os.close(fd)

    def _add_clean(
        self,
        group: Group,
        name: str,
        size: int,
        result: TaskResult,
        digests: dict[Algorithm, bytes] | None = None,
    ) -> None:
        result.clean += 1
        if self._keep_clean:
            path = join(group.directory, name)
            result.outcomes.append(Outcome(Kind.CLEAN, path, size, digests=digests or {}))


def _same_content(one: os.stat_result, other: os.stat_result) -> bool:
    """Tell whether two statuses are of the same file with the same content."""
    return (
        one.st_mtime_ns == other.st_mtime_ns  # a change shows here first
        and one.st_ctime_ns == other.st_ctime_ns
        and one.st_size == other.st_size
        and one.st_ino == other.st_ino
        and one.st_dev == other.st_dev
    )

"""Checking files: what to compute, computing it in one read, and what becomes of each file.

A `Checker` works through tasks of names. For each file, 1 its size says which digests could still
matter, and if none could it is not even opened; 2 if the inventory knows it unchanged, its tags are
there already; 3 otherwise the cheapest digests that cover the entries left are computed in one
read; 4 the tags of a task are looked up together; 5 where one hits, the entry's other digests are
computed too: all must agree. What a file was is proven by its status before and after the reading.
It knows nothing of processes; a worker has one and so has a test.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from hashclient.errors import StateError
from hashclient.hashing import digest_fd, new_buffer
from hashclient.hashlist import Uint8
from hashclient.inventory import RECORD, Block, Inventory, Records, are_settled, records_of
from hashclient.judge import Judge, Place, Plan, verdict
from hashclient.model import Algorithm, Kind, Outcome, mask_of
from hashclient.walk import Group, Task, join, kind_of, open_directory, reason_of

#: In a task of several files, one of at least this size is handed back, to be a task of its own.
DEFER_BYTES = 4 << 20
#: A task stops after reading this much and hands the rest back, so that no worker ends late.
TASK_BYTES = 64 << 20
#: How often a file that changes while it is read is read again.
ATTEMPTS = 3

_FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
CHANGED = "changed while being read"
#: The place of an algorithm's tag in a record of the inventory.
_SLOT = {algorithm: number for number, algorithm in enumerate(Algorithm)}


@dataclass(slots=True)
class TaskResult:
    """What a task came to: counts of the usual, outcomes of the rest, and work handed back.

    `learned` are records for the inventory, by device; `seen` its blocks that are in use.
    """

    clean: int = 0
    files_read: int = 0
    bytes_read: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    deferred: Task = field(default_factory=list)
    learned: list[tuple[int, bytes]] = field(default_factory=list)
    seen: list[Block] = field(default_factory=list)


class _File(msgspec.Struct, gc=False):
    """A file to be judged: where, what it was, its length in bytes, and its digests so far.

    `digests` are those of `plan` that were computed in this run: none, if it was not read. What the
    inventory knows of a file is in `record`.
    """

    group: Group
    name: str
    status: os.stat_result
    length: int
    plan: Plan
    digests: list[bytes]
    record: np.void | None = None

    @property
    def path(self) -> str:
        return join(self.group.directory, self.name)

    def by_algorithm(self) -> dict[Algorithm, bytes]:
        return dict(zip(self.plan, self.digests, strict=True))


class _SetAside(Exception):  # noqa: N818 - no error, but an outcome
    """A file ends without being checked; says how and why."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Checker:
    """Checks tasks of files against open lists."""

    def __init__(
        self,
        judge: Judge,
        *,
        inventory: Inventory | None = None,
        learn: bool = False,
        keep_clean: bool = False,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Check with `judge`.

        What `inventory` knows is not read again; with `learn`, results hold records for one.
        `keep_clean` reports clean files one by one as well. `on_bytes` hears of the progress
        within large files.
        """
        self._judge = judge
        self._inventory = inventory
        self._learn = learn
        self._keep_clean = keep_clean
        self._on_bytes = on_bytes
        self._buffer = new_buffer()
        #: Without these two nothing is gained by looking at a file before it is opened.
        self._looks_first = inventory is not None or not judge.reads_everything

    def check(self, task: Task, *, defer: bool = False) -> TaskResult:
        """Check every file of a task; each ends in an outcome, a count or `deferred`.

        A file that has the task to itself is checked whatever its size, unless `defer` is set.
        """
        result = TaskResult()
        started_ns = time.time_ns()
        alone = not defer and sum(len(group.names) for group in task) == 1
        files: list[_File] = []
        for group in task:
            if result.bytes_read >= TASK_BYTES:
                result.deferred.append(group)
            else:
                self._check_group(group, result, files, whole=alone)
        records = self._seal(files)
        self._judge_files(files, records, result)
        if self._learn:
            self._note(files, records, started_ns, result)
        return result

    def _check_group(
        self, group: Group, result: TaskResult, files: list[_File], *, whole: bool
    ) -> None:
        """Work through the names of one directory."""
        try:
            fd = open_directory(group.directory, follow=True)
        except OSError as error:
            for name in group.names:
                self._set_aside(group, name, error, result)
            return
        try:
            names = group.names
            if self._looks_first:
                names = self._look(fd, group, result, files)
            flags = _FILE_FLAGS if group.follow else _FILE_FLAGS | os.O_NOFOLLOW
            for position, name in enumerate(names):
                if result.bytes_read >= TASK_BYTES:
                    result.deferred.append(group._replace(names=names[position:]))
                    break
                try:
                    file_fd = os.open(name, flags, dir_fd=fd)
                    try:
                        file = self._read(file_fd, group, name, result, whole=whole)
                    finally:
                        os.close(file_fd)
                except (OSError, _SetAside) as error:
                    self._set_aside(group, name, error, result)
                else:
                    if file is not None:
                        files.append(file)
        finally:
            os.close(fd)

    def _look(self, fd: int, group: Group, result: TaskResult, files: list[_File]) -> list[str]:
        """Settle what needs no reading; return the names of the rest."""
        names: list[str] = []
        statuses: list[os.stat_result] = []
        plans: list[Plan] = []
        for name in group.names:
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=group.follow)
                plan = self._plan(status)
            except (OSError, _SetAside) as error:
                self._set_aside(group, name, error, result)
                continue
            if plan:
                names.append(name)
                statuses.append(status)
                plans.append(plan)
            else:
                self._clean(group, name, status.st_size, result)
        if self._inventory is None or not names:
            return names
        try:
            records, old = self._inventory.find(statuses)
        except StateError:
            # It is damaged or busy for long. Reading every file is right, only slower.
            self._inventory = None
            return names
        result.seen += old
        masks = {plan: mask_of(plan) for plan in set(plans)}
        wanted = np.array([masks[plan] for plan in plans], np.uint8)
        known = (records["mask"] & wanted) == wanted
        hit = self._places(records, np.where(known, wanted, np.uint8(0)))
        for row in np.flatnonzero(known).tolist():
            name, status = names[row], statuses[row]
            if row in hit:
                files.append(_File(group, name, status, status.st_size, (), [], records[row]))
            else:
                self._clean(group, name, status.st_size, result)
        return [names[row] for row in np.flatnonzero(~known).tolist()]

    def _places(self, records: Records, masks: Uint8) -> dict[int, list[Place]]:
        """Look up, of each record, the tags in its mask; return what was found, by the row."""
        places: dict[int, list[Place]] = {}
        for algorithm in Algorithm:
            rows = np.flatnonzero(masks & np.uint8(algorithm))
            if len(rows):
                tags = np.ascontiguousarray(records["tags"][rows, _SLOT[algorithm]])
                for query, found in self._judge.find(algorithm, tags).items():
                    places.setdefault(int(rows[query]), []).extend(found)
        return places

    def _plan(self, status: os.stat_result) -> Plan:
        """Return the algorithms to compute for a file of this status."""
        if not stat.S_ISREG(status.st_mode):
            raise _SetAside(Kind.SKIPPED, kind_of(status.st_mode))
        plan = self._judge.plan(status.st_size)
        if not plan and status.st_size == 0 and os.major(status.st_dev) == 0:
            # Files of proc and its like say they are empty and are not; they are on devices
            # without a major number. What they hold is known only when they are read.
            return self._judge.plan(None)
        return plan

    def _read(
        self, fd: int, group: Group, name: str, result: TaskResult, *, whole: bool
    ) -> _File | None:
        """Read one file as its plan says; None if it needs no reading or was deferred.

        Raises:
            OSError: it cannot be read.
            _SetAside: it kept changing, or is no longer a regular file.
        """
        before = os.fstat(fd)
        plan = self._plan(before)
        if not plan:
            self._clean(group, name, before.st_size, result)
            return None
        if before.st_size >= DEFER_BYTES and not whole:
            result.deferred.append(group._replace(names=[name]))
            return None
        digests, length = digest_fd(fd, plan, before.st_size, self._on_bytes, self._buffer)
        result.bytes_read += length
        after = os.fstat(fd)
        # The same open file: of its identity nothing can have changed.
        if (before.st_size, length, before.st_mtime_ns, before.st_ctime_ns) != (
            after.st_size,
            after.st_size,
            after.st_mtime_ns,
            after.st_ctime_ns,
        ):
            plan, digests, length, after = self._read_unsteady(fd, after, result)
        result.files_read += 1
        return _File(group, name, after, length, plan, digests)

    def _read_unsteady(
        self, fd: int, status: os.stat_result, result: TaskResult
    ) -> tuple[Plan, list[bytes], int, os.stat_result]:
        """Read a file again that changed, or that holds something else than its size says.

        No size rules anything out then. Returns what was computed, the digests, the length, and
        the status that was the same before and after.
        """
        plan = self._judge.plan(None)
        for _ in range(ATTEMPTS - 1):
            os.lseek(fd, 0, os.SEEK_SET)
            digests, length = digest_fd(fd, plan, status.st_size, self._on_bytes, self._buffer)
            result.bytes_read += length
            before, status = status, os.fstat(fd)
            if _same_content(before, status):
                return plan, digests, length, status
        raise _SetAside(Kind.UNREAD, CHANGED)

    def _seal(self, files: list[_File]) -> Records:
        """Return records of the tags of files; where and what these were is left out."""
        records = np.zeros(len(files), RECORD)
        by_plan: dict[Plan, list[int]] = {}
        for number, file in enumerate(files):
            if file.record is None:
                by_plan.setdefault(file.plan, []).append(number)
            else:
                records[number] = file.record
        for plan, numbers in by_plan.items():
            rows = np.array(numbers)
            for place, algorithm in enumerate(plan):
                digests = [files[n].digests[place] for n in numbers]
                tags = self._judge.sealer.tags_of(algorithm, digests)
                records["tags"][rows, _SLOT[algorithm]] = tags
            records["mask"][rows] = mask_of(plan)
        return records

    def _judge_files(self, files: list[_File], records: Records, result: TaskResult) -> None:
        """Look all tags of a task up together, then judge the few files that hit."""
        places = self._places(records, records["mask"])
        shown = range(len(files)) if self._keep_clean else sorted(places)
        result.clean += len(files) - len(shown)
        for number in shown:
            file, outcome = files[number], None
            if number in places:
                outcome = self._judge_hit(file, records[number], places[number], result)
            if outcome is None or outcome.kind is Kind.CLEAN:
                self._clean(file.group, file.name, file.length, result, file.by_algorithm())
            else:
                result.outcomes.append(outcome)

    def _judge_hit(
        self, file: _File, record: np.void, places: list[Place], result: TaskResult
    ) -> Outcome:
        """Compute what the entries that were hit have besides, note it in `record`, and judge."""
        missing = self._judge.wanted(places) & ~int(record["mask"])
        if missing:
            plan = Algorithm.in_mask(missing)
            try:
                digests = self._read_again(file, plan, result)
            except OSError as error:
                return Outcome(Kind.UNREAD, file.path, reason=reason_of(error))
            except _SetAside as error:
                return Outcome(error.kind, file.path, reason=str(error))
            for algorithm, words in self._judge.seal(dict(zip(plan, digests, strict=True))).items():
                record["tags"][_SLOT[algorithm]] = words
            record["mask"] |= np.uint8(missing)
        tags = {a: record["tags"][_SLOT[a]] for a in Algorithm.in_mask(int(record["mask"]))}
        hits = self._judge.hits(tags, file.length)
        return Outcome(
            verdict(hits),
            file.path,
            file.length,
            hits=hits,
            digests=file.by_algorithm(),
            tags={a: words.tobytes() for a, words in tags.items()},
        )

    def _read_again(self, file: _File, plan: Plan, result: TaskResult) -> list[bytes]:
        """Compute more digests of the very file that was read before, or that is known."""
        directory_fd = open_directory(file.group.directory, follow=True)
        try:
            fd = os.open(file.name, _FILE_FLAGS, dir_fd=directory_fd)
        finally:
            os.close(directory_fd)
        try:
            if not _same_content(os.fstat(fd), file.status):
                raise _SetAside(Kind.UNREAD, CHANGED)
            digests, length = digest_fd(fd, plan, file.length, self._on_bytes, self._buffer)
            result.bytes_read += length
            if not _same_content(os.fstat(fd), file.status):
                raise _SetAside(Kind.UNREAD, CHANGED)
        finally:
            os.close(fd)
        if not file.digests:
            result.files_read += 1
        file.plan += plan
        file.digests += digests
        return digests

    def _note(self, files: list[_File], tags: Records, started_ns: int, result: TaskResult) -> None:
        """Put records of what was read since `started_ns` into the result, for the inventory."""
        by_device: dict[int, list[int]] = {}
        for number, file in enumerate(files):
            if file.digests and file.length == file.status.st_size:
                by_device.setdefault(file.status.st_dev, []).append(number)
        for device, numbers in by_device.items():
            records = records_of([files[n].status for n in numbers])
            rows = np.array(numbers)
            for column in ("tags", "mask"):
                records[column] = tags[column].take(rows, axis=0)
            settled = records.take(np.flatnonzero(are_settled(records, started_ns)))
            if len(settled):
                result.learned.append((device, settled.tobytes()))

    def _set_aside(
        self, group: Group, name: str, error: OSError | _SetAside, result: TaskResult
    ) -> None:
        kind, reason = (
            (error.kind, str(error))
            if isinstance(error, _SetAside)
            else (Kind.UNREAD, reason_of(error))
        )
        result.outcomes.append(Outcome(kind, join(group.directory, name), reason=reason))

    def _clean(
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

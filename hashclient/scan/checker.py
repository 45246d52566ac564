"""Checking files: what to compute, computing it in one read, and what becomes of each file.

A `Checker` works through tasks of names. For each file, 1 its size says which digests could still
matter, and if none could it is not even opened; 2 if the cache knows it unchanged, its tags are
there already; 3 otherwise the cheapest digests that cover the entries left are computed in one
read; 4 the tags of a task are looked up together; 5 where one hits, the entry's other digests are
computed too: all must agree. Steps 1 and 2 are for files only whose size and times can be relied
on. It knows nothing of processes; a worker has one and so has a test.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

import msgspec
import numpy as np

from hashclient.core.algorithms import Algorithm, mask_of
from hashclient.core.kinds import Kind
from hashclient.core.model import Hit, Outcome
from hashclient.errors import StateError
from hashclient.index.matcher import Judge, Place, Plan, verdict
from hashclient.lists.wire import Uint8
from hashclient.scan.cache import are_settled, today
from hashclient.scan.executors.interface import Result
from hashclient.scan.memory import Cache
from hashclient.scan.reading import (
    Deferred,
    Reader,
    RuledOut,
    SetAside,
    StreamDigester,
    no_file,
    relied_size,
)
from hashclient.scan.reasons import reason_of
from hashclient.scan.records import RECORD, Records, records_of
from hashclient.scan.sources.files import join, open_directory
from hashclient.scan.sources.interface import Group, Task
from hashclient.system.filesystems import FULL, NONE
from hashclient.system.identity import Identities, Identity
from hashclient.system.leases import can_lease

#: In a task of several files, one of at least this size is handed back, to be a task of its own.
DEFER_BYTES = 4 << 20
#: A task stops after reading this much and hands the rest back, so that no worker ends late.
TASK_BYTES = 64 << 20

_FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
#: CLOCK_REALTIME_COARSE, of linux/time.h, and the longest tick of it.
_COARSE_CLOCK, TICK_NS = 5, 10_000_000
#: The place of an algorithm's tag in a record of the cache.
_SLOT = {algorithm: number for number, algorithm in enumerate(Algorithm)}


class _File(msgspec.Struct, gc=False):
    """A file to be judged: where, what it was, its length in bytes, and its digests so far.

    `digests` are those of `plan` that were computed in this run: none, if it was not read. What the
    cache knows of a file is in `record`. `reliable` says whether its size and times are, and
    `unwritable` whether nobody could write to it when it was read, None if that is not known.
    """

    group: Group
    name: str
    status: os.stat_result
    length: int
    plan: Plan
    digests: list[bytes]
    reliable: bool
    unwritable: bool | None = None
    record: np.void | None = None

    @property
    def path(self) -> str:
        return join(self.group.directory, self.name)

    def by_algorithm(self) -> dict[Algorithm, bytes]:
        return dict(zip(self.plan, self.digests, strict=True))


class Checker:
    """Checks tasks of files against open lists."""

    def __init__(
        self,
        judge: Judge,
        *,
        cache: Cache | None = None,
        learn: bool = False,
        keep_clean: bool = False,
        sparse: bool = False,
        on_bytes: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check with `judge`.

        What `cache` knows is not read again; with `learn`, results hold records for one.
        `keep_clean` reports clean files one by one as well. `sparse`, `on_bytes` and `clock` are
        those of a `Reader`.
        """
        self._judge = judge
        self._cache = cache
        self._learn = learn
        self._keep_clean = keep_clean
        leases = learn and can_lease()
        self._reader = Reader(
            judge.plan, sparse=sparse, leases=leases, on_bytes=on_bytes, clock=clock
        )
        self._file_systems = Identities()
        #: By `st_dev`, for one task: by then it may be that of another file system.
        self._identities: dict[int, Identity | None] = {}
        #: Without these two nothing is gained by looking at a file before it is opened.
        self._looks_first = cache is not None or not judge.reads_everything

    def check(self, task: Task, *, defer: bool = False) -> Result:
        """Check every file of a task; each ends in an outcome, a count or `deferred`.

        A file that has the task to itself is checked whatever its size, unless `defer` is set.
        """
        result = Result()
        # The clock that gives files their times lags behind, by more than a tick if it is held up.
        started_ns = min(time.time_ns(), time.clock_gettime_ns(_COARSE_CLOCK) + TICK_NS)
        self._reader.begin_task()
        self._identities.clear()
        alone = not defer and sum(len(group.names) for group in task) == 1
        files: list[_File] = []
        for group in task:
            if self._reader.bytes_read >= TASK_BYTES:
                result.deferred.append(group)
            else:
                self._check_group(group, result, files, whole=alone)
        records = self._seal(files)
        self._judge_files(files, records, result)
        result.bytes_read = self._reader.bytes_read
        if self._learn:
            self._note(files, records, started_ns, result)
        return result

    def stream_digester(self) -> StreamDigester:
        """Return what a stream of unknown length is pushed into, for `check_stream`."""
        return StreamDigester(self._judge.plan(None))

    def check_stream(self, name: str, stream: StreamDigester) -> Result:
        """Judge a stream that has been read to its end; `name` is what it is called."""
        digests = stream.finish()
        length = stream.length
        tags = self._judge.seal(digests)
        places = [
            place
            for algorithm, words in tags.items()
            for found in self._judge.find(algorithm, words.reshape(1, 2)).values()
            for place in found
        ]
        hits: tuple[Hit, ...] = ()
        if places:
            missing = self._judge.wanted(places) & ~mask_of(digests)
            more = stream.more(Algorithm.in_mask(missing))
            digests |= more
            tags |= self._judge.seal(more)
            hits = self._judge.hits(tags, length)
        result = Result(files_read=1, bytes_read=length)
        kind = verdict(hits)
        result.clean = int(kind is Kind.CLEAN)
        if kind is not Kind.CLEAN or self._keep_clean:
            kept = {a: words.tobytes() for a, words in tags.items()} if hits else {}
            outcome = Outcome(
                kind, name, length, hits=hits, digests=digests, tags=kept, is_stream=True
            )
            result.outcomes.append(outcome)
        return result

    def _check_group(
        self, group: Group, result: Result, files: list[_File], *, whole: bool
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
            learn, identities = self._learn, self._identities
            flags = _FILE_FLAGS if group.follow else _FILE_FLAGS | os.O_NOFOLLOW
            reader, defer_bytes, known = self._reader, None if whole else DEFER_BYTES, len(files)
            for position, name in enumerate(names):
                if reader.bytes_read >= TASK_BYTES:
                    result.deferred.append(group._replace(names=names[position:]))
                    break
                try:
                    file_fd = os.open(name, flags, dir_fd=fd)
                    try:
                        read = reader.read(file_fd, defer_bytes)
                        if learn and (device := read[3].st_dev) not in identities:
                            identities[device] = self._file_systems.of(file_fd, device)
                    finally:
                        os.close(file_fd)
                except Deferred:
                    result.deferred.append(group._replace(names=[name]))
                except RuledOut as error:
                    result.clean += 1
                    result.ruled_out_by_size += 1
                    if self._keep_clean:
                        self._tell_clean(group, name, error.size, result)
                except (OSError, SetAside) as error:
                    self._set_aside(group, name, error, result)
                else:
                    plan, digests, length, status, reliable, free = read
                    files.append(_File(group, name, status, length, plan, digests, reliable, free))
            result.files_read += len(files) - known
        finally:
            os.close(fd)

    def _look(self, fd: int, group: Group, result: Result, files: list[_File]) -> list[str]:
        """Settle what needs no reading; return the names of the rest."""
        names: list[str] = []
        statuses: list[os.stat_result] = []
        plans: list[Plan] = []
        unreliable: list[str] = []
        ruled_out = 0
        # This loop is most of what a scan costs where sizes decide: what it calls is in reach.
        follow, plan_of, device, trusted = group.follow, self._judge.plan, -1, False
        trust = NONE
        for name in group.names:
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=follow)
                if status.st_dev != device:
                    trust = self._reader.trust_at(name, fd, status.st_dev, follow=follow)
                    device, trusted = status.st_dev, trust is FULL
                    if device not in self._identities:
                        identity = self._file_systems.at(name, fd, device, follow=follow)
                        self._identities[device] = identity
                if not stat.S_ISREG(status.st_mode):
                    raise no_file(status.st_mode)
            except (OSError, SetAside) as error:
                self._set_aside(group, name, error, result)
                continue
            size = status.st_size if trusted else relied_size(status, trust)
            plan = plan_of(size)
            if not plan:
                ruled_out += 1
                if self._keep_clean:
                    self._tell_clean(group, name, status.st_size, result)
            elif size is None:
                unreliable.append(name)
            else:
                names.append(name)
                statuses.append(status)
                plans.append(plan)
        result.clean += ruled_out
        result.ruled_out_by_size += ruled_out
        return self._look_up(group, names, statuses, plans, result, files) + unreliable

    def _look_up(
        self,
        group: Group,
        names: list[str],
        statuses: list[os.stat_result],
        plans: list[Plan],
        result: Result,
        files: list[_File],
    ) -> list[str]:
        """Settle what the cache knows unchanged; return the names of the rest."""
        if self._cache is None or not names:
            return names
        try:
            records, old = self._cache.find(statuses, self._identities)
        except StateError:
            # It is damaged or busy for long. Reading every file is right, only slower.
            self._cache = None
            return names
        result.seen += old
        masks = {plan: mask_of(plan) for plan in set(plans)}
        wanted = np.array([masks[plan] for plan in plans], np.uint8)
        known = (records["mask"] & wanted) == wanted
        hit = self._places(records, np.where(known, wanted, np.uint8(0)))
        unchanged = 0
        for row in np.flatnonzero(known).tolist():
            name, status = names[row], statuses[row]
            if row in hit:
                size, record = status.st_size, records[row]
                files.append(_File(group, name, status, size, (), [], True, None, record))  # noqa: FBT003 - fields
                continue
            unchanged += 1
            if self._keep_clean:
                self._tell_clean(group, name, status.st_size, result)
        result.clean += unchanged
        result.known_unchanged += unchanged
        believed = known & (records["read_day"] != 0)
        believed[list(hit)] = False
        result.believed_unchanged += int(np.count_nonzero(believed))
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

    def _judge_files(self, files: list[_File], records: Records, result: Result) -> None:
        """Look all tags of a task up together, then judge the few files that hit."""
        places = self._places(records, records["mask"])
        shown = range(len(files)) if self._keep_clean else sorted(places)
        result.clean += len(files) - len(shown)
        for number in shown:
            file, outcome = files[number], None
            if number in places:
                outcome = self._judge_hit(file, records[number], places[number], result)
            if outcome is None or outcome.kind is Kind.CLEAN:
                result.clean += 1
                if self._keep_clean:
                    digests = file.by_algorithm()
                    self._tell_clean(file.group, file.name, file.length, result, digests)
            else:
                result.outcomes.append(outcome)

    def _judge_hit(
        self, file: _File, record: np.void, places: list[Place], result: Result
    ) -> Outcome:
        """Compute what the entries that were hit have besides, note it in `record`, and judge."""
        missing = self._judge.wanted(places) & ~int(record["mask"])
        if missing:
            plan, reads = Algorithm.in_mask(missing), 0 if file.digests else 1
            try:
                digests = self._read_again(file, plan)
            except (OSError, SetAside) as error:
                # It is unread after all, and each file is counted once.
                result.files_read -= 1 - reads
                return _outcome(file.path, error)
            result.files_read += reads
            for algorithm, words in self._judge.seal(dict(zip(plan, digests, strict=True))).items():
                record["tags"][_SLOT[algorithm]] = words
            record["mask"] |= np.uint8(missing)
        elif not file.digests:
            result.known_unchanged += 1
            result.believed_unchanged += int(record["read_day"] != 0)
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

    def _read_again(self, file: _File, plan: Plan) -> list[bytes]:
        """Compute more digests of the very file that was read before, or that is known."""
        directory_fd = open_directory(file.group.directory, follow=True)
        try:
            fd = os.open(file.name, _FILE_FLAGS, dir_fd=directory_fd)
        finally:
            os.close(directory_fd)
        try:
            digests = self._reader.read_more(fd, plan, file.status, file.length)
        finally:
            os.close(fd)
        file.plan += plan
        file.digests += digests
        return digests

    def _note(self, files: list[_File], tags: Records, started_ns: int, result: Result) -> None:
        """Put records of what was read since `started_ns` into the result, for the cache.

        What somebody had open for writing is none that a cache may know.
        """
        by_device: dict[int, list[int]] = {}
        day = today()
        for number, file in enumerate(files):
            if file.digests and file.reliable:
                by_device.setdefault(file.status.st_dev, []).append(number)
        for device, numbers in by_device.items():
            identity = self._identities.get(device)
            if identity is None:
                continue
            if identity.is_local:
                numbers = [n for n in numbers if files[n].unwritable is not False]
            records = records_of([files[n].status for n in numbers])
            rows = np.array(numbers, np.intp)
            for column in ("tags", "mask"):
                records[column] = tags[column].take(rows, axis=0)
            # What the cache knew and was read again in part rests on what it rested on before.
            proven = 0 if identity.proves else day
            records["read_day"] = [
                (proven if file.unwritable else day)
                if (old := file.record) is None
                else old["read_day"]
                for file in map(files.__getitem__, numbers)
            ]
            settled = records.take(np.flatnonzero(are_settled(records, started_ns)))
            if len(settled):
                result.learned.append((identity.number, settled.tobytes()))

    def _set_aside(
        self, group: Group, name: str, error: OSError | SetAside, result: Result
    ) -> None:
        result.outcomes.append(_outcome(join(group.directory, name), error))

    @staticmethod
    def _tell_clean(
        group: Group,
        name: str,
        size: int,
        result: Result,
        digests: dict[Algorithm, bytes] | None = None,
    ) -> None:
        path = join(group.directory, name)
        result.outcomes.append(Outcome(Kind.CLEAN, path, size, digests=digests or {}))


def _outcome(path: str, error: OSError | SetAside) -> Outcome:
    """Return how a file ends that was not checked."""
    if isinstance(error, SetAside):
        return Outcome(error.kind, path, reason=str(error))
    return Outcome(Kind.UNREAD, path, reason=reason_of(error))

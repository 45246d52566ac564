"""Checking files: what to compute, computing it in one read, and what becomes of each file.

A `Checker` works through tasks of names. For each file, 1 its size says which digests could still
matter, and if none could it is not even opened; 2 if the cache knows it unchanged, its tags are
there already; 3 otherwise the cheapest digests that cover the entries left are computed in one
read; 4 the tags of a task are looked up together; 5 where one hits, the entry's other digests are
computed too: all must agree. Steps 1 and 2 are for files only whose size and times can be relied
on. With `Members`, each file is also looked at for being a container, unless the cache knows that
it is none, and what is in it is checked besides. It knows nothing of processes; a worker has one
and so has a test.
"""

from __future__ import annotations

import contextlib
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
from hashclient.scan.members import Kept, Members
from hashclient.scan.memory import Cache
from hashclient.scan.reading import (
    Deferred,
    Reader,
    RuledOut,
    SetAside,
    StreamDigester,
    no_file,
    relied_size,
    same_content,
)
from hashclient.scan.reasons import reason_of
from hashclient.scan.records import PLAIN, RECORD, Records, records_of
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
_ALL = mask_of(Algorithm)
#: The place of an algorithm's tag in a record of the cache.
_SLOT = {algorithm: number for number, algorithm in enumerate(Algorithm)}


class _Look(msgspec.Struct, gc=False):
    """A file that is settled itself, and is still to be looked at for being a container.

    It is settled by the cache where it `is_known`, or only `is_believed`, otherwise by its size.
    """

    name: str
    status: os.stat_result
    is_known: bool = False
    is_believed: bool = False


class _File(msgspec.Struct, gc=False):
    """A file to be judged: where, what it was, its length in bytes, and its digests so far.

    `digests` are those of `plan` that were computed in this run: none, if it was not read. What the
    cache knows of a file is in `record`. `reliable` says whether its size and times are, and
    `unwritable` whether nobody could write to it when it was read, None if that is not known.
    `is_plain` says that it was looked at and is no container.
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
    is_plain: bool = False

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
        members: Members | None = None,
    ) -> None:
        """Check with `judge`.

        What `cache` knows is not read again; with `learn`, results hold records for one.
        `keep_clean` reports clean files one by one as well. `sparse`, `on_bytes` and `clock` are
        those of a `Reader`. `members` opens containers; without it, each file is one input.
        """
        self._judge = judge
        self._cache = cache
        self._learn = learn
        self._keep_clean = keep_clean
        self._members = members
        leases = learn and can_lease()
        self._reader = Reader(
            judge.plan,
            sparse=sparse,
            leases=leases,
            on_bytes=on_bytes,
            clock=clock,
            sniffs=members is not None,
        )
        self._file_systems = Identities()
        #: By `st_dev`, for one task: by then it may be that of another file system.
        self._identities: dict[int, Identity | None] = {}
        #: Files of one task that are no containers, whatever else is known of them, and whether
        #: nobody could write to them.
        self._plain: list[tuple[os.stat_result, bool | None]] = []
        self._bytes_before = 0
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
        self._plain.clear()
        alone = not defer and sum(len(group.names) for group in task) == 1
        files: list[_File] = []
        self._bytes_before = 0 if self._members is None else self._members.bytes_out
        for group in task:
            if self._is_enough():
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

    def stream_keeper(self) -> Kept | None:
        """Return what keeps a stream that may be a container, for `check_stream`."""
        return None if self._members is None else Kept(self._members.memory_bytes)

    def check_stream(self, name: str, stream: StreamDigester, kept: Kept | None = None) -> Result:
        """Judge a stream that has been read to its end; `name` is what it is called.

        What is in it is checked besides, if it was `kept`.
        """
        result = self._judge_stream(name, stream)
        if kept is not None and self._members is not None:
            with contextlib.closing(kept):
                self._members.open_kept(kept, name).add_to(result)
        return result

    def _judge_stream(self, name: str, stream: StreamDigester) -> Result:
        """Judge a stream by its own digests."""
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
                names, looks = self._look(fd, group, result, files)
                names = self._look_inside(fd, group, looks, result, whole=whole) + names
            learn, identities, members = self._learn, self._identities, self._members
            flags = _FILE_FLAGS if group.follow else _FILE_FLAGS | os.O_NOFOLLOW
            reader, defer_bytes, known = self._reader, None if whole else DEFER_BYTES, len(files)
            for position, name in enumerate(names):
                if self._is_enough():
                    result.deferred.append(group._replace(names=names[position:]))
                    break
                try:
                    file_fd = os.open(name, flags, dir_fd=fd)
                    try:
                        read = reader.read(file_fd, defer_bytes)
                        status = read[3]
                        if learn and (device := status.st_dev) not in identities:
                            identities[device] = self._file_systems.of(file_fd, device)
                        is_plain = members is not None and not reader.may_be_container
                        if reader.may_be_container:
                            is_plain = self._open(file_fd, group, name, status, result)
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
                    file = _File(group, name, status, length, plan, digests, reliable, free)
                    file.is_plain = is_plain
                    files.append(file)
            result.files_read += len(files) - known
        finally:
            os.close(fd)

    def _is_enough(self) -> bool:
        """Tell whether a task has taken so long that the rest is handed back."""
        count = self._reader.bytes_read
        if self._members is not None:
            count += self._members.bytes_out - self._bytes_before
        return count >= TASK_BYTES

    def _open(
        self, fd: int, group: Group, name: str, status: os.stat_result, result: Result
    ) -> bool:
        """Check what is in a file that may be a container; return whether it is none after all."""
        assert self._members is not None
        opened = self._members.open(
            fd,
            status.st_size,
            join(group.directory, name),
            lambda: same_content(status, os.fstat(fd)),
        )
        opened.add_to(result)
        return not opened.is_container

    def _look_inside(
        self, fd: int, group: Group, looks: list[_Look], result: Result, *, whole: bool
    ) -> list[str]:
        """Look into files that are settled themselves; return the names of those that changed."""
        changed: list[str] = []
        reader = self._reader
        flags = _FILE_FLAGS if group.follow else _FILE_FLAGS | os.O_NOFOLLOW
        for position, look in enumerate(looks):
            name = look.name
            if self._is_enough():
                rest = [other.name for other in looks[position:]]
                result.deferred.append(group._replace(names=rest))
                break
            try:
                file_fd = os.open(name, flags, dir_fd=fd)
                try:
                    status, unwritable = reader.look(file_fd)
                    if not same_content(status, look.status):
                        changed.append(name)
                        continue
                    if reader.may_be_container:
                        if not whole and status.st_size >= DEFER_BYTES:
                            result.deferred.append(group._replace(names=[name]))
                            continue
                        if self._open(file_fd, group, name, status, result):
                            self._plain.append((status, unwritable))
                    else:
                        self._plain.append((status, unwritable))
                finally:
                    os.close(file_fd)
            except (OSError, SetAside) as error:
                self._set_aside(group, name, error, result)
                continue
            self._settle(group, look, result)
        return changed

    def _settle(self, group: Group, look: _Look, result: Result) -> None:
        """Count a file that is clean by what the cache knows, or by its size."""
        result.clean += 1
        if look.is_known:
            result.known_unchanged += 1
            result.believed_unchanged += int(look.is_believed)
        else:
            result.ruled_out_by_size += 1
        if self._keep_clean:
            self._tell_clean(group, look.name, look.status.st_size, result)

    def _look(
        self, fd: int, group: Group, result: Result, files: list[_File]
    ) -> tuple[list[str], list[_Look]]:
        """Settle what needs no reading; return the names of the rest."""
        names: list[str] = []
        statuses: list[os.stat_result] = []
        plans: list[Plan] = []
        unreliable: list[str] = []
        ruled_out = 0
        # This loop is most of what a scan costs where sizes decide: what it calls is in reach.
        follow, plan_of, device, trusted = group.follow, self._judge.plan, -1, False
        opens = self._members is not None
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
            if not plan and not (opens and size is not None):
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
        names, looks = self._look_up(group, names, statuses, plans, result, files)
        return names + unreliable, looks

    def _look_up(
        self,
        group: Group,
        names: list[str],
        statuses: list[os.stat_result],
        plans: list[Plan],
        result: Result,
        files: list[_File],
    ) -> tuple[list[str], list[_Look]]:
        """Settle what the cache knows unchanged; return the names of the rest, and what to open."""
        if not names:
            return [], []
        records = None
        if self._cache is not None:
            try:
                records, old = self._cache.find(statuses, self._identities)
                result.seen += old
            except StateError:
                # It is damaged or busy for long. Reading every file is right, only slower.
                self._cache = None
        if records is None:
            looks = [
                _Look(name, status)
                for name, status, plan in zip(names, statuses, plans, strict=True)
                if not plan
            ]
            return [name for name, plan in zip(names, plans, strict=True) if plan], looks
        masks = {plan: mask_of(plan) for plan in set(plans)}
        wanted = np.array([masks[plan] for plan in plans], np.uint8)
        known = (records["mask"] & wanted) == wanted
        # Whether there is nothing to be found inside.
        plain = records["mask"] & np.uint8(PLAIN) != 0
        if self._members is None:
            plain[:] = True
        hit = self._places(records, np.where(known, wanted, np.uint8(0)))
        # A container that hits is read as if nothing were known of it: that is rare.
        known[[row for row in hit if not plain[row]]] = False
        settled = known & plain
        for row in hit:
            if known[row]:
                settled[row] = False
                size, record = statuses[row].st_size, records[row]
                files.append(
                    _File(group, names[row], statuses[row], size, (), [], True, None, record)  # noqa: FBT003 - fields
                )
        believed = records["read_day"] != 0
        is_read = wanted != 0
        total = int(np.count_nonzero(settled))
        known_unchanged = int(np.count_nonzero(settled & is_read))
        result.clean += total
        result.ruled_out_by_size += total - known_unchanged
        result.known_unchanged += known_unchanged
        result.believed_unchanged += int(np.count_nonzero(settled & is_read & believed))
        if self._keep_clean:
            for row in np.flatnonzero(settled).tolist():
                self._tell_clean(group, names[row], statuses[row].st_size, result)
        looks = [
            _Look(names[row], statuses[row], bool(is_read[row]), bool(believed[row]))
            for row in np.flatnonzero(known & ~plain).tolist()
        ]
        return [names[row] for row in np.flatnonzero(~known).tolist()], looks

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
        tags = {a: record["tags"][_SLOT[a]] for a in Algorithm.in_mask(int(record["mask"]) & _ALL)}
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
        self._note_plain(started_ns, result)
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
            plain = np.array([PLAIN if files[n].is_plain else 0 for n in numbers], np.uint8)
            records["mask"] |= plain
            # What the cache knew and was read again in part rests on what it rested on before.
            proven = 0 if identity.proves else day
            records["read_day"] = [
                (proven if file.unwritable else day)
                if (old := file.record) is None
                else old["read_day"]
                for file in map(files.__getitem__, numbers)
            ]
            self._learn_records(identity, records, started_ns, result)

    def _note_plain(self, started_ns: int, result: Result) -> None:
        """Put into the result which files are no containers, of which nothing else is new."""
        by_device: dict[int, list[tuple[os.stat_result, bool | None]]] = {}
        for status, unwritable in self._plain:
            by_device.setdefault(status.st_dev, []).append((status, unwritable))
        for device, looked_at in by_device.items():
            identity = self._identities.get(device)
            if identity is None:
                continue
            if identity.is_local:
                looked_at = [one for one in looked_at if one[1] is not False]
            records = records_of([status for status, _ in looked_at])
            records["mask"] = PLAIN
            proven, day = 0 if identity.proves else today(), today()
            records["read_day"] = [proven if unwritable else day for _, unwritable in looked_at]
            self._learn_records(identity, records, started_ns, result)

    @staticmethod
    def _learn_records(
        identity: Identity, records: Records, started_ns: int, result: Result
    ) -> None:
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

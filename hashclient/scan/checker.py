"""Checking files: choose the digests, compute them in one read, and judge each file.

A `Checker` works through tasks of names. For each file, 1 its size says which digests could still
matter, and if none could it is not even opened; 2 if the cache knows it unchanged, its tags are
there already; 3 otherwise the cheapest digests that cover the entries left are computed in one
read; 4 the tags of a task are looked up together; 5 where one hits, the entry's other digests are
computed too: all must agree. Steps 1 and 2 are for files only whose size and times can be relied
on. With `Members`, containers are opened as well, and their members are checked; a file that the
cache knows to be no container is left alone. A `Checker` knows nothing of processes: workers use
it, and so do tests.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

import numpy as np

from hashclient.core.algorithms import Algorithm, mask_of
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.errors import StateError
from hashclient.index.matcher import Judge, Plan
from hashclient.scan.checked import (
    File,
    Look,
    learned_of,
    learned_of_containers,
    learned_of_plain,
    records_of_tags,
)
from hashclient.scan.executors.interface import Result
from hashclient.scan.judging import FILE_FLAGS, judge_files, listed_rows, outcome_of
from hashclient.scan.members import Members
from hashclient.scan.memory import Cache
from hashclient.scan.opening import OpenedAhead, Waits
from hashclient.scan.reading import (
    Deferred,
    Reader,
    RuledOut,
    SetAside,
    no_file,
    relied_size,
    same_content,
)
from hashclient.scan.records import PLAIN, Records
from hashclient.scan.sources.files import join, open_directory
from hashclient.scan.sources.interface import Group, Task
from hashclient.system.filesystems import FULL, NONE
from hashclient.system.identity import Identities, Identity
from hashclient.system.leases import can_lease

#: In a task of several files, one of at least this size is handed back, to be a task of its own.
DEFER_BYTES = 4 << 20
#: A task stops after reading this much and hands the rest back, so that no worker ends late.
TASK_BYTES = 64 << 20

#: CLOCK_REALTIME_COARSE, of linux/time.h, and the longest tick of it.
_COARSE_CLOCK, TICK_NS = 5, 10_000_000


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
        file_systems: Identities | None = None,
    ) -> None:
        """Check with `judge`.

        Files that `cache` knows are not read again; with `learn`, results hold records for one.
        `keep_clean` reports clean files one by one as well. `sparse`, `on_bytes` and `clock` are
        those of a `Reader`. `members` opens containers; without it, each file is one input.
        `file_systems` are those that the cache has.
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
        self._waits = Waits()
        self._file_systems = file_systems or Identities()
        #: By `st_dev`, for one task: as long as the reader keeps each of them from going away.
        self._identities: dict[int, Identity | None] = {}
        #: Files of one task that are no containers, whatever else is known of them.
        self._plain: list[os.stat_result] = []
        #: And what was found inside of others.
        self._inside: list[tuple[os.stat_result, bool | None, bytes]] = []
        self._bytes_before = 0
        #: Whether most files read in the task before have matched: then the other digests of
        #: entries are computed at once.
        self._expects_hits = False
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
        self._reader.spare = self._judge.every_algorithm if self._expects_hits else ()
        self._waits.begin()
        self._identities.clear()
        self._plain.clear()
        self._inside.clear()
        alone = not defer and sum(len(group.names) for group in task) == 1
        files: list[File] = []
        self._bytes_before = 0 if self._members is None else self._members.bytes_out
        try:
            for group in task:
                if self._reader.bytes_read >= self._most_bytes():
                    result.deferred.append(group)
                else:
                    self._check_group(group, result, files, whole=alone)
            self._waits.end(len(files))
            records = records_of_tags(self._judge, files)
            self._judge_files(files, records, result)
        finally:
            self._reader.end_task()
        result.bytes_read = self._reader.bytes_read
        if self._learn:
            result.learned = [
                *learned_of_plain(
                    [(status, None) for status in self._plain], self._identities, started_ns
                ),
                *learned_of(files, records, self._identities, started_ns),
            ]
            result.containers = list(
                learned_of_containers(self._inside, self._identities, started_ns)
            )
        return result

    def _check_group(self, group: Group, result: Result, files: list[File], *, whole: bool) -> None:
        """Work through the names of one directory."""
        try:
            fd = open_directory(group.directory, follow=True)
        except OSError as error:
            for name in group.names:
                self._set_aside(group, name, error, result)
            return
        ahead = None
        try:
            names = group.names
            # Where most files hit and must be read, a look at each is only one more request.
            looks_first = self._looks_first and not (self._expects_hits and self._cache is None)
            if looks_first:
                names = self._look_at(fd, group, names, result, files, whole=whole)
            #: Files without a look that need no reading, but may be containers.
            unlooked: list[str] = []
            #: Files without a look that cannot be opened: perhaps they need no reading either.
            refused: dict[str, OSError] = {}
            learn, identities = self._learn, self._identities
            flags = FILE_FLAGS if group.follow else FILE_FLAGS | os.O_NOFOLLOW
            reader, defer_bytes, known = self._reader, None if whole else DEFER_BYTES, len(files)
            ahead = OpenedAhead(names, flags, fd) if self._waits.often else None
            # Where files are read, this loop takes most of the time of a scan: so its functions are
            # local.
            open_file, close_file, read = os.open, os.close, reader.read
            sniffs, most_bytes = self._members is not None, self._most_bytes()
            for position, name in enumerate(names):
                if reader.bytes_read >= most_bytes:
                    result.deferred.append(group._replace(names=names[position:]))
                    break
                try:
                    file_fd = ahead.take() if ahead else open_file(name, flags, dir_fd=fd)
                    try:
                        plan, digests, length, status, reliable, free = read(file_fd, defer_bytes)
                        if learn and (device := status.st_dev) not in identities:
                            identities[device] = self._file_systems.of(file_fd, device)
                        is_plain = sniffs
                        if reader.may_be_container:
                            seen = (status, free) if reliable else None
                            is_plain = self._open(
                                file_fd, group, name, status, length, seen, result
                            )
                            most_bytes = self._most_bytes()
                    finally:
                        close_file(file_fd)
                except Deferred:
                    result.deferred.append(group._replace(names=[name]))
                except RuledOut as error:
                    if sniffs and not looks_first:
                        unlooked.append(name)
                        continue
                    result.clean += 1
                    result.ruled_out_by_size += 1
                    if self._keep_clean:
                        self._report_clean(group, name, error.size, result)
                except OSError as error:
                    if looks_first or not self._looks_first:
                        self._set_aside(group, name, error, result)
                    else:
                        refused[name] = error
                except SetAside as error:
                    self._set_aside(group, name, error, result)
                else:
                    file = File(
                        group, name, status, length, plan, digests, reliable, free, is_plain
                    )
                    if len(digests) > len(plan):
                        file.spare = digests[len(plan) :]
                        del digests[len(plan) :]
                    files.append(file)
            result.files_read += len(files) - known
            if unlooked or refused:
                found = self._look_at(fd, group, [*unlooked, *refused], result, files, whole=whole)
                for name in refused.keys() & found:
                    self._set_aside(group, name, refused[name], result)
                if changed := [name for name in found if name not in refused]:
                    result.deferred.append(group._replace(names=changed))
        finally:
            if ahead is not None:
                ahead.close()
            os.close(fd)

    def _look_at(
        self,
        fd: int,
        group: Group,
        names: list[str],
        result: Result,
        files: list[File],
        *,
        whole: bool,
    ) -> list[str]:
        """Settle those of `names` that need no reading; return the names of the rest."""
        if names is not group.names:
            group = group._replace(names=names)
        rest, looks = self._look(fd, group, result, files)
        return self._look_inside(fd, group, looks, result, whole=whole) + rest

    def _most_bytes(self) -> int:
        """Return how much a task may read; less, if it has opened containers."""
        if self._members is None:
            return TASK_BYTES
        return TASK_BYTES - (self._members.bytes_out - self._bytes_before)

    def _open(
        self,
        fd: int,
        group: Group,
        name: str,
        status: os.stat_result,
        size: int,
        seen: tuple[os.stat_result, bool | None] | None,
        result: Result,
    ) -> bool:
        """Check the members of a file that may be a container; return whether it is none after all.

        It is `size` bytes long. `seen` is its status, and whether nobody could write to it, if
        these can be relied on.
        """
        assert self._members is not None
        waits = self._waits.count()
        opened = self._members.open(
            fd,
            size,
            join(group.directory, name),
            lambda: same_content(status, os.fstat(fd)),
        )
        self._waits.leave_out(waits)  # of the process that opens it
        opened.add_to(result)
        if seen is not None and (known := opened.known()) is not None:
            self._inside.append((*seen, known))
        return not opened.is_container

    def _look_inside(
        self, fd: int, group: Group, looks: list[Look], result: Result, *, whole: bool
    ) -> list[str]:
        """Look into files that are settled themselves; return the names of those that changed."""
        changed: list[str] = []
        reader = self._reader
        flags = FILE_FLAGS if group.follow else FILE_FLAGS | os.O_NOFOLLOW
        looks = self._not_known_inside(group, looks, result)
        for position, look in enumerate(looks):
            name = look.name
            if reader.bytes_read >= self._most_bytes():
                rest = [other.name for other in looks[position:]]
                result.deferred.append(group._replace(names=rest))
                break
            try:
                file_fd = os.open(name, flags, dir_fd=fd)
                try:
                    status = reader.look(file_fd)
                    if not same_content(status, look.status):
                        changed.append(name)
                        continue
                    if reader.may_be_container:
                        reader.refuse_sparse(status)
                        if not whole and status.st_size >= DEFER_BYTES:
                            result.deferred.append(group._replace(names=[name]))
                            continue
                        seen = status, None
                        size = status.st_size
                        if self._open(file_fd, group, name, status, size, seen, result):
                            self._plain.append(status)
                    else:
                        self._plain.append(status)
                finally:
                    os.close(file_fd)
            except (OSError, SetAside) as error:
                self._set_aside(group, name, error, result)
                continue
            self._settle(group, look, result)
        return changed

    def _not_known_inside(self, group: Group, looks: list[Look], result: Result) -> list[Look]:
        """Settle containers whose members the cache knows and no list has; return the rest."""
        if self._cache is None or self._members is None or self._keep_clean or not looks:
            return looks
        try:
            known = self._cache.find_inside([look.status for look in looks], self._identities)
        except StateError:
            self._cache = None
            return looks
        places = list(known)
        clean = self._members.are_clean([known[place][0] for place in places])
        for place, is_clean in zip(places, clean, strict=True):
            if not is_clean:
                del known[place]
        for place, (members, believed) in known.items():
            self._settle(group, looks[place], result)
            result.clean += len(members)
            result.members += len(members)
            result.known_unchanged += len(members)
            result.believed_unchanged += len(members) if believed else 0
        return [look for place, look in enumerate(looks) if place not in known]

    def _settle(self, group: Group, look: Look, result: Result) -> None:
        """Count a file that is clean by its record in the cache, or by its size."""
        result.clean += 1
        if look.is_known:
            result.known_unchanged += 1
            result.believed_unchanged += int(look.is_believed)
        else:
            result.ruled_out_by_size += 1
        if self._keep_clean:
            self._report_clean(group, look.name, look.status.st_size, result)

    def _look(
        self, fd: int, group: Group, result: Result, files: list[File]
    ) -> tuple[list[str], list[Look]]:
        """Settle the files that need no reading; return the names of the rest."""
        names: list[str] = []
        statuses: list[os.stat_result] = []
        plans: list[Plan] = []
        unreliable: list[str] = []
        ruled_out = 0
        # Where sizes decide, this loop takes most of the time of a scan: so its functions are
        # local.
        follow, plan_of, device, trusted = group.follow, self._judge.plan, -1, False
        opens = self._members is not None
        trust = NONE
        for name in group.names:
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=follow)
                if status.st_dev != device:
                    trust = self._reader.trust_at(name, fd, status.st_dev, follow=follow)
                    device, trusted = status.st_dev, trust is FULL
                    if trust is not NONE and device not in self._identities:
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
                    self._report_clean(group, name, status.st_size, result)
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
        files: list[File],
    ) -> tuple[list[str], list[Look]]:
        """Settle files that the cache knows unchanged; return the other names and files to open."""
        if not names:
            return [], []
        records = None
        if self._cache is not None:
            try:
                records, old = self._cache.find(statuses, self._identities)
                result.seen += old
            except StateError:
                # The cache is damaged or busy for long. Reading every file is right, only slower.
                self._cache = None
        if records is None:
            looks = [
                Look(name, status)
                for name, status, plan in zip(names, statuses, plans, strict=True)
                if not plan
            ]
            return [name for name, plan in zip(names, plans, strict=True) if plan], looks
        masks = {plan: mask_of(plan) for plan in set(plans)}
        wanted = np.array([masks[plan] for plan in plans], np.uint8)
        known = (records["mask"] & wanted) == wanted
        # Whether the file is no container.
        plain = records["mask"] & np.uint8(PLAIN) != 0
        if self._members is None:
            plain[:] = True
        hit = listed_rows(self._judge, records, np.where(known, wanted, np.uint8(0)))
        # A container that hits is read as if it were not known: that is rare.
        known[[row for row in hit if not plain[row]]] = False
        settled = known & plain
        for row in hit:
            if known[row]:
                settled[row] = False
                size, record = statuses[row].st_size, records[row]
                files.append(
                    File(
                        group, names[row], statuses[row], size, (), [], reliable=True, record=record
                    )
                )
        believed = records["read_day"] != 0
        is_read = wanted != 0
        # A size that no entry has does not say that a file is no container: the cache does.
        rests_on_cache = is_read if self._members is None else np.ones_like(is_read)
        total = int(np.count_nonzero(settled))
        known_unchanged = int(np.count_nonzero(settled & rests_on_cache))
        result.clean += total
        result.ruled_out_by_size += total - known_unchanged
        result.known_unchanged += known_unchanged
        result.believed_unchanged += int(np.count_nonzero(settled & rests_on_cache & believed))
        if self._keep_clean:
            for row in np.flatnonzero(settled).tolist():
                self._report_clean(group, names[row], statuses[row].st_size, result)
        looks = [
            Look(names[row], statuses[row], bool(is_read[row]), bool(believed[row]))
            for row in np.flatnonzero(known & ~plain).tolist()
        ]
        return [names[row] for row in np.flatnonzero(~known).tolist()], looks

    def _judge_files(self, files: list[File], records: Records, result: Result) -> None:
        """Judge all files of a task together; count the clean ones, and keep the others."""
        outcomes = judge_files(self._judge, self._reader, files, records, result)
        self._expects_hits = 2 * len(outcomes) > len(files)
        result.clean += len(files) - len(outcomes)
        for number in range(len(files)) if self._keep_clean else sorted(outcomes):
            if number in outcomes:
                result.outcomes.append(outcomes[number])
            else:
                file = files[number]
                digests = file.by_algorithm()
                self._report_clean(file.group, file.name, file.length, result, digests)

    def _set_aside(
        self, group: Group, name: str, error: OSError | SetAside, result: Result
    ) -> None:
        result.outcomes.append(outcome_of(join(group.directory, name), error))

    @staticmethod
    def _report_clean(
        group: Group,
        name: str,
        size: int,
        result: Result,
        digests: dict[Algorithm, bytes] | None = None,
    ) -> None:
        path = join(group.directory, name)
        result.outcomes.append(Outcome(Kind.CLEAN, path, size, digests=digests or {}))

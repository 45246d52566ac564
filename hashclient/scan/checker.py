"""Checking files: choose the digests, compute them in one read, and judge each file.

A `Checker` works through tasks of names. For each file, 1 its size says which digests could still
matter, and if none could it is not even opened; 2 if the cache knows it unchanged, its tags are
there already; 3 otherwise the cheapest digests that cover the entries left are computed in one
read; 4 the tags of a task are looked up together; 5 where one hits, the entry's other digests are
computed too: all must agree. Steps 1 and 2 are for files only whose size and times can be relied
on; `looking` does them. With `Members`, containers are opened as well, and their members are
checked; a file that the cache knows to be no container is left alone. A `Checker` knows nothing of
processes: workers use it, and so do tests.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence

from hashclient.core.kinds import Kind
from hashclient.index.matcher import Judge
from hashclient.scan.checked import (
    File,
    learned_of,
    learned_of_containers,
    learned_of_plain,
    records_of_tags,
    seen_of,
)
from hashclient.scan.executors.interface import Result
from hashclient.scan.judging import FILE_FLAGS, judge_files
from hashclient.scan.looking import Looker, Missed, Opened, refuse, report_clean, set_aside
from hashclient.scan.members import Members
from hashclient.scan.memory import Cache
from hashclient.scan.opening import OpenedAhead, Waits
from hashclient.scan.reading import (
    Deferred,
    OtherFile,
    Reader,
    RuledOut,
    SetAside,
    same_content,
)
from hashclient.scan.reasons import CHANGED
from hashclient.scan.records import Records
from hashclient.scan.sources.directories import (
    GONE,
    ROUNDS,
    TICK_NS,
    MovedError,
    inode_of,
    is_mounted_on,
    is_older,
    open_listed,
    snapshot,
    where_now,
)
from hashclient.scan.sources.frame import chunk_of
from hashclient.scan.sources.interface import Group, Task, join
from hashclient.system.descriptors import NO_ROOM
from hashclient.system.identity import Identities
from hashclient.system.leases import can_lease
from hashclient.system.strangers import is_shared, trusted_users

#: In a task of several files, one of at least this size is handed back, to be a task of its own.
DEFER_BYTES = 4 << 20
#: A task stops after reading this much and hands the rest back, so that no worker ends late.
TASK_BYTES = 64 << 20

#: CLOCK_REALTIME_COARSE, of linux/time.h.
_COARSE_CLOCK = 5

#: So many directories are open together, and the cache is asked once about all of their files: each
#: question costs as much as the status of fifty files, and most directories have fewer.
DIRECTORIES = 16


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
        since_ns: int = 0,
    ) -> None:
        """Check with `judge`.

        Files that `cache` knows are not read again; with `learn`, results hold records for one.
        `keep_clean` reports clean files one by one as well. `sparse`, `on_bytes` and `clock` are
        those of a `Reader`. `members` opens containers; without it, each file is one input.
        `file_systems` are those that the cache has. Listing has begun at `since_ns`, of the clock
        that gives files their times.
        """
        self._judge = judge
        self._learn = learn
        self._since_ns = since_ns
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
        self._looker = Looker(
            judge,
            self._reader,
            self._file_systems,
            cache=cache,
            members=members,
            keep_clean=keep_clean,
        )
        #: Files of one task that are no containers, whatever else is known of them.
        self._plain: list[tuple[os.stat_result, None, int]] = []
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
        self._looker.identities.clear()
        self._plain.clear()
        self._inside.clear()
        alone = not defer and sum(len(group.names) for group in task) == 1
        files: list[File] = []
        self._bytes_before = 0 if self._members is None else self._members.bytes_out
        try:
            for start in range(0, len(task), DIRECTORIES):
                groups = task[start : start + DIRECTORIES]
                if self._reader.bytes_read >= self._most_bytes():
                    result.deferred += groups
                else:
                    self._check_groups(groups, result, files, whole=alone)
            self._waits.end(len(files))
            records = records_of_tags(self._judge, files)
            self._judge_files(files, records, result)
        finally:
            self._reader.end_task()
        result.bytes_read = self._reader.bytes_read
        if self._learn:
            result.learned = [
                *learned_of_plain(self._plain, self._looker.identities, started_ns),
                *learned_of(files, records, self._looker.identities, started_ns),
            ]
            result.containers = list(
                learned_of_containers(self._inside, self._looker.identities, started_ns)
            )
        return result

    def _check_groups(
        self, groups: Sequence[Group], result: Result, files: list[File], *, whole: bool
    ) -> None:
        """Work through the names of some directories."""
        opened: list[Opened] = []
        try:
            for group in groups:
                try:
                    fd, status, group = self._directory_of(group)
                except OSError as error:
                    if opened and error.errno in NO_ROOM:  # there is room when these are closed
                        result.deferred.append(group)
                        continue
                    for name in group.names:
                        set_aside(group, name, error, result)
                else:
                    inodes = group.inodes or [0] * len(group.names)
                    one = Opened(fd, group, status, group.names, inodes, listed=group.inodes)
                    opened.append(one)
            for one in opened:
                one.shares = len(opened) > 1
            # Where most files hit and must be read, a look at each is only one more request.
            looks_first = self._looks_first and not (
                self._expects_hits and not self._looker.has_cache
            )
            if looks_first:
                self._look_at(opened, result, files, whole=whole)
            for one in opened:
                if one.to_read:
                    self._read(one, result, files, looks_first=looks_first, whole=whole)
        finally:
            for one in opened:
                os.close(one.fd)

    def _directory_of(self, group: Group) -> tuple[int, os.stat_result, Group]:
        """Open the directory of a group; if it was replaced by another one, list that instead.

        A new directory was put there as a file is saved over another; so was an older one if only
        root or we can have done so. Otherwise the listed one may still be somewhere.

        Raises:
            OSError: it cannot be opened; if it is a `MovedError`, another one is in its place.
        """
        try:
            return *open_listed(group.directory, group.identity), group
        except MovedError:
            fd, status = open_listed(group.directory, None)
        try:
            was_before = is_older(fd, ".", self._since_ns)
            if was_before and is_shared(os.stat("..", dir_fd=fd), trusted_users()):
                raise MovedError
            listed = chunk_of(snapshot(fd))
        except BaseException:
            os.close(fd)
            raise
        group = group.only(listed.names, listed.inodes)
        return fd, status, group._replace(identity=(status.st_dev, status.st_ino))

    def _read(
        self,
        opened: Opened,
        result: Result,
        files: list[File],
        *,
        looks_first: bool,
        whole: bool,
        rounds: int = ROUNDS,
    ) -> None:
        """Read files of a directory; if it `looks_first`, all that need no reading are settled.

        Files that are not found under their names are looked for in so many `rounds`.
        """
        fd, group, names, inodes = opened.fd, opened.group, opened.to_read, opened.inodes
        if opened.status.st_dev in self._looker.differing:
            inodes = [0] * len(names)
        #: Files without a look that cannot be opened: perhaps they need no reading either.
        refused: dict[tuple[str, int], OSError] = {}
        #: Files that have another name now, or none.
        missed: list[Missed] = []
        learn, identities = self._learn, self._looker.identities
        flags = FILE_FLAGS if group.follow else FILE_FLAGS | os.O_NOFOLLOW
        reader, defer_bytes, known = self._reader, None if whole else DEFER_BYTES, len(files)
        ahead = OpenedAhead(names, flags, fd) if self._waits.often else None
        try:
            # Where files are read, this loop takes most of the time of a scan: so its functions are
            # local.
            open_file, close_file, read = os.open, os.close, reader.read
            sniffs, most_bytes = self._members is not None, self._most_bytes()
            for position, (name, inode) in enumerate(zip(names, inodes, strict=True)):
                if reader.bytes_read >= most_bytes:
                    result.deferred.append(group.only(names[position:], inodes[position:]))
                    break
                try:
                    file_fd = ahead.take() if ahead else open_file(name, flags, dir_fd=fd)
                    try:
                        try:
                            plan, digests, length, status, reliable, free = read(
                                file_fd, defer_bytes, inode
                            )
                        except RuledOut as error:
                            if sniffs:
                                # Nobody has looked at it, or it has changed since.
                                now = reader.look(file_fd)
                                if now.st_size != error.size:
                                    raise SetAside(Kind.UNREAD, CHANGED) from None
                                self._look_into(
                                    file_fd, opened, name, now, result, ahead, whole=whole
                                )
                                most_bytes = self._most_bytes()
                            raise
                        if learn and (device := status.st_dev) not in identities:
                            identities[device] = self._file_systems.of(file_fd, device)
                        begin = reader.begin if sniffs else -1
                        if reader.may_be_container:
                            seen = (status, free) if reliable else None
                            if not self._open(
                                file_fd, opened, name, status, length, seen, result, ahead
                            ):
                                begin = -1
                            most_bytes = self._most_bytes()
                    finally:
                        close_file(file_fd)
                except OtherFile as error:
                    # A file that is mounted on another has an inode of its own.
                    is_other = error.status.st_dev != opened.status.st_dev
                    is_mount = is_other or is_mounted_on(fd, name)
                    missed.append(Missed(name, 0 if is_mount else inode, MovedError()))
                except Deferred:
                    result.deferred.append(group.only([name], [inode]))
                except RuledOut as error:
                    result.clean += 1
                    result.ruled_out_by_size += 1
                    if self._keep_clean:
                        report_clean(group, name, error.size, result)
                except OSError as error:
                    if inode and error.errno in GONE:
                        missed.append(Missed(name, inode, error))
                    elif looks_first or not self._looks_first:
                        refuse(opened, name, inode, error, result)
                    else:
                        refused[name, inode] = error
                except SetAside as error:
                    set_aside(group, name, error, result)
                else:
                    file = File(
                        group,
                        opened.status,
                        name,
                        status,
                        length,
                        plan,
                        digests,
                        reliable,
                        free,
                        begin,
                    )
                    if len(digests) > len(plan):
                        file.spare = digests[len(plan) :]
                        del digests[len(plan) :]
                    files.append(file)
        finally:
            if ahead is not None:
                ahead.close()
        result.files_read += len(files) - known
        if refused:
            names, inodes = [name for name, _ in refused], [inode for _, inode in refused]
            late = opened.only(names, inodes)
            self._look_at([late], result, files, whole=whole)
            errors = {name: error for (name, _), error in refused.items()}
            for name, inode in zip(late.to_read, late.inodes, strict=True):
                refuse(opened, name, inode, errors[name], result)
        if missed:
            self._read_missed(opened, missed, result, files, whole=whole, rounds=rounds)

    def _read_missed(
        self,
        opened: Opened,
        missed: Sequence[Missed],
        result: Result,
        files: list[File],
        *,
        whole: bool,
        rounds: int,
    ) -> None:
        """Read files of a directory under the names that they have now.

        If one is gone, the file that has its name now is read; the listed one is unread if there is
        none, or one that has come from elsewhere.
        """
        found: dict[str, int] = {}
        try:
            now = snapshot(opened.fd) if rounds else []
            if rounds == ROUNDS - 1 and inode_of(opened.fd, missed[0].name) is not None:
                self._looker.differing.add(opened.status.st_dev)
        except OSError:
            now = []  # it was removed
        for one in missed:
            place = where_now(now, one.name, one.inode) if one.inode else (one.name, 0)
            if place is None:
                set_aside(opened.group, one.name, one.error, result)
                continue
            name, inode = place
            is_other = inode != one.inode and inode not in opened.listed
            if is_other and is_older(opened.fd, name, self._since_ns):
                set_aside(opened.group, one.name, one.error, result)
                inode = 0
            found.setdefault(name, inode)
        if found:
            again = opened.only(list(found), list(found.values()))
            self._read(again, result, files, looks_first=True, whole=whole, rounds=rounds - 1)

    def _look_at(
        self, opened: Sequence[Opened], result: Result, files: list[File], *, whole: bool
    ) -> None:
        """Settle those files that need no reading; the rest is to be read."""
        self._looker.look_at(opened, result, files)
        for one in opened:
            if one.looks:
                one.read_first(self._look_inside(one, result, whole=whole))

    def _most_bytes(self) -> int:
        """Return how much a task may read; less, if it has opened containers."""
        if self._members is None:
            return TASK_BYTES
        return TASK_BYTES - (self._members.bytes_out - self._bytes_before)

    def _open(
        self,
        fd: int,
        directory: Opened,
        name: str,
        status: os.stat_result,
        size: int,
        seen: tuple[os.stat_result, bool | None] | None,
        result: Result,
        ahead: OpenedAhead | None = None,
    ) -> bool:
        """Check the members of a file that may be a container; return whether it is none after all.

        It is `size` bytes long. `seen` is its status, and whether nobody could write to it, if
        these can be relied on. `ahead` has other files of its directory.

        Raises:
            OSError: the file cannot be opened as a container now; if there is no room, later.
        """
        assert self._members is not None
        waits = self._waits.count()
        open_members = functools.partial(
            self._members.open,
            fd,
            size,
            join(directory.group.directory, name),
            lambda: same_content(status, os.fstat(fd)),
        )
        try:
            opened = open_members(can_wait=directory.shares or ahead is not None)
        except OSError as error:
            if ahead is None or error.errno not in NO_ROOM:
                raise
            ahead.give_back()
            opened = open_members(can_wait=directory.shares)
        self._waits.leave_out(waits)  # of the process that opens it
        opened.add_to(result, seen_of(directory.group, directory.status, status))
        if seen is not None and (known := opened.known()) is not None:
            self._inside.append((*seen, known))
        return not opened.is_container

    def _look_into(
        self,
        fd: int,
        directory: Opened,
        name: str,
        status: os.stat_result,
        result: Result,
        ahead: OpenedAhead | None = None,
        *,
        whole: bool,
    ) -> None:
        """Check the members of a file that is settled itself, if it may be a container.

        The reader has just looked at the file, and found this status. `ahead` has other files of
        its directory.

        Raises:
            Deferred: it is large, and not alone in its task.
            SetAside: it is nearly all hole.
            OSError: as for `_open`.
        """
        if self._reader.may_be_container:
            self._reader.refuse_sparse(status)
            if not whole and status.st_size >= DEFER_BYTES:
                raise Deferred
            seen = status, None
            size = status.st_size
            if not self._open(fd, directory, name, status, size, seen, result, ahead):
                return
        self._plain.append((status, None, self._reader.begin))

    def _look_inside(self, opened: Opened, result: Result, *, whole: bool) -> list[tuple[str, int]]:
        """Look into files that are settled themselves; return changed ones, with their inodes."""
        fd, group = opened.fd, opened.group
        changed: list[tuple[str, int]] = []
        reader = self._reader
        flags = FILE_FLAGS if group.follow else FILE_FLAGS | os.O_NOFOLLOW
        looks = self._looker.not_known_inside(group, opened.looks, result)
        for position, look in enumerate(looks):
            name, inode = look.name, look.status.st_ino
            if reader.bytes_read >= self._most_bytes():
                rest = looks[position:]
                inodes = [other.status.st_ino for other in rest]
                result.deferred.append(group.only([other.name for other in rest], inodes))
                break
            try:
                file_fd = os.open(name, flags, dir_fd=fd)
                try:
                    status = reader.look(file_fd)
                    if not same_content(status, look.status):
                        changed.append((name, inode))
                        continue
                    self._look_into(file_fd, opened, name, status, result, whole=whole)
                finally:
                    os.close(file_fd)
            except Deferred:
                result.deferred.append(group.only([name], [inode]))
                continue
            except OSError as error:
                if error.errno in GONE:
                    changed.append((name, inode))
                else:
                    refuse(opened, name, inode, error, result)
                continue
            except SetAside as error:
                set_aside(group, name, error, result)
                continue
            self._looker.settle(group, look, result)
        return changed

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
                report_clean(file.group, file.name, file.length, result, digests)

"""Settling files without reading them: by their size, or by what the cache knows of them.

A file whose size no entry has is clean; so is one that the cache knows unchanged and whose tags no
entry has. Both are for files only whose size and times can be relied on. The cache is asked about
the files of several directories at once. The other files are to be read, or to be opened, if they
may be containers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from hashclient.core.algorithms import Algorithm, mask_of
from hashclient.core.counts import add_by_kind
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.errors import StateError
from hashclient.index.matcher import Judge, Plan
from hashclient.scan.checked import File, Look
from hashclient.scan.executors.interface import Result
from hashclient.scan.inside import counts_of
from hashclient.scan.judging import listed_rows, outcome_of
from hashclient.scan.members import Members
from hashclient.scan.memory import Cache
from hashclient.scan.reading import Reader, SetAside, no_file, relied_size
from hashclient.scan.records import PLAIN
from hashclient.scan.sources.directories import GONE
from hashclient.scan.sources.interface import Group, join
from hashclient.system.descriptors import NO_ROOM
from hashclient.system.filesystems import FULL, NONE
from hashclient.system.identity import Identities, Identity


class Opened(msgspec.Struct, gc=False):
    """An open directory: its files that are still to be read, and those to be opened or looked up.

    `status` is that of the directory itself. `inodes` are those of the files to be read, as they
    were listed or looked at; 0 stands for any. `listed` are those of all files of the group.
    `names`, `statuses` and `plans` are of the files whose size and times can be relied on. If it
    `shares`, other directories are open as well.
    """

    fd: int
    group: Group
    status: os.stat_result
    to_read: list[str]
    inodes: Sequence[int]
    shares: bool = False
    listed: Sequence[int] = ()
    names: list[str] = []
    statuses: list[os.stat_result] = []
    plans: list[Plan] = []
    looks: list[Look] = []

    def read_first(self, files: Sequence[tuple[str, int]]) -> None:
        """Have files read before the others, by their names and inodes."""
        self.to_read = [name for name, _ in files] + self.to_read
        self.inodes = [inode for _, inode in files] + list(self.inodes)

    def only(self, names: list[str], inodes: list[int]) -> Opened:
        """Return the same directory, with some files to be read."""
        group = self.group.only(names, inodes)
        return Opened(self.fd, group, self.status, names, inodes, self.shares, self.listed)


class Missed(NamedTuple):
    """A file that does not stand under its listed name any more; 0 stands for any inode.

    `error` is why it is unread if it is not found again.
    """

    name: str
    inode: int
    error: OSError


class Looker:
    """Settles files that need no reading; `identities` are those of the file systems of a task."""

    def __init__(
        self,
        judge: Judge,
        reader: Reader,
        file_systems: Identities,
        *,
        cache: Cache | None,
        members: Members | None,
        keep_clean: bool,
    ) -> None:
        """Ask `cache`, if there is one; with `members`, a file may be a container as well.

        `reader` knows which file systems are trusted. With `keep_clean`, clean files are reported
        one by one.
        """
        self._judge = judge
        self._reader = reader
        self._file_systems = file_systems
        self._cache = cache
        self._members = members
        self._keep_clean = keep_clean
        #: By `st_dev`, for one task: as long as the reader keeps each of them from going away.
        self.identities: dict[int, Identity | None] = {}
        #: File systems whose directories show other inodes than their files have.
        self.differing: set[int] = set()

    @property
    def has_cache(self) -> bool:
        """Whether there is a cache, and it can be read."""
        return self._cache is not None

    def may_be_listed(self, opened: Opened, status: os.stat_result) -> bool:
        """Return whether a file may have been listed under another inode than it has.

        Where a file system is mounted on a file, its directory shows the inode of what is below.
        """
        device = status.st_dev
        return device != opened.status.st_dev or device in self.differing

    def look_at(self, opened: Sequence[Opened], result: Result, files: list[File]) -> None:
        """Settle those files that need no reading; the rest is `to_read`, or in `looks`."""
        for one in opened:
            self._look(one, result)
        if asked := [one for one in opened if one.names]:
            self._look_up(asked, result, files)

    def _look(self, opened: Opened, result: Result) -> None:
        """Settle the files of a directory by their size; note the status of those that are left."""
        fd, group = opened.fd, opened.group
        names: list[str] = []
        statuses: list[os.stat_result] = []
        plans: list[Plan] = []
        others: list[str] = []
        others_inodes: list[int] = []
        ruled_out = 0
        # Where sizes decide, this loop takes most of the time of a scan: so its functions are
        # local.
        follow, plan_of, device, trusted = group.follow, self._judge.plan, -1, False
        opens, stat_file, is_file = self._members is not None, os.stat, stat.S_ISREG
        trust = NONE
        for name, inode in zip(group.names, opened.inodes, strict=True):
            try:
                status = stat_file(name, dir_fd=fd, follow_symlinks=follow)
                if status.st_ino != inode and inode and not self.may_be_listed(opened, status):
                    others.append(name)
                    others_inodes.append(inode)
                    continue
                if status.st_dev != device:
                    trust = self._reader.trust_at(name, fd, status.st_dev, follow=follow)
                    device, trusted = status.st_dev, trust is FULL
                    if trust is not NONE and device not in self.identities:
                        identity = self._file_systems.at(name, fd, device, follow=follow)
                        self.identities[device] = identity
                if not is_file(status.st_mode):
                    raise no_file(status.st_mode)
            except OSError as error:
                if inode and error.errno in GONE:
                    others.append(name)
                    others_inodes.append(inode)
                else:
                    refuse(opened, name, inode, error, result)
                continue
            except SetAside as error:
                set_aside(group, name, error, result)
                continue
            size = status.st_size if trusted else relied_size(status, trust)
            plan = plan_of(size)
            if not plan and not (opens and size is not None):
                ruled_out += 1
                if self._keep_clean:
                    report_clean(group, name, status.st_size, result)
            elif size is None:
                others.append(name)
                others_inodes.append(inode)
            else:
                names.append(name)
                statuses.append(status)
                plans.append(plan)
        result.clean += ruled_out
        result.ruled_out_by_size += ruled_out
        opened.to_read, opened.inodes = others, others_inodes
        opened.names, opened.statuses, opened.plans = names, statuses, plans

    def _look_up(self, opened: Sequence[Opened], result: Result, files: list[File]) -> None:
        """Settle files that the cache knows unchanged; the others are to be read or opened."""
        if len(opened) == 1:  # as mostly, where directories are large
            (one,) = opened
            names, statuses, plans = one.names, one.statuses, one.plans
        else:
            names = [name for one in opened for name in one.names]
            statuses = [status for one in opened for status in one.statuses]
            plans = [plan for one in opened for plan in one.plans]
        records = None
        if self._cache is not None:
            try:
                records, old = self._cache.find(statuses, self.identities)
                result.seen += old
            except StateError:
                # The cache is damaged or busy for long. Reading every file is right, only slower.
                self._cache = None
        if records is None:
            for one in opened:
                both = list(zip(one.names, one.statuses, one.plans, strict=True))
                one.looks = [Look(name, status) for name, status, plan in both if not plan]
                one.read_first([(name, status.st_ino) for name, status, plan in both if plan])
            return
        #: By row, the number of its directory.
        of = np.repeat(np.arange(len(opened)), [len(one.names) for one in opened])
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
                one, size = opened[of[row]], statuses[row].st_size
                files.append(
                    File(
                        one.group,
                        one.status,
                        names[row],
                        statuses[row],
                        size,
                        (),
                        [],
                        reliable=True,
                        record=records[row],
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
                group = opened[of[row]].group
                report_clean(group, names[row], statuses[row].st_size, result)
        for row in np.flatnonzero(known & ~plain).tolist():
            look = Look(names[row], statuses[row], bool(is_read[row]), bool(believed[row]))
            opened[of[row]].looks.append(look)
        unknown: list[list[tuple[str, int]]] = [[] for _ in opened]
        for row in np.flatnonzero(~known).tolist():
            unknown[of[row]].append((names[row], statuses[row].st_ino))
        for one, files_of in zip(opened, unknown, strict=True):
            one.read_first(files_of)

    def not_known_inside(self, group: Group, looks: list[Look], result: Result) -> list[Look]:
        """Settle containers whose members the cache knows and no list has; return the rest."""
        if self._cache is None or self._members is None or self._keep_clean or not looks:
            return looks
        try:
            known = self._cache.find_inside([look.status for look in looks], self.identities)
        except StateError:
            self._cache = None
            return looks
        places = list(known)
        clean = self._members.are_clean([known[place][0] for place in places])
        for place, is_clean in zip(places, clean, strict=True):
            if not is_clean:
                del known[place]
        for place, (members, believed) in known.items():
            self.settle(group, looks[place], result)
            count, not_opened = counts_of(members)
            add_by_kind(result.not_opened, not_opened)
            result.clean += count
            result.members += count
            result.known_unchanged += count
            result.believed_unchanged += count if believed else 0
        return [look for place, look in enumerate(looks) if place not in known]

    def settle(self, group: Group, look: Look, result: Result) -> None:
        """Count a file that is clean by its record in the cache, or by its size."""
        result.clean += 1
        if look.is_known:
            result.known_unchanged += 1
            result.believed_unchanged += int(look.is_believed)
        else:
            result.ruled_out_by_size += 1
        if self._keep_clean:
            report_clean(group, look.name, look.status.st_size, result)


def refuse(opened: Opened, name: str, inode: int, error: OSError, result: Result) -> None:
    """Report a file that cannot be opened; hand it back if there is room for it later."""
    if opened.shares and error.errno in NO_ROOM:
        result.deferred.append(opened.group.only([name], [inode]))
    else:
        set_aside(opened.group, name, error, result)


def set_aside(group: Group, name: str, error: OSError | SetAside, result: Result) -> None:
    """Report a file that was not checked."""
    result.outcomes.append(outcome_of(join(group.directory, name), error))


def report_clean(
    group: Group,
    name: str,
    size: int,
    result: Result,
    digests: dict[Algorithm, bytes] | None = None,
) -> None:
    """Report a clean file; it is counted elsewhere."""
    path = join(group.directory, name)
    result.outcomes.append(Outcome(Kind.CLEAN, path, size, digests=digests or {}))

"""Decides about files without reading them, by their size or their record in the cache.

If no entry has the size of a file, the file is clean. A file is also clean if its record in the
cache shows that the file is unchanged, and no entry has its tags. Files are judged by their size or
by the cache only if their size and times are reliable. The cache is asked about the files of
several directories at once. All files that neither the size nor the cache shows to be clean must be
read, or opened if they may be containers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

import numpy as np

from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Outcome
from hashclient.core.verdict import add_by_kind
from hashclient.index.matcher import Judge, Plan
from hashclient.scan.cache.inside import counts_of
from hashclient.scan.cache.interface import Cache
from hashclient.scan.cache.records import PLAIN
from hashclient.scan.check.judging import Row, listed_rows, outcome_of
from hashclient.scan.check.members import Members
from hashclient.scan.check.opening_files import Directory, Look
from hashclient.scan.check.reading import Read, Reader, SetAside, no_file, relied_size
from hashclient.scan.sources.finding_again import GONE
from hashclient.scan.values.work import Result
from hashclient.system.descriptors import NO_ROOM
from hashclient.system.filesystems import FULL, NONE

#: A file of a directory, with reliable size and times: directory, name, status, and the digests to
#: compute.
_Seen = tuple[Directory, str, os.stat_result, Plan]


class Looker:
    """Decides which files are clean without being read."""

    def __init__(
        self,
        judge: Judge,
        reader: Reader,
        *,
        cache: Cache | None,
        members: Members | None,
        keep_clean: bool,
    ) -> None:
        """Ask `cache`, if given; with `members`, a file must also be known to be no container.

        `reader` knows which file systems are trusted. With `keep_clean`, clean files have outcomes.
        """
        self._judge = judge
        self._reader = reader
        self._cache = cache
        self._members = members
        self._keep_clean = keep_clean
        #: The devices of file systems whose directories show another inode for a file than the
        #: status of the file.
        self.differing: set[int] = set()
        #: The records of the files of a task that hit, by the index of their row.
        self.known: dict[int, np.void] = {}

    @property
    def has_cache(self) -> bool:
        """Whether a cache was given, and can be read."""
        return self._cache is not None

    def look_at(self, directories: Sequence[Directory], result: Result, rows: list[Row]) -> None:
        """Decide which files need not be read; the other files stay in the directories.

        A row is added to `rows` for each file that the cache knows and a list has.
        """
        seen: list[_Seen] = []
        for directory in directories:
            seen += self._look(directory, result)
            directory.looked = True
        if seen:
            self._look_up(seen, result, rows)

    def _look(self, directory: Directory, result: Result) -> list[_Seen]:
        """Decide about files of a directory by size; return the files that the cache may know."""
        fd, follow = directory.fd, directory.group.follow
        seen: list[_Seen] = []
        names: list[str] = []
        inodes: list[int] = []
        ruled_out = 0
        # This loop takes most of the time of a scan in which sizes decide, so its functions are
        # local variables.
        plan_of, number, trusted, trust = self._judge.plan, -1, False, NONE
        opens, stat_file, is_file, add = (
            self._members is not None,
            os.stat,
            stat.S_ISREG,
            seen.append,
        )
        for name, inode in zip(directory.names, directory.inodes, strict=True):
            try:
                status = stat_file(name, dir_fd=fd, follow_symlinks=follow)
                if status.st_dev != number:
                    # If a file system is mounted on a file, the directory shows the inode of the
                    # hidden file.
                    device = self._reader.device_at(name, fd, status.st_dev, follow=follow)
                    number, trust = status.st_dev, device.trust
                    trusted = trust is FULL
                if status.st_ino != inode and inode:
                    if number == directory.status.st_dev and number not in self.differing:
                        names.append(name)
                        inodes.append(inode)
                        continue
                if not is_file(status.st_mode):
                    raise no_file(status.st_mode)
            except OSError as error:
                if inode and error.errno in GONE:
                    names.append(name)
                    inodes.append(inode)
                else:
                    refuse(directory, name, inode, error, result)
                continue
            except SetAside as error:
                set_aside(directory, name, error, result)
                continue
            size = status.st_size if trusted else relied_size(status, trust)
            plan = plan_of(size)
            if not plan and not (opens and size is not None):
                ruled_out += 1
                if self._keep_clean:
                    report_clean(directory, name, status.st_size, result)
            elif size is None:
                names.append(name)
                inodes.append(inode)
            else:
                add((directory, name, status, plan))
        result.clean += ruled_out
        result.ruled_out_by_size += ruled_out
        directory.names, directory.inodes, directory.looks = names, inodes, {}
        return seen

    def _look_up(self, seen: Sequence[_Seen], result: Result, rows: list[Row]) -> None:
        """Decide about files whose records show no change; leave files that must be opened."""
        directories, names, statuses, plans = zip(*seen, strict=True)
        records = None
        identities = self._reader.identities()
        if self._cache is not None:
            try:
                records, old = self._cache.find(statuses, identities)
                result.seen += old
            except StateError:
                # The cache is damaged, or was busy for long. Without the cache, every file is read,
                # which gives the same outcomes, but takes longer.
                self._cache = None
        if records is None:
            for directory, name, status, plan in seen:
                _leave(directory, name, status, None if plan else Look(status))
            return
        masks = {plan: mask_of(plan) for plan in set(plans)}
        wanted = np.array([masks[plan] for plan in plans], np.uint8)
        known = (records["mask"] & wanted) == wanted
        # For each file, whether it is known to be no container.
        plain = records["mask"] & np.uint8(PLAIN) != 0
        if self._members is None:
            plain[:] = True
        hit = listed_rows(self._judge, records, np.where(known, wanted, np.uint8(0)))
        # A container that hits, which is rare, is read as if the cache had no record of it.
        known[[row for row in hit if not plain[row]]] = False
        settled = known & plain
        for row in hit:
            if known[row]:
                settled[row] = False
                self.known[len(rows)] = records[row]
                directory, name, status, _ = seen[row]
                read: Read = (), [], status.st_size, status, True, None
                rows.append((directory, name, -1, read))
        believed = records["read_day"] != 0
        is_read = wanted != 0
        # A size that no entry has does not show whether a file is a container, so the file counts
        # as known by the cache.
        rests_on_cache = settled & is_read if self._members is None else settled
        known_unchanged = int(np.count_nonzero(rests_on_cache))
        total = int(np.count_nonzero(settled))
        result.clean += total
        result.ruled_out_by_size += total - known_unchanged
        result.known_unchanged += known_unchanged
        result.believed_unchanged += int(np.count_nonzero(rests_on_cache & believed))
        if self._keep_clean:
            for row in np.flatnonzero(settled).tolist():
                report_clean(directories[row], names[row], statuses[row].st_size, result)
        looks: dict[int, Look] = {}
        for row in np.flatnonzero(known & ~plain).tolist():
            looks[row] = Look(statuses[row], bool(is_read[row]), bool(believed[row]))
        self._settle_containers(seen, looks, result)
        for row in [*looks, *np.flatnonzero(~known).tolist()]:
            directory, name, status, _ = seen[row]
            _leave(directory, name, status, looks.get(row))

    def _settle_containers(
        self, seen: Sequence[_Seen], looks: dict[int, Look], result: Result
    ) -> None:
        """Remove the containers from `looks` whose members are all known, and none is listed."""
        if self._cache is None or self._members is None or self._keep_clean or not looks:
            return
        rows = list(looks)
        try:
            known = self._cache.find_inside(
                [look.status for look in looks.values()], self._reader.identities()
            )
        except StateError:
            self._cache = None
            return
        clean = self._members.are_clean([members for members, _ in known.values()])
        for (place, (members, believed)), is_clean in zip(known.items(), clean, strict=True):
            if not is_clean:
                continue
            directory, name, _, _ = seen[rows[place]]
            self.settle(directory, name, looks.pop(rows[place]), result)
            count, claimed, not_opened = counts_of(members)
            add_by_kind(result.not_opened, not_opened)
            result.clean += count
            result.members += count
            result.ruled_out_by_claim += claimed
            result.known_unchanged += count - claimed
            result.believed_unchanged += count - claimed if believed else 0

    def settle(self, directory: Directory, name: str, look: Look, result: Result) -> None:
        """Count a file that is clean by its record in the cache, or by its size."""
        result.clean += 1
        if look.is_known:
            result.known_unchanged += 1
            result.believed_unchanged += int(look.is_believed)
        else:
            result.ruled_out_by_size += 1
        if self._keep_clean:
            report_clean(directory, name, look.status.st_size, result)


def _leave(directory: Directory, name: str, status: os.stat_result, look: Look | None) -> None:
    """Add a file to the files to be opened; with `look`, the file is only examined for marks."""
    directory.names.append(name)
    directory.inodes.append(status.st_ino)
    if look is not None:
        directory.looks[name] = look


def refuse(directory: Directory, name: str, inode: int, error: OSError, result: Result) -> None:
    """Defer a file that lacks a free descriptor; report a file with another error as unread."""
    if directory.shares and error.errno in NO_ROOM:
        result.deferred.append(directory.group.only([name], [inode]))
    else:
        set_aside(directory, name, error, result)


def set_aside(directory: Directory, name: str, error: OSError | SetAside, result: Result) -> None:
    """Add the outcome of a file that was not checked to the result."""
    result.outcomes.append(outcome_of(directory.path(name), error))


def report_clean(
    directory: Directory,
    name: str,
    size: int,
    result: Result,
    digests: dict[Algorithm, bytes] | None = None,
) -> None:
    """Report a clean file, which the caller counts."""
    outcome = Outcome(Kind.CLEAN, directory.path(name), size, digests=digests or {})
    result.outcomes.append(outcome)

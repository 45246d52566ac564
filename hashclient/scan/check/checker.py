"""The check of files: choose digests, compute them in one read, and judge each file.

A `Checker` gets tasks (groups of names), and does these steps for each file:

1. The size of the file shows which digests of entries can still match. If no digest can match, the
   file is not opened.
2. If the cache shows that the file is unchanged, the tags of the file are taken from the cache.
3. If the cache has no record of the file, or the file has changed, the cheapest digests that cover
   the remaining entries are computed in one read.
4. The tags of all files of a task are looked up together.
5. If one digest of the file hits, the other digests of the entry are computed too, because all
   digests must agree.

Steps 1 and 2, which use the size and the cache, are only for files with reliable size and times;
the module `ruling_out` does these steps. With `Members`, containers are opened as well, and their
members are checked. A file that the cache knows to be no container is not opened. A `Checker` does
not depend on processes, so that both workers and tests can use it.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence

from hashclient.index.matcher import Judge
from hashclient.scan.cache.interface import Cache
from hashclient.scan.check.judging import (
    Row,
    files_of,
    judge_files,
    learn,
    outcome_of,
)
from hashclient.scan.check.members import Members
from hashclient.scan.check.opening_files import Directory, OpenedAhead, Waits, directory_of
from hashclient.scan.check.reading import Deferred, OtherFile, Read, Reader, SetAside, same_content
from hashclient.scan.check.ruling_out import Looker, refuse, report_clean, set_aside
from hashclient.scan.sources.finding_again import (
    GONE,
    ROUNDS,
    MovedError,
    inode_of,
    is_mounted_on,
    is_older,
    lagging_ns,
    open_listed,
    snapshot,
    where_now,
)
from hashclient.scan.sources.frame import chunk_of
from hashclient.scan.values.work import Group, Result, Task, join
from hashclient.system.descriptors import NO_ROOM
from hashclient.system.identity import Identities, is_mount_root
from hashclient.system.leases import can_lease
from hashclient.system.strangers import is_shared, trusted_users

#: In a task of several files, a file of at least this many bytes is not read, but returned as
#: deferred, and becomes a task of its own.
DEFER_BYTES = 4 << 20
#: A task stops after it has read this many bytes, and returns the other files as deferred, so that
#: no worker is busy much longer than the other workers.
TASK_BYTES = 64 << 20
#: A task also stops after this many members of containers: each member may match, and too many
#: outcomes would make the result of the task too large.
TASK_MEMBERS = 4_096

#: This many directories are open together, and one query asks the cache about all their files. A
#: query takes as long as reading the status of fifty files, and most directories have fewer files.
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
        is_elsewhere: bool = False,
    ) -> None:
        """Judge files with `judge`.

        - `cache`: files that the cache shows to be unchanged are not read again.
        - `learn`: whether results contain records for a cache.
        - `keep_clean`: whether clean files have outcomes as well.
        - `sparse`, `on_bytes` and `clock` have the same meaning as in `Reader`.
        - `members` opens containers; without `members`, containers are not opened.
        - `file_systems`: the identities of file systems under which the cache remembers files.
        - `since_ns`: when the listing began, by the clock that gives files their times.
        - `is_elsewhere`: whether the files were listed on another machine, which may have mounted
          other file systems.
        """
        self._judge = judge
        self._learn = learn
        self._since_ns = since_ns
        self._is_elsewhere = is_elsewhere
        self._keep_clean = keep_clean
        self._members = members
        self._reader = Reader(
            judge.plan,
            sparse=sparse,
            leases=learn and can_lease(),
            on_bytes=on_bytes,
            clock=clock,
            sniffs=members is not None,
            file_systems=(file_systems or Identities()) if learn or cache is not None else None,
        )
        self._waits = Waits()
        self._looker = Looker(
            judge, self._reader, cache=cache, members=members, keep_clean=keep_clean
        )
        #: The files of a task that are no containers, each with its first byte.
        self._plain: list[tuple[os.stat_result, int]] = []
        #: The containers of a task, each with its members as bytes.
        self._inside: list[tuple[os.stat_result, bool | None, bytes]] = []
        self._bytes_before = 0
        #: Whether most files of the previous task have matched. If most files have matched, the
        #: next task computes all digests of the entries in the first read of each short file.
        self._expects_hits = False
        #: Whether the status of a file is read before the file is opened. If neither sizes nor a
        #: cache can rule out files, the status is not needed before the file is opened.
        self._may_look = cache is not None or not judge.reads_everything

    def check(self, task: Task, *, defer: bool = False) -> Result:
        """Check every file of a task; each file has an outcome, is counted, or is deferred.

        A file that is alone in its task is checked at any size, unless `defer` is set.
        """
        result = Result()
        started_ns = lagging_ns()
        reader = self._reader
        reader.begin_task()
        reader.spare = self._judge.every_algorithm if self._expects_hits else ()
        self._waits.begin()
        self._looker.known = {}
        self._plain.clear()
        self._inside.clear()
        alone = not defer and sum(len(group.names) for group in task) == 1
        rows: list[Row] = []
        self._bytes_before = 0 if self._members is None else self._members.bytes_out
        try:
            for start in range(0, len(task), DIRECTORIES):
                groups = task[start : start + DIRECTORIES]
                if reader.bytes_read >= self._most_bytes(result):
                    result.deferred += groups
                else:
                    self._check_groups(groups, result, rows, whole=alone)
            self._waits.end(len(rows))
            files = files_of(self._judge, rows, self._looker.known)
            outcomes = judge_files(self._judge, reader, files, result)
            if self._learn:
                found = self._plain, self._inside
                learn(result, files, *found, reader.identities(), started_ns)
        finally:
            reader.end_task()
        result.bytes_read = reader.bytes_read
        self._expects_hits = 2 * len(outcomes) > len(rows)
        result.clean += len(rows) - len(outcomes)
        for number in range(len(rows)) if self._keep_clean else sorted(outcomes):
            if number in outcomes:
                result.outcomes.append(outcomes[number])
            else:
                directory, name, *_ = rows[number]
                report_clean(directory, name, files.lengths[number], result, files.of(number))
        return result

    def _check_groups(
        self, groups: Sequence[Group], result: Result, rows: list[Row], *, whole: bool
    ) -> None:
        """Check the files of several groups, whose directories are open together."""
        directories: list[Directory] = []
        try:
            for group in groups:
                try:
                    directories.append(self._open_directory(group, result))
                except OSError as error:
                    if directories and error.errno in NO_ROOM:
                        # The files of this directory are deferred until other directories are
                        # closed, and their file descriptors are free.
                        result.deferred.append(group)
                        continue
                    for name in group.names:
                        path = join(group.directory, name)
                        result.outcomes.append(outcome_of(path, error))
            for directory in directories:
                directory.shares = len(directories) > 1
            if looked := [one for one in directories if self._looks_first(one)]:
                self._looker.look_at(looked, result, rows)
            for directory in directories:
                if directory.names:
                    self._check(directory, result, rows, whole=whole)
        finally:
            for directory in directories:
                os.close(directory.fd)

    def _open_directory(self, group: Group, result: Result) -> Directory:
        """Open the directory of a group, or list the directory that has replaced it.

        Named files are looked for by their names in the directory that has replaced the listed
        directory, and are unread if they are missing. A directory that was created since the scan
        began is accepted as a replacement, as if an editor had replaced a file. An older directory
        is accepted as a replacement only if nobody but root and the user of the scan can move
        directories to the place of the listed directory. A directory on another file system is
        accepted only if this file system may have been mounted there since; otherwise the listed
        file system is not mounted any more. A directory that is not accepted as a replacement
        causes an error, because the listed directory may still exist; if another machine has listed
        the directory, no replacement is accepted.

        Raises:
            OSError: the directory cannot be opened; `MovedError`: another directory is in its
                place.
        """
        try:
            fd, status = open_listed(group.directory, group.identity)
        except MovedError:
            if self._is_elsewhere:
                raise
            assert group.identity is not None  # a `MovedError` is about a listed directory
            device, inode = group.identity
            fd, status = open_listed(group.directory, None)
            try:
                is_unmounted = device not in (None, status.st_dev) and inode != status.st_ino
                if is_unmounted and not is_mount_root(fd):
                    raise
                was_before = is_older(fd, ".", self._since_ns)
                if was_before and is_shared(os.stat("..", dir_fd=fd), trusted_users()):
                    raise
                if not group.is_named:
                    listed = chunk_of(snapshot(fd))
                    group = group.only(listed.names, listed.inodes)
            except BaseException:
                os.close(fd)
                raise
            result.lost.append(inode)
            group = group._replace(identity=(status.st_dev, status.st_ino))
        return directory_of(fd, group, status)

    def _looks_first(self, directory: Directory) -> bool:
        """Return whether the status of a directory's files is read before the files are opened.

        If most files match, or if containers are opened, each file is opened anyway, and reading
        the status first would only be one more request. The status of a named file that was not
        listed is read first, because the file may be of any type.
        """
        if not self._may_look or self._looker.has_cache:
            return self._may_look
        return not self._expects_hits and (self._members is None or not directory.group.inodes)

    def _check(
        self,
        directory: Directory,
        result: Result,
        rows: list[Row],
        *,
        whole: bool,
        rounds: int = ROUNDS,
    ) -> None:
        """Open the files of a directory, read them, and open the containers among them.

        Files that are not found under their names are looked for again, in at most `rounds` rounds.
        """
        fd, names, inodes, looks = directory.fd, directory.names, directory.inodes, directory.looks
        if directory.status.st_dev in self._looker.differing:
            inodes = [0] * len(names)
        reader, marks, flags = self._reader, self._reader.marks, directory.flags
        defer_bytes, known, ruled_out = None if whole else DEFER_BYTES, len(rows), 0
        ahead = OpenedAhead(names, flags, fd) if self._waits.often else None
        # This loop takes most of the time of a scan that reads files, so its functions are local
        # variables.
        open_file, close_file, read, add = os.open, os.close, reader.read, rows.append
        most_bytes, left = self._most_bytes(result), zip(names, inodes, strict=True)
        try:
            for name, inode in left:
                if reader.bytes_read >= most_bytes:
                    rest = zip((name, inode), *left, strict=True)
                    result.deferred.append(directory.group.only(*rest))
                    break
                try:
                    file_fd = ahead.take() if ahead else open_file(name, flags, dir_fd=fd)
                    try:
                        look = looks.get(name) if looks else None
                        if (
                            look is None
                            or inode not in (0, look.status.st_ino)  # the name is listed twice
                            or not same_content(reader.look(file_fd), look.status)
                        ):
                            look = None
                            found = read(file_fd, defer_bytes, inode)
                        else:
                            found = (), [], look.status.st_size, look.status, True, None
                        begin = marks.begin
                        if marks.may_be:
                            if self._open(file_fd, directory, name, found, result, ahead, whole):
                                begin = -1
                            most_bytes = self._most_bytes(result)
                    finally:
                        close_file(file_fd)
                except (OtherFile, Deferred, OSError, SetAside) as error:
                    self._leave(directory, name, inode, error, result)
                else:
                    if found[0]:
                        add((directory, name, begin, found))
                        continue
                    if begin >= 0:
                        self._plain.append((found[3], begin))
                    if look is not None:
                        self._looker.settle(directory, name, look, result)
                        continue
                    ruled_out += 1
                    if self._keep_clean:
                        report_clean(directory, name, found[2], result)
        finally:
            if ahead is not None:
                ahead.close()
        result.files_read += len(rows) - known
        result.clean += ruled_out
        result.ruled_out_by_size += ruled_out
        if directory.refused:
            late = directory.only(*map(list, zip(*directory.refused, strict=True)))
            self._looker.look_at([late], result, rows)
            self._check(late, result, rows, whole=whole)
        if directory.missed:
            self._check_missed(directory, result, rows, whole=whole, rounds=rounds)

    def _leave(
        self,
        directory: Directory,
        name: str,
        inode: int,
        error: OtherFile | Deferred | OSError | SetAside,
        result: Result,
    ) -> None:
        """Note a file that was not read as missed, deferred, refused or unread, by its error."""
        if isinstance(error, OtherFile):
            # If another file is mounted on a name, the name has the inode of the mounted file.
            is_mount = error.status.st_dev != directory.status.st_dev
            is_mount = is_mount or is_mounted_on(directory.fd, name)
            directory.missed.append((name, 0 if is_mount else inode, MovedError()))
        elif isinstance(error, Deferred):
            result.deferred.append(directory.group.only([name], [inode]))
        elif isinstance(error, SetAside):
            set_aside(directory, name, error, result)
        elif inode and error.errno in GONE:
            # The traceback of the error is removed, because it refers to this directory: the
            # reference cycle would keep the lists mapped.
            directory.missed.append((name, inode, error.with_traceback(None)))
        elif directory.looked or not self._may_look:
            refuse(directory, name, inode, error, result)
        else:
            directory.refused.append((name, inode))

    def _check_missed(
        self,
        directory: Directory,
        result: Result,
        rows: list[Row],
        *,
        whole: bool,
        rounds: int,
    ) -> None:
        """Look for files whose listed names have changed, and check them under their present names.

        If a listed file is gone, the file that has its name now is read. The listed file is unread
        if the name is gone, too, or if an older file was moved to the name from another directory.
        """
        found: dict[str, int] = {}
        try:
            now = snapshot(directory.fd) if rounds else []
            if rounds == ROUNDS - 1 and inode_of(directory.fd, directory.missed[0][0]) is not None:
                self._looker.differing.add(directory.status.st_dev)
        except OSError:
            now = []  # the directory was removed
        for listed_name, listed, error in directory.missed:
            place = where_now(now, listed_name, listed) if listed else (listed_name, 0)
            if place is None:
                set_aside(directory, listed_name, error, result)
                continue
            name, inode = place
            is_other = inode != listed and inode not in directory.listed
            if is_other and is_older(directory.fd, name, self._since_ns):
                set_aside(directory, listed_name, error, result)
                inode = 0
            elif inode != listed:
                result.lost.append(listed)
            found.setdefault(name, inode)
        if found:
            again = directory.only(list(found), list(found.values()))
            again.looked = True
            self._check(again, result, rows, whole=whole, rounds=rounds - 1)

    def _most_bytes(self, result: Result) -> int:
        """Return how many bytes a task may read, less the bytes of members that were read."""
        if self._members is None:
            return TASK_BYTES
        if result.members >= TASK_MEMBERS:
            return 0
        return TASK_BYTES - (self._members.bytes_out - self._bytes_before)

    def _open(
        self,
        fd: int,
        directory: Directory,
        name: str,
        found: Read,
        result: Result,
        ahead: OpenedAhead | None,
        whole: bool,  # noqa: FBT001 - a value that the caller passes on
    ) -> bool:
        """Check the members of a file that may be a container; return whether it is a container.

        `found` is the result of reading the file. `ahead` contains files of the same directory that
        were opened ahead of their check.

        Raises:
            Deferred: the file is large, was not read, and is not alone in its task.
            SetAside: the file consists almost only of holes.
            OSError: the file cannot be opened as a container now; if file descriptors are missing,
                the caller tries again later.
        """
        plan, _, size, status, reliable, unwritable = found
        if not plan:
            self._reader.refuse_sparse(status)
            if not whole and size >= DEFER_BYTES:
                raise Deferred
        assert self._members is not None
        waits = self._waits.count()
        open_members = functools.partial(
            self._members.open,
            fd,
            size,
            directory.path(name),
            lambda: same_content(status, os.fstat(fd)),
        )
        try:
            opened = open_members(can_wait=directory.shares or ahead is not None)
        except OSError as error:
            if ahead is None or error.errno not in NO_ROOM:
                raise
            ahead.give_back()
            opened = open_members(can_wait=directory.shares)
        # the thread has waited for the process that opens the container, and not for the storage
        self._waits.leave_out(waits)
        opened.add_to(result, directory.seen(status))
        if reliable and (known := opened.known()) is not None:
            self._inside.append((status, unwritable, known))
        return opened.is_container

"""Reading one open file to its end, and checking that the file did not change during the read.

A `Reader` knows which sizes can be relied on. The reader refuses files whose read would take hours
or never end, such as sparse and endless files. The reader returns digests, and a status that was
the same before and after the read, but judges no file. If a file was not read completely, the
reader raises an exception, and returns no digests. Limit: a read cannot be stopped while the kernel
does not answer, for example when a FUSE server or a network file system hangs.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import stat
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import msgspec

from hashclient.core.digests import CHUNK_BYTES, LengthError, digest_fd, digests_of, new_buffer
from hashclient.core.kinds import Algorithm, Kind
from hashclient.scan.sources.frontier import kind_of
from hashclient.scan.values.work import CHANGED, ENDLESS, SPARSE
from hashclient.system.filesystems import FULL, NONE, NONZERO, SizeTrust, ask_at, trust_of
from hashclient.system.identity import Identities, Identity
from hashclient.system.leases import hold, is_unwritable, keeps_out, let_go

if TYPE_CHECKING:
    from hashclient.scan.check.marks import Marks

#: The number of times that a file is read if it changes during the read.
ATTEMPTS = 3
#: A file of more than `SPARSE_BYTES` is refused if less than one byte in `SPARSE_SHARE` is on the
#: disk, because anybody can create such a file in a moment, but reading it takes hours. A file of
#: at most `SPARSE_BYTES` takes a second or two.
SPARSE_BYTES = 1 << 30
SPARSE_SHARE = 100
#: Limits for a file whose size cannot be relied on. A file without a reliable size is read up to
#: `UNSIZED_BYTES`, or up to its claimed size, but at most `CLAIMED_BYTES`, and for at most
#: `UNSIZED_S` seconds. Files with data in proc and sysfs end within some MiB. `/proc/PID/pagemap`
#: has 128 TB and exists for each thread, and a FUSE server may send bytes without end.
UNSIZED_BYTES = 1 << 26
CLAIMED_BYTES = 1 << 30
UNSIZED_S = 60.0

#: A lease is kept while a file of less than `HELD_BYTES` is read. The kernel takes at least a
#: second to break a lease. So if less than `HELD_S` seconds have passed since the previous file, no
#: process has written to the file, and its status need not be read again.
HELD_BYTES = 1 << 16
HELD_S = 0.5

#: For a file of less than this many bytes, computing more digests in the first read takes less time
#: than reading the file again.
SPARE_BYTES = 1 << 16

_TYPE = stat.S_IFMT(0o177777)
DIRECTORY = "is a directory, and was listed as a file"


#: The algorithms of the digests to compute for a file.
Plan = tuple[Algorithm, ...]
#: The result of a read: algorithms, digests, length, status (the same before and after the read),
#: whether size and times are reliable, and the result of `is_unwritable` before the read. If no
#: entry has the size of the file, the file was not read, and the algorithms are empty.
Read = tuple[Plan, list[bytes], int, os.stat_result, bool, bool | None]


class SetAside(Exception):  # noqa: N818 - this is no error, but an outcome
    """A file is not checked; the exception has the kind and the reason of its outcome."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def no_file(mode: int) -> SetAside:
    """Return the outcome of a path that was listed as a file, but is no file, by its `st_mode`.

    A directory is unread and not skipped, because its files were not listed.
    """
    if stat.S_ISDIR(mode):
        return SetAside(Kind.UNREAD, DIRECTORY)
    return SetAside(Kind.SKIPPED, kind_of(mode))


class OtherFile(Exception):  # noqa: N818 - this exception is no error
    """The opened file has not the listed inode; `status` is the status of the opened file."""

    def __init__(self, status: os.stat_result) -> None:
        super().__init__(status.st_ino)
        self.status = status


class Deferred(Exception):  # noqa: N818 - this exception is no error
    """A file is too long to be read in a task with other files."""


class EndlessError(OSError):
    """A file without a reliable size did not end within the limits."""

    def __init__(self) -> None:
        super().__init__(errno.EFBIG, ENDLESS)


def relied_size(status: os.stat_result, trust: SizeTrust) -> int | None:
    """Return the size of a file, or None if the size cannot be relied on."""
    if trust is FULL or (trust is NONZERO and status.st_size):
        return status.st_size
    return None


def bound_of(status: os.stat_result) -> int:
    """Return the most bytes that are read of a file whose size cannot be relied on."""
    return max(UNSIZED_BYTES, min(status.st_size, CLAIMED_BYTES))


def same_content(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether two statuses are of the same file with the same content."""
    return (
        one.st_mtime_ns == other.st_mtime_ns  # mtime comes first, because most changes change it
        and one.st_ctime_ns == other.st_ctime_ns
        and one.st_size == other.st_size
        and one.st_ino == other.st_ino
        and one.st_dev == other.st_dev
    )


class Device(msgspec.Struct, gc=False):
    """What a reader knows about a file system during one task.

    - `trust`: how far the sizes of files can be trusted.
    - `leases`: whether the kernel is asked, by a lease, whether a process can change a file without
      a new time.
    - `holds`: whether a short file is read while the lease is held.
    - `identity`: the file system under which the files are remembered; None if they are not
      remembered.
    """

    trust: SizeTrust
    leases: bool = False
    holds: bool = False
    identity: Identity | None = None


class Reader:
    """Reads files one after the other; `bytes_read` are the bytes since the task began."""

    def __init__(
        self,
        plan_of: Callable[[int | None], Plan],
        *,
        sparse: bool = False,
        leases: bool = False,
        on_bytes: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sniffs: bool = False,
        file_systems: Identities | None = None,
    ) -> None:
        """Make a reader with its own buffer.

        - `plan_of` returns the algorithms to compute for a file of a size, which may be unknown.
        - With `sparse`, files that consist almost only of holes are read as well.
        - With `leases`, the kernel is asked for each file whether a process can change it without a
          new time.
        - `on_bytes` is called with the length of each chunk of large files.
        - `clock` returns seconds.
        - With `sniffs`, each file is examined for the marks of containers.
        - `file_systems` identifies file systems.
        """
        self._plan_of = plan_of
        self._sparse = sparse
        self._leases = leases
        self._on_bytes = on_bytes
        self._clock = clock
        self._buffer = new_buffer()
        # Access to the bytes of a bytearray is faster than access through a memoryview.
        self._buffers, self._bytes = [self._buffer], cast(bytearray, self._buffer.obj)
        self._file_systems = file_systems
        #: The devices of one task by `st_dev`. An open descriptor keeps each device mounted.
        self.devices: dict[int, Device] = {}
        self._pins: list[int] = []
        self._ended = -math.inf
        self.bytes_read = 0
        #: The further digests that `read` computes for short files, and returns after the digests
        #: of the plan.
        self.spare: Plan = ()
        self._sniffs = sniffs

    @functools.cached_property
    def marks(self) -> Marks:
        """The marks of the last file; the module for marks is imported when it is first needed."""
        from hashclient.scan.check.marks import Marks

        return Marks()

    @property
    def _on_first(self) -> Callable[[bytes | bytearray, int], None] | None:
        return self.marks.first if self._sniffs else None

    def begin_task(self) -> None:
        """Count bytes from zero, and forget how far file systems were trusted."""
        self.end_task()
        self.bytes_read = 0
        self._ended = -math.inf

    def end_task(self) -> None:
        """Forget the file systems, because another file system may get the same number later."""
        self.devices.clear()
        for fd in self._pins:
            os.close(fd)
        self._pins.clear()

    def _device_of(self, fd: int, number: int) -> Device:
        """Return the file system of an open file, and keep the file system for the task.

        A path on the file system stays open for the task, so that the file system cannot be
        unmounted, and no other file system gets its number.
        """
        device = Device(trust_of(fd, number))
        if device.trust is not NONE and self._file_systems is not None:
            device.identity = self._file_systems.of(fd, number)
        if device.trust is FULL and self._leases:
            device.leases, device.holds = True, keeps_out(fd)
        try:
            # The file is opened again, because a duplicate of this descriptor would keep the lease
            # of the file.
            self._pins.append(os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC))
        except OSError:
            return device  # the next file of the file system tries again to keep a path open
        self.devices[number] = device
        return device

    def device_at(self, name: str, directory_fd: int, number: int, *, follow: bool) -> Device:
        """Return the file system of a file in an open directory, whose `st_dev` was `number`."""
        device = self.devices.get(number)
        if device is None:
            device = ask_at(self._device_of, name, directory_fd, number, follow, Device(NONE))
        return device

    def identities(self) -> dict[int, Identity | None]:
        """Return this task's file systems by device; None if their files are not remembered."""
        return {number: device.identity for number, device in self.devices.items()}

    def refuse_sparse(self, status: os.stat_result) -> None:
        """Raise `SetAside` if a file has too few blocks on the disk for its size.

        Raises:
            SetAside: the file consists almost only of holes, and such files must not be read.
        """
        if (
            status.st_size > SPARSE_BYTES
            and status.st_blocks * 512 * SPARSE_SHARE < status.st_size
            and not self._sparse
        ):
            raise SetAside(Kind.UNREAD, SPARSE)

    def read(self, fd: int, defer_bytes: int | None = None, inode: int = 0) -> Read:
        """Read a file that was just opened, if it has the inode `inode`, or `inode` is 0.

        If size and times of the file can be relied on, the length is the size. A file whose size
        cannot be relied on is read up to `bound_of`. For a short file, the digests of the plan may
        be followed by the digests of `spare` that are not in the plan. If no entry has the size of
        a file, the file is only examined for marks of containers.

        Raises:
            OtherFile: the file has another inode.
            Deferred: the file is not shorter than `defer_bytes`.
            SetAside: the file is not a regular file, changed during each read, or its size is
                wrong.
            OSError: the file cannot be read; `EndlessError`: the file did not end within the
                limits.
        """
        status = os.fstat(fd)
        claimed = status.st_size
        if status.st_ino != inode and inode:
            raise OtherFile(status)
        if status.st_mode & _TYPE != stat.S_IFREG:
            raise no_file(status.st_mode)
        device = self.devices.get(status.st_dev) or self._device_of(fd, status.st_dev)
        capped = device.trust is FULL
        size = claimed if capped else relied_size(status, device.trust)
        plan, marks, unwritable = self._plan_of(size), self.marks, None
        if not plan:
            self._look_only(fd, claimed)
            return plan, [], claimed, status, size is not None, None
        if defer_bytes is None or claimed >= defer_bytes:
            if size is not None:
                self.refuse_sparse(status)
            if defer_bytes is not None:
                raise Deferred
        computed = plan
        if self.spare and claimed < SPARE_BYTES:
            computed = plan + tuple([a for a in self.spare if a not in plan])
        is_held, marks.size = False, size
        if device.leases:
            # The kernel is asked before the first byte is read, because a lease that is taken later
            # proves nothing.
            if device.holds and claimed < HELD_BYTES:
                unwritable = hold(fd)
                is_held = unwritable is True
            else:
                unwritable = is_unwritable(fd)
        if capped and claimed < CHUNK_BYTES:
            # For nearly all files, one call reads exactly the number of bytes that the size says.
            length = os.readv(fd, self._buffers)
            if length != claimed:
                self.bytes_read += length
                return self._read_unsteady(fd, device.trust)
            if self._sniffs:
                marks.first(self._bytes, length)
            digests = digests_of(computed, self._buffer[:length])
        else:
            try:
                digests, length = self._read_long(fd, computed, status, size, capped, defer_bytes)
            except LengthError as error:
                self.bytes_read += error.length
                return self._read_unsteady(fd, device.trust)
        self.bytes_read += length
        if not marks.is_sure:
            marks.look_again(fd, length)
        if is_held:
            before, self._ended = self._ended, self._clock()
            # The lease is returned if the file must still be opened as a container, because no
            # writer should be blocked for so long.
            if self._ended - before < HELD_S and not marks.may_be:
                return plan, digests, length, status, True, True
            unwritable = let_go(fd)
        after = os.fstat(fd)
        # The file was open all the time, so its identity cannot have changed.
        if (
            after.st_mtime_ns != status.st_mtime_ns
            or after.st_ctime_ns != status.st_ctime_ns
            or after.st_size != claimed
        ):
            return self._read_unsteady(fd, device.trust)
        return plan, digests, length, after, size is not None, unwritable

    def _look_only(self, fd: int, size: int) -> None:
        """Look for marks of containers in a file, if no entry has the size of the file."""
        if self._sniffs:
            self.marks.look(fd, size)
            if not self.marks.is_sure and os.fstat(fd).st_size != size:
                raise SetAside(Kind.UNREAD, CHANGED)

    def _read_long(
        self,
        fd: int,
        plan: Plan,
        status: os.stat_result,
        size: int | None,
        capped: bool,  # noqa: FBT001 - a parameter of `digest_fd`
        defer_bytes: int | None,
    ) -> tuple[list[bytes], int]:
        """Read a file that is long, or whose size or end is uncertain."""
        on_bytes = self._on_bytes if size is not None else self._bounded(status, defer_bytes)
        try:
            return digest_fd(fd, plan, size, on_bytes, self._buffer, capped, self._on_first)
        except EndlessError:
            if defer_bytes is None:
                raise
            # The file is longer than its claimed size.
            raise Deferred from None

    def look(self, fd: int) -> os.stat_result:
        """Examine a file that was just opened for marks of containers, and read nothing else.

        Return the status of the file; the result is in `marks`. No lease is taken to prove the
        result, because a lease would take as long as the examination.

        Raises:
            SetAside: the file is not a regular file.
            OSError: the file cannot be read.
        """
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise no_file(status.st_mode)
        self.marks.look(fd, status.st_size)
        return status

    def _read_unsteady(self, fd: int, trust: SizeTrust) -> Read:
        """Read a changed file again, with the digests for a file of unknown size."""
        plan, reason, capped = self._plan_of(None), CHANGED, trust is FULL
        for _ in range(ATTEMPTS - 1):
            before = os.fstat(fd)
            size = relied_size(before, trust)
            if size is not None:
                self.refuse_sparse(before)
            on_bytes = self._on_bytes if size is not None else self._bounded(before)
            self.marks.size = size
            os.lseek(fd, 0, os.SEEK_SET)
            unwritable = is_unwritable(fd) if self._leases and capped else None
            failure = None
            try:
                digests, length = digest_fd(
                    fd, plan, size, on_bytes, self._buffer, capped, self._on_first
                )
            except LengthError as error:
                digests, length, failure = [], error.length, error.strerror
            self.bytes_read += length
            after = os.fstat(fd)
            if not same_content(before, after):
                reason = CHANGED
            elif failure is not None:
                reason = failure
            else:
                if not self.marks.is_sure:
                    self.marks.look_again(fd, length)
                return plan, digests, length, after, size is not None, unwritable
        raise SetAside(Kind.UNREAD, reason)

    def read_more(self, fd: int, plan: Plan, status: os.stat_result, length: int) -> list[bytes]:
        """Return more digests of a file that had this status and this length when it was read.

        Raises:
            SetAside: another file has the name, or the file has changed.
            OSError: the file cannot be read.
        """
        if not same_content(os.fstat(fd), status):
            raise SetAside(Kind.UNREAD, CHANGED)
        device = self.devices.get(status.st_dev)
        trust = trust_of(fd, status.st_dev) if device is None else device.trust
        size, capped = relied_size(status, trust), trust is FULL
        on_bytes = self._on_bytes if size is not None else self._bounded(status)
        digests, found = digest_fd(fd, plan, size, on_bytes, self._buffer, capped)
        self.bytes_read += found
        if found != length or not same_content(os.fstat(fd), status):
            raise SetAside(Kind.UNREAD, CHANGED)
        return digests

    def _bounded(
        self, status: os.stat_result, most_bytes: int | None = None
    ) -> Callable[[int], None]:
        """Return a function that is called for each chunk, and ends a read that takes too long."""
        most = bound_of(status) if most_bytes is None else most_bytes
        total, deadline = 0, self._clock() + UNSIZED_S

        def on_bytes(count: int) -> None:
            nonlocal total
            total += count
            if total > most or self._clock() > deadline:
                self.bytes_read += total
                raise EndlessError
            if self._on_bytes is not None:
                self._on_bytes(count)

        return on_bytes

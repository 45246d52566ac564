"""Reading one open file to its end, and making sure that it is the end.

A `Reader` knows which sizes can be relied on, refuses files that only waste time, and returns
digests together with a status that was the same before and after. It judges nothing. A file that
was not read wholly ends as an exception, never as digests.

Limit: a read cannot be given up while the kernel does not answer, as with a FUSE server or a
network file system that hangs.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import time
from collections.abc import Callable
from typing import Any

from hashclient.containers.fronts import FRONT_BYTES
from hashclient.containers.interface import HEAD_BYTES, ISO_HEAD_BYTES
from hashclient.containers.sniffing import (
    ends_as_container,
    has_behind,
    is_kind,
    look_at,
    wants_all_head,
)
from hashclient.core.algorithms import Algorithm
from hashclient.core.digests import Digester, LengthError, digest_fd, new_buffer
from hashclient.core.kinds import Kind
from hashclient.scan.reasons import CHANGED, ENDLESS, SPARSE
from hashclient.scan.sources.frontier import kind_of
from hashclient.system.filesystems import FULL, NONE, NONZERO, SizeTrust, ask_at, trust_of
from hashclient.system.leases import hold, is_unwritable, keeps_out, let_go

#: How often a file that changes while it is read is read again.
ATTEMPTS = 3
#: A longer file with less than one byte in `SPARSE_SHARE` on the disk is refused: it costs nothing
#: to make, and hours to read. A file that is not longer takes a second or two.
SPARSE_BYTES = 1 << 30
SPARSE_SHARE = 100
#: Limits for a file whose size cannot be relied on: it is read up to the first, or up to the size
#: that it claims and at most the second; and for so long. Those of proc and sysfs that hold data
#: end within some MiB; `/proc/PID/pagemap` goes on for 128 TB, each thread has one, and a FUSE
#: server may give anything.
UNSIZED_BYTES = 1 << 26
CLAIMED_BYTES = 1 << 30
UNSIZED_S = 60.0

#: A lease is kept while a shorter file is read. If no more time than this has passed since the last
#: file, the kernel cannot have taken the lease away, which takes a second at least: nobody has
#: written to the file, and its status need not be asked for again.
HELD_BYTES = 1 << 16
HELD_S = 0.5

#: For a shorter file, computing more digests at once costs less than reading it again.
SPARE_BYTES = 1 << 16

#: Bytes that are read of a file to see whether it is a container.
LOOK_BYTES = 1 << 12
#: The most bytes kept of a stream, so that not every algorithm has to be computed at once.
KEPT_BYTES = 1 << 20

DIRECTORY = "is a directory, and was listed as a file"


#: Algorithms to compute.
Plan = tuple[Algorithm, ...]
#: How a file was read: the algorithms, the digests, the length, the status that was the same before
#: and after, whether size and times can be relied on, and the answer of `is_unwritable` before the
#: read.
Read = tuple[Plan, list[bytes], int, os.stat_result, bool, bool | None]


class SetAside(Exception):  # noqa: N818 - no error, but an outcome
    """A file ends without being checked; the exception says how and why."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def no_file(mode: int) -> SetAside:
    """Return the outcome of a path that was listed as a file and is none, by its `st_mode`.

    A directory is unread, not skipped: its files were not listed.
    """
    if stat.S_ISDIR(mode):
        return SetAside(Kind.UNREAD, DIRECTORY)
    return SetAside(Kind.SKIPPED, kind_of(mode))


class OtherFile(Exception):  # noqa: N818 - no error
    """A file does not have the inode that was listed; `status` is what it has."""

    def __init__(self, status: os.stat_result) -> None:
        super().__init__(status.st_ino)
        self.status = status


class RuledOut(Exception):  # noqa: N818 - no error, but an outcome
    """No entry has a file's size, which is `size`."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Deferred(Exception):  # noqa: N818 - no error
    """A file is too long to be read among others."""


class EndlessError(OSError):
    """A file without a size that can be relied on did not end."""

    def __init__(self) -> None:
        super().__init__(errno.EFBIG, ENDLESS)


def relied_size(status: os.stat_result, trust: SizeTrust) -> int | None:
    """Return the size of a file if it can be relied on."""
    if trust is FULL or (trust is NONZERO and status.st_size):
        return status.st_size
    return None


def bound_of(status: os.stat_result) -> int:
    """Return how many bytes are read at most of a file whose size cannot be relied on."""
    return max(UNSIZED_BYTES, min(status.st_size, CLAIMED_BYTES))


def same_content(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether two statuses are of the same file with the same content."""
    return (
        one.st_mtime_ns == other.st_mtime_ns  # a change shows here first
        and one.st_ctime_ns == other.st_ctime_ns
        and one.st_size == other.st_size
        and one.st_ino == other.st_ino
        and one.st_dev == other.st_dev
    )


class StreamDigester:
    """Digests of a stream, which comes only once and whose length is unknown before its end.

    The digests that are worth computing are computed as the bytes come. Some bytes are kept, so
    that the other digests of a short stream that hits can be computed; for a longer stream, all
    algorithms are computed.
    """

    def __init__(self, plan: Plan, kept_bytes: int = KEPT_BYTES) -> None:
        """Compute `plan` to begin with, and keep up to `kept_bytes`."""
        self._parts = [(plan, Digester(plan))]
        self._kept: bytearray | None = bytearray()
        self._kept_bytes = kept_bytes
        self.length = 0

    def update(self, chunk: memoryview) -> None:
        """Take the next bytes."""
        if self._kept is not None:
            if len(self._kept) + len(chunk) > self._kept_bytes:
                self._compute(tuple(Algorithm))
                self._kept = None
            else:
                self._kept += chunk
        for _, digester in self._parts:
            digester.update(chunk)
        self.length += len(chunk)

    @property
    def content(self) -> bytearray | None:
        """All bytes so far; None if they were too many to be kept."""
        return self._kept

    def finish(self) -> dict[Algorithm, bytes]:
        """Return the digests of the bytes so far."""
        return {
            algorithm: digest
            for plan, digester in self._parts
            for algorithm, digest in zip(plan, digester.finish(), strict=True)
        }

    def more(self, plan: Plan) -> dict[Algorithm, bytes]:
        """Return further digests, after `finish`: of a stream that was kept."""
        self._compute(plan)
        return {a: digest for a, digest in self.finish().items() if a in plan}

    def _compute(self, plan: Plan) -> None:
        """Compute the missing algorithms of `plan` too, from the bytes that were kept."""
        known = {algorithm for part, _ in self._parts for algorithm in part}
        missing = tuple(a for a in plan if a not in known)
        if missing and self._kept is not None:
            digester = Digester(missing)
            digester.update(self._kept)
            self._parts.append((missing, digester))


class Reader:
    """Reads files one after the other; `bytes_read` are those since the task began."""

    def __init__(
        self,
        plan_of: Callable[[int | None], Plan],
        *,
        sparse: bool = False,
        leases: bool = False,
        on_bytes: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sniffs: bool = False,
    ) -> None:
        """Read with a buffer of its own.

        `plan_of` returns the algorithms to compute for a file of a size, or of an unknown one. With
        `sparse`, files that are nearly all hole are read as well. With `leases`, the kernel is
        asked for each file whether anybody may change it unseen. `on_bytes` is called with the
        length of each chunk of large files, `clock` gives seconds. With `sniffs`, each file that is
        read is searched for the marks of containers.
        """
        self._plan_of = plan_of
        self._sparse = sparse
        self._leases = leases
        self._on_bytes = on_bytes
        self._clock = clock
        self._buffer = new_buffer()
        self._trusts: dict[int, SizeTrust] = {}
        #: Descriptors of paths alone, one on each file system in `_trusts`.
        self._pins: list[int] = []
        #: By device, whether short files are read under a lease.
        self._holds: dict[int, bool] = {}
        self._ended = -math.inf
        self.bytes_read = 0
        #: Whether the last file may be a container, and its first byte.
        self.may_be_container = False
        self.begin = 0
        #: Further digests to compute of short files: `read` returns them after those of the plan.
        self.spare: Plan = ()
        self._sniffs = sniffs
        self._first_bytes = 0
        #: The length of the file that is read, if it can be relied on.
        self._size: int | None = None
        #: The beginning of a file that may have an archive behind it.
        self._front = b""

    def begin_task(self) -> None:
        """Count from zero, and find out again how far each file system is trusted."""
        self.end_task()
        self.bytes_read = 0
        self._holds.clear()
        self._ended = -math.inf

    def end_task(self) -> None:
        """Forget the file systems; from now on another one may have the same number."""
        self._trusts.clear()
        for fd in self._pins:
            os.close(fd)
        self._pins.clear()

    def _trust_of(self, fd: int, device: int) -> SizeTrust:
        """Return how far the file system of an open file is trusted, and keep it for the task.

        A path on it stays open for the task: so it cannot be unmounted, and no other one gets its
        number.
        """
        trust = trust_of(fd, device)
        try:
            # Not a duplicate of this descriptor: that would keep the lease of a file.
            self._pins.append(os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC))
        except OSError:
            return trust  # the next file tries again
        self._trusts[device] = trust
        return trust

    def trust_at(self, name: str, directory_fd: int, device: int, *, follow: bool) -> SizeTrust:
        """Return how far the file system of a file in an open directory is trusted."""
        trust = self._trusts.get(device)
        if trust is None:
            trust = ask_at(self._trust_of, name, directory_fd, device, follow, NONE)
        return trust

    def refuse_sparse(self, status: os.stat_result) -> None:
        """Accept a file that has enough blocks on the disk for its size.

        Raises:
            SetAside: it is nearly all hole, and such files are not to be read.
        """
        if (
            status.st_size > SPARSE_BYTES
            and status.st_blocks * 512 * SPARSE_SHARE < status.st_size
            and not self._sparse
        ):
            raise SetAside(Kind.UNREAD, SPARSE)

    def read(self, fd: int, defer_bytes: int | None = None, inode: int = 0) -> Read:
        """Read a file that was just opened; if its `inode` is known, no other one.

        Where its size and times can be relied on, the length is its size; otherwise, it is read up
        to `bound_of` at most. Of a short file, the digests of the plan may be followed by those of
        `spare` that are not in it.

        Raises:
            OtherFile: it has another inode.
            Deferred: it is not shorter than `defer_bytes`.
            RuledOut: no entry has its size.
            SetAside: it is no file, kept changing, or is not as long as its size says.
            OSError: it cannot be read; if it is an `EndlessError`, to its end.
        """
        status = os.fstat(fd)
        claimed, device = status.st_size, status.st_dev
        if status.st_ino != inode and inode:
            raise OtherFile(status)
        if not stat.S_ISREG(status.st_mode):
            raise no_file(status.st_mode)
        trust = self._trusts.get(device)
        if trust is None:
            trust = self._trust_of(fd, device)
        capped = trust is FULL
        size = claimed if capped else relied_size(status, trust)
        plan = self._plan_of(size)
        if not plan:
            raise RuledOut(claimed)
        if defer_bytes is None or claimed >= defer_bytes:
            if size is not None:
                self.refuse_sparse(status)
            if defer_bytes is not None:
                raise Deferred
        computed = plan
        if self.spare and status.st_size < SPARE_BYTES:
            computed = plan + tuple([a for a in self.spare if a not in plan])
        on_bytes = self._on_bytes if size is not None else self._bounded(status, defer_bytes)
        # The method is not stored: a reference cycle would keep all of this until the garbage
        # collector runs.
        on_first, self._size = self._sniff if self._sniffs else None, size
        unwritable: bool | None = None
        is_held = False
        if capped and self._leases:
            # Before the first byte is read: later, it would prove nothing.
            may_hold = self._holds.get(device)
            if may_hold is None:
                may_hold = self._holds[device] = keeps_out(fd)
            if may_hold and claimed < HELD_BYTES:
                is_held = bool(unwritable := hold(fd))
            else:
                unwritable = is_unwritable(fd)
        try:
            digests, length = digest_fd(
                fd, computed, size, on_bytes, self._buffer, capped, on_first
            )
        except LengthError as error:
            self.bytes_read += error.length
            return self._read_unsteady(fd, trust)
        except EndlessError:
            if defer_bytes is None:
                raise
            # The file is longer than its size said.
            raise Deferred from None
        self.bytes_read += length
        if on_first is not None and (self._front or self._first_bytes < length):
            self._sniff_again(fd, length)
        if is_held:
            before, self._ended = self._ended, self._clock()
            # The container is still to be opened: nobody should be blocked for so long.
            if self._ended - before < HELD_S and not self.may_be_container:
                return plan, digests, length, status, True, True
            unwritable = let_go(fd)
        after = os.fstat(fd)
        # The same open file: its identity cannot have changed.
        if (status.st_size, status.st_mtime_ns, status.st_ctime_ns) != (
            after.st_size,
            after.st_mtime_ns,
            after.st_ctime_ns,
        ):
            return self._read_unsteady(fd, trust)
        return plan, digests, length, after, size is not None, unwritable

    def look(self, fd: int) -> os.stat_result:
        """Search a file that was just opened for the marks of containers, and read no further.

        Return its status; `may_be_container` has the result. There is no proof: asking for a lease
        would cost as much as the look.

        Raises:
            SetAside: it is no file.
            OSError: it cannot be read.
        """
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise no_file(status.st_mode)
        # These are all bytes of a short file; a longer one has two more places to look at.
        wanted = ISO_HEAD_BYTES if status.st_size >= ISO_HEAD_BYTES else LOOK_BYTES
        first = memoryview(os.pread(fd, wanted, 0))
        if wants_all_head(first):
            first = memoryview(os.pread(fd, ISO_HEAD_BYTES, 0))
        self._size = status.st_size
        self._sniff(first)
        if self._front or len(first) != status.st_size:
            self._sniff_again(fd, status.st_size)
        return status

    def _sniff(self, first: memoryview) -> None:
        """Look at the first bytes of a file, which mostly suffice: the beginning of a buffer."""
        self._first_bytes = length = len(first)
        self._front = b""
        buffer: Any = first.obj  # of which each look takes less than of the view
        self.begin = buffer[0] if length else 0
        if found := look_at(buffer, length, length == self._size):
            self.may_be_container = is_kind(found)  # one that is not opened is counted there
            if not self.may_be_container:
                self._front = bytes(first[:FRONT_BYTES])
        elif self._size is not None and length < self._size:
            self.may_be_container = False  # more follows: the end is looked at later
        else:
            self.may_be_container = ends_as_container(buffer, length)

    def _sniff_again(self, fd: int, length: int) -> None:
        """Look for a mark behind the first bytes, or at the end."""
        if self._first_bytes < min(length, ISO_HEAD_BYTES):
            # A disk image has its mark after 32 KiB; a slow file system gives fewer bytes than
            # asked for.
            wanted = ISO_HEAD_BYTES if length >= ISO_HEAD_BYTES else HEAD_BYTES
            if self._first_bytes < min(length, wanted):
                self._sniff(memoryview(os.pread(fd, wanted, 0)))
        if not self.may_be_container:
            self.may_be_container = has_behind(
                self._front, length, lambda offset, count: os.pread(fd, count, offset)
            )

    def _read_unsteady(self, fd: int, trust: SizeTrust) -> Read:
        """Read a file again that changed. Its size rules out no entry then."""
        plan, reason, capped = self._plan_of(None), CHANGED, trust is FULL
        for _ in range(ATTEMPTS - 1):
            before = os.fstat(fd)
            size = relied_size(before, trust)
            if size is not None:
                self.refuse_sparse(before)
            on_bytes = self._on_bytes if size is not None else self._bounded(before)
            on_first, self._size = self._sniff if self._sniffs else None, size
            os.lseek(fd, 0, os.SEEK_SET)
            unwritable = is_unwritable(fd) if self._leases and capped else None
            failure = None
            try:
                digests, length = digest_fd(
                    fd, plan, size, on_bytes, self._buffer, capped, on_first
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
                if on_first is not None and (self._front or self._first_bytes < length):
                    self._sniff_again(fd, length)
                return plan, digests, length, after, size is not None, unwritable
        raise SetAside(Kind.UNREAD, reason)

    def read_more(self, fd: int, plan: Plan, status: os.stat_result, length: int) -> list[bytes]:
        """Return more digests of a file that had this status and this length when it was read.

        Raises:
            SetAside: it is another file, or has changed.
            OSError: it cannot be read.
        """
        if not same_content(os.fstat(fd), status):
            raise SetAside(Kind.UNREAD, CHANGED)
        trust = self._trusts.get(status.st_dev) or trust_of(fd, status.st_dev)
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
        """Return a function that is called with each chunk, and ends a read that takes too long."""
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

"""Reading one open file to its end, and knowing that this is its end.

A `Reader` knows which sizes can be relied on, refuses what would only waste time, and returns
digests together with a status that was the same before and after. It plans nothing and judges
nothing. What was not read wholly ends as an OSError or as `SetAside`, never as digests.

Limit: a read that the kernel does not answer, of a FUSE server or a network file system that hangs,
cannot be given up.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from hashclient.filesystems import SizeTrust, trust_at, trust_of
from hashclient.hashing import LengthError, digest_fd, new_buffer
from hashclient.model import Algorithm, Kind

#: How often a file that changes while it is read is read again.
ATTEMPTS = 3
#: A longer file with less than one byte in `SPARSE_SHARE` on the disk is refused: it costs nothing
#: to make, and hours to read. What is not longer takes a second or two.
SPARSE_BYTES = 1 << 30
SPARSE_SHARE = 100
#: A file without a size that can be relied on is read so far, or as far as it claims to go but not
#: beyond the second, and for so long. Those of proc and sysfs that hold data end within some MiB;
#: `/proc/PID/pagemap` goes on for 128 TB, each thread has one, and a FUSE server may give anything.
UNSIZED_BYTES = 1 << 26
CLAIMED_BYTES = 1 << 30
UNSIZED_S = 60.0

CHANGED = "changed while being read"
SPARSE = "sparse: more than 99 % of it is hole; --sparse reads it"
ENDLESS = "goes on for too long, and has no size that can be relied on"


class SetAside(Exception):  # noqa: N818 - no error, but an outcome
    """A file ends without being checked; says how and why."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class EndlessError(OSError):
    """A file without a size that can be relied on did not end; `length` bytes were read."""

    def __init__(self, length: int) -> None:
        super().__init__(errno.EFBIG, ENDLESS)
        self.length = length


def relied_size(status: os.stat_result, trust: SizeTrust) -> int | None:
    """Return the size of a file if it can be relied on."""
    if trust is SizeTrust.FULL or (trust is SizeTrust.NONZERO and status.st_size):
        return status.st_size
    return None


def bound_of(status: os.stat_result) -> int:
    """Return how many bytes are read at most of a file whose size cannot be relied on."""
    return max(UNSIZED_BYTES, min(status.st_size, CLAIMED_BYTES))


def same_content(one: os.stat_result, other: os.stat_result) -> bool:
    """Tell whether two statuses are of the same file with the same content."""
    return (
        one.st_mtime_ns == other.st_mtime_ns  # a change shows here first
        and one.st_ctime_ns == other.st_ctime_ns
        and one.st_size == other.st_size
        and one.st_ino == other.st_ino
        and one.st_dev == other.st_dev
    )


class Reader:
    """Reads files one after the other; `bytes_read` are those since the task began."""

    def __init__(
        self,
        plan_of_any: tuple[Algorithm, ...],
        *,
        sparse: bool = False,
        on_bytes: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read with a buffer of its own.

        `plan_of_any` are the algorithms to compute for a file of unknown size. With `sparse`, files
        that are nearly all hole are read as well. `on_bytes` is called with the length of each
        chunk of large files, `clock` gives seconds.
        """
        self._plan_of_any = plan_of_any
        self._sparse = sparse
        self._on_bytes = on_bytes
        self._clock = clock
        self._buffer = new_buffer()
        self._trusts: dict[int, SizeTrust] = {}
        self.bytes_read = 0

    def begin_task(self) -> None:
        """Count from zero, and ask of each file system again how far it is trusted.

        By then the number of a device may be that of another one.
        """
        self.bytes_read = 0
        self._trusts.clear()

    def trust_at(self, name: str, directory_fd: int, device: int, *, follow: bool) -> SizeTrust:
        """Tell how far the file system of a file in an open directory is trusted."""
        trust = self._trusts.get(device)
        if trust is None:
            trust = self._trusts[device] = trust_at(name, directory_fd, device, follow=follow)
        return trust

    def trust_of(self, fd: int, device: int) -> SizeTrust:
        """Tell how far the file system of an open file is trusted."""
        trust = self._trusts.get(device)
        if trust is None:
            trust = self._trusts[device] = trust_of(fd, device)
        return trust

    def refuse_sparse(self, status: os.stat_result) -> None:
        """Let a file pass that has enough on the disk for its size.

        Raises:
            SetAside: it is nearly all hole, and such files are not to be read.
        """
        if (
            status.st_size > SPARSE_BYTES
            and status.st_blocks * 512 * SPARSE_SHARE < status.st_size
            and not self._sparse
        ):
            raise SetAside(Kind.UNREAD, SPARSE)

    def read(
        self,
        fd: int,
        plan: tuple[Algorithm, ...],
        status: os.stat_result,
        trust: SizeTrust,
        most_bytes: int | None = None,
    ) -> tuple[tuple[Algorithm, ...], list[bytes], int, os.stat_result]:
        """Read a file that was just opened; `status` is what it is now.

        Return what was computed, the digests, the length, and the status that was the same before
        and after. Where its size can be relied on, the length is that. Where not, no more is read
        than `most_bytes`, or `bound_of` it.

        Raises:
            EndlessError: there were more than these, or they took too long.
            SetAside: it kept changing, or is not as long as its size says.
            OSError: it cannot be read.
        """
        try:
            digests, length = self._digest(fd, plan, status, trust, most_bytes)
        except LengthError:
            return self._read_unsteady(fd, trust)
        after = os.fstat(fd)
        # The same open file: of its identity nothing can have changed.
        if (status.st_size, status.st_mtime_ns, status.st_ctime_ns) != (
            after.st_size,
            after.st_mtime_ns,
            after.st_ctime_ns,
        ):
            return self._read_unsteady(fd, trust)
        return plan, digests, length, after

    def _read_unsteady(
        self, fd: int, trust: SizeTrust
    ) -> tuple[tuple[Algorithm, ...], list[bytes], int, os.stat_result]:
        """Read a file again that changed. No size rules anything out then."""
        plan, reason = self._plan_of_any, CHANGED
        for _ in range(ATTEMPTS - 1):
            before = os.fstat(fd)
            if relied_size(before, trust) is not None:
                self.refuse_sparse(before)
            os.lseek(fd, 0, os.SEEK_SET)
            failure = None
            try:
                digests, length = self._digest(fd, plan, before, trust)
            except LengthError as error:
                digests, length, failure = [], 0, error.strerror
            after = os.fstat(fd)
            if not same_content(before, after):
                reason = CHANGED
            elif failure is not None:
                reason = failure
            else:
                return plan, digests, length, after
        raise SetAside(Kind.UNREAD, reason)

    def read_more(
        self, fd: int, plan: tuple[Algorithm, ...], status: os.stat_result, length: int
    ) -> list[bytes]:
        """Return more digests of a file that had this status and this length when it was read.

        Raises:
            SetAside: it is another one, or has changed.
            OSError: it cannot be read.
        """
        if not same_content(os.fstat(fd), status):
            raise SetAside(Kind.UNREAD, CHANGED)
        trust = self.trust_of(fd, status.st_dev)
        digests, found = self._digest(fd, plan, status, trust)
        if found != length or not same_content(os.fstat(fd), status):
            raise SetAside(Kind.UNREAD, CHANGED)
        return digests

    def _digest(
        self,
        fd: int,
        plan: tuple[Algorithm, ...],
        status: os.stat_result,
        trust: SizeTrust,
        most_bytes: int | None = None,
    ) -> tuple[list[bytes], int]:
        """Read once; as `digest_fd`, but bounded where no size can be relied on."""
        size, on_bytes = relied_size(status, trust), self._on_bytes
        if size is None:
            on_bytes = self._bound(bound_of(status) if most_bytes is None else most_bytes)
        capped = trust is SizeTrust.FULL
        try:
            digests, length = digest_fd(fd, plan, size, on_bytes, self._buffer, capped=capped)
        except (LengthError, EndlessError) as error:
            self.bytes_read += error.length
            raise
        self.bytes_read += length
        return digests, length

    def _bound(self, most_bytes: int) -> Callable[[int], None]:
        """Return what is called with each chunk and ends a read that goes on for too long."""
        total, deadline = 0, self._clock() + UNSIZED_S

        def on_bytes(count: int) -> None:
            nonlocal total
            total += count
            if total > most_bytes or self._clock() > deadline:
                raise EndlessError(total)
            if self._on_bytes is not None:
                self._on_bytes(count)

        return on_bytes

"""Limits for opening containers, and counters that enforce the limits.

No legitimate archive reaches the limits; if a limit is exceeded, the rest of the container is
reported as unread, with the limit as the reason.
"""

from __future__ import annotations

import msgspec

from hashclient.containers.interface import NotReadError, Why

#: How many bytes may be decoded before the ratio of decoded to packed bytes is checked, so that a
#: small archive of zeros is not refused as a decompression bomb.
RATIO_FREE_BYTES = 1 << 30
#: For each member, this number of bytes is added to `RATIO_FREE_BYTES`, because a few packed bytes
#: can contain many short members, for example in a compressed tar of small files.
RATIO_FREE_OF_MEMBER_BYTES = 8 << 10
MIB = 1 << 20
#: The most containers in one file, because the worker keeps the path to each container in memory.
MAX_CONTAINERS = 250_000


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """Limits for one file and all its members.

    `depth` limits nested containers, `members` the members at all depths, `bytes_out` the decoded
    bytes, and `ratio` the number of decoded bytes for each byte of the file. `time_s` is in
    seconds; `memory_mib` is the limit for the memory of a process that opens containers.
    """

    depth: int = 32
    members: int = 2_000_000
    bytes_out: int = 1 << 42
    ratio: int = 2_000
    time_s: int = 3_600
    memory_mib: int = 256

    @property
    def spool_bytes(self) -> int:
        """The most bytes of a nested container that are kept in memory."""
        return self.memory_mib * MIB // 2


class Options(msgspec.Struct, frozen=True):
    """How containers are opened.

    With `requires_sandbox`, containers are not opened if the kernel lacks a part of the sandbox.

    With `verify_sizes`, a member is only skipped because of its claimed size if the claim cannot be
    false. With `refuses_unopened`, a file of a kind that is not opened is reported as unread.
    """

    limits: Limits = Limits()
    requires_sandbox: bool = False
    verify_sizes: bool = False
    passwords: tuple[bytes, ...] = ()
    refuses_unopened: bool = False


class LimitError(NotReadError):
    """A limit for the whole file is exceeded, so the rest of the file is not read."""

    def __init__(self, detail: str) -> None:
        super().__init__(Why.LIMIT, detail)


class Budget:
    """Counts how much one file has used of each limit."""

    def __init__(self, limits: Limits, file_bytes: int) -> None:
        """Start with nothing used, for a file of `file_bytes` bytes."""
        self._limits = limits
        self._by_ratio = max(RATIO_FREE_BYTES, limits.ratio * file_bytes)
        self._most_bytes = min(limits.bytes_out, self._by_ratio)
        self._bytes = 0
        self._members = 0
        self._containers = 0

    @property
    def bytes_out(self) -> int:
        """The number of bytes that were decoded so far."""
        return self._bytes

    @property
    def steps(self) -> int:
        """A number that grows with each member, each container and each decoded byte."""
        return self._bytes + self._members + self._containers

    def enter(self, depth: int) -> None:
        """Count a container that is nested at `depth`.

        Raises:
            NotReadError: the container is nested too deeply; the other members are still read.
            LimitError: the file has too many containers.
        """
        self._containers += 1
        if self._containers > MAX_CONTAINERS:
            raise LimitError(f"more than {MAX_CONTAINERS:,} containers")
        if depth > self._limits.depth:
            raise NotReadError(Why.LIMIT, f"more than {self._limits.depth} containers deep")

    def member(self) -> None:
        """Count a member.

        Raises:
            LimitError: the file has too many members.
        """
        self._members += 1
        if self._members > self._limits.members:
            raise LimitError(f"more than {self._limits.members:,} members")

    def take(self, count: int) -> None:
        """Count decoded bytes.

        Raises:
            LimitError: too many bytes were decoded.
        """
        self._bytes += count
        if self._bytes > self._most_bytes:
            by_ratio = self._by_ratio + self._members * RATIO_FREE_OF_MEMBER_BYTES
            self._most_bytes = min(self._limits.bytes_out, by_ratio)
            if self._bytes <= self._most_bytes:
                return
            if self._most_bytes < self._limits.bytes_out:
                raise LimitError(f"more than {self._limits.ratio:,} times its own size comes out")
            raise LimitError(f"more than {self._limits.bytes_out:,} bytes come out")

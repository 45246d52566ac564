"""Limits for opening containers, which no honest archive reaches, and the counters that check them.

Contents beyond a bound are unread, with the bound in the reason; nothing is left out silently.
"""

from __future__ import annotations

import msgspec

from hashclient.containers.interface import NotReadError, Why

#: Bytes that may come out before the ratio is checked: a small archive of zeros is no bomb.
RATIO_FREE_BYTES = 1 << 30
#: The same allowance for each member: few bytes can contain many short members, as a tar and then
#: as files.
RATIO_FREE_OF_MEMBER_BYTES = 8 << 10
MIB = 1 << 20
#: Containers in one file: the worker keeps the path to each container.
MAX_CONTAINERS = 250_000


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """Limits for one file and all its members.

    `depth` counts nested containers, `members` counts members at all depths, `bytes_out` counts
    decoded bytes, and `ratio` compares the decoded bytes with the bytes of the file. `time_s` is in
    seconds, and `memory_mib` limits a process that opens containers.
    """

    depth: int = 32
    members: int = 2_000_000
    bytes_out: int = 1 << 42
    ratio: int = 2_000
    time_s: int = 3_600
    memory_mib: int = 256

    @property
    def spool_bytes(self) -> int:
        """How many bytes of a container in a container may be held in memory."""
        return self.memory_mib * MIB // 2


class Options(msgspec.Struct, frozen=True):
    """How containers are opened. `requires_sandbox` refuses kernels that lack a part of it.

    With `verify_sizes`, a claimed size rules a member out only if the claim must be true. With
    `refuses_unopened`, a file of a kind that is not opened is unread.
    """

    limits: Limits = Limits()
    requires_sandbox: bool = False
    verify_sizes: bool = False
    passwords: tuple[bytes, ...] = ()
    refuses_unopened: bool = False


class LimitError(NotReadError):
    """A limit for the whole file is reached: the rest of the file is not read."""

    def __init__(self, detail: str) -> None:
        super().__init__(Why.LIMIT, detail)


class Budget:
    """Counts what one file has used of each limit."""

    def __init__(self, limits: Limits, file_bytes: int) -> None:
        """Begin with nothing used, for a file of `file_bytes` bytes."""
        self._limits = limits
        self._by_ratio = max(RATIO_FREE_BYTES, limits.ratio * file_bytes)
        self._most_bytes = min(limits.bytes_out, self._by_ratio)
        self._bytes = 0
        self._members = 0
        self._containers = 0

    @property
    def bytes_out(self) -> int:
        """The bytes that came out so far."""
        return self._bytes

    @property
    def steps(self) -> int:
        """A number that grows with each member, container and byte that comes out."""
        return self._bytes + self._members + self._containers

    def enter(self, depth: int) -> None:
        """Count a container, and refuse a container that is nested too deep.

        Raises:
            NotReadError: the container is nested too deep; other members are still read.
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

"""A stream as one input: standard input, say, which has no path and comes only once.

It is read in the process that hands out work, since it cannot be handed out in batches.
"""

from __future__ import annotations

from collections.abc import Iterator

from hashclient.core.digests import new_buffer
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.executors.interface import Advance, Result
from hashclient.scan.reasons import reason_of
from hashclient.scan.streaming import StreamChecker
from hashclient.system.descriptors import read_into


class Stream:
    """The bytes of an open descriptor until its end, reported as `name`; there may be none."""

    def __init__(self, fd: int, name: str) -> None:
        """Read `fd`, which stays the caller's."""
        self._fd = fd
        self._name = name

    def check(self, checker: StreamChecker) -> Iterator[Advance | Result]:
        """Read it and yield the progress, and then the result.

        A stream that cannot be read to its end is unread.
        """
        yield Advance()  # before the first wait
        shown = f"stdin:{self._name}"  # no path, as the record of matches has it
        digester, kept = checker.digester(), checker.keeper()
        buffer = new_buffer()
        try:
            while count := read_into(self._fd, buffer):
                digester.update(buffer[:count])
                if kept is not None:
                    kept.update(buffer[:count])
                yield Advance(count, shown)
        except OSError as error:
            if kept is not None:
                kept.close()
            outcome = Outcome(Kind.UNREAD, self._name, reason=reason_of(error), is_stream=True)
            reported = Advance(digester.length, shown)
            yield Result(bytes_read=digester.length, outcomes=[outcome], reported=reported)
            return
        result = checker.check(self._name, digester, kept)
        result.reported = Advance(digester.length, shown)
        yield result

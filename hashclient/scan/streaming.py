"""Checking a stream: it comes once, has no path, and its length is unknown before its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from hashclient.core.algorithms import Algorithm, mask_of
from hashclient.core.digests import StreamDigester, new_buffer
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.index.matcher import Judge, Place, verdict
from hashclient.scan.executors.interface import Advance, Result
from hashclient.scan.kept import Kept
from hashclient.scan.members import Members
from hashclient.scan.reasons import reason_of
from hashclient.system.descriptors import read_into


class StreamChecker:
    """Checks streams against open lists."""

    def __init__(
        self, judge: Judge, *, keep_clean: bool = False, members: Members | None = None
    ) -> None:
        """Check with `judge`, and open containers with `members`."""
        self._judge = judge
        self._keep_clean = keep_clean
        self._members = members

    def digester(self) -> StreamDigester:
        """Return a sink for a stream of unknown length, for `check`."""
        return StreamDigester(self._judge.plan(None))

    def keeper(self) -> Kept | None:
        """Return a store for a stream that may be a container, for `check`."""
        return None if self._members is None else Kept(self._members.memory_bytes)

    def check(self, name: str, stream: StreamDigester, kept: Kept | None = None) -> Result:
        """Judge a stream that was read to its end; `name` is its name in outcomes.

        Its members are checked as well, if it was `kept`.
        """
        result = self._judge_whole(name, stream)
        if kept is not None and self._members is not None:
            with contextlib.closing(kept):
                self._members.open_kept(kept, name, stream.content).add_to(result)
        return result

    def _judge_whole(self, name: str, stream: StreamDigester) -> Result:
        """Judge a stream by its own digests."""
        digests = stream.finish()
        length = stream.length
        tags = self._judge.seal(digests)
        places = [
            place
            for algorithm, words in tags.items()
            for found in self._judge.find(algorithm, words.reshape(1, 2)).values()
            for place in found
        ]
        result = Result(files_read=1, bytes_read=length)
        outcome = Outcome(Kind.CLEAN, name, length, digests=digests, is_stream=True)
        if places:
            outcome = judge_hit(self._judge, name, stream, digests, places)
        result.clean = int(outcome.kind is Kind.CLEAN)
        if outcome.kind is not Kind.CLEAN or self._keep_clean:
            result.outcomes.append(outcome)
        return result


class Stream:
    """The bytes of an open descriptor until its end, reported as `name`; there may be none.

    It is read in the process that hands out work: standard input, say, has no path and comes once.
    """

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


def judge_hit(
    judge: Judge,
    name: str,
    stream: StreamDigester,
    digests: dict[Algorithm, bytes],
    places: Sequence[Place],
) -> Outcome:
    """Judge a stream that hit entries at `places` by `digests`, which are completed first."""
    missing = judge.wanted(places) & ~mask_of(digests)
    digests |= stream.more(Algorithm.in_mask(missing))
    tags = judge.seal(digests)
    hits = judge.hits(tags, stream.length)
    kept = {a: words.tobytes() for a, words in tags.items()} if hits else {}
    return Outcome(
        verdict(hits), name, stream.length, hits=hits, digests=digests, tags=kept, is_stream=True
    )

"""Checking a stream: it comes once, has no path, and its length is unknown before its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from hashclient.core.digests import StreamDigester, new_buffer
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Hit, Outcome
from hashclient.index.matcher import Judge, Place, Plan, verdict
from hashclient.scan.check.kept import Kept
from hashclient.scan.check.members import Members
from hashclient.scan.values.work import Advance, Result, reason_of
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
        (outcome,) = judge_streams(self._judge, [(name, stream)])
        result = Result(files_read=1, bytes_read=stream.length)
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


def judge_streams(judge: Judge, streams: Sequence[tuple[str, StreamDigester]]) -> list[Outcome]:
    """Return the outcomes of streams that were read to their end, each by its name in outcomes.

    One lookup of each algorithm serves all of them.
    """
    digests = [stream.finish() for _, stream in streams]
    places: list[list[Place]] = [[] for _ in streams]
    for algorithm in Algorithm:
        rows = [row for row, known in enumerate(digests) if algorithm in known]
        if rows:
            tags = judge.sealer.tags_of(algorithm, [digests[row][algorithm] for row in rows])
            for query, found in judge.find(algorithm, tags).items():
                places[rows[query]] += found
    outcomes = []
    for (name, stream), known, found in zip(streams, digests, places, strict=True):
        hits, tags_of_hits = hits_of(judge, known, found, stream.length, stream.more)
        outcomes.append(
            Outcome(
                *(verdict(hits), name, stream.length),
                hits=hits,
                digests=known,
                tags=tags_of_hits,
                is_stream=True,
            )
        )
    return outcomes


def hits_of(
    judge: Judge,
    digests: dict[Algorithm, bytes],
    places: Sequence[Place],
    length: int,
    more: Callable[[Plan], dict[Algorithm, bytes]],
) -> tuple[tuple[Hit, ...], dict[Algorithm, bytes]]:
    """Return the hits of content whose `digests` were found at `places`, and its tags if it hits.

    Digests that these entries have besides are computed by `more`, and added to `digests`.
    """
    if not places:
        return (), {}
    missing = judge.wanted(places) & ~mask_of(digests)
    if missing:
        digests |= more(Algorithm.in_mask(missing))
    tags = judge.seal(digests)
    hits = judge.hits(tags, length)
    return hits, {a: words.tobytes() for a, words in tags.items()} if hits else {}

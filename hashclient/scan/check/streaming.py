"""The check of a stream, which is read only once, and whose length is unknown until its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from hashclient.core.digests import StreamDigester, new_buffer
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Hit, Outcome
from hashclient.index.matcher import Judge, Place, Plan, verdict
from hashclient.scan.check.members import Members
from hashclient.scan.values.work import Advance, Result, reason_of
from hashclient.system.descriptors import read_into


class Stream:
    """The bytes of an open descriptor until its end, which outcomes call `name`.

    The stream is read in the process that distributes work, because a stream such as standard input
    can be read only once.
    """

    def __init__(self, fd: int, name: str) -> None:
        """Read `fd`, which the caller must close."""
        self._fd = fd
        self._name = name

    def check(
        self, judge: Judge, members: Members | None, *, keep_clean: bool
    ) -> Iterator[Advance | Result]:
        """Read the stream and judge it with `judge`; yield the progress, and at the end the result.

        `members` opens the stream if it is a container. A stream that cannot be read to its end is
        unread.
        """
        from hashclient.scan.check.kept import Kept

        yield Advance()  # show progress before the first wait
        shown = f"stdin:{self._name}"  # the record of matches uses the same name for the stream
        digester, buffer = StreamDigester(judge.plan(None)), new_buffer()
        with contextlib.ExitStack() as stack:
            kept = None
            if members is not None:
                kept = stack.enter_context(contextlib.closing(Kept(members.memory_bytes)))
            try:
                while count := read_into(self._fd, buffer):
                    digester.update(buffer[:count])
                    if kept is not None:
                        kept.update(buffer[:count])
                    yield Advance(count, shown)
            except OSError as error:
                outcome = Outcome(Kind.UNREAD, self._name, reason=reason_of(error), is_stream=True)
                result = Result(outcomes=[outcome])
            else:
                (outcome,) = judge_streams(judge, [(self._name, digester)])
                result = Result(files_read=1, clean=int(outcome.kind is Kind.CLEAN))
                if keep_clean or outcome.kind is not Kind.CLEAN:
                    result.outcomes.append(outcome)
                if members is not None and kept is not None:
                    members.open_kept(kept, self._name, digester.content).add_to(result)
        result.bytes_read = digester.length
        result.reported = Advance(digester.length, shown)
        yield result


def judge_streams(judge: Judge, streams: Sequence[tuple[str, StreamDigester]]) -> list[Outcome]:
    """Return the outcomes of streams that were read to their end, each with its name.

    One lookup for each algorithm is done for all streams together.
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
    """Return the hits and the tags of content whose `digests` are in lists, at `places`.

    The other digests of the entries at `places` are computed by `more`, and added to `digests`.
    """
    if not places:
        return (), {}
    missing = judge.wanted(places) & ~mask_of(digests)
    if missing:
        digests |= more(Algorithm.in_mask(missing))
    tags = judge.seal(digests)
    hits = judge.hits(tags, length)
    return hits, {a: words.tobytes() for a, words in tags.items()} if hits else {}

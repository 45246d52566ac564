"""Looking up digests that somebody computed elsewhere: batches of them in, outcomes out.

The same judgement as for files, with what a file of digests says: a row may have several digests,
which must then agree with one entry, and a size, which rules out entries of another.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator

from hashclient.digestfile import DigestBatch
from hashclient.errors import UsageError
from hashclient.hashlist import NO_SIZE
from hashclient.judge import verdict
from hashclient.model import Algorithm, Hit, Kind, Outcome
from hashclient.scan import OpenLists
from hashclient.summary import Summary

#: Threads that judge batches while the main one reads; they keep up with it by far.
THREADS = 2

_Item = tuple[str, DigestBatch] | UsageError
_Judged = tuple[str, DigestBatch, dict[int, tuple[Hit, ...]]]


def lookup(
    batches: Iterable[tuple[str, DigestBatch]],
    lists: OpenLists,
    summary: Summary,
    *,
    keep_clean: bool = False,
) -> Generator[Outcome]:
    """Look up every row; yield outcomes as they are found, clean ones only with `keep_clean`.

    `batches` come with the name of the file they were read from.
    The path of an outcome is the file name of its row or, without one, its digest: it came from
    the user, not from a list.

    Raises:
        UsageError: the batches' reader refuses its input.
    """
    judge = lists.judge()
    started = time.monotonic()
    asked = 0

    def reading() -> Iterator[_Item]:
        nonlocal asked
        try:
            for source, batch in batches:
                asked += batch.count
                for algorithm in batch.digests:
                    judge.expect_many(algorithm, asked)
                yield source, batch
        except UsageError as error:
            yield error

    def judged(item: _Item) -> _Judged:
        if isinstance(item, UsageError):
            raise item  # now that what was read before it is judged
        source, batch = item
        columns = {
            a: (lists.sealer.tags(a, digests), rows) for a, (digests, rows) in batch.digests.items()
        }
        return source, batch, judge.hits_by_row(columns, batch.sizes)

    try:
        for source, batch, hits in _meanwhile(judged, reading()):
            shown = range(batch.count) if keep_clean else sorted(hits)
            summary.counts[Kind.CLEAN] += batch.count - len(shown)
            for row in shown:
                outcome = _outcome(source, batch, row, hits.get(row, ()))
                summary.add(outcome)
                yield outcome
    finally:
        summary.elapsed_s = time.monotonic() - started


def _meanwhile(function: Callable[[_Item], _Judged], items: Iterator[_Item]) -> Iterator[_Judged]:
    """Yield what `function` makes of each item, in order, computed while the next are read.

    Nearly all of both is done by libraries that let other threads run.
    """
    first = list(itertools.islice(items, 2))
    if len(first) < 2:
        yield from map(function, first)
        return
    from concurrent.futures import Future, ThreadPoolExecutor  # little work never needs it

    waiting: deque[Future[_Judged]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for item in itertools.chain(first, items):
            waiting.append(pool.submit(function, item))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _outcome(source: str, batch: DigestBatch, row: int, hits: tuple[Hit, ...]) -> Outcome:
    digests: dict[Algorithm, bytes] = {}
    for algorithm, (values, rows) in batch.digests.items():
        position = int(rows.searchsorted(row))
        if position < len(rows) and rows[position] == row:
            digests[algorithm] = values[position].tobytes()
    size = None if batch.sizes[row] == NO_SIZE else int(batch.sizes[row])
    path = batch.names[row]
    if path is None:
        path = next(iter(digests.values())).hex()
    return Outcome(
        verdict(hits), path, size, hits=hits, digests=digests, origin=f"{source}:{batch.lines[row]}"
    )

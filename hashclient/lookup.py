"""Looking up digests that somebody computed elsewhere: batches of them in, outcomes out.

The same judgement as for files, with what a file of digests says: a row may have several digests,
which must then agree with one entry, and a size, which rules out entries of another.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from dataclasses import replace

import numpy as np

from hashclient.digestfile import DigestBatch
from hashclient.hashlist import NO_SIZE
from hashclient.judge import Judge, outcome_of
from hashclient.model import Algorithm, Kind, Outcome
from hashclient.scan import OpenLists
from hashclient.summary import Summary


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
    try:
        for source, batch in batches:
            rows = _rows_to_judge(batch, lists)
            shown = range(batch.count) if keep_clean else rows
            summary.counts[Kind.CLEAN] += batch.count - len(shown)
            for row in shown:
                outcome = _judge_row(source, batch, row, judge)
                summary.add(outcome)
                if keep_clean or outcome.kind is not Kind.CLEAN:
                    yield outcome
    finally:
        summary.elapsed_s = time.monotonic() - started


def _rows_to_judge(batch: DigestBatch, lists: OpenLists) -> list[int]:
    """Return the rows of which any digest is in any list, ascending."""
    hit = np.zeros(batch.count, np.bool_)
    for algorithm, (digests, rows) in batch.digests.items():
        tags = lists.sealer.tags(algorithm, digests)
        for index in lists.indexes:
            hit[rows[index.find(algorithm, tags).queries]] = True
    found: list[int] = np.flatnonzero(hit).tolist()
    return found


def _judge_row(source: str, batch: DigestBatch, row: int, judge: Judge) -> Outcome:
    digests: dict[Algorithm, bytes] = {}
    for algorithm, (values, rows) in batch.digests.items():
        position = int(rows.searchsorted(row))
        if position < len(rows) and rows[position] == row:
            digests[algorithm] = values[position].tobytes()
    size = None if batch.sizes[row] == NO_SIZE else int(batch.sizes[row])
    name = batch.names[row]
    if name is None:
        name = next(iter(digests.values())).hex()
    outcome = outcome_of(name, size, judge.hits(judge.seal(digests), size), digests)
    return replace(outcome, origin=f"{source}:{batch.lines[row]}")

"""Looking up digests that another program has computed: judge digests, yield outcomes.

A row of digests is judged in the same way as a file. If a row has several digests, all of them must
agree with one entry. If a row has a size, entries of another size do not match the row. A row that
agrees with no entry is clean only if its digests suffice for every entry. `Gaps` finds the rows
whose digests do not suffice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import numpy as np

from hashclient.core.errors import UsageError
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Hit, Outcome
from hashclient.core.verdict import Summary
from hashclient.decisions.interface import Rule, as_it_is
from hashclient.index.matcher import Gaps, verdict
from hashclient.index.open_lists import OpenLists
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.wire import NO_SIZE
from hashclient.system.background import ahead
from hashclient.system.descriptors import open_input
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.lists.importers.importfile import Reading

#: The number of batches that are read ahead while one batch is judged.
AHEAD = 2


def lookup(
    batches: Iterable[tuple[str, DigestBatch]],
    lists: OpenLists,
    summary: Summary,
    *,
    keep_clean: bool = False,
    rule: Rule = as_it_is,
) -> Generator[Outcome]:
    """Look up every row; yield outcomes when they are found, clean outcomes only with `keep_clean`.

    - `batches` are given with the name of the file from which they were read.
    - `rule` returns an outcome as rulings of people change it.

    A gap of a list is a set of entries without the algorithms that a row has. A row whose digests
    cannot rule out the entries of a gap is unread. If `summary` says that gaps are accepted, the
    rows that would be unread because of a gap are clean, and are yielded like clean rows. At the
    end, `summary` has the gaps. The path of an outcome is the file name of its row. For a row
    without a name, the path is the digest that the user gave, and not a digest of a list.

    Raises:
        UsageError: the reader of `batches` refuses its input.
        StateError: the system cannot start the thread that reads batches.
    """
    judge = lists.judge()
    gaps = Gaps(lists.indexes)
    started = time.monotonic()

    try:
        for source, batch in ahead(iter(batches), AHEAD):
            columns = {}
            for algorithm, (digests, rows) in batch.digests.items():
                columns[algorithm] = lists.sealer.tags(algorithm, digests), rows
            hits = judge.hits_by_row(columns, batch.sizes)
            undecided = gaps.find(batch, hits)
            if summary.gaps_accepted:
                undecided = None
            if keep_clean:
                shown: Sequence[int] = range(batch.count)
            else:
                shown = sorted(hits)
                unread = 0 if undecided is None else int(np.count_nonzero(undecided.rows))
                summary.counts[Kind.UNREAD] += unread
                summary.counts[Kind.CLEAN] += batch.count - len(shown) - unread
            for row in shown:
                outcome = _outcome(source, batch, row, hits.get(row, ()))
                if undecided is not None and undecided.rows[row]:
                    reason = undecided.reason(row)
                    outcome = msgspec.structs.replace(outcome, kind=Kind.UNREAD, reason=reason)
                outcome = rule(outcome)
                summary.add(outcome)
                yield outcome
    finally:
        summary.gaps = gaps.found()
        summary.elapsed_s = time.monotonic() - started


def batches_of(
    digests: Sequence[str],
    files: Sequence[str],
    stdin: BinaryIO | None,
    on_failure: Callable[[UsageError], None],
    reading: Reading | None = None,
) -> Iterator[tuple[str, DigestBatch]]:
    """Yield hexadecimal `digests`, and the digests in `files`, each with the name of their source.

    If `stdin` is given, the file name `-` means `stdin`. `reading` says how files are read; by
    default, all rows of files are used.

    Raises:
        UsageError: a file cannot be read to its end; raised after all other files were read. If
            several files fail, `on_failure` is called with the errors of all but the first.
    """
    errors: list[UsageError] = []
    for name in ([None] if digests else []) + list(files):
        try:
            if name is None:
                from hashclient.lists.importers.rows import digests_of_arguments

                yield "argument", digests_of_arguments(digests)
            elif name == "-" and stdin is not None:
                yield from _read(stdin, "stdin", reading)
            else:
                yield from _content(name, reading)
        except UsageError as error:
            errors.append(error)
    for other in errors[1:]:
        on_failure(other)
    if errors:
        raise errors[0]


def _content(path: str, reading: Reading | None) -> Iterator[tuple[str, DigestBatch]]:
    name = printable(path)
    try:
        stream = os.fdopen(open_input(path), "rb")
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}", hint="check the path") from error
    with stream:
        yield from _read(stream, name, reading)


def _read(
    stream: BinaryIO, name: str, reading: Reading | None
) -> Iterator[tuple[str, DigestBatch]]:
    # `importfile` is imported here, because it imports readers of all kinds of files, and most
    # lookups have digests as arguments.
    from hashclient.lists.importers.importfile import Reading
    from hashclient.lists.importers.registry import read_digests

    for batch in read_digests(stream, name, reading or Reading(all_rows=True)):
        yield name, batch


def _outcome(source: str, batch: DigestBatch, row: int, hits: tuple[Hit, ...]) -> Outcome:
    digests: dict[Algorithm, bytes] = {}
    for algorithm, (values, rows) in batch.digests.items():
        # If every row has a digest of this algorithm, the slow search for the row is not needed.
        full = len(rows) == batch.count
        position = row if full else int(rows.searchsorted(np.uint32(row)))
        if position < len(rows) and rows[position] == row:
            digests[algorithm] = values[position].tobytes()
    size = None if batch.sizes[row] == NO_SIZE else int(batch.sizes[row])
    path = batch.names[row]
    if path is None:
        path = next(iter(digests.values())).hex()
    return Outcome(
        verdict(hits), path, size, hits=hits, digests=digests, origin=f"{source}:{batch.lines[row]}"
    )

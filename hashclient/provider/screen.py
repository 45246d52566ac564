"""Leaves out rows with digests of the empty file or of known good files before a publication.

Clients refuse a list with a digest of the empty file, and a match of a known good file is a false
alarm. Rows with digests of the empty file or of known good files are skipped and counted like rows
that cannot be used; if more rows are skipped than `Reading.max_bad` allows, nothing is published.
Lists of known good files may be very long, because the lists are read once, batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from hashclient.core.kinds import Algorithm
from hashclient.lists.empty_file import rows_of_the_empty_file
from hashclient.lists.importers.importfile import Reading
from hashclient.lists.importers.registry import read_digests
from hashclient.lists.importers.rows import DigestBatch, Int64
from hashclient.lists.wire import Uint8, Uint32, Uint64
from hashclient.provider.doubles import keys_of
from hashclient.system.text import printable

Named = tuple[str, DigestBatch]


def read_screened(
    sources: Iterable[tuple[str, BinaryIO]],
    reading: Reading,
    known_good: Iterable[tuple[str, BinaryIO]] | None,
) -> Iterable[Named]:
    """Read files of digests, without the rows that must not be published.

    Raises:
        UsageError: a file is not in a known format, or too many rows are skipped; also while
            iterating.
    """
    read = (
        (name, batch) for name, stream in sources for batch in read_digests(stream, name, reading)
    )
    batches = without_empty_file(read, reading)
    return batches if known_good is None else without_known_good(batches, known_good, reading)


def without_empty_file(batches: Iterable[Named], reading: Reading) -> Iterator[Named]:
    """Yield batches without rows that have a digest of the empty file.

    If `reading` allows no skipped row, rows with a digest of the empty file are not left out. A
    later check then refuses the publication with an error that names the line of such a row.

    Raises:
        UsageError: too many rows are skipped; also while iterating.
    """
    for name, batch in batches:
        rows = rows_of_the_empty_file(batch.digests) if reading.max_bad else np.zeros(0, np.uint32)
        yield from _without(name, batch, rows, "has a digest of the empty file", reading)


def without_known_good(
    batches: Iterable[Named], known_good: Iterable[tuple[str, BinaryIO]], reading: Reading
) -> Iterator[Named]:
    """Yield batches without rows that have a digest of a known good file.

    `known_good` are files of digests with their names. All batches are in memory while the known
    good files are read.

    Raises:
        UsageError: too many rows are skipped, or a list of known good files cannot be read.
    """
    held = list(batches)
    digests = _Digests(held)
    for name, stream in known_good:
        for batch in read_digests(stream, name):
            digests.look_for(batch)
    for (name, batch), rows in zip(held, digests.found(), strict=True):
        yield from _without(name, batch, rows, "has a digest of a known good file", reading)


def _without(
    name: str, batch: DigestBatch, rows: Int64 | Uint32, what: str, reading: Reading
) -> Iterator[Named]:
    for row in rows.tolist():
        reading.skip(f"{printable(name)}:{batch.lines[row]}", what)
    if len(rows) < batch.count:
        yield name, batch.without(rows.tolist())


class _Digests:
    """The digests of batches, and for each row whether it has a digest of a known good file."""

    def __init__(self, held: list[Named]) -> None:
        self._counts = [batch.count for _, batch in held]
        self._is_found: npt.NDArray[np.bool_] = np.zeros(sum(self._counts), np.bool_)
        self._columns: dict[Algorithm, tuple[Uint64, Uint8, Int64]] = {}
        starts = np.cumsum([0, *self._counts])
        for algorithm in Algorithm:
            parts = [
                (b.digests[algorithm][0], b.digests[algorithm][1].astype(np.int64) + start)
                for (_, b), start in zip(held, starts.tolist(), strict=False)
                if algorithm in b.digests
            ]
            if parts:
                values = np.concatenate([v for v, _ in parts])
                rows = np.concatenate([r for _, r in parts])
                keys = keys_of(values)
                order = np.argsort(keys, kind="stable")
                self._columns[algorithm] = keys[order], values[order], rows[order]

    def look_for(self, batch: DigestBatch) -> None:
        """Find the rows that have a digest in `batch`, which is from a list of known good files."""
        for algorithm, (values, _) in batch.digests.items():
            if algorithm not in self._columns:
                continue
            keys, ours, rows = self._columns[algorithm]
            theirs = keys_of(values)
            places = np.minimum(np.searchsorted(keys, theirs), len(keys) - 1)
            # The digests are compared by their first eight bytes, and whole only if these bytes are
            # equal.
            alike = {values[n].tobytes() for n in np.flatnonzero(keys[places] == theirs)}
            wanted = np.unique(theirs[keys[places] == theirs])
            for n in np.flatnonzero(np.isin(keys, wanted)) if alike else ():
                if ours[n].tobytes() in alike:
                    self._is_found[rows[n]] = True

    def found(self) -> Iterator[Int64]:
        """Yield for each batch the rows that have a digest of a known good file."""
        start = 0
        for count in self._counts:
            yield np.flatnonzero(self._is_found[start : start + count])
            start += count

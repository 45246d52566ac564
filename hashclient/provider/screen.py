"""Rows that are not published: digests of the empty file, and of known good files.

No list may have these rows: clients refuse the empty file, and users refuse known good files. These
rows are skipped and counted like unusable rows, up to the same bound; beyond it, no row is
published. However long the lists of known good files are, they are read in one pass.
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
    """Read files of digests, and leave out rows that must not be published.

    Raises:
        UsageError: a file is not understood, or too many rows are skipped; also while reading.
    """
    read = (
        (name, batch) for name, stream in sources for batch in read_digests(stream, name, reading)
    )
    batches = without_empty_file(read, reading)
    return batches if known_good is None else without_known_good(batches, known_good, reading)


def without_empty_file(batches: Iterable[Named], reading: Reading) -> Iterator[Named]:
    """Yield batches without rows that have a digest of the empty file.

    If no row may be skipped, these rows stay, and the publication is refused.

    Raises:
        UsageError: too many rows are skipped; also while reading.
    """
    for name, batch in batches:
        rows = rows_of_the_empty_file(batch.digests) if reading.max_bad else np.zeros(0, np.uint32)
        yield from _without(name, batch, rows, "has a digest of the empty file", reading)


def without_known_good(
    batches: Iterable[Named], known_good: Iterable[tuple[str, BinaryIO]], reading: Reading
) -> Iterator[Named]:
    """Yield batches without rows that have a digest of a known good file.

    `known_good` are files of digests with their names. All batches are held in memory until the
    known good files are read.

    Raises:
        UsageError: as `without_empty_file`; or a list of known good files cannot be read.
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
    """The digests of batches, and which of them are known good."""

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
        """Note the digests of `batch`."""
        for algorithm, (values, _) in batch.digests.items():
            if algorithm not in self._columns:
                continue
            keys, ours, rows = self._columns[algorithm]
            theirs = keys_of(values)
            places = np.minimum(np.searchsorted(keys, theirs), len(keys) - 1)
            # The first eight bytes distinguish nearly all digests; the other bytes are compared for
            # the rest.
            alike = {values[n].tobytes() for n in np.flatnonzero(keys[places] == theirs)}
            wanted = np.unique(theirs[keys[places] == theirs])
            for n in np.flatnonzero(np.isin(keys, wanted)) if alike else ():
                if ours[n].tobytes() in alike:
                    self._is_found[rows[n]] = True

    def found(self) -> Iterator[Int64]:
        """Yield for each batch the rows that were found."""
        start = 0
        for count in self._counts:
            yield np.flatnonzero(self._is_found[start : start + count])
            start += count

"""Finds inputs of a lookup whose digests cannot rule out every entry of a list.

If an entry and a row share no algorithm, the entry neither matches the row nor is ruled out, unless
both have a size and the sizes differ. Such a row is not clean. This costs nothing where every entry
has every digest. Otherwise whole columns are compared, and the entries are counted once for each
list and set of algorithms.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.algorithms import Algorithm, mask_of
from hashclient.core.model import Gap
from hashclient.index.reader import Index
from hashclient.lists.importers.interface import DigestBatch
from hashclient.lists.wire import NO_SIZE, Uint8

Flags = npt.NDArray[np.bool_]


class Undecided(msgspec.Struct, frozen=True):
    """The undecided rows of a batch in parts, each with a sentence that says why."""

    rows: Flags
    parts: list[tuple[Flags, str]] = msgspec.field(default_factory=list)

    def reason(self, row: int) -> str:
        """Return why a row cannot be decided."""
        return "; ".join(text for concerned, text in self.parts if concerned[row])


class Gaps:
    """Finds the rows that gaps in some lists leave undecided, and counts these rows."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        """Look for the gaps of `indexes`."""
        self._indexes = indexes
        #: How many inputs are undecided, by the number of the list and the mask of their digests.
        self._rows: dict[tuple[int, int], int] = {}
        #: For each mask of digests, the lists that may have a gap.
        self._suspects = [
            [n for n, index in enumerate(indexes) if index.may_miss(given)] for given in range(8)
        ]

    def find(self, batch: DigestBatch, hit: Collection[int]) -> Undecided | None:
        """Return the rows of `batch` that are not in `hit` and cannot be decided, if any."""
        if not any(self._suspects[1:]):
            return None
        everywhere = mask_of(
            a for a, (_, rows) in batch.digests.items() if len(rows) == batch.count
        )
        given: Uint8 | None = None
        masks = [everywhere]
        if everywhere != mask_of(batch.digests):
            given = np.zeros(batch.count, np.uint8)
            for algorithm, (_, rows) in batch.digests.items():
                given[rows] |= np.uint8(algorithm)
            masks = np.flatnonzero(np.bincount(given, minlength=8)).tolist()
        undecided = Undecided(np.zeros(batch.count, np.bool_))
        for mask in masks:
            for number in self._suspects[mask]:
                concerned = self._concerned(number, mask, batch)
                if concerned is None:
                    continue
                if given is not None:
                    concerned &= given == mask
                concerned[list(hit)] = False
                if count := int(np.count_nonzero(concerned)):
                    self._rows[number, mask] = self._rows.get((number, mask), 0) + count
                    undecided.parts.append((concerned, self._gap(number, mask).text))
                    np.logical_or(undecided.rows, concerned, out=undecided.rows)
        return undecided if undecided.parts else None

    def _concerned(self, number: int, mask: int, batch: DigestBatch) -> Flags | None:
        """Return which rows would be undecided if their digests were of `mask`; None if none."""
        index = self._indexes[number]
        sized, unsized = index.count_missed(mask)
        if unsized:
            return np.ones(batch.count, np.bool_)
        if not sized:
            return None
        concerned: Flags = batch.sizes == NO_SIZE
        if not concerned.all():
            sizes = index.sizes_missed(mask)
            places = sizes.searchsorted(batch.sizes)
            places[places == len(sizes)] = 0
            concerned |= sizes[places] == batch.sizes
        return concerned

    def _gap(self, number: int, mask: int) -> Gap:
        index = self._indexes[number]
        return Gap(
            list_name=index.manifest.list,
            algorithms=Algorithm.in_mask(mask),
            entries=sum(index.count_missed(mask)),
            live=index.manifest.entries,
            rows=self._rows.get((number, mask), 0),
        )

    def found(self) -> tuple[Gap, ...]:
        """Return the gaps that have left any row undecided so far."""
        return tuple(self._gap(number, mask) for number, mask in sorted(self._rows))

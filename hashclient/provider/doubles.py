"""Finds doubles: entries that occur twice in a publication, or are listed already.

Clients accept doubles, but most doubles are mistakes: a file was given twice, or an export repeats
earlier exports. So a publication reports the number of doubles. Digests are compared by their first
eight bytes, which is enough for counting.
"""

from __future__ import annotations

import numpy as np

from hashclient.core.kinds import Algorithm
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.wire import AddBatch, Segment, Strings, Uint8, Uint64, entry_hashes

Int64 = np.typing.NDArray[np.int64]


class NewDigests:
    """The digests of the entries that will be published, each with the row of its entry."""

    def __init__(self) -> None:
        """Create a collection without entries."""
        self._parts: dict[Algorithm, list[tuple[Uint64, Int64]]] = {a: [] for a in Algorithm}

    def add(self, batch: DigestBatch, first: int) -> None:
        """Add the entries of `batch`; `first` is the row number of the first entry in `batch`."""
        for algorithm, (values, rows) in batch.digests.items():
            self._parts[algorithm].append((keys_of(values), rows.astype(np.int64) + first))

    def by_algorithm(self) -> dict[Algorithm, tuple[Uint64, Int64]]:
        """Return per algorithm the keys of all digests and their rows, ordered by key and row."""
        found = {}
        for algorithm, parts in self._parts.items():
            if parts:
                keys, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
                order = np.lexsort((rows, keys))
                found[algorithm] = keys[order], rows[order]
        return found


class Doubles:
    """Finds new entries that are doubles of listed entries or of other new entries."""

    def __init__(self, new: NewDigests, count: int) -> None:
        """Look for doubles among the `count` entries in `new`."""
        self._count = count
        self._new = new.by_algorithm()
        #: Per algorithm: the keys (see `keys_of`) of listed digests, and the hashes of their entry
        #: ids.
        self._listed: dict[Algorithm, list[tuple[Uint64, Uint64]]] = {a: [] for a in Algorithm}
        #: Categories of all entries that `add` has received.
        self.categories: set[str] = set()

    def add(self, batch: AddBatch, _segment: Segment) -> None:
        """Record entries that are listed."""
        self.categories.update(batch.categories)
        for algorithm, (values, rows) in batch.digests.items():
            if algorithm in self._new:
                keys = keys_of(values)
                known = np.flatnonzero(is_in(keys, self._new[algorithm][0]))
                if known.size:
                    self._listed[algorithm].append(
                        (keys[known], entry_hashes(batch.ids[rows[known]]))
                    )

    def withdraw(self, ids: Strings, _segment: Segment | None = None) -> None:
        """Record entries that are not listed any more."""
        gone = np.sort(entry_hashes(ids))
        for algorithm, parts in self._listed.items():
            kept = [(keys, hashes, ~is_in(hashes, gone)) for keys, hashes in parts]
            self._listed[algorithm] = [(k[keep], h[keep]) for k, h, keep in kept if keep.any()]

    def listed(self) -> Int64:
        """Return in ascending order the rows of entries whose digests are all listed."""
        is_new = np.zeros(self._count, np.bool_)
        for algorithm, (keys, rows) in self._new.items():
            parts = [k for k, _ in self._listed[algorithm]] or [np.zeros(0, np.uint64)]
            is_new[rows[~is_in(keys, np.unique(np.concatenate(parts)))]] = True
        return np.flatnonzero(~is_new)

    def repeated(self) -> Int64:
        """Return in ascending order the rows of entries whose digests all occur in earlier rows."""
        is_new = np.zeros(self._count, np.bool_)
        for keys, rows in self._new.values():
            first = np.ones(len(keys), np.bool_)
            first[1:] = keys[1:] != keys[:-1]
            is_new[rows[first]] = True
        return np.flatnonzero(~is_new)


def keys_of(values: Uint8) -> Uint64:
    """Return the first eight bytes of each digest as a number; `values` has a row a digest."""
    return np.ascontiguousarray(values[:, :8]).view(np.uint64).reshape(len(values))


def is_in(values: Uint64, ordered: Uint64) -> np.typing.NDArray[np.bool_]:
    """Return for each of the `values` whether it is in the sorted array `ordered`."""
    if not len(ordered):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    found: np.typing.NDArray[np.bool_] = ordered[places] == values
    return found

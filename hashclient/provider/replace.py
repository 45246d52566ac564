"""Makes a list equal to a source: withdraws entries that the source lacks, adds missing entries.

Entries that are equal in the list and in the source are not changed, so that clients download only
the difference. Entries are equal if their digests, size and category are equal and, if the source
has ids, their ids are equal. Ids and contents are compared by 64-bit hashes. If several entries of
the source have the same contents, the list gets the same number of entries with these contents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hashclient.core.errors import UsageError
from hashclient.core.kinds import Algorithm
from hashclient.core.model import MAX_ENTRY_ID_BYTES
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.wire import AddBatch, Segment, Strings, Uint8, Uint32, Uint64, entry_hashes
from hashclient.provider.entries import made_id
from hashclient.provider.screen import Named

#: A factor for hashes, which is odd so that no two hashes have the same product modulo 2**64.
_ODD = np.uint64(0x9E3779B97F4A7C15)
_WIDTHS = {a: a.digest_bytes for a in Algorithm}


class Listed:
    """The entries of a list; `add` and `withdraw` receive all changes of the list, in order."""

    def __init__(self) -> None:
        """Begin with an empty list."""
        self._parts: list[tuple[Strings, Uint64, Uint64]] = []

    def add(self, batch: AddBatch, _segment: Segment) -> None:
        """Record entries that were added."""
        categories = [batch.categories[code] for code in batch.category_codes.tolist()]
        contents = _contents(batch.digests, batch.sizes, categories)
        self._parts.append((batch.ids, entry_hashes(batch.ids), contents))

    def withdraw(self, ids: Strings, _segment: Segment) -> None:
        """Record entries that were withdrawn."""
        gone = entry_hashes(ids)
        parts = [(i, h, c, ~np.isin(h, gone)) for i, h, c in self._parts]
        self._parts = [(i[keep], h[keep], c[keep]) for i, h, c, keep in parts if keep.any()]

    def difference(
        self, batches: Sequence[Named], category: str, *, may_be_empty: bool = False
    ) -> tuple[list[Named], Strings]:
        """Return the rows of the source to add, and the ids of the listed entries to withdraw.

        A row without a category gets `category`. If the list has more equal entries than the
        source, the entries that were added first are kept.

        Raises:
            UsageError: the source has no entry, and `may_be_empty` is false.
        """
        if not (may_be_empty or any(batch.count for _, batch in batches)):
            raise UsageError(
                "no entries to publish: all entries of the list would be withdrawn",
                hint="check the source of the files; `hashclient provider withdraw` takes entries "
                "off a list",
            )
        ids, hashes, contents = self._columns()
        named, theirs, pairs = _of_source([batch for _, batch in batches], category)
        # Rows with an id are compared first. A row with an id equals a listed entry that has the
        # same id and the same contents.
        ours = _pairs(hashes, contents)
        stays = np.isin(ours, pairs[named])
        listed = named & np.isin(pairs, ours) & (_numbers(pairs) == 0)
        # Rows without an id are compared by contents: the n-th row equals the n-th remaining listed
        # entry with the same contents.
        left, rows = np.flatnonzero(~stays), np.flatnonzero(~named)
        here = _pairs(_numbers(contents[left]), contents[left])
        there = _pairs(_numbers(theirs[rows]), theirs[rows])
        stays[left], listed[rows] = np.isin(here, there), np.isin(there, here)
        new: list[Named] = []
        ends = np.cumsum([batch.count for _, batch in batches])[:-1]
        for (name, batch), known in zip(batches, np.split(listed, ends), strict=False):
            rest = batch.without(np.flatnonzero(known).tolist())
            if rest.count:
                new.append((name, rest))
        return new, ids[~stays]

    def has_all(self, batches: Iterable[AddBatch], generation: int) -> bool:
        """Return whether the list already has all entries of the new `generation`.

        An entry with an id from the source is compared by id and contents; an entry whose id was
        made by this program is compared by contents only.
        """
        _, hashes, contents = self._columns()
        pairs = _pairs(hashes, contents)
        first = 1
        for batch in batches:
            made = np.array([made_id(generation, first + n) for n in range(len(batch.ids))], "S")
            categories = [batch.categories[code] for code in batch.category_codes.tolist()]
            theirs = _contents(batch.digests, batch.sizes, categories)
            named = np.isin(_pairs(entry_hashes(batch.ids), theirs), pairs)
            if not (named | ((batch.ids == made) & np.isin(theirs, contents))).all():
                return False
            first += len(batch.ids)
        return True

    def _columns(self) -> tuple[Strings, Uint64, Uint64]:
        """Return the ids of all listed entries, and the hashes of ids and of contents."""
        ids, hashes, contents = (
            np.concatenate([part[column] for part in self._parts])
            if self._parts
            else np.zeros(0, ("S1", np.uint64, np.uint64)[column])
            for column in range(3)
        )
        return ids, hashes, contents


def _of_source(
    batches: Sequence[DigestBatch], category: str
) -> tuple[npt.NDArray[np.bool_], Uint64, Uint64]:
    """Return per row whether it has an id, a hash of its contents, a hash of id and contents."""
    texts: list[str] = []
    contents = [np.zeros(0, np.uint64)]
    for batch in batches:
        # An id is cut to one character more than the limit, so that a too long id equals no valid
        # id.
        texts += [
            (t or "")[: MAX_ENTRY_ID_BYTES + 1] for t in batch.entry_ids or [""] * batch.count
        ]
        names = [text or category for text in batch.categories or [None] * batch.count]
        contents.append(_contents(batch.digests, batch.sizes, names))
    ids = np.array([text.encode("ascii", "replace") for text in texts], "S")
    theirs = np.concatenate(contents)
    return ids != b"", theirs, _pairs(entry_hashes(ids), theirs)


def _numbers(values: Uint64) -> Uint64:
    """Return for each value how many equal values precede it in the array."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.searchsorted(ordered, ordered)
    numbers = np.empty(len(values), np.uint64)
    numbers[order] = np.arange(len(values)) - first
    return numbers


def _pairs(hashes: Uint64, contents: Uint64) -> Uint64:
    pairs: Uint64 = hashes ^ (contents * _ODD)
    return pairs


def _contents(
    digests: Mapping[Algorithm, tuple[Uint8, Uint32]], sizes: Uint64, categories: Sequence[str]
) -> Uint64:
    """Return a hash of the digests, the size and the category of each entry."""
    count = len(sizes)
    columns: list[npt.NDArray[np.uint8]] = [sizes.astype("<u8").view(np.uint8).reshape(count, 8)]
    for algorithm, width in _WIDTHS.items():
        column = np.zeros((count, width + 1), np.uint8)
        if algorithm in digests:
            values, rows = digests[algorithm]
            column[rows, :width] = values
            column[rows, width] = 1
        columns.append(column)
    table = np.ascontiguousarray(np.concatenate(columns, axis=1))
    data, width = table.tobytes(), table.shape[1]
    found = (
        hashlib.blake2b(data[n * width : (n + 1) * width] + name.encode(), digest_size=8).digest()
        for n, name in enumerate(categories)
    )
    return np.frombuffer(b"".join(found), np.uint64)

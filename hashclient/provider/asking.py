"""Questions about the lists of a repository, answered without changes and without the lock.

Segments never change, and unreferenced ones stay for a day. Answers hold counts and ids, never a
digest. An id may be withdrawn and added again, so the order of segments counts. Ids are compared by
their 64-bit hashes, as everywhere here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hashclient.core.algorithms import Algorithm
from hashclient.lists.wire import (
    NO_SIZE,
    AddBatch,
    ListIndex,
    Segment,
    Strings,
    Uint8,
    Uint64,
    entry_hashes,
)
from hashclient.provider.changes import require_list, segments_between
from hashclient.provider.find import Questions
from hashclient.provider.keys import Roles
from hashclient.provider.repository import Repository
from hashclient.provider.results import Answer, Difference, Overview, Step

Int32 = npt.NDArray[np.int32]
_Scalar = TypeVar("_Scalar", bound=np.generic)


class Listing:
    """The entries of a list, or of some of its generations; takes segments in their order."""

    def __init__(self, *, with_ids: bool) -> None:
        """Begin with none; ids are kept for `difference`."""
        self._with_ids = with_ids
        self._ids: list[Strings] = []
        self._hashes: list[Uint64] = []
        self._places: list[Int32] = []
        self._masks: list[Uint8] = []
        self._sized: list[npt.NDArray[np.bool_]] = []
        self._codes: list[Int32] = []
        self._categories: dict[str, int] = {}
        self._gone_ids: list[Strings] = []
        self._gone: list[Uint64] = []
        self._gone_places: list[Int32] = []
        self._place = 0

    def add(self, batch: AddBatch, _segment: Segment) -> None:
        """Take note of entries that were added."""
        self._place += 1
        count = len(batch.ids)
        if self._with_ids:
            self._ids.append(batch.ids)
        self._hashes.append(entry_hashes(batch.ids))
        self._places.append(np.full(count, self._place, np.int32))
        self._masks.append(batch.masks)
        self._sized.append(batch.sizes != NO_SIZE)
        codes = [self._categories.setdefault(c, len(self._categories)) for c in batch.categories]
        self._codes.append(np.array(codes, np.int32)[batch.category_codes])

    def withdraw(self, ids: Strings, _segment: Segment) -> None:
        """Take note of entries that were withdrawn."""
        self._place += 1
        if self._with_ids:
            self._gone_ids.append(ids)
        self._gone.append(entry_hashes(ids))
        self._gone_places.append(np.full(len(ids), self._place, np.int32))

    def overview(self, index: ListIndex, keys: int, threshold: int) -> Overview:
        """Return the counts of the listed entries; all segments of `index` were shown."""
        live = _last_is(
            _joined(self._hashes, np.uint64),
            _joined(self._places, np.int32),
            _joined(self._gone, np.uint64),
            _joined(self._gone_places, np.int32),
        )
        masks = _joined(self._masks, np.uint8)[live]
        codes = _joined(self._codes, np.int32)[live]
        names = list(self._categories)
        counted = np.bincount(codes, minlength=len(names)).tolist()
        categories = {n: count for n, count in zip(names, counted, strict=True) if count}
        return Overview(
            index.list,
            index.generation,
            index.published_at,
            index.entries,
            int(np.count_nonzero(_joined(self._sized, np.bool_)[live])),
            dict(sorted(categories.items())),
            {a.label: int(np.count_nonzero(masks & np.uint8(a))) for a in Algorithm},
            keys,
            threshold,
            steps(index.segments),
        )

    def difference(self, list_name: str, first: int, last: int) -> Difference:
        """Return the entries that came and went; segments after `first` up to `last` were shown.

        Entries that were added and withdrawn in between are in neither.
        """
        added, gone = _joined(self._hashes, np.uint64), _joined(self._gone, np.uint64)
        came, went = _joined(self._places, np.int32), _joined(self._gone_places, np.int32)
        hashes = np.concatenate([added, gone])
        order = np.lexsort((np.concatenate([came, went]), hashes))
        ordered = hashes[order]
        begins = np.ones(len(ordered), np.bool_)
        begins[1:] = ordered[1:] != ordered[:-1]
        ends = np.ones(len(ordered), np.bool_)
        ends[:-1] = begins[1:]
        is_add = order < len(added)
        # An id whose first event is a withdrawal was listed before; one whose last event is an
        # addition is listed now.
        first_of, last_of = order[begins], order[ends]
        before, after = ~is_add[begins], is_add[ends]
        ids = [i.decode() for part in (*self._ids, *self._gone_ids) for i in part.tolist()]
        codes, names = _joined(self._codes, np.int32), list(self._categories)
        counted = Counter(names[codes[n]] for n in last_of[after & ~before].tolist())
        return Difference(
            list_name,
            first,
            last,
            tuple(sorted(ids[n] for n in last_of[after & ~before].tolist())),
            tuple(sorted(ids[n] for n in first_of[before & ~after].tolist())),
            tuple(sorted(ids[n] for n in last_of[before & after].tolist())),
            dict(sorted(counted.items())),
        )


def steps(segments: tuple[Segment, ...]) -> tuple[Step, ...]:
    """Return the changes of each generation, or of each range of joined ones."""
    found: dict[tuple[int, int], list[int]] = {}
    for segment in segments:
        counts = found.setdefault((segment.first, segment.last), [0, 0])
        counts[segment.kind == "withdraw"] += segment.entries
    return tuple(Step(*where, *counts) for where, counts in found.items())


def _last_is(
    hashes: Uint64, places: Int32, gone: Uint64, gone_places: Int32
) -> npt.NDArray[np.bool_]:
    """Return which entries were not withdrawn after they were added."""
    if not len(gone):
        return np.ones(len(hashes), np.bool_)
    order = np.lexsort((gone_places, gone))
    gone, gone_places = gone[order], gone_places[order]
    at = np.searchsorted(gone, hashes, side="right") - 1
    known = (at >= 0) & (gone[np.maximum(at, 0)] == hashes)
    live: npt.NDArray[np.bool_] = ~(known & (gone_places[np.maximum(at, 0)] > places))
    return live


def _joined(parts: Sequence[npt.NDArray[_Scalar]], kind: type[_Scalar]) -> npt.NDArray[_Scalar]:
    return np.concatenate([np.zeros(0, kind), *parts])


def overview(repository: Repository, list_name: str) -> Overview:
    """Return a list in numbers.

    Raises:
        UsageError: there is no such list.
        StateError: there is no repository, or it is corrupt.
    """
    roles = _roles_with(repository, [list_name])
    index = repository.files.current(roles, list_name)
    keyids, threshold = roles.key_policy(list_name)
    listing = Listing(with_ids=False)
    repository.files.show(roles, list_name, index.segments, listing)
    return listing.overview(index, len(keyids), threshold)


def difference(
    repository: Repository, list_name: str, first: int, last: int | None = None
) -> Difference:
    """Return the changes of a list from generation `first` to `last`, or to the newest.

    Raises:
        UsageError: there is no such list, or no such generation; one may have been joined with
            others.
        StateError: there is no repository, or it is corrupt.
    """
    roles = _roles_with(repository, [list_name])
    index = repository.files.current(roles, list_name)
    last = index.generation if last is None else last
    listing = Listing(with_ids=True)
    repository.files.show(roles, list_name, segments_between(index, first, last), listing)
    return listing.difference(list_name, first, last)


def find(repository: Repository, questions: Questions, lists: Sequence[str] = ()) -> list[Answer]:
    """Answer questions about `lists`, or about all there are.

    Raises:
        UsageError: there is no such list.
        StateError: there is no repository, or it is corrupt.
    """
    roles = _roles_with(repository, lists)
    for name in lists or sorted(roles.lists):
        questions.begin(name)
        segments = repository.files.current(roles, name).segments
        repository.files.show(roles, name, segments, questions)
    return questions.answers()


def _roles_with(repository: Repository, lists: Sequence[str]) -> Roles:
    roles = repository.load()
    for name in lists:
        require_list(roles, name)
    return roles

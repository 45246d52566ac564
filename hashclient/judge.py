"""Judging inputs by their sealed tags: what could match, what does, and what that makes of them.

The one place that asks the lists, for files and for digests alike. It reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hashclient.hashing import CHEAPEST_COVER
from hashclient.hashlist import Uint64
from hashclient.index import Index
from hashclient.model import Algorithm, Hit, Kind, Outcome
from hashclient.seal import Sealer

#: Sizes whose plan is remembered; bounds the memory that a tree of many sizes takes.
PLANS_KEPT = 1 << 16

#: An entry of one of the lists: number of the list, run in it, row of the run.
Place = tuple[int, int, int]
Plan = tuple[Algorithm, ...]


class Judge:
    """Looks tags up in all lists and judges what is found."""

    def __init__(self, indexes: Sequence[Index], sealer: Sealer) -> None:
        """Ask `indexes`, all sealed under the key of `sealer`."""
        self._indexes = indexes
        self.sealer = sealer
        self._plans: dict[int | None, Plan] = {}
        #: Whether entries without a size make every file worth reading, whatever its size.
        self.reads_everything = any(index.unsized_masks for index in indexes)

    def plan(self, size: int | None) -> Plan:
        """Return the algorithms to compute for an input of `size` bytes, None if not known.

        Empty if no entry could match. The cheapest set that touches every entry left suffices:
        one digest that hits tells which others are to be computed.
        """
        plan = self._plans.get(size)
        if plan is None:
            masks = 0
            for index in self._indexes:
                masks |= index.masks_of_size(size)
            plan = Algorithm.in_mask(CHEAPEST_COVER[masks])
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            self._plans[size] = plan
        return plan

    def find(self, algorithm: Algorithm, tags: Uint64) -> dict[int, list[Place]]:
        """Look up (n, 2) tags of one algorithm; return the entries found, by the tag's number."""
        result: dict[int, list[Place]] = {}
        for number, index in enumerate(self._indexes):
            found = index.find(algorithm, tags)
            for query, run, row in zip(
                found.queries.tolist(), found.runs.tolist(), found.rows.tolist(), strict=True
            ):
                result.setdefault(query, []).append((number, run, row))
        return result

    def wanted(self, places: Sequence[Place]) -> int:
        """Return the mask of all algorithms that the entries at `places` have."""
        mask = 0
        for number, run, row in places:
            mask |= int(self._indexes[number].runs[run].masks[row])
        return mask

    def hits(self, tags: Mapping[Algorithm, Uint64], size: int | None) -> tuple[Hit, ...]:
        """Return every entry that one of an input's tags hits, complete ones first.

        `tags` has two words for each algorithm that is known of the input.
        """
        found: list[dict[Algorithm, set[tuple[int, int]]]] = [{} for _ in self._indexes]
        available = 0
        for algorithm, words in tags.items():
            available |= algorithm
            for number, run, row in self.find(algorithm, words.reshape(1, 2)).get(0, ()):
                found[number].setdefault(algorithm, set()).add((run, row))
        hits: list[Hit] = []
        for index, by_algorithm in zip(self._indexes, found, strict=True):
            if by_algorithm:
                hits += index.hits(by_algorithm, available, size)
        return tuple(sorted(hits, key=lambda hit: not hit.complete))

    def seal(self, digests: Mapping[Algorithm, bytes]) -> dict[Algorithm, Uint64]:
        """Return the tags of one input's digests."""
        return {a: np.ravel(self.sealer.tags_of(a, [d])) for a, d in digests.items()}


def outcome_of(
    path: str, size: int | None, hits: tuple[Hit, ...], digests: dict[Algorithm, bytes]
) -> Outcome:
    """Turn the hits of one input into its outcome; without any it is clean."""
    kind = Kind.CLEAN
    if hits:
        kind = Kind.MATCH if hits[0].complete else Kind.CONFLICT
    return Outcome(kind, path, size, hits=hits, digests=digests)

"""Judges inputs by their tags: which digests to compute, which entries match, and the outcome.

Only this module asks the lists, for files and for digests alike. This module reads no file.

`Gaps` finds inputs of a lookup whose digests cannot rule out every entry of a list. If an entry and
a row have no common algorithm, the entry neither matches the row nor is ruled out, unless both have
a size and the sizes differ. An undecided row is not clean. If every entry has every digest, this
check costs nothing. Otherwise whole columns are compared, and the entries are counted once for each
list and set of algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.digests import CHEAPEST_COVER, EVERY_DIGEST
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Gap, Hit
from hashclient.index.blinding import Sealer
from hashclient.index.prefixtable import may_have
from hashclient.index.reader import Flags, Found, Index
from hashclient.lists.wire import NO_SIZE, Uint8, Uint32, Uint64

if TYPE_CHECKING:
    from hashclient.lists.importers.rows import DigestBatch

#: How many sizes keep their plan; this bounds memory for a tree of many sizes.
PLANS_KEPT = 1 << 16

#: The row of an input that is judged alone.
_FIRST = np.zeros(1, np.uint32)

_EVERY = mask_of(Algorithm)

#: An entry of one of the lists: number of the list, number of the run, row of the run.
Place = tuple[int, int, int]
Plan = tuple[Algorithm, ...]
#: For each algorithm: the (m, 2) known tags of inputs, and the (m,) rows of these inputs.
Columns = dict[Algorithm, tuple[Uint64, Uint32]]


class Judge:
    """Looks tags up in all lists and judges the hits."""

    def __init__(
        self,
        indexes: Sequence[Index],
        sealer: Sealer,
        *,
        all_digests: bool = False,
        also: int = 0,
    ) -> None:
        """Ask `indexes`, all sealed under the key of `sealer`.

        With `all_digests`, a plan has every algorithm that a remaining entry has, not the cheapest.
        For an input that hits an entry, the algorithms in the mask `also` are wanted, too.
        """
        self._also = also
        self._indexes = indexes
        self._suffices = EVERY_DIGEST if all_digests else CHEAPEST_COVER
        self.sealer = sealer
        self._plans: dict[int | None, Plan] = {}
        #: Whether entries without a size make every file worth reading, whatever its size.
        self.reads_everything = any(index.unsized_masks for index in indexes)
        #: The algorithms for which any entry has a digest.
        self.every_algorithm = Algorithm.in_mask(int(EVERY_DIGEST[self._masks(None)]) | also)
        #: The plan of every file; None if the plan depends on the size.
        self._one_plan: Plan | None = None
        unsized = 0
        for index in indexes:
            unsized |= index.unsized_masks
        if unsized == self._masks(None):
            self._one_plan = self.plan(None)

    @property
    def has_one_plan(self) -> bool:
        """Whether the plan is the same for every size."""
        return self._one_plan is not None

    def plan(self, size: int | None) -> Plan:
        """Return the algorithms to compute for an input of `size` bytes, None if unknown.

        The result is empty if no entry could match. The cheapest set with one digest of each
        remaining entry is enough: a digest that hits shows which others to compute. If the digests
        of one entry are of several files, this set is not enough: only all digests find the entry
        for each file.
        """
        if self._one_plan is not None:
            return self._one_plan
        plan = self._plans.get(size)
        if plan is None:
            plan = Algorithm.in_mask(self._suffices[self._masks(size)])
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            self._plans[size] = plan
        return plan

    def of_sizes(self, sizes: Uint64) -> tuple[npt.NDArray[np.bool_], Uint8]:
        """Return for each size whether any entry may have it, and a mask of algorithms.

        Every entry that may have the size has digests of these algorithms, so any of these digests
        decides about an input of this size.
        """
        possible, common = np.zeros(len(sizes), np.bool_), np.full(len(sizes), _EVERY, np.uint8)
        for index in self._indexes:
            of_list, masks = index.of_sizes(sizes)
            possible |= of_list
            common &= np.where(of_list, masks, np.uint8(_EVERY))
        return possible, common

    def _masks(self, size: int | None) -> int:
        masks = 0
        for index in self._indexes:
            masks |= index.masks_of_size(size)
        return masks

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

    def screen(self) -> Callable[[Algorithm, bytes], bool]:
        """Return a quick test of one digest: whether an entry may have it.

        False is certain; True is hardly ever returned for an unlisted digest. The test takes some
        three microseconds; `find` of a single tag takes thirty. For one thread.
        """
        ciphers = {a: self.sealer.encryptor(a) for a in Algorithm}
        tables = {
            a: [table for index in self._indexes for table in index.tables(a)] for a in Algorithm
        }

        def may_be_listed(algorithm: Algorithm, digest: bytes) -> bool:
            key = int.from_bytes(ciphers[algorithm].update(digest[:16])[:8], "little")
            for table in tables[algorithm]:  # noqa: SIM110 - half the time that `any` takes
                if may_have(table, key):
                    return True
            return False

        return may_be_listed

    def wanted(self, places: Sequence[Place]) -> int:
        """Return the mask of the algorithms that are wanted of an input which hits at `places`."""
        mask = self._also
        for number, run, row in places:
            mask |= int(self._indexes[number].runs[run].masks[row])
        return mask & _EVERY

    def are_listed(self, algorithm: Algorithm, tags: Uint64) -> npt.NDArray[np.bool_]:
        """Return for each of (n, 2) tags of one algorithm whether an entry has it."""
        rows: Uint32 = np.arange(len(tags), dtype=np.uint32)
        is_listed, _ = self.wanted_by_row({algorithm: (tags, rows)}, len(tags))
        return is_listed

    def wanted_by_row(self, columns: Columns, count: int) -> tuple[npt.NDArray[np.bool_], Uint8]:
        """Return which of `count` inputs hit an entry, and which algorithms each of them needs.

        The second value is a mask for each input, zero for an input without a hit.
        """
        is_hit, masks = np.zeros(count, np.bool_), np.zeros(count, np.uint8)
        columns, asked, first = self._different(columns, count)
        for index in self._indexes:
            for algorithm, (tags, rows) in columns.items():
                found = index.find(algorithm, tags)
                # np.unique would load numpy.ma, which takes 15 ms in each process.
                for number in sorted(set(found.runs.tolist())):
                    of_run = found.runs == number
                    inputs = rows[found.queries[of_run]]
                    is_hit[inputs] = True
                    of_entries = index.runs[number].masks[found.rows[of_run]]
                    np.bitwise_or.at(masks, inputs, of_entries & np.uint8(_EVERY))
        masks[is_hit] |= np.uint8(self._also)
        is_hit[asked], masks[asked] = is_hit[first], masks[first]
        return is_hit, masks

    def _different(
        self, columns: Columns, count: int, sizes: Uint64 | None = None
    ) -> tuple[Columns, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the columns of inputs that may hit an entry, without repeated inputs.

        Thousands of files may have the same content, and thousands of entries its digest. So equal
        inputs are looked up only once. Also returned: the rows of all inputs that may hit an entry,
        ascending, and for each row the first row that is equal to it.
        """
        may = np.zeros(count, np.bool_)
        for index in self._indexes:
            for algorithm, (tags, rows) in columns.items():
                may[rows[index.may_find(algorithm, tags)]] = True
        asked = np.flatnonzero(may)
        place = np.zeros(count, np.intp)
        place[asked] = np.arange(len(asked))
        known = np.zeros((len(asked), 2 * len(columns) + len(columns) + 1), np.uint64)
        if sizes is not None:
            known[:, -1] = sizes[asked]
        chosen: Columns = {}
        for number, (algorithm, (tags, rows)) in enumerate(columns.items()):
            kept = may[rows]
            tags, rows = chosen[algorithm] = tags[kept], rows[kept]
            at = place[rows]
            known[at, 3 * number : 3 * number + 2] = tags
            known[at, 3 * number + 2] = 1
        # If all checksums differ, all inputs differ. This is the usual case, and cheap to detect.
        if len(set(known.sum(axis=1, dtype=np.uint64).tolist())) == len(asked):
            return chosen, asked, asked
        whole = known.view(np.dtype((np.void, known.shape[1] * known.itemsize))).ravel()
        _, firsts, group = np.unique(whole, return_index=True, return_inverse=True)
        first = asked[firsts[group.ravel()]]
        for algorithm, (tags, rows) in chosen.items():
            is_first = first[place[rows]] == rows
            chosen[algorithm] = tags[is_first], rows[is_first]
        return chosen, asked, first

    def hits(self, tags: Mapping[Algorithm, Uint64], size: int | None) -> tuple[Hit, ...]:
        """Return every entry that is hit by any tag of an input, complete hits first.

        `tags` has two words for each algorithm whose digest of the input is known.
        """
        columns = {a: (words.reshape(1, 2), _FIRST) for a, words in tags.items()}
        sizes = np.array([NO_SIZE if size is None else size], np.uint64)
        return self.hits_by_row(columns, sizes).get(0, ())

    def hits_by_row(self, columns: Columns, sizes: Uint64) -> dict[int, tuple[Hit, ...]]:
        """Return the hits of many inputs, by the input's row; rows without a hit are left out.

        `columns` has for each algorithm the (m, 2) tags that are known and the (m,) rows they
        belong to; `sizes` has the size of each input or `NO_SIZE`.
        """
        available = np.zeros(len(sizes), np.uint8)
        for algorithm, (_, rows) in columns.items():
            available[rows] |= np.uint8(algorithm)
        columns, asked, first = self._different(columns, len(sizes), sizes)
        hits: dict[int, list[Hit]] = {}
        for index in self._indexes:
            found = []
            for algorithm, (tags, rows) in columns.items():
                places = index.find(algorithm, tags)
                if len(places.queries):
                    inputs = rows[places.queries].astype(np.intp)
                    found.append((algorithm, Found(inputs, places.runs, places.rows)))
            for row, hit in index.hits(found, available, sizes) if found else ():
                hits.setdefault(row, []).append(hit)
        judged = {
            row: tuple(of_row)
            if len(of_row) == 1
            else tuple(sorted(of_row, key=lambda hit: not hit.complete))
            for row, of_row in hits.items()
        }
        if first is asked:
            return judged
        pairs = zip(asked.tolist(), first.tolist(), strict=True)
        return {row: judged[of] for row, of in pairs if of in judged}

    def seal(self, digests: Mapping[Algorithm, bytes]) -> dict[Algorithm, Uint64]:
        """Return the tags of the digests of one input."""
        return {a: np.ravel(self.sealer.tags_of(a, [d])) for a, d in digests.items()}


def verdict(hits: tuple[Hit, ...]) -> Kind:
    """Return how an input with these hits ends; without hits it is clean."""
    if not hits:
        return Kind.CLEAN
    return Kind.MATCH if hits[0].complete else Kind.CONFLICT


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

"""Decides about inputs by their tags: the digests to compute, the matching entries, the outcome.

Files and digests are looked up in the lists only by this module. This module reads no file.

`Gaps` finds the inputs of a lookup whose digests cannot rule out every entry of a list. If an entry
and an input have digests of different algorithms only, the entry can neither match the input nor be
ruled out, unless both have a size and the sizes differ. An input that cannot be decided is not
clean. If every entry of a list has every digest, `Gaps` takes no time. If an entry of a list lacks
a digest, `Gaps` compares whole columns, and counts entries once for each list and set of
algorithms.
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

#: The number of sizes for which the algorithms to compute are remembered; this bounds the memory
#: for a tree with many sizes.
PLANS_KEPT = 1 << 16

#: The rows of a batch with a single input.
_FIRST = np.zeros(1, np.uint32)

_EVERY = mask_of(Algorithm)

#: An entry of one of the lists: the number of the list, the number of the run, and the row in the
#: run.
Place = tuple[int, int, int]
Plan = tuple[Algorithm, ...]
#: For each algorithm: the tags of inputs as an array (m, 2), and the (m,) rows of these inputs.
Columns = dict[Algorithm, tuple[Uint64, Uint32]]


class Judge:
    """Looks up tags in all lists, and decides whether the hits are matches."""

    def __init__(
        self,
        indexes: Sequence[Index],
        sealer: Sealer,
        *,
        all_digests: bool = False,
        also: int = 0,
    ) -> None:
        """Look up tags in `indexes`, which are all sealed with the key of `sealer`.

        A plan is the set of algorithms to compute for an input. With `all_digests`, a plan has
        every algorithm of the entries that could match; otherwise a plan has the cheapest
        sufficient algorithms. For an input that hits an entry, the algorithms in the mask `also`
        are computed as well.
        """
        self._also = also
        self._indexes = indexes
        self._suffices = EVERY_DIGEST if all_digests else CHEAPEST_COVER
        self.sealer = sealer
        self._plans: dict[int | None, Plan] = {}
        #: Whether some entry has no size, so that a file of any size has to be read.
        self.reads_everything = any(index.unsized_masks for index in indexes)
        #: The algorithms for which at least one entry has a digest, and the algorithms in `also`.
        self.every_algorithm = Algorithm.in_mask(int(EVERY_DIGEST[self._masks(None)]) | also)
        #: The algorithms to compute for an input of any size, or None if they depend on the size.
        self._one_plan: Plan | None = None
        unsized = 0
        for index in indexes:
            unsized |= index.unsized_masks
        if unsized == self._masks(None):
            self._one_plan = self.plan(None)

    @property
    def has_one_plan(self) -> bool:
        """Whether the same plan applies to every size."""
        return self._one_plan is not None

    def plan(self, size: int | None) -> Plan:
        """Return the algorithms to compute for an input of `size` bytes, None if unknown.

        The plan is empty if no entry could match. It is enough to compute the cheapest set of
        algorithms that has one digest of each entry that could match, because a digest that hits
        shows which other digests to compute. If the digests of one entry belong to several files,
        the cheapest set is not enough: `all_digests` is needed to find the entry for each of the
        files.
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
        """Return for each size whether an entry may have the size, and a mask of algorithms.

        Every entry that may have the size has digests of all algorithms in the mask, so one of
        these digests decides about an input of the size.
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
        """Look up (n, 2) tags of one algorithm.

        Return the entries found, by the number of the tag.
        """
        result: dict[int, list[Place]] = {}
        for number, index in enumerate(self._indexes):
            found = index.find(algorithm, tags)
            for query, run, row in zip(
                found.queries.tolist(), found.runs.tolist(), found.rows.tolist(), strict=True
            ):
                result.setdefault(query, []).append((number, run, row))
        return result

    def screen(self) -> Callable[[Algorithm, bytes], bool]:
        """Return a quick function that returns whether an entry may have a digest.

        If `may_be_listed` returns False, no entry has the digest; it hardly ever returns True for
        an unlisted digest. `may_be_listed` takes about three microseconds, while `find` takes
        thirty for a single tag. Only one thread may use the function that `screen` returns.
        """
        ciphers = {a: self.sealer.encryptor(a) for a in Algorithm}
        tables = {
            a: [table for index in self._indexes for table in index.tables(a)] for a in Algorithm
        }

        def may_be_listed(algorithm: Algorithm, digest: bytes) -> bool:
            key = int.from_bytes(ciphers[algorithm].update(digest[:16])[:8], "little")
            for table in tables[algorithm]:  # noqa: SIM110 - takes half the time of `any`
                if may_have(table, key):
                    return True
            return False

        return may_be_listed

    def wanted(self, places: Sequence[Place]) -> int:
        """Return the mask of the algorithms to compute for an input that hits `places`."""
        mask = self._also
        for number, run, row in places:
            mask |= int(self._indexes[number].runs[run].masks[row])
        return mask & _EVERY

    def are_listed(self, algorithm: Algorithm, tags: Uint64) -> npt.NDArray[np.bool_]:
        """Return for each of (n, 2) tags of one algorithm whether an entry has the tag."""
        rows: Uint32 = np.arange(len(tags), dtype=np.uint32)
        is_listed, _ = self.wanted_by_row({algorithm: (tags, rows)}, len(tags))
        return is_listed

    def wanted_by_row(self, columns: Columns, count: int) -> tuple[npt.NDArray[np.bool_], Uint8]:
        """Return which of `count` inputs hit an entry, and which algorithms each input needs.

        The second value has a mask of algorithms for each input; the mask is zero for an input
        without a hit.
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
        """Return the columns of the inputs that may hit an entry, without repeated inputs.

        Thousands of files may have the same content, and thousands of entries may have the digest
        of this content. So inputs with equal tags are looked up only once. The second value has the
        rows of all inputs that may hit an entry, ascending; the third value has, for each of these
        rows, the first row with an equal input.
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
        # If the sums over the columns of `known` are different for all inputs, all inputs are
        # different. Different inputs are the usual case, and are detected cheaply.
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
        """Return every hit of an input's tags; hits whose digests all agree come first.

        `tags` has two words for each algorithm for which a digest of the input is known.
        """
        columns = {a: (words.reshape(1, 2), _FIRST) for a, words in tags.items()}
        sizes = np.array([NO_SIZE if size is None else size], np.uint64)
        return self.hits_by_row(columns, sizes).get(0, ())

    def hits_by_row(self, columns: Columns, sizes: Uint64) -> dict[int, tuple[Hit, ...]]:
        """Return the hits of many inputs, by the row of the input; rows without a hit are left out.

        `columns` has for each algorithm the known tags as an array (m, 2), and the (m,) rows of
        their inputs; `sizes` has the size of each input in bytes, or `NO_SIZE`.
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
    """Return the outcome of an input with these hits; an input without hits is clean."""
    if not hits:
        return Kind.CLEAN
    return Kind.MATCH if hits[0].complete else Kind.CONFLICT


class Undecided(msgspec.Struct, frozen=True):
    """The undecided rows of a batch, in groups; each group has a sentence that says why."""

    rows: Flags
    parts: list[tuple[Flags, str]] = msgspec.field(default_factory=list)

    def reason(self, row: int) -> str:
        """Return why a row of the batch cannot be decided."""
        return "; ".join(text for concerned, text in self.parts if concerned[row])


class Gaps:
    """Finds and counts the rows that cannot be decided because entries lack some digests."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        """Find out which of `indexes` may have entries that lack digests."""
        self._indexes = indexes
        #: The number of undecided inputs, by the number of the list and the mask of the inputs'
        #: digests.
        self._rows: dict[tuple[int, int], int] = {}
        #: For each mask of an input's digests, the numbers of the lists that may have entries
        #: without any of these digests.
        self._suspects = [
            [n for n, index in enumerate(indexes) if index.may_miss(given)] for given in range(8)
        ]

    def find(self, batch: DigestBatch, hit: Collection[int]) -> Undecided | None:
        """Return the rows of `batch` that are not in `hit` and cannot be decided, or None."""
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
        """Return which rows only digests of `mask` would leave undecided, or None."""
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
        """Return a `Gap` for each list and each mask of digests with undecided rows."""
        return tuple(self._gap(number, mask) for number, mask in sorted(self._rows))

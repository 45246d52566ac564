"""Answers questions about lists, and compares drafts with files of the user.

The functions of this module change no file. Questions need no lock, because segments never change
and an unreferenced segment is kept for a day. Answers contain counts, ids and row numbers, never a
digest. Segments have to be read in their order, because an id may be withdrawn and added again. Ids
are compared by their 64-bit hashes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.kinds import Algorithm
from hashclient.lists.importers.rows import Int64
from hashclient.lists.wire import (
    NO_SIZE,
    AddBatch,
    ListIndex,
    Segment,
    Strings,
    entry_hashes,
)
from hashclient.provider.changes import require_list, segments_between
from hashclient.provider.drafts import Draft, load_draft
from hashclient.provider.find import Questions
from hashclient.provider.listfiles import Shown
from hashclient.provider.repository import Repository
from hashclient.provider.results import Answer, Difference, Overview, Step
from hashclient.provider.roles import Roles
from hashclient.trust.provenance import Provenance


class Listing:
    """Collects the additions and withdrawals of a list, or of some generations, in their order."""

    def __init__(self, *, with_ids: bool) -> None:
        """Begin without events. If `with_ids` is true, ids are stored for `difference`."""
        self._with_ids = with_ids
        self._ids: list[Strings] = []
        self._categories: dict[str, int] = {}
        none = np.zeros(0, np.uint8)
        #: For each event: the hash of the id, whether it is an addition, and for an addition the
        #: digests, a size and the category of the entry.
        self._parts: list[tuple[npt.NDArray[Any], ...]] = [(none.astype(np.uint64), *[none] * 4)]

    def add(self, batch: AddBatch, _segment: Segment) -> None:
        """Record entries that were added."""
        codes = [self._categories.setdefault(c, len(self._categories)) for c in batch.categories]
        came = np.ones(len(batch.ids), np.uint8)
        sized, of = batch.sizes != NO_SIZE, np.array(codes, np.int32)[batch.category_codes]
        self._note(batch.ids, came, batch.masks, sized, of)

    def withdraw(self, ids: Strings, _segment: Segment) -> None:
        """Record entries that were withdrawn."""
        self._note(ids, *[np.zeros(len(ids), np.uint8)] * 4)

    def _note(self, ids: Strings, *columns: npt.NDArray[Any]) -> None:
        if self._with_ids:
            self._ids.append(ids)
        self._parts.append((entry_hashes(ids), *columns))

    def _events(self) -> tuple[Int64, Int64, tuple[npt.NDArray[Any], ...]]:
        """Return the positions of each id's first and last event, and the columns of the events."""
        hashes, *columns = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order = np.argsort(hashes, kind="stable")
        differ = np.diff(hashes[order]) != 0
        begins, ends = np.ones((2, len(hashes)), np.bool_)
        begins[1:], ends[:-1] = differ, differ
        return order[begins], order[ends], tuple(columns)

    def overview(
        self, index: ListIndex, keys: int, threshold: int, provenance: Provenance
    ) -> Overview:
        """Return the counts of the listed entries, after all segments of `index` were read."""
        _, last, (came, *columns) = self._events()
        masks, sized, codes = (column[last[came[last] > 0]] for column in columns)
        counted = zip(self._categories, np.bincount(codes).tolist(), strict=False)
        return Overview(
            index.list,
            index.generation,
            index.published_at,
            index.entries,
            int(np.count_nonzero(sized)),
            dict(sorted((name, count) for name, count in counted if count)),
            {a.label: int(np.count_nonzero(masks & np.uint8(a))) for a in Algorithm},
            keys,
            threshold,
            steps(index.segments),
            provenance,
        )

    def difference(self, list_name: str, first: int, last: int) -> Difference:
        """Return the entries that changed after generation `first`, up to and with `last`.

        Entries that were both added and withdrawn in the compared segments are left out.
        """
        begin, end, (came, _, _, codes) = self._events()
        # An id whose first event is a withdrawal was listed before; an id whose last event is an
        # addition is listed now.
        before, after = came[begin] == 0, came[end] > 0
        ids = [entry_id.decode() for part in self._ids for entry_id in part.tolist()]
        names = list(self._categories)
        counted = Counter(names[codes[n]] for n in end[after & ~before].tolist())
        added, withdrawn, renewed = (
            tuple(sorted(ids[n] for n in events.tolist()))
            for events in (end[after & ~before], begin[before & ~after], end[before & after])
        )
        categories = dict(sorted(counted.items()))
        return Difference(list_name, first, last, added, withdrawn, renewed, categories)


def steps(segments: tuple[Segment, ...]) -> tuple[Step, ...]:
    """Return the changes of each generation, or of each range of joined generations."""
    found: dict[tuple[int, int], list[int]] = {}
    for segment in segments:
        counts = found.setdefault((segment.first, segment.last), [0, 0])
        counts[segment.kind == "withdraw"] += segment.entries
    return tuple(Step(*where, *counts) for where, counts in found.items())


def overview(repository: Repository, list_name: str) -> Overview:
    """Return the counts of a list: entries, categories, algorithms, keys and generations.

    Raises:
        UsageError: no list has this name.
        StateError: the repository does not exist or is corrupt.
    """
    roles = _roles_with(repository, [list_name])
    index = repository.files.current(roles, list_name)
    keyids, threshold = roles.key_policy(list_name)
    listing = Listing(with_ids=False)
    repository.files.show(roles, list_name, index.segments, listing)
    provenance = repository.files.provenance(roles, list_name)
    return listing.overview(index, len(keyids), threshold, provenance)


def difference(
    repository: Repository, list_name: str, first: int, last: int | None = None
) -> Difference:
    """Return the changes of a list from generation `first` to `last`, or to the newest generation.

    Raises:
        UsageError: the list or a generation does not exist, or a generation was joined with other
            generations.
        StateError: the repository does not exist or is corrupt.
    """
    roles = _roles_with(repository, [list_name])
    index = repository.files.current(roles, list_name)
    last = index.generation if last is None else last
    listing = Listing(with_ids=True)
    repository.files.show(roles, list_name, segments_between(index, first, last), listing)
    return listing.difference(list_name, first, last)


def find(repository: Repository, questions: Questions, lists: Sequence[str] = ()) -> list[Answer]:
    """Answer questions about `lists`, or about all lists.

    Raises:
        UsageError: no list has this name.
        StateError: the repository does not exist or is corrupt.
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


class Comparison(msgspec.Struct, frozen=True, rename={"list_name": "list"}):
    """The entries that a draft adds to a list, compared with files of digests.

    `added` is the number of entries that the draft adds. `missing` has the sorted ids of the
    entries that are in no row of the files. `differing` has the sorted ids of the entries that are
    in a row with a different digest or size. All other added entries are in the files.
    """

    list_name: str
    added: int
    missing: tuple[str, ...]
    differing: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether all added entries are in the files."""
        return not self.missing and not self.differing


def compare_draft(
    directory: Path, questions: Questions
) -> tuple[Draft, tuple[Comparison, ...], tuple[str, ...]]:
    """Verify a draft, and search the files of `questions` for the entries that the draft adds.

    An entry is in the files if a row has a digest of the entry, and no digest or size that differs
    from the entry. Return the draft, a comparison for each list, and the rows that match no new
    entry of the draft.

    Raises:
        UsageError, VerificationError, StateError: see `load_draft`.
    """
    listings: dict[str, Listing] = {}

    def watch(name: str) -> Sequence[Shown]:
        questions.begin(name)
        listings[name] = Listing(with_ids=True)
        return listings[name], questions

    draft = load_draft(directory, watch)
    answers = questions.answers()
    compared = []
    for name, change in draft.lists.items():
        found = listings[name].difference(name, change.generation - 1, change.generation)
        added = {*found.added, *found.renewed}
        hits = [entry for answer in answers for entry in answer.entries if entry.list_name == name]
        differing = {entry.entry_id for entry in hits if entry.differ}
        missing = added - {entry.entry_id for entry in hits}
        compared.append(
            Comparison(name, len(added), tuple(sorted(missing)), tuple(sorted(differing)))
        )
    rest = tuple(answer.asked for answer in answers if not answer.entries)
    return draft, tuple(compared), rest

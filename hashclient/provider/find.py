"""Finds entries of the published lists, by their ids or by digests in a file.

An answer names the entries that have a digest in the file, and the algorithms of the equal digests,
but contains no digest. Lists are read segment by segment, so the memory depends on the number of
questions and answers, and not on the size of the lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO

import msgspec
import numpy as np

from hashclient.core.errors import UsageError
from hashclient.core.kinds import Algorithm
from hashclient.core.model import is_entry_id
from hashclient.lists.importers.importfile import Reading
from hashclient.lists.importers.registry import read_digests
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.wire import NO_SIZE, AddBatch, Segment, Strings, Uint64, entry_hashes
from hashclient.provider.doubles import is_in, keys_of
from hashclient.provider.results import Answer, Entry
from hashclient.system.text import printable

#: The largest number of questions; a question takes some 600 bytes of memory.
MAX_ASKED = 1_000_000


class Questions:
    """The ids and the rows with digests that the user asks about."""

    def __init__(self, ids: Sequence[str] = ()) -> None:
        """Begin with a question for each of the `ids`.

        Raises:
            UsageError: a text does not have the form of an id.
        """
        for number, text in enumerate(ids, 1):
            if not is_entry_id(text):
                # The text may be a digest, so the message does not repeat it.
                raise UsageError(
                    f"not an entry id: number {number} of those given",
                    hint="to find entries by digests, use --from FILE",
                )
        self.asked: list[str] = list(ids)
        self._ids: dict[bytes, list[int]] = {}
        for number, text in enumerate(ids):
            self._ids.setdefault(text.encode(), []).append(number)
        self._hashes = np.unique(entry_hashes(np.array([*self._ids], "S64")))
        #: For each algorithm: the first eight bytes of each digest in the questions, and the
        #: numbers of the questions that have this digest.
        self._digests: dict[Algorithm, dict[bytes, list[int]]] = {a: {} for a in Algorithm}
        self._keys: dict[Algorithm, Uint64] = {}
        self._rows: dict[int, tuple[dict[Algorithm, bytes], int | None]] = {}
        #: Pairs of the number of a question and an entry that answers the question.
        self._hits: list[tuple[int, Entry]] = []
        #: For each id: the indices in `_hits` of entries of the list that is being read. A
        #: withdrawal applies to the latest of these entries.
        self._here: dict[bytes, list[int]] = {}
        self._list = ""

    def ask(self, sources: Iterable[tuple[str, BinaryIO]], reading: Reading) -> None:
        """Add a question for each row in files of digests.

        Raises:
            UsageError: a file is not in a known format, or the files have more than `MAX_ASKED`
                rows.
        """
        for name, stream in sources:
            for batch in read_digests(stream, name, reading):
                self._ask(batch, printable(name))
        for algorithm, asked in self._digests.items():
            data = b"".join(digest[:8] for digest in asked)
            self._keys[algorithm] = np.unique(np.frombuffer(data, np.uint64))

    def _ask(self, batch: DigestBatch, name: str) -> None:
        start = len(self.asked)
        if start + batch.count > MAX_ASKED:
            raise UsageError(
                f"{name}: more than {MAX_ASKED:,} rows to find", hint="ask for fewer rows at once"
            )
        self.asked += [f"{name}:{line}" for line in batch.lines.tolist()]
        sizes = batch.sizes.tolist()
        for row in range(batch.count):
            self._rows[start + row] = {}, None if sizes[row] == int(NO_SIZE) else sizes[row]
        for algorithm, (values, rows) in batch.digests.items():
            for value, row in zip(values, rows.tolist(), strict=True):
                digest = value.tobytes()
                self._rows[start + row][0][algorithm] = digest
                self._digests[algorithm].setdefault(digest, []).append(start + row)

    def begin(self, list_name: str) -> None:
        """Begin to search the list `list_name`; `add` and `withdraw` receive its segments."""
        self._list, self._here = list_name, {}

    def add(self, batch: AddBatch, segment: Segment) -> None:
        """Search entries that were added to the list for entries that the questions ask about."""
        pairs: set[tuple[int, int]] = set()
        for row in np.flatnonzero(np.isin(entry_hashes(batch.ids), self._hashes)).tolist():
            pairs |= {(row, n) for n in self._ids.get(bytes(batch.ids[row]), ())}
        for algorithm, keys in self._keys.items():
            if not len(keys) or algorithm not in batch.digests:
                continue
            values, rows = batch.digests[algorithm]
            for place in np.flatnonzero(is_in(keys_of(values), keys)).tolist():
                asked = self._digests[algorithm].get(values[place].tobytes(), ())
                pairs |= {(int(rows[place]), n) for n in asked}
        for row, number in sorted(pairs):
            self._here.setdefault(bytes(batch.ids[row]), []).append(len(self._hits))
            self._hits.append((number, self._entry(batch, row, number, segment)))

    def _entry(self, batch: AddBatch, row: int, number: int, segment: Segment) -> Entry:
        size = None if batch.sizes[row] == NO_SIZE else int(batch.sizes[row])
        agree: list[str] = []
        differ: list[str] = []
        if number in self._rows:
            asked, asked_size = self._rows[number]
            for algorithm, digest in sorted(asked.items()):
                if (listed := _digest(batch, algorithm, row)) is not None:
                    (agree if listed == digest else differ).append(algorithm.label)
            if None not in (size, asked_size) and size != asked_size:
                differ.append("size")
        return Entry(
            self._list,
            bytes(batch.ids[row]).decode(),
            batch.categories[batch.category_codes[row]],
            size,
            tuple(a.label for a in Algorithm.in_mask(int(batch.masks[row]))),
            segment.first,
            segment.last,
            None,
            tuple(agree),
            tuple(differ),
        )

    def withdraw(self, ids: Strings, segment: Segment) -> None:
        """Record entries that were withdrawn from the list."""
        if not self._here:
            return
        names = np.array([*self._here], "S64")
        for row in np.flatnonzero(np.isin(entry_hashes(ids), entry_hashes(names))).tolist():
            for hit in self._here.pop(bytes(ids[row]), ()):
                number, entry = self._hits[hit]
                when = (segment.first, segment.last)
                self._hits[hit] = number, msgspec.structs.replace(entry, withdrawn=when)

    def answers(self) -> list[Answer]:
        """Return an answer to each question, in the order of the questions."""
        found: dict[int, list[Entry]] = {}
        for number, entry in self._hits:
            found.setdefault(number, []).append(entry)
        return [Answer(asked, tuple(found.get(n, ()))) for n, asked in enumerate(self.asked)]


def _digest(batch: AddBatch, algorithm: Algorithm, row: int) -> bytes | None:
    if algorithm not in batch.digests:
        return None
    values, rows = batch.digests[algorithm]
    place = int(np.searchsorted(rows, row))
    is_there = place < len(rows) and int(rows[place]) == row
    return values[place].tobytes() if is_there else None

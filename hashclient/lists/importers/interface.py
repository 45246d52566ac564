"""The interface of importers: each recognises one kind of file by its beginning, and reads it.

`registry` has all importers and picks one; publishing, lookups and lists of known good files all
use it. The callers decide what a digest means, and whether an entry's id or category is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.algorithms import Algorithm
from hashclient.lists.wire import Uint8, Uint32, Uint64

if TYPE_CHECKING:
    from hashclient.lists.importers.importfile import ImportFile
    from hashclient.lists.importers.reading import Reading

Int64 = npt.NDArray[np.int64]


class DigestBatch(msgspec.Struct, frozen=True, eq=False):
    """Some rows of a file of digests, by column; every row has at least one digest.

    `names` are what the file calls its rows (decoded with surrogateescape): file names in a sum
    file, signatures in one of ClamAV; None where there is none. `lines` (count,) are line numbers
    from 1, in a database those of rows. `digests[a]` is a pair: the digests of algorithm `a` as
    (m, digest_bytes) and the (m,) rows they belong to, ascending. `sizes` (count,) are in bytes or
    `NO_SIZE`. The last three are None unless the file has such a column; `added` is (count,)
    datetime64[ms] in UTC, NaT for an empty cell.
    """

    count: int
    names: list[str | None]
    lines: Int64
    digests: dict[Algorithm, tuple[Uint8, Uint32]]
    sizes: Uint64
    entry_ids: list[str | None] | None = None
    categories: list[str | None] | None = None
    added: npt.NDArray[np.datetime64] | None = None

    def without(self, rows: Sequence[int]) -> DigestBatch:
        """Return the batch without some rows, ascending."""
        if not len(rows):
            return self
        kept = np.ones(self.count, np.bool_)
        kept[np.asarray(rows, np.int64)] = False
        number = np.cumsum(kept) - 1
        digests = {}
        for algorithm, (values, of) in self.digests.items():
            stay = kept[of]
            if stay.any():
                digests[algorithm] = values[stay], number[of[stay]].astype(np.uint32)
        places = np.flatnonzero(kept).tolist()

        def some(column: list[str | None] | None) -> list[str | None] | None:
            return None if column is None else [column[n] for n in places]

        return DigestBatch(
            len(places),
            [self.names[n] for n in places],
            self.lines[kept],
            digests,
            self.sizes[kept],
            some(self.entry_ids),
            some(self.categories),
            None if self.added is None else self.added[kept],
        )


class Importer(Protocol):
    """Reads one kind of file. Every implementation passes `tests/contract/test_importers.py`."""

    @property
    def name(self) -> str:
        """The name of the kind, as in `FORMATS_HINT`."""

    @property
    def has_columns(self) -> bool:
        """Whether rows have columns with names, which `--where` and `--column` ask for."""

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Say whether a file is of this kind, by its first line.

        `head` is the first line that is neither blank nor a comment, without its end and without
        a byte order mark; of a longer one, 64 KiB at least. `reading` may name columns.
        """

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches, in memory that does not grow with it.

        A file without rows gives no batch. A row that cannot be used goes to `file.skip`.

        Raises:
            UsageError: a line or row is not understood (it is named and never quoted), or reading
                fails.
        """

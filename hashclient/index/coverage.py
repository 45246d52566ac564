"""Counts the live entries of an index that lack digests of some algorithms.

A digest of those algorithms cannot rule such an entry out. The entries are counted on request, from
the column of masks, and only in runs whose header says that there may be such entries. The columns
are read in blocks, so that memory does not grow with the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from hashclient.index.run import Run
from hashclient.lists.wire import Uint8, Uint32

#: Rows in one block.
BLOCK_ROWS = 1 << 20

Sizes = npt.NDArray[np.unsignedinteger[npt.NBitBase]]
Flags = npt.NDArray[np.bool_]

#: For each mask of algorithms, the masks of entries that share none with it, as a set of bits.
BLIND_TO = tuple(sum(1 << (m - 1) for m in range(1, 8) if not m & given) for given in range(8))


def may_miss(runs: Sequence[Run], given: int) -> bool:
    """Return whether any entry, withdrawn or not, may have no digest of the algorithms `given`."""
    return any((run.sized_masks | run.unsized_masks) & BLIND_TO[given] for run in runs)


def count_missed(runs: Sequence[Run], dead: Sequence[Uint32], given: int) -> tuple[int, int]:
    """Count the live entries that have no digest of the algorithms in the mask `given`.

    `dead` has the withdrawn rows of each run, ascending. Entries with a size and those without one
    are counted apart.
    """
    sized = unsized = 0
    for run, withdrawn in zip(runs, dead, strict=True):
        border = len(run.sizes)
        for _, missed in _blocks(run, withdrawn, given, 0, border):
            sized += int(np.count_nonzero(missed))
        for _, missed in _blocks(run, withdrawn, given, border, run.count):
            unsized += int(np.count_nonzero(missed))
    return sized, unsized


def sizes_missed(runs: Sequence[Run], dead: Sequence[Uint32], given: int) -> Sizes:
    """Return the sizes of the live entries that have a size and no digest of the mask `given`.

    They are distinct, and ascending.
    """
    found: list[Sizes] = [np.zeros(0, np.uint64)]
    for run, withdrawn in zip(runs, dead, strict=True):
        for start, missed in _blocks(run, withdrawn, given, 0, len(run.sizes)):
            sizes = run.sizes[start : start + len(missed)][missed]
            if len(sizes):
                # They are sorted, so equal sizes are adjacent.
                found.append(sizes[np.append(True, sizes[1:] != sizes[:-1])])
    return np.unique(np.concatenate(found))


def _blocks(
    run: Run, withdrawn: Uint32, given: int, start: int, stop: int
) -> Iterator[tuple[int, Flags]]:
    """Yield blocks of rows from `start` to `stop`: the first row, and which are live and missed."""
    masks = run.sized_masks if start < len(run.sizes) else run.unsized_masks
    if not masks & BLIND_TO[given]:
        return
    for first in range(start, stop, BLOCK_ROWS):
        block: Uint8 = run.masks[first : min(first + BLOCK_ROWS, stop)]
        missed = (block & np.uint8(given)) == 0
        low, high = withdrawn.searchsorted([first, first + len(block)])
        missed[withdrawn[low:high].astype(np.intp) - first] = False
        yield first, missed

"""Batches of cells as most files have them, made without pyarrow.

Of a million rows, hardly one has something unusual; but pyarrow takes 35 MB, and to turn each text
into its own takes longer than to decode it. Unusual rows are left to `table`, which knows what to
do with every cell: here is no error, only None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import UnsetType

from hashclient.core.algorithms import Algorithm
from hashclient.lists.importers.interface import DigestBatch, Int64
from hashclient.lists.importers.rows import from_hex
from hashclient.lists.importers.table import MAX_SIZE, text_of
from hashclient.lists.importers.where import Where
from hashclient.lists.wire import NO_SIZE, Uint8, Uint32, Uint64

if TYPE_CHECKING:
    import pyarrow as pa

#: The types of a cell that is empty.
_EMPTY = (NoneType, UnsetType)
#: More values are no fewer than the rows of many batches.
_MAX_VALUES = 500
#: The columns that `plain_batch` reads.
PLAIN_COLUMNS = frozenset({"size", "category", *(algorithm.label for algorithm in Algorithm)})


def plain_choice(where: Where, columns: Mapping[str, Sequence[Any]]) -> list[bool] | None:
    """Return which rows a filter means, by the few values that its columns have.

    `columns` are its columns, of strings or whole numbers. None if they have many values, or if a
    cell has to be looked at.
    """
    kinds = [set(map(type, column)) for column in columns.values()]
    if any(kind not in ({int}, {str}) for kind in kinds):  # true and 1 are one key
        return None
    names, (first, *others) = list(columns), columns.values()
    rows: Sequence[Any] = list(zip(first, *others, strict=True)) if others else first
    values = list(dict.fromkeys(rows))
    if len(values) > _MAX_VALUES:
        return None
    import pyarrow as pa

    def column(name: str) -> pa.Array:
        at = names.index(name)
        cells = [value[at] for value in values] if others else values
        return pa.array(map(text_of, cells), pa.string())

    meant, unclear = where.choose(column, len(values))
    if unclear:
        return None
    chosen = dict(zip(values, meant.tolist(), strict=True))
    return list(map(chosen.__getitem__, rows))


def plain_batch(
    cells: Mapping[str, Sequence[Any]], lines: Int64, category_of: Callable[[Any], str | None]
) -> DigestBatch | None:
    """Return rows as a batch if every cell is usual; None if `table` has to look at them.

    `cells` are columns by our names for them, all of them in `PLAIN_COLUMNS`; in a usual one, each
    digest is text and each size a number, or there is none. `lines` are the numbers of the rows.
    `category_of` names a category, and returns None for one that is not usual.
    """
    count = len(lines)
    digests: dict[Algorithm, tuple[Uint8, Uint32]] = {}
    has_digest = np.zeros(count, np.bool_)
    for algorithm in Algorithm:
        column = cells.get(algorithm.label)
        if column is None:
            continue
        found = _plain_digests(column, algorithm)
        if found is None:
            return None
        if len(found[1]):
            digests[algorithm] = found
            has_digest[found[1]] = True
    sizes = _plain_sizes(cells["size"]) if "size" in cells else np.full(count, NO_SIZE)
    if sizes is None or not has_digest.all():
        return None
    categories = None
    if (given := cells.get("category")) is not None:
        if len(set(map(type, given))) != 1:  # true and 1 are one key
            return None
        names = {value: category_of(value) for value in set(given)}
        if None in names.values():
            return None
        categories = list(map(names.__getitem__, given))
    return DigestBatch(count, [None] * count, lines, digests, sizes, None, categories)


def _plain_digests(column: Sequence[Any], algorithm: Algorithm) -> tuple[Uint8, Uint32] | None:
    """Return digests and their rows."""
    kinds = set(map(type, column))
    if not kinds <= {str, *_EMPTY}:
        return None
    if kinds.issubset(_EMPTY):
        return np.zeros((0, algorithm.digest_bytes), np.uint8), np.zeros(0, np.uint32)
    rows: Uint32 = np.arange(len(column), dtype=np.uint32)
    lengths = {2 * algorithm.digest_bytes}
    if kinds != {str} or set(map(len, column)) != lengths:
        rows = rows[np.array(list(map(bool, column)), np.bool_)]
        column = list(filter(None, column))
        if set(map(len, column)) - lengths:
            return None
    try:
        return from_hex("".join(column).encode(), algorithm.digest_bytes), rows
    except ValueError:
        return None


def _plain_sizes(column: Sequence[Any]) -> Uint64 | None:
    kinds = set(map(type, column))
    if not kinds <= {int, *_EMPTY}:
        return None
    is_known = None if kinds == {int} else [type(size) is int for size in column]
    try:
        numbers = np.array(
            column if is_known is None else list(compress(column, is_known)), np.int64
        )
    except OverflowError:
        return None
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= MAX_SIZE):
        return None
    if is_known is None:
        return numbers.astype(np.uint64)
    sizes = np.full(len(column), NO_SIZE)
    sizes[np.array(is_known, np.bool_)] = numbers
    return sizes

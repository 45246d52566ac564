"""Writes a run from batches of tags, or merges older runs into a run.

Both for batches and for older runs, the writer receives columns: small columns whole, and large
columns in pieces. So a merge needs about 12 bytes for each row, and the memory for the rows of one
piece, however large the runs are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import IO, Any, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.errors import VerificationError
from hashclient.core.kinds import Algorithm
from hashclient.index.blinding import Sealer
from hashclient.index.prefixtable import TableWriter, table_lengths
from hashclient.index.run import (
    KEY_SECTIONS,
    ROT_HINT,
    RUN_MAGIC,
    TABLE,
    DamagedError,
    Header,
    Run,
    aligned,
    mask_set,
)
from hashclient.lists.wire import (
    MAX_CATEGORIES,
    NO_SIZE,
    AddBatch,
    Strings,
    Uint8,
    Uint32,
    Uint64,
    entry_hashes,
)
from hashclient.system.background import Task
from hashclient.system.files import atomic_file

#: The number of rows that are renumbered at a time.
_AT_A_TIME = 1 << 18
#: The value in an array of new row numbers which means that the merge drops the row.
_GONE = np.uint32(2**32 - 1)

_T = TypeVar("_T")
Rows = npt.NDArray[np.intp]
Array = npt.NDArray[Any]


class SealedBatch:
    """A batch of entries that has tags in place of digests."""

    def __init__(self, batch: AddBatch, sealer: Sealer) -> None:
        self.ids = batch.ids
        self.hashes = entry_hashes(batch.ids)
        self.masks = batch.masks
        self.sizes = batch.sizes
        self.category_names = batch.categories
        self.category_codes = batch.category_codes
        self.tags = {
            a: (sealer.tags(a, digests), rows) for a, (digests, rows) in batch.digests.items()
        }


class Columns(Protocol):
    """The columns of a run.

    Small columns are whole, in row order, and large columns come in pieces.

    `sizes`: the sizes of the first rows in bytes, ascending; the other rows have no size.
    """

    masks: Uint8
    sizes: Array
    category_names: list[str]
    category_codes: Uint8
    id_width: int

    def forget_small(self) -> None:
        """Release the small columns, after they were written."""
        self.masks = self.category_codes = np.zeros(0, np.uint8)
        self.sizes = np.zeros(0, np.uint64)

    def ids(self) -> Iterator[Strings]:
        """Yield entry ids in row order, `id_width` bytes each."""

    def sorted_keys(self, prefix: str) -> Iterator[tuple[Array, ...]]:
        """Yield the arrays of the sections `KEY_SECTIONS[prefix]`, in pieces.

        The first array of each piece has the keys, which ascend from the first piece to the last.
        """


class BatchColumns(Columns):
    """The columns of a run that is made from batches in memory."""

    def __init__(self, batches: list[SealedBatch]) -> None:
        self._batches = batches
        sizes = _concatenate([b.sizes for b in batches], np.uint64)
        # NO_SIZE is the largest number, so entries without a size come last.
        self._order = np.argsort(sizes)
        self._new_rows = _inverse(self._order)
        sizes = sizes.take(self._order)
        self.sizes = _narrow(sizes[: int(sizes.searchsorted(NO_SIZE))])
        self.masks = _concatenate([b.masks for b in batches], np.uint8).take(self._order)
        self.category_names, codes = _unify_categories(
            [(b.category_names, b.category_codes) for b in batches]
        )
        self.category_codes = codes.take(self._order)
        self.id_width = max((b.ids.dtype.itemsize for b in batches), default=1)

    def ids(self) -> Iterator[Strings]:
        """Yield all ids at once."""
        ids = _concatenate([b.ids for b in self._batches], f"S{self.id_width}")
        yield ids.take(self._order)

    def sorted_keys(self, prefix: str) -> Iterator[tuple[Array, ...]]:
        """Yield all keys at once."""
        offset = 0
        keys: list[Array] = []
        extra: list[Array] = []
        rows: list[Array] = []
        for batch in self._batches:
            if prefix == "id":
                keys.append(batch.hashes)
                rows.append(np.arange(offset, offset + len(batch.ids)))
            elif (algorithm := Algorithm.from_label(prefix)) in batch.tags:
                tags, batch_rows = batch.tags[algorithm]
                keys.append(tags[:, 0])
                extra.append(tags[:, 1])
                rows.append(batch_rows + np.uint32(offset))
            offset += len(batch.ids)
        if keys:
            key = np.concatenate(keys)
            order = np.argsort(key)
            new_rows = self._new_rows.take(np.concatenate(rows))
            payload = [np.concatenate(extra).take(order)] if extra else []
            yield (key.take(order), *payload, new_rows.take(order))


class MergedColumns(Columns):
    """The columns of a run that is merged from several runs; withdrawn rows are left out."""

    def __init__(self, runs: list[Run], dead: list[Uint32], merge_rows: int) -> None:
        """Merge `runs`, each without its `dead` rows, in pieces of about `merge_rows` rows."""
        self._runs = runs
        self._merge_rows = merge_rows
        #: For each run, its live rows, ascending; None means that all rows are live.
        self._alive = [
            _alive(run.count, dead_rows) for run, dead_rows in zip(runs, dead, strict=True)
        ]
        counts = [
            run.count if rows is None else len(rows)
            for run, rows in zip(runs, self._alive, strict=True)
        ]
        self._starts = np.cumsum([0, *counts])
        self._order, self.sizes = self._in_order_of_sizes()
        new_rows = _inverse(self._order)
        #: For each run, the new row number of each old row, or _GONE.
        self._new_rows = []
        for number, (run, rows) in enumerate(zip(runs, self._alive, strict=True)):
            mapping = new_rows[self._starts[number] : self._starts[number + 1]]
            if rows is not None:
                alive, mapping = mapping, np.full(run.count, _GONE)
                mapping[rows] = alive
            self._new_rows.append(mapping)
        masks = [_take(run.masks, rows) for run, rows in zip(runs, self._alive, strict=True)]
        self.masks = _in_order(_concatenate(masks, np.uint8), self._order)
        self.category_names, codes = _unify_categories(
            [
                (run.category_names, _take(run.categories, rows))
                for run, rows in zip(runs, self._alive, strict=True)
            ]
        )
        self.category_codes = _in_order(codes, self._order)
        self.id_width = max(run.ids.dtype.itemsize for run in runs)

    def _in_order_of_sizes(self) -> tuple[Uint32, Array]:
        """Return the order of the live rows by size, and their sizes.

        The sizes in each run ascend already, so only one range of sizes is sorted at a time.
        """
        columns = [_sized(run, rows) for run, rows in zip(self._runs, self._alive, strict=True)]
        total = sum(len(sizes) for sizes in columns)
        most = max((int(sizes[-1]) for sizes in columns if len(sizes)), default=0)
        all_sizes: Array = np.empty(total, "<u4" if most < 2**32 else np.uint64)
        order: Uint32 = np.empty(int(self._starts[-1]), np.uint32)
        lows, end = [0] * len(columns), 0
        for bound in _bounds(columns, self._merge_rows):
            parts, rows = [], []
            for number, sizes in enumerate(columns):
                low = lows[number]
                high = len(sizes) if bound is None else int(sizes.searchsorted(bound, "right"))
                lows[number] = high
                parts.append(sizes[low:high])
                start = int(self._starts[number])
                rows.append(np.arange(start + low, start + high, dtype=np.uint32))
            joined = np.concatenate(parts)
            by_size = np.argsort(joined, kind="stable")
            piece = slice(end, end + len(joined))
            all_sizes[piece] = joined.take(by_size)
            order[piece] = np.concatenate(rows).take(by_size)
            end += len(joined)
        # Rows without a size come after all rows with a size, one run after the other.
        for number, sizes in enumerate(columns):
            first, last = int(self._starts[number]) + len(sizes), int(self._starts[number + 1])
            order[end : end + last - first] = np.arange(first, last, dtype=np.uint32)
            end += last - first
        return order, all_sizes

    def ids(self) -> Iterator[Strings]:
        """Yield ids for `merge_rows` rows at a time."""
        for start in range(0, len(self._order), self._merge_rows):
            piece = self._order[start : start + self._merge_rows].astype(np.intp)
            out = np.zeros(len(piece), f"S{self.id_width}")
            source = self._starts.searchsorted(piece, "right") - 1
            for number, run in enumerate(self._runs):
                mine = source == number
                alive, rows = self._alive[number], piece[mine] - self._starts[number]
                out[mine] = run.ids.take(rows if alive is None else alive.take(rows))
                run.forget()
            yield out

    def sorted_keys(self, prefix: str) -> Iterator[tuple[Array, ...]]:
        """Yield keys by ranges, each with about as many keys as a piece has rows."""
        names = [f"{prefix}.{part}" for part in KEY_SECTIONS[prefix]]
        columns = [[run.section(name) for name in names] for run in self._runs]
        total = sum(len(c[0]) for c in columns if c[0] is not None)
        pieces = -(-total // self._merge_rows)
        # Keys are evenly distributed over 64 bits, so ranges of equal length contain about equally
        # many keys.
        for piece in range(pieces):
            parts = []
            for run_columns, mapping, alive in zip(
                columns, self._new_rows, self._alive, strict=True
            ):
                key = run_columns[0]
                if key is None:
                    continue
                low = int(key.searchsorted(np.uint64((piece << 64) // pieces)))
                high = len(key)
                if piece + 1 < pieces:
                    high = int(key.searchsorted(np.uint64(((piece + 1) << 64) // pieces)))
                part = [c[low:high] for c in run_columns if c is not None]
                part[-1] = mapping.take(part[-1].view(np.uint32))
                if alive is not None:
                    keep = np.flatnonzero(part[-1] != _GONE)
                    part = [c.take(keep) for c in part]
                parts.append(part)
            for run in self._runs:
                run.forget()
            joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
            order = np.argsort(joined[0])
            yield tuple(array.take(order) for array in joined)


def write_run(
    path: Path, columns: Columns, dead: dict[str, list[Rows]], *, durable: bool = True
) -> None:
    """Write a run as one file; `atomic_file` explains `durable`.

    Raises:
        DamagedError: the columns do not belong together.
        StateError: the run cannot be written.
    """
    count = len(columns.masks)
    small: dict[str, Array] = {
        "masks": columns.masks,
        "categories": columns.category_codes,
        "sizes": columns.sizes,
    }
    small |= {f"dead.{n}": np.sort(np.concatenate(r)).astype("<u4") for n, r in dead.items()}
    layout: list[tuple[str, str, int]] = [(n, a.dtype.str, len(a)) for n, a in small.items()]
    layout += [("ids", f"|S{columns.id_width}", count)]
    key_counts = {"id": count} | {
        a.label: int(np.count_nonzero(columns.masks & np.uint8(a))) for a in Algorithm
    }
    for prefix, parts in KEY_SECTIONS.items():
        if keys := key_counts[prefix]:
            layout += [(f"{prefix}.{p}", "<u4" if p == "row" else "<u8", keys) for p in parts]
            for (part, dtype), length in zip(TABLE.items(), table_lengths(keys), strict=True):
                layout += [(f"{prefix}.{part}", dtype, length)]
    sections, end = [], 0
    for name, dtype, length in layout:
        sections.append((name, dtype, end, length))
        end = aligned(end + np.dtype(dtype).itemsize * length)
    sized = len(columns.sizes)
    header = Header(
        count=count,
        categories=columns.category_names,
        sized_masks=mask_set(columns.masks[:sized]),
        unsized_masks=mask_set(columns.masks[sized:]),
        sections=sections,
        id=os.urandom(16).hex(),
    )
    encoded = msgspec.json.encode(header)
    start = aligned(16 + len(encoded))
    with atomic_file(path, durable=durable) as stream:
        stream.write(RUN_MAGIC + len(encoded).to_bytes(8, "little") + encoded)
        places = {name: start + offset for name, _, offset, _ in sections}
        for name, array in small.items():
            _write_at(stream, places, name, array)
        small.clear()
        columns.forget_small()
        for ids in columns.ids():
            _write_at(stream, places, "ids", ids)
        prefixes = [prefix for prefix, keys in key_counts.items() if keys]
        with contextlib.closing(_made_ahead(_all_keys(columns, prefixes))) as pieces:
            for prefix in prefixes:
                table = TableWriter(key_counts[prefix])
                while piece := next(pieces):
                    table.add(piece[0])
                    for part, array in zip(KEY_SECTIONS[prefix], piece, strict=True):
                        _write_at(stream, places, f"{prefix}.{part}", array)
                starts = table.starts()
                if starts[-1] != key_counts[prefix]:
                    raise DamagedError("masks and digests of an index differ", hint=ROT_HINT)
                for part, array in zip(TABLE, (table.bits, starts), strict=True):
                    _write_at(stream, places, f"{prefix}.{part}", array)
        stream.truncate(start + end)


def _all_keys(columns: Columns, prefixes: Sequence[str]) -> Iterator[tuple[Array, ...]]:
    """Yield the `sorted_keys` of each prefix; an empty tuple marks the end of each prefix."""
    for prefix in prefixes:
        yield from columns.sorted_keys(prefix)
        yield ()


def _made_ahead(items: Iterator[_T]) -> Generator[_T]:
    """Yield `items`.

    A thread makes the next item meanwhile, and has ended when `_made_ahead` ends.
    """

    def make() -> _T | None:
        return next(items, None)

    ahead = Task(make, "index")
    try:
        while (item := ahead.result()) is not None:
            ahead = Task(make, "index")
            yield item
    finally:
        ahead.wait(TIMEOUT_MAX)


def _write_at(stream: IO[bytes], places: dict[str, int], name: str, array: Array) -> None:
    """Write the next piece of the section `name`, and advance the offset of the section."""
    stream.seek(places[name])
    stream.write(np.ascontiguousarray(array).data.cast("B") if len(array) else b"")
    places[name] += array.nbytes


def _concatenate(arrays: list[Array], dtype: Any) -> Array:
    """Join arrays as `dtype`; without arrays the result is an empty array."""
    if not arrays:
        return np.zeros(0, dtype)
    return np.concatenate([a.astype(dtype, copy=False) for a in arrays])


def _inverse(order: Rows | Uint32) -> Uint32:
    """Return the inverse of a permutation: the new row of each old position."""
    inverse = np.empty(len(order), np.uint32)
    for start in range(0, len(order), _AT_A_TIME):
        piece = order[start : start + _AT_A_TIME]
        inverse[piece] = np.arange(start, start + len(piece), dtype=np.uint32)
    return inverse


def _in_order(column: Array, order: Uint32) -> Array:
    """Return the values of a column in the order `order`.

    numpy converts row numbers to eight bytes each, so only some of them are converted at a time.
    """
    taken = np.empty(len(order), column.dtype)
    for start in range(0, len(order), _AT_A_TIME):
        piece = slice(start, start + _AT_A_TIME)
        taken[piece] = column.take(order[piece])
    return taken


def _alive(count: int, dead: Uint32) -> Uint32 | None:
    """Return the rows that are not withdrawn, ascending; None if all `count` rows are live."""
    if not len(dead):
        return None
    keep = np.ones(count, np.bool_)
    keep[dead] = False
    return np.flatnonzero(keep).astype(np.uint32)


def _take(column: Array, rows: Uint32 | None) -> Array:
    return column if rows is None else column.take(rows)


def _sized(run: Run, rows: Uint32 | None) -> Array:
    """Return the sizes of the live rows that have a size.

    Rows with a size are the first rows of a run.
    """
    if rows is None:
        return run.sizes
    return run.sizes.take(rows[: int(rows.searchsorted(len(run.sizes)))])


def _bounds(columns: list[Array], piece_rows: int) -> Iterator[int | None]:
    """Yield sizes that divide ascending `columns` into pieces of about `piece_rows` values.

    A size that equals a bound is in the piece before the bound; None ends the last piece.
    """
    total = sum(len(sizes) for sizes in columns)
    step = max(1, piece_rows // max(1, len(columns)))
    # At most one piece lies between two neighbouring bounds, unless many sizes are equal.
    samples = np.sort(np.concatenate([sizes[step::step].astype(np.uint64) for sizes in columns]))
    last = -1
    if total > piece_rows:
        for bound in samples[:: max(1, len(columns))].tolist():
            if bound > last:
                yield bound
                last = bound
    yield None


def _narrow(sizes: Uint64) -> Array:
    """Store sizes in four bytes each if all of them fit."""
    if len(sizes) == 0 or sizes[-1] < 2**32:
        return sizes.astype("<u4")
    return sizes


def _unify_categories(parts: list[tuple[Sequence[str], Uint8]]) -> tuple[list[str], Uint8]:
    """Give the categories of several batches or runs common numbers.

    Raises:
        VerificationError: there are more categories than one byte can number.
    """
    names: dict[str, int] = {}
    codes = [np.zeros(0, np.uint8)]
    for part_names, part_codes in parts:
        table = [names.setdefault(name, len(names)) for name in part_names]
        if len(names) > MAX_CATEGORIES:
            raise VerificationError(f"the list has more than {MAX_CATEGORIES} categories")
        codes.append(np.array([*table, 0], np.uint8)[part_codes])
    return list(names), np.concatenate(codes)

"""Converts rows of named columns to a batch: chooses rows, decodes their cells and checks them.

Importers of files with columns (CSV, Parquet, JSON, XML) pass their rows to this module as columns
of text, one batch at a time. A row with a cell that cannot be parsed is unusable; messages name
only the number of the row and the column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hashclient.core.kinds import Algorithm
from hashclient.lists.importers.importfile import ImportFile
from hashclient.lists.importers.rows import SIZE, DigestBatch, Int64, from_hex
from hashclient.lists.importers.where import Mask, category_name
from hashclient.lists.wire import NO_SIZE, Uint8, Uint32
from hashclient.system.text import printable

if TYPE_CHECKING:
    import pyarrow as pa


def batch_of(
    cells: Mapping[str, pa.Array],
    lines: Int64,
    file: ImportFile,
    column: Callable[[str], pa.Array],
) -> DigestBatch:
    """Return the batch of the rows that are chosen and usable, possibly none.

    `cells` maps names in `COLUMNS` to columns of text, with None for an empty cell; the sizes may
    be numbers. `lines` are the line numbers of the rows. `column` returns any column of the file by
    its name in lower case, for `--where`.

    Raises:
        UsageError: more rows are unusable than allowed.
    """
    table = _Table(cells, lines, file)
    where = file.reading.where
    if where is not None:
        meant, unclear = where.choose(column, len(lines))
        for name, wrong in unclear.items():
            table.refuse(np.flatnonzero(wrong), f"column {printable(name)} has no value to compare")
        table.leave_out(~meant)
    return table.batch()


def text_of(value: object) -> str | None:
    """Return the text of a cell of JSON, or None for null.

    Raises:
        ValueError: the value is a list or an object, or a text has half of a surrogate pair.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value.encode()
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise ValueError("neither text nor a number")


#: A number that is larger than every size, because a size has at most eighteen digits.
MAX_SIZE = 10**18


class _Table:
    """Columns of text that are converted to a batch."""

    def __init__(self, cells: Mapping[str, pa.Array], lines: Int64, file: ImportFile) -> None:
        self._cells, self._lines, self._file = cells, lines, file
        self._count = len(lines)
        #: For each row, whether it is left out of the batch, because it is unusable or not chosen.
        self._out: Mask = np.zeros(self._count, np.bool_)

    def refuse(self, rows: npt.NDArray[np.int64] | Uint32, what: str) -> None:
        """Count rows as unusable, except the rows that are left out already."""
        for row in rows.tolist():
            if not self._out[row]:
                self._file.skip(int(self._lines[row]), what)
                self._out[row] = True

    def leave_out(self, rows: Mask) -> None:
        """Leave out the rows that `--where` or the map of categories has not chosen."""
        self._file.reading.remarks.not_meant += int(np.count_nonzero(rows & ~self._out))
        self._out |= rows

    def batch(self) -> DigestBatch:
        count = self._count
        # `_categories` is called first because it leaves out rows that are not chosen, whose cells
        # need not be valid.
        categories = self._categories()
        digests: dict[Algorithm, tuple[Uint8, Uint32]] = {}
        has_digest = np.zeros(count, np.bool_)
        for algorithm in Algorithm:
            column = self._cells.get(algorithm.label)
            if column is None or column.null_count == count:
                continue
            rows = _valid_rows(column)
            has_digest[rows] = True
            values, rows = self._digests(column.drop_null(), algorithm, rows)
            if len(rows):
                digests[algorithm] = values, rows
        self.refuse(np.flatnonzero(~has_digest), "a row without a digest")
        sizes = np.full(count, NO_SIZE)
        if "size" in self._cells:
            self._sizes(self._cells["size"], sizes)
        added = self._times(self._cells["added"]) if "added" in self._cells else None
        batch = DigestBatch(
            count,
            [None] * count,
            self._lines,
            digests,
            sizes,
            _texts(self._cells.get("entry_id")),
            categories,
            added,
        )
        return batch.without(np.flatnonzero(self._out).tolist())

    def _digests(
        self, values: pa.Array, algorithm: Algorithm, rows: Uint32
    ) -> tuple[Uint8, Uint32]:
        """Decode a column of hexadecimal digests without nulls, all at once if all are valid."""
        import pyarrow as pa
        import pyarrow.compute as pc

        fits = pc.equal(pc.binary_length(values), 2 * algorithm.digest_bytes)
        right = fits.to_numpy(zero_copy_only=False)
        if right.all():
            try:
                return _decoded(values, algorithm), rows
            except ValueError:
                pass
        is_hex = pc.match_substring_regex(values, "^[0-9A-Fa-f]+$")
        right &= is_hex.to_numpy(zero_copy_only=False)
        self.refuse(rows[~right], f"not a {algorithm.label} digest in hexadecimal")
        kept = values.filter(pa.array(right))
        return _decoded(kept, algorithm), rows[right]

    def _sizes(self, column: pa.Array, sizes: npt.NDArray[np.uint64]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        rows, values = _valid_rows(column), column.drop_null()
        if pa.types.is_integer(values.type):
            numbers = values.to_numpy()
            right = (numbers >= 0) & (numbers < MAX_SIZE)
            self.refuse(rows[~right], "not a size in bytes")
            sizes[rows[right]] = numbers[right]
            return
        fits = pc.match_substring_regex(values, f"^{SIZE.pattern.decode()}$")
        right = fits.to_numpy(zero_copy_only=False).astype(np.bool_)
        if not right.all():
            self.refuse(rows[~right], "not a size in bytes")
            values, rows = values.filter(pa.array(right)), rows[right]
        sizes[rows] = values.cast(pa.uint64()).to_numpy()

    def _times(self, column: pa.Array) -> npt.NDArray[np.datetime64]:
        """Parse RFC 3339 times; a date means its midnight, and a time without a zone is in UTC."""
        import pyarrow as pa
        import pyarrow.compute as pc

        is_date = pc.match_substring_regex(column, "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
        has_zone = pc.match_substring_regex(column, "(Z|[+-][0-9]{2}:?[0-9]{2})$")
        suffix = pc.if_else(is_date, "T00:00:00Z", pc.if_else(has_zone, "", "Z"))
        full = pc.binary_join_element_wise(column, suffix, "")
        utc = pa.timestamp("ms", tz="UTC")
        what = "not a date, nor a time such as 2024-05-01T12:00:00Z (at most milliseconds)"
        right = np.ones(len(full), np.bool_)
        for row in _uncastable(full, utc):
            self.refuse(np.array([row]), what)
            right[row] = False
        if not right.all():
            full = pc.if_else(pa.array(right), full, None)
        times = full.cast(utc)
        result: npt.NDArray[np.datetime64] = times.to_numpy(zero_copy_only=False)
        return result

    def _categories(self) -> list[str | None] | None:
        """Convert the names of categories to the form that lists need, equal names only once."""
        column = self._cells.get("category")
        if column is None:
            return None
        encoded = column.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy()
        given: list[str] = encoded.dictionary.to_pylist()
        categories = self._file.reading.categories
        names: list[str | None] = [category_name(name) for name in given]
        if categories is not None:
            unknown = np.array([name not in categories for name in given] + [False], np.bool_)
            what = "a category that the map of categories does not name"
            self.refuse(np.flatnonzero(unknown[codes]), what)
            names = [categories.name_of(n) if n in categories else None for n in given]
            out = np.array([name is None for name in names] + [False], np.bool_)
            self.leave_out(out[codes])
        return [names[code] if code >= 0 else None for code in codes.tolist()]


def _valid_rows(column: pa.Array) -> Uint32:
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(valid).astype(np.uint32)


def _texts(column: pa.Array | None) -> list[str | None] | None:
    if column is None:
        return None
    texts: list[str | None] = column.to_numpy(zero_copy_only=False).tolist()
    return texts


def _decoded(values: pa.Array, algorithm: Algorithm) -> Uint8:
    """Decode digests that all have the right length.

    Raises:
        ValueError: a digest is not hexadecimal.
    """
    if not len(values):
        return np.zeros((0, algorithm.digest_bytes), np.uint8)
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset :]
    text = values.buffers()[2][int(offsets[0]) : int(offsets[len(values)])]
    return from_hex(text, algorithm.digest_bytes)


def _uncastable(column: pa.Array, to: pa.DataType, start: int = 0) -> Iterator[int]:
    """Yield the numbers of the rows whose text cannot be converted to the type, ascending.

    `start` is the number of the first row.
    """
    import pyarrow as pa

    try:
        column.cast(to)
    except pa.ArrowInvalid:
        if len(column) == 1:
            yield start
            return
        half = len(column) // 2
        yield from _uncastable(column.slice(0, half), to, start)
        yield from _uncastable(column.slice(half), to, start + half)

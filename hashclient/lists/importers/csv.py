"""CSV with a header: the one kind of file that gives entries their ids, categories and times.

It comes in millions of rows, and is decoded by the column. No cell holds a line break.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hashclient.core.algorithms import Algorithm
from hashclient.lists.importers.importfile import MAX_LINE_BYTES, ImportFile
from hashclient.lists.importers.interface import DigestBatch, Int64
from hashclient.lists.importers.lines import chunks_of_lines, refuse_separators
from hashclient.lists.importers.rows import SIZE, from_hex
from hashclient.lists.wire import NO_SIZE, Uint8, Uint32, Uint64
from hashclient.system.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("entry_id", "md5", "sha1", "sha256", "size", "category", "added")


def _header_cells(head: bytes) -> list[str]:
    cells = head.decode("utf-8", "replace").strip().split(",")
    return [cell.strip().strip('"').lower() for cell in cells]


class Csv:
    """Reads CSV with a header of some of our columns, in any order."""

    name = "CSV"

    def sniff(self, head: bytes) -> bool:
        """Say whether a first line is a header with a column of ours."""
        return len(head) <= MAX_LINE_BYTES and bool(set(_header_cells(head)) & set(_COLUMNS))

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches; see `Importer`."""
        chunks = chunks_of_lines(file)
        line, chunk = next(chunks, (1, b"\n"))
        refuse_separators(chunk, line, file)
        end = chunk.find(b"\n") + 1
        columns = _columns(chunk[:end], line, file)
        for first, rows in itertools.chain([(line + 1, chunk[end:])], chunks):
            refuse_separators(rows, first, file)
            lines = _row_lines(first, rows, file)
            if len(lines):
                yield _csv_batch(_csv_table(rows, columns, lines, file), lines, file)


def _columns(head: bytes, line: int, file: ImportFile) -> list[str]:
    columns = _header_cells(head)
    for position, column in enumerate(columns, 1):
        if column not in _COLUMNS:
            shown = f" ({printable(column)})" if len(column) < 32 else ""
            raise file.bad(line, f"column {position}{shown} of the CSV header is unknown")
    if len(set(columns)) != len(columns):
        raise file.bad(line, "a column occurs twice in the CSV header")
    if not any(a.label in columns for a in Algorithm):
        raise file.bad(line, "the CSV header names no md5, sha1 or sha256 column")
    return columns


def _row_lines(first: int, chunk: bytes, file: ImportFile) -> Int64:
    """Return the numbers of the lines that are not blank: those that are rows."""
    data = np.frombuffer(chunk, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    lengths = np.diff(ends, prepend=-1)
    if (lengths > MAX_LINE_BYTES).any():
        line = first + int(np.argmax(lengths > MAX_LINE_BYTES))
        raise file.bad(line, f"a line of more than {MAX_LINE_BYTES} bytes")
    return np.flatnonzero(lengths > 1) + first


def _csv_table(chunk: bytes, columns: list[str], lines: Int64, file: ImportFile) -> pa.Table:
    """Parse rows of CSV into columns of text, empty cells as nulls."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    broken: list[int] = []

    def note(row: pa_csv.InvalidRow) -> str:
        broken.append(row.number)
        return "error"

    try:
        # Of a row that has another number of cells besides, the reader would print a traceback.
        chunk.decode()
        table = pa_csv.read_csv(
            pa.BufferReader(chunk),
            read_options=pa_csv.ReadOptions(
                use_threads=False, block_size=len(chunk) + 1, column_names=columns
            ),
            parse_options=pa_csv.ParseOptions(invalid_row_handler=note),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError):  # its message quotes the row
        if broken:
            line = int(lines[min(broken[0], len(lines)) - 1])
            what = f"not {len(columns)} cells, as the header has"
            raise file.bad(line, what) from None
        what = "this line, or one of the next, is not CSV in UTF-8"
        raise file.bad(int(lines[0]), what) from None
    if table.num_rows != len(lines):
        raise file.bad(int(lines[0]), "from here on, a quoted cell holds a line break")
    return table


def _csv_batch(table: pa.Table, lines: Int64, file: ImportFile) -> DigestBatch:
    count = table.num_rows
    cells = {c: table.column(c).combine_chunks() for c in table.column_names}
    digests: dict[Algorithm, tuple[Uint8, Uint32]] = {}
    has_digest = np.zeros(count, np.bool_)
    for algorithm in Algorithm:
        column = cells.get(algorithm.label)
        if column is None or column.null_count == count:
            continue
        rows = _valid_rows(column)
        has_digest[rows] = True
        digests[algorithm] = (_csv_digests(column, algorithm, rows, lines, file), rows)
    if not has_digest.all():
        raise file.bad(int(lines[np.argmin(has_digest)]), "a row without a digest")
    sizes = np.full(count, NO_SIZE)
    if "size" in cells:
        rows = _valid_rows(cells["size"])
        sizes[rows] = _csv_sizes(cells["size"].drop_null(), lines[rows], file)
    added = _csv_times(cells["added"], lines, file) if "added" in cells else None
    return DigestBatch(
        count,
        [None] * count,
        lines,
        digests,
        sizes,
        _csv_texts(cells.get("entry_id")),
        _csv_texts(cells.get("category")),
        added,
    )


def _valid_rows(column: pa.Array) -> Uint32:
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(valid).astype(np.uint32)


def _csv_texts(column: pa.Array | None) -> list[str | None] | None:
    if column is None:
        return None
    texts: list[str | None] = column.to_numpy(zero_copy_only=False).tolist()
    return texts


def _csv_digests(
    column: pa.Array, algorithm: Algorithm, rows: Uint32, lines: Int64, file: ImportFile
) -> Uint8:
    """Decode a column of hexadecimal digests, nulls left out, over its one buffer."""
    import pyarrow.compute as pc

    values = column.drop_null()
    fits = pc.equal(pc.binary_length(values), 2 * algorithm.digest_bytes)
    wrong = ~fits.to_numpy(zero_copy_only=False)
    if not wrong.any():
        offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset :]
        text = values.buffers()[2][int(offsets[0]) : int(offsets[len(values)])]
        try:
            return from_hex(text, algorithm.digest_bytes)
        except ValueError:
            pass
        is_hex = pc.match_substring_regex(values, "^[0-9A-Fa-f]+$")
        wrong = ~is_hex.to_numpy(zero_copy_only=False)
    line = int(lines[rows[np.argmax(wrong)]])
    raise file.bad(line, f"not a {algorithm.label} digest in hexadecimal")


def _csv_sizes(values: pa.Array, lines: Int64, file: ImportFile) -> Uint64:
    import pyarrow as pa
    import pyarrow.compute as pc

    fits = pc.match_substring_regex(values, f"^{SIZE.pattern.decode()}$")
    wrong = ~fits.to_numpy(zero_copy_only=False)
    if wrong.any():
        raise file.bad(int(lines[np.argmax(wrong)]), "not a size in bytes")
    sizes: Uint64 = values.cast(pa.uint64()).to_numpy()
    return sizes


def _csv_times(column: pa.Array, lines: Int64, file: ImportFile) -> npt.NDArray[np.datetime64]:
    """Parse RFC 3339 times; a date alone is its midnight, and without a zone it is UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_date = pc.match_substring_regex(column, "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    has_zone = pc.match_substring_regex(column, "(Z|[+-][0-9]{2}:?[0-9]{2})$")
    suffix = pc.if_else(is_date, "T00:00:00Z", pc.if_else(has_zone, "", "Z"))
    full = pc.binary_join_element_wise(column, suffix, "")
    utc = pa.timestamp("ms", tz="UTC")
    try:
        times = full.cast(utc)
    except pa.ArrowInvalid:
        line = int(lines[_first_uncastable(full, utc)])
        what = "not a date, nor a time such as 2024-05-01T12:00:00Z (at most milliseconds)"
        raise file.bad(line, what) from None
    result: npt.NDArray[np.datetime64] = times.to_numpy(zero_copy_only=False)
    return result


def _first_uncastable(column: pa.Array, to: pa.DataType) -> int:
    """Return the first row at which a cast fails that is known to fail somewhere."""
    import pyarrow as pa

    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column.slice(low, middle - low).cast(to)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low

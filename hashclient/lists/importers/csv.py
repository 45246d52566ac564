"""CSV files with a header, such as exports of ICSE and NSRLFile.txt.

Commas, semicolons or tabs separate the columns.

CSV files may have millions of rows, so this module decodes whole columns instead of single rows.
Cells of CSV files must not contain line breaks. `rows` interprets the header of the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hashclient.lists.importers.importfile import COLUMNS, MAX_LINE_BYTES, ImportFile, Reading
from hashclient.lists.importers.lines import chunks_of_lines, refuse_separators
from hashclient.lists.importers.rows import OTHER_NAMES, DigestBatch, Int64, is_nsrl, our_columns
from hashclient.lists.importers.table import batch_of
from hashclient.lists.wire import Uint8

if TYPE_CHECKING:
    import pyarrow as pa

_DELIMITERS = (",", ";", "\t")


class _Header(msgspec.Struct, frozen=True):
    """A header: the names of its columns in lower case, and the columns that this program uses."""

    delimiter: str
    columns: list[str]
    ours: dict[str, str]
    #: Whether names of files may contain bytes that are not UTF-8, as in files of the NSRL.
    any_bytes: bool


def _cells(head: bytes, delimiter: str) -> list[str]:
    cells = head.decode("utf-8", "replace").strip("\r\n ").split(delimiter)
    return [cell.strip().strip('"').strip().lower() for cell in cells]


def _delimiter(head: bytes, reading: Reading) -> str | None:
    """Return the separator of a header's columns, or None if no column of the header is known."""
    wanted = {*COLUMNS, *OTHER_NAMES, *(name.lower() for name in reading.columns.values())}
    known = {d: len(wanted.intersection(_cells(head, d))) for d in _DELIMITERS}
    best = max(_DELIMITERS, key=lambda d: known[d])
    return best if known[best] else None


class Csv:
    """Reads CSV files whose header has some of the known columns, in any order."""

    name = "CSV"
    has_columns = True

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a first line is a header with at least one known column."""
        return len(head) <= MAX_LINE_BYTES and _delimiter(head, reading) is not None

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches; see `Importer`."""
        chunks = chunks_of_lines(file)
        line, chunk = next(chunks, (1, b"\n"))
        refuse_separators(chunk, line, file)
        end = chunk.find(b"\n") + 1
        header = _header(chunk[:end], line, file)
        for first, rows in itertools.chain([(line + 1, chunk[end:])], chunks):
            refuse_separators(rows, first, file)
            lines = _row_lines(first, rows, file)
            if len(lines) and (batch := _batch(rows, header, lines, file)).count:
                yield batch


def _header(head: bytes, line: int, file: ImportFile) -> _Header:
    delimiter = _delimiter(head, file.reading)
    # `sniff` chooses this importer only for a header with a known column
    assert delimiter is not None
    columns = _cells(head, delimiter)
    ours = our_columns(columns, line, file)
    return _Header(delimiter, columns, ours, is_nsrl(columns))


def _row_lines(first: int, chunk: bytes, file: ImportFile) -> Int64:
    """Return the numbers of the lines that are not blank, because each of these lines is a row."""
    data: Uint8 = np.frombuffer(chunk, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    lengths = np.diff(ends, prepend=-1)
    if (lengths > MAX_LINE_BYTES).any():
        line = first + int(np.argmax(lengths > MAX_LINE_BYTES))
        raise file.bad(line, f"a line of more than {MAX_LINE_BYTES} bytes")
    return np.flatnonzero(lengths > 1) + first


def _batch(chunk: bytes, header: _Header, lines: Int64, file: ImportFile) -> DigestBatch:
    table, lines = _table(chunk, header, lines, file)

    def column(name: str) -> pa.Array:
        return table.column(name).combine_chunks()

    cells = {ours: column(theirs) for theirs, ours in header.ours.items()}
    return batch_of(cells, lines, file, column)


def _table(chunk: bytes, header: _Header, lines: Int64, file: ImportFile) -> tuple[pa.Table, Int64]:
    """Parse rows of CSV into columns of text; empty cells become null, and bad rows are left out.

    Only columns that are needed are parsed.
    """
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    broken: list[int] = []

    def note(row: pa_csv.InvalidRow) -> str:
        broken.append(row.number)
        return "skip" if file.reading.max_bad else "error"

    where = file.reading.where
    wanted = dict.fromkeys([*header.ours, *(where.columns() if where is not None else ())])
    what = f"not {len(header.columns)} cells, as the header has"
    try:
        # Without `invalid_row_handler`, the reader would print a traceback for a row with another
        # number of cells than the header.
        text = _as_utf8(chunk, any_bytes=header.any_bytes)
        table = pa_csv.read_csv(
            pa.BufferReader(text),
            read_options=pa_csv.ReadOptions(
                use_threads=False, block_size=len(text) + 1, column_names=header.columns
            ),
            parse_options=pa_csv.ParseOptions(delimiter=header.delimiter, invalid_row_handler=note),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(wanted),
                column_types=dict.fromkeys(wanted, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    # the message of pyarrow quotes the row, so the message is not shown
    except (pa.ArrowInvalid, UnicodeDecodeError):
        if broken:
            line = int(lines[min(broken[0], len(lines)) - 1])
            file.skip(line, what)
        what = "this line, or one of the next, is not CSV in UTF-8"
        raise file.bad(int(lines[0]), what) from None
    for number in broken:
        file.skip(int(lines[min(number, len(lines)) - 1]), what)
    kept = np.ones(len(lines), np.bool_)
    kept[[n - 1 for n in broken if n <= len(lines)]] = False
    if table.num_rows != np.count_nonzero(kept):
        raise file.bad(int(lines[0]), "from here on, a quoted cell holds a line break")
    return table, lines[kept]


def _as_utf8(chunk: bytes, *, any_bytes: bool) -> bytes:
    try:
        chunk.decode()
    except UnicodeDecodeError:
        if not any_bytes:
            raise
        return chunk.decode("latin-1").encode()
    return chunk

"""Parquet files with columns of text or numbers; columns of digests may also be binary.

The first row of a file has the number 1. Decoding runs under a cap on memory, because a few
kilobytes of Parquet can decode to terabytes.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashclient.core.errors import HashclientError, UsageError
from hashclient.lists.importers.importfile import ImportFile, Reading
from hashclient.lists.importers.rows import DigestBatch, our_columns
from hashclient.lists.importers.table import batch_of
from hashclient.system.process import memory_cap

if TYPE_CHECKING:
    import pyarrow as pa

_MAGIC = b"PAR1"
ROWS = 1 << 14
#: The number of bytes of a column that are read from the file at a time.
_BUFFER_BYTES = 1 << 16
MAX_COLUMNS = 1000
#: The cap on memory is large, because Parquet files of other organisations may have row groups of
#: any size.
MAX_DECODING_BYTES = 2 << 30
_MAX_CELL_BYTES = 64 << 10


class Parquet:
    """Reads Parquet files whose columns have names of `COLUMNS`, or names given with `--column`."""

    name = "Parquet"
    has_columns = True

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a file is Parquet."""
        return head.startswith(_MAGIC)

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches; see `Importer`.

        The line number in an error is the number of a row.
        """
        descriptor = file.descriptor("Parquet")
        try:
            with Path(f"/proc/self/fd/{descriptor}").open("rb") as stream:
                yield from _read(stream, file)
        except HashclientError:
            raise
        # the decoder may raise any exception; the message is not shown because it may quote a cell
        except Exception as error:
            raise UsageError(
                f"{file.name}: not Parquet that can be read ({type(error).__name__})",
                hint="it may be damaged, or not all of it is here",
            ) from error


def _read(stream: Any, file: ImportFile) -> Iterator[DigestBatch]:
    import pyarrow.parquet as pq

    with memory_cap(MAX_DECODING_BYTES):
        parquet = pq.ParquetFile(
            stream, buffer_size=_BUFFER_BYTES, pre_buffer=False, arrow_extensions_enabled=False
        )
        schema = parquet.schema_arrow
    names = [field.name for field in schema]
    if len(names) > MAX_COLUMNS:
        raise file.bad(1, f"more than {MAX_COLUMNS} columns")
    ours = our_columns([name.lower() for name in names], 1, file)
    where = file.reading.where
    wanted = {*ours, *(where.columns() if where is not None else ())}
    batches = parquet.iter_batches(
        ROWS, columns=[name for name in names if name.lower() in wanted], use_threads=False
    )
    first = 1
    while True:
        with memory_cap(MAX_DECODING_BYTES):
            batch = next(batches, None)
            if batch is None:
                return
            texts = {
                field.name.lower(): _texts(column, file)
                for field, column in zip(batch.schema, batch.columns, strict=True)
            }
        lines = np.arange(first, first + batch.num_rows, dtype=np.int64)
        first += batch.num_rows
        cells = {our: texts[theirs] for theirs, our in ours.items()}
        found = batch_of(cells, lines, file, texts.__getitem__)
        if found.count:
            yield found


def _texts(column: pa.Array, file: ImportFile) -> pa.Array:
    """Return the cells of a column as text; binary cells become hexadecimal digits."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_fixed_size_binary(kind):
        column = _hexadecimal(column)
    elif pa.types.is_timestamp(kind):
        # `strftime` writes the local time of a time zone, and texts without a zone are in UTC.
        in_ms = pc.cast(column, pa.timestamp("ms", kind.tz and "UTC"))
        column = pc.strftime(in_ms, "%Y-%m-%dT%H:%M:%S")
    elif pa.types.is_nested(kind):
        raise file.bad(1, "a column that is read holds lists or structures")
    texts = column.cast(pa.string())
    if len(texts) and (pc.max(pc.binary_length(texts)).as_py() or 0) > _MAX_CELL_BYTES:
        raise file.bad(1, f"a cell of more than {_MAX_CELL_BYTES} bytes")
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _hexadecimal(column: pa.Array) -> pa.Array:
    import pyarrow as pa

    width, count = column.type.byte_width, len(column)
    values = np.zeros((count, width), np.uint8)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    filled = column.drop_null()
    start = filled.offset * width
    data = filled.buffers()[1][start : start + len(filled) * width]
    values[valid] = np.frombuffer(data, np.uint8).reshape(-1, width)
    digits = binascii.hexlify(values.tobytes()).decode()
    step = 2 * width
    texts = [digits[n * step : n * step + step] for n in range(count)]
    return pa.array(texts, pa.string(), mask=~valid)

"""A page of a listing, as columns: no Python object is made for a single row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

#: A row for each object, with its ETag with or without quotes; `note` says why the object cannot be
#: read, if this is already known.
SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(), nullable=False),
        pa.field("size", pa.uint64(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("version", pa.string()),
        pa.field("note", pa.string()),
    ]
)


def page_of(rows: Sequence[tuple[Any, ...]]) -> Any:
    """Return a page of rows with the columns of `SCHEMA`; the last columns may be missing.

    Keys are decoded with surrogateescape.
    """
    columns = zip(*((os.fsencode(key), *others) for key, *others in rows), strict=True)
    # Not strict: the table may have fewer columns, or no column if it has no rows.
    given = zip(SCHEMA, columns, strict=False)
    return page_of_columns(len(rows), **{f.name: pa.array(values, f.type) for f, values in given})


def page_of_columns(count: int, **columns: Any) -> Any:
    """Return a page of `count` rows from columns of Arrow; a column that is missing is empty."""
    arrays = []
    for field in SCHEMA:
        column = columns.get(field.name)
        if column is None:
            column = pa.nulls(count, field.type)
        elif column.type != field.type:  # `cast` loads `pyarrow.compute`
            column = column.cast(field.type)
        arrays.append(column)
    return pa.record_batch(arrays, schema=SCHEMA)

"""A page of a listing, as columns: no Python object is made for a single row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

#: One object a row, its ETag with or without quotes; `note` says why it cannot be read, if that is
#: known already.
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
    """Return a page of rows, each as `SCHEMA` has it, perhaps without its last columns.

    Keys are decoded with surrogateescape.
    """
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    columns += [(None,) * len(rows)] * (len(SCHEMA) - len(columns)) if rows else [()] * len(SCHEMA)
    arrays = [pa.array([os.fsencode(key) for key in columns[0]], pa.binary())]
    for values, field in zip(columns[1:], list(SCHEMA)[1:], strict=True):
        arrays.append(pa.array(values, field.type))
    return pa.record_batch(arrays, schema=SCHEMA)


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

"""A page of a listing as columns of Arrow, so that no Python object is made for each row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

#: The columns of a page, which has a row for each object. `etag`: the ETag, with or without quotes.
#: `note`: the reason why the object cannot be read, if the reason is already known.
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

    The keys in `rows` are strings that were decoded with `surrogateescape`.
    """
    columns = zip(*((os.fsencode(key), *others) for key, *others in rows), strict=True)
    # `strict` is False because the rows may have fewer columns than `SCHEMA`, and because an empty
    # page has no columns.
    given = zip(SCHEMA, columns, strict=False)
    return page_of_columns(len(rows), **{f.name: pa.array(values, f.type) for f, values in given})


def page_of_columns(count: int, **columns: Any) -> Any:
    """Return a page of `count` rows from columns of Arrow.

    A missing column is filled with nulls.
    """
    arrays = []
    for field in SCHEMA:
        column = columns.get(field.name)
        if column is None:
            column = pa.nulls(count, field.type)
        elif column.type != field.type:  # `cast` would load `pyarrow.compute`
            column = column.cast(field.type)
        arrays.append(column)
    return pa.record_batch(arrays, schema=SCHEMA)

"""Checks that the Parquet columns of a segment are those of the format, or says why not.

A column is judged by its physical type, its length, its logical type and its repetition, which
every writer of Parquet can set. The type that Arrow would choose does not count: otherwise a
segment would be accepted until its first value that cannot be converted. `wire` reads the values.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hashclient.errors import VerificationError
from hashclient.system.text import excerpt

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_HINT = "the provider has to write the column as docs/format.md says"
#: The logical types of the format (parquet-format, LogicalTypes.md). Old writers use the converted
#: types, which Arrow translates to these.
_NONE = {"Type": "NONE"}
_STRING = {"Type": "STRING"}
_SIGNED = {"Type": "INT", "bitWidth": 64, "isSigned": True}
_INSTANT = {"Type": "TIMESTAMP", "isAdjustedToUTC": True, "timeUnit": "milliseconds"}


def check_columns(found: pq.ParquetSchema, schema: pa.Schema, what: str) -> None:
    """Check that a file has exactly the columns of `schema`.

    Raises:
        VerificationError: it has others; the message names the first wrong column, its type and the
            right type. `what` names the file.
    """
    columns: dict[str, pq.ColumnSchema] = {}
    for position in range(len(found)):
        column = found.column(position)
        if column.path in columns:
            raise VerificationError(f"{what} has column {excerpt(column.path)} twice", hint=_HINT)
        columns[column.path] = column
    names = excerpt(", ".join(columns) or "none")
    for field in schema:
        if field.name not in columns:
            raise VerificationError(
                f"{what} has no column {field.name}: it has {names}",
                hint="every column has to be there, also one without values, and none is nested",
            )
        expected, logical_types = _expected(field)
        column = columns.pop(field.name)
        physical = (column.physical_type, _length(column))
        logical = _logical(column)
        is_logical = any(kind.items() <= logical.items() for kind in logical_types)
        # A column that is neither REQUIRED nor OPTIONAL has several values a row.
        is_flat = column.max_repetition_level == 0 and column.max_definition_level <= 1
        if physical != expected or not is_logical or not is_flat:
            raise VerificationError(
                f"{what}: column {field.name} is {'' if is_flat else 'repeated '}"
                f"{_words(*physical, logical)}, expected {_words(*expected, logical_types[0])}",
                hint=_HINT,
            )
    if columns:
        raise VerificationError(
            f"{what} has a column that the format does not have: {excerpt(min(columns))}",
            hint=_HINT,
        )


def _expected(field: pa.Field) -> tuple[tuple[str, int | None], list[dict[str, Any]]]:
    """Return the physical type of a column, its length if that is fixed, and its logical types."""
    import pyarrow as pa

    if pa.types.is_fixed_size_binary(field.type):
        return ("FIXED_LEN_BYTE_ARRAY", field.type.byte_width), [_NONE]
    if pa.types.is_string(field.type):
        return ("BYTE_ARRAY", None), [_STRING]
    if pa.types.is_timestamp(field.type):
        return ("INT64", None), [_INSTANT]
    return ("INT64", None), [_NONE, _SIGNED]


def _length(column: pq.ColumnSchema) -> int | None:
    return column.length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else None


def _logical(column: pq.ColumnSchema) -> dict[str, Any]:
    """Return the logical type of a column, as a name and its parameters."""
    logical_type = column.logical_type
    parameters = {}
    # Other types need no parameters, and some contain text of the file's writer.
    if logical_type.type in {"INT", "TIMESTAMP", "TIME"}:
        parameters = json.loads(logical_type.to_json())
    return {**parameters, "Type": logical_type.type}


def _words(physical: str, length: int | None, logical: dict[str, Any]) -> str:
    text = physical if length is None else f"{physical}({length})"
    kind = excerpt(logical["Type"].lower())
    if kind == "int":
        kind = f"{'' if logical['isSigned'] else 'unsigned '}integer of {logical['bitWidth']} bits"
    elif kind in {"timestamp", "time"}:
        zone = "UTC" if logical["isAdjustedToUTC"] else "without a zone"
        kind = f"{kind}, {logical['timeUnit']}, {zone}"
    elif kind == "none":
        kind = "no logical type"
    return f"{text} ({kind})"

"""Limits on the work of decoding a segment, checked before the segment is decoded.

A few kilobytes of Parquet can decode to terabytes, and take hours. The footer of a Parquet file
says how many row groups the file has and where their columns begin; the header of each page says
how large the page is when decoded. This module reads the footer and the headers of pages without
decompressing a page. `docs/format.md` has the limits; segments of honest providers stay far below
them. A file can still decode to more bytes than its headers say, so `wire` also decodes under a cap
on memory.

A segment must have exactly the columns of the format. A column is checked by its physical type,
length, logical type and repetition, which every writer of Parquet can set. This module ignores the
type that Arrow would choose, because Arrow would report a segment with a wrong type only at the
first value that it cannot convert.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hashclient.core.errors import VerificationError
from hashclient.system.text import excerpt

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


MAX_FOOTER_BYTES = 4 << 20
MAX_ROW_GROUPS = 1_024
#: The longest list of columns, row groups or metadata keys that a footer may have.
MAX_FOOTER_ITEMS = 2 * MAX_ROW_GROUPS
MAX_PAGES = 65_536
MAX_PAGE_BYTES = 64 << 20
#: The largest total size in bytes of the decoded pages of a segment; the largest honest segment
#: decodes to less than half of this size. The cap on decoded bytes is needed because a file of some
#: kilobytes can have thousands of the largest pages, in dictionaries that no row uses.
MAX_DECODED_BYTES = 2 << 30
#: The largest header of a page. The header of a page may contain the smallest and the largest value
#: of the page.
MAX_PAGE_HEADER_BYTES = 16 << 10

_MAGIC = (b"PAR1", b"PARE")
#: The numbers of the kinds of pages in parquet.thrift. Readers of Parquet skip index pages.
_DATA_PAGE, _INDEX_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = range(4)
#: The field numbers of PageHeader in parquet.thrift.
_TYPE, _UNCOMPRESSED, _COMPRESSED = 1, 2, 3
_VALUES_IN = {_DATA_PAGE: 5, _DATA_PAGE_V2: 8}
_NUM_VALUES = 1
#: Numbers of fields in structs of parquet.thrift. FileMetaData has the row groups. RowGroup has the
#: columns. ColumnChunk has the metadata of a column: the number of values, the compressed length,
#: and the positions where the pages and the dictionary begin.
_GROUPS, _COLUMNS, _METADATA = 4, 1, 3
_VALUES, _LENGTH, _PAGES_AT, _DICTIONARY_AT = 5, 7, 9, 11
#: The types of values in Thrift's compact protocol, and the deepest nesting of values that is
#: accepted.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_VARINTS = _I16, _I32, _I64 = (4, 5, 6)
_MAX_DEPTH = 8


def check_footer(data: bytes, what: str) -> None:
    """Check the length of the footer of a Parquet file, before it is parsed.

    Raises:
        VerificationError: the footer is missing, or too long.
    """
    length = int.from_bytes(data[-8:-4], "little")
    if len(data) < 12 or data[-4:] not in _MAGIC or length > len(data) - 12:
        raise VerificationError(f"{what} is not a valid Parquet file: it has no footer")
    if length > MAX_FOOTER_BYTES:
        raise VerificationError(
            f"{what} has a footer of {length:,} bytes, more than {MAX_FOOTER_BYTES:,}",
            hint="the provider has to write larger row groups, and less metadata",
        )


def check_pages(data: bytes, metadata: pq.FileMetaData, what: str) -> None:
    """Check the row groups and pages of a file, whose parsed footer is `metadata`.

    Raises:
        VerificationError: the file has too many row groups or pages, a page is too large, or the
            pages cannot be read.
    """
    if metadata.num_row_groups > MAX_ROW_GROUPS:
        raise VerificationError(
            f"{what} has {metadata.num_row_groups:,} row groups, more than {MAX_ROW_GROUPS:,}",
            hint="the provider has to write larger row groups",
        )
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if sum(group.num_rows for group in groups) != metadata.num_rows:
        raise VerificationError(f"{what} has row groups whose rows do not add up")
    pages = decoded = 0
    try:
        columns = _columns(data)
        for group, chunks in zip(groups, columns, strict=True):
            for _, chunk in zip(range(group.num_columns), chunks, strict=True):
                for size in _sizes_of_pages(data, chunk, group.num_rows, what):
                    pages, decoded = pages + 1, decoded + size
                    if pages > MAX_PAGES:
                        raise VerificationError(f"{what} has more than {MAX_PAGES:,} pages")
                    if decoded > MAX_DECODED_BYTES:
                        raise VerificationError(
                            f"{what} has pages of more than {MAX_DECODED_BYTES:,} bytes together"
                        )
    except (ValueError, TypeError, LookupError) as error:
        raise VerificationError(
            f"{what} is not a valid Parquet file: its footer is wrong"
        ) from error


def _columns(data: bytes) -> list[list[dict[int, Any]]]:
    """Return the footer's data on each column of each row group.

    This function does not use pyarrow, because pyarrow ends the whole process if the footer
    contradicts itself.

    Raises:
        ValueError, TypeError, LookupError: the footer does not describe the columns of row groups.
    """
    length = int.from_bytes(data[-8:-4], "little")
    footer = _Thrift(data[-8 - length : -8], numbers=(_I64,)).struct()
    return [[column[_METADATA] for column in group[_COLUMNS]] for group in footer[_GROUPS]]


def _sizes_of_pages(data: bytes, chunk: dict[int, Any], rows: int, what: str) -> Iterator[int]:
    """Check the pages of one column of a row group, and yield their decoded sizes.

    Raises:
        ValueError, TypeError, LookupError: the footer is malformed.
    """
    start, dictionary = chunk[_PAGES_AT], chunk.get(_DICTIONARY_AT)
    if dictionary is not None and 0 < dictionary < start:
        start = dictionary
    end = start + chunk[_LENGTH]
    if chunk[_VALUES] != rows or not 0 <= start <= end <= len(data):
        raise ValueError("another number of values, or another place of them")
    seen = 0
    while seen < rows:
        try:
            kind, size, compressed, values, start = _page(data, start, end)
        except (ValueError, TypeError, LookupError) as error:
            raise VerificationError(
                f"{what} is not a valid Parquet file: a page cannot be read"
            ) from error
        if max(size, compressed) > MAX_PAGE_BYTES:
            raise VerificationError(
                f"{what} has a page of {max(size, compressed):,} bytes, more than"
                f" {MAX_PAGE_BYTES:,}",
                hint="the provider has to write smaller pages, or smaller row groups",
            )
        start += compressed
        seen += values if kind in _VALUES_IN else 0
        yield size


def _page(data: bytes, start: int, end: int) -> tuple[int, int, int, int, int]:
    """Return the kind, decoded size, stored size and number of values of a page, and its start.

    Raises:
        ValueError, TypeError, LookupError: the page has no valid header.
    """
    header = _Thrift(data[start : min(end, start + MAX_PAGE_HEADER_BYTES)])
    fields = header.struct()
    kind, size, compressed = (fields[n] for n in (_TYPE, _UNCOMPRESSED, _COMPRESSED))
    values = fields[_VALUES_IN[kind]][_NUM_VALUES] if kind in _VALUES_IN else 0
    if min(size, compressed, values) < 0:
        raise ValueError("a negative number")
    return kind, size, compressed, values, start + header.place


class _Thrift:
    """Reads a struct of Thrift's compact protocol as a dictionary from field number to value.

    Numbers whose type is not in `numbers` become None, because other readers ignore them too.
    """

    def __init__(self, data: bytes, numbers: tuple[int, ...] = _VARINTS) -> None:
        self._data = data
        self._numbers = numbers
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int, *, in_list: bool = False) -> Any:
        if kind in (_TRUE, _FALSE):
            # Thrift encodes a boolean field of a struct in the type of the field, and a boolean in
            # a list as a byte.
            return self._byte() == _TRUE if in_list else kind == _TRUE
        if kind in _VARINTS:
            number = self._signed()
            return number if kind in self._numbers else None
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, depth + 1, in_list=True) for _ in range(count)]
        if kind not in (_BYTE, _DOUBLE, _BINARY):
            raise ValueError("not a type that a page header has")
        length = {_BYTE: 1, _DOUBLE: 8}.get(kind) or self._varint()
        self.place += length
        if self.place > len(self._data):  # a list may claim any number of values
            raise IndexError("a value is longer than the data")
        return None

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) >= 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number that is too long")
        return value | byte << shift

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]


_HINT = "the provider has to write the column as docs/format.md says"
#: The logical types that the format allows (parquet-format, LogicalTypes.md). Old writers set
#: converted types instead, which Arrow translates to logical types.
_NONE = {"Type": "NONE"}
_STRING = {"Type": "STRING"}
_SIGNED = {"Type": "INT", "bitWidth": 64, "isSigned": True}
_INSTANT = {"Type": "TIMESTAMP", "isAdjustedToUTC": True, "timeUnit": "milliseconds"}


def check_columns(found: pq.ParquetSchema, schema: pa.Schema, what: str) -> None:
    """Check that a file has exactly the columns of `schema`.

    Raises:
        VerificationError: the file has other columns; the message names the first wrong column, its
            type and the right type. `what` is the name of the file in messages.
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
        is_fixed = column.physical_type == "FIXED_LEN_BYTE_ARRAY"
        physical = (column.physical_type, column.length if is_fixed else None)
        logical = _logical(column)
        is_logical = any(kind.items() <= logical.items() for kind in logical_types)
        # A column that is neither REQUIRED nor OPTIONAL is REPEATED: one row may have several
        # values.
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
    """Return the physical type of a column, its length if fixed, and its logical types."""
    import pyarrow as pa

    if pa.types.is_fixed_size_binary(field.type):
        return ("FIXED_LEN_BYTE_ARRAY", field.type.byte_width), [_NONE]
    if pa.types.is_string(field.type):
        return ("BYTE_ARRAY", None), [_STRING]
    if pa.types.is_timestamp(field.type):
        return ("INT64", None), [_INSTANT]
    return ("INT64", None), [_NONE, _SIGNED]


def _logical(column: pq.ColumnSchema) -> dict[str, Any]:
    """Return the logical type of a column, as a name and its parameters."""
    logical_type = column.logical_type
    parameters = {}
    # Only the parameters of these types are needed. The parameters of some other types are not
    # read, because they contain text that the writer of the file has chosen.
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

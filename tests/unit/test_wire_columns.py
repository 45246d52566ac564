"""The columns of a segment: from other writers, at the limits of the format, and hostile."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashclient.core.errors import VerificationError
from hashclient.lists.wire import (
    NO_SIZE,
    AddBatch,
    Segment,
    add_schema,
    encode_segment,
    parse_add_segment,
    parse_withdraw_segment,
)
from tests.kit import ROOT

ROW: dict[str, Any] = {
    "entry_id": "e-1",
    "md5": b"\x01" * 16,
    "sha1": None,
    "sha256": None,
    "size": 5,
    "category": "one",
    "added": datetime(2024, 5, 1, tzinfo=UTC),
}


def written(schema: pa.Schema | None = None, row: dict[str, Any] = ROW, **options: Any) -> bytes:
    """Return a segment with one row, written with Arrow as another provider might write it."""
    out = io.BytesIO()
    table = pa.Table.from_pylist([row], schema or add_schema())
    pq.write_table(table, out, **options)
    return out.getvalue()


def with_type(name: str, kind: pa.DataType, *, nullable: bool = True) -> pa.Schema:
    """Return the schema of an `add` segment with another type for one column."""
    changed = pa.field(name, kind, nullable=nullable)
    return pa.schema([changed if f.name == name else f for f in add_schema()])


def parse(data: bytes) -> AddBatch:
    (batch,) = parse_add_segment(data, Segment("s", "add", 1, 1, 1))
    return batch


def refuse(data: bytes, message: str) -> None:
    """Check that a segment is refused with exactly this message."""
    with pytest.raises(VerificationError) as caught:
        parse(data)
    assert caught.value.message == message
    assert caught.value.hint


#: By case: a column, a type, a value, and the two types in the message. The values break no rule.
WRONG: dict[str, tuple[str, pa.DataType, object, str, str]] = {
    "microseconds": (
        *("added", pa.timestamp("us", tz="UTC"), ROW["added"]),
        "INT64 (timestamp, microseconds, UTC)",
        "INT64 (timestamp, milliseconds, UTC)",
    ),
    "nanoseconds": (
        *("added", pa.timestamp("ns", tz="UTC"), ROW["added"]),
        "INT64 (timestamp, nanoseconds, UTC)",
        "INT64 (timestamp, milliseconds, UTC)",
    ),
    "no zone": (
        *("added", pa.timestamp("ms"), datetime(2024, 5, 1)),  # noqa: DTZ001
        "INT64 (timestamp, milliseconds, without a zone)",
        "INT64 (timestamp, milliseconds, UTC)",
    ),
    "plain number": (
        *("added", pa.int64(), 1_714_521_600_000),
        "INT64 (no logical type)",
        "INT64 (timestamp, milliseconds, UTC)",
    ),
    "date": (
        *("added", pa.date32(), ROW["added"].date()),
        "INT32 (date)",
        "INT64 (timestamp, milliseconds, UTC)",
    ),
    "time of day": (
        *("added", pa.time64("us"), None),
        "INT64 (time, microseconds, without a zone)",
        "INT64 (timestamp, milliseconds, UTC)",
    ),
    "unsigned size": (
        *("size", pa.uint64(), 5),
        "INT64 (unsigned integer of 64 bits)",
        "INT64 (no logical type)",
    ),
    "narrow size": (*("size", pa.int32(), 5), "INT32 (no logical type)", "INT64 (no logical type)"),
    "time as a size": (
        *("size", pa.timestamp("ms", tz="UTC"), ROW["added"]),
        "INT64 (timestamp, milliseconds, UTC)",
        "INT64 (no logical type)",
    ),
    "id of bytes": (
        *("entry_id", pa.binary(), b"e-1"),
        "BYTE_ARRAY (no logical type)",
        "BYTE_ARRAY (string)",
    ),
    "id of fixed length": (
        *("entry_id", pa.binary(3), b"e-1"),
        "FIXED_LEN_BYTE_ARRAY(3) (no logical type)",
        "BYTE_ARRAY (string)",
    ),
    "category of bytes": (
        *("category", pa.binary(), b"one"),
        "BYTE_ARRAY (no logical type)",
        "BYTE_ARRAY (string)",
    ),
    "digest of any length": (
        *("md5", pa.binary(), ROW["md5"]),
        "BYTE_ARRAY (no logical type)",
        "FIXED_LEN_BYTE_ARRAY(16) (no logical type)",
    ),
    "digest of another length": (
        *("sha1", pa.binary(16), None),
        "FIXED_LEN_BYTE_ARRAY(16) (no logical type)",
        "FIXED_LEN_BYTE_ARRAY(20) (no logical type)",
    ),
    "digest as a decimal": (
        *("md5", pa.decimal128(38), None),
        "FIXED_LEN_BYTE_ARRAY(16) (decimal)",
        "FIXED_LEN_BYTE_ARRAY(16) (no logical type)",
    ),
    "digest as a UUID": (
        *("md5", pa.uuid(), ROW["md5"]),
        "FIXED_LEN_BYTE_ARRAY(16) (uuid)",
        "FIXED_LEN_BYTE_ARRAY(16) (no logical type)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_column_of_another_type_is_named_with_what_it_is_and_should_be(name: str) -> None:
    column, kind, value, found, expected = WRONG[name]
    data = written(with_type(column, kind), {**ROW, column: value})
    refuse(data, f"segment s: column {column} is {found}, expected {expected}")


@pytest.mark.parametrize("name", add_schema().names)
def test_every_column_has_to_be_there(name: str) -> None:
    schema = pa.schema([f for f in add_schema() if f.name != name])
    others = ", ".join(schema.names)
    refuse(written(schema), f"segment s has no column {name}: it has {others}")


def test_no_other_column_may_be_there() -> None:
    schema = add_schema().append(pa.field("m\x1b[2J", pa.string()))
    message = r"segment s has a column that the format does not have: m\x1b[2J"
    refuse(written(schema, {**ROW, "m\x1b[2J": None}), message)
    twice = pa.table([pa.array(["e-1"]), pa.array(["e-1"])], names=["entry_id", "entry_id"])
    out = io.BytesIO()
    pq.write_table(twice, out)
    with pytest.raises(VerificationError, match="s has column entry_id twice"):
        list(parse_withdraw_segment(out.getvalue(), Segment("s", "withdraw", 1, 1, 1)))


def test_a_nested_column_is_none_of_the_formats() -> None:
    kind = pa.struct([("md5", pa.binary(16))])
    data = written(with_type("md5", kind), {**ROW, "md5": {"md5": b"\x01" * 16}})
    names = "entry_id, md5.md5, sha1, sha256, size, category, added"
    refuse(data, f"segment s has no column md5: it has {names}")


def test_a_column_that_repeats_is_refused() -> None:
    """Arrow cannot write a repeated column outside of a group, so the test edits the file."""
    data = written(store_schema=False, write_statistics=False, compression="none")
    # The bytes in the footer, in Thrift's compact protocol: repetition OPTIONAL (2), then the name.
    before = b"\x25\x02\x18\x04size"
    assert data.count(before) == 1
    refuse(
        data.replace(before, b"\x25\x04\x18\x04size"),
        "segment s: column size is repeated INT64 (no logical type),"
        " expected INT64 (no logical type)",
    )


def test_a_type_that_holds_text_of_the_file_is_refused_as_any_other() -> None:
    data = written(
        with_type("md5", pa.binary()),
        store_schema=False,
        write_statistics=False,
        compression="none",
    )
    # LogicalType GEOMETRY (17) with a coordinate system named `"`.
    changed = annotated(data, b"\x25\x02\x18\x03md5", b'\x6c\x0c\x22\x18\x01"\x00\x00')
    refuse(
        changed,
        "segment s: column md5 is BYTE_ARRAY (geometry),"
        " expected FIXED_LEN_BYTE_ARRAY(16) (no logical type)",
    )


def annotated(data: bytes, element: bytes, more: bytes) -> bytes:
    """Return a Parquet file with `more` inserted after an element of its schema."""
    assert data.count(element) == 1
    length = int.from_bytes(data[-8:-4], "little") + len(more)
    changed = data.replace(element, element + more)
    return changed[:-8] + length.to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize("name", ["entry_id", "category", "md5", "size", "added"])
def test_a_column_may_be_required_or_optional(name: str) -> None:
    for nullable in (True, False):
        kind = add_schema().field(name).type
        assert parse(written(with_type(name, kind, nullable=nullable))).ids.tolist() == [b"e-1"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("entry_id", pa.large_string()),
        ("category", pa.string_view()),
        ("category", pa.dictionary(pa.int32(), pa.string())),
        ("added", pa.timestamp("ms", tz="Europe/Berlin")),
    ],
    ids=str,
)
def test_names_of_types_in_arrow_do_not_matter(name: str, kind: pa.DataType) -> None:
    """The types are the same in Parquet, and the reader ignores Arrow's own schema in the file."""
    data = written(with_type(name, kind), store_schema=True)
    assert [parse(data).categories[0], parse(data).ids.tolist()] == ["one", [b"e-1"]]


def test_order_is_free_and_a_size_may_say_that_it_is_an_integer() -> None:
    schema = pa.schema([add_schema().field(name) for name in sorted(add_schema().names)])
    assert parse(written(schema, store_schema=False)).sizes.tolist() == [5]
    data = written(store_schema=False, write_statistics=False, compression="none")
    # ConvertedType INT_64 (18) and LogicalType INTEGER(64, signed), as DuckDB writes them.
    annotation = b"\x25\x24\x4c\xac\x13\x40\x11\x00\x00"
    changed = annotated(data, b"\x25\x02\x18\x04size", annotation)
    kind = pq.ParquetFile(io.BytesIO(changed)).schema.column(4).logical_type
    assert str(kind) == "Int(bitWidth=64, isSigned=true)"
    assert parse(changed).sizes.tolist() == [5]


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
def test_any_documented_compression_is_read(compression: str) -> None:
    assert parse(written(compression=compression)).sizes.tolist() == [5]


@pytest.mark.parametrize(
    "encodings",
    [
        {"entry_id": "DELTA_BYTE_ARRAY", "category": "DELTA_LENGTH_BYTE_ARRAY"},
        {"size": "DELTA_BINARY_PACKED", "added": "DELTA_BINARY_PACKED"},
        {"md5": "BYTE_STREAM_SPLIT", "size": "BYTE_STREAM_SPLIT", "sha256": "DELTA_BYTE_ARRAY"},
        {"entry_id": "PLAIN", "md5": "PLAIN", "size": "PLAIN"},
    ],
    ids=str,
)
def test_any_encoding_is_read(encodings: dict[str, str]) -> None:
    data = written(column_encoding=encodings, use_dictionary=False, data_page_version="2.0")
    assert parse(data).ids.tolist() == [b"e-1"]
    assert parse(written(use_dictionary=True)).ids.tolist() == [b"e-1"]


def test_an_encrypted_segment_is_refused() -> None:
    from pyarrow.parquet.encryption import (
        CryptoFactory,
        EncryptionConfiguration,
        KmsClient,
        KmsConnectionConfig,
    )

    class Plain(KmsClient):  # type: ignore[misc]
        def __init__(self, _config: object) -> None:
            KmsClient.__init__(self)

        def wrap_key(self, key: bytes, _name: str) -> bytes:
            return key.hex().encode()

        def unwrap_key(self, wrapped: bytes, _name: str) -> bytes:
            return bytes.fromhex(wrapped.decode())

    factory = CryptoFactory(Plain)
    wanted = EncryptionConfiguration(footer_key="f", uniform_encryption=True)
    properties = factory.file_encryption_properties(KmsConnectionConfig(), wanted)
    with pytest.raises(VerificationError, match="s is not a valid Parquet file"):
        parse(written(encryption_properties=properties))


def test_segments_of_our_own_provider_have_the_types_of_the_format() -> None:
    table = pa.Table.from_pylist([ROW], add_schema())
    assert parse(encode_segment(table)).sizes.tolist() == [5]


def written_by(writer: str, kind: str) -> bytes:
    """Return a segment that another program wrote with `tests/data/writers/write.py.txt`."""
    return (ROOT / "tests" / "data" / "writers" / f"{writer}-{kind}.parquet").read_bytes()


@pytest.mark.parametrize("writer", ["polars", "fastparquet"])
def test_segments_of_the_documented_writers_are_read(writer: str) -> None:
    (batch,) = parse_add_segment(written_by(writer, "add"), Segment("s", "add", 2, 1, 1))
    assert (batch.ids.tolist(), batch.categories) == ([b"e-1", b"e-2"], ("synthetic",))
    assert (batch.masks.tolist(), batch.sizes.tolist()) == ([7, 1], [6, NO_SIZE])
    for algorithm, (values, _) in batch.digests.items():
        digest = hashlib.new(algorithm.label, b"benign").digest()
        assert {bytes(value) for value in values} == {digest}


def test_a_segment_of_duckdb_is_refused_with_the_reason() -> None:
    refuse(
        written_by("duckdb", "add"),
        "segment s: column md5 is BYTE_ARRAY (no logical type),"
        " expected FIXED_LEN_BYTE_ARRAY(16) (no logical type)",
    )


@pytest.mark.parametrize("writer", ["polars", "fastparquet", "duckdb"])
def test_every_documented_writer_can_withdraw(writer: str) -> None:
    segment = Segment("s", "withdraw", 2, 1, 1)
    (ids,) = parse_withdraw_segment(written_by(writer, "withdraw"), segment)
    assert ids.tolist() == [b"e-1", b"e-2"]

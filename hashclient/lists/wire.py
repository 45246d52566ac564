"""The wire format of a hash list: `index.json` and Parquet segments, as `docs/format.md` specifies.

Parsing is strict and bounded: this module checks every rule of the format once, and returns valid
columns. `trust` must have verified the bytes already; a broken rule is still an error, because a
provider can sign a mistake. This module does no I/O, and knows no keys and no state.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.errors import VerificationError
from hashclient.core.kinds import Algorithm
from hashclient.core.model import MAX_ENTRY_ID_BYTES, is_name
from hashclient.system.process import memory_cap
from hashclient.system.text import excerpt

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "hashclient-list/1"
#: The name of the file that names all other files of a list.
INDEX_NAME = "index.json"

#: Limits that are checked before anything is downloaded or decoded. The limits are far above the
#: numbers of real lists.
MAX_INDEX_BYTES = 4 << 20
MAX_SEGMENTS = 2_000
MAX_SEGMENT_ENTRIES = 4_000_000
MAX_SEGMENT_BYTES = 512 << 20
MAX_LIST_ENTRIES = 400_000_000
MAX_LIST_BYTES = 64 << 30
MAX_GENERATION = 2**53 - 1
MAX_CATEGORY_BYTES = 31
MAX_CATEGORIES = 255

#: The number of rows in a batch, which limits the memory for an honest segment of any size.
BATCH_ROWS = 1 << 19
#: `DECODED_ROWS`: the number of rows that are decoded at a time. `MAX_DECODING_BYTES`: the largest
#: memory in bytes for decoding `DECODED_ROWS` rows. The largest honest pages need half of
#: `MAX_DECODING_BYTES`.
DECODED_ROWS = 1 << 16
MAX_DECODING_BYTES = 256 << 20

#: The number of rows in each row group of the segments that this module writes.
ROW_GROUP_ROWS = 1 << 20

#: `NO_SIZE`: the number that stands for an unknown size. No file has the size `NO_SIZE`, because
#: Linux limits file sizes to less than 2**63 bytes.
NO_SIZE = np.uint64(2**64 - 1)

Uint8 = npt.NDArray[np.uint8]
Uint32 = npt.NDArray[np.uint32]
Uint64 = npt.NDArray[np.uint64]
Strings = npt.NDArray[np.bytes_]


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a list, as `index.json` names it; the file never changes.

    The file has the changes of the generations from `first` to `last`, including both.
    """

    name: str
    kind: Literal["add", "withdraw"]
    entries: int
    first: int
    last: int


class ListIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`index.json`: one generation of a list, and the segments that it consists of, in order.

    `published_at` is converted to UTC; no decision depends on it. `entries`: the number of live
    entries. `checksum`: the sum of the `entry_hashes` of all live entries modulo 2**64, as 16
    lower-case hexadecimal digits.
    """

    format: str
    list: str
    generation: int
    published_at: datetime
    entries: int
    checksum: str
    segments: tuple[Segment, ...]


class AddBatch(msgspec.Struct, frozen=True):
    """Up to `BATCH_ROWS` validated entries, as columns.

    `ids` (n,): the entry ids, as bytes. `masks` (n,): the algorithms of each entry's digests.
    `sizes` (n,): sizes in bytes, or `NO_SIZE`. `category_codes` (n,): indexes into `categories`.
    `digests[a]`: a pair of the digests of algorithm `a`, as an array (m, digest_bytes), and the
    (m,) numbers of their rows.
    """

    ids: Strings
    masks: Uint8
    sizes: Uint64
    categories: tuple[str, ...]
    category_codes: Uint8
    digests: dict[Algorithm, tuple[Uint8, Uint32]]


def target_name(list_name: str, file_name: str) -> str:
    """Return the TUF target name of a file of a list."""
    return f"lists/{list_name}/{file_name}"


def parse_index(data: bytes, list_name: str) -> ListIndex:
    """Parse and validate the `index.json` of `list_name`.

    Raises:
        VerificationError: a rule of the format is broken.
    """
    from hashclient.system.strictjson import parse_json
    from hashclient.system.versions import require_format

    what = f"index of list {list_name}"
    if len(data) > MAX_INDEX_BYTES:
        raise VerificationError(f"{what} is too large: {len(data)} bytes")
    try:
        document = parse_json(data)
        require_format(document, FORMAT, what)
        index = msgspec.convert(document, ListIndex)
    except ValueError as error:  # `parse_json` and `msgspec.convert` raise subclasses of ValueError
        raise VerificationError(f"{what} is not valid: {excerpt(error)}") from error
    if index.list != list_name:
        raise VerificationError(f"{what} is the index of list {excerpt(index.list)}")
    if index.published_at.tzinfo is None:
        raise VerificationError(f"{what} has a published_at without a time zone")
    if not 1 <= index.generation <= MAX_GENERATION:
        raise VerificationError(f"{what} has generation {index.generation}")
    if len(index.segments) > MAX_SEGMENTS:
        raise VerificationError(f"{what} names {len(index.segments)} segments")
    if len(index.checksum) != 16 or set(index.checksum) - set("0123456789abcdef"):
        raise VerificationError(f"{what} has a malformed checksum")
    _check_segments(index, what)
    try:
        return msgspec.structs.replace(index, published_at=index.published_at.astimezone(UTC))
    except OverflowError as error:
        raise VerificationError(f"{what} has a published_at out of range") from error


def _check_segments(index: ListIndex, what: str) -> None:
    previous_last, previous_range, names = 0, (0, 0), {INDEX_NAME}
    added = withdrawn = 0
    for segment in index.segments:
        where = f"{what}: segment {excerpt(segment.name)}"
        if not is_name(segment.name) or segment.name in names:
            raise VerificationError(f"{where}: name is not allowed or not unique")
        names.add(segment.name)
        if not 1 <= segment.entries <= MAX_SEGMENT_ENTRIES:
            raise VerificationError(f"{where}: entry count {segment.entries} is out of range")
        if not 1 <= segment.first <= segment.last <= index.generation:
            raise VerificationError(f"{where}: generations are out of range")
        same_range = (segment.first, segment.last) == previous_range
        if not same_range and segment.first <= previous_last:
            raise VerificationError(f"{where}: generations are out of order")
        previous_last, previous_range = segment.last, (segment.first, segment.last)
        if segment.kind == "add":
            added += segment.entries
        else:
            withdrawn += segment.entries
    if added > MAX_LIST_ENTRIES:
        raise VerificationError(f"{what}: {added} entries are more than {MAX_LIST_ENTRIES}")
    if index.entries < 0 or index.entries != added - withdrawn:
        raise VerificationError(
            f"{what}: {index.entries} live entries, but segments add {added}"
            f" and withdraw {withdrawn}"
        )


def delta_of(generation: int, index: ListIndex) -> list[Segment] | None:
    """Return the segments after `generation`, or None if one segment spans `generation`.

    `docs/format.md` has the rule, under 'What a client does', step 3.
    """
    if any(s.first <= generation < s.last for s in index.segments):
        return None
    return [s for s in index.segments if s.first > generation]


def encode_index(index: ListIndex) -> bytes:
    """Return the bytes of `index.json`; `parse_index` is the inverse."""
    return msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n"


def entry_hashes(ids: Strings) -> Uint64:
    """Return the 64-bit hash of each entry id, which the checksum of a list adds up.

    `docs/format.md` defines this hash. The id's bytes are taken as little-endian words of eight
    bytes, the last word padded with zeros. The hash h begins as 0 and becomes mix(h XOR word) for
    each word; mix is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom
    Number Generators, 2014). Signatures protect against forgery; the checksum only detects a local
    state that differs by mistake.
    """
    width = -(-max(ids.dtype.itemsize, 1) // 8) * 8
    words = ids.astype(f"S{width}").view("<u8").reshape(len(ids), width // 8)
    h = np.zeros(len(ids), np.uint64)
    for column in words.T:
        z = h ^ column
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        # An id contains no NUL, so a word of zeros is after the end of the id.
        h = np.where(column != 0, z, h)
    return h


def checksum_of(hashes: Uint64) -> int:
    """Return the sum of entry hashes modulo 2**64."""
    return int(hashes.sum(dtype=np.uint64))


def add_schema() -> pa.Schema:
    """Return the Arrow schema of an `add` segment."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("entry_id", pa.string(), nullable=False),
            pa.field("md5", pa.binary(16)),
            pa.field("sha1", pa.binary(20)),
            pa.field("sha256", pa.binary(32)),
            pa.field("size", pa.int64()),
            pa.field("category", pa.string(), nullable=False),
            pa.field("added", pa.timestamp("ms", tz="UTC")),
        ]
    )


def withdraw_schema() -> pa.Schema:
    """Return the Arrow schema of a `withdraw` segment."""
    import pyarrow as pa

    return pa.schema([pa.field("entry_id", pa.string(), nullable=False)])


def encode_segment(table: pa.Table) -> bytes:
    """Return the Parquet bytes of a segment; `table` has the schema of a kind of segment."""
    import pyarrow.parquet as pq

    out = io.BytesIO()
    # Digests cannot be compressed, so a dictionary of digests is useless; a dictionary of
    # categories saves space.
    pq.write_table(
        table,
        out,
        compression="zstd",
        use_dictionary=["category"] if "category" in table.column_names else False,
        write_statistics=False,
        row_group_size=ROW_GROUP_ROWS,
        store_schema=False,
    )
    return out.getvalue()


def parse_add_segment(
    data: bytes, segment: Segment, batch_rows: int | None = None
) -> Iterator[AddBatch]:
    """Decode an `add` segment in batches of validated columns, each of at most `batch_rows` rows.

    Raises:
        VerificationError: a rule of the format is broken, also while iterating.
    """
    what = f"segment {segment.name}"
    for batch in _read_batches(data, segment, add_schema(), what, batch_rows):
        yield _add_batch(batch, what)


def parse_withdraw_segment(data: bytes, segment: Segment) -> Iterator[Strings]:
    """Decode a `withdraw` segment in batches of entry ids.

    Raises:
        VerificationError: a rule of the format is broken, also while iterating.
    """
    what = f"segment {segment.name}"
    for batch in _read_batches(data, segment, withdraw_schema(), what):
        yield _entry_ids(batch.column("entry_id"), what)


def _read_batches(
    data: bytes, segment: Segment, schema: pa.Schema, what: str, batch_rows: int | None = None
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The modules are imported in this function because only fetches need them, and most commands
    # are scans.
    from hashclient.lists.bounds import MAX_FOOTER_ITEMS, check_columns, check_footer, check_pages

    check_footer(data, what)
    wanted = batch_rows or BATCH_ROWS
    rows = 0
    chunks: list[pa.RecordBatch] = []
    try:
        with memory_cap(MAX_DECODING_BYTES):
            file = pq.ParquetFile(
                pa.BufferReader(data),
                arrow_extensions_enabled=False,
                pre_buffer=False,
                thrift_container_size_limit=MAX_FOOTER_ITEMS,
            )
        if file.metadata.num_rows != segment.entries:
            raise VerificationError(
                f"{what} has {file.metadata.num_rows} rows, the index says {segment.entries}"
            )
        check_columns(file.schema, schema, what)
        check_pages(data, file.metadata, what)
        batches = file.iter_batches(min(wanted, DECODED_ROWS), use_threads=False)
        while True:
            with memory_cap(MAX_DECODING_BYTES):
                if (batch := next(batches, None)) is None:
                    break
                rows += batch.num_rows
                if rows > segment.entries:
                    raise VerificationError(f"{what} has more rows than it says")
                chunks.append(_checked(batch, schema, what))
            if rows < segment.entries and sum(map(len, chunks)) < wanted:
                continue
            yield _joined(chunks)
            if wanted < BATCH_ROWS:
                # Arrow keeps freed memory for later use, up to 100 MB; if memory is short, this
                # memory is released.
                pa.default_memory_pool().release_unused()
    except MemoryError as error:  # Arrow's own memory error is a subclass of MemoryError
        raise VerificationError(f"{what} asks for too much memory") from error
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        reason = excerpt(error)
        if "Exceeded size limit" in reason:
            reason = f"its footer names more than {MAX_FOOTER_ITEMS:,} columns or row groups"
        raise VerificationError(f"{what} is not a valid Parquet file: {reason}") from error
    if rows != segment.entries:
        raise VerificationError(f"{what} has {rows} rows, the index says {segment.entries}")


def _checked(batch: pa.RecordBatch, schema: pa.Schema, what: str) -> pa.RecordBatch:
    """Return a batch with the columns of `schema`, whose texts are UTF-8 and not too long."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [batch.column(field.name).cast(field.type) for field in schema]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    # pyarrow does not check that text is UTF-8 when it reads Parquet.
    batch.validate(full=True)
    for field in schema:
        if pa.types.is_string(field.type):
            longest = pc.max(pc.binary_length(batch.column(field.name))).as_py() or 0
            if longest > MAX_ENTRY_ID_BYTES:
                raise VerificationError(f"{what}: column {field.name} has a text that is too long")
    return batch


def _joined(chunks: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Move all rows from `chunks` to one batch, and return the batch."""
    import pyarrow as pa

    table = pa.Table.from_batches(chunks)
    chunks.clear()
    (batch,) = table.combine_chunks().to_batches()
    return batch


def _add_batch(batch: pa.RecordBatch, what: str) -> AddBatch:
    import pyarrow.compute as pc

    count = batch.num_rows
    ids = _entry_ids(batch.column("entry_id"), what)
    masks = np.zeros(count, np.uint8)
    digests: dict[Algorithm, tuple[Uint8, Uint32]] = {}
    for algorithm in Algorithm:
        column = batch.column(algorithm.label)
        if column.null_count == count:
            continue
        if column.null_count:
            rows = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
            column = column.drop_null()
            masks[rows] |= np.uint8(algorithm)
        else:
            rows = np.arange(count)
            masks |= np.uint8(algorithm)
        digests[algorithm] = (
            _fixed_width(column, algorithm.digest_bytes),
            rows.astype(np.uint32),
        )
    if not masks.all():
        raise VerificationError(f"{what} has an entry without a digest")
    size_column = batch.column("size")
    signed = size_column.fill_null(-1).to_numpy()
    known = pc.is_valid(size_column).to_numpy(zero_copy_only=False)
    if (signed[known] < 0).any():
        raise VerificationError(f"{what} has an entry with a negative size")
    sizes = signed.astype(np.uint64)  # -1 means an unknown size, and becomes `NO_SIZE`
    categories, codes = _categories(batch.column("category"), what)
    return AddBatch(ids, masks, sizes, categories, codes, digests)


def _fixed_width(column: pa.Array, width: int) -> Uint8:
    """View the values of a column without nulls as an (n, width) array of bytes, without a copy."""
    buffer = column.buffers()[-1]
    flat = np.frombuffer(buffer, np.uint8, len(column) * width, column.offset * width)
    return flat.reshape(len(column), width)


def _entry_ids(column: pa.Array, what: str) -> Strings:
    """Return entry ids as an array of fixed width, after checking each id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count:
        raise VerificationError(f"{what} has an entry without an id")
    lengths = pc.binary_length(column)
    bounds = pc.min_max(lengths).as_py()
    if bounds["min"] < 1 or bounds["max"] > MAX_ENTRY_ID_BYTES:
        raise VerificationError(f"{what} has an entry id that is empty or too long")
    width = bounds["max"]
    padded = pc.ascii_rpad(column, width, padding="\0").cast(pa.binary()).cast(pa.binary(width))
    matrix = _fixed_width(padded, width)
    length_array = lengths.to_numpy()
    # The padding is NUL, so an id with a NUL inside has fewer bytes that are not NUL than its
    # length says.
    if not _ID_BYTES[matrix].all() or (np.count_nonzero(matrix, axis=1) != length_array).any():
        raise VerificationError(f"{what} has an entry id with a character that is not allowed")
    ids = matrix.reshape(-1).view(f"S{width}")
    for digest_width in (32, 40, 64):
        rows = np.flatnonzero(length_array == digest_width)
        if rows.size and _HEX_BYTES[matrix[rows, :digest_width]].all(axis=1).any():
            raise VerificationError(
                f"{what} has an entry id that looks like a digest",
                hint="ids are kept in the clear; the provider has to choose others",
            )
    return ids


def _categories(column: pa.Array, what: str) -> tuple[tuple[str, ...], Uint8]:
    if column.null_count:
        raise VerificationError(f"{what} has an entry without a category")
    encoded = column.dictionary_encode()
    names = tuple(encoded.dictionary.to_pylist())
    if len(names) > MAX_CATEGORIES:
        raise VerificationError(f"{what} has {len(names)} categories")
    for name in names:
        if not is_category(name):
            raise VerificationError(f"{what} has a category that is not allowed")
    return names, encoded.indices.to_numpy().astype(np.uint8)


def is_category(text: str) -> bool:
    """Return whether `text` may be a category: a name of at most 31 characters."""
    return len(text) <= MAX_CATEGORY_BYTES and is_name(text)


def _byte_table(characters: bytes) -> npt.NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)
    table[list(characters)] = True
    return table


_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: NUL is allowed in this table because NUL pads ids to a fixed width; an id that contains a NUL is
#: refused.
_ID_BYTES = _byte_table(_LETTERS + b"0123456789._:-\0")
_HEX_BYTES = _byte_table(b"0123456789abcdefABCDEF")

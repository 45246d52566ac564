"""Checks and numbers the entries of one publication, and encodes them as segments.

The input is batches of rows from files of digests. The client's own parser reads every segment
before a file is written, so clients accept the segments. `hashclient.provider.changes` compares the
entries with the list, and writes the segments.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from hashclient.core.errors import UsageError, VerificationError
from hashclient.core.kinds import Algorithm
from hashclient.core.model import is_entry_id
from hashclient.lists.empty_file import rows_of_the_empty_file
from hashclient.lists.importers.rows import DigestBatch, Int64
from hashclient.lists.wire import (
    MAX_CATEGORIES,
    NO_SIZE,
    AddBatch,
    Segment,
    Strings,
    Uint64,
    add_schema,
    encode_segment,
    entry_hashes,
    is_category,
    parse_add_segment,
)
from hashclient.provider.doubles import NewDigests
from hashclient.system.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

SEGMENT_ENTRIES = 1_000_000
DEFAULT_CATEGORY = "uncategorised"

_CATEGORIES_HINT = "nothing was published; use fewer, and put finer ones into the entry ids"


class NewSegment(msgspec.Struct, frozen=True):
    """A segment, and the bytes of its file."""

    segment: Segment
    data: bytes


def new_segment(
    generation: int, kind: Literal["add", "withdraw"], number: int, table: pa.Table
) -> NewSegment:
    """Encode `table` as the segment with this kind and `number` of a generation."""
    name = f"g{generation:06d}-{kind}-{number:03d}.parquet"
    segment = Segment(name, kind, table.num_rows, generation, generation)
    return NewSegment(segment, encode_segment(table))


def made_id(generation: int, number: int) -> str:
    """Return the id for the `number`-th entry of a generation, which was given without an id."""
    return f"{generation}-{number}"


class Entries(msgspec.Struct):
    """Gathers batches of digests into the `add` segments of one generation."""

    generation: int
    #: The category for entries that were given without a category.
    category: str = DEFAULT_CATEGORY
    segments: list[NewSegment] = msgspec.field(default_factory=list)
    ids: list[Strings] = msgspec.field(default_factory=list)
    rows: int = 0
    #: The number of the first row of each batch. `origins` has the file and the line numbers of
    #: each batch.
    starts: list[int] = msgspec.field(default_factory=list)
    #: Rows that have a digest of the empty file.
    empty: list[int] = msgspec.field(default_factory=list)
    digests: NewDigests = msgspec.field(default_factory=NewDigests)
    #: The number of entries of each category.
    categories: Counter[str] = msgspec.field(default_factory=Counter)
    origins: list[tuple[str, Int64]] = msgspec.field(default_factory=list)
    pending: list[pa.Table] = msgspec.field(default_factory=list)

    def add(self, batch: DigestBatch, name: str) -> None:
        """Add the rows of `batch`, which was read from the file `name`."""
        self.empty += (rows_of_the_empty_file(batch.digests) + self.rows).tolist()
        self.digests.add(batch, self.rows)
        self.starts.append(self.rows)
        self.origins.append((name, batch.lines))
        self.pending.append(_table(batch, self.generation, self.rows + 1, self.category))
        self.rows += batch.count
        if sum(table.num_rows for table in self.pending) >= SEGMENT_ENTRIES:
            self._encode(SEGMENT_ENTRIES)

    def finish(self) -> None:
        """Encode the remaining rows as the last segments.

        Raises:
            UsageError: an entry breaks a rule of the format, or has a digest of the empty file.
        """
        if self.pending:
            self._encode(0)
        if self.empty:
            more = f" (and {len(self.empty) - 1:,} more)" if len(self.empty) > 1 else ""
            raise UsageError(
                f"{self.where(self.empty[0])}: has a digest of the empty file{more}",
                hint="nothing was published; remove the row: clients refuse every list with the "
                "empty file",
            )

    def _encode(self, at_least: int) -> None:
        """Encode pending rows as segments while at least `at_least` rows are left."""
        import pyarrow as pa

        table = pa.concat_tables(self.pending)
        while table.num_rows and table.num_rows >= at_least:
            part = table.slice(0, SEGMENT_ENTRIES)
            new = new_segment(self.generation, "add", len(self.segments), part)
            try:
                # The client's parser finds each entry that breaks a rule of the format.
                for batch in parse_add_segment(new.data, new.segment):
                    self.ids.append(batch.ids)
                    self.categories.update(by_category(batch))
            except VerificationError as error:
                raise self._broken_rule(part, error) from error
            self.segments.append(new)
            table = table.slice(SEGMENT_ENTRIES)
        self.pending = [table] if table.num_rows else []

    def _broken_rule(self, part: pa.Table, error: VerificationError) -> UsageError:
        """Return the error that names the line with the entry that breaks a rule of the format."""
        first = sum(new.segment.entries for new in self.segments)
        columns = part.column("entry_id").to_pylist(), part.column("category").to_pylist()
        for row, (entry_id, category) in enumerate(zip(*columns, strict=True), first):
            if not is_entry_id(entry_id):
                hint = "at most 64 of A-Z a-z 0-9 . _ : - and nothing that looks like a digest"
                return UsageError(f"{self.where(row)}: entry id is not allowed", hint=hint)
            if not is_category(category):
                hint = "at most 31 of a-z 0-9 . _ - beginning with a letter or a digit"
                return UsageError(f"{self.where(row)}: category is not allowed", hint=hint)
        low, high = 0, part.num_rows
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (middle, high) if _is_valid(part.slice(low, middle - low)) else (low, middle)
            )
        # If this entry is valid in a segment without other entries, the fault is the number of
        # categories in the segment, and no single line is wrong.
        if not _is_valid(part.slice(low, 1)):
            return UsageError(f"{self.where(first + low)}: {error.message}", hint=error.hint)
        return UsageError(error.message, hint=error.hint or _CATEGORIES_HINT)

    def read(self) -> Iterator[AddBatch]:
        """Yield the entries as a publication would write them, in the same order."""
        for new in self.segments:
            yield from parse_add_segment(new.data, new.segment)

    def where(self, row: int) -> str:
        """Return the place of a row in the files that were read, as `file:line`."""
        batch = bisect.bisect_right(self.starts, row) - 1
        name, lines = self.origins[batch]
        return f"{printable(name)}:{lines[row - self.starts[batch]]}"

    def hashes(self) -> Uint64:
        """Return the hashes of all entry ids."""
        none = np.zeros(0, np.uint64)
        return np.concatenate([none, *(entry_hashes(ids) for ids in self.ids)])

    def check_unique(self, hashes: Uint64, live: Uint64) -> None:
        """Refuse an id that occurs twice or is on the list; `live` has the hashes of listed ids."""
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        again = order[1:][ordered[1:] == ordered[:-1]]
        listed = np.flatnonzero(np.isin(hashes, live))
        for rows, what in ((listed, "is on the list already"), (again, "occurs twice")):
            if rows.size:
                row = int(rows.min())
                raise UsageError(
                    f"{self.where(row)}: entry id {what}: {self._id(row)}",
                    hint="nothing was published; an id names exactly one entry of the list",
                )

    def check_categories(self, listed: Collection[str], list_name: str) -> None:
        """Refuse more categories than a list may have; `listed` has the categories of the list."""
        count = len({*self.categories, *listed})
        if count > MAX_CATEGORIES:
            raise UsageError(
                f"list {list_name} would have {count} categories, those of withdrawn entries"
                f" included; clients take {MAX_CATEGORIES} at most",
                hint=_CATEGORIES_HINT,
            )

    def _id(self, row: int) -> str:
        return bytes(np.concatenate(self.ids)[row]).decode("ascii")


def by_category(batch: AddBatch) -> dict[str, int]:
    """Return the number of entries of each category."""
    numbers = np.bincount(batch.category_codes, minlength=len(batch.categories))
    return dict(zip(batch.categories, numbers.tolist(), strict=True))


def _is_valid(table: pa.Table) -> bool:
    new = new_segment(1, "add", 0, table)
    try:
        for _ in parse_add_segment(new.data, new.segment):
            pass
    except VerificationError:
        return False
    return True


def _table(batch: DigestBatch, generation: int, number: int, category: str) -> pa.Table:
    """Return the rows of `batch` as a table for an `add` segment; the first row is `number`.

    An entry without a category gets `category`.
    """
    import pyarrow as pa

    count = batch.count
    schema = add_schema()
    made = [made_id(generation, n) for n in range(number, number + count)]
    ids = made
    if batch.entry_ids is not None:
        ids = [given or other for given, other in zip(batch.entry_ids, made, strict=True)]
    categories = [c or category for c in batch.categories or [None] * count]
    added = np.full(count, "NaT", "datetime64[ms]") if batch.added is None else batch.added
    columns = {
        "entry_id": pa.array(ids, pa.string()),
        "size": pa.array(batch.sizes.view(np.int64), mask=batch.sizes == NO_SIZE),
        "category": pa.array(categories, pa.string()),
        "added": pa.array(added, schema.field("added").type),
    }
    for algorithm in Algorithm:
        kind = schema.field(algorithm.label).type
        if algorithm not in batch.digests:
            columns[algorithm.label] = pa.nulls(count, kind)
            continue
        digests, rows = batch.digests[algorithm]
        values = np.zeros((count, algorithm.digest_bytes), np.uint8)
        values[rows] = digests
        present = np.zeros(count, np.bool_)
        present[rows] = True
        bitmap = np.packbits(present, bitorder="little")
        columns[algorithm.label] = pa.FixedSizeBinaryArray.from_buffers(
            kind, count, [pa.py_buffer(bitmap), pa.py_buffer(values)]
        )
    return pa.table([columns[name] for name in schema.names], schema=schema)

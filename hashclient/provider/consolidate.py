"""Consolidation: a few large segments replace many small segments with the same entries.

A new client should have few segments to download, and a client that is up to date should download
no entry again. So the newest generations are not joined. Older generations are joined by size: a
range of generations is joined with all later ranges up to the newest generations, unless the range
has more than `RATIO` times as many entries as these later ranges together. So the number of ranges,
and the number of times that an entry is written again, grow only with the logarithm of the number
of entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from hashclient.lists.wire import Segment, add_schema, encode_segment, withdraw_schema
from hashclient.provider.entries import SEGMENT_ENTRIES, NewSegment

if TYPE_CHECKING:
    import pyarrow as pa

RATIO = 4
#: The number of newest generations that are not joined. A client that misses at most this many
#: generations never has to build the list again.
KEEP_NEWEST = 50

#: The segments of a range of generations; either all of these segments are joined, or none.
Range = list[Segment]


def ranges_to_join(segments: Sequence[Segment], generation: int, keep_newest: int) -> list[Range]:
    """Return the neighbouring ranges to join; with fewer than two ranges, a join is useless.

    The search for the first range to join begins at the oldest range. A search from the newest
    range would never join the earlier ranges if a small withdrawal followed each publication,
    because the newest range would always be small.
    """
    ranges = [list(group) for _, group in groupby(segments, key=lambda s: (s.first, s.last))]
    old = [r for r in ranges if r[0].last <= generation - keep_newest]
    weights = [sum(segment.entries for segment in r) for r in old]
    after = sum(weights)
    for start, weight in enumerate(weights[:-1]):
        after -= weight
        if weight <= RATIO * after:
            return old[start:]
    return []


def join_ranges(ranges: Sequence[Range], read: Callable[[Segment], bytes]) -> list[NewSegment]:
    """Return the segments that replace `ranges`; `read` returns the bytes of a segment.

    Entries that were both added and withdrawn in `ranges` are left out. Withdrawals of entries from
    before `ranges` are kept, and come before the additions, because the same id may have been added
    again.
    """
    import pyarrow as pa

    kept, withdrawn = left_of((s for r in ranges for s in r), read)
    first, last = ranges[0][0].first, ranges[-1][0].last
    gone = pa.table([pa.array(withdrawn, pa.string())], schema=withdraw_schema())
    return _segments(gone, "withdraw", first, last) + _segments(kept, "add", first, last)


def left_of(
    segments: Iterable[Segment], read: Callable[[Segment], bytes]
) -> tuple[pa.Table, list[str]]:
    """Return the added entries that remain after `segments`, and the older ids that are withdrawn.

    `read` returns a segment's bytes.
    """
    import pyarrow as pa

    tables = [add_schema().empty_table()]
    rows = 0
    row_of: dict[str, int] = {}
    withdrawn: list[str] = []
    for segment in segments:
        table = table_of(read(segment))
        ids: list[str] = table.column("entry_id").to_pylist()
        if segment.kind == "add":
            tables.append(table)
            row_of.update(zip(ids, range(rows, rows + len(ids)), strict=True))
            rows += len(ids)
        else:
            withdrawn += [entry_id for entry_id in ids if row_of.pop(entry_id, None) is None]
    kept = pa.concat_tables(tables).take(pa.array(sorted(row_of.values()), pa.int64()))
    return kept, withdrawn


def table_of(data: bytes) -> pa.Table:
    """Return all rows of a segment, with the columns that this module needs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(pa.BufferReader(data), arrow_extensions_enabled=False).read()
    schema = add_schema() if "category" in table.column_names else withdraw_schema()
    return table.select(schema.names).cast(schema)


def _segments(
    table: pa.Table, kind: Literal["add", "withdraw"], first: int, last: int
) -> list[NewSegment]:
    new = []
    for number, start in enumerate(range(0, table.num_rows, SEGMENT_ENTRIES)):
        part = table.slice(start, SEGMENT_ENTRIES)
        name = f"g{first:06d}-g{last:06d}-{kind}-{number:03d}.parquet"
        segment = Segment(name, kind, part.num_rows, first, last)
        new.append(NewSegment(segment, encode_segment(part)))
    return new

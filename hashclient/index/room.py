"""The sizes of the pieces in which an index is built, which follow from the free memory.

With much memory the pieces have the sizes that are fastest. If a control group leaves little, they
are smaller, and the build takes more time. Merging takes some 12 bytes a row in any case.
"""

from __future__ import annotations

import msgspec

from hashclient.lists.wire import BATCH_ROWS

#: Rows that are collected in memory before they become a run; about 100 bytes each.
RUN_ROWS = 2_000_000
#: Rows handled at a time while merging.
MERGE_ROWS = 500_000
#: The bytes of all segments that are downloaded ahead.
AHEAD_BYTES = 256 << 20

#: The memory for each row of a run while the run is collected, sorted and written.
_ROW_BYTES = 1000
#: With this much free memory, every piece has its full size.
_PLENTY_BYTES = RUN_ROWS * _ROW_BYTES
#: Smaller pieces would take much more time, and hardly less memory.
_FEWEST_ROWS = 100_000
#: The share of the remaining memory that segments downloaded ahead may take.
_AHEAD_SHARE = 8


class Room(msgspec.Struct, frozen=True):
    """The sizes of the pieces in which an index is built; by default the largest."""

    batch_rows: int = BATCH_ROWS
    run_rows: int = RUN_ROWS
    merge_rows: int = MERGE_ROWS
    ahead_bytes: int = AHEAD_BYTES

    @classmethod
    def of(cls, free_bytes: int | None) -> Room:
        """Return the sizes for `free_bytes` of memory; the largest if that is not known."""
        if free_bytes is None or free_bytes >= _PLENTY_BYTES:
            return cls()
        rows = max(_FEWEST_ROWS, free_bytes // _ROW_BYTES)
        return cls(
            batch_rows=min(BATCH_ROWS, rows),
            run_rows=rows,
            merge_rows=min(MERGE_ROWS, rows),
            ahead_bytes=min(AHEAD_BYTES, free_bytes // _AHEAD_SHARE),
        )

"""Undoes a generation of a list: withdraws what it added, and adds again what it withdrew.

But an entry that a later generation concerns stays: an id that was withdrawn or added since is left
as it is. Entries come back under their ids, with all that they had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from hashclient.core.errors import UsageError
from hashclient.lists.wire import (
    ListIndex,
    Uint64,
    add_schema,
    checksum_of,
    entry_hashes,
)
from hashclient.provider.changes import MAX_LOGGED_IDS, Change, changes_of, withdrawals
from hashclient.provider.consolidate import table_of
from hashclient.provider.entries import SEGMENT_ENTRIES, new_segment
from hashclient.provider.listfiles import ListFiles
from hashclient.provider.results import Published
from hashclient.provider.roles import Roles

if TYPE_CHECKING:
    import pyarrow as pa


def reversion(
    files: ListFiles,
    roles: Roles,
    list_name: str,
    generation: int,
    may_return: Collection[str] | None = None,
) -> tuple[Published, Change]:
    """Compute the change that undoes a generation.

    Only entries with the ids `may_return` may come back; without them, all may.

    Raises:
        UsageError: the generation does not exist, was joined with others, or has no change left to
            undo, or an entry may not come back.
        StateError: published files cannot be read.
    """
    current = files.current(roles, list_name)
    goes, returns = changes_of(files, roles, current, generation)
    if not len(goes) + len(returns):
        raise UsageError(
            f"nothing of generation {generation} of list {list_name} is left to undo",
            hint=f"`hashclient provider diff` shows what a generation changed; the newest is"
            f" {current.generation}",
        )
    if may_return is not None:
        allowed = entry_hashes(np.array(sorted(may_return), "S"))
        if not np.isin(entry_hashes(returns), allowed).all():
            raise UsageError(
                f"list {list_name} shares another one on, whose provider has withdrawn entries of"
                f" generation {generation}: they cannot come back",
                hint="`hashclient provider withdraw --generation` takes off what it added",
            )
    number = current.generation + 1
    added = _earlier_rows(files, roles, current, generation, entry_hashes(returns))
    segments = withdrawals(number, goes) + [
        new_segment(number, "add", n, added.slice(start, SEGMENT_ENTRIES))
        for n, start in enumerate(range(0, added.num_rows, SEGMENT_ENTRIES))
    ]
    checksum = checksum_of(entry_hashes(returns)) - checksum_of(entry_hashes(goes))
    index = files.next_index(current, segments, len(returns) - len(goes), checksum)
    done = Published(
        list_name,
        index.generation,
        len(returns),
        index.entries,
        withdrawn=len(goes),
        categories=dict(sorted(Counter(added.column("category").to_pylist()).items())),
    )
    data = {
        "list": list_name,
        "generation": index.generation,
        "of_generation": generation,
        "added": len(returns),
        "withdrawn": len(goes),
        "entries": [entry_id.decode() for entry_id in goes[:MAX_LOGGED_IDS].tolist()],
        "live": index.entries,
    }
    return done, Change(list_name, index, segments, "generation-reverted", data)


def _earlier_rows(
    files: ListFiles, roles: Roles, index: ListIndex, generation: int, wanted: Uint64
) -> pa.Table:
    """Return the entries of the hashes `wanted` as they were last added before a generation."""
    import pyarrow as pa

    found = [add_schema().empty_table()]
    for segment in reversed(index.segments):
        if segment.kind != "add" or segment.last >= generation or not len(wanted):
            continue
        table = table_of(files.read_segment(roles, index.list, segment))
        hashes = entry_hashes(np.array(table.column("entry_id").to_pylist(), "S"))
        found.append(table.filter(pa.array(np.isin(hashes, wanted))))
        wanted = wanted[~np.isin(wanted, hashes)]
    return pa.concat_tables(found)

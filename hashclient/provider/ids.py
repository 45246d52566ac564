"""Ids of entries that are to be withdrawn: from files, one a line, or those of a generation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from hashclient.errors import UsageError
from hashclient.lists.wire import (
    MAX_ENTRY_ID_BYTES,
    AddBatch,
    ListIndex,
    Strings,
    entry_hashes,
    is_entry_id,
)
from hashclient.provider.keys import Roles
from hashclient.provider.listfiles import ListFiles
from hashclient.provider.listing import segments_between
from hashclient.system.text import printable

#: Bytes of a line that are read: an id, white space around it, and one more to see that it is long.
_LINE_BYTES = 4 * MAX_ENTRY_ID_BYTES
_BOM = b"\xef\xbb\xbf"


def read_ids(sources: Iterable[tuple[str, BinaryIO]]) -> Iterator[str]:
    """Yield the ids in files, one a line; empty lines are passed over.

    Raises:
        UsageError: a line is no id, or a file cannot be read.
    """
    for name, stream in sources:
        number = 0
        try:
            while line := stream.readline(_LINE_BYTES):
                number += 1
                text = line.removeprefix(_BOM if number == 1 else b"").strip()
                entry_id = text.decode("ascii", "replace")
                if text and not is_entry_id(entry_id):
                    # It may be a digest, so it is not repeated.
                    raise UsageError(
                        f"{printable(name)}:{number}: not an entry id",
                        hint="give one id a line and nothing else; `hashclient provider find` names"
                        " the entries that have digests",
                    )
                if text:
                    yield entry_id
        except OSError as error:
            raise UsageError(f"cannot read {printable(name)}: {error.strerror or error}") from error


def ids_of_generation(
    files: ListFiles, roles: Roles, index: ListIndex, generation: int
) -> list[str]:
    """Return the ids of the entries that a generation added and that are listed since then.

    Raises:
        UsageError: there is no such generation, it was joined with others, or none is left.
        StateError: published files cannot be read.
    """
    segments = segments_between(index, generation - 1, generation)
    later = tuple(s for s in index.segments if s.first > generation and s.kind == "withdraw")
    added: list[Strings] = []
    gone = [np.zeros(0, np.uint64)]
    for _, batch in files.batches(roles, index.list, (*segments, *later)):
        if isinstance(batch, AddBatch):
            added.append(batch.ids)
        elif added:  # what a generation withdraws itself comes before what it adds
            gone.append(entry_hashes(batch))
    withdrawn = np.concatenate(gone)
    kept = [ids[~np.isin(entry_hashes(ids), withdrawn)] for ids in added]
    if not any(len(ids) for ids in kept):
        raise UsageError(
            f"no entry that generation {generation} of list {index.list} added is on the list",
            hint=f"`hashclient provider diff` shows what a generation added; the newest is"
            f" {index.generation}",
        )
    return [entry_id.decode() for ids in kept for entry_id in ids.tolist()]

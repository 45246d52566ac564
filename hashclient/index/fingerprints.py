"""Fingerprints of entries: an entry that has changed has another fingerprint.

A fingerprint is a code under the local key over everything that the list says about an entry: its
digests (as tags), size and category. So a fingerprint shows nothing about the entry to anybody
without the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.kinds import Algorithm
from hashclient.index.blinding import Sealer
from hashclient.index.reader import Index
from hashclient.index.run import Run
from hashclient.lists.wire import entry_hashes

_PURPOSE = "entry"
#: The number of hexadecimal digits of a code: half of the digits of the MAC (RFC 2104, section 5).
_DIGITS = 32


class Fingerprint(NamedTuple):
    """The code of an entry, and a mask of the algorithms of its digests."""

    code: str
    algorithms: int


def fingerprints(index: Index, ids: Sequence[str], sealer: Sealer) -> dict[str, Fingerprint]:
    """Return the fingerprints of those `ids` that belong to live entries of a list, by id.

    Each run is read only once, for all `ids` together.

    Raises:
        DamagedError: the index differs from the written bytes.
    """
    wanted = [entry.encode() for entry in ids if entry.isascii() and entry]
    if not wanted:
        return {}
    names = np.array(wanted)
    found = index.find_ids(names, entry_hashes(names))
    parts: dict[str, list[bytes]] = {}
    masks: dict[str, int] = {}
    for number in sorted(set(found.runs.tolist())):
        at = found.runs == number
        run, rows = index.runs[number], found.rows[at]
        for query, row, content in zip(
            found.queries[at].tolist(), rows.tolist(), _contents(run, rows), strict=True
        ):
            entry = wanted[query].decode()
            parts.setdefault(entry, []).append(content)
            masks[entry] = masks.get(entry, int(run.masks[row])) & int(run.masks[row])
    return {
        entry: Fingerprint(
            sealer.mac(_PURPOSE, b"\n".join(sorted(content)))[:_DIGITS], masks[entry]
        )
        for entry, content in parts.items()
    }


def _contents(run: Run, rows: npt.NDArray[np.intp]) -> Iterator[bytes]:
    """Yield a canonical text of each entry at `rows` of a run."""
    is_wanted = np.zeros(run.count, np.bool_)
    is_wanted[rows] = True
    tags: dict[int, list[str]] = {row: [] for row in rows.tolist()}
    for algorithm in Algorithm:
        high, low, places = (
            run.section(f"{algorithm.label}.{part}") for part in ("hi", "lo", "row")
        )
        if high is None or low is None or places is None:
            continue
        try:
            positions = np.flatnonzero(is_wanted[places.view(np.uint32)])
        except IndexError as error:
            raise run.damaged() from error
        for position in positions.tolist():
            tag = high[position].tobytes() + low[position].tobytes()
            tags[int(places[position])].append(f"{algorithm.label} {tag.hex()}")
    for row in rows.tolist():
        try:
            category = run.category_names[run.categories[row]]
        except IndexError as error:
            raise run.damaged() from error
        yield msgspec.json.encode([category, run.size_of(row), int(run.masks[row]), tags[row]])

"""Finds entries with a digest of the empty file, which no list may contain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hashclient.core.digests import new_hash
from hashclient.core.kinds import Algorithm
from hashclient.lists.wire import Uint8, Uint32

EMPTY_DIGESTS = {a: new_hash(a).digest() for a in Algorithm}


def rows_of_the_empty_file(digests: Mapping[Algorithm, tuple[Uint8, Uint32]]) -> Uint32:
    """Return the numbers of the rows that have a digest of the empty file, ascending.

    `digests` maps each algorithm to the digests of a batch, as an array (m, digest_bytes), and to
    the (m,) numbers of their rows.
    """
    found = [np.zeros(0, np.uint32)]
    for algorithm, (values, rows) in digests.items():
        empty = np.frombuffer(EMPTY_DIGESTS[algorithm], np.uint8)
        # Most digests differ in the first byte, so comparing the first byte avoids most full
        # comparisons.
        suspects = np.flatnonzero(values[:, 0] == empty[0])
        found.append(rows[suspects[(values[suspects] == empty).all(axis=1)]])
    return np.unique(np.concatenate(found))

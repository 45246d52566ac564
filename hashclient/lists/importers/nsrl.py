"""Reader of the NSRL's reference data set in its minimal SQLite form."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import numpy as np

from hashclient.core.algorithms import Algorithm
from hashclient.lists.importers.digestfile import DigestBatch
from hashclient.lists.wire import NO_SIZE, Uint8, Uint32

SQLITE_MAGIC = b"SQLite format 3\0"
#: Rows of the table that make a batch.
ROWS = 1 << 16


def read_nsrl(cursor: sqlite3.Cursor) -> Iterator[DigestBatch]:
    """Read the table FILE of RDSv3; the empty file is on it and is left to its own rule."""
    order = (Algorithm.SHA256, Algorithm.SHA1, Algorithm.MD5)
    while rows := cursor.fetchmany(ROWS):
        digests: dict[Algorithm, tuple[Uint8, Uint32]] = {}
        for column, algorithm in enumerate(order):
            numbers = [n for n, row in enumerate(rows) if row[column]]
            hexes = [rows[n][column] for n in numbers]
            if any(len(digits) != 2 * algorithm.digest_bytes for digits in hexes):
                raise ValueError("a digest of the wrong length")
            raw = bytes.fromhex("".join(hexes))
            values = np.frombuffer(raw, np.uint8).reshape(-1, algorithm.digest_bytes)
            digests[algorithm] = (values, np.array(numbers, np.uint32))
        nothing: list[str | None] = [None] * len(rows)
        lines = np.arange(len(rows), dtype=np.int64)
        yield DigestBatch(len(rows), nothing, lines, digests, np.full(len(rows), NO_SIZE))

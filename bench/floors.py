"""Floors: programs that do the least possible work of each scenario, for comparison.

python -m bench.floors read DIR JOBS           open, read and close every file
python -m bench.floors digest ALGORITHM BYTES  digest BYTES bytes with OpenSSL, on one core
python -m bench.floors parse FILE…             read, parse and sort the digests of Parquet files
python -m bench.floors record DIR OUT          digest every file, and record it in a row and lines
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
import sys
import time
from pathlib import Path


def read_files(paths: list[str]) -> int:
    """Read files to their ends and return the sum of their sizes in bytes."""
    total = 0
    buffer = bytearray(1 << 18)
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        while count := os.readv(fd, [buffer]):
            total += count
        os.close(fd)
    return total


def read_tree(directory: str, jobs: int) -> int:
    """Read every file of a tree in `jobs` processes; return the number of bytes."""
    paths = [f"{folder}/{name}" for folder, _, names in os.walk(directory) for name in names]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        chunks = [paths[i : i + 500] for i in range(0, len(paths), 500)]
        return sum(pool.imap_unordered(read_files, chunks))


def digest_seconds(algorithm: str, total: int) -> float:
    """Return the seconds that one core needs to digest `total` bytes that are in memory."""
    block = os.urandom(1 << 20)
    probe = min(max(total, 1 << 26), 1 << 29)
    best = float("inf")
    for _ in range(3):
        h = hashlib.new(algorithm, usedforsecurity=False)
        started = time.perf_counter()
        for _ in range(probe >> 20):
            h.update(block)
        best = min(best, time.perf_counter() - started)
    return best * total / probe


def parse_and_sort(paths: list[str]) -> int:
    """Read Parquet segments and sort each column of digests by its first eight bytes."""
    import numpy as np
    import pyarrow.parquet as pq

    columns: dict[str, list[np.ndarray]] = {}
    for path in paths:
        table = pq.read_table(path)
        for name in ("md5", "sha1", "sha256"):
            if name in table.column_names and table[name].null_count < len(table):
                for chunk in table[name].chunks:
                    width = chunk.type.byte_width
                    flat = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width)
                    columns.setdefault(name, []).append(flat.reshape(-1, width))
    rows = 0
    for parts in columns.values():
        digests = np.concatenate(parts)
        order = np.argsort(np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0])
        rows += len(digests[order])
    return rows


def record(directory: str, out: str) -> int:
    """Digest every file; write the paths of all files to an SQLite table, a log and a list.

    The table, the log and the list are synced to the disk. One process does the whole work, in
    three statements.
    """
    rows = []
    for folder, _, names in os.walk(directory):
        for name in names:
            path = f"{folder}/{name}"
            with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - called very often
                rows.append((path, hashlib.sha256(stream.read()).digest()))
    database = sqlite3.connect(out)
    database.execute("CREATE TABLE found (path TEXT PRIMARY KEY, digest BLOB)")
    with database:
        database.executemany("INSERT OR REPLACE INTO found VALUES (?, ?)", rows)
    database.close()
    text = "".join(f"match {path}\n" for path, _ in rows)
    with open(f"{out}.log", "w") as log:  # noqa: PTH123
        log.write(text)
        log.flush()
        os.fsync(log.fileno())
    print(text, end="")
    return len(rows)


def join(digests: str, segments: list[str]) -> int:
    """Count the digests of a file that the segments list as SHA-256, by a join in DuckDB."""
    import duckdb

    asked = duckdb.sql(
        "SELECT unhex(column0) AS digest FROM read_csv(?, header = false,"
        " columns = {'column0': 'VARCHAR'})",
        params=[digests],
    )
    listed = duckdb.read_parquet(segments)
    assert asked is not None
    found = asked.join(listed, "digest = sha256").aggregate("count(*)").fetchall()
    return int(found[0][0])


def main(words: list[str]) -> None:
    """Run the function that the first argument names."""
    if words[0] == "read":
        print(read_tree(words[1], int(words[2])))
    elif words[0] == "digest":
        print(digest_seconds(words[1], int(words[2])))
    elif words[0] == "record":
        record(words[1], words[2])
    elif words[0] == "join":
        print(join(words[1], [word for word in words[2:] if "add" in Path(word).name]))
    else:
        print(parse_and_sort([str(Path(word)) for word in words[1:]]))


if __name__ == "__main__":
    main(sys.argv[1:])

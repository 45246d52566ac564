"""Digests in one pass: the same as hashlib's, whatever the size that was expected."""

from __future__ import annotations

import hashlib
import os
from itertools import combinations
from pathlib import Path

import pytest

from hashclient.hashing import CHEAPEST_COVER, CHUNK_BYTES, COST_S_PER_GB, digest_fd, new_hash
from hashclient.model import Algorithm

ALL = tuple(Algorithm)
SIZES = (0, 1, 63, 64, 4096, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7)


def hashlib_digests(data: bytes) -> list[bytes]:
    return [hashlib.md5(data).digest(), hashlib.sha1(data).digest(), hashlib.sha256(data).digest()]


@pytest.mark.parametrize("size", SIZES)
def test_digests_are_those_of_hashlib(tmp_path: Path, size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    path = tmp_path / "f"
    path.write_bytes(data)
    for expected in {0, size // 2, max(size - 1, 0), size, size + 1, 2 * size, 10 * CHUNK_BYTES}:
        heard: list[int] = []
        with path.open("rb") as stream:
            result = digest_fd(stream.fileno(), ALL, expected, heard.append)
        assert result == (hashlib_digests(data), size)
        assert sum(heard) <= size


def test_only_what_is_asked_for_is_computed_in_the_order_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"benign")
    md5, sha1, sha256 = hashlib_digests(b"benign")
    with path.open("rb") as stream:
        assert digest_fd(stream.fileno(), (Algorithm.SHA256, Algorithm.MD5), 6)[0] == [sha256, md5]
        stream.seek(0)
        assert digest_fd(stream.fileno(), (Algorithm.SHA1,), 6) == ([sha1], 6)
        stream.seek(0)
        assert digest_fd(stream.fileno(), (), 6) == ([], 6)


def test_a_long_read_tells_of_its_progress(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(5 * CHUNK_BYTES))
    heard: list[int] = []
    with path.open("rb") as stream:
        digest_fd(stream.fileno(), ALL, 5 * CHUNK_BYTES, heard.append)
    assert sum(heard) == 5 * CHUNK_BYTES
    assert len(heard) >= 5


def test_a_read_that_fails_is_the_callers_to_handle(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            digest_fd(fd, ALL, 4096)
    finally:
        os.close(fd)


def test_new_hash_knows_every_algorithm() -> None:
    assert [new_hash(a).digest_size for a in ALL] == [a.digest_bytes for a in ALL]


def test_the_cheapest_cover_covers_and_nothing_cheaper_does() -> None:
    def cost(algorithms: tuple[Algorithm, ...]) -> float:
        return sum(COST_S_PER_GB[a] for a in algorithms)

    every = [subset for size in range(4) for subset in combinations(ALL, size)]
    assert len(CHEAPEST_COVER) == 128
    for masks, cover in enumerate(CHEAPEST_COVER):
        entries = [m for m in range(1, 8) if masks >> (m - 1) & 1]
        assert all(cover & m for m in entries)
        cheapest = min(cost(subset) for subset in every if all(sum(subset) & m for m in entries))
        assert cost(Algorithm.in_mask(cover)) == cheapest

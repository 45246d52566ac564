"""Digests in one pass: equal to those of hashlib, and never digests of a part of the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from hashclient.core.digests import (
    CHEAPEST_COVER,
    CHUNK_BYTES,
    COST_S_PER_GB,
    EVERY_DIGEST,
    LONGER,
    SHORTER,
    LengthError,
    StreamDigester,
    digest_fd,
    new_buffer,
    new_hash,
)
from hashclient.core.kinds import Algorithm

ALL = tuple(Algorithm)
SIZES = (0, 1, 63, 64, 4096, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7)


def hashlib_digests(data: bytes) -> list[bytes]:
    return [hashlib.md5(data).digest(), hashlib.sha1(data).digest(), hashlib.sha256(data).digest()]


@pytest.mark.parametrize("size", SIZES)
def test_digests_are_those_of_hashlib(tmp_path: Path, size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    path = tmp_path / "f"
    path.write_bytes(data)
    for expected in (size, None):
        for capped in (True, False):
            heard: list[int] = []
            with path.open("rb") as stream:
                result = digest_fd(stream.fileno(), ALL, expected, heard.append, capped=capped)
            assert result == (hashlib_digests(data), size)
            assert sum(heard) <= size


@pytest.mark.parametrize("size", SIZES)
def test_another_length_than_the_size_gives_no_digests(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(size))
    for expected in {0, size // 2, size - 1, size + 1, 2 * size, 10 * CHUNK_BYTES} - {size, -1}:
        for capped in (True, False):
            with path.open("rb") as stream, pytest.raises(LengthError) as caught:
                digest_fd(stream.fileno(), ALL, expected, capped=capped)
            assert caught.value.strerror == (SHORTER if size < expected else LONGER)
            # At most one chunk is read beyond the expected length.
            assert caught.value.length <= min(size, expected + CHUNK_BYTES)


def gives(monkeypatch: pytest.MonkeyPatch, lengths: Sequence[int]) -> list[int]:
    """Let reads return `lengths` bytes one after the other, and return the requested lengths."""
    asked: list[int] = []
    original = os.readv

    def readv(fd: int, buffers: Sequence[memoryview]) -> int:
        asked.append(lengths[len(asked)])
        return original(fd, [buffers[0][: asked[-1]]])

    monkeypatch.setattr(os, "readv", readv)
    return asked


@pytest.mark.parametrize("capped", [True, False])
@pytest.mark.parametrize("size", [10, None])
def test_only_a_read_that_gives_nothing_is_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None, capped: bool
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    asked = gives(monkeypatch, [4, 1, 4, 1, 100])
    with path.open("rb") as stream:
        result = digest_fd(stream.fileno(), ALL, size, capped=capped)
    assert result == (hashlib_digests(b"0123456789"), 10)
    assert len(asked) == 5


@pytest.mark.parametrize(("capped", "reads"), [(True, 1), (False, 2)])
def test_a_size_that_reads_do_not_go_beyond_spares_the_last_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capped: bool, reads: int
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    asked = gives(monkeypatch, [100, 100])
    with path.open("rb") as stream:
        digest_fd(stream.fileno(), ALL, 10, capped=capped)
    assert len(asked) == reads


def test_a_file_that_grows_as_fast_as_it_is_read_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(2 * CHUNK_BYTES))
    with path.open("r+b", buffering=0) as stream:
        appended: list[int] = []

        def on_bytes(count: int) -> None:
            appended.append(os.pwrite(stream.fileno(), bytes(count), path.stat().st_size))
            assert len(appended) < 10, "it is read for ever"

        with pytest.raises(LengthError, match=LONGER):
            digest_fd(stream.fileno(), ALL, 2 * CHUNK_BYTES, on_bytes)


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


def test_a_long_read_reports_its_progress(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("entries", "first"),
    [
        ([7], Algorithm.SHA1),
        ([1 | 2], Algorithm.SHA1),
        ([1 | 4], Algorithm.SHA256),
        ([2 | 4], Algorithm.SHA1),
        ([1 | 4, 7], Algorithm.SHA256),
    ],
)
def test_sha1_is_the_cheapest_and_md5_the_dearest(entries: list[int], first: Algorithm) -> None:
    masks = sum(1 << (entry - 1) for entry in entries)
    assert Algorithm.in_mask(CHEAPEST_COVER[masks]) == (first,)


def test_every_digest_is_that_of_any_entry() -> None:
    assert len(EVERY_DIGEST) == 128
    for masks, every in enumerate(EVERY_DIGEST):
        entries = [m for m in range(1, 8) if masks >> (m - 1) & 1]
        assert set(Algorithm.in_mask(every)) == {a for m in entries for a in Algorithm.in_mask(m)}


@pytest.mark.parametrize("length", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_of_a_stream_of_up_to_a_mebibyte_only_the_plan_is_computed(length: int) -> None:
    digester = StreamDigester((Algorithm.SHA1,))
    content = memoryview(bytes(length))
    for at in range(0, length, CHUNK_BYTES):
        digester.update(content[at : at + CHUNK_BYTES])
    is_kept = length <= 1 << 20
    assert {*digester.finish()} == ({Algorithm.SHA1} if is_kept else {*Algorithm})
    assert digester.content == (content if is_kept else None)


@pytest.mark.parametrize("length", [0, 9, 10, 11])
@pytest.mark.parametrize("plan", [(), (Algorithm.SHA1,), (Algorithm.SHA256, Algorithm.MD5)])
def test_more_digests_of_a_stream_are_computed_as_far_as_it_is_kept(
    plan: tuple[Algorithm, ...], length: int
) -> None:
    content = bytes(range(length))
    digests = dict(zip(ALL, hashlib_digests(content), strict=True))
    digester = StreamDigester(plan, kept_bytes=10)
    for at in range(0, length, 4):
        digester.update(memoryview(content[at : at + 4]))
    assert digester.length == length
    first = plan if length <= 10 else ALL
    assert digester.finish() == {one: digests[one] for one in first}
    for more in ((), (Algorithm.MD5,), (Algorithm.SHA1, Algorithm.MD5), ALL):
        assert digester.more(more) == {one: digests[one] for one in more}


@pytest.mark.parametrize("capped", [True, False])
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_the_first_bytes_are_shown_before_others_are_read(
    tmp_path: Path, size: int, capped: bool
) -> None:
    path, shown = tmp_path / "f", list[bytes]()
    content = bytes(number % 251 for number in range(size))
    path.write_bytes(content)
    buffer = new_buffer()

    def look(found: bytearray, count: int) -> None:
        assert found is buffer.obj and len(found) == CHUNK_BYTES
        shown.append(bytes(found[:count]))

    with path.open("rb") as stream:
        found = digest_fd(stream.fileno(), ALL, size, None, buffer, capped, look)
    assert found == (hashlib_digests(content), size)
    assert shown == [content[:CHUNK_BYTES]]

"""A changed byte of an index is found within a round of comparisons, and intact pieces pass.

This holds for any times of fetches, and with any other changes to the index.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.index import run
from hashclient.index.checks import ROUND, note_pieces, verify_due
from hashclient.index.manifest import (
    Manifest,
    RunRef,
    load_manifest,
    write_manifest,
)
from hashclient.index.run import DamagedError, digest_pieces, root_of
from tests.kit.depth import examples
from tests.kit.manifests import SEALER, manifest_at

START = datetime(2026, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC)
#: Minutes between two fetches.
PAUSES = st.lists(st.integers(0, 3 * 24 * 60), min_size=5, max_size=40)
#: The lengths of runs in bytes; the test also draws how many of the runs exist at the first fetch.
RUNS = st.lists(st.integers(1, 900), min_size=1, max_size=4)


@contextmanager
def small() -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(run, "PIECE_BYTES", 32)
        patch.setattr(os, "fsync", lambda _: None)
        yield Path(directory)


def add_run(directory: Path, length: int, now: datetime) -> None:
    """Let a fetch bring a generation that adds a run."""
    base = load_manifest(directory, SEALER)
    runs = list(base.runs) if base else []
    name = f"run-{len(runs) + 1:08d}"
    (directory / name).write_bytes(bytes(n % 251 for n in range(length)))
    digests = digest_pieces(directory / name)
    runs.append(RunRef(name, length, 0, root_of(digests)))
    manifest = note_pieces(directory, manifest_at(now, runs), base, {name: digests}, SEALER, now)
    write_manifest(directory, manifest, SEALER)


def fetch(directory: Path, now: datetime) -> Manifest:
    before = load_manifest(directory, SEALER)
    assert before is not None
    manifest = verify_due(directory, before, SEALER, now, monotonic=lambda: 0.0)
    write_manifest(directory, msgspec.structs.replace(manifest, checked_at=now), SEALER)
    return manifest


@examples(40)
@given(st.data(), RUNS, PAUSES)
def test_any_byte_that_changes_is_found_within_a_round(
    data: st.DataObject, lengths: list[int], pauses: list[int]
) -> None:
    with small() as directory:
        now = START
        add_run(directory, lengths[0], now)
        later = lengths[1:]
        changed_at: datetime | None = None
        rot_in = data.draw(st.integers(0, len(pauses) - 1), "fetches before it changes")
        for number, pause in enumerate([*pauses, *[24 * 60] * 9]):
            now += timedelta(minutes=pause)
            if number == rot_in:
                run = data.draw(st.sampled_from(sorted(directory.glob("run-*"))), "run")
                content = bytearray(run.read_bytes())
                content[data.draw(st.integers(0, len(content) - 1), "position")] ^= 64
                run.write_bytes(content)
                changed_at = now
            try:
                manifest = fetch(directory, now)
            except DamagedError:
                assert changed_at is not None
                return
            assert manifest.oldest_verified is not None
            # The first fetch after the end of a round at the latest has compared every piece.
            assert now - manifest.oldest_verified < ROUND + timedelta(minutes=30, seconds=1)
            assert changed_at is None or now - changed_at < ROUND + timedelta(minutes=30, seconds=1)
            if later and number % 2:
                add_run(directory, later.pop(), now)
        raise AssertionError("it was never found")


@examples(20)
@given(RUNS, PAUSES, st.lists(st.integers(-10_000, 10_000), max_size=10))
def test_an_intact_index_is_never_called_damaged(
    lengths: list[int], pauses: list[int], jumps: list[int]
) -> None:
    """No piece is called damaged, whatever the clock shows."""
    with small() as directory:
        now = START
        add_run(directory, lengths[0], now)
        for pause in (*pauses, *jumps):
            now += timedelta(minutes=pause)
            manifest = fetch(directory, now)
            assert manifest.rotten is None
        for length in lengths[1:]:
            add_run(directory, length, now)
            now += timedelta(days=1)
            fetch(directory, now)

"""The sealed index answers like a Python dict, after any additions and withdrawals."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.kinds import Algorithm, mask_of
from hashclient.core.model import Hit
from hashclient.index import reader
from hashclient.index import writer as index_writer
from hashclient.index.manifest import write_manifest
from hashclient.index.reader import Found, Index, open_index
from hashclient.index.writer import IndexWriter, Room, sweep
from hashclient.lists.wire import NO_SIZE, AddBatch, Uint8, checksum_of, entry_hashes
from tests.kit.manifests import SEALER, finished

TIME = datetime(2024, 1, 1, tzinfo=UTC)
#: Few digests, so that entries share them. Two digests share the 16 bytes from which a tag is
#: computed.
DIGESTS = {
    a: [
        b"\x00" * a.digest_bytes,
        b"\xff" * a.digest_bytes,
        *(bytes([n]) * a.digest_bytes for n in range(1, 6)),
        b"\xff" * 16 + b"\x07" * (a.digest_bytes - 16),
    ]
    for a in Algorithm
}
SIZES = [0, 1, 7, 2**32 - 1, 2**32, 2**63 - 1]


@dataclass(frozen=True)
class Entry:
    """The entry of a list under one id."""

    digests: tuple[tuple[Algorithm, bytes], ...]
    size: int | None
    category: str

    @property
    def mask(self) -> int:
        return mask_of(a for a, _ in self.digests)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    algorithms = draw(st.sets(st.sampled_from(Algorithm), min_size=1))
    return Entry(
        tuple((a, draw(st.sampled_from(DIGESTS[a]))) for a in sorted(algorithms)),
        draw(st.none() | st.sampled_from(SIZES)),
        draw(st.sampled_from(["one", "two", "three.3"])),
    )


IDS = [b"%d" % n for n in range(8)] + [b"a-much-longer-id.%d" % n for n in range(4)]

#: A step has some ids: listed ids are withdrawn, and other ids are added. A generation has a few
#: steps.
STEPS = st.lists(
    st.lists(
        st.tuples(st.booleans(), st.dictionaries(st.sampled_from(IDS), entries(), min_size=1)),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=7,
)


def batch_of(new: dict[bytes, Entry]) -> AddBatch:
    rows = list(new.values())
    categories = tuple(dict.fromkeys(e.category for e in rows))
    digests = {}
    for algorithm in Algorithm:
        found = [(n, dict(e.digests)[algorithm]) for n, e in enumerate(rows) if e.mask & algorithm]
        if found:
            values = np.frombuffer(b"".join(d for _, d in found), np.uint8)
            digests[algorithm] = (
                values.reshape(len(found), algorithm.digest_bytes),
                np.array([n for n, _ in found], np.uint32),
            )
    return AddBatch(
        ids=np.array(list(new)),
        masks=np.array([e.mask for e in rows], np.uint8),
        sizes=np.array([NO_SIZE if e.size is None else e.size for e in rows], np.uint64),
        categories=categories,
        category_codes=np.array([categories.index(e.category) for e in rows], np.uint8),
        digests=digests,
    )


def ids_at(index: Index, algorithm: Algorithm, digests: list[bytes]) -> list[list[bytes]]:
    found = index.find(algorithm, SEALER.tags_of(algorithm, digests))
    result: list[list[bytes]] = [[] for _ in digests]
    for query, run, row in zip(found.queries, found.runs, found.rows, strict=True):
        result[query].append(bytes(index.runs[run].ids[row]))
    return [sorted(ids) for ids in result]


def check(index: Index, live: dict[bytes, Entry], ever: set[Entry]) -> None:
    """Look up all digests in the index, and compare the answers with the model."""
    manifest = index.manifest
    assert manifest.entries == len(live)
    assert manifest.with_size == sum(e.size is not None for e in live.values())
    for algorithm in Algorithm:
        assert manifest.with_digest[algorithm.label] == sum(
            bool(e.mask & algorithm) for e in live.values()
        )
    total = checksum_of(entry_hashes(np.array(list(live)))) if live else 0
    assert manifest.checksum == f"{total:016x}"
    for algorithm, digests in DIGESTS.items():
        # A tag is computed from the first 16 bytes, so digests that differ only later have one tag.
        expected = [
            sorted(
                i
                for i, e in live.items()
                if dict(e.digests).get(algorithm, b"")[:16] == digest[:16]
            )
            for digest in digests
        ]
        assert ids_at(index, algorithm, digests) == expected
        assert ids_at(index, algorithm, digests[:1]) == expected[:1]
        assert ids_at(index, algorithm, digests[::-1]) == expected[::-1]
        unknown = SEALER.tags_of(algorithm, [b"\x99" * algorithm.digest_bytes])
        assert not len(index.find(algorithm, unknown).queries)
    for size in [*SIZES, None, 3, 2**40]:

        def masks(among: Iterator[Entry], size: int | None = size) -> int:
            bits = 0
            for entry in among:
                if size is None or entry.size in {None, size}:
                    bits |= 1 << (entry.mask - 1)
            return bits

        plan = index.masks_of_size(size)
        # The plan must include each kind of digest that a listed entry has. It may include kinds
        # that only a withdrawn entry has.
        assert plan & masks(iter(live.values())) == masks(iter(live.values()))
        assert plan & ~masks(iter(ever)) == 0
    check_hits(index, live)
    check_missed(index, live)


def check_missed(index: Index, live: dict[bytes, Entry]) -> None:
    """Check that exactly the live entries that lack a digest of some kinds are reported."""
    for given_mask in range(1, 8):
        missed = [e for e in live.values() if not e.mask & given_mask]
        sizes = [e.size for e in missed if e.size is not None]
        assert index.count_missed(given_mask) == (len(sizes), len(missed) - len(sizes))
        assert index.sizes_missed(given_mask).tolist() == sorted(set(sizes))
        assert index.may_miss(given_mask) or not missed


def check_hits(index: Index, live: dict[bytes, Entry]) -> None:
    """Look up as a scan does: with all digests, first with the entry's size, then another size."""
    for entry_id, entry in live.items():
        digests = dict(entry.digests)
        found = [(a, index.find(a, SEALER.tags_of(a, [d]))) for a, d in digests.items()]
        available = np.array([entry.mask], np.uint8)

        def hits_of(
            size: int | None,
            found: list[tuple[Algorithm, Found]] = found,
            available: Uint8 = available,
        ) -> list[Hit]:
            sizes = np.array([NO_SIZE if size is None else size], np.uint64)
            return [hit for number, hit in index.hits(found, available, sizes) if number == 0]

        hits = hits_of(entry.size)
        (mine,) = [h for h in hits if h.entry.encode() == entry_id]
        assert mine.complete and mine.category == entry.category
        assert mask_of(mine.algorithms) == entry.mask
        for hit in hits:
            other = live[hit.entry.encode()]
            assert None in {entry.size, other.size} or entry.size == other.size
            same = {a: d[:16] for a, d in other.digests}
            agree = {a for a, d in digests.items() if same.get(a) == d[:16]}
            assert set(hit.algorithms) == agree
            assert hit.complete == (mask_of(agree) == other.mask & entry.mask)
        if entry.size is not None:
            others = hits_of(entry.size + 2)
            assert entry_id not in {h.entry.encode() for h in others}


def small(rows: int) -> Room:
    """Write runs of a few rows, and merge two runs at a time."""
    return Room(run_rows=rows, merge_rows=2)


@contextmanager
def own_directory(ratio: int) -> Iterator[Path]:
    """Yield a directory in which runs merge by `ratio`, and are read in blocks of two rows."""
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(index_writer, "MERGE_RATIO", ratio),
        mock.patch.object(reader, "BLOCK_ROWS", 2),
        mock.patch.object(os, "fsync"),
    ):
        yield Path(directory)


@given(STEPS, st.integers(0, 4), st.integers(1, 6))
def test_the_index_is_a_dict(
    steps: list[list[tuple[bool, dict[bytes, Entry]]]], ratio: int, rows: int
) -> None:
    live: dict[bytes, Entry] = {}
    ever: set[Entry] = set()
    with own_directory(ratio) as directory:
        for generation, changes in enumerate(steps, 1):
            writer = IndexWriter(directory, SEALER, open_index(directory, SEALER), room=small(rows))
            for withdraws_first, named in changes:
                gone = [i for i in named if i in live]
                new = {i: e for i, e in named.items() if i not in live or withdraws_first}
                if gone:
                    writer.withdraw(np.array(gone))
                    for entry_id in gone:
                        del live[entry_id]
                if new:
                    writer.add(batch_of(new))
                    live |= new
                    ever |= set(new.values())
            write_manifest(directory, finished(writer, TIME, generation), SEALER)
            index = open_index(directory, SEALER)
            assert index is not None
            sweep(directory, frozenset(run.name for run in index.manifest.runs))
            reopened = open_index(directory, SEALER)
            assert reopened is not None
            check(reopened, live, ever)
            assert reopened.manifest.generation == generation


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.sampled_from(IDS), entries(), min_size=1), max_size=12))
def test_the_number_of_runs_stays_small(batches: list[dict[bytes, Entry]]) -> None:
    """A run that is not merged weighs more than four times as much as all later runs together."""
    with own_directory(4) as directory:
        live: set[bytes] = set()
        for generation, batch in enumerate(batches, 1):
            writer = IndexWriter(directory, SEALER, open_index(directory, SEALER), room=small(2))
            new = {i: e for i, e in batch.items() if i not in live}
            if new:
                writer.add(batch_of(new))
            if gone := [i for i in batch if i in live]:
                writer.withdraw(np.array(gone))
            live = live.symmetric_difference(batch)
            write_manifest(directory, finished(writer, TIME, generation), SEALER)
            index = open_index(directory, SEALER)
            assert index is not None
            weights = [index_writer._weight(run) for run in index.runs]
            for number in range(len(weights) - 1):
                assert weights[number] > 4 * sum(weights[number + 1 :])

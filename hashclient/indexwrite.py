"""The sealed index of a list, for the one writer: add batches, withdraw entries, switch.

Cost follows the change: a generation adds one run, and runs are merged only so that each is at
least `MERGE_RATIO` times as large as all that follow it; their number stays logarithmic. Memory
follows `RUN_ROWS`, not the list: a first fetch writes runs of that size and merges them by ranges
of keys. Nothing is visible to readers before `write_manifest` renames the new manifest into place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.errors import VerificationError
from hashclient.fsio import atomic_file, sweep_temporary, write_atomic
from hashclient.hashlist import (
    MAX_CATEGORIES,
    NO_SIZE,
    AddBatch,
    Strings,
    Uint8,
    Uint32,
    Uint64,
    checksum_of,
    entry_hashes,
)
from hashclient.index import (
    KEY_SECTIONS,
    MANIFEST_NAME,
    RUN_MAGIC,
    Index,
    Manifest,
    Run,
    RunRef,
    RunSet,
    aligned,
    file_sha256,
    mask_set,
)
from hashclient.model import Algorithm
from hashclient.seal import Sealer

#: Rows that are sealed in memory before they become a run; about 100 bytes each while building.
RUN_ROWS = 2_000_000
#: A run is merged with those after it unless it is more than this many times their size.
MERGE_RATIO = 4
#: Rows handled at a time while merging.
MERGE_ROWS = 2_000_000

#: Marks a row that does not survive a merge.
_GONE = np.uint32(2**32 - 1)

Rows = npt.NDArray[np.intp]
Array = npt.NDArray[Any]


class InconsistentError(VerificationError):
    """A change does not fit the entries it is made to; a build from the base may still succeed."""


class IndexWriter:
    """Builds the next generation of one list beside the present one.

    It holds the totals that the manifest and the list's checksum need, kept up to date by every
    change. The caller holds the writers' lock.
    """

    def __init__(self, directory: Path, sealer: Sealer, base: Index | None) -> None:
        """Start from `base`, or from nothing."""
        self._directory = directory
        self._sealer = sealer
        self._runs: list[Run] = list(base.runs) if base else []
        self._sha256 = {ref.name: ref.sha256 for ref in base.manifest.runs} if base else {}
        self._next_number = _next_run_number(directory)
        self._pending: list[_SealedBatch] = []
        self._pending_rows = 0
        self.checksum = int(base.manifest.checksum, 16) if base else 0
        self.entries = base.manifest.entries if base else 0
        self.with_size = base.manifest.with_size if base else 0
        self.with_digest = {
            a: base.manifest.with_digest.get(a.label, 0) if base else 0 for a in Algorithm
        }

    def add(self, batch: AddBatch) -> None:
        """Seal a batch of entries and queue it.

        Raises:
            VerificationError: an id of it is live already.
            StateError: a run could not be written.
        """
        sealed = _SealedBatch(batch, self._sealer)
        self._pending.append(sealed)
        self._pending_rows += len(sealed.ids)
        self.checksum = (self.checksum + checksum_of(sealed.hashes)) % 2**64
        self._count(sealed.masks, int((sealed.sizes != NO_SIZE).sum()), +1)
        if self._pending_rows >= RUN_ROWS:
            self.flush()

    def withdraw(self, ids: Strings) -> None:
        """Take entries out of the list.

        Raises:
            VerificationError: an id is not live, or given twice.
        """
        self.flush()
        hashes = entry_hashes(ids)
        found = RunSet(self._runs).find_ids(ids, hashes)
        if len(np.unique(found.queries)) != len(ids):
            missing = np.setdiff1d(np.arange(len(ids)), found.queries)
            raise InconsistentError(
                f"the list withdraws an entry that it does not have: {_name(ids[missing[0]])}"
            )
        pairs = np.stack([found.runs, found.rows], axis=1)
        if len(np.unique(pairs, axis=0)) != len(pairs):
            raise InconsistentError("the list withdraws an entry twice")
        dead: dict[str, list[Rows]] = {}
        for number in np.unique(found.runs):
            run = self._runs[int(number)]
            rows = found.rows[found.runs == number]
            dead[run.name] = [rows]
            self._count(run.masks[rows], int((rows < len(run.sizes)).sum()), -1)
        self.checksum = (self.checksum - checksum_of(hashes)) % 2**64
        self._append_run(_BatchColumns([]), dead)

    def _count(self, masks: Uint8, with_size: int, sign: int) -> None:
        self.entries += sign * len(masks)
        self.with_size += sign * with_size
        by_mask = np.bincount(masks, minlength=8)
        for algorithm in Algorithm:
            count = sum(int(by_mask[m]) for m in range(8) if m & algorithm)
            self.with_digest[algorithm] += sign * count

    @property
    def is_flushed(self) -> bool:
        """Whether everything that was added is in a run."""
        return not self._pending_rows

    def flush(self) -> None:
        """Write what is queued as a run.

        Raises:
            VerificationError: an id is live already, or occurs twice.
            StateError: the run could not be written.
        """
        if not self._pending_rows:
            return
        batches, self._pending, self._pending_rows = self._pending, [], 0
        self._refuse_known_ids(batches)
        self._append_run(_BatchColumns(batches), {})
        # Two entries may share a hash, so a doubled id is looked for where hashes are doubled.
        hashes = self._runs[-1].section("id.hash")
        assert hashes is not None
        for position in np.flatnonzero(hashes[1:] == hashes[:-1]):
            self._refuse_doubled_id(int(position))
        for run in self._runs:
            run.forget()

    def _refuse_known_ids(self, batches: list[_SealedBatch]) -> None:
        before = RunSet(self._runs)
        for batch in batches:
            known = before.find_ids(batch.ids, batch.hashes).queries
            if len(known):
                raise InconsistentError(
                    f"the list adds an entry that it has already: {_name(batch.ids[known[0]])}"
                )

    def _refuse_doubled_id(self, position: int) -> None:
        """Compare the id at `position` of the last run's hash order with all of its hash."""
        run = self._runs[-1]
        hashes, rows = run.section("id.hash"), run.section("id.row")
        assert hashes is not None and rows is not None
        end = int(hashes.searchsorted(hashes[position], "right"))
        ids = run.ids[rows[position:end].astype(np.intp)]
        if len(np.unique(ids)) != len(ids):
            raise InconsistentError(f"the list adds an entry twice: {_name(ids[0])}")

    def _append_run(self, columns: _Columns, dead: dict[str, list[Rows]]) -> None:
        path = self._directory / f"run-{self._next_number:08d}"
        self._next_number += 1
        _write_run(path, columns, dead)
        self._runs.append(Run(path))

    def finish(self) -> tuple[RunRef, ...]:
        """Flush, merge what is worth merging, and return the runs of the new generation.

        Raises:
            VerificationError, StateError: as `flush`.
        """
        self.flush()
        start = self._merge_start()
        if start < len(self._runs) - 1:
            self._merge_from(start)
        digests = {
            run.name: self._sha256.get(run.name) or file_sha256(self._directory / run.name)
            for run in self._runs
        }
        return tuple(msgspec.structs.replace(r, sha256=digests[r.name]) for r in self.run_refs())

    def run_refs(self) -> tuple[RunRef, ...]:
        """Return the runs written so far, for a manifest that is not final."""
        return tuple(
            RunRef(run.name, (self._directory / run.name).stat().st_size, run.count)
            for run in self._runs
        )

    def _merge_start(self) -> int:
        """Return the first run that does not outweigh those after it; all from there on merge.

        It is looked for from the front, not from the end: a generation that adds much and then
        withdraws little ends with a small run, which must not keep the others apart for good.
        """
        weights = [_weight(run) for run in self._runs]
        for start, weight in enumerate(weights):
            if weight <= MERGE_RATIO * sum(weights[start + 1 :]):
                return start
        return len(weights)

    def _merge_from(self, start: int) -> None:
        all_dead = RunSet(self._runs).dead
        merged = self._runs[start:]
        names = {run.name for run in merged}
        # What the merged runs withdraw among themselves is carried out now; the rest stays.
        dead: dict[str, list[Rows]] = {}
        for run in merged:
            for name, rows in run.dead_sections().items():
                if name not in names:
                    dead.setdefault(name, []).append(rows.astype(np.intp))
        self._runs = self._runs[:start]
        try:
            self._append_run(_MergedColumns(merged, all_dead[start:]), dead)
        except IndexError as error:  # a row that is none
            raise merged[0].damaged() from error


def _weight(run: Run) -> int:
    """Count what a merge of `run` has to touch; withdrawals alone weigh something too."""
    return run.count + sum(len(rows) for rows in run.dead_sections().values()) + 1


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Switch readers to the generation of `manifest`, whole or not at all.

    Raises:
        StateError: it cannot be written; the old generation stays.
    """
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    write_atomic(directory / MANIFEST_NAME, data)


def sweep(directory: Path, keep: frozenset[str]) -> None:
    """Remove runs that no manifest names, and what killed writers left.

    Readers that still have a run mapped keep it until they end.
    """
    sweep_temporary(directory)
    for path in directory.glob("run-*"):
        if path.name not in keep:
            with contextlib.suppress(OSError):
                path.unlink()


def _next_run_number(directory: Path) -> int:
    """Return a number that no run in `directory` has, orphans of a killed writer included."""
    numbers = [int(p.name[4:]) for p in directory.glob("run-*") if p.name[4:].isdigit()]
    return max(numbers, default=0) + 1


class _SealedBatch:
    """A batch of which only tags are left; the digests can be forgotten."""

    def __init__(self, batch: AddBatch, sealer: Sealer) -> None:
        self.ids = batch.ids
        self.hashes = entry_hashes(batch.ids)
        self.masks = batch.masks
        self.sizes = batch.sizes
        self.category_names = batch.categories
        self.category_codes = batch.category_codes
        self.tags = {
            a: (sealer.tags(a, digests), rows) for a, (digests, rows) in batch.digests.items()
        }


class _Columns(Protocol):
    """What a run is written from: small columns whole, in row order, and large ones in pieces.

    `sizes` are those of the first rows, ascending. `sorted_keys(prefix)` yields tuples of arrays:
    keys, what goes with them (the second words of tags, nothing for ids), rows. Over all pieces
    the keys ascend.
    """

    masks: Uint8
    sizes: Array
    category_names: list[str]
    category_codes: Uint8
    id_width: int

    def ids(self) -> Iterator[Strings]: ...

    def sorted_keys(self, prefix: str) -> Iterator[tuple[Array, ...]]: ...


class _BatchColumns:
    """The columns of a run that is made from batches in memory."""

    def __init__(self, batches: list[_SealedBatch]) -> None:
        self._batches = batches
        sizes = _concatenate([b.sizes for b in batches], np.uint64)
        # NO_SIZE is the largest number: entries without a size come last.
        self._order = np.argsort(sizes, kind="stable")
        self._new_rows = _inverse(self._order)
        sizes = sizes[self._order]
        self.sizes = _narrow(sizes[: int(sizes.searchsorted(NO_SIZE))])
        self.masks = _concatenate([b.masks for b in batches], np.uint8)[self._order]
        self.category_names, codes = _unify_categories(
            [(b.category_names, b.category_codes) for b in batches]
        )
        self.category_codes = codes[self._order]
        self.id_width = max((b.ids.dtype.itemsize for b in batches), default=1)

    def ids(self) -> Iterator[Strings]:
        ids = _concatenate([b.ids for b in self._batches], f"S{self.id_width}")
        yield ids[self._order]

    def sorted_keys(self, prefix: str) -> Iterator[tuple[Array, ...]]:
        offset = 0
        keys: list[Array] = []
        extra: list[Array] = []
        rows: list[Array] = []
        for batch in self._batches:
            if prefix == "id":
                keys.append(batch.hashes)
                rows.append(np.arange(offset, offset + len(batch.ids)))
            elif (algorithm := Algorithm.from_label(prefix)) in batch.tags:
                tags, batch_rows = batch.tags[algorithm]
                keys.append(tags[:, 0])
                extra.append(tags[:, 1])
                rows.append(batch_rows + np.uint32(offset))
            offset += len(batch.ids)
        if keys:
            key = np.concatenate(keys)
            order = np.argsort(key)
            new_rows = self._new_rows[np.concatenate(rows)]
            payload = [np.concatenate(extra)[order]] if extra else []
            yield (key[order], *payload, new_rows[order])


class _MergedColumns:
    """The columns of a run that takes the place of several; dead rows are left out."""

    def __init__(self, runs: list[Run], dead: list[Uint32]) -> None:
        self._runs = runs
        alive, sizes = [], []
        for run, dead_rows in zip(runs, dead, strict=True):
            keep = np.ones(run.count, np.bool_)
            keep[dead_rows] = False
            rows = np.flatnonzero(keep)
            size = np.full(run.count, NO_SIZE)
            size[: len(run.sizes)] = run.sizes
            alive.append(rows)
            sizes.append(size[rows])
        self._starts = np.cumsum([0, *(len(rows) for rows in alive)])
        all_sizes = _concatenate(sizes, np.uint64)
        order = np.argsort(all_sizes, kind="stable")
        all_sizes = all_sizes[order]
        self.sizes = _narrow(all_sizes[: int(all_sizes.searchsorted(NO_SIZE))])
        new_rows = _inverse(order)
        #: By run: old row to new row, or _GONE.
        self._new_rows = []
        for number, (run, rows) in enumerate(zip(runs, alive, strict=True)):
            mapping = np.full(run.count, _GONE)
            mapping[rows] = new_rows[self._starts[number] : self._starts[number + 1]]
            self._new_rows.append(mapping)
        self._alive = alive
        self._order = order
        masks = [run.masks[rows] for run, rows in zip(runs, alive, strict=True)]
        self.masks = _concatenate(masks, np.uint8)[order]
        self.category_names, codes = _unify_categories(
            [(r.category_names, r.categories[rows]) for r, rows in zip(runs, alive, strict=True)]
        )
        self.category_codes = codes[order]
        self.id_width = max(run.ids.dtype.itemsize for run in runs)

    def ids(self) -> Iterator[Strings]:
        for start in range(0, len(self._order), MERGE_ROWS):
            piece = self._order[start : start + MERGE_ROWS]
            out = np.zeros(len(piece), f"S{self.id_width}")
            source = self._starts.searchsorted(piece, "right") - 1
            for number, run in enumerate(self._runs):
                mine = source == number
                out[mine] = run.ids[self._alive[number][piece[mine] - self._starts[number]]]
                run.forget()
            yield out

    def sorted_keys(self, prefix: str) -> Iterator[tuple[Array, ...]]:
        names = [f"{prefix}.{part}" for part in KEY_SECTIONS[prefix]]
        columns = [[run.section(name) for name in names] for run in self._runs]
        total = sum(len(c[0]) for c in columns if c[0] is not None)
        pieces = -(-total // MERGE_ROWS)
        # Keys are spread evenly over 64 bits, so equal ranges of them are about equally full.
        for piece in range(pieces):
            parts = []
            for run_columns, mapping in zip(columns, self._new_rows, strict=True):
                key = run_columns[0]
                if key is None:
                    continue
                low = int(key.searchsorted(np.uint64((piece << 64) // pieces)))
                high = len(key)
                if piece + 1 < pieces:
                    high = int(key.searchsorted(np.uint64(((piece + 1) << 64) // pieces)))
                part = [c[low:high] for c in run_columns if c is not None]
                part[-1] = mapping[part[-1]]
                keep = part[-1] != _GONE
                parts.append([c[keep] for c in part])
            for run in self._runs:
                run.forget()
            joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
            order = np.argsort(joined[0])
            yield tuple(array[order] for array in joined)


def _write_run(path: Path, columns: _Columns, dead: dict[str, list[Rows]]) -> None:
    """Write one run file, durable before it has its name."""
    count = len(columns.masks)
    small: dict[str, Array] = {
        "masks": columns.masks,
        "categories": columns.category_codes,
        "sizes": columns.sizes,
    }
    small |= {f"dead.{n}": np.sort(np.concatenate(r)).astype("<u4") for n, r in dead.items()}
    layout: list[tuple[str, str, int]] = [(n, a.dtype.str, len(a)) for n, a in small.items()]
    layout += [("ids", f"|S{columns.id_width}", count)]
    for prefix, parts in KEY_SECTIONS.items():
        keys = count
        if prefix != "id":
            bit = np.uint8(Algorithm.from_label(prefix))
            keys = int(np.count_nonzero(columns.masks & bit))
        if keys:
            layout += [(f"{prefix}.{p}", "<u4" if p == "row" else "<u8", keys) for p in parts]
    sections, end = [], 0
    for name, dtype, length in layout:
        sections.append((name, dtype, end, length))
        end = aligned(end + np.dtype(dtype).itemsize * length)
    sized = len(columns.sizes)
    header = {
        "count": count,
        "categories": columns.category_names,
        "sized_masks": mask_set(columns.masks[:sized]),
        "unsized_masks": mask_set(columns.masks[sized:]),
        "sections": sections,
    }
    encoded = msgspec.json.encode(header)
    start = aligned(16 + len(encoded))
    with atomic_file(path) as stream:
        stream.write(RUN_MAGIC + len(encoded).to_bytes(8, "little") + encoded)
        places = {name: start + offset for name, _, offset, _ in sections}
        for name, array in small.items():
            _write_at(stream, places, name, array)
        for ids in columns.ids():
            _write_at(stream, places, "ids", ids)
        for prefix, parts in KEY_SECTIONS.items():
            if f"{prefix}.row" in places:
                for piece in columns.sorted_keys(prefix):
                    for part, array in zip(parts, piece, strict=True):
                        _write_at(stream, places, f"{prefix}.{part}", array)
        stream.truncate(start + end)


def _write_at(stream: IO[bytes], places: dict[str, int], name: str, array: Array) -> None:
    """Write the next piece of section `name` and move its place on."""
    stream.seek(places[name])
    stream.write(np.ascontiguousarray(array).data.cast("B") if len(array) else b"")
    places[name] += array.nbytes


def _concatenate(arrays: list[Array], dtype: Any) -> Array:
    """Join arrays as `dtype`; none give an empty one."""
    if not arrays:
        return np.zeros(0, dtype)
    return np.concatenate([a.astype(dtype, copy=False) for a in arrays])


def _inverse(order: Rows) -> Uint32:
    """Return the inverse of a permutation: old position to new row."""
    inverse = np.empty(len(order), np.uint32)
    inverse[order] = np.arange(len(order), dtype=np.uint32)
    return inverse


def _narrow(sizes: Uint64) -> Array:
    """Store sizes in four bytes where all fit."""
    if len(sizes) == 0 or sizes[-1] < 2**32:
        return sizes.astype("<u4")
    return sizes


def _unify_categories(parts: list[tuple[Sequence[str], Uint8]]) -> tuple[list[str], Uint8]:
    """Give the categories of several parts one numbering.

    Raises:
        VerificationError: there are more than a byte can number.
    """
    names: dict[str, int] = {}
    codes = [np.zeros(0, np.uint8)]
    for part_names, part_codes in parts:
        table = [names.setdefault(name, len(names)) for name in part_names]
        if len(names) > MAX_CATEGORIES:
            raise VerificationError(f"the list has more than {MAX_CATEGORIES} categories")
        codes.append(np.array([*table, 0], np.uint8)[part_codes])
    return list(names), np.concatenate(codes)


def _name(entry_id: bytes) -> str:
    return entry_id.decode("ascii")

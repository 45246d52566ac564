"""Writes the index of a list: adds batches, withdraws entries, switches generations.

The cost grows with the change, not with the list. A generation adds one run; runs are merged only
until each is at least `MERGE_RATIO` times as large as all later runs together, so their number
stays logarithmic. Memory is needed for the rows of `room`, and some 12 bytes a row where runs are
merged: a first fetch writes runs of that size and merges them by ranges of keys. Readers see the
new generation when its manifest is renamed into place.

With much free memory the pieces in which an index is built have the sizes that are fastest. If a
control group leaves little, they are smaller, and the build takes more time (`Room`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from hashclient.core.errors import VerificationError
from hashclient.core.kinds import Algorithm
from hashclient.index.blinding import Sealer
from hashclient.index.manifest import RunRef, verify_runs
from hashclient.index.reader import Index, RunSet
from hashclient.index.run import ROT_HINT, DamagedError, Run, digest_pieces, root_of
from hashclient.index.runwriter import (
    BatchColumns,
    Columns,
    MergedColumns,
    Rows,
    SealedBatch,
    write_run,
)
from hashclient.lists.wire import (
    BATCH_ROWS,
    NO_SIZE,
    AddBatch,
    Strings,
    Uint8,
    checksum_of,
    entry_hashes,
)
from hashclient.system.files import sweep_temporary
from hashclient.system.log import Log
from hashclient.system.text import printable

#: Rows that are collected in memory before they become a run; about 100 bytes each.
RUN_ROWS = 2_000_000
#: Rows handled at a time while merging.
MERGE_ROWS = 500_000
#: The bytes of all segments that are downloaded ahead.
AHEAD_BYTES = 256 << 20

#: The memory for each row of a run while the run is collected, sorted and written.
_ROW_BYTES = 1000
#: With this much free memory, every piece has its full size.
_PLENTY_BYTES = RUN_ROWS * _ROW_BYTES
#: Smaller pieces would take much more time, and hardly less memory.
_FEWEST_ROWS = 100_000
#: The share of the remaining memory that segments downloaded ahead may take.
_AHEAD_SHARE = 8


class Room(msgspec.Struct, frozen=True):
    """The sizes of the pieces in which an index is built; by default the largest."""

    batch_rows: int = BATCH_ROWS
    run_rows: int = RUN_ROWS
    merge_rows: int = MERGE_ROWS
    ahead_bytes: int = AHEAD_BYTES

    @classmethod
    def of(cls, free_bytes: int | None) -> Room:
        """Return the sizes for `free_bytes` of memory; the largest if that is not known."""
        if free_bytes is None or free_bytes >= _PLENTY_BYTES:
            return cls()
        rows = max(_FEWEST_ROWS, free_bytes // _ROW_BYTES)
        return cls(
            batch_rows=min(BATCH_ROWS, rows),
            run_rows=rows,
            merge_rows=min(MERGE_ROWS, rows),
            ahead_bytes=min(AHEAD_BYTES, free_bytes // _AHEAD_SHARE),
        )


_log = Log("index")

#: A run is merged with the later runs, unless it is more than this many times as large as all of
#: them.
MERGE_RATIO = 4


class InconsistentError(VerificationError):
    """A change does not fit the present entries; a build from the base may still succeed."""


class IndexWriter:
    """Builds the next generation of a list beside the present generation.

    Each change updates the totals for the manifest and the checksum of the list. The caller holds
    the writers' lock.
    """

    def __init__(
        self,
        directory: Path,
        sealer: Sealer,
        base: Index | None,
        pieces: Mapping[str, bytes] | None = None,
        room: Room | None = None,
        *,
        durable: bool = True,
    ) -> None:
        """Start from `base`, or from nothing.

        `pieces` has the known digests of the pieces of runs of `base`, by name. `room` says how
        many rows are in memory at a time. Unless runs are written `durable`, the caller makes the
        runs durable before a manifest names them.
        """
        self._durable = durable
        self._room = room or Room()
        self._directory = directory
        self._sealer = sealer
        self._runs: list[Run] = list(base.runs) if base else []
        #: Finished runs whose digest is known.
        self._finished = {r.name: r for r in base.manifest.runs if r.root} if base else {}
        #: Runs of this writer that `runs` has returned. A merge reads other new runs soon after
        #: writing.
        self._written: dict[str, RunRef] = {}
        #: The known digests of the pieces of runs, by name.
        self.pieces: dict[str, bytes] = dict(pieces or {})
        self._next_number = _next_run_number(directory)
        self._pending: list[SealedBatch] = []
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
            VerificationError: an id of the batch is live already.
            StateError: a run could not be written.
        """
        sealed = SealedBatch(batch, self._sealer)
        self._pending.append(sealed)
        self._pending_rows += len(sealed.ids)
        self.checksum = (self.checksum + checksum_of(sealed.hashes)) % 2**64
        self._count(sealed.masks, int((sealed.sizes != NO_SIZE).sum()), +1)
        if self._pending_rows >= self._room.run_rows:
            self.flush()

    def withdraw(self, ids: Strings) -> None:
        """Take entries out of the list.

        Raises:
            VerificationError: an id is not live, or is given twice.
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
        self._append_run(BatchColumns([]), dead)

    def _count(self, masks: Uint8, with_size: int, sign: int) -> None:
        self.entries += sign * len(masks)
        self.with_size += sign * with_size
        by_mask = np.bincount(masks, minlength=8)
        for algorithm in Algorithm:
            count = sum(int(by_mask[m]) for m in range(8) if m & algorithm)
            self.with_digest[algorithm] += sign * count

    @property
    def is_flushed(self) -> bool:
        """Whether all added entries are in a run."""
        return not self._pending_rows

    def flush(self) -> None:
        """Write the queued rows as a run.

        Raises:
            VerificationError: an id is live already, or occurs twice.
            StateError: the run could not be written.
        """
        if not self._pending_rows:
            return
        batches, self._pending, self._pending_rows = self._pending, [], 0
        self._refuse_known_ids(batches)
        self._append_run(BatchColumns(batches), {})
        # Equal hashes may be of different ids, so ids are compared where hashes are equal.
        hashes = self._runs[-1].section("id.hash")
        assert hashes is not None
        for position in np.flatnonzero(hashes[1:] == hashes[:-1]):
            self._refuse_doubled_id(int(position))
        for run in self._runs:
            run.forget()

    def _refuse_known_ids(self, batches: list[SealedBatch]) -> None:
        before = RunSet(self._runs)
        for batch in batches:
            known = before.find_ids(batch.ids, batch.hashes).queries
            if len(known):
                raise InconsistentError(
                    f"the list adds an entry that it has already: {_name(batch.ids[known[0]])}"
                )

    def _refuse_doubled_id(self, position: int) -> None:
        """Compare the id at `position` of the last run's hash order with all ids of equal hash."""
        run = self._runs[-1]
        hashes, rows = run.section("id.hash"), run.section("id.row")
        assert hashes is not None and rows is not None
        end = int(hashes.searchsorted(hashes[position], "right"))
        ids = run.ids[rows[position:end].astype(np.intp)]
        if len(np.unique(ids)) != len(ids):
            raise InconsistentError(f"the list adds an entry twice: {_name(ids[0])}")

    def _append_run(self, columns: Columns, dead: dict[str, list[Rows]]) -> None:
        path = self._directory / f"run-{self._next_number:08d}"
        self._next_number += 1
        write_run(path, columns, dead, durable=self._durable)
        self._runs.append(Run(path))

    def finish(self) -> tuple[RunRef, ...]:
        """Flush, merge runs if this saves time later, and return the runs of the new generation.

        Raises:
            VerificationError, StateError: as `flush`.
            DamagedError: a merged run differs from the written bytes, or the runs hold another
                number of live entries than was counted.
        """
        self.flush()
        start = self._merge_start()
        if start < len(self._runs) - 1:
            self._merge_from(start)
        live = RunSet(self._runs).live_entries
        if live != self.entries:
            raise DamagedError(
                f"index has {live} entries where {self.entries} were written:"
                f" {printable(self._directory)}",
                hint=ROT_HINT,
            )
        return self.run_refs()

    def run_refs(self) -> tuple[RunRef, ...]:
        """Return the present runs; the manifest may be final or not.

        Each run has the digest that was computed first, by this or an earlier writer: so a later
        reader notices a change since then.

        Raises:
            StateError: a run cannot be read.
        """
        for run in self._runs:
            if run.name not in self._finished and run.name not in self._written:
                path = self._directory / run.name
                digests = self.pieces[run.name] = digest_pieces(path)
                length = path.stat().st_size
                ref = RunRef(run.name, length, run.count, root_of(digests), run.id)
                self._written[run.name] = ref
        known = self._written | self._finished
        return tuple(known[run.name] for run in self._runs)

    def _merge_start(self) -> int:
        """Return the first run that later runs together outweigh: runs are merged from there.

        The search begins at the oldest run. A generation that adds many entries and then withdraws
        few ends with a small run, and this small run must not prevent merging the others for ever.
        """
        weights = [_weight(run) for run in self._runs]
        for start, weight in enumerate(weights):
            if weight <= MERGE_RATIO * sum(weights[start + 1 :]):
                return start
        return len(weights)

    def _merge_from(self, start: int) -> None:
        all_dead = RunSet(self._runs).dead
        merged = self._runs[start:]
        # A merge of a damaged run would get a correct digest, which would hide the damage.
        finished = [self._finished[run.name] for run in merged if run.name in self._finished]
        verify_runs(self._directory, finished)
        _log.info("merging %d runs of %d entries", len(merged), sum(run.count for run in merged))
        names = {run.name for run in merged}
        # Withdrawals among the merged runs are applied now; withdrawals of entries in older runs
        # stay.
        dead: dict[str, list[Rows]] = {}
        for run in merged:
            for name, rows in run.dead_sections().items():
                if name not in names:
                    dead.setdefault(name, []).append(rows.astype(np.intp))
        self._runs = self._runs[:start]
        try:
            columns = MergedColumns(merged, all_dead[start:], self._room.merge_rows)
            self._append_run(columns, dead)
        except IndexError as error:  # a row number outside a run
            raise merged[0].damaged() from error


def _weight(run: Run) -> int:
    """Return the work that a merge of `run` causes: its entries and its withdrawals."""
    return run.count + sum(len(rows) for rows in run.dead_sections().values()) + 1


def sweep(directory: Path, keep: frozenset[str]) -> None:
    """Remove runs that are not in the manifest, and files left by killed writers.

    A reader that has a removed run mapped can use the run until the reader ends.
    """
    sweep_temporary(directory)
    for path in directory.glob("run-*"):
        if path.name not in keep:
            with contextlib.suppress(OSError):
                path.unlink()


def _next_run_number(directory: Path) -> int:
    """Return a run number that is unused in `directory`, also by runs of killed writers."""
    numbers = [int(p.name[4:]) for p in directory.glob("run-*") if p.name[4:].isdigit()]
    return max(numbers, default=0) + 1


def _name(entry_id: bytes) -> str:
    return entry_id.decode("ascii")

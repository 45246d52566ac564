"""Writes the index of a list: adds batches, withdraws entries, and switches generations.

Writing a generation costs as much as its changes need, however large the list is. Each generation
adds one run. Runs are merged only until each run has at least `MERGE_RATIO` times as many entries
as all later runs together, so the number of runs stays logarithmic. The writer needs the memory for
the rows of `room`, and about 12 bytes for each row that it merges: a first fetch writes runs of
`run_rows` rows, and then merges them by ranges of keys. Readers see the new generation when its
manifest is renamed to its final name.

If much memory is free, an index is built in pieces of the sizes that are fastest. If the limit of a
control group leaves little memory, the pieces are smaller and the build takes more time (`Room`).
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

#: The number of rows that are collected in memory before they become a run; a row takes about 100
#: bytes.
RUN_ROWS = 2_000_000
#: The number of rows that a merge handles at a time.
MERGE_ROWS = 500_000
#: The largest total size of the segments that are downloaded ahead, in bytes.
AHEAD_BYTES = 256 << 20

#: The memory in bytes for each row of a run while the run is collected, sorted and written.
_ROW_BYTES = 1000
#: The free memory in bytes from which every piece has its full size.
_PLENTY_BYTES = RUN_ROWS * _ROW_BYTES
#: The smallest number of rows in a piece; fewer rows would take much more time and need hardly less
#: memory.
_FEWEST_ROWS = 100_000
#: The fraction (1/N) of the free memory that segments may take that are downloaded ahead.
_AHEAD_SHARE = 8


class Room(msgspec.Struct, frozen=True):
    """The sizes of the pieces in which an index is built; the defaults are the largest sizes."""

    batch_rows: int = BATCH_ROWS
    run_rows: int = RUN_ROWS
    merge_rows: int = MERGE_ROWS
    ahead_bytes: int = AHEAD_BYTES

    @classmethod
    def of(cls, free_bytes: int | None) -> Room:
        """Return the sizes for `free_bytes` of memory; None gives the largest sizes."""
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

#: A run is merged with the later runs, unless it has more than `MERGE_RATIO` times as many entries
#: as all later runs together.
MERGE_RATIO = 4


class InconsistentError(VerificationError):
    """A change withdraws an entry that is not live, or adds an entry that is live already.

    A build from the first segment may still succeed.
    """


class IndexWriter:
    """Builds the next generation of a list, while readers use the present generation.

    Each change updates the checksum of the list, and the totals that the manifest has. The caller
    must have the writers' lock.
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
        """Start from the index `base`, or from an empty list.

        `pieces` has the digests of pieces that are known for runs of `base`, by the name of the
        run. `room` says how many rows may be in memory at a time. If `durable` is False, the caller
        must make the runs durable before a manifest names them.
        """
        self._durable = durable
        self._room = room or Room()
        self._directory = directory
        self._sealer = sealer
        self._runs: list[Run] = list(base.runs) if base else []
        #: The runs of `base` whose root is known, by name.
        self._finished = {r.name: r for r in base.manifest.runs if r.root} if base else {}
        #: The runs that this writer has written and that `run_refs` has returned, by name. A merge
        #: does not verify the new runs of this writer, because they were written only recently.
        self._written: dict[str, RunRef] = {}
        #: The known digests of the pieces of runs, by the name of the run.
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
        """Seal the digests of a batch of entries, and queue the batch.

        Raises:
            VerificationError: an id of the batch belongs to a live entry already.
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
        """Withdraw entries from the list.

        Raises:
            VerificationError: an id does not belong to a live entry, or is given twice.
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
        """Write the queued entries as a run.

        Raises:
            VerificationError: an id belongs to a live entry already, or occurs twice.
            StateError: the run could not be written.
        """
        if not self._pending_rows:
            return
        batches, self._pending, self._pending_rows = self._pending, [], 0
        self._refuse_known_ids(batches)
        self._append_run(BatchColumns(batches), {})
        # Different ids may have equal hashes, so ids are compared where hashes are equal.
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
        """Compare all ids whose hash is the hash at `position`, in the order of the last run."""
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
            VerificationError, StateError: `flush` has failed.
            DamagedError: a merged run differs from the written bytes, or the runs have another
                number of live entries than this writer has counted.
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
        """Return the present runs of the list, before or after `finish`.

        The root of each run is the root that was computed first, by this writer or an earlier one,
        so that a reader notices later changes of the file.

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
        """Return the number of the first run that is too small to be kept apart from later runs.

        A merge starts at this run. Too small means: at most `MERGE_RATIO` times as large as all
        later runs together.

        The search for this run begins at the oldest run. A generation that adds many entries and
        then withdraws few entries ends with a small run, and this small run must not prevent the
        merging of larger runs for ever.
        """
        weights = [_weight(run) for run in self._runs]
        for start, weight in enumerate(weights):
            if weight <= MERGE_RATIO * sum(weights[start + 1 :]):
                return start
        return len(weights)

    def _merge_from(self, start: int) -> None:
        all_dead = RunSet(self._runs).dead
        merged = self._runs[start:]
        # Merged runs get new digests, which would hide damage in an old run, so old runs are
        # verified first.
        finished = [self._finished[run.name] for run in merged if run.name in self._finished]
        verify_runs(self._directory, finished)
        _log.info("merging %d runs of %d entries", len(merged), sum(run.count for run in merged))
        names = {run.name for run in merged}
        # Withdrawals of entries in the merged runs are applied now; withdrawals of entries in older
        # runs are kept.
        dead: dict[str, list[Rows]] = {}
        for run in merged:
            for name, rows in run.dead_sections().items():
                if name not in names:
                    dead.setdefault(name, []).append(rows.astype(np.intp))
        self._runs = self._runs[:start]
        try:
            columns = MergedColumns(merged, all_dead[start:], self._room.merge_rows)
            self._append_run(columns, dead)
        except IndexError as error:  # a run has the number of a row that does not exist
            raise merged[0].damaged() from error


def _weight(run: Run) -> int:
    """Return how much work a merge of `run` is: the number of its entries and its withdrawals."""
    return run.count + sum(len(rows) for rows in run.dead_sections().values()) + 1


def sweep(directory: Path, keep: frozenset[str]) -> None:
    """Remove the runs that the manifest does not name, and the files that killed writers left.

    A reader that has mapped a removed run can use it until the reader ends.
    """
    sweep_temporary(directory)
    for path in directory.glob("run-*"):
        if path.name not in keep:
            with contextlib.suppress(OSError):
                path.unlink()


def _next_run_number(directory: Path) -> int:
    """Return a run number that no file in `directory` uses, not even a file of a killed writer."""
    numbers = [int(p.name[4:]) for p in directory.glob("run-*") if p.name[4:].isdigit()]
    return max(numbers, default=0) + 1


def _name(entry_id: bytes) -> str:
    return entry_id.decode("ascii")

"""The sealed index of a list, for readers: open it, ask which digests matter, look tags up.

An index is a manifest and a few immutable runs of sorted, memory-mapped arrays. A reader opens
what the manifest names and never waits for a writer. `writer` makes runs, `manifest` names them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm
from hashclient.core.model import Hit, is_name
from hashclient.index.blinding import Sealer
from hashclient.index.manifest import Manifest, RunRef, read_manifest, verify_runs
from hashclient.index.prefixtable import NOTHING, Lookup, Rows
from hashclient.index.run import KEY_SECTIONS, REBUILD_HINT, DamagedError, Run, damaged
from hashclient.lists.wire import NO_SIZE, Strings, Uint8, Uint32, Uint64
from hashclient.system.files import state_error
from hashclient.system.layout import MANIFEST_NAME
from hashclient.system.text import printable

#: Rows in one block, so that memory does not grow with the list.
BLOCK_ROWS = 1 << 20
#: For each mask of algorithms, the masks of entries that share no algorithm with it, as a set of
#: bits.
BLIND_TO = tuple(sum(1 << (m - 1) for m in range(1, 8) if not m & given) for given in range(8))

#: A product with this odd number loses nothing; its bits mix the bits of a key.
_ODD = np.uint64(0x9E3779B97F4A7C15)

Sizes = npt.NDArray[np.unsignedinteger[npt.NBitBase]]
Flags = npt.NDArray[np.bool_]


class Found(msgspec.Struct, frozen=True):
    """Rows found by a lookup, as parallel arrays: query number, run number, row."""

    queries: Rows
    runs: Rows
    rows: Rows


class RunSet:
    """Runs, oldest first, as one set of entries; entries that later runs withdraw are left out."""

    def __init__(self, runs: Sequence[Run]) -> None:
        """Join runs, and collect the rows that later runs withdraw from older runs."""
        self.runs = list(runs)
        number = {run.name: i for i, run in enumerate(runs)}
        dead: list[list[Uint32]] = [[] for _ in runs]
        for run in runs:
            for name, rows in run.dead_sections().items():
                if name in number:
                    dead[number[name]].append(rows)
        self.dead = [np.sort(np.concatenate(rows)) if rows else _NO_ROWS for rows in dead]
        for run, rows in zip(runs, self.dead, strict=True):
            if len(rows) and int(rows[-1]) >= run.count:
                raise run.damaged()
        #: The distinct algorithm masks of the entries without a size, as a set of bits.
        self.unsized_masks = 0
        for run in runs:
            self.unsized_masks |= run.unsized_masks

        self._missed: dict[int, tuple[int, int]] = {}
        self._sizes_missed: dict[int, Sizes] = {}

    @property
    def live_entries(self) -> int:
        """How many entries are not withdrawn, by the counts of the runs alone."""
        return sum(run.count for run in self.runs) - sum(len(rows) for rows in self.dead)

    def masks_of_size(self, size: int | None) -> int:
        """Return the set of algorithm masks that an input of `size` bytes could still match.

        Bit m-1 means entries with algorithm mask m. If the result is zero, no entry can match, and
        the input need not be read: an entry with a size rules out every other size. An unknown size
        rules out nothing. Withdrawn entries may still count: this costs work but gives no wrong
        answer.
        """
        masks = self.unsized_masks
        for run in self.runs:
            masks |= run.sized_masks if size is None else run.masks_of_size(size)
        return masks

    def of_sizes(self, sizes: Uint64) -> tuple[Flags, Uint8]:
        """Return which sizes an entry may have, and the algorithms that all entries of a size have.

        The second value is a mask for each size; it has no meaning if no entry has the size.
        Withdrawn entries may still count, as in `masks_of_size`.
        """
        possible = np.full(len(sizes), self.unsized_masks != 0)
        common = np.full(len(sizes), _common_of(self.unsized_masks), np.uint8)
        for run in self.runs:
            rows, masks = run.of_sizes(sizes)
            possible[rows] = True
            common[rows] &= masks
        return possible, common

    def may_miss(self, given: int) -> bool:
        """Return, without reading, whether an entry may lack digests of the mask `given`."""
        return any((run.sized_masks | run.unsized_masks) & BLIND_TO[given] for run in self.runs)

    def count_missed(self, given: int) -> tuple[int, int]:
        """Count the live entries that have no digest of the mask `given`: with a size, and without.

        Digests of these algorithms cannot rule out these entries.
        """
        if given not in self._missed:
            sized, unsized = (
                sum(int(np.count_nonzero(missed)) for *_, missed in self._blind(given, sized=sized))
                for sized in (True, False)
            )
            self._missed[given] = sized, unsized
        return self._missed[given]

    def sizes_missed(self, given: int) -> Sizes:
        """Return the sizes of the sized entries that `count_missed` counts; distinct, ascending."""
        if given not in self._sizes_missed:
            found: list[Sizes] = [np.zeros(0, np.uint64)]
            for run, first, missed in self._blind(given, sized=True):
                sizes = run.sizes[first : first + len(missed)][missed]
                if len(sizes):
                    # The sizes are sorted, so equal sizes are adjacent.
                    found.append(sizes[np.append(True, sizes[1:] != sizes[:-1])])
            self._sizes_missed[given] = np.unique(np.concatenate(found))
        return self._sizes_missed[given]

    def _blind(self, given: int, *, sized: bool) -> Iterator[tuple[Run, int, Flags]]:
        """Yield blocks of rows, either of entries with a size or of entries without a size.

        Each block has a run, the first row, and which rows are live and have no digest of `given`.
        A run is left out if its header shows that it has no row of this kind.
        """
        for run, withdrawn in zip(self.runs, self.dead, strict=True):
            start, stop = (0, len(run.sizes)) if sized else (len(run.sizes), run.count)
            if (run.sized_masks if sized else run.unsized_masks) & BLIND_TO[given]:
                for first in range(start, stop, BLOCK_ROWS):
                    missed = (run.masks[first : min(first + BLOCK_ROWS, stop)] & given) == 0
                    low, high = withdrawn.searchsorted([first, first + len(missed)])
                    missed[withdrawn[low:high].astype(np.intp) - first] = False
                    yield run, first, missed

    def find(self, algorithm: Algorithm, tags: Uint64) -> Found:
        """Look up (n, 2) tags; return every live row that has one of the tags."""

        def are_same(run: Run, queries: Rows, positions: Rows) -> Flags:
            low = run.section(f"{algorithm.label}.lo")
            assert low is not None
            same: Flags = low[positions] == tags[queries, 1]
            return same

        return self._found(algorithm.label, tags[:, 0], are_same)

    def may_find(self, algorithm: Algorithm, tags: Uint64) -> Flags:
        """Return for each of (n, 2) tags whether `find` could find it; False is certain."""
        may = np.zeros(len(tags), np.bool_)
        for run in self.runs:
            queries, _ = run.find(algorithm.label, tags[:, 0], once=True)
            may[queries] = True
        return may

    def tables(self, algorithm: Algorithm) -> list[Lookup]:
        """Return for each run the object that looks up one key of `algorithm`."""
        return [table for run in self.runs if (table := run.table(algorithm.label)) is not None]

    def find_ids(self, ids: Strings, hashes: Uint64) -> Found:
        """Look up entry ids by their `entry_hashes`; return every live row with one of the ids."""

        def are_same(run: Run, queries: Rows, positions: Rows) -> Flags:
            same: Flags = run.ids[run.rows_at("id", positions)] == ids[queries]
            return same

        return self._found("id", hashes, are_same)

    def _found(
        self, prefix: str, keys: Uint64, are_same: Callable[[Run, Rows, Rows], Flags]
    ) -> Found:
        """Return the live rows with one of `keys` whose other columns satisfy `are_same`."""
        parts: list[tuple[Rows, ...]] = []
        for number, run in enumerate(self.runs):
            queries, positions = run.find(prefix, keys)
            if len(queries):
                same = are_same(run, queries, positions)
                queries, rows = queries[same], run.rows_at(prefix, positions[same])
                live = ~self._is_dead(number, rows)
                queries, rows = queries[live], rows[live]
                parts.append((queries, np.full(len(queries), number, np.intp), rows))
        if not parts:
            return Found(NOTHING, NOTHING, NOTHING)
        return Found(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def live_id_hashes(self) -> Uint64:
        """Return the `entry_hashes` of all live entries, in order."""
        parts = [np.zeros(0, np.uint64)]
        for number, run in enumerate(self.runs):
            hashes = run.section("id.hash")
            if hashes is None:
                continue  # the run has only withdrawals
            rows = run.rows_at("id", np.arange(len(hashes)))
            parts.append(hashes[~self._is_dead(number, rows)].astype(np.uint64))
        return np.sort(np.concatenate(parts))

    def live_entry_hashes(self) -> Uint64:
        """Return a hash of id, digests and size of each live entry, in order."""
        parts = [np.zeros(0, np.uint64)]
        for number, run in enumerate(self.runs):
            hashes = np.zeros(run.count, np.uint64)
            hashes[: len(run.sizes)] = run.sizes
            for prefix, (key, *_) in KEY_SECTIONS.items():
                keys = run.section(f"{prefix}.{key}")
                if keys is not None:
                    rows = run.rows_at(prefix, np.arange(len(keys)))
                    hashes[rows] = (hashes[rows] ^ keys.astype(np.uint64)) * _ODD
            parts.append(hashes[~self._is_dead(number, np.arange(run.count))])
        return np.sort(np.concatenate(parts))

    def _is_dead(self, number: int, rows: Rows) -> Flags:
        dead = self.dead[number]
        if not len(dead):
            return np.zeros(len(rows), np.bool_)
        position = dead.searchsorted(rows)
        position[position == len(dead)] = 0
        is_dead: Flags = dead[position] == rows
        return is_dead


class Index(RunSet):
    """A list, open for lookups. Use an `Index` in one process only; opening it again is cheap."""

    def __init__(self, manifest: Manifest, runs: Sequence[Run]) -> None:
        """Join the runs that `manifest` names."""
        super().__init__(runs)
        self.manifest = manifest

    def hits(
        self, found: Sequence[tuple[Algorithm, Found]], available: Uint8, sizes: Uint64
    ) -> Iterator[tuple[int, Hit]]:
        """Judge many inputs against every entry that any of their digests hit.

        `found` says by algorithm which entries were hit; its queries are the numbers of inputs. For
        each input, `available` has the mask of the algorithms whose digests are known, and `sizes`
        the size in bytes or `NO_SIZE`. An entry of another size is ruled out. A hit is complete
        when all digests that both have agree. Yields the number of the input with each hit, in the
        order of inputs, then of entries.
        """
        inputs, runs, rows, agreed = _joined(found)
        entry_sizes = np.full(len(rows), NO_SIZE, np.uint64)
        for number in sorted(set(runs.tolist())):
            run = self.runs[number]
            sized = np.flatnonzero((runs == number) & (rows < len(run.sizes)))
            entry_sizes[sized] = run.sizes[rows[sized]]
        given = sizes[inputs]
        fits = (given == NO_SIZE) | (entry_sizes == NO_SIZE) | (given == entry_sizes)
        inputs, runs, rows, agreed = (column[fits] for column in (inputs, runs, rows, agreed))
        complete = np.zeros(len(rows), np.bool_)
        names: list[tuple[str, str]] = [("", "")] * len(rows)
        for number in sorted(set(runs.tolist())):
            run, at = self.runs[number], np.flatnonzero(runs == number)
            of = rows[at]
            complete[at] = agreed[at] == run.masks[of] & available[inputs[at]]
            named = zip(at.tolist(), run.ids[of].tolist(), run.categories[of].tolist(), strict=True)
            try:
                for place, entry, category in named:
                    names[place] = entry.decode("ascii"), run.category_names[category]
            except (IndexError, UnicodeDecodeError) as error:
                raise run.damaged() from error
        list_name, generation = self.manifest.list, self.manifest.generation
        columns = inputs.tolist(), names, agreed.tolist(), complete.tolist()
        for number, (entry, category), mask, whole in zip(*columns, strict=True):
            algorithms = Algorithm.in_mask(mask)
            yield number, Hit(list_name, entry, category, generation, algorithms, whole)


def _common_of(masks: int) -> int:
    """Return the algorithms that all masks of a set have."""
    common = 7
    for mask in range(1, 8):
        if masks >> (mask - 1) & 1:
            common &= mask
    return common


def _joined(
    found: Sequence[tuple[Algorithm, Found]],
) -> tuple[Rows, Rows, Rows, Uint8]:
    """Return inputs with the runs and rows they hit, each once, and the masks that agree."""
    inputs = np.concatenate([one.queries for _, one in found])
    runs = np.concatenate([one.runs for _, one in found])
    rows = np.concatenate([one.rows for _, one in found])
    bits = np.concatenate([np.full(len(one.rows), algorithm, np.uint8) for algorithm, one in found])
    order = np.lexsort((rows, runs, inputs))
    inputs, runs, rows, bits = inputs[order], runs[order], rows[order], bits[order]
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = (inputs[1:] != inputs[:-1]) | (runs[1:] != runs[:-1]) | (rows[1:] != rows[:-1])
    first = np.flatnonzero(begins)
    if not len(first):
        return inputs, runs, rows, bits
    return inputs[first], runs[first], rows[first], np.bitwise_or.reduceat(bits, first)


_NO_ROWS: Uint32 = np.zeros(0, np.uint32)


def open_index(directory: Path, sealer: Sealer | None, *, verify: bool = False) -> Index | None:
    """Open the index in a list's folder; None if the list was never fetched.

    The manifest is verified with `sealer`. Without a key, it is not verified, and no lookup finds
    an entry. With `verify`, the runs are read to their end first, from the disk, as `verify_runs`
    does.

    A writer may switch generations and remove the old runs after the manifest was read and before a
    run is opened. Then the new manifest exists, and reading it again succeeds.

    Raises:
        OtherKeyError: another key sealed the list.
        StateError: the index is damaged, or cannot be read.
    """
    for _ in range(8):
        document = read_manifest(directory)
        if document is None:
            return None
        manifest = document.manifest if sealer is None else document.verify(sealer)
        if manifest.rotten is not None:
            raise damaged(directory / manifest.rotten)
        try:
            if verify:
                verify_runs(directory, manifest.runs)
            return open_manifest(directory, manifest)
        except FileNotFoundError:
            continue
        except StateError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    raise DamagedError(
        f"the runs that the manifest names are missing: {printable(directory)}", hint=REBUILD_HINT
    )


def open_runs(directory: Path, refs: Sequence[RunRef]) -> list[Run]:
    """Open runs.

    Raises:
        FileNotFoundError: a run is gone.
        StateError: a run is damaged or cannot be read.
    """
    return [Run(directory / ref.name, length=ref.length, run_id=ref.id) for ref in refs]


def open_manifest(directory: Path, manifest: Manifest) -> Index:
    """Open the runs that `manifest` names.

    Raises:
        FileNotFoundError: a run is gone.
        StateError: a run is damaged or cannot be read, or the runs have another number of entries
            than the manifest says.
    """
    runs = open_runs(directory, manifest.runs)
    index = Index(manifest, runs)
    # If a manifest lacked a run, every file that only that run lists would be clean.
    if index.live_entries != manifest.entries:
        raise DamagedError(
            f"index has {index.live_entries} entries, its manifest says {manifest.entries}:"
            f" {printable(directory)}",
            hint=REBUILD_HINT,
        )
    return index


def list_folders(lists_dir: Path) -> list[str]:
    """Return the names of all folders of lists, sorted, whatever they contain.

    A link counts wherever it leads. A folder whose name cannot be that of a list is left out.

    Raises:
        StateError: `lists_dir` cannot be read.
    """
    try:
        # Not with a glob pattern: pathlib silently leaves out folders that it may not read.
        with os.scandir(lists_dir) as entries:
            found = [e.name for e in entries if is_name(e.name) and (e.is_symlink() or e.is_dir())]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise state_error("cannot read", lists_dir, error) from error
    return sorted(found)


def lists_on_disk(lists_dir: Path) -> list[str]:
    """Return the names of the lists that have a manifest, as far as they can be found, sorted.

    Raises:
        StateError: `lists_dir` cannot be read.
    """
    return [name for name in list_folders(lists_dir) if _may_exist(lists_dir / name)]


def _may_exist(directory: Path) -> bool:
    try:
        (directory / MANIFEST_NAME).stat()
    except FileNotFoundError:
        return False
    except OSError:  # a user without access cannot know whether the manifest is missing
        return True
    return True

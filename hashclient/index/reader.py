"""Opens the sealed index of a list, finds out which digests a lookup needs, and looks up tags.

An index is a manifest and a few immutable runs of sorted, memory-mapped arrays. A reader opens the
files that the manifest names, and never waits for a writer. `writer` makes runs, and `manifest`
names them.
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

#: The number of rows in one block, so that memory does not grow with the list.
BLOCK_ROWS = 1 << 20
#: For each mask of algorithms, the masks of entries that have none of its algorithms, as a set of
#: bits.
BLIND_TO = tuple(sum(1 << (m - 1) for m in range(1, 8) if not m & given) for given in range(8))

#: An odd factor: multiplying a 64-bit key by an odd number loses nothing, and mixes the bits of the
#: key.
_ODD = np.uint64(0x9E3779B97F4A7C15)

Sizes = npt.NDArray[np.unsignedinteger[npt.NBitBase]]
Flags = npt.NDArray[np.bool_]


class Found(msgspec.Struct, frozen=True):
    """Rows that a lookup found, as parallel arrays: query number, run number, and row."""

    queries: Rows
    runs: Rows
    rows: Rows


class RunSet:
    """Several runs, oldest first, as one set of entries.

    Entries that later runs withdraw are left out.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        """Join runs, and collect the rows that later runs withdraw from earlier runs."""
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
        #: The different algorithm masks of the entries without a size, as a set of bits.
        self.unsized_masks = 0
        for run in runs:
            self.unsized_masks |= run.unsized_masks

        self._missed: dict[int, tuple[int, int]] = {}
        self._sizes_missed: dict[int, Sizes] = {}

    @property
    def live_entries(self) -> int:
        """The number of entries that are not withdrawn, computed from the counts in the runs."""
        return sum(run.count for run in self.runs) - sum(len(rows) for rows in self.dead)

    def masks_of_size(self, size: int | None) -> int:
        """Return the set of algorithm masks that an input of `size` bytes could still match.

        Bit m-1 is set if entries with the algorithm mask m could match. If the result is zero, no
        entry can match, and the input need not be read, because an entry with a size cannot match
        an input of another size. An unknown size (None) rules out no entry. Withdrawn entries may
        still be included, which causes needless work but no wrong answer.
        """
        masks = self.unsized_masks
        for run in self.runs:
            masks |= run.sized_masks if size is None else run.masks_of_size(size)
        return masks

    def of_sizes(self, sizes: Uint64) -> tuple[Flags, Uint8]:
        """Return which sizes an entry may have, and the algorithms that all entries of a size have.

        The second value has a mask for each size; the mask is meaningless if no entry has the size.
        Withdrawn entries may still be included, as in `masks_of_size`.
        """
        possible = np.full(len(sizes), self.unsized_masks != 0)
        common = np.full(len(sizes), _common_of(self.unsized_masks), np.uint8)
        for run in self.runs:
            rows, masks = run.of_sizes(sizes)
            possible[rows] = True
            common[rows] &= masks
        return possible, common

    def may_miss(self, given: int) -> bool:
        """Return whether an entry may lack digests of the mask `given`, by the headers of runs."""
        return any((run.sized_masks | run.unsized_masks) & BLIND_TO[given] for run in self.runs)

    def count_missed(self, given: int) -> tuple[int, int]:
        """Count the live entries without a digest of the mask `given`.

        The first number counts entries with a size, the second counts entries without a size.

        Digests of the algorithms in `given` cannot rule out the counted entries.
        """
        if given not in self._missed:
            sized, unsized = (
                sum(int(np.count_nonzero(missed)) for *_, missed in self._blind(given, sized=sized))
                for sized in (True, False)
            )
            self._missed[given] = sized, unsized
        return self._missed[given]

    def sizes_missed(self, given: int) -> Sizes:
        """Return the different sizes of the entries that `count_missed` counts, ascending."""
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
        """Yield blocks of rows, either of entries with a size, or of entries without a size.

        Each block consists of a run, its first row, and for each row whether the row is live and
        has no digest of `given`. A run is left out if its header shows that it has no row without a
        digest of `given`.
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
        """Look up (n, 2) tags; return all live rows that have one of the tags."""

        def are_same(run: Run, queries: Rows, positions: Rows) -> Flags:
            low = run.section(f"{algorithm.label}.lo")
            assert low is not None
            same: Flags = low[positions] == tags[queries, 1]
            return same

        return self._found(algorithm.label, tags[:, 0], are_same)

    def may_find(self, algorithm: Algorithm, tags: Uint64) -> Flags:
        """Return for each of (n, 2) tags whether `find` may find it; False is certain."""
        may = np.zeros(len(tags), np.bool_)
        for run in self.runs:
            queries, _ = run.find(algorithm.label, tags[:, 0], once=True)
            may[queries] = True
        return may

    def tables(self, algorithm: Algorithm) -> list[Lookup]:
        """Return for each run a `Lookup` of its tags of `algorithm`."""
        return [table for run in self.runs if (table := run.table(algorithm.label)) is not None]

    def find_ids(self, ids: Strings, hashes: Uint64) -> Found:
        """Look up entry ids by their `entry_hashes`; return all live rows with one of the ids."""

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
        """Return the `entry_hashes` of all live entries, sorted."""
        parts = [np.zeros(0, np.uint64)]
        for number, run in enumerate(self.runs):
            hashes = run.section("id.hash")
            if hashes is None:
                continue  # the run contains only withdrawals
            rows = run.rows_at("id", np.arange(len(hashes)))
            parts.append(hashes[~self._is_dead(number, rows)].astype(np.uint64))
        return np.sort(np.concatenate(parts))

    def live_entry_hashes(self) -> Uint64:
        """Return a hash of the id, digests and size of each live entry, sorted."""
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
    """The index of a list, open for lookups.

    Only one process may use an `Index`, but opening it in another process is cheap.
    """

    def __init__(self, manifest: Manifest, runs: Sequence[Run]) -> None:
        """Join the runs that `manifest` names."""
        super().__init__(runs)
        self.manifest = manifest

    def hits(
        self, found: Sequence[tuple[Algorithm, Found]], available: Uint8, sizes: Uint64
    ) -> Iterator[tuple[int, Hit]]:
        """Judge many inputs against every entry that one of their digests hits.

        `found` says for each algorithm which entries were hit; its query numbers are the numbers of
        inputs. For each input, `available` has the mask of the algorithms whose digests are known,
        and `sizes` the size in bytes or `NO_SIZE`. An entry with another size than the input is
        ruled out. A hit is complete if all digests that both the entry and the input have are
        equal. This function yields each hit with the number of its input, ordered by input and then
        by entry.
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
    """Return the algorithms that are in all masks of a set of masks."""
    common = 7
    for mask in range(1, 8):
        if masks >> (mask - 1) & 1:
            common &= mask
    return common


def _joined(
    found: Sequence[tuple[Algorithm, Found]],
) -> tuple[Rows, Rows, Rows, Uint8]:
    """Return the hit entries of each input once: inputs, runs, rows, and masks of equal digests."""
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
    """Open the index in the folder of a list; None if the list was never fetched.

    The manifest is verified with `sealer`. Without a key, the manifest is not verified, and no
    lookup finds an entry. With `verify`, `verify_runs` first reads the runs from the disk to their
    end.

    A writer may switch generations and remove the old runs after the manifest was read and before
    its runs are opened. So if a run is missing, a newer manifest may exist, and the manifest is
    read again, up to eight times.

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
    """Open the runs `refs`.

    Raises:
        FileNotFoundError: a run does not exist any more.
        StateError: a run is damaged or cannot be read.
    """
    return [Run(directory / ref.name, length=ref.length, run_id=ref.id) for ref in refs]


def open_manifest(directory: Path, manifest: Manifest) -> Index:
    """Open the runs that `manifest` names.

    Raises:
        FileNotFoundError: a run does not exist any more.
        StateError: a run is damaged or cannot be read, or the runs have another number of entries
            than the manifest says.
    """
    runs = open_runs(directory, manifest.runs)
    index = Index(manifest, runs)
    # If a manifest lacked a run, files that only this run lists would be reported as clean, so the
    # number of entries is checked.
    if index.live_entries != manifest.entries:
        raise DamagedError(
            f"index has {index.live_entries} entries, its manifest says {manifest.entries}:"
            f" {printable(directory)}",
            hint=REBUILD_HINT,
        )
    return index


def list_folders(lists_dir: Path) -> list[str]:
    """Return the names of all folders below `lists_dir`, sorted, whatever they contain.

    A symbolic link counts as a folder, wherever it leads. A folder is left out if its name cannot
    be the name of a list.

    Raises:
        StateError: `lists_dir` cannot be read.
    """
    try:
        # `os.scandir` is used because a glob pattern silently leaves out folders that it may not
        # read.
        with os.scandir(lists_dir) as entries:
            found = [e.name for e in entries if is_name(e.name) and (e.is_symlink() or e.is_dir())]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise state_error("cannot read", lists_dir, error) from error
    return sorted(found)


def lists_on_disk(lists_dir: Path) -> list[str]:
    """Return the names of the lists that have a manifest or may have one, sorted.

    Raises:
        StateError: `lists_dir` cannot be read.
    """
    return [name for name in list_folders(lists_dir) if _may_exist(lists_dir / name)]


def _may_exist(directory: Path) -> bool:
    try:
        (directory / MANIFEST_NAME).stat()
    except FileNotFoundError:
        return False
    except OSError:  # if the user may not look into the folder, a manifest may exist
        return True
    return True

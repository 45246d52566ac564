"""A run: one immutable file of sorted, memory-mapped arrays, the piece that an index is made of.

Magic, length of a JSON header, header, then sections, each aligned to 64 bytes and named by the
header with type, offset from the first and count:

    masks, categories        one byte an entry, in row order: entries with a size first, by size
    sizes                    the sizes of the first rows, ascending (u32, or u64 if it must be)
    ids                      entry ids, fixed width
    id.hash, id.row          hashes of the ids, ascending, and their rows
    md5.hi, md5.lo, md5.row  tags, ascending by first word, and their rows; so for each algorithm
    md5.bits, md5.starts     their prefix table; ids have one too
    dead.<run>               rows of an older run that this one withdraws, ascending

`runwriter` makes them. What several runs make together is left to `index`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hashclient.errors import StateError
from hashclient.fsio import printable, state_error
from hashclient.hashlist import Strings, Uint8, Uint32, Uint64
from hashclient.index.prefixtable import NOTHING, Rows, expand, find, table_lengths
from hashclient.model import Algorithm

RUN_MAGIC = b"hcrun\x00\x02\n"
ALIGNMENT = 64
REBUILD_HINT = "run `hashclient fetch` to build it again"
#: The parts of each sorted key: the key, what goes with it, the row it belongs to.
KEY_SECTIONS = {"id": ("hash", "row")} | {a.label: ("hi", "lo", "row") for a in Algorithm}
#: The parts of the prefix table that each has besides.
TABLE = {"bits": "<u8", "starts": "<u4"}
#: The types that sections may have; what numpy makes of other words is not our concern. `dead`
#: stands for all of its kind.
_TYPES = {
    "masks": re.compile(r"\|u1"),
    "categories": re.compile(r"\|u1"),
    "sizes": re.compile(r"<u[48]"),
    "ids": re.compile(r"\|S[1-9][0-9]?"),
    "dead": re.compile(r"<u4"),
} | {
    f"{prefix}.{part}": re.compile("<u4" if part in {"row", "starts"} else "<u8")
    for prefix, parts in KEY_SECTIONS.items()
    for part in (*parts, *TABLE)
}


class DamagedError(StateError):
    """An index is not what a writer left; `fetch` builds it again."""


class Run:
    """One memory-mapped run."""

    def __init__(self, path: Path, *, length: int | None = None) -> None:
        """Map `path`.

        Raises:
            FileNotFoundError: it is gone (a writer has replaced it since the manifest was read).
            StateError: it is not a run, or not of `length`.
        """
        self.name = path.name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                actual = os.fstat(fd).st_size
                if actual < 16 or (length is not None and actual != length):
                    raise DamagedError(
                        f"index file has {actual} bytes, not {length}: {printable(path)}",
                        hint=REBUILD_HINT,
                    )
                self._map = mmap.mmap(fd, actual, access=mmap.ACCESS_READ)
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise state_error("cannot read index file", path, error) from error
        try:
            self._parse_header(actual)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(
                f"index file is damaged: {printable(path)}", hint=REBUILD_HINT
            ) from error

    def _parse_header(self, actual: int) -> None:
        if self._map[:8] != RUN_MAGIC:
            raise ValueError("magic")
        end = 16 + int.from_bytes(self._map[8:16], "little")
        header = json.loads(self._map[16:end])
        self.count: int = header["count"]
        self.category_names: list[str] = header["categories"]
        self._sections: dict[str, npt.NDArray[np.generic]] = {}
        start = aligned(end)
        for name, dtype, offset, count in header["sections"]:
            type_name = "dead" if name.startswith("dead.") else name
            if not _TYPES[type_name].fullmatch(dtype):
                raise ValueError(name)
            kind = np.dtype(dtype)
            if offset < 0 or count < 0 or start + offset + count * kind.itemsize > actual:
                raise ValueError(name)
            self._sections[name] = np.frombuffer(self._map, kind, count, start + offset)
        self.masks: Uint8 = self._sections["masks"].view(np.uint8)
        self.categories: Uint8 = self._sections["categories"].view(np.uint8)
        self.sizes: npt.NDArray[np.unsignedinteger[npt.NBitBase]] = self._sections["sizes"]  # type: ignore[assignment]
        self.ids: Strings = self._sections["ids"]  # type: ignore[assignment]
        if {len(self.masks), len(self.categories), len(self.ids)} != {self.count}:
            raise ValueError("count")
        for prefix, parts in KEY_SECTIONS.items():
            keys = {len(self._sections.get(f"{prefix}.{part}", ())) for part in parts}
            words = [len(self._sections.get(f"{prefix}.{part}", ())) for part in TABLE]
            if len(keys) > 1 or (max(keys) and words != table_lengths(max(keys))):
                raise ValueError(prefix)
        if not all(isinstance(name, str) for name in self.category_names):
            raise ValueError("categories")
        #: The distinct algorithm masks of the entries without a size, as a set of bits.
        self.unsized_masks: int = header["unsized_masks"]
        #: The distinct masks of the entries with one; a plan looks closer only if it has to.
        self.sized_masks: int = header["sized_masks"]
        if not (0 <= self.unsized_masks < 128 and 0 <= self.sized_masks < 128):
            raise ValueError("masks")

    def forget(self) -> None:
        """Let go of the pages touched so far; touching them again brings them back."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def section(self, name: str) -> npt.NDArray[np.generic] | None:
        """Return section `name`, or None if the run has none."""
        return self._sections.get(name)

    def rows_at(self, prefix: str, positions: Rows) -> Rows:
        """Return the rows that the keys at `positions` of section `prefix` belong to.

        Raises:
            DamagedError: there are no such rows.
        """
        rows = self._sections[f"{prefix}.row"][positions].astype(np.intp)
        if len(rows) and int(rows.max()) >= self.count:
            raise self.damaged()
        return rows

    def damaged(self) -> DamagedError:
        """Return the error that says that the run is not what was written."""
        return DamagedError(f"index file is damaged: {self.name}", hint=REBUILD_HINT)

    def dead_sections(self) -> dict[str, Uint32]:
        """Return the rows of older runs that this run withdraws, by the name of the run."""
        return {
            name.removeprefix("dead."): rows.view(np.uint32)
            for name, rows in self._sections.items()
            if name.startswith("dead.")
        }

    def size_of(self, row: int) -> int | None:
        """Return the size of the entry at `row` in bytes, None if it has none."""
        return int(self.sizes[row]) if row < len(self.sizes) else None

    def masks_of_size(self, size: int) -> int:
        """Return the set of algorithm masks of the entries of `size` bytes, as bits."""
        dtype = self.sizes.dtype
        if size > np.iinfo(dtype).max:
            return 0
        key = dtype.type(size)
        low = int(self.sizes.searchsorted(key, "left"))
        high = int(self.sizes.searchsorted(key, "right"))
        if low == high:
            return 0
        if self.sized_masks & (self.sized_masks - 1) == 0:
            return self.sized_masks  # only one mask in the whole run
        return mask_set(self.masks[low:high])

    def find(self, prefix: str, keys: Uint64) -> tuple[Rows, Rows]:
        """Return (query, position) pairs where the sorted keys of `prefix` equal `keys`.

        A key that occurs several times gives several pairs; `keys` come in any order.

        Raises:
            DamagedError: the sections do not fit each other; that is seen by chance only.
        """
        column = self._sections.get(f"{prefix}.{KEY_SECTIONS[prefix][0]}")
        if column is None or not len(column) or not len(keys):
            return NOTHING, NOTHING
        keys_column = column.view(np.uint64)
        bits, starts = (self._sections[f"{prefix}.{part}"] for part in TABLE)
        try:
            found = find(bits.view(np.uint64), starts.view(np.uint32), keys_column, keys)
        except ValueError as error:
            raise self.damaged() from error
        if found is not None:
            return found
        first = keys_column.searchsorted(keys)
        counts = keys_column.searchsorted(keys, "right") - first
        if (counts < 0).any():  # the column does not ascend
            raise self.damaged()
        return expand(np.arange(len(keys)), first, counts)


def aligned(offset: int) -> int:
    """Round `offset` up to the alignment of sections."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def mask_set(masks: Uint8) -> int:
    """Return the distinct values (1..7) of `masks` as a set: bit m-1 for mask m."""
    present = np.bincount(masks, minlength=8)
    return sum(1 << (m - 1) for m in range(1, 8) if present[m])


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file of ours, in hexadecimal.

    Raises:
        StateError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise state_error("cannot read index file", path, error) from error

"""A run: one immutable file of sorted, memory-mapped arrays, the piece that an index is made of.

Magic, length of a JSON header, header, then sections, each aligned to 64 bytes and named by the
header with type, offset from the first and count:

    masks, categories        one byte an entry, in row order: entries with a size first, by size
    sizes                    the sizes of the first rows, ascending (u32, or u64 if it must be)
    ids                      entry ids, fixed width
    id.hash, id.row          hashes of the ids, ascending, and their rows
    md5.hi, md5.lo, md5.row  tags, ascending by first word, and their rows; so for each algorithm
    dead.<run>               rows of an older run that this one withdraws, ascending

`runwrite` makes them. What several runs make together is left to `index`.
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
from hashclient.model import Algorithm

RUN_MAGIC = b"hcrun\x00\x01\n"
ALIGNMENT = 64
REBUILD_HINT = "run `hashclient fetch` to build it again"
#: The types that sections are written in; what numpy makes of other words is not our concern.
#: The parts of each sorted key: the key, what goes with it, the row it belongs to.
KEY_SECTIONS = {"id": ("hash", "row")} | {a.label: ("hi", "lo", "row") for a in Algorithm}
#: The types that sections may have; `dead` stands for all of its kind.
_TYPES = {
    "masks": re.compile(r"\|u1"),
    "categories": re.compile(r"\|u1"),
    "sizes": re.compile(r"<u[48]"),
    "ids": re.compile(r"\|S[1-9][0-9]?"),
    "dead": re.compile(r"<u4"),
} | {
    f"{prefix}.{part}": re.compile("<u4" if part == "row" else "<u8")
    for prefix, parts in KEY_SECTIONS.items()
    for part in parts
}
Rows = npt.NDArray[np.intp]
NOTHING: Rows = np.zeros(0, np.intp)
#: A directory has words of 64 bits, and is made in pieces of bits, which take a byte each then.
_WORD_BITS = 6
_WORD_SHIFT = np.uint64(_WORD_BITS)
_DIRECTORY_PIECE = 1 << 20
#: Four to eight keys begin alike, up to a word of the directory; this many never do by chance.
_MOST_CROWDED = 40


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
            if len({len(self._sections.get(f"{prefix}.{part}", ())) for part in parts}) > 1:
                raise ValueError(prefix)
        if not all(isinstance(name, str) for name in self.category_names):
            raise ValueError("categories")
        #: Made for those who look up many keys; see `expect_many`.
        self._directories: dict[str, _Directory | None] = {}
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

    def expect_many(self, prefix: str) -> None:
        """Prepare to be asked for many keys of sorted section `prefix`.

        Takes a pass over the section, and up to three bytes a key; nothing comes of it if many
        keys begin alike.

        Raises:
            DamagedError: the section is not in order; that is seen by chance only.
        """
        column = self._sections.get(prefix)
        if column is None or prefix in self._directories:
            return
        try:
            directory = _Directory(column.view(np.uint64))
        except ValueError as error:
            raise self.damaged() from error
        self._directories[prefix] = directory if directory.crowd <= _MOST_CROWDED else None

    def is_prepared(self, prefix: str) -> bool:
        """Tell whether `find` is prepared for many keys, and takes them in any order."""
        return prefix not in self._sections or self._directories.get(prefix) is not None

    def find(self, prefix: str, keys: Uint64) -> tuple[Rows, Rows]:
        """Return (query, position) pairs where sorted section `prefix` equals `keys`.

        A key that occurs several times gives several pairs. `keys` should be ascending if many:
        then neighbours share their way through the array.

        Raises:
            DamagedError: the section is not in order; that is seen by chance only.
        """
        column = self._sections.get(prefix)
        if column is None or not len(column):
            return NOTHING, NOTHING
        directory = self._directories.get(prefix)
        if directory is not None:
            return directory.find(keys)
        first = column.searchsorted(keys)
        queries = np.flatnonzero(first < len(column))
        queries = queries[column[first[queries]] == keys[queries]]
        first = first[queries]
        counts = column.searchsorted(keys[queries], "right") - first
        if (counts == 1).all():
            return queries, first
        if (counts < 1).any():  # the keys do not ascend
            raise self.damaged()
        return _expand(queries, first, counts)


class _Directory:
    """Where in a sorted column to look for a key, for keys that are spread evenly, as tags are.

    A bit for each value of a key's leading bits says whether any key begins so: there are eight
    to sixteen times as many as keys, so few of the keys that are not there pass. For each word of
    64 bits there is the position of the first key that begins so; a few more do.
    """

    def __init__(self, keys: Uint64) -> None:
        """Read `keys` once.

        Raises:
            ValueError: they do not ascend; that is seen by chance only.
        """
        self._keys = keys
        bits = max(_WORD_BITS, (8 * len(keys)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._words = np.zeros(1 << (bits - _WORD_BITS), "<u8")
        self._starts = np.zeros(len(self._words) + 1, np.uint32)
        piece = min(_DIRECTORY_PIECE, 1 << bits)
        firsts = np.arange(0, 1 << bits, piece, dtype=np.uint64)
        ends = [*keys.searchsorted(firsts << self._shift)[1:].tolist(), len(keys)]
        octets, low = self._words.view(np.uint8), 0
        for first, end in zip(firsts.tolist(), ends, strict=True):
            last = first + piece
            places = (keys[low:end] >> self._shift) - np.uint64(first)
            if len(places) and int(places.max()) >= piece:
                raise ValueError("order")
            present = np.zeros(piece, np.bool_)
            present[places] = True
            octets[first >> 3 : last >> 3] = np.packbits(present, bitorder="little")
            words = (places >> _WORD_SHIFT).view(np.intp)
            counts = np.bincount(words, minlength=piece >> _WORD_BITS)
            self._starts[(first >> _WORD_BITS) + 1 : (last >> _WORD_BITS) + 1] = counts
            low = end
        #: The most keys that any word stands for.
        self.crowd = int(self._starts.max())
        np.cumsum(self._starts, dtype=np.uint32, out=self._starts)

    def find(self, keys: Uint64) -> tuple[Rows, Rows]:
        """Return (query, position) pairs, as `Run.find` does; `keys` come in any order."""
        place = keys >> self._shift
        word = (place >> _WORD_SHIFT).view(np.intp)
        bit = self._words.take(word) >> (place & np.uint64(63)) & np.uint64(1)
        queries = np.flatnonzero(bit)
        word = word[queries]
        first, end = self._starts[word].astype(np.intp), self._starts[word + 1].astype(np.intp)
        queries, positions = _expand(queries, first, end - first)
        equal = self._keys[positions] == keys[queries]
        return queries[equal], positions[equal]


def _expand(queries: Rows, first: Rows, counts: Rows) -> tuple[Rows, Rows]:
    """Return a (query, position) pair for each of the `counts` positions from `first` on."""
    ends = counts.cumsum()
    after_first = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    return np.repeat(queries, counts), np.repeat(first, counts) + after_first


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

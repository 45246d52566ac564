"""A run: one immutable file of sorted, memory-mapped arrays. An index consists of runs.

The file has these parts: a magic number, the length of a JSON header, the header, and sections,
each aligned to 64 bytes. The header names each section, with its type, its offset from the first
section, and the count of its values:

    masks, categories        one byte an entry, in row order: entries with a size first, by size
    sizes                    the sizes of the first rows, ascending (u32, or u64 if it must be)
    ids                      entry ids, fixed width
    id.hash, id.row          hashes of the ids, ascending, and their rows
    md5.hi, md5.lo, md5.row  tags, ascending by first word, and their rows; so for each algorithm
    md5.bits, md5.starts     their prefix table; ids have one too
    dead.<run>               rows of an older run that this one withdraws, ascending

A run is divided into pieces of `PIECE_BYTES` bytes; the last piece may be shorter. The *root* of a
run is the SHA-256 of the SHA-256 digests of all pieces, in order. The manifest contains the root;
`checks.json` contains the digests of the pieces, which are verified with the root. So verifying a
whole run or a single piece costs one SHA-256 of its bytes.

`runwriter` makes runs. `reader` joins several runs into an index.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import re
import stat
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm
from hashclient.index.prefixtable import NOTHING, Lookup, Rows, find, shift_of, table_lengths
from hashclient.lists.wire import Strings, Uint8, Uint32, Uint64
from hashclient.system.files import state_error, translated
from hashclient.system.text import printable

RUN_MAGIC = b"hcrun\x00\x02\n"
ALIGNMENT = 64
#: The number of values that are counted at a time.
_COUNTED_AT_A_TIME = 1 << 18
#: `HEAD_BYTES`: the number of bytes that are read first. `MAX_HEADER_BYTES`: the longest header (a
#: header has names of categories and of older runs).
HEAD_BYTES = 1 << 14
MAX_HEADER_BYTES = 1 << 24
#: `REBUILD_HINT`: the hint about damage that the next fetch notices and repairs. `ROT_HINT`: the
#: hint about damage that only `--rebuild` repairs.
REBUILD_HINT = "run `hashclient fetch` to build it again"
ROT_HINT = "run `hashclient fetch --rebuild`"
#: The sections of each sorted key: the first word, the second word (of tags only), and the row.
KEY_SECTIONS = {"id": ("hash", "row")} | {a.label: ("hi", "lo", "row") for a in Algorithm}
#: The sections of the prefix table of each sorted key.
TABLE = {"bits": "<u8", "starts": "<u4"}
#: Regular expressions for the types that sections may have, because numpy would accept other types.
#: The name `dead` stands for every section `dead.<run>`.
_TYPES = {
    "masks": r"\|u1",
    "categories": r"\|u1",
    "sizes": r"<u[48]",
    "ids": r"\|S[1-9][0-9]?",
    "dead": r"<u4",
} | {
    f"{prefix}.{part}": "<u4" if part in {"row", "starts"} else "<u8"
    for prefix, parts in KEY_SECTIONS.items()
    for part in (*parts, *TABLE)
}


#: The types are strict, because the disk may have garbled the run.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_MaskSet = Annotated[int, msgspec.Meta(ge=0, lt=128)]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The header of a run.

    `count`: the number of entries. `sections`: for each section its name, type, offset in bytes and
    number of values. `sized_masks` and `unsized_masks`: the different algorithm masks of the
    entries with a size and without a size, each as a set of bits. `id`: a random text, so that a
    file of another list, or of another time, is not mistaken for this run.
    """

    count: Count
    categories: list[str]
    sized_masks: _MaskSet
    unsized_masks: _MaskSet
    sections: list[tuple[str, str, Count, Count]]
    id: str = ""


class DamagedError(StateError):
    """An index differs from the bytes that the writer wrote; `fetch` builds the index again."""


class Run:
    """A memory-mapped run."""

    def __init__(self, path: Path, *, length: int | None = None, run_id: str = "") -> None:
        """Map the run at `path` into memory.

        Raises:
            FileNotFoundError: the run is gone (a writer has replaced it since the manifest was
                read).
            StateError: the file is not a run, or does not have the length `length` or the id
                `run_id`, which are not checked if they are None.
        """
        self.name = path.name
        try:
            fd = open_run(path)
            try:
                actual = os.fstat(fd).st_size
                if actual < 16 or (length is not None and actual != length):
                    raise DamagedError(
                        f"index file has {actual} bytes, not {length}: {printable(path)}",
                        hint=REBUILD_HINT,
                    )
                head = _read_head(fd)
                self._map = mmap.mmap(fd, actual, access=mmap.ACCESS_READ)
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unreadable(path, error) from error
        # A run of a later version and a run with a changed byte cannot be distinguished;
        # `state.json` says whether the state is of a later version.
        if head[:8] != RUN_MAGIC and head[:6] == RUN_MAGIC[:6]:
            raise DamagedError(
                f"index file is of another version: {printable(path)}", hint=REBUILD_HINT
            )
        try:
            self._parse_header(head, actual)
            if run_id not in {"", self.id}:
                raise ValueError("another run")
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"index file is damaged: {printable(path)}", hint=REBUILD_HINT
            ) from error

    def _parse_header(self, head: bytes, actual: int) -> None:
        if head[:8] != RUN_MAGIC:
            raise ValueError("magic")
        end = _header_end(head)
        header = msgspec.json.decode(head[16:end], type=Header)
        self.id = header.id
        self.count = header.count
        self.category_names = header.categories
        self._sections: dict[str, npt.NDArray[np.generic]] = {}
        start = aligned(end)
        for name, dtype, offset, count in header.sections:
            type_name = "dead" if name.startswith("dead.") else name
            if not re.fullmatch(_TYPES[type_name], dtype):
                raise ValueError(name)
            kind = np.dtype(dtype)
            if start + offset + count * kind.itemsize > actual:
                raise ValueError(name)
            self._sections[name] = np.frombuffer(self._map, kind, count, start + offset)
        self.masks: Uint8 = self._sections["masks"].view(np.uint8)
        self.categories: Uint8 = self._sections["categories"].view(np.uint8)
        self.sizes: npt.NDArray[np.unsignedinteger[npt.NBitBase]] = self._sections["sizes"]  # type: ignore[assignment]
        self.ids: Strings = self._sections["ids"]  # type: ignore[assignment]
        lengths = {len(self.masks), len(self.categories), len(self.ids)}
        if lengths != {self.count} or len(self.sizes) > self.count:
            raise ValueError("count")
        for prefix, parts in KEY_SECTIONS.items():
            keys = {len(self._sections.get(f"{prefix}.{part}", ())) for part in parts}
            words = [len(self._sections.get(f"{prefix}.{part}", ())) for part in TABLE]
            if len(keys) > 1 or (max(keys) and words != table_lengths(max(keys))):
                raise ValueError(prefix)
        self.unsized_masks = header.unsized_masks
        self.sized_masks = header.sized_masks

    def forget(self) -> None:
        """Release the memory pages that were read so far; the next access reads them again."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def section(self, name: str) -> npt.NDArray[np.generic] | None:
        """Return the section `name`, or None if the run does not have it."""
        return self._sections.get(name)

    def rows_at(self, prefix: str, positions: Rows) -> Rows:
        """Return the rows to which the keys at `positions` of section `prefix` belong.

        Raises:
            DamagedError: the run has no rows with these numbers.
        """
        rows = self._sections[f"{prefix}.row"][positions].astype(np.intp)
        if len(rows) and int(rows.max()) >= self.count:
            raise self.damaged()
        return rows

    def damaged(self) -> DamagedError:
        """Return the error for a run that differs from the written bytes."""
        return DamagedError(f"index file is damaged: {self.name}", hint=ROT_HINT)

    def dead_sections(self) -> dict[str, Uint32]:
        """Return the rows that this run withdraws from older runs, by the name of the older run."""
        return {
            name.removeprefix("dead."): rows.view(np.uint32)
            for name, rows in self._sections.items()
            if name.startswith("dead.")
        }

    def size_of(self, row: int) -> int | None:
        """Return the size of the entry at `row` in bytes, or None if the entry has no size."""
        return int(self.sizes[row]) if row < len(self.sizes) else None

    def masks_of_size(self, size: int) -> int:
        """Return the algorithm masks of the entries of `size` bytes, as a set of bits."""
        dtype = self.sizes.dtype
        if size > np.iinfo(dtype).max:
            return 0
        key = dtype.type(size)
        low = int(self.sizes.searchsorted(key, "left"))
        high = int(self.sizes.searchsorted(key, "right"))
        if low == high:
            return 0
        if self.sized_masks & (self.sized_masks - 1) == 0:
            return self.sized_masks  # all entries with a size have the same mask
        return mask_set(self.masks[low:high])

    def of_sizes(self, sizes: Uint64) -> tuple[Rows, Uint8]:
        """Return the positions in `sizes` of the sizes that entries have, and a mask for each.

        The mask has the algorithms for which all entries of the size have a digest.
        """
        column = self.sizes
        if not len(column):
            return NOTHING, np.zeros(0, np.uint8)
        fits = np.flatnonzero(sizes <= np.iinfo(column.dtype).max)
        # Searching for keys in ascending order is fast, because each key is near the key that was
        # found before.
        keys, which = np.unique(sizes[fits].astype(column.dtype), return_inverse=True)
        low = column.searchsorted(keys, "left")
        has = low < len(column)
        has[has] = column[low[has]] == keys[has]
        masks = np.zeros(len(keys), np.uint8)
        low = low[has]
        if self.sized_masks & (self.sized_masks - 1) == 0:
            masks[has] = self.sized_masks.bit_length()
        elif len(low):
            # `bounds` has, for each size, its first row and the row after its last row. So every
            # second part has the rows between two sizes, and `[::2]` leaves these parts out. The
            # last bound is dropped if it is the end of the column, because `reduceat` refuses the
            # end of a column.
            bounds = np.column_stack([low, column.searchsorted(keys[has], "right")]).ravel()
            parts = bounds if bounds[-1] < len(column) else bounds[:-1]
            masks[has] = np.bitwise_and.reduceat(self.masks[: len(column)], parts)[::2]
        found = has[which]
        return fits[found], masks[which[found]]

    def find(self, prefix: str, keys: Uint64, *, once: bool = False) -> tuple[Rows, Rows]:
        """Return the pairs (query, position) where the sorted keys of `prefix` equal `keys`.

        A key that occurs several times has several pairs; with `once`, a key that occurs very often
        has only some pairs. `keys` may have any order.

        Raises:
            DamagedError: the sections do not belong together; not every wrong section is noticed.
        """
        column = self._sections.get(f"{prefix}.{KEY_SECTIONS[prefix][0]}")
        if column is None or not len(column) or not len(keys):
            return NOTHING, NOTHING
        keys_column = column.view(np.uint64)
        bits, starts = (self._sections[f"{prefix}.{part}"] for part in TABLE)
        try:
            table = bits.view(np.uint64), starts.view(np.uint32)
            return find(*table, keys_column, keys, once=once)
        except ValueError as error:
            raise self.damaged() from error

    def table(self, prefix: str) -> Lookup | None:
        """Return a `Lookup` for the keys of `prefix`, or None if the run has no such key."""
        column = self._sections.get(f"{prefix}.{KEY_SECTIONS[prefix][0]}")
        if column is None or not len(column):
            return None
        bits, starts = (self._sections[f"{prefix}.{part}"] for part in TABLE)
        words = bits.view(np.uint64)
        return Lookup(
            words.data,
            int(shift_of(words)),
            starts.view(np.uint32).data,
            column.view(np.uint64).data,
        )


def aligned(offset: int) -> int:
    """Round `offset` up to the alignment of sections."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def mask_set(masks: Uint8) -> int:
    """Return the different values (1..7) of `masks` as a set: bit m-1 stands for mask m."""
    present = np.zeros(8, np.intp)
    # numpy needs eight bytes for each value that it counts, so the values are counted in pieces.
    for start in range(0, len(masks), _COUNTED_AT_A_TIME):
        present += np.bincount(masks[start : start + _COUNTED_AT_A_TIME], minlength=8)[:8]
    return sum(1 << (m - 1) for m in range(1, 8) if present[m])


def open_run(path: Path) -> int:
    """Open a run, which must be a regular file, because a pipe would block and a device has no end.

    Raises:
        OSError: the file cannot be opened.
        DamagedError: the path is not a regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise DamagedError(f"index file is not a regular file: {printable(path)}", hint=REBUILD_HINT)


def unreadable(path: Path, error: OSError) -> StateError:
    """Translate an error of the system; `DamagedError` lets a fetch build a lost index again."""
    if error.errno in {errno.EIO, errno.ENOENT}:
        return DamagedError(
            f"cannot read index file: {printable(path)}: {error.strerror}", hint=ROT_HINT
        )
    return state_error("cannot read index file", path, error)


def _header_end(head: bytes) -> int:
    return 16 + int.from_bytes(head[8:16], "little")


def _read_head(fd: int) -> bytes:
    """Read a run up to the end of its header; read `HEAD_BYTES` of a file that is not a run.

    The header is read without the memory map, because a bad block of the disk causes an error for a
    read, but a signal for a map.
    """
    head = os.pread(fd, HEAD_BYTES, 0)
    if head[:8] == RUN_MAGIC and len(head) < (end := _header_end(head)) <= MAX_HEADER_BYTES:
        head += os.pread(fd, end - len(head), len(head))
    return head


PIECE_BYTES = 1 << 20
DIGEST_BYTES = 32


def pieces_of(length: int) -> int:
    """Return the number of pieces of a run of `length` bytes."""
    return -(-length // PIECE_BYTES)


def root_of(digests: bytes) -> str:
    """Return the root over the digests of all pieces, in hexadecimal."""
    return hashlib.sha256(digests).hexdigest()


def digest_pieces(path: Path, *, cold: bool = False) -> bytes:
    """Return the digests of the pieces of a run, joined.

    The run is read once, to its end, and without a memory map, because a bad block causes a signal
    for a map. With `cold`, the cached pages of the kernel are dropped first, as in `verify_piece`.

    Raises:
        DamagedError: the run does not exist any more.
        StateError: the run cannot be read.
    """
    digests = []
    buffer = memoryview(bytearray(PIECE_BYTES))
    with translated(path, unreadable), os.fdopen(open_run(path), "rb", buffering=0) as stream:
        if cold:
            _drop(stream.fileno(), 0, 0)
        while count := _fill(stream.fileno(), buffer):
            digests.append(hashlib.sha256(buffer[:count]).digest())
            if count < PIECE_BYTES:
                break
    return b"".join(digests)


def verify_piece(fd: int, path: Path, number: int, length: int, digest: bytes) -> None:
    """Read a piece of a run from the disk, and compare the piece with its digest.

    `fd` is the descriptor of the open run, and `length` the length of the run in bytes. Cached
    pages would hide damage on the disk, so they are dropped first; the kernel keeps pages that
    another process has mapped.

    Raises:
        DamagedError: the piece differs from what the writer wrote.
        StateError: the run cannot be read.
    """
    offset = number * PIECE_BYTES
    count = min(PIECE_BYTES, length - offset)
    with translated(path, unreadable):
        _drop(fd, offset, count)
        os.lseek(fd, offset, os.SEEK_SET)
        piece = memoryview(bytearray(count))
        if _fill(fd, piece) != count or hashlib.sha256(piece).digest() != digest:
            raise damaged(path)


def damaged(path: Path) -> DamagedError:
    """Return the error for a run that differs from the written bytes."""
    return DamagedError(f"index file is damaged: {printable(path)}", hint=ROT_HINT)


def _drop(fd: int, offset: int, count: int) -> None:
    """Drop the kernel's cached pages of a file from `offset` on; `count` 0 means up to the end."""
    with contextlib.suppress(OSError):  # some file systems do not support this call
        os.posix_fadvise(fd, offset, count, os.POSIX_FADV_DONTNEED)


def _fill(fd: int, buffer: memoryview) -> int:
    """Read until `buffer` is full or the file ends; return the number of bytes."""
    count = 0
    while count < len(buffer) and (more := os.readv(fd, [buffer[count:]])):
        count += more
    return count

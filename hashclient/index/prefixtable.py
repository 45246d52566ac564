"""A prefix table: finds where in a sorted column of 64-bit keys a key may be, by its leading bits.

The table is a rank/select bitmap that consists of two arrays. `bits` has one bit for each prefix
(the value of the leading bits of a key), which is set if a key of the column has this prefix.
`bits` has four to eight bits for each key, so testing one bit rules out most keys that are not in
the column. `starts` has, for each word of `bits`, the position of the first key whose prefix
belongs to the word, and as its last value the number of keys. The position of a key is at least the
position in `starts` plus the number of lower bits that are set in the key's word. Keys must be
evenly distributed, as tags and hashes are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hashclient.lists.wire import Uint32, Uint64

#: The smallest number of bits in `bits` for each key; the total number of bits is a power of two.
BITS_A_KEY = 4
#: The largest number of candidates for a key that are compared one by one; usually a key has one or
#: two. If a key has more candidates than `MOST_CROWDED`, their keys are equal, not just their
#: prefixes, so a binary search finds the key.
MOST_CROWDED = 80
_WORD_BITS = 64
_WORD_SHIFT = np.uint64(_WORD_BITS.bit_length() - 1)
_IN_WORD = np.uint64(_WORD_BITS - 1)
#: The number of keys that are looked up at a time, so that arrays of intermediate results stay in
#: the processor's cache.
_PIECE_KEYS = 1 << 16

Rows = npt.NDArray[np.intp]
NOTHING: Rows = np.zeros(0, np.intp)


def table_lengths(count: int) -> list[int]:
    """Return the lengths of the arrays `bits` and `starts` for `count` keys."""
    words = max(_WORD_BITS, 1 << (BITS_A_KEY * count).bit_length()) // _WORD_BITS
    return [words, words + 1]


class TableWriter:
    """Makes the prefix table of `count` keys."""

    def __init__(self, count: int) -> None:
        words, starts = table_lengths(count)
        self.bits = np.zeros(words, "<u8")
        self._counts = np.zeros(starts, "<u4")

    def add(self, keys: Uint64) -> None:
        """Add the next keys, in ascending order."""
        shift = shift_of(self.bits)
        for start in range(0, len(keys), _PIECE_KEYS):
            place = keys[start : start + _PIECE_KEYS] >> shift
            word = (place >> _WORD_SHIFT).view(np.intp)
            first = np.flatnonzero(np.append(True, word[1:] != word[:-1]))
            bit = np.uint64(1) << (place & _IN_WORD)
            at = word[first]
            self.bits[at] |= np.bitwise_or.reduceat(bit, first)
            self._counts[at + 1] += np.diff(np.append(first, len(word))).astype(np.uint32)

    def starts(self) -> Uint32:
        """Return the array `starts`, after all keys were added."""
        return np.cumsum(self._counts, dtype=np.uint32)


def find(
    bits: Uint64, starts: Uint32, column: Uint64, keys: Uint64, *, once: bool = False
) -> tuple[Rows, Rows]:
    """Return the pairs (query, position) where `column` equals `keys`, which may have any order.

    With `once`, a key that occurs very often has at least one pair (query, position), but may lack
    other pairs.

    Raises:
        ValueError: the table does not belong to the column; not every wrong table is noticed.
    """
    if len(keys) <= _PIECE_KEYS:
        return _find(bits, starts, column, keys, once=once)
    found = []
    for start in range(0, len(keys), _PIECE_KEYS):
        piece = keys[start : start + _PIECE_KEYS]
        queries, positions = _find(bits, starts, column, piece, once=once)
        found.append((queries + start, positions))
    queries, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return queries, positions


def _find(
    bits: Uint64, starts: Uint32, column: Uint64, keys: Uint64, *, once: bool
) -> tuple[Rows, Rows]:
    place = keys >> shift_of(bits)
    word = (place >> _WORD_SHIFT).view(np.intp)
    bit = place & _IN_WORD
    shifted = bits.take(word) >> bit
    queries = np.flatnonzero(shifted & np.uint64(1))
    if not len(queries):
        return NOTHING, NOTHING
    word, bit, shifted = word.take(queries), bit.take(queries), shifted.take(queries)
    # Each bit of the word that is set below or above the key's bit stands for at least one other
    # key, so the range of candidates can be narrowed.
    below = np.bitwise_count(bits.take(word) ^ shifted << bit)
    first = starts.take(word).astype(np.intp) + below
    end = starts.take(word + 1).astype(np.intp) - np.bitwise_count(shifted) + 1
    counts = end - first
    if int(counts.min()) < 1 or int(end.max()) > len(column):
        raise ValueError("table")
    crowded = np.flatnonzero(counts > MOST_CROWDED)
    if len(crowded):
        asked = keys.take(queries.take(crowded))
        first[crowded] = column.searchsorted(asked)
        counts[crowded] = column.searchsorted(asked, "right") - first[crowded]
        if int(counts.min()) < 0:  # the column is not sorted
            raise ValueError("column")
        if once:
            np.minimum(counts, MOST_CROWDED, out=counts)
    queries, positions = _expand(queries, first, counts)
    equal = column.take(positions) == keys.take(queries)
    return queries[equal], positions[equal]


def _expand(queries: Rows, first: Rows, counts: Rows) -> tuple[Rows, Rows]:
    """Return a (query, position) pair for each of the `counts` positions that begin at `first`."""
    ends = counts.cumsum()
    after_first = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    return np.repeat(queries, counts), np.repeat(first, counts) + after_first


class Lookup(NamedTuple):
    """A prefix table and its column, for looking up one key without numpy: see `may_have`."""

    bits: memoryview
    shift: int
    starts: memoryview
    column: memoryview


def may_have(lookup: Lookup, key: int) -> bool:
    """Return whether a column may have a key; this takes 1 microsecond, while `find` takes 20.

    If the result is False, the column does not have the key. The result may be True for a missing
    key if a sure answer would take long, or if the table does not belong to the column: the caller
    then calls `find`.
    """
    bits, shift, starts, column = lookup
    place = key >> shift
    at, bit = place >> 6, place & 63
    word = bits[at]
    from_here = word >> bit
    if not from_here & 1:
        return False
    first = starts[at] + (word & ((1 << bit) - 1)).bit_count()
    end = starts[at + 1] - from_here.bit_count() + 1
    if not 0 < end - first <= MOST_CROWDED or end > len(column):
        return True
    return key in column[first:end].tolist()


def shift_of(bits: Uint64) -> np.uint64:
    """Return by how many bits a key is shifted right to obtain its bit number in `bits`."""
    return np.uint64(64 - (_WORD_BITS * len(bits)).bit_length() + 1)

"""A lookup of one key in plain Python finds the same rows as the prefix table for many keys."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.index.prefixtable import (
    MOST_CROWDED,
    Lookup,
    TableWriter,
    find,
    may_have,
    shift_of,
)

Keys = npt.NDArray[np.uint64]


def made(keys: Keys) -> tuple[Lookup, Keys, npt.NDArray[np.uint32]]:
    """Return a lookup of sorted keys, and the two parts of their table."""
    writer = TableWriter(len(keys))
    writer.add(keys)
    starts = writer.starts()
    lookup = Lookup(writer.bits.data, int(shift_of(writer.bits)), starts.data, keys.data)
    return lookup, writer.bits, starts


@pytest.mark.parametrize("count", [1, 2, 100, 20_000])
def test_every_key_is_found_and_no_other(count: int) -> None:
    chance = np.random.default_rng(count)
    keys = np.unique(chance.integers(0, 1 << 64, count, np.uint64))
    lookup, bits, starts = made(keys)
    others = np.concatenate([keys + np.uint64(1), keys ^ np.uint64(1 << 63)])[:400]
    for key in keys[:400].tolist():
        assert may_have(lookup, key)
    for key in others.tolist():
        many = find(bits, starts, keys, np.array([key], np.uint64))
        assert may_have(lookup, key) is bool(len(many[0]))


@pytest.mark.slow
@given(
    st.lists(st.integers(min_value=0, max_value=(1 << 64) - 1), min_size=1, max_size=60),
    st.lists(st.integers(min_value=0, max_value=(1 << 64) - 1), max_size=20),
)
def test_any_keys(listed: list[int], asked: list[int]) -> None:
    lookup, _, _ = made(np.array(sorted(listed), np.uint64))
    for key in (*listed, *asked):
        assert may_have(lookup, key) is (key in listed)


def test_of_what_is_crowded_it_says_yes() -> None:
    keys = np.full(MOST_CROWDED + 5, 7, np.uint64)
    lookup, _, _ = made(keys)
    assert may_have(lookup, 7)
    # The filter may report a key that the run lacks, and `find` then decides.
    assert may_have(lookup, 8)
    assert not may_have(lookup, 1 << 63)


def test_a_table_of_another_column_says_yes_or_no_and_fails_never() -> None:
    chance = np.random.default_rng(1)
    keys = np.unique(chance.integers(0, 1 << 64, 300, np.uint64))
    lookup, _, starts = made(keys)
    for _ in range(200):
        damaged = starts.copy()
        damaged[chance.integers(len(damaged))] = chance.integers(1 << 32)
        for key in keys[:50].tolist():
            assert may_have(lookup._replace(starts=damaged.data), key) in (True, False)

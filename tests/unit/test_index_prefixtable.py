"""Prefix tables: their results are compared with a plain search through the column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.prefixtable import table_of
from hashclient.index.prefixtable import MOST_CROWDED, find

Keys = npt.NDArray[np.uint64]


def found(column: Keys, asked: Keys) -> list[tuple[int, int]]:
    pairs = find(*table_of(column), column, asked)
    return sorted(zip(*(part.tolist() for part in pairs), strict=True))


def searched(column: Keys, asked: Keys) -> list[tuple[int, int]]:
    low, high = column.searchsorted(asked), column.searchsorted(asked, "right")
    return [
        (query, position)
        for query, (first, end) in enumerate(zip(low.tolist(), high.tolist(), strict=True))
        for position in range(first, end)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7, 8, 1000, 300_000])
def test_present_keys_are_found_and_no_others(count: int) -> None:
    rng = np.random.default_rng(count)
    column = rng.integers(0, 2**64, count, np.uint64)
    column[: count // 8] = column[count // 2 : count // 2 + count // 8]
    column[[0, -1]] = 0, 2**64 - 1
    column.sort()
    asked = np.concatenate([column[::3], column[::2] - np.uint64(1), column[:1]])
    asked = rng.permutation(asked)
    expected = searched(column, asked)
    assert expected
    assert found(column, asked) == expected
    assert found(column, asked[:0]) == []


@given(st.data())
def test_any_keys(data: st.DataObject) -> None:
    """The keys include neighbours, both ends of the range, repeated keys and common beginnings."""
    near = st.sampled_from([0, 2**32, 2**63, 2**64 - 200])
    key = st.one_of(st.integers(0, 2**64 - 1), st.builds(int.__add__, near, st.integers(0, 199)))
    column = np.array(sorted(data.draw(st.lists(key, min_size=1, max_size=300))), np.uint64)
    others = data.draw(st.lists(key, max_size=20))
    asked = np.array([*data.draw(st.permutations(others)), *column[::2].tolist()], np.uint64)
    assert found(column, asked) == searched(column, asked)


def test_it_makes_no_difference_in_what_pieces_keys_are_added() -> None:
    column = np.sort(np.random.default_rng(3).integers(0, 2**64, 5000, np.uint64))
    whole = table_of(column)
    for parts in (np.array_split(column, 7), [column[:0], column[:1], column[1:]]):
        bits, starts = table_of(column, parts)
        assert bits.tolist() == whole[0].tolist()
        assert starts.tolist() == whole[1].tolist()


def test_few_of_what_is_not_there_pass_the_bits() -> None:
    rng = np.random.default_rng(5)
    column = np.sort(rng.integers(0, 2**64, 100_000, np.uint64))
    bits, _ = table_of(column)
    share = int(np.bitwise_count(bits).sum()) / (64 * len(bits))
    assert 1 / 9 < share < 1 / 4


def test_many_keys_that_begin_alike_are_found_among_others() -> None:
    others = np.random.default_rng(6).integers(2**60, 2**64, 1000, np.uint64)
    for crowd in (
        np.arange(MOST_CROWDED + 1, dtype=np.uint64),
        np.full(2 * MOST_CROWDED, 7, np.uint64),
    ):
        column = np.sort(np.concatenate([crowd, others]))
        asked = np.concatenate([others[:9], crowd[:3], others[9:20] + np.uint64(1), crowd[-1:]])
        assert found(column, asked) == searched(column, asked)
        assert found(crowd, crowd - np.uint64(2**63)) == []


def test_a_crowded_column_that_does_not_ascend_is_no_crash() -> None:
    column = np.arange(MOST_CROWDED + 1, dtype=np.uint64)
    table = table_of(column)
    garbled = np.roll(column, MOST_CROWDED // 2)
    for asked in column:
        try:
            queries, positions = find(*table, garbled, np.array([asked]))
        except ValueError:
            continue
        assert (garbled[positions] == asked).all() and (queries == 0).all()


@pytest.mark.parametrize("garble", [np.flip, np.zeros_like, lambda starts: starts + np.uint32(99)])
def test_a_table_of_something_else_is_no_crash(garble: object) -> None:
    assert callable(garble)
    column = np.sort(np.random.default_rng(4).integers(0, 2**64, 99, np.uint64))
    bits, starts = table_of(column)
    with pytest.raises(ValueError, match="table"):
        find(bits, garble(starts), column, column)

"""The history of a list: its marks, and how a client compares them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from hashclient.core.errors import VerificationError
from hashclient.lists.history import (
    FIELD,
    MAX_MARKS,
    continued,
    has_other,
    history_of,
    written,
)
from hashclient.lists.wire import FORMAT, ListIndex, Segment

MARK = "0123456789abcdef"


def index(generation: int, *ranges: tuple[int, int]) -> ListIndex:
    """Return an index with one segment for each range of generations."""
    segments = tuple(Segment(f"s{a}-{b}", "add", 1, a, b) for a, b in ranges)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return ListIndex(FORMAT, "baseline", generation, now, len(segments), "0" * 16, segments)


def hashes(of: ListIndex) -> dict[str, str]:
    return {s.name: hashlib.sha256(s.name.encode()).hexdigest() for s in of.segments}


def test_a_mark_is_made_once_and_is_kept_until_a_segment_straddles_its_generation() -> None:
    first = index(1, (1, 1))
    one = continued({}, first, hashes(first))
    line = f"\ns1-1 {hashes(first)['s1-1']}\n"
    assert one == {1: hashlib.sha256(line.encode()).hexdigest()[:16]}
    second = index(2, (1, 1), (2, 2))
    two = continued(one, second, hashes(second))
    line = f"{one[1]}\ns2-2 {hashes(second)['s2-2']}\n"
    assert two == {1: one[1], 2: hashlib.sha256(line.encode()).hexdigest()[:16]}
    joined = index(2, (1, 2))
    assert continued(two, joined, hashes(joined)) == {2: two[2]}
    third = index(3, (1, 2), (3, 3))
    # Generation 2 was consolidated on one host only; both make the same mark of generation 3.
    assert (
        continued({2: two[2]}, third, hashes(third))[3]
        == (continued(two, index(3, (1, 1), (2, 2), (3, 3)), hashes(third) | hashes(second))[3])
    )


def test_a_history_is_bounded() -> None:
    before = dict.fromkeys(range(1, MAX_MARKS + 1), MARK)
    last = index(MAX_MARKS + 1, (MAX_MARKS + 1, MAX_MARKS + 1))
    after = continued(before, last, hashes(last))
    assert (min(after), max(after), len(after)) == (2, MAX_MARKS + 1, MAX_MARKS)
    assert history_of({FIELD: written(after)}) == after


@pytest.mark.parametrize(
    "said",
    [
        *(7, [], "x", {"1": 7}, {"1": "0" * 15}, {"1": "0" * 17}, {"1": MARK.upper()}),
        *({name: MARK} for name in ("", "0", "01", "-1", "1\n", "1" * 17, "²")),
        {str(n): MARK for n in range(1, MAX_MARKS + 2)},
    ],
)
def test_a_history_that_breaks_a_rule_is_refused(said: object) -> None:
    with pytest.raises(VerificationError, match=FIELD):
        history_of({FIELD: said})


def test_nothing_is_compared_without_a_mark_or_a_history() -> None:
    for custom in (None, 7, {}, {"more": 1}):
        assert history_of(custom) == {}
    history = {3: MARK, 5: "0" * 16}
    assert not has_other(history, 3, MARK) and has_other(history, 5, MARK)
    assert has_other(history, 4, MARK)  # this provider has no generation 4
    assert not has_other(history, 2, MARK)  # older than the history
    assert not has_other({}, 3, MARK) and not has_other(history, 5, "")

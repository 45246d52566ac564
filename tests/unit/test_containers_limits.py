"""Limits for one file: how many containers, members and bytes it may have, and what is said."""

from __future__ import annotations

import pytest

from hashclient.containers import limits
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.limits import RATIO_FREE_BYTES, Budget, LimitError, Limits


def test_containers_may_be_in_one_another_up_to_a_depth() -> None:
    budget = Budget(Limits(depth=3), 9)
    for depth in (1, 3, 2):
        budget.enter(depth)
    with pytest.raises(NotReadError, match=r"^more than 3 containers deep$") as refused:
        budget.enter(4)
    assert refused.value.why is Why.LIMIT and not isinstance(refused.value, LimitError)
    budget.enter(3)
    assert (budget.steps, budget.bytes_out) == (5, 0)


def test_a_file_has_containers_and_members_up_to_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONTAINERS", 1_000)
    budget = Budget(Limits(members=1_500), 9)
    for _ in range(1_000):
        budget.enter(1)
    with pytest.raises(LimitError, match=r"^more than 1,000 containers$") as refused:
        budget.enter(1)
    assert refused.value.why is Why.LIMIT
    for _ in range(1_500):
        budget.member()
    with pytest.raises(LimitError, match=r"^more than 1,500 members$"):
        budget.member()
    assert budget.steps == 1_001 + 1_501


def test_the_bytes_that_come_out_are_limited_by_a_number_or_by_a_ratio() -> None:
    size = RATIO_FREE_BYTES
    for given, file_bytes, most, said in (
        (Limits(bytes_out=1_234), 1, 1_234, "more than 1,234 bytes come out"),
        (Limits(ratio=1_234), 1, size, "more than 1,234 times its own size comes out"),
        (Limits(ratio=1_234), size, 1_234 * size, "more than 1,234 times its own size comes out"),
        (Limits(bytes_out=size), 1, size, f"more than {size:,} bytes come out"),
        (Limits(bytes_out=size - 1), 1, size - 1, f"more than {size - 1:,} bytes come out"),
        (Limits(bytes_out=size + 1), 1, size, "more than 2,000 times its own size comes out"),
    ):
        budget = Budget(given, file_bytes)
        budget.take(most - 1)
        budget.take(1)
        assert budget.bytes_out == budget.steps == most
        with pytest.raises(LimitError) as refused:
            budget.take(1)
        assert str(refused.value) == refused.value.detail == said


def test_each_member_allows_some_more_bytes_up_to_the_number() -> None:
    budget = Budget(Limits(bytes_out=RATIO_FREE_BYTES + 9_000), 1)
    budget.take(RATIO_FREE_BYTES)
    budget.member()
    budget.take(8_192)
    budget.member()
    budget.take(808)
    with pytest.raises(LimitError, match=r"bytes come out$"):
        budget.take(1)


def test_1_gib_and_8_kib_for_each_member_come_out_of_any_file() -> None:
    for members, most in ((0, 1 << 30), (1, (1 << 30) + 8_192), (3, (1 << 30) + 24_576)):
        budget = Budget(Limits(), 1)
        for _ in range(members):
            budget.member()
        budget.take(most)
        with pytest.raises(LimitError):
            budget.take(1)


def test_a_file_has_250_000_containers() -> None:
    budget = Budget(Limits(), 1)
    for _ in range(250_000):
        budget.enter(1)
    with pytest.raises(LimitError, match=r"^more than 250,000 containers$"):
        budget.enter(1)


def test_half_of_the_memory_keeps_one_container() -> None:
    for memory_mib, most in ((1, 512 << 10), (3, 3 << 19), (256, 128 << 20)):
        assert Limits(memory_mib=memory_mib).spool_bytes == most


def test_members_add_to_the_bytes_that_a_large_file_allows() -> None:
    size = (1 << 29) + (1 << 12)
    for members, most in ((0, 2 * size), (1, 2 * size + 8_192), (3, 2 * size + 24_576)):
        budget = Budget(Limits(ratio=2), size)
        for _ in range(members):
            budget.member()
        budget.take(most)
        with pytest.raises(LimitError):
            budget.take(1)

"""Threads of a lookup: what they make comes in order, and they end when nobody wants more."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from hashclient.errors import UsageError
from hashclient.scan.lookup import AHEAD, _ahead


def test_what_is_made_ahead_comes_in_order() -> None:
    assert list(_ahead(iter(range(100)))) == list(range(100))
    assert list(_ahead(map(str, _ahead(iter(range(20)))))) == [str(n) for n in range(20)]
    assert list(_ahead(iter(()))) == []


def test_only_so_much_is_made_ahead() -> None:
    numbers = itertools.count()
    made = _ahead(numbers)
    assert [next(made) for _ in range(10)] == list(range(10))
    made.close()
    # Those that were taken, one for each that the room allows, and the one that found it full.
    assert next(numbers) <= 10 + AHEAD + 1


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def failing() -> Iterator[int]:
        yield from range(5)
        raise UsageError("enough")

    made = _ahead(map(int, _ahead(failing())))
    assert [next(made) for _ in range(5)] == list(range(5))
    with pytest.raises(UsageError, match="enough"):
        next(made)


def test_nothing_goes_on_when_nobody_wants_more() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    made = _ahead(map(int, _ahead(endless())))
    assert next(made) == 0
    made.close()
    del made
    assert closed.wait(10)

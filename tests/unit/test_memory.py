"""The cap on memory while a file is decoded."""

from __future__ import annotations

import resource
import threading

import numpy as np
import pytest

from hashclient.system.process import memory_cap

MIB = 1 << 20


@pytest.mark.slow
def test_only_an_allocation_beyond_the_cap_is_refused() -> None:
    with memory_cap(64 * MIB):
        with pytest.raises(MemoryError):
            np.ones(512 * MIB, np.uint8)
        assert np.ones(MIB, np.uint8).all()
    assert np.ones(128 * MIB, np.uint8).all()


def test_the_limit_is_as_before_also_after_an_error() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(ZeroDivisionError), memory_cap(64 * MIB):
        raise ZeroDivisionError
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_limit_that_is_lower_already_stays() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_cap(64 * MIB):
        inner, _ = resource.getrlimit(resource.RLIMIT_DATA)
        with memory_cap(512 * MIB):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == inner
    assert resource.getrlimit(resource.RLIMIT_DATA) == (soft, hard)


def test_the_limit_is_as_before_also_after_two_threads() -> None:
    """The second thread would keep the limit of the first, which ends while the second has one."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    has_first, has_second = threading.Event(), threading.Event()

    def one() -> None:
        with memory_cap(64 * MIB):
            has_first.set()
            has_second.wait(0.05)

    first = threading.Thread(target=one)
    first.start()
    has_first.wait()
    with memory_cap(64 * MIB):
        has_second.set()
        first.join()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before

"""Locks between processes: exclusive or shared, at once or after a wait, with messages."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hashclient.core.errors import LockedError
from hashclient.system import files
from hashclient.system.files import acquire, release, writer_lock


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Return two openings of one file: a lock belongs to the opening, not to the process."""
    fds = [os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2)]
    yield fds[0], fds[1]
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize(
    ("first_shared", "second_shared", "both"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_locks_on_one_file_of_several_processes(
    two: tuple[int, int], first_shared: bool, second_shared: bool, both: bool
) -> None:
    first, second = two
    assert acquire(first, shared=first_shared)
    assert acquire(second, shared=second_shared) is both
    release(first)
    assert acquire(second, shared=second_shared)


def test_a_waiting_process_gets_a_lock_once_it_is_free(two: tuple[int, int]) -> None:
    first, second = two
    assert acquire(first)
    timer = threading.Timer(0.05, release, [first])
    timer.start()
    assert acquire(second, wait_s=30)
    timer.join()


def test_a_wait_for_a_lock_ends_after_its_limit(
    two: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    assert acquire(first)
    pauses: list[float] = []
    now = 100.0

    def sleep(seconds: float) -> None:
        nonlocal now
        pauses.append(seconds)
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert not acquire(second, wait_s=1)
    assert pauses[0] == files.FIRST_PAUSE_S
    assert max(pauses) == files.LAST_PAUSE_S
    assert 1 <= sum(pauses) < 1 + 2 * files.LAST_PAUSE_S


def test_a_waiting_process_reports_it_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    said: list[object] = []
    with writer_lock(path, on_wait=lambda: said.append("free")):
        for wait_s in (0.0, 0.005):
            with (
                pytest.raises(LockedError),
                writer_lock(path, wait_s=wait_s, on_wait=partial(said.append, wait_s)),
            ):
                pass
    assert said == [0.005]


def test_the_message_fits_what_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with writer_lock(path):
        with pytest.raises(LockedError, match="writing to this state") as caught, writer_lock(path):
            pass
        assert "fetch --wait" in str(caught.value.hint)
        with (
            pytest.raises(LockedError, match=r"^reports are busy$") as caught,
            writer_lock(path, busy="reports are busy", hint="wait"),
        ):
            pass
        assert caught.value.hint == "wait"

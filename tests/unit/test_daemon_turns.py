"""Turns: threads do one piece of work at a time, for one client after the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hashclient.daemon.turns import Job, Turns, begun
from hashclient.daemon.users import Peer


class Owner:
    """Replaces a connection: the owner of a job, with the attributes that `turns` uses."""

    def __init__(self, user: str = "") -> None:
        self.peer = Peer("", user, True)
        self.is_closed = self.is_gone = False
        self.has_room = True

    def close_if_gone(self) -> None:
        if self.is_gone:
            self.close()

    def close(self) -> None:
        self.is_closed = True


def owner(user: str = "") -> Any:
    return Owner(user)


@begun
def job(
    name: str,
    pieces: int,
    said: list[str],
    at_told: Callable[[], None] = lambda: None,
    before: Callable[[], None] = lambda: None,
) -> Job:
    """Return a job that notes `name` when one of its pieces runs; without pieces, it fails."""
    try:
        yield None
        for left in range(pieces - 1, -1, -1):
            before()

            def told(more: int = left) -> bool:
                said.append(name)
                at_told()
                return more > 0

            yield told
        raise ValueError(name)
    finally:
        said.append(f"{name} dropped")


def run(
    start: Callable[[Turns], None], until: Callable[[], bool], threads: int = 1, percent: int = 100
) -> None:
    """Let threads work until a condition is true."""

    async def working() -> None:
        turns = Turns(asyncio.get_running_loop(), threads, "test", percent)
        start(turns)
        for _ in range(1000):
            if until():
                break
            await asyncio.sleep(0.001)
        turns.close()
        assert until()

    asyncio.run(working())


def test_each_has_a_turn_and_of_each_one_request_is_at_work() -> None:
    said: list[str] = []
    greedy, modest = owner(), owner()

    def start(turns: Turns) -> None:
        turns.add(greedy, job("a", 3, said))
        turns.add(greedy, job("b", 1, said))
        turns.add(modest, job("c", 2, said))

    run(start, lambda: len(said) == 9)
    assert said == ["a", "c", "a", "c", "c dropped", "a", "a dropped", "b", "b dropped"]


def test_users_have_turns_however_many_connections_each_has() -> None:
    said: list[str] = []

    def start(turns: Turns) -> None:
        for name in ("a1", "a2", "a3"):
            turns.add(owner("a"), job(name, 2, said))
        turns.add(owner("b"), job("b", 3, said))

    run(start, lambda: len(said) == 13)
    done = [name for name in said if "dropped" not in name]
    assert done[:7] == ["a1", "a2", "b", "a3", "b", "a1", "b"]


def test_one_user_has_a_part_of_the_threads() -> None:
    said: list[str] = []
    held, at_work = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        at_work.release()
        assert held.wait(60)

    def start(turns: Turns) -> None:
        for number in range(3):
            turns.add(owner("a"), job(f"a{number}", 1, said, before=hold))
        assert at_work.acquire(timeout=60)
        turns.add(owner("b"), job("b", 1, said, at_told=held.set))

    run(start, lambda: len(said) == 8, threads=2, percent=50)
    assert said[0] == "b"


def test_a_client_without_room_waits_until_there_is_some() -> None:
    said: list[str] = []
    full, other = owner(), owner()
    there_is = [False, True]

    def told() -> None:
        full.has_room = there_is.pop(0)

    def start(turns: Turns) -> None:
        def now_there_is() -> None:
            if "other dropped" not in said:
                asyncio.get_running_loop().call_later(0.01, now_there_is)
                return
            full.has_room = True
            turns.resume(full)

        turns.add(full, job("full", 2, said, at_told=told))
        turns.add(other, job("other", 2, said))
        asyncio.get_running_loop().call_soon(now_there_is)

    run(start, lambda: len(said) == 6)
    assert said == ["full", "other", "other", "other dropped", "full", "full dropped"]


def test_a_job_that_fails_or_lost_its_owner_is_dropped_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "hashclient.daemon")
    said: list[str] = []
    broken, gone, other = owner(), owner(), owner()

    def start(turns: Turns) -> None:
        turns.add(broken, job("broken", 0, said))
        gone.is_gone = True
        turns.add(gone, job("gone", 5, said))
        turns.add(gone, job("gone too", 5, said))
        turns.add(other, job("other", 1, said))

    run(start, lambda: len(said) == 6)
    assert said == [
        "broken dropped",
        "gone",
        "gone dropped",
        "gone too dropped",
        "other",
        "other dropped",
    ]
    assert broken.is_closed
    assert [record.getMessage() for record in caplog.records] == ["request failed: ValueError"]


def test_work_of_a_client_that_has_closed_is_dropped_at_once_however_busy_all_threads_are() -> None:
    said: list[str] = []
    held, at_work = threading.Event(), threading.Event()
    running, waiting, parked, late, other = (owner() for _ in range(5))

    def start(turns: Turns) -> None:
        def hold() -> None:
            at_work.set()
            assert held.wait(60)

        def close() -> None:
            assert at_work.wait(60)
            for client in (running, waiting, parked):
                client.close()
                turns.drop(client)
            late.close()
            turns.add(late, job("late", 1, said))
            said.append("closed")
            turns.drop(other)  # the other client has no work to drop
            turns.add(other, job("other", 1, said))
            held.set()

        def told() -> None:
            parked.has_room = False
            turns.add(running, job("running", 2, said, before=hold))
            turns.add(running, job("behind it", 1, said))
            for name in ("waiting", "waiting too"):
                turns.add(waiting, job(name, 1, said))
            asyncio.get_running_loop().call_soon(close)

        turns.add(parked, job("parked", 2, said, at_told=told))

    run(start, lambda: said[-1:] == ["other dropped"])
    assert said == [
        "parked",
        "behind it dropped",
        "waiting dropped",
        "waiting too dropped",
        "parked dropped",
        "late dropped",
        "closed",
        "running",
        "running dropped",
        "other",
        "other dropped",
    ]

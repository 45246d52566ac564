"""Turns: one piece each, one request of a client at a time, none for a client without room."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from hashclient.daemon.doors import Peer
from hashclient.daemon.turns import Turns


class Owner:
    """Somebody who waits for work."""

    def __init__(self, user: str = "") -> None:
        self.peer = Peer("", user, True)
        self.is_closed = self.is_gone = False
        self.has_room = True

    def close_if_gone(self) -> None:
        if self.is_gone:
            self.close()

    def close(self) -> None:
        self.is_closed = True


class Job:
    """Work of some pieces, that says when it is at it."""

    def __init__(self, name: str, pieces: int, said: list[str]) -> None:
        self.name, self.left, self.said = name, pieces, said
        self.at_told: Callable[[], None] = lambda: None

    def piece(self) -> Callable[[], bool]:
        if self.left < 0:
            raise ValueError(self.name)
        self.left -= 1

        def told() -> bool:
            self.said.append(self.name)
            self.at_told()
            return self.left > 0

        return told

    def stop(self) -> None:
        self.said.append(f"{self.name} stopped")

    def drop(self) -> None:
        self.said.append(f"{self.name} dropped")


def run(
    start: Callable[[Turns], None], until: Callable[[], bool], threads: int = 1, percent: int = 100
) -> None:
    """Let threads work until something is so."""

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
    greedy, modest = Owner(), Owner()

    def start(turns: Turns) -> None:
        turns.add(greedy, Job("a", 3, said))
        turns.add(greedy, Job("b", 1, said))
        turns.add(modest, Job("c", 2, said))

    run(start, lambda: len(said) == 9)
    assert said == ["a", "c", "a", "c", "c dropped", "a", "a dropped", "b", "b dropped"]


def test_users_have_turns_however_many_connections_each_has() -> None:
    said: list[str] = []

    def start(turns: Turns) -> None:
        for name in ("a1", "a2", "a3"):
            turns.add(Owner("a"), Job(name, 2, said))
        turns.add(Owner("b"), Job("b", 3, said))

    run(start, lambda: len(said) == 13)
    done = [name for name in said if "dropped" not in name]
    assert done[:7] == ["a1", "a2", "b", "a3", "b", "a1", "b"]


def test_one_user_has_a_part_of_the_threads() -> None:
    said: list[str] = []
    held, begun = threading.Event(), threading.Semaphore(0)

    class Long(Job):
        def piece(self) -> Callable[[], bool]:
            begun.release()
            assert held.wait(20)
            return super().piece()

    def start(turns: Turns) -> None:
        for number in range(3):
            turns.add(Owner("a"), Long(f"a{number}", 1, said))
        assert begun.acquire(timeout=20)
        other = Job("b", 1, said)
        other.at_told = held.set
        turns.add(Owner("b"), other)

    run(start, lambda: len(said) == 8, threads=2, percent=50)
    assert said[0] == "b"


def test_a_client_without_room_waits_until_there_is_some() -> None:
    said: list[str] = []
    full, other = Owner(), Owner()
    jobs = [Job("full", 2, said), Job("other", 2, said)]

    def start(turns: Turns) -> None:
        jobs[0].at_told = lambda: setattr(full, "has_room", False)

        def now_there_is() -> None:
            full.has_room = True
            jobs[0].at_told = lambda: None
            turns.resume(full)

        turns.add(full, jobs[0])
        turns.add(other, jobs[1])
        asyncio.get_running_loop().call_later(0.05, now_there_is)

    run(start, lambda: len(said) == 6)
    assert said == ["full", "other", "other", "other dropped", "full", "full dropped"]


def test_a_job_that_fails_or_lost_its_owner_is_dropped_and_others_go_on() -> None:
    said: list[str] = []
    broken, gone, other = Owner(), Owner(), Owner()

    def start(turns: Turns) -> None:
        turns.add(broken, Job("broken", -1, said))
        gone.is_gone = True
        turns.add(gone, Job("gone", 5, said))
        turns.add(gone, Job("gone too", 5, said))
        turns.add(other, Job("other", 1, said))

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

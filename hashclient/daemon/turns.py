"""Long work in threads, a piece at a time and in turn: who asks for much waits longest.

A disk may take its time, and a tree may be the whole disk. So whatever is read for a client is cut
into pieces; after each, the next piece is that of another client. Of one client, one request is at
work at a time, and none while it does not read its answers. All but the pieces themselves happens
in the thread of the loop.

Limit: a piece that the kernel never answers keeps its thread.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from hashclient.system.log import Log

if TYPE_CHECKING:
    import asyncio

_log = Log("daemon")


class Owner(Protocol):
    """Who waits for work to be done."""

    is_closed: bool

    @property
    def has_room(self) -> bool:
        """Whether what comes next can be answered."""
        ...

    def close_if_gone(self) -> None:
        """Close if nobody is there any more."""
        ...

    def close(self) -> None:
        """Take note that the work has failed."""
        ...


class Job(Protocol):
    """Work in pieces."""

    def piece(self) -> Callable[[], bool]:
        """Do the next piece, in a thread; return what is then called in the loop.

        That returns whether there is more to do.
        """
        ...

    def drop(self) -> None:
        """Do no more; called in the loop, and never while a piece is done."""
        ...


class Turns:
    """Gives turns to those who have work to be done."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int, name: str) -> None:
        """Do at most `threads` pieces at the same time."""
        self._loop = loop
        self._free = threads
        self._pool = ThreadPoolExecutor(threads, name)
        self._jobs: dict[Owner, deque[Job]] = {}
        self._ring: deque[Owner] = deque()
        self._parked: set[Owner] = set()

    def add(self, owner: Owner, job: Job) -> None:
        """Have something done, after whatever else `owner` has asked for."""
        waiting = self._jobs.get(owner)
        if waiting is None:
            self._jobs[owner] = deque([job])
            self._ring.append(owner)
            self._go()
        else:
            waiting.append(job)

    def resume(self, owner: Owner) -> None:
        """Go on with work that had no room for what came of it."""
        if owner in self._parked:
            self._parked.discard(owner)
            self._ring.append(owner)
            self._go()

    def close(self) -> None:
        """Begin no more, and wait for what is at work."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _go(self) -> None:
        while self._free and self._ring:
            owner = self._ring.popleft()
            self._free -= 1
            self._pool.submit(self._piece, owner, self._jobs[owner][0])

    def _piece(self, owner: Owner, job: Job) -> None:
        try:
            told = None if owner.is_closed else job.piece()
        except BaseException as error:  # noqa: BLE001 - it fails for its owner alone
            _log.info("request failed: %s", getattr(error, "message", type(error).__name__))
            told = None
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            self._loop.call_soon_threadsafe(self._told, owner, job, told)

    def _told(self, owner: Owner, job: Job, told: Callable[[], bool] | None) -> None:
        self._free += 1
        jobs = self._jobs[owner]
        try:
            if told is None:
                owner.close()
            elif not told():
                jobs.popleft()
                job.drop()
            owner.close_if_gone()
        finally:
            if owner.is_closed:
                self._forget(owner)
            elif not jobs:
                del self._jobs[owner]
            elif owner.has_room:
                self._ring.append(owner)
            else:
                self._parked.add(owner)
            self._go()

    def closed(self, owner: Owner) -> None:
        """Drop what an owner that has closed was waiting for."""
        if owner in self._parked:
            self._parked.discard(owner)
            self._forget(owner)

    def _forget(self, owner: Owner) -> None:
        for job in self._jobs.pop(owner, ()):
            job.drop()

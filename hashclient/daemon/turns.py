"""Long work in threads, a piece at a time and in turn, so that large requests wait longest.

A disk may be slow, and a tree may be the whole disk. So reading for a client is cut into pieces;
after each piece, another client has its turn. Each client has one request at work at a time, and
none while it does not read its answers. Only the pieces themselves run outside of the thread of the
loop.

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
    """The client of some work."""

    is_closed: bool

    @property
    def has_room(self) -> bool:
        """Whether there is room for the next answer."""
        ...

    def close_if_gone(self) -> None:
        """Close if the client has closed."""
        ...

    def close(self) -> None:
        """Note that the work has failed."""
        ...


class Job(Protocol):
    """Work in pieces."""

    def piece(self) -> Callable[[], bool]:
        """Do the next piece, in a thread; return a function that is then called in the loop.

        The function returns whether there is more to do.
        """
        ...

    def stop(self) -> None:
        """End the running piece soon, if it may take long; called in the loop."""
        ...

    def drop(self) -> None:
        """Stop; called in the loop, and never during a piece."""
        ...


class Turns:
    """Gives turns to the owners of work."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int, name: str) -> None:
        """Do at most `threads` pieces at the same time."""
        self._loop = loop
        self._free = threads
        self._pool = ThreadPoolExecutor(threads, name)
        self._jobs: dict[Owner, deque[Job]] = {}
        self._ring: deque[Owner] = deque()
        self._parked: set[Owner] = set()

    def add(self, owner: Owner, job: Job) -> None:
        """Queue work, after all earlier work of `owner`."""
        waiting = self._jobs.get(owner)
        if waiting is None:
            self._jobs[owner] = deque([job])
            self._ring.append(owner)
            self._go()
        else:
            waiting.append(job)

    def resume(self, owner: Owner) -> None:
        """Go on with work that waited for room for its answers."""
        if owner in self._parked:
            self._parked.discard(owner)
            self._ring.append(owner)
            self._go()

    def close(self) -> None:
        """Begin no more work, and wait for the running pieces."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _go(self) -> None:
        while self._free and self._ring:
            owner = self._ring.popleft()
            self._free -= 1
            self._pool.submit(self._piece, owner, self._jobs[owner][0])

    def _piece(self, owner: Owner, job: Job) -> None:
        try:
            step = None if owner.is_closed else job.piece()
        except BaseException as error:  # noqa: BLE001 - it fails for its owner alone
            _log.info("request failed: %s", getattr(error, "message", type(error).__name__))
            step = None
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            self._loop.call_soon_threadsafe(self._piece_ended, owner, job, step)

    def _piece_ended(self, owner: Owner, job: Job, step: Callable[[], bool] | None) -> None:
        self._free += 1
        jobs = self._jobs[owner]
        try:
            if step is None:
                owner.close()
            elif not step():
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
        """Drop the work of an owner that has closed."""
        if owner in self._parked:
            self._parked.discard(owner)
            self._forget(owner)
        elif jobs := self._jobs.get(owner):
            jobs[0].stop()

    def _forget(self, owner: Owner) -> None:
        for job in self._jobs.pop(owner, ()):
            job.drop()

"""Long work in threads, a piece at a time and in turn, so that large requests wait longest.

A disk may be slow, and a tree may be the whole disk. So reading for a client is cut into pieces;
after each piece, another user has a turn, and of each user another client. One user has a part of
the threads. Each client has one request at work at a time, and none while it does not read its
answers. Only the pieces themselves run outside of the thread of the loop.

Limit: a piece that the kernel never answers keeps its thread.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from hashclient.daemon.doors import Peer
from hashclient.daemon.shares import Share
from hashclient.system.log import Log

if TYPE_CHECKING:
    import asyncio

_log = Log("daemon")


class Owner(Protocol):
    """The client of some work."""

    peer: Peer
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

    def __init__(
        self, loop: asyncio.AbstractEventLoop, threads: int, name: str, percent: int = 100
    ) -> None:
        """Do at most `threads` pieces at the same time, `percent` of them for one user."""
        self._loop = loop
        self._threads = Share(threads, percent)
        self._pool = ThreadPoolExecutor(threads, name)
        self._jobs: dict[Owner, deque[Job]] = {}
        #: By user, those who wait for their turn; the user whose turn is next comes first.
        self._ring: dict[str, deque[Owner]] = {}
        self._parked: set[Owner] = set()

    def add(self, owner: Owner, job: Job) -> None:
        """Queue work, after all earlier work of `owner`."""
        waiting = self._jobs.get(owner)
        if waiting is None:
            self._jobs[owner] = deque([job])
            self._wait(owner)
            self._go()
        else:
            waiting.append(job)

    def resume(self, owner: Owner) -> None:
        """Go on with work that waited for room for its answers."""
        if owner in self._parked:
            self._parked.discard(owner)
            self._wait(owner)
            self._go()

    def close(self) -> None:
        """Begin no more work, and wait for the running pieces."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _wait(self, owner: Owner) -> None:
        self._ring.setdefault(owner.peer.user, deque()).append(owner)

    def _go(self) -> None:
        while any(self._begin(user) for user in list(self._ring)):
            pass

    def _begin(self, user: str) -> bool:
        """Begin the next piece of a user, if a thread is free for it; return whether it is so."""
        owners = self._ring[user]
        if not self._threads.take(owners[0].peer):
            return False
        owner = owners.popleft()
        del self._ring[user]
        if owners:  # they come after all other users
            self._ring[user] = owners
        self._pool.submit(self._piece, owner, self._jobs[owner][0])
        return True

    def _piece(self, owner: Owner, job: Job) -> None:
        try:
            step = None if owner.is_closed else job.piece()
        except BaseException as error:  # noqa: BLE001 - it fails for its owner alone
            _log.info("request failed: %s", getattr(error, "message", type(error).__name__))
            step = None
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            self._loop.call_soon_threadsafe(self._piece_ended, owner, job, step)

    def _piece_ended(self, owner: Owner, job: Job, step: Callable[[], bool] | None) -> None:
        self._threads.give_back(owner.peer)
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
                self._wait(owner)
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

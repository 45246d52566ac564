"""Long work in threads, a piece at a time and in turn, so that large requests wait longest.

A disk may be slow, and a tree may be the whole disk. So reading for a client is divided into
pieces; after each piece, the next user has a turn, with their next client. One user can use only a
part of the threads. Only one request of each client is at work at a time, and none while the client
has unread answers. Only the pieces themselves run outside the thread of the loop.

Limit: a read that the kernel never answers keeps its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec

from hashclient.daemon.client import Client
from hashclient.daemon.users import Share
from hashclient.system.log import Log

_log = Log("daemon")

#: Called in the loop after a piece of work; returns whether more work remains.
Step = Callable[[], bool | None]
#: Work in pieces: a thread runs the generator up to the next `yield`. It yields a step, or None if
#: more work remains and no step must be called. The loop closes the generator at its end, or when
#: its client has closed.
Job = Generator[Step | None, None, None]


P = ParamSpec("P")


def begun(pieces: Callable[P, Job]) -> Callable[P, Job]:
    """Make jobs that run up to their first `yield` at once.

    So `close` frees the resources of the jobs, even if they never had a turn.
    """

    @functools.wraps(pieces)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Job:
        job = pieces(*args, **kwargs)
        next(job)
        return job

    return begin


class Turns:
    """Gives turns to clients with work."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, threads: int, name: str, percent: int = 100
    ) -> None:
        """Do at most `threads` pieces at a time, at most `percent` of them for one user."""
        self._loop = loop
        self._threads = Share(threads, percent)
        self._pool = ThreadPoolExecutor(threads, name)
        self._jobs: dict[Client, deque[Job]] = {}
        #: The waiting clients of each user; the user whose turn is next comes first.
        self._ring: dict[str, deque[Client]] = {}
        self._parked: set[Client] = set()

    def add(self, client: Client, job: Job) -> None:
        """Queue work, after all earlier work of `client`; drop it if the client has closed."""
        if client.is_closed:
            job.close()
            return
        waiting = self._jobs.get(client)
        if waiting is None:
            self._jobs[client] = deque([job])
            self._wait(client)
            self._go()
        else:
            waiting.append(job)

    def resume(self, client: Client) -> None:
        """Continue work that waited until its client has read answers."""
        if client in self._parked:
            self._parked.discard(client)
            self._wait(client)
            self._go()

    def drop(self, client: Client) -> None:
        """Drop the work of a closed client at once: it would keep files open for long.

        A piece that is running ends first.
        """
        user = client.peer.user
        waiting = self._ring.get(user, deque())
        if client in waiting:
            waiting.remove(client)
            if not waiting:
                del self._ring[user]
        elif client in self._parked:
            self._parked.discard(client)
        else:
            jobs = self._jobs.get(client, deque())
            while len(jobs) > 1:
                jobs.pop().close()
            return
        self._forget(client)

    def close(self) -> None:
        """Begin no more work, and wait for the running pieces."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _wait(self, client: Client) -> None:
        self._ring.setdefault(client.peer.user, deque()).append(client)

    def _go(self) -> None:
        while any(self._begin(user) for user in list(self._ring)):
            pass

    def _begin(self, user: str) -> bool:
        """Begin the next piece of a user if a thread is free; return whether it began."""
        clients = self._ring[user]
        if not self._threads.take(clients[0].peer):
            return False
        client = clients.popleft()
        del self._ring[user]
        if clients:  # the user's other clients wait for all other users
            self._ring[user] = clients
        self._pool.submit(self._piece, client, self._jobs[client][0])
        return True

    def _piece(self, client: Client, job: Job) -> None:
        try:
            step = client.close if client.is_closed else next(job)
        except BaseException as error:  # noqa: BLE001 - it fails for its client alone
            _log.info("request failed: %s", getattr(error, "message", type(error).__name__))
            step = client.close
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            self._loop.call_soon_threadsafe(self._piece_ended, client, job, step)

    def _piece_ended(self, client: Client, job: Job, step: Step | None) -> None:
        self._threads.give_back(client.peer)
        jobs = self._jobs[client]
        try:
            if step is not None and not step():
                jobs.popleft()
                job.close()
            client.close_if_gone()
        finally:
            if client.is_closed:
                self._forget(client)
            elif not jobs:
                del self._jobs[client]
            elif client.has_room:
                self._wait(client)
            else:
                self._parked.add(client)
            self._go()

    def _forget(self, client: Client) -> None:
        for job in self._jobs.pop(client, ()):
            job.close()

"""Runs long jobs in threads, in pieces and in turn, so that no job delays the others.

A job is divided into pieces, because a disk may be slow, and a client may ask about all files of a
disk. After each piece, a client of the next user has a turn. One user can use only a part of the
threads. Only one job of each client runs at a time, and none while many answers to the client are
unsent. The pieces run in other threads; all other code of this module runs in the thread of the
event loop.

Limit: a system call that never returns blocks its thread for ever.
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

#: A function that the event loop calls after a piece of a job; it returns whether the job has more
#: pieces.
Step = Callable[[], bool | None]
#: A job is a generator that a thread runs up to the next `yield`. At the end of a piece, a job
#: yields the step that the event loop must call, or None. After None, the event loop calls nothing,
#: and the job has more pieces. The event loop closes the generator when the job has ended, or when
#: the client has closed the connection.
Job = Generator[Step | None, None, None]


P = ParamSpec("P")


def begun(pieces: Callable[P, Job]) -> Callable[P, Job]:
    """Return a function like `pieces` whose jobs have already run up to their first `yield`.

    A job that has run up to its first `yield` is inside its `try` block, so `close` frees its
    resources even if the job never had a turn.
    """

    @functools.wraps(pieces)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Job:
        job = pieces(*args, **kwargs)
        next(job)
        return job

    return begin


class Turns:
    """Runs the jobs of clients in turn, in a pool of threads."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, threads: int, name: str, percent: int = 100
    ) -> None:
        """Run at most `threads` pieces at a time, and at most `percent` of them for one user."""
        self._loop = loop
        self._threads = Share(threads, percent)
        self._pool = ThreadPoolExecutor(threads, name)
        self._jobs: dict[Client, deque[Job]] = {}
        #: The waiting clients of each user; the user whose turn is next is the first key.
        self._ring: dict[str, deque[Client]] = {}
        self._parked: set[Client] = set()

    def add(self, client: Client, job: Job) -> None:
        """Queue a job after the earlier jobs of `client`; close it if the client is closed."""
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
        """Continue the jobs of a client that waited until the client had read answers."""
        if client in self._parked:
            self._parked.discard(client)
            self._wait(client)
            self._go()

    def drop(self, client: Client) -> None:
        """Close the jobs of a closed client at once, because jobs keep files open.

        A job with a running piece is closed when the piece has ended.
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
        """Begin no more pieces, and wait until the running pieces have ended."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _wait(self, client: Client) -> None:
        self._ring.setdefault(client.peer.user, deque()).append(client)

    def _go(self) -> None:
        while any(self._begin(user) for user in list(self._ring)):
            pass

    def _begin(self, user: str) -> bool:
        """Begin the next piece of a user if a thread is free; return whether a piece has begun."""
        clients = self._ring[user]
        if not self._threads.take(clients[0].peer):
            return False
        client = clients.popleft()
        del self._ring[user]
        if clients:  # move the user, with its other clients, to the end of the queue
            self._ring[user] = clients
        self._pool.submit(self._piece, client, self._jobs[client][0])
        return True

    def _piece(self, client: Client, job: Job) -> None:
        try:
            step = client.close if client.is_closed else next(job)
        except BaseException as error:  # noqa: BLE001 - only this client is closed
            _log.info("request failed: %s", getattr(error, "message", type(error).__name__))
            step = client.close
        with contextlib.suppress(RuntimeError):  # raised if the event loop is closed
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

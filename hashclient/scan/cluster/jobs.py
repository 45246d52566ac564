"""Batches that are on their way to the workers of a cluster; each batch ends once.

The number of batches on their way is limited. A batch that no worker can take any more is sent
again, but not for ever: a batch during which several workers have died is lost.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Any

import msgspec

from hashclient.scan.cluster.connection import Connection, GoneError
from hashclient.scan.cluster.crew import Crew

#: Batches that are sent for each batch that can be checked at a time: one at work and one waiting.
AHEAD = 2
#: A batch during which so many workers have died is not tried again.
MOST_DEATHS = 3
#: Seconds for a worker to come back when none is left; then the cluster is gone.
PATIENCE_S = 60.0

#: A function of a worker: called with the name of the scan, and a batch as bytes.
Function = Callable[[str, bytes], bytes]


class _Job(msgspec.Struct):
    """A batch that is on its way, its request, and its Dask future."""

    batch: Any
    function: Function
    payload: bytes
    future: Any = None
    #: How many workers have died with it, while the scheduler did not count.
    deaths: int = 0


class Jobs:
    """The batches of one scan; for one thread."""

    def __init__(self, connection: Connection, crew: Crew, name: str) -> None:
        """Begin without batches, of the scan with this name."""
        self._connection = connection
        self._crew = crew
        self._name = name
        self._jobs: dict[str, _Job] = {}
        self._numbers = itertools.count()
        #: Batches that no worker could take at the last look.
        self._stuck: set[str] = set()
        self._lost: list[Any] = []

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def slots(self) -> int:
        """How many batches can be done at a time."""
        return self._crew.slots

    @property
    def has_room(self) -> bool:
        """Whether one more batch should be on its way."""
        return len(self._jobs) < AHEAD * self._crew.slots

    @property
    def batches(self) -> list[Any]:
        """The batches that are on their way."""
        return [job.batch for job in self._jobs.values()]

    @property
    def futures(self) -> list[Any]:
        """The Dask futures of these batches."""
        return [job.future for job in self._jobs.values()]

    def submit(self, batch: Any, function: Function, payload: bytes) -> None:
        """Have some worker call `function` with a batch, as `payload`.

        Raises:
            GoneError: the scheduler does not answer; the batch counts as on its way.
        """
        self._submit(_Job(batch, function, payload))

    def _submit(self, job: _Job) -> None:
        key = f"{self._crew.resource}-{next(self._numbers)}"
        self._jobs[key] = job
        job.future = self._connection.submit(
            job.function, self._name, job.payload, key=key, resource=self._crew.resource
        )

    def ended(self, seconds: float) -> list[tuple[Any, bytes | None]]:
        """Return ended batches, with their answers; wait up to `seconds` for the first.

        The answer is None if no worker could give it.

        Raises:
            GoneError: the scheduler has gone.
        """
        answers = self._connection.ended(seconds)
        if not answers and not self._connection.is_up:
            raise GoneError
        # A batch that was sent again has another key now.
        return [(self._jobs.pop(k).batch, a) for k, a in answers.items() if k in self._jobs]

    def look(self) -> None:
        """Now and then, check the workers, and send again the batches that they cannot do any more.

        Raises:
            GoneError: the scheduler does not answer, or no worker was present for too long.
        """
        looked = self._crew.look()
        since = self._crew.idle_since
        if since is not None and time.monotonic() - since > PATIENCE_S:
            raise GoneError
        if looked:
            self._hand_out_again()

    def _hand_out_again(self) -> None:
        """Send again batches that reached the scheduler when no worker was ready, up to a limit.

        The scheduler does not send these batches by itself when a worker is ready again.
        """
        stuck = self._connection.stuck() if self._crew.slots else set()
        # A worker may just have become ready: only batches that wait for longer are stuck.
        again, self._stuck = stuck & self._stuck & self._jobs.keys(), stuck
        if not again:
            return
        self._connection.abandon([self._jobs[key].future for key in again])
        for key in again:
            job = self._jobs.pop(key)
            job.deaths += min(2, self._crew.most)  # one worker died, perhaps more
            if job.deaths >= MOST_DEATHS:
                self._lost.append(job.batch)
            else:
                self._submit(job)

    def take_lost(self) -> list[Any]:
        """Return the batches that were lost since the last call."""
        lost, self._lost = self._lost, []
        return lost

    def abandon(self) -> None:
        """Forget all batches that are on their way."""
        futures = self.futures
        self._jobs.clear()
        self._lost.clear()
        if futures:
            with contextlib.suppress(GoneError):
                self._connection.abandon(futures)

    def take_all(self) -> list[Any]:
        """Return all batches that are on their way, and forget them."""
        batches = self.batches
        self._jobs.clear()
        return batches

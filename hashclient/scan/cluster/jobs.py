"""The batches that the workers of a cluster have not answered yet; each batch ends exactly once.

The number of unanswered batches is limited. A batch that no worker can take any more is sent again.
A batch during which several workers have died is lost, so that no batch is sent for ever.
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

#: For each batch that the workers can check at the same time, this many batches are sent: one is
#: checked, and one waits at the worker.
AHEAD = 2
#: A batch during which this many workers have died is not sent again.
MOST_DEATHS = 3
#: If no worker is left for this many seconds, the cluster counts as gone.
PATIENCE_S = 60.0

#: A function of a worker, which is called with the name of the scan, and a batch as bytes.
Function = Callable[[str, bytes], bytes]


class _Job(msgspec.Struct):
    """A batch that was sent, its request, and its Dask future."""

    batch: Any
    function: Function
    payload: bytes
    future: Any = None
    #: How many workers have died during the batch, without those that the scheduler has counted.
    deaths: int = 0


class Jobs:
    """The unanswered batches of one scan; only one thread may use a value of this class."""

    def __init__(self, connection: Connection, crew: Crew, name: str) -> None:
        """Begin without batches; `name` is the name of the scan."""
        self._connection = connection
        self._crew = crew
        self._name = name
        self._jobs: dict[str, _Job] = {}
        self._numbers = itertools.count()
        #: The keys of batches that no worker could take at the last look.
        self._stuck: set[str] = set()
        self._lost: list[Any] = []

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def slots(self) -> int:
        """The number of batches that can be done at the same time."""
        return self._crew.slots

    @property
    def has_room(self) -> bool:
        """Whether one more batch may be sent."""
        return len(self._jobs) < AHEAD * self._crew.slots

    @property
    def batches(self) -> list[Any]:
        """The batches that were sent, and are not answered."""
        return [job.batch for job in self._jobs.values()]

    @property
    def futures(self) -> list[Any]:
        """The Dask futures of the batches in `batches`."""
        return [job.future for job in self._jobs.values()]

    def submit(self, batch: Any, function: Function, payload: bytes) -> None:
        """Let any ready worker call `function` with `payload`, the bytes of `batch`.

        Raises:
            GoneError: the scheduler does not answer; the batch counts as sent.
        """
        self._submit(_Job(batch, function, payload))

    def _submit(self, job: _Job) -> None:
        key = f"{self._crew.resource}-{next(self._numbers)}"
        self._jobs[key] = job
        job.future = self._connection.submit(
            job.function, self._name, job.payload, key=key, resource=self._crew.resource
        )

    def ended(self, seconds: float) -> list[tuple[Any, bytes | None]]:
        """Return ended batches with their answers; wait up to `seconds` for the first answer.

        An answer is None if no worker could compute it.

        Raises:
            GoneError: the scheduler is gone.
        """
        answers = self._connection.ended(seconds)
        if not answers and not self._connection.is_up:
            raise GoneError
        # The key is missing in `_jobs` if the batch was sent again with another key.
        return [(self._jobs.pop(k).batch, a) for k, a in answers.items() if k in self._jobs]

    def look(self) -> None:
        """Once a second, check the workers, and send batches again that workers cannot do any more.

        Raises:
            GoneError: the scheduler does not answer, or no worker was present for `PATIENCE_S`
                seconds.
        """
        looked = self._crew.look()
        since = self._crew.idle_since
        if since is not None and time.monotonic() - since > PATIENCE_S:
            raise GoneError
        if looked:
            self._hand_out_again()

    def _hand_out_again(self) -> None:
        """Send batches again that reached the scheduler when no worker was ready, up to a limit.

        The scheduler itself does not send batches again that reached it when no worker was ready.
        """
        stuck = self._connection.stuck() if self._crew.slots else set()
        # A worker may just have become ready, so only batches that were stuck at two looks are sent
        # again.
        again, self._stuck = stuck & self._stuck & self._jobs.keys(), stuck
        if not again:
            return
        self._connection.abandon([self._jobs[key].future for key in again])
        for key in again:
            job = self._jobs.pop(key)
            job.deaths += min(2, self._crew.most)  # at least one worker died, and maybe more
            if job.deaths >= MOST_DEATHS:
                self._lost.append(job.batch)
            else:
                self._submit(job)

    def take_lost(self) -> list[Any]:
        """Return the batches that were lost since the last call."""
        lost, self._lost = self._lost, []
        return lost

    def abandon(self) -> None:
        """Forget all batches that are not answered."""
        futures = self.futures
        self._jobs.clear()
        self._lost.clear()
        if futures:
            with contextlib.suppress(GoneError):
                self._connection.abandon(futures)

    def take_all(self) -> list[Any]:
        """Return all batches that are not answered, and forget them."""
        batches = self.batches
        self._jobs.clear()
        return batches

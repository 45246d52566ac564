"""The workers of a cluster that may get batches, because they find the client's files and lists.

A worker that was made ready reports to the scheduler a resource with the name of the scan, and each
batch requires this resource. So a worker that joins later, or that was restarted, gets no batch
before it was checked, too. All workers that are present at the start must pass the check. If a
later worker fails the check, it is not used, and the user gets one notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import MsgspecError
from msgspec.msgpack import decode

from hashclient.core.errors import ConfigError, StateError, UnreachableError
from hashclient.scan.cluster import worker
from hashclient.scan.cluster.address import problem_with_worker
from hashclient.scan.cluster.connection import Connection
from hashclient.scan.cluster.messages import Setup, Spec
from hashclient.scan.cluster.probes import without, written
from hashclient.scan.executors.wire import Names, encode, shown
from hashclient.system.text import printable

#: The seconds to wait for the first worker.
FIRST_S = 30.0
POLL_S = 1.0
SAME_HASHCLIENT = "install the same hashclient, with its extra `cluster`, for every worker"


class Crew:
    """The workers of one scan; only one thread may use a crew."""

    def __init__(
        self,
        connection: Connection,
        spec: Spec,
        places: Sequence[str],
        on_notice: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin without a ready worker; `places` are directories that all workers must find."""
        self._connection = connection
        self._spec = spec
        self._places = list(places)
        self._on_notice = on_notice
        self._clock = clock
        self._wait = wait
        self._ready: dict[str, int] = {}
        self._refused: set[str] = set()
        #: The addresses of the workers that were present at the last call of `look`.
        self._seen: set[str] = set()
        self._due = 0.0
        #: The file names of all probes of this scan.
        self._probes: set[bytes] = set()
        #: The largest number of workers that were ready at the same time.
        self.most = 0
        #: The time when `look` first found no ready worker; None if its last call found a ready
        #: worker.
        self.idle_since: float | None = None

    @property
    def resource(self) -> str:
        """The name of the resource that workers report when they are ready for this scan."""
        return f"hashclient-{self._spec.run}"

    @property
    def slots(self) -> int:
        """The number of batches that all ready workers can check at the same time."""
        return sum(self._ready.values())

    def muster(self) -> None:
        """Make all present workers ready.

        Raises:
            UnreachableError: no worker came.
            StateError, ConfigError: a worker would not find the files and lists that the client
            finds.
            GoneError: the scheduler does not answer.
        """
        until = self._clock() + FIRST_S
        while not self._ready:
            refusals = self._make_ready(self._connection.workers())
            for address, (message, hint) in sorted(refusals.items()):
                more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
                kind = ConfigError if problem_with_worker(address) else StateError
                raise kind(f"worker {printable(address)}: {message}{more}", hint=hint)
            if not self._ready:
                if self._clock() >= until:
                    raise UnreachableError(
                        "the cluster has no worker", hint="start some: `dask worker`, say"
                    )
                self._wait(0.1)

    def look(self) -> bool:
        """Once a second, find out which workers left or joined; return whether this call did so.

        Raises:
            GoneError: the scheduler does not answer.
        """
        now = self._clock()
        if now < self._due:
            return False
        there = self._connection.workers()
        self._ready = {a: count for a, count in self._ready.items() if a in there}
        self._refused &= there.keys()
        # The nanny process of Dask gives up a worker that dies while it starts. A new worker is
        # made ready only when two successive looks at the workers have found it.
        new = {a: n for a, n in there.items() if a in self._seen - self._refused}
        new = {a: n for a, n in new.items() if a not in self._ready}
        self._seen = set(there)
        for address, (message, _) in self._make_ready(new).items():
            self._refused.add(address)
            self._on_notice(f"cluster: worker {printable(address)} is not used: {message}")
        if self._ready:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now
        self._due = self._clock() + POLL_S
        return True

    def verify(self, directories: Sequence[str]) -> dict[str, str | None]:
        """Check that all workers find the same directories; return the problem of each directory.

        Directories without a problem are checked in every worker that comes later, too.

        Raises:
            GoneError: the scheduler does not answer.
        """
        found: dict[str, str | None] = dict.fromkeys(directories, "it cannot be opened")
        with written(directories) as probes:
            self._probes.update(probe.name for probe in probes)
            answers = self._connection.call(
                worker.look_at, self._spec.run, encode(probes), workers=list(self._ready)
            )
            names = [probe.directory.decode(errors="surrogateescape") for probe in probes]
            found.update(dict.fromkeys(names))
            there = self._connection.workers()
            for address, answer in sorted(answers.items()):
                # this worker has died, and is checked again when it returns
                if address not in there:
                    continue
                for name, problem in zip(names, _problems(answer, len(names)), strict=True):
                    if problem is not None and found[name] is None:
                        found[name] = f"{shown(problem)}, on worker {printable(address)}"
        self._places += [name for name, problem in found.items() if problem is None]
        return found

    def without_probes(self, names: Names) -> Names | None:
        """Return a group of names without the names of this scan's probe files."""
        return without(names, self._probes)

    def _make_ready(self, new: dict[str, int]) -> dict[str, tuple[str, str | None]]:
        """Make workers ready; return why some workers cannot be used, each with a hint."""
        refusals: dict[str, tuple[str, str | None]] = {}
        for address in new:
            problem = problem_with_worker(address)
            if problem is not None:
                refusals[address] = problem, "start it with certificates: docs/cluster.md"
        asked = {address: count for address, count in new.items() if address not in refusals}
        if not asked:
            return refusals
        with written(self._places) as probes:
            self._probes.update(probe.name for probe in probes)
            payload = encode(Setup(self._spec, tuple(probes)))
            answers = self._connection.call(
                worker.prepare, payload, self.resource, workers=list(asked)
            )
        for address, answer in answers.items():
            refusal = _refusal(answer)
            if refusal is not None:
                refusals[address] = refusal
            elif answer == b"":
                self._ready[address] = asked[address]
        self.most = max(self.most, len(self._ready))
        return refusals


def _problems(answer: Any, count: int) -> list[str | None]:
    """Return for each of `count` directories the problem that a worker has with it, or None."""
    try:
        problems = decode(answer, type=list[str | None] | None)
    # the answer is an exception, for example because the worker was stopped
    except (MsgspecError, TypeError):
        problems = []
    if problems is None:  # the worker was restarted, and gets no batch before it is checked
        return [None] * count
    return problems if len(problems) == count else ["it does not answer"] * count


def _refusal(answer: Any) -> tuple[str, str | None] | None:
    """Return why a worker cannot be used, by its answer; None if it can be used, or has died."""
    if isinstance(answer, bytes):
        message, _, hint = answer.decode(errors="replace").partition("\n")
        return (shown(message), shown(hint) or None) if message else None
    if isinstance(answer, OSError):
        return None
    # The worker could not even call the function. The text of the exception is not shown to the
    # user.
    return f"it cannot run this hashclient ({type(answer).__name__})", SAME_HASHCLIENT

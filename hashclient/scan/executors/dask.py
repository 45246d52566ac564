"""A cluster of Dask: batches go out to workers on many machines, and what they found comes back.

Dask does what it is for: it hands batches to whoever has room, and hands them out again when a
worker dies. A batch during which too many have died is lost, and its files are unread. Here it is
kept how much is on its way, and that each batch ends once: a result is taken from Dask one time
only. Workers list the trees and check the files; whatever is recorded or done about it is the
business of whoever iterates. Without a scheduler all that is not checked yet is unread.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.errors import StateError
from hashclient.scan.cluster import worker
from hashclient.scan.cluster.connection import Connection, GoneError
from hashclient.scan.cluster.crew import Crew, with_points
from hashclient.scan.cluster.frontier import Frontier
from hashclient.scan.cluster.messages import (
    Answer,
    Checked,
    Failed,
    Listed,
    Lost,
    Names,
    Spec,
    Start,
    ToCheck,
    ToList,
    decode_answer,
    encode,
    names_of,
    paths_of,
    unpack_outcome,
    unpack_result,
)
from hashclient.scan.cluster.trees import ClusterTrees, note_failures
from hashclient.scan.executors.interface import Advance, MakeChecker, Result
from hashclient.scan.reasons import CLUSTER_GONE, WORKER_DIED, WORKER_FAILED
from hashclient.scan.sources.interface import Task

#: Batches on their way for each that can be checked at a time: one is at work and one waits.
AHEAD = 2
#: A batch with which so many workers have died is not tried again.
MOST_DEATHS = 3
#: For a worker to come back when none is left.
PATIENCE_S = 60.0

Found = Result | Outcome | Advance


class _Job(msgspec.Struct):
    """A batch that is on its way, and what stands for it."""

    batch: ToCheck | ToList
    future: Any = None
    #: How many workers have died with it, while the scheduler did not count.
    deaths: int = 0


class Dask:
    """Runs batches on the workers of a cluster, which list the trees of a scan besides."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Connection]],
        spec: Spec,
        trees: ClusterTrees,
        *,
        tick_s: float,
        asks_inventory: bool = False,
        on_notice: Callable[[str], None] = lambda _: None,
        patience_s: float = PATIENCE_S,
        check: Callable[[str, bytes], bytes] = worker.check,
    ) -> None:
        """Check with `spec` what is in `trees`; nothing is connected to yet.

        Tells that time has passed every `tick_s` seconds. `on_notice` is called with what is to be
        known of workers. When none was there for `patience_s` seconds, the cluster is gone. `check`
        is what a worker calls with the name of the scan and a batch.
        """
        self._connect = connect
        self._spec = spec
        self._trees = trees
        self._tick_s = tick_s
        self._asks_inventory = asks_inventory
        self._on_notice = on_notice
        self._patience_s = patience_s
        self._check = check

    def run(self, work: Iterator[Task | Outcome], _make_checker: MakeChecker) -> Iterator[Found]:
        """Yield what `work` and the trees come to; see `Executor`.

        A worker makes its checker itself.

        Raises:
            HashclientError: there is no scheduler or no worker, or one would find something else
                than this client; or an index cannot be read.
        """
        places = self._trees.begin()
        points = sorted(map(os.fsencode, self._trees.points))
        with self._connect() as connection:
            asks = self._asks_inventory and connection.shares_state
            spec = with_points(self._spec, points, asks_inventory=asks)
            crew = Crew(connection, spec, places, self._on_notice)
            run = _Run(self._trees, connection, crew, spec.run, self._check)
            try:
                try:
                    crew.muster()
                    yield from run.go(work, self._tick_s, self._patience_s)
                except GoneError:
                    yield from run.lose_all(work)
            finally:
                connection.goodbye(run.futures(), worker.forget, spec.run, crew.resource)


class _Run:
    """One run of the executor: what is on its way, and what is still to be done."""

    def __init__(
        self,
        trees: ClusterTrees,
        connection: Connection,
        crew: Crew,
        name: str,
        check: Callable[[str, bytes], bytes],
    ) -> None:
        self._trees = trees
        self._connection = connection
        self._crew = crew
        self._name = name
        self._check = check
        self._frontier = Frontier(crew.without_probes)
        self._frontier.add_starts(trees.starts)
        self._jobs: dict[str, _Job] = {}
        self._numbers = itertools.count()
        self._is_read = False
        #: Batches that nobody could take at the last look.
        self._stuck: set[str] = set()
        #: Outcomes that nobody has got yet.
        self._told: list[Outcome] = []
        self._failure: StateError | None = None

    def futures(self) -> list[Any]:
        """Return what stands for the batches that are on their way."""
        return [job.future for job in self._jobs.values()]

    def go(
        self, work: Iterator[Task | Outcome], tick_s: float, patience_s: float
    ) -> Iterator[Found]:
        """Hand out batches and yield what they come to.

        Raises:
            GoneError: the scheduler does not answer, or no worker is left.
            StateError: an index cannot be read.
        """
        begun = False
        while True:
            self._hand_out(work)
            yield from self._tell()
            if not self._jobs and self._is_read and self._frontier.is_empty:
                return
            if not self._jobs and self._crew.slots:
                continue  # there were only outcomes
            if not begun:
                begun = True
                yield Advance()
            ended = self._connection.ended(tick_s)
            if not ended:
                yield Advance()
                if not self._connection.is_up:
                    raise GoneError
            yield from self._take(ended)
            yield from self._tell()
            if self._failure is not None:  # what others have found comes before
                raise self._failure
            if self._crew.look():
                self._hand_out_again()
            since = self._crew.idle_since
            if since is not None and time.monotonic() - since > patience_s:
                raise GoneError

    def lose_all(self, work: Iterator[Task | Outcome]) -> Iterator[Outcome]:
        """Yield all that is not checked as unread, now that there is no cluster."""
        yield from self._tell()
        for job in self._jobs.values():
            yield from self._lose(job.batch, CLUSTER_GONE)
        self._jobs.clear()
        groups, directories = self._frontier.empty()
        for path in paths_of(groups):
            yield Outcome(Kind.UNREAD, path, reason=CLUSTER_GONE)
        for directory in directories:
            yield self._trees.unread(directory, CLUSTER_GONE)
        for item in work:
            if isinstance(item, Outcome):
                yield item
            else:
                for path in paths_of([names_of(group) for group in item]):
                    yield Outcome(Kind.UNREAD, path, reason=CLUSTER_GONE)

    def _tell(self) -> Iterator[Outcome]:
        told, self._told = self._told, []
        yield from told

    def _hand_out(self, work: Iterator[Task | Outcome]) -> None:
        """Hand out batches while there is room for them."""
        while len(self._jobs) < AHEAD * self._crew.slots:
            batch = self._next_batch(work)
            if batch is None:
                return
            self._submit(_Job(batch))

    def _submit(self, job: _Job) -> None:
        function = self._check if isinstance(job.batch, ToCheck) else worker.list_directories
        key = f"{self._crew.resource}-{next(self._numbers)}"
        self._jobs[key] = job
        job.future = self._connection.submit(
            function, self._name, encode(job.batch), key=key, resource=self._crew.resource
        )

    def _hand_out_again(self) -> None:
        """Hand out again what the scheduler had when nobody was ready; but not for ever.

        It does not hand that out when somebody is ready again.
        """
        stuck = self._connection.stuck() if self._crew.slots else set()
        # Somebody may just have been made ready: what is stuck for longer is.
        again, self._stuck = stuck & self._stuck, stuck
        if not again:
            return
        self._connection.abandon([self._jobs[key].future for key in again])
        for key in again:
            job = self._jobs.pop(key)
            job.deaths += min(2, self._crew.most)  # it was with one of them, and maybe with others
            if job.deaths >= MOST_DEATHS:
                self._told += self._lose(job.batch, WORKER_DIED)
            else:
                self._submit(job)

    def _next_batch(self, work: Iterator[Task | Outcome]) -> ToCheck | ToList | None:
        """Return what comes next: files if there are enough, and else directories to find more."""
        frontier = self._frontier
        while frontier.wants_names():
            if frontier.has_starts:
                return frontier.take_directories(self._crew.slots)
            if frontier.has_wide:
                self._told += frontier.read_wide()
                continue
            item = None if self._is_read else next(work, None)
            if item is None:
                self._is_read = True
                # What is being listed may make a whole batch of it; but nobody waits for that.
                is_busy = len(self._jobs) >= self._crew.slots
                is_listing = any(isinstance(job.batch, ToList) for job in self._jobs.values())
                return None if is_busy and is_listing else frontier.take_files()
            if isinstance(item, Outcome):
                self._told.append(item)
                if len(self._told) >= 1_000:
                    return None
            else:
                frontier.add_groups([names_of(group) for group in item])
        return frontier.take_files()

    def _take(self, answers: Mapping[str, bytes | None]) -> Iterator[Result]:
        """Take the answers of batches that have ended."""
        borders: list[str] = []
        for key, answer in answers.items():
            if key not in self._jobs:  # it was handed out again
                continue
            batch = self._jobs.pop(key).batch
            message = None if answer is None else _decoded(answer)
            if isinstance(message, Checked) and isinstance(batch, ToCheck):
                left = sum(group.count for group in [*message.deferred, *message.large])
                total = sum(group.count for group in batch.groups)
                self._frontier.took(total - left, message.elapsed_s)
                self._frontier.add_groups(message.deferred, first=True)
                self._frontier.add_large(message.large)
                yield unpack_result(message)
            elif isinstance(message, Listed):
                borders += self._take_listed(message)
            elif isinstance(message, Failed):
                self._failure = StateError(message.message, hint=message.hint)
            else:
                reason = message.reason if isinstance(message, Lost) else WORKER_DIED
                self._told += self._lose(batch, reason)
        if borders:
            self._cross(borders)

    def _take_listed(self, listed: Listed) -> list[str]:
        """Take what was listed; return where other file systems begin."""
        outcomes = [unpack_outcome(outcome) for outcome in listed.outcomes]
        note_failures(self._trees.coverage, outcomes)
        self._told += outcomes
        self._frontier.add_groups(listed.groups)
        self._frontier.add_starts(listed.rest)
        for path in map(os.fsdecode, listed.wide):
            self._frontier.add_wide(path, self._trees.list_wide(path))
        return [os.fsdecode(path) for path in listed.borders]

    def _cross(self, borders: Sequence[str]) -> None:
        """Go on where other file systems begin, if these are the same everywhere."""
        wanted = []
        for path in borders:
            outcome, goes_on = self._trees.cross(path)
            if outcome is not None:
                self._told.append(outcome)
            if goes_on:
                wanted.append(path)
        try:
            problems = self._crew.verify(wanted)
        except GoneError:
            self._told += [self._trees.unread(path, CLUSTER_GONE) for path in wanted]
            raise
        for path, problem in problems.items():
            if problem is None:
                self._frontier.add_starts([Start(os.fsencode(path), verified=True)])
            else:
                self._told.append(self._trees.unread(path, f"not the same everywhere: {problem}"))

    def _lose(self, batch: ToCheck | ToList, reason: str) -> Iterator[Outcome]:
        """Yield what was in a batch as unread."""
        if isinstance(batch, ToList):
            for start in batch.starts:
                yield self._trees.unread(os.fsdecode(start.path), reason)
        else:
            groups: Sequence[Names] = batch.groups
            for path in paths_of(groups):
                yield Outcome(Kind.UNREAD, path, reason=reason)


def _decoded(answer: bytes) -> Answer:
    """Return what a worker says; one that makes no sense has lost its batch."""
    try:
        said: Answer = decode_answer(answer)
    except (msgspec.MsgspecError, TypeError):
        return Lost(WORKER_FAILED)
    return said

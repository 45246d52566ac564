"""The executor on a Dask cluster: sends batches to workers on many machines, yields results.

Dask sends batches to free workers, and sends a batch again when its worker dies. If too many
workers die during a batch, the batch is lost, and its files are unread. This module limits the
number of batches that are sent and not answered. This module also ensures that each batch ends
once, because a result is taken from Dask only once. Workers list the trees and check the files; the
caller records the outcomes and acts on them. If the scheduler is gone, all files that were not
checked yet are unread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.objecturi import ObjectUri
from hashclient.scan.cache.memory import InventoryPlace
from hashclient.scan.cluster import worker
from hashclient.scan.cluster.answers import verified
from hashclient.scan.cluster.backlog import Backlog
from hashclient.scan.cluster.connection import Connection, GoneError
from hashclient.scan.cluster.crew import Crew
from hashclient.scan.cluster.jobs import Function, Jobs
from hashclient.scan.cluster.known import Remembered
from hashclient.scan.cluster.listing import ClusterTrees
from hashclient.scan.cluster.messages import (
    Listed,
    Spec,
    ToCheck,
    ToList,
    answer_of,
    decode_answer,
    paths_of,
    singly,
)
from hashclient.scan.cluster.named import LookAt, NamedFiles
from hashclient.scan.executors.interface import TICK_S, Executor, MakeChecker
from hashclient.scan.executors.wire import (
    Checked,
    Failed,
    encode,
    names_of,
    unpack_outcomes,
    unpack_result,
)
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import (
    CLUSTER_GONE,
    WORKER_DIED,
    Advance,
    Result,
    Start,
    Task,
)

if TYPE_CHECKING:
    from hashclient.scan.cluster.buckets import ClusterBucket

Found = Result | Outcome | Advance
_Batch = ToCheck | ToList


class Dask(Executor):
    """Runs batches on the workers of a cluster, which also list the trees of a scan."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Connection]],
        spec: Spec,
        *,
        inventory: InventoryPlace | None = None,
        on_notice: Callable[[str], None] = lambda _: None,
        check: Function = worker.check,
        look_at: LookAt | None = None,
    ) -> None:
        """Check files as `spec` says; `run` makes the connection.

        - Files that are unchanged since their record in `inventory` are not read.
        - `on_notice` is called with notices about workers.
        - Each worker runs `check`, which gets the name of the scan and a batch.
        - The client calls `look_at` with files that a user named, and that no worker listed. The
          default `look_at` adds the identity of each file, so that a worker checks the same file.
        """
        self._connect = connect
        self._spec = spec
        self._trees = ClusterTrees((), ScanOptions())
        self._inventory = inventory
        self._on_notice = on_notice
        self._check = check
        self._look_at = look_at or NamedFiles().look_at
        self._jobs: Jobs | None = None
        self._opened = contextlib.ExitStack()

    def trees(
        self, paths: Sequence[str], options: ScanOptions, mounts: Mounts | None
    ) -> ClusterTrees:
        """Return the trees of a scan, whose directories are listed by workers.

        Raises:
            UsageError: the options say that symbolic links are followed.
        """
        if options.follow_symlinks:
            raise UsageError(
                "a cluster follows no links: a link may lead elsewhere on another machine",
                hint="give the targets as PATH, or let processes of this machine check the files",
            )
        self._trees = ClusterTrees(paths, options, mounts)
        return self._trees

    def run(self, work: Iterator[Task | Outcome], _make_checker: MakeChecker) -> Iterator[Found]:
        """Yield the results of `work` and of the trees; see `Executor`.

        Each worker makes its own checker.

        Raises:
            HashclientError: no scheduler answers, no worker came, a worker would find other files
                or lists than this client, or an index cannot be read.
        """
        try:
            yield from self._run(work)
        except BaseException:
            self.close()
            raise
        if not self._spec.objects:  # objects are checked next, by the same workers
            self.close()

    def _run(self, work: Iterator[Task | Outcome]) -> Iterator[Found]:
        places = self._trees.begin()
        points = sorted(map(os.fsencode, self._trees.points))
        connection = self._opened.enter_context(self._connect())
        shares = connection.shares_state
        opens = self._spec.containers is not None
        remembered = Remembered(None if shares else self._inventory, opens=opens)
        spec = msgspec.structs.replace(
            self._spec,
            points=tuple(points),
            asks_inventory=shares and self._inventory is not None,
            gets_known=remembered.begin(),
        )
        crew = Crew(connection, spec, places, self._on_notice)
        jobs = self._jobs = Jobs(connection, crew, spec.run)
        self._opened.callback(
            lambda: connection.goodbye(jobs.futures, worker.forget, spec.run, crew.resource)
        )
        run = _Run(self._trees, crew, jobs, remembered, self._check, self._look_at)
        try:
            crew.muster()
            yield from run.go(work)
        except GoneError:
            yield from run.lose_all(work)
        finally:
            remembered.close()

    def bucket(self, uri: ObjectUri, after: str | None, namespace: str) -> ClusterBucket:
        """Return the listing and the reads of a URI; called after all files are checked."""
        from hashclient.scan.cluster.buckets import ClusterBucket

        assert self._jobs is not None
        return ClusterBucket(self._jobs, uri, after, namespace)

    def close(self) -> None:
        """Disconnect from the cluster; the cluster drops unfinished batches."""
        self._opened.close()


class _Run:
    """One run of the executor: batches that were sent, and work that is not done yet."""

    def __init__(
        self,
        trees: ClusterTrees,
        crew: Crew,
        jobs: Jobs,
        remembered: Remembered,
        check: Function,
        look_at: LookAt,
    ) -> None:
        self._trees = trees
        self._crew = crew
        self._jobs = jobs
        self._remembered = remembered
        self._check = check
        self._look_at = look_at
        self._backlog = Backlog(crew.without_probes)
        self._backlog.add_starts(trees.starts)
        self._is_read = False
        #: Outcomes that were not yielded yet.
        self._outcomes: list[Outcome] = []
        self._failure: StateError | None = None

    def go(self, work: Iterator[Task | Outcome]) -> Iterator[Found]:
        """Send batches, and yield their results.

        Raises:
            GoneError: the scheduler does not answer, or no worker is left.
            StateError: an index cannot be read.
        """
        begun = False
        while True:
            self._hand_out(work)
            yield from self._take_outcomes()
            if not self._jobs and self._is_read and self._backlog.is_empty:
                return
            if not self._jobs and self._jobs.slots:
                continue  # `_hand_out` has only found outcomes, and no batch was sent
            if not begun:
                begun = True
                yield Advance()
            ended = self._jobs.ended(TICK_S)
            if not ended:
                yield Advance()
            yield from self._take(ended)
            yield from self._take_outcomes()
            if self._failure is not None:  # the results of the other workers were yielded before
                raise self._failure
            self._jobs.look()
            self._note_lost()

    def lose_all(self, work: Iterator[Task | Outcome]) -> Iterator[Outcome]:
        """Yield all files that are not checked yet as unread, because the cluster is gone."""
        self._note_lost()
        yield from self._take_outcomes()
        for batch in self._jobs.take_all():
            yield from self._lose(batch, CLUSTER_GONE)
        groups, directories = self._backlog.empty()
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

    def _note_lost(self) -> None:
        for batch in self._jobs.take_lost():
            self._outcomes += self._lose(batch, WORKER_DIED)

    def _take_outcomes(self) -> Iterator[Outcome]:
        outcomes, self._outcomes = self._outcomes, []
        yield from outcomes

    def _hand_out(self, work: Iterator[Task | Outcome]) -> None:
        """Send batches until the number of unanswered batches reaches the limit."""
        while self._jobs.has_room:
            batch = self._next_batch(work)
            if batch is None:
                return
            self._submit(batch)

    def _submit(self, batch: _Batch) -> None:
        if isinstance(batch, ToList):
            self._jobs.submit(batch, worker.list_directories, encode(batch))
        else:
            known = self._remembered.of(batch.groups)
            self._jobs.submit(batch, self._check, encode(ToCheck(batch.groups, known)))

    def _next_batch(self, work: Iterator[Task | Outcome]) -> _Batch | None:
        """Return the next batch: files if enough files wait, or directories to list more files."""
        backlog = self._backlog
        while backlog.wants_names():
            if (directories := backlog.take_directories(self._crew.slots)) is not None:
                return directories
            if backlog.wide:
                self._outcomes += backlog.read_wide()
                continue
            item = None if self._is_read else next(work, None)
            if item is None:
                self._is_read = True
                # Directories that are being listed may supply more files for the batch. If a worker
                # has no work, the batch is sent as it is, so that the worker does not wait.
                is_busy = len(self._jobs) >= self._jobs.slots
                is_listing = any(isinstance(batch, ToList) for batch in self._jobs.batches)
                return None if is_busy and is_listing else backlog.take_files()
            if isinstance(item, Outcome):
                self._outcomes.append(item)
                if len(self._outcomes) >= 1_000:
                    return None
            else:
                for group in item:
                    backlog.add_groups(self._look_at(group))
        return backlog.take_files()

    def _take(self, answers: Sequence[tuple[_Batch, bytes | None]]) -> Iterator[Result]:
        """Take the answers of workers to batches that have ended."""
        borders: list[str] = []
        for batch, answer in answers:
            message = verified(batch, answer_of(decode_answer, answer))
            if isinstance(message, Checked):
                assert isinstance(batch, ToCheck)
                back = [*message.deferred, *message.large]
                left = sum(group.count for group in back)
                total = sum(group.count for group in batch.groups)
                self._backlog.took(total - left, message.taken_s)
                if left == total:  # the worker had no time for any file: each is checked alone
                    message.large = [*chain.from_iterable(map(singly, back))]
                else:
                    self._backlog.add_groups(message.deferred, first=True)
                message.deferred = []
                self._backlog.large += message.large
                result = unpack_result(message)
                result.seen += self._remembered.seen()
                yield result
            elif isinstance(message, Listed):
                borders += self._take_listed(message)
            elif isinstance(message, Failed):
                self._failure = message.error
            else:
                self._outcomes += self._lose(batch, message.reason)
        if borders:
            self._cross(borders)

    def _take_listed(self, listed: Listed) -> list[str]:
        """Take the result of a listing; return the paths where other file systems begin."""
        outcomes = unpack_outcomes(listed.outcomes)
        for outcome in outcomes:
            self._trees.coverage.note(outcome)
        self._outcomes += outcomes
        self._backlog.add_groups(listed.groups)
        self._backlog.add_starts([s for s in listed.rest if not (s.is_wide or s.is_border)])
        for start in listed.rest:
            if start.is_wide:
                wide = os.fsdecode(start.path), self._trees.list_wide(start)
                self._backlog.wide.append(wide)
        return [os.fsdecode(start.path) for start in listed.rest if start.is_border]

    def _cross(self, borders: Sequence[str]) -> None:
        """List the file systems mounted inside trees, if all workers find the same file systems."""
        wanted = []
        for path in borders:
            goes_on, outcome = self._trees.cross(path)
            if outcome is not None:
                self._outcomes.append(outcome)
            if goes_on:
                wanted.append(path)
        try:
            problems = self._crew.verify(wanted)
        except GoneError:
            self._outcomes += [self._trees.unread(path, CLUSTER_GONE) for path in wanted]
            raise
        for path, problem in problems.items():
            if problem is None:
                self._backlog.add_starts([Start(os.fsencode(path), verified=True)])
            else:
                self._outcomes.append(
                    self._trees.unread(path, f"not the same everywhere: {problem}")
                )

    def _lose(self, batch: _Batch, reason: str) -> Iterator[Outcome]:
        """Yield the files of a batch as unread."""
        if isinstance(batch, ToList):
            for start in batch.starts:
                yield self._trees.unread(os.fsdecode(start.path), reason)
        else:
            for path in paths_of(batch.groups):
                yield Outcome(Kind.UNREAD, path, reason=reason)

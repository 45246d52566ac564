"""One run: every outcome is recorded first, acted upon second, and yielded last.

The command line, or a program that uses the library, iterates over a `Run`. The caller gets an
outcome after its match was recorded, logged, and handled by the policy. All outcomes up to the end
of a run are recorded and logged exactly once, and the end of the run is logged, even if the run is
interrupted or fails.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import operator
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from hashclient.core.errors import ExitCode, HashclientError, StateError, out_of_memory
from hashclient.core.kinds import Kind
from hashclient.core.model import Handled, Outcome, Recorded
from hashclient.core.verdict import Summary
from hashclient.scan.run.recorder import RunRecord

if TYPE_CHECKING:
    from hashclient.decisions.exceptions import Exceptions
    from hashclient.index.open_lists import OpenLists
    from hashclient.reporting.report import Report
    from hashclient.scan.run.actions import Responder
    from hashclient.scan.run.engine import Progress
    from hashclient.scan.sources.mounts import Mounts
    from hashclient.scan.sources.trees import Coverage
    from hashclient.session import Session

#: Outcomes are recorded in batches of at most this many outcomes.
BATCH = 4096
#: The most outcomes in a list that `Run.portions` yields.
PORTION = 512


class Guard(Protocol):
    """Delays signals during work that must not be interrupted."""

    def held(self) -> AbstractContextManager[None]:
        """Delay one signal until the `with` block ends; a second signal interrupts the block."""

    def barred(self) -> AbstractContextManager[None]:
        """Delay all signals until the `with` block ends, which must be short and end by itself."""

    def last(self) -> AbstractContextManager[None]:
        """Ignore all signals after the first in the block, because the run is ending anyway."""


class Unguarded:
    """A guard that does nothing, for programs that do not turn signals into exceptions."""

    def held(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()

    barred = last = held


class Observer:
    """Has a method for each event of a run besides outcomes; this class ignores all events."""

    def progressed(self) -> None:
        """Outcomes were yielded, or time has passed."""

    def failed(self, error: HashclientError) -> None:
        """Something other than an input failed, for example writing the log; the run continues."""

    def file_system_changed(self, path: str) -> None:
        """Another file system than at the last scan is mounted at `path`."""

    def noticed(self, text: str) -> None:
        """`text` tells the user something about the machine; the run continues."""

    def prepared(self, report: Report) -> None:
        """A report that the policy wants was prepared."""

    def ending(self, run: Run) -> None:
        """All outcomes are recorded and logged; the summary is complete; signals are delayed."""


class FrontEnd(msgspec.Struct, frozen=True):
    """Connects a run to its front end, such as the command line; by default there is no front end.

    `stops` contains the exceptions by which a signal ends the run early, with their exit codes. A
    run that a signal ends early still ends regularly, and only `summary.stopped` shows the signal.
    An exception that is not in `stops` is raised in the caller.
    """

    guard: Guard = msgspec.field(default_factory=Unguarded)
    observer: Observer = msgspec.field(default_factory=Observer)
    stops: Mapping[type[BaseException], ExitCode] = msgspec.field(default_factory=dict)


def exceptions_of(
    session: Session, lists: OpenLists, summary: Summary, observer: Observer
) -> Exceptions:
    """Return the exceptions for a run; if the exceptions cannot be used, the run has failed.

    In a failed run, a match that an exception would except stays a match.
    """
    from hashclient.decisions.exceptions import Exceptions

    def failed(error: StateError) -> None:
        summary.fail(error)
        observer.failed(error)

    return Exceptions(session.settings.layout, lists, session.now, failed)


class Run(Iterator[Handled]):
    """The outcomes of one scan or lookup, each recorded and acted upon, and the summary.

    A run can be iterated over once. To end a run early, use the run as a context manager, or call
    `close`.
    """

    #: Whether outcomes that are recorded together are sorted by path, or stay in the given order.
    _by_path = False

    def __init__(
        self,
        outcomes: Generator[Outcome | Progress],
        recorder: RunRecord,
        summary: Summary,
        *,
        arguments: Sequence[str] = (),
        actions: Responder | None = None,
        front: FrontEnd | None = None,
    ) -> None:
        """Record, act upon and yield `outcomes`, whose generator keeps `summary` up to date.

        `arguments` are logged as the arguments of the run.
        """
        front = front or FrontEnd()
        self.summary = summary
        #: The error that ended the outcomes early, or None.
        self.failure: HashclientError | None = None
        self._outcomes = outcomes
        self._recorder = recorder
        self._arguments = arguments
        self._actions = actions
        self._guard, self._observer, self._stops = front.guard, front.observer, front.stops
        #: `_waiting`: outcomes to be recorded. `_ready`: recorded outcomes that wait for actions.
        #: `_done`: outcomes to be yielded.
        self._waiting: list[Outcome] = []
        self._ready: collections.deque[Recorded] = collections.deque()
        self._done: collections.deque[Handled] = collections.deque()
        self._found: collections.Counter[Kind] = collections.Counter()
        self._is_over = False
        self._cause: BaseException | None = None
        #: A generator that yields None whenever `_done` is not empty, so that the caller empties
        #: `_done`.
        self._results = self._handle()

    @property
    def exit_code(self) -> ExitCode:
        """The exit code for the outcomes so far; final after the last outcome was yielded."""
        return self.summary.exit_code

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Handled:
        """Return the next outcome.

        Raises:
            HashclientError: the run failed; raised after all outcomes were yielded.
        """
        while not self._done:
            next(self._results)
        return self._done.popleft()

    def portions(self) -> Iterator[list[Handled]]:
        """Yield lists of outcomes as soon as they come, for a caller that writes several at once.

        Raises:
            HashclientError: the run failed; raised after all outcomes were yielded.
        """
        for first in self:
            portion = [first]
            while self._done and len(portion) < PORTION:
                portion.append(self._done.popleft())
            yield portion

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the run early, unless it has ended; matches until now are recorded and logged."""
        self._results.close()

    def interrupt(self, error: BaseException) -> None:
        """Handle an exception that interrupted the caller as if it was raised in the run.

        If `stops` contains the exception, the next iteration ends the run.

        Raises:
            BaseException: `error`, if the run was ending already, or if `stops` does not contain
                `error`.
        """
        with contextlib.suppress(StopIteration):
            self._results.throw(error)

    def give_up(self, error: BaseException) -> None:
        """End the run at once because of `error`; yield no more outcomes.

        The matches that were found before are recorded, logged and counted.
        """
        self._cause = error
        self._results.close()
        self._give_up(error)

    def _handle(self) -> Generator[None]:
        ending: tuple[type[BaseException], ...]
        ending = (KeyboardInterrupt, GeneratorExit, HashclientError, *self._stops)
        try:
            yield from self._gather()
            # After this line, signals are ignored, because the run is ending anyway.
            with self._guard.last():
                yield from self._flush()
                self._settle()
                self._finish()
                if self.summary.stopped is None and self.failure is None:
                    self._note_gone()
                with self._guard.barred():
                    self._recorder.end()
                self._observer.ending(self)
                self._is_over = True
        except ending as error:
            # Either a second signal came while the end was shown, or the caller has stopped
            # iterating.
            self._give_up(self._cause or error)
            raise
        if self.failure is not None:
            raise self.failure

    def _gather(self) -> Generator[None]:
        """Yield outcomes as they come, until the last outcome, a signal or a failure."""
        try:
            # However the loop ends, the generator of the outcomes is closed, which ends the
            # workers.
            with contextlib.closing(self._outcomes):
                # Workers are already checking files while the start of the run is logged. No
                # outcome is yielded before the start is logged, and a signal until then loses no
                # outcome.
                first: list[Outcome | Progress] = []
                try:
                    first += itertools.islice(self._outcomes, 1)
                finally:
                    self._start(first)
                for item in self._outcomes:
                    if isinstance(item, Outcome):
                        self._waiting.append(item)
                        if len(self._waiting) < BATCH:
                            continue
                    yield from self._flush()
                    self._observer.progressed()
            yield from self._flush()
        except tuple(self._stops) as error:
            self.summary.stopped = self._code_of(error)
        except (HashclientError, MemoryError) as error:
            failure = out_of_memory() if isinstance(error, MemoryError) else error
            self.failure = failure
            self.summary.failed, self.summary.failure = failure.exit_code, failure.message

    def _start(self, first: Sequence[Outcome | Progress]) -> None:
        with self._guard.barred():
            self._recorder.start(self._arguments)
            self._waiting += (item for item in first if isinstance(item, Outcome))

    def _flush(self) -> Generator[None]:
        """Record the waiting outcomes, act on them, and yield them.

        Actions can take long and may be interrupted. After an interruption every outcome is still
        yielded, but no more actions are done. Signals are delayed while the caller handles an
        outcome.
        """
        with self._guard.held():
            self._keep()
            if self._actions is not None:
                self._actions.want_reports(self._ready)
            while self._done:
                yield
        while self._ready and self._actions is not None:
            with self._guard.held():
                self._done.extend(self._actions.leave(self._ready))
                while self._done:
                    yield
            if not self._ready:
                break
            ended = self.summary.stopped is not None
            handled = self._actions.respond(self._ready[0], ended=ended)
            self._ready[0] = Recorded(self._ready[0].outcome, handled.record)
            with self._guard.held():
                self._ready.popleft()
                self._done.append(handled)
                while self._done:
                    yield

    def _keep(self) -> None:
        """Record and count the waiting outcomes, which are acted upon or yielded next."""
        # All signals are delayed, because a second signal would cause the waiting outcomes to be
        # recorded and logged twice.
        with self._guard.barred():
            if self._by_path:
                # Workers end in any order, so the outcomes of each batch are sorted.
                self._waiting.sort(key=_by_path_bytes(self._waiting))
            kept = self._recorder.keep(self._waiting)
            self._waiting.clear()
            self._found.update([recorded.outcome.kind for recorded in kept])
            if self._actions is None:
                self._done.extend([Handled(k.outcome, k.record) for k in kept])
            else:
                self._ready.extend(kept)

    def _settle(self) -> None:
        """After a signal, count the matches, conflicts and excepted matches that were recorded.

        A signal may come after an outcome was counted, and before the outcome is recorded.
        """
        if self.summary.stopped is not None:
            for kind in (Kind.MATCH, Kind.CONFLICT, Kind.EXCEPTED):
                self.summary.counts[kind] = self._found[kind]

    def _finish(self) -> None:
        """Prepare the reports that are wanted, and count the failures."""
        if self._actions is None:
            return
        try:
            for report in () if self.summary.stopped else self._actions.end():
                self._observer.prepared(report)
        except HashclientError as error:
            self._observer.failed(error)
            self.summary.fail(error)
        self.summary.failed = self.summary.failed or self._actions.failed

    def _note_gone(self) -> None:
        """Note which earlier matches are gone; only scans of trees can show this."""

    def _give_up(self, error: BaseException) -> None:
        if isinstance(error, HashclientError):
            # A failure to write output at the very end of the run is counted as well.
            self.summary.failed, self.summary.failure = error.exit_code, error.message
        self._done.clear()
        if self._is_over:
            return
        self._is_over = True
        if not isinstance(error, HashclientError):
            self.summary.stopped = self.summary.stopped or self._code_of(error)
        with self._guard.barred():
            self._keep()
            self._settle()
            self._recorder.end()

    def _code_of(self, error: BaseException) -> ExitCode:
        """Return the exit code for the exception that ended the run; by default that of Ctrl-C."""
        codes = (code for kind, code in self._stops.items() if isinstance(error, kind))
        return next(codes, ExitCode.INTERRUPTED)


def _by_path_bytes(outcomes: Sequence[Outcome]) -> Callable[[Outcome], str | bytes]:
    """Return a key function that sorts outcomes by the bytes of their paths."""
    path_of = operator.attrgetter("path")
    # Text sorts like its bytes if all paths are ASCII.
    if "".join(map(path_of, outcomes)).isascii():
        return path_of
    return lambda outcome: os.fsencode(outcome.path)


class Scan(Run):
    """The outcomes of one scan: see `Run`. `progress` contains the counts of the scan so far."""

    _by_path = True

    def __init__(
        self,
        outcomes: Generator[Outcome | Progress],
        recorder: RunRecord,
        progress: Progress,
        mounts: Mounts,
        coverage: Coverage,
        *,
        arguments: Sequence[str],
        actions: Responder | None,
        front: FrontEnd,
    ) -> None:
        super().__init__(
            outcomes,
            recorder,
            progress.summary,
            arguments=arguments,
            actions=actions,
            front=front,
        )
        self.progress = progress
        self._mounts = mounts
        self._coverage = coverage

    def _note_gone(self) -> None:
        if self._coverage.roots and self._mounts.unknown is None:
            from hashclient.scan.run.gone import find_gone

            self._recorder.note_gone(
                lambda matches, at: find_gone(matches, self._coverage, self._mounts, at)
            )

    @property
    def is_mount_missing(self) -> bool:
        """Whether a file system of an earlier scan is missing; final at the end of the run."""
        return self._mounts.is_missing

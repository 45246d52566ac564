"""Watching: what changes is checked a moment later, and all of it when something was missed.

The checks are scans like any other: the same cache, records, policy and log. A first scan of
everything catches up with what happened while nobody watched. A file that goes on changing is
looked at when it has been quiet for a while.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from hashclient.client import Client
from hashclient.core.kinds import Kind
from hashclient.core.model import Handled, Outcome
from hashclient.core.verdict import Summary
from hashclient.errors import ExitCode, HashclientError
from hashclient.scan.pipeline import FrontEnd, Observer, Run
from hashclient.scan.reasons import CHANGED
from hashclient.scan.sources.interface import TASK_NAMES, Group, Task
from hashclient.system.log import Log
from hashclient.watch.changes import Changes

_log = Log("watch")

#: A file that changed while it was read is looked at again so often, and then told as unread.
ATTEMPTS = 5
#: Most files that one scan is given: what comes meanwhile must not wait for too long.
MOST_FILES = 50_000
#: Seconds between two looks at everything where not all directories can be watched any more.
PARTLY_S = 300.0
#: Seconds that a failure which may pass, such as a full disk, is waited for.
RETRY_S = 10.0


class Watch:
    """Checks what changes below directories, until it is told to stop."""

    def __init__(
        self,
        client: Client,
        roots: Sequence[str],
        *,
        settle_s: float,
        rescan_s: float,
        jobs: int | None = None,
        exclude: Sequence[str] = (),
        act: bool = True,
        told: Callable[[Handled], None],
        on_failure: Callable[[HashclientError], None],
        on_scan: Callable[[Summary], None] = lambda _: None,
    ) -> None:
        """Look at a file `settle_s` after its last change, and at everything each `rescan_s`.

        `told` is called with each outcome that is not clean, after it is recorded and acted upon;
        `on_failure` with what goes wrong on the way; `on_scan` when everything was looked at.
        """
        self._client = client
        self._state_dir = os.path.realpath(client.session.settings.state_dir)
        self._roots = [os.path.realpath(root) for root in roots]
        self._settle_s = settle_s
        self._rescan_s = rescan_s
        self._jobs = jobs
        self._exclude = (*exclude, self._state_dir)
        self._act = act
        self._told = told
        self._on_failure = on_failure
        self._on_scan = on_scan
        self._stopping = False
        #: Files to be looked at, by the moment from which on they may be.
        self._due: dict[str, float] = {}
        self._attempts: dict[str, int] = {}

    def run(self, on_ready: Callable[[int], None]) -> None:
        """Watch until SIGTERM or SIGINT; `on_ready` is called with the number of directories.

        Raises:
            UsageError: a directory cannot be watched.
            StateError: too many would have to be, or no list can be used at the start.
        """
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {
            number: signal.signal(number, self._on_stop)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        woken_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        try:
            with Changes(self._roots, without=[self._state_dir]) as changes:
                self._changes = changes
                on_ready(changes.directories)
                self._everything(first=True)
                self._watch(woken)
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(woken)
            os.close(wake)

    def _on_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _watch(self, woken: int) -> None:
        rescan_at = time.monotonic() + self._next_rescan_s
        while not self._stopping:
            now = time.monotonic()
            first = min(self._due.values(), default=rescan_at)
            if self._changes.wait(min(first, rescan_at) - now, woken):
                self._take_in()
            now = time.monotonic()
            if self._changes.read() or now >= rescan_at:
                self._everything()
                rescan_at = time.monotonic() + self._next_rescan_s
                continue
            due = sorted(path for path, moment in self._due.items() if moment <= now)
            if due:
                self._look_at(due[:MOST_FILES])

    @property
    def _next_rescan_s(self) -> float:
        if self._changes.is_whole:
            return self._rescan_s
        return min(self._rescan_s, PARTLY_S)

    def _take_in(self) -> bool:
        """Note what has changed; return whether something was missed."""
        missed = self._changes.read()
        moment = time.monotonic() + self._settle_s
        for path in self._changes.take():
            self._due[path] = moment
        return missed

    def _everything(self, *, first: bool = False) -> None:
        """Look at everything, by the cache: what was missed is found."""
        self._changes.look_again()
        self._due.clear()
        self._attempts.clear()
        run = self._scan(
            lambda front: self._client.scan(
                *self._roots,
                exclude=self._exclude,
                jobs=self._jobs,
                act=self._act,
                front=front,
            ),
            must=first,
        )
        if run is not None and not self._stopping:
            self._on_scan(run.summary)

    def _look_at(self, paths: Sequence[str]) -> None:
        """Look at files that have changed."""
        for path in paths:
            del self._due[path]
        source = _Files(paths)
        self._scan(
            lambda front: self._client.scan(
                sources=[source], jobs=self._jobs, act=self._act, front=front
            ),
            paths=paths,
        )

    def _scan(
        self,
        begin: Callable[[FrontEnd], Run],
        *,
        must: bool = False,
        paths: Sequence[str] = (),
    ) -> Run | None:
        """Run one scan to its end and tell what it finds.

        Raises:
            HashclientError: it cannot be begun, and `must` be.
        """
        observer = _Observer(self)
        front = FrontEnd(observer=observer, stops={_Stopped: ExitCode.TERMINATED})
        try:
            with begin(front) as run:
                for handled in run:
                    self._tell(handled)
                return run
        except HashclientError as error:
            if must:
                raise
            self._on_failure(error)
            # Nothing is known of them yet: they stay to be looked at.
            moment = time.monotonic() + RETRY_S
            for path in paths:
                self._due.setdefault(path, moment)
            return None

    def _tell(self, handled: Handled) -> None:
        outcome = handled.outcome
        path = outcome.path
        if outcome.kind is Kind.UNREAD and outcome.reason == CHANGED:
            tried = self._attempts[path] = self._attempts.get(path, 0) + 1
            if tried < ATTEMPTS:
                self._due.setdefault(path, time.monotonic() + self._settle_s * (1 << tried))
                return
        self._attempts.pop(path, None)
        if outcome.kind is not Kind.SKIPPED:
            self._told(handled)

    def progressed(self) -> None:
        """Take in what changes while a scan runs: the kernel keeps little of it.

        Raises:
            _Stopped: the watch is to stop.
        """
        if self._stopping:
            raise _Stopped
        self._take_in()

    def failed(self, error: HashclientError) -> None:
        """Say what went wrong in a scan that goes on."""
        self._on_failure(error)


class _Stopped(Exception):  # noqa: N818 - no error
    """The watch is to stop."""


class _Observer(Observer):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def progressed(self) -> None:
        self._watch.progressed()

    def failed(self, error: HashclientError) -> None:
        self._watch.failed(error)


class _Files:
    """Files that have changed, as a source; those that are gone again are no news."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    @property
    def arguments(self) -> Sequence[str]:
        """How many there are: the log need not repeat them."""
        return [f"{len(self._paths)} changed files"]

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield them by directory."""
        task: Task = []
        names = 0
        for path in self._paths:
            directory, name = os.path.split(path)
            if not os.path.lexists(path):
                continue
            if not task or task[-1].directory != directory:
                task.append(Group(directory, [], follow=False))
            task[-1].names.append(name)
            names += 1
            if names >= TASK_NAMES:
                yield task
                task, names = [], 0
        if task:
            yield task

    def close(self) -> None:
        """Keep nothing."""

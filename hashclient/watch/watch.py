"""Watches directory trees: checks changed files, and scans all trees if changes were missed.

The checks are usual scans, with the same cache, records, policy and log. A first scan of all trees
finds changes that were made before the watch began. A file that changes repeatedly is checked after
it has not changed for the settle time.
"""

from __future__ import annotations

import errno
import glob
import os
import signal
import time
from collections.abc import Callable, Sequence

from hashclient.client.client import Client
from hashclient.core.errors import ExitCode, HashclientError, StateError
from hashclient.core.kinds import Kind
from hashclient.core.model import Handled
from hashclient.core.verdict import Summary
from hashclient.scan.run.pipeline import FrontEnd, Observer, Run
from hashclient.scan.sources.frontier import compile_excludes
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import CHANGED, MOVED, join
from hashclient.system.beneath import HELD_FLAGS, open_plain
from hashclient.system.beside import Beside
from hashclient.system.text import printable
from hashclient.system.wakeup import wait, woken_by
from hashclient.watch.changed import ChangedFiles
from hashclient.watch.changes import Changes

#: If a file changes at each of this number of attempts to read it, the file is reported as unread.
ATTEMPTS = 5
#: The most files in one scan of changed files; more files would delay the check of later changes.
MOST_FILES = 50_000
#: Time between two scans of all trees if some directories cannot be watched, and until a file is
#: checked again whose match could not be recorded, in seconds.
PARTLY_S = 300.0
#: A file that changes all the time is checked when `MOST_SETTLES` times the settle time has passed.
MOST_SETTLES = 10
#: Seconds between the arrival of an event of inotify and the read of all events, because many
#: events arrive together. Even if 100,000 files a second change, their events fill only an eighth
#: of the kernel's queue (at its default length) during `GATHER_S`.
GATHER_S = 0.01
#: `REST_S`: the pause after a check of changed files, in seconds; `MOST_REST_S`: the longest pause.
#: During the pause, more changed files are collected, because each check costs about 0.1 s even for
#: few files. The pause is not longer than the settle time. If the check itself took longer, the
#: pause is as long as the check, up to `MOST_REST_S`.
REST_S, MOST_REST_S = 1.0, 3.0
#: Time between two checks for new lists, and for changes that the kernel does not report, in
#: seconds.
LOOK_S = 2.0
#: Seconds to wait after a failure that may be temporary, for example a full disk.
RETRY_S = 10.0
#: Seconds in which a command in `beside` must end when the watch ends.
STOP_S = 5.0


class Watch(Observer):
    """Checks files that change below some directories, until a signal arrives."""

    def __init__(
        self,
        client: Client,
        roots: Sequence[str],
        *,
        settle_s: float,
        rescan_s: float,
        options: ScanOptions | None = None,
        on_outcome: Callable[[Handled], None],
        on_failure: Callable[[HashclientError], None],
        on_scan: Callable[[Summary], None] = lambda _: None,
        on_lists: Callable[[Summary], None] = lambda _: None,
        on_unseen: Callable[[str], None] = lambda _: None,
        beside: Sequence[Beside] = (),
    ) -> None:
        """Check each file `settle_s` seconds after its last change.

        All trees are scanned every `rescan_s` seconds.

        `on_outcome` is called with each outcome that is not clean, after the outcome is recorded
        and acted upon; `on_failure` is called with each error; `on_scan` is called after each scan
        of all trees. `on_lists` is called when the lists differ from the lists of the previous
        scan, or when other lists are missing than before. `on_unseen` is called with each directory
        below which the kernel does not report all changes. `options` are the options of all scans.
        The commands `beside` are run at regular times.
        """
        self._client = client
        self._state_dir = os.path.realpath(client.session.settings.state_dir)
        self._roots = [os.path.realpath(root) for root in roots]
        self._settle_s = settle_s
        self._rescan_s = rescan_s
        self._options = options = options or ScanOptions()
        self._excluded = compile_excludes(options.exclude) if options.exclude else None
        self._on_outcome = on_outcome
        self._on_failure = on_failure
        self._on_scan = on_scan
        self._on_lists = on_lists
        self._on_unseen = on_unseen
        self._beside = beside
        self._stopping = False
        #: `_due`: for each changed file, the time from which the file may be checked; `_first_due`:
        #: the earliest time in `_due`, or a time before it; `_latest`: for each changed file, the
        #: time at which the file is checked even if it still changes.
        self._due: dict[str, float] = {}
        self._first_due = float("inf")
        self._latest: dict[str, float] = {}
        #: `_changed_at`: the time of the last event of inotify; `_overflowed_at`: the time at which
        #: the kernel's queue of events overflowed, or None.
        self._changed_at = 0.0
        self._overflowed_at: float | None = None
        self._unseen: frozenset[str] = frozenset()
        self._lists: tuple[object, ...] | None = None
        self._folders: list[tuple[str, int, int]] = []
        self._attempts: dict[str, int] = {}

    def run(self, on_ready: Callable[[int], None]) -> None:
        """Watch until SIGTERM or SIGINT.

        `on_ready` is called with the number of watched directories.

        Raises:
            UsageError: a directory cannot be watched.
            StateError: the trees have too many directories, or no list can be used at the start.
        """
        handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT), self._on_stop)
        with (
            woken_by(handlers) as woken,
            Changes(self._roots, without=[self._state_dir]) as changes,
        ):
            self._changes = changes
            on_ready(changes.directories)
            try:
                self._everything(first=True)
                self._watch(woken)
            finally:
                for command in self._beside:
                    command.end(STOP_S)

    def _on_stop(self) -> None:
        self._stopping = True

    def _watch(self, woken: int) -> None:
        look_at = rested_at = time.monotonic()
        rescan_at = look_at + self._next_rescan_s
        while not self._stopping:
            until = min(self._all_due(rescan_at), self._some_due(rested_at), look_at)
            if wait(woken, [self._changes.fileno()], max(0.0, until - time.monotonic())):
                time.sleep(GATHER_S)
                self._take_in()
            now = time.monotonic()
            # The kernel may allow fewer watches now than at the last scan of all trees.
            rescan_at = min(rescan_at, now + self._next_rescan_s)
            missed = self._changes.missed
            if now >= look_at:
                look_at = now + LOOK_S
                for command in self._beside:
                    command.look()
                missed = self._changes.look_around() or self._are_other_lists()
                self._take_in()
            if self._changes.overflowed and self._overflowed_at is None:
                self._overflowed_at = now
            if missed or now >= self._all_due(rescan_at):
                # If the scan fails, the changes still count as missed, and the scan is repeated.
                done = self._everything()
                rescan_at = time.monotonic() + (self._next_rescan_s if done else RETRY_S)
            elif now >= self._some_due(rested_at):
                rested_at = self._look_at_due(now)

    def _look_at_due(self, now: float) -> float:
        """Check the files that are due.

        Return the time from which the next files may be checked.
        """
        due = sorted((moment, path) for path, moment in self._due.items() if moment <= now)
        # The files that have waited longest are checked first. Otherwise, somebody could delay the
        # check of a file by changing other files all the time.
        chosen = sorted(path for _, path in due[:MOST_FILES])
        if chosen:
            self._look_at(chosen)
        self._first_due = min(self._due.values(), default=float("inf"))
        if not chosen or len(due) > MOST_FILES:
            return now
        ended = time.monotonic()
        return ended + min(max(self._pause_s, ended - now), MOST_REST_S)

    @property
    def _pause_s(self) -> float:
        return min(self._settle_s, REST_S)

    def _all_due(self, rescan_at: float) -> float:
        """Return the time of the next scan of all trees.

        After an overflow, the scan may begin before `rescan_at`, but only when no more changes
        arrive, because a scan of files that are still being written would be useless.
        """
        if self._overflowed_at is None:
            return rescan_at
        at_rest = self._changed_at + self._pause_s
        return min(at_rest, self._overflowed_at + self._pause_s * MOST_SETTLES, rescan_at)

    def _some_due(self, rested_at: float) -> float:
        """Return the time of the next check of changed files.

        Return infinity if an overflow requires a scan of all trees, which also checks the changed
        files.
        """
        return max(self._first_due, rested_at) if self._overflowed_at is None else float("inf")

    @property
    def _next_rescan_s(self) -> float:
        if self._changes.is_whole:
            return self._rescan_s
        return min(self._rescan_s, PARTLY_S)

    def _are_other_lists(self) -> bool:
        """Return whether the lists have changed, so that clean files may match now."""
        before, self._folders = self._folders, self._client.session.list_folders()
        return before != self._folders

    def _take_in(self) -> None:
        """Read the kernel's reports, and note when each changed file is due."""
        self._changes.read()
        now = time.monotonic()
        files = self._changes.take()
        if files or self._changes.overflowed:
            self._changed_at = now
        for path in files:
            if self._is_excluded(path):
                continue
            latest = self._latest.setdefault(path, now + self._settle_s * MOST_SETTLES)
            self._is_due(path, min(now + self._settle_s, latest))

    def _is_excluded(self, path: str) -> bool:
        """Return whether a scan excludes a file because of its name, or a directory's name."""
        if self._excluded is None:
            return False
        roots = [r for r in self._roots if r == "/" or path.startswith(f"{r}/")]
        return bool(roots) and all(self._is_excluded_below(root, path) for root in roots)

    def _is_excluded_below(self, root: str, path: str) -> bool:
        assert self._excluded is not None
        directory = root
        for name in path[len(root) :].lstrip("/").split("/"):
            if self._excluded(directory, name):
                return True
            directory = join(directory, name)
        return False

    def _is_due(self, path: str, moment: float) -> None:
        self._due[path] = moment
        self._first_due = min(self._first_due, moment)

    def _everything(self, *, first: bool = False) -> bool:
        """Scan all trees, with the cache, to find missed changes.

        Return whether the scan succeeded.
        """
        self._folders = self._client.session.list_folders()
        self._overflowed_at = None
        self._changes.look_again()
        self._due.clear()
        self._latest.clear()
        self._attempts.clear()
        self._first_due = float("inf")
        for path in sorted(self._changes.unseen - self._unseen):
            self._on_unseen(path)
        self._unseen = self._changes.unseen
        roots = [root for root in self._roots if not self._is_led_away(root)]
        if not roots:
            return False
        exclude = (*self._options.exclude, glob.escape(self._state_dir))
        run = self._scan(
            lambda front: self._client.scan(
                *roots,
                options=self._options._replace(exclude=exclude),
                front=front,
            ),
            must=first,
        )
        if run is not None and not self._stopping:
            self._on_scan(run.summary)
        return run is not None

    def _is_led_away(self, root: str) -> bool:
        """Return whether a symbolic link is now on the path to a root, and report the link.

        The path to the root had no symbolic link when the watch began. Therefore somebody has
        created the link after the watch began, and the target of the link must not be watched.
        """
        try:
            os.close(open_plain(root, HELD_FLAGS))
        except OSError as error:
            if error.errno != errno.ELOOP:
                return False
            link = printable(os.fsdecode(error.filename))
            hint = "find out who has put it there; to watch its target, start again"
            why = f"not watched: {printable(root)}: a link was put there: {link}"
            self._on_failure(StateError(why, hint=hint))
            return True
        return False

    def _look_at(self, paths: Sequence[str]) -> None:
        """Check changed files, and remove them from the files that wait."""
        for path in paths:
            del self._due[path]
            self._latest.pop(path, None)
        source, options = ChangedFiles(paths), self._options._replace(brief=True)
        self._scan(
            lambda front: self._client.scan(options=options, sources=[source], front=front),
            paths=paths,
        )

    def _scan(
        self,
        begin: Callable[[FrontEnd], Run],
        *,
        must: bool = False,
        paths: Sequence[str] = (),
    ) -> Run | None:
        """Run one scan to its end, and report its outcomes.

        Raises:
            HashclientError: the scan cannot begin, and `must` is true.
        """
        front = FrontEnd(observer=self, stops={_Stopped: ExitCode.TERMINATED})
        try:
            with begin(front) as run:
                run.summary.allow_empty = True  # a watched folder is often empty
                lists = (run.summary.lists, run.summary.missing)
                if lists != self._lists:
                    self._lists = lists
                    self._on_lists(run.summary)
                for handled in run:
                    self._report_or_retry(handled)
                return run
        except HashclientError as error:
            if must:
                raise
            self._on_failure(error)
            # The scan failed and did not check the files in `paths`, so they are checked again
            # after `RETRY_S`.
            moment = time.monotonic() + RETRY_S
            for path in paths:
                if path not in self._due:
                    self._is_due(path, moment)
            return None

    def _report_or_retry(self, handled: Handled) -> None:
        outcome = handled.outcome
        path = outcome.path
        if outcome.kind is Kind.UNREAD and outcome.reason in {CHANGED, MOVED}:
            tried = self._attempts[path] = self._attempts.get(path, 0) + 1
            if tried < ATTEMPTS:
                if path not in self._due:
                    self._is_due(path, time.monotonic() + self._settle_s * (1 << tried))
                return
        self._attempts.pop(path, None)
        if handled.is_unrecorded and path not in self._due:
            self._is_due(path, time.monotonic() + PARTLY_S)
        if outcome.kind is not Kind.SKIPPED:
            self._on_outcome(handled)

    def progressed(self) -> None:
        """Read the events of inotify during a scan, because the kernel's queue would overflow.

        Raises:
            _Stopped: the watch has to end.
        """
        if self._stopping:
            raise _Stopped
        self._take_in()

    def failed(self, error: HashclientError) -> None:
        """Report a failure in a scan that continues."""
        self._on_failure(error)


class _Stopped(Exception):  # noqa: N818 - it is no error
    """Raised in a scan when the watch has to end."""

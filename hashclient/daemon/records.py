"""Records the matches of streams in a thread, many at a time; clean streams do not wait.

Matches that come during a write are recorded together in the next write, so that they wait for the
disk once. Matches at paths are recorded apart from these, in the threads that read the paths, since
isolating a file may take long.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from hashclient.daemon.counts import Count, Row
from hashclient.daemon.ledger import Ledger
from hashclient.daemon.lists import InUse
from hashclient.daemon.uploads import Upload, by_lists
from hashclient.system.log import Log

_log = Log("daemon")


class Records:
    """The records of one process; call all methods in the thread of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        of_streams: Ledger,
        of_paths: Ledger,
        counts: Row,
        on_recorded: Callable[[list[Upload]], None],
    ) -> None:
        """Record streams in `of_streams`; `on_recorded` is called with those that are recorded."""
        self.of_paths = of_paths
        self._of_streams = of_streams
        self._loop = loop
        self._counts = counts
        self._on_recorded = on_recorded
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._waiting: list[Upload] = []
        self._is_recording = False
        #: Preparing a report may take long, so it has a thread of its own.
        self._reporter = ThreadPoolExecutor(1, "reporter")
        self._reporting: Future[None] | None = None

    def add(self, found: list[Upload]) -> None:
        """Record streams with outcomes soon, then call `on_recorded`."""
        self._waiting += found
        if self._waiting and not self._is_recording:
            self._is_recording = True
            found, self._waiting = self._waiting, []
            self._thread.submit(self._record, found)

    def leave(self, kinds: Mapping[str, int], lists: InUse) -> None:
        """Note files of kinds that are not opened, in a stream that was judged with `lists`."""
        self._thread.submit(self._safely, lambda: self._of_streams.leave(kinds, lists))

    def use(self, lists: InUse) -> None:
        """Go on with other lists."""
        self._thread.submit(self._safely, lambda: self._of_streams.use(lists))

    def prepare_reports(self) -> None:
        """Prepare reports of matches, unless this is running already."""
        if self._reporting is None or self._reporting.done():
            self._reporting = self._reporter.submit(self._prepare)

    def end_streams(self) -> None:
        """Record the rest of the streams, and log the end of these."""
        self._thread.shutdown(wait=True)
        self._add(self._waiting)
        self._of_streams.end()
        self._reporter.shutdown(wait=False, cancel_futures=True)

    def _add(self, found: list[Upload]) -> None:
        """Record streams, each with the lists that it was judged with.

        Its tags are made with the seal key of these lists; a newer key may be in use.
        """
        for same in by_lists(found):
            outcomes = [outcome for upload in same for outcome in upload.recorded()]
            self._safely(functools.partial(self._of_streams.add, outcomes, same[0].lists))

    def _record(self, found: list[Upload]) -> None:
        self._add(found)
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            self._loop.call_soon_threadsafe(self._recorded, found)

    def _recorded(self, found: list[Upload]) -> None:
        self._is_recording = False
        self.add([])
        self._on_recorded(found)

    def _prepare(self) -> None:
        for ledger in (self._of_streams, self.of_paths):
            self._safely(ledger.prepare_reports)

    def _safely(self, do: Callable[[], object]) -> None:
        """Call a function and count its failure; a match is answered as a match in any case."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are answered
            self._counts.add(Count.FAILURES)
            _log.info("not recorded: %s", getattr(error, "message", type(error).__name__))

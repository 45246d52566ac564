"""What streams match is recorded in a thread, many at a time: who is clean waits for no disk.

What matches while others are being recorded is recorded next, together, so that the disk is waited
for once for all of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon.counts import Count, Row
from hashclient.daemon.ledger import Ledger
from hashclient.daemon.lists import InUse
from hashclient.daemon.uploads import Upload
from hashclient.system.log import Log

if TYPE_CHECKING:
    import asyncio

_log = Log("daemon")

Found = tuple[Upload, Outcome]
#: What is on record of what is in a stream.
RECORDED = (Kind.MATCH, Kind.CONFLICT)


class StreamRecords:
    """The records of the streams of one process; all is called in the thread of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ledger: Ledger,
        counts: Row,
        tell: Callable[[list[Found]], None],
    ) -> None:
        """Record in `ledger`, and `tell` what is recorded."""
        self._loop = loop
        self._ledger = ledger
        self._counts = counts
        self._tell = tell
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._waiting: list[Found] = []
        self._is_recording = False
        #: Preparing a report may take its time: it has a thread of its own.
        self._reporter = ThreadPoolExecutor(1, "reporter")
        self._reporting: Future[None] | None = None

    def add(self, found: list[Found]) -> None:
        """Record these soon, and tell them then."""
        self._waiting += found
        self._go()

    def use(self, lists: InUse) -> None:
        """Go on with other lists."""
        self._thread.submit(self._safely, lambda: self._ledger.use(lists))

    def prepare_reports(self, *others: Callable[[], None]) -> None:
        """Prepare the reports that matches want, and `others`, unless that is being done."""
        if self._reporting is None or self._reporting.done():
            self._reporting = self._reporter.submit(self._prepare, others)

    def end(self) -> None:
        """Record what is left, and log that it ends."""
        self._thread.shutdown(wait=True)
        self._safely(lambda: self._ledger.add(_all(self._waiting)))
        self._ledger.end()
        self._reporter.shutdown(wait=False, cancel_futures=True)

    def _go(self) -> None:
        if self._waiting and not self._is_recording:
            self._is_recording = True
            found, self._waiting = self._waiting, []
            self._thread.submit(self._record, found)

    def _record(self, found: list[Found]) -> None:
        self._safely(lambda: self._ledger.add(_all(found)))
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            self._loop.call_soon_threadsafe(self._recorded, found)

    def _recorded(self, found: list[Found]) -> None:
        self._is_recording = False
        self._go()
        self._tell(found)

    def _prepare(self, others: tuple[Callable[[], None], ...]) -> None:
        for prepare in (self._ledger.prepare_reports, *others):
            self._safely(prepare)

    def _safely(self, do: Callable[[], None]) -> None:
        """Do something whose failure is counted: a match is answered as one all the same."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are answered
            self._counts.add(Count.FAILURES)
            _log.info("not recorded: %s", getattr(error, "message", type(error).__name__))


def _all(found: list[Found]) -> list[Outcome]:
    """Return all that is to be recorded of streams: what they are answered by, and the rest."""
    outcomes: list[Outcome] = []
    for upload, outcome in found:
        outcomes.append(outcome)
        outcomes += (o for o in upload.inside if o is not outcome and o.kind in RECORDED)
    return outcomes

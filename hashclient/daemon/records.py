"""Records the matches of streams in a thread, many at a time; clean streams do not wait.

Matches that come during a write are recorded together in the next write, so that they wait for the
disk once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
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
#: The recorded outcomes of the members of a stream.
RECORDED = (Kind.MATCH, Kind.CONFLICT)


class StreamRecords:
    """The records of the streams of one process; call all methods in the thread of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ledger: Ledger,
        counts: Row,
        on_recorded: Callable[[list[Found]], None],
    ) -> None:
        """Record in `ledger`; call `on_recorded` with the recorded streams."""
        self._loop = loop
        self._ledger = ledger
        self._counts = counts
        self._on_recorded = on_recorded
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._waiting: list[Found] = []
        self._is_recording = False
        #: Preparing a report may take long, so it has a thread of its own.
        self._reporter = ThreadPoolExecutor(1, "reporter")
        self._reporting: Future[None] | None = None

    def add(self, found: list[Found]) -> None:
        """Record these soon, then call `on_recorded`."""
        self._waiting += found
        self._go()

    def leave(self, kinds: Mapping[str, int], lists: InUse) -> None:
        """Note files of kinds that are not opened, in a stream that was judged with `lists`."""

        def leave() -> None:
            self._ledger.use(lists)
            self._ledger.leave(kinds)

        self._thread.submit(self._safely, leave)

    def use(self, lists: InUse) -> None:
        """Go on with other lists."""
        self._thread.submit(self._safely, lambda: self._ledger.use(lists))

    def prepare_reports(self, *others: Callable[[], None]) -> None:
        """Prepare reports of matches, and call `others`, unless this is running already."""
        if self._reporting is None or self._reporting.done():
            self._reporting = self._reporter.submit(self._prepare, others)

    def end(self) -> None:
        """Record the rest, and log the end."""
        self._thread.shutdown(wait=True)
        self._add(self._waiting)
        self._ledger.end()
        self._reporter.shutdown(wait=False, cancel_futures=True)

    def _go(self) -> None:
        if self._waiting and not self._is_recording:
            self._is_recording = True
            found, self._waiting = self._waiting, []
            self._thread.submit(self._record, found)

    def _add(self, found: list[Found]) -> None:
        """Record streams, each with the lists that it was judged with.

        Its tags are of the seal key of these lists, which may be another one by now.
        """
        by_lists: dict[int, list[Found]] = {}
        for one in found:
            by_lists.setdefault(id(one[0].lists), []).append(one)
        for same in by_lists.values():
            self._safely(functools.partial(self._add_same, same))

    def _add_same(self, found: list[Found]) -> None:
        self._ledger.use(found[0][0].lists)
        self._ledger.add(_all(found))

    def _record(self, found: list[Found]) -> None:
        self._add(found)
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            self._loop.call_soon_threadsafe(self._recorded, found)

    def _recorded(self, found: list[Found]) -> None:
        self._is_recording = False
        self._go()
        self._on_recorded(found)

    def _prepare(self, others: tuple[Callable[[], None], ...]) -> None:
        for prepare in (self._ledger.prepare_reports, *others):
            self._safely(prepare)

    def _safely(self, do: Callable[[], None]) -> None:
        """Call a function and count its failure; a match is answered as a match in any case."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are answered
            self._counts.add(Count.FAILURES)
            _log.info("not recorded: %s", getattr(error, "message", type(error).__name__))


def _all(found: list[Found]) -> list[Outcome]:
    """Return all outcomes of streams to record: those that decide the answers, and the rest."""
    outcomes: list[Outcome] = []
    for upload, outcome in found:
        outcomes.append(outcome)
        outcomes += (o for o in upload.inside if o is not outcome and o.kind in RECORDED)
    return outcomes

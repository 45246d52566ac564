"""Records, logs and acts upon the matches of a daemon before they are answered.

Many matches are recorded at once, so that they wait for the disk only once. A failed write is
counted and tried again with the next match. The answer is still sent, because an unrecorded match
is a match, too.

A client can send the same listed content as often as it likes. The first match is recorded, logged
and acted upon like any match. After that, the same content is only counted for an hour. The count
is written after 10, 100, 1,000 times and so on, and at the end of the hour. So records, log and
isolated files grow with the number of different listed contents, and not with the number of
requests.

Streams are recorded in a thread, many at a time, and clean streams do not wait. Matches of streams
that come during a write are recorded together in the next write. Matches at paths are recorded
separately, in the threads that read the paths, because isolating a file may take long.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from hashclient.core.errors import HashclientError
from hashclient.core.match import Place
from hashclient.core.model import Handled, Outcome, Recorded
from hashclient.core.verdict import Summary, add_by_kind
from hashclient.daemon.counts import Count, Row
from hashclient.daemon.lists import InUse
from hashclient.daemon.uploads import Upload, by_lists
from hashclient.matches.rows import place_of
from hashclient.scan.run.actions import Responder, prepare_wanted
from hashclient.scan.run.recorder import RunRecord
from hashclient.session import Session
from hashclient.system.log import Log

_log = Log("daemon")

COMMAND = "serve"
#: Seconds between two preparations of reports.
REPORTS_S = 60.0


class Ledger:
    """The records of one process of a daemon."""

    def __init__(
        self,
        session: Session,
        counts: Row,
        arguments: Sequence[str],
        lists: InUse,
        *,
        act: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without matches; with `act`, apply the policy to matches.

        `clock` gives seconds.

        Raises:
            HashclientError: the policy names unknown lists.
        """
        self._session = session
        self._counts = counts
        self._arguments = arguments
        self._act = act and bool(session.settings.config.policy)
        self._wants_reports = True
        self._prepared = 0.0
        self._lists = lists
        self._clock = clock
        self._repeats = Repeats(clock)
        self._responder = Responder(session, lists.states) if self._act else None
        #: The record of the run, from the first recorded match on; and the counts of the run.
        self._recorder: RunRecord | None = None
        self._summary = Summary(lists=())
        #: Several threads may record.
        self._lock = threading.RLock()

    def use(self, lists: InUse) -> RunRecord:
        """Use these lists from now on; log their names and generations if these have changed."""
        with self._lock:
            before, self._lists = self._lists, lists
            is_same = lists is before or lists.same_lists(before)
            if self._recorder is not None and is_same:
                self.keep_counts()
                return self._recorder
            self.end()
            if self._act and not is_same:
                # If a policy names unknown lists, matches are recorded only.
                self._responder = None
                try:
                    self._responder = Responder(self._session, lists.states)
                except HashclientError as error:
                    self.failed(error)
            recorder = self._renew()
            recorder.start(self._arguments)
            return recorder

    def _renew(self) -> RunRecord:
        lists = self._lists
        self._summary = Summary(lists=lists.states, missing=lists.lists.missing)
        self._recorder = RunRecord(
            self._session,
            COMMAND,
            self._summary,
            lists.key_id,
            on_failure=self.failed,
            places_of=_places_of,
            decision=None if self._responder is None else self._responder.decision,
        )
        return self._recorder

    def add(self, found: Sequence[Outcome], lists: InUse, *, each: bool = False) -> list[Handled]:
        """Record matches and conflicts, judged with `lists`; act on them, and return them.

        Content that came before from the same client is only counted, unless `each` is set.
        """
        with self._lock:
            recorder = self.use(lists)
            if self._summary.failed is not None:
                # The recorder has failed; the disk may have free space again.
                recorder = self._renew()
            for outcome in found:
                self._summary.add(outcome)
            first = found if each else self._repeats.first(found)
            is_kept = False
            try:
                kept = recorder.keep(first)
                if not each:
                    self._repeats.learn(kept)
                    self.keep_counts()
                is_kept = self._summary.failed is None
            finally:
                if not is_kept:
                    self._repeats.forget()  # a match that comes again is recorded then
            if self._responder is not None and kept:
                return self._act_on(kept, self._responder)
            return [Handled(recorded.outcome, recorded.record) for recorded in kept]

    def _act_on(self, kept: Sequence[Recorded], responder: Responder) -> list[Handled]:
        done = [*responder.respond_all(kept)]
        for handled in done:
            if handled.record is None or not handled.record.held:
                failed = sum(acted.done is False for acted in handled.acted)
                self._counts.add(Count.FAILURES, failed)
        self._wants_reports = True
        return done

    def leave(self, kinds: Mapping[str, int], lists: InUse) -> None:
        """Count files of kinds that are not opened, found with `lists`."""
        if not kinds:
            return
        with self._lock:
            self.use(lists)
            add_by_kind(self._summary.not_opened, kinds)

    def prepare_reports(self) -> None:
        """Prepare reports of matches at intervals, and write counts that are due."""
        self.keep_counts()
        now = self._clock()
        if self._responder is None or not self._wants_reports or now < self._prepared + REPORTS_S:
            return
        self._prepared, self._wants_reports = now, False
        for made in prepare_wanted(self._session):
            if isinstance(made, HashclientError):
                self.failed(made)

    def keep_counts(self, *, everything: bool = False) -> None:
        """Write how often matches came again, for matches whose count is due."""
        with self._lock:
            if self._recorder is not None:
                self._recorder.keep_counts([*self._repeats.due(everything=everything)])

    def end(self) -> None:
        """Log the end, with the counts, if anything was logged."""
        with self._lock:
            self.keep_counts(everything=True)
            if self._recorder is not None:
                self._recorder.end()
                self._recorder = None

    def failed(self, error: Exception) -> None:
        """Count a match that was not recorded, or not acted upon."""
        self._counts.add(Count.FAILURES)
        _log.info("not recorded: %s", getattr(error, "message", type(error).__name__))


def _places_of(outcomes: Sequence[Outcome]) -> list[Place]:
    """Return where inputs are: streams by the name of their client, files by their paths."""
    return [Place(o.path) if o.is_stream else place_of(o) for o in outcomes]


class Records:
    """The records of one process; call all methods in the thread of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        of_streams: Ledger,
        of_paths: Ledger,
        on_recorded: Callable[[list[Upload]], None],
    ) -> None:
        """Record streams in `of_streams`; `on_recorded` is called with the recorded streams."""
        self.of_paths = of_paths
        self._of_streams = of_streams
        self._loop = loop
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
        """Use other lists from now on."""
        self._thread.submit(self._safely, lambda: self._of_streams.use(lists))

    def prepare_reports(self) -> None:
        """Prepare reports of matches, unless a preparation is running already."""
        if self._reporting is None or self._reporting.done():
            self._reporting = self._reporter.submit(self._prepare)

    def end_streams(self) -> None:
        """Record the remaining streams, and log the end of these records."""
        self._thread.shutdown(wait=True)
        self._add(self._waiting)
        self._of_streams.end()
        self._reporter.shutdown(wait=False, cancel_futures=True)

    def _add(self, found: list[Upload]) -> None:
        """Record streams, each with the lists that it was judged with.

        The tags of the stream are made with the seal key of these lists; a newer key may be in use.
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
        """Call a function; count its failure, since a match is answered as a match in any case."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - waiting clients get an answer after any error
            self._of_streams.failed(error)


#: Seconds for which a match is only counted.
REPEAT_S = 3600.0
#: This many matches are remembered; a forgotten match is recorded again if its content comes again.
MOST = 10_000
#: A count is written with the ids of the last mails, at most this many.
MOST_MAILS = 10
#: Seconds between two searches for hours that have ended.
SEARCH_S = 60.0

#: The client, and the entries that the content agrees with.
_Key = tuple[object, ...]


class Again(msgspec.Struct):
    """A match that was recorded at `since`, and how often it has come since and in all.

    `recorded` is None until the match is recorded. `count` is how often the match came since the
    last count was written; `mails` are the ids of the last mails in which it came.
    """

    since: float
    recorded: Recorded | None = None
    count: int = 0
    total: int = 1
    mails: deque[str] = msgspec.field(default_factory=lambda: deque(maxlen=MOST_MAILS))


class Repeats:
    """The recent matches of one process of a daemon."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Nothing has come yet; `clock` gives seconds."""
        self._clock = clock
        self._known: dict[_Key, Again] = {}
        self._due: list[Again] = []
        self._searched = clock()

    def first(self, found: Sequence[Outcome]) -> list[Outcome]:
        """Return the matches that did not come recently, and count the others."""
        now, first = self._clock(), []
        for outcome in found:
            key = _key_of(outcome)
            again = self._known.get(key)
            if again is not None and now < again.since + REPEAT_S:
                again.count += 1
                again.total += 1
                if outcome.mail is not None and outcome.mail.message_id is not None:
                    again.mails.append(outcome.mail.message_id)
                if _is_power_of_ten(again.total):
                    self._due.append(again)
                continue
            if again is not None:
                self._due.append(self._known.pop(key))  # `_due` has the order of the times
            self._known[key] = Again(now)
            first.append(outcome)
        while len(self._known) > MOST:
            self._due.append(self._known.pop(next(iter(self._known))))
        return first

    def learn(self, kept: Sequence[Recorded]) -> None:
        """Note the records of the first matches."""
        for recorded in kept:
            again = self._known.get(_key_of(recorded.outcome))
            if again is not None:
                again.recorded = recorded

    def forget(self) -> None:
        """Forget all matches, so that repeated content is recorded again."""
        self._known.clear()
        self._due.clear()

    def due(self, *, everything: bool = False) -> Iterator[tuple[Recorded, int, list[str]]]:
        """Yield matches whose count must be written, how often each came, and in which mails."""
        now = self._clock()
        if everything or now >= self._searched + SEARCH_S:
            self._searched = now
            ended = [k for k, a in self._known.items() if everything or now >= a.since + REPEAT_S]
            self._due += [self._known.pop(key) for key in ended]
        due, self._due = self._due, []
        for again in due:
            if again.count and again.recorded is not None:
                yield again.recorded, again.count, [*again.mails]
                again.count = 0
                again.mails.clear()


def _key_of(outcome: Outcome) -> _Key:
    client = outcome.path if outcome.is_stream else outcome.door
    return (client, outcome.kind, *sorted((h.list_name, h.entry, h.complete) for h in outcome.hits))


def _is_power_of_ten(number: int) -> bool:
    while number % 10 == 0:
        number //= 10
    return number == 1

"""Records and logs the matches of a daemon and applies the policy, before the client is answered.

Matches that come at about the same time are recorded in one transaction. If matches cannot be
recorded, the failure is counted, and the next match is recorded by a new recorder. The client is
still answered with a match if the match cannot be recorded.

A client can send the same listed content many times. The first match is recorded and logged, and
the policy is applied to it. For an hour after the first match, further matches of the same content
from the same client are only counted. The count is written after 10, 100, 1,000 times and so on,
and at the end of the hour. Because repeated matches are only counted, the sizes of the record of
matches, the audit log and the quarantine depend on the number of different listed contents, and not
on the number of requests.

Matches of streams are recorded in a separate thread, so clean streams do not wait for the disk.
Matches of streams that come during a write are recorded together in the next write. Matches at
paths are recorded by another `Ledger` in the threads that read the paths, because isolating a file
may take long.
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
#: The shortest time in seconds between two preparations of reports.
REPORTS_S = 60.0


class Ledger:
    """Records matches for one process of a daemon; any thread may call the methods."""

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
        """Begin without matches; `act` says whether the policy is applied to matches.

        `clock` returns the time in seconds.

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
        #: `_recorder` writes the events of the run, and is None before the start and after the end
        #: of the run. `_summary` has the counts of the run.
        self._recorder: RunRecord | None = None
        self._summary = Summary(lists=())
        #: The lock is held while a thread records matches, because several threads may call the
        #: methods.
        self._lock = threading.RLock()

    def use(self, lists: InUse) -> RunRecord:
        """Use `lists` from now on; log a new run if names or generations of lists have changed."""
        with self._lock:
            before, self._lists = self._lists, lists
            is_same = lists is before or lists.same_lists(before)
            if self._recorder is not None and is_same:
                self.keep_counts()
                return self._recorder
            self.end()
            if self._act and not is_same:
                # If the policy names unknown lists, matches are recorded, but the policy is not
                # applied.
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
        """Record outcomes that were judged with `lists`, and apply the policy; return the results.

        Content that the same client has sent within the last hour is only counted, unless `each` is
        set.
        """
        with self._lock:
            recorder = self.use(lists)
            if self._summary.failed is not None:
                # After the former recorder has failed, a new recorder is used, because the disk may
                # have free space again.
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
                    self._repeats.forget()  # the next match with the same content must be recorded
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
        """Count container files of kinds that are not opened in the run with `lists`."""
        if not kinds:
            return
        with self._lock:
            self.use(lists)
            add_by_kind(self._summary.not_opened, kinds)

    def are_reports_due(self, *, at_end: bool = False) -> bool:
        """Return whether `prepare_reports` would prepare reports now."""
        if self._responder is None or not self._wants_reports:
            return False
        return at_end or self._clock() >= self._prepared + REPORTS_S

    def prepare_reports(self, *, at_end: bool = False) -> None:
        """Write counts of repeated matches; prepare reports if `REPORTS_S` seconds have passed.

        `at_end` says that this call is the last one, so reports are prepared at once. If a report
        cannot be prepared, the next call after `REPORTS_S` seconds tries again.
        """
        self.keep_counts()
        if not self.are_reports_due(at_end=at_end):
            return
        self._wants_reports = False
        for made in prepare_wanted(self._session):
            self._prepared = self._clock()
            if isinstance(made, HashclientError):
                self._wants_reports = True
                self.failed(made)

    def keep_counts(self, *, everything: bool = False) -> None:
        """Write the counts of repeated matches that are due, or all counts with `everything`."""
        with self._lock:
            if self._recorder is not None:
                self._recorder.keep_counts([*self._repeats.due(everything=everything)])

    def end(self) -> None:
        """Log the end of the run with its counts, if a run has begun."""
        with self._lock:
            self.keep_counts(everything=True)
            if self._recorder is not None:
                self._recorder.end()
                self._recorder = None

    def failed(self, error: Exception) -> None:
        """Count a failure to record a match or to apply the policy, and log it."""
        self._counts.add(Count.FAILURES)
        _log.info("not recorded: %s", getattr(error, "message", type(error).__name__))


def _places_of(outcomes: Sequence[Outcome]) -> list[Place]:
    """Return where inputs come from: the client's `door` for a stream, the path for a file."""
    return [Place(o.path) if o.is_stream else place_of(o) for o in outcomes]


class Records:
    """The two ledgers of one process; only the thread of the event loop may call the methods."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        of_streams: Ledger,
        of_paths: Ledger,
        on_recorded: Callable[[list[Upload]], None],
    ) -> None:
        """Record streams with `of_streams`; call `on_recorded` with the recorded streams."""
        self.of_paths = of_paths
        self._of_streams = of_streams
        self._loop = loop
        self._on_recorded = on_recorded
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._waiting: list[Upload] = []
        self._is_recording = False
        #: Reports are prepared in a separate thread, because the preparation may take long.
        self._reporter = ThreadPoolExecutor(1, "reporter")
        self._reporting: Future[None] | None = None

    def add(self, found: list[Upload]) -> None:
        """Queue streams with outcomes for recording; call `on_recorded` when they are recorded."""
        self._waiting += found
        if self._waiting and not self._is_recording:
            self._is_recording = True
            found, self._waiting = self._waiting, []
            self._thread.submit(self._record, found)

    def leave(self, kinds: Mapping[str, int], lists: InUse) -> None:
        """Count container files that are not opened, in a stream that was judged with `lists`."""
        self._thread.submit(self._safely, lambda: self._of_streams.leave(kinds, lists))

    def use(self, lists: InUse) -> None:
        """Let the ledger of streams use `lists` from now on."""
        self._thread.submit(self._safely, lambda: self._of_streams.use(lists))

    def prepare_reports(self) -> None:
        """Prepare reports in a thread, unless the thread is already preparing reports."""
        if self._reporting is None or self._reporting.done():
            self._reporting = self._reporter.submit(self._prepare)

    def end_streams(self) -> None:
        """Record the remaining streams, and log the end of the run of streams."""
        self._thread.shutdown(wait=True)
        self._add(self._waiting)
        self._of_streams.end()
        self._reporter.shutdown(wait=False, cancel_futures=True)

    def _add(self, found: list[Upload]) -> None:
        """Record streams, each with the lists that it was compared with.

        The tags of a stream must be made with the seal key of these lists, because the present seal
        key may be another key.
        """
        for same in by_lists(found):
            outcomes = [outcome for upload in same for outcome in upload.recorded()]
            self._safely(functools.partial(self._of_streams.add, outcomes, same[0].lists))

    def _record(self, found: list[Upload]) -> None:
        self._add(found)
        with contextlib.suppress(RuntimeError):  # raised if the event loop is closed
            self._loop.call_soon_threadsafe(self._recorded, found)

    def _recorded(self, found: list[Upload]) -> None:
        self._is_recording = False
        self.add([])
        self._on_recorded(found)

    def _prepare(self) -> None:
        for ledger in (self._of_streams, self.of_paths):
            self._safely(ledger.prepare_reports)

    def _safely(self, do: Callable[[], object]) -> None:
        """Call `do`; count an exception instead of raising it, because clients must be answered."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - clients are answered after any error
            self._of_streams.failed(error)


#: For this time in seconds after a match was recorded, the same match is only counted.
REPEAT_S = 3600.0
#: The highest number of matches that `Repeats` remembers. A match that is not remembered is
#: recorded again if its content comes again.
MOST = 10_000
#: The highest number of ids of mails that are written with the count of a repeated match.
MOST_MAILS = 10
#: Seconds between two searches for remembered matches that are older than `REPEAT_S`.
SEARCH_S = 60.0

#: The key by which a repeated match is recognised: the client, the kind of the outcome, and the
#: entries.
_Key = tuple[object, ...]


class Again(msgspec.Struct):
    """A match that first came at the time `since`, and how often the same match came again.

    `recorded` is the recorded match, or None before it is recorded. `count` is how often the match
    came since the last count was written. `total` is how often the match came altogether. `mails`
    are the ids of the last mails in which the match came.
    """

    since: float
    recorded: Recorded | None = None
    count: int = 0
    total: int = 1
    mails: deque[str] = msgspec.field(default_factory=lambda: deque(maxlen=MOST_MAILS))


class Repeats:
    """Remembers the recent matches of one process of a daemon, and counts repeated matches."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin without matches; `clock` returns the time in seconds."""
        self._clock = clock
        self._known: dict[_Key, Again] = {}
        self._due: list[Again] = []
        self._searched = clock()

    def first(self, found: Sequence[Outcome]) -> list[Outcome]:
        """Return matches that must be recorded; count matches that came within the last hour."""
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
                self._due.append(self._known.pop(key))  # `_known` stays ordered by time
            self._known[key] = Again(now)
            first.append(outcome)
        while len(self._known) > MOST:
            self._due.append(self._known.pop(next(iter(self._known))))
        return first

    def learn(self, kept: Sequence[Recorded]) -> None:
        """Store the records of matches that `first` has returned."""
        for recorded in kept:
            again = self._known.get(_key_of(recorded.outcome))
            if again is not None:
                again.recorded = recorded

    def forget(self) -> None:
        """Forget all matches, so that repeated content is recorded again."""
        self._known.clear()
        self._due.clear()

    def due(self, *, everything: bool = False) -> Iterator[tuple[Recorded, int, list[str]]]:
        """Yield each match whose count must be written, with its count and ids of mails."""
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

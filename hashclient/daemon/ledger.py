"""Records, logs and acts upon the matches of a daemon before they are answered.

Many are recorded at once, so that they wait for the disk once. A failed write is counted and tried
again with the next match; the answer is sent all the same, since an unrecorded match is still a
match.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from hashclient.core.counts import add_by_kind
from hashclient.core.match import Place
from hashclient.core.model import Outcome, Recorded
from hashclient.core.verdict import Summary
from hashclient.daemon.counts import Count, Row
from hashclient.daemon.lists import InUse
from hashclient.daemon.repeats import Repeats
from hashclient.errors import AuditError, HashclientError, StateError
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
        self, session: Session, counts: Row, arguments: Sequence[str], lists: InUse, *, act: bool
    ) -> None:
        """Have nothing to record yet; with `act`, apply the policy to matches.

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
        self._repeats = Repeats(time.monotonic)
        self._responder = Responder(session, lists.states) if self._act else None
        #: For the log, from the first record on; and its counts.
        self._recorder: RunRecord | None = None
        self._summary = Summary(lists=())
        #: Several threads may record.
        self._lock = threading.RLock()

    def use(self, lists: InUse) -> RunRecord:
        """Go on with these lists; if they differ, the log says from when on, and which."""
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
                    self._failed(error)
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
            on_failure=self._failed,
            places_of=_places_of,
            decision=None if self._responder is None else self._responder.decision,
        )
        return self._recorder

    def add(self, found: Sequence[Outcome], lists: InUse, *, each: bool = False) -> None:
        """Record matches and conflicts, judged with `lists`, and act on them.

        Those that came before from the same client are counted, unless `each` is set.
        """
        with self._lock:
            recorder = self.use(lists)
            if self._summary.failed is not None:
                # The recorder has failed; the disk may have room again.
                recorder = self._renew()
            for outcome in found:
                self._summary.add(outcome)
            first = found if each else self._repeats.first(found)
            kept = recorder.keep(first)
            if not each:
                self._repeats.learn(kept)
                self.keep_counts()
            if self._summary.failed is not None:
                self._repeats.forget()  # what comes again is recorded then
            if self._responder is not None and kept:
                self._act_on(kept, self._responder)

    def _act_on(self, kept: Sequence[Recorded], responder: Responder) -> None:
        for handled in responder.respond_all(kept):
            if handled.record is None or not handled.record.held:
                failed = sum(acted.done is False for acted in handled.acted)
                self._counts.add(Count.FAILURES, failed)
        self._wants_reports = True

    def leave(self, kinds: Mapping[str, int], lists: InUse) -> None:
        """Count files of kinds that are not opened, found with `lists`."""
        with self._lock:
            self.use(lists)
            add_by_kind(self._summary.not_opened, kinds)

    def prepare_reports(self) -> None:
        """Prepare reports of matches from time to time, and write counts that are due."""
        self.keep_counts()
        now = time.monotonic()
        if self._responder is None or not self._wants_reports or now < self._prepared + REPORTS_S:
            return
        self._prepared, self._wants_reports = now, False
        for made in prepare_wanted(self._session):
            if isinstance(made, HashclientError):
                self._failed(made)

    def keep_counts(self, *, everything: bool = False) -> None:
        """Write how often matches came again, where that is due."""
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

    def _failed(self, error: HashclientError | AuditError | StateError) -> None:
        self._counts.add(Count.FAILURES)
        _log.info("not recorded: %s", error.message)


def _places_of(outcomes: Sequence[Outcome]) -> list[Place]:
    """Return where inputs are: streams are named by their doors, and files by their paths."""
    return [Place(o.path) if o.is_stream else place_of(o) for o in outcomes]

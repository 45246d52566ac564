"""What a daemon finds is recorded, logged and acted upon before anybody gets an answer.

Many at once, so that the disk is waited for once. What cannot be written is counted and tried again
with the next match; the answer is given all the same, since a match that is not recorded is one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.daemon.counts import Count, Row
from hashclient.daemon.lists import InUse
from hashclient.errors import AuditError, HashclientError, StateError
from hashclient.scan.actions import Responder, prepare_wanted
from hashclient.scan.recorder import RunRecord
from hashclient.session import Session
from hashclient.system.log import Log

_log = Log("daemon")

COMMAND = "serve"
#: Seconds between two times that reports which matches want are prepared.
REPORTS_S = 60.0


class Ledger:
    """The records of one process of a daemon."""

    def __init__(
        self, session: Session, counts: Row, arguments: Sequence[str], lists: InUse, *, act: bool
    ) -> None:
        """Log that it starts; with `act`, do with matches what the policy says."""
        self._session = session
        self._counts = counts
        self._arguments = arguments
        self._act = act and bool(session.settings.config.policy)
        self._wants_reports = True
        self._prepared = 0.0
        self._lists = lists
        self._responder = self._respond() if self._act else None
        self._begin()

    def use(self, lists: InUse) -> None:
        """Go on with other lists: where they differ, the log says from when on, and with which."""
        if lists is self._lists:
            return
        same = lists.same_lists(self._lists)
        self._lists = lists
        if same:
            return
        self._recorder.end()
        if self._act:
            # What a policy is for must be known, or nothing is done about matches but a record.
            self._responder = None
            try:
                self._responder = self._respond()
            except HashclientError as error:
                self._failed(error)
        self._begin()

    def _respond(self) -> Responder:
        return Responder(self._session, self._lists.states)

    def _begin(self) -> None:
        self._renew()
        self._recorder.start(self._arguments)

    def _renew(self) -> None:
        lists = self._lists
        self.summary = Summary(lists.states, missing=lists.lists.missing)
        self._recorder = RunRecord(
            self._session, COMMAND, self.summary, lists.key_id, on_failure=self._failed
        )

    def add(self, found: Sequence[Outcome]) -> None:
        """Record matches and conflicts, and act on them."""
        if self.summary.failed is not None:
            # The recorder has given up; the disk may have room again.
            self._renew()
        for outcome in found:
            self.summary.add(outcome)
        kept = self._recorder.keep(found)
        if self._responder is None:
            return
        self._responder.want_reports(kept)
        for recorded in kept:
            if recorded.outcome.kind is Kind.MATCH:
                handled = self._responder.respond(recorded)
                failed = sum(acted.done is False for acted in handled.acted)
                self._counts.add(Count.FAILURES, failed)
        self._wants_reports = True

    def prepare_reports(self) -> None:
        """Prepare the reports that matches want, now and then."""
        now = time.monotonic()
        if self._responder is None or not self._wants_reports or now < self._prepared + REPORTS_S:
            return
        self._prepared, self._wants_reports = now, False
        for made in prepare_wanted(self._session):
            if isinstance(made, HashclientError):
                self._failed(made)

    def end(self) -> None:
        """Log that it ends, and what there was."""
        self._recorder.end()

    def _failed(self, error: HashclientError | AuditError | StateError) -> None:
        self._counts.add(Count.FAILURES)
        _log.info("not recorded: %s", error.message)

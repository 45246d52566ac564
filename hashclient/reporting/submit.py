"""Sends the reports that wait in the outbox, each to its destination.

Only one attempt at one report is made at a time, under the outbox's lock. The intent is written to
the audit log before anything is sent. A failed attempt is noted with its error and the time of the
next attempt. A failure does not stop the other reports.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from hashclient.audit.log import Event
from hashclient.core.errors import (
    AuditError,
    AuthorisationError,
    ConfigError,
    ExitCode,
    HashclientError,
    LockedError,
    StateError,
    UsageError,
)
from hashclient.matches.store import Matches
from hashclient.reporting.destinations.interface import Destination, Factory, Rehearsal, Work
from hashclient.reporting.destinations.registry import (
    KINDS,
    Table,
    find_destination,
    kind_of,
    load,
)
from hashclient.reporting.outbox import Outbox
from hashclient.reporting.report import Decision, Problem, Remote, Report, Sent, State
from hashclient.reporting.settling import reopen
from hashclient.system.files import sweep_temporary
from hashclient.system.text import counted

#: The operator, in the audit log, of the retraction of a report without remaining matches.
NOBODY = "hashclient"


class Sender:
    """Sends reports."""

    def __init__(
        self,
        outbox: Outbox,
        record: Matches,
        *,
        identities: Sequence[Any] = (),
        on_bytes: Callable[[int], None] = lambda _count: None,
        allow_closed: bool = False,
        unreviewed: str | None = None,
        load: Callable[[str], Factory] = load,
    ) -> None:
        """Keep the open record of matches, and the `identities` that open items in quarantine.

        `on_bytes` is called with the number of bytes after each part is sent. With `allow_closed`,
        evidence is sent even to a recipient who cannot open it. With `unreviewed`, a person's
        reason, reports are sent although matches in them wait for a review. `load` returns the
        implementation of a kind of destination.
        """
        self._outbox = outbox
        self._record = record
        self._session = outbox.session
        self._identities = identities
        self._work = Work(outbox, record, identities, on_bytes, allow_closed)
        self._unreviewed = unreviewed
        self._load = load

    def send_due(self) -> Iterator[Sent]:
        """Send all due reports, in turn; yield the result of each.

        A failed report is due after its pause. Timers use this call.

        Raises:
            LockedError: another command is working on reports.
            HashclientError: nothing at all can be sent.
        """
        return self._send_all(self._is_due)

    def send_waiting(self) -> Iterator[Sent]:
        """Send all waiting reports now, due or not, in turn, since a person requests it.

        Raises:
            LockedError: another command is working on reports.
            HashclientError: nothing at all can be sent.
        """
        return self._send_all(lambda _report: True)

    def _send_all(self, is_wanted: Callable[[Report], bool]) -> Iterator[Sent]:
        with self._outbox.working():
            self._outbox.settle_new(self._record)
            damaged: HashclientError | None = None
            reports = []
            for report_id in self._outbox.ids():
                try:
                    reports.append(self._outbox.get(report_id))
                except HashclientError as error:
                    damaged = error
            for report in sorted(reports, key=lambda r: (r.created, r.id)):
                if report.settled is None:
                    continue  # another command is making this report at this moment
                if not report.is_open and not report.is_retracting:
                    self._outbox.settle(report, self._record)
                elif is_wanted(report):
                    yield self._send(report)
            if damaged is not None:
                raise damaged

    def rehearse(self, report_ids: Sequence[str] | None) -> Iterator[tuple[Report, Rehearsal]]:
        """Yield given reports, or all waiting reports, and what would be sent; change nothing.

        Raises:
            UsageError: no report has this id, or the report was sent already.
            HashclientError: the content to send cannot be known.
        """
        for report_id in self._outbox.ids() if report_ids is None else report_ids:
            report = self._outbox.get(report_id)
            if report.is_open and report.retraction is None:
                waiting = self._outbox.waiting(report, self._record)
                found = self._destination(report).rehearse(report)
                waits = tuple(f"match {match_id}: it waits for a review" for match_id in waiting)
                yield report, msgspec.structs.replace(found, missing=(*found.missing, *waits))
            elif report_ids is not None:
                raise UsageError(f"report {report.id} is {report.state} already")

    def send(self, report_id: str, *, again: bool = False) -> Sent:
        """Send one report now, whether it is due or not.

        With `again`, the journal of the report at a service is dropped first: a person has made
        sure that the service does not have the report.

        Raises:
            LockedError: another command is working on reports.
            UsageError: no report has this id, or the report was sent or retracted already.
        """
        with self._outbox.working():
            report = self._take_up(report_id)
            if not report.is_open:
                self._outbox.settle(report, self._record)
                raise UsageError(f"report {report.id} is {report.state} already")
            if again:
                report = self._forget(report)
            return self._send(report)

    def retract(self, report_id: str, *, reason: str) -> Sent:
        """Retract a report, as far as this is still possible.

        An unsent report is dropped; an unfinished report at a service is retracted there; beside a
        package that was handed over, a signed note is put.

        1. A report that was handed over does not count any more. This is written to the log and the
           record of matches, and no item is due for destruction because of the report.
        2. The decision to retract the report is written to disk. After a kill from here on, the
           next command that sends goes on.
        3. The report is retracted, and the retraction is noted.

        Raises:
            LockedError: another command is working on reports.
            UsageError: no report has this id, or the report is finished.
            AuditError, StateError: step 1 or 2 cannot be noted.
        """
        with self._outbox.working():
            report = self._take_up(report_id)
            handed_over = report.state in (State.SUBMITTED, State.ACKNOWLEDGED)
            if report.state is State.RETRACTED:
                table = self._tables.get(report.destination)
                if table is not None and not (there := self._at(table)).is_taken_back(report):
                    return there.take_back(report)
                raise UsageError(f"report {report.id} is retracted already")
            if handed_over and not KINDS[report.kind].takes_back:
                raise UsageError(
                    f"report {report.id} is finished at the service as {report.reference}",
                    hint="a finished report cannot be changed; contact the recipient",
                )
            if handed_over:  # 1
                reopen(self._session, report, self._record, reason=reason)
            report = self._outbox.decide_retraction(report, reason=reason)  # 2
            return self._send(report)  # 3

    def _take_up(self, report_id: str) -> Report:
        self._outbox.settle_new(self._record)
        report = self._outbox.get(report_id)
        if report.settled is None:
            raise LockedError(f"report {report.id} is being prepared", hint="try again")
        return report

    def _is_due(self, report: Report) -> bool:
        # If an identity is given, reports that wait for a key, or failed with a wrong key, are due.
        waits = report.problem is not None and report.problem.exit_code in (
            ExitCode.INCOMPLETE,
            ExitCode.UNAUTHORISED,
        )
        is_due = report.is_due(self._session.now()) or (waits and bool(self._identities))
        waiting = self._waiting(report) if is_due else []
        return is_due and (not waiting or _can_part(report, waiting))

    def _forget(self, report: Report) -> Report:
        remote = report.remote
        past = remote.past if remote.report_id is None else (*remote.past, remote.report_id)
        changed = report.replace(remote=Remote(past=past, requests=remote.requests))
        return self._outbox.save(
            changed.noted(self._session.now(), "begun-anew", by=self._session.operator)
        )

    def _send(self, report: Report) -> Sent:
        """Make one attempt, and note its result."""
        notes: list[str] = []
        try:
            sent = self._send_what_can_be(report, notes)
        except AuditError as error:
            # The report did not cause this failure, so it needs no pause: the report is sent as
            # soon as the log works again.
            sent = Sent.not_done(self._outbox.get(report.id), error)
        except HashclientError as error:
            sent = Sent.not_done(self._failed(report.id, error), error)
        return msgspec.structs.replace(sent, notes=(*notes, *sent.notes))

    def _send_what_can_be(self, report: Report, notes: list[str]) -> Sent:
        """Make an attempt; matches that cannot be sent are set apart, so that the others are sent.

        `notes` gets a line about the matches that were set apart.
        """
        while True:
            waiting = self._waiting(report)
            if waiting and self._unreviewed is None:
                if not _can_part(report, waiting):
                    return _waits(report, len(waiting))
                report, other = self._outbox.set_apart(report, dict.fromkeys(waiting), self._record)
                notes.append(f"{_these(waiting, 'waits')} for a review, in report {other.id} now")
            elif waiting and self._unreviewed is not None:
                report = self._let_leave(report, waiting, self._unreviewed)
            intent = "report-submitting" if report.retraction is None else "report-retracting"
            self._log(intent, report, attempt=report.attempts + 1)
            sweep_temporary(self._outbox.folder(report.id))
            sent = self._attempt(report)
            if sent.error is None:
                return sent
            report, error = self._outbox.get(report.id), sent.error
            stuck = {i: why for i, why in sent.stuck.items() if i in report.matches}
            if stuck:
                error = _joined(stuck)
                if _can_part(report, stuck):
                    report, other = self._outbox.set_apart(report, stuck, self._record)
                    self._failed(other.id, error)
                    notes.append(
                        f"{_these(stuck, 'is')} in report {other.id} now, which waits:"
                        f" {error.message}"
                    )
                    continue
                self._outbox.note_stuck(report, stuck, self._record)
            return Sent.not_done(self._failed(report.id, error, sent.retry_after_s), error)

    def _waiting(self, report: Report) -> list[str]:
        """Return the matches of a report to be sent that wait for a review."""
        return [] if report.retraction else self._outbox.waiting(report, self._record)

    def _let_leave(self, report: Report, waiting: Sequence[str], reason: str) -> Report:
        """Note that a person lets a report leave, although matches in it wait for a review."""
        self._log("report-unreviewed", report, matches=list(waiting), reason=reason)
        decision = Decision(self._session.now(), self._session.operator, reason)
        noted = report.noted(decision.time, "unreviewed", by=decision.by, reason=reason)
        return self._outbox.save(noted.replace(unreviewed=decision))

    def _attempt(self, report: Report) -> Sent:
        if report.retraction is not None:
            return self._take_back(report)
        destination = self._destination(report)
        report = destination.renew(report)
        if report.is_untouched:
            report = self._outbox.leave_out_ended(report, self._record)
            if not report.matches:
                reason = "all matches were withdrawn, handled or rejected before sending"
                decided = self._outbox.decide_retraction(report, by=NOBODY, reason=reason)
                return Sent(self._outbox.retracted(decided, self._record), f"dropped: {reason}")
        return destination.send(report)

    def _destination(self, report: Report) -> Destination:
        """Return the destination of a report.

        Raises:
            UsageError, ConfigError: the destination is not configured any more, or is of another
                kind now.
        """
        _, table = find_destination(self._session.settings.config.report, report.destination)
        if kind_of(table) != report.kind:
            raise ConfigError(
                f"destination {report.destination} was of the kind {report.kind},"
                " and is another one now",
                hint="configure the destination with this name as before; a report that was not "
                "sent can be retracted and prepared again",
            )
        return self._at(table)

    def _at(self, table: Table) -> Destination:
        destination: Destination = self._load(kind_of(table))(self._work, table)
        return destination

    @property
    def _tables(self) -> Mapping[str, Table]:
        return self._session.settings.config.report.to

    def _take_back(self, report: Report) -> Sent:
        # A report that nobody outside has needs no destination; but leftovers of a kill are
        # removed.
        if not report.is_untouched:
            return self._destination(report).take_back(report)
        table = self._tables.get(report.destination)
        if table is None:
            return Sent(self._outbox.retracted(report, self._record), "retracted")
        return self._at(table).take_back(report)

    def _failed(
        self, report_id: str, error: HashclientError, retry_after_s: float | None = None
    ) -> Report:
        """Note a failed attempt in the latest journal of the report."""
        report = self._outbox.get(report_id)
        problem = Problem(self._session.now(), error.message, error.hint, int(error.exit_code))
        person = isinstance(error, UsageError | AuthorisationError)
        changed = report.failed(problem, person=person, retry_after_s=retry_after_s)
        with contextlib.suppress(StateError):  # the user sees the first error
            changed = self._outbox.save(changed)
        with contextlib.suppress(AuditError):
            requests = [r.id for r in report.remote.requests[-3:]]
            self._log("report-failed", report, error=error.message, requests=requests)
        return changed

    def _log(self, event: str, report: Report, **more: Any) -> None:
        data = {"report": report.id, "to": report.destination, "by": self._session.operator, **more}
        self._session.audit.append([Event(event, data)], durable=True)


def _can_part(report: Report, stuck: Collection[str]) -> bool:
    """Return whether a report can be sent without the matches that are `stuck`."""
    return report.is_untouched and len(stuck) < len(report.matches)


def _joined(stuck: Mapping[str, HashclientError]) -> HashclientError:
    """Return one error for matches that cannot be sent."""
    match_id, error = next(iter(stuck.items()))
    where = "" if match_id in error.message else f"match {match_id}: "
    more = f", and {counted(len(stuck) - 1, 'more match')}" if len(stuck) > 1 else ""
    return type(error)(f"{where}{error.message}{more}", hint=error.hint)


def _these(matches: Collection[str], verb: str) -> str:
    """Return a count of matches and a verb."""
    plural = {"waits": "wait", "is": "are"}[verb]
    return f"{counted(len(matches), 'match')} {verb if len(matches) == 1 else plural}"


def _waits(report: Report, count: int) -> Sent:
    verb = "waits" if count == 1 else "wait"
    return Sent(
        report,
        f"waits: {counted(count, 'match')} in it {verb} for a review",
        notes=("`hashclient matches --to-review` lists what waits for a review",),
    )

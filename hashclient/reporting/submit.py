"""Sends and retracts reports in the outbox.

Only one report is sent at a time, while the lock of the outbox is held. The intent to send a report
is written to the audit log before any data is sent. After a failed attempt, the error and the time
of the next attempt are written to the record of the report, and the next report is sent.
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

#: The name that is recorded as the operator if a report is retracted because it has no matches
#: left.
NOBODY = "hashclient"


class Sender:
    """Sends and retracts the reports of an outbox."""

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
        """Store the arguments; `record` is the open record of matches.

        `identities` are secret keys that open items in quarantine. `on_bytes` is called with the
        number of bytes of each sent piece. `allow_closed` allows sending evidence to a recipient
        who cannot open it. `unreviewed` is the reason of a person for sending reports with matches
        that wait for a review, or None. `load` returns the implementation of a kind of destination.
        """
        self._outbox = outbox
        self._record = record
        self._session = outbox.session
        self._identities = identities
        self._work = Work(outbox, record, identities, on_bytes, allow_closed)
        self._unreviewed = unreviewed
        self._load = load

    def send_due(self) -> Iterator[Sent]:
        """Send all reports that are due, one after the other; yield the result of each.

        A report whose last attempt has failed is due after a pause. `send_due` is for commands that
        run at intervals.

        Raises:
            LockedError: another command is working on reports.
            HashclientError: no report can be sent, or a report is damaged.
        """
        return self._send_all(self._is_due)

    def send_waiting(self) -> Iterator[Sent]:
        """Send all waiting reports at the request of a person, whether they are due or not.

        Raises:
            LockedError: another command is working on reports.
            HashclientError: no report can be sent, or a report is damaged.
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
                    continue  # another command is making this report now
                if not report.is_open and not report.is_retracting:
                    self._outbox.settle(report, self._record)
                elif is_wanted(report):
                    yield self._send(report)
            if damaged is not None:
                raise damaged

    def rehearse(self, report_ids: Sequence[str] | None) -> Iterator[tuple[Report, Rehearsal]]:
        """Yield one or all waiting reports, each with the content to send; send and change nothing.

        Raises:
            UsageError: no report has the given id, or the report was already sent.
            HashclientError: the content to send cannot be determined.
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
        """Send the report `report_id` now, whether it is due or not.

        With `again`, the known state of the report at a service is deleted first, because a person
        has made sure that the service does not have the report.

        Raises:
            LockedError: another command is working on reports.
            UsageError: no report has this id, or the report was already sent or retracted.
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
        """Retract a report, if it can still be retracted.

        A report that was not sent is only marked as retracted. An unfinished report at a service is
        retracted at the service. If a package was handed over, a signed note is written beside the
        package.

        1. The effects of a report that was handed over are ended by `settling.reopen`, so that no
           item is due for destruction because of the report.
        2. The decision to retract the report is written to its record. If the process is killed
           after step 2, the next command that sends reports continues the retraction.
        3. The report is retracted, and the retraction is recorded.

        Raises:
            LockedError: another command is working on reports.
            UsageError: no report has this id, or the report is finished at a service or already
                retracted.
            AuditError, StateError: step 1 or 2 cannot be recorded.
        """
        with self._outbox.working():
            report = self._take_up(report_id)
            handed_over = report.state in (State.SUBMITTED, State.ACKNOWLEDGED)
            if report.state is State.RETRACTED:
                report = self._outbox.settle(report, self._record)  # the note has this record
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
        # If secret keys are given, reports are due that wait for a secret key or have failed with a
        # wrong secret key.
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
        """Make an attempt to send or retract a report, and record a failure."""
        notes: list[str] = []
        try:
            sent = self._send_what_can_be(report, notes)
        except AuditError as error:
            # The audit log could not be written. An error of the audit log is not caused by the
            # report, so the next command may try again without a pause.
            sent = Sent.not_done(self._outbox.get(report.id), error)
        except HashclientError as error:
            sent = Sent.not_done(self._failed(report.id, error), error)
        return msgspec.structs.replace(sent, notes=(*notes, *sent.notes))

    def _send_what_can_be(self, report: Report, notes: list[str]) -> Sent:
        """Make an attempt; if matches cannot be sent, move them to another report, and try again.

        A message about the moved matches is added to `notes`.
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
        """Return the matches that prevent sending a report; none for a retraction."""
        return [] if report.retraction else self._outbox.waiting(report, self._record)

    def _let_leave(self, report: Report, waiting: Sequence[str], reason: str) -> Report:
        """Record that a person lets a report be sent although matches in it wait for a review."""
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
            UsageError, ConfigError: the destination is not configured any more, or has another kind
                now.
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
        # If no recipient has any part of a report, the report can be retracted without its
        # destination. If the destination is configured, the destination removes leftover files of
        # killed attempts.
        if not report.is_untouched:
            return self._destination(report).take_back(report)
        table = self._tables.get(report.destination)
        if table is None:
            return Sent(self._outbox.retracted(report, self._record), "retracted")
        return self._at(table).take_back(report)

    def _failed(
        self, report_id: str, error: HashclientError, retry_after_s: float | None = None
    ) -> Report:
        """Write a failed attempt to the latest record of a report and to the audit log."""
        report = self._outbox.get(report_id)
        problem = Problem(self._session.now(), error.message, error.hint, int(error.exit_code))
        person = isinstance(error, UsageError | AuthorisationError)
        changed = report.failed(problem, person=person, retry_after_s=retry_after_s)
        with contextlib.suppress(StateError):  # only `error` is reported, not a second error
            changed = self._outbox.save(changed)
        with contextlib.suppress(AuditError):
            requests = [r.id for r in report.remote.requests[-3:]]
            self._log("report-failed", report, error=error.message, requests=requests)
        return changed

    def _log(self, event: str, report: Report, **more: Any) -> None:
        data = {"report": report.id, "to": report.destination, "by": self._session.operator, **more}
        self._session.audit.append([Event(event, data)], durable=True)


def _can_part(report: Report, stuck: Collection[str]) -> bool:
    """Return whether a report can be sent without the matches `stuck`."""
    return report.is_untouched and len(stuck) < len(report.matches)


def _joined(stuck: Mapping[str, HashclientError]) -> HashclientError:
    """Return one exception for all matches that cannot be sent."""
    match_id, error = next(iter(stuck.items()))
    where = "" if match_id in error.message else f"match {match_id}: "
    more = f", and {counted(len(stuck) - 1, 'more match')}" if len(stuck) > 1 else ""
    return type(error)(f"{where}{error.message}{more}", hint=error.hint)


def _these(matches: Collection[str], verb: str) -> str:
    """Return the number of matches with a verb, for example `2 matches wait`."""
    plural = {"waits": "wait", "is": "are"}[verb]
    return f"{counted(len(matches), 'match')} {verb if len(matches) == 1 else plural}"


def _waits(report: Report, count: int) -> Sent:
    verb = "waits" if count == 1 else "wait"
    return Sent(
        report,
        f"waits: {counted(count, 'match')} in it {verb} for a review",
        notes=("`hashclient matches --to-review` lists what waits for a review",),
    )

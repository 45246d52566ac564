"""Sending what waits in the outbox: packages to directories, reports to services.

One attempt at a report at a time, under the outbox's lock. The audit log has to take the intent
before anything is sent. An attempt that fails is noted with its error and the time of the next one;
the error of one report does not keep others from being sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from hashclient.audit.log import Event
from hashclient.config import PackageDestination, ServiceDestination
from hashclient.errors import (
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
from hashclient.reporting.destination import Destination, find_destination, kind_of
from hashclient.reporting.destinations.cybertipline.api import Service
from hashclient.reporting.destinations.cybertipline.filing import Filing
from hashclient.reporting.destinations.cybertipline.plan import make_plan
from hashclient.reporting.destinations.cybertipline.sandbox import ConfinedSchema
from hashclient.reporting.destinations.cybertipline.xml import Validator
from hashclient.reporting.destinations.package.handover import HandOver
from hashclient.reporting.outbox import Outbox
from hashclient.reporting.report import Call, Problem, Remote, Report, State
from hashclient.reporting.sent import Sent
from hashclient.system.files import sweep_temporary, write_atomic

SCHEMA_NAME = "schema.xsd"

#: Who takes a report back of which nothing is left, in the audit log.
NOBODY = "hashclient"


class Sender:
    """Sends reports."""

    def __init__(
        self,
        outbox: Outbox,
        record: Matches,
        *,
        identities: Sequence[Any] = (),
        connect: Callable[[ServiceDestination], Service] = Service,
        read_schema: Callable[[bytes], AbstractContextManager[Validator]] = ConfinedSchema,
    ) -> None:
        """`record` is the open record of matches; `identities` open what is in quarantine.

        `read_schema` is called with the schema that a service serves.
        """
        self._outbox = outbox
        self._record = record
        self._session = outbox.session
        self._identities = identities
        self._connect = connect
        self._read_schema = read_schema

    def send_due(self) -> Iterator[Sent]:
        """Send what is due, one by one; nothing is yielded where nothing is due.

        Raises:
            LockedError: another command is working on reports.
            HashclientError: nothing at all can be sent.
        """
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
                    continue  # another command makes it at this moment, and is not done with it
                if not report.is_open and not report.is_retracting:
                    self._outbox.settle(report, self._record)
                elif self._is_due(report):
                    yield self._send(report)
            if damaged is not None:
                raise damaged

    def send(self, report_id: str, *, anew: bool = False) -> Sent:
        """Send one report now, whether it is due or not.

        With `anew`, what a service may have of it is forgotten first: a person has made sure that
        it has nothing.

        Raises:
            LockedError: another command is working on reports.
            UsageError: there is no such report, or it was sent already, or taken back.
        """
        with self._outbox.working():
            report = self._take_up(report_id)
            if not report.is_open:
                self._outbox.settle(report, self._record)
                raise UsageError(f"report {report.id} is {report.state} already")
            if anew:
                report = self._forget(report)
            return self._send(report)

    def retract(self, report_id: str, *, reason: str) -> Sent:
        """Take a report back, as far as it still can be.

        What was not sent is dropped; what a service has of it and is not finished is retracted
        there; for a package that was handed over, a signed note is put beside it.

        1. What was handed over counts no more: the log and the record of matches say so, and it
           makes nothing due for destruction.
        2. That it is to be taken back is decided, on disk. A kill from here on is made up for by
           whatever sends next.
        3. It is taken back, and noted as such.

        Raises:
            LockedError: another command is working on reports.
            UsageError: there is no such report, or it is finished.
            AuditError, StateError: 1 or 2 cannot be noted.
        """
        with self._outbox.working():
            report = self._take_up(report_id)
            handed_over = report.state in (State.SUBMITTED, State.ACKNOWLEDGED)
            if report.state is State.RETRACTED:
                destination = self._session.settings.config.report.to.get(report.destination)
                if isinstance(destination, PackageDestination):
                    hand_over = self._hand_over(destination)
                    if hand_over.lacks_note(report):
                        return hand_over.take_back(report)
                raise UsageError(f"report {report.id} is retracted already")
            if handed_over and report.kind == "cybertipline":
                raise UsageError(
                    f"report {report.id} is finished at the service as {report.reference}",
                    hint="what is finished cannot be changed; contact the recipient",
                )
            if handed_over:  # 1
                self._outbox.reopen(report, self._record, reason=reason)
            report = self._outbox.decide_retraction(report, reason=reason)  # 2
            return self._send(report)  # 3

    def _take_up(self, report_id: str) -> Report:
        self._outbox.settle_new(self._record)
        report = self._outbox.get(report_id)
        if report.settled is None:
            raise LockedError(f"report {report.id} is being prepared", hint="try again")
        return report

    def _is_due(self, report: Report) -> bool:
        # With the key at hand, what waits for it, or has seen a wrong one, need not wait longer.
        waits = report.problem is not None and report.problem.exit_code in (
            ExitCode.INCOMPLETE,
            ExitCode.UNAUTHORISED,
        )
        return report.is_due(self._session.now()) or (waits and bool(self._identities))

    def _forget(self, report: Report) -> Report:
        remote = report.remote
        past = remote.past if remote.report_id is None else (*remote.past, remote.report_id)
        changed = report.replace(remote=Remote(past=past, requests=remote.requests))
        return self._outbox.save(
            changed.noted(self._session.now(), "begun-anew", by=self._session.operator)
        )

    def _send(self, report: Report) -> Sent:
        """Make one attempt, and note what became of it."""
        try:
            intent = "report-submitting" if report.retraction is None else "report-retracting"
            self._log(intent, report, attempt=report.attempts + 1)
            sweep_temporary(self._outbox.folder(report.id))
            return self._attempt(report)
        except AuditError as error:
            # Not the report's fault, and no reason to wait: it is sent once the log is mended.
            return Sent.not_done(self._outbox.get(report.id), error)
        except HashclientError as error:
            return Sent.not_done(self._failed(report.id, error), error)

    def _attempt(self, report: Report) -> Sent:
        if report.retraction is not None:
            return self._take_back(report)
        destination = self._destination(report)
        if isinstance(destination, ServiceDestination) and self._has_changed(report):
            # What is to be left out is in what is open there: that is taken back and begun anew.
            report = self._retract_there(report, destination)
        if report.is_untouched:
            report = self._outbox.leave_out_withdrawn(report, self._record)
            if not report.matches:
                reason = "all matches were withdrawn or settled before it was sent"
                decided = self._outbox.decide_retraction(report, by=NOBODY, reason=reason)
                return Sent(self._outbox.retracted(decided, self._record), f"dropped: {reason}")
        if isinstance(destination, PackageDestination):
            return self._hand_over(destination).send(report)
        return self._file(report, destination)

    def _hand_over(self, destination: PackageDestination) -> HandOver:
        return HandOver(self._outbox, self._record, destination)

    def _destination(self, report: Report) -> Destination:
        """Return where a report goes.

        Raises:
            UsageError, ConfigError: it is not configured any more, or is something else now.
        """
        config = self._session.settings.config.report
        _, destination = find_destination(config, report.destination)
        if kind_of(destination) != report.kind:
            raise ConfigError(
                f"destination {report.destination} was of the kind {report.kind},"
                " and is another one now",
                hint="configure it as it was, under this name; what was not sent can be retracted,"
                " and prepared anew",
            )
        return destination

    def _has_changed(self, report: Report) -> bool:
        """Tell whether something of a report that is begun at a service is not to be reported."""
        if report.is_untouched or report.remote.in_doubt is Call.FINISH:
            return False
        return any(self._record.get(i).ended for i in report.matches)

    def _file(self, report: Report, destination: ServiceDestination) -> Sent:
        if report.remote.in_doubt is Call.FINISH:
            return self._at_service(report, destination, Filing.finish_again)
        folder = self._outbox.folder(report.id)
        if report.is_untouched:
            document = self._outbox.write_document(folder, report, self._record)
        else:
            document = self._outbox.document(report)
        plan, waiting = make_plan(
            document,
            destination,
            self._session.settings.quarantine_dir,
            self._record,
            self._session.sealer,
            self._identities,
        )
        if waiting:
            return self._wait_for_identity(report, destination, len(waiting))

        def file(filing: Filing) -> Report:
            filing.service.status()
            text = filing.service.schema()
            write_atomic(folder / SCHEMA_NAME, text)
            with self._read_schema(text) as schema:
                return filing.file(plan, schema)

        return self._at_service(report, destination, file)

    def _at_service(
        self, report: Report, destination: ServiceDestination, work: Callable[[Filing], Report]
    ) -> Sent:
        with self._connect(destination) as service:
            filing = self._filing(service, report)
            try:
                report = work(filing)
            except HashclientError as error:
                return Sent.not_done(self._failed(report.id, error, service.retry_after_s), error)
        report = self._outbox.settle(report, self._record)
        notes = []
        if filing.missing_there:
            notes.append(f"the service does not name {filing.missing_there} of the files it got")
        detail = f"finished: {report.destination} calls it {report.reference}"
        return Sent(report, detail, notes=tuple(notes))

    def _wait_for_identity(
        self, report: Report, destination: ServiceDestination, count: int
    ) -> Sent:
        if report.remote.report_id is not None:
            # What an attempt with an identity has left open does not stay so meanwhile.
            report = self._retract_there(report, destination)
        message = f"{'1 file is' if count == 1 else f'{count} files are'} sealed in quarantine"
        hint = f"`hashclient report submit {report.id} --identity FILE` with the officer's key"
        problem = Problem(self._session.now(), message, hint, int(ExitCode.INCOMPLETE))
        report = self._outbox.save(report.failed(problem, person=True))
        return Sent(report, f"waits: {message}", notes=(hint,))

    def _filing(self, service: Service, report: Report) -> Filing:
        return Filing(
            service, report, self._outbox.save, self._session.now, by=self._session.operator
        )

    def _retract_there(self, report: Report, destination: ServiceDestination) -> Report:
        """Retract what a service has open of a report, which is not taken back by that."""
        with self._connect(destination) as service:
            return self._filing(service, report).retract()

    def _take_back(self, report: Report) -> Sent:
        # What nobody knows of needs no destination, but what a kill has left there is removed.
        untouched = report.is_untouched
        known = self._session.settings.config.report.to.get(report.destination)
        destination = known if untouched else self._destination(report)
        if isinstance(destination, PackageDestination):
            return self._hand_over(destination).take_back(report)
        if untouched or destination is None:
            return Sent(self._outbox.retracted(report, self._record), "retracted")
        with self._connect(destination) as service:
            filing = self._filing(service, report)
            try:
                report = filing.retract()
            except UsageError:
                # It is finished there: that is what has become of it.
                self._outbox.settle(filing.report.replace(retraction=None), self._record)
                raise
        notes = []
        if filing.unknown_there is not None:
            notes.append(
                f"the service does not know report {filing.unknown_there}, which may have been"
                " finished: ask the recipient whether it has come"
            )
        done = self._outbox.retracted(report, self._record)
        return Sent(done, "retracted", notes=tuple(notes))

    def _failed(
        self, report_id: str, error: HashclientError, retry_after_s: float | None = None
    ) -> Report:
        """Note an attempt that failed, upon what it has left in the journal."""
        report = self._outbox.get(report_id)
        problem = Problem(self._session.now(), error.message, error.hint, int(error.exit_code))
        person = isinstance(error, UsageError | AuthorisationError)
        changed = report.failed(problem, person=person, retry_after_s=retry_after_s)
        with contextlib.suppress(StateError):  # the error that is told is the first one
            changed = self._outbox.save(changed)
        with contextlib.suppress(AuditError):
            requests = [r.id for r in report.remote.requests[-3:]]
            self._log("report-failed", report, error=error.message, requests=requests)
        return changed

    def _log(self, event: str, report: Report, **more: Any) -> None:
        data = {"report": report.id, "to": report.destination, "by": self._session.operator, **more}
        self._session.audit.append([Event(event, data)], durable=True)

"""Sending what waits in the outbox: packages to directories, reports to services.

One attempt at a report at a time, under the outbox's lock. The audit log has to take the intent
before anything is sent. An attempt that fails is noted with its error and the time of the next one;
the error of one report does not keep others from being sent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hashclient.audit import Event
from hashclient.config import PackageDestination, ServiceDestination
from hashclient.errors import (
    AuditError,
    AuthorisationError,
    ConfigError,
    ExitCode,
    HashclientError,
    StateError,
    UsageError,
)
from hashclient.fsio import make_private_dir, user_path, write_atomic
from hashclient.matches import Matches
from hashclient.reporting.custody import retraction_note
from hashclient.reporting.document import Document, Evidence
from hashclient.reporting.evidence import find_item, seal_in_place
from hashclient.reporting.filing import Filing
from hashclient.reporting.outbox import Outbox
from hashclient.reporting.package import Packager, gather, package_name
from hashclient.reporting.plan import make_plan
from hashclient.reporting.service import Service
from hashclient.reporting.state import Call, Problem, Remote, Report, State
from hashclient.seal import Sealer

SCHEMA_NAME = "schema.xsd"
SEALED_DIR = "sealed"

#: Who takes a report back of which nothing is left, in the audit log.
NOBODY = "hashclient"


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one attempt: the report after it, and what to tell people.

    `error` is why it failed. `notes` are things that need a person's attention all the same.
    """

    report: Report
    detail: str
    error: HashclientError | None = None
    notes: tuple[str, ...] = ()


class Sender:
    """Sends reports."""

    def __init__(
        self,
        outbox: Outbox,
        record: Matches,
        *,
        by: str,
        load_sealer: Callable[[], Sealer],
        identities: Sequence[Any] = (),
        connect: Callable[[ServiceDestination], Service] = Service,
    ) -> None:
        """`record` is the open record of matches; `identities` open what is in quarantine.

        `load_sealer` is called if a plain file has to be proven.
        """
        self._outbox = outbox
        self._record = record
        self._by = by
        self._load_sealer = load_sealer
        self._identities = identities
        self._connect = connect

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
                if not report.is_open:
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
            self._outbox.settle_new(self._record)
            report = self._outbox.get(report_id)
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

        Raises:
            LockedError: another command is working on reports.
            UsageError: there is no such report, or it is finished.
        """
        with self._outbox.working():
            self._outbox.settle_new(self._record)
            report = self._outbox.get(report_id)
            handed_over = report.state in (State.SUBMITTED, State.ACKNOWLEDGED)
            if report.state is State.RETRACTED:
                if self._lacks_note(report):
                    return self._take_back(report)
                raise UsageError(f"report {report.id} is retracted already")
            if handed_over and report.kind == "cybertipline":
                raise UsageError(
                    f"report {report.id} is finished at the service as {report.reference}",
                    hint="what is finished cannot be changed; contact the recipient",
                )
            report = self._outbox.decide_retraction(report, by=self._by, reason=reason)
            return self._send(report)

    def _is_due(self, report: Report) -> bool:
        # With the key at hand, what waits for it need not wait any longer.
        waits = report.problem is not None and report.problem.exit_code == ExitCode.INCOMPLETE
        return report.is_due(self._outbox.now()) or (waits and bool(self._identities))

    def _forget(self, report: Report) -> Report:
        remote = report.remote
        past = remote.past if remote.report_id is None else (*remote.past, remote.report_id)
        changed = report.replace(remote=Remote(past=past, requests=remote.requests))
        return self._outbox.save(changed.noted(self._outbox.now(), "begun-anew", by=self._by))

    def _send(self, report: Report) -> Sent:
        """Make one attempt, and note what became of it."""
        try:
            intent = "report-submitting" if report.retraction is None else "report-retracting"
            self._log(intent, report, attempt=report.attempts + 1)
            return self._attempt(report)
        except AuditError as error:
            # Not the report's fault, and no reason to wait: it is sent once the log is mended.
            return Sent(self._outbox.get(report.id), "not sent", error)
        except HashclientError as error:
            failed = self._failed(report.id, error)
            return Sent(failed, "not sent", error)

    def _attempt(self, report: Report) -> Sent:
        if report.retraction is not None:
            return self._take_back(report)
        _, destination = self._outbox.destination(report.destination)
        kind = "package" if isinstance(destination, PackageDestination) else "cybertipline"
        if kind != report.kind:
            raise ConfigError(
                f"destination {report.destination} was of the kind {report.kind},"
                " and is another one now",
                hint="`hashclient report retract` this report, and prepare it anew",
            )
        if report.is_untouched:
            report = self._outbox.leave_out_withdrawn(report, self._record)
            if not report.matches:
                reason = "all matches were withdrawn or settled before it was sent"
                decided = self._outbox.decide_retraction(report, by=NOBODY, reason=reason)
                return Sent(self._outbox.retracted(decided, self._record), f"dropped: {reason}")
        if isinstance(destination, PackageDestination):
            return self._hand_over(report, destination)
        return self._file(report, destination)

    def _hand_over(self, report: Report, destination: PackageDestination) -> Sent:
        folder = self._outbox.folder(report.id)
        directory = user_path(destination.directory)
        settings = self._outbox.settings
        recipients = destination.recipients
        packager = Packager(directory, recipients, settings.audit_dir, self._outbox.audit)
        notes: list[str] = []
        if report.package is None or not packager.is_there(report.package):
            if report.is_untouched:
                sealed = self._seal_in_place(report, destination, notes)
                document = self._outbox.write_document(folder, report, self._record, sealed)
            else:
                document = self._outbox.document(report)
            content = gather(document, (settings.quarantine_dir, folder / SEALED_DIR))
            notes += _cannot_open(document, recipients)
            data = {"report": report.id, "to": report.destination, "by": self._by}
            with packager.made(content, data) as package:
                report = report.replace(state=State.SUBMITTING, package=package)
                report = self._outbox.save(report)
        done = report.replace(state=State.SUBMITTED, next_attempt=None, problem=None)
        done = done.noted(
            self._outbox.now(), "submitted", package=package_name(report.id, recipients)
        )
        done = self._outbox.settle(self._outbox.save(done), self._record)
        with contextlib.suppress(OSError):
            shutil.rmtree(folder / SEALED_DIR)
        assert done.package is not None
        return Sent(done, f"handed over: {directory / done.package.name}", notes=tuple(notes))

    def _seal_in_place(
        self, report: Report, destination: PackageDestination, notes: list[str]
    ) -> dict[str, Evidence]:
        """Seal what is not in quarantine, if that was asked for, into the folder of the report."""
        if not report.seal_evidence:
            return {}
        settings = self._outbox.settings
        configured = settings.config.quarantine.recipients
        recipients = tuple(dict.fromkeys((*configured, *destination.recipients)))
        directory = make_private_dir(self._outbox.folder(report.id) / SEALED_DIR)
        sealer = self._load_sealer()
        sealed = {}
        for match_id in report.matches:
            if find_item(settings.quarantine_dir, match_id) is not None:
                continue
            match = self._record.get(match_id)
            path = directory / f"{match_id}.age"
            evidence = seal_in_place(match, path, recipients, sealer) if match.in_place else None
            if evidence is None:
                notes.append(f"no evidence of match {match_id}: not the file that matched any more")
            else:
                sealed[match_id] = evidence
        return sealed

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
            self._outbox.settings.quarantine_dir,
            self._record,
            self._load_sealer,
            self._identities,
        )
        if waiting:
            return self._wait_for_identity(report, destination, len(waiting))

        def file(filing: Filing) -> Report:
            filing.service.status()
            text, schema = filing.service.schema()
            write_atomic(folder / SCHEMA_NAME, text)
            return filing.file(plan, schema)

        return self._at_service(report, destination, file)

    def _at_service(
        self, report: Report, destination: ServiceDestination, work: Callable[[Filing], Report]
    ) -> Sent:
        with self._connect(destination) as service:
            filing = Filing(service, report, self._outbox.save, self._outbox.now)
            try:
                report = work(filing)
            except HashclientError as error:
                retry_after_s = service.retry_after_s
                return Sent(self._failed(report.id, error, retry_after_s), "not sent", error)
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
            with self._connect(destination) as service:
                report = Filing(service, report, self._outbox.save, self._outbox.now).retract()
        message = f"{'1 file is' if count == 1 else f'{count} files are'} sealed in quarantine"
        hint = f"`hashclient report submit {report.id} --identity FILE` with the officer's key"
        problem = Problem(self._outbox.now(), message, hint, int(ExitCode.INCOMPLETE))
        report = self._outbox.save(report.failed(problem, person=True))
        return Sent(report, f"waits: {message}", notes=(hint,))

    def _take_back(self, report: Report) -> Sent:
        if report.is_untouched:
            return Sent(self._outbox.retracted(report, self._record), "retracted")
        _, destination = self._outbox.destination(report.destination)
        if isinstance(destination, PackageDestination):
            return self._take_back_package(report, destination)
        with self._connect(destination) as service:
            filing = Filing(service, report, self._outbox.save, self._outbox.now)
            try:
                report = filing.retract()
            except UsageError:
                # It is finished there: that is what has become of it.
                self._outbox.settle(filing.report.replace(retraction=None), self._record)
                raise
        return Sent(self._outbox.retracted(report, self._record), "retracted")

    def _take_back_package(self, report: Report, destination: PackageDestination) -> Sent:
        """Retract a package; where it was handed over, put the records that say so beside it."""
        if report.state is not State.RETRACTED:
            report = self._outbox.retracted(report, self._record)
        if not self._lacks_note(report):
            return Sent(report, "retracted")
        note = retraction_note(self._outbox.settings.audit_dir, report.id)
        write_atomic(user_path(destination.directory) / _note_name(report), note)
        return Sent(report, f"retracted: a signed note is beside it: {_note_name(report)}")

    def _lacks_note(self, report: Report) -> bool:
        """Tell whether a package is still where it was handed over, and no note beside it."""
        if report.package is None:
            return False
        _, destination = self._outbox.destination(report.destination)
        if not isinstance(destination, PackageDestination):
            return False
        directory = user_path(destination.directory)
        there = os.path.lexists(directory / report.package.name)
        return there and not os.path.lexists(directory / _note_name(report))

    def _failed(
        self, report_id: str, error: HashclientError, retry_after_s: float | None = None
    ) -> Report:
        """Note an attempt that failed, upon what it has left in the journal."""
        report = self._outbox.get(report_id)
        problem = Problem(self._outbox.now(), error.message, error.hint, int(error.exit_code))
        person = isinstance(error, UsageError | AuthorisationError)
        changed = report.failed(problem, person=person, retry_after_s=retry_after_s)
        with contextlib.suppress(StateError):  # the error that is told is the first one
            changed = self._outbox.save(changed)
        with contextlib.suppress(AuditError):
            requests = [r.id for r in report.remote.requests[-3:]]
            self._log("report-failed", report, error=error.message, requests=requests)
        return changed

    def _log(self, event: str, report: Report, **more: Any) -> None:
        data = {"report": report.id, "to": report.destination, "by": self._by, **more}
        self._outbox.audit.append([Event(event, data)], durable=True)


def _note_name(report: Report) -> str:
    return f"hashclient-report-{report.id}-retraction.json"


def _cannot_open(document: Document, recipients: Sequence[str]) -> list[str]:
    """Say which evidence the recipients of a package could not open."""
    closed = [
        match.id
        for match in document.matches
        if match.evidence is not None
        and recipients
        and not set(recipients) & set(match.evidence.recipients)
    ]
    if not closed:
        return []
    text = (
        f"the recipient cannot open {len(closed)} of the sealed files, such as that of match"
        f" {closed[0]}: put their public keys into recipients of [quarantine] for the next time"
    )
    return [text]

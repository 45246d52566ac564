"""The destination for a service like the CyberTipline, which files or retracts a report.

The module `filing` makes the calls and writes the journal; the module `plan` decides which files
are uploaded.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from hashclient.config.tables import ServiceDestination
from hashclient.core.errors import AuthorisationError, ExitCode, HashclientError, UsageError
from hashclient.reporting.describing import missing_about
from hashclient.reporting.destinations.cybertipline.api import Service
from hashclient.reporting.destinations.cybertipline.filing import Filing
from hashclient.reporting.destinations.cybertipline.plan import make_plan
from hashclient.reporting.destinations.cybertipline.sandbox import ConfinedSchema
from hashclient.reporting.destinations.cybertipline.xml import (
    Validator,
    file_element,
    report_element,
    to_bytes,
)
from hashclient.reporting.destinations.interface import Rehearsal, Work
from hashclient.reporting.report import Call, Problem, Report, Sent
from hashclient.system.files import write_atomic

SCHEMA_NAME = "schema.xsd"


class CyberTipline:
    """The destination for one service."""

    def __init__(
        self,
        work: Work,
        table: ServiceDestination,
        *,
        read_schema: Callable[[bytes], AbstractContextManager[Validator]] = ConfinedSchema,
    ) -> None:
        """Store the arguments; `read_schema` is called with the schema of the service."""
        self._work = work
        self._outbox = work.outbox
        self._session = work.session
        self._table = table
        self._read_schema = read_schema

    def renew(self, report: Report) -> Report:
        """Retract a report that is open at the service if one of its matches ended or was rejected.

        Raises:
            HashclientError: the report cannot be retracted now.
        """
        if report.is_untouched or report.remote.in_doubt is Call.FINISH:
            return report
        if any(self._outbox.has_ended(i, self._work.record) for i in report.matches):
            return self._retract_there(report)
        return report

    def rehearse(self, report: Report) -> Rehearsal:
        """Return the XML documents, with placeholders for ids of the service, and the files."""
        document = self._outbox.described(report, self._work.record)
        missing = missing_about(document.reporter)
        plan, waiting, stuck = make_plan(document, self._table, self._work)
        missing += [f"match {i}: its file is sealed in quarantine: --identity" for i in waiting]
        missing += [f"match {i}: {error.message}" for i, error in stuck.items()]
        facts = {i: dict.fromkeys(known, "(not shown)") for i, known in plan.facts.items()}
        opening = report_element(document, plan.incident_type, plan.upload, plan.sealed_to, facts)
        texts = {"report.xml": to_bytes(opening)}
        for match in document.matches:
            if match.id in plan.upload:
                sealed_to = plan.sealed_to.get(match.id)
                details = file_element(
                    match, "REPORT-ID", "FILE-ID", {}, sealed_to, facts.get(match.id, {})
                )
                texts[f"{match.id}.xml"] = to_bytes(details)
            else:
                missing.append(f"match {match.id}: its file is not uploaded")
        return Rehearsal(texts, plan.upload, tuple(missing))

    def send(self, report: Report) -> Sent:
        """File a report with the service, or continue an interrupted filing.

        Raises:
            HashclientError: the filing cannot begin.
        """
        if report.remote.in_doubt is Call.FINISH:
            return self._file(report, Filing.finish_again)
        folder = self._outbox.folder(report.id)
        if report.is_untouched:
            document = self._outbox.write_document(folder, report, self._work.record)
        else:
            document = self._outbox.document(report)
        plan, waiting, stuck = make_plan(document, self._table, self._work)
        sealed = {i: _sealed_file() for i in waiting}
        if stuck or (waiting and len(waiting) < len(report.matches) and report.is_untouched):
            return Sent.stuck_at(report, {**sealed, **stuck})
        if waiting:
            return self._wait_for_identity(report, len(waiting))

        def file(filing: Filing) -> Report:
            filing.service.status()
            text = filing.service.schema()
            write_atomic(folder / SCHEMA_NAME, text)
            with self._read_schema(text) as schema:
                return filing.file(plan, schema)

        return self._file(report, file)

    def _file(self, report: Report, file: Callable[[Filing], Report]) -> Sent:
        with self._connect() as service:
            filing = self._filing(service, report)
            try:
                report = file(filing)
            except HashclientError as error:
                after_s = service.retry_after_s
                return Sent(report, "not sent", error, retry_after_s=after_s, stuck=filing.stuck)
        report = self._outbox.settle(report, self._work.record)
        notes = []
        if filing.missing_there:
            notes.append(f"the service does not name {filing.missing_there} of the files it got")
        detail = f"finished: {report.destination} calls it {report.reference}"
        return Sent(report, detail, notes=tuple(notes))

    def _wait_for_identity(self, report: Report, count: int) -> Sent:
        if report.remote.report_id is not None:
            # If an earlier attempt that had a secret key has left the report open at the service,
            # the report is retracted at the service, because it must wait for a secret key.
            report = self._retract_there(report)
        message = f"{'1 file is' if count == 1 else f'{count} files are'} sealed in quarantine"
        hint = f"`hashclient report submit {report.id} --identity FILE` with the officer's key"
        problem = Problem(self._session.now(), message, hint, int(ExitCode.INCOMPLETE))
        report = self._outbox.save(report.failed(problem, person=True))
        return Sent(report, f"waits: {message}", notes=(hint,))

    def _connect(self) -> Service:
        return Service(self._table, on_bytes=self._work.on_bytes)

    def _filing(self, service: Service, report: Report) -> Filing:
        return Filing(service, report, self._outbox)

    def _retract_there(self, report: Report) -> Report:
        """Retract a report that is open at the service, so that it can be filed again."""
        with self._connect() as service:
            return self._filing(service, report).give_up()

    def take_back(self, report: Report) -> Sent:
        """Retract a report at the service if it is open there.

        Raises:
            UsageError: the report is finished at the service.
            HashclientError: the report cannot be retracted now.
        """
        record = self._work.record
        if report.is_untouched:
            return Sent(self._outbox.retracted(report, record), "retracted")
        with self._connect() as service:
            filing = self._filing(service, report)
            try:
                report = filing.retract()
            except UsageError:
                # The report is finished at the service, so the report gets this state in the
                # outbox.
                self._outbox.settle(filing.report.replace(retraction=None), record)
                raise
        notes = []
        if filing.unknown_there is not None:
            notes.append(
                f"the service does not know report {filing.unknown_there}, which may have been"
                " finished: ask the recipient whether it has come"
            )
        return Sent(self._outbox.retracted(report, record), "retracted", notes=tuple(notes))

    def is_taken_back(self, report: Report) -> bool:
        """Return True, because a retraction at a service has only one step."""
        return True


def _sealed_file() -> AuthorisationError:
    return AuthorisationError(
        "its file is sealed in quarantine",
        hint="`hashclient report submit REPORT --identity FILE` with the officer's key",
    )

"""Files a report with a service: opens the report, uploads and describes files, and finishes it.

The journal is the record of the report, `report.json`. Before a call, the journal is written with
the call marked as in doubt; after the answer, it is written with the result. A call stays in doubt
if the process is killed during the call, or if the connection breaks. The next attempt first
resolves a call in doubt by these rules, so that no report is finished twice and no report stays
open at the service:

* open: the service may have opened a report with an id that we do not know. The service deletes an
  unfinished report by itself, and another report is opened.
* upload, file details: the report is retracted at the service, and another report is opened,
  because the API has no call that returns the uploaded files.
* finish: the call is repeated, and the answer "finished already" counts as success.
* retract: the call is repeated, and the answer "retracted already" counts as success.

If the service no longer knows a report, the report was never finished, unless its call `finish` is
in doubt. If the call `finish` is in doubt, a person must ask the service whether the report was
finished.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any
from xml.etree import ElementTree as ET

import msgspec

from hashclient.core.errors import (
    AuthorisationError,
    ConfigError,
    HashclientError,
    StateError,
    UnreachableError,
    UsageError,
    VerificationError,
)
from hashclient.core.kinds import Algorithm
from hashclient.packages.document import ReportedMatch
from hashclient.reporting.destinations.cybertipline.api import (
    ALREADY_FINISHED,
    ALREADY_RETRACTED,
    NO_SUCH_REPORT,
    OK,
    REFUSED,
    Answer,
    Service,
    check,
)
from hashclient.reporting.destinations.cybertipline.plan import Plan
from hashclient.reporting.destinations.cybertipline.xml import (
    Validator,
    file_element,
    report_element,
    to_bytes,
)
from hashclient.reporting.outbox import Outbox
from hashclient.reporting.report import Call, Remote, Report, Request, State

#: How often a report that the service has lost is opened again in one attempt.
MAX_RESTARTS = 2
#: The highest number of request ids in the journal; the oldest ids are dropped first.
MAX_REQUESTS = 5000


class _LostError(Exception):
    """The service no longer knows an unfinished report."""


class _MisfitError(ConfigError):
    """The facts about the source of a match are not valid by the schema of the service."""


class Filing:
    """An attempt to file or retract a report."""

    def __init__(
        self,
        service: Service,
        report: Report,
        outbox: Outbox,
    ) -> None:
        """Store the report, which is the journal; `outbox` saves it before each call."""
        self.service = service
        self._write = outbox.save
        self._now = outbox.session.now
        self._by = outbox.session.operator
        #: The report as it was last saved.
        self.report = report
        #: The matches that cannot be sent, with the exceptions.
        self.stuck: dict[str, HashclientError] = {}
        #: The number of uploaded files that the answer to `finish` did not name.
        self.missing_there = 0
        #: The id of a retracted report that the service does not know and may have finished.
        self.unknown_there: str | None = None

    def file(self, plan: Plan, schema: Validator) -> Report:
        """File the report with the service up to its end, and return the report.

        1. A call in doubt is resolved by the rules of this module, except for the call `finish`,
           which `finish_again` resolves.
        2. The report is opened at the service.
        3. Each file is uploaded, the MD5 in the answer is compared, and the details of the file are
           sent.
        4. The report is finished at the service.

        Raises:
            HashclientError: the filing failed, and the journal contains the known state of the
                report. If a person must act before the next attempt, the report is retracted at the
                service, now or at the beginning of the next attempt.
        """
        try:
            for _ in range(1 + MAX_RESTARTS):
                with contextlib.suppress(_LostError):
                    return self._from_the_start(plan, schema)
                self._forget("lost by the service")
        except UnreachableError:
            raise
        except HashclientError:
            # The next attempt would fail in the same way, so the report is retracted now. If the
            # retraction fails, too, the journal says that the report must still be retracted.
            if self._remote.report_id is not None and self._remote.in_doubt is not Call.FINISH:
                with contextlib.suppress(HashclientError):
                    self.give_up()
            raise
        raise UnreachableError(
            "the service loses the report again and again",
            hint="ask the service's operators; the report waits in the outbox",
        )

    def _from_the_start(self, plan: Plan, schema: Validator) -> Report:
        if self._remote.in_doubt in (Call.UPLOAD, Call.FILEINFO, Call.RETRACT):  # 1
            self.give_up()
        if self._remote.report_id is None:  # 2
            self._open(plan, schema)
        for match in plan.document.matches:  # 3
            if match.id in plan.upload and match.id not in self._remote.files:
                self._add(match, plan, schema)
        return self._finish()  # 4

    def retract(self) -> Report:
        """Retract the report at the service if it is open there, and return the report.

        Raises:
            UsageError: the report is finished at the service and cannot be changed.
            HashclientError: the retraction failed; the next attempt continues it.
        """
        if self._remote.report_id is None:
            return self.give_up()
        was_finishing = self._remote.in_doubt is Call.FINISH
        answer = self._call(
            Call.RETRACT,
            lambda: self.service.retract(self._id),
            (OK, ALREADY_RETRACTED, ALREADY_FINISHED, NO_SUCH_REPORT),
            doubt=Call.FINISH if was_finishing else Call.RETRACT,
        )
        if answer.code == ALREADY_FINISHED:
            self._finished(answer)
            raise UsageError(
                f"report {self.report.id} is finished at the service as {self._id}",
                hint="a finished report cannot be changed; contact the recipient",
            )
        if was_finishing and answer.code == NO_SUCH_REPORT:
            self.unknown_there = self._id
        self._forget("retracted")
        return self.report

    def give_up(self) -> Report:
        """Retract a report that is open at the service, so that it can be filed again.

        Raises:
            HashclientError: the retraction failed; the next attempt continues it.
        """
        if self._remote.report_id is None:
            # The service deletes an unfinished report with an unknown id by itself.
            if self._remote.in_doubt is not None:
                self._save(in_doubt=None)
            return self.report
        fine = (OK, ALREADY_RETRACTED, NO_SUCH_REPORT, ALREADY_FINISHED)
        answer = self._call(Call.RETRACT, lambda: self.service.retract(self._id), fine)
        if answer.code == ALREADY_FINISHED:
            # Another program has finished the report, perhaps without all files. Filing the report
            # again would finish a second report, so the call stays in doubt until a person decides.
            check(answer, Call.RETRACT)
        self._forget("retracted")
        return self.report

    @property
    def _remote(self) -> Remote:
        return self.report.remote

    @property
    def _id(self) -> str:
        report_id = self._remote.report_id
        assert report_id is not None
        return report_id

    def _open(self, plan: Plan, schema: Validator) -> None:
        document = _checked(
            lambda facts: report_element(
                plan.document, plan.incident_type, plan.upload, plan.sealed_to, facts
            ),
            plan.facts,
            schema,
        )
        answer = self._call(Call.OPEN, lambda: self.service.open(document))
        if answer.report_id is None:
            raise UnreachableError("the service has opened a report and does not say its id")
        self._save(report_id=answer.report_id, in_doubt=None)

    def _add(self, match: ReportedMatch, plan: Plan, schema: Validator) -> None:
        sealed_to = plan.sealed_to.get(match.id)
        name = match.id if sealed_to is None else f"{match.id}.age"
        with contextlib.ExitStack() as stack:
            try:
                evidence = stack.enter_context(plan.open_evidence(match))
            except HashclientError:
                self._find_stuck(plan)
                raise
            answer = self._call(Call.UPLOAD, lambda: self.service.upload(self._id, name, evidence))
        if answer.file_id is None or answer.md5 is None:
            raise UnreachableError("the service does not say which bytes it has got")
        if answer.md5 != evidence.digests[Algorithm.MD5].hex():
            raise VerificationError(
                f"the service has got other bytes than were sent: match {match.id}",
                hint="the report is retracted there and sent again later",
            )
        # The digests of the plain file are not stored. The digests are known only after the file
        # was read for the upload, so if the next step is interrupted, the report is filed again
        # from its beginning.
        digests = {}
        if sealed_to is None:
            digests = {a.name: digest.hex() for a, digest in evidence.digests.items()}
        file_id = answer.file_id
        try:
            document = _checked(
                lambda facts: file_element(match, self._id, file_id, digests, sealed_to, facts),
                plan.facts.get(match.id, {}),
                schema,
            )
        except _MisfitError as error:
            self.stuck[match.id] = error
            raise
        self._call(Call.FILEINFO, lambda: self.service.describe(document))
        self._save(files={**self._remote.files, match.id: answer.file_id}, in_doubt=None)

    def _find_stuck(self, plan: Plan) -> None:
        """Add all matches whose evidence cannot be sent to `stuck`, not only the first match."""
        for match in plan.document.matches:
            if match.id in plan.upload and match.id not in self._remote.files:
                try:
                    with plan.open_evidence(match):
                        pass
                except HashclientError as error:
                    self.stuck[match.id] = error

    def finish_again(self) -> Report:
        """Repeat the call `finish`, which is in doubt, and return the report.

        Raises:
            StateError: the service does not know the report, so a person must find out whether it
                was finished.
            HashclientError: the call failed, and it is still not known whether the report is
                finished.
        """
        answer = self._call(
            Call.FINISH,
            lambda: self.service.finish(self._id),
            (OK, ALREADY_FINISHED, NO_SUCH_REPORT),
        )
        if answer.code == NO_SUCH_REPORT:
            # The call stays in doubt, because the service may have finished and archived the
            # report, or deleted it unfinished.
            raise StateError(
                f"the service does not know report {self._id}, which may have been finished",
                hint="ask the recipient whether the report has arrived; if not, `hashclient "
                f"report submit --again {self.report.id}` begins the report again",
            )
        return self._finished(answer)

    def _finish(self) -> Report:
        return self._finished(self._call(Call.FINISH, lambda: self.service.finish(self._id)))

    def _finished(self, answer: Answer) -> Report:
        now = self._now()
        detail = {"remote": self._id, "files": len(self._remote.files), "by": self._by}
        if answer.code == OK:
            sent = set(self._remote.files.values())
            self.missing_there = len(sent - set(answer.files))
        finished = self.report.replace(
            state=State.ACKNOWLEDGED,
            reference=self._id,
            next_attempt=None,
            problem=None,
            remote=self._changed(in_doubt=None),
        )
        self._journal(finished.noted(now, "finished", **detail))
        return self.report

    def _forget(self, why: str) -> None:
        past = (*self._remote.past, self._id)
        noted = self.report.noted(self._now(), "given-up", remote=self._id, reason=why)
        remote = self._changed(report_id=None, files={}, in_doubt=None, past=past)
        self._journal(noted.replace(state=State.SUBMITTING, remote=remote))

    def _call(
        self,
        call: Call,
        make: Callable[[], Answer],
        fine: Collection[int] = (OK,),
        *,
        doubt: Call | None = None,
    ) -> Answer:
        """Write the journal, make one call, and write the journal again.

        `fine` are the codes of answers that are returned; an answer with another code raises an
        exception. After an answer that is returned, the call stays in doubt until the caller writes
        its result to the journal. `doubt` is the call that is marked as in doubt; the default is
        `call`.

        Raises:
            _LostError: the service does not know the report.
            HashclientError: the service refuses the call; or the result is not known, and the call
                stays in doubt.
        """
        before = self._remote.in_doubt
        self._save(in_doubt=doubt or call)
        try:
            answer = make()
            # The answer to a refused call names no report, or report 0.
            if call is not Call.OPEN and answer.report_id not in (None, "0", self._id):
                raise UnreachableError(f"the service answers for another report: /{call}")
        except (AuthorisationError, ConfigError):
            # The transport raises these exceptions only if the service has not carried out the
            # call.
            self._note_request(call)
            self._save(in_doubt=before)
            raise
        except HashclientError:
            self._note_request(call)
            self._save()
            raise
        self._note_request(call)
        if answer.code in fine:
            return answer
        if answer.code in REFUSED:
            # The service has not carried out the call. A call `finish` that was in doubt before
            # stays in doubt.
            self._save(in_doubt=before if before is Call.FINISH else None)
        else:
            self._save()
        if answer.code == NO_SUCH_REPORT and self._remote.report_id is not None:
            raise _LostError
        check(answer, call)
        raise AssertionError("an answer that is neither fine nor refused")

    def _note_request(self, call: Call) -> None:
        """Add the id that the service has given to the last request to the unsaved report."""
        request_id = self.service.request_id
        if request_id is not None:
            entry = Request(self._now(), call, request_id)
            requests = (*self._remote.requests, entry)[-MAX_REQUESTS:]
            self.report = self.report.replace(remote=self._changed(requests=requests))

    def _save(self, **changes: object) -> None:
        remote = self._changed(**changes)
        self._journal(self.report.replace(state=State.SUBMITTING, remote=remote))

    def _journal(self, report: Report) -> None:
        # The report is saved first, so that `self.report` is always the saved report.
        self._write(report)
        self.report = report

    def _changed(self, **changes: object) -> Remote:
        return msgspec.structs.replace(self._remote, **changes)


def _checked(
    make: Callable[[Mapping[str, Any]], ET.Element], facts: Mapping[str, Any], schema: Validator
) -> bytes:
    """Return the document that `make` makes with `facts`, after validation against the schema.

    Raises:
        ConfigError: the document is not valid by the schema, so the service would refuse it.
        VerificationError: the schema cannot be used.
    """
    document = to_bytes(make(facts))
    try:
        schema.validate(document)
    except (ConfigError, VerificationError):
        if not facts:
            raise
        # The document is validated again without facts, because the validator's message may repeat
        # a fact, and messages must not contain facts.
        schema.validate(to_bytes(make({})))
        raise _MisfitError(
            "the facts about the source do not fit the schema that the service serves",
            hint="the schema is in the folder of the report; compare it with the facts of the"
            " command",
        ) from None
    return document

"""Files a report with a service: open, upload and describe each file, finish; or retract.

The journal is the report's record. The journal notes a call as in doubt before the call, and its
result after the answer. A kill or a broken connection leaves a call in doubt. The next attempt
first resolves a call in doubt by these rules. So no second report is ever finished, and no report
stays open:

* open: a report may be open under an id that we do not know. An unfinished report vanishes there by
  itself; another report is opened.
* upload, file details: nobody can ask the service which files it has. The report is retracted, and
  another report is opened.
* finish: the report is finished again; the answer "finished already" counts as success.
* retract: the report is retracted again; the answer "gone already" counts as success.

A report that the service no longer knows was never finished. Only if the call `finish` is in doubt,
a person has to ask.
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

#: If a service loses our report more often than this in one attempt, the service has a fault.
MAX_RESTARTS = 2
#: How many ids of requests are kept; the oldest are dropped first.
MAX_REQUESTS = 5000


class _LostError(Exception):
    """The service no longer knows a report that was not finished."""


class _MisfitError(ConfigError):
    """The facts about the source of a match do not fit the schema."""


class Filing:
    """An attempt to file a report."""

    def __init__(
        self,
        service: Service,
        report: Report,
        outbox: Outbox,
    ) -> None:
        """Keep the report, which is the journal; `outbox` saves it before the next call."""
        self.service = service
        self._write = outbox.save
        self._now = outbox.session.now
        self._by = outbox.session.operator
        #: The report as saved in the journal.
        self.report = report
        #: The matches that cannot be sent, with the reasons.
        self.stuck: dict[str, HashclientError] = {}
        #: How many uploaded files the service did not name when it finished the report.
        self.missing_there = 0
        #: The id of a report taken back that may have been finished, though the service lacks it.
        self.unknown_there: str | None = None

    def file(self, plan: Plan, schema: Validator) -> Report:
        """Bring the report to its end at the service, and return it.

        1. A call in doubt is resolved as described above; only `finish_again` resolves the call
           `finish`.
        2. The report is opened.
        3. Each file is uploaded, the service's MD5 of the file is compared, and the details of the
           file are sent.
        4. The report is finished.

        Raises:
            HashclientError: filing failed; the journal has the known state. If a person has to act,
                no report stays open at the service, or the next attempt first retracts it.
        """
        try:
            for _ in range(1 + MAX_RESTARTS):
                with contextlib.suppress(_LostError):
                    return self._from_the_start(plan, schema)
                self._forget("lost by the service")
        except UnreachableError:
            raise
        except HashclientError:
            # Another attempt would fail in the same way, so no report stays open meanwhile. If the
            # retraction fails, too, the journal says that it is still to be done.
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
            UsageError: the report is finished at the service, and cannot be changed.
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
        """Retract the open report and drop its journal, so that the report can begin again.

        Raises:
            HashclientError: the retraction failed; the next attempt continues it.
        """
        if self._remote.report_id is None:
            # A report opened under an unknown id vanishes there by itself.
            if self._remote.in_doubt is not None:
                self._save(in_doubt=None)
            return self.report
        fine = (OK, ALREADY_RETRACTED, NO_SUCH_REPORT, ALREADY_FINISHED)
        answer = self._call(Call.RETRACT, lambda: self.service.retract(self._id), fine)
        if answer.code == ALREADY_FINISHED:
            # Somebody else has finished it, perhaps without all files, and to file it again would
            # make a second finished report. It stays in doubt until a person decides.
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
        # Digests of the original are known only while its plain bytes are read, and are not stored:
        # if the next step is interrupted, the report begins again.
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
        """Find all matches whose evidence cannot be sent, so that one attempt finds all."""
        for match in plan.document.matches:
            if match.id in plan.upload and match.id not in self._remote.files:
                try:
                    with plan.open_evidence(match):
                        pass
                except HashclientError as error:
                    self.stuck[match.id] = error

    def finish_again(self) -> Report:
        """Finish a report that may be finished already, and return it.

        Raises:
            StateError: the service does not know the report; only a person can find out whether it
                is finished.
            HashclientError: the call failed; it is still not known whether the report is finished.
        """
        answer = self._call(
            Call.FINISH,
            lambda: self.service.finish(self._id),
            (OK, ALREADY_FINISHED, NO_SUCH_REPORT),
        )
        if answer.code == NO_SUCH_REPORT:
            # Still in doubt: the service may have finished and archived the report, or removed it
            # unfinished.
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
        """Make one call between two entries in the journal.

        `fine` are the allowed answers, and the caller notes their consequences; until then the call
        stays in doubt. `doubt` is noted as in doubt; the default is the call itself.

        Raises:
            _LostError: the service does not know the report.
            HashclientError: the service refuses; or the result is not known, and the call stays in
                doubt.
        """
        before = self._remote.in_doubt
        self._save(in_doubt=doubt or call)
        try:
            answer = make()
            # A refusal names no report, or report 0.
            if call is not Call.OPEN and answer.report_id not in (None, "0", self._id):
                raise UnreachableError(f"the service answers for another report: /{call}")
        except (AuthorisationError, ConfigError):
            # After this error, by the rules of the transport, the service has done nothing.
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
            # The service did nothing; whether the report was finished before is still not known.
            self._save(in_doubt=before if before is Call.FINISH else None)
        else:
            self._save()
        if answer.code == NO_SUCH_REPORT and self._remote.report_id is not None:
            raise _LostError
        check(answer, call)
        raise AssertionError("an answer that is neither fine nor refused")

    def _note_request(self, call: Call) -> None:
        """Keep the service's id of the request; the next change of the journal saves it."""
        request_id = self.service.request_id
        if request_id is not None:
            entry = Request(self._now(), call, request_id)
            requests = (*self._remote.requests, entry)[-MAX_REQUESTS:]
            self.report = self.report.replace(remote=self._changed(requests=requests))

    def _save(self, **changes: object) -> None:
        remote = self._changed(**changes)
        self._journal(self.report.replace(state=State.SUBMITTING, remote=remote))

    def _journal(self, report: Report) -> None:
        # A change that cannot be saved does not count: only the saved journal counts.
        self._write(report)
        self.report = report

    def _changed(self, **changes: object) -> Remote:
        return msgspec.structs.replace(self._remote, **changes)


def _checked(
    make: Callable[[Mapping[str, Any]], ET.Element], facts: Mapping[str, Any], schema: Validator
) -> bytes:
    """Return a document with facts, after it was compared with the schema.

    Raises:
        ConfigError: the service will not take the report.
        VerificationError: the schema cannot be used.
    """
    document = to_bytes(make(facts))
    try:
        schema.validate(document)
    except (ConfigError, VerificationError):
        if not facts:
            raise
        # A validator may repeat a value, and no message may hold a fact.
        schema.validate(to_bytes(make({})))
        raise _MisfitError(
            "the facts about the source do not fit the schema that the service serves",
            hint="the schema is in the folder of the report; compare it with the facts of the"
            " command",
        ) from None
    return document

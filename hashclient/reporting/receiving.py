"""Receives the signed answers of the recipients of reports (for example an authority).

An answer is accepted only once, for one report of this machine, and only if it is signed with the
key that the configuration pins for the destination of the report.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from hashclient.audit.log import Event, read
from hashclient.audit.record import format_time, parse_head
from hashclient.config.tables import PackageDestination
from hashclient.core.errors import ConfigError, VerificationError
from hashclient.core.match import ANSWERED as STORY_EVENT
from hashclient.matches.store import Matches
from hashclient.packages.answer import Answer, Request, parse_answer
from hashclient.packages.chain import ANSWERED
from hashclient.quarantine.evidence import find_item
from hashclient.quarantine.item import require_quarantine
from hashclient.quarantine.vault import Quarantine
from hashclient.reporting.outbox import Outbox
from hashclient.reporting.report import Answered, Report, State
from hashclient.system.text import for_people, printable

_HANDED_OVER = (State.SUBMITTED, State.ACKNOWLEDGED, State.RETRACTED)


def receive(outbox: Outbox, record: Matches, text: bytes) -> tuple[Report, Answer]:
    """Record an answer in the audit log, the record of matches and the report.

    1. The signature is verified with the key that the answer contains, and this key must be the key
       that the configuration pins for the destination.
    2. The answer must be about a report of this machine that was handed over, and only about
       matches of this report.
    3. The answer must not have been received before.
    4. The answer is written to the audit log, durably, and then to the histories of the matches.
    5. Items that the answer requests to keep are put on hold until the requested time.
    6. The answer is written to the report, which becomes acknowledged. If the process is killed
       before step 6, the same answer can be received again, and the missing steps are taken.

    Raises:
        VerificationError: the signature is wrong, the answer does not fit the report, or the answer
            was received before.
        ConfigError: the configuration pins no key for the destination.
        UsageError: no report has this id.
        LockedError, StateError, AuditError: the answer cannot be recorded. Or the answer requests
            to keep isolated files, and the whole quarantine is missing.
    """
    answer = parse_answer(text)  # 1
    with outbox.working():
        report = _report_of(outbox, answer)
        kept = [m for one in answer.requests if one.request == "keep" for m in one.matches]
        if any(match.is_isolated for match in record.look_up_all(kept).values()):
            require_quarantine(outbox.settings.layout.quarantine)
        session, now = outbox.session, outbox.now()
        detail = _detail(report, answer)
        logged = {
            **detail,
            "received_by": session.operator,
            "key": answer.key,
            "sha256": hashlib.sha256(text).hexdigest(),
            "accepted": list(answer.accepted),
            "refused": list(answer.refused),
            "requests": [_asked(one) | {"matches": list(one.matches)} for one in answer.requests],
        }
        session.audit.append([Event(ANSWERED, logged)], durable=True)  # 4
        with record.batch():
            for match_id in sorted(answer.matches):
                if record.look_up(match_id) is not None and not _has(record, match_id, answer):
                    about = detail | _about(answer, match_id)
                    record.note(match_id, STORY_EVENT, now, about)
        _keep(outbox, record, answer)  # 5
        noted = report.replace(answers=(*report.answers, _answered(answer, now)))  # 6
        noted = noted.noted(now, "answered", answer=answer.id, by=answer.body)
        if report.state is State.SUBMITTED and not report.is_retracting:
            noted = noted.replace(
                state=State.ACKNOWLEDGED, reference=answer.reference, problem=None
            ).noted(now, "acknowledged", reference=answer.reference, by=answer.body)
        return outbox.settle(outbox.save(noted), record), answer


def _report_of(outbox: Outbox, answer: Answer) -> Report:
    settings = outbox.settings
    identity = parse_head(next(iter(read(settings.layout.audit))), "line 1").identity
    if (answer.log_id, answer.public_key) != (identity.log_id, identity.public_key):  # 2
        raise VerificationError("the answer is for the report of another machine")
    report = outbox.get(answer.report)
    table = settings.config.report.to.get(report.destination)
    key = table.key if isinstance(table, PackageDestination) else None
    if key is None:  # 1
        raise ConfigError(
            f"no key is pinned for answers of {printable(report.destination)}",
            hint=f"set key in [report.to.{report.destination}] to the body's public key, which you"
            " got in another way",
        )
    if key != answer.key:
        raise VerificationError(
            f"the answer is signed by another key than that of {printable(report.destination)}:"
            f" {answer.key}"
        )
    if report.state not in _HANDED_OVER or report.package is None:  # 2
        raise VerificationError(f"report {report.id} was not handed over: it is {report.state}")
    if not answer.matches <= {*report.matches}:
        raise VerificationError("the answer names matches that are not in the report")
    if any(earlier.id == answer.id for earlier in report.answers):  # 3
        raise VerificationError(f"the answer was received before: {answer.id}")
    return report


def _keep(outbox: Outbox, record: Matches, answer: Answer) -> None:
    """Put items on hold if an answer requests to keep them."""
    quarantine = Quarantine(outbox.session)
    for request in answer.requests:
        for match_id in request.matches if request.request == "keep" else ():
            item = find_item(outbox.settings.layout.quarantine, match_id)
            reason = f"{request.text} (answer {answer.id})"
            if item is None or (item.hold is not None and reason in item.hold.reason):
                continue
            quarantine.hold(match_id, record, reason=reason, until=request.until, by=answer.body)


def _has(record: Matches, match_id: str, answer: Answer) -> bool:
    return any(
        step.event == STORY_EVENT and step.detail.get("answer") == answer.id
        for step in record.story(match_id)
    )


def _detail(report: Report, answer: Answer) -> dict[str, Any]:
    named = {} if answer.reference is None else {"reference": answer.reference}
    return {
        "report": report.id,
        "to": report.destination,
        "by": answer.body,
        "answer": answer.id,
        **named,
    }


def _about(answer: Answer, match_id: str) -> dict[str, Any]:
    """Return the parts of an answer about one match."""
    said = {}
    if match_id in (*answer.accepted, *answer.refused):
        said["result"] = "accepted" if match_id in answer.accepted else "refused"
    asked = [_asked(one) for one in answer.requests if match_id in one.matches]
    return said | ({"requests": asked} if asked else {})


def _asked(request: Request) -> dict[str, Any]:
    end = {} if request.until is None else {"until": format_time(request.until)}
    return {"request": request.request, "text": request.text, **end}


def _answered(answer: Answer, now: datetime) -> Answered:
    asks = []
    for one in answer.requests:
        end = "" if one.until is None else f" until {for_people(one.until)}"
        asks.append(f"{one.request}{end}: {one.text} ({len(one.matches)} of its matches)")
    destroy = {m: None for one in answer.requests if one.request == "destroy" for m in one.matches}
    return Answered(
        answer.id, now, answer.body, answer.reference, answer.refused, tuple(asks), tuple(destroy)
    )

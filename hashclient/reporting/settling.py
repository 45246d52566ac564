"""Settles states of reports, that is, writes them to the audit log and the record of matches.

A new state is written to the report first. If the process is killed after this write, the audit log
or the record of matches lacks the state, and the next command settles the state. After such an
interruption, the audit log may contain the event twice, but the history of a match contains the
event once. After the record of matches was lost, `note_again` writes the settled states into the
new histories.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from hashclient.audit.log import Event
from hashclient.core.errors import UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import (
    REPORT_PREPARED,
    REPORT_RETRACTED,
    REPORT_RETRACTING,
    taken_back,
)
from hashclient.matches.store import Matches
from hashclient.packages.chain import RETRACTED
from hashclient.reporting.report import Report, State
from hashclient.session import Session

#: The event in the audit log when the effects of a report that was handed over are ended.
REOPENED = "matches-reopened"
#: The event in the audit log, and the step in the history of a match, for each state.
_WRITTEN: dict[State, tuple[str, str]] = {
    State.PREPARED: ("report-prepared", REPORT_PREPARED),
    State.SUBMITTED: ("report-submitted", str(MatchState.REPORTED)),
    State.ACKNOWLEDGED: ("report-acknowledged", str(MatchState.ACKNOWLEDGED)),
    State.RETRACTED: (RETRACTED, REPORT_RETRACTED),
}
#: The steps in the history of a report that lead to a state and contain the operator, by state.
_LEADS_TO = {
    State.SUBMITTED: ("submitted", "finished"),
    State.ACKNOWLEDGED: ("acknowledged", "finished"),
}
#: The states of a report that has an effect on its matches, in order.
_KEEPING = (State.PREPARED, State.SUBMITTED, State.ACKNOWLEDGED)


def unsettled(report: Report) -> list[State]:
    """Return the states of a report that are not settled, in the order of settling."""
    states = []
    if report.settled is None:
        states.append(State.PREPARED)
    before = (None, State.PREPARED)
    if report.state in (State.SUBMITTED, State.ACKNOWLEDGED) and report.settled in before:
        states.append(State.SUBMITTED)
    if report.state in (State.ACKNOWLEDGED, State.RETRACTED) and report.settled != report.state:
        states.append(report.state)
    return states


def settle(session: Session, report: Report, state: State, record: Matches) -> None:
    """Write a state to the audit log, durably, and then to the history of each match.

    Raises:
        AuditError, StateError: the audit log or the record of matches cannot be written.
    """
    event, _ = _WRITTEN[state]
    detail = _detail(report, state)
    logged = {**detail, "matches": list(report.matches)}
    if state in (State.SUBMITTED, State.ACKNOWLEDGED) and report.remote.requests:
        logged["requests"] = [request.id for request in report.remote.requests]
    session.audit.append([Event(event, logged)], durable=True)
    _note(report, state, record, session.now(), detail)


def _note(
    report: Report, state: State, record: Matches, now: datetime, detail: Mapping[str, Any]
) -> None:
    """Write a state to the history of each match that lacks it."""
    _, step = _WRITTEN[state]
    with record.batch():
        for match_id in report.matches:
            # A match is missing if the record of matches was lost and begun again.
            with contextlib.suppress(UsageError):
                story = record.story(match_id)
                if any(s.event == step and s.detail.get("report") == report.id for s in story):
                    continue
                if state is State.RETRACTED:
                    record.take_back(match_id, step, now, detail)
                elif report.id in taken_back(story):
                    continue
                elif state is State.SUBMITTED:
                    record.change(match_id, MatchState.REPORTED, now, detail)
                elif state is State.ACKNOWLEDGED:
                    record.change(match_id, MatchState.ACKNOWLEDGED, now, detail)
                else:
                    record.note(match_id, step, now, detail)


def note_again(report: Report, record: Matches) -> None:
    """Write the settled states of a report to histories that were lost, with their former times.

    Without these steps, the evidence of a report would not be kept for `keep_days`. A report that
    was retracted, or is being retracted, has no effect on its matches.

    Raises:
        StateError: the record of matches cannot be written.
    """
    if report.settled not in _KEEPING or report.retraction is not None:
        return
    for state in _KEEPING[: _KEEPING.index(report.settled) + 1]:
        led = [taken.time for taken in report.history if taken.event in _LEADS_TO.get(state, ())]
        _note(report, state, record, [report.created, *led][-1], _detail(report, state))


def reopen(session: Session, report: Report, record: Matches, *, reason: str) -> None:
    """End the effects of a report that was handed over, before the report is retracted.

    The matches of the report become open again, and their items in quarantine are not due for
    destruction any more. The change is recorded before the retraction begins, so that no item is
    due because of a report that is being retracted, even if the process is killed.

    Raises:
        AuditError, StateError: the change cannot be recorded, and the report keeps its effects.
    """
    matches = []
    for match_id in report.matches:
        with contextlib.suppress(UsageError):
            if report.id not in taken_back(record.story(match_id)):
                matches.append(match_id)
    if not matches:
        return
    detail = {
        "report": report.id,
        "to": report.destination,
        "by": session.operator,
        "reason": reason,
    }
    now = session.now()
    session.audit.append([Event(REOPENED, {**detail, "matches": matches})], durable=True)
    with record.batch():
        for match_id in matches:
            record.take_back(match_id, REPORT_RETRACTING, now, detail)


def is_reopened(report: Report, record: Matches) -> bool:
    """Return whether `reopen` was called for a report, by the history of its first known match."""
    for match_id in report.matches:
        with contextlib.suppress(UsageError):
            return report.id in taken_back(record.story(match_id))
    return False


def _detail(report: Report, state: State) -> dict[str, Any]:
    by = report.by
    for taken in report.history:
        if taken.event in _LEADS_TO.get(state, ()):
            by = taken.detail.get("by", by)
    detail: dict[str, Any] = {"report": report.id, "to": report.destination, "by": by}
    if state is State.SUBMITTED and report.package is not None:
        detail["package"] = report.package.name
    if state in (State.SUBMITTED, State.ACKNOWLEDGED) and report.reference is not None:
        detail["reference"] = report.reference
    if state is State.RETRACTED and report.retraction is not None:
        detail |= {"by": report.retraction.by, "reason": report.retraction.reason}
    return detail

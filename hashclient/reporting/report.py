"""The record of a report in the state directory, and the states of a report.

Each report has a folder, `STATE/reports/<report id>/`. `report.json` is the record of the report,
which is replaced before and after each step that a recipient can see; `document.json` is the
document of the report. The record never contains a credential or a digest, and contains only ids
and codes from answers of a service. This module defines, reads and writes records; the module
`outbox` changes reports and holds the locks.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.core.match import new_id
from hashclient.core.model import Time
from hashclient.core.patience import LAST, is_due, pause
from hashclient.reporting.destinations.registry import KINDS
from hashclient.system.files import MAX_STATE_BYTES, read_regular, state_error, write_atomic
from hashclient.system.layout import RECORD_NAME
from hashclient.system.text import printable
from hashclient.system.versions import newer_or

RECORD_FORMAT: Final = "hashclient-outbox/1"
ID_PREFIX = "r-"
ID_PATTERN = re.compile(r"r-[a-z0-9]{10}")


class State(enum.StrEnum):
    """The states of a report; `docs/reporting.md` contains a diagram of them.

    A FAILED report waits like a PREPARED report, but a person must correct a fault before the
    report can be sent.
    """

    PREPARED = "prepared"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    ACKNOWLEDGED = "acknowledged"
    RETRACTED = "retracted"
    FAILED = "failed"


class Call(enum.StrEnum):
    """A call that changes something at a reporting service."""

    OPEN = "open"
    UPLOAD = "upload"
    FILEINFO = "fileinfo"
    FINISH = "finish"
    RETRACT = "retract"


class Problem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reason why the last attempt to send a report has failed."""

    time: Time
    message: str
    hint: str | None
    exit_code: int


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The id that a service has given to a request, so that its operators can find the request."""

    time: Time
    call: str
    id: str


class Remote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The known state of a report at a service.

    `report_id` is the id of the open report at the service. `files` are the service's ids of
    uploaded and described files, by match id. `in_doubt` is a call that was perhaps made, and whose
    answer is not known. `past` are the ids of reports that were retracted at the service or that
    the service has lost.
    """

    report_id: str | None = None
    files: dict[str, str] = {}
    in_doubt: Call | None = None
    past: tuple[str, ...] = ()
    requests: tuple[Request, ...] = ()


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package that was put, or is about to be put, into a directory; `name` is its file name.

    `sha256` is the SHA-256 of the archive or, if the package is a directory, of its
    `custody.jsonl`.
    """

    name: str
    sha256: str


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decision about a report: who made it, when and why."""

    time: Time
    by: str
    reason: str


class Answered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer of a recipient: its author, the refused matches, and its requests as text."""

    id: str
    received: Time
    body: str
    reference: str | None
    refused: tuple[str, ...]
    asks: tuple[str, ...]
    destroy: tuple[str, ...]


class Apart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Matches that were moved out of a report, and the id of the report that contains them now."""

    report: str
    matches: tuple[str, ...]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step in the history of a report."""

    time: Time
    event: str
    detail: dict[str, Any]


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A report: its matches, its state, and its history. Times are in UTC.

    `matches` are the ids of the reported matches. `left_out` are the ids of matches that ended or
    were rejected before the report was sent. `apart` are matches that could not be sent and were
    moved to other reports. `unreviewed` is the decision of a person to send the report although
    matches in it wait for a review. `settled` is the last state that was written to the audit log
    and the record of matches. `reference` is the recipient's id of the report. `answers` are the
    signed answers of the recipient.
    """

    format: Literal["hashclient-outbox/1"] = RECORD_FORMAT
    id: str
    destination: str
    kind: str
    created: Time
    by: str
    matches: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    apart: tuple[Apart, ...] = ()
    seal_evidence: bool = False
    with_context: bool = False
    unreviewed: Decision | None = None
    state: State = State.PREPARED
    settled: State | None = None
    attempts: int = 0
    next_attempt: Time | None = None
    problem: Problem | None = None
    remote: Remote = Remote()
    package: Package | None = None
    reference: str | None = None
    answers: tuple[Answered, ...] = ()
    retraction: Decision | None = None
    history: tuple[Step, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether the report must still be sent."""
        return self.state in (State.PREPARED, State.SUBMITTING, State.FAILED)

    @property
    def is_retracting(self) -> bool:
        """Whether a person has decided to retract the report, and the retraction is not finished.

        The value is False if the report was handed over to a kind of destination that does not
        allow retracting it.
        """
        handed_over = self.state in (State.SUBMITTED, State.ACKNOWLEDGED)
        can_be = self.is_open or (handed_over and KINDS[self.kind].takes_back)
        return self.retraction is not None and can_be

    @property
    def is_untouched(self) -> bool:
        """Whether certainly no recipient has any part of the report."""
        remote = self.remote
        return (
            self.is_open
            and remote.report_id is None
            and remote.in_doubt is None
            and self.package is None
        )

    @property
    def is_ours(self) -> bool:
        """Whether certainly no recipient has the finished report, so that the report can wait."""
        return self.is_open and self.remote.in_doubt is not Call.FINISH and self.package is None

    def is_due(self, now: datetime) -> bool:
        """Return whether the report should be sent or retracted now."""
        return (self.is_open or self.is_retracting) and is_due(self.next_attempt, now)

    def is_overdue(self, now: datetime, deadline_hours: float) -> bool:
        """Return whether the report has waited longer than `deadline_hours`."""
        return self.is_open and now - self.created > timedelta(hours=deadline_hours)

    def replace(self, **changes: Any) -> Report:
        """Return a copy of the report with `changes`."""
        return msgspec.structs.replace(self, **changes)

    def noted(self, time: datetime, event: str, **detail: Any) -> Report:
        """Return a copy of the report with one more step in its history."""
        return self.replace(history=(*self.history, Step(time, event, detail)))

    def failed(
        self, problem: Problem, *, person: bool = False, retry_after_s: float | None = None
    ) -> Report:
        """Return a copy of the report after a failed attempt, with the time of the next attempt.

        If `person` is set, a person must act, and the next attempt is made after the longest pause,
        a day.
        """
        noted = self.noted(problem.time, "attempt-failed", message=problem.message)
        if not self.is_open and not self.is_retracting:
            return noted
        state, wait = self.state, LAST
        if person:
            # A report that was handed over keeps its state until it is retracted.
            state = State.FAILED if self.is_open else state
        else:
            state = State.PREPARED if state is State.FAILED else state
            wait = pause(self.attempts, retry_after_s)
        return noted.replace(
            state=state,
            attempts=self.attempts + 1,
            next_attempt=problem.time + wait,
            problem=problem,
        )


class Sent(msgspec.Struct, frozen=True):
    """The result of an attempt to send or retract a report, with messages for people.

    `report` is the report after the attempt. `error` is the exception if the attempt failed.
    `retry_after_s` is the pause in seconds that the destination has requested. `stuck` are the
    matches that cannot be sent, each with an exception as the reason. `notes` are messages that a
    person should read, even after success.
    """

    report: Report
    detail: str
    error: HashclientError | None = None
    notes: tuple[str, ...] = ()
    retry_after_s: float | None = None
    stuck: Mapping[str, HashclientError] = MappingProxyType({})

    @classmethod
    def stuck_at(cls, report: Report, stuck: Mapping[str, HashclientError]) -> Sent:
        """Return the result of an attempt that did not begin because matches cannot be sent."""
        return cls(report, "not sent", next(iter(stuck.values())), stuck=stuck)

    @classmethod
    def not_done(cls, report: Report, error: HashclientError) -> Sent:
        """Return the result of an attempt with an error; the report may have been sent anyway."""
        return cls(report, "not sent" if report.is_open else str(report.state), error)


def new_report_id() -> str:
    """Return a random report id, whose prefix distinguishes it from match ids."""
    return ID_PREFIX + new_id()


def save(folder: Path, report: Report) -> Report:
    """Write the record of a report into its folder, and return the report.

    Raises:
        StateError: the record cannot be written; the earlier record is unchanged.
    """
    document = msgspec.json.format(msgspec.json.encode(report), indent=1)
    write_atomic(folder / RECORD_NAME, document + b"\n")
    return report


def report_ids(reports_dir: Path) -> list[str]:
    """Return the ids of all reports.

    Raises:
        StateError: the directory cannot be read.
    """
    try:
        return sorted(name for name in os.listdir(reports_dir) if ID_PATTERN.fullmatch(name))  # noqa: PTH208 - names
    except FileNotFoundError:
        return []
    except OSError as error:
        raise state_error("cannot read reports", reports_dir, error) from error


def load_all(reports_dir: Path) -> list[Report]:
    """Return all reports, the oldest first.

    Raises:
        StateError: a record cannot be read, or is damaged.
    """
    reports = [load(reports_dir, report_id) for report_id in report_ids(reports_dir)]
    return sorted(reports, key=lambda report: (report.created, report.id))


def load(reports_dir: Path, report_id: str) -> Report:
    """Read the record of a report.

    Raises:
        UsageError: no report has this id.
        StateError: the record cannot be read, or is damaged.
    """
    unknown = UsageError(
        f"no report has the id {printable(report_id)}", hint="`hashclient report status` lists them"
    )
    # The id is checked because a text that a user typed must not lead to another directory.
    if not ID_PATTERN.fullmatch(report_id):
        raise unknown
    path = reports_dir / report_id / RECORD_NAME
    try:
        data = read_regular(path, MAX_STATE_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not os.path.lexists(path.parent):
            raise unknown from None
        raise _damaged(path) from error
    except OSError as error:
        raise state_error("cannot read report", path, error) from error
    try:
        report = msgspec.json.decode(data, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise newer_or(_damaged(path), path, data, RECORD_FORMAT) from error
    if report.kind not in KINDS:
        raise _damaged(path)
    if report.id != report_id:
        raise StateError(f"record of another report: {printable(path)}")
    return report


def _damaged(path: Path) -> StateError:
    return StateError(
        f"record of a report is damaged: {printable(path)}",
        hint="restore it from a backup; the audit log says what was sent, too",
    )

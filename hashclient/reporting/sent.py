"""What became of one attempt at sending a report, or at taking it back."""

from __future__ import annotations

import msgspec

from hashclient.errors import HashclientError
from hashclient.reporting.report import Report


class Sent(msgspec.Struct, frozen=True):
    """The report after an attempt, and what to tell people.

    `error` is why it failed. `notes` are things that need a person's attention all the same.
    """

    report: Report
    detail: str
    error: HashclientError | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def not_done(cls, report: Report, error: HashclientError) -> Sent:
        """Say that an attempt failed; it may be that only others could not be told of it."""
        return cls(report, "not sent" if report.is_open else str(report.state), error)

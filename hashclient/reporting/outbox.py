"""Reports on disk: from being prepared to being acknowledged or retracted."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import msgspec

from hashclient.audit import AuditLog
from hashclient.config import Settings
from hashclient.errors import UsageError
from hashclient.matches import Match, Matches


class State(enum.StrEnum):
    """How far a report has come."""

    PREPARED = "prepared"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    ACKNOWLEDGED = "acknowledged"
    RETRACTED = "retracted"
    FAILED = "failed"


class Report(msgspec.Struct, frozen=True):
    """One report as it is on disk."""

    id: str
    destination: str
    matches: tuple[str, ...]
    state: State
    created: str


class Outbox:
    """The reports of one state directory."""

    def __init__(
        self, settings: Settings, audit: AuditLog, *, now: Callable[[], datetime]
    ) -> None:
        """Nothing is read or made yet."""

    def prepare(
        self,
        matches: Sequence[Match],
        record: Matches,
        destination: str,
        *,
        by: str,
        again: bool = False,
    ) -> Report:
        """Make a report of `matches`."""
        raise UsageError("not yet")

    def reports(self) -> Iterator[Report]:
        """Yield all reports, the oldest first."""
        return iter(())

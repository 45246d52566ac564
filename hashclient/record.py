"""What a run leaves behind: its records in the audit log, and its matches in the record of matches.

Neither may keep a run from telling what it found, so a failure to write is told once, counts in the
exit code, and the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hashclient.audit import AuditLog, Event, path_fields
from hashclient.errors import AuditError, StateError
from hashclient.matches import Matches
from hashclient.model import Kind, Outcome
from hashclient.summary import Summary

#: Matches are written in batches, at the latest when so many are waiting.
BATCH = 512


class RunRecord:
    """The record of one scan or lookup."""

    def __init__(
        self,
        command: str,
        summary: Summary,
        audit: AuditLog,
        state_dir: Path,
        *,
        now: Callable[[], datetime],
        on_failure: Callable[[AuditError | StateError], None],
    ) -> None:
        """`command` is `scan` or `lookup`; `on_failure` hears once of what cannot be written."""
        self._command = command
        self._summary = summary
        self._audit = audit
        self._state_dir = state_dir
        self._now = now
        self._on_failure = on_failure
        self._waiting: list[Outcome] = []
        self._audit_failed = self._matches_failed = self._ended = False

    def start(self, arguments: Sequence[str]) -> None:
        """Log that the run starts, with its arguments (never digests) and the lists it uses."""
        lists = [
            {"list": s.name, "generation": s.generation, "fresh": s.fresh}
            for s in self._summary.lists
        ]
        data = {"arguments": list(arguments), "lists": lists}
        self._log([Event(f"{self._command}-start", data)])

    def add(self, outcome: Outcome) -> None:
        """Take note of one outcome."""
        if outcome.kind in (Kind.MATCH, Kind.CONFLICT):
            self._waiting.append(outcome)
            if len(self._waiting) >= BATCH:
                self._write_waiting()

    def end(self) -> None:
        """Write what is waiting, and that the run has ended; only the first time."""
        if self._ended:
            return
        self._ended = True
        self._write_waiting()
        summary = self._summary
        counts = {str(kind): summary.counts[kind] for kind in Kind}
        data = {"inputs": summary.inputs, **counts, "exit_code": int(summary.exit_code)}
        self._log([Event(f"{self._command}-end", data)])

    def _write_waiting(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._log([Event(str(o.kind), _data(o)) for o in waiting], durable=True)
            self._remember([o for o in waiting if o.kind is Kind.MATCH and o.origin is None])

    def _log(self, events: list[Event], *, durable: bool = False) -> None:
        if self._audit_failed:
            return
        try:
            self._audit.append(events, durable=durable)
        except AuditError as error:
            self._audit_failed = True
            self._failed(error)

    def _remember(self, outcomes: list[Outcome]) -> None:
        if self._matches_failed or not outcomes:
            return
        try:
            with Matches(self._state_dir) as matches:
                matches.record(outcomes, self._now())
        except StateError as error:
            self._matches_failed = True
            self._failed(error)

    def _failed(self, error: AuditError | StateError) -> None:
        self._summary.failed = self._summary.failed or error.exit_code
        self._on_failure(error)


def _data(outcome: Outcome) -> dict[str, Any]:
    return {
        **path_fields(outcome.origin or outcome.path),
        "size": outcome.size,
        "hits": [
            {
                "list": hit.list_name,
                "entry": hit.entry,
                "category": hit.category,
                "generation": hit.generation,
                "algorithms": [a.label for a in hit.algorithms],
                "complete": hit.complete,
            }
            for hit in outcome.hits
        ],
    }

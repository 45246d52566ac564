"""The log of a provider's changes, in the client's format, in `log/` of the repository.

A change is recorded, durably, before clients can see it: every published change is in the log. So a
record names the change that was about to be published as version `timestamp` of the timestamp. If
that failed, a record `change-failed` follows; after a kill, the next record with the same version
shows it. `docs/audit-log.md` has the format.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from hashclient.audit.log import AuditLog, Event
from hashclient.errors import HashclientError

#: A file of the log that is longer is closed, and the log goes on in another.
MAX_FILE_BYTES = 64 << 20


class ChangeLog:
    """The log of one repository; its writer holds the repository's lock."""

    def __init__(
        self, directory: Path, clock: Callable[[], datetime], operator: str | None
    ) -> None:
        """Record the changes by `operator` in `directory`, which is made if need be."""
        self.directory = directory
        self.operator = operator
        self._log = AuditLog(directory, clock=clock, max_bytes=MAX_FILE_BYTES)
        self._announced: str | None = None

    def record(self, event: str, **data: Any) -> None:
        """Record an event durably.

        Raises:
            AuditError: the event cannot be recorded.
        """
        self._log.append([Event(event, {"operator": self.operator, **data})], durable=True)

    def begin(self) -> None:
        """Begin a command: no change of it was announced yet."""
        self._announced = None

    def announce(self, event: str, data: Callable[[], dict[str, Any]]) -> None:
        """Record a change, with the result of `data`, unless the command has recorded one."""
        if self._announced is None:
            self.record(event, **data())
            self._announced = event

    def failed(self) -> None:
        """Record that the announced change has failed, if possible."""
        if self._announced is not None:
            with contextlib.suppress(HashclientError):
                self.record("change-failed", change=self._announced)
            self._announced = None

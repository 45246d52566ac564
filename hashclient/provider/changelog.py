"""What a provider has done, in a log of its own: the client's format, in `log/` of the repository.

A change is recorded, durably, before anybody can see it: nothing is published that is not in the
log. So a record says what was about to be published as version `timestamp` of the timestamp. Where
that failed, a record `change-failed` follows; after a kill, the next record with the same version
says it. `docs/audit-log.md` has the format.
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
    """The log of one repository; whoever writes to it holds the lock of that."""

    def __init__(
        self, directory: Path, clock: Callable[[], datetime], operator: str | None
    ) -> None:
        """Record in `directory`, which is made if need be, what `operator` does."""
        self.directory = directory
        self.operator = operator
        self._log = AuditLog(directory, clock=clock, max_bytes=MAX_FILE_BYTES)
        self._announced: str | None = None

    def record(self, event: str, **data: Any) -> None:
        """Record something, so that power may fail afterwards.

        Raises:
            AuditError: it cannot be recorded.
        """
        self._log.append([Event(event, {"operator": self.operator, **data})], durable=True)

    def begin(self) -> None:
        """Say that a command begins: nothing of it was announced yet."""
        self._announced = None

    def announcer(self, event: str, data: Callable[[], dict[str, Any]]) -> Callable[[], None]:
        """Return what records a change when it is called first; `data` is asked for then."""

        def announce() -> None:
            if self._announced is None:
                self.record(event, **data())
                self._announced = event

        return announce

    def failed(self) -> None:
        """Record that the change that was announced has failed, as far as that is possible."""
        if self._announced is not None:
            with contextlib.suppress(HashclientError):
                self.record("change-failed", change=self._announced)
            self._announced = None

"""A desk whose alerts a command appends to a file, one document a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fixtures.desk import Desk
from hashclient.alerts.book import Book
from hashclient.alerts.outbox import Attempt, Outbox
from hashclient.audit.log import Event
from hashclient.config.settings import parse_config


def into(inbox: Path) -> str:
    """Return the key `command` of a configuration that appends each alert to a file."""
    script = 'cat >> "$1"; echo >> "$1"'
    return f"command = {json.dumps(['/bin/sh', '-c', script, 'sh', str(inbox)])}\n"


def documents(inbox: Path) -> list[dict[str, Any]]:
    """Return the alerts in a file of alerts."""
    return [json.loads(line) for line in inbox.read_text().splitlines()] if inbox.exists() else []


class Told(Desk):
    """A desk with alerts; `sent` returns the documents since the last call."""

    def __init__(self, directory: Path, config: str = "") -> None:
        super().__init__(directory)
        self.inbox = directory / "inbox"
        self._known = 0
        self.configure(into(self.inbox) + config)

    def configure(self, text: str) -> None:
        """Write the table `[alerts]` of the configuration."""
        alerts = parse_config(f"[alerts]\n{text}", "config.toml").alerts
        config = msgspec.structs.replace(self.settings.config, alerts=alerts)
        self.settings = msgspec.structs.replace(self.settings, config=config)
        self.session = self.session_of("tester")

    def log(self, event: str, **data: object) -> None:
        """Write a record to the audit log."""
        self.audit.append([Event(event, data)])

    def refuse(self, code: int, name: str | None = "baseline") -> None:
        """Log a fetch that has failed."""
        self.log("refused", provider="main", list=name, exit_code=code, reason="/secret/path")

    def fetched(self) -> None:
        """Log a successful fetch."""
        self.log("fetch", provider="main", list="baseline", generation=2)

    def alert(self, **how: Any) -> list[Attempt]:
        """Send the alerts that are due."""
        return Outbox(self.session).send(**how)

    def book(self) -> Book:
        """Return the outbox of alerts as it is on disk."""
        return Outbox(self.session).book()

    def sent(self, **how: Any) -> list[dict[str, Any]]:
        """Send the due alerts, and return the documents that arrived since the last call."""
        self.alert(**how)
        found = documents(self.inbox)[self._known :]
        self._known += len(found)
        return found

    def texts(self, **how: Any) -> Sequence[str]:
        """Send the due alerts, and return the sentences of the new documents."""
        return [document["text"] for document in self.sent(**how)]

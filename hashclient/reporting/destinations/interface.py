"""The interface of all kinds of destinations, to which reports are handed over.

The outbox keeps the journal of a report and decides the steps; a destination does the steps. A
destination is called under the outbox's lock, one report at a time. The journal notes each step
before the step is visible at the other side. So after a kill at any instant, the next attempt knows
which parts the destination may have, and a report is handed over only once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from hashclient.matches.store import Matches
from hashclient.reporting.facts import Asked
from hashclient.reporting.outbox import Outbox
from hashclient.reporting.report import Report, Sent
from hashclient.session import Session


class Work(msgspec.Struct, frozen=True):
    """The arguments of a destination.

    `record` is the open record of matches, `identities` open items in quarantine, `on_bytes` is
    called with the number of bytes after each part is sent. With `allow_closed`, a person has
    allowed to hand evidence over even to a recipient who cannot open it. `asked` has the answers of
    the command for facts about sources.
    """

    outbox: Outbox
    record: Matches
    identities: Sequence[Any] = ()
    on_bytes: Callable[[int], None] = lambda _count: None
    allow_closed: bool = False
    asked: Asked = msgspec.field(default_factory=Asked)

    @property
    def session(self) -> Session:
        """The use of the state directory."""
        return self.outbox.session


class Rehearsal(msgspec.Struct, frozen=True):
    """What would be handed over: texts and files by their names, and the missing parts."""

    texts: Mapping[str, bytes]
    files: tuple[str, ...]
    missing: tuple[str, ...]


class Destination(Protocol):
    """A place where reports go. Making a destination reads no file and opens no connection."""

    def send(self, report: Report) -> Sent:
        """Hand a report over, or go on where an earlier attempt was interrupted.

        Afterwards the report is submitted, acknowledged or waiting, or has an error. If the error
        is about some of its matches, these matches are `stuck`, and the others can be sent without
        them. The journal has every half-done step at the other side.

        Raises:
            HashclientError: the report cannot be handed over now.
        """

    def rehearse(self, report: Report) -> Rehearsal:
        """Return the content that `send` would hand over now; write nothing, open no connection.

        Raises:
            HashclientError: the content cannot be known.
        """

    def renew(self, report: Report) -> Report:
        """Take back a begun report if some of its matches have ended meanwhile.

        Matches that have ended can then be left out. Called before each `send`.

        Raises:
            HashclientError: the report cannot be taken back now.
        """

    def take_back(self, report: Report) -> Sent:
        """Take a report back: a begun report always, a handed-over report if possible.

        Afterwards the report is retracted. For a retracted report, unfinished steps are finished.

        Raises:
            UsageError: the report is finished at the destination, and cannot be changed.
            HashclientError: the report cannot be taken back now.
        """

    def is_taken_back(self, report: Report) -> bool:
        """Return whether the retraction of a report is finished at the other side."""


class Factory(Protocol):
    """Makes a destination from its table in the configuration."""

    def __call__(self, work: Work, table: Any) -> Destination:
        """Make a destination."""

"""What a report is handed to: the one interface of all kinds of destinations.

The outbox keeps the journal of a report and decides what is to become of it; a destination does it.
It is called under the outbox's lock, one report at a time. Before anything appears at the other
side, the journal says that it may; so an attempt after a kill at any instant knows what may be
there, and a report is handed over once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from hashclient.matches.store import Matches
from hashclient.reporting.outbox import Outbox
from hashclient.reporting.report import Report, Sent
from hashclient.session import Session


class Work(msgspec.Struct, frozen=True):
    """What a destination works with.

    `record` is the open record of matches, `identities` open what is in quarantine, `on_bytes` is
    called with how many bytes were sent, as they are. With `allow_closed`, evidence is handed over
    also to a recipient who cannot open it: a person has said so.
    """

    outbox: Outbox
    record: Matches
    identities: Sequence[Any] = ()
    on_bytes: Callable[[int], None] = lambda _count: None
    allow_closed: bool = False

    @property
    def session(self) -> Session:
        """The use of the state directory."""
        return self.outbox.session


class Destination(Protocol):
    """Where reports go. To make one reads nothing and connects to nothing."""

    def send(self, report: Report) -> Sent:
        """Hand a report over, or go on where an attempt before was interrupted.

        Afterwards it is submitted or acknowledged, or waits for something, or there is an error;
        nothing is left half done at the other side that the journal does not know of.

        Raises:
            HashclientError: it cannot be handed over now.
        """
        ...

    def renew(self, report: Report) -> Report:
        """Take back what is begun of a report, if it is of matches that have ended meanwhile.

        What can still be left out of it is left out then. Called before each `send`.

        Raises:
            HashclientError: it cannot be taken back now.
        """
        ...

    def take_back(self, report: Report) -> Sent:
        """Take a report back: what is begun, and what was handed over where that can be.

        It is retracted afterwards. For one that is retracted already, what is left is done.

        Raises:
            UsageError: it is finished there, which cannot be changed.
            HashclientError: it cannot be taken back now.
        """
        ...

    def is_taken_back(self, report: Report) -> bool:
        """Tell whether nothing is left to be done about a report that is retracted."""
        ...


class Factory(Protocol):
    """What makes a destination from its table in the configuration."""

    def __call__(self, work: Work, table: Any) -> Destination:
        """Make one."""
        ...

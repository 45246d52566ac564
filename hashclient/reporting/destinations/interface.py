"""The interface of destinations, to which reports are handed over.

The outbox saves the journal of a report and decides which steps are taken; a destination takes the
steps. A destination is called while the lock of the outbox is held, for one report at a time. Each
step is written to the journal before the recipient can see it. If the process is killed at any
time, the next attempt learns from the journal which parts the recipient may have, so that a report
is handed over only once.
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
    """The arguments for making a destination.

    `record` is the open record of matches. `identities` are secret keys that open items in
    quarantine. `on_bytes` is called with the number of bytes of each sent piece. `allow_closed`
    says whether a person has allowed handing over evidence that a recipient cannot open. `asked`
    are the answers of the command that returns facts about sources.
    """

    outbox: Outbox
    record: Matches
    identities: Sequence[Any] = ()
    on_bytes: Callable[[int], None] = lambda _count: None
    allow_closed: bool = False
    asked: Asked = msgspec.field(default_factory=Asked)

    @property
    def session(self) -> Session:
        """The session of the outbox."""
        return self.outbox.session


class Rehearsal(msgspec.Struct, frozen=True):
    """What `send` would hand over: texts by file name, names of files, and missing parts."""

    texts: Mapping[str, bytes]
    files: tuple[str, ...]
    missing: tuple[str, ...]


class Destination(Protocol):
    """A destination of reports; making a destination reads no file and opens no connection."""

    def send(self, report: Report) -> Sent:
        """Hand a report over, or continue an interrupted attempt.

        After the call, the report is submitted, acknowledged or waiting, or the result contains an
        error. If the error is about single matches of the report, these matches are in `stuck` of
        the result, and a report without them can be sent. The journal contains every step that the
        destination may have begun.

        Raises:
            HashclientError: the report cannot be handed over now.
        """

    def rehearse(self, report: Report) -> Rehearsal:
        """Return what `send` would hand over now; write no file and open no connection.

        Raises:
            HashclientError: the content that `send` would hand over cannot be determined.
        """

    def renew(self, report: Report) -> Report:
        """Retract a report that was begun at the destination if some of its matches have ended.

        A retracted report can be sent again without the matches that have ended. `renew` is called
        before each call of `send`.

        Raises:
            HashclientError: the report cannot be retracted now.
        """

    def take_back(self, report: Report) -> Sent:
        """Retract a report that was begun or, if the destination allows it, handed over.

        After the call, the report is retracted. If the report is already retracted, the remaining
        steps of the retraction are taken.

        Raises:
            UsageError: the report is finished at the destination and cannot be changed.
            HashclientError: the report cannot be retracted now.
        """

    def is_taken_back(self, report: Report) -> bool:
        """Return whether all steps of the retraction of a report were taken."""


class Factory(Protocol):
    """A function that makes a destination from its table in the configuration."""

    def __call__(self, work: Work, table: Any) -> Destination:
        """Return the destination that `table` configures."""

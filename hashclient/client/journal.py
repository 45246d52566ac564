"""Records which notices were shown to people on this machine, and which they have acknowledged.

The log is written before the file of notices: after a kill between the two writes an event is
logged again, and no notice is acknowledged without a record in the log. `status` does not record
the notices that it shows, because `status` changes nothing, and programs call it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from hashclient.audit.log import Event
from hashclient.core.errors import StateError, UsageError
from hashclient.notices.lifecycle import Acknowledged, Kept, Standing, State, standings
from hashclient.notices.store import (
    are_missing,
    changing,
    load_book,
    providers_with_notices,
    write_book,
)
from hashclient.session import Session
from hashclient.system.text import as_unicode, printable

MAX_REASON_CHARS = 500


class Journal:
    """The notices of all providers, in one session."""

    def __init__(self, session: Session) -> None:
        """Store the session; no file is read yet."""
        self._session = session
        self._layout = session.settings.layout
        #: The error of a provider whose notices cannot be read; the notices of other providers are
        #: still read.
        self.failure: StateError | None = None

    def all(self) -> list[Standing]:
        """Return all notices on this machine with their present states, the newest first.

        If the file of a provider's notices cannot be read or is missing, `failure` is set.

        Raises:
            StateError: the folder of notices cannot be read.
        """
        found: list[Standing] = []
        now = self._session.now()
        for provider in providers_with_notices(self._layout):
            try:
                book = load_book(self._layout, provider)
            except StateError as error:
                self.failure = error
                continue
            found += standings(provider, book.notices if book else (), now)
        for provider in self._session.settings.config.providers:
            try:
                if are_missing(self._layout, provider):
                    raise StateError(
                        f"notices of provider {provider} are not here",
                        hint="run `hashclient fetch`",
                    )
            except StateError as error:
                self.failure = error
        return sorted(found, key=lambda s: s.notice.sent, reverse=True)

    def find(self, names: Sequence[str]) -> list[Standing]:
        """Return the notices with the given names; a name is an id, or `PROVIDER/ID`.

        Raises:
            UsageError: a notice is not found, or several notices have the id.
            StateError: a notice is not found, and some notices could not be read.
        """
        found: dict[str, list[Standing]] = {}
        for standing in self.all():
            found.setdefault(standing.name, []).append(standing)
            found.setdefault(standing.notice.id, []).append(standing)
        chosen: dict[str, Standing] = {}
        for name in names:
            called = found.get(name, [])
            if not called and self.failure is not None:
                raise self.failure
            if not called:
                raise UsageError(
                    f"no such notice: {printable(name)}",
                    hint="`hashclient notices list --show-all` shows those that are here",
                )
            if len(called) > 1:
                both = " or ".join(standing.name for standing in called[:3])
                raise UsageError(f"several notices are called {name}", hint=f"say {both}")
            chosen[called[0].name] = called[0]
        return list(chosen.values())

    def note_shown(self, shown: Iterable[Standing], how: str) -> None:
        """Record that notices were shown for the first time; `how` says in which form.

        Raises:
            AuditError, StateError: the event cannot be logged, or the notices cannot be written.
        """
        names = {standing.name for standing in shown if standing.kept.shown is None}
        if not names:
            return
        now = self._session.now()

        def note(standing: Standing) -> tuple[Event, Kept] | None:
            if standing.kept.shown is not None:
                return None
            event = Event("notice-shown", {**_about(standing), "by": self._by, "how": how})
            return event, msgspec.structs.replace(standing.kept, shown=now)

        self._change(names, note)

    def acknowledge(self, chosen: Sequence[Standing], reason: str | None = None) -> set[str]:
        """Record that notices are acknowledged; return the names of these notices.

        Notices that were acknowledged before, or need no acknowledgement, are left out.

        Raises:
            UsageError: the reason is too long.
            AuditError, StateError: the event cannot be logged, or the notices cannot be written.
        """
        if reason is not None and len(reason) > MAX_REASON_CHARS:
            raise UsageError(f"the reason has more than {MAX_REASON_CHARS} characters")
        if reason is not None:
            reason = as_unicode(reason)
        now = self._session.now()
        done: set[str] = set()

        def note(standing: Standing) -> tuple[Event, Kept] | None:
            if standing.state is not State.OPEN:
                return None
            done.add(standing.name)
            said = {} if reason is None else {"reason": reason}
            event = Event("notice-acknowledged", {**_about(standing), "by": self._by, **said})
            value = Acknowledged(now, self._by, reason)
            return event, msgspec.structs.replace(standing.kept, acknowledged=value)

        self._change({standing.name for standing in chosen}, note)
        return done

    @property
    def _by(self) -> str:
        return self._session.operator

    def _change(
        self,
        names: Collection[str],
        note: Callable[[Standing], tuple[Event, Kept] | None],
    ) -> None:
        """Change the named notices with `note`: first log the events, then write the notices."""
        now = self._session.now()
        with changing(self._layout):
            for provider in sorted({name.partition("/")[0] for name in names}):
                book = load_book(self._layout, provider)
                if book is None:
                    continue
                events: list[Event] = []
                kept: list[Kept] = []
                for standing in standings(provider, book.notices, now):
                    noted = note(standing) if standing.name in names else None
                    if noted is not None:
                        events.append(noted[0])
                    kept.append(standing.kept if noted is None else noted[1])
                if events:
                    self._session.audit.append(events, durable=True)
                    write_book(self._layout, msgspec.structs.replace(book, notices=tuple(kept)))


def _about(standing: Standing) -> dict[str, str]:
    return {
        "provider": standing.provider,
        "notice": standing.notice.id,
        "document": standing.kept.digest,
        "severity": str(standing.notice.severity),
    }

"""Makes, renews and ends exceptions: each change is logged before the rulings file is written.

Because changes are logged first, each ruling that counts is in the audit log. If the process is
killed after a change was logged and before the change was written, the log has a change that did
not happen, and the person should make the change again.

With `people = 2` in [decisions], a new or renewed exception counts only after another person has
approved it. A renewed exception gets a new id, and waits for the approval; if the exception before
the renewal already counts, it counts until its former end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from hashclient.audit.log import Event
from hashclient.core.errors import StateError, UsageError
from hashclient.core.match import new_id, person_of
from hashclient.decisions.rulings import (
    KNOWN_GOOD,
    LONGEST,
    MAX_REASON_CHARS,
    MOST,
    USUAL,
    Book,
    Entry,
    Imports,
    Ruling,
    load_book,
    write_book,
)
from hashclient.index.blinding import Sealer
from hashclient.index.fingerprints import fingerprints
from hashclient.index.reader import Index
from hashclient.session import Session
from hashclient.system.text import as_unicode, for_people, printable

#: How long rulings are kept in the rulings file after they have ended; the audit log keeps all
#: rulings.
KEPT = timedelta(days=90)
#: How long a change waits for another process that has locked the state directory, in seconds.
LOCK_WAIT_S = 10.0

_Change = Callable[[tuple[Ruling, ...], datetime], Iterable[Ruling]]


class Keeper:
    """Changes the exceptions in the state directory of a session."""

    def __init__(self, session: Session, sealer: Sealer) -> None:
        """Prepare changes of the exceptions; the key of `sealer` authenticates their file."""
        self._session = session
        self._layout = session.settings.layout
        self._sealer = sealer
        #: Whether a new exception waits for a second person.
        self._waits = session.settings.config.decisions.people > 1

    def rulings(self) -> tuple[Ruling, ...]:
        """Return all recorded rulings.

        Raises:
            StateError: the rulings cannot be read, or are not the rulings that were written last.
        """
        return load_book(self._layout, self._sealer).rulings

    def check(self, number: int, reason: str, until: datetime | None) -> None:
        """Check whether `number` exceptions can be made with `reason` as reason and `until` as end.

        Raises:
            UsageError: the end or the reason is refused, or too many exceptions exist.
            StateError: the rulings cannot be read.
        """
        _checked(reason)
        _end(until, self._session.now())
        check_number(len(self.rulings()) + number)

    def add(
        self,
        entries: Sequence[Entry],
        reason: str,
        *,
        until: datetime | None = None,
        content: str = "",
        below: str = "",
    ) -> Ruling:
        """Make and return an exception for `entries`; by default, the exception ends after `USUAL`.

        Raises:
            UsageError: the end or the reason is refused, or too many exceptions exist.
            AuditError, StateError: the exception cannot be logged or written.
        """
        made: list[Ruling] = []

        def change(before: tuple[Ruling, ...], now: datetime) -> Iterable[Ruling]:
            ruling = Ruling(
                id=f"x-{new_id()}",
                entries=tuple(entries),
                reason=_checked(reason),
                by=self._session.operator,
                made_at=now,
                until=_end(until, now),
                content=content,
                below=below,
                waits=self._waits,
            )
            made.append(ruling)
            return [*before, ruling]

        self._change("exception-added", change)
        return made[0]

    def renew(self, ids: Sequence[str], reason: str, until: datetime | None) -> list[Ruling]:
        """Set a new end and a new reason of exceptions; return the changed or new exceptions.

        Raises:
            UsageError: an exception does not exist, its end or reason is refused, or too many
                exceptions exist.
            AuditError, StateError: the change cannot be logged or written.
        """
        by = self._session.operator

        def change(before: tuple[Ruling, ...], now: datetime) -> Iterable[Ruling]:
            values: dict[str, Any] = {"reason": _checked(reason), "until": _end(until, now)}
            values |= {"by": by, "waits": self._waits, "approved_by": ""}
            for ruling in before:
                if ruling.id not in ids:
                    yield ruling
                elif self._waits:
                    if not ruling.waits:
                        yield ruling
                    # Who approves by id has read the exception with this id, not the changed one.
                    new = {"id": f"x-{new_id()}", "made_at": now, "origin": ""}
                    yield msgspec.structs.replace(ruling, **values, **new)
                else:
                    yield msgspec.structs.replace(ruling, **values)

        return self._change("exception-renewed", change, ids)

    def approve(self, ids: Sequence[str], reason: str) -> list[Ruling]:
        """Approve exceptions that wait for a second person; return these exceptions.

        Raises:
            UsageError: an exception does not exist, does not wait, or was made by the person who
                approves it.
            AuditError, StateError: the change cannot be logged or written.
        """
        by = self._session.operator

        def change(before: tuple[Ruling, ...], _now: datetime) -> Iterable[Ruling]:
            for ruling in before:
                if ruling.id not in ids:
                    yield ruling
                    continue
                if not ruling.waits:
                    raise UsageError(f"exception {ruling.id} waits for nobody")
                if person_of(by) == person_of(ruling.by):
                    raise UsageError(
                        f"exception {ruling.id} was made by you",
                        hint="another person has to approve it",
                    )
                yield msgspec.structs.replace(ruling, waits=False, approved_by=by)

        return self._change("exception-approved", change, ids, reason=_checked(reason))

    def remove(self, ids: Sequence[str], reason: str) -> list[Ruling]:
        """End exceptions and return them.

        Raises:
            UsageError: an exception does not exist.
            AuditError, StateError: the change cannot be logged or written.
        """

        def change(before: tuple[Ruling, ...], _now: datetime) -> Iterable[Ruling]:
            return (ruling for ruling in before if ruling.id not in ids)

        return self._change("exception-removed", change, ids, reason=_checked(reason))

    def remove_all(self, reason: str) -> None:
        """End all exceptions, even if the rulings file is damaged or lost.

        Raises:
            AuditError, StateError: the change cannot be logged or written.
        """
        with self._session.writing(wait_s=LOCK_WAIT_S):
            now = self._session.now()
            try:
                imports = load_book(self._layout, self._sealer).imports
            except StateError:
                imports = Imports(since=now)
            by = self._session.operator
            data = {"reason": _checked(reason), "by": by}
            self._session.audit.append([Event("exceptions-cleared", data)], durable=True)
            write_book(self._layout, (), self._sealer, now, imports)

    def _change(
        self, event: str, change: _Change, ids: Sequence[str] = (), **said: str
    ) -> list[Ruling]:
        """Change the rulings, and log each ruling that was added, changed or removed.

        Return the added and changed rulings; if there are none, the removed rulings.
        """
        with self._session.writing(wait_s=LOCK_WAIT_S):
            now = self._session.now()
            book: Book = load_book(self._layout, self._sealer)
            known = {ruling.id: ruling for ruling in book.rulings}
            for one in ids:
                if one not in known:
                    raise UsageError(
                        f"no exception has the id {printable(one)}",
                        hint="`hashclient exceptions list` shows them",
                    )
            after = [*change(book.rulings, now)]
            if len(after) > len(book.rulings):
                check_number(len(after))
            left = {ruling.id: ruling for ruling in after}
            changed = [
                left.get(i, known.get(i))
                for i in dict.fromkeys([*known, *left])
                if left.get(i) != known.get(i)
            ]
            about = [ruling for ruling in changed if ruling is not None]
            events = [
                event_of(event if r.id in left else "exception-removed", r, self._session, **said)
                for r in about
            ]
            if events:
                self._session.audit.append(events, durable=True)
            kept = [ruling for ruling in after if ruling.until > now - KEPT]
            write_book(self._layout, kept, self._sealer, now, book.imports)
        return [ruling for ruling in about if ruling.id in left] or about


def event_of(event: str, ruling: Ruling, session: Session, **said: str) -> Event:
    """Return an event of the audit log; `by` changes the ruling, and `made_by` has made it."""
    fields = {**fields_of(ruling), "made_by": ruling.by, **said, "by": session.operator}
    return Event(event, fields)


def exchange(
    session: Session,
    sealer: Sealer,
    book: Book,
    wanted: Sequence[Ruling],
    is_old: Callable[[Ruling], bool],
    imports: Imports | None = None,
) -> None:
    """Log and write changed rulings: `wanted` replaces all rulings for which `is_old` is true.

    The caller has locked the state directory for writing.

    Raises:
        AuditError, StateError: the rulings cannot be logged or written.
    """
    old = {ruling.id: ruling for ruling in book.rulings if is_old(ruling)}
    new = {ruling.id: ruling for ruling in wanted}
    kept = [*(ruling for ruling in book.rulings if ruling.id not in old), *wanted]
    gone = [("exception-removed", ruling) for ruling in old.values() if ruling.id not in new]
    renewed = [("exception-renewed", r) for r in wanted if r.id in old and r != old[r.id]]
    added = [("exception-added", ruling) for ruling in wanted if ruling.id not in old]
    events = [event_of(name, ruling, session) for name, ruling in (*gone, *renewed, *added)]
    if events:
        session.audit.append(events, durable=True)
    if events or imports is not None:
        layout, now = session.settings.layout, session.now()
        write_book(layout, kept, sealer, now, imports or book.imports)


def set_aside(session: Session, sealer: Sealer, index: Index, ids: Sequence[str]) -> bool:
    """Make exceptions for the entries `ids` of a list, which are known to be good.

    An earlier exception for an entry of the list that was known to be good ends, unless the entry
    is in `ids`. Exceptions that would end soon are renewed. Return whether a new exception was
    made. The caller has locked the state directory for writing.

    Raises:
        AuditError, StateError: the exceptions cannot be logged or written, or the index cannot be
            read.
    """
    layout, now, list_name = session.settings.layout, session.now(), index.manifest.list
    book = load_book(layout, sealer)
    codes = {one: found.code for one, found in fingerprints(index, ids, sealer).items()}

    def is_ours(ruling: Ruling) -> bool:
        return ruling.origin == KNOWN_GOOD and ruling.entries[0].list == list_name

    wanted: list[Ruling] = []
    for ruling in filter(is_ours, book.rulings):
        (entry,) = ruling.entries
        if codes.get(entry.id) == entry.fingerprint:
            del codes[entry.id]
            if ruling.until - now < USUAL / 2:
                ruling = msgspec.structs.replace(ruling, until=now + USUAL)
            wanted.append(ruling)
    wanted += [
        Ruling(
            id=f"x-{new_id()}",
            entries=(Entry(list_name, entry_id, code),),
            reason="it is known to be good, by known_good",
            by=session.operator,
            made_at=now,
            until=now + USUAL,
            origin=KNOWN_GOOD,
        )
        for entry_id, code in sorted(codes.items())
    ]
    exchange(session, sealer, book, wanted, is_ours)
    return bool(codes)


def fields_of(ruling: Ruling) -> dict[str, Any]:
    """Return the content of a ruling as JSON values, without its tag and fingerprints."""
    return {
        "id": ruling.id,
        "entries": [{"list": entry.list, "entry": entry.id} for entry in ruling.entries],
        "only_one_file": bool(ruling.content),
        "below": ruling.below or None,
        "reason": ruling.reason,
        "by": ruling.by,
        **({"origin": ruling.origin} if ruling.origin else {}),
        **({"approved_by": ruling.approved_by} if ruling.approved_by else {}),
        "made_at": ruling.made_at.isoformat(),
        "until": ruling.until.isoformat(),
    }


def check_number(number: int) -> None:
    """Refuse a number of exceptions that is greater than `MOST`.

    Raises:
        UsageError: `number` is greater than `MOST`.
    """
    if number > MOST:
        raise UsageError(f"there are {MOST:,} exceptions already", hint="remove some of them")


def _checked(reason: str) -> str:
    if len(reason) > MAX_REASON_CHARS:
        raise UsageError(f"the reason has more than {MAX_REASON_CHARS} characters")
    return as_unicode(reason)


def _end(until: datetime | None, now: datetime) -> datetime:
    """Return when a ruling that is made now ends: at `until`, or by default after `USUAL`."""
    if until is None:
        return now + USUAL
    if not now < until <= now + LONGEST:
        raise UsageError(
            f"an exception cannot end at {for_people(until)}",
            hint=f"it ends in the future, and after {LONGEST.days} days at most; `renew` renews it",
        )
    return until

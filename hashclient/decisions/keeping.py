"""Making, renewing and ending exceptions: each change is logged first, and then kept.

So no ruling counts that the audit log does not have. After a kill in between the log has a change
that did not happen; doing it again is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from hashclient.audit.log import Event
from hashclient.core.match import new_id
from hashclient.decisions.rulings import (
    KNOWN_GOOD,
    LONGEST,
    MAX_REASON_CHARS,
    MOST,
    USUAL,
    Book,
    Entry,
    Ruling,
    load_book,
    write_book,
)
from hashclient.errors import UsageError
from hashclient.index.blinding import Sealer
from hashclient.index.fingerprints import fingerprints
from hashclient.index.reader import Index
from hashclient.migrations.migrate import writing
from hashclient.session import Session
from hashclient.system.text import for_people, printable

#: Rulings that ended longer ago than this are forgotten; the audit log has them.
KEPT = timedelta(days=90)
#: How long a change waits for another writer, in seconds.
LOCK_WAIT_S = 10.0

_Change = Callable[[tuple[Ruling, ...], datetime], Iterable[Ruling]]


class Keeper:
    """Changes the exceptions of one session."""

    def __init__(self, session: Session, sealer: Sealer) -> None:
        """Change the exceptions that are authentic under the key of `sealer`."""
        self._session = session
        self._layout = session.settings.layout
        self._sealer = sealer

    def rulings(self) -> tuple[Ruling, ...]:
        """Return all rulings that are kept.

        Raises:
            StateError: they cannot be read, or are not the ones that were written last.
        """
        return load_book(self._layout, self._sealer).rulings

    def add(
        self,
        entries: Sequence[Entry],
        reason: str,
        *,
        until: datetime | None = None,
        content: str = "",
        below: str = "",
    ) -> Ruling:
        """Make an exception of `entries` and return it; by default it ends after `USUAL`.

        Raises:
            UsageError: its end or its reason is refused, or there are too many exceptions.
            AuditError, StateError: it cannot be logged or kept.
        """
        made: list[Ruling] = []

        def change(before: tuple[Ruling, ...], now: datetime) -> Iterable[Ruling]:
            if len(before) >= MOST:
                raise UsageError(
                    f"there are {MOST:,} exceptions already", hint="remove some of them"
                )
            ruling = Ruling(
                id=f"x-{new_id()}",
                entries=tuple(entries),
                reason=_checked(reason),
                by=self._session.operator,
                made_at=now,
                until=_end(until, now),
                content=content,
                below=below,
            )
            made.append(ruling)
            return [*before, ruling]

        self._change("exception-added", change)
        return made[0]

    def renew(self, ids: Sequence[str], reason: str, until: datetime | None) -> list[Ruling]:
        """Let exceptions end later, for another reason; return them.

        Raises:
            UsageError: one is not there, or its end or reason is refused.
            AuditError, StateError: they cannot be logged or kept.
        """
        by = self._session.operator

        def change(before: tuple[Ruling, ...], now: datetime) -> Iterable[Ruling]:
            values = {"reason": _checked(reason), "until": _end(until, now), "by": by}
            for ruling in before:
                chosen = ruling.id in ids
                yield msgspec.structs.replace(ruling, **values) if chosen else ruling

        return self._change("exception-renewed", change, ids)

    def remove(self, ids: Sequence[str], reason: str) -> list[Ruling]:
        """End exceptions and return them.

        Raises:
            UsageError: one is not there.
            AuditError, StateError: it cannot be logged or kept.
        """

        def change(before: tuple[Ruling, ...], _now: datetime) -> Iterable[Ruling]:
            return (ruling for ruling in before if ruling.id not in ids)

        return self._change("exception-removed", change, ids, reason=_checked(reason))

    def remove_all(self, reason: str) -> None:
        """End all exceptions, also if their file is damaged or lost.

        Raises:
            AuditError, StateError: it cannot be logged or kept.
        """
        with writing(self._layout, wait_s=LOCK_WAIT_S):
            now = self._session.now()
            self._log("exceptions-cleared", {"reason": _checked(reason)})
            write_book(self._layout, (), self._sealer, now)

    def _change(
        self, event: str, change: _Change, ids: Sequence[str] = (), **said: str
    ) -> list[Ruling]:
        """Change the rulings; return those with these ids, after the change or before it."""
        with writing(self._layout, wait_s=LOCK_WAIT_S):
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
            left = {ruling.id: ruling for ruling in after}
            changed = [
                left.get(i, known.get(i))
                for i in dict.fromkeys([*known, *left])
                if left.get(i) != known.get(i)
            ]
            about = [ruling for ruling in changed if ruling is not None]
            for ruling in about:
                self._log(event, {**fields_of(ruling), **said})
            kept = [ruling for ruling in after if ruling.until > now - KEPT]
            write_book(self._layout, kept, self._sealer, now)
        return about

    def _log(self, event: str, data: dict[str, Any]) -> None:
        by = self._session.operator
        self._session.audit.append([Event(event, {**data, "by": by})], durable=True)


def set_aside(session: Session, sealer: Sealer, index: Index, ids: Sequence[str]) -> bool:
    """Make exceptions of these entries of a list, which are known to be good, and of no others.

    Earlier ones that were made so end; one that ends soon is renewed. Return whether there is a new
    one. The caller holds the writers' lock.

    Raises:
        AuditError, StateError: they cannot be logged or kept, or the index cannot be read.
    """
    layout, now, list_name = session.settings.layout, session.now(), index.manifest.list
    rulings = load_book(layout, sealer).rulings
    codes = {one: found.code for one, found in fingerprints(index, ids, sealer).items()}
    kept: list[Ruling] = []
    events: list[tuple[str, Ruling]] = []
    for ruling in rulings:
        (entry, *_) = ruling.entries
        if ruling.origin != KNOWN_GOOD or entry.list != list_name:
            kept.append(ruling)
        elif codes.get(entry.id) == entry.fingerprint:
            del codes[entry.id]
            if ruling.until - now < USUAL / 2:
                ruling = msgspec.structs.replace(ruling, until=now + USUAL)
                events.append(("exception-renewed", ruling))
            kept.append(ruling)
        else:
            events.append(("exception-removed", ruling))
    for entry_id, code in sorted(codes.items()):
        ruling = Ruling(
            id=f"x-{new_id()}",
            entries=(Entry(list_name, entry_id, code),),
            reason="it is known to be good, by known_good",
            by=session.operator,
            made_at=now,
            until=now + USUAL,
            origin=KNOWN_GOOD,
        )
        kept.append(ruling)
        events.append(("exception-added", ruling))
    if events:
        session.audit.append([Event(name, fields_of(r)) for name, r in events], durable=True)
        write_book(layout, kept, sealer, now)
    return bool(codes)


def fields_of(ruling: Ruling) -> dict[str, Any]:
    """Return what a ruling says, as JSON values; never a tag or a fingerprint."""
    return {
        "id": ruling.id,
        "entries": [{"list": entry.list, "entry": entry.id} for entry in ruling.entries],
        "only_one_file": bool(ruling.content),
        "below": ruling.below or None,
        "reason": ruling.reason,
        "by": ruling.by,
        **({"origin": ruling.origin} if ruling.origin else {}),
        "made_at": ruling.made_at.isoformat(),
        "until": ruling.until.isoformat(),
    }


def _checked(reason: str) -> str:
    if len(reason) > MAX_REASON_CHARS:
        raise UsageError(f"the reason has more than {MAX_REASON_CHARS} characters")
    # Bytes that are not UTF-8 cannot be kept as they are.
    return reason.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _end(until: datetime | None, now: datetime) -> datetime:
    """Return when a ruling ends that is made now."""
    if until is None:
        return now + USUAL
    if not now < until <= now + LONGEST:
        raise UsageError(
            f"an exception cannot end at {for_people(until)}",
            hint=f"it ends in the future, and after {LONGEST.days} days at most; `renew` renews it",
        )
    return until

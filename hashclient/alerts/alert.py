"""An alert: events, joined into one message, and the document that receivers get.

An alert counts events; it names lists, providers, exceptions and machines, and some ids of matches.
An alert never has content, a digest, an entry, an error message or a person's name. It has paths of
matches only if the configuration requests them. This module also has the texts of each kind of
alert.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, NamedTuple

import msgspec

from hashclient.core.match import new_id
from hashclient.core.version import __version__
from hashclient.system.text import first_of, for_programs


class Kind(enum.StrEnum):
    """What an alert is about; `docs/operations/alerts.md` has the table."""

    MATCH = "match"
    HELD = "held"
    REFUSED = "refused"
    FETCH_FAILED = "fetch-failed"
    STALE = "stale"
    DAMAGED = "damaged"
    EXCEPTION_ENDS = "exception-ends"
    MACHINE_SILENT = "machine-silent"
    TEST = "test"


class Meaning(NamedTuple):
    """The words for one event and for several, the next step, and the time until it is said again.

    The time is for each subject of an alert: a list, a provider, an exception, a machine.
    """

    one: str
    many: str
    next: str
    every: timedelta


_HOUR, _DAY, _WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)
_WHY = "`hashclient status` says why"

MEANINGS: Mapping[Kind, Meaning] = {
    Kind.MATCH: Meaning("new match", "new matches", "`hashclient matches` shows them", _HOUR),
    Kind.HELD: Meaning(
        "match held, waiting for a person",
        "matches held, waiting for a person",
        "`hashclient matches --state held` shows them",
        _HOUR,
    ),
    Kind.REFUSED: Meaning("update refused", "updates refused", _WHY, _DAY),
    Kind.FETCH_FAILED: Meaning("fetch failed", "fetches failed", _WHY, _DAY),
    Kind.STALE: Meaning("list is past its expiry", "lists are past their expiry", _WHY, _DAY),
    Kind.DAMAGED: Meaning(
        "part of the state is missing or damaged",
        "parts of the state are missing or damaged",
        "`hashclient status` and `hashclient audit verify` say what is wrong",
        _DAY,
    ),
    Kind.EXCEPTION_ENDS: Meaning(
        "exception ends within a week",
        "exceptions end within a week",
        "`hashclient exceptions list` shows them",
        _WEEK,
    ),
    Kind.MACHINE_SILENT: Meaning(
        "machine is silent", "machines are silent", "`hashclient fleet show` shows them", _DAY
    ),
    Kind.TEST: Meaning("test of alerts", "tests of alerts", "nothing has happened", timedelta(0)),
}


ALERT_FORMAT = "hashclient-alert/1"
#: At most this many subjects, ids and paths are named; others are counted.
MOST_NAMED = 20


#: A time must have a zone: without one it cannot be compared with the clock.
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Noticed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events that people should know of: how many, by subject, and some of their names."""

    kind: Kind
    count: int = 0
    subjects: dict[str, int] = {}
    matches: tuple[str, ...] = ()
    paths: tuple[dict[str, str], ...] = ()


def noticed(kind: Kind, *subjects: str) -> Noticed:
    """Return a noticed event that counts these subjects."""
    return Noticed(kind=kind, count=len(subjects), subjects=dict.fromkeys(subjects, 1))


class Alert(Noticed, frozen=True, kw_only=True):
    """An alert that waits, and grows until it is first sent; then `to` names receivers."""

    id: str
    since: Time
    until: Time
    to: tuple[str, ...] | None = None

    @classmethod
    def new(cls, kind: Kind, now: datetime) -> Alert:
        """Return an empty alert."""
        return cls(id=f"a-{new_id()}", kind=kind, since=now, until=now)

    def replace(self, **changes: Any) -> Alert:
        """Return the alert with `changes`."""
        return msgspec.structs.replace(self, **changes)

    def joined(self, more: Noticed, now: datetime) -> Alert:
        """Return the alert with the events of `more` added."""
        subjects = dict(self.subjects)
        for name, count in more.subjects.items():
            subjects[name] = subjects.get(name, 0) + count
        return self.replace(
            until=now,
            count=self.count + more.count,
            subjects=subjects,
            matches=(*self.matches, *more.matches)[:MOST_NAMED],
            paths=(*self.paths, *more.paths)[:MOST_NAMED],
        )

    def with_later(self, other: Alert) -> Alert:
        """Return one alert that replaces two, with a new id."""
        return self.joined(other, other.until).replace(id=f"a-{new_id()}")

    def without(self, settled: Collection[str]) -> Alert:
        """Return the alert without the subjects whose problem is over."""
        subjects = {name: count for name, count in self.subjects.items() if name not in settled}
        return self.replace(count=sum(subjects.values()), subjects=subjects)

    @property
    def headline(self) -> str:
        """The alert in some words."""
        meaning = MEANINGS[self.kind]
        return f"{self.count:,} {meaning.one if self.count == 1 else meaning.many}"

    @property
    def text(self) -> str:
        """The alert in a sentence."""
        names = [f"{name} ({n:,})" if n > 1 else name for name, n in _by_count(self.subjects)]
        return f"{self.headline}: {first_of(names)}" if names else self.headline


def document_of(alert: Alert, machine: str) -> dict[str, Any]:
    """Return what receivers get; `docs/alert.schema.json` is its schema."""
    shown = _by_count(alert.subjects)[:MOST_NAMED]
    document: dict[str, Any] = {
        "format": ALERT_FORMAT,
        "id": alert.id,
        "kind": str(alert.kind),
        "machine": machine,
        "version": __version__,
        "since": for_programs(alert.since),
        "until": for_programs(alert.until),
        "count": alert.count,
        "subjects": [{"name": name, "count": count} for name, count in shown],
        "subjects_omitted": len(alert.subjects) - len(shown),
        "matches": list(alert.matches),
        "text": alert.text,
        "next": MEANINGS[alert.kind].next,
    }
    if alert.paths:
        document["paths"] = list(alert.paths)
    return document


def _by_count(subjects: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(subjects.items(), key=lambda pair: (-pair[1], pair[0]))

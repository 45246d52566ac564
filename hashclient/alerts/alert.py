"""An alert: events that are joined into one message, and the document that receivers get.

An alert has counts of events, and names of lists, providers, exceptions and machines, and some ids
of matches. An alert never contains content of files, a digest, an entry, an error message or a
person's name. An alert contains paths of matches only if the configuration requests them. This
module also has the texts for each kind of alert.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from hashclient.core.match import new_id
from hashclient.core.model import Time
from hashclient.core.version import __version__
from hashclient.system.text import first_of, for_programs


class Kind(enum.StrEnum):
    """The kind of the events in an alert; `docs/operations/alerts.md` has a table of the kinds."""

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
    """The texts of a kind of alert, and the pause between alerts of this kind.

    `every`: the time after which another alert may name the same subject: a list, a provider, an
    exception or a machine.
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
#: The largest number of subjects, ids and paths that an alert names; all others are only counted.
MOST_NAMED = 20


class Noticed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events that people should know of: how many, by subject, and ids and paths of matches."""

    kind: Kind
    count: int = 0
    subjects: dict[str, int] = {}
    matches: tuple[str, ...] = ()
    paths: tuple[dict[str, str], ...] = ()


def noticed(kind: Kind, *subjects: str) -> Noticed:
    """Return events of one kind, one for each of `subjects`."""
    return Noticed(kind=kind, count=len(subjects), subjects=dict.fromkeys(subjects, 1))


class Alert(Noticed, frozen=True, kw_only=True):
    """A waiting alert.

    A waiting alert collects events until it is first sent; from the first attempt on, `to` names
    the receivers that have not accepted the alert.
    """

    id: str
    since: Time
    until: Time
    to: tuple[str, ...] | None = None

    @classmethod
    def new(cls, kind: Kind, now: datetime) -> Alert:
        """Return an alert without events."""
        return cls(id=f"a-{new_id()}", kind=kind, since=now, until=now)

    def replace(self, **changes: Any) -> Alert:
        """Return the alert with some fields changed."""
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
        """Return one alert with a new id that replaces this alert and `other`."""
        return self.joined(other, other.until).replace(id=f"a-{new_id()}")

    def without(self, settled: Collection[str]) -> Alert:
        """Return the alert without the subjects in `settled`, whose problem has ended."""
        subjects = {name: count for name, count in self.subjects.items() if name not in settled}
        return self.replace(count=sum(subjects.values()), subjects=subjects)

    @property
    def headline(self) -> str:
        """The number and the kind of the events of the alert, in a few words."""
        meaning = MEANINGS[self.kind]
        return f"{self.count:,} {meaning.one if self.count == 1 else meaning.many}"

    @property
    def text(self) -> str:
        """The number, the kind and the subjects of the events of the alert, as a sentence."""
        names = [f"{name} ({n:,})" if n > 1 else name for name, n in _by_count(self.subjects)]
        return f"{self.headline}: {first_of(names)}" if names else self.headline


def document_of(alert: Alert, machine: str) -> dict[str, Any]:
    """Return the document that receivers get; `docs/alert.schema.json` is its schema."""
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

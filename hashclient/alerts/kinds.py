"""The kinds of alerts: what each says, what to do about it, and how often it is said."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple


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
    """The words for one and for several, the next step, and the time until the same is said again.

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

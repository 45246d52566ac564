"""The closed sets of words: how an input ends, the states of a match, and the actions."""

from __future__ import annotations

import enum


class Kind(enum.StrEnum):
    """How an input ends. There is no seventh way.

    An accepted input was not read, and the configuration allows that.
    """

    CLEAN = "clean"
    MATCH = "match"
    CONFLICT = "conflict"
    SKIPPED = "skipped"
    UNREAD = "unread"
    ACCEPTED = "accepted"

    # Kinds are keys in the loops over all outcomes; the hash of an enumeration is slow Python code.
    __hash__ = str.__hash__


class MatchState(enum.StrEnum):
    """The state of a recorded match; `docs/operations.md` has the picture."""

    FOUND = "found"
    QUARANTINED = "quarantined"
    REPORTED = "reported"
    ACKNOWLEDGED = "acknowledged"
    GONE = "gone"
    WITHDRAWN = "withdrawn"
    RESTORED = "restored"
    PURGED = "purged"
    CLOSED = "closed"

    __hash__ = str.__hash__  # states are keys, too


class Action(enum.StrEnum):
    """An action of a policy about a match, besides recording it."""

    QUARANTINE = "quarantine"
    REPORT = "report"


#: In these states a match needs no attention, unless its file is found again.
SETTLED = frozenset({MatchState.RESTORED, MatchState.PURGED, MatchState.CLOSED})

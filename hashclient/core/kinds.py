"""The closed sets of words: how an input ends, how far a match has come, what may be done."""

from __future__ import annotations

import enum


class Kind(enum.StrEnum):
    """How an input ends. There is no seventh way.

    What is accepted was not read, and the configuration says that this is known and may stay so.
    """

    CLEAN = "clean"
    MATCH = "match"
    CONFLICT = "conflict"
    SKIPPED = "skipped"
    UNREAD = "unread"
    ACCEPTED = "accepted"


class MatchState(enum.StrEnum):
    """How far the story of a remembered match has come; `docs/operations.md` has the picture."""

    FOUND = "found"
    QUARANTINED = "quarantined"
    REPORTED = "reported"
    ACKNOWLEDGED = "acknowledged"
    GONE = "gone"
    WITHDRAWN = "withdrawn"
    RESTORED = "restored"
    PURGED = "purged"
    CLOSED = "closed"


class Action(enum.StrEnum):
    """What a policy may ask for when something matches, besides recording it."""

    QUARANTINE = "quarantine"
    REPORT = "report"

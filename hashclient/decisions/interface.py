"""What a decision is: it says which matches wait for a person, before anything is done about them.

Every front end asks in one place: the transaction that records the matches (`matches/recording`).
So what was decided is on record with the match, and several scans at once share one limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from hashclient.matches.permits import Case, Permits


class Decision(Protocol):
    """One rule about what may be done."""

    def decide(self, cases: Sequence[Case], permits: Permits, now: datetime) -> Mapping[str, bool]:
        """Return by id whether matches are held, of those that something is to be done about.

        It is called within the transaction that records `cases`, and may write to `permits`.
        """

"""Rules and decisions: people, and limits that people set, prevent actions on matches.

Every front end calls a **rule** when an outcome is known, before it is counted, recorded or acted
upon. The rule of `Exceptions` turns a match into an excepted match. A **decision** is made later,
in the transaction that records the matches (`matches/recording`). So the decision is recorded with
the match, and several scans at once share one limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from hashclient.core.model import Outcome

if TYPE_CHECKING:
    from hashclient.matches.permits import Case, Permits

#: Returns an outcome as a person has ruled it: unchanged, or as an outcome of another kind.
Rule = Callable[[Outcome], Outcome]
#: The same for outcomes that have come together, in their order.
Rules = Callable[[Sequence[Outcome]], Sequence[Outcome]]


def as_it_is(outcome: Outcome) -> Outcome:
    """Return an outcome unchanged: the rule without exceptions."""
    return outcome


def as_they_are(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Return outcomes unchanged."""
    return outcomes


class Decision(Protocol):
    """A rule about which matches may be acted upon."""

    def decide(self, cases: Sequence[Case], permits: Permits, now: datetime) -> Mapping[str, bool]:
        """Return, by id, whether the matches that have actions are held.

        The method is called in the transaction that records `cases`, and may write to `permits`.
        """

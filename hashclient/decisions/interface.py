"""Types of rules and decisions, with which people prevent actions on matches.

Every front end calls a **rule** as soon as an outcome is known, and before the outcome is counted,
recorded or acted upon. The rule of `Exceptions` turns a match into an excepted match. A
**decision** is made after the rule, in the transaction that records the matches
(`matches/recording`). Because the transaction includes the decision, the decision is recorded with
the match, and several scans that run at once share one limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from hashclient.core.model import Outcome

if TYPE_CHECKING:
    from hashclient.matches.permits import Case, Permits

#: Returns an outcome, either unchanged or as the outcome of another kind that a person has ruled.
Rule = Callable[[Outcome], Outcome]
#: Like `Rule`, for several outcomes that were found together; the results are in the same order.
Rules = Callable[[Sequence[Outcome]], Sequence[Outcome]]


def as_it_is(outcome: Outcome) -> Outcome:
    """Return an outcome unchanged: the rule that is used without exceptions."""
    return outcome


def as_they_are(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Return outcomes unchanged: the counterpart of `as_it_is` for several outcomes."""
    return outcomes


class Decision(Protocol):
    """A rule about which matches may be acted upon."""

    def decide(self, cases: Sequence[Case], permits: Permits, now: datetime) -> Mapping[str, bool]:
        """Return, by match id, whether each match is held; matches without actions are left out.

        `decide` is called in the transaction that records `cases`, and may write to `permits`.
        """

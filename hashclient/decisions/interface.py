"""Types of rules and decisions: functions and classes that prevent actions on matches.

Every scan, watch or daemon calls a **rule** for each outcome, before the outcome is counted,
recorded or acted upon. The rule of `Exceptions` turns a match into an excepted match. A
**decision** to hold matches is made after the rule, in the database transaction that records the
matches (`matches/recording`). Because the transaction includes the decision, the decision is
recorded with the match, and several scans that run at once share one limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from hashclient.core.model import Outcome

if TYPE_CHECKING:
    from hashclient.matches.permits import Case, Permits

#: Returns an outcome: unchanged, or with the kind `EXCEPTED` if a ruling of a person excepts it.
Rule = Callable[[Outcome], Outcome]
#: Like `Rule`, for several outcomes that were found together; the results are in the same order.
Rules = Callable[[Sequence[Outcome]], Sequence[Outcome]]


def as_it_is(outcome: Outcome) -> Outcome:
    """Return an outcome unchanged: the rule that is used if there are no exceptions."""
    return outcome


def as_they_are(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Return several outcomes unchanged, as `as_it_is` returns one outcome."""
    return outcomes


class Decision(Protocol):
    """Decides which matches are held, so that they are not acted upon."""

    def decide(self, cases: Sequence[Case], permits: Permits, now: datetime) -> Mapping[str, bool]:
        """Return, by match id, whether a match is held; matches that need no action are left out.

        `decide` is called in the database transaction that records `cases`, and may add permits to
        the database.
        """

"""Rules that accept for a limited time that certain content of containers cannot be read.

A rule names paths, one reason and a last day. The rule turns an outcome that is unread for the
reason of the rule into an outcome of the kind `ACCEPTED`, which is counted and logged separately.
The rule does not change outcomes of content that was read, so a match stays a match. The functions
of this module have no side effects.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from datetime import date

import msgspec

from hashclient.config.tables import AcceptRule
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.values.work import NOT_THERE


def ignoring_missing(outcome: Outcome) -> Outcome:
    """Return the outcome, as skipped instead of unread if the file no longer exists."""
    if outcome.kind is Kind.UNREAD and outcome.reason == NOT_THERE and not outcome.members:
        return msgspec.structs.replace(outcome, kind=Kind.SKIPPED, reason="not there any more")
    return outcome


def accepting(rules: Sequence[AcceptRule], today: date) -> Callable[[Outcome], Outcome]:
    """Return a function that applies the `rules` whose last day has not passed to an outcome."""
    compiled = [
        (re.compile(fnmatch.translate(rule.path)), rule) for rule in rules if today <= rule.until
    ]

    def apply(outcome: Outcome) -> Outcome:
        if outcome.kind is not Kind.UNREAD or outcome.obstacle is None:
            return outcome
        for pattern, rule in compiled:
            if rule.reason == outcome.obstacle and pattern.match(outcome.place):
                reason = f"accepted until {rule.until.isoformat()}: {outcome.reason}"
                return msgspec.structs.replace(outcome, kind=Kind.ACCEPTED, reason=reason)
        return outcome

    return apply

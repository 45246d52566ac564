"""What is to be done about a match, as the configuration says: pure, it does nothing itself.

The first rule that fits an entry decides for it; where none fits, the match is recorded and no
more. A match of several entries gets what any of them asks for. Conflicts get nothing: whether they
are what the entry stands for is not known.
"""

from __future__ import annotations

from collections.abc import Sequence

from hashclient.config import PolicyRule
from hashclient.core.kinds import Action, Kind
from hashclient.core.model import Hit, Outcome


def actions_for(outcome: Outcome, rules: Sequence[PolicyRule]) -> tuple[Action, ...]:
    """Return what `rules` ask for, in the order in which it is to be done."""
    if outcome.kind is not Kind.MATCH:
        return ()
    wanted = {a for hit in outcome.hits if hit.complete for a in _for_hit(hit, rules)}
    return tuple(action for action in Action if action in wanted)


def _for_hit(hit: Hit, rules: Sequence[PolicyRule]) -> Sequence[str]:
    for rule in rules:
        if rule.list in (None, hit.list_name) and rule.category in (None, hit.category):
            return rule.actions
    return ()

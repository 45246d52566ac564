"""The actions for a match, as the configuration says; this module does none of them.

The first rule that fits an entry decides for it; where none fits, the match is recorded and no
more. A match of several entries gets the actions of all of them. Conflicts get none: the file may
be another one than the entry stands for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hashclient.config import Settings
from hashclient.configfile.tables import PolicyRule
from hashclient.core.kinds import Action, Kind
from hashclient.core.model import Hit, Outcome
from hashclient.errors import ConfigError
from hashclient.index.open_lists import known_lists
from hashclient.system.text import nearest, printable


def actions_for(outcome: Outcome, rules: Sequence[PolicyRule]) -> tuple[Action, ...]:
    """Return the actions that `rules` ask for, in the order in which they are done."""
    if outcome.kind is not Kind.MATCH:
        return ()
    wanted = {a for hit in outcome.hits if hit.complete for a in _for_hit(hit, rules)}
    return tuple(action for action in Action if action in wanted)


def check_rules(rules: Sequence[PolicyRule], known: Collection[str]) -> None:
    """Refuse rules for a list that is none of the `known` ones: their actions would never happen.

    Raises:
        ConfigError: there is such a rule.
    """
    for rule in rules:
        if rule.list is not None and rule.list not in known:
            meant = nearest(rule.list, known)
            names = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"a policy is about list {printable(rule.list)}, which is not known here",
                hint=(f"did you mean {meant}? " if meant else "")
                + f"known lists: {names}; `hashclient fetch` asks for those that are new, and one"
                " that `lists` of a provider names is known",
            )


def check_policy(settings: Settings) -> None:
    """Refuse a policy for an unknown list.

    Raises:
        ConfigError: as `check_rules`.
        StateError: the known lists cannot be read.
    """
    rules = settings.config.policy
    if any(rule.list is not None for rule in rules):
        known = known_lists(settings)
        if known is not None:
            check_rules(rules, known)


def _for_hit(hit: Hit, rules: Sequence[PolicyRule]) -> Sequence[str]:
    for rule in rules:
        if rule.list in (None, hit.list_name) and rule.category in (None, hit.category):
            return rule.actions
    return ()

"""Chooses, by the configuration, which actions other modules do on a match.

For each entry, the first rule of the policy that fits the entry decides; if no rule fits, the match
is only recorded. A match of several entries gets the actions that are chosen for any of these
entries. A conflict gets no action, because the file may not be the file that the entry means.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from hashclient.config.settings import Settings
from hashclient.config.tables import PolicyRule
from hashclient.core.errors import ConfigError
from hashclient.core.kinds import Action, Kind
from hashclient.core.model import Hit, Outcome
from hashclient.index.open_lists import known_lists
from hashclient.system.text import nearest, printable

#: For each set of actions: the actions in the order in which they are done.
_IN_ORDER = {
    frozenset(actions): actions
    for length in range(len(Action) + 1)
    for actions in itertools.combinations(Action, length)
}


class Policy:
    """The policy of a configuration; with `quarantine_all`, every match is moved to quarantine."""

    def __init__(self, rules: Sequence[PolicyRule], *, quarantine_all: bool = False) -> None:
        self._rules = rules
        self._always = frozenset((Action.QUARANTINE,) if quarantine_all else ())
        #: The actions that are already known, by the list and the category of an entry.
        self._known: dict[tuple[str, str], frozenset[Action]] = {}

    def actions_for(self, outcome: Outcome) -> tuple[Action, ...]:
        """Return the actions on an outcome, in the order in which they are done."""
        if outcome.kind is not Kind.MATCH:
            return ()
        hits = outcome.hits
        if len(hits) == 1:  # the usual case: the match has one entry
            wanted = self._of_hit(hits[0])
        else:
            wanted = frozenset[Action]().union(*map(self._of_hit, hits))
        return _IN_ORDER[wanted]

    def asked_by(self, hits: Sequence[Hit]) -> dict[tuple[str, str], frozenset[Action]]:
        """Return the actions by list and id of an entry; leave out entries without an action."""
        return {(h.list_name, h.entry): asked for h in hits if (asked := self._of_hit(h))}

    def _of_hit(self, hit: Hit) -> frozenset[Action]:
        if not hit.complete:
            return frozenset()
        about = hit.list_name, hit.category
        asked = self._known.get(about)
        if asked is None:
            asked = self._known[about] = self._always.union(
                action for action in Action if action in _for_hit(hit, self._rules)
            )
        return asked


def check_rules(rules: Sequence[PolicyRule], known: Collection[str]) -> None:
    """Refuse rules that name a list which is not in `known`, because such rules never apply.

    Raises:
        ConfigError: a rule names an unknown list.
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
    """Refuse a policy with a rule that names an unknown list.

    Raises:
        ConfigError: a rule names an unknown list.
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

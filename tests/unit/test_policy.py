"""Policies: which rule decides, and that only matches get actions."""

from __future__ import annotations

import pytest

from hashclient.config.tables import PolicyRule
from hashclient.core.kinds import Action, Algorithm, Kind
from hashclient.core.model import Hit, Outcome
from hashclient.decisions.policy import Policy

QUARANTINE, REPORT = Action.QUARANTINE, Action.REPORT


def hit(list_name: str, category: str, *, complete: bool = True) -> Hit:
    return Hit(list_name, "e-1", category, 1, (Algorithm.MD5,), complete)


def actions(*hits: Hit, rules: tuple[PolicyRule, ...], kind: Kind = Kind.MATCH) -> list[Action]:
    return list(Policy(rules).actions_for(Outcome(kind, "/a", hits=hits)))


@pytest.mark.parametrize(
    ("list_name", "category", "wanted"),
    [
        ("base", "worst", [QUARANTINE, REPORT]),
        ("base", "other", [REPORT]),
        ("local", "worst", []),
        ("local", "trial", []),
        ("local", "other", [QUARANTINE]),
        ("third", "worst", []),
        ("third", "trial", []),
        ("third", "other", []),
    ],
)
def test_the_first_rule_that_fits_decides(
    list_name: str, category: str, wanted: list[Action]
) -> None:
    rules = (
        PolicyRule(("report", "quarantine"), list="base", category="worst"),
        PolicyRule(("report",), list="base"),
        PolicyRule(("record",), category="worst"),
        PolicyRule((), category="trial"),
        PolicyRule(("quarantine",), list="local"),
    )
    assert actions(hit(list_name, category), rules=rules) == wanted


def test_without_rules_a_match_is_recorded_only() -> None:
    assert actions(hit("base", "worst"), rules=()) == []


def test_several_entries_get_what_any_asks_for_in_the_order_of_doing() -> None:
    rules = (PolicyRule(("report",), list="a"), PolicyRule(("quarantine",), list="b"))
    assert actions(hit("a", "x"), hit("b", "x"), rules=rules) == [QUARANTINE, REPORT]


def test_an_outcome_that_is_no_match_gets_no_action() -> None:
    rules = (PolicyRule(("quarantine", "report")),)
    partial = hit("a", "x", complete=False)
    assert actions(partial, rules=rules, kind=Kind.CONFLICT) == []
    for kind in Kind:
        if kind is not Kind.MATCH:
            assert actions(rules=rules, kind=kind) == []
    # If the list `a` has a conflict and the list `b` a match, only the action for `b` counts.
    two = (PolicyRule(("quarantine",), list="a"), PolicyRule(("report",), list="b"))
    assert actions(partial, hit("b", "x"), rules=two) == [REPORT]

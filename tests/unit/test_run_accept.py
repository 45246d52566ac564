"""Inputs accepted as unread until a day: by path and reason, and never an input that was read."""

from __future__ import annotations

from datetime import date

import msgspec
import pytest

from hashclient.config.tables import AcceptRule
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.run.accept import accepting, ignoring_missing
from hashclient.scan.values.work import NOT_THERE

TODAY = date(2026, 2, 28)
UNREAD = Outcome(
    Kind.UNREAD, "/a/b.zip", reason="encrypted: no password", members=("m!",), obstacle="encrypted"
)


def rule(path: str = "*", reason: str = "encrypted", until: date = TODAY) -> AcceptRule:
    return msgspec.convert({"path": path, "reason": reason, "until": until}, AcceptRule)


@pytest.mark.parametrize(
    ("rules", "is_accepted"),
    [
        ([], False),
        ([rule()], True),
        ([rule(until=date(2026, 3, 1))], True),
        ([rule(until=date(2026, 2, 27))], False),
        ([rule(reason="damaged")], False),
        ([rule(reason="damaged"), rule()], True),
        ([rule("/a/*")], True),
        ([rule("/b/*")], False),
        ([rule("/b/*"), rule("/a/*")], True),
        ([rule("/a/b.zip")], False),
        ([rule("/a/b.zip!/m!!")], True),
        ([rule("/a/b.zip!/m!")], False),
        ([rule("a/b.zip*")], False),
        ([rule("*!/m")], False),
    ],
)
def test_an_obstacle_is_accepted_by_a_rule_for_its_path_reason_and_day(
    rules: list[AcceptRule], is_accepted: bool
) -> None:
    found = accepting(rules, TODAY)(UNREAD)
    if not is_accepted:
        assert found is UNREAD
        return
    until = max(one.until for one in rules)
    reason = f"accepted until {until.isoformat()}: encrypted: no password"
    assert found == msgspec.structs.replace(UNREAD, kind=Kind.ACCEPTED, reason=reason)


def test_the_first_rule_that_fits_counts() -> None:
    rules = [rule(until=date(2026, 1, 1)), rule(until=date(2026, 5, 5)), rule()]
    assert str(accepting(rules, TODAY)(UNREAD).reason).startswith("accepted until 2026-05-05: ")


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.UNREAD])
def test_what_was_read_stays_what_it_is(kind: Kind) -> None:
    outcome = msgspec.structs.replace(UNREAD, kind=kind)
    assert accepting([rule()], TODAY)(outcome) is outcome
    missing = Outcome(kind, "/a", reason=NOT_THERE)
    assert ignoring_missing(missing) is missing


def test_a_file_that_cannot_be_read_is_no_obstacle_in_a_container() -> None:
    outcome = msgspec.structs.replace(UNREAD, obstacle=None)
    assert accepting([rule()], TODAY)(outcome) is outcome


@pytest.mark.parametrize(
    ("reason", "members", "is_skipped"),
    [
        (NOT_THERE, (), True),
        (NOT_THERE, ("m",), False),
        ("permission denied", (), False),
        (None, (), False),
    ],
)
def test_a_file_that_is_gone_is_skipped_if_that_is_asked_for(
    reason: str | None, members: tuple[str, ...], is_skipped: bool
) -> None:
    outcome = Outcome(Kind.UNREAD, "/a", reason=reason, members=members)
    found = ignoring_missing(outcome)
    if is_skipped:
        assert found == Outcome(Kind.SKIPPED, "/a", reason="not there any more")
    else:
        assert found is outcome

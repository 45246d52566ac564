"""The states of notices: they do not depend on the order of arrival, and an end is final."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta

import msgspec
import pytest

from fixtures.notices import SENT, make_notice
from hashclient.notices.document import Notice, Severity, Status, Type
from hashclient.notices.lifecycle import (
    KEEP,
    MAX_KEPT,
    Acknowledged,
    Kept,
    State,
    counts,
    is_alarming,
    merged,
    standings,
)

NOW = SENT + timedelta(days=1)
HOUR = timedelta(hours=1)

A = make_notice("a", severity=Severity.SEVERE)
B = make_notice("b", sent=SENT + HOUR, type=Type.UPDATE, refers_to=[A])
C = make_notice("c", sent=SENT + 2 * HOUR, type=Type.CANCEL, refers_to=[B])


def kept(notice: Notice) -> Kept:
    return Kept(notice, "digest", NOW)


def states(
    *rounds: list[Notice], signed: set[str] | None = None, now: datetime = NOW
) -> dict[str, State]:
    """Return the states of notices that arrived in rounds; each round is one fetch."""
    here: tuple[Kept, ...] = ()
    names: set[str] = set()
    for notices in rounds:
        names |= {notice.id for notice in notices}
        here = merged(here, [kept(notice) for notice in notices], names, now)
    if signed is not None:
        here = merged(here, [], signed, now)
    return {s.notice.id: s.state for s in standings("main", here, now)}


def test_an_alert_is_open_until_it_expires() -> None:
    assert states([A]) == {"a": State.OPEN}
    assert states([A], now=A.expires - timedelta(seconds=1)) == {"a": State.OPEN}
    assert states([A], now=A.expires) == {"a": State.EXPIRED}


def test_an_update_takes_the_place_of_what_it_refers_to() -> None:
    assert states([A, B]) == {"a": State.UPDATED, "b": State.OPEN}


@pytest.mark.parametrize("order", list(itertools.permutations([A, B, C])))
@pytest.mark.parametrize("at_once", [True, False])
def test_reordered_notices_end_the_same(order: tuple[Notice, ...], at_once: bool) -> None:
    rounds = [list(order)] if at_once else [[notice] for notice in order]
    assert states(*rounds) == {"a": State.UPDATED, "b": State.CANCELLED, "c": State.CANCEL}


def test_an_update_of_an_unknown_one_stands_by_itself() -> None:
    """The client may never have seen the first notice; if it arrives later, it is ended at once."""
    assert states([B]) == {"b": State.OPEN}
    assert states([B], [A]) == {"a": State.UPDATED, "b": State.OPEN}


def test_a_cancel_of_an_unknown_one_asks_for_nothing() -> None:
    assert states([C]) == {"c": State.CANCEL}


def test_a_cancelled_notice_stays_cancelled_when_it_is_replayed() -> None:
    """Even after the Cancel has expired and is forgotten, the cancelled notice never returns."""
    long = make_notice("a", expires=SENT + timedelta(days=5_000))
    end = make_notice("c", sent=SENT + HOUR, type=Type.CANCEL, refers_to=[long])
    here = merged((), [kept(long), kept(end)], {"a", "c"}, NOW)
    here = merged(here, [], {"a"}, NOW)
    later = end.expires + KEEP + HOUR
    here = merged(here, [kept(long)], {"a"}, later)
    (standing,) = standings("main", here, later)
    assert (standing.notice.id, standing.state, standing.by) == ("a", State.CANCELLED, "c")


def test_a_replayed_notice_does_not_take_the_place_of_what_is_here() -> None:
    acknowledged = msgspec.structs.replace(
        kept(A), acknowledged=Acknowledged(NOW, "somebody"), shown=NOW
    )
    other = kept(make_notice("a", headline="another"))
    (found,) = merged((acknowledged,), [other], {"a"}, NOW)
    assert found == acknowledged


def test_a_notice_ends_only_earlier_ones() -> None:
    early = make_notice("b", sent=SENT - HOUR, type=Type.CANCEL, refers_to=["a"])
    assert states([A, early]) == {"a": State.OPEN, "b": State.CANCEL}
    # If two notices end each other, only the later notice counts.
    one = make_notice("x", sent=SENT, type=Type.UPDATE, refers_to=["y"])
    two = make_notice("y", sent=SENT + HOUR, type=Type.UPDATE, refers_to=[one])
    assert states([one, two]) == {"x": State.UPDATED, "y": State.OPEN}


def test_a_test_ends_tests_only() -> None:
    test = make_notice("t", sent=SENT + HOUR, type=Type.CANCEL, refers_to=[A], status=Status.TEST)
    assert states([A, test])["a"] is State.OPEN
    exercise = make_notice("e", status=Status.TEST)
    ends = make_notice(
        "t", sent=SENT + HOUR, type=Type.CANCEL, refers_to=[exercise], status=Status.TEST
    )
    assert states([exercise, ends])["e"] is State.CANCELLED


def test_a_notice_that_is_not_signed_any_more_is_not_in_force() -> None:
    assert states([A], signed=set()) == {"a": State.WITHDRAWN}
    assert states([A, B], signed={"a"}) == {"a": State.UPDATED, "b": State.WITHDRAWN}


def test_a_notice_that_expired_long_ago_and_is_not_signed_is_dropped() -> None:
    here = merged((), [kept(A)], {"a"}, NOW)
    late = A.expires + KEEP + HOUR
    assert [one.notice.id for one in merged(here, [], {"a"}, late)] == ["a"]
    assert merged(here, [], set(), late) == ()
    assert len(merged(here, [], set(), A.expires + KEEP - HOUR)) == 1


def test_no_more_are_kept_than_there_is_room_for_and_the_signed_ones_first() -> None:
    old = tuple(
        kept(make_notice(f"o-{n}", expires=SENT + timedelta(days=1_000 + n)))
        for n in range(MAX_KEPT)
    )
    found = merged(old, [kept(A)], {"a", "o-0"}, NOW)
    names = {one.notice.id for one in found}
    assert len(names) == MAX_KEPT
    assert {"a", "o-0", "o-2"} <= names and "o-1" not in names


@pytest.mark.parametrize(
    ("severity", "least", "alarms"),
    [
        (Severity.EXTREME, Severity.SEVERE, True),
        (Severity.SEVERE, Severity.SEVERE, True),
        (Severity.MODERATE, Severity.SEVERE, False),
        (Severity.UNKNOWN, Severity.EXTREME, True),
        (Severity.EXTREME, None, False),
    ],
)
def test_which_notices_alarm(severity: Severity, least: Severity | None, alarms: bool) -> None:
    (standing,) = standings("main", [kept(make_notice(severity=severity))], NOW)
    assert is_alarming(standing, least) is alarms
    assert counts([standing])[severity] == 1


@pytest.mark.parametrize("status", [Status.TEST, Status.EXERCISE])
def test_tests_and_exercises_raise_no_alarm(status: Status) -> None:
    notice = make_notice(severity=Severity.EXTREME, status=status)
    (standing,) = standings("main", [kept(notice)], NOW)
    assert standing.state is State.OPEN
    assert not is_alarming(standing, Severity.MINOR)
    assert not any(counts([standing]).values())

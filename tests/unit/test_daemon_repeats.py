"""The same match from the same client is recorded once an hour; repeats are only counted."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from hashclient.core.kinds import Algorithm, Kind, MatchState
from hashclient.core.model import Hit, Mail, MatchRef, Outcome, Outer, Recorded
from hashclient.daemon import ledger
from hashclient.daemon.ledger import REPEAT_S, SEARCH_S, Repeats

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def outcome(entry: str = "e-1", door: str = "serve:s,uid=1", kind: Kind = Kind.MATCH) -> Outcome:
    hit = Hit("base", entry, "c", 1, (Algorithm.SHA256,), kind is Kind.MATCH)
    return Outcome(kind, door, 3, hits=(hit,), is_stream=True)


def send(known: Repeats, one: Outcome) -> bool:
    """Send a match, and return whether the program has to record it."""
    first = known.first([one])
    known.learn([Recorded(o, MatchRef("id", MatchState.FOUND, NOW, NOW)) for o in first])
    return bool(first)


def written(known: Repeats, *, everything: bool = False) -> list[int]:
    return [count for _, count, _ in known.due(everything=everything)]


def test_the_first_is_recorded_and_counts_are_written_ever_more_rarely() -> None:
    known, counts = Repeats(lambda: 0.0), []
    assert send(known, outcome())
    for _ in range(9_999):
        assert not send(known, outcome())
        counts += written(known)
    assert counts == [9, 90, 900, 9_000]
    assert not send(known, outcome())
    assert written(known) == []
    assert written(known, everything=True) == [1]


def test_of_mails_the_last_ids_are_written_with_the_count() -> None:
    def mailed(number: int) -> Outcome:
        outer = Outer(9, {}, 1, Mail(f"{number}@example.org"))
        return msgspec.structs.replace(outcome(), outer=outer)

    known = Repeats(lambda: 0.0)
    assert send(known, mailed(0))
    for number in range(1, 31):
        assert not send(known, mailed(number))
    assert not send(known, outcome())  # a match in a mail without an id
    ((_, count, ids),) = known.due()  # ten message ids make the count due
    assert (count, ids) == (31, [f"{n}@example.org" for n in range(21, 31)])
    assert not send(known, mailed(99))
    assert [(count, ids) for _, count, ids in known.due(everything=True)] == [
        (1, ["99@example.org"])
    ]


def test_beside_a_match_that_comes_again_a_new_one_is_recorded() -> None:
    known = Repeats(lambda: 0.0)
    assert send(known, outcome("e-1"))
    assert known.first([outcome("e-1"), outcome("e-2")]) == [outcome("e-2")]


def test_another_client_entry_or_verdict_is_another_match() -> None:
    known = Repeats(lambda: 0.0)
    assert send(known, outcome())
    assert send(known, outcome(entry="e-2"))
    assert send(known, outcome(door="serve:s,uid=2"))
    assert send(known, outcome(kind=Kind.CONFLICT))
    file = msgspec.structs.replace(outcome(), path="/a", is_stream=False, door="serve:s,uid=3")
    assert send(known, file)
    assert not send(known, msgspec.structs.replace(file, path="/b"))


def test_after_an_hour_it_is_recorded_again_and_the_rest_of_the_count_written() -> None:
    now = 0.0
    known = Repeats(lambda: now)
    assert send(known, outcome())
    assert not send(known, outcome())
    now = REPEAT_S - 1
    assert not send(known, outcome())
    assert written(known) == []
    now = REPEAT_S
    assert send(known, outcome())
    assert written(known) == [2]
    assert not send(known, outcome())
    now = 2 * REPEAT_S + SEARCH_S
    assert written(known) == [1]


def test_what_could_not_be_recorded_is_recorded_when_it_comes_again() -> None:
    known = Repeats(lambda: 0.0)
    assert send(known, outcome())
    known.forget()
    assert send(known, outcome())


def test_of_very_many_matches_the_oldest_is_forgotten_with_its_count_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "MOST", 2)
    known = Repeats(lambda: 0.0)
    assert send(known, outcome("e-1"))
    assert not send(known, outcome("e-1"))
    assert send(known, outcome("e-2"))
    assert send(known, outcome("e-3"))
    assert written(known) == [1]
    assert send(known, outcome("e-1"))


def test_the_limits_are_those_of_the_documents() -> None:
    assert (REPEAT_S, SEARCH_S, ledger.REPORTS_S) == (3_600.0, 60.0, 60.0)
    assert (ledger.MOST, ledger.MOST_MAILS, ledger.COMMAND) == (10_000, 10, "serve")


@pytest.mark.parametrize(
    ("number", "is_power"),
    [
        *((1, True), (10, True), (100, True), (10**9, True), (2, False), (9, False), (11, False)),
        *((20, False), (101, False), (110, False), (50, False)),
    ],
)
def test_counts_are_written_at_powers_of_ten(number: int, is_power: bool) -> None:
    assert ledger._is_power_of_ten(number) is is_power


def test_a_match_is_known_by_its_entries_in_any_order() -> None:
    known = Repeats(lambda: 0.0)
    hits = (*outcome("e-1").hits, *outcome("e-2").hits)
    assert send(known, msgspec.structs.replace(outcome(), hits=hits))
    assert not send(known, msgspec.structs.replace(outcome(), hits=hits[::-1]))
    assert send(known, outcome("e-1")) and send(known, outcome("e-2"))
    part = msgspec.structs.replace(hits[0], complete=False)
    assert send(known, msgspec.structs.replace(outcome(), hits=(part, hits[1])))
    other = msgspec.structs.replace(hits[0], list_name="more")
    assert send(known, msgspec.structs.replace(outcome(), hits=(other, hits[1])))
    newer = msgspec.structs.replace(hits[0], generation=2, category="other")
    assert not send(known, msgspec.structs.replace(outcome(), hits=(newer, hits[1])))


def test_counts_of_ended_hours_are_searched_once_a_minute() -> None:
    now = 0.0
    known = Repeats(lambda: now)
    assert send(known, outcome())
    now = REPEAT_S - SEARCH_S + 1
    assert not send(known, outcome())
    assert written(known) == []  # nothing is written, because this was a lookup
    now = REPEAT_S
    assert written(known) == []
    now = REPEAT_S + 1
    assert written(known) == [1]
    assert written(known, everything=True) == []
    assert send(known, outcome())


def test_a_match_that_is_not_recorded_has_no_count_to_write() -> None:
    known = Repeats(lambda: 0.0)
    assert known.first([outcome()]) and not known.first([outcome()])
    assert written(known, everything=True) == []
    known = Repeats(lambda: 0.0)
    assert known.first([outcome("e-1"), outcome("e-2"), outcome("e-1")]) == [
        outcome("e-1"),
        outcome("e-2"),
    ]
    known.learn([Recorded(outcome("e-3")), Recorded(outcome("e-1"))])
    assert [(r.outcome, n) for r, n, _ in known.due(everything=True)] == [(outcome("e-1"), 1)]


def test_counts_are_written_in_the_order_in_which_matches_came() -> None:
    known = Repeats(lambda: 0.0)
    for entry in ("e-2", "e-1", "e-3"):
        for _ in range(2):
            send(known, outcome(entry))
    found = [r.outcome.hits[0].entry for r, *_ in known.due(everything=True)]
    assert found == ["e-2", "e-1", "e-3"]

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
    """Send a match; return whether the program has to record it."""
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
    assert not send(known, outcome())  # this mail names no id
    ((_, count, ids),) = known.due()  # the tenth repeat made the count due
    assert (count, ids) == (31, [f"{n}@example.org" for n in range(21, 31)])
    assert not send(known, mailed(99))
    assert [(count, ids) for _, count, ids in known.due(everything=True)] == [
        (1, ["99@example.org"])
    ]


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

"""Counts the recorded matches of a period: by list, by category and by entry.

A match belongs to the period in which it was first found, and is counted once for each list,
category and entry that it hits. The precision is the fraction of the reviewed matches that were
confirmed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from hashclient.core.figures import Precision, Spread, spread, wilson
from hashclient.core.kinds import MatchState, Verdict
from hashclient.core.match import RELEASED, REVIEW_EVENTS, Step, verdict_of
from hashclient.matches.store import Matches, parse_step
from hashclient.matches.tables import to_text

_FOUND = """
SELECT m.id, m.first_seen, m.state FROM match m WHERE m.first_seen >= ? AND m.first_seen < ?
"""
_HITS = """
SELECT h.match, h.list, h.category, h.entry FROM match m JOIN hit h ON h.match = m.id
WHERE m.first_seen >= ? AND m.first_seen < ?
"""
_STEPS = """
SELECT s.match, s.time, s.event, s.detail FROM match m JOIN step s ON s.match = m.id
WHERE m.first_seen >= ? AND m.first_seen < ? ORDER BY s.id
"""
_HOLDS = frozenset({MatchState.HELD, RELEASED})
_REVIEWS = frozenset(Verdict)
#: The events that end each measured duration; each duration begins when the match is found.
_LEADS_TO = {
    "isolation": frozenset({MatchState.QUARANTINED}),
    "review": _REVIEWS,
    "report": frozenset({MatchState.REPORTED, MatchState.ACKNOWLEDGED}),
}
#: The names of the counts in one line of the statistics.
COUNTS = ("found", "held", "excepted", "confirmed", "rejected", "isolated", "reported")
_BEGINNING, _END = "0001", "9999"


class About(NamedTuple):
    """A group of matches that is counted: all, or the matches of a list, category or entry."""

    list: str | None = None
    category: str | None = None
    entry: str | None = None


class Line(msgspec.Struct, frozen=True):
    """The counts of one group of matches.

    `held` counts the matches that were ever held; `excepted` counts the matches that are excepted
    now.
    """

    about: About
    found: int
    held: int
    excepted: int
    confirmed: int
    rejected: int
    isolated: int
    reported: int
    precision: Precision | None
    times: dict[str, Spread]


class _Tally:
    """The counts of one group of matches while the matches are being read."""

    def __init__(self) -> None:
        self.found = self.held = self.excepted = 0
        self.said = dict.fromkeys(Verdict, 0)
        self.times: dict[str, list[float]] = {name: [] for name in _LEADS_TO}

    def add(self, one: _One) -> None:
        self.found += 1
        self.held += one.held
        self.excepted += one.excepted
        if one.verdict is not None:
            self.said[one.verdict] += 1
        for name, seconds in one.times.items():
            self.times[name].append(seconds)

    def line(self, about: About) -> Line:
        return Line(
            about,
            self.found,
            self.held,
            self.excepted,
            self.said[Verdict.CONFIRMED],
            self.said[Verdict.REJECTED],
            len(self.times["isolation"]),
            len(self.times["report"]),
            wilson(self.said[Verdict.CONFIRMED], sum(self.said.values())),
            {name: spread(seconds) for name, seconds in self.times.items()},
        )


class _One(NamedTuple):
    """A match; `times`: the seconds from its discovery to its isolation, review and report."""

    held: bool
    excepted: bool
    verdict: Verdict | None
    times: dict[str, float]


class Statistics(Matches):
    """The record of matches, with methods to count; used as a context manager."""

    def lines(
        self, people: int, start: datetime | None = None, end: datetime | None = None
    ) -> list[Line]:
        """Return the counts of matches that were first found at or after `start` and before `end`.

        The first line counts all matches; the lines of lists, then the lines of categories, then
        the lines of entries follow. `people` is how many persons must give the same verdict about a
        match.

        Raises:
            StateError: the database cannot be read.
        """
        values = (
            _BEGINNING if start is None else to_text(start),
            _END if end is None else to_text(end),
        )
        with self._errors():
            ones = self._ones(people, values)
            tallies = {About(): _Tally()}
            for one in ones.values():
                tallies[About()].add(one)
            about: dict[str, set[About]] = {}
            for match_id, name, category, entry in self._db.execute(_HITS, values):
                about.setdefault(match_id, set()).update(
                    (About(name), About(name, category), About(name, category, entry))
                )
        for match_id, groups in about.items():
            for group in groups:
                tallies.setdefault(group, _Tally()).add(ones[match_id])
        order = sorted(tallies, key=lambda a: (3 - a.count(None), -tallies[a].found, str(a)))
        return [tallies[about].line(about) for about in order]

    def _ones(self, people: int, values: Sequence[str]) -> dict[str, _One]:
        stories: dict[str, list[Step]] = {}
        wanted = {*_HOLDS, *REVIEW_EVENTS, *(e for events in _LEADS_TO.values() for e in events)}
        for match_id, *step in self._db.execute(_STEPS, values):
            if step[1] in wanted:
                stories.setdefault(match_id, []).append(parse_step(*step))
        found: dict[str, _One] = {}
        for match_id, first_seen, state in self._db.execute(_FOUND, values):
            story, first = stories.get(match_id, []), datetime.fromisoformat(first_seen)
            held = state == MatchState.HELD or any(step.event in _HOLDS for step in story)
            excepted = state == MatchState.EXCEPTED
            verdict = verdict_of(story, people)
            found[match_id] = _One(held, excepted, verdict, dict(_times(story, first)))
        return found


def _times(story: Sequence[Step], first: datetime) -> Iterator[tuple[str, float]]:
    for name, events in _LEADS_TO.items():
        for step in story:
            if step.event in events:
                yield name, (step.time - first).total_seconds()
                break


def fields(line: Line) -> dict[str, Any]:
    """Return a line of the statistics as flat fields, in the order of the CSV columns."""
    flat: dict[str, Any] = {**line.about._asdict()}
    for name in COUNTS:
        flat[name] = getattr(line, name)
    for name in ("share", "low", "high"):
        flat[f"precision_{name}"] = line.precision and round(getattr(line.precision, name), 4)
    for name, time in line.times.items():
        flat |= {f"{name}_median_s": time.median_s, f"{name}_p95_s": time.p95_s}
    return flat

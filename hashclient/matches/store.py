"""The record of matches: an SQLite file in the state directory with each match and its history.

The history of a match begins when the match is found and goes on until the match is settled. A
match is about one file: it has a path, the sealed tags of the file (never a digest) and the entries
that the file hits. When a scan finds the file again, the match is updated; if another file is at
the path after the first file was isolated, the other file is recorded as another match. Scans
record matches, `fetch` records which entries were withdrawn, and quarantine and reports record the
steps that they do. Several processes may use the database at once; if a process is killed, each of
its transactions is completely written or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from hashclient.core.errors import UsageError
from hashclient.core.kinds import SETTLED, Algorithm, MatchState
from hashclient.core.match import (
    LISTED_AGAIN,
    PROGRESS,
    RECORDED_AGAIN,
    RELEASED,
    REPORT_PREPARED,
    REPORT_WANTED,
    REVIEW_EVENTS,
    SEEN_AGAIN,
    Match,
    Step,
    progress_of,
    taken_back,
)
from hashclient.core.model import Hit, hit_fields
from hashclient.matches.recording import ADD_MATCH, Recording
from hashclient.matches.tables import MATCH, inodes_of, to_text, unknown_match

_AFFECTED = "SELECT m.id, h.list, h.entry FROM hit h JOIN match m ON m.id = h.match WHERE "
_OF_ENTRIES = (
    "h.list = ? AND h.withdrawn_generation IS NULL"
    " AND h.entry IN (SELECT value FROM json_each(?)) ORDER BY m.path, h.entry"
)
_WITHDRAWN = (
    f"h.withdrawn_generation IS NOT NULL AND m.state = '{MatchState.WITHDRAWN}'"
    " ORDER BY m.path, h.list, h.entry"
)
_WITHDRAW_HITS = """
UPDATE hit SET withdrawn_generation = ?, withdrawn_at = ?
WHERE list = ? AND withdrawn_generation IS NULL AND entry IN (SELECT value FROM json_each(?))
RETURNING match
"""
_STANDS = "SELECT 1 FROM hit WHERE match = ? AND withdrawn_generation IS NULL LIMIT 1"

_SEEN_LAST = "UPDATE match SET last_seen = max(last_seen, ?) WHERE id = ?"
_ADD_TIMES = "UPDATE stream SET times_seen = times_seen + ? WHERE match = ?"
_STORY = "SELECT time, event, detail FROM step WHERE match = ? ORDER BY id"
_REVIEWS = (
    "SELECT match, time, event, detail FROM step WHERE event IN (SELECT value FROM json_each(?))"
)
_EVENTS = json.dumps(REVIEW_EVENTS)
_FIRST_SEEN = "SELECT first_seen, state FROM match WHERE id = ?"
#: The events with which the history of a match may begin; the table `step` may lack this first
#: step.
_BEGINNINGS = (MatchState.FOUND, RECORDED_AGAIN)
#: Finds each request for a report after which no report to the same destination was prepared; a
#: report that was prepared before the request is ignored.
_REPORT_WANTED = """
SELECT s.match, s.detail FROM step s JOIN match m ON m.id = s.match
WHERE s.event = ? AND m.state IN (SELECT value FROM json_each(?)) AND NOT EXISTS (
    SELECT 1 FROM step o WHERE o.match = s.match AND o.event = ? AND o.id > s.id
    AND json_extract(o.detail, '$.to') = json_extract(s.detail, '$.to')
) GROUP BY s.match, s.detail ORDER BY min(s.id)
"""


class Matches(Recording):
    """The record of matches of one state directory; use it as a context manager."""

    def adopt(self, match: Match, now: datetime, detail: Mapping[str, Any]) -> bool:
        """Record a match again whose record was lost; return False if the id is already recorded.

        Raises:
            StateError: the database cannot be written.
        """
        with self._transaction():
            if self._db.execute("SELECT 1 FROM match WHERE id = ?", (match.id,)).fetchone():
                return False
            values = (match.id, os.fsencode(match.path), match.size, match.state, match.in_place)
            times = (to_text(match.first_seen), to_text(match.last_seen))
            tags = [match.tags.get(a) for a in Algorithm]
            inodes = inodes_of(match.seen)
            self._db.execute(ADD_MATCH, (*values, match.key_id, *tags, *times, None, *inodes))
            self._add_hits(match.id, match.standing)
            self._step(match.id, RECORDED_AGAIN, now, detail)
            return True

    def get(self, match_id: str) -> Match:
        """Return the match with the id `match_id`.

        Raises:
            UsageError: no match has the id `match_id`.
            StateError: the database cannot be read.
        """
        with self._errors():
            return self._get(match_id)

    def look_up(self, match_id: str) -> Match | None:
        """Return the match with the id `match_id`.

        Return None if no match has the id, for example because the record was lost.

        Raises:
            StateError: the database cannot be read.
        """
        try:
            return self.get(match_id)
        except UsageError:
            return None

    def look_up_all(self, match_ids: Sequence[str]) -> dict[str, Match]:
        """Return the recorded matches with the ids `match_ids`, by id, without their hits.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors():
            rows = self._many(MATCH + " WHERE id IN (%s)", match_ids)
            return {row[0]: self._match(row, ()) for row in rows}

    def story(self, match_id: str) -> list[Step]:
        """Return the steps in the history of a match, oldest first.

        Raises:
            UsageError: no match has the id `match_id`.
            StateError: the database cannot be read.
        """
        with self._errors():
            if self._db.execute(_FIRST_SEEN, (match_id,)).fetchone() is None:
                raise unknown_match(match_id)
            return self._story(match_id)

    def _story(self, match_id: str) -> list[Step]:
        story = [parse_step(*row) for row in self._db.execute(_STORY, (match_id,))]
        # For most matches, a scan writes no step, because the row of the match contains everything
        # that the first step would contain.
        text, state = self._db.execute(_FIRST_SEEN, (match_id,)).fetchone()
        first = datetime.fromisoformat(text)
        if not story or story[0].event not in _BEGINNINGS or story[0].detail.get("again"):
            story.insert(0, Step(first, MatchState.FOUND, {}))
        events = {step.event for step in story}
        if MatchState.HELD not in events and (state == MatchState.HELD or RELEASED in events):
            story.insert(1, Step(first, MatchState.HELD, {}))
        return story

    def reviews(self, match_id: str) -> list[Step]:
        """Return the steps in a match's history that are reviews.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors():
            rows = self._db.execute(_REVIEWS + " AND match = ? ORDER BY id", (_EVENTS, match_id))
            return [parse_step(*row[1:]) for row in rows]

    def all_reviews(self) -> dict[str, list[Step]]:
        """Return, by match id, the steps that are reviews, for all matches that were reviewed.

        Raises:
            StateError: the database cannot be read.
        """
        found: dict[str, list[Step]] = {}
        with self._errors():
            for match_id, *step in self._db.execute(_REVIEWS + " ORDER BY id", (_EVENTS,)):
                found.setdefault(match_id, []).append(parse_step(*step))
        return found

    def change(
        self,
        match_id: str,
        state: MatchState,
        now: datetime,
        detail: Mapping[str, Any],
        *,
        in_place: bool | None = None,
    ) -> Match:
        """Add a step to the history of a match; return the match in the resulting state.

        Usual steps only lead to later states: a reported match stays reported when the file is
        quarantined afterwards. `in_place`: whether the file is now where it was found; None leaves
        the recorded value unchanged.

        Raises:
            UsageError: no match has the id `match_id`.
            StateError: the database cannot be written.
        """
        with self._transaction():
            match = self._get(match_id)
            in_place = match.in_place if in_place is None else in_place
            (reached,) = self.change_all([(match, detail, in_place)], state, now)
            return msgspec.structs.replace(match, state=reached, in_place=in_place)

    def change_all(
        self,
        changes: Sequence[tuple[Match, Mapping[str, Any], bool]],
        state: MatchState,
        now: datetime,
    ) -> list[MatchState]:
        """Add a step to the history of each match, as `change` does; return the resulting states.

        Each change has a recorded match, the detail of its step, and whether its file is in place.
        The caller has read the matches in the same transaction (see `batch`).

        Raises:
            StateError: the database cannot be written.
        """
        reached = [_after(match.state, state) for match, *_ in changes]
        with self._transaction():
            self._steps([(match.id, detail) for match, detail, _ in changes], state, now)
            self._db.executemany(
                "UPDATE match SET state = ?, in_place = ? WHERE id = ?",
                [(new, c[2], c[0].id) for new, c in zip(reached, changes, strict=True)],
            )
        return reached

    def note(self, match_id: str, event: str, now: datetime, detail: Mapping[str, Any]) -> None:
        """Add a step that does not change the state of the match.

        Raises:
            UsageError: no match has the id `match_id`.
            StateError: the database cannot be written.
        """
        with self._transaction():
            self._get(match_id)
            self._step(match_id, event, now, detail)

    def take_back(
        self, match_id: str, event: str, now: datetime, detail: Mapping[str, Any]
    ) -> Match:
        """Note that the report that `detail` names is retracted, or is about to be retracted.

        The state of the match becomes the state without the retracted report: the match is open,
        unless another report still counts. `event` is `REPORT_RETRACTING` or `REPORT_RETRACTED`;
        for one report, each of the two events is noted only once.

        Raises:
            UsageError: no match has the id `match_id`.
            StateError: the database cannot be written.
        """
        with self._transaction():
            match = self._get(match_id)
            story = self._story(match_id)
            if not any(
                s.event == event and s.detail.get("report") == detail["report"] for s in story
            ):
                self._step(match_id, event, now, detail)
            if match.state in PROGRESS:
                self._set_state(match_id, self._progress(match))
            return self._get(match_id)

    def seen_again(
        self, counts: Sequence[tuple[str, int, str | None, Sequence[str]]], now: datetime
    ) -> None:
        """Note how often the contents of known matches were seen again.

        Each element of `counts` has the id of a match, the number of times, the door (the client
        that asked a daemon) if the match is a file, and the ids of the last mails that had the
        content.

        Matches that were removed from the record in the meantime are skipped.

        Raises:
            StateError: the database cannot be written.
        """
        with self._transaction():
            for match_id, times, door, message_ids in counts:
                if not self._db.execute(_SEEN_LAST, (to_text(now), match_id)).rowcount:
                    continue
                if door is None:
                    self._db.execute(_ADD_TIMES, (times, match_id))
                detail = {"door": door, "message_ids": list(message_ids)}
                if said := {key: value for key, value in detail.items() if value}:
                    self._step(match_id, SEEN_AGAIN, now, {"times": times, **said})

    def want_report(self, match_id: str, destination: str, now: datetime) -> bool:
        """Record that a report of a match is requested.

        Return False if a report was already prepared.

        After a report was retracted, a new report can be requested.

        Raises:
            UsageError: no match has the id `match_id`.
            StateError: the database cannot be written.
        """
        with self._transaction():
            self._get(match_id)
            story = self._story(match_id)
            gone = taken_back(story)
            if any(
                s.event == REPORT_PREPARED and s.detail.get("report") not in gone for s in story
            ):
                return False
            events = [s.event for s in story if s.event in (REPORT_WANTED, REPORT_PREPARED)]
            if events[-1:] != [REPORT_WANTED]:
                self._step(match_id, REPORT_WANTED, now, {"to": destination})
            return True

    def wanting_report(self) -> dict[str, list[Match]]:
        """Return, by destination, the matches whose requested report is not prepared yet.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors():
            values = (REPORT_WANTED, json.dumps(PROGRESS), REPORT_PREPARED)
            found: dict[str, list[Match]] = {}
            for match_id, detail in self._db.execute(_REPORT_WANTED, values).fetchall():
                destination = str(_parse_detail(detail).get("to"))
                found.setdefault(destination, []).append(self._get(match_id))
            return found

    def standing(self, list_name: str) -> list[str]:
        """Return the entries of a list that match a recorded file and are not withdrawn.

        Raises:
            StateError: the database cannot be read.
        """
        query = "SELECT DISTINCT entry FROM hit WHERE list = ? AND withdrawn_generation IS NULL"
        with self._errors():
            return [entry for (entry,) in self._db.execute(query, (list_name,))]

    def of_entries(self, list_name: str, entries: Sequence[str]) -> list[tuple[Match, Hit]]:
        """Return the matches that hit one of `entries`, each with this hit.

        The matches are sorted by path.

        Hits of withdrawn entries are left out.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors():
            return self._affected(_OF_ENTRIES, (list_name, json.dumps(entries)))

    def withdraw(
        self, list_name: str, entries: Sequence[str], generation: int, now: datetime
    ) -> None:
        """Note that a list has withdrawn `entries` in its generation `generation`.

        A match whose entries are all withdrawn gets the state `WITHDRAWN`, unless the match is
        settled.

        Raises:
            StateError: the database cannot be written.
        """
        ids = json.dumps(entries)
        with self._transaction():
            values = (generation, to_text(now), list_name, ids)
            hit = {match_id for (match_id,) in self._db.execute(_WITHDRAW_HITS, values)}
            for match_id in sorted(hit):
                if self._db.execute(_STANDS, (match_id,)).fetchone() is not None:
                    continue
                detail = {"list": list_name, "generation": generation}
                self._step(match_id, MatchState.WITHDRAWN, now, detail)
                if self._get(match_id).state not in SETTLED:
                    self._set_state(match_id, MatchState.WITHDRAWN)

    def list_again(self, match_id: str, hits: Sequence[Hit], now: datetime) -> Match:
        """Note that `hits` of a withdrawn match are on the list again.

        The match gets its earlier state.

        Raises:
            UsageError: no match has the id `match_id`.
            StateError: the database cannot be written.
        """
        with self._transaction():
            match = self._get(match_id)
            # The file of the match may have been restored from quarantine in the meantime.
            if match.state is not MatchState.WITHDRAWN:
                return match
            self._add_hits(match_id, hits)
            entries = [hit_fields(hit, ("list", "entry")) for hit in hits]
            self._step(match_id, LISTED_AGAIN, now, {"entries": entries})
            self._set_state(match_id, self._progress(match))
            return self._get(match_id)

    def _progress(self, match: Match) -> MatchState:
        """Return the state that results from the steps since the match was last found."""
        return progress_of(self._story(match.id), in_place=match.in_place)

    def withdrawn(self) -> list[tuple[Match, Hit]]:
        """Return the matches that are withdrawn and not settled.

        Each match is listed once for each withdrawn hit, sorted by path.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors():
            return self._affected(_WITHDRAWN, ())

    def _affected(self, where: str, values: tuple[Any, ...]) -> list[tuple[Match, Hit]]:
        known: dict[str, tuple[Match, Mapping[tuple[str, str], Hit]]] = {}
        found = []
        for match_id, list_name, entry in self._db.execute(_AFFECTED + where, values).fetchall():
            if match_id not in known:
                for match in self._matches(MATCH + " WHERE id = ?", (match_id,)):
                    known[match_id] = match, match.by_entry
            try:
                match, hits = known[match_id]
                found.append((match, hits[list_name, entry]))
            except KeyError as error:
                raise ValueError("its tables do not agree") from error
        return found

    def counts(self) -> dict[MatchState, int]:
        """Return how many matches are in each state.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors():
            rows = self._db.execute("SELECT state, count(*) FROM match GROUP BY state").fetchall()
            found = {MatchState(state): count for state, count in rows}
        return {state: found.get(state, 0) for state in MatchState}


def _after(present: MatchState, state: MatchState) -> MatchState:
    """Return the state of a match in the state `present` after a step to `state`."""
    if state not in PROGRESS or present is MatchState.GONE:
        return state
    return max(state, present, key=PROGRESS.index) if present in PROGRESS else present


def parse_step(time: str, event: str, detail: str) -> Step:
    """Return the step that a row of the table `step` describes.

    Raises:
        ValueError: the row is damaged.
    """
    return Step(datetime.fromisoformat(time), event, _parse_detail(detail))


def _parse_detail(text: str) -> dict[str, Any]:
    """Return the detail of a step, which is stored as JSON.

    Raises:
        ValueError: the text is not a JSON object.
    """
    detail = json.loads(text)
    if not isinstance(detail, dict):
        raise ValueError("a step of a story is no JSON object")
    return detail

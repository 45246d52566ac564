"""Writes the matches of a scan to the record of matches, many matches in one transaction.

A batch of matches is looked up, compared and written by a few SQL statements in all, because a scan
can find a hundred thousand matches. The rows of matches that are already recorded are updated. A
batch may include a file twice, by two paths that lead to the file; at the second path, the file is
already recorded.
"""

from __future__ import annotations

import itertools
import json
import operator
import os
from collections.abc import Mapping, Sequence
from datetime import datetime

from hashclient.core.kinds import Kind, MatchState, Verdict
from hashclient.core.match import (
    CONTENT_CHANGED,
    IN_MEMBER,
    RELEASED,
    Match,
    Place,
    new_ids,
)
from hashclient.core.model import Hit, MatchRef, Outcome, hit_fields
from hashclient.matches.permits import Case, Hold, Permits
from hashclient.matches.rows import (
    EXCEPTED,
    HELD,
    Found,
    Row,
    again,
    detail_of,
    event_of,
    excepted_as,
    found_at,
    has_tags_of,
    hit_rows,
    needs_step,
    new_row,
    paths_of,
    place_of,
    renewed_row,
    ruled_as,
    without_repeats,
)
from hashclient.matches.tables import ADD_STEP, COUNT_STREAM, to_text
from hashclient.system.text import path_fields

#: `MAX_MEMBERS_NOTED`: how many matching members of one file the history of a match names;
#: `MAX_NAME_CHARS`: how many characters of a member's name are recorded.
MAX_MEMBERS_NOTED = 100
MAX_NAME_CHARS = 1_000

#: The column `path` contains bytes. A Unicode path is passed as text and cast to bytes in SQL,
#: because Python's module `sqlite3` passes text faster than bytes.
_MATCH = "(?, CAST(? AS BLOB)" + ", ?" * 12 + ")"
#: With `OR FAIL`, SQLite does not prepare a rollback for each single statement. The rollback of a
#: single statement is not needed, because a batch that fails is rolled back as a whole.
ADD_MATCH = f"INSERT OR FAIL INTO match VALUES {_MATCH}"  # noqa: S608 - only constants are inserted
_by_entry = operator.itemgetter(1, 2, 0)
#: The number of paths, next to each other in sorted order, that one range query looks up.
_SIDE_BY_SIDE = 64
_ANY_BETWEEN = "SELECT 1 FROM match WHERE path BETWEEN ? AND ? LIMIT 1"
_IS_REVIEWED = "SELECT 1 FROM step WHERE match = ? AND event IN (?, ?) LIMIT 1"
_STANDING = "SELECT list, entry FROM hit WHERE match = ? AND withdrawn_generation IS NULL"
_RENEW = (
    "UPDATE match SET path = ?, size = ?, state = ?, key_id = ?, md5 = ?, sha1 = ?, sha256 = ?,"
    " last_seen = ?, standing = ?, directory_inode = ?, inode = ? WHERE id = ?"
)
_HIT = "(?, ?, ?, ?, ?, ?)"
_ADD_HIT = f"""
INSERT OR FAIL INTO hit (match, list, entry, category, algorithms, generation) VALUES {_HIT}
ON CONFLICT (list, entry, match) DO UPDATE SET
    category = excluded.category, algorithms = excluded.algorithms,
    generation = excluded.generation, withdrawn_generation = NULL, withdrawn_at = NULL
"""  # noqa: S608 - only constants are inserted
#: The number of rows that one statement adds: each row has 14 values, and older builds of SQLite
#: accept 999 values in a statement.
_TOGETHER = 64


_Rows = Sequence[Row]


class Recording(Permits):
    """The record of matches, with methods to write the matches of a scan."""

    def record(
        self,
        outcomes: Sequence[Outcome],
        key_id: str,
        now: datetime,
        places: Sequence[Place] | None = None,
        hold: Hold | None = None,
        since: datetime | None = None,
    ) -> list[MatchRef]:
        """Record all of `outcomes` in one transaction.

        Return a reference to each match, in the same order.

        The tags of `outcomes` are sealed under the key `key_id`. `places` has the place of each
        outcome; by default, the place follows from the outcome's path. `hold` decides which of the
        matches are held; by default, no match is held. `since` is the time at which the run began.

        Raises:
            StateError: the database cannot be written.
        """
        if places is None:
            places = [place_of(outcome) for outcome in outcomes]
        found = found_at(outcomes, places)
        with self._transaction():
            recorded = [
                ref
                for part in without_repeats(found)
                for ref in self._record(part, key_id, now, hold, since)
            ]
        if len(recorded) == len(outcomes):  # the usual case: all paths differ
            return recorded
        return [ref for one, ref in zip(found, recorded, strict=True) for _ in range(one.count)]

    def _record(
        self,
        found: Sequence[Found],
        key_id: str,
        now: datetime,
        hold: Hold | None,
        since: datetime | None,
    ) -> list[MatchRef]:
        """Write outcomes that all have different paths."""
        known = self._known_at(paths_of(found))
        before = [self._known(one, known, key_id) if known else None for one in found]
        numbers = self._numbers_of([one.place.standing for one in found])
        time = to_text(now)
        seen = datetime.fromisoformat(time)
        ids = new_ids(before.count(None))
        if len(ids) == len(found):  # the usual case: all matches are new
            recorded = [MatchRef(i, MatchState.FOUND, seen, seen) for i in ids]
        else:
            new = iter(ids)
            recorded = [
                MatchRef(next(new), MatchState.FOUND, seen, seen)
                if old is None
                else again(old, seen)
                for old in before
            ]
            ids = [ref.id for ref in recorded]
        rows = list(zip(ids, found, before, strict=True))
        if hold is not None:
            asked = [Case(i, one.hits, old) for i, one, old in rows if not one.is_excepted]
            ruled = hold(asked, self)
            recorded = [
                ruled_as(ref, ruled[ref.id]) if ref.id in ruled else ref for ref in recorded
            ]
        if Kind.EXCEPTED in [one.outcome.kind for one in found]:
            begun = since and datetime.fromisoformat(to_text(since))
            recorded = [
                excepted_as(ref, one, old, begun)
                if one.is_excepted and not (old and self._has_other(old, one.hits))
                else ref
                for ref, (_, one, old) in zip(recorded, rows, strict=True)
            ]
        self._write(
            added=[
                new_row(one, key_id, time, numbers, ref)
                for ref, one, old in zip(recorded, found, before, strict=True)
                if old is None
            ],
            renewed=[
                renewed_row(ref.state, old, one, key_id, time, numbers)
                for ref, one, old in zip(recorded, found, before, strict=True)
                if old is not None
            ],
            hits=hit_rows([(i, one.hits) for i, one, _ in rows]),
            streams=[(i,) for i, one, _ in rows if one.outcome.is_stream for _ in range(one.count)],
            steps=self._steps_of(
                [
                    (ref, one, old)
                    for ref, one, old in zip(recorded, found, before, strict=True)
                    if old is not None or ref.state is MatchState.EXCEPTED or needs_step(one, None)
                ],
                key_id,
                time,
            ),
        )
        for match_id, one, _ in rows:
            if one.members or one.outcome.members:
                self._note_members(match_id, one, time)
        return recorded

    def _steps_of(
        self, rows: Sequence[tuple[MatchRef, Found, Match | None]], key_id: str, time: str
    ) -> list[Row]:
        """Return the steps that are added to the histories of matches.

        Each element of `rows` has the match after this scan, the outcome, and the match as it was
        recorded before the scan.
        """
        return [
            *(
                (ref.id, time, event_of(old), detail_of(one, old))
                for ref, one, old in rows
                if needs_step(one, old)
            ),
            *(
                (ref.id, time, CONTENT_CHANGED, "{}")
                for ref, one, old in rows
                if old is not None
                and not has_tags_of(one, old, key_id)
                and self._is_reviewed(ref.id)
            ),
            *(
                (ref.id, time, HELD if ref.held else RELEASED, "{}")
                for ref, _, old in rows
                if old is not None
                and ref.state is not MatchState.EXCEPTED
                and (ref.state is MatchState.HELD) != (old.state is MatchState.HELD)
            ),
            *(
                (ref.id, time, EXCEPTED, json.dumps({"exceptions": one.outcome.exceptions}))
                for ref, one, old in rows
                if ref.state is MatchState.EXCEPTED
                and (old is None or old.state is not MatchState.EXCEPTED)
            ),
        ]

    def _known(self, one: Found, known: Mapping[str, Sequence[Match]], key_id: str) -> Match | None:
        """Return the match in `known` that has the tags of `one`, or an entry that `one` hits."""
        for path in (one.place.path, one.place.reached):
            for match in known.get(path, ()) if path is not None else ():
                if has_tags_of(one, match, key_id) or self._has_hit(match.id, one.hits):
                    return match
        return None

    def _has_other(self, match: Match, hits: Sequence[Hit]) -> bool:
        """Return whether an open match has an entry that is not withdrawn and not in `hits`.

        The match may be a container with other matching members, or of a list that cannot be used
        now: it stays a match until these entries are excepted, too.
        """
        if match.state not in (MatchState.FOUND, MatchState.HELD):
            return False
        entries = {(hit.list_name, hit.entry) for hit in hits}
        return not entries.issuperset(self._db.execute(_STANDING, (match.id,)))

    def _is_reviewed(self, match_id: str) -> bool:
        return self._db.execute(_IS_REVIEWED, (match_id, *Verdict)).fetchone() is not None

    def _known_at(self, paths: Sequence[str]) -> Mapping[str, Sequence[Match]]:
        """Return, by path, the matches that were recorded at `paths` and were not moved away since.

        At the first scan of a directory, no matches are recorded in this directory. Therefore one
        query looks up a range of sorted paths; the single paths are only looked up if a match is
        recorded in the range.
        """
        ordered = sorted([os.fsencode(path) for path in paths])
        wanted: list[bytes] = []
        for start in range(0, len(ordered), _SIDE_BY_SIDE):
            part = ordered[start : start + _SIDE_BY_SIDE]
            if self._db.execute(_ANY_BETWEEN, (part[0], part[-1])).fetchone() is not None:
                wanted += part
        return self._at(wanted)

    def _note_members(self, match_id: str, one: Found, time: str) -> None:
        """Record which members of a file matched; each member is recorded once.

        At most `MAX_MEMBERS_NOTED` members of one file are recorded.
        """
        query = "SELECT detail FROM step WHERE match = ? AND event = ?"
        noted = {detail for (detail,) in self._db.execute(query, (match_id, IN_MEMBER))}
        for members, hits in one.members or ((one.outcome.members, one.hits),):
            if len(noted) >= MAX_MEMBERS_NOTED:
                return
            names = [path_fields(name)["path"][:MAX_NAME_CHARS] for name in members]
            entries = [hit_fields(hit, ("list", "entry")) for hit in hits]
            text = json.dumps({"members": names, "entries": entries})
            if text not in noted:
                noted.add(text)
                self._db.execute(ADD_STEP, (match_id, time, IN_MEMBER, text))

    def _write(
        self, *, added: _Rows, renewed: _Rows, hits: _Rows, streams: _Rows, steps: _Rows
    ) -> None:
        self._add(ADD_MATCH, _MATCH, added)
        # The hits are added in the order of the table's primary key, because neighbouring rows are
        # in the same page of the database.
        self._add(_ADD_HIT, _HIT, sorted(hits, key=_by_entry))
        for statement, rows in ((_RENEW, renewed), (COUNT_STREAM, streams), (ADD_STEP, steps)):
            if rows:
                self._db.executemany(statement, rows)

    def _add(self, statement: str, row: str, rows: _Rows) -> None:
        """Add many rows with each statement, because each statement releases Python's GIL."""
        whole = len(rows) - len(rows) % _TOGETHER
        together = statement.replace(row, ", ".join([row] * _TOGETHER))
        for start in range(0, whole, _TOGETHER):
            values = itertools.chain.from_iterable(rows[start : start + _TOGETHER])
            self._db.execute(together, [*values])
        self._db.executemany(statement, rows[whole:])

    def _add_hits(self, match_id: str, hits: Sequence[Hit]) -> None:
        self._db.executemany(_ADD_HIT, hit_rows([(match_id, hits)]))

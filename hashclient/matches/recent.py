"""Selects recent matches: new matches, and matches that had ended and were found again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from operator import itemgetter

import msgspec

from hashclient.core.kinds import SETTLED, MatchState
from hashclient.matches.tables import MatchStore, to_text

_LAST = "SELECT coalesce(max({}), 0) FROM {}"
#: Computes the number of the newest row that the previous check for recent matches has seen. Row
#: numbers increase, but if the newest rows are removed, SQLite gives their numbers to later rows.
#: Therefore a row whose time is after `since` also counts as new. A time after `now` is ignored,
#: because it was written when the clock was ahead. The query begins at the newest row, so its time
#: does not depend on the size of the database.
_KNOWN = """
coalesce((SELECT {key} FROM {table} WHERE {key} <= :{table}
    AND NOT ({time} > :since AND {time} <= coalesce(:now, {time})) ORDER BY {key} DESC LIMIT 1), 0)
"""
_ROW = _KNOWN.format(key="rowid", table="match", time="first_seen")
_STEP = _KNOWN.format(key="id", table="step", time="time")
#: For a match that was held when it was found, a step `held` may be added later; this step does not
#: mean that the match was found again. The plus before `s.event` prevents SQLite from using the
#: index of events, which would lead to all old steps, too.
_FOUND = f"""
SELECT m.id, m.state, m.path, h.list FROM match m JOIN hit h ON h.match = m.id
WHERE m.rowid <= :last_match AND h.withdrawn_generation IS NULL AND m.id IN (
    SELECT id FROM match WHERE rowid > {_ROW}
    UNION
    SELECT s.match FROM step s JOIN match o ON o.id = s.match
    WHERE s.id > {_STEP} AND s.id <= :last_step AND (+s.event = '{MatchState.FOUND}'
        OR (+s.event = '{MatchState.HELD}' AND o.state = '{MatchState.HELD}'))
)
ORDER BY m.id
"""  # noqa: S608 - only constants are inserted


class FoundMatch(msgspec.Struct, frozen=True):
    """A match that was found: its id, state and path, and the names of the lists that it hits."""

    id: str
    state: MatchState
    path: str
    lists: frozenset[str]


class Recent(MatchStore):
    """The record of matches, with methods for recent matches; used as a context manager."""

    def last(self) -> tuple[int, int]:
        """Return the number of the newest match and of the newest step.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors():
            row, step = (
                int(self._db.execute(_LAST.format(*of)).fetchone()[0])
                for of in (("rowid", "match"), ("id", "step"))
            )
        return row, step

    def found(
        self,
        after: tuple[int, int],
        until: tuple[int, int],
        since: datetime,
        now: datetime | None = None,
    ) -> Iterator[FoundMatch]:
        """Yield the open matches with row numbers above `after`, or that were found after `since`.

        `until` is the result of `last`: rows that are newer are left out. If `now` is given, times
        after `now` are ignored, because the clock was ahead when they were written.

        Raises:
            StateError: the database cannot be read.
        """
        values = {"match": after[0], "step": after[1], "since": to_text(since)}
        values |= {"now": now and to_text(now)}
        values |= {"last_match": until[0], "last_step": until[1]}
        with self._errors():
            rows = self._db.execute(_FOUND, values)
            for (match_id, state, path), same in groupby(rows, itemgetter(0, 1, 2)):
                found = MatchState(state)
                if found not in SETTLED:
                    lists = frozenset(row[3] for row in same)
                    yield FoundMatch(match_id, found, os.fsdecode(path), lists)

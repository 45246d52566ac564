"""The matches that were found since the last look: new matches, and ended matches found again."""

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
#: The newest row at the last look. The numbers of rows increase, except for a moment after the
#: newest rows were removed. So the time counts as well, unless a clock that was ahead has written
#: it. Reading begins at the end, so it is as fast with a million matches.
_KNOWN = """
coalesce((SELECT {key} FROM {table} WHERE {key} <= :{table}
    AND NOT ({time} > :since AND {time} <= coalesce(:now, {time})) ORDER BY {key} DESC LIMIT 1), 0)
"""
_ROW = _KNOWN.format(key="rowid", table="match", time="first_seen")
_STEP = _KNOWN.format(key="id", table="step", time="time")
#: If a match was held when it was found, a later step `held` is not new. The plus keeps SQLite from
#: using an index over the steps of all times.
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
"""  # noqa: S608 - ours


class FoundMatch(msgspec.Struct, frozen=True):
    """A match that was found: its id, state and path, and the lists with its file."""

    id: str
    state: MatchState
    path: str
    lists: frozenset[str]


class Recent(MatchStore):
    """Opens the record of matches for recent matches; use it as a context manager."""

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
        """Yield the open matches found after the numbers `after`, or later than `since`.

        `until` is what `last` has returned. With `now`, a match after this time does not count as
        later.

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

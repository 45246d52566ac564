"""Selects matches: by state, place, list and time.

At the end of a scan, this module also selects the matches that should be in the scanned directories
according to the record, so that missing files are noted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from hashclient.core.kinds import MatchState
from hashclient.core.match import LEAVABLE, REPORT_PREPARED, REPORT_WANTED, Match
from hashclient.matches.tables import MATCH, MatchStore, to_text

#: The SQL condition for a path that is equal to, or below, a given path. Paths below `a` are
#: between `a/` and `a0`, because `0` is the character after `/`.
_BELOW = "(path = ? OR (path >= ? AND path < ?))"
PAGE_ROWS = 500
_LEAVABLE = (
    "in_place = 1 AND state IN (SELECT value FROM json_each(?)) AND NOT EXISTS"
    " (SELECT 1 FROM step s WHERE s.match = match.id AND s.event IN (?, ?))"
)
_LEFT = (
    "SELECT id, path, (SELECT words FROM standing WHERE number = match.standing), last_seen"
    " FROM match WHERE (path, id) > (?, ?) AND path < ?"
)
_UNSEEN = f" AND last_seen <= ? AND standing IS NOT NULL AND {_LEAVABLE} ORDER BY path, id LIMIT "
_SET_GONE = "UPDATE match SET state = ? WHERE id = ? AND last_seen = ? AND "
_LEAVABLE_VALUES = (json.dumps(LEAVABLE), REPORT_WANTED, REPORT_PREPARED)


class Choice(msgspec.Struct, frozen=True):
    """A selection of the matches that meet all conditions.

    A field that is empty or None sets no condition.

    A selected match is in one of `states`, and is at or below one of `paths`, which are absolute. A
    selected match hits an entry of the list `list_name`, or its entry `entry` if `entry` is set,
    and a scan has seen the match at `since` or later.
    """

    states: tuple[MatchState, ...] = ()
    paths: tuple[str, ...] = ()
    list_name: str | None = None
    since: datetime | None = None
    entry: str | None = None

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition of SQL for the selection, and the values of its placeholders."""
        conditions, values = ["1"], list[Any]()
        if self.states:
            conditions.append("state IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(sorted(self.states)))
        if self.paths:
            conditions.append(_any_of([_BELOW] * len(self.paths)))
            values += [value for path in self.paths for value in _range(path)]
        if self.list_name is not None:
            conditions.append(
                "id IN (SELECT match FROM hit WHERE list = ? AND entry = ifnull(?, entry))"
            )
            values += [self.list_name, self.entry]
        if self.since is not None:
            conditions.append("last_seen >= ?")
            values.append(to_text(self.since))
        return " AND ".join(conditions), values


class Left(NamedTuple):
    """An open match: its id and path, the identity of its place, and when it was last seen."""

    id: str
    path: bytes
    standing: str
    last_seen: str


class Selection(MatchStore):
    """The record of matches, with methods to select matches."""

    def find(
        self, states: Collection[MatchState] = (), choice: Choice | None = None
    ) -> Iterator[Match]:
        """Yield the matches in any of `states`, or all matches, in the order of their recording.

        If `choice` is given, it selects the matches instead of `states`.

        Raises:
            StateError: the database cannot be read.
        """
        where, values = (choice or Choice(tuple(states))).where()
        with self._errors():
            yield from self._matches(f"{MATCH} WHERE {where} ORDER BY rowid", tuple(values))

    def ids(self, states: Collection[MatchState] = (), choice: Choice | None = None) -> list[str]:
        """Return the ids of the matches that `find` would yield, in the same order.

        Raises:
            StateError: the database cannot be read.
        """
        where, values = (choice or Choice(tuple(states))).where()
        with self._errors():
            rows = self._db.execute(f"SELECT id FROM match WHERE {where} ORDER BY rowid", values)  # noqa: S608 - only constants are inserted
            return [match_id for (match_id,) in rows]

    def known(self, match_ids: Sequence[str]) -> set[str]:
        """Return which of `match_ids` are recorded.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors():
            query = "SELECT id FROM match WHERE id IN (%s)"
            return {match_id for (match_id,) in self._many(query, match_ids)}

    def left_below(self, directory: str, until: datetime) -> Iterator[Left]:
        """Yield the matches below `directory` that no scan has seen after `until`.

        The matches are sorted by path.

        Matches whose report is requested or prepared, and matches without a recorded place, are
        left out.

        Raises:
            StateError: the database cannot be read.
        """
        _, start, end = _range(directory)
        last = ""
        while True:
            values = (start, last, end, to_text(until), *_LEAVABLE_VALUES)
            with self._errors():
                rows = [
                    Left(*row)
                    for row in self._db.execute(f"{_LEFT}{_UNSEEN}{PAGE_ROWS}", values).fetchall()
                ]
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            start, last = rows[-1].path, rows[-1].id

    def mark_gone(self, left: Sequence[Left], now: datetime) -> list[Left]:
        """Record that the files of matches are missing; return the matches that were changed.

        Matches that another scan has seen since `left` was read are not changed.

        Raises:
            StateError: the database cannot be written.
        """
        marked = []
        with self._transaction():
            for one in left:
                values = (MatchState.GONE, one.id, one.last_seen, *_LEAVABLE_VALUES)
                if self._db.execute(_SET_GONE + _LEAVABLE, values).rowcount:
                    self._step(one.id, MatchState.GONE, now, {})
                    marked.append(one)
        return marked


def _any_of(conditions: Sequence[str]) -> str:
    """Join conditions of SQL by OR, in a balanced tree, because SQLite limits its depth."""
    if len(conditions) == 1:
        return conditions[0]
    half = len(conditions) // 2
    return f"({_any_of(conditions[:half])} OR {_any_of(conditions[half:])})"


def _range(path: str) -> tuple[bytes, bytes, bytes]:
    raw = os.fsencode(path).rstrip(b"/")
    return raw, raw + b"/", raw + b"0"

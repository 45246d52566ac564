"""Permits: each permit allows actions on a matched file because of one entry of a list.

A permit is written in the transaction that records its match, so several scans that run at once
cannot exceed the limit; if the process is killed after this transaction and before the action, a
permit that was not used remains. The time of a permit is when the permit was given or, if later,
when the file was acted upon; a permit that a person gave has no time. `decisions` decides which
match gets a permit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from hashclient.core.kinds import MatchState
from hashclient.core.match import (
    RELEASED,
    REPORT_PREPARED,
    REPORT_RETRACTED,
    REPORT_RETRACTING,
    REPORT_WANTED,
    Match,
)
from hashclient.core.model import HeldEntry, Hit
from hashclient.matches.selection import Selection
from hashclient.matches.tables import HAS_HIT, MATCH, to_text

#: An entry: the name of its list, and the id of the entry.
Entry = tuple[str, str]

_PERMIT = "INSERT OR REPLACE INTO permit VALUES (?, ?, ?, ?)"
_USED = "SELECT count(*) FROM permit WHERE list = ? AND entry = ? AND time > ?"
_USED_BY_FILES = "SELECT count(DISTINCT match) FROM permit WHERE time > ?"
_PERMITS_OF = "SELECT list, entry FROM permit WHERE match = ? AND (time IS NULL OR time > ?)"
_USE = "UPDATE permit SET time = ? WHERE time < ? AND match = ?"
#: Finds out whether a report of a match was requested or made, and was not retracted afterwards.
_IN_A_REPORT = """
SELECT 1 FROM step s WHERE s.match = ? AND s.event IN (?, ?) AND NOT EXISTS (
    SELECT 1 FROM step b WHERE b.match = s.match AND b.event IN (?, ?) AND b.id > s.id
)
"""
_IS_HELD = f"state = '{MatchState.HELD}'"
_HELD_OF = f"{MATCH} WHERE {_IS_HELD}"
_OF_ENTRY = (
    " AND id IN (SELECT match FROM hit WHERE list = ? AND entry = ? AND"
    " withdrawn_generation IS NULL)"
)
_HELD_ENTRIES = f"""
SELECT h.list, h.entry, count(*), sum(NOT m.in_place),
    sum(m.in_place AND m.state IN ('{MatchState.REPORTED}', '{MatchState.ACKNOWLEDGED}')),
    sum(m.{_IS_HELD}) AS held
FROM (
    SELECT DISTINCT o.list, o.entry FROM match m JOIN hit o ON o.match = m.id WHERE m.{_IS_HELD}
) e JOIN hit h ON h.list = e.list AND h.entry = e.entry JOIN match m ON m.id = h.match
WHERE h.withdrawn_generation IS NULL
GROUP BY h.list, h.entry HAVING held > 0 ORDER BY held DESC, h.list, h.entry LIMIT ?
"""  # noqa: S608 - only constants are inserted


class Case(NamedTuple):
    """A match that is about to be recorded.

    `hits` are the entries that the match hits, and `before` is the match as it was recorded before,
    if it was.
    """

    id: str
    hits: tuple[Hit, ...]
    before: Match | None


class Permits(Selection):
    """The record of matches, with methods for the permits."""

    def permit(self, rows: Sequence[tuple[str, Entry]], now: datetime | None) -> None:
        """Permit actions on matches because of an entry.

        `now` is the time, or None if a person permits the actions.
        """
        time = None if now is None else to_text(now)
        self._db.executemany(_PERMIT, [(match_id, *entry, time) for match_id, entry in rows])

    def use(self, match_ids: Sequence[str], now: datetime, before: datetime) -> None:
        """Note that matches are acted upon `now`.

        If a permit of one of the matches was given before `before`, its time is set to `now`.

        Raises:
            StateError: the database cannot be written.
        """
        with self._transaction():
            times = to_text(now), to_text(before)
            self._db.executemany(_USE, [(*times, match_id) for match_id in match_ids])

    def forget_permits(self, until: datetime) -> None:
        """Remove the permits that were given at `until` or earlier, which do not count any more."""
        self._db.execute("DELETE FROM permit WHERE time <= ?", (to_text(until),))

    def used(self, entry: Entry, since: datetime) -> int:
        """Return the number of files that have a permit of `entry` that was given after `since`."""
        return int(self._db.execute(_USED, (*entry, to_text(since))).fetchone()[0])

    def used_by_files(self, since: datetime) -> int:
        """Return the number of files with a permit, of any entry, that was given after `since`."""
        return int(self._db.execute(_USED_BY_FILES, (to_text(since),)).fetchone()[0])

    def permits_of(self, match_id: str, since: datetime) -> set[Entry]:
        """Return the entries of a match's permits that were given after `since`, or by a person."""
        return set(self._db.execute(_PERMITS_OF, (match_id, to_text(since))))

    def is_in_report(self, match_id: str) -> bool:
        """Return whether a match has a report, requested or made, that was not retracted."""
        events = (REPORT_WANTED, REPORT_PREPARED, REPORT_RETRACTING, REPORT_RETRACTED)
        return self._db.execute(_IN_A_REPORT, (match_id, *events)).fetchone() is not None

    def has_entry(self, match_id: str, entry: Entry) -> bool:
        """Return whether a match hits an entry; withdrawn entries are included."""
        return self._db.execute(HAS_HIT, (*entry, match_id)).fetchone() is not None

    def take_back_release(self, match_id: str) -> None:
        """Remove the permits that a person gave for a match, because the match has ended."""
        query = "DELETE FROM permit WHERE match = ? AND time IS NULL"
        self._db.execute(query, (match_id,))

    def held(self, entry: Entry | None = None, most: int = -1) -> list[Match]:
        """Return at most `most` held matches, of all entries or of `entry`.

        The matches that were recorded first come first.

        Raises:
            StateError: the database cannot be read.
        """
        where, values = ("", ()) if entry is None else (_OF_ENTRY, entry)
        with self._errors():
            query = f"{_HELD_OF}{where} ORDER BY rowid LIMIT ?"
            return list(self._matches(query, (*values, most)))

    def held_entries(self, most: int) -> tuple[HeldEntry, ...]:
        """Return at most `most` entries that have held matches.

        Entries with the most held matches come first.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors():
            return tuple(HeldEntry(*row) for row in self._db.execute(_HELD_ENTRIES, (most,)))

    def release(self, match: Match, now: datetime, by: str, reason: str) -> None:
        """Record that a person permits actions on a held match in spite of the limits.

        Raises:
            StateError: the database cannot be written.
        """
        with self._transaction():
            self._step(match.id, RELEASED, now, {"by": by, "reason": reason})
            self._set_state(match.id, MatchState.FOUND)
            self.permit([(match.id, (h.list_name, h.entry)) for h in match.standing], None)


#: Called while matches are being recorded; returns, by the match id, whether a match is held.
Hold = Callable[[Sequence[Case], Permits], Mapping[str, bool]]

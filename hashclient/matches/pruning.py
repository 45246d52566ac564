"""Removes matches that ended long ago, so that the database does not grow without end.

Only matches that are settled (excepted, restored, purged or closed), and that no scan has found
since, are removed. A match that is open, withdrawn, or reported and not acknowledged is never
removed, however old the match is. The audit log keeps the history of each removed match.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime

from hashclient.core.kinds import SETTLED
from hashclient.matches.tables import MatchStore, to_text

_SETTLED = json.dumps(sorted(SETTLED))
_OLD = """
SELECT m.id FROM match m
WHERE m.state IN (SELECT value FROM json_each(?)) AND m.last_seen < ?
AND m.id NOT IN (SELECT value FROM json_each(?))
AND NOT EXISTS (SELECT 1 FROM step s WHERE s.match = m.id AND s.time >= ?)
ORDER BY m.rowid LIMIT ?
"""
#: The tables with rows that belong to a match, and the column with the match id; the table `match`
#: comes last.
_TABLES = (
    *((table, "match") for table in ("hit", "permit", "step", "stream")),
    ("match", "id"),
)
_UNUSED = "DELETE FROM standing WHERE number NOT IN (SELECT standing FROM match WHERE standing)"


class Pruner(MatchStore):
    """The record of matches, with methods for pruning; used as a context manager."""

    def prunable(self, before: datetime, kept: Collection[str], most: int) -> list[str]:
        """Return the ids of up to `most` settled matches whose last step was before `before`.

        Matches in `kept` are left out.

        Raises:
            StateError: the database cannot be read.
        """
        limit = to_text(before)
        with self._errors():
            values = (_SETTLED, limit, json.dumps(sorted(kept)), limit, most)
            return [match_id for (match_id,) in self._db.execute(_OLD, values)]

    def prune(self, ids: Collection[str]) -> int:
        """Remove matches in one transaction, except matches that were found again and are open now.

        Return how many matches were removed.

        Raises:
            StateError: the database cannot be written.
        """
        chosen = json.dumps(sorted(ids))
        settled = (
            "SELECT id FROM match WHERE id IN (SELECT value FROM json_each(?))"
            " AND state IN (SELECT value FROM json_each(?))"
        )
        with self._transaction():
            going = [row[0] for row in self._db.execute(settled, (chosen, _SETTLED))]
            for table, column in _TABLES:
                self._db.execute(
                    f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))",  # noqa: S608 - only constants are inserted
                    (json.dumps(going),),
                )
            if going:
                self._db.execute(_UNUSED)
        return len(going)

    def compact(self) -> None:
        """Shrink the database file if more than a quarter of its pages are free.

        Raises:
            StateError: the database cannot be written.
        """
        with self._errors():
            free, pages = (
                self._db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("freelist_count", "page_count")
            )
            if free * 4 > pages:
                self._db.execute("VACUUM")

"""Verifies the record of matches: by SQLite's own checks, and by the rules for its rows.

The pages of an SQLite database have no checksums, so a changed byte that leaves a valid value is
only found if an index contains the value, too. Invalid values are always found. The whole record of
matches is read.
"""

from __future__ import annotations

from pathlib import Path

from hashclient.core.errors import StateError
from hashclient.core.kinds import MatchState
from hashclient.core.match import RECORDED_AGAIN, STREAM_PREFIXES, Match
from hashclient.core.objecturi import is_object_uri
from hashclient.matches.store import Matches
from hashclient.matches.tables import MATCH
from hashclient.system.layout import Layout
from hashclient.system.text import printable

#: The length of a tag in bytes.
_TAG_BYTES = 16


class _Checked(Matches):
    def verify(self) -> str | None:
        """Return a description of the first error in the record of matches, or None."""
        with self._errors():
            # check 1 of `verify_matches`
            if self._db.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
                return "its pages do not fit each other"
            # check 2 of `verify_matches`
            if self._db.execute("PRAGMA foreign_key_check").fetchone() is not None:
                return "a row belongs to a match that does not exist"
            # check 3 of `verify_matches`
            for match in self._matches(MATCH, ()):
                if not (_is_whole(match) and self._has_story(match)):
                    return f"match {printable(match.id)} is not whole"
        return None

    def _has_story(self, match: Match) -> bool:
        """Return whether a match's steps are readable, and include the step to its state."""
        story = self._story(match.id)
        # The state `found` needs no recorded step; each other state needs a recorded step.
        return match.state is MatchState.FOUND or len(story) > 1 or story[0].event == RECORDED_AGAIN


def _is_whole(match: Match) -> bool:
    """Return whether a match has values that could have been recorded."""
    return (
        (match.path.startswith(("/", *STREAM_PREFIXES)) or is_object_uri(match.path))
        and (match.size is None or match.size >= 0)
        and all(len(tag) == _TAG_BYTES for tag in match.tags.values())
        and all(hit.algorithms and hit.generation >= 0 for hit in match.hits)
    )


def verify_matches(state_dir: Path) -> None:
    """Read the whole record of matches of a state directory, if it has a record.

    Check 1: SQLite checks the pages and indexes. Check 2: no row belongs to a missing match. Check
    3: each match can be read, with its hits and its history.

    Raises:
        StateError: the record of matches is damaged, or cannot be read.
    """
    with _Checked(state_dir, create=False) as record:
        wrong = record.verify()
    if wrong is not None:
        path = printable(Layout(state_dir).matches)
        raise StateError(
            f"the record of matches is damaged: {path}: {wrong}",
            hint="restore it from a backup, or move it away: then earlier matches are lost",
        )

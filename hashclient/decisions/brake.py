"""The brake: a limit for the number of files that are acted upon for one entry within 24 hours.

If an entry is wrong, for example the entry of a licence text, a policy would isolate thousands of
files because of it. A file above the limit is held: it is recorded and waits for a person, who
releases it or has the entry withdrawn.

1. A file may be acted upon if, for each action, an entry with this action permits it.
2. An entry permits an action on a file if it has done so within the last 24 hours, or if it has let
   fewer than `per_entry` files be acted upon in this time. With `per_day`, fewer files than
   `per_day` must have been acted upon because of all entries together.
3. A held match stays held when it is found again, unless an entry that the match did not have
   before permits the action.
4. A match that a person has released may be acted upon, and does not count for the limit.
5. A match whose report is wanted already, or was made, needs no permit for this report.

With `only_tell`, no permit is given and no match is held: matches that would be held are only
noted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from hashclient.config.tables import BrakeConfig
from hashclient.core.kinds import Action, MatchState
from hashclient.core.match import PROGRESS, Match
from hashclient.decisions.policy import Policy
from hashclient.matches.permits import Case, Entry, Permits

#: The period for which the limits count.
WINDOW = timedelta(hours=24)
#: How long permits are kept: none is lost while the clock is some days ahead.
_KEPT = timedelta(days=30)
_NO_LIMIT = 1 << 62


class Brake:
    """Holds the matches of one policy that are above the limits of `config`."""

    def __init__(self, config: BrakeConfig, policy: Policy, *, only_tell: bool = False) -> None:
        self._config = config
        self._policy = policy
        #: The ids of matches that would be held, and the only turn, in which all of them are
        #: decided.
        self.would_hold: set[str] = set()
        self._told: _Turn | None = None
        self._only_tell = only_tell
        #: When expired permits were last removed.
        self._tidied: datetime | None = None

    def decide(self, cases: Sequence[Case], permits: Permits, now: datetime) -> Mapping[str, bool]:
        """Return whether matches are held, by id; see `Decision`."""
        turn = self._told or _Turn(self._config, permits, now, only_tell=self._only_tell)
        if self._only_tell:
            self._told, turn.permits = turn, permits
        elif self._tidied is None or now - self._tidied > WINDOW:
            permits.forget_permits(now - _KEPT)
            self._tidied = now
        asked_by = self._policy.asked_by
        ruled: dict[str, bool] = {}
        for case in cases:
            if asking := asked_by(case.hits):
                held = turn.is_held(case, asking)
                if held is not None:
                    ruled[case.id] = held
        if self._only_tell:
            self.would_hold.update(match_id for match_id, held in ruled.items() if held)
            return {}
        permits.permit([(i, entry) for i, entries in turn.given.items() for entry in entries], now)
        return ruled


class _Turn:
    """The decisions of one transaction; with `only_tell`, of a run."""

    def __init__(
        self, config: BrakeConfig, permits: Permits, now: datetime, *, only_tell: bool
    ) -> None:
        self.since = now - WINDOW
        #: The new permits, by match.
        self.given: dict[str, list[Entry]] = {}
        self.permits = permits
        self._config = config
        self._only_tell = only_tell
        #: How many more files may be acted upon: for each entry, and in all.
        self._room: dict[Entry, int] = {}
        self._room_in_all = _NO_LIMIT
        if config.per_day:
            self._room_in_all = config.per_day - permits.used_by_files(self.since)

    def is_held(self, case: Case, asking: Mapping[Entry, frozenset[Action]]) -> bool | None:
        """Return whether a match is held; None if the policy has no action for it.

        `asking` has the entries of the match with actions.
        """
        before = case.before
        is_full = self._room_in_all <= 0 or not any(map(self._room_of, asking))
        if is_full and (before is None or before.state is MatchState.HELD):
            return True  # very many matches may be held
        wanted = {a for actions in asking.values() for a in actions}
        # A match comes again only in a turn of several transactions.
        letting = set(self.given.get(case.id, ()))
        if before is not None:
            if before.state not in PROGRESS:
                if not self._only_tell:
                    # 4: the release was about an earlier time
                    self.permits.take_back_release(case.id)
            elif self.permits.is_in_report(case.id):  # 5
                wanted.discard(Action.REPORT)
                if not wanted:
                    return None
            letting |= self.permits.permits_of(case.id, self.since) & asking.keys()
        may_be_more = bool(letting) or self._room_in_all > 0
        more = [
            entry
            for entry in asking
            if may_be_more
            and entry not in letting
            and self._room_of(entry) > 0
            and not self._is_held_for(before, entry)
        ]
        allowed = {a for entry in (*letting, *more) for a in asking[entry]}
        if not wanted <= allowed:
            return True
        for entry in more:
            self._room[entry] -= 1
            self.given.setdefault(case.id, []).append(entry)
        if not letting:
            self._room_in_all -= 1
        return False

    def _room_of(self, entry: Entry) -> int:
        room = self._room.get(entry)
        if room is None:
            limit = self._config.per_entry
            used = self.permits.used(entry, self.since) if limit else 0
            room = self._room[entry] = max(0, limit - used) if limit else _NO_LIMIT
        return room

    def _is_held_for(self, before: Match | None, entry: Entry) -> bool:
        """Return whether a match is held already, and had this entry then."""
        if before is None or before.state is not MatchState.HELD:
            return False
        return self.permits.has_entry(before.id, entry)

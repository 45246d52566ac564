"""The brake: a limit for the number of files that are acted upon for one entry within 24 hours.

If an entry is wrong, for example the entry of a licence text, a policy without a limit would
isolate thousands of files because of this entry. A match above the limit is held: the match is
recorded, and no action is done until a person releases the match. If the entry is wrong, a person
can ask the provider to withdraw the entry.

1. A match may be acted upon if, for each action that the policy wants, at least one entry of the
   match permits this action.
2. An entry permits an action on a file if the entry has already permitted an action on this file
   within the last 24 hours, or if the entry has permitted actions on fewer than `per_entry` files
   within the last 24 hours. If `per_day` is set, the number of files that were acted upon within
   the last 24 hours, for all entries together, must also be less than `per_day`.
3. A held match stays held when a scan finds the same match again, unless the file now also matches
   another entry, and this other entry permits the action.
4. If a person has released a match, the match may be acted upon, and its file does not count
   towards the limits.
5. If a report of a match has already been requested or made, this report needs no permit.

With `only_tell`, the brake gives no permit and holds no match: the brake only notes which matches
it would hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from hashclient.config.tables import BrakeConfig
from hashclient.core.kinds import Action, MatchState
from hashclient.core.match import PROGRESS, Match
from hashclient.decisions.policy import Policy
from hashclient.matches.permits import Case, Entry, Permits

#: If files were acted upon within this period, they count towards the limits.
WINDOW = timedelta(hours=24)
#: How long permits are stored. The time is much longer than `WINDOW`, so that no permit is removed
#: too early if the clock of the machine is some days ahead.
_KEPT = timedelta(days=30)
_NO_LIMIT = 1 << 62


class Brake:
    """Holds the matches of one policy that exceed the limits of `config`."""

    def __init__(self, config: BrakeConfig, policy: Policy, *, only_tell: bool = False) -> None:
        self._config = config
        self._policy = policy
        #: `would_hold`: with `only_tell`, the ids of the matches that would be held without
        #: `only_tell`. `_told`: with `only_tell`, the `_Turn` that decides all matches of the run.
        self.would_hold: set[str] = set()
        self._told: _Turn | None = None
        self._only_tell = only_tell
        #: When this process last removed expired permits; None if this process has removed none
        #: yet.
        self._tidied: datetime | None = None

    def decide(self, cases: Sequence[Case], permits: Permits, now: datetime) -> Mapping[str, bool]:
        """Decide which matches are held; return, by match id, whether each match is held."""
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
    """Decides which matches of one transaction are held; with `only_tell`, of a whole run."""

    def __init__(
        self, config: BrakeConfig, permits: Permits, now: datetime, *, only_tell: bool
    ) -> None:
        self.since = now - WINDOW
        #: `given`: the entries that permit actions in this turn, by the id of the match.
        self.given: dict[str, list[Entry]] = {}
        self.permits = permits
        self._config = config
        self._only_tell = only_tell
        #: `_room`: how many more files each entry may permit; `_room_in_all`: how many more files
        #: all entries together may permit.
        self._room: dict[Entry, int] = {}
        self._room_in_all = _NO_LIMIT
        if config.per_day:
            self._room_in_all = config.per_day - permits.used_by_files(self.since)

    def is_held(self, case: Case, asking: Mapping[Entry, frozenset[Action]]) -> bool | None:
        """Decide whether a match is held; return None if a report is its only action (rule 5).

        `asking`: by entry of the match, the actions that the policy wants because of this entry.
        """
        before = case.before
        is_full = self._room_in_all <= 0 or not any(map(self._room_of, asking))
        if is_full and (before is None or before.state is MatchState.HELD):
            return True  # needs no query, because very many matches may be held
        wanted = {a for actions in asking.values() for a in actions}
        # `given` has entries of this match only if `_Turn` spans several transactions, and an
        # earlier transaction has already decided the same match.
        letting = set(self.given.get(case.id, ()))
        if before is not None:
            if before.state not in PROGRESS:
                if not self._only_tell:
                    # By rule 4 of the module docstring, a person releases one match; when this
                    # match has ended, the release is removed.
                    self.permits.take_back_release(case.id)
            elif self.permits.is_in_report(case.id):  # rule 5: no permit
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
        """Return whether a match is already held and already had this entry when it was held."""
        if before is None or before.state is not MatchState.HELD:
            return False
        return self.permits.has_entry(before.id, entry)

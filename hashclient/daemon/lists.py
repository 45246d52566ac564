"""The lists that a daemon uses, which are opened again when they have changed on the disk.

A check uses the same lists from its beginning to its end. While a list is stale or missing, an
input without a match is not answered as clean, so a mail gateway that asks the daemon refuses all
mail. A list becomes stale about a week after the first failed fetch. The daemon warns at its start
and once a day if no fetch has checked a list for a day, long before the list becomes stale.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from hashclient.core.errors import HashclientError, StateError
from hashclient.core.staleness import CLOCK_TOLERANCE, ListState
from hashclient.decisions.exceptions import Exceptions
from hashclient.decisions.interface import Rule, as_it_is
from hashclient.index.manifest import Manifest, load_manifest
from hashclient.index.matcher import Judge
from hashclient.index.open_lists import OpenLists
from hashclient.index.reader import list_folders
from hashclient.session import Session
from hashclient.system.log import Log
from hashclient.system.text import for_people

_log = Log("daemon")

#: Seconds between two checks whether lists have changed on the disk; and seconds until the lists
#: are opened again even without a change, because lists become stale.
LOOK_S = 1.0
REOPEN_S = 60.0

MISSING = "Missing"
STALE = "Stale"


class InUse:
    """Open lists: their judge, and whether an input without a match can be answered as clean."""

    def __init__(self, lists: OpenLists, session: Session, *, exceptions: bool = True) -> None:
        """Use `lists`; the clock of `session` decides whether a list is stale.

        `exceptions` says whether the method `rule` applies the exceptions that people have made to
        an outcome.
        """
        self.lists = lists
        self.rule: Rule = as_it_is
        if exceptions:
            ruler = Exceptions(session.settings.layout, lists, session.now, _unusable)
            lists, self.rule = ruler.lists, ruler.rule
        self.judge: Judge = lists.judge()
        #: A quick function that returns whether a digest may be listed; only one thread may call
        #: it.
        self.may_be_listed = self.judge.screen()
        self.key_id = lists.sealer.key_id
        #: The reason why an input without a match may still be listed, without regard to the
        #: present time.
        self.known_doubt: str | None = None
        if lists.missing:
            self.known_doubt = MISSING
        elif any(state.stale for state in lists.states):
            self.known_doubt = STALE
        self._clock = session.now
        manifests = [index.manifest for index in lists.indexes]
        grace = session.settings.grace
        self._until = min(_after(m.expires, grace(m.provider)) for m in manifests)
        self._since = max(m.checked_at for m in manifests) - CLOCK_TOLERANCE

    @property
    def doubt(self) -> str | None:
        """One word that says why an input without a match may still be listed, or None.

        The age of the lists is checked for each answer, because a list can become stale while the
        daemon runs. The lists also count as stale if the clock was set back, because their age is
        then not known.
        """
        if self.known_doubt is None and not self._since <= self._clock() < self._until:
            return STALE
        return self.known_doubt

    def doubted(self) -> InUse:
        """Return a copy in which lists count as missing, so that no input is answered as clean."""
        other = copy.copy(self)
        other.known_doubt = MISSING
        return other

    def same_lists(self, other: InUse) -> bool:
        """Return whether both objects have lists with the same names, generations and seal key."""
        return (self.states, self.lists.missing, self.key_id) == (
            other.states,
            other.lists.missing,
            other.key_id,
        )

    @property
    def states(self) -> tuple[ListState, ...]:
        """The states of the lists, as in the summary of a run."""
        return self.lists.states

    @property
    def generations(self) -> str:
        """The names and generations of the lists, on one line."""
        return ",".join(f"{state.name}:{state.generation}" for state in self.states)


class Lists:
    """The lists of a session; `now` are the lists that are in use now."""

    def __init__(self, session: Session, *, exceptions: bool = True) -> None:
        """Open the lists; `exceptions` is as for `InUse`.

        Raises:
            StateError: no list can be used.
            ConfigError: the seal key is missing or malformed.
        """
        self._session = session
        self._seen = session.list_folders()
        self._exceptions = exceptions
        self.now = self._open()
        self._doubt = self.now.doubt
        self._opened = self._looked = time.monotonic()

    def _open(self) -> InUse:
        return InUse(self._session.open_lists(), self._session, exceptions=self._exceptions)

    def refresh(self, *, force: bool = False) -> bool:
        """Open the lists again if they may have changed; return whether they were opened.

        If the lists cannot be opened, the present lists are still used to find matches, but no
        input is answered as clean. The next attempt is made after `LOOK_S` seconds.
        """
        moment = time.monotonic()
        # The lists are opened again when a list has become stale, so that the policy does not
        # isolate a file because of a stale list.
        force = force or self.now.doubt != self._doubt
        if not force and moment < self._looked + LOOK_S:
            return False
        self._looked = moment
        seen = self._session.list_folders()
        if not force and seen == self._seen and moment < self._opened + REOPEN_S:
            return False
        try:
            self.now = self._open()
        except (HashclientError, OSError, MemoryError) as error:
            _log.info("lists cannot be opened again: %s", getattr(error, "message", error))
            self._opened = -REOPEN_S
            self.now = self.now.doubted()
            return False
        finally:
            self._doubt = self.now.doubt
        self._opened = moment
        self._seen = seen
        return True


def _unusable(error: StateError) -> None:
    _log.info("no exception counts: %s", error.message)


def _after(moment: datetime, grace: timedelta) -> datetime:
    """Return the time `grace` after `moment`, or the last time that Python can represent."""
    return min(moment, datetime.max.replace(tzinfo=UTC) - grace) + grace


#: If no fetch has checked a list for this time, the daemon warns of the list.
CHECKED_WITHIN = timedelta(days=1)
#: Seconds between two checks of the ages of lists, and seconds before a warning about the same list
#: is repeated.
AGES_S, SAY_AGAIN_S = 3600.0, 86_400.0

HINT = (
    "see whether `hashclient fetch` runs and reaches the provider; `grace_hours` of the provider"
    " lets a list count for longer"
)


class Ageing:
    """Warns of lists that are stale or not checked; `warn` is called with a message and a hint."""

    def __init__(self, session: Session, warn: Callable[[str, str | None], object]) -> None:
        """Store the arguments; no list is checked yet."""
        self._session = session
        self._warn = warn
        self._look_at = 0.0
        self._said: dict[str, float] = {}

    def look(self) -> list[str]:
        """Check the lists once an hour; issue and return the warnings that are due."""
        moment = time.monotonic()
        if moment < self._look_at:
            return []
        self._look_at = moment + AGES_S
        due = []
        for name, text in self._ages():
            if moment >= self._said.get(name, 0.0):
                self._said[name] = moment + SAY_AGAIN_S
                self._warn(text, HINT)
                due.append(text)
        return due

    def _ages(self) -> Iterator[tuple[str, str]]:
        now, settings = self._session.now(), self._session.settings
        try:
            sealer = self._session.sealer()
            for name in list_folders(settings.layout.lists):
                manifest = load_manifest(settings.layout.lists / name, sealer)
                if manifest is not None:
                    text = age_of(manifest, settings.grace(manifest.provider), now)
                    if text is not None:
                        yield name, text
        except HashclientError:  # `InUse` reports a list that cannot be read
            return


def age_of(manifest: Manifest, grace: timedelta, now: datetime) -> str | None:
    """Return a message if a list is stale, or was not checked for a day; else None."""
    name, expires = f"list {manifest.list}", manifest.expires
    ends = _after(expires, grace)
    if now >= ends:
        return f"{name} is stale since {for_people(ends)}: nothing is answered as clean"
    if now >= expires or now - manifest.checked_at > CHECKED_WITHIN:
        return (
            f"{name} was last checked {for_people(manifest.checked_at)}; from"
            f" {for_people(ends)} on nothing is answered as clean"
        )
    return None

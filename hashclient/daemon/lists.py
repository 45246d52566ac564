"""The lists that a daemon answers with: opened once, and again when there are others on the disk.

What was begun with the former ones ends with them. A list that is stale, or that should be here and
is not, keeps an input that matches nothing from being called clean: nobody knows.
"""

from __future__ import annotations

import copy
import os
import time
from datetime import datetime

from hashclient.core.model import ListState
from hashclient.errors import HashclientError
from hashclient.index.matcher import Judge
from hashclient.index.open_lists import OpenLists
from hashclient.session import Session
from hashclient.system.layout import MANIFEST_NAME
from hashclient.system.log import Log

_log = Log("daemon")

#: Seconds between two looks at the disk, and after which lists are opened again in any case: their
#: age counts, and folders may have come.
LOOK_S = 1.0
REOPEN_S = 60.0


class InUse:
    """One state of the lists: what judges, and whether its answer is whole."""

    def __init__(self, lists: OpenLists) -> None:
        self.lists = lists
        self.judge: Judge = lists.judge()
        #: For the thread that reads streams.
        self.may_be_listed = self.judge.screen()
        self.key_id = lists.sealer.key_id
        #: Of what is not whole: one word for clients.
        self.doubt: str | None = None
        if lists.missing:
            self.doubt = "Missing"
        elif any(state.stale for state in lists.states):
            self.doubt = "Stale"

    def doubted(self, word: str) -> InUse:
        """Return the same, but not whole any more."""
        other = copy.copy(self)
        other.doubt = word
        return other

    @property
    def states(self) -> tuple[ListState, ...]:
        """The lists, as a summary has them."""
        return self.lists.states

    @property
    def generations(self) -> str:
        """Names and generations, on one line."""
        return ",".join(f"{state.name}:{state.generation}" for state in self.states)


class Lists:
    """The lists of a session, as they are now."""

    def __init__(self, session: Session) -> None:
        """Open them.

        Raises:
            StateError: none can be used.
            ConfigError: the seal key is missing or malformed.
        """
        self._session = session
        self._seen = self._look()
        self.now = InUse(session.open_lists())
        self._opened = self._looked = time.monotonic()

    def refresh(self, *, force: bool = False) -> bool:
        """Open them again if there may be others; return whether they were.

        Where that fails, those that are in use stay, and become stale in their time.
        """
        moment = time.monotonic()
        if not force and moment < self._looked + LOOK_S:
            return False
        self._looked = moment
        seen = self._look()
        if not force and seen == self._seen and moment < self._opened + REOPEN_S:
            return False
        self._opened = moment
        try:
            self.now = InUse(self._session.open_lists())
        except HashclientError as error:
            _log.info("lists cannot be opened again: %s", error.message)
            if self.now.doubt is None and self._expired(self._session.now()):
                self.now = self.now.doubted("Stale")
            return False
        self._seen = seen
        return True

    def _expired(self, now: datetime) -> bool:
        return any(state.expires < now and not state.in_grace for state in self.now.states)

    def _look(self) -> list[tuple[str, int, int]]:
        """Return what tells of a new generation, or of a list that has come or gone."""
        found = []
        try:
            with os.scandir(self._session.settings.layout.lists) as folders:
                names = sorted(folder.path for folder in folders)
        except OSError:
            return []
        for path in names:
            try:
                status = os.stat(f"{path}/{MANIFEST_NAME}")  # noqa: PTH116 - often
                found.append((path, status.st_ino, status.st_mtime_ns))
            except OSError:
                found.append((path, 0, 0))
        return found

"""Warnings of lists that are not kept up to date, before nothing is answered as clean any more.

A list that has gone stale makes each answer without a match one of no verdict: a gateway then
refuses all mail. Between the first fetch that fails and that day there is about a week. So it is
said at the start of the daemon, and once a day while it runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from hashclient.core.errors import HashclientError
from hashclient.index.manifest import Manifest, load_manifest
from hashclient.index.reader import list_folders
from hashclient.session import Session
from hashclient.system.text import for_people

#: A list should be checked at least so often; the next fetch may be late by a few hours.
CHECKED_WITHIN = timedelta(days=1)
#: Seconds between two looks, and between two times that the same is said.
LOOK_S, SAY_AGAIN_S = 3600.0, 86_400.0

HINT = (
    "see whether `hashclient fetch` runs and reaches the provider; `grace_hours` of the provider"
    " lets a list count for longer"
)


class Ageing:
    """Warns of the lists of a session; `warn` gets a message and a hint."""

    def __init__(self, session: Session, warn: Callable[[str, str | None], object]) -> None:
        """Nothing is looked at yet."""
        self._session = session
        self._warn = warn
        self._look_at = 0.0
        self._said: dict[str, float] = {}

    def look(self) -> list[str]:
        """Warn, if an hour has passed since the last look; return the warnings that are due."""
        moment = time.monotonic()
        if moment < self._look_at:
            return []
        self._look_at = moment + LOOK_S
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
        except HashclientError:  # a list that cannot be read is said elsewhere
            return


def age_of(manifest: Manifest, grace: timedelta, now: datetime) -> str | None:
    """Return in words that a list is stale, or will be since no fetch has checked it; else None."""
    name, expires = f"list {manifest.list}", manifest.expires
    if now >= expires + grace:
        return f"{name} is stale since {for_people(expires + grace)}: nothing is answered as clean"
    if now >= expires or now - manifest.checked_at > CHECKED_WITHIN:
        return (
            f"{name} was last checked {for_people(manifest.checked_at)}; from"
            f" {for_people(expires + grace)} on nothing is answered as clean"
        )
    return None

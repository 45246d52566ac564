"""All providers in turn: what `fetch` does, under one lock, and whatever fails on the way.

A provider that cannot be fetched from keeps no other back. What is wrong with a single list comes
with that list; what is wrong with a provider is raised once the others were tried. From where the
lists of one provider come, one address after the other, is in `turns`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from hashclient.config import Settings
from hashclient.errors import HashclientError, UsageError
from hashclient.fetch.build import Progress
from hashclient.fetch.fetcher import Fetched
from hashclient.fetch.notices import OnNotices
from hashclient.fetch.places import Place, addresses, copy_at
from hashclient.fetch.turns import fetch_in_turn
from hashclient.index.reader import lists_on_disk
from hashclient.migrations.migrate import writing
from hashclient.session import Session
from hashclient.system.files import make_private_dir
from hashclient.system.text import printable


def fetch_all(
    session: Session,
    only: Collection[str] = (),
    provider: str | None = None,
    *,
    copy: Path | None = None,
    rebuild: bool = False,
    accept_churn: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
    on_failure: Callable[[HashclientError], None] = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
    on_notices: OnNotices = lambda _: None,
) -> Iterator[Fetched]:
    """Yield what becomes of every list, or of those in `only`, of one provider or of all.

    With a `copy`, the path of a bundle or a directory, that is read and no network used.
    `progress`, `accept_churn` and `rebuild` are as for `Fetcher`, `wait_s` and `on_wait` as for
    `writing`, `on_notices` as for `fetch_in_turn`. `on_failure` is called with what is wrong and
    does not end the fetch: an address that another one makes up for, a provider beside others.

    Raises:
        HashclientError: as `fetch_in_turn`; with several providers, the error of the highest exit
            code is raised after the others were tried.
        UsageError: a list in `only` is offered by none of them; a `copy` may be of any of several.
    """
    settings = session.settings
    received = Received()
    places = _places(settings, provider, copy, received)
    make_private_dir(settings.state_dir)
    worst: HashclientError | None = None
    unknown = set(only)
    with writing(settings.layout, wait_s=wait_s, on_wait=on_wait):
        session.sealer(create=not lists_on_disk(settings.layout.lists))
        for name, where in places.items():
            try:
                for fetched in fetch_in_turn(
                    session,
                    name,
                    where,
                    only,
                    rebuild=rebuild,
                    accept_churn=accept_churn,
                    progress=progress,
                    received=received.count,
                    on_failure=on_failure,
                    on_notices=on_notices,
                ):
                    unknown.discard(fetched.list_name)
                    yield fetched
            except HashclientError as error:
                if len(places) == 1:
                    raise
                # The worst is raised when the others were tried; each is reported once.
                if worst is None:
                    worst = error
                else:
                    lesser, worst = sorted((worst, error), key=lambda e: e.exit_code)
                    on_failure(lesser)
    if worst is not None:
        raise worst
    if unknown:
        raise UsageError(
            f"no list to fetch is called {printable(min(unknown))}",
            hint="`hashclient fetch` without --list names all that are offered",
        )


def _places(
    settings: Settings, provider: str | None, copy: Path | None, received: Received
) -> dict[str, list[Place]]:
    """Return from where the lists of each provider are fetched, in the order of their names."""
    names = [provider] if provider else sorted(settings.providers())
    if copy is not None:
        if len(names) > 1:
            raise UsageError(
                "which provider this is from is not said: there are several",
                hint=f"name one with --provider: {', '.join(names)}",
            )
        settings.provider(names[0])
        return {names[0]: [copy_at(copy)]}
    # Whose lists are brought by hand is not missed where others have an address.
    reached = [name for name in names if settings.provider(name).addresses] or names
    return {name: addresses(name, settings.provider(name), received.add) for name in reached}


class Received:
    """Counts the bytes that come, in several threads at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self, count: int) -> None:
        """Count `count` bytes more, or less if they were dropped."""
        with self._lock:
            self._count += count

    def count(self) -> int:
        """Return how many have come."""
        return self._count

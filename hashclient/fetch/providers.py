"""Fetching from all providers in turn, under one lock, with the failures on the way.

After a provider that fails, the others are still fetched. The error of a list is in the result of
the list; the error of a provider is raised after the others were tried. `turns` asks the addresses
of one provider one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from hashclient.config import Settings
from hashclient.errors import HashclientError, StateError, UsageError
from hashclient.fetch.fetcher import AS_USUAL, How, manifests_here
from hashclient.fetch.places import Place, addresses, copy_at
from hashclient.fetch.switch import Fetched
from hashclient.fetch.turns import fetch_in_turn
from hashclient.index.blinding import Sealer
from hashclient.index.open_lists import UNCONFIGURED_HINT, delegated_lists
from hashclient.index.reader import lists_on_disk
from hashclient.migrations.migrate import writing
from hashclient.session import Session
from hashclient.system.files import make_private_dir
from hashclient.system.layout import TARGETS_NAME
from hashclient.system.text import first_of, printable


def fetch_all(
    session: Session,
    only: Collection[str] = (),
    provider: str | None = None,
    how: How = AS_USUAL,
    *,
    copy: Path | None = None,
    wait_s: float = 0.0,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[Fetched]:
    """Yield the result for every list, or for those in `only`, of one provider or of all.

    With `copy`, the path of a bundle or a directory, the copy is read and no network is used.
    `wait_s` and `on_wait` are as for `writing`. `how.received` is not asked: what comes is counted
    here. `how.on_failure` is called with errors of an address after which the next one is asked, of
    one of several providers, and of a list whose provider is not in the configuration.

    Raises:
        HashclientError: as `fetch_in_turn`; with several providers, the error of the highest exit
            code is raised after the others were tried.
        UsageError: a list in `only` is offered by none of them; it is not known of which of several
        providers `copy` is.
    """
    settings = session.settings
    received = Received()
    how = msgspec.structs.replace(how, received=received.count)
    places = _places(settings, provider, copy, received)
    make_private_dir(settings.state_dir)
    worst: HashclientError | None = None
    unknown = set(only)
    with writing(settings.layout, wait_s=wait_s, on_wait=on_wait):
        sealer = session.sealer(create=not lists_on_disk(settings.layout.lists))
        if not only and provider is None and copy is None:
            for abandoned in _without_provider(settings, sealer):
                how.on_failure(abandoned)
        for name, where in places.items():
            try:
                for fetched in fetch_in_turn(session, name, where, only, how):
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
                    how.on_failure(lesser)
    if worst is not None:
        raise worst
    if unknown:
        raise UsageError(
            f"no list to fetch is called {printable(min(unknown))}",
            hint="; ".join(_offer(settings, name) for name in places),
        )


def _offer(settings: Settings, provider: str) -> str:
    """Return which lists a provider offers, whose metadata was verified just now."""
    names = delegated_lists(settings.layout.metadata(provider) / TARGETS_NAME)
    return f"provider {provider} offers: {first_of(sorted(names or ())) or 'none'}"


def _without_provider(settings: Settings, sealer: Sealer) -> Iterator[StateError]:
    """Yield an error for each list in use that cannot be fetched: its provider is not configured.

    Raises:
        StateError: a list may not be read.
    """
    for manifest in manifests_here(settings.layout.lists, sealer):
        if manifest.provider not in settings.config.providers:
            yield StateError(
                f"list {manifest.list} is in use and is not kept up to date: provider"
                f" {printable(manifest.provider)} is not configured",
                hint=UNCONFIGURED_HINT,
            )


def _places(
    settings: Settings, provider: str | None, copy: Path | None, received: Received
) -> dict[str, list[Place]]:
    """Return the places of each provider, in the order of the names of the providers."""
    names = [provider] if provider else sorted(settings.providers())
    if copy is not None:
        if len(names) > 1:
            raise UsageError(
                "which provider this is from is not said: there are several",
                hint=f"name one with --provider: {', '.join(names)}",
            )
        settings.provider(names[0])
        return {names[0]: [copy_at(copy)]}
    # A provider without an address is left out if others have one: its lists are brought by hand.
    reached = [name for name in names if settings.provider(name).addresses] or names
    return {name: addresses(name, settings.provider(name), received.add) for name in reached}


class Received:
    """Counts received bytes, in several threads at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self, count: int) -> None:
        """Count `count` bytes more, or less if they were dropped."""
        with self._lock:
            self._count += count

    def count(self) -> int:
        """Return how many bytes were received."""
        return self._count

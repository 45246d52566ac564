"""All providers in turn: what `fetch` does, under one lock, and whatever fails on the way.

A provider that cannot be fetched from keeps no other back. What is wrong with a single list comes
with that list; what is wrong with a provider is raised once the others were tried.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator

from hashclient.errors import HashclientError, UsageError
from hashclient.fetch.build import Progress
from hashclient.fetch.fetcher import Fetched, Fetcher
from hashclient.fetch.notices import OnNotices
from hashclient.index.reader import lists_on_disk
from hashclient.migrations.migrate import writing
from hashclient.net.client import Transport
from hashclient.net.settings import access_of, limits_of
from hashclient.session import Session
from hashclient.system.files import make_private_dir
from hashclient.system.text import printable
from hashclient.trust.tuf import Source


def fetch_all(
    session: Session,
    only: Collection[str] = (),
    provider: str | None = None,
    *,
    rebuild: bool = False,
    accept_churn: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
    on_failure: Callable[[HashclientError], None] = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
    on_notices: OnNotices = lambda _: None,
) -> Iterator[Fetched]:
    """Yield what becomes of every list, or of those in `only`, of one provider or of all.

    `progress`, `accept_churn`, `rebuild` and `on_notices` are as for `Fetcher`, `wait_s` and
    `on_wait` as for `writing`.

    Raises:
        HashclientError: as `Fetcher.fetch`; with several providers, the error of the highest exit
            code is raised after the others were tried, and `on_failure` is called with each other.
        UsageError: a list in `only` is offered by none of them.
    """
    settings = session.settings
    names = [provider] if provider else sorted(settings.providers())
    accesses = {name: access_of(settings.provider(name)) for name in names}
    make_private_dir(settings.state_dir)
    worst: HashclientError | None = None
    unknown = set(only)
    with writing(settings.layout, wait_s=wait_s, on_wait=on_wait):
        session.sealer(create=not lists_on_disk(settings.layout.lists))
        for name in names:
            try:
                received = Received()
                limits = limits_of(settings.provider(name))
                with Transport(accesses[name], limits=limits, on_bytes=received.add) as transport:
                    for fetched in fetch_from(
                        session,
                        name,
                        transport,
                        only,
                        rebuild=rebuild,
                        accept_churn=accept_churn,
                        progress=progress,
                        received=received.count,
                        on_notices=on_notices,
                    ):
                        unknown.discard(fetched.list_name)
                        yield fetched
            except HashclientError as error:
                if len(names) == 1:
                    raise
                # The worst is raised when the others were tried; each is told once.
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


def fetch_from(
    session: Session,
    name: str,
    source: Source,
    only: Collection[str] = (),
    *,
    rebuild: bool = False,
    accept_churn: bool = False,
    progress: Progress | None = None,
    received: Callable[[], int] = lambda: 0,
    on_notices: OnNotices = lambda _: None,
) -> Iterator[Fetched]:
    """Yield what becomes of every list of provider `name`, whose bytes `source` gives.

    The caller holds the writers' lock.

    Raises:
        HashclientError: as `Fetcher.fetch`.
    """
    fetcher = Fetcher(
        session,
        name,
        source,
        progress=progress,
        received=received,
        on_notices=on_notices,
        accept_churn=accept_churn,
        rebuild=rebuild,
    )
    yield from fetcher.fetch(frozenset(only))


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

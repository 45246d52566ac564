"""Where the files of a provider can be had: its addresses, in order, or a copy without a network.

Whatever comes from a place is verified in the same way, so any place will do; which one is asked,
and with which credential, is all that is decided here. `turns` goes through them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from hashclient.configfile.tables import ProviderConfig
from hashclient.errors import ConfigError, HashclientError
from hashclient.fetch.offline import BASE, open_copy
from hashclient.net.client import Access, Limits, Transport
from hashclient.net.settings import access_of, limits_of
from hashclient.system.text import printable
from hashclient.trust.tuf import Source


class Place(msgspec.Struct, frozen=True):
    """One place: `name` for people and the log, and the address that those of its files begin with.

    `open` connects to nothing yet, but reads what is needed to get in.
    """

    name: str
    base: str
    open: Callable[[], AbstractContextManager[Source]]


def addresses(
    name: str, provider: ProviderConfig, on_bytes: Callable[[int], None] | None = None
) -> list[Place]:
    """Return the addresses of provider `name`, in order; `on_bytes` counts what comes.

    Raises:
        ConfigError: it has none, or the settings of one contradict each other.
    """
    if not provider.addresses:
        raise ConfigError(
            f"provider {name} has no address",
            hint="`hashclient fetch --from` reads what it exported; or set `url` in its table",
        )
    # All of them are looked at, lest one be found wrong when it is needed.
    accesses = [access_of(url, config) for url, config in provider.addresses]
    places = []
    for number, access in enumerate(accesses, 1):
        limits = limits_of(provider, has_another=number < len(accesses))

        def connect(access: Access = access, limits: Limits = limits) -> Transport:
            return Transport(access, limits=limits, on_bytes=on_bytes)

        places.append(Place(access.url, access.url, connect))
    return places


def copy_at(path: Path) -> Place:
    """Return the place that a bundle or a directory at `path` is."""
    path = path.absolute()
    return Place(printable(path), BASE, lambda: open_copy(path))


class TimedSource:
    """A source that knows how long the request has taken that failed last, in seconds."""

    def __init__(self, source: Source, monotonic: Callable[[], float]) -> None:
        """Watch `source`."""
        self._source = source
        self._monotonic = monotonic
        self.failed_s = 0.0

    def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
        """Return what the source gives."""
        started = self._monotonic()
        try:
            return self._source.get(url, max_bytes, expected_bytes=expected_bytes)
        except HashclientError:
            self.failed_s = self._monotonic() - started
            raise

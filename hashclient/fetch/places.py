"""The places of a provider's files: the addresses of the provider, in order, or a copy on a disk.

Bytes from every place are verified in the same way, so all places are equally trusted. This module
only decides which places a provider has, and which credential each place gets. `providers` asks the
places in order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from hashclient.audit.log import AuditLog, Event
from hashclient.config.tables import AccessConfig, ProviderConfig
from hashclient.core.errors import ConfigError, HashclientError
from hashclient.lists.offline import BASE, open_copy
from hashclient.net.client import Access, Limits, Transport, access_of, limits_of
from hashclient.net.peer import EXPORTER, PROVIDER, Peer
from hashclient.system.text import printable
from hashclient.trust.tuf import Source


class Place(msgspec.Struct, frozen=True):
    """A place with files of a provider.

    `name`: the name of the place in messages and in the log. `base`: the beginning of the addresses
    of the files.

    `open`: a function that reads the credential, but does not connect yet.
    """

    name: str
    base: str
    open: Callable[[], AbstractContextManager[Source]]


def addresses(
    name: str,
    provider: ProviderConfig,
    on_bytes: Callable[[int], None] | None = None,
    peer: Peer = PROVIDER,
) -> list[Place]:
    """Return the addresses of provider `name`, in order; `on_bytes` counts received bytes.

    `peer` is the name of the provider in messages.

    Raises:
        ConfigError: no address is configured, or settings of an address contradict each other.
    """
    if not provider.addresses:
        raise ConfigError(
            f"provider {name} has no address",
            hint="use `hashclient fetch --from` with an exported file, or set `url` in the table "
            "of the provider",
        )
    # All addresses are checked before the first is used, because a wrong address would otherwise be
    # noticed only when it is used.
    accesses = [access_of(url, config, peer) for url, config in provider.addresses]
    places = []
    for number, access in enumerate(accesses, 1):
        limits = limits_of(provider, has_another=number < len(accesses))

        def connect(access: Access = access, limits: Limits = limits) -> Transport:
            return Transport(access, limits=limits, on_bytes=on_bytes)

        places.append(Place(access.url, access.url, connect))
    return places


def read_address(url: str, access: AccessConfig, max_bytes: int) -> bytes:
    """Return the bytes at an address that a command names.

    Raises:
        ConfigError: `url` is not an https address, or a file of `access` cannot be used.
        UnreachableError, AuthorisationError, VerificationError: `Transport.get` has failed.
    """
    with Transport(access_of(url, access, EXPORTER)) as transport:
        return transport.get(url, max_bytes)


def copy_at(path: Path) -> Place:
    """Return the bundle or the directory at `path` as a place."""
    path = path.absolute()
    return Place(printable(path), BASE, lambda: open_copy(path))


def log_refusal(
    audit: AuditLog, provider: str, list_name: str | None, error: HashclientError, source: str
) -> None:
    """Log why a provider or a list was refused, and the place from which it came.

    Raises:
        AuditError: the log cannot be written.
    """
    data = {
        "provider": provider,
        "list": list_name,
        "exit_code": int(error.exit_code),
        "reason": error.message,
        "source": source,
    }
    audit.append([Event("refused", data)], durable=True)


class TimedSource:
    """A source that measures the duration of the last failed request, in seconds."""

    def __init__(self, source: Source, monotonic: Callable[[], float]) -> None:
        """Measure the requests to `source`."""
        self._source = source
        self._monotonic = monotonic
        self.failed_s = 0.0

    def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
        """Request `url` from the source, and measure the time if the request fails."""
        started = self._monotonic()
        try:
            return self._source.get(url, max_bytes, expected_bytes=expected_bytes)
        except HashclientError:
            self.failed_s = self._monotonic() - started
            raise

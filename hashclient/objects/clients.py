"""The common part of all clients of a store: limits of time, retries, metadata, errors of obstore.

obstore and botocore are given the same limits here, so that it does not matter which of them
makes a request.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import msgspec

from hashclient.core.version import __version__
from hashclient.objects.failures import CHANGED, StoreError, Trouble, of_obstore

#: How often a failed request is made again, and for how long in all.
RETRIES = 4
RETRY_S = 60
#: How long one request may take.
TIMEOUT_S = 60
CONNECT_S = 10
#: How often credentials are asked for again; botocore renews them before they expire.
CREDENTIALS_S = 300

#: Bytes that are handed on at a time.
CHUNK_BYTES = 1 << 18

#: Keys that obstore returns unchanged: no part is empty or a dot, and all characters are printable.
_PART = r"(?!\.{1,2}(?:/|\Z))[^/\x00-\x1f\x7f]+"
_PLAIN = re.compile(f"{_PART}(?:/{_PART})*")

#: Is called with bytes as they come.
Sink = Callable[[memoryview], None]


class Seen(msgspec.Struct, frozen=True):
    """The metadata of an object in its store; `size` is in bytes."""

    size: int
    etag: str | None
    version: str | None


def is_plain(key: str) -> bool:
    """Return whether obstore can name a key."""
    return _PLAIN.fullmatch(key) is not None


def quoted(etag: str | None) -> str | None:
    """Return an ETag in quotes: some stores leave the quotes out of their listings only."""
    if etag is None or etag.startswith(('"', "W/")):
        return etag or None
    return f'"{etag}"' if etag else None


def verify_etag(seen: Seen, etag: str | None) -> None:
    """Check that an object is the wanted one, also if its store ignores conditions.

    Raises:
        StoreError: it is another one.
    """
    if etag is not None and seen.etag != etag:
        raise StoreError(Trouble.CHANGED, CHANGED)


def client_options(*, allow_http: bool) -> dict[str, Any]:
    """Return the options of obstore's clients; `allow_http` is for stores without TLS."""
    return {
        "allow_http": allow_http,
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=TIMEOUT_S),
        "user_agent": f"hashclient/{__version__}",
    }


def retries() -> dict[str, Any]:
    """Return how obstore makes a request again that has failed."""
    backoff = {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5)}
    return {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": {**backoff, "base": 2},
    }


@contextlib.contextmanager
def obstore_errors() -> Iterator[None]:
    """Translate errors of obstore, some of which are Python's own."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise of_obstore(error) from None

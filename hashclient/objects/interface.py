"""The interface of all stores: a bucket that is read in ranges, limits of time, metadata.

A store is opened before its first request. Many threads may use a store at once. botocore and
obstore have the same limits of time and the same number of attempts; no other module repeats a
request. No module of this package keeps or shows credentials.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import msgspec

from hashclient.core.objecturi import Scheme
from hashclient.objects.failures import CHANGED, StoreError, Trouble, missing_extra

#: How often a failed request is made again, and for how long in all.
RETRIES = 4
RETRY_S = 60
#: How long one request may take.
TIMEOUT_S = 60
CONNECT_S = 10
#: Bytes that are passed on at a time.
CHUNK_BYTES = 1 << 18

#: Called with bytes as they arrive.
Sink = Callable[[memoryview], Any]


class Seen(msgspec.Struct, frozen=True):
    """The metadata of an object in its store; `size` is in bytes."""

    size: int
    etag: str | None
    version: str | None


class Store(ABC):
    """A bucket in a store.

    Each call raises `UsageError` if a library is not installed. It raises `StoreError` if no
    credentials are found, if the configuration cannot be used, or if the store fails.
    """

    def __init__(self, scheme: Scheme, bucket: str) -> None:
        """Nothing is looked up yet."""
        self.scheme = scheme
        self.bucket = bucket
        self._lock = threading.Lock()
        self._client: Any = None

    @property
    def text(self) -> str:
        """The URI of the bucket, without a slash at its end."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def client(self) -> Any:
        """The client, with the credentials and the endpoint that its library finds."""
        with self._lock:  # several threads may make the first call at once
            if self._client is None:
                try:
                    self._client = self._open()
                except ImportError as error:
                    raise missing_extra(error) from error
            return self._client

    @abstractmethod
    def _open(self) -> Any:
        """Return the client."""

    @property
    @abstractmethod
    def namespace(self) -> str:
        """A text that distinguishes this bucket from other buckets of the same name."""

    @abstractmethod
    def head(self, key: str, version: str | None) -> Seen:
        """Return the metadata of an object."""

    @abstractmethod
    def read(
        self,
        key: str,
        span: tuple[int, int] | None,
        sink: Sink,
        *,
        etag: str | None = None,
        version: str | None = None,
    ) -> Seen:
        """Pass on the bytes in a `span` of an object that has this ETag and version, if given.

        A span of None means the whole object: not every store accepts the whole length as a range.
        The caller counts the bytes. If the object has changed, the call raises an error.
        """

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write an object in one step: readers see the old or the new object."""


def quoted(etag: str | None) -> str | None:
    """Return an ETag in quotes: some stores leave the quotes out of their listings only."""
    if etag is None or etag.startswith(('"', "W/")):
        return etag or None
    return f'"{etag}"' if etag else None


def condition(etag: str | None) -> str | None:
    """Return an ETag to use as a condition; None for a weak ETag, which never matches."""
    return None if etag is None or etag.startswith("W/") else etag


def verify_etag(seen: Seen, etag: str | None) -> None:
    """Check that an object is the wanted object, even if its store ignores conditions.

    Raises:
        StoreError: it is another object.
    """
    if etag is not None and seen.etag != etag:
        raise StoreError(Trouble.CHANGED, CHANGED)

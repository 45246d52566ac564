"""The interface of all object stores, with limits of time and the metadata of an object.

A `Store` opens its client at the first request. Many threads may use a store at once. The libraries
botocore and obstore get the same timeouts and the same number of attempts. Only these libraries
repeat requests. No module of the package `objects` stores or shows credentials.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import msgspec

from hashclient.core.objecturi import Scheme
from hashclient.objects.failures import CHANGED, StoreError, Trouble, missing_extra

#: `RETRIES`: how often a failed request is repeated; `RETRY_S`: the seconds after which obstore
#: does not repeat a request any more (botocore has no such limit).
RETRIES = 4
RETRY_S = 60
#: `TIMEOUT_S`: how long an answer may take, in seconds; `CONNECT_S`: how long a connection may take
#: to open, in seconds.
TIMEOUT_S = 60
CONNECT_S = 10
#: The size of the chunks that are passed to a `Sink`, in bytes.
CHUNK_BYTES = 1 << 18

#: The version in S3 of an object that was stored without versioning. Another object that is stored
#: without versioning gets the same version.
NO_VERSION = "null"

#: Called with each chunk of bytes when the chunk arrives.
Sink = Callable[[memoryview], Any]


class Seen(msgspec.Struct, frozen=True):
    """The metadata of an object in its store; `size` is in bytes."""

    size: int
    etag: str | None
    version: str | None


class Store(ABC):
    """A bucket in an object store.

    Each method raises `UsageError` if a library that the store needs is not installed. Each method
    raises `StoreError` if no credentials are found, if the configuration is invalid, or if the
    store fails.
    """

    def __init__(self, scheme: Scheme, bucket: str) -> None:
        """Remember the name of the bucket; send no request to the store."""
        self.scheme = scheme
        self.bucket = bucket
        self._lock = threading.Lock()
        self._client: Any = None

    @property
    def text(self) -> str:
        """The URI of the bucket, without a slash at its end."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def sorts_by_bytes(self) -> bool:
        """Whether a listing has the order of the bytes of keys; Azure has another order."""
        return self.scheme != "az"

    @property
    def client(self) -> Any:
        """The client object of botocore or obstore, which finds the credentials and endpoint."""
        with self._lock:  # several threads may open the client at the same time
            if self._client is None:
                try:
                    self._client = self._open()
                except ImportError as error:
                    raise missing_extra(error) from error
            return self._client

    @abstractmethod
    def _open(self) -> Any:
        """Create and return the client."""

    @property
    @abstractmethod
    def namespace(self) -> str:
        """A text that differs for buckets of the same name in different stores."""

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
        """Pass the bytes in the range `span` of an object to `sink`.

        `etag` and `version`, if given, must be the ETag and the version of the object.

        `span` is (start, stop); None means the whole object, because some stores do not accept the
        whole length as a range. The caller checks the number of bytes. If the object has another
        ETag than `etag`, the method raises `StoreError`.
        """

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write an object in one step, so that readers see either the old or the new object."""


def quoted(etag: str | None) -> str | None:
    """Return an ETag in quotes, because some stores leave out the quotes in listings.

    Return None for an empty ETag, because the store gives it to all of its objects.
    """
    if not etag or etag == '""':
        return None
    return etag if etag.startswith(('"', "W/")) else f'"{etag}"'


def condition(etag: str | None) -> str | None:
    """Return an ETag for the header `If-Match`; None for a weak ETag, which never matches."""
    return None if etag is None or etag.startswith("W/") else etag


def verify_etag(seen: Seen, etag: str | None) -> None:
    """Check that an object has the wanted ETag, because some stores ignore `If-Match`.

    Raises:
        StoreError: the object has another ETag.
    """
    if etag is not None and seen.etag != etag:
        raise StoreError(Trouble.CHANGED, CHANGED)

"""One bucket, open: ranges of its objects are read, and it is listed.

obstore does nearly all of it. Keys of S3 that it cannot name (`a//b`, `../up`, a line end in a
key), versions and deletions go through botocore (`s3`), which also finds the credentials of S3,
unless the environment alone has them (`environment`). obstore finds those of the other stores. This
module neither keeps nor shows credentials. A store may be used by many threads at once.

Limit: keys of Google and Azure that obstore cannot name are listed (`exact`), and not read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from hashclient.core.objecturi import ObjectUri, Scheme
from hashclient.objects.clients import (
    CHUNK_BYTES,
    Seen,
    Sink,
    client_options,
    is_plain,
    obstore_errors,
    quoted,
    retries,
    verify_etag,
)
from hashclient.objects.environment import Settings, read_settings
from hashclient.objects.failures import missing_extra, of_obstore
from hashclient.objects.s3 import S3

#: Variables that name an endpoint of the other stores; a test endpoint may have no TLS.
_ENDPOINTS = ("GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")


class Store:
    """A bucket; credentials and endpoint are looked up before the first request.

    Each call raises `UsageError` if a library is not installed, and `StoreError` if there are no
    credentials, or if the configuration cannot be used.
    """

    def __init__(self, scheme: Scheme, bucket: str) -> None:
        """Nothing is looked up yet."""
        self.scheme = scheme
        self.bucket = bucket
        self._lock = threading.RLock()
        self._store: Any = None
        self._settings: Settings | None = None
        self._s3: S3 | None = None

    @property
    def text(self) -> str:
        """The URI of the bucket, without a slash at its end."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def store(self) -> Any:
        """The bucket for obstore."""
        with self._lock:  # several threads may come first at once
            if self._store is None:
                try:
                    self._store = self._open()
                except ImportError as error:
                    raise missing_extra(error) from error
            return self._store

    def _open(self) -> Any:
        if self.scheme != "s3":
            return _open_other(self.scheme, self.bucket)
        self._settings = read_settings()
        return (self._settings or self._need_s3()).open(self.bucket)

    @property
    def s3(self) -> S3 | None:
        """The bucket for botocore, which is loaded now; None if the store is not S3."""
        return None if self.scheme != "s3" else self._need_s3()

    def _need_s3(self) -> S3:
        with self._lock:
            if self._s3 is None:
                try:
                    self._s3 = S3(self.bucket)
                except ImportError as error:
                    raise missing_extra(error) from error
            return self._s3

    @property
    def namespace(self) -> str:
        """A text that differs from that of a bucket of the same name elsewhere."""
        if self.scheme == "s3":
            _ = self.store
            endpoint = (self._settings or self._need_s3()).endpoint
            return f"s3 {endpoint or ''} {self.bucket}"
        account = self.store.config.get("account_name", "") if self.scheme == "az" else ""
        return f"{self.scheme} {_endpoint() or account} {self.bucket}"

    @property
    def endpoint(self) -> str:
        """The URL of a store of Google or Azure."""
        if self.scheme == "gs":
            return _endpoint() or "https://storage.googleapis.com"
        account = self.store.config.get("account_name", "")
        return _endpoint() or f"https://{account}.blob.core.windows.net"

    def has_leading_slash(self) -> bool:
        """Return whether some key of a bucket of S3 begins with a slash.

        Raises:
            StoreError: the store failed.
        """
        _ = self.store
        if self._settings is not None:
            found = self._settings.has_leading_slash(self.bucket)
            if found is not None:
                return found
        return bool(self._need_s3().call("list_objects_v2", Prefix="/", MaxKeys=1).get("KeyCount"))

    def head(self, uri: ObjectUri) -> Seen:
        """Return the metadata of an object.

        Raises:
            StoreError: it is not there, or cannot be asked for.
        """
        if is_plain(uri.key):
            with obstore_errors():
                import obstore

                options = _options(None, uri.version) | {"head": True}
                meta = obstore.get(self.store, uri.key, options=options).meta
                return Seen(meta["size"], quoted(meta["e_tag"]), meta["version"])
        return self._other(uri.key).head(uri.key, uri.version)

    def read(
        self,
        key: str,
        start: int,
        stop: int,
        sink: Sink,
        *,
        etag: str | None = None,
        version: str | None = None,
        is_all: bool = False,
    ) -> Seen:
        """Give bytes `start` to `stop` of an object that has this ETag and version, if given.

        The caller counts the bytes. With `is_all`, these are all bytes of the object: not every
        store accepts that as a range.

        Raises:
            StoreError: it is another one now, or cannot be read.
        """
        span = None if is_all else (start, stop)
        if not is_plain(key):
            return self._other(key).read(key, span, sink, etag=etag, version=version)
        with obstore_errors():
            import obstore

            options = _options(etag, version) | ({} if span is None else {"range": span})
            got = obstore.get(self.store, key, options=options)
            meta = got.meta
            seen = Seen(meta["size"], quoted(meta["e_tag"]), meta["version"])
            verify_etag(seen, etag)
            for chunk in got.stream(min_chunk_size=CHUNK_BYTES):
                sink(memoryview(chunk))
        return seen

    def _other(self, key: str) -> S3:
        if (s3 := self.s3) is None:
            raise of_obstore(ValueError(key))
        return s3


def _open_other(scheme: Scheme, bucket: str) -> Any:
    from obstore.store import AzureStore, GCSStore

    endpoint = _endpoint()
    options = client_options(allow_http=(endpoint or "").startswith("http://"))
    make: Callable[..., Any] = GCSStore if scheme == "gs" else AzureStore
    with obstore_errors():
        return make(bucket, client_options=options, retry_config=retries())


def _endpoint() -> str | None:
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)


def _options(etag: str | None, version: str | None) -> Any:
    options: dict[str, Any] = {}
    if etag is not None and not etag.startswith("W/"):  # a weak one never matches
        options["if_match"] = etag
    if version is not None:
        options["version"] = version
    return options

"""Buckets of Google and Azure: obstore lists and reads them, and finds the credentials."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from hashclient.objects import ranges
from hashclient.objects.interface import Seen, Sink, Store

#: The number of objects in a page, which is the most that a store returns at a time.
PAGE_OBJECTS = 1_000
#: The environment variable that names an endpoint, by URI scheme; a test endpoint may have no TLS.
_ENDPOINTS = {
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
#: The environment variable from which obstore reads the name of the Azure account. This module
#: reads the variable itself, because obstore does not report the name.
_ACCOUNT = "AZURE_STORAGE_ACCOUNT_NAME"


class Other(Store):
    """A bucket of Google, or a container of Azure."""

    def _open(self) -> Any:
        return self.open_at(None)

    def open_at(self, endpoint: str | None, **options: Any) -> Any:
        """Return obstore's client for the bucket, by default at the store's usual endpoint."""
        name = "base_url" if self.scheme == "gs" else "endpoint"
        config = {} if endpoint is None else {"config": {name: endpoint}}
        is_http = (endpoint or self._endpoint or "").startswith("http://")
        return ranges.open_bucket(self.scheme, self.bucket, config, is_http=is_http, **options)

    @property
    def namespace(self) -> str:
        """A text that differs for buckets of the same name in different stores."""
        return f"{self.scheme} {self._endpoint or self._account} {self.bucket}"

    @property
    def endpoint(self) -> str:
        """The URL of the store."""
        google, azure = "storage.googleapis.com", f"{self._account}.blob.core.windows.net"
        return self._endpoint or f"https://{google if self.scheme == 'gs' else azure}"

    @property
    def _endpoint(self) -> str | None:
        names = _ENDPOINTS[self.scheme]
        return next((os.environ[name] for name in names if os.environ.get(name)), None)

    @property
    def _account(self) -> str:
        return os.environ.get(_ACCOUNT, "") if self.scheme == "az" else ""

    def head(self, key: str, version: str | None) -> Seen:
        """Return the metadata of an object."""
        return ranges.head(self.client, key, version)

    def read(
        self,
        key: str,
        span: tuple[int, int] | None,
        sink: Sink,
        *,
        etag: str | None = None,
        version: str | None = None,
    ) -> Seen:
        """Pass on bytes of an object; see `Store.read`."""
        return ranges.read(self.client, key, span, sink, etag=etag, version=version)

    def put(self, key: str, data: bytes) -> None:
        """Write an object; see `Store.put`."""
        ranges.put(self.client, key, data)


def listed(bucket: Any, prefix: str, after: str | None) -> Iterator[Any]:
    """Yield the pages of obstore's listing; `bucket` is obstore's client.

    Raises:
        StoreError: the store failed, or has a key that obstore cannot name.
    """
    import obstore
    import pyarrow as pa

    from hashclient.objects.pages import page_of_columns

    with ranges.errors():
        for found in obstore.list(
            bucket, prefix or None, offset=after, chunk_size=PAGE_OBJECTS, return_arrow=True
        ):
            batch = pa.record_batch(found)
            if not batch.num_rows:
                continue
            names = {"key": "path", "size": "size", "etag": "e_tag", "version": "version"}
            columns = {name: batch.column(theirs) for name, theirs in names.items()}
            yield page_of_columns(batch.num_rows, **columns)

"""Reads ranges of objects in any store by the library obstore, much faster than by botocore.

Limit: obstore can neither list nor read a key if one of the parts between its slashes is empty, `.`
or `..`. obstore drops a slash at the beginning or the end of a key.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from hashclient.core.objecturi import Scheme
from hashclient.core.version import __version__
from hashclient.objects.failures import NAME, StoreError, Trouble, of_obstore
from hashclient.objects.interface import (
    CHUNK_BYTES,
    CONNECT_S,
    RETRIES,
    RETRY_S,
    TIMEOUT_S,
    Seen,
    Sink,
    condition,
    quoted,
    verify_etag,
)

#: Matches keys that obstore returns unchanged: no part between slashes is empty, `.` or `..`, and
#: no character is a control character.
_PART = r"(?!\.{1,2}(?:/|\Z))[^/\x00-\x1f\x7f]+"
_PLAIN = re.compile(f"{_PART}(?:/{_PART})*")


def is_plain(key: str) -> bool:
    """Return whether obstore can represent a key, so that it returns the key unchanged."""
    return _PLAIN.fullmatch(key) is not None


def open_bucket(
    scheme: Scheme, bucket: str, config: dict[str, Any], *, is_http: bool, **options: Any
) -> Any:
    """Return obstore's client for a bucket.

    `config` contains settings for obstore, in addition to the settings that obstore finds in the
    environment. With `is_http`, the endpoint has no TLS; `options` are options for obstore's HTTP
    client.

    Raises:
        StoreError: the bucket cannot be opened.
    """
    from obstore import store

    make: Any = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}[scheme]
    client = {
        "allow_http": is_http,
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=TIMEOUT_S),
        "user_agent": f"hashclient/{__version__}",
    }
    backoff = {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5)}
    retry = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": {**backoff, "base": 2},
    }
    with errors():
        return make(bucket, **config, client_options=client | options, retry_config=retry)


def head(bucket: Any, key: str, version: str | None) -> Seen:
    """Return the metadata of an object.

    Raises:
        StoreError: the object does not exist, or cannot be requested.
    """
    return _seen(_get(bucket, key, version=version, head=True))


def read(
    bucket: Any,
    key: str,
    span: tuple[int, int] | None,
    sink: Sink,
    *,
    etag: str | None,
    version: str | None,
) -> Seen:
    """Pass the bytes of an object in the range `span`, or of the whole object, to `sink`.

    See `Store.read`.

    Raises:
        StoreError: the object has changed, or cannot be read.
    """
    got = _get(bucket, key, if_match=condition(etag), version=version, range=span)
    seen = _seen(got)
    verify_etag(seen, etag)
    with errors():
        for chunk in got.stream(min_chunk_size=CHUNK_BYTES):
            sink(memoryview(chunk))
    return seen


def put(bucket: Any, key: str, data: bytes) -> None:
    """Write an object.

    Raises:
        StoreError: the store failed, or obstore cannot represent the key.
    """
    import obstore

    if not is_plain(key):
        raise StoreError(Trouble.NAME, NAME)
    with errors():
        obstore.put(bucket, key, data)


def _get(bucket: Any, key: str, **options: Any) -> Any:
    import obstore

    if not is_plain(key):
        raise StoreError(Trouble.NAME, NAME)
    given: Any = {name: value for name, value in options.items() if value is not None}
    with errors():
        return obstore.get(bucket, key, options=given)


def _seen(got: Any) -> Seen:
    return Seen(got.meta["size"], quoted(got.meta["e_tag"]), got.meta["version"])


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Translate errors of obstore to `StoreError`; some errors have Python's own classes."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise of_obstore(error) from None

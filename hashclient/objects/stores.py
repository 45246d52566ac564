"""One bucket, open: ranges of its objects are read, and it is listed.

obstore does nearly all of it. Keys of S3 that it cannot name (`a//b`, `../up`, a line end in a
key), versions and deletions go through botocore, which also finds the credentials of S3 in their
usual places: variables, profiles, single sign-on, roles of a machine. obstore finds those of the
other stores. This module neither keeps nor shows credentials. A store may be used by many threads
at once.

Limit: keys of Google and Azure that obstore cannot name are not read.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from hashclient import __version__
from hashclient.core.objecturi import ObjectUri, Scheme
from hashclient.objects.failures import (
    CHANGED,
    NO_CREDENTIALS,
    StoreError,
    Trouble,
    missing_extra,
    of_botocore,
    of_obstore,
)

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
#: Endpoints of Amazon itself, and those that obstore finds by the region alone.
_AMAZON = re.compile(r"https://[a-z0-9.-]+\.amazonaws\.com(?:\.cn)?")
_USUAL = re.compile(r"https://s3(?:\.[a-z0-9-]+)?\.amazonaws\.com")
#: Variables that name an endpoint of the other stores; a test endpoint may have no TLS.
_ENDPOINTS = ("GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
_YES = frozenset({"1", "true", "yes", "on"})


#: Is called with bytes as they come.
Sink = Callable[[memoryview], None]


class Seen(msgspec.Struct, frozen=True):
    """The metadata of an object in its store; `size` is in bytes."""

    size: int
    etag: str | None
    version: str | None


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
        self._opened: tuple[Any, S3 | None] | None = None

    @property
    def text(self) -> str:
        """The URI of the bucket, without a slash at its end."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def store(self) -> Any:
        """The bucket for obstore."""
        return self._open()[0]

    @property
    def s3(self) -> S3 | None:
        """The bucket for botocore; None if the store is not S3."""
        return None if self.scheme != "s3" else self._open()[1]

    @property
    def namespace(self) -> str:
        """A text that differs from that of a bucket of the same name elsewhere."""
        if (s3 := self.s3) is not None:
            return f"s3 {s3.endpoint or ''} {self.bucket}"
        account = self.store.config.get("account_name", "") if self.scheme == "az" else ""
        return f"{self.scheme} {_endpoint() or account} {self.bucket}"

    def _open(self) -> tuple[Any, S3 | None]:
        with self._lock:  # several threads may come first at once
            if self._opened is None:
                try:
                    s3 = S3(self.bucket) if self.scheme == "s3" else None
                    store = _open_other(self.scheme, self.bucket) if s3 is None else s3.store()
                except ImportError as error:
                    raise missing_extra(error) from error
                self._opened = store, s3
            return self._opened

    def head(self, uri: ObjectUri) -> Seen:
        """Return the metadata of an object.

        Raises:
            StoreError: it is not there, or cannot be asked for.
        """
        if _is_plain(uri.key):
            with _obstore_errors():
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
        if not _is_plain(key):
            return self._other(key).read(key, span, sink, etag=etag, version=version)
        with _obstore_errors():
            import obstore

            options = _options(etag, version) | ({} if span is None else {"range": span})
            got = obstore.get(self.store, key, options=options)
            meta = got.meta
            seen = Seen(meta["size"], quoted(meta["e_tag"]), meta["version"])
            _verify_etag(seen, etag)
            for chunk in got.stream(min_chunk_size=CHUNK_BYTES):
                sink(memoryview(chunk))
        return seen

    def _other(self, key: str) -> S3:
        if (s3 := self.s3) is None:
            raise of_obstore(ValueError(key))
        return s3


class S3:
    """A bucket of S3 for botocore."""

    def __init__(self, bucket: str) -> None:
        """Find credentials, region and endpoint as botocore does.

        Raises:
            StoreError: there are none, or they cannot be used.
        """
        import botocore
        import botocore.config
        import botocore.session

        self.bucket = bucket
        unsigned = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in _YES
        options: dict[str, Any] = {"signature_version": botocore.UNSIGNED} if unsigned else {}
        config = botocore.config.Config(
            connect_timeout=CONNECT_S,
            read_timeout=TIMEOUT_S,
            retries={"total_max_attempts": RETRIES + 1, "mode": "standard"},
            user_agent_extra=f"hashclient/{__version__}",
            **options,
        )
        with _botocore_errors():
            session = botocore.session.get_session()
            self._credentials = None if unsigned else session.get_credentials()
            if self._credentials is None and not unsigned:
                raise StoreError(Trouble.OTHER, NO_CREDENTIALS)
            region = session.get_config_variable("region") or "us-east-1"
            self.client: Any = session.create_client("s3", region_name=region, config=config)
        self.region: str = self.client.meta.region_name
        given: str = self.client.meta.endpoint_url
        self.is_amazon = _AMAZON.fullmatch(given) is not None
        self.endpoint = None if _USUAL.fullmatch(given) else given
        if self.endpoint is None:
            # The bucket is asked for its region; without permission to ask, the configured one is
            # used.
            with contextlib.suppress(StoreError), _botocore_errors():
                found = self.client.head_bucket(Bucket=bucket).get("BucketRegion")
                self.region = found or self.region

    def store(self) -> Any:
        """Return the same bucket for obstore.

        Raises:
            StoreError: it cannot be opened.
        """
        from obstore.store import S3Store

        make: Callable[..., Any] = S3Store
        config: dict[str, Any] = {"region": self.region}
        if self.endpoint is not None:
            config["endpoint"] = self.endpoint
        if self._credentials is None:
            config["skip_signature"] = True
        provider = None if self._credentials is None else _Credentials(self._credentials)
        is_http = (self.endpoint or "").startswith("http://")
        with _obstore_errors():
            return make(
                self.bucket,
                config=config,
                credential_provider=provider,
                client_options=_client_options(allow_http=is_http),
                retry_config=_retries(),
            )

    def head(self, key: str, version: str | None) -> Seen:
        """Return the metadata of an object.

        Raises:
            StoreError: it is not there, or cannot be asked for.
        """
        with _botocore_errors():
            got = self.client.head_object(**self._named(key, version))
        return Seen(got["ContentLength"], quoted(got.get("ETag")), got.get("VersionId"))

    def read(
        self,
        key: str,
        span: tuple[int, int] | None,
        sink: Sink,
        *,
        etag: str | None,
        version: str | None,
    ) -> Seen:
        """Give the bytes of an object in a `span`, or all of them.

        Raises:
            StoreError: it is another one now, or cannot be read.
        """
        options = {} if etag is None or etag.startswith("W/") else {"IfMatch": etag}
        if span is not None:
            options["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        with _botocore_errors():
            got = self.client.get_object(**self._named(key, version), **options)
            size = int(got.get("ContentRange", "").rpartition("/")[2] or got["ContentLength"])
            seen = Seen(size, quoted(got.get("ETag")), got.get("VersionId"))
            with contextlib.closing(got["Body"]) as body:
                _verify_etag(seen, etag)
                while chunk := body.read(CHUNK_BYTES):
                    sink(memoryview(chunk))
        return seen

    def _named(self, key: str, version: str | None) -> dict[str, str]:
        # A lone surrogate is no character: botocore would fail later.
        key.encode()
        named = {"Bucket": self.bucket, "Key": key}
        return named if version is None else named | {"VersionId": version}

    def call(self, operation: str, **arguments: Any) -> Any:
        """Call an operation of S3 on this bucket and return the answer.

        Raises:
            StoreError: it failed.
        """
        with _botocore_errors():
            return getattr(self.client, operation)(Bucket=self.bucket, **arguments)


class _Credentials:
    """Gives obstore the current credentials of botocore."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self._lock = threading.Lock()

    def __call__(self) -> dict[str, Any]:
        with self._lock:
            frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=CREDENTIALS_S),
        }


def quoted(etag: str | None) -> str | None:
    """Return an ETag in quotes: some stores leave the quotes out of their listings only."""
    if etag is None or etag.startswith(('"', "W/")):
        return etag or None
    return f'"{etag}"' if etag else None


def _is_plain(key: str) -> bool:
    return _PLAIN.fullmatch(key) is not None


def _verify_etag(seen: Seen, etag: str | None) -> None:
    """Check that an object is the wanted one, also if its store ignores conditions.

    Raises:
        StoreError: it is another one.
    """
    if etag is not None and seen.etag != etag:
        raise StoreError(Trouble.CHANGED, CHANGED)


def _open_other(scheme: Scheme, bucket: str) -> Any:
    from obstore.store import AzureStore, GCSStore

    endpoint = _endpoint()
    options = _client_options(allow_http=(endpoint or "").startswith("http://"))
    make: Callable[..., Any] = GCSStore if scheme == "gs" else AzureStore
    with _obstore_errors():
        return make(bucket, client_options=options, retry_config=_retries())


def _endpoint() -> str | None:
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)


def _client_options(*, allow_http: bool) -> dict[str, Any]:
    return {
        "allow_http": allow_http,
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=TIMEOUT_S),
        "user_agent": f"hashclient/{__version__}",
    }


def _retries() -> dict[str, Any]:
    backoff = {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5)}
    return {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": {**backoff, "base": 2},
    }


def _options(etag: str | None, version: str | None) -> Any:
    options: dict[str, Any] = {}
    if etag is not None and not etag.startswith("W/"):  # a weak one never matches
        options["if_match"] = etag
    if version is not None:
        options["version"] = version
    return options


@contextlib.contextmanager
def _obstore_errors() -> Iterator[None]:
    """Translate errors of obstore, some of which are Python's own."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise of_obstore(error) from None


@contextlib.contextmanager
def _botocore_errors() -> Iterator[None]:
    """Translate errors of botocore and of its libraries."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        yield
    except (BotoCoreError, ClientError, HTTPClientError, OSError, ValueError) as error:
        raise of_botocore(error) from None

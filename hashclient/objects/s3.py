"""One bucket of S3 for botocore, which knows all that obstore does not.

botocore finds credentials, region and endpoint where AWS's own tools do: variables, profiles,
single sign-on, roles of a machine. It lists and reads keys that obstore cannot name, and knows
versions, deletions and holds. This module neither keeps nor shows credentials.

Limits: to load botocore takes a fifth of a second of a processor, and some 25 MB. So it is loaded
when one of these is needed, and not before.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from hashclient.core.version import __version__
from hashclient.objects.clients import (
    CHUNK_BYTES,
    CONNECT_S,
    CREDENTIALS_S,
    RETRIES,
    TIMEOUT_S,
    Seen,
    Sink,
    quoted,
    verify_etag,
)
from hashclient.objects.environment import DEFAULT_REGION, open_bucket
from hashclient.objects.failures import NO_CREDENTIALS, StoreError, Trouble, of_botocore

#: Endpoints of Amazon itself, and those that obstore finds by the region alone.
_AMAZON = re.compile(r"https://[a-z0-9.-]+\.amazonaws\.com(?:\.cn)?")
_USUAL = re.compile(r"https://s3(?:\.[a-z0-9-]+)?\.amazonaws\.com")
_YES = frozenset({"1", "true", "yes", "on"})


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
            region = session.get_config_variable("region") or DEFAULT_REGION
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

    def open(self, bucket: str) -> Any:
        """Return a bucket of the same store for obstore.

        Raises:
            StoreError: it cannot be opened.
        """
        credentials = self._credentials
        provider = None if credentials is None else _Credentials(credentials)
        return open_bucket(bucket, self.endpoint, self.region, provider)

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
                verify_etag(seen, etag)
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


@contextlib.contextmanager
def _botocore_errors() -> Iterator[None]:
    """Translate errors of botocore and of its libraries."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        yield
    except (BotoCoreError, ClientError, HTTPClientError, OSError, ValueError) as error:
        raise of_botocore(error) from None

"""A bucket of S3 for obstore, and settings that stand in the environment alone.

Where AWS's tools find credentials, region and endpoint is botocore's knowledge, and to load it
takes time and memory. Containers and services often have all of that in three variables. Where
nothing else can have a say, botocore is not asked:

1. the variables with the keys and with the endpoint are set, the latter to another store than
   Amazon's, which knows better in which region a bucket is;
2. no other variable of AWS is set, but for those that are known here;
3. neither of its two files has any content.

This module neither keeps nor shows credentials.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hashclient.objects.clients import client_options, obstore_errors, retries
from hashclient.objects.failures import StoreError

#: Gives obstore credentials, in the form that it wants.
Provider = Callable[[], dict[str, Any]]

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105 - a name
_REGION = "AWS_DEFAULT_REGION"
_ENDPOINT = "AWS_ENDPOINT_URL"
#: Variables that name botocore's files, and where they are otherwise.
_FILES = {
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
}
#: Variables that are about something else than keys, region and endpoint.
_WITHOUT_A_SAY = {"AWS_CA_BUNDLE", "AWS_EC2_METADATA_DISABLED", "AWS_PAGER", "AWS_REGION"}
_KNOWN = {*_KEYS, _TOKEN, _REGION, _ENDPOINT, *_FILES, *_WITHOUT_A_SAY}
#: The region of stores that have none.
DEFAULT_REGION = "us-east-1"

#: An endpoint that botocore takes as it is.
_PLAIN = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?")
_AMAZON = re.compile(r"(?:.*[./])?amazonaws\.com(?:\.cn)?(?::[0-9]+)?", re.IGNORECASE)
#: An answer to a listing, and whether it has any key.
_LISTING = re.compile(rb"<ListBucketResult\b")
_ANY_KEY = re.compile(rb"<Key\b")
_MAX_ANSWER_BYTES = 1 << 16


class Settings(msgspec.Struct, frozen=True):
    """How a store of S3 is reached: `endpoint` is a URL, `provider` gives the credentials."""

    endpoint: str
    region: str
    provider: Provider

    def open(self, bucket: str) -> Any:
        """Return a bucket for obstore.

        Raises:
            StoreError: it cannot be opened.
        """
        return open_bucket(bucket, self.endpoint, self.region, self.provider)

    def has_leading_slash(self, bucket: str) -> bool | None:
        """Return whether some key of a bucket begins with a slash; None if that remains unknown.

        obstore cannot ask for that: it leaves the slash out. But it signs and sends a GET of any
        URL, and a listing is one. The path that it adds follows `#`, which ends what is sent.
        """
        import obstore

        query = "list-type=2&max-keys=1&prefix=%2F"
        url = f"{self.endpoint}/{bucket}?{query}#"
        try:
            store = open_bucket("-", url, self.region, self.provider, is_whole_url=True)
            with obstore_errors():
                got = obstore.get(store, "")
                if got.meta["size"] > _MAX_ANSWER_BYTES:
                    return None
                answer = bytes(got.bytes())
        except StoreError:  # botocore can tell why
            return None
        return bool(_ANY_KEY.search(answer)) if _LISTING.search(answer) else None


def read_settings() -> Settings | None:
    """Return the settings of S3 in the environment; None if botocore has to look for them."""
    given = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    if not given.keys() <= _KNOWN or not all(given.get(name) for name in _KEYS):
        return None
    endpoint = given.get(_ENDPOINT, "")
    if _PLAIN.fullmatch(endpoint) is None or _AMAZON.fullmatch(endpoint) is not None:
        return None
    if not all(_is_empty(given.get(name) or usual) for name, usual in _FILES.items()):
        return None
    access_key, secret_key = (given[name] for name in _KEYS)

    def provider() -> dict[str, Any]:
        return {
            "access_key_id": access_key,
            "secret_access_key": secret_key,
            "token": given.get(_TOKEN) or None,
            "expires_at": None,
        }

    return Settings(endpoint, given.get(_REGION) or DEFAULT_REGION, provider)


def _is_empty(name: str) -> bool:
    """Return whether a file is surely not there, or surely has no content."""
    if "$" in name:  # botocore puts the value of a variable there
        return False
    try:
        path = Path(name).expanduser()
        seen = path.stat()
        # A pipe has no size either.
        return str(path) == os.devnull or (stat.S_ISREG(seen.st_mode) and not seen.st_size)
    except FileNotFoundError:
        return True
    except (OSError, RuntimeError):
        return False


def open_bucket(
    bucket: str,
    endpoint: str | None,
    region: str,
    provider: Provider | None,
    *,
    is_whole_url: bool = False,
) -> Any:
    """Return a bucket of S3 for obstore; without `provider`, requests are not signed.

    With `is_whole_url`, the endpoint is the URL of the bucket itself.

    Raises:
        StoreError: it cannot be opened.
    """
    from obstore.store import S3Store

    make: Callable[..., Any] = S3Store
    config: dict[str, Any] = {"region": region}
    if endpoint is not None:
        config["endpoint"] = endpoint
    if is_whole_url:
        config["virtual_hosted_style_request"] = True
    if provider is None:
        config["skip_signature"] = True
    is_http = (endpoint or "").startswith("http://")
    with obstore_errors():
        return make(
            bucket,
            config=config,
            credential_provider=provider,
            client_options=client_options(allow_http=is_http),
            retry_config=retries(),
        )

"""Buckets of S3: botocore lists objects, and obstore (see `ranges`) reads most objects.

botocore finds credentials, region and endpoint in the same places as AWS's own tools: environment
variables, profiles, single sign-on, and roles of a machine. botocore can list and read every key,
and can use versions, deletions and legal holds. For speed, this module requests each page of a
listing by a URL that botocore has signed, and takes the columns out of the answer with regular
expressions. The regular expressions take a tenth of the time of botocore's parser. If the answer
does not have the usual form of a page, botocore requests the page again, and reports the error.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_to_bytes

from hashclient.core.version import __version__
from hashclient.objects import ranges
from hashclient.objects.failures import (
    MALFORMED,
    NO_CREDENTIALS,
    NO_RANGES,
    UNFINISHED,
    StoreError,
    Trouble,
    of_botocore,
)
from hashclient.objects.interface import (
    CHUNK_BYTES,
    CONNECT_S,
    RETRIES,
    TIMEOUT_S,
    Seen,
    Sink,
    Store,
    condition,
    quoted,
    verify_etag,
)

#: `_AMAZON`: matches endpoints of Amazon; `_USUAL`: matches endpoints that obstore computes from
#: the region.
_AMAZON = re.compile(r"https://[a-z0-9.-]+\.amazonaws\.com(?:\.cn)?")
_USUAL = re.compile(r"https://s3(?:\.[a-z0-9-]+)?\.amazonaws\.com")
#: The region that is used if no region is configured.
_DEFAULT_REGION = "us-east-1"
_YES = frozenset({"1", "true", "yes", "on"})
#: After this time, in seconds, obstore asks botocore again for the credentials, which botocore
#: renews before they expire.
CREDENTIALS_S = 300

#: How long the signed URL of a page is valid, in seconds. The URL is used at once, but the clock of
#: the store may be ahead by almost this time.
URL_S = 900

#: Patterns for the XML of a page: for the key, the ETag and the size of an object, and for the
#: elements that say whether the page is the last page.
_KEY, _ETAG = (re.compile(rb"<%b>([^<]*)</%b>" % (name, name)) for name in (b"Key", b"ETag"))
_SIZE = re.compile(rb"<Size>([0-9]{1,19})</Size>")
_END = b"<IsTruncated>false</IsTruncated>"
#: Matches the element of a last page in each form that a store may write: in capitals, or with
#: white space.
_LAST = re.compile(rb"<(?:\w+:)?IsTruncated>\s*false\s*</", re.IGNORECASE)
_MORE = re.compile(rb"<NextContinuationToken>([^<&]+)</NextContinuationToken>")
_IN_URLS = b"<EncodingType>url</EncodingType>"
#: Matches the header `Content-Range`: the first and the last byte, and the length of the object.
_PART = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
#: The lowest length of an object that is refused, in bytes, because lengths are stored in 64 bits.
_MOST_BYTES = 1 << 64
#: Matches the XML escapes that stores use for the quotes around an ETag.
_QUOTES = re.compile(rb"&(?:quot|#34|#x22);")

#: The most pages that the method `names` requests.
MOST_PAGES = 1_000

#: An object in a listing: its key, size, ETag and version.
Row = tuple[str, int, str | None, str | None]
#: A page, and the parameters of the request for the next page; None after the last page.
_Page = tuple[Any, dict[str, str] | None]


class S3(Store):
    """A bucket of S3; `client` is a client of botocore."""

    def __init__(self, bucket: str) -> None:
        """Remember the bucket, without any request to the store."""
        super().__init__("s3", bucket)
        self._is_quick = True

    def _open(self) -> Any:
        import botocore
        import botocore.config
        import botocore.session
        from botocore.utils import get_environ_proxies

        from hashclient.objects.bounded import BoundedSession

        unsigned = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in _YES
        with _errors():
            session = botocore.session.get_session()
            own = session.get_scoped_config().get("s3")
            version = own.get("signature_version") if isinstance(own, dict) else None
            config = botocore.config.Config(
                connect_timeout=CONNECT_S,
                read_timeout=TIMEOUT_S,
                retries={"total_max_attempts": RETRIES + 1, "mode": "standard"},
                # Without `s3v4`, botocore would sign URLs by an older version of AWS's signature.
                signature_version=botocore.UNSIGNED if unsigned else version or "s3v4",
                user_agent_extra=f"hashclient/{__version__}",
            )
            credentials = None if unsigned else session.get_credentials()
            if credentials is None and not unsigned:
                raise StoreError(Trouble.OTHER, NO_CREDENTIALS)
            region = session.get_config_variable("region") or _DEFAULT_REGION
            client: Any = session.create_client("s3", region_name=region, config=config)
            self._http = BoundedSession(
                verify=session.get_config_variable("ca_bundle") or True,
                proxies=get_environ_proxies(client.meta.endpoint_url),
                timeout=(CONNECT_S, TIMEOUT_S),
            )
            client.meta.events.register("before-send.s3", self._http.send)
            client.meta.events.register("before-parse.s3", _read_mark)
        self._ranges = self._for_obstore(client, credentials)
        return client

    def _for_obstore(self, client: Any, credentials: Any) -> Any:
        region, endpoint = client.meta.region_name, client.meta.endpoint_url
        config: dict[str, Any] = {"region": region}
        if _USUAL.fullmatch(endpoint) is None:
            config["endpoint"] = endpoint
        else:
            # This request asks S3 for the region of the bucket. If the credentials do not permit
            # the request, the configured region is used. After any other failure, the client is not
            # kept: a watch would read with the wrong region until its end.
            try:
                with _errors():
                    found = client.head_bucket(Bucket=self.bucket).get("BucketRegion")
                    config["region"] = found or region
            except StoreError as error:
                if error.trouble is Trouble.OTHER:
                    raise
        given: dict[str, Any] = {"config": config}
        if credentials is None:
            config["skip_signature"] = True
        else:
            given["credential_provider"] = functools.partial(_present, credentials)
        is_http = endpoint.startswith("http://")
        return ranges.open_bucket("s3", self.bucket, given, is_http=is_http)

    @property
    def is_amazon(self) -> bool:
        """Whether the endpoint belongs to Amazon."""
        return _AMAZON.fullmatch(self.client.meta.endpoint_url) is not None

    @property
    def keeps_versions(self) -> bool:
        """Whether each new object of the bucket gets a version of its own."""
        return bool(self.call("get_bucket_versioning").get("Status") == "Enabled")

    @property
    def namespace(self) -> str:
        """A text that distinguishes this bucket from buckets of the same name in other stores."""
        endpoint = self.client.meta.endpoint_url
        return f"s3 {'' if _USUAL.fullmatch(endpoint) else endpoint} {self.bucket}"

    def call(self, operation: str, **arguments: Any) -> Any:
        """Call an operation of S3 on this bucket and return the answer."""
        client = self.client
        with _errors():
            return getattr(client, operation)(Bucket=self.bucket, **arguments)

    def head(self, key: str, version: str | None) -> Seen:
        """Return the metadata of an object."""
        return _seen(self.call("head_object", **_named(key, version)))

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
        client = self.client
        if ranges.is_plain(key):
            return ranges.read(self._ranges, key, span, sink, etag=etag, version=version)
        options = _named(key, version)
        if (wanted := condition(etag)) is not None:
            options["IfMatch"] = wanted
        if span is not None:
            options["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        with _errors():
            got = client.get_object(Bucket=self.bucket, **options)
            with contextlib.closing(got["Body"]) as body:
                seen = _seen(got, span)
                verify_etag(seen, etag)
                while chunk := body.read(CHUNK_BYTES):
                    sink(memoryview(chunk))
        return seen

    def put(self, key: str, data: bytes) -> None:
        """Write an object; see `Store.put`."""
        self.call("put_object", Key=key, Body=data)

    def pages(self, prefix: str, after: str | None) -> Iterator[Any]:
        """Yield pages of the objects whose keys begin with `prefix` and sort after `after`."""
        more: dict[str, str] | None = {} if after is None else {"StartAfter": after}
        while more is not None:
            asked = {"Prefix": prefix, **more}
            page, more = self._quickly(asked) or self._slowly(asked)
            yield page

    def _quickly(self, asked: dict[str, str]) -> _Page | None:
        """Request a page by a signed URL; return None if the form of the answer is unusual."""
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError

        client, arguments = self.client, {"Bucket": self.bucket, **asked}
        if not self._is_quick:
            return None
        with _errors():
            url = client.generate_presigned_url(
                "list_objects_v2", Params=arguments, ExpiresIn=URL_S
            )
        try:
            got = self._http.send(AWSRequest("GET", url).prepare())
        except (BotoCoreError, OSError, ValueError):
            return None
        self._is_quick = got.status_code != 403  # some accounts may not use signed URLs
        return _page_in(got.content) if got.status_code == 200 else None

    def names(self, prefix: str) -> Iterator[str]:
        """Yield each key that begins with `prefix` and has no further slash, without `prefix`.

        The method is meant for prefixes with few keys; it does not import pyarrow, which is slow to
        load.

        Raises:
            StoreError: the store failed, or repeats keys.
        """
        more: dict[str, str] | None = {}
        last = ""
        for _ in range(MOST_PAGES):
            found, more = self._listed({"Prefix": prefix, "Delimiter": "/", **(more or {})})
            keys = [key for key, *_ in found]  # may be empty: common prefixes are no keys
            if keys and keys[0] <= last:
                break
            yield from (key[len(prefix) :] for key in keys)
            if more is None:
                return
            last = keys[-1] if keys else last
        raise StoreError(Trouble.OTHER, UNFINISHED)

    def _slowly(self, asked: dict[str, str]) -> _Page:
        from hashclient.objects.pages import page_of

        rows, more = self._listed(asked)
        return page_of(rows), more

    def _listed(self, asked: dict[str, str]) -> tuple[list[Row], dict[str, str] | None]:
        """Return the objects of a page that botocore parses, and the next page's parameters."""
        got = self.call("list_objects_v2", **asked)
        marks = {"ContinuationToken": "NextContinuationToken"}
        return _rows(got, "Contents"), _next_of(got, marks)

    def versions(self, prefix: str, after: str | None) -> Iterator[list[Row]]:
        """Yield all versions of the objects whose keys begin with `prefix`, page by page."""
        marks = {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
        more: dict[str, str] | None = {} if after is None else {"KeyMarker": after}
        while more is not None:
            got = self.call("list_object_versions", Prefix=prefix, **more)
            if rows := _rows(got, "Versions"):
                yield rows
            last, more = more, _next_of(got, marks)
            if more == last:
                raise StoreError(Trouble.OTHER, UNFINISHED)
            # Millions of delete markers may follow each other, with no version between them. Their
            # pages do not count as empty as long as the keys go on.
            if not rows and not (more and _mark_of(more) > _mark_of(last)):
                yield rows


def _mark_of(more: dict[str, str]) -> bytes:
    return os.fsencode(more.get("KeyMarker", ""))


def _rows(got: Any, name: str) -> list[Row]:
    """Return the objects in a page that botocore has parsed.

    Raises:
        StoreError: an object has no key or no valid length.
    """
    rows = [
        (one.get("Key"), one.get("Size", -1), one.get("ETag"), one.get("VersionId"))
        for one in got.get(name, ())
    ]
    if any(key is None or not 0 <= size < _MOST_BYTES for key, size, *_ in rows):
        raise StoreError(Trouble.OTHER, MALFORMED)
    return rows


def _next_of(got: Any, marks: dict[str, str]) -> dict[str, str] | None:
    """Return the parameters for the request of the page that follows the page `got`.

    Return None if `got` is marked as the last page.

    An answer that does not say whether it is the last page is refused, because botocore accepts any
    answer as a page, even an empty answer or an HTML page from a proxy.

    Raises:
        StoreError: the page neither is marked as the last page nor says how to request the next
            page.
    """
    more = {name: got[mark] for name, mark in marks.items() if got.get(mark)}
    if got.get("IsTruncated") is False:
        return None
    if not more:
        raise StoreError(Trouble.OTHER, UNFINISHED)
    return more


def _read_mark(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Tell botocore whether a page is the last page: it takes any text but `true` for `false`."""
    if isinstance(body := response_dict.get("body"), bytes) and b"IsTruncated" in body:
        customized_response_dict["IsTruncated"] = _LAST.search(body) is None


def _page_in(answer: bytes) -> _Page | None:
    """Return the page in an answer of S3; return None if the answer has an unusual form."""
    import pyarrow as pa

    from hashclient.objects.pages import page_of_columns

    begin, end = answer.find(b"<Contents"), answer.rfind(b"</Contents>")
    objects, rest = answer[begin:end], answer[:begin] + answer[end:]
    keys, sizes, etags = (found.findall(objects) for found in (_KEY, _SIZE, _ETAG))
    more, count = _MORE.search(rest), answer.count(b"<Contents")
    etags = [_QUOTES.sub(b'"', etag) for etag in etags]
    is_usual = count == len(keys) == len(sizes) == len(etags) and b"&" not in b"".join(keys + etags)
    is_whole = answer.rstrip().endswith(b"</ListBucketResult>") and b":Contents>" not in answer
    if not is_usual or not is_whole or (more is None and _END not in rest):
        return None
    if _IN_URLS in rest:
        keys = [unquote_to_bytes(key.replace(b"+", b" ")) for key in keys]
    try:
        texts = pa.Array.from_buffers(pa.string(), count, pa.array(etags, pa.binary()).buffers())
        texts.validate(full=True)
    except pa.ArrowInvalid:  # an ETag is not UTF-8
        return None
    numbers = pa.array([int(size) for size in sizes], pa.uint64())
    page = page_of_columns(count, key=pa.array(keys, pa.binary()), size=numbers, etag=texts)
    return page, None if more is None else {"ContinuationToken": more[1].decode()}


def _seen(got: Any, span: tuple[int, int] | None = None) -> Seen:
    """Return the metadata in an answer to a request for the range `span`, or for the whole object.

    Raises:
        StoreError: the answer has another range of the object, or an impossible length.
    """
    size, part = got.get("ContentLength", -1), got.get("ContentRange")
    if span is not None or part is not None:
        start, stop = span or (0, size)
        found = _PART.fullmatch(part or "")
        if found is None or (int(found[1]), int(found[2]) + 1) != (start, stop):
            raise StoreError(Trouble.OTHER, NO_RANGES)
        size = int(found[3])
    if not 0 <= size < _MOST_BYTES:
        raise StoreError(Trouble.OTHER, MALFORMED)
    return Seen(size, quoted(got.get("ETag")), got.get("VersionId"))


def _named(key: str, version: str | None) -> dict[str, str]:
    """Return the request parameters that name an object."""
    with _errors():  # a lone surrogate cannot be encoded, and botocore would fail later
        key.encode()
    return {"Key": key} if version is None else {"Key": key, "VersionId": version}


def _present(credentials: Any) -> dict[str, Any]:
    """Return botocore's credentials in the form that obstore needs.

    Several threads may request the credentials at once.
    """
    frozen = credentials.get_frozen_credentials()
    return {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        "token": frozen.token,
        "expires_at": datetime.now(UTC) + timedelta(seconds=CREDENTIALS_S),
    }


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Translate errors of botocore and of the libraries that botocore uses."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.parsers import ResponseParserError

    known = (BotoCoreError, ClientError, HTTPClientError, OSError, ValueError)
    try:
        yield
    # botocore follows a redirect that leads to itself until Python raises `RecursionError`.
    except (*known, ResponseParserError, RecursionError) as error:
        raise of_botocore(error) from None

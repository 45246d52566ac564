"""Listings of Google and Azure with every key exactly, also those that obstore cannot name.

obstore fails at a page with such a key, and gives none of its objects. But it alone has the
credentials, and signs requests. So it sends them to an address of this process:

1. obstore asks for a page there, and signs that for the store.
2. The request is sent on to the store, as it is.
3. The objects in the answer are taken, with their keys as they are.
4. obstore gets one made-up object instead of them, and the mark of the next page. It asks for that
   as soon as the next page is wanted here.
5. An answer that is no page goes back to obstore, which asks again, or fails and says why.

Others on this machine cannot use the address: a request needs a secret in its name of the client.
Requests to it stay within this machine: if a proxy would get them, there is no such listing.

Limits: such a key can be listed, and not be read. A key with a character that XML cannot hold ends
the listing.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.parsers import expat
from xml.sax.saxutils import escape

import msgspec

from hashclient.core.version import __version__
from hashclient.objects.clients import (
    CONNECT_S,
    TIMEOUT_S,
    client_options,
    is_plain,
    obstore_errors,
    retries,
)
from hashclient.objects.failures import StoreError
from hashclient.system.background import start_thread

#: A page has 5,000 objects at most, whose keys have 1,024 characters.
MAX_PAGE_BYTES = 64 << 20
#: How often the relay looks whether it is over.
POLL_S = 0.02
#: Headers of a request that are about the connection to this process.
_OWN_HEADERS = frozenset({"accept-encoding", "connection", "host", "user-agent"})

#: Variables that name a proxy for addresses without TLS.
_PROXIES = frozenset({"all_proxy", "http_proxy"})
#: Digits of a size that fits into 64 bits.
_MAX_DIGITS = 19
#: The roots of a page, of Google and of Azure.
_LISTINGS = frozenset({"ListBucketResult", "EnumerationResults"})

#: A key, a size and an ETag.
Row = tuple[str, int, str | None]


class PageError(Exception):
    """An answer is no page of a listing."""


class _Page(msgspec.Struct):
    """A page of a listing, and the mark of the next one."""

    rows: list[Row]
    more: str = ""


def exact_rows(
    scheme: str, bucket: str, endpoint: str, prefix: str, after: str | None
) -> Iterator[list[Row]]:
    """Yield the objects whose keys begin with `prefix`, a page at a time, behind the key `after`.

    `endpoint` is the URL of the store.

    Raises:
        StoreError: the store failed.
        PageError: a page has a key that XML cannot hold, or a proxy is in the way.
    """
    import obstore

    if has_proxy():
        raise PageError
    base = _namable(prefix)
    offset = after if after is None or is_plain(after) else _namable(after) or None
    real = urlsplit(endpoint)
    relay = _Relay(f"{real.scheme}://{real.netloc}")
    try:
        start_thread(lambda: relay.serve_forever(POLL_S), "relay")
    except BaseException:
        relay.server_close()
        raise
    try:
        store = _open(scheme, bucket, f"{relay.url}{real.path.rstrip('/')}", relay.secret)
        with obstore_errors():
            stream = iter(obstore.list(store, base or None, offset=offset, chunk_size=1))
        while True:
            try:
                with obstore_errors():
                    if next(stream, None) is None:
                        return
            except StoreError:
                if relay.is_no_page:
                    raise PageError from None
                raise
            rows = relay.take()
            found = [row for row in rows if row[0].startswith(prefix)]
            if after is not None:
                last = os.fsencode(after)
                found = [row for row in found if os.fsencode(row[0]) > last]
            if found or not rows:
                yield found
    finally:
        relay.shutdown()
        relay.server_close()


def has_proxy() -> bool:
    """Return whether obstore might send requests for 127.0.0.1 to a proxy."""
    given = {name.lower(): value for name, value in os.environ.items() if value}
    excepted = {part.strip() for part in given.get("no_proxy", "").split(",")}
    return not excepted & {"*", "127.0.0.1"} and not given.keys().isdisjoint(_PROXIES)


def _namable(key: str) -> str:
    """Return the longest folder at the beginning of a key that obstore can name; "" for none."""
    folder = key
    while folder and not is_plain(folder):
        folder = folder.rpartition("/")[0]
    return folder


def _open(scheme: str, bucket: str, endpoint: str, secret: str) -> Any:
    from obstore.store import AzureStore, GCSStore

    options = client_options(allow_http=True) | {
        "timeout": timedelta(seconds=2 * (CONNECT_S + TIMEOUT_S)),
        "user_agent": secret,
    }
    make: Any = GCSStore if scheme == "gs" else AzureStore
    config = {"base_url" if scheme == "gs" else "endpoint": endpoint}
    with obstore_errors():
        return make(bucket, config=config, client_options=options, retry_config=retries())


class _Relay(ThreadingTCPServer):
    """An address of this process; it passes each request on to the store at `origin`."""

    daemon_threads = True

    def __init__(self, origin: str) -> None:
        self._session = _session_for(origin)
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.secret = secrets.token_hex(16)
        self.is_no_page = False
        self._origin = origin
        self._page: _Page | None = None

    def take(self) -> list[Row]:
        """Return the objects of the page that came last."""
        return [] if self._page is None else self._page.rows

    def server_close(self) -> None:
        """Close the address, and the connections to the store."""
        super().server_close()
        self._session.close()

    def handle_error(self, *_: object) -> None:
        """Say nothing: obstore notices that it has no answer."""

    def answer(self, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
        """Send a request on; return the status and the body for obstore."""
        status, body = _send(self._session, self._origin + target, headers)
        if status != 200:
            return status, body
        try:
            self._page = read_page(body)
        except PageError:
            self.is_no_page = True
            return 400, b""
        return 200, _instead(self._page.more)


class _Handler(BaseHTTPRequestHandler):
    """Answers obstore."""

    server: _Relay
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a request for a page."""
        given = self.headers.get("User-Agent", "")
        if not hmac.compare_digest(given.encode(), self.server.secret.encode()):
            status, body = 403, b""
        else:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _OWN_HEADERS}
            status, body = self.server.answer(self.path, headers)
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a target may have a signature."""


def _session_for(origin: str) -> Any:
    """Return the pool of connections to a store, perhaps through a proxy."""
    from botocore.httpsession import URLLib3Session
    from botocore.utils import get_environ_proxies

    return URLLib3Session(timeout=(CONNECT_S, TIMEOUT_S), proxies=get_environ_proxies(origin))


def _send(session: Any, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Return the status and the body of an answer; 503 if there is none."""
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    agent = f"hashclient/{__version__}"
    request = AWSRequest("GET", url, {**headers, "User-Agent": agent}, stream_output=True)
    prepared = request.prepare()
    prepared.url = url  # a signature is of the query as it was
    try:
        got: Any = session.send(prepared)
        body = got.raw.read(MAX_PAGE_BYTES + 1, decode_content=True)
    except (BotoCoreError, HTTPError, OSError, ValueError):
        return 503, b""
    return (got.status_code, body) if len(body) <= MAX_PAGE_BYTES else (503, b"")


def _instead(more: str) -> bytes:
    """Return a page with one object, in both forms: of Google and of Azure."""
    name = "x" * 1_100  # longer than any prefix
    mark = escape(more)
    return (
        '<?xml version="1.0" encoding="utf-8"?><Listing>'
        f"<Contents><Key>{name}</Key><Size>0</Size><ETag>x</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        f"<Blobs><Blob><Name>{name}</Name><Properties>"
        "<Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified><Etag>x</Etag>"
        "<Content-Length>0</Content-Length><Content-Type>x</Content-Type></Properties></Blob></Blobs>"
        + (f"<NextContinuationToken>{mark}</NextContinuationToken>" if more else "")
        + f"<NextMarker>{mark}</NextMarker></Listing>"
    ).encode()


class _Reader:
    """Reads the elements of a page that count here."""

    def __init__(self) -> None:
        self.page = _Page([])
        self._path: list[str] = []
        self._found: dict[str, str] = {}
        self._text: list[str] = []
        self._is_encoded = False
        self._is_listing = False
        self._goes_on = False

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        if not self._path:
            self._is_listing = name in _LISTINGS
        self._path.append(name)
        self._text = []
        if name in {"Contents", "Blob"}:
            self._found = {}
        elif name in {"Key", "Name"}:
            self._is_encoded = attributes.get("Encoded") == "true"

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, name: str) -> None:
        parent = self._path[-2] if len(self._path) > 1 else ""
        self._path.pop()
        text = "".join(self._text)
        self._text = []
        if name in {"NextContinuationToken", "NextMarker"}:
            self.page.more = text
        elif name == "IsTruncated":
            self._goes_on = text == "true"
        elif name in {"Contents", "Blob"}:
            self._end_object()
        elif parent in {"Contents", "Blob", "Properties"}:
            is_name = name in {"Key", "Name"}
            if is_name and self._is_encoded:
                text = unquote(text, errors="surrogateescape")
            self._found[name] = text

    def _end_object(self) -> None:
        found = self._found
        key = found.get("Key") or found.get("Name") or ""
        size = found.get("Size") or found.get("Content-Length") or ""
        if not key or not size.isdecimal() or len(size) > _MAX_DIGITS:
            raise PageError
        if found.get("ResourceType") != "directory":
            self.page.rows.append((key, int(size), found.get("ETag") or found.get("Etag")))

    def refuse(self, *_: object) -> None:
        raise PageError

    def whole(self) -> _Page:
        if not self._is_listing or (self._goes_on and not self.page.more):
            raise PageError
        return self.page


def read_page(body: bytes) -> _Page:
    """Return the objects of a page of Google or Azure, and the mark of the next page.

    Raises:
        PageError: it is none.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.data
    parser.StartDoctypeDeclHandler = reader.refuse
    try:
        parser.Parse(body, True)  # noqa: FBT003 - the only way to call it
    except (expat.ExpatError, ValueError) as error:
        raise PageError from error
    return reader.whole()

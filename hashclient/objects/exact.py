"""Lists the exact keys in buckets of Google and Azure, and bounds the pages.

The library obstore cannot represent some keys: if a page contains one of them, obstore fails and
returns no object of the page. obstore also keeps a page of any length in memory, and takes any
answer of Google for the last page. This module cannot request the page itself, because only obstore
has the credentials for the store. Therefore obstore sends its requests to a relay at a local
address of this process:

1. obstore requests a page from the relay, with a signature for the store.
2. The relay sends the request to the store, unchanged, and refuses an answer that is too long, that
   takes too long, or that is no page.
3. In the answer, the relay replaces each key by hexadecimal digits, which are a key that obstore
   can represent.
4. obstore reads the page from the relay, and requests the next page. This module decodes the keys
   from the digits.

Other programs on this machine cannot use the relay, because a request needs a secret in its
`User-Agent` header. Requests to the relay must not leave this machine. Therefore this module lists
nothing if obstore would send the requests to a proxy. Limit: if obstore cannot represent a key, the
object can be listed, but not read.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from xml.etree import ElementTree as ET

import httpx
import pyarrow as pa

from hashclient.core.version import __version__
from hashclient.objects.interface import CONNECT_S, TIMEOUT_S
from hashclient.objects.others import Other, listed
from hashclient.objects.pages import SCHEMA
from hashclient.objects.ranges import is_plain
from hashclient.system.background import start_thread

#: The longest page, in bytes: a page has at most 5,000 objects with keys of 1,024 characters.
MAX_PAGE_BYTES = 64 << 20
#: The relay checks at this interval whether it must end, in seconds.
POLL_S = 0.02
#: How long a listing waits for the end of its relay, in seconds.
_END_S = 1.0
#: Headers of a request that only concern the connection between obstore and the relay.
_OWN_HEADERS = frozenset({"accept-encoding", "connection", "host", "user-agent"})
#: Names, in lower case, of environment variables that name a proxy for HTTP without TLS.
_PROXIES = frozenset({"all_proxy", "http_proxy"})

#: Finds the key of each object in a page of Google (`Key`) or Azure (`Name`); Azure escapes some
#: keys.
_KEY = re.compile(rb'<(Key|Name)( Encoded="(?:true|false)")?>([^<]*)</')
#: Find the elements by which a page of Google says that another page follows.
_TRUNCATED = re.compile(rb"<IsTruncated>\s*(\w*)")
_MORE = re.compile(rb"<NextContinuationToken>[^<]")
#: The root elements of pages, of Google and of Azure.
_ROOTS = (b"<ListBucketResult", b"<EnumerationResults")
#: The prefix of a key that was replaced by hexadecimal digits; it sorts after all other keys.
_MARK = "\U0010ffff".encode()


class NoExactListingError(Exception):
    """The exact keys cannot be listed, because of a proxy or because a key cannot be decoded."""


def exact_pages(bucket: Other, prefix: str, after: str | None) -> Iterator[Any]:
    """Yield pages of all keys that begin with `prefix` and sort after `after`.

    Raises:
        StoreError: the store failed.
        NoExactListingError: a proxy would receive the requests, or a key cannot be decoded.
    """
    if has_proxy():
        raise NoExactListingError
    offset = None if after is None else _namable(after) or None
    with _relayed(bucket.endpoint) as (endpoint, secret):
        timeout = timedelta(seconds=2 * (CONNECT_S + TIMEOUT_S))
        client = bucket.open_at(endpoint, timeout=timeout, user_agent=secret)
        first, last = os.fsencode(prefix), os.fsencode(after or "")
        for page in listed(client, _namable(prefix), offset):
            keys = [key_of(name) for name in page.column("key").to_pylist()]
            wanted = [key.startswith(first) and key > last for key in keys]
            yield page.set_column(0, SCHEMA[0], pa.array(keys, pa.binary())).filter(
                pa.array(wanted, pa.bool_())
            )


def has_proxy() -> bool:
    """Return whether obstore might send requests for 127.0.0.1 to a proxy."""
    given = {name.lower(): value for name, value in os.environ.items() if value}
    excepted = {part.strip() for part in given.get("no_proxy", "").split(",")}
    return not excepted & {"*", "127.0.0.1"} and not given.keys().isdisjoint(_PROXIES)


def _namable(key: str) -> str:
    """Return the longest folder of a key that obstore can represent.

    Return "" if obstore can represent no folder of the key.
    """
    folder = key
    while folder and not is_plain(folder):
        folder = folder.rpartition("/")[0]
    return folder


def key_of(name: bytes) -> bytes:
    """Return the key that the relay has replaced by the hexadecimal digits in `name`.

    Raises:
        NoExactListingError: the key was not written in hexadecimal digits.
    """
    mark, _, digits = name.partition(_MARK)
    if mark or not digits:
        raise NoExactListingError
    try:
        return bytes.fromhex(digits.decode())
    except ValueError:  # a key in the store begins with the text of `_MARK`
        raise NoExactListingError from None


@contextlib.contextmanager
def _relayed(endpoint: str) -> Iterator[tuple[str, str]]:
    """Run a relay to a store; yield the relay's address, and the secret that its client needs."""
    real = urlsplit(endpoint)
    relay = _Relay(f"{real.scheme}://{real.netloc}")
    with contextlib.closing(relay.store):
        thread = start_thread(relay.run, "relay")
        try:
            port = relay.server_address[1]
            yield f"http://127.0.0.1:{port}{real.path.rstrip('/')}", relay.secret
        finally:
            relay.ends.set()
            # An interpreter that ends has stopped the thread, and may then close this generator.
            thread.join(_END_S)


class _Relay(ThreadingTCPServer):
    """A server at a local address; the server passes each request on to the store at `origin`."""

    daemon_threads = True
    timeout = POLL_S

    def __init__(self, origin: str) -> None:
        self.ends = threading.Event()
        self.secret = secrets.token_hex(16)
        self._origin = origin
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = httpx.Client(
            headers={"User-Agent": f"hashclient/{__version__}"},
            timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_S),
            verify=ssl.create_default_context(),
        )

    def run(self) -> None:
        """Accept connections until `ends` is set; then close the socket."""
        with self:
            while not self.ends.is_set():
                self.handle_request()

    def handle_error(self, *_: object) -> None:
        """Print nothing about an error in a request, because obstore reports the missing answer."""

    def answer(self, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
        """Send obstore's request to the store; return the status and the body for obstore."""
        body, ends = bytearray(), time.monotonic() + TIMEOUT_S
        try:
            with self.store.stream("GET", self._origin + target, headers=headers) as got:
                for part in got.iter_bytes():
                    body += part
                    if len(body) > MAX_PAGE_BYTES:
                        return 400, b""  # obstore would repeat the request after a 503
                    if time.monotonic() > ends:
                        return 503, b""
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
            return 503, b""
        if got.status_code != 200:
            return got.status_code, bytes(body)
        mark = _TRUNCATED.search(body)
        is_cut = mark is not None and mark[1].lower() != b"false" and not _MORE.search(body)
        if is_cut or not any(root in body for root in _ROOTS):
            return 400, b""  # without this error, obstore would take the answer for the last page
        return 200, in_digits(bytes(body))


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests that obstore sends to the relay."""

    server: _Relay
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a request for a page, if the request has the secret."""
        given, status, body = self.headers.get("User-Agent", ""), 403, b""
        if hmac.compare_digest(given.encode(), self.server.secret.encode()):
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _OWN_HEADERS}
            status, body = self.server.answer(self.path, headers)
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing about requests, because a request target may contain a signature."""


def in_digits(page: bytes) -> bytes:
    """Return a page with each key replaced by hexadecimal digits.

    A page that is not XML is returned unchanged.
    """
    return _KEY.sub(_element_in_digits, page)


def _element_in_digits(found: re.Match[bytes]) -> bytes:
    name, escaped, text = found.groups()
    if escaped is not None and b"true" in escaped:
        text = unquote_to_bytes(text)
    elif b"&" in text:
        try:
            # Parsing is safe against entity expansion, because the text is a single element without
            # a declaration of entities.
            text = (ET.fromstring(b"<a>%b</a>" % text).text or "").encode()  # noqa: S314
        except ET.ParseError:
            return found[0]
    return b"<%b>%b%b</" % (name, _MARK, text.hex().encode())

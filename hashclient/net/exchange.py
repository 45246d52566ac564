"""One request and its answer: the rules for the answer, and the connection.

`Download` has the rules, without I/O: which status, headers and lengths are acceptable, which part
of an interrupted body is kept, and how the rest is requested. `Channel` sends one request to one
origin with httpx, under one deadline, and passes the answer to a `Download`. `client` decides about
retries.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from hashclient.core.errors import DeliveryError, UnreachableError
from hashclient.core.version import __version__
from hashclient.net.credentials import DEFAULT_PORTS, Endpoint
from hashclient.net.deadline import BoundedBackend, Deadline, Limits
from hashclient.net.errors import (
    FOREIGN,
    HttpStatusError,
    RefusedError,
    TransientError,
    foreign_fault,
    malformed,
    network_hint,
    page_fault,
    parse_retry_after,
    status_fault,
)
from hashclient.net.peer import PROVIDER, Peer

KEEPALIVE_S = 15.0
#: `PAGE_S`, `MAX_PAGE_BYTES`: the body of a refusal is read to its end if it takes at most this
#: time and has at most this many bytes, so that the connection can be used again. Keeping the
#: connection saves time, because a fetch without news begins with a 404, and a new TLS handshake
#: costs more than reading the body.
PAGE_S = 2.0
MAX_PAGE_BYTES = 64 << 10
MAX_LENGTH_DIGITS = 18

_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,200}"', re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII)


class Download:
    """The body of one resource, received in one or more attempts, never longer than allowed."""

    def __init__(
        self,
        url: str,
        max_bytes: int,
        expected_bytes: int | None = None,
        on_bytes: Callable[[int], None] | None = None,
        peer: Peer = PROVIDER,
    ) -> None:
        """Accept at most `max_bytes`, or exactly `expected_bytes` if that is given.

        `on_bytes` is called with the number of received bytes, and with a negative number when
        bytes are dropped.
        """
        self.url = url
        self.peer = peer
        self._cap = max_bytes if expected_bytes is None else min(max_bytes, expected_bytes)
        self._expected = expected_bytes
        self._on_bytes = on_bytes
        self._kept = bytearray()
        self._etag: str | None = None
        self._resumable = False
        self._total: int | None = None

    def range_headers(self) -> dict[str, str]:
        """Return the headers that request the rest of the body.

        Drop a body that cannot be resumed.
        """
        if not self._resumable:
            self._drop()
        if not self._kept:
            return {}
        headers = {"Range": f"bytes={len(self._kept)}-"}
        if self._etag is not None:
            headers["If-Range"] = self._etag
        return headers

    def begin(self, status: int, headers: httpx.Headers, now: float) -> int:
        """Check an answer before its body is read; return how many bytes may still arrive.

        `now`: the time in seconds since 1970.

        Raises:
            HashclientError, TransientError: the answer is not acceptable.
        """
        # 1. The answer contains the whole body, or the rest if the rest was requested.
        if status == 416 and self._kept:
            self._drop()
            raise malformed(self.peer, self.url, "the rest is not available")
        if status != 200 and not (status == 206 and self._kept):
            retry_after_s = parse_retry_after(headers.get("retry-after"), now)
            raise status_fault(self.peer, status, self.url, retry_after_s)
        # 2. The body is not compressed, because the signed bytes are not compressed.
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise DeliveryError(
                f"{self.peer.name} sends a compressed body: {self.url}",
                hint="hash lists are served without Content-Encoding",
            )
        # 3. The answer has only one framing: a length, or chunks.
        length = self._declared_length(headers)
        # 4. If the answer is the rest of a body, it must continue the kept part; a whole body
        #    replaces the kept part.
        if status == 206:
            self._check_range(headers.get("content-range", ""), length)
        else:
            self._drop()
            self._total = length
            self._note_resumable(headers)
        # 5. The body is not longer than allowed, which is checked before a byte is read.
        room = self._cap - len(self._kept)
        if length is not None and length > room:
            raise self._too_long()
        return room if length is None else length

    def add(self, chunk: bytes) -> None:
        """Add the next bytes of the body.

        Raises:
            DeliveryError: the body is longer than allowed.
        """
        if len(self._kept) + len(chunk) > self._cap:
            raise self._too_long()
        self._kept += chunk
        if self._on_bytes is not None:
            self._on_bytes(len(chunk))

    def finish(self) -> bytes:
        """Return the body, after its last byte was received.

        Raises:
            TransientError: the body is shorter than expected.
        """
        wanted = self._total if self._expected is None else self._expected
        if wanted is not None and len(self._kept) < wanted:
            self._resumable = False
            raise TransientError(
                UnreachableError(f"answer is too short: {self.url}", hint=network_hint(self.peer))
            )
        return bytes(self._kept)

    def _declared_length(self, headers: httpx.Headers) -> int | None:
        lengths = headers.get_list("content-length")
        if not lengths:
            return None
        if len(lengths) > 1 or "transfer-encoding" in headers:
            raise malformed(self.peer, self.url, "two framings of one body")
        digits = lengths[0].strip()
        if not digits.isascii() or not digits.isdigit() or len(digits) > MAX_LENGTH_DIGITS:
            raise malformed(self.peer, self.url, "unreadable Content-Length")
        return int(digits)

    def _check_range(self, content_range: str, length: int | None) -> None:
        match = _CONTENT_RANGE.fullmatch(content_range.strip())
        start, end = (int(match[1]), int(match[2])) if match else (-1, -1)
        total = int(match[3]) if match and match[3] != "*" else self._total
        if (
            start != len(self._kept)
            or (length is not None and end - start + 1 != length)
            or (self._total is not None and total != self._total)
            or (total is not None and end + 1 != total)
        ):
            self._drop()
            raise malformed(self.peer, self.url, "not the range that was asked for")
        self._total = total

    def _note_resumable(self, headers: httpx.Headers) -> None:
        etag = headers.get("etag", "").strip()
        self._etag = etag if _STRONG_ETAG.fullmatch(etag) else None
        accepts = headers.get("accept-ranges", "").strip().lower() == "bytes"
        # A weak ETag does not show that two ranges belong to the same bytes.
        self._resumable = accepts or self._etag is not None

    def _drop(self) -> None:
        if self._kept and self._on_bytes is not None:
            self._on_bytes(-len(self._kept))
        self._kept.clear()

    def _too_long(self) -> DeliveryError:
        return DeliveryError(
            f"answer is longer than the {self._cap} bytes allowed: {self.url}",
            hint=f"the {self.peer.name}'s server sends something else than the signed file",
        )


class Channel:
    """Connections to one origin, direct or through a proxy.

    Several threads may use a channel at once.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        backend: BoundedBackend,
        limits: Limits,
        monotonic: Callable[[], float],
        now: Callable[[], float],
        proxy: Endpoint | None = None,
        proxy_user: tuple[str, str] | None = None,
        peer: Peer = PROVIDER,
    ) -> None:
        """Prepare for connections without opening one."""
        self._backend = backend
        self._limits = limits
        self._monotonic = monotonic
        self._now = now
        self._peer = peer
        self._foreign: tuple[type[Exception], ...] = FOREIGN
        if proxy is not None and proxy.scheme == "socks5":
            # httpcore does not translate the errors of the optional package for SOCKS.
            self._foreign += (importlib.import_module("socksio").SOCKSError,)
        self._client = httpx.Client(
            transport=_PoolTransport(_make_pool(context, backend, proxy, proxy_user)),
            trust_env=False,
            follow_redirects=False,
            timeout=limits.base_s,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={
                "User-Agent": f"hashclient/{__version__}",
                "Accept": "*/*",
                "Accept-Encoding": "identity",
            },
        )

    def attempt(
        self,
        method: str,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        download: Download,
        content: bytes | Iterable[bytes] | None = None,
        content_bytes: int = 0,
    ) -> bytes:
        """Make one request under one deadline, and return the body of the answer.

        The deadline grows by the time that `content_bytes` may take at the slowest allowed rate, as
        for the body of the answer. One read or write of the connection may take at most as long as
        a whole request without content.

        Raises:
            HashclientError: the request failed, and another attempt would fail as well.
            TransientError: the request failed, and another attempt may succeed.
        """
        limits = self._limits
        deadline = Deadline(self._monotonic, limits.base_s)
        if content_bytes:
            deadline.begin_body(content_bytes / limits.min_rate, limits.base_s)
        asked = {**headers, **download.range_headers()}
        try:
            with self._backend.within(deadline):
                request = self._client.build_request(
                    method, endpoint.url, headers=asked, content=content
                )
                response = self._client.send(request, stream=True)
                try:
                    try:
                        allowed = download.begin(
                            response.status_code, response.headers, self._now()
                        )
                    except (HttpStatusError, RefusedError, TransientError) as fault:
                        if response.is_success:
                            raise
                        page = self._read_page(response, deadline)
                        raise page_fault(self._peer, fault, page, endpoint.url) from None
                    deadline.begin_body(allowed / limits.min_rate, limits.stall_s)
                    for chunk in response.iter_raw():
                        download.add(chunk)
                finally:
                    response.close()
            return download.finish()
        except self._foreign as error:
            raise foreign_fault(self._peer, error, endpoint.origin, endpoint.url) from error

    def _read_page(self, response: httpx.Response, deadline: Deadline) -> bytes:
        """Return the body of a refusal, or the part of it that arrives within `PAGE_S`."""
        page = b""
        # If an answer has two framings, its last bytes could be taken for the next answer, so its
        # body is not read.
        if {"content-length", "transfer-encoding"} <= response.headers.keys():
            return page
        with contextlib.suppress(*self._foreign):
            seconds = min(PAGE_S, deadline.left())
            with self._backend.within(Deadline(self._monotonic, seconds)):
                for chunk in response.iter_raw():
                    page += chunk
                    if len(page) > MAX_PAGE_BYTES:
                        break
        return page

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


def _make_pool(
    context: ssl.SSLContext,
    backend: BoundedBackend,
    proxy: Endpoint | None,
    proxy_user: tuple[str, str] | None,
) -> httpcore.ConnectionPool:
    address = None
    if proxy is not None:
        host = proxy.host.strip("[]")
        url = httpcore.URL(scheme=proxy.scheme, host=host, port=proxy.port, target="/")
        address = httpcore.Proxy(url, auth=proxy_user)
    return httpcore.ConnectionPool(
        ssl_context=context,
        proxy=address,
        # The number of connections is not limited, because waiting for a free connection would have
        # no deadline.
        max_connections=None,
        keepalive_expiry=KEEPALIVE_S,
        network_backend=backend,
    )


class _PoolTransport(httpx.BaseTransport):
    """Connects an httpx client to a connection pool that uses `BoundedBackend`."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=url.raw_scheme,
                    host=url.raw_host,
                    port=url.port or DEFAULT_PORTS[url.scheme],
                    target=url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()

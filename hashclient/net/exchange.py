"""One attempt at one exchange: the rules of an answer, and the connection it comes over.

`Download` holds the rules and no I/O: which status, headers and lengths are acceptable, which part
of an interrupted body is kept and how it is resumed. `Channel` sends one request to one origin over
httpcore, under one deadline, and feeds the answer to a `Download`. `client` decides about retries.
httpcore stores no cookie, follows no redirect and reads nothing from the environment.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpcore

from hashclient.core.version import __version__
from hashclient.errors import DeliveryError, UnreachableError
from hashclient.net.credentials import Endpoint
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
#: The body of a refusal is read to its end, if it is short, so that the connection can be used
#: again: a fetch without news begins with a 404, and a TLS handshake costs more.
PAGE_S = 2.0
MAX_PAGE_BYTES = 64 << 10
MAX_LENGTH_DIGITS = 18

_HEADERS = {
    "User-Agent": f"hashclient/{__version__}",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
}
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,200}"', re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII)


class Download:
    """The body of one resource, gathered over one or more attempts, never longer than its cap."""

    def __init__(
        self,
        url: str,
        max_bytes: int,
        expected_bytes: int | None = None,
        on_bytes: Callable[[int], None] | None = None,
        peer: Peer = PROVIDER,
    ) -> None:
        """Expect at most `max_bytes`, exactly `expected_bytes` if given.

        `on_bytes` is called with the number of bytes that came, and with a negative number when
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
        """Return the headers that ask for the rest; drop a body that cannot be resumed."""
        if not self._resumable:
            self._drop()
        if not self._kept:
            return {}
        headers = {"Range": f"bytes={len(self._kept)}-"}
        if self._etag is not None:
            headers["If-Range"] = self._etag
        return headers

    def begin(self, status: int, headers: Mapping[str, str], now: float) -> int:
        """Check an answer before its body is read; return how many bytes may still come.

        `headers` are by their names in lower case, several of one name joined by commas; `now` is
        the time in seconds since the epoch.

        Raises:
            HashclientError, TransientError: the answer is not acceptable.
        """
        # 1. Only the requested part: the whole body, or the rest.
        if status == 416 and self._kept:
            self._drop()
            raise malformed(self.peer, self.url, "the rest is not available")
        if status != 200 and not (status == 206 and self._kept):
            retry_after_s = parse_retry_after(headers.get("retry-after"), now)
            raise status_fault(self.peer, status, self.url, retry_after_s)
        # 2. Bytes as they are signed: no compression.
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise DeliveryError(
                f"{self.peer.name} sends a compressed body: {self.url}",
                hint="hash lists are served without Content-Encoding",
            )
        # 3. One framing.
        length = self._declared_length(headers)
        # 4. The rest must fit the kept part; a whole body replaces it.
        if status == 206:
            self._check_range(headers.get("content-range", ""), length)
        else:
            self._drop()
            self._total = length
            self._note_resumable(headers)
        # 5. No more than the cap, checked before a byte is read.
        room = self._cap - len(self._kept)
        if length is not None and length > room:
            raise self._too_long()
        return room if length is None else length

    def add(self, chunk: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            DeliveryError: they do not fit below the cap.
        """
        if len(self._kept) + len(chunk) > self._cap:
            raise self._too_long()
        self._kept += chunk
        if self._on_bytes is not None:
            self._on_bytes(len(chunk))

    def finish(self) -> bytes:
        """Return the body, whose end was reached.

        Raises:
            TransientError: it is shorter than expected.
        """
        wanted = self._total if self._expected is None else self._expected
        if wanted is not None and len(self._kept) < wanted:
            self._resumable = False
            raise TransientError(
                UnreachableError(f"answer is too short: {self.url}", hint=network_hint(self.peer))
            )
        return bytes(self._kept)

    def _declared_length(self, headers: Mapping[str, str]) -> int | None:
        length = headers.get("content-length")
        if length is None:
            return None
        if "," in length or "transfer-encoding" in headers:
            raise malformed(self.peer, self.url, "two framings of one body")
        digits = length.strip()
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

    def _note_resumable(self, headers: Mapping[str, str]) -> None:
        etag = headers.get("etag", "").strip()
        self._etag = etag if _STRONG_ETAG.fullmatch(etag) else None
        accepts = headers.get("accept-ranges", "").strip().lower() == "bytes"
        # A weak ETag alone does not say that two ranges belong to the same bytes.
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
    """Connections to one origin, direct or through a proxy, usable by several threads."""

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
        """Prepare the connections; none is opened yet."""
        self._backend = backend
        self._limits = limits
        self._monotonic = monotonic
        self._now = now
        self._peer = peer
        self._foreign: tuple[type[Exception], ...] = FOREIGN
        if proxy is not None and proxy.scheme == "socks5":
            # httpcore lets the errors of this optional package through.
            self._foreign += (importlib.import_module("socksio").SOCKSError,)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            proxy=None if proxy is None else httpcore.Proxy(_url(proxy, "/"), auth=proxy_user),
            # As many connections as there are callers: a queue would be a wait without a deadline.
            max_connections=None,
            keepalive_expiry=KEEPALIVE_S,
            network_backend=backend,
        )

    def attempt(
        self,
        method: str,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        download: Download,
        content: bytes | Iterator[bytes] | None = None,
        content_bytes: int = 0,
    ) -> bytes:
        """Make one exchange under one deadline and return the body.

        The deadline grows by the time of `content_bytes` at the slowest allowed rate, as for the
        answer; with them, no single operation may take as long as a whole exchange without them.

        Raises:
            HashclientError: it failed for good.
            TransientError: it failed in a way that another attempt may cure.
        """
        limits = self._limits
        deadline = Deadline(self._monotonic, limits.base_s)
        if content_bytes:
            deadline.begin_body(content_bytes / limits.min_rate, limits.base_s)
        host = endpoint.origin.partition("://")[2]
        asked = {"Host": host, **_HEADERS, **headers, **download.range_headers()}
        request = self._pool.stream(
            *(method, _url(endpoint, endpoint.path)), headers=tuple(asked.items()), content=content
        )
        try:
            with self._backend.within(deadline), request as response:
                given = _headers_of(response)
                try:
                    allowed = download.begin(response.status, given, self._now())
                except (HttpStatusError, RefusedError, TransientError) as fault:
                    if 200 <= response.status < 300:
                        raise
                    page = self._read_page(response, given, deadline)
                    raise page_fault(self._peer, fault, page, endpoint.url) from None
                deadline.begin_body(allowed / limits.min_rate, limits.stall_s)
                for chunk in response.iter_stream():
                    download.add(chunk)
            return download.finish()
        except self._foreign as error:
            raise foreign_fault(self._peer, error, endpoint.origin, endpoint.url) from error

    def _read_page(
        self, response: httpcore.Response, headers: Mapping[str, str], deadline: Deadline
    ) -> bytes:
        """Return the body of a refusal, or as much of it as comes soon."""
        page = b""
        # Where two framings disagree, later bytes could be taken for the next answer.
        if {"content-length", "transfer-encoding"} <= headers.keys():
            return page
        with contextlib.suppress(*self._foreign):
            seconds = min(PAGE_S, deadline.left())
            with self._backend.within(Deadline(self._monotonic, seconds)):
                for chunk in response.iter_stream():
                    page += chunk
                    if len(page) > MAX_PAGE_BYTES:
                        break
        return page

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


def _url(endpoint: Endpoint, target: str) -> httpcore.URL:
    return httpcore.URL(
        scheme=endpoint.scheme, host=endpoint.host.strip("[]"), port=endpoint.port, target=target
    )


def _headers_of(response: Any) -> dict[str, str]:
    """Return the headers of an answer, as `Download.begin` takes them."""
    found: dict[str, str] = {}
    for key, value in response.headers:
        name, text = key.decode("latin-1").lower(), value.decode("latin-1")
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found

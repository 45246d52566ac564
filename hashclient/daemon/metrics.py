"""Serves the counters of a daemon over HTTP in the text format of Prometheus.

The counters of all processes are in memory that is shared with the parent process. The requests are
answered by the parent process, one after the other, each within about a second. The parent process
does not use threads for requests, because a process with several threads must not fork.
"""

from __future__ import annotations

import contextlib
import io
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Self

from hashclient.core.version import __version__
from hashclient.daemon.counts import BOUNDS_S, Count, Counts
from hashclient.daemon.options import TcpAddress
from hashclient.system.exposition import CONTENT_TYPE, expose
from hashclient.system.listening import cannot_listen

if TYPE_CHECKING:
    from prometheus_client import Metric

_VERDICTS = {
    Count.CLEAN: "clean",
    Count.MATCH: "match",
    Count.CONFLICT: "conflict",
    Count.UNREAD: "unread",
    Count.NO_VERDICT: "no_verdict",
    Count.EXCEPTED: "excepted",
}
_TOTALS = {
    Count.BYTES: ("bytes", "Bytes of streams that were checked."),
    Count.CONNECTIONS: ("connections", "Connections that were opened."),
    Count.REFUSED: ("refused", "Connections that were refused: there were too many."),
    Count.IDLE: ("idle", "Connections that were closed because nothing came for too long."),
    Count.SLOW: ("slow", "Connections that were closed for others: they sent very slowly."),
    Count.CROWDED: ("crowded", "Connections that were closed for others: their user had the most."),
    Count.BROKEN: ("broken", "Connections that were closed because they broke the protocol."),
    Count.TOO_LONG: ("too_long", "Streams beyond the limits of bytes or time."),
    Count.FAILURES: ("failures", "Matches not recorded, and acts on matches not done."),
    Count.RELOADS: ("reloads", "How often a process has opened the lists again."),
}
_PREFIX = "hashclient_serve"
#: The limits of an HTTP request, in seconds and bytes.
REQUEST_S = 1.0
MAX_REQUEST_BYTES = 1 << 14


def render(counts: Counts) -> str:
    """Return all counters in the text format of Prometheus."""
    return expose(_families(counts))


def _families(counts: Counts) -> Iterator[Metric]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    objects = CounterMetricFamily(f"{_PREFIX}_objects", "Objects by verdict.", labels=["verdict"])
    for count, word in _VERDICTS.items():
        objects.add_metric([word], counts.total(count))
    yield objects
    for count, (name, what) in _TOTALS.items():
        yield CounterMetricFamily(f"{_PREFIX}_{name}", what, value=counts.total(count))
    unopened = CounterMetricFamily(
        f"{_PREFIX}_not_opened",
        "Files that hold others and are of a kind that is not opened.",
        labels=["kind"],
    )
    for kind, number in counts.not_opened().items():
        unopened.add_metric([kind], number)
    yield unopened
    yield GaugeMetricFamily(
        f"{_PREFIX}_open_connections",
        "Connections that are open now.",
        value=counts.total(Count.OPEN),
    )
    sums, seconds = counts.times()
    bounds = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]
    yield HistogramMetricFamily(
        f"{_PREFIX}_answer_seconds",
        "Seconds from the end of an object to its answer.",
        buckets=list(zip(bounds, map(float, sums), strict=True)),
        sum_value=seconds,
    )
    info = GaugeMetricFamily(f"{_PREFIX}_info", "The version that runs.", labels=["version"])
    info.add_metric([__version__], 1)
    yield info


def _request(sock: socket.socket) -> bytes:
    """Return the bytes of a request, at most those received within `REQUEST_S` seconds."""
    data, until = b"", time.monotonic() + REQUEST_S
    while b"\r\n\r\n" not in data and len(data) < MAX_REQUEST_BYTES:
        left = until - time.monotonic()
        if left <= 0:
            break
        sock.settimeout(left)
        try:
            part = sock.recv(4096)
        except OSError:
            break
        if not part:
            break
        data += part
    sock.settimeout(REQUEST_S)
    return data


class Exposition:
    """Listens for HTTP requests; `answer` must be called when `fileno` is readable."""

    def __init__(self, address: TcpAddress, counts: Counts) -> None:
        """Listen at `address`.

        Raises:
            StateError: the address cannot be used.
        """

        class Server(HTTPServer):
            address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            timeout = 0

            def server_bind(self) -> None:
                """Bind the socket without a look-up of the name of this machine."""
                TCPServer.server_bind(self)

            def handle_error(self, *_: object) -> None:
                """Print nothing; the client has gone, or its request was invalid."""

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_S

            def setup(self) -> None:
                """Read the request with a time limit, because a slow client must not block."""
                super().setup()
                self.rfile = io.BufferedReader(io.BytesIO(_request(self.connection)))

            def do_GET(self) -> None:
                found = self.path.partition("?")[0] == "/metrics"
                body = render(counts).encode() if found else b"see /metrics\n"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's word
                """Print nothing, because stderr is for important messages only."""

        try:
            self._server = Server((address.host, address.port), Handler)
        except OSError as error:
            raise cannot_listen(f"{address} for metrics", error) from error

    @property
    def address(self) -> TcpAddress:
        """The address at which the server listens."""
        host, port = self._server.server_address[:2]
        return TcpAddress(str(host), port)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a client connects."""
        return self._server.fileno()

    def answer(self) -> None:
        """Answer one HTTP request."""
        with contextlib.suppress(OSError):  # the client has closed the connection
            self._server.handle_request()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()

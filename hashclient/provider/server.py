"""An HTTPS server for trying out a repository with bearer tokens, on loopback addresses only.

The server has the same interface as the web server of a real provider, so that a client can be set
up and tested on the same machine. A real provider publishes a repository with a normal web server.
The server sends only regular files below `public/`, and lists no folders. A request needs the token
for trials, or a token of a client in the repository.
"""

from __future__ import annotations

import contextlib
import hmac
import http.server
import ipaddress
import os
import re
import secrets
import socket
import socketserver
import ssl
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core.errors import StateError, UsageError
from hashclient.provider.clients import Doorkeeper
from hashclient.provider.keys import Clock
from hashclient.provider.public import PUBLIC_MODE
from hashclient.provider.repository import Repository
from hashclient.system.beneath import Directory, open_beneath
from hashclient.system.files import MAX_TEXT_BYTES, make_private_dir, read_regular, write_atomic
from hashclient.system.listening import cannot_listen
from hashclient.system.secrets import read_secret
from hashclient.system.text import printable

CERTIFICATE_VALIDITY = timedelta(days=365)
#: At its start, the server makes a new certificate if the old certificate expires within this time.
CERTIFICATE_MARGIN = timedelta(days=7)
#: An idle connection is closed after this number of seconds.
IDLE_S = 30.0
COPY_BYTES = 1 << 18

_SAFE_PATH = re.compile(r"/(?:metadata|targets)(?:/[A-Za-z0-9][A-Za-z0-9._-]*)+")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class Endpoint(msgspec.Struct, frozen=True):
    """The address of the server, and the files that a client needs for connecting to it."""

    url: str
    ca: Path
    token_file: Path


class TrialServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves the files of one repository; `serve_forever` runs until an exception ends it."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        public: Path,
        token: bytes,
        doorkeeper: Doorkeeper,
        context: ssl.SSLContext,
        log: Callable[[str], None],
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.public = Path(os.path.realpath(public))
        self.expected = b"Bearer " + token
        self._doorkeeper = doorkeeper
        self.log = log
        super().__init__(address, _Handler)
        # The thread of each connection makes the TLS handshake, so that a slow handshake does not
        # delay other clients.
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    def refusal(self, header: bytes, path: str) -> HTTPStatus | None:
        """Return the HTTP status for refusing a request; None if the request is allowed."""
        if hmac.compare_digest(header, self.expected):
            return None
        try:
            client = self._doorkeeper.who(header)
        except StateError as error:
            self.log(error.message)
            client = None
        if client is None:
            return HTTPStatus.UNAUTHORIZED
        return None if client.may(path) else HTTPStatus.FORBIDDEN

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection failed, and let all other connections continue."""
        self.log(f"{client_address[0]}: connection failed")


@contextlib.contextmanager
def open_server(
    repository: Repository, bind: str, *, clock: Clock, log: Callable[[str], None]
) -> Iterator[tuple[TrialServer, Endpoint]]:
    """Listen on `bind`, a `host:port` of this machine's loopback; port 0 means any free port.

    If keys, certificates or the token are missing below `keys/serve/` of the repository, they are
    made.

    Raises:
        UsageError: the address is not a loopback address.
        StateError: `bind` cannot be used, the repository does not exist, or a file cannot be
            written.
    """
    address = _loopback_address(bind)
    repository.require()
    directory = make_private_dir(repository.directory / "keys" / "serve")
    ca, pair, token_file = (directory / n for n in ("ca.pem", "server.pem", "token"))
    if not token_file.exists():
        write_atomic(token_file, secrets.token_urlsafe(32).encode() + b"\n")
    if not all(_is_certificate_good(path, clock()) for path in (ca, pair)):
        _make_certificates(ca, pair, clock())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(pair)
    except (ssl.SSLError, OSError):
        # The key and the certificate do not belong together, or a file is damaged. New certificates
        # are made; the client then needs the new file for its option --ca.
        _make_certificates(ca, pair, clock())
        context.load_cert_chain(pair)
    token = read_secret(token_file, "token file").strip()
    try:
        doorkeeper = Doorkeeper(repository.clients_file, clock)
        server = TrialServer(address, repository.public, token, doorkeeper, context, log)
    except OSError as error:
        raise cannot_listen(bind, error, hint="port 0 takes a free one") from error
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    with server:
        yield server, Endpoint(f"https://{host}:{server.server_address[1]}/", ca, token_file)


def _loopback_address(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ip = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        number = int(port) if port.isascii() and port.isdigit() else -1
    except ValueError:
        ip, number = None, -1
    if ip is None or str(ip) not in {"127.0.0.1", "::1"} or not 0 <= number < 1 << 16:
        raise UsageError(
            f"not a loopback address with a port: {bind}",
            hint="use 127.0.0.1:PORT or [::1]:PORT; for others, put public/ behind a web server",
        )
    return str(ip), number


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    # The header and the body are sent together, because otherwise each small answer would wait 40
    # ms for a delayed TCP acknowledgement.
    wbufsize = COPY_BYTES
    disable_nagle_algorithm = True
    server: TrialServer

    def version_string(self) -> str:
        """Return the name of the server without a version."""
        return "hashclient-trial"

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        # Log the request line and the status. Headers are never logged, because they contain
        # tokens.
        status = code.value if isinstance(code, HTTPStatus) else code
        self.server.log(f"{self.client_address[0]}: {printable(self.requestline)}: {status}")

    def log_error(self, *_args: Any) -> None:
        """Log nothing, because `log_request` logs the status."""

    def _serve(self, *, with_body: bool) -> None:
        if self.headers["Content-Length"] or self.headers["Transfer-Encoding"]:
            # The body of the request is not read, so the connection cannot be used again.
            self.close_connection = True
        given = (self.headers["Authorization"] or "").encode("latin-1", "replace")
        if (refusal := self.server.refusal(given, self.path)) is not None:
            self._refuse(refusal, ("WWW-Authenticate", "Bearer"))
            return
        fd = self._open()
        if fd is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with os.fdopen(fd, "rb") as stream:
            status = os.fstat(fd)
            etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
            span = self._range(status.st_size, etag)
            if span is None:
                unsatisfied = ("Content-Range", f"bytes */{status.st_size}")
                self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, unsatisfied)
                return
            start, end, partial = span
            self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(end - start))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", etag)
            self.end_headers()
            if with_body:
                self._copy(stream.fileno(), start, end)

    def _open(self) -> int | None:
        """Open the file at the path of the request; return None if it must not be sent."""
        if not _SAFE_PATH.fullmatch(self.path) or ".." in self.path:
            return None
        try:
            with Directory.given(self.server.public) as public:
                fd = open_beneath(public.fd, self.path.lstrip("/"), os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            # For example, a part of the path is a symbolic link.
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        return fd

    def _range(self, size: int, etag: str) -> tuple[int, int, bool] | None:
        """Return the start and end of the bytes to send, and whether they are a part of the file.

        Return None if the range in the request is invalid.

        A header `Range` that is not a single range of bytes is ignored, as RFC 9110 allows.
        """
        match = _RANGE.fullmatch(self.headers["Range"] or "")
        condition = self.headers["If-Range"]
        if match is None or not (match[1] or match[2]) or condition not in {None, etag}:
            return 0, size, False
        if match[1]:
            start = int(match[1])
            end = min(int(match[2]) + 1, size) if match[2] else size
        else:
            start, end = max(size - int(match[2]), 0), size
        return (start, end, True) if start < end else None

    def _copy(self, fd: int, start: int, end: int) -> None:
        while start < end:
            block = os.pread(fd, min(COPY_BYTES, end - start), start)
            if not block:
                # The file became shorter. The client notices that bytes are missing.
                self.close_connection = True
                return
            self.wfile.write(block)
            start += len(block)

    def _refuse(self, status: HTTPStatus, *headers: tuple[str, str]) -> None:
        body = f"{status.phrase}\n".encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _is_certificate_good(path: Path, now: datetime) -> bool:
    from cryptography.x509 import load_pem_x509_certificate

    try:
        certificate = load_pem_x509_certificate(read_regular(path, MAX_TEXT_BYTES))
    except (OSError, ValueError):
        return False
    end = certificate.not_valid_after_utc
    return certificate.not_valid_before_utc <= now < end - CERTIFICATE_MARGIN


def _make_certificates(ca_file: Path, pair_file: Path, now: datetime) -> None:
    """Make a certificate authority and a certificate that it signs; discard the authority's key."""
    from trustme import CA

    authority = CA(organization_name="hashclient trial authority")
    server = authority.issue_cert(
        *("localhost", "127.0.0.1", "::1"),
        organization_name="hashclient trial server",
        not_before=now.astimezone(UTC) - timedelta(hours=1),
        not_after=now.astimezone(UTC) + CERTIFICATE_VALIDITY,
    )
    write_atomic(pair_file, server.private_key_and_cert_chain_pem.bytes())
    write_atomic(ca_file, authority.cert_pem.bytes(), mode=PUBLIC_MODE)

"""The trial server: it serves public files to clients with the token, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from fixtures.simulator import Simulator
from hashclient.core.errors import (
    StateError,
    UsageError,
)
from hashclient.provider.repository import Repository
from hashclient.provider.server import CERTIFICATE_VALIDITY, Endpoint, open_server

MD5 = hashlib.md5(b"benign").hexdigest()
SHA1 = hashlib.sha1(b"benign").hexdigest()
SHA256 = hashlib.sha256(b"benign").hexdigest()

CSV = f"""entry_id,md5,sha1,sha256,size,category,added
a-1,{MD5},{SHA1},{SHA256},6,baseline,2024-05-01
a-2,{MD5},,,,,
,,{SHA1},,0,other,2024-05-01T10:00:00Z
""".encode()

ROLES = ("root", "targets", "snapshot", "timestamp", "baseline")


@contextlib.contextmanager
def serving(
    repository: Repository, bind: str = "127.0.0.1:0", now: datetime | None = None
) -> Iterator[tuple[Endpoint, list[str]]]:
    log: list[str] = []
    clock = lambda: now or datetime.now(UTC)  # noqa: E731
    with open_server(repository, bind, clock=clock, log=log.append) as (server, endpoint):
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield endpoint, log
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def browsing(endpoint: Endpoint, token: str | None = None) -> Iterator[httpx.Client]:
    token = endpoint.token_file.read_text().strip() if token is None else token
    with httpx.Client(
        base_url=endpoint.url,
        verify=ssl.create_default_context(cafile=endpoint.ca),
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
        timeout=60,
    ) as browser:
        yield browser


def raw_request(endpoint: Endpoint, request: str) -> bytes:
    """Send `request` with the token inserted, and return the whole answer."""
    context = ssl.create_default_context(cafile=endpoint.ca)
    port = httpx.URL(endpoint.url).port
    token = endpoint.token_file.read_text().strip()
    with (
        socket.create_connection(("127.0.0.1", port or 0), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as stream,
    ):
        stream.sendall(request.replace("TOKEN", f"Authorization: Bearer {token}").encode())
        answer = b""
        while block := stream.recv(1 << 16):
            answer += block
        return answer


@pytest.mark.sampled
@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_the_server_serves_what_is_public(simulator: Simulator, bind: str) -> None:
    simulator.publish(CSV)
    with serving(simulator.repository, bind) as (endpoint, _), browsing(endpoint) as browser:
        for path, data in simulator.files.items():
            answer = browser.get(path)
            assert (answer.status_code, answer.content) == (200, data)
            assert answer.headers["Content-Length"] == str(len(data))
            head = browser.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["ETag"] == answer.headers["ETag"]
            assert head.headers["Content-Length"] == str(len(data))
    keys = simulator.repository.directory / "keys/serve"
    assert (keys / "token").stat().st_mode & 0o777 == 0o600
    assert (keys / "server.pem").stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (keys / "ca.pem").read_bytes()


@pytest.mark.parametrize("token", ["wrong", "ü"])
def test_the_server_wants_its_token(simulator: Simulator, token: str) -> None:
    with (
        serving(simulator.repository) as (endpoint, log),
        browsing(endpoint, "") as browser,
    ):
        header = f"Bearer {token}".encode("latin-1")
        for path in ("metadata/timestamp.json", "nothing"):
            answer = browser.get(path, headers=[(b"Authorization", header)])
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert b"timestamp" not in answer.content
    assert log == [
        "127.0.0.1: GET /metadata/timestamp.json HTTP/1.1: 401",
        "127.0.0.1: GET /nothing HTTP/1.1: 401",
    ]


def test_the_server_serves_nothing_else(simulator: Simulator) -> None:
    public = simulator.repository.public
    (public / "metadata/link.json").symlink_to(simulator.repository.root_file)
    (public / "targets").mkdir(exist_ok=True)
    (public / "targets/folder").symlink_to(simulator.repository.directory / "keys")
    os.mkfifo(public / "metadata/pipe")
    (public / "other").write_bytes(b"")
    (key,) = (simulator.repository.directory / "keys").glob("root-*.pem")
    paths = [
        "/",
        "/metadata",
        "/metadata/",
        "/metadata/none.json",
        "/metadata/link.json",
        "/metadata/pipe",
        f"/targets/folder/{key.name}",
        f"/metadata/../../keys/{key.name}",
        f"/metadata/..%2f..%2fkeys/{key.name}",
        "/metadata/timestamp.json?x",
        "/other",
        "https://127.0.0.1/metadata/timestamp.json",
    ]
    with serving(simulator.repository) as (endpoint, _):
        for path in paths:
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nTOKEN\r\nConnection: close\r\n\r\n"
            assert raw_request(endpoint, request).startswith(b"HTTP/1.1 404 "), path


@pytest.mark.parametrize(
    ("asked", "answered", "span"),
    [
        ("bytes=0-9", "bytes 0-9/{size}", slice(0, 10)),
        ("bytes=10-", "bytes 10-{last}/{size}", slice(10, None)),
        ("bytes=-5", "bytes {tail}-{last}/{size}", slice(-5, None)),
        ("bytes=5-99999", "bytes 5-{last}/{size}", slice(5, None)),
        ("bytes=-99999", "bytes 0-{last}/{size}", slice(0, None)),
    ],
)
def test_the_server_gives_parts(
    simulator: Simulator, asked: str, answered: str, span: slice
) -> None:
    data = simulator.files["metadata/timestamp.json"]
    size = len(data)
    with serving(simulator.repository) as (endpoint, _), browsing(endpoint) as browser:
        answer = browser.get("metadata/timestamp.json", headers={"Range": asked})
    assert answer.status_code == 206
    expected = answered.format(size=size, last=size - 1, tail=size - 5)
    assert (answer.headers["Content-Range"], answer.content) == (expected, data[span])


@pytest.mark.slow
def test_the_server_gives_the_whole_where_no_part_fits(simulator: Simulator) -> None:
    path = "metadata/timestamp.json"
    data = simulator.files[path]
    with serving(simulator.repository) as (endpoint, _), browsing(endpoint) as browser:
        etag = browser.head(path).headers["ETag"]
        for value in ("bytes=0-1,3-4", "bytes=-", "lines=1-2"):
            assert browser.get(path, headers={"Range": value}).content == data
        part = {"Range": "bytes=1-", "If-Range": etag}
        assert browser.get(path, headers=part).content == data[1:]
        assert browser.get(path, headers={**part, "If-Range": '"old"'}).content == data
        for value in (f"bytes={len(data)}-", "bytes=9-3", "bytes=-0"):
            answer = browser.get(path, headers={"Range": value})
            assert answer.status_code == 416
            assert answer.headers["Content-Range"] == f"bytes */{len(data)}"


def test_the_server_keeps_connections_but_not_after_a_body(simulator: Simulator) -> None:
    first = "GET /metadata/1.root.json HTTP/1.1\r\nHost: x\r\nTOKEN\r\n"
    again = "HEAD /metadata/2.root.json HTTP/1.1\r\nHost: x\r\nTOKEN\r\nConnection: close\r\n\r\n"
    with serving(simulator.repository) as (endpoint, _):
        assert raw_request(endpoint, f"{first}\r\n{again}").count(b"HTTP/1.1 ") == 2
        smuggled = f"{first}Content-Length: {len(again)}\r\n\r\n{again}"
        assert raw_request(endpoint, smuggled).count(b"HTTP/1.1 ") == 1


def test_the_server_only_reads(simulator: Simulator) -> None:
    with serving(simulator.repository) as (endpoint, _), browsing(endpoint) as browser:
        for method in ("POST", "PUT", "DELETE"):
            assert browser.request(method, "metadata/1.root.json").status_code == 501


def test_the_server_speaks_tls_only_and_survives_the_rest(simulator: Simulator) -> None:
    with serving(simulator.repository) as (endpoint, log):
        port = httpx.URL(endpoint.url).port or 0
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
            plain.sendall(b"GET /metadata/1.root.json HTTP/1.1\r\n\r\n")
            assert b"HTTP/1" not in plain.recv(1000)
        with browsing(endpoint) as browser:
            assert browser.get("metadata/1.root.json").status_code == 200
    assert "127.0.0.1: connection failed" in log


@pytest.mark.parametrize(
    "bind", ["0.0.0.0:0", "192.0.2.1:80", "example.org:80", "127.0.0.1", "127.0.0.1:x", "[::]:1"]
)
def test_the_server_listens_on_loopback_only(simulator: Simulator, bind: str) -> None:
    with (
        pytest.raises(UsageError, match="not a loopback address"),
        serving(simulator.repository, bind),
    ):
        pass


def test_a_port_in_use_is_said(simulator: Simulator) -> None:
    with serving(simulator.repository) as (endpoint, _):
        port = httpx.URL(endpoint.url).port
        with (
            pytest.raises(StateError, match=r"cannot listen at [0-9.:]+: address already in use$"),
            serving(simulator.repository, f"127.0.0.1:{port}"),
        ):
            pass


def test_the_server_needs_a_repository(tmp_path: Path) -> None:
    repository = Repository(tmp_path, clock=lambda: datetime.now(UTC))
    with pytest.raises(StateError, match="not a provider's repository"), serving(repository):
        pass


def test_certificates_are_kept_and_made_again_when_needed(simulator: Simulator) -> None:
    keys = simulator.repository.directory / "keys/serve"

    def serve_once(now: datetime) -> tuple[bytes, bytes]:
        with serving(simulator.repository, now=now) as (endpoint, _):
            return endpoint.ca.read_bytes(), endpoint.token_file.read_bytes()

    start = datetime.now(UTC)
    first, token = serve_once(start)
    assert serve_once(start + timedelta(days=300)) == (first, token)
    second, kept = serve_once(start + timedelta(days=360))
    assert (second != first, kept) == (True, token)
    pair = (keys / "server.pem").read_bytes()
    end = x509.load_pem_x509_certificate(pair).not_valid_after_utc
    assert abs(end - start - timedelta(days=360) - CERTIFICATE_VALIDITY) < timedelta(hours=1)
    (keys / "server.pem").write_bytes(b"?")
    assert serve_once(start + timedelta(days=360))[0] != second
    (keys / "ca.pem").write_bytes(b"?")
    with serving(simulator.repository) as (endpoint, _), browsing(endpoint) as browser:
        assert browser.get("metadata/1.root.json").status_code == 200

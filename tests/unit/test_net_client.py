"""The transport: bodies arrive complete or not at all, in time, and never leak a secret."""

from __future__ import annotations

import base64
import logging
import socket
import sys
import threading
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures import hostile
from fixtures.hostile import HostileServer, Request, head, ranged, reply
from fixtures.tls import Authority, server_context
from hashclient.core.errors import (
    ConfigError,
    HashclientError,
    UnreachableError,
    VerificationError,
)
from hashclient.net import exchange
from hashclient.net.client import Access, HttpStatusError, Limits, Transport
from hashclient.net.credentials import (
    Endpoint,
    load_secrets,
    parse_proxy,
)
from hashclient.net.deadline import BoundedBackend, Deadline, DeadlineExceededError
from hashclient.net.errors import (
    TransientError,
    foreign_fault,
    parse_retry_after,
    status_fault,
)
from hashclient.net.exchange import Download
from hashclient.net.peer import PROVIDER
from tests.kit import open_files
from tests.transports import BASE, LIMITS, SECRET, SecretFile, opened

BODY = bytes(range(256)) * 40


# Fetching


def test_a_body_arrives_whole_with_the_credential(
    server: HostileServer, secret_file: SecretFile
) -> None:
    server.on("/base/x", reply(BODY))
    seen: list[int] = []
    with opened(
        f"{server.origin}/base", token_file=secret_file(SECRET), on_bytes=seen.append
    ) as transport:
        assert transport.get(f"{server.origin}/base/x", len(BODY)) == BODY
        assert transport.get(f"{server.origin}/base/x", 1 << 20, expected_bytes=len(BODY)) == BODY
    assert sum(seen) == 2 * len(BODY)
    assert server.connections == 1
    request = server.requests[0]
    assert (request.method, request.target) == ("GET", "/base/x")
    assert request.header("authorization") == f"Bearer {SECRET}"
    assert request.header("accept-encoding") == "identity"
    assert str(request.header("user-agent")).startswith("hashclient/")


def test_an_empty_body_is_a_body(server: HostileServer) -> None:
    server.on("/x", reply(b""))
    with opened(server.origin) as transport:
        assert transport.get(f"{server.origin}/x", 0) == b""


def test_a_body_of_another_length_than_expected_is_refused(server: HostileServer) -> None:
    server.on("/x", ranged(b"hello"))
    with opened(server.origin) as transport:
        with pytest.raises(VerificationError, match="longer than the 4 bytes"):
            transport.get(f"{server.origin}/x", 100, expected_bytes=4)
        with pytest.raises(UnreachableError, match="too short"):
            transport.get(f"{server.origin}/x", 100, expected_bytes=6)
    assert len(server.requests) == 1 + LIMITS.attempts
    assert all(request.header("range") is None for request in server.requests)


def test_proxies_of_the_environment_are_not_used(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.on("/x", reply(b"hello"))
    with opened(server.origin) as transport:
        assert transport.get(f"{server.origin}/x", 10) == b"hello"


def test_several_threads_can_fetch_at_once(server: HostileServer) -> None:
    for number in range(8):
        server.on(f"/{number}", reply(str(number).encode() * 1000))
    bodies: dict[int, bytes] = {}

    def fetch(number: int) -> None:
        bodies[number] = transport.get(f"{server.origin}/{number}", 1000)

    with opened(server.origin) as transport:
        threads = [threading.Thread(target=fetch, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bodies == {number: str(number).encode() * 1000 for number in range(8)}


# Resuming


def cut(*, at: int, headers: tuple[tuple[str, str], ...]) -> hostile.Behaviour:
    return hostile.raw(head(200, [("Content-Length", str(len(BODY))), *headers]) + BODY[:at])


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_an_interrupted_body_is_resumed(server: HostileServer, etag: str | None) -> None:
    headers = (("ETag", etag),) if etag else (("Accept-Ranges", "bytes"),)
    server.on("/x", cut(at=6000, headers=headers), ranged(BODY, etag=etag))
    seen: list[int] = []
    with opened(server.origin, on_bytes=seen.append) as transport:
        assert transport.get(f"{server.origin}/x", len(BODY)) == BODY
    assert sum(seen) == len(BODY) and min(seen) > 0
    assert server.requests[1].header("range") == "bytes=6000-"
    assert server.requests[1].header("if-range") == etag


def test_a_body_is_resumed_more_than_once(server: HostileServer) -> None:
    def again(connection: hostile.Connection, request: Request) -> bool:
        rest = BODY[6000:]
        span = f"bytes 6000-{len(BODY) - 1}/{len(BODY)}"
        headers = [("Content-Length", str(len(rest))), ("Content-Range", span)]
        connection.send(head(206, headers) + rest[:1000])
        return False

    server.on("/x", cut(at=6000, headers=(("ETag", '"v1"'),)), again, ranged(BODY, etag='"v1"'))
    with opened(server.origin) as transport:
        assert transport.get(f"{server.origin}/x", len(BODY)) == BODY
    assert [request.header("range") for request in server.requests] == [
        None,
        "bytes=6000-",
        "bytes=7000-",
    ]


@pytest.mark.parametrize("headers", [(), (("ETag", 'W/"v1"'),), (("Accept-Ranges", "none"),)])
def test_a_body_that_cannot_be_resumed_starts_again(
    server: HostileServer, headers: tuple[tuple[str, str], ...]
) -> None:
    server.on("/x", cut(at=6000, headers=headers), ranged(BODY))
    seen: list[int] = []
    with opened(server.origin, on_bytes=seen.append) as transport:
        assert transport.get(f"{server.origin}/x", len(BODY)) == BODY
    assert server.requests[1].header("range") is None
    assert sum(seen) == len(BODY) and -6000 in seen


def test_a_body_that_changed_meanwhile_is_taken_whole(server: HostileServer) -> None:
    server.on("/x", cut(at=6000, headers=(("ETag", '"v1"'),)), ranged(b"new", etag='"v2"'))
    with opened(server.origin) as transport:
        assert transport.get(f"{server.origin}/x", len(BODY)) == b"new"


SIZE = len(BODY)


@pytest.mark.parametrize(
    ("status", "content_range"),
    [
        (416, None),
        (206, None),
        (206, f"bytes 5999-{SIZE - 1}/{SIZE}"),
        (206, f"bytes 6000-{SIZE - 1}/{SIZE + 1}"),
        (206, f"bytes 6000-{SIZE - 2}/{SIZE}"),
        (206, f"bytes 6000-{SIZE}/{SIZE}"),
        (206, f"bytes 6000-{SIZE}/*"),
        (206, "bytes 6000-"),
    ],
)
def test_a_rest_that_does_not_fit_is_dropped(
    server: HostileServer, status: int, content_range: str | None
) -> None:
    headers = [] if content_range is None else [("Content-Range", content_range)]
    server.on(
        "/x",
        cut(at=6000, headers=(("ETag", '"v1"'),)),
        reply(BODY[6000:], status=status, headers=headers),
        reply(BODY),
    )
    with opened(server.origin) as transport:
        assert transport.get(f"{server.origin}/x", 2 * SIZE) == BODY
    assert [request.header("range") for request in server.requests] == [None, "bytes=6000-", None]


@pytest.mark.parametrize(
    ("content_range", "length"),
    [
        ("bytes 2-9/10", 7),
        ("bytes 2-9/10", 9),
        ("bytes 2-9/10", 0),
        ("bytes 2-9/*", 7),
        ("bytes 3-9/10", 7),
        ("bytes 1-9/10", 9),
        ("bytes 2-8/10", 7),
        ("bytes 2-9/11", 8),
        ("bytes 2-8/9", 7),
        ("bytes 2-10/11", 9),
        ("bytes 2-1/10", 0),
        ("items 2-9/10", 8),
        ("bytes 2-9/10, 2-9/10", 8),
        ("", 8),
    ],
)
def test_a_range_says_the_same_as_its_length(content_range: str, length: int) -> None:
    """`Content-Range` and `Content-Length` must agree; a cache that mixes files breaks this."""
    download = Download("https://list.invalid/x", 20)
    whole = {"ETag": '"v"', "Content-Length": "10"}
    download.begin(200, httpx.Headers(whole), 0)
    download.add(b"ab")
    assert download.range_headers() == {"Range": "bytes=2-", "If-Range": '"v"'}
    rest = {"Content-Range": content_range, "Content-Length": str(length)}
    with pytest.raises(TransientError, match="not the range that was asked for"):
        download.begin(206, httpx.Headers(rest), 0)
    # Since no byte of the answer is kept, the next attempt asks for the whole file.
    assert download.range_headers() == {}
    assert download.begin(200, httpx.Headers(whole), 0) == 10


@pytest.mark.parametrize("expected", [None, 10, 12])
def test_a_body_is_whole_or_none(expected: int | None) -> None:
    """A body without a signed length, or one received in two parts, is also complete or refused."""
    download = Download("https://list.invalid/x", 20, expected)
    download.begin(200, httpx.Headers({"ETag": '"v"', "Content-Length": "10"}), 0)
    download.add(b"ab")
    assert download.range_headers()["Range"] == "bytes=2-"
    download.begin(206, httpx.Headers({"Content-Range": "bytes 2-9/10"}), 0)
    download.add(b"cdefghi")
    with pytest.raises(TransientError, match="too short"):
        download.finish()
    # A short body with a proper end is another file, so the client does not continue it.
    assert download.range_headers() == {}


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503, 302, 204])
def test_an_error_instead_of_the_rest_is_an_error(server: HostileServer, status: int) -> None:
    """The page of an error is not used as the rest of the body."""
    server.on(
        "/x",
        cut(at=6000, headers=(("ETag", '"v1"'),)),
        reply(b"sorry" if status != 204 else b"", status=status),
    )
    with opened(server.origin) as transport, pytest.raises(HashclientError) as caught:
        transport.get(f"{server.origin}/x", len(BODY))
    assert f": {status} " in caught.value.message


@pytest.mark.parametrize(("most", "expected"), [(5, 10), (10, 5), (5, None)])
def test_the_lower_of_two_bounds_counts(most: int, expected: int | None) -> None:
    with pytest.raises(VerificationError, match="longer than the 5 bytes"):
        Download("https://list.invalid/x", most, expected).begin(
            200, httpx.Headers({"Content-Length": "6"}), 0
        )
    download = Download("https://list.invalid/x", most, expected)
    download.begin(200, httpx.Headers({}), 0)
    with pytest.raises(VerificationError, match="longer than the 5 bytes"):
        download.add(b"123456")


def test_an_answer_that_is_refused_holds_no_connection(server: HostileServer) -> None:
    server.on("/x", hostile.then_stall(head(200, [("Content-Length", "1001")])))
    with opened(server.origin) as transport:
        files = open_files()
        for _ in range(3):
            with pytest.raises(VerificationError):
                transport.get(f"{server.origin}/x", 1000)
        # The server runs in this process, so up to three of the open sockets are its sockets.
        assert open_files() - files <= 3


@pytest.mark.parametrize("status", [206, 416])
def test_an_answer_to_a_range_that_was_not_asked_for_is_none(status: int) -> None:
    headers = httpx.Headers({"Content-Range": "bytes 0-9/10", "Content-Length": "10"})
    with pytest.raises(HttpStatusError, match=f": {status} "):
        Download("https://list.invalid/x", 20).begin(status, headers, 0)


def test_a_rest_may_leave_the_total_open() -> None:
    download = Download("https://list.invalid/x", 10)
    download.begin(200, httpx.Headers({"ETag": '"v"', "Content-Length": "4"}), 0)
    download.add(b"ab")
    assert download.range_headers() == {"Range": "bytes=2-", "If-Range": '"v"'}
    assert download.begin(206, httpx.Headers({"Content-Range": "bytes 2-3/*"}), 0) == 8
    download.add(b"cd")
    assert download.finish() == b"abcd"


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", "1"), ("Content-Length", "1")],
        [("Content-Length", "1"), ("Transfer-Encoding", "chunked")],
        [("Content-Length", "-1")],
        [("Content-Length", "1" * 19)],
        [("Content-Length", "")],
    ],
)
def test_framing_that_is_not_clear_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(TransientError):
        Download("https://list.invalid/x", 10).begin(200, httpx.Headers(headers), 0)


# Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 500, 1e9),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:01:40 -0000", 90.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("\u0663", None),
        ("Thu, 99 Jan 1970 00:01:40 GMT", None),
        ("Thu, 01 Jan 99999999999 00:01:40 GMT", None),
        ("Thu, 01 Jan 1970 00:01:40 +99999999999999999999", None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=10.0) == seconds


@given(st.text(max_size=60), st.floats(0, 4e9))
def test_no_retry_after_is_an_error(value: str, now: float) -> None:
    seconds = parse_retry_after(value, now)
    assert seconds is None or seconds >= 0


# Proxies


def test_an_http_proxy_gets_its_own_password_and_no_other(
    authority: Authority, secret_file: SecretFile
) -> None:
    context = server_context(authority.issue("behind-proxy", ("list.invalid",)))
    with HostileServer(context) as server, HostileServer() as proxy:
        server.on("/x", reply(b"hello"))
        proxy.on("list.invalid:443", hostile.tunnel(server.port))
        with opened(
            "https://list.invalid",
            ca=authority.ca,
            token_file=secret_file(SECRET),
            proxy=proxy.origin,
            proxy_basic_file=secret_file("me:door\n"),
        ) as transport:
            assert transport.get("https://list.invalid/x", 10) == b"hello"
        [asked] = proxy.requests
        assert asked.method == "CONNECT"
        assert asked.header("proxy-authorization") == (
            "Basic " + base64.b64encode(b"me:door").decode()
        )
        assert asked.header("authorization") is None
        assert server.requests[0].header("proxy-authorization") is None
        assert server.requests[0].header("authorization") == f"Bearer {SECRET}"


def test_socks_without_its_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ConfigError, match="needs the package socksio") as caught:
        opened(BASE, proxy="socks5://127.0.0.1:1080")
    assert "httpx[socks]" in str(caught.value.hint)


def test_a_socks_proxy_is_used(authority: Authority) -> None:
    context = server_context(authority.issue("behind-socks", ("list.invalid",)))
    with (
        HostileServer(context) as server,
        HostileServer(greeting=hostile.socks5(server.port)) as proxy,
    ):
        server.on("/x", reply(b"hello"))
        with opened(
            "https://list.invalid", ca=authority.ca, proxy=f"socks5://127.0.0.1:{proxy.port}"
        ) as transport:
            assert transport.get("https://list.invalid/x", 10) == b"hello"
        assert proxy.connections == 1


# httpcore leaves the socket of a failed SOCKS connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "answers",
    [
        pytest.param((b"HTTP/1.1 400 Bad Request\r\n\r\n",), id="not socks"),
        pytest.param((b"\x05\xff",), id="no method"),
        pytest.param((b"\x05\x00", b"\x05\x05\x00\x01\x7f\x00\x00\x01\x00\x00"), id="refused"),
        pytest.param((b"\x05\x00", b"\x05"), id="cut short"),
    ],
)
def test_a_socks_proxy_that_does_not_connect_is_unreachable(answers: tuple[bytes, ...]) -> None:
    with HostileServer(greeting=hostile.socks5_answers(*answers)) as proxy:
        address = f"socks5://127.0.0.1:{proxy.port}"
        with (
            opened("https://list.invalid", proxy=address) as transport,
            pytest.raises(UnreachableError, match="proxy does not connect"),
        ):
            transport.get("https://list.invalid/x", 10)


def test_a_proxy_address_has_default_ports() -> None:
    assert parse_proxy("socks5://p.invalid").port == 1080
    assert parse_proxy("http://p.invalid").port == 80


# Secrets


@pytest.mark.parametrize(
    "behaviour",
    [
        reply(status=401),
        reply(status=403, body=SECRET.encode()),
        reply(status=500),
        reply(status=302, headers=[("Location", f"/{SECRET}")]),
        hostile.raw(f"HTTP/1.1 200 OK\r\n{SECRET}\r\n\r\n".encode()),
        hostile.raw(f"{SECRET}\r\n\r\n".encode()),
        hostile.reset_after(),
        reply(b"x", headers=[("Content-Encoding", SECRET)]),
        hostile.raw(head(200, [("Content-Length", SECRET)])),
        hostile.raw(head(200, [("Transfer-Encoding", SECRET)])),
    ],
    ids=["401", "403", "500", "302", "header", "not http", "reset", "coding", "length", "framing"],
)
def test_no_message_and_no_log_holds_a_credential(
    server: HostileServer,
    secret_file: SecretFile,
    behaviour: hostile.Behaviour,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.on("/x", behaviour)
    access = Access(server.origin, token_file=secret_file(SECRET), allow_http=True)
    with Transport(access, limits=LIMITS, wait=lambda _: None) as transport:
        with pytest.raises(HashclientError) as caught:
            transport.get(f"{server.origin}/x", 100)
        shown = f"{access!r} {transport!r} {load_secrets(access)!r}"
    assert server.requests[0].header("authorization") == f"Bearer {SECRET}"
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"
    assert SECRET not in shown
    sent = [record.getMessage() for record in caplog.records]
    assert not [text for text in sent if "Bearer" in text]


def test_unusual_failures_have_words_too() -> None:
    fault = foreign_fault(
        PROVIDER, httpx.InvalidURL("x"), "https://a.invalid", "https://a.invalid/x"
    )
    assert isinstance(fault, VerificationError)
    fault = status_fault(PROVIDER, 799, "https://a.invalid/x")
    assert isinstance(fault, HttpStatusError) and fault.message.endswith(": 799")


def test_an_endpoint_spells_its_port_only_where_needed() -> None:
    assert Endpoint("https", "a.invalid", 443, "/").url == "https://a.invalid/"
    assert Endpoint("https", "a.invalid", 444, "/x").url == "https://a.invalid:444/x"


# Sockets


def test_a_stream_shows_whether_an_idle_connection_is_still_good() -> None:
    backend = BoundedBackend()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        backend.within(Deadline(time.monotonic, 5)),
    ):
        stream = backend.connect_tcp("127.0.0.1", listener.getsockname()[1])
        peer = listener.accept()[0]
        assert stream.get_extra_info("is_readable") is False
        assert stream.get_extra_info("ssl_object") is None
        assert stream.get_extra_info("client_addr") is None
        peer.close()
        assert stream.read(10) == b""
        assert stream.get_extra_info("is_readable") is True
        stream.close()
        assert stream.get_extra_info("is_readable") is True


def test_a_connection_closed_while_idle_costs_no_fetch(server: HostileServer) -> None:
    answer = head(200, [("Content-Length", "5")]) + b"hello"
    server.on("/x", hostile.raw(answer))
    with opened(server.origin) as transport:
        for _ in range(4):
            assert transport.get(f"{server.origin}/x", 5) == b"hello"


def test_a_deadline_ends() -> None:
    clock = [10.0]
    deadline = Deadline(lambda: clock[0], 5.0)
    assert deadline.operation() == 5.0
    deadline.begin_body(10.0, 2.0)
    assert (deadline.left(), deadline.operation()) == (15.0, 2.0)
    clock[0] = 24.0
    assert deadline.operation() == 1.0
    clock[0] = 25.0
    with pytest.raises(DeadlineExceededError):
        deadline.operation()


def test_a_sent_body_gets_time_by_its_size_as_a_received_one_does(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted: list[tuple[float, float]] = []

    class Noting(Deadline):
        def begin_body(self, seconds: float, stall_s: float) -> None:
            granted.append((seconds, stall_s))
            super().begin_body(seconds, stall_s)

    monkeypatch.setattr(exchange, "Deadline", Noting)
    server.on("/x", reply(b"thanks"))
    limits = Limits(base_s=7.0, stall_s=5.0, min_rate=100.0)
    url = f"{server.origin}/x"
    with Transport(Access(server.origin, allow_http=True), limits=limits) as transport:
        answer = transport.exchange(
            "POST", url, Download(url, 10), content=[b"a" * 150, b"b" * 50], content_bytes=200
        )
        assert answer == b"thanks"
        assert server.requests[0].header("content-length") == "200"
        assert server.requests[0].header("transfer-encoding") is None
        assert granted == [(2.0, 7.0), (0.06, 5.0)]
        granted.clear()
        transport.exchange("GET", url, Download(url, 10))
        assert granted == [(0.06, 5.0)]


def test_an_exchange_is_made_once_and_with_the_credential(
    server: HostileServer, secret_file: SecretFile
) -> None:
    server.on("/x", reply(status=503), reply(b"again"))
    server.on("/y", hostile.reset_after())
    with opened(server.origin, token_file=secret_file(SECRET)) as transport:
        for path in ("/x", "/y"):
            url = f"{server.origin}{path}"
            with pytest.raises(UnreachableError):
                transport.exchange("POST", url, Download(url, 10), content=b"", content_bytes=0)
        with HostileServer() as other, pytest.raises(VerificationError, match="address refused"):
            transport.exchange("GET", f"{other.origin}/x", Download(other.origin, 10))
        assert other.connections == 0
    assert [request.target for request in server.requests] == ["/x", "/y"]
    assert {r.header("authorization") for r in server.requests} == {f"Bearer {SECRET}"}


def test_waits_have_full_jitter_and_a_cap(server: HostileServer) -> None:
    waits: list[float] = []
    server.on("/x", reply(status=500))
    access = Access(server.origin, allow_http=True)
    limits = Limits(attempts=7, backoff_s=1.0, backoff_max_s=5.0)
    with (
        Transport(access, limits=limits, wait=waits.append, random=lambda: 0.5) as transport,
        pytest.raises(HttpStatusError),
    ):
        transport.get(f"{server.origin}/x", 5)
    assert waits == [0.5, 1.0, 2.0, 2.5, 2.5, 2.5]

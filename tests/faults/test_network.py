"""Attacks by a hostile or broken network on a fetch, one test each.

A real server on loopback misbehaves; if the attack is slowness, time limits are short.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import itertools
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fixtures import hostile
from fixtures.hostile import HostileServer, head, reply
from fixtures.tls import Authority, server_context
from hashclient.core.errors import (
    AuthorisationError,
    ExitCode,
    HashclientError,
    UnreachableError,
    VerificationError,
)
from hashclient.net.client import Access, HttpStatusError, Limits, RefusedError, Transport

TOKEN = "t0ken-that-must-not-leak"
#: Answers that are not slow have enough time even on a busy machine.
PATIENT = Limits(base_s=60, stall_s=60, min_rate=1e6, attempts=3)
SHORT = Limits(base_s=2, stall_s=0.5, min_rate=1e6, attempts=3)
CAP = 1000
OK = ("Content-Length", "5")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(TOKEN + "\n")
    return path


@contextlib.contextmanager
def opened(
    url: str, limits: Limits = PATIENT, waits: list[float] | None = None, **settings: Any
) -> Iterator[Transport]:
    """Yield a transport that notes the pauses between attempts instead of waiting."""
    extra = {name: settings.pop(name) for name in ("resolve", "now") if name in settings}
    access = Access(url, allow_http=url.startswith("http:"), **settings)
    recorded = [] if waits is None else waits
    with Transport(
        access, limits=limits, wait=recorded.append, random=lambda: 1.0, **extra
    ) as transport:
        yield transport


def failure(
    server: HostileServer, limits: Limits = PATIENT, cap: int = CAP, **settings: Any
) -> HashclientError:
    """Fetch /x from the server, and return the error."""
    with (
        opened(server.origin, limits, **settings) as transport,
        pytest.raises(HashclientError) as caught,
    ):
        transport.get(f"{server.origin}/x", cap)
    return caught.value


# Slow servers


@pytest.mark.slow
def test_dripped_headers_meet_the_deadline(server: HostileServer) -> None:
    server.on("/x", hostile.dripped(b"HTTP/1.1 200 OK\r\nX: "))
    error = failure(server, SHORT)
    assert error.exit_code is ExitCode.UNREACHABLE
    assert "too slow" in error.message
    assert len(server.requests) == 1


@pytest.mark.slow
def test_dripped_informational_answers_meet_the_deadline(server: HostileServer) -> None:
    server.on("/x", hostile.endless(b"", head(103)))
    assert "too slow" in failure(server, SHORT).message


@pytest.mark.slow
def test_a_dripped_body_meets_the_deadline(server: HostileServer) -> None:
    server.on("/x", hostile.dripped(head(200, [("Content-Length", "900")])))
    error = failure(server, SHORT)
    assert error.exit_code is ExitCode.UNREACHABLE
    assert "too slow" in error.message


@pytest.mark.slow
def test_a_body_below_the_minimum_rate_meets_the_deadline_it_was_given(
    server: HostileServer,
) -> None:
    """The limits of the test give the body a hundredth of a second for each byte."""
    server.on("/x", hostile.dripped(head(200, [("Content-Length", "300")]), b"x" * 300))
    with (
        opened(server.origin, replace(SHORT, attempts=1)) as transport,
        pytest.raises(UnreachableError, match="too slow"),
    ):
        transport.get(f"{server.origin}/x", CAP)
    with opened(server.origin, replace(SHORT, stall_s=60, min_rate=10, attempts=1)) as transport:
        assert transport.get(f"{server.origin}/x", CAP) == b"x" * 300


@pytest.mark.slow
def test_silence_after_the_request_meets_the_deadline(server: HostileServer) -> None:
    server.on("/x", hostile.then_stall())
    assert "too slow" in failure(server, SHORT).message


def test_silence_in_the_body_is_tried_again(server: HostileServer) -> None:
    server.on("/x", hostile.then_stall(head(200, [OK]) + b"he"), reply(b"hello"))
    with opened(server.origin, replace(PATIENT, stall_s=0.2, attempts=50)) as transport:
        assert transport.get(f"{server.origin}/x", CAP) == b"hello"


@pytest.mark.slow
def test_silence_in_every_body_ends_unreachable(server: HostileServer) -> None:
    server.on("/x", hostile.then_stall(head(200, [OK]) + b"he"))
    error = failure(server, SHORT)
    assert error.exit_code is ExitCode.UNREACHABLE
    assert "stopped sending" in error.message
    assert len(server.requests) == SHORT.attempts


@pytest.mark.slow
def test_silence_in_the_tls_handshake_meets_the_deadline(authority: Authority) -> None:
    context = server_context(authority.issue("silent-tls"))
    with HostileServer(context, hostile.stall_at_once) as server:
        assert "too slow" in failure(server, SHORT, ca=authority.ca).message


@pytest.mark.slow
def test_a_connect_that_hangs_meets_the_deadline() -> None:
    with hostile.silent_listener() as port:
        url = f"http://127.0.0.1:{port}"
        with opened(url, SHORT) as transport, pytest.raises(UnreachableError, match="too slow"):
            transport.get(f"{url}/x", CAP)


@pytest.mark.slow
def test_one_silent_address_leaves_time_for_the_next(server: HostileServer) -> None:
    server.on("/x", reply(b"hello"))
    with hostile.silent_listener() as silent:

        def resolve(*asked: object) -> Sequence[tuple[int, int, int, str, Any]]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
                for port in (silent, server.port)
            ]

        url = f"http://localhost:{server.port}"
        with opened(url, replace(SHORT, attempts=1), resolve=resolve) as transport:
            assert transport.get(f"{url}/x", CAP) == b"hello"


@pytest.mark.slow
def test_a_name_lookup_that_hangs_meets_the_deadline() -> None:
    over = threading.Event()

    def resolve(*asked: object) -> Sequence[tuple[int, int, int, str, Any]]:
        over.wait(10)
        return []

    with (
        opened("http://localhost:1", SHORT, resolve=resolve) as transport,
        pytest.raises(UnreachableError, match="too slow"),
    ):
        transport.get("http://localhost:1/x", CAP)
    over.set()


# Bodies


def test_an_endless_body_stops_at_the_cap(server: HostileServer) -> None:
    server.on("/x", hostile.endless(head(200), b"x" * 4096))
    error = failure(server)
    assert error.exit_code is ExitCode.UNVERIFIED
    assert "longer than the 1000 bytes" in error.message
    assert len(server.requests) == 1


def test_an_endless_chunked_body_stops_at_the_cap(server: HostileServer) -> None:
    server.on(
        "/x",
        hostile.endless(head(200, [("Transfer-Encoding", "chunked")]), b"4\r\nxxxx\r\n"),
    )
    assert isinstance(failure(server), VerificationError)


def test_a_declared_length_over_the_cap_is_refused_before_the_body(server: HostileServer) -> None:
    server.on("/x", hostile.then_stall(head(200, [("Content-Length", "1001")])))
    error = failure(server)
    assert isinstance(error, VerificationError)
    assert len(server.requests) == 1


def test_a_gzip_bomb_is_not_opened(server: HostileServer) -> None:
    bomb = gzip.compress(bytes(1_000_000))
    server.on("/x", reply(bomb, headers=[("Content-Encoding", "gzip")]))
    error = failure(server, cap=10_000)
    assert isinstance(error, VerificationError)
    assert "compressed" in error.message
    assert server.requests[0].header("accept-encoding") == "identity"


@pytest.mark.sampled
@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(hostile.raw(head(200, [("Content-Length", "9")]) + b"hello"), id="truncated"),
        pytest.param(
            hostile.raw(head(200, [("Transfer-Encoding", "chunked")]) + b"9\r\nhello"),
            id="truncated chunk",
        ),
        pytest.param(
            hostile.raw(head(200, [OK, ("Content-Length", "9")]) + b"hello"), id="two lengths"
        ),
        pytest.param(
            hostile.raw(
                head(200, [OK, ("Transfer-Encoding", "chunked")]) + b"5\r\nhello\r\n0\r\n\r\n"
            ),
            id="length and chunks",
        ),
        pytest.param(hostile.raw(head(200, [("Content-Length", "five")])), id="length in words"),
        pytest.param(hostile.raw(b"\x00\xff\x00\xff not HTTP\r\n\r\n"), id="not http"),
        pytest.param(hostile.raw(), id="no answer"),
        pytest.param(hostile.reset_after(), id="reset"),
        pytest.param(hostile.reset_after(head(200, [OK]), b"he"), id="reset in the body"),
        pytest.param(hostile.endless(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536), id="endless header"),
    ],
)
def test_a_broken_answer_is_tried_again_and_then_unreachable(
    server: HostileServer, behaviour: hostile.Behaviour
) -> None:
    server.on("/x", behaviour)
    error = failure(server)
    assert error.exit_code is ExitCode.UNREACHABLE
    assert error.hint is not None and "stay in use" in error.hint
    assert len(server.requests) == PATIENT.attempts
    server.on("/x", behaviour, reply(b"hello"))
    with opened(server.origin) as transport:
        assert transport.get(f"{server.origin}/x", CAP) == b"hello"


def test_bytes_after_the_declared_length_reach_no_one(server: HostileServer) -> None:
    def too_much(connection: hostile.Connection, _request: hostile.Request) -> bool:
        connection.send(head(200, [OK]) + b"hello and more")
        return True

    server.on("/x", too_much)
    server.on("/y", reply(b"right"))
    with opened(server.origin) as transport:
        assert transport.get(f"{server.origin}/x", CAP) == b"hello"
        assert transport.get(f"{server.origin}/y", CAP) == b"right"


def test_a_body_without_length_cut_on_the_wire_is_no_body(authority: Authority) -> None:
    context = server_context(authority.issue("cut-on-the-wire"))
    with HostileServer(context) as server:
        server.on("/x", hostile.reset_after(head(200) + b"hel"))
        error = failure(server, ca=authority.ca)
        assert error.exit_code is ExitCode.UNREACHABLE
        server.on("/x", hostile.raw(head(200) + b"hello"))
        with opened(server.origin, ca=authority.ca) as transport:
            assert transport.get(f"{server.origin}/x", CAP) == b"hello"


# Redirects and statuses


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
def test_a_redirect_is_not_followed(server: HostileServer, token_file: Path, status: int) -> None:
    with HostileServer() as other:
        server.on(
            "/x", reply(status=status, headers=[("Location", f"{other.origin}/steal?{TOKEN}")])
        )
        error = failure(server, token_file=token_file)
        assert other.connections == 0
    assert isinstance(error, HttpStatusError) and error.status == status
    assert "redirects" in error.message and TOKEN not in error.message
    assert len(server.requests) == 1


def test_a_foreign_address_is_refused_and_the_credential_unsent(
    server: HostileServer, token_file: Path
) -> None:
    with HostileServer() as other, opened(server.origin, token_file=token_file) as transport:
        with pytest.raises(VerificationError):
            transport.get(f"{other.origin}/x", CAP)
        assert other.connections == server.connections == 0


@pytest.mark.parametrize("status", [401, 403, 407])
def test_a_refusal_is_not_authorised(server: HostileServer, token_file: Path, status: int) -> None:
    server.on("/x", reply(status=status))
    error = failure(server, token_file=token_file)
    assert isinstance(error, RefusedError) and error.status == status
    assert error.exit_code is ExitCode.UNAUTHORISED
    assert len(server.requests) == 1
    assert server.requests[0].header("authorization") == f"Bearer {TOKEN}"


@pytest.mark.parametrize(("status", "what"), [(401, "asks for"), (403, "refuses access")])
def test_a_refusal_without_a_credential_says_that_none_is_configured(
    server: HostileServer, status: int, what: str
) -> None:
    server.on("/x", reply(status=status))
    error = failure(server)
    assert isinstance(error, RefusedError) and error.status == status
    assert f"provider {what}" in error.message and "configured: " in error.message
    assert error.hint is not None and "--token-file" in error.hint


@pytest.mark.parametrize("status", [404, 400, 201, 204, 206, 599])
def test_another_status_is_final_and_reported(server: HostileServer, status: int) -> None:
    server.on("/x", reply(status=status))
    error = failure(server)
    assert isinstance(error, HttpStatusError) and error.status == status
    assert error.exit_code is ExitCode.UNREACHABLE
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_tried_again_with_doubling_waits(
    server: HostileServer, status: int
) -> None:
    waits: list[float] = []
    server.on("/x", reply(status=status), reply(status=status), reply(b"hello"))
    with opened(server.origin, waits=waits) as transport:
        assert transport.get(f"{server.origin}/x", CAP) == b"hello"
    assert waits == [PATIENT.backoff_s, 2 * PATIENT.backoff_s]


def test_retry_after_is_obeyed(server: HostileServer) -> None:
    waits: list[float] = []
    date = "Thu, 01 Jan 1970 00:00:40 GMT"
    server.on(
        "/x",
        reply(status=503, headers=[("Retry-After", "7")]),
        reply(status=429, headers=[("Retry-After", date)]),
        reply(b"hello"),
    )
    with opened(server.origin, waits=waits, now=lambda: 10.0) as transport:
        assert transport.get(f"{server.origin}/x", CAP) == b"hello"
    assert waits == [7.0, 30.0]


def test_a_retry_after_beyond_the_patience_says_when_to_come_back(server: HostileServer) -> None:
    waits: list[float] = []
    server.on("/x", reply(status=503, headers=[("Retry-After", "86400")]))
    error = failure(server, waits=waits)
    assert isinstance(error, HttpStatusError) and error.status == 503
    assert error.hint is not None and "86400 s" in error.hint
    assert waits == [] and len(server.requests) == 1


def test_waits_add_up_to_no_more_than_the_patience(server: HostileServer) -> None:
    waits: list[float] = []
    server.on("/x", reply(status=503, headers=[("Retry-After", "50")]))
    error = failure(server, Limits(attempts=100, retry_total_s=120), waits=waits)
    assert error.exit_code is ExitCode.UNREACHABLE
    assert waits == [50.0, 50.0]


# Servers without a connection


def test_a_closed_port_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    waits: list[float] = []
    with opened(url, waits=waits) as transport, pytest.raises(UnreachableError) as caught:
        transport.get(f"{url}/x", CAP)
    assert caught.value.message == f"provider does not answer: {url}: connection refused"
    assert len(waits) == PATIENT.attempts - 1


def test_an_unknown_host_is_unreachable() -> None:
    def resolve(*asked: object) -> Sequence[tuple[int, int, int, str, Any]]:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    with (
        opened("https://list.invalid", resolve=resolve) as transport,
        pytest.raises(UnreachableError, match="cannot find provider"),
    ):
        transport.get("https://list.invalid/x", CAP)


# TLS


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("expired", {"ends": -dt.timedelta(hours=1)}, "certificate has expired"),
        ("early", {"starts": dt.timedelta(hours=1)}, "certificate is not yet valid"),
        ("other-name", {"hosts": ("other.invalid",)}, "certificate is for another address"),
    ],
)
def test_a_bad_server_certificate_is_refused(
    authority: Authority, name: str, settings: dict[str, Any], message: str
) -> None:
    with HostileServer(server_context(authority.issue(name, **settings))) as server:
        error = failure(server, ca=authority.ca)
        assert error.exit_code is ExitCode.UNREACHABLE
        assert message in error.message and error.hint
        assert server.connections == 1, "a verification failure is not tried again"
        assert server.requests == []


def test_a_certificate_for_another_host_name_is_refused(authority: Authority) -> None:
    context = server_context(authority.issue("not-localhost", ("other.invalid",)))
    with HostileServer(context) as server:
        url = f"https://localhost:{server.port}"
        with (
            opened(url, ca=authority.ca) as transport,
            pytest.raises(UnreachableError, match="for another host name"),
        ):
            transport.get(f"{url}/x", CAP)


def test_an_unknown_authority_is_refused(
    authority: Authority, tmp_path: Path, token_file: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    with HostileServer(server_context(stranger.issue("strange"))) as server:
        for ca in (authority.ca, None):
            error = failure(server, ca=ca, token_file=token_file)
            assert error.exit_code is ExitCode.UNREACHABLE
            assert "unknown authority" in error.message and "`ca`" in str(error.hint)
        assert server.requests == []


def test_tls_that_is_too_old_is_refused(authority: Authority) -> None:
    context = server_context(authority.issue("old-tls"))
    with HostileServer(context, hostile.tls_alert(70)) as server:
        error = failure(server, ca=authority.ca)
        assert error.exit_code is ExitCode.UNREACHABLE
        assert "too old" in error.message and "TLS 1.2" in str(error.hint)


def test_a_plain_server_behind_an_https_address_is_refused(authority: Authority) -> None:
    context = server_context(authority.issue("plain"))
    with HostileServer(context, hostile.plain_text) as server:
        error = failure(server, ca=authority.ca)
        assert error.exit_code is ExitCode.UNREACHABLE
        assert "no TLS" in error.message and server.connections == 1


def test_a_reset_in_the_handshake_is_tried_again(authority: Authority) -> None:
    context = server_context(authority.issue("reset-tls"))
    with HostileServer(context, hostile.reset_tls) as server:
        assert failure(server, ca=authority.ca).exit_code is ExitCode.UNREACHABLE
        assert server.connections == PATIENT.attempts


def test_a_missing_client_certificate_is_not_authorised(authority: Authority) -> None:
    context = server_context(authority.issue("strict"), client_ca=authority.ca)
    with HostileServer(context) as server:
        server.on("/x", reply(b"hello"))
        error = failure(server, ca=authority.ca)
        assert error.exit_code is ExitCode.UNAUTHORISED
        assert "requires a client certificate" in error.message
        client = authority.issue("client")
        with opened(
            server.origin, ca=authority.ca, client_cert=client.cert, client_key=client.key
        ) as transport:
            assert transport.get(f"{server.origin}/x", CAP) == b"hello"


def test_a_client_certificate_of_a_stranger_is_not_authorised(
    authority: Authority, tmp_path: Path
) -> None:
    context = server_context(authority.issue("strict-too"), client_ca=authority.ca)
    client = Authority(tmp_path, "stranger").issue("stranger-client")
    with HostileServer(context) as server:
        error = failure(server, ca=authority.ca, client_cert=client.cert, client_key=client.key)
        assert isinstance(error, AuthorisationError)
        assert "client certificate" in error.message


@pytest.mark.parametrize(
    ("alert", "exit_code"),
    [
        (42, ExitCode.UNAUTHORISED),
        (44, ExitCode.UNAUTHORISED),
        (45, ExitCode.UNAUTHORISED),
        (48, ExitCode.UNAUTHORISED),
        (40, ExitCode.UNREACHABLE),
        (80, ExitCode.UNREACHABLE),
    ],
)
def test_an_alert_says_whether_it_is_the_client_certificate(
    authority: Authority, alert: int, exit_code: ExitCode
) -> None:
    context = server_context(authority.issue("alerting"))
    with HostileServer(context, hostile.tls_alert(alert)) as server:
        assert failure(server, ca=authority.ca).exit_code is exit_code
        assert server.connections == 1


# Proxies


def test_a_proxy_that_wants_a_password_is_not_authorised(authority: Authority) -> None:
    with HostileServer() as proxy:
        proxy.on("list.invalid:443", reply(status=407))
        with (
            opened("https://list.invalid", proxy=proxy.origin, ca=authority.ca) as transport,
            pytest.raises(RefusedError, match="proxy asks for a credential") as caught,
        ):
            transport.get("https://list.invalid/x", CAP)
        assert caught.value.status == 407
        assert caught.value.hint is not None and "--proxy-basic-file" in caught.value.hint
        assert len(proxy.requests) == 1


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (502, PATIENT.attempts)])
def test_a_proxy_that_does_not_connect_is_unreachable(status: int, attempts: int) -> None:
    with HostileServer() as proxy:
        proxy.on("list.invalid:443", reply(status=status))
        with (
            opened("https://list.invalid", proxy=proxy.origin) as transport,
            pytest.raises(UnreachableError),
        ):
            transport.get("https://list.invalid/x", CAP)
        assert len(proxy.requests) == attempts


@pytest.mark.slow
def test_a_proxy_that_drips_meets_the_deadline() -> None:
    with HostileServer() as proxy:
        proxy.on("list.invalid:443", hostile.dripped(b"HTTP/1.1 200 "))
        with (
            opened("https://list.invalid", SHORT, proxy=proxy.origin) as transport,
            pytest.raises(UnreachableError, match="too slow"),
        ):
            transport.get("https://list.invalid/x", CAP)


def test_a_cookie_is_never_sent_back(server: HostileServer) -> None:
    server.on("/x", reply(b"hello", headers=[("Set-Cookie", "track=1; Path=/")]))
    with opened(server.origin) as transport:
        for _ in range(2):
            transport.get(f"{server.origin}/x", CAP)
    assert [request.header("cookie") for request in server.requests] == [None, None]


@pytest.mark.slow
def test_threads_have_a_deadline_each(server: HostileServer) -> None:
    server.on("/slow", hostile.then_stall())
    server.on("/x", *itertools.repeat(reply(b"hello"), 8))
    outcomes: list[bytes | HashclientError] = []

    def fetch(path: str) -> None:
        try:
            outcomes.append(transport.get(f"{server.origin}{path}", CAP))
        except HashclientError as error:
            outcomes.append(error)

    with opened(server.origin, SHORT) as transport:
        threads = [threading.Thread(target=fetch, args=(path,)) for path in ["/slow", *["/x"] * 8]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes.count(b"hello") == 8
    assert [type(outcome) for outcome in outcomes if outcome != b"hello"] == [UnreachableError]

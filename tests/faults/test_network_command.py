"""Attacks by a hostile or broken network on the real `hashclient fetch`, one test each.

Each command ends with the right exit code and says what is wrong. The earlier lists do not change
by a byte and can be used, and no secret is in the output or the files.
"""

from __future__ import annotations

import gzip
import ssl
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from fixtures import hostile
from fixtures.hostile import HostileServer, head, reply
from fixtures.tls import Authority, server_context
from hashclient.net.exchange import Download
from tests.hostile_site import HostileSite
from tests.kit import Run

TIMESTAMP = "/metadata/timestamp.json"
Attack = Callable[[HostileSite], object]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def fetched(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[HostileSite]:
    """A client that has fetched the list from a provider that was honest so far."""
    with HostileSite(tmp_path_factory.mktemp("site"), authority) as site:
        token = site.secret_file(next(iter(site.secrets)))
        assert site.run(*site.init_arguments("--token-file", token)).code == 0
        # The client gives up soon, but late enough for a busy machine.
        site.settle(timeout_s=5.0, attempts=2)
        assert site.run("fetch").code == 0
        yield site


@pytest.fixture
def site(fetched: HostileSite) -> Iterator[HostileSite]:
    """The client of `fetched`; after the test, its settings are restored."""
    config, context, server = fetched.config.read_text(), fetched.server._context, fetched.server
    server.requests.clear()
    yield fetched
    fetched.config.write_text(config)
    server._context, server._greeting = context, None
    fetched.serve()


def attacked(site: HostileSite, code: int, message: str) -> Run:
    """Fetch under attack, and check the exit code, the message, and that nothing has changed."""
    before = site.kept()
    result = site.run("fetch")
    assert result.code == code, result.err
    assert message in result.err and result.out == ""
    assert "hint: " in result.err
    assert site.kept() == before
    site.check_scans()
    return result


def on_timestamp(*behaviours: hostile.Behaviour) -> Attack:
    return lambda site: site.server.on(TIMESTAMP, *behaviours)


def greeted(greeting: hostile.Greeting) -> Attack:
    return lambda site: setattr(site.server, "_greeting", greeting)


SLOW: dict[str, tuple[Attack, str]] = {
    "headers drip": (on_timestamp(hostile.dripped(b"HTTP/1.1 200 OK\r\nX: ")), "too slow"),
    "body drips": (
        on_timestamp(hostile.dripped(head(200, [("Content-Length", "900")]))),
        "too slow",
    ),
    "silence after the request": (on_timestamp(hostile.then_stall()), "too slow"),
    "silence between chunks": (
        on_timestamp(
            hostile.then_stall(head(200, [("Transfer-Encoding", "chunked")]) + b"2\r\n{}\r\n")
        ),
        "stopped sending",
    ),
    "silence in TLS": (greeted(hostile.stall_at_once), "too slow"),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", SLOW)
def test_slowness_on_the_command(site: HostileSite, attack: str) -> None:
    act, message = SLOW[attack]
    act(site)
    site.settle(timeout_s=2.0, min_rate_kib_s=1000.0)
    attacked(site, 4, message)


@pytest.mark.slow
def test_connect_that_hangs_on_the_command(site: HostileSite) -> None:
    with hostile.silent_listener() as port:
        site.settle(timeout_s=2.0, url=f'"https://127.0.0.1:{port}"')
        attacked(site, 4, "too slow")


BROKEN: dict[str, tuple[Attack, int, str]] = {
    "endless body": (on_timestamp(hostile.endless(head(200), b"x" * 65536)), 6, "longer than"),
    "declared length over the cap": (
        on_timestamp(hostile.raw(head(200, [("Content-Length", "9999999999")]))),
        6,
        "longer than",
    ),
    "truncated body": (
        on_timestamp(hostile.raw(head(200, [("Content-Length", "900")]) + b"{")),
        4,
        "cut short",
    ),
    "doubled length": (
        on_timestamp(reply(b"{}", headers=[("Content-Length", "3")])),
        4,
        "breaks HTTP",
    ),
    "reset in the body": (
        on_timestamp(hostile.reset_after(head(200, [("Content-Length", "900")]) + b"{")),
        4,
        "connection broke",
    ),
    "reset in TLS": (greeted(hostile.reset_tls), 4, "127.0.0.1"),
    "no TLS": (greeted(hostile.plain_text), 4, "no TLS"),
    "gzip": (
        on_timestamp(reply(gzip.compress(b"{}"), headers=[("Content-Encoding", "gzip")])),
        6,
        "compressed body",
    ),
    "401": (on_timestamp(reply(status=401)), 5, "401 unauthorized"),
    "403": (on_timestamp(reply(status=403)), 5, "403 forbidden"),
    "407": (on_timestamp(reply(status=407)), 5, "407 proxy authentication required"),
    "429": (on_timestamp(reply(status=429)), 4, "429 too many requests"),
    "500": (on_timestamp(reply(status=500)), 4, "500 internal server error"),
    "503": (on_timestamp(reply(status=503)), 4, "503 service unavailable"),
    "503 for an hour": (
        on_timestamp(reply(status=503, headers=[("Retry-After", "3600")])),
        4,
        "try again in 3600 s",
    ),
    "not found": (on_timestamp(reply(status=404)), 4, "404 not found"),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", BROKEN)
def test_broken_answer_on_the_command(site: HostileSite, attack: str) -> None:
    act, code, message = BROKEN[attack]
    act(site)
    attacked(site, code, message)


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_short_retry_after_is_waited_for_on_the_command(site: HostileSite, status: int) -> None:
    busy = reply(status=status, headers=[("Retry-After", "0")])
    site.server.on(TIMESTAMP, busy, reply(site.simulator.files[TIMESTAMP[1:]]))
    assert site.run("fetch").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("to", ["another host", "plain http", "itself"])
def test_redirects_on_the_command(site: HostileSite, authority: Authority, to: str) -> None:
    context = server_context(authority.issue("other")) if to == "another host" else None
    with HostileServer(context) as other:
        target = site.server.origin if to == "itself" else other.origin
        site.server.on(TIMESTAMP, reply(status=302, headers=[("Location", target + TIMESTAMP)]))
        attacked(site, 4, "redirects, which is not followed")
        assert other.connections == 0
    assert [r.target for r in site.server.requests].count(TIMESTAMP) == 1


def stranger(site: HostileSite) -> ssl.SSLContext:
    return server_context(Authority(site.directory, "stranger").issue("strange"))


def expired(site: HostileSite) -> ssl.SSLContext:
    day = timedelta(days=1)
    return server_context(site.authority.issue("expired", starts=-2 * day, ends=-day))


def wrong_name(site: HostileSite) -> ssl.SSLContext:
    return server_context(site.authority.issue("wrong", ("lists.example.org",)))


def old_tls(site: HostileSite) -> ssl.SSLContext:
    context = server_context(site.authority.issue("old"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def wants_certificate(site: HostileSite) -> ssl.SSLContext:
    return server_context(site.authority.issue("strict"), site.authority.ca)


TLS: dict[str, tuple[Callable[[HostileSite], ssl.SSLContext], int, str]] = {
    "wrong authority": (stranger, 4, "unknown authority"),
    "expired certificate": (expired, 4, "certificate has expired"),
    "certificate of another": (wrong_name, 4, "certificate is for another"),
    "old TLS": (old_tls, 4, "TLS is too old"),
    "missing client certificate": (wants_certificate, 5, "requires a client certificate"),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", TLS)
def test_tls_on_the_command(site: HostileSite, attack: str) -> None:
    context, code, message = TLS[attack]
    site.server._context = context(site)
    attacked(site, code, message)
    assert site.server.requests == []


@pytest.mark.slow
def test_wrong_client_certificate_on_the_command(site: HostileSite) -> None:
    site.server._context = wants_certificate(site)
    issued = Authority(site.directory, "another").issue("client")
    site.settle(client_cert=f'"{issued.cert}"', client_key=f'"{issued.key}"')
    attacked(site, 5, "does not know the authority of the client certificate")


@pytest.mark.slow
def test_a_segment_that_breaks_off_goes_on_by_range(site: HostileSite) -> None:
    site.simulator.publish(
        b"md5\n" + b"".join(b"%032x\n" % (n * 7**30 % 2**128) for n in range(1, 5000))
    )
    site.serve()
    path = site.simulator.target_path("g000002-add-000.parquet")
    data = site.simulator.files[path]
    first = head(200, [("Content-Length", str(len(data))), ("ETag", '"one"')]) + data[:10_000]
    site.server.on(f"/{path}", hostile.reset_after(first), hostile.ranged(data, etag='"one"'))
    result = site.run("fetch")
    assert result.code == 0 and "4,999 added" in result.out
    ranges = [r.header("range") for r in site.server.requests if r.target == f"/{path}"]
    assert ranges[0] is None and ranges[1] is not None
    assert 0 < int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= 10_000


@pytest.mark.slow
def test_no_traceback_of_a_bug_holds_the_credential(
    site: HostileSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("a bug")

    monkeypatch.setenv("HASHCLIENT_DEBUG", "1")
    monkeypatch.setattr(Download, "begin", broken)
    shown = site.run_broken("fetch")
    assert "a bug" in shown and "Traceback" in shown

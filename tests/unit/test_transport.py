from __future__ import annotations

import base64
import itertools
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures import hostile
from fixtures.hostile import HostileServer, Request, head, ranged, reply
from fixtures.tls import Authority, server_context
from hashclient.access import (
    Endpoint,
    Secrets,
    is_loopback,
    load_secrets,
    parse_endpoint,
    parse_proxy,
    tls_context,
)
from hashclient.errors import (
    AuthorisationError,
    ConfigError,
    HashclientError,
    UnreachableError,
    VerificationError,
)
from hashclient.transport import (
    Access,
    HttpStatusError,
    Limits,
    OAuth,
    RefusedError,
    Transport,
)
from hashclient.transport.channel import Download
from hashclient.transport.deadline import BoundedBackend, Deadline, DeadlineExceededError
from hashclient.transport.faults import (
    TransientError,
    foreign_fault,
    parse_retry_after,
    status_fault,
)

SECRET = "s3cret-value"
LIMITS = Limits(base_s=2.0, stall_s=1.0, attempts=3)
BASE = "https://list.invalid/base/"
BODY = bytes(range(256)) * 40


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secret_file(tmp_path: Path) -> Callable[[str | bytes], Path]:
    numbers = itertools.count()

    def write(content: str | bytes) -> Path:
        path = tmp_path / f"secret-{next(numbers)}"
        path.touch(mode=0o600)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


SecretFile = Callable[[str | bytes], Path]


def opened(url: str, **settings: Any) -> Transport:
    names = ("on_bytes", "monotonic", "limits")
    extra = {name: settings.pop(name) for name in names if name in settings}
    access = Access(url, allow_http=True, **settings)
    return Transport(access, **{"limits": LIMITS, "wait": lambda _: None, **extra})


# Addresses

_PLAIN = st.from_regex(r"[A-Za-z0-9._~!$&'()*+,;=:@-]{1,12}", fullmatch=True).filter(
    lambda part: part not in (".", "..")
)


@given(st.lists(_PLAIN, min_size=1, max_size=4))
def test_a_plain_address_below_the_base_travels_unchanged(parts: list[str]) -> None:
    url = BASE + "/".join(parts)
    endpoint = parse_endpoint(BASE, "URL").locate(url)
    assert endpoint.url == url
    sent = httpx.URL(endpoint.url)
    assert sent.raw_path == endpoint.path.encode()
    assert (sent.host, sent.userinfo) == ("list.invalid", b"")


@given(
    st.text(max_size=8),
    st.sampled_from(
        [
            *("%", "%0", "%zz", "%00", "%0a", "%1F", "%7f", "/%2e%2E/", "/.%2e/", "/%2e/"),
            *("?", "#", "\\", "\0", "\n", "\x7f", " ", "é", "//", "/../", "/./"),
        ]
    ),
    st.text(max_size=8),
)
def test_an_address_with_anything_special_is_refused(before: str, bad: str, after: str) -> None:
    with pytest.raises(VerificationError):
        # A lone percent sign must not become an escape by what follows it.
        parse_endpoint(BASE, "URL").locate(f"{BASE}a/{before}{bad}/{after}")


@given(st.lists(st.text(max_size=6), min_size=1, max_size=3))
def test_an_escaped_name_travels_unchanged_as_one_part(names: list[str]) -> None:
    """As python-tuf writes names of roles into addresses; see `docs/format.md` for our own."""
    usual = [n for n in names if n.isprintable() and n not in ("", ".", "..")]
    parts = [quote(name, "", errors="replace") for name in usual]
    url = BASE + "/".join(["x", *parts])
    endpoint = parse_endpoint(BASE, "URL").locate(url)
    assert endpoint.url == url
    assert httpx.URL(endpoint.url).raw_path == endpoint.path.encode()


@given(st.text(max_size=40))
def test_any_other_text_is_refused_or_below_the_base(text: str) -> None:
    base = parse_endpoint(BASE, "URL")
    for url in (text, BASE + text, "https://list.invalid" + text):
        try:
            found = base.locate(url)
        except VerificationError:
            continue
        assert found.origin == base.origin
        assert found.path.startswith("/base/") and ".." not in found.path.split("/")


@pytest.mark.parametrize(
    "url",
    [
        "https://list.invalid/",
        "https://list.invalid/bas",
        BASE + "..",
        BASE + "../x",
        BASE + "a/..",
        BASE + "./x",
        BASE + "%2e%2e/x",
        "https://list.invalid/base2/x",
        "https://list.invalid:444/base/x",
        "https://other.invalid/base/x",
        "https://list.invalid.other.invalid/base/x",
        "http://list.invalid/base/x",
        "https://user@list.invalid/base/x",
        "https://list.invalid@other.invalid/base/x",
        "//list.invalid/base/x",
        "/base/x",
        "",
    ],
)
def test_an_address_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(VerificationError, match="address refused"):
        parse_endpoint(BASE, "URL").locate(url)


def test_the_base_itself_and_another_spelling_of_the_origin_are_accepted() -> None:
    base = parse_endpoint(BASE, "URL")
    assert base.locate(BASE).url == BASE
    assert base.locate("HTTPS://List.Invalid:443/base/x").url == BASE + "x"
    bare = parse_endpoint("https://list.invalid/base", "URL")
    assert bare.locate("https://list.invalid/base").path == "/base"
    assert bare.locate("https://list.invalid/base/x").path == "/base/x"
    root = parse_endpoint("https://list.invalid", "URL")
    assert root.locate("https://list.invalid/x").path == "/x"
    assert parse_endpoint("https://[::1]:8443/x", "URL").origin == "https://[::1]:8443"


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@list.invalid/",
        f"https://list.invalid/?token={SECRET}",
        "https://list.invalid/#a",
        "https://list.invalid/a%20b",
        "https://list.invalid/a//b",
        "https://list.invalid//",
        "https://list.invalid:0/",
        "https://list.invalid:65536/",
        "https://list..invalid/",
        "https://[::1::2]/",
        "https://-list.invalid/",
        f"https://{'a' * 64}.invalid/",
        "ftp://list.invalid/",
        "socks5://list.invalid/",
        "http://list.invalid/",
        "http://10.0.0.1/",
        "list.invalid",
        "https://",
    ],
)
def test_a_base_address_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Access(url, allow_http=True)
    assert SECRET not in str(caught.value)


def test_plain_http_needs_loopback_and_the_flag() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("[::1]") and is_loopback("localhost")
    assert not is_loopback("localhost.invalid") and not is_loopback("0.0.0.0")
    Access("http://localhost:1/", allow_http=True)
    with pytest.raises(ConfigError, match="not https"):
        Access("http://localhost:1/")


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_env": "A", "token_file": Path("b")}, "more than one credential"),
        ({"token_env": "A", "oauth": OAuth(BASE, "id", client_secret_env="B")}, "more than one"),
        ({"client_key": Path("k")}, "client_key without client_cert"),
        ({"oauth": OAuth(BASE, "id")}, "one of client_secret_file"),
        ({"oauth": OAuth(BASE, "id", Path("a"), "B")}, "one of client_secret_file"),
        ({"oauth": OAuth("http://list.invalid/", "id", Path("a"))}, "token URL is not https"),
        ({"proxy": "https://proxy.invalid:1"}, "proxy address"),
        ({"proxy": f"http://u:{SECRET}@proxy.invalid:1"}, "proxy address"),
        ({"proxy": "http://proxy.invalid:1/path"}, "proxy address"),
        ({"proxy_basic_file": Path("p")}, "proxy_basic_file without proxy"),
        ({"proxy": "socks5://p.invalid", "proxy_basic_file": Path("p")}, "needs an http://"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Access(BASE, **settings)
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_a_proxy_cannot_see_plain_http() -> None:
    with pytest.raises(ConfigError, match="a proxy cannot be used with http"):
        Access("http://localhost/", allow_http=True, proxy="http://proxy.invalid:1")


# Credentials


def test_every_kind_of_credential_is_read(
    secret_file: SecretFile, tmp_path: Path, server: HostileServer
) -> None:
    os.link(secret_file(SECRET), tmp_path / "list-token")
    (tmp_path / "list-token").chmod(0o440)
    environ = {"LIST_TOKEN": SECRET, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    bearer = f"Bearer {SECRET}"
    for access in (
        Access(BASE, token_file=secret_file(f"{SECRET}\n")),
        Access(BASE, token_file=secret_file(f"{SECRET}\r\n")),
        Access(BASE, token_env="LIST_TOKEN"),
        Access(BASE, token_credential="list-token"),
    ):
        assert load_secrets(access, environ).authorization == bearer
    basic = load_secrets(Access(BASE, basic_file=secret_file("me:p:ä\n"))).authorization
    assert basic == "Basic " + base64.b64encode("me:p:ä".encode()).decode()
    assert load_secrets(Access(BASE)) == Secrets()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        f"{SECRET}\n\n",
        f"{SECRET}\0",
        f"{SECRET}\x7f",
        f"{SECRET} x",
        f"{SECRET}é",
        f"{SECRET}\r\nX-Injected: 1",
        SECRET.encode() + b"\xff",
        f"{SECRET}\u20ac",
    ],
)
def test_a_token_that_cannot_be_one_is_refused(
    secret_file: SecretFile, content: str | bytes
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_secrets(Access(BASE, token_file=secret_file(content)))
    assert SECRET not in complete_text(caught.value)


@pytest.mark.parametrize("content", [SECRET, f":{SECRET}"])
def test_a_basic_file_without_a_user_is_refused(secret_file: SecretFile, content: str) -> None:
    with pytest.raises(ConfigError, match="does not hold user:password") as caught:
        load_secrets(Access(BASE, basic_file=secret_file(content)))
    assert SECRET not in complete_text(caught.value)


def test_a_credential_others_can_read_is_refused(secret_file: SecretFile) -> None:
    path = secret_file(SECRET)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        load_secrets(Access(BASE, token_file=path))
    path.chmod(0o604)
    environ = {"CREDENTIALS_DIRECTORY": str(path.parent)}
    with pytest.raises(ConfigError, match="can be read by others"):
        load_secrets(Access(BASE, token_credential=path.name), environ)


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(value: str | None) -> None:
    environ = {} if value is None else {"LIST_TOKEN": value}
    for access in (
        Access(BASE, token_env="LIST_TOKEN"),
        Access(BASE, oauth=OAuth(BASE, "id", client_secret_env="LIST_TOKEN")),
    ):
        with pytest.raises(ConfigError, match="is not set: LIST_TOKEN"):
            load_secrets(access, environ)


def test_a_systemd_credential_needs_its_directory_and_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY"):
        load_secrets(Access(BASE, token_credential="x"), {})
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    for name in ("../x", "a/b", "", "."):
        with pytest.raises(ConfigError, match="not the name of a credential"):
            load_secrets(Access(BASE, token_credential=name), environ)


def test_any_secret_file_may_be_a_systemd_credential(tmp_path: Path) -> None:
    """They are readable by their group's mask; outside that directory this is refused."""
    path = tmp_path / "basic"
    path.write_text(f"me:{SECRET}")
    path.chmod(0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    for access in (
        Access(BASE, token_file=path),
        Access(BASE, basic_file=path),
        Access(BASE, oauth=OAuth(BASE, "id", client_secret_file=path)),
        Access(BASE, proxy="http://127.0.0.1:1", proxy_basic_file=path),
    ):
        assert load_secrets(access, environ) != Secrets()
        for other in ({}, {"CREDENTIALS_DIRECTORY": str(tmp_path.parent)}):
            with pytest.raises(ConfigError, match="others"):
                load_secrets(access, other)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIST_TOKEN", SECRET)
    assert load_secrets(Access(BASE, token_env="LIST_TOKEN")).authorization == f"Bearer {SECRET}"


def test_certificate_files_that_cannot_be_used_are_refused(
    authority: Authority, tmp_path: Path, secret_file: SecretFile
) -> None:
    issued = authority.issue("usable")
    locked = authority.issue("locked", password=b"password")
    other = authority.issue("other")
    tls_context(authority.ca, issued.cert, issued.key)
    both = secret_file(issued.cert.read_bytes() + issued.key.read_bytes())
    tls_context(authority.ca, both)
    for arguments in (
        (tmp_path / "missing",),
        (secret_file("no certificate"),),
        (authority.ca, tmp_path / "missing", issued.key),
        (authority.ca, issued.cert, tmp_path / "missing"),
        (authority.ca, issued.cert, other.key),
        (authority.ca, locked.cert, locked.key),
    ):
        with pytest.raises(ConfigError):
            tls_context(*arguments)
    issued.key.chmod(0o644)
    with pytest.raises(ConfigError, match="client key can be read by others"):
        tls_context(authority.ca, issued.cert, issued.key)


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
    ],
)
def test_retry_after_is_read_in_both_forms(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=10.0) == seconds


@given(st.text(max_size=60), st.floats(0, 4e9))
def test_no_retry_after_is_an_error(value: str, now: float) -> None:
    seconds = parse_retry_after(value, now)
    assert seconds is None or seconds >= 0


# OAuth


def token(value: str, **extra: object) -> hostile.Behaviour:
    return reply(json.dumps({"access_token": value, "token_type": "Bearer", **extra}).encode())


def granting(
    server: HostileServer, secret_file: SecretFile, token_server: HostileServer, **settings: Any
) -> Transport:
    oauth = OAuth(
        f"{token_server.origin}/token",
        "client:1",
        client_secret_file=secret_file(f"{SECRET}+/\n"),
        scope="lists read",
    )
    return opened(server.origin, oauth=oauth, **settings)


def only_for(value: str, body: bytes = b"hello") -> hostile.Behaviour:
    """Answer 401 to anybody else."""

    def behave(connection: hostile.Connection, request: Request) -> bool:
        right = request.header("authorization") == f"Bearer {value}"
        return reply(body if right else b"", status=200 if right else 401)(connection, request)

    return behave


@pytest.fixture
def token_server() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


def test_a_token_is_fetched_once_and_the_secret_goes_to_its_endpoint_alone(
    server: HostileServer, token_server: HostileServer, secret_file: SecretFile
) -> None:
    token_server.on("/token", token("first"))
    server.on("/x", only_for("first"))
    with granting(server, secret_file, token_server) as transport:
        for _ in range(3):
            assert transport.get(f"{server.origin}/x", 10) == b"hello"
    [asked] = token_server.requests
    assert asked.method == "POST"
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["lists read"],
    }
    assert asked.header("content-type") == "application/x-www-form-urlencoded"
    kind, _, encoded = str(asked.header("authorization")).partition(" ")
    assert kind == "Basic"
    assert base64.b64decode(encoded).decode() == f"client%3A1:{SECRET}%2B%2F"
    assert all(r.header("authorization") == "Bearer first" for r in server.requests)


def test_a_token_refused_with_401_is_renewed_once(
    server: HostileServer, token_server: HostileServer, secret_file: SecretFile
) -> None:
    token_server.on("/token", token("first"), token("second"), token("third"))
    server.on("/x", only_for("first"), only_for("second"), only_for("second"), only_for("none"))
    with granting(server, secret_file, token_server) as transport:
        assert transport.get(f"{server.origin}/x", 10) == b"hello"
        assert transport.get(f"{server.origin}/x", 10) == b"hello"
        assert len(token_server.requests) == 2
        with pytest.raises(RefusedError) as caught:
            transport.get(f"{server.origin}/x", 10)
    assert caught.value.status == 401
    assert len(token_server.requests) == 3
    for text in ("first", "second", "third", SECRET):
        assert text not in complete_text(caught.value)


def test_a_403_renews_no_token(
    server: HostileServer, token_server: HostileServer, secret_file: SecretFile
) -> None:
    token_server.on("/token", token("first"))
    server.on("/x", reply(status=403))
    with granting(server, secret_file, token_server) as transport, pytest.raises(RefusedError):
        transport.get(f"{server.origin}/x", 10)
    assert len(token_server.requests) == 1


def test_a_token_is_renewed_before_it_expires(
    server: HostileServer, token_server: HostileServer, secret_file: SecretFile
) -> None:
    clock = [1000.0]
    token_server.on("/token", token("first", expires_in="3600"), token("second", expires_in=60))
    server.on("/x", only_for("first"), only_for("first"), only_for("second"))
    with granting(server, secret_file, token_server, monotonic=lambda: clock[0]) as transport:
        for later in (0, 3500, 3600):
            clock[0] = 1000.0 + later
            assert transport.get(f"{server.origin}/x", 10) == b"hello"
    assert len(token_server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(status=400), RefusedError),
        (reply(status=401), RefusedError),
        (reply(status=404), HttpStatusError),
        (reply(status=503), HttpStatusError),
        (reply(status=302, headers=[("Location", "https://x.invalid/")]), HttpStatusError),
        (reply(b"not json"), AuthorisationError),
        (reply(b"{}"), AuthorisationError),
        (reply(b"[" * 60000), AuthorisationError),
        (reply(b"\xff"), AuthorisationError),
        (reply(b"x" * 70_000), VerificationError),
        (token(f"{SECRET}\r\nX: 1"), AuthorisationError),
        (token(SECRET, token_type="mac"), AuthorisationError),
        (token(SECRET, expires_in="never"), AuthorisationError),
    ],
    ids=[
        "invalid client",
        "refused",
        "no endpoint",
        "busy",
        "redirect",
        "not json",
        "no token",
        "deep nesting",
        "not utf-8",
        "too long",
        "header injection",
        "other type",
        "bad expiry",
    ],
)
def test_a_token_endpoint_that_gives_no_token_is_told(
    server: HostileServer,
    token_server: HostileServer,
    secret_file: SecretFile,
    answer: hostile.Behaviour,
    error: type[HashclientError],
) -> None:
    token_server.on("/token", answer)
    with granting(server, secret_file, token_server) as transport, pytest.raises(error) as caught:
        transport.get(f"{server.origin}/x", 10)
    assert SECRET not in complete_text(caught.value)
    assert server.connections == 0


def test_the_client_certificate_is_not_shown_to_the_token_endpoint(
    authority: Authority, secret_file: SecretFile
) -> None:
    strict = server_context(authority.issue("strict"), client_ca=authority.ca)
    client = authority.issue("client")
    with HostileServer(strict) as server:
        oauth = OAuth(f"{server.origin}/token", "id", client_secret_file=secret_file(SECRET))
        files = {"client_cert": client.cert, "client_key": client.key}
        with (
            opened(server.origin, oauth=oauth, ca=authority.ca, **files) as transport,
            pytest.raises(AuthorisationError, match="requires a client certificate"),
        ):
            transport.get(f"{server.origin}/x", 10)
        assert server.requests == []


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


def test_socks_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
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


def complete_text(error: BaseException | None) -> str:
    """All that an error could ever show: messages, hints, arguments, causes, tracebacks."""
    parts = []
    while error is not None:
        parts += [str(error), repr(error), repr(error.args), repr(getattr(error, "hint", None))]
        parts += traceback.format_exception(error)
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


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
    fault = foreign_fault(httpx.InvalidURL("x"), "https://a.invalid", "https://a.invalid/x")
    assert isinstance(fault, VerificationError)
    fault = status_fault(799, "https://a.invalid/x")
    assert isinstance(fault, HttpStatusError) and fault.message.endswith(": 799")


def test_an_endpoint_spells_its_port_only_where_needed() -> None:
    assert Endpoint("https", "a.invalid", 443, "/").url == "https://a.invalid/"
    assert Endpoint("https", "a.invalid", 444, "/x").url == "https://a.invalid:444/x"


# Sockets


def test_a_stream_tells_whether_an_idle_connection_is_still_good() -> None:
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

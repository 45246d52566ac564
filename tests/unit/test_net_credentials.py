"""Access to a provider: addresses, consistent settings, credentials from files and variables."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.hostile import HostileServer
from fixtures.tls import Authority
from hashclient.core.errors import (
    ConfigError,
    VerificationError,
)
from hashclient.net.client import (
    Access,
    OAuth,
)
from hashclient.net.credentials import (
    Secrets,
    is_loopback,
    load_secrets,
    parse_endpoint,
    tls_context,
)
from tests.transports import BASE, SECRET, SecretFile, complete_text

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
        # A lone percent sign must not form an escape with the characters behind it.
        parse_endpoint(BASE, "URL").locate(f"{BASE}a/{before}{bad}/{after}")


@given(st.lists(st.text(max_size=6), min_size=1, max_size=3))
def test_an_escaped_name_travels_unchanged_as_one_part(names: list[str]) -> None:
    """python-tuf escapes names of roles in addresses; `docs/format.md` has the project's names."""
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


@pytest.mark.parametrize("host", ["xn--mnchen-3ya.invalid", "a.xn--p1ai", "127.0.0.1", "1.2.3"])
def test_hosts_that_the_transport_takes_are_taken(host: str) -> None:
    assert parse_endpoint(f"https://{host}/", "URL").host == host
    assert httpx.URL(f"https://{host}/").raw_host == host.encode()


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
        # URLs that are refused, because the transport would report a failed verification for them.
        *("https://xn--a/", "https://xn--0/x", "https://xn--zzzzzz99999.invalid/"),
        *("https://999.1.1.1/", "https://1.2.3.04/", "https://xn--abc-/"),
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
        ({"oauth": OAuth(BASE, "id")}, "client_secret_file or client_secret_env"),
        ({"oauth": OAuth(BASE, "id", Path("a"), "B")}, "client_secret_file or client_secret_env"),
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
    """The group's mask makes a credential readable; in other directories this mode is refused."""
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

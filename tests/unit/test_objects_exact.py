"""Listings by HTTP requests for keys of digits, at servers like Google's and Azure's."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Literal

import pytest

from fixtures.buckets import blobs, listing
from hashclient.core.objecturi import parse_uri
from hashclient.objects import exact
from hashclient.objects.exact import (
    NoExactListingError,
    _namable,
    _relayed,
    exact_pages,
    has_proxy,
    in_digits,
    key_of,
)
from hashclient.objects.listing import ListingEndedError, list_pages
from hashclient.objects.others import Other
from hashclient.system.background import start_thread

PAGE = b"<ListBucketResult><Key>a</Key></ListBucketResult>"
KEYS = ["/lead", "a//b", "<&ü\"'", "a&#x41;", "\u2028", "x" * 1_024]


def body(keys: list[str], scheme: str) -> bytes:
    rows = [(key, 1, "e") for key in keys]
    answer = blobs(rows) if scheme == "az" else listing(rows)
    assert answer is not None
    return answer[2]


def keys_in(page: bytes, scheme: str) -> list[str]:
    """Return the keys of a page that consist of digits."""
    names = re.findall(rb"<Name>(.*?)</" if scheme == "az" else rb"<Key>(.*?)</", page)
    return [os.fsdecode(key_of(name)) for name in names]


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_each_key_comes_back_from_its_digits(scheme: str) -> None:
    page = in_digits(body(KEYS, scheme))
    assert keys_in(page, scheme) == KEYS
    assert not any(key.encode() in page for key in KEYS[:3])


def test_names_that_azure_escapes() -> None:
    data = body(["a%2F%01%FF", "b%41"], "az").replace(b"<Name>a", b'<Name Encoded="true">a')
    assert keys_in(in_digits(data), "az") == ["a/\1\udcff", "b%41"]


@pytest.mark.parametrize("text", [b"a&#1;", b"&nbsp;", b"&", b"<![CDATA[a]]>"])
def test_a_key_that_is_no_text_stays_and_is_refused(text: bytes) -> None:
    page = in_digits(b"<Key>" + text + b"</Key>")
    assert page == b"<Key>" + text + b"</Key>"
    with pytest.raises(NoExactListingError):
        key_of(text)


@pytest.mark.parametrize("digits", [b"zz", b"a", b"\xff"])
def test_a_mark_that_the_store_has_written_is_refused(digits: bytes) -> None:
    with pytest.raises(NoExactListingError):
        key_of("\U0010ffff".encode() + digits)


@pytest.mark.parametrize(
    ("key", "folder"),
    [("a/b", "a/b"), ("a/b/", "a/b"), ("a//b", "a"), ("x/./y", "x"), ("/lead", ""), ("..", "")],
)
def test_the_folder_that_is_asked_for_instead(key: str, folder: str) -> None:
    assert _namable(key) == folder


class _Store(BaseHTTPRequestHandler):
    """Replaces a store and notes the requests that it gets."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, dict[str, str]]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, dict(self.headers.items())))
        answer = b"<html/>" if "other" in self.path else PAGE
        if "truncated" in self.path:
            text = b" TRUE " if "capitals" in self.path else b"true"
            answer += b"<IsTruncated>%b</IsTruncated>" % text
        self.send_response(418 if "fails" in self.path else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def store() -> Iterator[str]:
    _Store.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Store) as server:
        thread = start_thread(lambda: server.serve_forever(0.01), "store")
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def get(url: str, agent: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"User-Agent": agent, **headers})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_nobody_else_can_use_the_address(store: str) -> None:
    with _relayed(f"{store}/base/") as (url, secret):
        target = f"{url}/bucket?list-type=2&prefix=%2F"
        for agent in ("", "hashclient", secret[:-1], "\xff"):
            assert get(target, agent) == (403, b"")
        assert _Store.asked == []
        assert get(target, secret, Authorization="Bearer x") == (200, in_digits(PAGE))
        assert get(f"{url}/fails", secret) == (418, PAGE)
        for page in ("truncated", "truncated-in-capitals", "other"):
            assert get(f"{url}/{page}", secret) == (400, b"")
    (path, headers), *_ = _Store.asked
    assert path == "/base/bucket?list-type=2&prefix=%2F"
    assert headers["Authorization"] == "Bearer x"
    assert headers["User-Agent"].startswith("hashclient/")
    assert not any(secret in value for value in headers.values())


@pytest.mark.parametrize(
    ("most", "timeout_s", "status"),
    [(len(PAGE), 60, 200), (len(PAGE) - 1, 60, 400), (len(PAGE), -1, 503)],
)
def test_a_page_is_bounded_in_length_and_time(
    store: str, monkeypatch: pytest.MonkeyPatch, most: int, timeout_s: int, status: int
) -> None:
    monkeypatch.setattr(exact, "MAX_PAGE_BYTES", most)
    with _relayed(store) as (url, secret):
        monkeypatch.setattr(exact, "TIMEOUT_S", timeout_s)
        assert get(f"{url}/bucket?list-type=2", secret)[0] == status


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_an_endless_page_of_google_or_azure_ends_the_listing(
    store: str, monkeypatch: pytest.MonkeyPatch, scheme: Literal["gs", "az"]
) -> None:
    variables = {
        "GOOGLE_BASE_URL": store,
        "GOOGLE_SKIP_SIGNATURE": "true",
        "AZURE_STORAGE_ENDPOINT": store,
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_ACCOUNT_KEY": "a2V5",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(exact, "MAX_PAGE_BYTES", len(PAGE) - 1)
    with pytest.raises(ListingEndedError, match="it answered 400"):
        next(list_pages(Other(scheme, "bucket"), parse_uri(f"{scheme}://bucket/p/")))
    assert len(_Store.asked) == 1


def test_a_store_that_cannot_be_reached_is_asked_again() -> None:
    with _relayed("http://127.0.0.1:9") as (url, secret):
        assert get(f"{url}/bucket?list-type=2", secret) == (503, b"")


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, False),
        ({"https_proxy": "http://p"}, False),
        ({"HTTP_PROXY": "http://p"}, True),
        ({"all_proxy": "http://p", "NO_PROXY": "localhost"}, True),
        ({"http_proxy": "http://p", "NO_PROXY": "localhost, 127.0.0.1"}, False),
        ({"http_proxy": ""}, False),
    ],
)
def test_no_proxy_gets_what_is_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], *, found: bool
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert has_proxy() == found
    if found:
        with pytest.raises(NoExactListingError):
            next(exact_pages(Other("gs", "bucket"), "", None))


def test_the_endpoint_of_another_store_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to the endpoint of another store would be signed for Azure and could lack TLS."""
    for name in ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert Other("gs", "bucket").endpoint == "http://127.0.0.1:1"
    assert Other("az", "bucket").endpoint == "https://account.blob.core.windows.net"
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "https://127.0.0.1:2")
    assert Other("gs", "bucket").endpoint == "http://127.0.0.1:1"
    assert Other("az", "bucket").endpoint == "https://127.0.0.1:2"

"""Exact listings: pages of Google and Azure, and an address that only this process can use."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from fixtures.buckets import blobs, listing
from hashclient.objects.exact import (
    PageError,
    _instead,
    _namable,
    _Relay,
    exact_rows,
    has_proxy,
    read_page,
)

ROWS = [("/lead", 1, '"e"'), ("a//b", 0, '"f"'), ("<&ü", 2**63, '"g"')]


def body(rows: list[tuple[str, int, str]], scheme: str, more: str = "") -> bytes:
    bare = [(key, size, etag.strip('"')) for key, size, etag in rows]
    answer = blobs(rows, more=more) if scheme == "az" else listing(bare, more=more or None)
    assert answer is not None
    return answer[2]


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_a_page_has_its_keys_as_they_are(scheme: str) -> None:
    page = read_page(body(ROWS, scheme, more="m"))
    assert (page.rows, page.more) == (ROWS, "m")
    assert read_page(body([], scheme)).rows == []


def test_names_that_azure_escapes_and_folders_of_azure() -> None:
    data = body([("a%2F%01", 1, "e"), ("folder", 0, "e"), ("b%41", 2, "e")], "az")
    data = data.replace(b"<Name>a", b'<Name Encoded="true">a')
    kind = b"<ResourceType>directory</ResourceType>"
    data = data.replace(
        b"<Name>folder</Name><Properties>", b"<Name>folder</Name><Properties>" + kind
    )
    assert [row[0] for row in read_page(data).rows] == ["a/\1", "b%41"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html/>",
        b"<ListBucketResult>",
        b"<!DOCTYPE x><ListBucketResult/>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>",
        body([("a", 2**64, "e")], "gs"),
    ],
)
def test_a_malformed_page_is_refused(data: bytes) -> None:
    with pytest.raises(PageError):
        read_page(data)


@pytest.mark.parametrize(
    ("key", "folder"),
    [("a/b", "a/b"), ("a/b/", "a/b"), ("a//b", "a"), ("x/./y", "x"), ("/lead", ""), ("..", "")],
)
def test_the_folder_that_is_asked_for_instead(key: str, folder: str) -> None:
    assert _namable(key) == folder


@pytest.fixture
def relay() -> Iterator[_Relay]:
    relay = _Relay("http://127.0.0.1:9")
    thread = threading.Thread(target=relay.serve_forever, args=(0.01,))
    thread.start()
    yield relay
    relay.shutdown()
    relay.server_close()
    thread.join()


def test_nobody_else_can_use_the_address(relay: _Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, dict[str, str]]] = []

    def send(_session: object, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
        sent.append((url, headers))
        return 200, body(ROWS, "gs", more="m")

    monkeypatch.setattr("hashclient.objects.exact._send", send)
    target = f"{relay.url}/bucket?list-type=2"
    for agent in ("", "hashclient", relay.secret[:-1], "\xff"):
        request = urllib.request.Request(target, headers={"User-Agent": agent})
        with pytest.raises(urllib.error.HTTPError, match="403") as caught:
            urllib.request.urlopen(request)
        caught.value.close()
    assert sent == []
    headers = {"User-Agent": relay.secret, "Authorization": "Bearer x"}
    with urllib.request.urlopen(urllib.request.Request(target, headers=headers)) as answer:
        assert answer.read() == _instead("m")
    assert sent == [("http://127.0.0.1:9/bucket?list-type=2", {"Authorization": "Bearer x"})]
    assert relay.take() == ROWS


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
        with pytest.raises(PageError):
            next(exact_rows("gs", "bucket", "http://127.0.0.1:9", "", None))


def test_a_store_that_cannot_be_reached_is_asked_again(relay: _Relay) -> None:
    assert relay.answer("/bucket?list-type=2", {}) == (503, b"")

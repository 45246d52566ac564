"""Listings of S3: a page of the usual form is parsed directly, any other page by botocore."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from botocore import exceptions

from fixtures.buckets import Answer, Request, Site, error, listing
from hashclient.core.objecturi import parse_uri
from hashclient.objects import bounded, ranges
from hashclient.objects import listing as listings
from hashclient.objects.failures import MALFORMED, NO_RANGES, UNFINISHED, StoreError
from hashclient.objects.listing import list_pages
from hashclient.objects.s3 import S3, _page_in

ROWS = [("/lead", 1, "a"), ("a//b", 0, "b"), ("dir/", 2**63, "c"), ("ü%20+", 3, "d")]


def body(answer: Answer) -> bytes:
    assert answer is not None
    return answer[2]


def keys_of(page: Any) -> list[str]:
    return [key.decode() for key in page.column("key").to_pylist()]


def test_a_page_of_the_usual_form_is_taken_as_it_is() -> None:
    found = _page_in(body(listing(ROWS, more="next=")))
    assert found is not None
    page, more = found
    assert keys_of(page) == [key for key, *_ in ROWS]
    assert page.column("size").to_pylist() == [size for _, size, _ in ROWS]
    assert page.column("etag").to_pylist() == [f'"{etag}"' for *_, etag in ROWS]
    assert more == {"ContinuationToken": "next="}
    for rows in (ROWS[:1], []):
        found = _page_in(body(listing(rows)))
        assert found is not None
        assert (found[0].num_rows, found[1]) == (len(rows), None)


def test_keys_that_are_escaped_for_urls_come_back() -> None:
    data = body(listing([("a%2F%2Fb+c%01", 1, "e")]))
    end = b"</ListBucketResult>"
    found = _page_in(data.replace(end, b"<EncodingType>url</EncodingType>" + end))
    assert found is not None
    assert keys_of(found[0]) == ["a//b c\1"]


@pytest.mark.parametrize("quote", [b'"', b"&quot;", b"&#34;", b"&#x22;"])
def test_an_etag_is_the_same_however_its_quotes_are_written(quote: bytes) -> None:
    found = _page_in(body(listing([("a", 1, "e")])).replace(b"&quot;", quote))
    assert found is not None
    assert found[0].column("etag").to_pylist() == ['"e"']


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<Key>a</Key>", b"<Key>a&amp;</Key>"),
        (b"<Key>a</Key>", b"<Key><![CDATA[a]]></Key>"),
        (b"<Key>a</Key>", b"<Key>a</Key><Key>b</Key>"),
        (b"<ETag>&quot;e", b"<ETag>&quot;e&amp;"),
        (b"<Size>1</Size>", b""),
        (b"<Size>1</Size>", b"<Size>many</Size>"),
        (b"<Size>1</Size>", b"<Size>-1</Size>"),
        (b"<Contents>", b"<Contents/><Contents>"),
        (b"Contents>", b"s3:Contents>"),
        (b"<IsTruncated>false</IsTruncated>", b""),
        (b"<IsTruncated>false", b"<IsTruncated>true"),
        (b"</ListBucketResult>", b""),
        (b"ListBucketResult", b"Error"),
    ],
)
def test_a_page_of_another_form_is_left_to_botocore(old: bytes, new: bytes) -> None:
    data = body(listing([("a", 1, "e")]))
    assert _page_in(data) is not None
    assert _page_in(data.replace(old, new)) is None


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture(scope="module")
def store(site: Site) -> Iterator[S3]:
    """Return a bucket for botocore, which is opened once because opening takes long."""
    store = S3("a-bucket")
    with site.reached():
        assert store.client
    store._is_quick = False
    yield store
    store.client.close()


def listed(site: Site, answer: Answer) -> list[str]:
    """Return the keys of a bucket whose listing is `answer`; requests by URL are refused."""

    def answers(request: Request) -> Answer:
        return error("403 Forbidden", "AccessDenied") if "X-Amz-Sig" in request[2] else answer

    site.answer = answers
    with site.reached():
        store = S3("a-bucket")
        return [key for _ in range(2) for page in store.pages("", None) for key in keys_of(page)]


@pytest.mark.slow
def test_where_a_signed_url_is_not_accepted_botocore_lists(site: Site) -> None:
    site.requests.clear()
    assert listed(site, listing([("a&b", 1, "e")])) == ["a&b"] * 2
    assert sum("X-Amz-Sig" in query for _, _, query in site.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "failure",
    [
        exceptions.EndpointConnectionError(endpoint_url="x"),
        exceptions.ConnectTimeoutError(endpoint_url="x"),
        exceptions.ReadTimeoutError(endpoint_url="x"),
        exceptions.ProxyConnectionError(proxy_url="x"),
        exceptions.SSLError(endpoint_url="x", error="x"),
        ConnectionResetError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_where_a_signed_url_cannot_be_sent_botocore_asks_again(
    site: Site, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answer = lambda _: listing([("a", 1, "e")])
    with site.reached():
        store = S3("a-bucket")
        assert store.client
        monkeypatch.setattr(store, "_http", mock.Mock(**{"send.side_effect": failure}))
        (page,) = store.pages("", None)
    assert keys_of(page) == ["a"]


PAGE = body(listing([("a&b", 1, "e")]))
XML = {"Content-Type": "application/xml"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (PAGE.replace(b"false", b"true"), UNFINISHED),
        (PAGE.replace(b"<IsTruncated>false</IsTruncated>", b""), UNFINISHED),
        (PAGE.replace(b"<IsTruncated>false</IsTruncated>", b"<IsTruncated/>"), UNFINISHED),
        *((PAGE.replace(b">false<", text), UNFINISHED) for text in (b">TRUE<", b"> true <")),
        (b"", UNFINISHED),
        (b"<html><body>log in</body></html>", UNFINISHED),
        (PAGE.replace(b"<Key>a&amp;b</Key>", b""), MALFORMED),
        (PAGE.replace(b"<Size>1</Size>", b""), MALFORMED),
        (PAGE.replace(b"<Size>1<", b"<Size>-1<"), MALFORMED),
        (PAGE.replace(b"<Size>1<", b"<Size>%d<" % 2**64), MALFORMED),
        (PAGE.replace(b"<Size>1<", b"<Size>many<"), MALFORMED),
    ],
)
def test_no_page_that_is_not_whole_is_the_end_of_a_listing(
    site: Site, store: S3, page: bytes, reason: str
) -> None:
    versions = page.replace(b"<Contents>", b"<Version>").replace(b"</Contents>", b"</Version>")
    for answer, ask in (
        (page, lambda: store.pages("", None)),
        (page, lambda: store.names("")),
        (versions, lambda: store.versions("", None)),
    ):
        site.answer = lambda _, answer=answer: ("200 OK", XML, answer)  # type: ignore[misc]
        with pytest.raises(StoreError, match=reason):
            list(ask())


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("text", [b"TRUE", b" true\n", b"True", b"1"])
def test_a_listing_goes_on_however_a_store_says_that_it_does(
    site: Site, store: S3, monkeypatch: pytest.MonkeyPatch, quick: bool, text: bytes
) -> None:
    monkeypatch.setattr(store, "_is_quick", quick)
    more = b"%b</IsTruncated><NextContinuationToken>t</NextContinuationToken>" % text
    first = PAGE.replace(b"false</IsTruncated>", more)
    last = PAGE.replace(b"a&amp;b", b"c").replace(b"false", b" False ")
    site.answer = lambda request: (
        "200 OK",
        XML,
        last if "continuation-token=t" in request[2] else first,
    )
    assert [key for page in store.pages("", None) for key in keys_of(page)] == ["a&b", "c"]


@pytest.mark.parametrize("quick", [False, True])
def test_no_listing_is_longer_than_a_page(
    site: Site, store: S3, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    monkeypatch.setattr(store, "_is_quick", quick)
    site.answer = lambda _: ("200 OK", XML, PAGE)
    assert keys_of(next(store.pages("", None))) == ["a&b"]
    monkeypatch.setattr(bounded, "MAX_ANSWER_BYTES", len(PAGE) - 1)
    with pytest.raises(StoreError):
        next(store.pages("", None))


@pytest.mark.slow
def test_a_redirect_that_leads_to_itself_is_a_failure(site: Site, store: S3) -> None:
    site.answer = lambda _: ("307 Temporary Redirect", {"Location": f"{site.url}/"}, b"")
    with pytest.raises(StoreError):
        next(store.pages("", None))


@pytest.mark.parametrize(
    ("part", "size"),
    [
        ("bytes 2-4/9", 9),
        ("bytes 3-5/9", None),
        ("bytes 2-5/9", None),
        ("bytes 2-4/*", None),
        ("bytes */9", None),
        ("", None),
    ],
)
def test_a_part_of_an_object_is_the_one_that_was_asked_for(
    site: Site, store: S3, part: str, size: int | None
) -> None:
    """botocore does not compare the returned range with the requested one; the client does."""
    headers = {"Content-Range": part} if part else {}
    site.answer = lambda _: ("206 Partial Content", headers, b"cde")
    found = bytearray()
    if size is None:
        with pytest.raises(StoreError, match=NO_RANGES):
            store.read("a//b", (2, 5), found.extend)
    else:
        assert store.read("a//b", (2, 5), found.extend).size == size
    assert bytes(found) == (b"" if size is None else b"cde")


@pytest.mark.parametrize("part", ["bytes 0-0/*", "bytes 1-1/2", f"bytes 0--1/{2**80}"])
def test_a_length_that_cannot_be_is_a_failure(site: Site, store: S3, part: str) -> None:
    site.answer = lambda _: ("200 OK", {"Content-Range": part}, b"")
    with pytest.raises(StoreError):
        store.head("a", None)


@pytest.mark.parametrize(
    ("failure", "is_opened"),
    [
        (exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": 403}}, "HeadBucket"), True),
        (
            exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": 503}}, "HeadBucket"),
            False,
        ),
        (exceptions.EndpointConnectionError(endpoint_url="https://s3.amazonaws.com"), False),
    ],
)
def test_an_outage_does_not_leave_a_bucket_in_the_wrong_region(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, is_opened: bool
) -> None:
    """The region of a bucket is asked for once, and a watch keeps its client for weeks."""
    meta = SimpleNamespace(region_name="us-east-1", endpoint_url="https://s3.amazonaws.com")
    client = SimpleNamespace(meta=meta, head_bucket=mock.Mock(side_effect=failure))
    opened = mock.Mock()
    monkeypatch.setattr(ranges, "open_bucket", opened)
    if is_opened:
        S3("uploads")._for_obstore(client, None)
        assert opened.call_args.args[2]["config"]["region"] == "us-east-1"
    else:
        with pytest.raises(StoreError):
            S3("uploads")._for_obstore(client, None)
        assert not opened.called


@pytest.mark.parametrize("goes_on", [True, False])
def test_any_number_of_delete_markers_may_precede_a_version(
    monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    monkeypatch.setattr(listings, "MAX_EMPTY", 2)
    store, asked = S3("uploads"), list[dict[str, str]]()

    def call(_operation: str, **how: str) -> dict[str, Any]:
        asked.append(how)
        if len(asked) > 9:
            return {"IsTruncated": False, "Versions": [{"Key": "z", "Size": 1, "ETag": "e"}]}
        key = f"k{len(asked)}" if goes_on else "k"
        return {"IsTruncated": True, "NextKeyMarker": key, "NextVersionIdMarker": f"{len(asked)}"}

    monkeypatch.setattr(store, "call", call)
    pages = list_pages(store, parse_uri("s3://uploads/"), all_versions=True)
    if goes_on:
        assert [key for page in pages for key in keys_of(page)] == ["z"]
    else:
        with pytest.raises(listings.ListingEndedError):
            list(pages)

"""URIs of objects: each is one key, and each is read back as it was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.errors import UsageError
from hashclient.core.objecturi import ObjectUri, is_object_uri, parse_uri

KEYS = st.binary(max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@given(
    scheme=st.sampled_from(["s3", "gs", "az"]),
    key=KEYS,
    version=st.none() | KEYS.filter(bool),
)
def test_a_uri_is_read_as_it_is_written(scheme: str, key: str, version: str | None) -> None:
    uri = ObjectUri(scheme, "a-bucket", key, version)  # type: ignore[arg-type]
    assert is_object_uri(uri.text)
    assert parse_uri(uri.text) == uri
    assert not set(uri.text) & {"\n", "\0", "\x7f", "\udcff"}


def test_ordinary_uris_are_kept_as_they_are() -> None:
    assert parse_uri("s3://b-1/a b/ü.jpg").text == "s3://b-1/a b/ü.jpg"
    assert parse_uri("gs://bucket") == ObjectUri("gs", "bucket")
    assert parse_uri("az://c1/a%20b").key == "a b"


@pytest.mark.parametrize("text", ["s3://", "s3:///a", "s3://b/a?x=1", "s3://b/#", "s3://bu/a%2"])
def test_an_invalid_uri_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_uri(text)


@pytest.mark.parametrize("text", ["./s3://b/a", "/s3://b", "S3://b/a", "s3:/b", "http://b"])
def test_a_file_may_have_any_name(text: str) -> None:
    assert not is_object_uri(text)

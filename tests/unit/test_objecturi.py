"""URIs of objects: each URI is one key, and is parsed back as it was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.errors import UsageError
from hashclient.core.objecturi import (
    ObjectUri,
    is_object_uri,
    outermost,
    parse_prefix,
    parse_uri,
    split_paths,
)

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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://", "s3://"),
        ("s3:///a", "s3:///a"),
        ("s3://bu/a?x=1", "s3://bu/a?…"),
        ("s3://bu/#", "s3://bu/%23"),
        ("s3://bu/a%2", "s3://bu/a%252"),
        ("s3://bu/a%2g", "s3://bu/a%252g"),
        ("s3://b/a", "s3://b/a"),
        (f"gs://{'b' * 223}", f"gs://{'b' * 223}"),
        ("az://.b", "az://.b"),
        ("s3://name:secret@bu/a", "s3://…@bu/a"),
        ("s3://bu/a?versionId=", "s3://bu/a?…"),
        ("s3://bu/a?versionId=%", "s3://bu/a?…"),
        ("gs://bu/a\n#", "gs://bu/a%0A%23"),
    ],
)
def test_an_invalid_uri_is_refused_and_shown_without_secrets(text: str, shown: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_uri(text)
    assert str(refused.value.message).endswith(f": {shown}")
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "said", "advice"),
    [
        ("s3://bu/#", "not the URI of an object: s3://bu/%23", "a ? in a key is %3F, a # is %23"),
        ("s3://b/a", "not the URI of a bucket: s3://b/a", "write s3://BUCKET/PREFIX, gs://BUCKET/"),
        ("s3://bu/a?versionId=", "the version in a URI is empty: s3://bu/a?…", "leave out the"),
        ("s3://bu/%", "a % in a URI is not part of an escape: s3://bu/%25", "write %25 for a % "),
    ],
)
def test_a_mistake_in_a_uri_has_advice(text: str, said: str, advice: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_uri(text)
    assert refused.value.message == said
    assert advice in (refused.value.hint or "")


def test_the_shortest_and_the_longest_bucket_are_accepted() -> None:
    for bucket in ("bu", "b" * 222, "$web"):
        assert parse_uri(f"s3://{bucket}/").bucket_text == f"s3://{bucket}"


def test_files_and_objects_are_told_apart_in_their_order() -> None:
    files, objects = split_paths(["b", "s3://bu/1", "a", "gs://bu", "./s3://bu/1"])
    assert files == ("b", "a", "./s3://bu/1")
    assert [uri.text for uri in objects] == ["s3://bu/1", "gs://bu/"]
    assert split_paths([]) == ((), ())


def test_a_place_for_new_objects_is_no_version() -> None:
    assert parse_prefix("s3://bu/a").key == "a"
    with pytest.raises(UsageError) as refused:
        parse_prefix("s3://bu/a?versionId=v")
    said = "a version of an object cannot contain other objects: s3://bu/a?…"
    assert (refused.value.message, refused.value.hint) == (said, "write s3://BUCKET/PREFIX")


@pytest.mark.parametrize("text", ["./s3://b/a", "/s3://b", "S3://b/a", "s3:/b", "http://b"])
def test_a_file_may_have_any_name(text: str) -> None:
    assert not is_object_uri(text)


SHORT = st.text("a/", max_size=5)


@given(st.lists(SHORT, max_size=5), st.lists(SHORT, max_size=20))
def test_uris_within_others_are_left_out_and_each_object_is_named_by_one_uri(
    keys: list[str], objects: list[str]
) -> None:
    def names(key: str, one: str) -> bool:
        return one == key or one.startswith(key if not key or key.endswith("/") else key + "/")

    left = [uri.key for uri in outermost(ObjectUri("s3", "bu", key) for key in keys)]
    for one in objects:
        assert sum(names(key, one) for key in left) == any(names(key, one) for key in keys)


def test_versions_and_other_buckets_are_within_no_other_uri() -> None:
    uris = [*map(parse_uri, ("s3://bu/a", "gs://bu/a/b", "s3://b2/a/b", "s3://bu/a/b?versionId=1"))]
    assert outermost([*uris, parse_uri("s3://bu/a/b")]) == uris
    assert uris[-1].is_below(uris)

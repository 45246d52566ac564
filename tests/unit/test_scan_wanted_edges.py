"""Objects of a bucket: their names, their outcomes, and the form of their records on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.objects.interface import quoted
from hashclient.scan.cache.inside import MEMBER
from hashclient.scan.cache.memory import InventoryPlace, Memory
from hashclient.scan.cache.records import RECORD
from hashclient.scan.objects.cache import ObjectMemory, learn, number_of
from hashclient.scan.objects.wanted import BY_SIZE, KNOWN, READ, Checked, Wanted
from hashclient.scan.values.work import Result
from tests.unit.test_cache import set_day

TAGS = bytes(range(48))
ONE, FIXED = Wanted("k", 7, '"e"', None), Wanted("k", 7, '"e"', "v")


def test_what_is_wanted_of_an_object_unless_somebody_says_more() -> None:
    one = Wanted("k", 7, None, None)
    assert (one.plan, one.looks, one.is_claimed, one.settled, one.page) == (
        (),
        False,
        False,
        READ,
        0,
    )
    assert (READ, BY_SIZE, KNOWN) == ("read", "size", "known")
    checked = Checked(Result(), one)
    assert (checked.contradicted, checked.by_store) == (False, False)


@pytest.mark.parametrize(
    ("etag", "version", "has_name"),
    [
        (None, None, False),
        ("", None, False),
        ("W/", None, False),
        ('W/"e"', None, False),
        ('"e"', None, True),
        ('"W/"', None, True),
        ("W", None, True),
        ("w/e", None, True),
        (None, "v", True),
        ('W/"e"', "v", True),
        (None, "", True),
        # S3 gives the version `null` again to the next object that is stored without versioning.
        (None, "null", False),
        ('W/"e"', "null", False),
        ('"e"', "null", True),
    ],
)
def test_a_version_or_a_strong_etag_names_the_bytes_of_an_object(
    etag: str | None, version: str | None, has_name: bool
) -> None:
    one = Wanted("k", 7, etag, version)
    assert one.has_name is has_name
    result = Result()
    learn(result, 5, one, (1, TAGS, 0), b"members")
    assert (len(result.learned), len(result.containers)) == (has_name, has_name)


@pytest.mark.parametrize(
    ("text", "etag"),
    [
        *((nothing, None) for nothing in (None, "", '""')),
        *((text, '"e"') for text in ("e", '"e"')),
        ('W/"e"', 'W/"e"'),
    ],
)
def test_an_etag_is_in_quotes_and_an_empty_one_is_none(text: str | None, etag: str | None) -> None:
    assert quoted(text) == etag


@pytest.mark.parametrize(
    ("own", "read", "uri"),
    [
        (None, None, "s3://b/a%3F%FF"),
        ("v", None, "s3://b/a%3F%FF?versionId=v"),
        (None, "w", "s3://b/a%3F%FF?versionId=w"),
        ("v", "w", "s3://b/a%3F%FF?versionId=w"),
    ],
)
def test_an_outcome_names_the_version_that_is_known(
    own: str | None, read: str | None, uri: str
) -> None:
    one = Wanted("a?\udcff", 7, None, own)
    assert one.uri("s3://b", read) == uri
    if read is None:
        expected = Outcome(Kind.UNREAD, uri, 7, reason="r", is_object=True, evidence="e")
        assert one.outcome(Kind.UNREAD, "s3://b", reason="r", evidence="e") == expected
        expected = Outcome(Kind.CLEAN, uri, 7, is_object=True)
        assert one.outcome(Kind.CLEAN, "s3://b") == expected


@pytest.mark.parametrize(
    ("namespace", "number"),
    [("s3  bucket", 6791330108136527419), ("s3 \udcff", 765885761579816053)],
)
def test_the_number_of_a_bucket_stays(namespace: str, number: int) -> None:
    """With another number or another form, all objects would be read once more."""
    assert number_of(namespace) == number


@pytest.mark.parametrize(
    ("key", "etag", "version", "day", "name"),
    [
        ("k", '"e"', "v", 0, (10533259122891063109, 5456211097383951047, 17495528008298961111)),
        ("k\udcff", '"e"', None, 99, None),
        ("k", '"e"', "null", 99, None),
    ],
)
def test_the_record_of_an_object_stays(
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    etag: str,
    version: str | None,
    day: int,
    name: tuple[int, int, int] | None,
) -> None:
    set_day(monkeypatch, 99)
    result = Result()
    learn(result, 5, Wanted(key, 7, etag, version), (3, TAGS, 200), b"inside")
    ((number, raw),) = result.learned
    (record,) = np.frombuffer(raw, RECORD)
    assert number == 5 and record["tags"].tobytes() == TAGS
    fields = ("size", "mask", "read_day", "begin", "meaning")
    assert tuple(int(record[field]) for field in fields) == (7, 3, day, 200, 0)
    ((number, raw, inside),) = result.containers
    (container,) = np.frombuffer(raw, RECORD)
    assert (number, inside) == (5, b"inside")
    found = tuple(int(container[field]) for field in ("ino", "mtime", "ctime"))
    assert found == tuple(int(record[field]) for field in ("ino", "mtime", "ctime"))
    if name is not None:
        assert found == name
    assert tuple(int(container[field]) for field in fields) == (7, 0, day, 0, 0)
    assert container["tags"].tobytes() == bytes(48)


@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize("inside", [b"", b"m"])
def test_what_is_not_known_is_not_recorded(mask: int, inside: bytes) -> None:
    result = Result()
    learn(result, 5, ONE, (mask, TAGS, 0), inside)
    assert (len(result.learned), len(result.containers)) == (mask, len(inside))


def remembered(state: Path, *results: Result) -> None:
    memory = Memory(InventoryPlace(state, "k"))
    for result in results:
        memory.learn(result)
    memory.flush()
    memory.close()


def test_members_are_known_of_the_object_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another length or ETag is another object, and without a name an object is no known one."""
    set_day(monkeypatch, 14 * 1_000)
    result, number = Result(), number_of("s3 b")
    for one, count in ((ONE, 1), (FIXED, 2)):
        learn(result, number, one, (1, TAGS, 0), bytes(count * MEMBER.itemsize))
    remembered(tmp_path, result)
    changes: list[dict[str, Any]] = [
        {},
        {"etag": '"f"'},
        {"key": "l"},
        {"version": "w"},
        {"etag": None, "version": None},
    ]
    asked = [msgspec.structs.replace(FIXED, **change) for change in changes]
    memory = ObjectMemory(InventoryPlace(tmp_path, "k"), 14)
    found = memory.find("s3 b", [*asked, ONE])
    assert found is not None
    records, insides, old = found
    assert records["mask"].tolist() == [1, 0, 0, 0, 0, 1]
    assert {place: len(members) for place, members in insides.items()} == {0: 2, 5: 1}
    assert old == []
    longer = memory.find("s3 b", [msgspec.structs.replace(FIXED, size=8)])
    assert longer is not None
    assert (longer[0]["mask"].tolist(), longer[1]) == ([0], {})
    # A record is believed until its day, but that of a version is proven.
    set_day(monkeypatch, 14 * 1_001 + 14)
    found = memory.find("s3 b", [ONE, FIXED])
    assert found is not None
    assert (found[0]["mask"].tolist(), [*found[1]]) == ([0, 1], [1])
    assert len(found[2]) == len({inode_block for _, inode_block in found[2]}) >= 1
    assert {bucket for bucket, _ in found[2]} == {number}


def test_without_an_inventory_no_object_is_known(tmp_path: Path) -> None:
    assert ObjectMemory(InventoryPlace(tmp_path, "k"), 14).find("s3 b", [ONE]) is None

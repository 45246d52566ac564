"""A restored file has its former content, name and attributes, whatever they are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.crash import watched
from fixtures.quarantine import Ward
from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm
from hashclient.quarantine.item import Item, encode_item, parse_item
from tests.kit import fast_directory
from tests.kit.depth import examples

CHUNK = 1 << 16

contents = st.one_of(
    st.binary(max_size=200),
    # Lengths around the chunks of the format.
    st.builds(
        lambda seed, chunks, more: (seed * (CHUNK * 2))[: max(0, chunks * CHUNK + more)],
        st.binary(min_size=1, max_size=40),
        st.integers(0, 2),
        st.integers(-2, 2),
    ),
)
names = st.binary(min_size=1, max_size=60).filter(
    lambda name: name not in {b".", b".."} and b"/" not in name and b"\0" not in name
)
times = st.integers(0, 4 * 10**18)
modes = st.integers(0, 0o7777)
attributes = st.dictionaries(
    st.text("abcxyz.é", min_size=1, max_size=10), st.binary(max_size=50), max_size=3
)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with fast_directory() as path:
        yield path


@pytest.fixture(scope="module")
def ward(directory: Path) -> Ward:
    return Ward(directory)


def has_attributes(directory: Path) -> bool:
    with tempfile.NamedTemporaryFile(dir=directory) as probe:
        try:
            os.setxattr(probe.fileno(), "user.probe", b"")
        except OSError:
            return False
    return True


@pytest.mark.slow
@examples(60)
@given(
    data=contents,
    name=names,
    atime=times,
    mtime=times,
    mode=modes,
    xattrs=attributes,
    algorithms=st.sets(st.sampled_from(Algorithm), min_size=1),
)
def test_giving_back_undoes_taking(
    directory: Path,
    ward: Ward,
    data: bytes,
    name: bytes,
    atime: int,
    mtime: int,
    mode: int,
    xattrs: dict[str, bytes],
    algorithms: set[Algorithm],
) -> None:
    folder = Path(tempfile.mkdtemp(dir=directory))
    path = folder / os.fsdecode(name)
    path.write_bytes(data)
    if has_attributes(directory):
        for key, value in xattrs.items():
            os.setxattr(path, f"user.{key}", value)
    match = ward.match(path, *sorted(algorithms))
    path.chmod(mode if os.geteuid() == 0 else mode | 0o600)
    os.utime(path, ns=(atime, mtime))
    before = path.stat()
    kept = {key: os.getxattr(path, key) for key in os.listxattr(path)}
    with watched(lambda *_: None):
        taken = ward.take(match)
        assert taken.taken and not taken.attention, taken
        assert list(folder.iterdir()) == []
        assert ward.opened(match) == data
        assert ward.verify()[match.id].ok
        assert ward.restore(match, force=True).missing == ()
    after = path.stat()
    for field in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_atime_ns"):
        assert getattr(after, field) == getattr(before, field), field
    assert {key: os.getxattr(path, key) for key in os.listxattr(path)} == kept
    path.chmod(0o600)
    assert path.read_bytes() == data
    assert ward.names() == set()


@pytest.fixture(scope="module")
def document(directory: Path, ward: Ward) -> tuple[Item, bytes]:
    path = directory / "document"
    path.write_bytes(b"document")
    match = ward.match(path, *Algorithm)
    ward.take(match)
    item = ward.item(match)
    ward.restore(match, force=True)
    return item, encode_item(item)


def test_a_document_comes_back_as_it_was(document: tuple[Item, bytes]) -> None:
    item, data = document
    assert parse_item(data, item.id, Path("item.json")) == item


@examples(300)
@given(data=st.data())
def test_a_document_that_was_tampered_with_is_refused_or_means_itself(
    document: tuple[Item, bytes], data: st.DataObject
) -> None:
    item, whole = document
    at = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.sampled_from(["cut", "byte", "drop"]))
    value = bytes([data.draw(st.integers(0, 255))])
    spoiled = {
        "cut": whole[:at],
        "byte": whole[:at] + value + whole[at + 1 :],
        "drop": whole[:at] + whole[at + 1 :],
    }[change]
    try:
        found = parse_item(spoiled, item.id, Path("item.json"))
    except StateError:
        return
    # An accepted item is usable: each value can be read, and be written again.
    assert found.id == item.id and found.file.startswith("/")
    assert found.tags_by_algorithm().keys() == item.tags_by_algorithm().keys()
    assert parse_item(encode_item(found), item.id, Path("item.json")) == found


@pytest.mark.sampled
@pytest.mark.parametrize(
    "change",
    [
        {"id": "bbbbbbbbbb"},
        {"format": "hashclient-quarantine-item/2"},
        {"path": "relative"},
        {"path": "/srv/../etc/passwd"},
        {"path": "/srv/./f"},
        {"path": "/srv//f"},
        {"path": "/"},
        {"path": "/srv/\0"},
        {"path_b64": "L3Nydi8uLi9m"},
        {"origin": {"mode": 0o10000}},
        {"origin": {"mode": -1}},
        {"origin": {"uid": -1}},
        {"origin": {"gid": 2**32 - 1}},
        {"origin": {"inode": None}},
        {"origin": {"xattrs": {"user.\0": ""}}},
        {"origin": {"xattrs": {"user.x": "?"}}},
        {"size": -1},
        {"path_b64": "?"},
        {"size": "1"},
        {"size": 1.5},
        {"stage": "lost"},
        {"tags": {"crc32": "00"}},
        {"tags": {"md5": "zz"}},
        {"extra": 1},
        {"hold": {"by": "x"}},
        {"taken": {"by": "x", "reason": "y", "time": "2026-03-01T12:00:00"}},
    ],
)
def test_a_document_is_read_strictly(
    document: tuple[Item, bytes], change: dict[str, object]
) -> None:
    item, whole = document
    values = msgspec.json.decode(whole)
    if "origin" in change:
        change = {"origin": {**values["origin"], **cast("dict[str, object]", change["origin"])}}
    with pytest.raises(StateError):
        parse_item(msgspec.json.encode({**values, **change}), item.id, Path("item.json"))
    with pytest.raises(StateError):
        parse_item(b" " * (1 << 25) + whole, item.id, Path("item.json"))

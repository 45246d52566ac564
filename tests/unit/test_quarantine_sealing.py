"""Sealing: what is digested and written, what proves a file, and incomplete copies."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.quarantine import Ward
from hashclient.core import agefile
from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm
from hashclient.quarantine import age, sealing
from hashclient.quarantine.isolators.files import Files
from hashclient.quarantine.isolators.interface import Held
from hashclient.quarantine.sealing import (
    Copy,
    Digester,
    Written,
    check_space,
    digest_all,
    is_what_matched,
    seal,
    seal_stream,
    sha256_on_disk,
    sha256_synced,
    verify_evidence,
    write_sealed,
)
from hashclient.quarantine.store import Room

DATA = b"0123456789"


@pytest.fixture
def counted() -> list[int]:
    return []


@pytest.fixture
def room(ward: Ward, counted: list[int]) -> Room:
    room = Room(ward.session(), counted.append, Files())
    with room.locked():
        return room


@pytest.fixture
def keys(ward: Ward) -> list[Any]:
    return age.parse_recipients([ward.public])


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    path = tmp_path / "f"
    path.write_bytes(DATA)
    with Files().open(str(path), None) as spot, spot.hold() as held:
        yield held


def opened(ward: Ward, path: Path) -> bytes:
    out = bytearray()
    with path.open("rb") as sealed:
        age.unseal(sealed.read, out.extend, age.load_identities(ward.key))
    return bytes(out)


def test_a_digester_has_the_digests_and_the_length_of_all_bytes() -> None:
    digester = Digester([Algorithm.MD5, Algorithm.SHA256])
    digester.update(b"ab")
    digester.update(b"")
    digester.update(b"c")
    assert digester.count == 3
    assert digester.digests() == {
        Algorithm.MD5: hashlib.md5(b"abc").digest(),
        Algorithm.SHA256: hashlib.sha256(b"abc").digest(),
    }
    assert Digester([]).digests() == {}


@pytest.mark.parametrize(("limit", "count"), [(12, 10), (10, 10), (9, 10), (8, 9), (0, 3), (-1, 0)])
def test_a_file_is_digested_up_to_a_limit(
    held: Held, monkeypatch: pytest.MonkeyPatch, limit: int, count: int
) -> None:
    monkeypatch.setattr(sealing, "READ_BYTES", 3)
    held.read(4)
    digester = digest_all(held, Algorithm, limit)
    assert digester.count == count
    data = DATA[:count]
    assert digester.digests() == {a: hashlib.new(a.label, data).digest() for a in Algorithm}


@pytest.mark.parametrize("size", [0, 3, 4])
def test_a_file_is_read_back_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(sealing, "READ_BYTES", 3)
    with (tmp_path / "f").open("w+b") as stream:
        stream.write(DATA[:size])
        stream.flush()
        expected = (hashlib.sha256(DATA[:size]).hexdigest(), size)
        for read in (sha256_on_disk, sha256_synced):
            counts: list[int] = []
            assert read(stream.fileno(), counts.append) == read(stream.fileno()) == expected
            assert counts == {0: [], 3: [3], 4: [3, 1]}[size]


def test_a_file_is_the_one_that_matched_by_length_and_all_tags(ward: Ward) -> None:
    digester = Digester(Algorithm)
    digester.update(DATA)
    tags = {
        a: ward.sealer.tags_of(a, [hashlib.new(a.label, DATA).digest()]).tobytes()
        for a in Algorithm
    }
    one = {Algorithm.MD5: tags[Algorithm.MD5]}
    assert is_what_matched(digester, 10, tags, ward.sealer)
    assert is_what_matched(digester, 10, one, ward.sealer)
    assert not is_what_matched(digester, 9, tags, ward.sealer)
    assert not is_what_matched(digester, 11, tags, ward.sealer)
    assert not is_what_matched(digester, 10, {}, ward.sealer)
    assert not is_what_matched(digester, 10, one | {Algorithm.SHA1: bytes(16)}, ward.sealer)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_a_copy_has_the_length_and_the_digest_that_it_says(keys: list[Any], size: int) -> None:
    left, out = size, bytearray()

    def read(count: int) -> bytes:
        nonlocal left
        data = bytes(min(count, left))
        left -= len(data)
        return data

    written = seal_stream(read, out.extend, keys)
    assert written == Written(hashlib.sha256(out).hexdigest(), len(out))
    header = agefile.parse_header(bytes(out[: agefile.MAX_HEADER_BYTES]))
    assert len(out) == agefile.sealed_bytes(header.header_bytes, size)


def test_a_copy_without_its_end_is_refused(
    keys: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = age.seal

    def cut(source: Any, sink: Any, recipients: Any) -> None:
        parts: list[bytes] = []
        real(source, parts.append, recipients)
        sink(b"".join(parts)[:-1])

    monkeypatch.setattr(age, "seal", cut)
    with pytest.raises(StateError) as refused:
        seal_stream(lambda _: b"", lambda _: None, keys)
    assert refused.value.message == "the sealed copy lacks its end"
    assert refused.value.hint == "nothing was removed; try again"


@pytest.mark.parametrize("more", [0, 1])
def test_the_disk_needs_room_for_the_copy_and_a_mebibyte(
    room: Room, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    size = 1_000_000
    needed = agefile.sealed_bytes(1 << 20, size)
    fields = list(os.statvfs("/"))
    fields[1], fields[2], fields[3], fields[4] = 2, 10**15, 10**15, (needed + 1) // 2
    status = os.statvfs_result(fields)
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    free = (needed + 1) // 2 * 2
    largest = size + free - needed
    check_space(room, largest)
    if more:
        with pytest.raises(StateError, match=r"cannot write to the quarantine.*[Nn]o space left"):
            check_space(room, largest + 1)


def test_a_file_is_sealed_into_a_private_file(
    ward: Ward, room: Room, keys: list[Any], held: Held, tmp_path: Path, counted: list[int]
) -> None:
    path = tmp_path / "evidence.age"
    with seal(room, held, [Algorithm.SHA256], tmp_path, keys) as (read, copy):
        assert (read.count, counted) == (10, [10, 0])
        assert read.digests() == {Algorithm.SHA256: hashlib.sha256(DATA).digest()}
        copy.sync()
        copy.prove()
        assert copy.written.length == path.stat().st_size
        assert copy.written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert opened(ward, path) == DATA
    with (
        pytest.raises(StateError, match=f"cannot write: {path}: File exists"),
        seal(room, held, [], tmp_path, keys),
    ):
        pass


def test_of_a_file_that_grows_one_more_byte_is_read(
    room: Room, keys: list[Any], tmp_path: Path
) -> None:
    path = tmp_path / "f"
    path.write_bytes(DATA)
    with Files().open(str(path), None) as spot, spot.hold() as held:
        with path.open("ab") as stream:
            stream.write(bytes(100_000))
        with seal(room, held, [], tmp_path, keys) as (read, _):
            assert read.count == 11


def test_a_copy_that_does_not_read_back_is_refused(room: Room, tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(b"abc")
    sha256 = hashlib.sha256(b"abc").hexdigest()
    fd = os.open(path, os.O_RDONLY)
    try:
        Copy(room, path, fd, Written(sha256, 3)).prove()
        for written in (Written(sha256, 2), Written(sha256, 4), Written("0" * 64, 3)):
            with pytest.raises(StateError) as refused:
                Copy(room, path, fd, written).prove()
            said = f"the sealed copy does not read back as it was written: {path}"
            assert refused.value.message == said
            assert "nothing was removed" in (refused.value.hint or "")
    finally:
        os.close(fd)
    closed = Copy(room, path, fd, Written(sha256, 3))
    for act in (closed.prove, closed.sync):
        with pytest.raises(StateError, match=f"cannot write: {path}"):
            act()


def test_a_stream_is_sealed_and_read_back(
    ward: Ward, room: Room, keys: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, parts = tmp_path / "c", [b"", b"two", b"one "]
    written = write_sealed(room, lambda _: parts.pop(), path, keys)
    assert opened(ward, path) == b"one two"
    assert written == Written(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    monkeypatch.setattr(sealing, "sha256_synced", lambda _: ("", 0))
    with pytest.raises(StateError, match="does not read back"):
        write_sealed(room, lambda _: b"", tmp_path / "d", keys)


def test_an_item_is_verified_by_length_and_digest(
    ward: Ward, room: Room, file: Path, counted: list[int]
) -> None:
    match = ward.match(file)
    ward.take(match)
    item = ward.item(match)
    verify_evidence(room, item)
    assert sum(counted) == item.evidence_bytes
    for change in (
        {"evidence_bytes": item.evidence_bytes + 1},
        {"evidence_sha256": "0" * 64},
    ):
        with pytest.raises(StateError) as refused:
            verify_evidence(room, msgspec.structs.replace(item, **change))
        assert refused.value.message == f"the sealed copy is damaged: {ward.evidence(match)}"
        assert "move this folder away" in (refused.value.hint or "")
    ward.evidence(match).unlink()
    with pytest.raises(StateError, match="cannot read"):
        verify_evidence(room, item)
